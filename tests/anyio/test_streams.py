"""Streams of the AnyIO edition, over real sockets: the promises of tests/trio/test_streams.py on each loop."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme

from tests.anyio.loops import WHENS, When, cancelled_at, on_each_asyncio, on_each_loop, run
from tests.anyio.peers import dead, echo, peer, reset, silent, until_the_end
from trio_sentinel_scan import Address, ServerConnectionError
from trio_sentinel_scan.anyio import streams
from trio_sentinel_scan.anyio.streams import Stream, open_stream

HOST = Address("db.example", 6379)
# More than all buffers on the way take.
MUCH = 24 * 1024 * 1024


async def receive_all(stream: Stream, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        found += await stream.receive()
    return bytes(found)


async def turns(number: int = 50) -> None:
    for _ in range(number):
        await anyio.lowlevel.checkpoint()


# ---- a stream ---------------------------------------------------------------------------------------------------


@on_each_loop
def test_bytes_go_both_ways(loop: str) -> None:
    async def main() -> None:
        stream = await open_stream(address)
        await stream.send(b"PING\r\n")
        received = await receive_all(stream, 6)
        assert received == b"PING\r\n"
        assert type(received) is bytes
        await stream.aclose()

    with peer(echo) as address:
        run(loop, main)


@on_each_loop
def test_the_end_of_the_stream_is_an_error(loop: str) -> None:
    async def main() -> None:
        stream = await open_stream(address)
        assert await receive_all(stream, 7) == b"+PONG\r\n"
        with pytest.raises(ServerConnectionError, match=f"^{address} closed the connection$"):
            await stream.receive()
        assert not stream.is_quiet
        await stream.aclose()

    with peer(lambda raw: raw.sendall(b"+PONG\r\n")) as address:
        run(loop, main)


@on_each_loop
def test_a_reset_says_so(loop: str) -> None:
    async def main() -> None:
        stream = await open_stream(address)
        await stream.send(b"x")
        with pytest.raises(ServerConnectionError, match=r"lost the connection: Connection reset by peer$") as caught:
            await stream.receive()
        assert caught.value.__cause__ is not None
        await stream.aclose()

    def talk(raw: socket.socket) -> None:
        raw.recv(1)
        reset(raw)

    with peer(talk) as address:
        run(loop, main)


@on_each_loop
def test_sending_to_one_who_has_gone(loop: str) -> None:
    async def main() -> None:
        stream = await open_stream(address)

        async def send_on() -> None:
            while True:
                await stream.send(bytes(65536))

        with pytest.raises(ServerConnectionError, match=r"closed the connection|lost the connection while sending: "):
            await send_on()
        with pytest.raises(ServerConnectionError):
            stream.send_now(b"x")
        await stream.aclose()

    with peer(lambda raw: raw.recv(1)) as address:
        run(loop, main)


@on_each_loop
def test_closing_ends_the_waits_on_it(loop: str) -> None:
    """One task receives, one sends and cannot: both are told, and not that the server has closed anything."""

    async def main() -> None:
        stream = await open_stream(address)
        told: list[str] = []

        async def failing(wait: Coroutine[Any, Any, object]) -> None:
            with pytest.raises(ServerConnectionError) as caught:
                await wait
            told.append(str(caught.value))

        async with anyio.create_task_group() as group:
            group.start_soon(failing, stream.send(bytes(MUCH)))
            group.start_soon(failing, stream.receive())
            await turns()
            stream.close()
        assert sorted(told) == [f"{address} lost the connection", f"{address} lost the connection while sending"]
        with pytest.raises(ServerConnectionError):
            await stream.receive()
        assert not stream.is_quiet
        stream.close()
        await stream.aclose()

    go = threading.Event()
    with peer(lambda _: go.wait(30)) as address:
        try:
            run(loop, main)
        finally:
            go.set()


@on_each_loop
def test_one_end_that_is_closed_ends_it_though_ours_is_full(loop: str) -> None:
    """The other side reads no more: what is still to be written to it must not keep us from hearing its end."""

    async def main() -> None:
        stream = await open_stream(address)
        async with anyio.create_task_group() as group:

            async def send() -> None:
                with pytest.raises(ServerConnectionError):
                    await stream.send(bytes(MUCH))

            group.start_soon(send)
            await turns()
            half.set()
            with pytest.raises(ServerConnectionError, match="closed the connection"):
                await stream.receive()
            await stream.aclose()

    def talk(raw: socket.socket) -> None:
        half.wait(30)
        raw.shutdown(socket.SHUT_WR)
        go.wait(30)

    half, go = threading.Event(), threading.Event()
    with peer(talk) as address:
        try:
            run(loop, main)
        finally:
            go.set()


@on_each_asyncio
def test_without_hearing_the_end_it_would_wait_for_the_writing(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard switched off: the loop closes what it reads from, but not before all is written."""
    heard: list[Stream] = []
    monkeypatch.setattr(Stream, "eof_received", lambda stream: heard.append(stream))  # noqa: PLW0108 (a method)

    async def main() -> None:
        stream = await open_stream(address)
        async with anyio.create_task_group() as group:
            group.start_soon(stream.send, bytes(MUCH))
            await turns()
            half.set()
            while not heard:
                await turns(1)
            await turns()
            assert stream.receive_now() is None
            group.cancel_scope.cancel()
        await stream.aclose()

    def talk(raw: socket.socket) -> None:
        half.wait(30)
        raw.shutdown(socket.SHUT_WR)
        go.wait(30)

    half, go = threading.Event(), threading.Event()
    with peer(talk) as address:
        try:
            run(loop, main)
        finally:
            go.set()


