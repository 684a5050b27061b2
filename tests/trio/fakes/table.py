"""A keyspace as SCAN sees it: a hash table with a seed of its own, visited in reversed-binary order.

The interval model of Redis's `dictScan`: a key has a position, its hash with the bits reversed, whatever the size of
the table. A call with a cursor visits whole buckets, which are intervals of positions, from the cursor's on. So a
table that grows or shrinks between two calls loses no key, and a cursor of one seed means nothing to another.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from typing import Final

_SMALLEST: Final = 2  # bits: four buckets
# Changes that a rehash takes. (The server moves a bucket per change, and some more when it is idle.)
_REHASH_CHANGES: Final = 8


def rev64(number: int) -> int:
    """The 64 bits of `number` in reverse order; not the package's, so that the two check each other."""
    return int(f"{number:064b}"[::-1], 2)


class Table:
    """The keys of one database of one process."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        # Invariant: sorted.
        self._order: list[tuple[int, bytes]] = []
        self._bits = _SMALLEST
        # The size before the resize under way, and how many changes that still takes.
        self._old_bits = _SMALLEST
        self._rehash_left = 0

    def __len__(self) -> int:
        return len(self._order)

    def position(self, key: bytes) -> int:
        """Where a key lies in the order of visits: 0 to 2**64 - 1."""
        return int.from_bytes(hashlib.blake2b(key, digest_size=8, key=self._seed).digest(), "big")

    def add(self, key: bytes) -> None:
        """A key that is not there yet."""
        insort(self._order, (self.position(key), key))
        self._changed()

    def remove(self, key: bytes) -> None:
        """A key that is there."""
        del self._order[bisect_left(self._order, (self.position(key), key))]
        self._changed()

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """SCAN without its filters: the next cursor, and the keys of the buckets that were visited."""
        # In mid-rehash a bucket of the smaller table and all its expansions in the larger one are visited together.
        bits = min(self._bits, self._old_bits) if self._rehash_left else self._bits
        at = rev64(cursor) >> (64 - bits)
        keys: list[bytes] = []
        for _ in range(10 * count):
            start, end = at << (64 - bits), (at + 1) << (64 - bits)
            keys += [key for _, key in self._order[self._index(start) : self._index(end)]]
            at += 1
            if at == 1 << bits:
                return 0, keys
            if len(keys) >= count:
                break
        return rev64(at << (64 - bits)), keys

    def _index(self, position: int) -> int:
        return bisect_left(self._order, (position, b""))

    def _changed(self) -> None:
        self._rehash_left = max(0, self._rehash_left - 1)
        if self._rehash_left:
            return
        used = len(self._order)
        bits = self._bits
        if used > 1 << bits or (bits > _SMALLEST and used * 10 < 1 << bits):
            self._old_bits, self._bits = bits, max(_SMALLEST, used.bit_length())
            self._rehash_left = _REHASH_CHANGES
