"""The servers' hash tables as SCAN sees them, transcribed from dict.c (dictScan) and kvstore.c (kvstoreScan)."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable

ALL_ONES = (1 << 64) - 1
SLOT_BITS = 14


def reversed_bits(number: int) -> int:
    """The 64 bits in reverse order, by way of text."""
    return int(f"{number:064b}"[::-1], 2)


def hash64(seed: bytes, key: bytes) -> int:
    """Where a process with this seed puts this key."""
    return int.from_bytes(hashlib.blake2b(key, key=seed, digest_size=8).digest(), "big")


class Table:
    """One dict. `bits` gives its size; while it is rehashed, `new_bits` that of the table it moves to."""

    def __init__(self, keys: Iterable[bytes] = (), *, seed: bytes = b"seed", bits: int = 4) -> None:
        self.seed = seed
        self.bits = bits
        self.new_bits: int | None = None
        self.hashes: dict[bytes, int] = {}
        # The keys that have moved to the new table already.
        self.moved: set[bytes] = set()
        for key in keys:
            self.add(key)

    def add(self, key: bytes) -> None:
        """New keys go to the new table, where there is one."""
        self.hashes[key] = hash64(self.seed, key)
        if self.new_bits is not None:
            self.moved.add(key)

    def discard(self, key: bytes) -> None:
        """Delete a key, or not."""
        self.hashes.pop(key, None)
        self.moved.discard(key)

    def resize(self, bits: int) -> None:
        """To another size in one go."""
        self.bits, self.new_bits = bits, None
        self.moved.clear()

    def begin_rehash(self, bits: int) -> None:
        """To another size, step by step."""
        if bits != self.bits:
            self.new_bits = bits

    def step_rehash(self, keys: Iterable[bytes]) -> None:
        """Move some keys; when all have moved, the new table is the table."""
        if self.new_bits is not None:
            self.moved |= set(keys) & set(self.hashes)
            if self.moved == set(self.hashes):
                self.resize(self.new_bits)

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """One SCAN: the next cursor, and the keys."""
        keys: list[bytes] = []
        for _ in range(10 * count):
            cursor = self._scan_bucket(cursor, keys)
            if cursor == 0 or len(keys) >= count:
                break
        return cursor, keys

    def _scan_bucket(self, v: int, keys: list[bytes]) -> int:
        if self.new_bits is None:
            mask = (1 << self.bits) - 1
            self._emit(v, mask, keys, moved=False)
            return _next(v, mask)
        old, new = (1 << self.bits) - 1, (1 << self.new_bits) - 1
        small, large = min(old, new), max(old, new)
        self._emit(v, small, keys, moved=new == small)
        while True:
            self._emit(v, large, keys, moved=new == large)
            v = _next(v, large)
            if not v & (small ^ large):
                return v

    def _emit(self, v: int, mask: int, keys: list[bytes], *, moved: bool) -> None:
        there = self.moved if moved else self.hashes.keys() - self.moved
        keys += sorted(key for key in there if self.hashes[key] & mask == v & mask)


class LargeTable:
    """One dict in a single table, for many keys: in the order of their reversed hashes a bucket is a stretch."""

    def __init__(self, keys: Iterable[bytes], *, seed: bytes = b"seed", bits: int = 4) -> None:
        self.seed = seed
        self.bits = bits
        # Sorted: the reversed hash, and the key.
        self.places: list[tuple[int, bytes]] = sorted((self.place(key), key) for key in keys)

    def place(self, key: bytes) -> int:
        """The key's position in the hash space."""
        return reversed_bits(hash64(self.seed, key))

    def add(self, key: bytes) -> None:
        """A new key, that was not there."""
        bisect.insort(self.places, (self.place(key), key))

    def discard(self, key: bytes) -> None:
        """Delete a key that is there."""
        del self.places[bisect.bisect_left(self.places, (self.place(key), key))]

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """One SCAN: the next cursor, and the keys."""
        keys: list[bytes] = []
        mask = (1 << self.bits) - 1
        for _ in range(10 * count):
            start = reversed_bits(cursor & mask)
            end = start + (1 << (64 - self.bits))
            first, last = (bisect.bisect_left(self.places, (place, b"")) for place in (start, end))
            keys += [key for _, key in self.places[first:last]]
            cursor = _next(cursor, mask)
            if cursor == 0 or len(keys) >= count:
                break
        return cursor, keys


def _next(v: int, mask: int) -> int:
    """Count up by one, in the reversed bits under the mask."""
    v |= ALL_ONES & ~mask
    return reversed_bits((reversed_bits(v) + 1) & ALL_ONES)


class SlotTables:
    """A cluster node's tables, one per hash slot, as Redis 7.4 and Valkey 8.0 keep them."""

    def __init__(self, tables: dict[int, Table] | dict[int, LargeTable]) -> None:
        self.tables = tables

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """One SCAN over the slots in order, empty ones left out."""
        keys: list[bytes] = []
        slot, local = cursor & ((1 << SLOT_BITS) - 1), cursor >> SLOT_BITS
        while len(keys) < count:
            if slot in self.tables:
                local, found = self.tables[slot].scan(local, count - len(keys))
                keys += found
            if local == 0:
                later = [other for other in self.tables if other > slot]
                if not later:
                    return 0, keys
                slot = min(later)
        return local << SLOT_BITS | slot, keys
