"""The text of a cluster's checkpoint: what is written is read, and what is damaged or another scan's is refused."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_sentinel_scan._core.checkpoint import Mark, PassFacts, Scope, parse_checkpoint, sealed
from trio_sentinel_scan._core.cluster_checkpoint import (
    FAMILY,
    ClusterCheckpoint,
    ClusterMark,
    LaneMark,
    parse_any_checkpoint,
    parse_cluster_checkpoint,
)
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.errors import CheckpointInvalid
from trio_sentinel_scan._core.identity import Address, ServerIdentity
from trio_sentinel_scan._core.lane_segments import parts_of, swept_in
from trio_sentinel_scan._core.lanes import Lane
from trio_sentinel_scan._core.slots import ALL_SLOTS, NO_SLOTS, set_of, slots_in

SCOPE = Scope(0, b"user:*", "hash")
NODES = ("0f" * 20, "not hexadecimal: ä")
RUN_ID = "ab" * 20
NOTHING = ClusterCheckpoint(by_majority=True, done=NO_SLOTS, wanted=None, let_go=NO_SLOTS, epochs=(), lanes=())

slot_sets = st.sets(st.integers(0, 16_383), max_size=20).map(lambda some: set_of((slot, slot) for slot in some))
cursors = st.none() | st.integers(0, (1 << 64) - 1)


def a_lane(form: CursorFormat = CursorFormat.SLOTS, **changes: Any) -> LaneMark:
    """One over the first hundred slots, in three parts."""
    slots = set_of([(0, 99)])
    lane = Lane(3, NODES[0], NODES[0], slots, 2, 3)
    number = len(parts_of(slots, 3)) if form is CursorFormat.SLOTS else 3
    server = ServerIdentity(RUN_ID, Address("10.0.0.1", 7000))
    found = LaneMark(lane, slots, 7, server, "master", form, [None, *range(5, 4 + number)])
    return found._replace(**changes)


def text_of(**changes: Any) -> str:
    return ClusterMark(SCOPE, NOTHING._replace(**changes)).text()


def read(text: str) -> ClusterCheckpoint:
    found = parse_cluster_checkpoint(text, SCOPE).cluster
    assert found is not None
    return found


@given(
    by_majority=st.booleans(),
    done=slot_sets,
    wanted=st.none() | slot_sets,
    epochs=st.lists(st.tuples(st.integers(1, 300), slot_sets), max_size=3),
    at=st.lists(cursors, min_size=1, max_size=9),
    form=st.sampled_from([CursorFormat.UNKNOWN, CursorFormat.REVERSED]),
    replica=st.booleans(),
)
def test_what_is_written_is_read(  # noqa: PLR0917 (what a text has)
    by_majority: bool,
    done: int,
    wanted: int | None,
    epochs: list[tuple[int, int]],
    at: list[int | None],
    form: CursorFormat,
    replica: bool,
) -> None:
    """Whatever is in it."""
    lane = a_lane(form, cursors=at, slots=(ALL_SLOTS & ~done), role="slave" if replica else "master")
    if replica:
        lane = lane._replace(lane=Lane(1, NODES[1], NODES[0], lane.slots, 2, 3))
    let_go = NO_SLOTS if wanted is None else done
    stand = ClusterCheckpoint(by_majority, done, wanted, let_go, tuple(epochs), (lane,))
    found = read(ClusterMark(SCOPE, stand).text())
    assert found._replace(lanes=()) == stand._replace(lanes=())
    (got,) = found.lanes
    assert (got.lane.node_id, got.lane.owner_id) == (lane.lane.node_id, lane.lane.owner_id)
    assert (got.lane.epoch, got.lane.parts) == (2, 3)
    assert got.server.address == lane.server.address
    assert got._replace(lane=lane.lane) == lane
    checkpoint = got.resumed()
    assert (checkpoint.epoch, checkpoint.config_epoch, checkpoint.form) == (2, 7, form)
    assert checkpoint.cursors == tuple(at)


@given(slots=slot_sets, wanted=slot_sets, passes=slot_sets, parts=st.integers(1, 64))
def test_the_division_stays(slots: int, wanted: int, passes: int, parts: int) -> None:
    """The cursors of a lane are those of its segments, whichever of its slots are gone on with."""
    slots |= 1
    wanted = wanted & slots | 1
    lane = Lane(1, NODES[0], NODES[0], slots, 0, parts, passes=passes & ~slots)
    spans = parts_of(swept_in(lane), parts)
    mark = a_lane(lane=lane, slots=wanted, cursors=[first for first, _ in spans])
    (got,) = read(text_of(lanes=(mark,))).lanes
    for again in (got.lane_for(9, wanted, None), mark.lane_for(9, wanted, None)):
        assert (again.number, again.slots) == (9, wanted)
        assert parts_of(swept_in(again), again.parts) == spans


def test_what_is_of_no_use_is_left_out() -> None:
    """A process that would not be known again; no slots, no cursors."""
    nobody = ServerIdentity(None, Address("10.0.0.1", 7000))
    lanes = (a_lane(server=nobody), a_lane(slots=NO_SLOTS), a_lane(cursors=[]), a_lane())
    assert len(read(text_of(lanes=lanes)).lanes) == 1


def test_it_is_small_and_tells_nothing() -> None:
    """Even where every other slot was done, and each has a chain of its own."""
    slots = set_of((slot, slot) for slot in range(0, 16_384, 2))
    lane = Lane(1, NODES[0], NODES[0], slots, 0, 16)
    mark = a_lane(lane=lane, slots=slots, cursors=[slot if slot % 3 else None for slot in slots_in(slots)])
    text = text_of(lanes=(mark,), done=ALL_SLOTS & ~slots)
    assert len(text) < 20_000
    assert read(text).lanes[0].cursors == mark.cursors
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_a_damaged_one_is_refused(at: int) -> None:
    """Wherever the damage is."""
    whole = text_of(lanes=(a_lane(),))
    for damaged in (whole[:at], whole[:at] + ("A" if whole[at] != "A" else "B") + whole[at + 1 :], whole[:at] + "é"):
        with pytest.raises(CheckpointInvalid):
            parse_cluster_checkpoint(damaged, SCOPE)


def packed(body: bytes) -> str:
    return sealed(FAMILY, zlib.compress(body))


HEAD = b"".join(SCOPE.digests().values())


@pytest.mark.parametrize(
    "text",
    [
        sealed(FAMILY, b"not compressed"),
        sealed(FAMILY, zlib.compress(HEAD + b"\0\0\0\0")[:-1]),
        sealed(FAMILY, zlib.compress(HEAD + b"\0\0\0\0") + b"more"),
        packed(bytes(1 << 21)),
        packed(HEAD + b"\0\0\0\0more"),
        packed(HEAD + b"\0\0\0"),
        # A range beyond the last slot.
        packed(HEAD + b"\0\x01\x00\xff\xff\x01\0\0"),
        text_of(lanes=(a_lane(), a_lane())),
        text_of(lanes=(a_lane(),), done=1),
        text_of(lanes=(a_lane(cursors=[5]),)),
        text_of(lanes=(a_lane(cursors=[1 << 64, 1, 2]),)),
        text_of(lanes=(a_lane(lane=Lane(1, NODES[0], NODES[0], 7, 0, 0), form=CursorFormat.REVERSED),)),
        text_of(lanes=(a_lane(slots=set_of([(50, 150)])),)),
        text_of(lanes=(a_lane(CursorFormat.REVERSED, cursors=[1] * 2_000),)),
    ],
    ids=[
        "not-compressed", "cut", "more-behind-it", "huge", "too-long", "too-short", "no-slot", "twice", "done-twice",
        "other-cursors", "big-cursor", "no-parts", "other-slots", "many-cursors",
    ],
)  # fmt: skip
def test_what_is_whole_by_its_check_sum_may_still_make_no_sense(text: str) -> None:
    """Then it was not written by us."""
    with pytest.raises(CheckpointInvalid, match="damaged"):
        parse_cluster_checkpoint(text, SCOPE)


def test_another_scans_is_refused() -> None:
    text = text_of()
    with pytest.raises(CheckpointInvalid, match="match was not the same"):
        parse_cluster_checkpoint(text, SCOPE._replace(match=None))
    assert parse_cluster_checkpoint(f" {text}\n", None) == parse_cluster_checkpoint(text, SCOPE)


def test_of_another_kind_of_client() -> None:
    one = Mark(PassFacts(SCOPE, 1)).text()
    with pytest.raises(CheckpointInvalid, match="of a scan of one server, and this client is of a cluster"):
        parse_cluster_checkpoint(one, SCOPE)
    with pytest.raises(CheckpointInvalid, match="of a scan of a cluster, and this client is of one server"):
        parse_checkpoint(text_of(), SCOPE)
    assert parse_any_checkpoint(one).cluster is None
    assert parse_any_checkpoint(text_of()).cluster == NOTHING
