"""A TCP proxy of the tests' own, in front of a server: so that a moment that lasts microseconds can be held open.

A test arms a `Stop`, and the first chunk of bytes that it is meant for stays in the proxy until the test says so: "the
request for SCAN has passed, and its reply waits", while the server is killed. Nothing is timed, and RESP is read only
as far as to recognise a SCAN and its reply.

It is an oracle as well: of each SCAN that passes it notes the cursor, and whether the process behind has issued it. So
the one rule (a cursor is only ever sent to the process that issued it) is checked in every test that has a proxy.
"""

from __future__ import annotations

import math
import re
import socket
import struct
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

Direction: TypeAlias = Literal["request", "reply"]
Matcher: TypeAlias = "Callable[[bytes], bool]"

# (HSCAN and its like have a key first.)
_SCAN: Final = re.compile(rb"\r\n(?:SCAN|[HSZ]SCAN\r\n\$\d+\r\n[^\r]*)\r\n\$\d+\r\n(\d+)\r\n")
_SCAN_REPLY: Final = re.compile(rb"\A\*2\r\n\$\d+\r\n(\d+)\r\n")
_SCAN_REPLIES: Final = re.compile(rb"(?:\A|\r\n)\*2\r\n\$\d+\r\n(\d+)\r\n(?=\*)")
_RUN_ID: Final = re.compile(rb"\r\nrun_id:([0-9a-f]{40})\r\n")
# Where segments of a pass begin, when there are up to 64 of them by a power of two: cursors that nobody has issued.
_STARTS: Final = range(64)
_READ_SIZE: Final = 64 * 1024
# As long as the longest of what is looked for in replies: it may be split between two chunks.
_TAIL: Final = 64


def names(command: str) -> Matcher:
    """Requests with this command in them."""
    word = f"\r\n{command}\r\n".encode()
    return lambda data: word in data


def is_page(data: bytes) -> bool:
    """The beginning of a reply to SCAN."""
    return _SCAN_REPLY.match(data) is not None


def is_last_page(data: bytes) -> bool:
    """The beginning of a reply to SCAN with which a pass ends."""
    match = _SCAN_REPLY.match(data)
    return match is not None and int(match[1]) == 0


def anything(data: bytes) -> bool:
    """Any bytes at all."""
    return bool(data)


class Stop:
    """A place where bytes wait: armed by `Proxy.stop_request` or `stop_reply`, until `release`."""

    def __init__(self, direction: Direction, matches: Matcher, skip: int) -> None:
        self.reached = trio.Event()
        self._direction = direction
        self._matches = matches
        self._skip = skip
        self._released = trio.Event()
        self._link: Link | None = None

    @property
    def link(self) -> Link:
        """The connection that it holds up."""
        assert self._link is not None, "it was not reached yet"
        return self._link

    def release(self) -> None:
        """Let the bytes go on, and all that wait behind them."""
        self._released.set()

    async def release_and_reset(self) -> None:
        """Let just these bytes go on, and then break the connection: what was sent is read, what is sent next fails."""
        self.link.reset_after_this = True
        self.release()
        await self.link.gone.wait()

    def claims(self, direction: Direction, data: bytes) -> bool:
        """Whether these bytes are to be held here. (Asked for each chunk that passes.)"""
        if self.reached.is_set() or direction != self._direction or not self._matches(data):
            return False
        self._skip -= 1
        return self._skip < 0

    async def hold(self, link: Link) -> None:
        """Keep the chunk at hand until it is released."""
        self._link = link
        self.reached.set()
        await self._released.wait()


