"""What may be small is looked at before it is divided: one reply, and all segments that are left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.core._scan_model import keys_named
from tests.core._tables import LargeTable, Table
from trio_sentinel_scan._core.cursor import CursorFormat, rev64
from trio_sentinel_scan._core.segments import Ask, Segments

REVERSED = CursorFormat.REVERSED


def run(segments: Segments, table: Any, count: int = 10) -> list[Any]:
    """To the end, one SCAN at a time; the keys."""
    found: list[Any] = []
    while not segments.swept:
        for ask in segments.due(count, 1000):
            cursor, keys = table.scan(ask[1], ask[2])
            kept = segments.advance(ask, cursor, keys)
            assert kept is not None
            found += kept
        assert segments.position is not None
    return found


class ListTable:
    """A small collection: all at once, whatever the cursor."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.asked = 0

    def scan(self, cursor: int, count: int) -> tuple[int, list[Any]]:
        self.asked += 1
        return 0, list(self.items)


@pytest.mark.parametrize("number", [1, 2, 16, 64])
@pytest.mark.parametrize("size", [0, 1, 100])
def test_what_comes_as_a_whole_comes_once(number: int, size: int) -> None:
    """However many segments it was to be scanned in: it is one."""
    table = ListTable(keys_named(size))
    segments = Segments(REVERSED, number, may_be_small=True)
    assert run(segments, table) == keys_named(size)
    assert table.asked == 1
    assert (segments.number, segments.position, segments.cursors) == (1, 1.0, [None])


def test_without_looking_first_it_would_come_once_for_each_segment() -> None:
    """(And be dropped again, but for the first.)"""
    table = ListTable(keys_named(100))
    assert run(Segments(REVERSED, 16), table) == keys_named(100)
    assert table.asked == 16


@given(
    number=st.integers(1, 70),
    size=st.integers(0, 400),
    bits=st.integers(0, 9),
    count=st.integers(1, 50),
)
def test_a_table_is_divided_where_its_first_reply_ends(number: int, size: int, bits: int, count: int) -> None:
    """Nothing of it is lost, at any size; and what has come with the first reply is not asked for again."""
    keys = keys_named(size)
    segments = Segments(REVERSED, number, may_be_small=True)
    found = run(segments, Table(keys, bits=bits), count)
    assert set(found) == set(keys)
    assert segments.position == 1.0


def test_the_first_reply_decides_who_is_left() -> None:
    segments = Segments(REVERSED, 4, may_be_small=True)
    starts = [rev64(index << 62) for index in range(4)]
    assert segments.cursors == starts
    (ask,) = segments.due(100, 64)
    assert ask[:2] == (0, 0)
    assert segments.due(100, 64) == []
    # It has come to five eighths: two segments and a half.
    cursor = rev64(5 << 61)
    assert segments.advance(ask, cursor, [b"a"]) == [b"a"]
    assert segments.cursors == [None, None, cursor, starts[3]]
    assert segments.position == 5 / 8
    assert [ask[:2] for ask in segments.due(100, 64)] == [(3, starts[3]), (2, cursor)]
    assert not segments.swept


def test_it_may_come_to_exactly_where_another_one_begins() -> None:
    segments = Segments(REVERSED, 4, may_be_small=True)
    (ask,) = segments.due(100, 64)
    segments.advance(ask, rev64(1 << 62), [])
    assert segments.cursors == [None, *[rev64(index << 62) for index in (1, 2, 3)]]
    assert segments.position == 1 / 4
    assert len(segments.due(100, 64)) == 3


def test_it_may_not_come_to_the_first_ones_end() -> None:
    segments = Segments(REVERSED, 4, may_be_small=True)
    (ask,) = segments.due(100, 64)
    segments.advance(ask, rev64(1 << 60), [])
    assert len(segments.due(100, 64)) == 4
    assert segments.position == 1 / 16


def test_a_first_reply_that_never_comes_is_asked_for_again() -> None:
    """And nothing else, before it is there."""
    segments = Segments(REVERSED, 4, may_be_small=True)
    first: list[Ask] = segments.due(100, 64)
    segments.forget_asked()
    assert segments.due(100, 64) == first
    segments.take_back(first[0])
    assert segments.due(100, 64) == first


def test_one_that_goes_on_knows_already_what_there_is() -> None:
    """From a checkpoint; but not if nothing had come by then."""
    starts = Segments(REVERSED, 4).cursors
    assert len(Segments(REVERSED, 4, cursors=starts, may_be_small=True).due(100, 64)) == 1
    moved = [rev64(1 << 60), *starts[1:]]
    assert len(Segments(REVERSED, 4, cursors=moved, may_be_small=True).due(100, 64)) == 4
    ended = [None, rev64((1 << 62) + 1), *starts[2:]]
    assert len(Segments(REVERSED, 4, cursors=ended, may_be_small=True).due(100, 64)) == 3
    assert len(Segments(REVERSED, 1, cursors=[7], may_be_small=True).due(100, 64)) == 1


@pytest.mark.parametrize("form", [CursorFormat.UNKNOWN, REVERSED])
def test_one_chain_begins_as_ever(form: CursorFormat) -> None:
    segments = Segments(form, 16, may_be_small=True, cursor=0 if form is CursorFormat.UNKNOWN else 5)
    assert segments.number == 1
    assert len(segments.due(100, 64)) == 1


# ---- pairs -----------------------------------------------------------------------------------------------------


class PairTable:
    """A hash whose values change with each reply."""

    def __init__(self, table: Any) -> None:
        self.table = table
        self.replies = 0

    def scan(self, cursor: int, count: int) -> tuple[int, list[Any]]:
        self.replies += 1
        after, keys = self.table.scan(cursor, count)
        return after, [(key, b"%d" % self.replies) for key in keys]


@pytest.mark.parametrize("number", [1, 16])
def test_pairs_are_the_same_by_their_first_half(number: int) -> None:
    """What two segments bring, one of them drops, though its value has changed in between."""
    keys = keys_named(300)
    found = run(Segments(REVERSED, number, may_be_small=True, has_pairs=True), PairTable(LargeTable(keys, bits=9)))
    assert {field for field, _ in found} == set(keys)
    whole = run(Segments(REVERSED, number, may_be_small=True), LargeTable(keys, bits=9))
    assert [field for field, _ in found] == whole


def test_values_are_not_kept() -> None:
    """They may be large, and a first page is kept to the end of its pass."""
    segments = Segments(REVERSED, 4, has_pairs=True)
    for ask in segments.due(100, 64):
        segments.advance(ask, rev64((ask[0] << 62) + 1), [(b"field", b"a large value"), (b"other", [b"not hashable"])])
    assert [segment.first_page for segment in segments._segments] == [frozenset({b"field", b"other"})] * 4
