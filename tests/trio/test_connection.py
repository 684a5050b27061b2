"""One connection: replies in order, whole or not at all, and what breaks it."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
import trio
import trio.testing
from redis import exceptions as redis_errors

from tests.trio.fakes import (
    ABSURD,
    DataServer,
    Network,
    Push,
    encode,
    on_mock_time,
)
from trio_sentinel_scan import (
    Address,
    ProtocolError,
    ResponseTimeout,
    ServerConnectionError,
)
from trio_sentinel_scan._core.wire import Decoder
from trio_sentinel_scan._trio.connection import Connection
from trio_sentinel_scan._trio.streams import Stream

pytestmark = pytest.mark.trio(run=on_mock_time)

HERE = Address("10.0.0.1", 6379)


class Peer:
    """A connection, and the test as the server at its other end."""

    def __init__(self, *, response_timeout: float = 5, encoding: str | None = None) -> None:
        near, self.far = trio.testing.memory_stream_pair()
        self.connection = Connection(Stream(near, "10.0.0.1:6379"), HERE, Decoder(encoding), response_timeout)

    async def will_say(self, data: bytes) -> None:
        """Bytes for the client to find."""
        await self.far.send_all(data)

    async def said(self) -> bytes:
        """What the client sent."""
        return bytes(await self.far.receive_some())

    async def aclose(self) -> None:
        await self.connection.aclose()
        await self.far.aclose()


MakePeer = Callable[..., Peer]


@pytest.fixture
async def make_peer() -> AsyncGenerator[MakePeer]:
    peers: list[Peer] = []

    def make(**options: Any) -> Peer:
        peers.append(Peer(**options))
        return peers[-1]

    yield make
    for peer in peers:
        await peer.aclose()


# ---- round trips ------------------------------------------------------------------------------------------------


async def test_replies_come_in_the_order_of_the_commands(make_peer: MakePeer) -> None:
    peer = make_peer()
    await peer.will_say(b"+PONG\r\n:7\r\n$-1\r\n")
    assert await peer.connection.request(("PING",), ("DBSIZE",), ("GET", b"k")) == [b"PONG", 7, None]
    assert await peer.said() == encode(["PING"]) + encode(["DBSIZE"]) + encode(["GET", "k"])
    assert peer.connection.usable


async def test_an_error_reply_is_returned(make_peer: MakePeer) -> None:
    peer = make_peer()
    await peer.will_say(b"-LOADING Redis is loading the dataset in memory\r\n")
    [reply] = await peer.connection.request(("PING",))
    assert isinstance(reply, redis_errors.BusyLoadingError)
    assert peer.connection.usable


async def test_pushes_between_replies_are_dropped(make_peer: MakePeer) -> None:
    peer = make_peer()
    await peer.will_say(encode(Push(["invalidate", ["k"]]), 3) + b":1\r\n" + encode(Push(["x"]), 3) + b":2\r\n")
    assert await peer.connection.request(("A",), ("B",)) == [1, 2]


async def test_a_reply_that_nobody_had_asked_for_is_nobodys(make_peer: MakePeer) -> None:
    """It came with the one before it. Taken for the next command's, it would shift all that follow by one."""
    peer = make_peer()
    await peer.will_say(b":1\r\n:2\r\n")
    assert await peer.connection.request(("A",)) == [1]
    assert peer.connection.has_more
    assert not peer.connection.is_quiet
    with pytest.raises(ProtocolError, match="nobody had asked for"):
        await peer.connection.request(("B",))
    assert not peer.connection.usable


async def test_a_push_behind_a_reply_is_none(make_peer: MakePeer) -> None:
    """Whole or in part: the rest of it comes before the next reply."""
    push = encode(Push(["invalidate", ["k"]]), 3)
    for cut in (5, len(push)):
        peer = make_peer()
        await peer.will_say(b":1\r\n" + push[:cut])
        assert await peer.connection.request(("A",)) == [1]
        assert peer.connection.has_more
        await peer.will_say(push[cut:] + b":2\r\n")
        assert await peer.connection.request(("B",)) == [2]


