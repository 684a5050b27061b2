"""Which keys a scan has handed out already: what `dedupe` takes.

A filter is asked and told in the one synchronous step that hands a page out, after the filter of epochs. Marked any
earlier, the keys of a page that was filtered out would count as seen, and never come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DurableSeenKeys", "ExactSeen", "SeenKeys"]


@runtime_checkable
class SeenKeys(Protocol):
    """What `open_scan(dedupe=...)` needs of a filter. Both methods are called in one step, and must not wait.

    Keys are `bytes`, or `str` with ``decode_responses=True``. A filter that raises ends the scan with a `ScanError`.
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
        """How often keys were marked; 0 for a store that has none. `rollback` takes it."""
        ...

    def commit(self) -> None:
        """Keep what is marked, come what may. A checkpoint's text is made after that."""
        ...

    def rollback(self, number: int) -> None:
        """Forget what was marked since `number` was that. Raises ValueError if it never was."""
        ...


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
