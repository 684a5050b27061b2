"""trio.run for tests: a clock that jumps, a schedule that repeats; and cancelling a task at its n-th step."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import trio
import trio.testing
from trio._core import _run as trio_run

__all__ = ["CancelAtStep", "on_mock_time", "settled", "tasks_below"]

# Seconds of the clock that jumps: no test means to take so long, so one that does hangs.
PATIENCE: Final = 100_000


def on_mock_time(
    function: Callable[[], Awaitable[Any]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
    seed: int = 0,
) -> Any:
    """For ``pytest.mark.trio(run=on_mock_time)``: time jumps to where something is due, whenever nothing else is.

    The order in which Trio runs tasks, and the jitter of pauses, follow `seed`.
    """
    trio_run._r.seed(seed)
    random.seed(seed)

    async def in_time() -> Any:
        with trio.fail_after(PATIENCE):
            return await function()

    clock = clock or trio.testing.MockClock(autojump_threshold=0)
    return trio.run(in_time, clock=clock, instruments=instruments)


async def settled() -> None:
    """Until everything that can happen at this very moment has happened."""
    await trio.testing.wait_all_tasks_blocked()


def tasks_below(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    """The tasks that `task` has started, and those that they have."""

    def below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield child
                yield from below(child)

    return list(below(task))


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` at a certain step of the tasks in it, and counts the steps.

    ``when="waiting"``: the step has just ended in a checkpoint, where the cancellation finds the task (if what it
    waits for can be called off). ``when="waking"``: what the task waited for has just happened, so that the checkpoint
    succeeds, and the next one is where the task finds out.
    """

    def __init__(
        self,
        scope: trio.CancelScope,
        step: int | None,
        when: str,
        *,
        concerns: Callable[[trio.lowlevel.Task], bool],
    ) -> None:
        self.steps = 0
        self._scope = scope
        self._step = step
        self._when = when
        self._concerns = concerns

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._when == "waking" and self._concerns(task):
            self._count()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._when == "waiting" and self._concerns(task):
            self._count()

    def _count(self) -> None:
        self.steps += 1
        if self.steps == self._step:
            self._scope.cancel(reason=f"step {self.steps}")
