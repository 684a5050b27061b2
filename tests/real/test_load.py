"""A great many at once on one real server, and failovers after which nothing more is open than before."""

# pyright: reportUnknownMemberType=false
# (redis-py's **kwargs are not annotated.)

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.load.flatness import Flatness, open_descriptors
from tests.real.scenes import clients_tasks, until_followed
from trio_sentinel_scan import Gap, Message, RedisClient, SentinelClient
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

# Far from what anything takes.
HANG = 900
FULL = [pytest.mark.full, pytest.mark.slow]


@pytest.mark.parametrize("number", [100, pytest.param(1_000, marks=FULL)])
async def test_scans_at_once(server_binary: ServerBinary, number: int) -> None:
    """A connection each, within what a process may have open; each complete."""
    found: list[int] = []
    with trio.fail_after(HANG):
        async with LocalRedis(binary=server_binary, config={"maxclients": 4_000}) as server:
            keys = await server.fill(2_000)
            before = open_descriptors()
            async with RedisClient(server.address, response_timeout=300, failover_timeout=600) as client:

                async def scan() -> None:
                    async with client.open_scan(count=200) as pages:
                        found.append(len({key for page in [page async for page in pages] for key in page}))
                        assert pages.summary.complete

                async with trio.open_nursery() as nursery:
                    for _ in range(number):
                        nursery.start_soon(scan)
            assert open_descriptors() == before
    assert found == [len(keys)] * number


@pytest.mark.parametrize("number", [100, pytest.param(500, marks=FULL)])
async def test_subscribers(server_binary: ServerBinary, number: int) -> None:
    """Each gets every message, in order; one that does not read stalls nobody."""
    ready = trio.Event()
    received: list[list[Any]] = []
    subscribed = 0
    with trio.fail_after(HANG):
        async with (
            LocalRedis(binary=server_binary) as server,
            RedisClient(server.address, response_timeout=300) as client,
            client.pubsub(ignore_subscribe_messages=True, buffer=2) as slow,
        ):
            await slow.subscribe("news")

            async def follow() -> None:
                nonlocal subscribed
                async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
                    await subscriber.subscribe("news")
                    subscribed += 1
                    if subscribed == number:
                        ready.set()
                    items = [await subscriber.receive() for _ in range(20)]
                    received.append([item.data for item in items if isinstance(item, Message)])

            async with trio.open_nursery() as nursery:
                for _ in range(number):
                    nursery.start_soon(follow)
                await ready.wait()
                for message in range(20):
                    assert await client.publish("news", message) == number + 1
            assert isinstance(await slow.receive(), Message)
    assert received == [[b"%d" % message for message in range(20)]] * number


async def test_commands_of_ten_thousand_tasks(server_binary: ServerBinary) -> None:
    right = 0
    with trio.fail_after(HANG):
        async with (
            LocalRedis(binary=server_binary) as server,
            RedisClient(server.address, response_timeout=300) as client,
        ):

            async def ask(number: int) -> None:
                nonlocal right
                await client.set(f"key:{number}", number)
                is_right = await client.get(f"key:{number}") == b"%d" % number
                right += is_right

            async with trio.open_nursery() as nursery:
                for number in range(10_000):
                    nursery.start_soon(ask, number)
            assert await client.dbsize() == 10_000
            assert (await client.info("clients"))["connected_clients"] == 1
    assert right == 10_000


@pytest.fixture
def traced() -> Iterator[None]:
    """With its memory counted."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("rounds", [4, pytest.param(50, marks=FULL)])
@pytest.mark.usefixtures("traced")
async def test_failovers_leave_nothing_behind(server_binary: ServerBinary, rounds: int) -> None:
    """Planned ones, each with a command, a subscriber, and now and then a scan in the middle of it."""
    flat = Flatness()
    descriptors: list[int] = []
    tasks = clients_tasks()
    with trio.fail_after(3 * HANG):
        async with LocalSentinel(replicas=1, binary=server_binary, down_after=2.0) as service:
            keys = await service.fill(500)
            async with (
                SentinelClient(service.sentinels, service.service, retry_writes=True) as client,
                client.pubsub(ignore_subscribe_messages=True) as subscriber,
            ):
                await subscriber.subscribe("news")
                for number in range(rounds):
                    async with client.open_scan(count=50, segments=1, prefetch=0, max_restarts=20) as pages:
                        await pages.receive()
                        new = await service.failover()
                        found = {key for page in [page async for page in pages] for key in page}
                    assert pages.summary.epoch > 0
                    assert keys <= found <= keys | {b"n"}
                    await client.set("n", number)
                    await until_followed(client, new)
                    while not isinstance(await subscriber.receive(), Gap):
                        pass
                    if number >= rounds // 3 and number % (rounds // 6 or 1) == 0:
                        # Sentinel closes clients' connections up to ten seconds after a failover.
                        await trio.sleep(12)
                        flat.look()
                        descriptors.append(open_descriptors())
    flat.check()
    assert max(descriptors) - min(descriptors) <= 2, descriptors
    assert clients_tasks() == tasks
