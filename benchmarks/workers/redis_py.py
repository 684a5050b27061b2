"""redis-py: its synchronous client, and the one on asyncio."""

from __future__ import annotations

import asyncio
import importlib

import redis
from redis import asyncio as redis_asyncio

from . import CHANNEL, Stage

_DEFAULT_POOL = 100


def scan(stage: Stage) -> None:
    with redis.Redis(host=stage.host, port=stage.port) as client:
        client.ping()
        stage.ready()
        keys = 0
        while stage.again():
            for _key in client.scan_iter(**stage.scan_arguments):
                keys += 1
        stage.done(keys=keys)


def get(stage: Stage) -> None:
    with redis.Redis(host=stage.host, port=stage.port) as client:
        key, value = stage.task["key"], stage.task["value"]
        client.set(key, value)
        stage.ready()
        for _ in range(stage.task["calls"]):
            assert client.get(key) == value.encode()
        stage.done()


async def scan_on_asyncio(stage: Stage) -> None:
    async with redis_asyncio.Redis(host=stage.host, port=stage.port) as client:
        await client.ping()
        stage.ready()
        keys = 0
        while stage.again():
            async for _key in client.scan_iter(**stage.scan_arguments):
                keys += 1
        stage.done(keys=keys)


async def get_on_asyncio(stage: Stage) -> None:
    async with _client_for(stage) as client:
        key, value = stage.task["key"], stage.task["value"]
        expected = value.encode()
        await client.set(key, value)

        async def caller(calls: int) -> None:
            for _ in range(calls):
                assert await client.get(key) == expected

        stage.ready()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(stage.task["tasks"]):
                tasks.create_task(caller(stage.task["calls"] // stage.task["tasks"]))
        stage.done()


def pubsub(stage: Stage) -> None:
    expected, left = stage.task["data"].encode(), stage.task["messages"]
    with redis.Redis(host=stage.host, port=stage.port) as client, client.pubsub() as subscriber:
        subscriber.subscribe(CHANNEL)
        assert (subscriber.get_message(timeout=10) or {})["type"] == "subscribe"
        stage.ready()
        stage.publish()
        for message in subscriber.listen():
            assert message["data"] == expected
            left -= 1
            if not left:
                break
        stage.done()


async def pubsub_on_asyncio(stage: Stage) -> None:
    expected, left = stage.task["data"].encode(), stage.task["messages"]
    async with redis_asyncio.Redis(host=stage.host, port=stage.port) as client, client.pubsub() as subscriber:
        await subscriber.subscribe(CHANNEL)
        assert ((await subscriber.get_message(timeout=10)) or {})["type"] == "subscribe"
        stage.ready()
        stage.publish()
        async for message in subscriber.listen():
            assert message["data"] == expected
            left -= 1
            if not left:
                break
        stage.done()


def _client_for(stage: Stage) -> redis_asyncio.Redis:
    """By default each task that finds no free connection gets a new one, and from the 101st on an error."""
    if stage.task["tasks"] <= _DEFAULT_POOL:
        return redis_asyncio.Redis(host=stage.host, port=stage.port)
    pool = redis_asyncio.BlockingConnectionPool(host=stage.host, port=stage.port, timeout=None)
    return redis_asyncio.Redis.from_pool(pool)


_ON_ASYNCIO = {"scan": scan_on_asyncio, "get": get_on_asyncio, "pubsub": pubsub_on_asyncio}


if __name__ == "__main__":
    current = Stage()
    what = current.task["what"]
    match current.task["on"]:
        case "threads":
            {"scan": scan, "get": get, "pubsub": pubsub}[what](current)
        case "uvloop":
            importlib.import_module("uvloop").run(_ON_ASYNCIO[what](current))
        case _:
            asyncio.run(_ON_ASYNCIO[what](current))
