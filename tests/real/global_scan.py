"""A proxy of the tests' own with a SCAN over several real servers, as some cloud providers have it.

The cursor has the number of the node in its upper bits, and the node's own cursor below. With a node's id at the end of
the command, that node alone is scanned. INFO and ROLE are answered by whichever node it happens to be.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import hiredis
import trio

from tests.trio.fakes import Error, Simple, encode
from trio_sentinel_scan.testing import CommandFailed, LocalRedis, ServerNotRunning

_NODE_BITS: Final = 48


class GlobalScan:
    """In front of `nodes`."""

    def __init__(self, nodes: Sequence[LocalRedis]) -> None:
        self.nodes = list(nodes)
        self.address = ("", 0)
        self.scans = 0
        self._streams: set[trio.SocketStream] = set()

    async def drop_clients(self) -> None:
        """Its connections end; it goes on."""
        for stream in tuple(self._streams):
            await stream.aclose()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        self._streams.add(stream)
        reader = hiredis.Reader()
        try:
            async with stream:
                async for data in stream:
                    reader.feed(bytes(data))
                    while (words := reader.gets()) is not False:
                        await stream.send_all(encode(await self._answer(words)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._streams.discard(stream)

    async def _answer(self, words: list[bytes]) -> Any:
        name = words[0].upper()
        if name == b"SCAN":
            return await self._scan(words[1:])
        if name in (b"INFO", b"ROLE"):
            return await _ask(random.choice(self.nodes), *words)
        await trio.lowlevel.checkpoint()
        return Simple("OK") if name == b"CLIENT" else Error(f"ERR unknown command '{name.decode()}'")

    async def _scan(self, args: list[bytes]) -> Any:
        self.scans += 1
        if len(args) % 2 == 0:
            index = int(args[-1].removeprefix(b"node-"))
            return await _ask(self.nodes[index], b"SCAN", *args[:-1])
        index, own = divmod(int(args[0]), 1 << _NODE_BITS)
        if index >= len(self.nodes):
            await trio.lowlevel.checkpoint()
            return Error("ERR invalid cursor(master node idx out of range)")
        reply = await _ask(self.nodes[index], b"SCAN", b"%d" % own, *args[1:])
        assert isinstance(reply, list)
        after, keys = reply
        assert isinstance(after, bytes)
        following = (index << _NODE_BITS) + int(after)
        if int(after) == 0:
            following = (index + 1) << _NODE_BITS if index + 1 < len(self.nodes) else 0
        return [str(following), keys]


async def _ask(node: LocalRedis, *words: bytes) -> Any:
    """A node that is away or loading is waited for: whoever is in front of the proxy does not notice."""
    while True:
        try:
            return await node.execute(*words)
        except (ServerNotRunning, CommandFailed):
            await trio.sleep(0.01)


@asynccontextmanager
async def open_global_scan(nodes: Sequence[LocalRedis]) -> AsyncGenerator[GlobalScan]:
    """The proxy, on a port of its own."""
    proxy = GlobalScan(nodes)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1"))
        proxy.address = listener.socket.getsockname()
        yield proxy
        nursery.cancel_scope.cancel()
