"""Hash slots and sets of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from redis.crc import key_slot

from trio_sentinel_scan._core.slots import (
    ALL_SLOTS,
    NO_SLOTS,
    SLOTS,
    describe_slots,
    ranges_of,
    set_of,
    slot_of,
    slots_in,
)

slots = st.integers(0, SLOTS - 1)


@pytest.mark.parametrize(
    "key, slot",
    [
        (b"", 0),
        (b"123456789", 12739),
        (b"foo", 12182),
        (b"{foo}.bar", 12182),
        (b"bar{foo}", 12182),
        (b"{foo}{bar}", 12182),
        (b"{}foo", key_slot(b"{}foo")),
        (b"foo{", key_slot(b"foo{")),
        (b"foo{bar", key_slot(b"foo{bar")),
    ],
)
def test_the_slot_of_a_key(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@given(st.text("ab{}", max_size=12).map(str.encode))
def test_slots_are_redis_pys(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


@given(st.sets(slots, max_size=40))
def test_a_set_is_its_ranges(members: set[int]) -> None:
    found = set_of((slot, slot) for slot in members)
    assert set(slots_in(found)) == members
    ranges = list(ranges_of(found))
    assert set_of(ranges) == found
    # Each as long as it can be.
    assert all(after[0] > before[1] + 1 for before, after in pairwise(ranges))
    assert list(slots_in(found)) == sorted(members)


def test_all_and_none() -> None:
    assert set_of([(0, SLOTS - 1)]) == ALL_SLOTS
    assert set_of([]) == NO_SLOTS
    assert list(ranges_of(ALL_SLOTS)) == [(0, SLOTS - 1)]


@pytest.mark.parametrize(
    "ranges, text",
    [
        ([], "no slot"),
        ([(7, 7)], "slot 7"),
        ([(0, 1), (9, 9)], "slots 0-1, 9"),
        ([(n, n) for n in range(0, 20, 2)], "slots 0, 2, 4, 6, 8, ... (10 slots in all)"),
    ],
)
def test_a_set_in_words(ranges: list[tuple[int, int]], text: str) -> None:
    assert describe_slots(set_of(ranges)) == text
