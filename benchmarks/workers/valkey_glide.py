"""valkey-glide, on asyncio or on Trio. It has no `scan_iter`: the loop is what its documentation shows."""

from __future__ import annotations

import importlib
from typing import Any

from . import Stage

# By name, so that the type checkers do not ask for them where they are not installed.
anyio: Any = importlib.import_module("anyio")
glide: Any = importlib.import_module("glide")


async def connect(stage: Stage) -> Any:
    address = glide.NodeAddress(stage.host, stage.port)
    # 1,000 is its own limit of requests in flight, and 1,000 tasks ask for just that; the rest are its defaults.
    configuration = glide.GlideClientConfiguration([address], inflight_requests_limit=2000)
    return await glide.GlideClient.create(configuration)


async def scan(stage: Stage) -> None:
    client = await connect(stage)
    await client.ping()
    stage.ready()
    keys = 0
    while stage.again():
        cursor = b"0"
        while True:
            cursor, page = await client.scan(cursor, **stage.scan_arguments)
            for _key in page:
                keys += 1
            if cursor == b"0":
                break
    stage.done(keys=keys)
    await client.close()


async def get(stage: Stage) -> None:
    client = await connect(stage)
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
    await client.close()


if __name__ == "__main__":
    current = Stage()
    anyio.run({"scan": scan, "get": get}[current.task["what"]], current, backend=current.task["on"])
