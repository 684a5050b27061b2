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
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from trio_sentinel_scan.testing import LocalRedis

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

# So long that a few thousand of them are more than all buffers between the service and a client that does not read.
PREFIX = "key:" + "-" * 600 + ":"
KEYS = 40_000


class Service:
    """One that runs."""

    def __init__(self, process: trio.Process, client: httpx.AsyncClient) -> None:
        self.process = process
        self.client = client
        # What it has written, on both of its outputs.
        self.log = ""

    async def until_logged(self, pattern: str) -> re.Match[str]:
        """Wait until it has written this."""
        while (found := re.search(pattern, self.log)) is None:
            assert self.process.returncode is None, self.log
            await trio.sleep(0.005)
        return found

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
    # A client's own buffer is small, so that it is the service that waits.
    small = httpx.AsyncHTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)])
    async with trio.open_nursery() as nursery, httpx.AsyncClient(transport=small, timeout=60) as client:
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
        service = Service(process, client)
        nursery.start_soon(_read, service)
        try:
            found = await service.until_logged(r"(?:running|Running) on (http://127\.0\.0\.1:\d+)|^(http://\S+:\d+)\n")
            client.base_url = httpx.URL(found[1] or found[2])
            yield service
        finally:
            process.kill()


async def _read(service: Service) -> None:
    assert service.process.stdout is not None
    async for part in service.process.stdout:
        service.log += part.decode()


class Stream:
    """The body of an answer that is still coming, in pieces that end with a line, or with an empty one."""

    def __init__(self, response: httpx.Response, parts: AsyncIterator[bytes], end: bytes) -> None:
        self.response = response
        self._parts = parts
        self._end = end
        self._whole: deque[bytes] = deque()
        self._rest = b""

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        while not self._whole:
            try:
                *whole, self._rest = (self._rest + await anext(self._parts)).split(self._end)
            except StopAsyncIteration:
                assert not self._rest, "it broke off in the middle of a line"
                raise
            self._whole.extend(whole)
        return self._whole.popleft()


@asynccontextmanager
async def streaming(service: Service, path: str, end: bytes = b"\n") -> AsyncGenerator[Stream]:
    """The answer to a request; a client that leaves the block early disconnects."""
    async with service.client.stream("GET", path) as response, aclosing(response.aiter_bytes()) as parts:
        yield Stream(response, parts, end)


async def connections(server: LocalRedis) -> set[bytes]:
    """The ids of a server's connections, but for the one that asks."""
    listed = await server.execute("CLIENT", "LIST")
    assert isinstance(listed, bytes)
    return {line.split()[0] for line in listed.splitlines() if b" cmd=client" not in line}


async def until_left(server: LocalRedis, held: set[bytes]) -> None:
    """Wait until it has these connections and no other."""
    while await connections(server) != held:  # noqa: ASYNC110 (no event tells of it)
        await trio.sleep(0.01)
