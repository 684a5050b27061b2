"""The parts that a cluster's scan is made of, each by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies

from tests.core._cluster_model import Cluster, ClusterDriver, cluster_options, keys_of
from trio_sentinel_scan import Address, ConfigError, ScanInterrupted, ScanPage, ServerIdentity
from trio_sentinel_scan._core.checkpoint import Mark, PassFacts, Scope
from trio_sentinel_scan._core.cluster_standing import Standing
from trio_sentinel_scan._core.cluster_waits import SlotWaits
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.lane_judgement import LaneJudgement, judge_covering, judge_owner
from trio_sentinel_scan._core.lane_segments import SlotSegments, bridged, lane_segments, parts_of
from trio_sentinel_scan._core.lanes import Decoding, Lane
from trio_sentinel_scan._core.slot_numbers import SlotNumbers
from trio_sentinel_scan._core.slots import ALL_SLOTS, NO_SLOTS, SLOTS, ranges_of, set_of, slot_of, slots_in


def lane(slots: int, *, parts: int = 1, decoding: Decoding | None = None) -> Lane:
    return Lane(1, "a" * 40, "a" * 40, slots, 0, parts=parts, decoding=decoding)


SLOT_SETS = strategies.lists(strategies.integers(0, SLOTS - 1), max_size=20).map(
    lambda some: set_of((slot, min(SLOTS - 1, slot + slot % 7)) for slot in some)
)


# ---- segments -------------------------------------------------------------------------------------------------------


@given(slots=SLOT_SETS, number=strategies.integers(1, 50))
def test_parts_tile_the_set(slots: int, number: int) -> None:
    parts = parts_of(slots, number)
    assert set_of(parts) == slots
    assert sum(last - first + 1 for first, last in parts) == slots.bit_count()
    assert parts == sorted(parts)
    assert len(parts) < number + len(list(ranges_of(slots))) + 1


def test_big_ranges_are_cut() -> None:
    assert parts_of(ALL_SLOTS, 4) == [(0, 4_095), (4_096, 8_191), (8_192, 12_287), (12_288, 16_383)]
    assert parts_of(1 << 7, 16) == [(7, 7)]
    assert parts_of(NO_SLOTS, 16) == []


def test_a_chain_ends_with_its_range() -> None:
    """What its last reply brought beyond is dropped, and counted; what cannot follow changes nothing."""
    segments = SlotSegments(lane(set_of([(5, 6), (100, 120)]), parts=1))
    assert segments.number == 1
    ((second, at, _), (first, start, _)) = segments.due(1000, 5)
    assert (start, at) == (5, 100)
    assert (first, second) == (0, 1)
    wanted = sorted(keys_of(5, 2) | keys_of(6, 2))
    beyond = sorted(keys_of(7, 3))
    assert segments.advance((0, 5, 32), 5 | 1 << 30, wanted[:1]) == wanted[:1]
    assert segments.position is not None
    assert 0 < segments.position < 0.1
    assert segments.advance((0, 5, 32), 5, []) is None
    assert segments.cursors == [5 | 1 << 30, 100]
    # Where it is, it is to come to its end soon.
    assert segments.due(1000, 1)[0][2] <= 1000
    assert segments.advance((0, 5, 32), 8, wanted[1:] + beyond) == wanted[1:]
    assert segments.dropped == 3
    assert segments.cursors == [None, 100]
    assert segments.advance((1, 100, 32), 0, []) == []
    assert segments.swept
    assert segments.position == 1.0


@given(slots=SLOT_SETS, passes=SLOT_SETS)
def test_gaps_that_are_come_by(slots: int, passes: int) -> None:
    """All of a gap is the node's business, or none of it."""
    found = bridged(slots, passes)
    assert slots & ~found == NO_SLOTS
    assert found & ~(slots | passes) == NO_SLOTS
    for first, last in ranges_of(found & ~slots):
        assert slots >> (first - 1) & 1
        assert slots >> (last + 1) & 1
    assert bridged(slots, NO_SLOTS) == slots


def test_slots_that_are_come_by() -> None:
    """One chain for all; keys of what lies in between are dropped."""
    every_second = set_of((slot, slot) for slot in range(0, 100, 2))
    others = set_of((slot, slot) for slot in range(1, 100, 2))
    this = Lane(1, "a" * 40, "a" * 40, every_second, 0, passes=ALL_SLOTS & ~every_second)
    segments = SlotSegments(this)
    assert segments.cursors == [0]
    wanted, nobodys = sorted(keys_of(4, 2)), sorted(keys_of(5, 2))
    assert others >> 5 & 1
    assert segments.advance((0, 0, 10), 6, wanted + nobodys) == wanted
    assert segments.dropped == 2
    assert segments.position == 6 / 99
    assert segments.advance((0, 6, 10), 0, sorted(keys_of(98, 1) | keys_of(100, 1))) == sorted(keys_of(98, 1))
    assert segments.position == 1.0


