"""A process of its own through which the nodes of a cluster talk to each other, and which can cut one of them off.

Run as a script, with the path of a Unix socket on which it takes orders, one on each connection, and answers:

    serve DOOR PORT   listen at port DOOR for the node whose bus is at PORT ("ok", or "taken")
    cut DOOR ID       let nothing through any more to the node behind DOOR, or from it
    join DOOR ID      let it through again

Who calls stands in the first message on each link, in clear: so this is not for a cluster that speaks TLS. It is a
process, and not a task of the test's, because nodes that hear nothing for as long as a test computes would call each
other dead. It ends when it is killed.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial

import trio

_HOST = "127.0.0.1"
_READ_SIZE = 64 * 1024
# Where in the header of a message on the bus the sender's id stands: the same since Redis 3.0.
_SENDER = slice(40, 80)


class Switch:
    """What is connected with what, and what must not be."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        # Both the same nodes: by the door in front of each, and by its id.
        self._shut: set[int] = set()
        self._cut: set[str] = set()
        # Of every link: the door that it came in by, who calls, and what ends it.
        self._links: set[tuple[int, str, trio.CancelScope]] = set()

    async def obey(self, orders: trio.SocketStream) -> None:
        """Take one order, carry it out, and say so. A caller that goes away in between has given none."""
        async with orders:
            line = bytearray()
            while not line.endswith(b"\n"):
                part = await orders.receive_some(_READ_SIZE)
                if not part:
                    return
                line += part
            with suppress(trio.BrokenResourceError):
                await orders.send_all(await self._carry_out(*line.decode().split()))

    async def _carry_out(self, verb: str, door: str, other: str) -> bytes:
        await trio.lowlevel.checkpoint()
        if verb == "serve":
            try:
                listeners = await trio.open_tcp_listeners(int(door), host=_HOST)
            except OSError:
                return b"taken\n"
            handler = partial(self._take, int(door), int(other))
            self._nursery.start_soon(trio.serve_listeners, handler, listeners)
        elif verb == "cut":
            self._shut.add(int(door))
            self._cut.add(other)
            for at, caller, scope in self._links:
                if self._is_cut(at, caller):
                    scope.cancel()
        else:
            self._shut.discard(int(door))
            self._cut.discard(other)
        return b"ok\n"

    def _is_cut(self, door: int, caller: str) -> bool:
        return door in self._shut or caller in self._cut

    async def _take(self, door: int, port: int, near: trio.SocketStream) -> None:
        await trio.lowlevel.checkpoint()
        with suppress(OSError, trio.BrokenResourceError):
            head = bytes(await near.receive_some(_READ_SIZE))
            while 0 < len(head) < _SENDER.stop:
                part = bytes(await near.receive_some(_READ_SIZE))
                head = head + part if part else b""
            caller = head[_SENDER].decode(errors="replace")
            # From here to where the link is noted down nothing is awaited: a cut finds it, or it finds the cut.
            if not head or self._is_cut(door, caller):
                return
            scope = trio.CancelScope()
            link = door, caller, scope
            self._links.add(link)
            try:
                with scope:
                    async with await trio.open_tcp_stream(_HOST, port) as far:
                        await far.send_all(head)
                        await _carry(near, far)
            finally:
                self._links.discard(link)


async def _carry(near: trio.SocketStream, far: trio.SocketStream) -> None:
    """Carry bytes both ways until one of the two has ended it."""
    async with trio.open_nursery() as nursery:
        for source, sink in ((near, far), (far, near)):
            nursery.start_soon(_pump, source, sink, nursery.cancel_scope)


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
    await trio.lowlevel.checkpoint()
    with suppress(trio.BrokenResourceError):
        async for part in source:
            await sink.send_all(part)
    both.cancel()


async def _main(path: str) -> None:
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(path)
    socket.listen()
    async with trio.open_nursery() as nursery:
        await trio.serve_listeners(Switch(nursery).obey, [trio.SocketListener(socket)])


if __name__ == "__main__":
    trio.run(_main, sys.argv[1])
