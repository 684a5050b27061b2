"""coredis, on Trio or on asyncio."""

from __future__ import annotations

import importlib
from typing import Any

from . import CHANNEL, Stage

# By name, so that the type checkers do not ask for them where they are not installed.
anyio: Any = importlib.import_module("anyio")
coredis: Any = importlib.import_module("coredis")


async def scan(stage: Stage) -> None:
    async with coredis.Redis(host=stage.host, port=stage.port) as client:
        await client.ping()
        stage.ready()
        keys = 0
        while stage.again():
            async for _key in client.scan_iter(**stage.scan_arguments):
                keys += 1
        stage.done(keys=keys)


async def get(stage: Stage) -> None:
    async with coredis.Redis(host=stage.host, port=stage.port) as client:
        key, value = stage.task["key"], stage.task["value"]
        expected = value.encode()
        await client.set(key, value)

        async def caller(calls: int) -> None:
            for _ in range(calls):
                assert await client.get(key) == expected

        stage.ready()
        async with anyio.create_task_group() as tasks:
            for _ in range(stage.task["tasks"]):
                tasks.start_soon(caller, stage.task["calls"] // stage.task["tasks"])
        stage.done()


async def pubsub(stage: Stage) -> None:
    expected, left = stage.task["data"].encode(), stage.task["messages"]
    async with (
        coredis.Redis(host=stage.host, port=stage.port) as client,
        client.pubsub(ignore_subscribe_messages=True) as subscriber,
    ):
        await subscriber.subscribe(CHANNEL)
        stage.ready()
        stage.publish()
        async for message in subscriber:
            assert message["data"] == expected
            left -= 1
            if not left:
                break
        stage.done()


if __name__ == "__main__":
    current = Stage()
    anyio.run({"scan": scan, "get": get, "pubsub": pubsub}[current.task["what"]], current, backend=current.task["on"])
