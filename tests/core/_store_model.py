"""A store of seen keys in memory, which can forget what it has not committed: what `SpillingSeen` is held to."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

_names = itertools.count(1)


class ModelStore:
    """Keys with the numbers that they were marked under."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.name = next(_names).to_bytes(8, "big")
        self.number = self.top = 0
        self.marked: dict[Any, int] = {}
        # Every number that the store has been at, and is to know.
        self.known = {0}
        self.commit()

    def unseen(self, keys: Sequence[Any]) -> list[Any]:
        return [key for key in dict.fromkeys(keys) if key not in self.marked]

    def mark(self, keys: Iterable[Any]) -> None:
        if keys := list(keys):
            self.top += 1
            self.number = self.top
            self.known.add(self.number)
            for key in keys:
                self.marked.setdefault(key, self.number)

    def commit(self) -> None:
        self._committed = (self.number, self.top, dict(self.marked), set(self.known))

    def rollback(self, number: int) -> None:
        if number not in self.known:
            raise ValueError(number)
        self.number = number
        self.marked = {key: marked for key, marked in self.marked.items() if marked <= number}
        self.known = {known for known in self.known if known <= number}
        self.commit()

    def crash(self) -> None:
        """Its process dies; what was committed is there for the next one."""
        self.number, self.top, self.marked, self.known = self._committed
        self.marked, self.known = dict(self.marked), set(self.known)
