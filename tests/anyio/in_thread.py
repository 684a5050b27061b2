"""Real servers for tests on any loop: they are managed by Trio, which runs in a thread of its own.

A test writes `async with servers(LocalSentinel()) as service:` and `await service.kill()`, as it would on Trio.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal

from trio_sentinel_scan.testing import LocalCluster, LocalSentinel, LocalServer, SlotMigration

# What runs in that thread, and so is never handed to a test as it is.
_LIVES_THERE = (LocalServer, LocalSentinel, LocalCluster, SlotMigration)


class InThread:
    """One of the things of `trio_sentinel_scan.testing`: its methods are called in its thread, and awaited here."""

    def __init__(self, portal: BlockingPortal, thing: Any) -> None:
        self._portal = portal
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        return partial(self._call, value) if inspect.iscoroutinefunction(value) else self._here(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InThread) and self._thing is other._thing

    def __hash__(self) -> int:
        return hash(self._thing)

    def __repr__(self) -> str:
        return repr(self._thing)

    async def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        there = [arg._thing if isinstance(arg, InThread) else arg for arg in args]
        # If it is cancelled it is waited for all the same: the harness is patient for so long only.
        return self._here(await anyio.to_thread.run_sync(self._portal.call, partial(method, *there, **kwargs)))

    def _here(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._here(one) for one in value]
        return InThread(self._portal, value) if isinstance(value, _LIVES_THERE) else value


# Any: an InThread has the methods of what is in it.
Servers = Callable[[Any], AbstractAsyncContextManager[Any]]


def servers_in(portal: BlockingPortal) -> Servers:
    """What a test starts servers with."""

    @asynccontextmanager
    async def start(harness: Any) -> AsyncGenerator[Any]:
        manager = portal.wrap_async_context_manager(harness)
        thing = await anyio.to_thread.run_sync(manager.__enter__)
        try:
            yield InThread(portal, thing)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(manager.__exit__, None, None, None)

    return start
