"""GETs on a cluster, by this project's client, redis-py's on asyncio, or valkey-glide on asyncio or Trio."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio

from trio_sentinel_scan import connect

from . import Stage


@asynccontextmanager
async def open_client(stage: Stage) -> AsyncGenerator[Any]:
    match stage.task["client"]:
        case "ours":
            async with connect(f"redis+cluster://{stage.host}:{stage.port}") as client:
                yield client
        case "redis-py":
            cluster: Any = importlib.import_module("redis.asyncio.cluster")
            async with cluster.RedisCluster(host=stage.host, port=stage.port) as client:
                yield client
        case _:
            # By name, so that the type checkers do not ask for it where it is not installed.
            glide: Any = importlib.import_module("glide")
            address = glide.NodeAddress(stage.host, stage.port)
            configuration = glide.GlideClusterClientConfiguration([address], inflight_requests_limit=2000)
            client = await glide.GlideClusterClient.create(configuration)
            yield client
            await client.close()


async def get(stage: Stage) -> None:
    keys = [f"bench:{number}" for number in range(stage.task["keys"])]
    value = stage.task["value"]
    expected = value.encode()
    async with open_client(stage) as client:
        for key in keys:
            await client.set(key, value)
        tasks, calls = stage.task["tasks"], stage.task["calls"] // stage.task["tasks"]

        async def caller(first: int) -> None:
            for number in range(first, first + calls):
                assert await client.get(keys[number % len(keys)]) == expected

        stage.ready()
        if stage.task["on"] == "trio":
            async with trio.open_nursery() as nursery:
                for number in range(tasks):
                    nursery.start_soon(caller, number * 7)
        else:
            await asyncio.gather(*(caller(number * 7) for number in range(tasks)))
        stage.done()


if __name__ == "__main__":
    current = Stage()
    if current.task["on"] == "trio":
        trio.run(get, current)
    else:
        asyncio.run(get(current))
