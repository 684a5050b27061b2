"""Segments of a pass, over tables that stand still, grow, shrink and are rehashed: nothing is lost, in any order."""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.core._tables import LargeTable, SlotTables, Table, hash64, reversed_bits
from trio_sentinel_scan._core.cursor import SLOTS, CursorFormat, rev64
from trio_sentinel_scan._core.segments import FIRST_COUNT, LAST_COUNT, MAX_SEGMENTS, Ask, Segments, auto_segments

REVERSED, PER_SLOT, UNKNOWN = CursorFormat.REVERSED, CursorFormat.SLOTS, CursorFormat.UNKNOWN
NUMBERS = [1, 2, 3, 5, 8, 13, 16, 31, 64]


def keys_named(count: int) -> list[bytes]:
    return [b"key:%05d" % number for number in range(count)]


def bits_for(count: int) -> int:
    """The size that a server would give a table of so many keys."""
    return max(2, math.ceil(math.log2(max(1, count))))


class Sweeper:
    """Sweeps a table in segments: asks and answers interleaved at random, and trouble on the way."""

    def __init__(self, segments: Segments, table: Any, *, seed: int = 0, trouble: float = 0.0) -> None:
        self.segments = segments
        self.table = table
        self.random = random.Random(seed)
        # How often a reply is a refusal, or the last one of its connection.
        self.trouble = trouble
        self.delivered: Counter[bytes] = Counter()
        self.positions = [segments.position]
        self.asked: list[Ask] = []
        self.on_their_way: deque[Ask] = deque()

    def run(self, count: int, *, between: Callable[[], None] = lambda: None) -> None:
        while not self.segments.swept:
            due = self.segments.due(count, self.random.randint(1, self.segments.number))
            self.on_their_way.extend(due)
            self.asked += due
            assert self.on_their_way, "nothing is asked, and it is not swept"
            assert len({index for index, _, _ in self.on_their_way}) == len(self.on_their_way)
            for _ in range(self.random.randint(0, len(self.on_their_way))):
                between()
                self.answer(self.on_their_way.popleft())
                if self.random.random() < self.trouble / 2:
                    self.on_their_way.clear()
                    self.segments.forget_asked()
                    break
        assert not self.on_their_way
        assert self.segments.due(count, self.segments.number) == []
        assert self.positions[-1] == 1.0

    def answer(self, ask: Ask) -> None:
        if self.random.random() < self.trouble / 2:
            self.segments.take_back(ask)
            return
        _, cursor, count = ask
        keys = self.segments.advance(ask, *self.table.scan(cursor, count))
        assert keys is not None
        self.delivered.update(keys)
        self.positions.append(self.segments.position)

    @property
    def repeated(self) -> int:
        return self.delivered.total() - len(self.delivered)


def rises(positions: list[float | None]) -> bool:
    known = [position for position in positions if position is not None]
    return len(known) == len(positions) and all(a < b for a, b in pairwise(known))


# ---- nothing is lost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", NUMBERS)
@pytest.mark.parametrize("number", [0, 1, 5, 100, 1000, 20_000])
def test_a_table_that_stands_still_is_swept_once(number: int, segments: int) -> None:
    """Every key comes, hardly one of them twice, and the position strictly rises to 1."""
    keys = keys_named(number)
    swept = Sweeper(Segments(REVERSED, segments), LargeTable(keys, bits=bits_for(number)), seed=segments)
    swept.run(100)
    assert set(swept.delivered) == set(keys)
    assert swept.repeated <= (0 if segments == 1 else 0.05 * number + segments)
    assert rises(swept.positions)


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("segments", [1, 3, 64])
def test_a_table_is_swept_with_any_count(segments: int, count: int) -> None:
    """However many segments there are, and however it compares with the table."""
    keys = keys_named(3000)
    swept = Sweeper(Segments(REVERSED, segments), LargeTable(keys, bits=12), seed=count)
    swept.run(count)
    assert set(swept.delivered) == set(keys)
    assert swept.repeated <= 0.02 * len(keys)


