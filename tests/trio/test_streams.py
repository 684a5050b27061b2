"""Streams: bytes over memory instead of sockets, and every failure as a ServerConnectionError with its cause."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio
import trio.testing
import trustme

from tests.trio.fakes import on_mock_time
from trio_sentinel_scan import Address, ServerConnectionError
from trio_sentinel_scan._trio.streams import Stream, open_stream

pytestmark = pytest.mark.trio(run=on_mock_time)

HOST = Address("db.example", 6379)


class FailingStream(trio.abc.Stream):
    """Every operation fails in the same way."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise self.error

    async def wait_send_all_might_not_block(self) -> None:
        raise self.error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise self.error

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


def tls_error(reason: str | None) -> ssl.SSLError:
    error: Any = ssl.SSLError(1, "[SSL] (_ssl.c:1006)")
    error.reason = reason  # None where OpenSSL has no word for it
    return cast("ssl.SSLError", error)


def broken_by(cause: BaseException | None) -> trio.BrokenResourceError:
    error = trio.BrokenResourceError()
    error.__cause__ = cause
    return error


# ---- a stream ---------------------------------------------------------------------------------------------------


async def test_bytes_go_both_ways() -> None:
    near, far = trio.testing.memory_stream_pair()
    stream = Stream(near, "server")
    await stream.send(b"PING\r\n")
    assert await far.receive_some() == b"PING\r\n"
    await far.send_all(b"+PONG\r\n")
    received = await stream.receive()
    assert received == b"+PONG\r\n"
    assert type(received) is bytes
    await stream.aclose()


async def test_the_end_of_the_stream_is_an_error() -> None:
    near, far = trio.testing.memory_stream_pair()
    stream = Stream(near, "db:6379")
    await far.send_all(b"+PONG\r\n")
    await far.aclose()
    assert await stream.receive() == b"+PONG\r\n"
    with pytest.raises(ServerConnectionError, match=r"^db:6379 closed the connection$"):
        await stream.receive()
    await stream.aclose()