class Link:
    """One connection through the proxy."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self.client = client
        self.server = server
        # Set when it is over, whoever ended it.
        self.gone = trio.Event()
        self.scope = trio.CancelScope()
        self.reset_after_this = False
        # The process behind, once it has told; the link itself stands for one that does not.
        self.process: object = self
        self.scans = 0
        # The end of the last chunk of replies.
        self.tail = b""

    def reset(self) -> None:
        """Break it, both ways, as a network does: with RST."""
        for stream in (self.client, self.server):
            # Closing a socket that lingers for no time at all sends RST.
            # The client may have closed it a moment ago: then there is nothing to reset.
            with suppress(OSError):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.close()
        self.scope.cancel(reason="reset by the test")


class Proxy:
    """Stands in front of the server at `upstream`. Connect to `address` instead."""

    def __init__(self, upstream: tuple[str, int], address: tuple[str, int]) -> None:
        self.upstream = upstream
        self.address = address
        self.links: list[Link] = []
        # How many connections there have been.
        self.connections = 0
        self.bytes_received = 0
        # The cursor of each SCAN that came, in order.
        self.scans: list[int] = []
        # Cursors that are nobody's; a scan with one chain of them has only 0.
        self.starts: Collection[int] = _STARTS
        # SCANs with a cursor that the process behind has not issued. The one rule says that there are none.
        self.foreign_cursors: list[int] = []
        self._issued: defaultdict[object, set[int]] = defaultdict(set)
        self._stops: list[Stop] = []
        self._open = trio.Event()
        self._open.set()
        self._refusing = False
        # Seconds that each chunk of bytes waits, either way.
        self.slowness = 0.0

    def stop_request(self, matches: Matcher, *, skip: int = 0) -> Stop:
        """Hold the first request (after `skip` others) that `matches`, before the server sees it."""
        return self._armed(Stop("request", matches, skip))

    def stop_reply(self, matches: Matcher, *, skip: int = 0) -> Stop:
        """Hold the first reply (after `skip` others) that `matches`: the server has sent it, the client waits."""
        return self._armed(Stop("reply", matches, skip))

    def reset_all(self) -> None:
        """Break every connection there is."""
        for link in list(self.links):
            link.reset()

    def refuse(self) -> None:
        """Break every connection, and from now on each new one at once: to the client, the process is dead."""
        self._refusing = True
        self.reset_all()

    def admit(self) -> None:
        """Take connections again."""
        self._refusing = False

    def swallow(self) -> None:
        """Let nothing pass any more: connections stay open, new ones are taken, nothing answers."""
        self._open = trio.Event()

    def pass_on(self) -> None:
        """Let everything pass again, what has waited first."""
        self._open.set()

    async def wait_until_deserted(self) -> None:
        """Wait until no connection is left: whoever had one has closed it."""
        for link in list(self.links):
            await link.gone.wait()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Take connections for ever."""
        async with listener, trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._take, await listener.accept())

    def _armed(self, stop: Stop) -> Stop:
        self._stops.append(stop)
        return stop

    async def _take(self, client: trio.SocketStream) -> None:
        self.connections += 1
        async with client:
            if self._refusing:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            try:
                server = await trio.open_tcp_stream(*self.upstream)
            except OSError:
                return  # Nobody listens there: what comes of a connection is that it is closed.
            async with server:
                await self._carry(Link(client, server))

    async def _carry(self, link: Link) -> None:
        self.links.append(link)
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, link, "request", link.client, link.server)
                    # What the server said last, the client gets, however long it is held: then the link ends.
                    await self._pump(link, "reply", link.server, link.client)
                    nursery.cancel_scope.cancel(reason="the server has ended it")
        finally:
            self.links.remove(link)
            link.gone.set()

    async def _pump(self, link: Link, direction: Direction, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Carry bytes one way. They are read at once and wait in here: an end is noticed while they are held."""
        put, get = trio.open_memory_channel[bytes](math.inf)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, link, direction, source, put)
            try:
                async for data in get:
                    await self._pass(link, direction, data, sink)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel(reason="nobody is left to read it")

    async def _read(
        self, link: Link, direction: Direction, source: trio.SocketStream, put: trio.MemorySendChannel[bytes]
    ) -> None:
        with put:
            try:
                while data := bytes(await source.receive_some(_READ_SIZE)):
                    put.send_nowait(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        if direction == "request":
            # The client has closed it: whatever is held for it, nobody wants any more.
            link.scope.cancel(reason="the client has closed it")

    async def _pass(self, link: Link, direction: Direction, data: bytes, sink: trio.SocketStream) -> None:
        self._note(link, direction, data)
        for stop in self._stops:
            if stop.claims(direction, data):
                await stop.hold(link)
                break
        await self._open.wait()
        if self.slowness:
            await trio.sleep(self.slowness)
        if link.reset_after_this:
            # In one go: whoever reads the one finds the other done.
            with socket.fromfd(sink.socket.fileno(), socket.AF_INET, socket.SOCK_STREAM) as twin:
                assert twin.send(data) == len(data)
            link.reset()
        else:
            await sink.send_all(data)

    def _note(self, link: Link, direction: Direction, data: bytes) -> None:
        if direction == "request":
            self.bytes_received += len(data)
            for match in _SCAN.finditer(data):
                cursor = int(match[1])
                self.scans.append(cursor)
                link.scans += 1
                if cursor not in self.starts and cursor not in self._issued[link.process]:
                    self.foreign_cursors.append(cursor)
        else:
            # (Many replies may come together, and one may be split between two chunks.)
            data = link.tail + data
            link.tail = data[-_TAIL:]
            if (run_id := _RUN_ID.search(data)) is not None:
                link.process = run_id[1]
            for page in _SCAN_REPLIES.finditer(data):
                self._issued[link.process].add(int(page[1]))


async def open_proxy(nursery: trio.Nursery, upstream: tuple[str, int], *, host: str = "127.0.0.1") -> Proxy:
    """A proxy on a free port, until the nursery is cancelled."""
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    proxy = Proxy(upstream, listener.socket.getsockname()[:2])
    nursery.start_soon(proxy.serve, listener)
    return proxy