async def test_a_key_in_the_rest_of_a_push_may_look_like_a_header(make_peer: MakePeer) -> None:
    """Of more elements than any reply has. It is cut just before that key."""
    key = "*999999999\r\n"
    push = encode(Push(["invalidate", [key]]), 3)
    cut = push.index(key.encode())
    peer = make_peer()
    await peer.will_say(b":1\r\n" + push[:cut])
    assert await peer.connection.request(("A",)) == [1]
    await peer.connection.send(("B",))
    await peer.will_say(push[cut:] + b":2\r\n")
    assert await peer.connection.receive() == 2


async def test_sending_and_receiving_apart(make_peer: MakePeer) -> None:
    """As the scan does it: the next command is on its way while the caller does something else."""
    peer = make_peer()
    await peer.connection.send(("PING",))
    assert not peer.connection.usable  # a reply is owed
    await peer.will_say(b"+PONG\r\n")
    assert await peer.connection.receive() == b"PONG"
    assert peer.connection.usable


async def test_a_command_may_be_sent_while_a_reply_is_owed(make_peer: MakePeer) -> None:
    peer = make_peer()
    await peer.connection.send(("A",))
    await peer.connection.send(("B",), ("C",))
    await peer.will_say(b":1\r\n:2\r\n:3\r\n")
    assert [await peer.connection.receive() for _ in range(3)] == [1, 2, 3]
    assert peer.connection.usable


async def test_strings_are_decoded_unless_asked_otherwise(make_peer: MakePeer) -> None:
    peer = make_peer(encoding="utf-8")
    await peer.will_say(encode("é"))
    assert await peer.connection.request(("GET", "k")) == ["é"]
    await peer.will_say(encode("é"))
    assert await peer.connection.request(("DUMP", "k"), decode=False) == ["é".encode()]


async def test_what_cannot_be_decoded_spends_the_connection(make_peer: MakePeer) -> None:
    peer = make_peer(encoding="utf-8")
    await peer.will_say(encode(b"\xff"))
    with pytest.raises(UnicodeDecodeError):
        await peer.connection.request(("GET", "k"))
    assert not peer.connection.usable


async def test_a_command_that_cannot_be_encoded_leaves_the_connection_as_it_was(make_peer: MakePeer) -> None:
    peer = make_peer()
    what: Any = object()
    with pytest.raises(TypeError):
        await peer.connection.request(("SET", "k", what))
    assert peer.connection.usable


async def test_messages_come_however_long_they_take(make_peer: MakePeer) -> None:
    peer = make_peer(response_timeout=1)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _later() -> None:
            await trio.sleep(100)
            await peer.will_say(encode([b"message", b"c", b"1"]) + encode(Push([b"message", b"c", b"2"]), 3))

        assert await peer.connection.receive_message() == [b"message", b"c", b"1"]
        assert trio.current_time() == 100
        assert await peer.connection.receive_message() == [b"message", b"c", b"2"]


# ---- what breaks it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ABSURD.values(), ids=ABSURD.keys())
async def test_what_no_server_says_is_a_protocol_error(make_peer: MakePeer, data: bytes) -> None:
    """State that remains: the connection is spent, whatever comes after; it says so without touching the stream."""
    peer = make_peer()
    await peer.will_say(data)
    with pytest.raises(ProtocolError, match=r"^10\.0\.0\.1:6379: "):
        await peer.connection.request(("SCAN", 0))
    assert not peer.connection.usable
    with pytest.raises(ServerConnectionError, match="was given up before"):
        await peer.connection.request(("SCAN", 0))
    with pytest.raises((ServerConnectionError, ProtocolError)):
        await peer.connection.receive()
    with pytest.raises((ServerConnectionError, ProtocolError)):
        await peer.connection.receive_message()


async def test_garbage_behind_a_good_reply_waits_for_its_turn(make_peer: MakePeer) -> None:
    peer = make_peer()
    await peer.will_say(b"+OK\r\n?garbage\r\n")
    await peer.connection.send(("A",), ("B",))
    assert await peer.connection.receive() == b"OK"
    with pytest.raises(ProtocolError):
        await peer.connection.receive()