@pytest.mark.parametrize(
    "error, says",
    [
        (broken_by(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")), ": Connection reset by peer"),
        (broken_by(tls_error("BAD_RECORD_MAC")), ": BAD_RECORD_MAC"),
        (broken_by(tls_error(None)), ": TLS error"),
        (broken_by(None), ""),
        (trio.ClosedResourceError("another task closed this file"), ""),
        (OSError("told in words"), ": told in words"),
        (TimeoutError(), ": TimeoutError"),
    ],
    ids=["reset", "tls", "tls without a word", "broken", "closed", "words", "nothing"],
)
async def test_a_failure_says_where_and_why(error: BaseException, says: str) -> None:
    stream = Stream(FailingStream(error), "db:6379")
    with pytest.raises(ServerConnectionError) as sending:
        await stream.send(b"x")
    assert str(sending.value) == f"db:6379 lost the connection while sending{says}"
    assert sending.value.__cause__ is error
    with pytest.raises(ServerConnectionError) as receiving:
        await stream.receive()
    assert str(receiving.value) == f"db:6379 lost the connection{says}"
    assert receiving.value.__cause__ is error


async def test_closing_closes_even_in_a_cancelled_scope_and_does_not_raise() -> None:
    """State that remains: the raw stream is closed, and the caller goes on to close its next one."""
    raw = FailingStream(OSError())
    came_this_far = False
    with trio.CancelScope() as scope:
        scope.cancel()
        await Stream(raw, "server").aclose()
        came_this_far = True
        await trio.lowlevel.checkpoint()
    assert raw.closed
    assert came_this_far
    assert scope.cancelled_caught


async def test_a_cancelled_receive_loses_no_byte() -> None:
    near, far = trio.testing.memory_stream_pair()
    stream = Stream(near, "server")
    with trio.move_on_after(1):
        await stream.receive()
    await far.send_all(b"+OK\r\n")
    assert await stream.receive() == b"+OK\r\n"
    await stream.aclose()


# ---- opening one ------------------------------------------------------------------------------------------------


class Dialled:
    """Stands in for the functions that connect: gives out one end of a memory stream, keeps the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.error: BaseException | None = None
        self.near, self.far = trio.testing.memory_stream_pair()
        monkeypatch.setattr(trio, "open_tcp_stream", self._open)
        monkeypatch.setattr(trio, "open_unix_socket", self._open)

    async def _open(self, *where: object) -> trio.abc.Stream:
        self.calls.append(where)
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return self.near

    @property
    def near_is_closed(self) -> bool:
        """Whether whoever dialled has closed its end."""
        return self.near.receive_stream._closed


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> Dialled:
    return Dialled(monkeypatch)


async def test_tcp(dialled: Dialled) -> None:
    stream = await open_stream(HOST)
    await stream.send(b"x")
    assert await dialled.far.receive_some() == b"x"
    assert dialled.calls == [("db.example", 6379)]
    await stream.aclose()


async def test_a_unix_socket(dialled: Dialled) -> None:
    stream = await open_stream(Address("/run/redis.sock", 0))
    assert dialled.calls == [("/run/redis.sock",)]
    await stream.aclose()


async def test_messages_name_the_announced_address(dialled: Dialled) -> None:
    stream = await open_stream(Address("127.0.0.1", 7001), announced=HOST)
    assert dialled.calls == [("127.0.0.1", 7001)]
    await dialled.far.aclose()
    with pytest.raises(ServerConnectionError, match=r"^db\.example:6379 closed"):
        await stream.receive()
    await stream.aclose()


@pytest.mark.parametrize(
    "error, says",
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)), "Connection refused"),
        (OSError("all attempts to connect to db.example:6379 failed"), "all attempts to connect to db.example:6379"),
    ],
)
async def test_a_server_that_is_not_there(dialled: Dialled, error: OSError, says: str) -> None:
    dialled.error = error
    with pytest.raises(ServerConnectionError, match=f"^db.example:6379 cannot be reached: {says}") as caught:
        await open_stream(HOST)
    assert caught.value.__cause__ is error


async def test_several_addresses_of_one_host_fail_together(dialled: Dialled) -> None:
    """As Trio raises it; what went wrong is told once for all of them."""
    failures = [OSError(errno.ECONNREFUSED, "x"), OSError(errno.ECONNREFUSED, "y"), OSError(errno.ENETUNREACH, "z")]
    dialled.error = OSError("all attempts to connect to db.example:6379 failed")
    dialled.error.__cause__ = ExceptionGroup("all of them", failures)
    with pytest.raises(ServerConnectionError, match=r"cannot be reached: Connection refused, Network is unreachable$"):
        await open_stream(HOST)


async def test_a_host_that_no_name_can_be() -> None:
    """Such as a Sentinel may announce. (It is found out before anything is looked up.)"""
    with pytest.raises(
        ServerConnectionError, match=r"^\.\.:6379 cannot be reached: .*label empty or too long"
    ) as caught:
        await open_stream(Address("..", 6379))
    assert isinstance(caught.value.__cause__, UnicodeError)


# ---- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


ServeTLS = Callable[..., Awaitable[None]]


@pytest.fixture
def serve_tls(authority: trustme.CA, dialled: Dialled) -> ServeTLS:
    """A TLS server at the far end: it shakes hands, says "hello", and hangs up with or without a farewell."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("db.example").configure_cert(context)

    async def serve(*, farewell: bool = True) -> None:
        server = trio.SSLStream(dialled.far, context, server_side=True)
        try:
            await server.send_all(b"hello")
            if farewell:
                await server.aclose()
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(dialled.far)

    return serve


async def test_tls_checks_the_announced_name(dialled: Dialled, trusting: ssl.SSLContext, serve_tls: ServeTLS) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_tls)
        stream = await open_stream(Address("127.0.0.1", 7001), announced=HOST, ssl=trusting)
        assert await stream.receive() == b"hello"
        await stream.aclose()


async def test_tls_refuses_another_name(dialled: Dialled, trusting: ssl.SSLContext, serve_tls: ServeTLS) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_tls)
        with pytest.raises(ServerConnectionError, match="not who it should be: CERTIFICATE_VERIFY_FAILED"):
            await open_stream(Address("127.0.0.1", 7001), ssl=trusting)
    assert dialled.near_is_closed


async def test_tls_with_a_host_that_no_name_can_be(dialled: Dialled, trusting: ssl.SSLContext) -> None:
    with pytest.raises(ServerConnectionError, match=r"refused TLS.*"):
        await open_stream(Address("127.0.0.1", 7001), announced=Address(".x", 6379), ssl=trusting)
    assert dialled.near_is_closed


async def test_tls_with_a_server_that_speaks_none(dialled: Dialled, trusting: ssl.SSLContext) -> None:
    await dialled.far.send_all(b"-ERR Protocol error\r\n")
    with pytest.raises(ServerConnectionError, match=r"^db\.example:6379 refused TLS") as caught:
        await open_stream(HOST, ssl=trusting)
    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
    assert dialled.near_is_closed


async def test_tls_that_is_cut_off_is_no_farewell(
    dialled: Dialled, trusting: ssl.SSLContext, serve_tls: ServeTLS
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_tls(farewell=False))
        stream = await open_stream(HOST, ssl=trusting)
        assert await stream.receive() == b"hello"
        # Which of the two depends on the Python: some set OP_IGNORE_UNEXPECTED_EOF. With us no end is a good one.
        with pytest.raises(ServerConnectionError, match=r"lost the connection: |closed the connection"):
            await stream.receive()
        await stream.aclose()


async def test_a_handshake_that_is_cancelled_closes_the_stream(dialled: Dialled, trusting: ssl.SSLContext) -> None:
    """State that remains: nothing open; Cancelled, and no error of ours, has come out."""
    with trio.move_on_after(1) as scope:
        await open_stream(HOST, ssl=trusting)
    assert scope.cancelled_caught
    assert dialled.near_is_closed
