"""Hash slots: which one a key is in, and sets of them.

A set of slots is an int with a bit for each: a union, an intersection or a difference of 16,384 slots is one operation.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import TYPE_CHECKING, Final, TypeAlias

from .cursor import SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["ALL_SLOTS", "NO_SLOTS", "SLOTS", "SlotSet", "describe_slots", "ranges_of", "set_of", "slot_of", "slots_in"]

SlotSet: TypeAlias = int

NO_SLOTS: Final[SlotSet] = 0
ALL_SLOTS: Final[SlotSet] = (1 << SLOTS) - 1
# How many ranges a message names.
_MOST_RANGES: Final = 5


def slot_of(key: bytes) -> int:
    """The slot of a key: CRC16 of it, or of what stands between its first brace and the next closing one, if anything
    does (a hash tag).
    """
    start = key.find(b"{")
    if start != -1:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def set_of(ranges: Iterable[tuple[int, int]]) -> SlotSet:
    """The set of these ranges, each with its first and its last slot."""
    found = NO_SLOTS
    for first, last in ranges:
        found |= ((1 << (last - first + 1)) - 1) << first
    return found


def ranges_of(slots: SlotSet) -> Iterator[tuple[int, int]]:
    """The ranges of a set, rising, each with its first and its last slot."""
    at = 0
    while slots:
        gap = (slots & -slots).bit_length() - 1
        slots >>= gap
        length = (~slots & (slots + 1)).bit_length() - 1
        yield at + gap, at + gap + length - 1
        slots >>= length
        at += gap + length


def slots_in(slots: SlotSet) -> Iterator[int]:
    """The slots of a set, rising."""
    for first, last in ranges_of(slots):
        yield from range(first, last + 1)


def describe_slots(slots: SlotSet) -> str:
    """A set in words, short enough for a message."""
    if not slots:
        return "no slot"
    ranges = list(ranges_of(slots))
    named = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:_MOST_RANGES])
    more = f", ... ({slots.bit_count()} slots in all)" if len(ranges) > _MOST_RANGES else ""
    return ("slot " if slots.bit_count() == 1 else "slots ") + named + more
