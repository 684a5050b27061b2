"""Answers that are sent while a scan, or whatever else is held by an `async with`, is open for them.

Starlette's `StreamingResponse` around an async generator does not do for that. The task that iterates is cancelled
when the client goes away, or when the server will not wait any longer; if it is sending just then, the generator stays
at its `yield`, with its `async with` open, until Python has another task close it. A scan has a task group, and that
can be left only in the task that has entered it: "Attempted to exit a cancel scope that isn't the current task's ...".
So here a coroutine writes the answer, in the response's own task, and what it holds is entered and left there.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trio_sentinel_scan.anyio import SentinelScanError

__all__ = ["HeldResponse", "ServiceStopping", "Streams", "Write"]

# Sends some bytes of the answer.
Write = Callable[[bytes], Awaitable[None]]

# Seconds that a client has for taking the last words of an answer that breaks off.
FAREWELL: Final = 1.0


class ServiceStopping(Exception):
    """The process was told to end."""


class Streams:
    """The answers under way. A server that is told to end waits for them, and some of them never end by themselves."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._stopping = False

    @contextmanager
    def stoppable(self) -> Generator[anyio.CancelScope]:
        """A scope that is cancelled when the process is told to end."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._stopping:
                scope.cancel()
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def stop(self) -> None:
        """End all of them, and those that come."""
        self._stopping = True
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def stopped_by_signals(self) -> Generator[None]:
        """Within the block, SIGTERM and SIGINT `stop`, and then do what they did before.

        The lifespan would hear of it only when every answer has ended: too late for these.
        """
        if threading.current_thread() is not threading.main_thread():
            # As under a test client. Only the main thread hears of signals.
            yield
            return
        loop = asyncio.get_running_loop()
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}

        def handler(signum: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.stop)
            next_one = before[signal.Signals(signum)]
            if callable(next_one):
                next_one(signum, frame)

        for signum, next_one in before.items():
            # One that would end the process at once, or that is ignored, is left as it is.
            if callable(next_one):
                signal.signal(signum, handler)
        try:
            yield
        finally:
            for signum, next_one in before.items():
                if callable(next_one):
                    signal.signal(signum, next_one)


class HeldResponse(Response):
    """An answer that `body` writes, a coroutine function that may hold whatever it likes.

    The status and the headers go out with the first bytes: what `body` raises before them goes to the application's
    exception handlers. Later it is too late for another status, and `last_words` says what the answer ends with.
    """

    def __init__(
        self,
        body: Callable[[Write], Awaitable[None]],
        *,
        media_type: str,
        last_words: Callable[[Exception], bytes],
        streams: Streams,
    ) -> None:
        # Not Response's own, which would know the length of the body.
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"cache-control": "no-store"})
        self._body = body
        self._last_words = last_words
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI's)
        """Answer, for as long as the client is there."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
            try:
                await self._answer(send)
            except Exception as error:  # noqa: BLE001 (raised below, by itself: handlers look for its class)
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _answer(self, send: Send) -> None:
        started = False

        async def write(data: bytes) -> None:
            nonlocal started
            if not started:
                started = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": data, "more_body": True})

        error: Exception | None = None
        try:
            with self._streams.stoppable() as stopping:
                await self._body(write)
            if stopping.cancelled_caught:
                error = ServiceStopping("the service is being stopped: ask again")
        except SentinelScanError as failure:
            error = failure
        if error is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not started:
            raise error
        else:
            # A client that does not read could hold up the end for ever. It gets none, and so knows as much.
            with anyio.move_on_after(FAREWELL):
                await write(self._last_words(error))
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    # Nothing else tells: a server may take what is sent to a client that is gone, and a scan may be silent for long.
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
