"""This project's client on Trio."""

from __future__ import annotations

import trio

from trio_sentinel_scan import Message, RedisClient

from . import CHANNEL, Stage


async def scan(stage: Stage) -> None:
    async with RedisClient((stage.host, stage.port)) as client:
        await client.ping()
        stage.ready()
        keys = 0
        summary = None
        options = dict(stage.task["options"])
        touch = options.pop("touch", True)
        while stage.again():
            async with client.open_scan(**stage.scan_arguments, **options) as pages:
                async for page in pages:
                    if touch:
                        # As where `scan_iter` hands them out one by one.
                        for _key in page:
                            keys += 1
                    else:
                        keys += len(page)
            summary = pages.summary
        assert summary is not None
        stage.done(keys=keys, pages=summary.pages, scans=summary.scans, epoch=summary.epoch)


async def get(stage: Stage) -> None:
    async with RedisClient((stage.host, stage.port)) as client:
        await client.set(stage.task["key"], stage.task["value"])
        expected = stage.task["value"].encode()
        key = stage.task["key"]

        async def caller(calls: int) -> None:
            for _ in range(calls):
                assert await client.get(key) == expected

        stage.ready()
        async with trio.open_nursery() as nursery:
            for _ in range(stage.task["tasks"]):
                nursery.start_soon(caller, stage.task["calls"] // stage.task["tasks"])
        stage.done()


async def pubsub(stage: Stage) -> None:
    expected, left = stage.task["data"].encode(), stage.task["messages"]
    async with RedisClient((stage.host, stage.port)) as client, client.pubsub() as subscriber:
        await subscriber.subscribe(CHANNEL)
        stage.ready()
        stage.publish()
        async for item in subscriber:
            assert isinstance(item, Message)
            assert item.data == expected
            left -= 1
            if not left:
                break
        stage.done()


if __name__ == "__main__":
    current = Stage()
    trio.run({"scan": scan, "get": get, "pubsub": pubsub}[current.task["what"]], current)
