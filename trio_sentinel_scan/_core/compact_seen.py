"""Seen keys in a few bytes each, at the price of a small and known chance of taking a new key for a seen one."""

from __future__ import annotations

import math
import secrets
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["CompactSeen"]

# Below it, a hash of 64 bits matters more than the filter does.
_LEAST_RATE: Final = 1e-12
_MOST_RATE: Final = 0.1
# In smaller filters the formula for the error rate is not exact enough.
_LEAST_CAPACITY: Final = 1024
_MOST_CAPACITY: Final = 1 << 40
_SALT_SIZE: Final = 16


class _Filter(Protocol):
    """What of rbloom's Bloom is used."""

    @property
    def size_in_bits(self) -> int: ...

    def __contains__(self, key: Any, /) -> bool: ...

    def update(self, keys: Iterable[Any], /) -> None: ...


class CompactSeen:
    """A filter for big keyspaces: about 6 bytes of memory for a key, whatever its length. It may lose keys.

    ::

        client.open_scan(dedupe=CompactSeen(expected_keys=50_000_000))

    It is a chain of Bloom filters (by rbloom: ``pip install "trio-sentinel-scan[compact]"``). A key that was handed out
    is never handed out again. A key that was *not* may be taken for one that was, and held back: the scan then ends as
    complete without it. **For any one key the chance of that is below `error_rate`**, however many keys there are, so
    that of n keys fewer than ``n * error_rate`` are to be expected to be lost. In detail:

    - The i-th filter (from 0) has room for ``N = expected_keys * 2**i`` keys, ``k = ceil(-log2(error_rate)) + 1 + i``
      hash functions, and ``m = N * k / ln 2`` bits. With n keys in it, it takes a new key for one of them with a chance
      of ``(1 - exp(-k * n / m)) ** k``, which is ``2**-k`` when it is full. The next one is added then.
    - The chances of all of them add up to less than ``error_rate * (1/2 + 1/4 + ...)``, which is `error_rate`.
    - To that, 64 bits of hash add ``n / 2**64`` for n keys: 5e-14 for a million, 5e-11 for a thousand million.

    At the defaults (k = 31, 5.6 bytes for each key expected) the chance is 2**-31, or 5e-10, once a million keys have
    been handed out, and far less before. Over such a scan these chances add up to 0.00002: one scan in 49,000 loses a
    key. With 50,000,000 keys, as expected, one in 920 does; with ``error_rate=1e-12`` (k = 41, 7.4 bytes), one in
    14,000. Where even that is too much, `True` and `SpillingSeen` are exact.

    More keys than expected cost up to three times the memory for each, and time; fewer take what was expected.
    The hash is Python's own (SipHash), of the key behind a secret of each filter's own: who has a say in the names of
    keys has none in which ones are lost, whatever PYTHONHASHSEED is.
    """

    def __init__(self, expected_keys: int = 1_000_000, error_rate: float = 1e-9) -> None:
        """Raises ConfigError for an argument that cannot be, and where rbloom is not installed."""
        capacity, rate = _checked(expected_keys, error_rate)
        self._make = _find_bloom()
        # What is hashed begins with it. One for each type: a str is not the bytes that it is made of.
        self._salt, self._salt_of_str = secrets.token_bytes(_SALT_SIZE), secrets.token_hex(_SALT_SIZE)
        # The hash functions of the next filter, and how many keys it is to have room for.
        self._functions = math.ceil(-math.log2(rate)) + 1
        self._capacity = max(capacity, _LEAST_CAPACITY)
        self._filters: list[_Filter] = []
        # For how many keys the last filter has room yet.
        self._room = 0
        self._count = 0
        # The keys that were found to be new just now, salted: those that will be marked.
        self._found: dict[Any, Any] = {}
        try:
            self._grow()
        except MemoryError as error:
            raise ConfigError("expected_keys", f"is too much for this machine: {error}") from None

    def unseen(self, keys: Sequence[Any]) -> list[Any]:
        """Those of `keys` that were never marked, in their order, each once; as far as can be told."""
        filters, salted = self._filters, self._salted
        found: dict[Any, Any] = {}
        for key in dict.fromkeys(keys):
            # (A bytes or a str has its hash computed once.)
            with_salt = salted(key)
            for each in filters:
                if with_salt in each:
                    break
            else:
                found[key] = with_salt
        self._found = found
        return list(found)

    def mark(self, keys: Iterable[Any]) -> None:
        """These are being handed out now."""
        found, self._found = self._found, {}
        rest = [found[key] if key in found else self._salted(key) for key in keys]
        while rest:
            if self._room == 0:
                self._grow()
            these, rest = rest[: self._room], rest[self._room :]
            self._filters[-1].update(these)
            self._room -= len(these)
            self._count += len(these)

    def _salted(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._salt_of_str + key
        return self._salt + key

    def _grow(self) -> None:
        # A hundredth more, for rbloom rounds the number of hash functions down.
        functions = self._functions + 0.01
        capacity = self._capacity
        if (math.floor(capacity * functions / math.log(2)) // 64 + 1).bit_count() == 1:
            # Of a hash, modulo a power of two, a part has no say.
            capacity += 64
        size = math.ceil(capacity * functions / math.log(2) / 8)
        try:
            # Where there is not so much, this raises, and rbloom would end the process. (What is not touched is only
            # taken in name.)
            bytes(size)
        except (MemoryError, OverflowError):
            raise MemoryError(f"a filter for {self._capacity} keys takes {size} bytes") from None
        self._filters.append(self._make(capacity, 2.0**-functions))
        self._room = self._capacity
        self._capacity *= 2
        self._functions += 1

    @property
    def size(self) -> int:
        """How many bytes of memory the filters take."""
        return sum(each.size_in_bits for each in self._filters) // 8

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<CompactSeen of {self._count} keys in {self.size} bytes>"


def _checked(expected_keys: object, error_rate: object) -> tuple[int, float]:
    if (
        isinstance(expected_keys, bool)
        or not isinstance(expected_keys, int)
        or not 1 <= expected_keys <= _MOST_CAPACITY
    ):
        raise ConfigError("expected_keys", f"must be a whole number from 1 to {_MOST_CAPACITY}")
    if (
        isinstance(error_rate, bool)
        or not isinstance(error_rate, (int, float))
        or not _LEAST_RATE <= error_rate <= _MOST_RATE
    ):
        raise ConfigError("error_rate", f"must be a number from {_LEAST_RATE} to {_MOST_RATE}")
    return expected_keys, float(error_rate)


def _find_bloom() -> Callable[[int, float], _Filter]:
    if sys.hash_info.width < 64 or not sys.hash_info.algorithm.startswith("siphash"):
        raise ConfigError("dedupe", "CompactSeen needs a Python whose hashes are of 64 bits, by SipHash")
    try:
        from rbloom import Bloom  # noqa: PLC0415 (an extra, and only this needs it)
    except ImportError as error:
        raise ConfigError(
            "dedupe", 'CompactSeen needs the package rbloom: pip install "trio-sentinel-scan[compact]"'
        ) from error
    return Bloom
