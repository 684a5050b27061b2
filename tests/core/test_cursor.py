"""Cursors: positions, order, formats, and circles, against the servers' own tables."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings, strategies as st

from tests.core._tables import SLOT_BITS, SlotTables, Table, reversed_bits
from trio_sentinel_scan._core.cursor import (
    CircleDetector,
    CursorFormat,
    cursor_format_of,
    parse_cursor,
    position_of,
    rev64,
    sort_key,
)
from trio_sentinel_scan._core.errors import ConfigError

UINT64 = st.integers(0, 2**64 - 1)


# ---- the reversed bits -----------------------------------------------------------------------------------------


@given(UINT64)
def test_reversing_twice_changes_nothing(number: int) -> None:
    """rev64 is its own inverse, and what it says it is."""
    assert rev64(rev64(number)) == number
    assert rev64(number) == reversed_bits(number)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_only_64_bits_can_be_reversed(number: int) -> None:
    """A cursor that is none would otherwise get a position."""
    with pytest.raises(OverflowError):
        rev64(number)


@pytest.mark.parametrize(
    "cursor, form, position",
    [
        (0, CursorFormat.REVERSED, 0.0),
        (1 << 63, CursorFormat.REVERSED, 2.0**-64),
        (1, CursorFormat.REVERSED, 0.5),
        (2, CursorFormat.REVERSED, 0.25),
        (3, CursorFormat.REVERSED, 0.75),
        (0, CursorFormat.SLOTS, 0.0),
        (8192, CursorFormat.SLOTS, 0.5),
        (1 << 14, CursorFormat.SLOTS, 0.5 / 16384),
        (1 << 14 | 16383, CursorFormat.SLOTS, (16383 + 0.5) / 16384),
        (5, CursorFormat.UNKNOWN, None),
        (0, CursorFormat.UNKNOWN, None),
    ],
)
def test_a_position_is_the_share_of_the_hash_space_behind_the_cursor(
    cursor: int, form: CursorFormat, position: float | None
) -> None:
    """Exact, whatever the table's size; unknown where the format is."""
    assert position_of(cursor, form) == position


# ---- the servers' tables ---------------------------------------------------------------------------------------


def keys_named(count: int) -> list[bytes]:
    return [b"key:%d" % number for number in range(count)]


