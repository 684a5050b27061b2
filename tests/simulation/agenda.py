"""The clock of a simulation, and what a world does at its times without any task of its own.

Trio's clock that jumps does so when every task waits. This one then makes the calls that are due next, one moment
after the other, for as long as no task has anything to do: most of a world's own life costs no turn of Trio's loop.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Any, cast

import trio
import trio.testing
from trio._core._run import GLOBAL_RUN_CONTEXT

__all__ = ["Agenda", "clock_with"]


class Agenda:
    """Calls to be made at their times; those of one moment in the order in which they were asked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        # What a call raised, and who is to be told that one has.
        self.error: BaseException | None = None
        self.on_error: Callable[[], object] = lambda: None

    @staticmethod
    def current() -> Agenda:
        """That of the run under way."""
        return cast("Agenda", cast("Any", trio.lowlevel.current_clock()).agenda)

    @property
    def next(self) -> float:
        """When the next call is due."""
        return self._heap[0][0] if self._heap else math.inf

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Make this call then."""
        heapq.heappush(self._heap, (when, next(self._numbers), call))

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Make this call so much later."""
        self.at(trio.current_time() + seconds, call)

    def call_next(self) -> None:
        """Make the next call."""
        try:
            heapq.heappop(self._heap)[2]()
        except BaseException as error:  # noqa: ASYNC103, BLE001 (in no task, so nothing is cancelled here; the run raises it)
            self.error = self.error or error
            self._heap.clear()
            self.on_error()


def clock_with(agenda: Agenda) -> trio.testing.MockClock:
    """A clock that jumps to whatever is due next, be it a task's deadline or a call of the agenda."""
    clock: Any = trio.testing.MockClock(autojump_threshold=0)
    clock.agenda = agenda

    def autojump() -> None:
        runner = GLOBAL_RUN_CONTEXT.runner
        while not runner.runq:
            deadline, due = runner.deadlines.next_deadline(), agenda.next
            if due <= deadline:
                if due == math.inf:
                    return
                clock._virtual_base = max(clock._virtual_base, due)
                agenda.call_next()
            else:
                clock._virtual_base = max(clock._virtual_base, deadline)
                return

    # (It may not be subclassed, and the run loop asks for no other class. At rate 0 its base is the time.)
    clock._autojump = autojump
    clock.current_time = lambda: clock._virtual_base
    return cast("trio.testing.MockClock", clock)