@on_each_loop
def test_whether_it_is_quiet(loop: str) -> None:
    """It is asked of the socket: the loop need not have had its turn."""

    async def main() -> None:
        stream = await open_stream(address)
        assert stream.is_quiet
        await stream.send(b"x")
        said.wait(30)
        assert not stream.is_quiet
        assert await stream.receive() == b"x"
        assert stream.is_quiet
        over.set()
        ended.wait(30)
        assert not stream.is_quiet
        await stream.aclose()

    def talk(raw: socket.socket) -> None:
        raw.sendall(raw.recv(1))
        said.set()
        over.wait(30)
        raw.shutdown(socket.SHUT_WR)
        ended.set()
        raw.recv(1)

    said, over, ended = threading.Event(), threading.Event(), threading.Event()
    with peer(talk) as address:
        run(loop, main)


# ---- more than goes at once -------------------------------------------------------------------------------------


@on_each_loop
@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
def test_much_goes_both_ways(loop: str, with_tls: bool, authority: trustme.CA) -> None:
    """Each side sends all of it while the other does: nobody waits for one who waits."""

    async def main() -> None:
        stream = await open_stream(address, announced=HOST, ssl=trusting(authority) if with_tls else None)
        data = bytes(range(256)) * (MUCH // 256)
        found = hashlib.sha256()

        async def send() -> None:
            # In parts, as requests are.
            for at in range(0, MUCH, 300_000):
                await stream.send(memoryview(data)[at : at + 300_000])

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            size = 0
            while size < MUCH:
                part = await stream.receive()
                found.update(part)
                size += len(part)
        assert found.digest() == hashlib.sha256(data).digest()
        await stream.aclose()

    with peer(echo, tls=serving(authority) if with_tls else None) as address:
        run(loop, main)


@on_each_asyncio
@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
def test_what_is_not_received_does_not_fill_the_memory(loop: str, with_tls: bool, authority: trustme.CA) -> None:
    """The loop reads by itself; the stream has it stop, and go on when somebody has received."""

    async def main() -> None:
        stream = await open_stream(address, announced=HOST, ssl=trusting(authority) if with_tls else None)
        for _ in range(5):
            while stream._size <= streams._ENOUGH:
                await turns(1)
            await turns(200)
            assert stream._size <= streams._ENOUGH + 512 * 1024
            received = await stream.receive()
            assert len(received) > streams._ENOUGH
            assert stream._size == 0
        await stream.aclose()

    def talk(raw: socket.socket) -> None:
        while True:
            raw.sendall(bytes(65536))

    with peer(talk, tls=serving(authority) if with_tls else None) as address:
        run(loop, main)


@on_each_asyncio
def test_the_guard_is_what_keeps_it_small(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the guard switched off it grows on."""

    async def main() -> None:
        stream = await open_stream(address)
        while stream._size <= 8 * streams._ENOUGH:
            await turns(1)
        await stream.aclose()

    def talk(raw: socket.socket) -> None:
        while True:
            raw.sendall(bytes(65536))

    def data_received(self: Stream, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)

    monkeypatch.setattr(Stream, "data_received", data_received)
    with peer(talk) as address:
        run(loop, main)


@on_each_asyncio
@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
def test_what_is_not_read_is_not_taken(loop: str, with_tls: bool, authority: trustme.CA) -> None:
    """`send_now` takes all, or (while something is left of what it took) nothing, and then waiting for it helps.

    With TLS in particular: one that has written nothing has nothing left.
    """

    async def main() -> None:
        stream = await open_stream(address, announced=HOST, ssl=trusting(authority) if with_tls else None)
        for _ in range(3):
            await stream.wait_until_it_sends()
            assert stream.send_now(b"x") == b""
        sent = 3
        part = bytes(1024 * 1024)
        while not (rest := stream.send_now(part)):
            sent += len(part)
        assert rest is part
        read.set()
        await stream.wait_until_it_sends()
        assert stream.send_now(b"y") == b""
        sent += 1
        assert int(await stream.receive()) == sent
        await stream.aclose()

    def talk(raw: socket.socket) -> None:
        found = len(raw.recv(1))
        read.wait(30)
        data = b""
        while not data.endswith(b"y"):
            data = raw.recv(65536)
            found += len(data)
        raw.sendall(str(found).encode())

    read = threading.Event()
    with peer(talk, tls=serving(authority) if with_tls else None) as address:
        run(loop, main)


@on_each_asyncio
def test_tls_would_take_no_more_with_a_limit_of_nothing(
    loop: str, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit at 0, which means something else with TLS than without, one that has nothing left is full."""

    async def main() -> None:
        stream = await open_stream(address, announced=HOST, ssl=trusting(authority))
        await turns()
        taken = 0
        for _ in range(4):
            taken += stream.send_now(b"x") == b""
            await turns()
        assert taken < 4
        assert stream._connected.get_write_buffer_size() == 0
        await stream.aclose()

    def connection_made(self: Stream, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=0)

    monkeypatch.setattr(Stream, "connection_made", connection_made)
    with peer(until_the_end, tls=serving(authority)) as address:
        run(loop, main)


@on_each_asyncio
@pytest.mark.parametrize("when", WHENS)
def test_a_cancelled_receive_loses_no_byte(loop: str, when: When) -> None:
    """Not even in the tick in which the byte comes."""

    async def main() -> None:
        stream = await open_stream(address)

        async def ask() -> None:
            # (In one step, so that there is something to wait for.)
            stream.send_now(b"x")
            await stream.receive()

        for number in range(50):
            _, stopped = await cancelled_at(1, when, ask)
            assert stopped
            assert await stream.receive() == b"x", number
        await stream.aclose()

    with peer(echo) as address:
        run(loop, main)


@on_each_loop
def test_closing_closes_even_in_a_cancelled_scope_and_does_not_raise(loop: str) -> None:
    async def main() -> None:
        stream = await open_stream(address)
        came_this_far = False
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.aclose()
            came_this_far = True
            await anyio.lowlevel.checkpoint()
        assert came_this_far
        assert scope.cancelled_caught

    with peer(until_the_end) as address:
        run(loop, main)


@on_each_asyncio
@pytest.mark.parametrize("waits", [False, True])
def test_closing_several_is_not_interrupted_by_a_native_cancellation(
    loop: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shield keeps one out, so closing does not wait at all. If it did, what comes after it would stay open."""

    async def close_and_wait(self: Stream) -> None:
        self.close()
        await anyio.lowlevel.cancel_shielded_checkpoint()

    async def main() -> None:
        opened = [await open_stream(address) for _ in range(3)]
        if waits:
            monkeypatch.setattr(Stream, "aclose", close_and_wait)

        async def close_all() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            for stream in opened:
                await stream.aclose()
            await anyio.lowlevel.checkpoint()

        task = asyncio.create_task(close_all())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [stream._over for stream in opened] == ([True, False, False] if waits else [True, True, True])
        for stream in opened:
            stream.close()

    with peer(until_the_end) as address:
        run(loop, main)


# ---- opening one ------------------------------------------------------------------------------------------------


@on_each_loop
def test_a_server_that_is_not_there(loop: str) -> None:
    async def main() -> None:
        with pytest.raises(ServerConnectionError, match=f"^{address} cannot be reached: Connection refused$") as caught:
            await open_stream(address)
        assert isinstance(caught.value.__cause__, OSError)

    with dead() as address:
        run(loop, main)


@on_each_loop
def test_messages_name_the_announced_address(loop: str) -> None:
    async def main() -> None:
        with pytest.raises(ServerConnectionError, match=r"^db\.example:6379 cannot be reached: Connection refused$"):
            await open_stream(address, announced=Address("db.example", 6379))

    with dead() as address:
        run(loop, main)


@on_each_loop
def test_a_host_that_no_name_can_be(loop: str) -> None:
    async def main() -> None:
        with pytest.raises(
            ServerConnectionError, match=r"^\.\.:6379 cannot be reached: .*label empty or too long"
        ) as caught:
            await open_stream(Address("..", 6379))
        assert isinstance(caught.value.__cause__, UnicodeError)

    run(loop, main)


@on_each_asyncio
def test_a_name_that_nobody_knows(loop: str) -> None:
    """(".invalid" is nobody's, by RFC 6761.)"""

    async def main() -> None:
        with pytest.raises(ServerConnectionError, match=r"^no\.such\.host\.invalid:1 cannot be reached: \w+") as caught:
            await open_stream(Address("no.such.host.invalid", 1))
        assert isinstance(caught.value.__cause__, socket.gaierror)

    run(loop, main)


@on_each_loop
def test_a_unix_socket(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        stream = await open_stream(address)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await stream.aclose()
        with pytest.raises(ServerConnectionError, match="cannot be reached: No such file or directory"):
            await open_stream(Address(str(tmp_path / "none"), 0))

    with peer(echo, path=tmp_path / "socket") as address:
        run(loop, main)


# ---- a host with several addresses ------------------------------------------------------------------------------


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """What every host's addresses are."""
    addresses: list[Address] = []
    family, kind = socket.AF_INET, socket.SOCK_STREAM

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return [(family, kind, 0, "", (address.host, address.port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return addresses


@on_each_asyncio
def test_the_first_address_refuses(loop: str, resolved: list[Address]) -> None:
    async def main() -> None:
        stream = await open_stream(HOST)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await stream.aclose()

    with dead() as refusing, peer(echo) as alive:
        resolved += [refusing, alive]
        run(loop, main)


@on_each_asyncio
def test_the_first_address_says_nothing(loop: str, resolved: list[Address]) -> None:
    """The next one has its turn in a moment, and the first one is let go of."""

    async def main() -> None:
        stream = await open_stream(HOST)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await stream.aclose()

    with silent() as hanging, peer(echo) as alive:
        resolved += [hanging, alive]
        run(loop, main)


@on_each_asyncio
def test_all_addresses_refuse(loop: str, resolved: list[Address]) -> None:
    async def main() -> None:
        with pytest.raises(ServerConnectionError, match=r"^db\.example:6379 cannot be reached: Connection refused$"):
            await open_stream(HOST)

    with dead() as one, dead() as other:
        resolved += [one, other]
        run(loop, main)


@on_each_asyncio
def test_two_addresses_connect_at_once(loop: str, resolved: list[Address], monkeypatch: pytest.MonkeyPatch) -> None:
    """One is used, the other is closed."""
    connected: list[socket.socket] = []
    both = 2
    complete = asyncio.Event()

    async def connect(family: int, address: object) -> socket.socket:
        raw = await real(family, address)
        connected.append(raw)
        # The first one is woken, but has not run, when the second one is through.
        if len(connected) < both:
            await complete.wait()
        complete.set()
        return raw

    async def main() -> None:
        stream = await open_stream(HOST)
        assert len(connected) == both
        assert sum(raw.fileno() >= 0 for raw in connected) == 1
        await stream.aclose()

    real = streams._connected
    monkeypatch.setattr(streams, "_connected", connect)
    with peer(until_the_end) as one, peer(until_the_end) as other:
        resolved += [one, other]
        run(loop, main)


# ---- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def serving(authority: trustme.CA, name: str = "db.example", **options: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@on_each_loop
def test_tls_checks_the_announced_name(loop: str, authority: trustme.CA) -> None:
    async def main() -> None:
        stream = await open_stream(address, announced=HOST, ssl=trusting(authority))
        await stream.send(b"hello")
        assert await receive_all(stream, 5) == b"hello"
        await stream.aclose()

    with peer(echo, tls=serving(authority)) as address:
        run(loop, main)


YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


@on_each_loop
@pytest.mark.parametrize("fault", ["another name", "expired", "self-signed"])
def test_tls_refuses_who_it_should_not_be(loop: str, fault: str, authority: trustme.CA) -> None:
    """The socket is closed, and the log has no traceback."""
    context = {
        "another name": lambda: serving(authority, "other.example"),
        "expired": lambda: serving(authority, not_after=YESTERDAY),
        "self-signed": lambda: serving(trustme.CA()),
    }[fault]()

    async def main() -> None:
        with pytest.raises(ServerConnectionError, match=r"not who it should be: CERTIFICATE_VERIFY_FAILED$") as caught:
            await open_stream(address, announced=HOST, ssl=trusting(authority))
        assert caught.value.__cause__ is not None

    with peer(echo, tls=context) as address:
        run(loop, main)


@on_each_loop
def test_tls_with_a_server_that_speaks_none(loop: str, authority: trustme.CA) -> None:
    async def main() -> None:
        with pytest.raises(ServerConnectionError, match=f"^{address} refused TLS, or is not who it should be: "):
            await open_stream(address, ssl=trusting(authority))

    def talk(raw: socket.socket) -> None:
        raw.sendall(b"-ERR Protocol error\r\n")
        until_the_end(raw)

    with peer(talk) as address:
        run(loop, main)


@on_each_loop
@pytest.mark.parametrize("end", ["in good order", "reset"])
def test_tls_with_a_server_that_hangs_up_in_the_handshake(loop: str, end: str, authority: trustme.CA) -> None:
    async def main() -> None:
        with pytest.raises(ServerConnectionError, match=f"^{address} refused TLS, or is not who it should be"):
            await open_stream(address, ssl=trusting(authority))

    def talk(raw: socket.socket) -> None:
        raw.recv(10_000)
        if end == "reset":
            reset(raw)

    with peer(talk) as address:
        run(loop, main)


@on_each_loop
def test_tls_with_a_host_that_no_name_can_be(loop: str, authority: trustme.CA) -> None:
    async def main() -> None:
        with pytest.raises(ServerConnectionError, match="refused TLS"):
            await open_stream(address, announced=Address(".x", 6379), ssl=trusting(authority))

    with peer(until_the_end) as address:
        run(loop, main)


@on_each_loop
@pytest.mark.parametrize("farewell", [True, False])
def test_tls_that_ends(loop: str, farewell: bool, authority: trustme.CA) -> None:
    """With or without its farewell it is the end; what came before is there."""

    async def main() -> None:
        stream = await open_stream(address, announced=HOST, ssl=trusting(authority))
        assert await receive_all(stream, 5) == b"hello"
        with pytest.raises(ServerConnectionError, match=f"^{HOST} (closed|lost) the connection"):
            await stream.receive()
        await stream.aclose()

    def talk(raw: socket.socket) -> None:
        raw.sendall(b"hello")
        if farewell:
            assert isinstance(raw, ssl.SSLSocket)
            raw.unwrap()

    with peer(talk, tls=serving(authority)) as address:
        run(loop, main)


@on_each_loop
def test_tls_over_a_unix_socket(loop: str, tmp_path: Path, authority: trustme.CA) -> None:
    """There is no name to be checked; the certificate is."""
    context = trusting(authority)
    context.check_hostname = False

    async def main() -> None:
        stream = await open_stream(address, ssl=context)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await stream.aclose()

    with peer(echo, tls=serving(authority), path=tmp_path / "socket") as address:
        run(loop, main)


# ---- cancelled -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["plain", "tls", "unix", "several addresses", "tls with one who hangs up"])
def attempt(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path, resolved: list[Address]
) -> Iterator[tuple[Address, ssl.SSLContext | None]]:
    """What to connect to, and how."""
    match request.param:
        case "plain":
            with peer(until_the_end) as address:
                resolved.append(address)
                yield address, None
        case "tls":
            with peer(until_the_end, tls=serving(authority)) as address:
                resolved.append(address)
                yield HOST, trusting(authority)
        case "unix":
            with peer(until_the_end, path=tmp_path / "socket") as address:
                yield address, None
        case "several addresses":
            with silent() as hanging, dead() as refusing, peer(until_the_end) as address:
                resolved += [refusing, address, hanging]
                yield HOST, None
        case _:
            with peer(lambda raw: raw.recv(10_000)) as address:
                resolved.append(address)
                yield HOST, trusting(authority)


@on_each_asyncio
@pytest.mark.parametrize("when", WHENS)
def test_opening_cancelled_at_each_of_its_waits(
    loop: str, when: When, attempt: tuple[Address, ssl.SSLContext | None]
) -> None:
    """State that remains: nothing; and CancelledError, not an error of ours, has come out."""
    dial, context = attempt

    async def open_and_close() -> None:
        with suppress(ServerConnectionError):
            stream = await open_stream(dial, ssl=context)
            stream.close()

    async def main() -> None:
        # (What was connected, and is cancelled, is closed: the other side hears of it, or the test hangs at its end.)
        stopped, step = True, 0
        while stopped:
            step += 1
            _, stopped = await cancelled_at(step, when, open_and_close)
        assert step > 1

    # uvloop has a future that nobody looks at when it is cancelled between its two waits, and says so in the log.
    run(loop, main, forgives="Future exception was never retrieved" if loop == "uvloop" else "")
