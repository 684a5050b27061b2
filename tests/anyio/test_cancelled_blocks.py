"""Whole blocks, cancelled at each of their waits: the cancellation comes out, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import pytest

from tests.anyio.in_thread import Servers
from tests.anyio.loops import WHENS, When, cancelled_at, nothing_is_left, on_each_asyncio, run
from trio_sentinel_scan.anyio import RedisClient, SentinelClient
from trio_sentinel_scan.testing import LocalRedis


class Mine(Exception):
    """What a body raises."""


async def opened(client: RedisClient) -> None:
    async with client:
        pass


async def failing(client: RedisClient) -> None:
    """The body's error comes out, and the task hears of its cancellation at the next wait."""
    try:
        async with client:
            raise Mine  # noqa: TRY301 (the block is what is tested)
    except Mine:
        pass
    await asyncio.sleep(0)


async def scanning(client: RedisClient) -> None:
    async with client:
        try:
            async with client.open_scan() as pages:
                await pages.receive()
                raise Mine  # noqa: TRY301 (as above)
        except Mine:
            pass
        async with client.pubsub() as subscriber:
            await subscriber.subscribe("channel")


@on_each_asyncio
@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("work", [opened, failing, scanning])
def test_a_block_cancelled_at_each_of_its_waits(
    loop: str, when: When, work: Callable[[RedisClient], Coroutine[Any, Any, None]], servers: Servers
) -> None:
    async def main() -> None:
        async with servers(LocalRedis()) as server:
            await server.fill(10)
            step, stopped = 1, True
            while stopped:
                client = RedisClient(server.address)
                _, stopped = await cancelled_at(step, when, partial(work, client))
                await nothing_is_left(len(asyncio.all_tasks()))
                step += 1
            assert step > 5

    run(loop, main)


@on_each_asyncio
def test_a_client_that_was_cut_short_opens_on_another_loop(loop: str) -> None:
    client = SentinelClient([("127.0.0.1", 1)], "mymaster", wait_ready=True)

    async def main() -> None:
        with anyio.move_on_after(0.1) as scope:
            async with client:
                pass
        assert scope.cancelled_caught

    for _ in range(2):
        run(loop, main)
