# Generated from _trio/topology.py by `nox -s anyio`: change that file, never this one.
"""The stream of a service's topology events, as a reader has it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.lowlevel

from .._core.errors import ClientClosed, ConfigError
from .._core.topology_events import EventBuffer, EventsMissed, TopologyEvent
from .home_loop import HomeLoop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from .._core.topology_state import TopologyState
    from .sentinel import SentinelMonitor

__all__ = ["TopologyEvents", "checked_buffer", "open_topology"]


class TopologyEvents(anyio.abc.ObjectReceiveStream[TopologyEvent | EventsMissed]):
    """What happens to a service from now on: ``async for event in events``. It goes on until its block is left."""

    def __init__(self, monitor: SentinelMonitor, limit: int) -> None:
        self._monitor = monitor
        self._home = HomeLoop()
        self._buffer = EventBuffer(limit)
        # Set, and replaced, whenever there is something new for `receive` to look at.
        self._news = anyio.Event()
        self._closed = False
        # The last state, once the client has ended. Invariant: None until then.
        self._last: TopologyState | None = None

    @property
    def state(self) -> TopologyState:
        """The service as it is now: events that have not been received yet are part of it."""
        return self._last if self._last is not None else self._monitor.state

    async def receive(self) -> TopologyEvent | EventsMissed:
        """The next event, or `EventsMissed` in the place of those that this reader was too slow for.

        Raises ClientClosed when the client was closed and all events have been received, and
        `anyio.ClosedResourceError` if this end was.
        """
        self._home.check("a stream of topology events")
        # Before an event is taken: one that is cancelled here is still there for the next receive.
        await anyio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            item = self._buffer.take(lambda: self.state)
            if item is not None:
                return item
            if self._last is not None:
                raise ClientClosed("the client was closed, and nobody listens to the Sentinels any more")
            await self._news.wait()

    async def aclose(self) -> None:
        """Listen no more. Who is waiting in `receive` is told by `anyio.ClosedResourceError`."""
        self._closed = True
        self._monitor.subscribers.discard(self)
        self._tell()
        await anyio.lowlevel.checkpoint()

    def put(self, events: Iterable[TopologyEvent]) -> None:
        """These have happened."""
        self._buffer.put(events)
        self._tell()

    def end(self, state: TopologyState) -> None:
        """The client is closing; this was the last state."""
        self._last = state
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()


def checked_buffer(buffer: object) -> int:
    """How many events may wait. Raises ConfigError."""
    if type(buffer) is not int or buffer < 1:
        raise ConfigError("buffer", "must be a whole number from 1")
    return buffer


@asynccontextmanager
async def open_topology(monitor: SentinelMonitor, buffer: int) -> AsyncGenerator[TopologyEvents]:
    """Listen for as long as the block lasts."""
    events = TopologyEvents(monitor, buffer)
    monitor.subscribers.add(events)
    try:
        yield events
    finally:
        await events.aclose()  # noqa: ASYNC102 (what it has to do is done before it waits)
