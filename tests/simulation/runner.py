"""One schedule, one `trio.run`: on a clock that jumps, in an order that follows from the seed alone.

Trio is told to run its tasks in a drawn order that does not hang on addresses in memory; `random`, which the client
takes its jitter from, is seeded; and what the package logs is looked at. So a schedule does the same in every process.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final

import trio
from trio._core import _run as trio_run

from .agenda import Agenda, clock_with
from .playing import Account, Outcome, Violation, World
from .schedule import Schedule

__all__ = ["SECRET", "draw", "run"]

# A run that takes more steps than this of Trio's tasks goes round in circles; the busiest take some 50,000.
MOST_STEPS: Final = 600_000
# Simulated seconds after which nothing more can come of any schedule.
PATIENCE: Final = 5 * 86_400.0
# Marks whatever must not be logged, shown or raised: worlds make their keys, values and passwords contain it.
SECRET: Final = "sEcReT"


class _Steps(trio.abc.Instrument):
    """Ends a run that does not end by itself, though it takes no time."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self.steps = 0
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == MOST_STEPS:
            self._scope.cancel(reason="too many steps")


class _Ear(logging.Handler):
    """Hears everything that the package logs."""

    def __init__(self, account: Account, tell: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.DEBUG)
        self._account = account
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._account.trace(text)
        if SECRET in text:
            self._account.breaks("secret", f"a log record of {record.name} tells what nobody is to know: {text}")
        if record.exc_info is not None and record.exc_info[1] is not None:
            shown = "".join(traceback.format_exception(record.exc_info[1]))
            self._account.breaks("logged", f"{text}: {shown}")
        self._tell(record)


@contextlib.contextmanager
def _heard(account: Account, world: World) -> Iterator[None]:
    logger = logging.getLogger("trio_sentinel_scan")
    ear = _Ear(account, world.heard)
    before = logger.level, logger.propagate
    logger.addHandler(ear)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextlib.contextmanager
def _drawn_by(seed: int) -> Iterator[None]:
    module: Any = trio_run
    before = module._ALLOW_DETERMINISTIC_SCHEDULING, module._r.getstate(), random.getstate()
    module._ALLOW_DETERMINISTIC_SCHEDULING = True
    module._r.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        module._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        module._r.setstate(before[1])
        random.setstate(before[2])


def draw(world: World, seed: int) -> Schedule:
    """The schedule of a seed."""
    return world.draw(random.Random(f"{world.name} {seed}"), seed)


def run(schedule: Schedule, world: World, *, trace: bool = False) -> Outcome:
    """Play a schedule. `trace` keeps a line of everything that happened in ``outcome.account.lines``."""
    account = Account()
    if trace:
        account.lines = []
    outcome = Outcome(schedule, account, None)
    scope = trio.CancelScope()
    steps = _Steps(scope)
    account.on_broken = lambda: scope.cancel(reason="a promise was broken")

    async def main() -> None:
        try:
            with scope, trio.fail_after(PATIENCE):
                await world.play(schedule, account)
        except trio.TooSlowError:
            raise Violation("hang", f"not over after {PATIENCE:.0f} simulated seconds") from None
        finally:
            outcome.simulated = trio.current_time() - begun
        if agenda.error is not None:
            raise agenda.error
        if scope.cancelled_caught and account.broken is None:
            raise Violation("spin", f"{MOST_STEPS} steps, and no end")

    agenda = Agenda()
    agenda.on_error = lambda: scope.cancel(reason="a call of the agenda failed")
    clock = clock_with(agenda)
    begun = clock.current_time()
    start = time.perf_counter()
    collects = gc.isenabled()
    # (No finalizer is to run at a moment that hangs on what else is in memory.)
    gc.disable()
    try:
        with _drawn_by(schedule.seed), _heard(account, world):
            trio.run(main, clock=clock, instruments=[steps])
    except Violation as violation:
        outcome.violation = violation
    except BaseExceptionGroup as group:
        outcome.violation = _only_violation(group)
    except Exception as error:  # noqa: BLE001 (whatever gets out here was promised not to)
        shown = "".join(traceback.format_exception(error))
        outcome.violation = Violation(f"raised {type(error).__name__}", shown)
    finally:
        if collects:
            gc.enable()
    # What was noticed on the way comes first: the rest may follow from it.
    outcome.violation = account.broken or outcome.violation
    outcome.seconds = time.perf_counter() - start
    account.peak("steps of tasks", steps.steps)
    return outcome


def _only_violation(group: BaseExceptionGroup[BaseException]) -> Violation:
    """The violation that got out through the nurseries of a world's own; anything else in a group is one itself."""
    leaves: list[BaseException] = []

    def gather(error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            for part in error.exceptions:
                gather(part)
        else:
            leaves.append(error)

    gather(group)
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt):
            raise leaf
    for leaf in leaves:
        if isinstance(leaf, Violation):
            return leaf
    return Violation(f"raised {type(leaves[0]).__name__}", "".join(traceback.format_exception(group)))