def test_it_goes_on_from_cursors() -> None:
    slots = set_of([(5, 6), (100, 120)])
    segments = lane_segments(lane(slots), CursorFormat.SLOTS, 9, cursors=[None, 110])
    assert segments.cursors == [None, 110]
    assert segments.due(10, 9) == [(1, 110, 10)]


def test_one_slot_among_many_keys() -> None:
    """The first SCAN asks for little, for most of it would be dropped."""
    segments = SlotSegments(lane(1 << 9, parts=16))
    assert segments.number == 1
    assert segments.due(1000, 5) == [(0, 9, 32)]


@pytest.mark.parametrize("keys", [[b"a", b"b", b"c", b"d"], [b"a", b"x{b}", b"{}", b"{c"]], ids=["plain", "tags"])
def test_a_node_that_is_swept_whole(keys: list[bytes]) -> None:
    """The keys of other slots are dropped."""
    wanted = [key for key in keys if slot_of(key) < 9_000]
    assert 0 < len(wanted) < len(keys)
    segments = lane_segments(lane(set_of([(0, 8_999)])), CursorFormat.REVERSED, 1)
    assert segments.advance((0, 0, 10), 1 << 62, list(keys)) == wanted
    assert segments.dropped == len(keys) - len(wanted)
    assert segments.advance((0, 0, 10), 1 << 62, list(keys)) is None
    assert segments.advance((0, 0, 10), 0, []) == []
    assert segments.swept


def test_text() -> None:
    told = lane(ALL_SLOTS, decoding=Decoding("latin-1", "strict"))
    assert told.decoded([b"\xe9"]) == ["\xe9"]
    with pytest.raises(UnicodeDecodeError):
        lane(ALL_SLOTS, decoding=Decoding("utf-8", "strict")).decoded([b"\xe9"])


def test_a_page_that_no_cluster_made() -> None:
    assert ScanPage([b"k"], 0, ServerIdentity(None, Address("h", 1)), None).node is None


# ---- numbers, waits -------------------------------------------------------------------------------------------------


@given(steps=strategies.lists(strategies.tuples(SLOT_SETS, strategies.sampled_from([None, 0, 1, 2, 3]))))
def test_numbers_of_slots(steps: list[tuple[int, int | None]]) -> None:
    """As a list has them."""
    numbers, model = SlotNumbers(), [0] * SLOTS
    for slots, number in steps:
        if number is None:
            numbers.add_one(slots)
        else:
            numbers.set(slots, number)
        for first, last in ranges_of(slots):
            for slot in range(first, last + 1):
                model[slot] = model[slot] + 1 if number is None else number
        found = [model[slot] for first, last in ranges_of(slots) for slot in range(first, last + 1)]
        assert numbers.highest(slots) == max(found, default=0)
    assert numbers.highest(ALL_SLOTS) == max(model)
    assert numbers.highest(NO_SLOTS) == 0


def test_waits() -> None:
    waits = SlotWaits()
    waits.update({"a": 0b0011, "b": 0b0100}, 10.0)
    assert waits.waiting == 0b0111
    assert waits.reason(0b0100) == "b"
    assert waits.reason(0b1000) == ""
    assert (waits.because("a"), waits.because("c")) == (0b0011, NO_SLOTS)
    waits.update({"a": 0b0110}, 12.0)
    assert waits.overdue(14.0, 4.0) == 0b0110
    waits.update({"a": 0b1110}, 15.0)
    assert waits.overdue(15.0, 4.0) == 0b0110
    assert waits.overdue(19.0, 4.0) == 0b1110
    waits.began(0b1000, 1.0)
    waits.began(NO_SLOTS, 1.0)
    assert waits.overdue(11.0, 9.0) == 0b1000
    waits.update({}, 20.0)
    assert waits.waiting == NO_SLOTS


