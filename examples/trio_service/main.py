"""An HTTP service in front of a Redis or Valkey service, on Trio: the one in fastapi_service, in little.

    python examples/trio_service/main.py redis+sentinel://127.0.0.1:26379/mymaster 127.0.0.1:8000

A plain ASGI application, and hypercorn to serve it. The client belongs to `main`, and the requests end before it does.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, unquote_to_bytes

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from redis.exceptions import ResponseError

from trio_sentinel_scan import ClusterClient, RedisClient, SentinelClient, SentinelScanError, connect

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

# Seconds that whoever reads one key waits for a server.
PATIENCE: Final = 2.0


class Service:
    """The ASGI application."""

    def __init__(self, client: RedisClient | SentinelClient | ClusterClient) -> None:
        self._client = client

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request; there is nothing to be done at the start and at the end."""
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        answer = Answer(send)
        async with cancelled_when_gone(receive):
            try:
                await self._respond(scope, answer)
            except (SentinelScanError, trio.TooSlowError) as error:
                await answer.failed(error)

    async def _respond(self, scope: Any, answer: Answer) -> None:
        path = scope["raw_path"]
        if scope["type"] != "http" or scope["method"] != "GET":
            await answer.whole(405, b"only GET\n")
        elif path == b"/keys":
            match = parse_qs(scope["query_string"]).get(b"match", [None])[0]
            await self._list_keys(match, answer)
        elif path.startswith(b"/keys/"):
            await self._read_key(unquote_to_bytes(path.removeprefix(b"/keys/")), answer)
        elif path == b"/topology" and isinstance(self._client, SentinelClient):
            await self._follow_topology(self._client, answer)
        else:
            await answer.whole(404, b"no such thing\n")

    async def _list_keys(self, match: bytes | None, answer: Answer) -> None:
        """One line of JSON a key (each byte a character, as in Latin-1); the last says that these were all."""
        async with self._client.open_scan(match=match) as pages:
            epoch = 0
            async for page in pages:
                lines = [json.dumps({"key": key.decode("latin-1")}) for key in page]
                if page.epoch != epoch:
                    # It begins again, and what comes from here on is everything.
                    epoch = page.epoch
                    lines.insert(0, json.dumps({"restart": epoch}))
                await answer.part("\n".join([*lines, ""]))
        summary = pages.summary
        await answer.part(json.dumps({"complete": summary.complete, "restarts": len(summary.restarts)}) + "\n")
        await answer.end()

    async def _read_key(self, key: bytes, answer: Answer) -> None:
        try:
            with trio.fail_after(PATIENCE):
                value: Any = await self._client.get(key)
        except ResponseError:
            await answer.whole(409, b"the key holds no string\n")
            return
        if value is None:
            await answer.whole(404, b"no such key\n")
        else:
            await answer.whole(200, value)

    async def _follow_topology(self, client: SentinelClient, answer: Answer) -> None:
        """Server-sent events, until the client or this service has had enough."""
        async with client.open_topology() as events:
            await answer.part(f"event: state\ndata: the master is {events.state.master.address}\n\n")
            async for event in events:
                await answer.part(f"event: {type(event).__name__}\ndata: {event}\n\n")


class Answer:
    """What is sent for one request; the status goes out with the first part."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def part(self, text: str) -> None:
        """Some of the body."""
        await self._start(200)
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def end(self) -> None:
        """That was all of it."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, status: int, body: bytes) -> None:
        """All of it at once."""
        await self._start(status)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def failed(self, error: Exception) -> None:
        """503, or, where the status has gone out, a last line that is none of the expected."""
        said = json.dumps({"complete": False, "error": type(error).__name__}).encode() + b"\n"
        await self.whole(503, said)

    async def _start(self, status: int) -> None:
        if not self._started:
            self._started = True
            headers = [(b"retry-after", b"1")] if status == 503 else []
            await self._send({"type": "http.response.start", "status": status, "headers": headers})


@asynccontextmanager
async def cancelled_when_gone(receive: Receive) -> AsyncGenerator[None]:
    """Cancel the block when the client disconnects: the scan in it is left where it was entered."""

    async def listen(scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, nursery.cancel_scope)
        yield
        nursery.cancel_scope.cancel()


async def sigterm() -> None:
    """Wait until the process is told to end."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return


async def main(url: str, bind: str) -> None:
    """Serve until SIGTERM."""
    config = Config()
    config.bind = [bind]
    # What a stream has left then, in seconds.
    config.graceful_timeout = 1.0
    async with connect(url, wait_ready=True) as client, trio.open_nursery() as nursery:
        start = partial(serve, Service(client), config, shutdown_trigger=sigterm)
        print(*await nursery.start(start), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
