"""A client is used from another thread's loop: it raises there, before anything is sent, and this loop does not see it.

The thread is waited for without the loop: what does not raise at once cannot raise at all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
import trio

from tests.trio.fakes import SERVICE, FakeCluster, Network, Service, on_mock_time, settled
from trio_sentinel_scan import ClientClosed, ClusterClient, RedisClient, SentinelClient, WrongEventLoop

pytestmark = pytest.mark.trio(run=on_mock_time)

Use = Callable[[], Awaitable[object]]

# An error, though nobody waits for the thread with anything but a lock.
HANG: Final = 60.0


def errors_of(use: Use) -> list[BaseException | None]:
    """What comes of it in a thread on Trio, and in one on asyncio."""
    found: list[BaseException | None] = []

    async def attempt() -> None:  # noqa: ASYNC910 (what is tried does not come to its first wait)
        try:
            await use()
            found.append(None)
        except Exception as error:  # noqa: BLE001 (it is looked at)
            found.append(error)

    for run in (lambda: trio.run(attempt), lambda: asyncio.run(attempt())):
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(HANG)
        assert not thread.is_alive(), "it waits"
    return found


def refused(use: Use) -> None:
    errors = errors_of(use)
    assert [type(error) for error in errors] == [WrongEventLoop, WrongEventLoop], errors
    assert "trio.from_thread.run" in str(errors[0])
    assert "nothing was sent" in str(errors[0])


async def entered(block: Any) -> None:  # noqa: ASYNC910 (it is not)
    async with block:
        pass


def uses_of(client: Any) -> list[Use]:
    return [
        lambda: client.get("key:1"),
        lambda: client.blpop("list", timeout=1),
        lambda: client.pipeline().get("key:1").execute(),
        lambda: client.pipeline(transaction=False).get("key:1").get("key:2").execute(),
        lambda: client.pipeline().watch("key:1"),
        lambda: client.transaction(lambda pipe: pipe.get("key:1"), "key:1"),
        lambda: client.lock("lock").acquire(),
        lambda: client.scan_iter().__anext__(),
        lambda: entered(client.open_scan()),
        lambda: entered(client.open_sscan("set")),
        lambda: entered(client.pubsub()),
    ]


async def test_a_client_of_a_server(network: Network) -> None:
    service = Service(network, keys=3)
    async with RedisClient(service.master.address) as client, client.dedicated() as lease:
        await settled()
        asked, connections = len(service.master.log), client.statistics()
        for use in [
            *uses_of(client),
            lambda: entered(client.dedicated()),
            lambda: lease.get("key:1"),
            lambda: lease.pipeline().get("key:1").execute(),
        ]:
            refused(use)
        await settled()
        assert len(service.master.log) == asked
        assert client.statistics() == connections
        assert await client.get("key:1") == await lease.get("key:1") == b"value of key:1"


async def test_a_client_of_a_service(network: Network) -> None:
    service = Service(network, keys=3)
    async with (
        SentinelClient(service.addresses, SERVICE) as client,
        client.open_topology() as events,
        client.open_scan(prefetch=0, count=1) as pages,
        client.pubsub() as subscriber,
    ):
        await settled()
        asked = len(service.master.log)
        for use in [
            *uses_of(client),
            client.sentinel_masters,
            lambda: entered(client.open_topology()),
            events.receive,
            pages.receive,
            pages.clone().receive,
            subscriber.receive,
            subscriber.ping,
            subscriber.reset,
            lambda: subscriber.subscribe("news"),
            lambda: subscriber.get_message(timeout=1),
            lambda: subscriber.listen().__anext__(),
        ]:
            refused(use)
        await settled()
        assert len(service.master.log) == asked
        # What only looks may look from anywhere: it does not wait.
        assert await trio.to_thread.run_sync(lambda: client.master) == client.master


async def test_a_client_of_a_cluster(network: Network) -> None:
    cluster = FakeCluster(network)
    async with ClusterClient(cluster.addresses) as client:
        await client.get("key:1")
        await settled()
        sent = client.statistics().sent
        for use in [*uses_of(client), client.dbsize, lambda: entered(client.dedicated(key="key:1"))]:
            refused(use)
        assert client.statistics().sent == sent
        await client.get("key:1")


async def test_a_pipeline_stays_as_it_was(network: Network) -> None:
    """It may still be executed where it belongs, and what it watches is watched."""
    service = Service(network, keys=3)
    async with RedisClient(service.master.address) as client, client.pipeline() as pipe:
        await pipe.watch("key:1")
        pipe.multi()
        pipe.get("key:1")
        refused(pipe.execute)
        refused(pipe.reset)
        assert (len(pipe), pipe.watching) == (1, True)
        assert await pipe.execute() == [b"value of key:1"]


async def test_a_client_that_is_closed_says_that(network: Network) -> None:
    service = Service(network)
    client = RedisClient(service.master.address)
    async with client:
        pipe = client.pipeline().get("key")
    for use in (lambda: client.get("key"), pipe.execute):
        assert isinstance(errors_of(use)[0], ClientClosed)
