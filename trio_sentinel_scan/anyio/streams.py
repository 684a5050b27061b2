"""Byte streams, waits and hand-overs on AnyIO: the one file of this edition that is written by hand.

On asyncio, and uvloop, it uses the loop's own transports; on Trio's loop, what the Trio edition uses. What AnyIO has
is taken from AnyIO, but for a few things that are asked for with every command or that must not lose a page when
`task.cancel()` comes in the very tick in which the page does.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
import ssl as ssl_module
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import anyio
import anyio.lowlevel
import trio

from .._core.errors import ServerConnectionError
from .._trio import streams as on_trio
from .._trio.streams import Bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from .._core.identity import Address

__all__ = [
    "FROM_OUTSIDE",
    "Bytes",
    "ReceiveStream",
    "SendStream",
    "Stream",
    "Waiter",
    "cancel_again",
    "check_event_loop",
    "clock",
    "current_time",
    "loop_teller",
    "open_memory_stream",
    "open_stream",
]

T = TypeVar("T")

# Whether it is Trio that runs, with or without an asyncio loop below it.
_is_trio = trio.lowlevel.in_trio_task

# How another thread reaches what belongs to a loop.
FROM_OUTSIDE: Final = "anyio.from_thread.run or asyncio.run_coroutine_threadsafe"

# Unread bytes from which on nothing more is taken from the network, until somebody has read.
_ENOUGH: Final = 1024 * 1024
# For how long one of a host's addresses is tried alone: RFC 8305's delay.
_HEAD_START: Final = 0.25


def check_event_loop(user: str) -> None:
    """Nothing to be checked: AnyIO says so itself where it does not run."""


def cancel_again(cancelled: BaseException) -> None:
    """This cancellation was caught, for an error that tells more. The task hears of it again at its next wait.

    A scope's, which is a state, sees to that itself. `task.cancel()` is over once it was caught: it is done anew, as
    asyncio's own task groups do, which leaves the count of cancellations as it is.
    """
    if _is_trio() or any(str(said).startswith("Cancelled via cancel scope ") for said in cancelled.args):
        return
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
    task.cancel(*cancelled.args)


def loop_teller() -> Callable[[], object]:
    """A function that tells this loop from any other: what it returns here it returns nowhere else meanwhile.

    On asyncio a thread may have several loops, of which one runs and the others stand still.
    """
    return on_trio.loop_teller() if _is_trio() else _loop_of_asyncio


def _loop_of_asyncio() -> object:
    # Trio's tasks are elsewhere, even where this loop has Trio as its guest.
    if _is_trio():
        return None
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def clock() -> Callable[[], float]:
    """What `current_time` is in this loop, for those who ask often."""
    return on_trio.clock() if _is_trio() else asyncio.get_running_loop().time


def current_time() -> float:
    """The loop's clock: what `anyio.current_time` gives, in half its time."""
    return trio.current_time() if _is_trio() else asyncio.get_running_loop().time()


