"""Keys of given slots."""

from __future__ import annotations

from binascii import crc_hqx
from itertools import count
from typing import Final

from trio_sentinel_scan._core.slots import SLOTS

from ..runner import SECRET

__all__ = ["key_in", "keys_of_slots"]

_SECRET: Final = SECRET.encode()

# The CRC16 of each two bytes -> those two.
_PAIRS: dict[int, bytes] = {}


def key_in(slot: int, head: bytes) -> bytes:
    """`head` and two bytes more, that bring it into the slot: the checksum is linear, so they follow from the rest."""
    if not _PAIRS:
        _PAIRS.update((crc_hqx(tail, 0), tail) for tail in (pair.to_bytes(2, "big") for pair in range(1 << 16)))
    return head + _PAIRS[crc_hqx(head + b"\0\0", 0) ^ slot]


def tag_of(slot: int) -> bytes:
    """A hash tag of the slot."""
    tags = (key_in(slot, b"t%d" % number) for number in count())
    return next(tag for tag in tags if b"}" not in tag)


def keys_of_slots(hot: int, keys: int, *, tagged: bool) -> dict[int, list[bytes]]:
    """So many keys in so many slots, which lie all over the range; with hash tags or without."""
    slots = [(SLOTS * number // hot + 37 * number) % SLOTS for number in range(hot)]
    # Some lie side by side.
    slots[1::4] = [slot + 1 for slot in slots[0::4]][: len(slots[1::4])]
    each = max(1, keys // hot)
    if tagged:
        return {slot: [b"{%b}%b:%d" % (tag_of(slot), _SECRET, number) for number in range(each)] for slot in slots}
    return {slot: [key_in(slot, b"%b:%d:" % (_SECRET, number)) for number in range(each)] for slot in slots}