@pytest.mark.parametrize("segments", NUMBERS)
@pytest.mark.parametrize("number", [5, 300, 4000])
def test_a_table_that_grows_fivefold_loses_nothing(number: int, segments: int) -> None:
    """Keys come in between any two replies; the table doubles as they do."""
    keys = keys_named(number)
    table = LargeTable(keys, bits=bits_for(number))
    fresh = iter([b"new:%05d" % n for n in range(4 * number)])
    chance = random.Random(segments)

    def write() -> None:
        for key in [next(fresh, None) for _ in range(chance.randint(0, number // 10 + 2))]:
            if key is not None:
                table.add(key)
        table.bits = max(table.bits, bits_for(len(table.places)))

    swept = Sweeper(Segments(REVERSED, segments), table, seed=segments)
    swept.run(20, between=write)
    assert set(keys) <= set(swept.delivered)
    assert rises(swept.positions)


@pytest.mark.parametrize("segments", NUMBERS)
@pytest.mark.parametrize("number", [40, 400, 8000])
def test_a_table_that_shrinks_to_a_twentieth_loses_nothing_that_stays(number: int, segments: int) -> None:
    """Keys go in between any two replies; the table halves as they do."""
    keys = keys_named(number)
    table = LargeTable(keys, bits=bits_for(number))
    stay = set(keys[:: max(1, 20)])
    chance = random.Random(segments)
    doomed = [key for key in keys if key not in stay]
    chance.shuffle(doomed)

    def delete() -> None:
        for _ in range(chance.randint(0, number // 8 + 1)):
            if doomed:
                table.discard(doomed.pop())
        table.bits = min(table.bits, bits_for(len(table.places)))

    swept = Sweeper(Segments(REVERSED, segments), table, seed=segments)
    swept.run(20, between=delete)
    assert stay <= set(swept.delivered)
    assert rises(swept.positions)


@settings(max_examples=300)
@given(
    number=st.integers(1, 120),
    segments=st.integers(1, 64),
    count=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    trouble=st.sampled_from([0.0, 0.0, 0.3]),
    changing=st.booleans(),
)
def test_nothing_is_lost_whatever_comes_between(  # noqa: PLR0917 (hypothesis names them)
    number: int, segments: int, count: int, seed: int, trouble: float, changing: bool
) -> None:
    """Sizes that jump, a rehash in steps, keys that come and go, refusals, and connections that die."""
    keys = keys_named(number)
    stay = set(keys[::2])
    chance = random.Random(seed)
    table = Table(keys, bits=chance.randint(0, 9))
    swept = Sweeper(Segments(REVERSED, segments), table, seed=seed, trouble=trouble)

    def meddle() -> None:
        if chance.random() < 0.2 and table.new_bits is None:
            table.begin_rehash(chance.randint(0, 9))
        table.step_rehash(key for key in list(table.hashes) if chance.random() < 0.3)
        if chance.random() < 0.3:
            table.add(b"new:%d" % chance.randint(0, 99))
            table.discard(chance.choice([*keys[1::2], b"nothing"]))

    swept.run(count, between=meddle if changing else lambda: None)
    assert (stay if changing else set(keys)) <= set(swept.delivered)
    assert rises(swept.positions)


# ---- one table per slot ----------------------------------------------------------------------------------------


def tables_by_slot(keys: Iterable[bytes], slots: list[int]) -> dict[int, Table]:
    tables: dict[int, Table] = {}
    for key in keys:
        slot = slots[hash64(b"slot", key) % len(slots)]
        tables.setdefault(slot, Table(bits=2)).add(key)
    return tables


@pytest.mark.parametrize("segments", NUMBERS)
@pytest.mark.parametrize(
    "slots",
    [list(range(0, SLOTS, 7)), list(range(300)), [0], [SLOTS - 1], [0, SLOTS - 1], [8191, 8192, 8193]],
    ids=["everywhere", "at the beginning", "first", "last", "both ends", "in the middle"],
)
def test_segments_are_ranges_of_slots_where_a_cursor_carries_its_slot(slots: list[int], segments: int) -> None:
    """Whichever slots the node has."""
    keys = keys_named(800)
    swept = Sweeper(Segments(PER_SLOT, segments), SlotTables(tables_by_slot(keys, slots)), seed=segments)
    swept.run(30)
    assert set(swept.delivered) == set(keys)
    assert rises(swept.positions)
    assert {index * SLOTS // segments for index in range(segments)} <= {cursor for _, cursor, _ in swept.asked}


@pytest.mark.parametrize("segments", [1, 3, 16])
def test_slots_that_grow_and_shrink_lose_nothing(segments: int) -> None:
    keys = keys_named(600)
    tables = tables_by_slot(keys, list(range(0, SLOTS, 301)))
    chance = random.Random(segments)

    def resize() -> None:
        chance.choice(list(tables.values())).resize(chance.randint(0, 6))

    swept = Sweeper(Segments(PER_SLOT, segments), SlotTables(tables), seed=segments, trouble=0.2)
    swept.run(15, between=resize)
    assert set(swept.delivered) == set(keys)


# ---- one chain, where there cannot be more ---------------------------------------------------------------------


def test_an_unknown_format_is_one_chain() -> None:
    """There is no telling where a second one would begin; and there is no position before the end."""
    segments = Segments(UNKNOWN, 16)
    assert segments.number == 1
    [ask] = segments.due(10, 16)
    assert ask == (0, 0, 10)
    assert segments.advance(ask, 77, [b"a"]) == [b"a"]
    assert segments.position is None
    assert segments.due(10, 16) == [(0, 77, 10)]
    assert segments.advance((0, 77, 10), 3, [b"b"]) == [b"b"]
    assert segments.due(10, 16) == [(0, 3, 10)]
    assert segments.advance((0, 3, 10), 0, []) == []
    assert segments.swept
    assert segments.position == 1.0


def test_a_chain_in_an_unknown_format_that_goes_in_a_circle_is_noticed() -> None:
    segments = Segments(UNKNOWN, 1)
    for cursor in [5, 6, 7] * 5:
        [ask] = segments.due(10, 1)
        if segments.advance(ask, cursor, []) is None:
            break
    else:
        pytest.fail("it goes round for ever")


@pytest.mark.parametrize("form", list(CursorFormat))
def test_a_callers_cursor_is_one_chain_from_there(form: CursorFormat) -> None:
    """Its position is where it begins."""
    segments = Segments(form, 8, cursor=rev64(2**63 + 2**62) << 14 if form is PER_SLOT else rev64(2**63 + 2**62))
    assert segments.number == 1
    expected = {REVERSED: 0.75, PER_SLOT: 0.75 / SLOTS, UNKNOWN: None}
    assert segments.position == expected[form]


# ---- what is asked ---------------------------------------------------------------------------------------------


def test_the_later_segments_are_asked_first() -> None:
    """So that a segment's last page finds its neighbours' first ones remembered."""
    segments = Segments(REVERSED, 5)
    assert [index for index, _, _ in segments.due(100, 2)] == [4, 3]
    assert [index for index, _, _ in segments.due(100, 2)] == [2, 1]
    assert [index for index, _, _ in segments.due(100, 5)] == [0]
    assert segments.due(100, 5) == []


@pytest.mark.parametrize("form, whole", [(REVERSED, 2**64), (PER_SLOT, SLOTS)])
@pytest.mark.parametrize("number", [1, 2, 3, 64, MAX_SEGMENTS])
def test_segments_tile_the_hash_space(form: CursorFormat, whole: int, number: int) -> None:
    """Each begins where the one before it ends."""
    asks = sorted(Segments(form, number).due(10, number))
    starts = [reversed_bits(cursor) if form is REVERSED else cursor for _, cursor, _ in asks]
    assert starts == [index * whole // number for index in range(number)]


def test_what_was_refused_is_due_again_as_it_was() -> None:
    segments = Segments(REVERSED, 3)
    first = segments.due(10, 3)
    for ask in first:
        segments.take_back(ask)
    assert segments.due(10, 3) == first


def test_what_was_on_its_way_when_the_connection_died_is_due_again() -> None:
    """And nothing else: a segment that has come to its end stays there."""
    segments = Segments(REVERSED, 4)
    asks = segments.due(10, 4)
    assert segments.advance(asks[0], 0, [b"a"]) == [b"a"]
    assert segments.advance(asks[1], rev64(2**63 + 2**61), [b"b"]) == [b"b"]
    segments.forget_asked()
    assert [(index, cursor) for index, cursor, _ in segments.due(10, 4)] == [
        *[(2, rev64(2**63 + 2**61)), (1, rev64(2**62)), (0, 0)]
    ]
    assert segments.position == (2**62 + 2**61) / 2**64


def test_first_and_last_pages_are_small_where_there_are_several_segments() -> None:
    """First ones are remembered, and last ones run over into what a neighbour brings."""
    swept = Sweeper(Segments(REVERSED, 4), LargeTable(keys_named(20_000), bits=15), seed=1)
    swept.run(500)
    for segment in range(4):
        counts = [count for index, _, count in swept.asked if index == segment]
        assert counts[0] == FIRST_COUNT
        assert max(counts) == 500
        assert min(counts) >= LAST_COUNT
    assert any(LAST_COUNT < count < 500 for _, _, count in swept.asked)
    assert swept.repeated < 100
    one = Sweeper(Segments(REVERSED, 1), LargeTable(keys_named(2000), bits=11))
    one.run(500)
    assert {count for _, _, count in one.asked} == {500}


def test_no_count_is_larger_than_what_was_asked_for() -> None:
    swept = Sweeper(Segments(REVERSED, 7), LargeTable(keys_named(2000), bits=11))
    swept.run(3)
    assert {count for _, _, count in swept.asked} == {3}


# ---- what comes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [REVERSED, PER_SLOT])
def test_a_cursor_that_does_not_rise_is_refused_and_changes_nothing(form: CursorFormat) -> None:
    """Neither the same again nor an earlier one. (The format is not what it was taken for.)"""
    segments = Segments(form, 2)
    asks = segments.due(10, 2)
    for index, cursor, count in asks[:1]:
        assert index == 1
        assert segments.advance((index, cursor, count), cursor, [b"a"]) is None
        assert segments.advance((index, cursor, count), 1 if form is PER_SLOT else rev64(5), [b"a"]) is None
    assert segments.position == 0.0


def test_what_a_neighbours_first_page_brought_is_left_out_of_what_runs_over() -> None:
    """Of the neighbours that it reaches, and of no other."""
    segments = Segments(REVERSED, 4)
    three, two, one, zero = segments.due(10, 4)
    assert segments.advance(three, rev64(2**63 + 2**62 + 9), [b"d"]) == [b"d"]
    assert segments.advance(two, rev64(2**63 + 9), [b"c", b"both"]) == [b"c", b"both"]
    assert segments.advance(one, rev64(2**62 + 9), []) == []
    # Into the third segment, and not into the fourth.
    assert segments.advance(zero, rev64(2**63 + 5), [b"a", b"c", b"d"]) == [b"a", b"d"]


def test_a_segment_that_ends_where_the_next_one_begins_runs_over_nothing() -> None:
    segments = Segments(REVERSED, 2)
    second, first = segments.due(10, 2)
    assert segments.advance(second, 0, [b"a"]) == [b"a"]
    assert segments.advance(first, rev64(2**63), [b"a"]) == [b"a"]
    assert segments.swept


@pytest.mark.parametrize("segments", [1, 7, 16])
def test_the_position_is_the_share_of_the_keys_that_came(segments: int) -> None:
    """Within four sigma of the noise of hashing."""
    keys = keys_named(20_000)
    swept = Sweeper(Segments(REVERSED, segments), LargeTable(keys, bits=15), seed=3)
    errors = []

    def compare() -> None:
        position = swept.segments.position
        assert position is not None
        errors.append(abs(len(swept.delivered) / len(keys) - position))

    swept.run(50, between=compare)
    sigma = 0.5 / math.sqrt(len(keys))
    assert max(errors) < 4 * sigma


# ---- how many --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count, number", [(None, 16), (1, 64), (10, 64), (16, 64), (17, 32), (100, 32), (400, 16), (401, 8), (100_000, 8)]
)
def test_the_smaller_the_pages_the_more_segments(count: int | None, number: int) -> None:
    """What keeps a server busy is the keys on their way."""
    for form in (REVERSED, PER_SLOT):
        assert auto_segments(form, count) == number
    assert auto_segments(UNKNOWN, count) == 1