class Waiter:
    """One task's wait for one call of `wake`: less than half of what an event costs, and commands wait often.

    On asyncio a wake-up may be lost to a cancellation in the same tick: whoever waits sees to what the wake-up was for.
    """

    __slots__ = ("_sleeper",)

    def __new__(cls) -> Waiter:  # noqa: PYI034 (not Self: it may be the other edition's)
        """Where Trio runs, the Trio edition's."""
        return cast("Waiter", on_trio.Waiter()) if _is_trio() else object.__new__(cls)

    def __init__(self) -> None:
        # Invariant: what the task that sleeps here waits for; None from the moment that it is woken.
        self._sleeper: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Sleep until `wake` is called."""
        self._sleeper = asyncio.get_running_loop().create_future()
        try:
            await self._sleeper
        finally:
            self._sleeper = None

    def wake(self) -> None:
        """End the wait, if there is one."""
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None and not sleeper.done():
            sleeper.set_result(None)


# ---- bytes -------------------------------------------------------------------------------------------------------


class Stream(asyncio.Protocol):
    """One connection's bytes on asyncio. Two tasks may use it at once: one that sends and one that receives.

    What comes is kept until somebody receives it, so a cancelled `receive` loses nothing.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        # Invariant: not None from `connection_made` on.
        self._transport: asyncio.Transport | None = None
        # What has come and was not received yet, and how many bytes that is.
        self._chunks: list[bytes] = []
        self._size = 0
        self._receiver = Waiter()
        # The transport still has something to write; it gets no more until that is gone.
        self._full = False
        self._sender = Waiter()
        # Invariant: once True, nothing more comes or goes.
        self._over = False
        # What ended it, if that was not the other side.
        self._reason: Exception | None = None
        # Set up when it is first asked.
        self._poll: select.poll | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing, not even the end of the stream, can be received without waiting."""
        if self._chunks or self._over or self._connected.is_closing():
            return False
        # The loop has not looked at its sockets since the step began that this is asked in.
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._connected.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    @property
    def sends_now(self) -> bool:
        """Whether `send_now` takes anything at all."""
        return True

    def send_now(self, data: Bytes) -> Bytes:
        """Hand `data` to the transport, all of it; or none, and return it, while the transport has something left."""
        if self._over or self._connected.is_closing():
            raise self._failed("lost the connection while sending")
        if self._full:
            return data
        self._connected.write(data)
        return b""

    async def wait_until_it_sends(self) -> None:  # noqa: ASYNC910 (it waits if there is something to wait for)
        """Wait until `send_now` takes something."""
        while self._full and not self._over:
            await self._sender.wait()

    async def send(self, data: Bytes) -> None:
        """Send all of `data`. If cancelled in the middle, some of it may have gone: close the stream then."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        while self.send_now(data):
            await self.wait_until_it_sends()
        await self.wait_until_it_sends()
        if self._over:
            raise self._failed("lost the connection while sending")
        await anyio.lowlevel.cancel_shielded_checkpoint()

    def receive_now(self) -> bytes | None:
        """What has come; None if that is nothing. Raises as `receive` does."""
        if self._chunks:
            return self._take()
        if self._over:
            raise self._failed("lost the connection")
        return None

    async def receive(self) -> bytes:
        """Some bytes, at least one. The end of the stream is an error: no server of ours ends it in good order."""
        while (data := self.receive_now()) is None:
            await self._receiver.wait()
        return data  # noqa: ASYNC910 (what has come has been waited for)

    def close(self) -> None:
        """Close in this very step, without a farewell. Whoever waits on the stream gets a ServerConnectionError.

        The loop closes the socket in its next turn.
        """
        self._chunks.clear()
        self._end(anyio.ClosedResourceError())

    async def aclose(self) -> None:  # noqa: ASYNC910 (see below)
        """Close at once, without a farewell. It closes even if it is cancelled.

        It does not wait at all: no shield keeps `task.cancel()` out, and a caller with several things to close must
        come to the last of them.
        """
        self.close()

    def _end(self, reason: Exception | None) -> None:
        # What ended it is what did so first.
        if not self._over:
            self._over = True
            self._reason = reason
        if self._transport is not None:
            self._transport.abort()
        self._receiver.wake()
        self._sender.wake()

    @property
    def _connected(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def _take(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if self._size > _ENOUGH and not self._over:
            self._connected.resume_reading()
        self._size = 0
        return data

    def _failed(self, what: str) -> ServerConnectionError:
        if self._reason is None:
            return ServerConnectionError(f"{self._where} closed the connection")
        error = on_trio.failed(self._where, what, self._reason)
        error.__cause__ = self._reason
        return error

    # ---- what the transport calls --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, TLS included."""
        self._transport = cast("asyncio.Transport", transport)
        # So `pause_writing` says that anything is left, and who sends keeps what comes after it. (Not 0: TLS pauses at
        # the limit, not above it, and would pause at once.)
        self._transport.set_write_buffer_limits(high=1)

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        self._chunks.append(data)
        before, self._size = self._size, self._size + len(data)
        if before <= _ENOUGH < self._size:
            self._connected.pause_reading()
        self._receiver.wake()

    def eof_received(self) -> None:
        """The other side has ended it: what it does not read any more is not waited for."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended; what had come before can still be received."""
        self._end(exc)

    def pause_writing(self) -> None:
        """The network takes no more for now."""
        self._full = True

    def resume_writing(self) -> None:
        """All that was handed over has been written."""
        self._full = False
        self._sender.wake()


async def open_stream(
    dial: Address, *, announced: Address | None = None, ssl: ssl_module.SSLContext | None = None
) -> Stream:
    """Connect to `dial`; with `ssl`, the certificate must be for the `announced` host (for `dial`'s without one).

    Raises ServerConnectionError.
    """
    if _is_trio():
        return cast("Stream", await on_trio.open_stream(dial, announced=announced, ssl=ssl))
    where = str(announced or dial)
    with on_trio.mapped(where, "cannot be reached"):
        raw = await _open_socket(dial)
    stream = Stream(where)
    loop = asyncio.get_running_loop()
    connect: Any = loop.create_unix_connection if dial.is_unix else loop.create_connection
    # "": a certificate without a host to be for, as one behind a Unix socket is.
    name = None if ssl is None else "" if dial.is_unix else (announced or dial).host
    try:
        with on_trio.mapped(where, "refused TLS, or is not who it should be"):
            if ssl is not None:
                # A host that no name can be is found out here, not by the loop: it would do so in a callback, log it,
                # and (uvloop) close the socket twice.
                ssl.wrap_bio(ssl_module.MemoryBIO(), ssl_module.MemoryBIO(), server_hostname=name or None)
            await connect(lambda: stream, sock=raw, ssl=ssl, server_hostname=name)
    except BaseException:
        stream.close()
        # Whatever the loop has made of the socket lets go of it in the loop's next turn.
        loop.call_soon(raw.close)
        raise
    return stream


async def _open_socket(dial: Address) -> socket.socket:
    """A socket that is connected, to the first of a host's addresses that takes one. Raises OSError, ValueError."""
    if dial.is_unix:
        return await _connected(socket.AF_UNIX, dial.host)
    try:
        # No thread where there is no name to be looked up.
        found = socket.getaddrinfo(dial.host, dial.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(dial.host, dial.port, type=socket.SOCK_STREAM)
    if len(found) == 1:
        family, *_, address = found[0]
        return await _connected(family, address)
    return await _first_connected([(family, address) for family, *_, address in found])


async def _first_connected(addresses: list[tuple[int, Any]]) -> socket.socket:
    """RFC 8305's happy eyeballs, which not every loop has: the next address when one fails, or takes too long."""
    connected: list[socket.socket] = []
    failures: list[OSError] = []

    async def attempt(  # noqa: ASYNC910 (connecting waits)
        family: int, address: Any, failed: anyio.Event
    ) -> None:
        try:
            connected.append(await _connected(family, address))
        except OSError as error:
            failures.append(error)
            failed.set()
        else:
            task_group.cancel_scope.cancel(reason="another address has connected")

    try:
        async with anyio.create_task_group() as task_group:
            for family, address in addresses:
                failed = anyio.Event()
                task_group.start_soon(attempt, family, address, failed)
                with anyio.move_on_after(_HEAD_START):
                    await failed.wait()
    except BaseException:
        for late in connected:
            late.close()
        raise
    for late in connected[1:]:
        late.close()
    if not connected:
        raise OSError("no address could be connected to") from ExceptionGroup("every address failed", failures)
    return connected[0]


async def _connected(family: int, address: Any) -> socket.socket:
    loop = asyncio.get_running_loop()
    raw = socket.socket(family, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        await loop.sock_connect(raw, address)
    except BaseException:
        # Not before the loop has let go of it, which it does in its next turn.
        loop.call_soon(raw.close)
        raise
    return raw


# ---- hand-overs --------------------------------------------------------------------------------------------------


class _Shared:
    """What the ends of one memory stream share.

    Nobody waits inside of AnyIO's stream, which hands an item to a task that may be cancelled before it runs. Here an
    item is sent, and taken, in the step in which `send` or `receive` returns: it is delivered or it is not, and a
    cancellation, native ones included, cannot make it both or neither.
    """

    def __init__(self, size: float) -> None:
        self.size = size
        # Who waits for an item, and who for room, in the order of coming. All are woken when something may have come of
        # it, and look again: so nothing is lost when one of them is cancelled in the same tick.
        self.receivers: dict[Waiter, None] = {}
        self.senders: dict[Waiter, None] = {}

    @staticmethod
    async def wait_among(waiting: dict[Waiter, None]) -> None:
        """Until `wake` is called for these."""
        waiter = Waiter()
        waiting[waiter] = None
        try:
            await waiter.wait()
        finally:
            waiting.pop(waiter, None)

    @staticmethod
    def wake(waiting: dict[Waiter, None]) -> None:
        """Have all of them look again."""
        for waiter in waiting:
            waiter.wake()
        waiting.clear()


class SendStream(Generic[T]):
    """The sending end of a memory stream."""

    def __init__(self, inner: MemoryObjectSendStream[T], shared: _Shared) -> None:
        self._inner = inner
        self._shared = shared
        self._closed = False

    def send_nowait(self, item: T) -> None:
        """Send; raises `anyio.WouldBlock`, `anyio.BrokenResourceError`, `anyio.ClosedResourceError`."""
        shared = self._shared
        found = self._inner.statistics()
        if (
            not self._closed
            and found.open_receive_streams
            and found.current_buffer_used >= shared.size + len(shared.receivers)
        ):
            raise anyio.WouldBlock
        self._inner.send_nowait(item)
        shared.wake(shared.receivers)

    async def send(self, item: T) -> None:
        """Send when there is room. If it is cancelled, nothing was sent. Raises as `send_nowait` does."""
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                return self.send_nowait(item)
            except anyio.WouldBlock:
                await self._shared.wait_among(self._shared.senders)

    def clone(self) -> SendStream[T]:
        """Another sending end."""
        return SendStream(self._inner.clone(), self._shared)

    def close(self) -> None:
        """Close this end; when the last one is closed, the receivers' next item is the end."""
        self._closed = True
        self._inner.close()
        self._shared.wake(self._shared.receivers)
        self._shared.wake(self._shared.senders)

    async def aclose(self) -> None:
        """As `close`."""
        self.close()
        await anyio.lowlevel.cancel_shielded_checkpoint()

    async def __aenter__(self) -> Self:
        # Whoever is cancelled here would not close it any more.
        return self  # noqa: ASYNC910 (so it does not wait)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class ReceiveStream(Generic[T]):
    """The receiving end of a memory stream."""

    def __init__(self, inner: MemoryObjectReceiveStream[T], shared: _Shared) -> None:
        self._inner = inner
        self._shared = shared

    async def receive(self) -> T:
        """The next item. If it is cancelled, nothing was taken.

        Raises `anyio.EndOfStream`, `anyio.ClosedResourceError`.
        """
        shared = self._shared
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                item = self._inner.receive_nowait()
            except anyio.WouldBlock:
                # One who waits is room, too.
                shared.wake(shared.senders)
                await shared.wait_among(shared.receivers)
            else:
                shared.wake(shared.senders)
                return item

    def clone(self) -> ReceiveStream[T]:
        """Another receiving end: each item goes to one of them."""
        return ReceiveStream(self._inner.clone(), self._shared)

    def close(self) -> None:
        """Close this end; when the last one is closed, senders get `anyio.BrokenResourceError`."""
        self._inner.close()
        self._shared.wake(self._shared.receivers)
        self._shared.wake(self._shared.senders)

    async def aclose(self) -> None:
        """As `close`."""
        self.close()
        await anyio.lowlevel.cancel_shielded_checkpoint()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class open_memory_stream(tuple[SendStream[T], ReceiveStream[T]]):  # noqa: N801 (called as a function is, as AnyIO's is)
    """A memory stream with room for so many items, not counting those that somebody waits for; its two ends."""

    __slots__ = ()

    def __new__(cls, size: float) -> tuple[SendStream[T], ReceiveStream[T]]:  # type: ignore[misc]
        """Both ends; `open_memory_stream[Item](size)` says of what."""
        send, receive = anyio.create_memory_object_stream[Any](math.inf)
        shared = _Shared(size)
        return SendStream(send, shared), ReceiveStream(receive, shared)
