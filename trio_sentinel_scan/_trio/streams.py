"""Byte streams over TCP, TLS and Unix sockets: the one file that knows the event loop's networking.

What goes wrong with the network leaves here as ServerConnectionError, with the cause attached.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import ssl as ssl_module
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import trio

from .._core.errors import ServerConnectionError, WrongEventLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .._core.identity import Address

__all__ = [
    "FROM_OUTSIDE",
    "Bytes",
    "Stream",
    "Waiter",
    "cancel_again",
    "check_event_loop",
    "clock",
    "failed",
    "loop_teller",
    "mapped",
    "open_stream",
]

READ_SIZE: Final = 256 * 1024
# Whether the system reads and writes a socket by its number, as it does a file.
_SOCKETS_ARE_FILES: Final = os.name == "posix"
# What a network does to a stream. ValueError: a host that no name can be, which a Sentinel may have announced.
_FAILURES: Final = (OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError)

Bytes: TypeAlias = bytes | memoryview

# How another thread reaches what belongs to a loop.
FROM_OUTSIDE: Final = "trio.from_thread.run"


def check_event_loop(user: str) -> None:
    """Raise WrongEventLoop where Trio does not run."""
    if not trio.lowlevel.in_trio_task():
        msg = (
            f"{user} is the Trio edition's, and Trio does not run here. On asyncio, or with AnyIO, use the same class "
            f"from trio_sentinel_scan.anyio"
        )
        raise WrongEventLoop(msg)


def loop_teller() -> Callable[[], object]:
    """A function that tells this loop from any other: what it returns here it returns nowhere else meanwhile.

    The thread tells: it has no other run of Trio before this one has ended, and nothing that was opened in a run is
    open after it. Every command asks, and nothing of Trio's that tells one run from another takes so little time.
    (Where an asyncio loop has Trio as its guest, that one's tasks are in the same thread, and elsewhere.)
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return threading.get_ident
    return _as_a_guest


def _as_a_guest() -> object:
    return threading.get_ident() if trio.lowlevel.in_trio_task() else None


def clock() -> Callable[[], float]:
    """What `trio.current_time` is in this loop, for those who ask often."""
    return trio.lowlevel.current_clock().current_time


def cancel_again(cancelled: BaseException) -> None:
    """This cancellation was caught, for an error that tells more. Nothing to be done: its scope is cancelled still."""


class Waiter:
    """One task's wait for one call of `wake`: less than half of what an event costs, and commands wait often.

    A wake-up that has happened is never lost to a cancellation: then the wait succeeds, and the task's next checkpoint
    raises Cancelled.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        # Invariant: the task that sleeps here; None from the moment that it is woken.
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Sleep until `wake` is called."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._give_up)

    def wake(self) -> None:
        """End the wait, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _give_up(self, raise_cancel: object) -> trio.lowlevel.Abort:  # noqa: ARG002 (nothing to be done with it)
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Stream:
    """One connection's bytes. Two tasks may use it at once: one that sends and one that receives."""

    __slots__ = ("_fd", "_is_file", "_poll", "_raw", "_transport", "_where")

    def __init__(self, raw: trio.abc.Stream, where: str) -> None:
        self._raw: Any = raw
        self._where = where
        transport: Any = raw
        while isinstance(transport, trio.SSLStream):
            transport = cast("Any", transport).transport_stream
        # What lies below TLS.
        self._transport: Any = transport
        # Whether the system reads and writes it as it stands: not TLS, whose records have to be opened first.
        self._is_file = _SOCKETS_ARE_FILES and isinstance(raw, trio.SocketStream)
        # The number of its socket. Invariant: -1 once it is closed, when the number may be another one's.
        self._fd: int = transport.socket.fileno() if isinstance(transport, trio.SocketStream) else -1
        # Set up when it is first asked.
        self._poll: select.poll | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing, not even the end of the stream, can be received without waiting. True if it cannot tell."""
        if not isinstance(self._transport, trio.SocketStream):
            return True
        if self._fd < 0:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._fd, select.POLLIN)
        return not self._poll.poll(0)

    @property
    def sends_now(self) -> bool:
        """Whether `send_now` takes anything at all."""
        return self._is_file

    def send_now(self, data: Bytes) -> Bytes:
        """Send as much of `data` as the network takes without waiting; return the rest, which may be all of it."""
        if not self._is_file:
            return data
        try:
            size = os.write(self._fd, data)
        except BlockingIOError:
            return data
        except _FAILURES as error:
            raise failed(self._where, "lost the connection while sending", error) from error
        return b"" if size == len(data) else memoryview(data)[size:]

    async def wait_until_it_sends(self) -> None:
        """Wait until `send_now` takes something; only for a stream that `sends_now`."""
        try:
            await trio.lowlevel.wait_writable(self._fd)
        except _FAILURES as error:
            raise failed(self._where, "lost the connection while sending", error) from error

    async def send(self, data: Bytes) -> None:
        """Send all of `data`. If cancelled in the middle, some of it may have gone: close the stream then."""
        with mapped(self._where, "lost the connection while sending"):
            await self._raw.send_all(data)

    def receive_now(self) -> bytes | None:
        """What has come; None if that is nothing, or cannot be told without waiting. Raises as `receive` does."""
        if not self._is_file:
            return None
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return None
        except _FAILURES as error:
            raise failed(self._where, "lost the connection", error) from error
        return data or self._ended()

    async def receive(self) -> bytes:
        """Some bytes, at least one. The end of the stream is an error: no server of ours ends it in good order."""
        try:
            if not self._is_file:
                return bytes(await self._raw.receive_some(READ_SIZE)) or self._ended()
            # Straight to waiting: what was asked for has hardly come by now, and to look in vain takes as long.
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                try:
                    return os.read(self._fd, READ_SIZE) or self._ended()
                except BlockingIOError:
                    continue
        except _FAILURES as error:
            raise failed(self._where, "lost the connection", error) from error

    def _ended(self) -> bytes:
        msg = f"{self._where} closed the connection"
        raise ServerConnectionError(msg)

    def close(self) -> None:
        """Close in this very step, without a farewell. Whoever waits on the stream gets a ServerConnectionError."""
        self._fd = -1
        self._transport.socket.close()

    async def aclose(self) -> None:
        """Close at once, without a farewell. It closes even if it is cancelled."""
        self._fd = -1
        # Shielded: it takes no time, and a caller with several things to close must come to the last of them.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._raw)


async def open_stream(
    dial: Address, *, announced: Address | None = None, ssl: ssl_module.SSLContext | None = None
) -> Stream:
    """Connect to `dial`; with `ssl`, the certificate must be for the `announced` host (for `dial`'s without one).

    Raises ServerConnectionError.
    """
    where = str(announced or dial)
    raw: trio.abc.Stream
    with mapped(where, "cannot be reached"):
        if dial.is_unix:
            raw = await trio.open_unix_socket(dial.host)
        else:
            raw = await trio.open_tcp_stream(dial.host, dial.port)
    if ssl is None:
        return Stream(raw, where)
    host = (announced or dial).host
    try:
        with mapped(where, "refused TLS, or is not who it should be"):
            secured = trio.SSLStream(raw, ssl, server_hostname=None if dial.is_unix else host)
            await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(raw)
        raise
    return Stream(secured, where)


@contextmanager
def mapped(where: str, what: str) -> Generator[None]:
    """What the network does to a stream leaves as ServerConnectionError."""
    try:
        yield
    except _FAILURES as error:
        raise failed(where, what, error) from error


def failed(where: str, what: str, error: Exception) -> ServerConnectionError:
    """What to raise from an error of the network."""
    why = _reason(error)
    return ServerConnectionError(f"{where} {what}: {why}" if why else f"{where} {what}")


def _reason(error: BaseException) -> str:
    inner = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
    if isinstance(inner, ssl_module.SSLError):
        return inner.reason or "TLS error"
    if isinstance(inner, OSError):
        # The addresses of a host, even of one that has one, fail together: what went wrong is in a group below.
        below: object = inner.__cause__
        if isinstance(below, ExceptionGroup):
            failures = cast("ExceptionGroup[Exception]", below).exceptions
            return ", ".join(dict.fromkeys(map(_reason, failures)))
        # Trio's own text repeats the address. (A name's errors are numbered differently, and in their own words.)
        if inner.errno is not None and inner.errno in errno.errorcode:
            return os.strerror(inner.errno)
        return inner.strerror or str(inner) or type(inner).__name__
    return str(inner) if isinstance(inner, ValueError) else ""
