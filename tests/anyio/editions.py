"""The editions under test, each on its loop, and what a test may not leave behind on it."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.lowlevel
import trio

import trio_sentinel_scan
import trio_sentinel_scan.anyio
from tests import _leaks

# A guard against hanging, far from what anything takes; no test measures time.
HANG: Final = 90.0
# Turns of an asyncio loop in which what was closed is gone: a TLS transport needs more than one.
TURNS_TO_CLOSE: Final = 5


@dataclass(frozen=True)
class Edition:
    """A package and a loop to run it on."""

    name: str
    # The package. Any: the two have the same names, and no type in common that says so.
    package: Any
    backend: str | None = None
    uvloop: bool = False

    @property
    def missing(self) -> str | None:
        """Why it cannot be run here, if it cannot."""
        return "there is no uvloop here" if self.uvloop and importlib.util.find_spec("uvloop") is None else None

    @property
    def closed(self) -> type[Exception]:
        """What receiving from something closed raises."""
        return anyio.ClosedResourceError if self.backend else trio.ClosedResourceError

    def run(self, test: Callable[[], Awaitable[object]]) -> None:
        """Run a test to its end, after which no task and no socket of it is left, and no error that nobody saw."""
        if self.backend is None:
            trio.run(_watched, test)
            return
        # Debug mode sees a callback from another thread, and says where a coroutine that nobody awaited was made.
        options: dict[str, Any] = {"asyncio": {"debug": not self.uvloop, "use_uvloop": self.uvloop}}.get(
            self.backend, {}
        )
        anyio.run(_watched, test, backend=self.backend, backend_options=options)
        # A transport that nobody closed says so when it is collected: a ResourceWarning, which is an error here.
        gc.collect()


EDITIONS: Final = {
    edition.name: edition
    for edition in (
        Edition("trio", trio_sentinel_scan),
        Edition("anyio-trio", trio_sentinel_scan.anyio, "trio"),
        Edition("anyio-asyncio", trio_sentinel_scan.anyio, "asyncio"),
        Edition("anyio-uvloop", trio_sentinel_scan.anyio, "asyncio", uvloop=True),
    )
}


async def _watched(test: Callable[[], Awaitable[object]]) -> None:
    unseen = _unseen_errors()
    sockets, tasks = _leaks.open_sockets(), other_tasks()
    with anyio.fail_after(HANG):
        await test()
    if not _on_trio():
        for _ in range(TURNS_TO_CLOSE):
            await asyncio.sleep(0)
    assert other_tasks() == tasks, "the test left these tasks running"
    assert not _leaks.open_sockets() - sockets, "the test left these sockets open"
    assert not unseen, "the loop has errors that nobody has seen"


def _on_trio() -> bool:
    return trio.lowlevel.in_trio_task()


def _unseen_errors() -> list[object]:
    """What asyncio's loop says of errors that came to nobody, from now on; on Trio there are none."""
    found: list[object] = []
    if not _on_trio():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    return found


def other_tasks() -> set[Any]:
    """The tasks that run, but for the one that asks."""
    if not _on_trio():
        return {*asyncio.all_tasks()} - {asyncio.current_task()}
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found: set[Any] = set()
    parents = [root]
    while parents:
        children = [task for nursery in parents.pop().child_nurseries for task in nursery.child_tasks]
        found.update(children)
        parents += children
    return found - {trio.lowlevel.current_task()}
