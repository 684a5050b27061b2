"""Everybody's scan of a cluster: ours, redis-py's on asyncio, valkey-glide's."""

from __future__ import annotations

import asyncio
import importlib
from functools import partial
from typing import Any

from trio_sentinel_scan._trio.cluster import ClusterClient

from . import Stage


async def ours(stage: Stage) -> None:
    async with ClusterClient([(stage.host, stage.port)]) as client:
        stage.ready()
        keys = 0
        async with client.open_scan(**stage.scan_arguments, **stage.task["options"]) as pages:
            async for page in pages:
                # As where `scan_iter` hands them out one by one.
                for _key in page:
                    keys += 1
        summary = pages.summary
        stage.done(keys=keys, pages=summary.pages, scans=summary.scans, epoch=summary.epoch)


async def redis_py(stage: Stage) -> None:
    cluster_client: Any = importlib.import_module("redis.asyncio.cluster").RedisCluster
    async with cluster_client(host=stage.host, port=stage.port) as client:
        await client.ping()
        stage.ready()
        keys = 0
        async for _key in client.scan_iter(**stage.scan_arguments):
            keys += 1
        stage.done(keys=keys)


async def valkey_glide(stage: Stage) -> None:
    glide: Any = importlib.import_module("glide")
    address = glide.NodeAddress(stage.host, stage.port)
    client = await glide.GlideClusterClient.create(glide.GlideClusterClientConfiguration([address]))
    await client.ping()
    stage.ready()
    keys = 0
    # The loop is what its documentation shows.
    cursor = glide.ClusterScanCursor()
    while not cursor.is_finished():
        cursor, page = await client.scan(cursor, **stage.scan_arguments)
        for _key in page:
            keys += 1
    stage.done(keys=keys)
    await client.close()


def main() -> None:
    stage = Stage()
    match stage.task["client"]:
        case "ours":
            importlib.import_module("trio").run(ours, stage)
        case "redis-asyncio":
            asyncio.run(redis_py(stage))
        case "redis-uvloop":
            importlib.import_module("uvloop").run(redis_py(stage))
        case "glide-asyncio":
            asyncio.run(valkey_glide(stage))
        case "glide-trio":
            importlib.import_module("trio").run(partial(valkey_glide, stage))
        case other:
            raise SystemExit(f"{other} has no scan of a cluster here")


if __name__ == "__main__":
    main()
