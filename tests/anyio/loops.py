"""Running a test's coroutine on one of the loops, and cancelling it at a chosen wait.

On asyncio a task may be cancelled at two moments of each of its waits, which differ: while it waits, and in the very
tick in which what it waited for has come but the task has not run yet. `cancelled_at` does both, by the number of the
wait: there is no time in it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, Literal, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import pytest

from tests.conftest import missing

T = TypeVar("T")

# A guard against hanging, far from what anything takes; no test measures time.
HANG: Final = 60.0
# Turns of an asyncio loop in which what was closed is gone: a TLS transport needs more than one.
TURNS_TO_CLOSE: Final = 8

When: TypeAlias = Literal["waiting", "waking"]
How: TypeAlias = Literal["task.cancel", "scope", "asyncio.timeout", "group"]

WHENS: Final[tuple[When, ...]] = ("waiting", "waking")

on_each_asyncio = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
on_each_loop = pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])


def run(loop: str, main: Callable[[], Awaitable[T]], *, forgives: str = "") -> T:
    """Run it there. No task of it is left, and the loop had no error that nobody saw, but for what it `forgives`."""
    if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        # It is not made for every platform.
        missing("there is no uvloop here", "pip install uvloop")
    backend = "trio" if loop == "trio" else "asyncio"
    options: dict[str, Any] = {} if loop == "trio" else {"use_uvloop": loop == "uvloop"}

    async def watched() -> T:
        unseen: list[dict[str, Any]] = []
        if loop != "trio":
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        with anyio.fail_after(HANG):
            result = await main()
        if loop != "trio":
            await nothing_is_left()
        assert [context for context in unseen if context["message"] != forgives] == []
        return result

    result = anyio.run(watched, backend=backend, backend_options=options)
    # A transport that nobody closed says so when it is collected: a ResourceWarning, which is an error here.
    gc.collect()
    return result


async def nothing_is_left(tasks: int = 1) -> None:
    """In a moment there are so many tasks, and the loop has closed what it was told to. (Sockets: see conftest.)"""
    for _ in range(TURNS_TO_CLOSE):
        await anyio.lowlevel.checkpoint()
    assert len(asyncio.all_tasks()) == tasks, asyncio.all_tasks()


class _Stepping(Awaitable[T]):
    """A coroutine; at one of its waits something is called."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], step: int | None, when: When) -> None:
        self._coroutine = coroutine
        self._step = step
        self._when = when
        self.steps = 0
        self.stopped = False
        # Called at that wait.
        self.stop: Callable[[], object] = lambda: None

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine = self._coroutine
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            try:
                future = coroutine.send(sent) if thrown is None else coroutine.throw(thrown)
            except StopIteration as end:
                value: T = end.value
                return value
            self.steps += 1
            if self.steps == self._step:
                self._stop_at(future)
            sent, thrown = None, None
            try:
                sent = yield future
            except BaseException as error:  # noqa: ASYNC103, BLE001 (it is the coroutine's)
                thrown = error

    def _stop_at(self, future: asyncio.Future[Any] | None) -> None:
        loop = asyncio.get_running_loop()
        if future is None or self._when == "waiting":
            loop.call_soon(self._stop)
        else:
            # Before the task's own callback, which is not there yet.
            future.add_done_callback(lambda _: self._stop())

    def _stop(self) -> None:
        self.stopped = True
        self.stop()


async def cancelled_at(
    step: int | None, when: When, work: Callable[[], Coroutine[Any, Any, Any]], how: How = "task.cancel"
) -> tuple[int, bool]:
    """Run `work` in a task of its own, and cancel it at its wait number `step`. Its waits, and whether it came to that.

    A cancellation that was swallowed, or that became another error, fails here.
    """
    stepping = _Stepping(work(), step, when)
    task = asyncio.create_task(_HOW[how](stepping))
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if stepping.stopped and how == "task.cancel":
        # Nothing else is an answer: what it waited for has not been seen by anybody.
        assert isinstance(outcome, asyncio.CancelledError), outcome
    elif isinstance(outcome, BaseException):
        raise outcome
    return stepping.steps, stepping.stopped


async def _by_task(stepping: _Stepping[object]) -> None:
    task = asyncio.current_task()
    assert task is not None
    stepping.stop = task.cancel
    await stepping


async def _by_scope(stepping: _Stepping[object]) -> None:
    done = False
    with anyio.CancelScope() as scope:
        stepping.stop = scope.cancel
        await stepping
        done = True
    assert done != scope.cancelled_caught


async def _by_timeout(stepping: _Stepping[object]) -> None:
    loop = asyncio.get_running_loop()
    timeout = asyncio.timeout(None)
    try:
        async with timeout:
            stepping.stop = lambda: timeout.reschedule(loop.time())
            await stepping
            # (Once it is there, it is too late to be told of a deadline.)
            timeout.reschedule(None)
    except TimeoutError:
        assert timeout.expired()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def _by_group(stepping: _Stepping[object]) -> None:
    failed = asyncio.Event()
    done = False

    class SomethingElse(Exception):
        """What another task of the group fails by."""

    async def fail() -> None:
        await failed.wait()
        if stepping.stopped:
            raise SomethingElse

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            stepping.stop = failed.set
            await stepping
            done = True
            failed.set()
    except* SomethingElse:
        pass
    task = asyncio.current_task()
    assert task is not None
    # (Where the body was through already, CPython 3.11's own group leaves its cancellation counted.)
    assert done or task.cancelling() == 0


_HOW: Final[dict[How, Callable[[_Stepping[Any]], Coroutine[Any, Any, None]]]] = {
    "task.cancel": _by_task,
    "scope": _by_scope,
    "asyncio.timeout": _by_timeout,
    "group": _by_group,
}