@settings(max_examples=80)
@given(
    st.integers(0, 80),
    st.integers(0, 8),
    st.lists(
        st.tuples(st.sampled_from(["resize", "begin", "step", "none"]), st.integers(0, 9), st.integers(1, 12)),
        max_size=40,
    ),
    st.integers(1, 20),
    st.randoms(use_true_random=False),
)
def test_positions_strictly_rise_through_a_table_that_grows_and_shrinks(
    number: int, bits: int, changes: list[tuple[str, int, int]], count: int, chance: random.Random
) -> None:
    """Each cursor sorts behind the one before, through resizes and half-done rehashes, and no key is missed."""
    keys = keys_named(number)
    table = Table(keys, seed=chance.randbytes(8), bits=bits)
    seen: set[bytes] = set()
    cursor, before = 0, -1.0
    for change, new_bits, step_count in [*changes, *[("none", 0, count)] * 3000]:
        match change:
            case "resize":
                table.resize(new_bits)
            case "begin":
                table.begin_rehash(new_bits)
            case "step":
                table.step_rehash(chance.sample(keys, len(keys) // 2))
            case _:
                pass
        cursor_before = cursor
        cursor, found = table.scan(cursor, step_count)
        seen |= set(found)
        if cursor == 0:
            break
        assert sort_key(cursor, CursorFormat.REVERSED) > sort_key(cursor_before, CursorFormat.REVERSED)
        position = position_of(cursor, CursorFormat.REVERSED)
        assert position is not None
        assert before < position < 1.0
        before = position
    assert cursor == 0
    assert seen == set(keys)


@settings(max_examples=40)
@given(
    st.dictionaries(st.integers(0, 16383), st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=6),
    st.integers(1, 20),
)
def test_positions_strictly_rise_from_slot_to_slot(tables: dict[int, tuple[int, int]], count: int) -> None:
    """In cluster mode the slot comes first, and the place within its own table second."""
    node = SlotTables({slot: Table(keys_named(number), bits=bits) for slot, (number, bits) in tables.items()})
    seen = 0
    cursor, before = 0, -1.0
    while True:
        cursor_before = cursor
        cursor, found = node.scan(cursor, count)
        seen += len(found)
        if cursor == 0:
            break
        assert sort_key(cursor, CursorFormat.SLOTS) > sort_key(cursor_before, CursorFormat.SLOTS)
        position = position_of(cursor, CursorFormat.SLOTS)
        assert position is not None
        assert before < position < 1.0
        before = position
    assert seen == sum(number for number, _ in tables.values())


def test_each_format_breaks_the_order_of_the_other() -> None:
    """So that a format which was mistaken for the other is noticed."""
    one_table = Table(keys_named(200), bits=8)
    slots = SlotTables({slot: Table(keys_named(3), bits=2) for slot in range(100, 140)})
    for source, wrong in ((one_table, CursorFormat.SLOTS), (slots, CursorFormat.REVERSED)):
        chain = [0]
        while (following := source.scan(chain[-1], 10)[0]) != 0:
            chain.append(following)
        order = [sort_key(cursor, wrong) for cursor in chain]
        assert order != sorted(order)


def test_low_bits_count_in_the_order_where_a_float_would_lose_them() -> None:
    """Two cursors of a huge table can have the same position as a float, and still one of them is the later."""
    one, other = rev64(2**63 + 2), rev64(2**63 + 1)
    assert position_of(one, CursorFormat.REVERSED) == position_of(other, CursorFormat.REVERSED)
    assert sort_key(one, CursorFormat.REVERSED) > sort_key(other, CursorFormat.REVERSED)
    assert sort_key(1 << SLOT_BITS, CursorFormat.SLOTS) < sort_key(1, CursorFormat.SLOTS)


# ---- which format ----------------------------------------------------------------------------------------------

# INFO server of each product, as far as it matters.
REDIS = {"redis_git_sha1": "00000000", "redis_build_id": "636cde3b5c7a3923", "gcc_version": "12.2.0", "run_id": "ab"}
VALKEY = {"redis_version": "7.2.4", "server_name": "valkey", "gcc_version": "12.2.0", "run_id": "ab"}
REVERSED, SLOTS, UNKNOWN = CursorFormat.REVERSED, CursorFormat.SLOTS, CursorFormat.UNKNOWN


@pytest.mark.parametrize(
    "info, mode, form",
    [
        ({**REDIS, "redis_version": "6.2.14", "redis_mode": "standalone"}, None, REVERSED),
        ({**REDIS, "redis_version": "6.2.14", "redis_mode": "cluster"}, None, REVERSED),
        ({**REDIS, "redis_version": "7.0.15", "redis_mode": "standalone"}, "standalone", REVERSED),
        ({**REDIS, "redis_version": "7.2.5", "redis_mode": "cluster"}, "cluster", REVERSED),
        ({**REDIS, "redis_version": "7.4.1", "redis_mode": "standalone"}, "standalone", REVERSED),
        ({**REDIS, "redis_version": "7.4.1", "redis_mode": "cluster"}, "cluster", SLOTS),
        ({**REDIS, "redis_version": "8.0.3", "redis_mode": "standalone"}, "standalone", REVERSED),
        ({**REDIS, "redis_version": "8.2.0", "redis_mode": "cluster"}, "cluster", SLOTS),
        ({**REDIS, "redis_version": "255.255.255", "redis_mode": "cluster"}, "cluster", SLOTS),
        ({**VALKEY, "valkey_version": "7.2.8", "redis_mode": "cluster"}, "cluster", REVERSED),
        ({**VALKEY, "valkey_version": "8.0.1", "redis_mode": "standalone"}, "standalone", REVERSED),
        ({**VALKEY, "valkey_version": "8.0.1", "redis_mode": "cluster"}, "cluster", SLOTS),
        ({**VALKEY, "valkey_version": "8.1.8", "server_mode": "standalone"}, "standalone", REVERSED),
        ({**VALKEY, "valkey_version": "9.1.2", "server_mode": "cluster"}, "cluster", SLOTS),
        # The mode in HELLO stands in for INFO's.
        ({**REDIS, "redis_version": "7.4.1"}, "cluster", SLOTS),
        ({**REDIS, "redis_version": "7.4.1"}, None, REVERSED),
        # KeyDB names itself nowhere; it has Redis's own table, and no cluster format of 7.4.
        ({**REDIS, "redis_version": "6.3.4", "redis_mode": "standalone", "mvcc_depth": "0"}, "standalone", REVERSED),
        # Relatives that call themselves Redis, and then by their name.
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.25.0", "redis_mode": "standalone"}, None, UNKNOWN),
        ({"redis_version": "4.0.0", "kvrocks_version": "2.9.0", "redis_mode": "standalone"}, None, UNKNOWN),
        ({"redis_version": "7.2.5", "garnet_version": "1.0.30"}, None, UNKNOWN),
        ({**REDIS, "redis_version": "7.4.2", "rlec_version": "7.8.2"}, None, UNKNOWN),
        # Nothing to go by.
        ({}, "standalone", UNKNOWN),
        (None, "standalone", UNKNOWN),
        ({"run_id": "ab"}, "standalone", UNKNOWN),
        ({"redis_version": "unstable"}, None, UNKNOWN),
        ({"redis_version": "8"}, None, UNKNOWN),
    ],
)
def test_the_format_is_known_for_known_products_only(
    info: dict[str, str] | None, mode: str | None, form: CursorFormat
) -> None:
    """A product that is not known for certain has opaque cursors."""
    assert cursor_format_of(info, mode) is form


# ---- a caller's cursor -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, cursor",
    [(0, 0), ("0", 0), (b"0", 0), ("17", 17), (b"17", 17), (2**64 - 1, 2**64 - 1), (str(2**64 - 1), 2**64 - 1)],
    ids=repr,
)
def test_a_cursor_is_a_number_or_its_digits(value: object, cursor: int) -> None:
    """As SCAN returned it, or as redis-py did."""
    assert parse_cursor(value) == cursor


@pytest.mark.parametrize(
    "value",
    [
        *[-1, 2**64, 1.0, True, None, [0], object()],
        *["", "-1", "+5", " 0", "0x10", "abc", "1_0", "٣", str(2**64), "9" * 10_000, "fp-{06S}-0"],
        *[b"", b"-1", b"\xff", "٣".encode(), b"9" * 10_000, bytearray(b"0")],
    ],
    ids=lambda value: f"{value!r:.20}",
)
def test_nothing_else_is_a_cursor(value: object) -> None:
    """Servers differ in what they take, so none of it is left to them; the error names the argument."""
    with pytest.raises(ConfigError) as caught:
        parse_cursor(value, "resume")
    assert caught.value.argument == "resume"


# ---- circles ---------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.integers(0, 60), st.integers(1, 60))
def test_any_circle_is_found_within_three_times_its_steps(tail: int, circle: int) -> None:
    """A chain that runs into a circle is caught, in at most three times as many steps as it has cursors."""
    detector = CircleDetector()
    for step in range(1, 3 * (tail + circle) + 1):
        place = step if step <= tail else tail + (step - tail) % circle
        if detector.comes_round(1000 + place):
            break
    else:
        pytest.fail("the circle was not found")
    assert step > circle


@given(st.lists(UINT64, unique=True, max_size=200))
def test_no_circle_is_found_where_there_is_none(cursors: list[int]) -> None:
    """A chain that never repeats is never stopped."""
    detector = CircleDetector()
    assert not any(detector.comes_round(cursor) for cursor in cursors)


def test_a_circle_is_found_in_constant_memory() -> None:
    """One cursor is remembered, however long the chain."""
    detector = CircleDetector()
    for cursor in range(100_000):
        assert not detector.comes_round(cursor)
    assert detector._landmark is not None
    assert CircleDetector.__slots__ == ("_landmark", "_lap", "_steps")