BEGINNING = Mark(PassFacts(Scope(0, None, None), 0)).text()


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument, value",
    [
        ("max_nodes_at_once", 0),
        ("max_nodes_at_once", True),
        ("max_nodes_at_once", 1.5),
        ("allow_uncovered", 1),
        ("certify", "nobody"),
        ("extra_args", ("x",)),
        ("hash_seed_shared", True),
        ("node", "f" * 40),
        ("node", ("10.9.9.9", 7000)),
        ("node", 5),
        ("match", 5),
        ("resume", "tss1.x"),
        ("resume", BEGINNING),
    ],
    ids=str,
)
def test_what_cannot_be(argument: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        cluster_options(Cluster().map(), **{argument: value})
    assert caught.value.argument == argument


def test_arguments_that_cannot_go_together() -> None:
    cluster = Cluster()
    with pytest.raises(ConfigError, match="cursor: must be 0"):
        cluster_options(cluster.map(), cursor=5, segments=1)
    with pytest.raises(ConfigError, match="name a replica there"):
        cluster_options(cluster.map(), node=cluster.nodes[0].node_id, read_from="replica")


def test_what_can_be() -> None:
    cluster = Cluster(replicas=1)
    known = cluster.map()
    for node in ("10.0.0.4:7000", ("10.0.0.4", 7000), cluster.nodes[3].node_id):
        assert cluster_options(known, node=node).node == cluster.nodes[3].node_id
    assert cluster_options(known, certify="sentinels").by_majority
    assert not cluster_options(known, certify="role").by_majority
    assert cluster_options(known, extra_args=[]).decoding is None
    assert cluster_options(known, client={"decode_responses": True}).decoding == Decoding("utf-8", "strict")


# ---- judgement ------------------------------------------------------------------------------------------------------


def standing(cluster: Cluster) -> Standing:
    return Standing(cluster.survey())


def judged(cluster: Cluster, before: Standing) -> LaneJudgement:
    """A lane over the first node's slots, judged by what is said now."""
    one = cluster.nodes[0]
    this = Lane(1, one.node_id, one.node_id, before.own(one.node_id), 0)
    found = judge_owner(this, this.slots, before, standing(cluster))
    again = NO_SLOTS
    for slots, reason in found.again:
        assert reason
        again |= slots
    parts = [found.good, set_of((slot, slot) for slot in found.half), again, found.undecided]
    assert sum(part.bit_count() for part in parts) == this.slots.bit_count()
    assert bool(found.undecided) <= bool(found.reason)
    return found


def test_the_master_is_silent() -> None:
    """Nothing is known, until somebody else has its slots."""
    cluster = Cluster(replicas=1)
    before = standing(cluster)
    one = cluster.nodes[0]
    one.is_up = False
    found = judged(cluster, before)
    assert found.undecided == before.own(one.node_id)
    cluster.fail_over(one, kill=True)
    ((slots, _),) = judged(cluster, before).again
    assert slots == before.own(one.node_id)


def test_nobody_names_the_owner() -> None:
    """Neither good nor bad."""
    cluster = Cluster()
    before = standing(cluster)
    one = cluster.nodes[0]
    one.cut_off_with = cluster.lines()
    found = judged(cluster, before)
    assert found.undecided == one.slots
    assert "no majority" in found.reason


def test_the_cluster_is_not_well_where_the_lane_was() -> None:
    cluster = Cluster()
    before = standing(cluster)
    cluster.nodes[0].state = "fail"
    assert "state" in judged(cluster, before).reason


def test_a_slot_has_set_out_meanwhile() -> None:
    """Nobody was asked in between; before and after are enough to tell. It stays at the same place in the end."""
    cluster = Cluster()
    before = standing(cluster)
    one = cluster.nodes[0]
    slot = next(slots_in(one.slots))
    cluster.begin_move(slot, cluster.nodes[1])
    ((slots, reason),) = judged(cluster, before).again
    assert slots == 1 << slot
    assert "began, or ceased" in reason


def test_its_own_word_will_do() -> None:
    cluster = Cluster()
    cluster.nodes[0].state = "fail"
    assert Standing(cluster.survey(), by_majority=False).why_unsound(cluster.nodes[0].node_id) == ""


def test_a_target_whose_slots_owner_nobody_names() -> None:
    """For now: asked again. And one where nothing can be said at all."""
    cluster = Cluster(masters=3)
    one, _, three = cluster.nodes
    cluster.begin_move(16_383, one)
    words = standing(cluster).words
    this = Lane(1, one.node_id, three.node_id, 1 << 16_383, 0, covers=True)
    assert judge_covering(this, this.slots, words, standing(cluster)).good == this.slots
    three.cut_off_with = cluster.lines()
    found = judge_covering(this, this.slots, words, standing(cluster))
    assert (found.good, found.undecided, found.again) == (NO_SLOTS, this.slots, [])
    assert "names an owner" in found.reason
    three.cut_off_with = None
    one.state = "fail"
    assert judge_covering(this, this.slots, words, standing(cluster)).undecided == this.slots


def test_it_waits_for_patience_and_is_left_in_the_end() -> None:
    """A lane that is over is not left once more."""
    driver = ClusterDriver(Cluster())
    driver.steps_until(lambda: driver.lanes)
    plan = driver.lanes[0].plan
    plan.leave("first", driver.now)
    plan.leave("second", driver.now)
    assert isinstance(plan.error, ScanInterrupted)
    assert plan.error.reason == "first"
