"""What is to happen when: the one clock of everything in the world but the client."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

import trio

__all__ = ["Agenda"]


class Agenda:
    """Calls to be made at their times; those of one moment in the order in which they were asked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._sooner = trio.Event()

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Make this call then."""
        heapq.heappush(self._heap, (when, next(self._numbers), call))
        if self._heap[0][0] == when:
            self._sooner.set()

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Make this call so much later."""
        self.at(trio.current_time() + seconds, call)

    async def run(self) -> None:
        """Make them, for ever."""
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                heapq.heappop(self._heap)[2]()
            self._sooner = trio.Event()
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf):
                await self._sooner.wait()
