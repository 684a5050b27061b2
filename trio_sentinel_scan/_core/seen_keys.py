"""Which keys a scan has handed out already: what `dedupe` takes.

A filter is asked and told in the one synchronous step that hands a page out, after the filter of epochs. Marked any
earlier, the keys of a page that was filtered out would count as seen, and never come.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

__all__ = ["DurableSeenKeys", "ExactSeen", "SeenKeys", "durable", "lent_to_a_scan"]


@runtime_checkable
class SeenKeys(Protocol):
    """What `open_scan(dedupe=...)` needs of a filter. Both methods are called in one step, and must not wait.

    A filter serves one scan at a time: a key that another scan has marked would be missing from this one. Keys are
    `bytes`, or `str` with ``decode_responses=True``. A filter that raises ends the scan with a `ScanError`.
    """

    def unseen(self, keys: Sequence[Any]) -> list[Any]:
        """Those of `keys` that were never marked, in their order, each once."""
        ...

    def mark(self, keys: Iterable[Any]) -> None:
        """These are being handed out now."""
        ...


@runtime_checkable
class DurableSeenKeys(SeenKeys, Protocol):
    """A filter that outlives its process, so that a scan resumed from a checkpoint has each key once, too."""

    @property
    def name(self) -> bytes:
        """Eight bytes, drawn by lot when the store was made: a checkpoint tells by them whose numbers it has."""
        ...

    @property
    def number(self) -> int:
        """Grows whenever keys are marked; 0 for a store that has none. `rollback` takes it."""
        ...

    def commit(self) -> None:
        """Keep what is marked, come what may. A checkpoint's text is made after that."""
        ...

    def rollback(self, number: int) -> None:
        """Forget what was marked since `number` was that. Kept at once; 0 forgets everything.

        Raises ValueError if the store never was at that number, or was rolled back to before it: numbers that were
        rolled back are not given again, or a checkpoint could stand for keys that it knows nothing of.
        """
        ...


def durable(seen: SeenKeys | None) -> DurableSeenKeys | None:
    """The filter, if it is one that checkpoints are to know of. (Once for a scan: asking this takes its time.)"""
    return seen if isinstance(seen, DurableSeenKeys) else None


# The filters that scans are using, by `id`. Their scans keep them alive.
_LENT: Final[set[int]] = set()


@contextmanager
def lent_to_a_scan(seen: SeenKeys | None) -> Generator[None]:
    """Nobody else has the filter meanwhile. Raises ConfigError if somebody has."""
    if seen is None:
        yield
        return
    if id(seen) in _LENT:
        raise ConfigError("dedupe", "is in use by another scan, whose keys this one would leave out: give each its own")
    _LENT.add(id(seen))
    try:
        yield
    finally:
        _LENT.discard(id(seen))


class ExactSeen:
    """Exact, and in memory: what ``dedupe=True`` is. `docs/scan.md` has what a key takes."""

    def __init__(self) -> None:
        self._seen: set[Any] = set()

    def unseen(self, keys: Sequence[Any]) -> list[Any]:
        """Those of `keys` that were never marked, in their order, each once."""
        seen = self._seen
        return [key for key in dict.fromkeys(keys) if key not in seen]

    def mark(self, keys: Iterable[Any]) -> None:
        """These are being handed out now."""
        self._seen.update(keys)

    def __len__(self) -> int:
        return len(self._seen)

    def __repr__(self) -> str:
        return f"<ExactSeen of {len(self._seen)} keys>"
