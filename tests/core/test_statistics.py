"""The counts of a client."""

from __future__ import annotations

import dataclasses

import pytest

from trio_sentinel_scan import ClientStatistics
from trio_sentinel_scan._core.statistics import Counters


def test_a_snapshot_has_every_count_and_stays_as_it_is() -> None:
    counters = Counters(sent=3, replied=2, connections=2)
    before = counters.snapshot(in_flight=1, waiting=4)
    counters.sent += 1
    counters.outcome_unknown += 1
    assert before == ClientStatistics(
        sent=3,
        replied=2,
        sent_again=0,
        cancelled=0,
        outcome_unknown=0,
        unavailable=0,
        turned_away=0,
        connections=2,
        first_connections=0,
        redirected=0,
        in_flight=1,
        waiting=4,
    )
    assert counters.snapshot(in_flight=0, waiting=0).outcome_unknown == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.sent = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("connections, first, reconnects", [(0, 0, 0), (1, 1, 0), (3, 1, 2), (3, 3, 0), (5, 3, 2)])
def test_reconnects_are_the_connections_after_the_first(connections: int, first: int, reconnects: int) -> None:
    """Of each node of a cluster."""
    counters = Counters(connections=connections, first_connections=first)
    assert counters.snapshot(in_flight=0, waiting=0).reconnects == reconnects
