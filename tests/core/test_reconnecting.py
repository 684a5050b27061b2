"""When a subscriber tries again, and when it gives up."""

from __future__ import annotations

import math

import pytest

from trio_sentinel_scan import ServerUnavailable
from trio_sentinel_scan._core.reconnecting import CALM, FIRST_PAUSE, LONGEST_PAUSE, Reconnecting


def make(failover_timeout: float = 60.0, jitter: float = 1.0) -> Reconnecting:
    return Reconnecting(failover_timeout, lambda: jitter)


def test_nothing_wanted_is_nothing_to_do() -> None:
    reconnecting = make()
    assert reconnecting.pause(0.0, wanted=False) is None
    assert reconnecting.give_up_at == math.inf


def test_the_first_attempt_after_a_loss_is_made_at_once_and_later_ones_wait_longer_and_longer() -> None:
    reconnecting = make()
    pauses = []
    for _ in range(8):
        reconnecting.lost("refused", 0.0)
        pauses.append(reconnecting.pause(0.0, wanted=True))
    assert pauses[:4] == [0.0, FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[4:] == [LONGEST_PAUSE] * 4


def test_pauses_have_jitter() -> None:
    reconnecting = make(jitter=0.0)
    reconnecting.lost("refused", 0.0)
    reconnecting.lost("refused", 0.0)
    assert reconnecting.pause(0.0, wanted=True) == FIRST_PAUSE / 2


def test_a_pause_runs_off() -> None:
    reconnecting = make()
    reconnecting.lost("refused", 0.0)
    reconnecting.lost("refused", 0.0)
    assert reconnecting.pause(FIRST_PAUSE, wanted=True) == 0.0


def test_connections_that_break_at_once_count_as_failures() -> None:
    """A server that cuts us off each time is not asked in a tight loop."""
    reconnecting = make()
    for _ in range(3):
        reconnecting.restored(1.0)
        reconnecting.lost("closed the connection", 1.0)
    assert (reconnecting.pause(1.0, wanted=True) or 0.0) > FIRST_PAUSE


def test_one_that_was_good_for_a_while_makes_up_for_them() -> None:
    reconnecting = make()
    for _ in range(3):
        reconnecting.lost("refused", 0.0)
    reconnecting.restored(1.0)
    reconnecting.restored(2.0)
    reconnecting.lost("closed the connection", 1.0 + CALM)
    assert reconnecting.pause(1.0 + CALM, wanted=True) == 0.0


def test_another_master_is_tried_at_once() -> None:
    reconnecting = make()
    for _ in range(3):
        reconnecting.lost("refused", 0.0)
    reconnecting.hurry()
    assert reconnecting.pause(0.0, wanted=True) == 0.0


def test_it_gives_up_when_the_time_is_over_and_says_what_came_of_it() -> None:
    reconnecting = make(30.0)
    reconnecting.pause(10.0, wanted=True)
    assert reconnecting.give_up_at == 40.0
    reconnecting.lost("10.0.0.1:6379 cannot be reached", 11.0)
    assert reconnecting.pause(39.9, wanted=True) is not None
    with pytest.raises(ServerUnavailable, match=r"within 30 s: 10\.0\.0\.1:6379 cannot be reached$"):
        reconnecting.pause(40.0, wanted=True)


def test_the_time_begins_when_something_is_wanted_and_ends_when_it_is_held() -> None:
    reconnecting = make(30.0)
    reconnecting.pause(0.0, wanted=True)
    reconnecting.restored(1.0)
    assert reconnecting.give_up_at == math.inf
    reconnecting.lost("closed the connection", 100.0)
    reconnecting.pause(100.0, wanted=True)
    assert reconnecting.give_up_at == 130.0
    reconnecting.pause(110.0, wanted=False)
    reconnecting.pause(120.0, wanted=True)
    assert reconnecting.give_up_at == 150.0


def test_no_time_at_all() -> None:
    reconnecting = make(0.0)
    with pytest.raises(ServerUnavailable, match="nothing was tried"):
        reconnecting.pause(0.0, wanted=True)
