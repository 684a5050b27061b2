"""What the tests of the example services share: the process, started by the command in its README, and a client."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections import deque
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_sentinel_scan.testing import LocalRedis

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

# A guard against hanging, far from what anything takes.
HANG = 90.0

# So long that a few thousand of them are more than all buffers between the service and a client that does not read.
PREFIX = "key:" + "-" * 600 + ":"
KEYS = 40_000


class Answer(NamedTuple):
    """To one request."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Service:
    """One that runs."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        # Set once it listens.
        self.port = 0
        # What it has written, on both of its outputs.
        self.log = ""

    async def until_logged(self, pattern: str) -> re.Match[str]:
        """Wait until it has written this."""
        while (found := re.search(pattern, self.log)) is None:
            assert self.process.returncode is None, self.log
            await trio.sleep(0.005)
        return found

    async def get(self, path: str) -> Answer:
        """The whole answer to a request."""
        async with opened(self, path) as stream:
            return Answer(stream.status, stream.headers, b"".join([part async for part in stream]))

    async def ended(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to end, and wait; its exit status."""
        self.process.send_signal(signum)
        return await self.process.wait()


def command(example: str, url: str) -> tuple[list[str], dict[str, str]]:
    """The command in the example's README, on this URL and any free port; and its environment."""
    text = (EXAMPLES / example / "README.md").read_text(encoding="utf-8")
    [said] = [line for line in text.splitlines() if line.startswith("    ") and "redis+sentinel://" in line]
    said = said.replace("redis+sentinel://127.0.0.1:26379/mymaster", url).replace("8000", "0")
    words = shlex.split(said)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    # The programs of this very Python.
    return ([sys.executable] if words[0] == "python" else [sys.executable, "-m", words[0]]) + words[1:], environment


@asynccontextmanager
async def serving(example: str, url: str, *more: str, app: str | None = None) -> AsyncGenerator[Service]:
    """The service runs, and is killed if it has not ended before the block does."""
    words, environment = command(example, url)
    if app is not None:
        words[-1] = app
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            [*words, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            check=False,
        )
        process: trio.Process = await nursery.start(start)
        service = Service(process)
        nursery.start_soon(_read, service)
        try:
            found = await service.until_logged(r"http://127\.0\.0\.1:(\d+)\D")
            service.port = int(found[1])
            with trio.fail_after(HANG):
                await trio.lowlevel.checkpoint()
                yield service
        finally:
            process.kill()


async def _read(service: Service) -> None:
    assert service.process.stdout is not None
    async for part in service.process.stdout:
        service.log += part.decode()


class Stream:
    """An answer that is still coming: its parts as they come, or pieces that each end with `end`.

    There are HTTP clients with more to them. Their iterators are async generators, which are not to be left in the
    middle of their work, and that is what is wanted here.
    """

    def __init__(self, connection: trio.SocketStream, end: bytes | None) -> None:
        self._connection = connection
        self._http = h11.Connection(h11.CLIENT)
        self._end = end
        self._whole: deque[bytes] = deque()
        self._rest = b""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}

    async def ask(self, path: str) -> None:
        """Send the request, and wait for the headers."""
        request = h11.Request(method="GET", target=path, headers=[("host", "localhost"), ("connection", "close")])
        await self._connection.send_all(
            (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        )
        response = await self._event()
        assert isinstance(response, h11.Response)
        self.status = response.status_code
        self.headers = dict(response.headers)

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._connection.receive_some(64 * 1024))
        return event

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        while not self._whole:
            event = await self._event()
            if not isinstance(event, h11.Data):
                # (h11 raises for an answer that broke off.)
                assert isinstance(event, h11.EndOfMessage)
                assert not self._rest, "it ends in the middle of a line"
                raise StopAsyncIteration
            if self._end is None:
                return bytes(event.data)
            *whole, self._rest = (self._rest + event.data).split(self._end)
            self._whole.extend(whole)
        return self._whole.popleft()


@asynccontextmanager
async def opened(service: Service, path: str, end: bytes | None = None) -> AsyncGenerator[Stream]:
    """The answer to a request, from its first byte on; who leaves the block early disconnects."""
    with trio.socket.socket() as raw:
        # A small buffer of its own, so that it is the service that waits.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await raw.connect(("127.0.0.1", service.port))
        stream = Stream(trio.SocketStream(raw), end)
        await stream.ask(path)
        yield stream


@asynccontextmanager
async def streaming(service: Service, path: str, end: bytes = b"\n") -> AsyncGenerator[Stream]:
    """The same, by lines, of an answer that is in order so far."""
    async with opened(service, path, end) as stream:
        assert stream.status == 200
        yield stream


async def connections(server: LocalRedis) -> set[bytes]:
    """The ids of a server's connections, but for the one that asks."""
    listed = await server.execute("CLIENT", "LIST")
    assert isinstance(listed, bytes)
    return {line.split()[0] for line in listed.splitlines() if b" cmd=client" not in line}


async def until_left(server: LocalRedis, held: set[bytes]) -> None:
    """Wait until it has these connections and no other."""
    while await connections(server) != held:  # noqa: ASYNC110 (no event tells of it)
        await trio.sleep(0.01)
