"""The server that is measured on, its keys, and the proxy that puts a distance before it."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from trio_sentinel_scan.testing import LocalRedis

from .peers import Absent, compiled

# One key in so many begins with RARE: what a MATCH that finds next to nothing looks for.
RARITY: Final = 10_000
RARE: Final = "rare:"

_CHUNK: Final = 100_000
_KEYS_PER_COMMAND: Final = 1_000


@dataclass(frozen=True, slots=True)
class Dataset:
    """A server, and what is in it."""

    server: LocalRedis
    keys: int

    @property
    def rare_keys(self) -> int:
        return max(1, self.keys // RARITY)


@asynccontextmanager
async def open_dataset(keys: int, binary: Path | None) -> AsyncGenerator[Dataset]:
    """A server with so many keys, and nothing left to do."""
    async with LocalRedis(binary=binary, patience=120) as server:
        dataset = Dataset(server, keys)
        await _fill(server, RARE, dataset.rare_keys)
        await _fill(server, "key:", keys - dataset.rare_keys)
        await _settle(server, keys)
        yield dataset


async def _fill(server: LocalRedis, prefix: str, keys: int) -> None:
    for start in range(0, keys, _CHUNK):
        # In parts: it returns the keys, and ten million of them would take more memory than the server has.
        await server.fill(min(_CHUNK, keys - start), prefix, start)


async def _settle(server: LocalRedis, keys: int) -> None:
    """Let the server finish its rehashing: each lookup takes it a step on, and it has fewer steps to go than keys."""
    for start in range(0, keys, _CHUNK):
        await server.pipeline(
            [
                ("EXISTS", *(f"key:{number}" for number in range(first, first + _KEYS_PER_COMMAND)))
                for first in range(start, start + _CHUNK, _KEYS_PER_COMMAND)
            ]
        )


@dataclass(frozen=True, slots=True)
class Proxy:
    """What stands between client and server."""

    port: int
    pid: int


@asynccontextmanager
async def open_proxy(server: LocalRedis, milliseconds: float) -> AsyncGenerator[Proxy]:
    """Everything takes so much longer, each way. Raises Absent if it cannot be compiled."""
    try:
        program = await trio.to_thread.run_sync(compiled, "delay_proxy.c")
    except Absent as absent:
        raise Absent(f"the proxy: {absent}") from None
    command = [str(program), server.host, str(server.port), str(round(milliseconds * 1000))]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Proxy(int(await process.stdout.receive_some()), process.pid)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()