SCAN_REPLY = encode(["17592186044416", [b"key:1", b"", b"a\r\nb", b"\xff\xfe"]])


async def test_a_reply_in_slices_of_a_byte(make_peer: MakePeer) -> None:
    peer = make_peer()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _trickle() -> None:
            for byte in SCAN_REPLY:
                await peer.will_say(bytes([byte]))
                await trio.sleep(0.01)

        [reply] = await peer.connection.request(("SCAN", 0))
    assert reply == [b"17592186044416", [b"key:1", b"", b"a\r\nb", b"\xff\xfe"]]
    assert peer.connection.usable


@pytest.mark.parametrize("length", range(len(SCAN_REPLY)))
async def test_a_reply_cut_at_every_byte(make_peer: MakePeer, length: int) -> None:
    """Only a whole reply is one; the connection is spent."""
    peer = make_peer()
    await peer.will_say(SCAN_REPLY[:length])
    await peer.far.send_stream.aclose()
    with pytest.raises(ServerConnectionError, match="closed the connection"):
        await peer.connection.request(("SCAN", 0))
    assert not peer.connection.usable


async def test_no_reply_in_time(make_peer: MakePeer) -> None:
    """State that remains: spent. A reply that comes too late must not be taken for the next command's."""
    peer = make_peer(response_timeout=5)
    with pytest.raises(ResponseTimeout, match=r"10\.0\.0\.1:6379 did not answer within 5 s \(response_timeout\)"):
        await peer.connection.request(("PING",))
    assert trio.current_time() == 5
    await peer.will_say(b"+LATE\r\n")
    with pytest.raises(ServerConnectionError, match="was given up before"):
        await peer.connection.request(("PING",))


async def test_a_reply_that_never_gets_whole_is_not_in_time(make_peer: MakePeer) -> None:
    peer = make_peer(response_timeout=5)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _trickle() -> None:
                await peer.will_say(b"$1000\r\n")
                while True:
                    await peer.will_say(b"x")
                    await trio.sleep(1)

            with pytest.raises(ResponseTimeout):
                await peer.connection.request(("GET", "k"))
            scope.cancel()
    assert trio.current_time() == 5


async def test_a_command_that_cannot_be_sent_in_time(network: Network) -> None:
    """The server reads nothing more, and the pipe to it is full."""
    wire = network.add(DataServer(HERE, random.Random(0))).connect()
    wire.client_end.full = trio.Event()
    connection = Connection(Stream(wire.client_end, str(HERE)), HERE, Decoder(), 5)
    with pytest.raises(ResponseTimeout):
        await connection.send(("PING",))
    assert trio.current_time() == 5
    assert not connection.usable
    await connection.aclose()


@pytest.mark.parametrize("half", ["sending", "receiving"])
async def test_a_cancelled_round_trip_spends_the_connection(network: Network, half: str) -> None:
    """State that remains: spent, so that nobody reads the reply to a command that another one gave up on."""
    host = network.add(DataServer(HERE, random.Random(0)))
    host.hang()
    wire = host.connect()
    if half == "sending":
        wire.client_end.full = trio.Event()
    connection = Connection(Stream(wire.client_end, str(HERE)), HERE, Decoder(), math.inf)
    with trio.move_on_after(1) as scope:
        await connection.request(("PING",))
    assert scope.cancelled_caught
    assert not connection.usable
    with pytest.raises(ServerConnectionError, match="was given up before"):
        await connection.request(("PING",))
    await connection.aclose()


async def test_a_reply_that_was_there_and_whose_receiver_was_cancelled_is_nobodys(make_peer: MakePeer) -> None:
    """The next one would be taken for it: the connection is spent."""
    peer = make_peer()
    await peer.will_say(b":1\r\n:2\r\n:3\r\n")
    await peer.connection.send(("A",), ("B",), ("C",))
    assert await peer.connection.receive() == 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await peer.connection.receive()
    assert scope.cancelled_caught
    assert not peer.connection.usable
    with pytest.raises(ServerConnectionError, match="given up before"):
        await peer.connection.receive()
