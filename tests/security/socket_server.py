"""A data server on a socket of this machine, with the certificate and the manners that a test wants."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Literal

import hiredis
import trio

from tests.trio.fakes import DataServer, Push, Value, encode
from tests.trio.fakes.data_server import Session

__all__ = ["SocketServer", "socket_server"]

# How a connection ends when it has answered what it was to answer: with TLS's farewell, or without.
Ending = Literal["farewell", "cut"]


class SocketServer:
    """It counts what came out of the cipher: to whom nobody speaks, nothing was said."""

    def __init__(self, context: ssl.SSLContext | None, keys: int) -> None:
        self.program = DataServer(("127.0.0.1", 0), Random(0))
        for number in range(keys):
            self.program.put(0, b"key:%d" % number, Value(b"x"))
        self.connections = 0
        # Everything that clients said (within TLS, where there is some).
        self.heard = b""
        # After so many SCANs a connection ends, and how; None: never.
        self.ends_after: int | None = None
        self.ending: Ending = "cut"
        # How many bytes of that SCAN's reply come still.
        self.last_words = 0
        # In place of the reply to a command of this name.
        self.instead: dict[bytes, Any] = {}
        self._context = context

    async def serve(self, transport: trio.SocketStream) -> None:
        """One connection."""
        self.connections += 1
        stream: trio.abc.Stream = transport
        if self._context is not None:
            stream = trio.SSLStream(transport, self._context, server_side=True, https_compatible=True)
        session = Session(push=_nobody)
        scans = 0
        reader = hiredis.Reader()
        try:
            self.program.joined(session)
            while data := await stream.receive_some(65536):
                self.heard += data
                reader.feed(bytes(data))
                while (words := reader.gets()) is not False:
                    value = self.program.answer(session, words)
                    reply = encode(self.instead.get(words[0].upper(), value), session.protocol)
                    if words[0].upper() == b"SCAN":
                        scans += 1
                        if scans == self.ends_after:
                            await stream.send_all(reply[: self.last_words])
                            await self._end(stream)
                            return
                    await stream.send_all(reply)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Its client has gone, or would not talk to it.
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _end(self, stream: trio.abc.Stream) -> None:
        if self.ending == "farewell" and isinstance(stream, trio.SSLStream):
            await stream.unwrap()
        await trio.aclose_forcefully(stream)


def _nobody(value: Any) -> None:
    assert not isinstance(value, Push)


@asynccontextmanager
async def socket_server(
    context: ssl.SSLContext | None = None, *, keys: int = 0
) -> AsyncGenerator[tuple[SocketServer, tuple[str, int]]]:
    """One of them, and where it is."""
    server = SocketServer(context, keys)
    async with trio.open_nursery() as nursery:
        [listener, *_] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, server.serve, [listener])
        host, port = listener.socket.getsockname()
        server.program.address = (host, port)
        yield server, (host, port)
        nursery.cancel_scope.cancel()
