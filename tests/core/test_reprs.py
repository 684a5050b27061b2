"""What stands in a log, in a debugger, in a report of an error: no key, no pattern, no channel, and never an error."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from trio_sentinel_scan._core.checkpoint import Scope
from trio_sentinel_scan._core.cluster_checkpoint import ClusterCheckpoint, LaneMark
from trio_sentinel_scan._core.cluster_lanes import Round as SurveyRound
from trio_sentinel_scan._core.cluster_map import ClusterMap, ClusterNode, Shard
from trio_sentinel_scan._core.cluster_survey import NodeLine
from trio_sentinel_scan._core.cluster_work import Outcome
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.details import Questions
from trio_sentinel_scan._core.identity import Address, ServerIdentity
from trio_sentinel_scan._core.lanes import Lane
from trio_sentinel_scan._core.mailbox import Handled
from trio_sentinel_scan._core.messages import Confirmation
from trio_sentinel_scan._core.shard_parts import Ask as ShardAsk, LostConnection, ShardAsked, ShardTicket
from trio_sentinel_scan._core.slots import ALL_SLOTS
from trio_sentinel_scan._core.subscription_parts import Asked, Kind, Ticket
from trio_sentinel_scan._core.sweep import Round, Yield

SECRET = b"secret"
NODE = ClusterNode("a" * 40, Address("10.0.0.1", 7000))
SERVER = ServerIdentity("b" * 40, NODE.address)
ERROR = ValueError("secret")
# All slots as a number have more digits than Python writes.
LANE = Lane(1, "a", "a", ALL_SLOTS, 0, passes=ALL_SLOTS, swept=ALL_SLOTS)
MARK = LaneMark(LANE, ALL_SLOTS, 1, SERVER, "master", CursorFormat.UNKNOWN, (1,))
THINGS: list[Any] = [
    Scope(3, SECRET, "hash", (SECRET,)),
    Confirmation("subscribe", SECRET, 1),
    Ticket(Kind.CHANNEL, True, (SECRET,), error=ERROR),
    Asked(Kind.CHANNEL, True, (SECRET,)),
    ShardTicket(True, (SECRET,), {SECRET}, error=ERROR),
    ShardAsked(ShardAsk.LET_GO, (SECRET,)),
    LostConnection("why", 0.0, {SECRET}, {SECRET}, cast("Any", {SECRET: None})),  # (no matter what)
    Round(SECRET, 1),
    Yield([SECRET]),
    Questions(SECRET, 2),
    Handled([SECRET], print),
    Outcome([SECRET], 3),
    Shard(NODE, ALL_SLOTS, (NODE,)),
    ClusterMap((Shard(NODE, ALL_SLOTS),)),
    LANE,
    MARK,
    ClusterCheckpoint(True, ALL_SLOTS, ALL_SLOTS, ALL_SLOTS, ((1, ALL_SLOTS),), (MARK,)),
    NodeLine(NODE, frozenset({"master"}), None, 1, ALL_SLOTS),
    SurveyRound(cast("Any", None), cast("Any", None), 0.0, {"why": ALL_SLOTS}),  # (no matter what)
]


@pytest.mark.parametrize(
    "thing", THINGS, ids=[f"{type(t).__module__.rpartition('.')[2]}.{type(t).__name__}" for t in THINGS]
)
def test_a_repr_is_short_and_tells_nothing_private(thing: Any) -> None:
    shown = repr(thing)
    assert "secret" not in shown
    assert len(shown) < 600


def test_a_shard_says_which_slots_it_has() -> None:
    shard = Shard(NODE, ALL_SLOTS)
    assert repr(shard) == "<Shard of 10.0.0.1:7000 (node aaaaaaaa) with slots 0-16383, 0 replicas>"
    assert dataclasses.replace(shard) == shard
