"""Pub/Sub, on every back end: no message is missing without a gap that says so, and none comes twice."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.anyio.editions import Edition
from tests.anyio.in_thread import Servers
from tests.anyio.scenes import depose, service
from tests.real.radio import on_air
from tests.real.scenes import until
from trio_sentinel_scan import Gap, Message, SubscriberOverflow
from trio_sentinel_scan.testing import LocalRedis

full = pytest.mark.full

# Only the Sentinels' word ends a wait for a master that hangs.
PATIENT: dict[str, Any] = {"response_timeout": None}


@pytest.mark.parametrize("befall", ["killed", pytest.param("hung", marks=full), pytest.param("planned", marks=full)])
@pytest.mark.parametrize("protocol", [pytest.param(2, marks=full), 3])
async def test_another_master(edition: Edition, servers: Servers, befall: str, protocol: int) -> None:
    """A handler goes on as well, on a channel of its own; one gap is told, from the old master to the new one."""
    async with (
        servers(service()) as local,
        edition.package.SentinelClient(local.sentinels, local.service, protocol=protocol, **PATIENT) as client,
        client.pubsub() as handling,
        on_air(client, health_check_interval=None) as (radio, _),
        anyio.create_task_group() as task_group,
    ):
        handled: list[bytes] = []

        async def handle(message: dict[str, Any]) -> None:
            await anyio.lowlevel.checkpoint()
            handled.append(message["data"])

        async def receive() -> None:
            async for item in handling:
                handled.append(b"gap")
                assert isinstance(item, Gap)

        await handling.subscribe(handled=handle)
        task_group.start_soon(receive)
        await client.publish("handled", "before")
        await until(lambda: handled)
        old = await local.master()
        if befall == "planned":
            new = await local.failover()
        else:
            await (old.kill() if befall == "killed" else old.pause())
            new = await depose(local)
        await until(lambda: radio.gaps and b"gap" in handled)
        gap = radio.gaps[0]
        assert gap.old_server is not None
        assert gap.new_server is not None
        assert (gap.old_server.address, gap.new_server.address) == (old.address, new.address)
        assert gap.began < gap.ended
        await client.publish("handled", "after")
        await until(lambda: len(handled) == 3)
        assert handled == [b"before", b"gap", b"after"]
        await radio.check_end()
        assert len(radio.gaps) == 1
        task_group.cancel_scope.cancel()


async def test_a_restart_on_the_same_port(edition: Edition, servers: Servers) -> None:
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address) as client,
        on_air(client) as (radio, _),
    ):
        await server.restart()
        await until(lambda: radio.gaps)
        gap = radio.gaps[0]
        assert gap.old_server is not None
        assert gap.new_server is not None
        assert gap.old_server.address == gap.new_server.address
        assert gap.old_server != gap.new_server
        await radio.check_end()
        assert len(radio.gaps) == 1


@full
async def test_connections_are_killed_again_and_again(edition: Edition, servers: Servers) -> None:
    """Many channels and patterns, all of which are held again each time."""
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address) as client,
        on_air(client) as (radio, subscriber),
    ):
        await subscriber.subscribe(*(f"channel:{number}" for number in range(500)))
        await subscriber.psubscribe(*(f"other:{number}:*" for number in range(100)))
        for turn in range(5):
            await server.execute("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda turn=turn: len(radio.gaps) > turn)  # type: ignore[misc]  # mypy knows no default there
        await radio.check_end()
        assert len(radio.gaps) == 5
        assert len(await client.pubsub_channels()) == 501
        assert await client.pubsub_numpat() == 100


async def test_redis_pys_ways_to_receive(edition: Edition, servers: Servers) -> None:
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address) as client,
        client.pubsub() as subscriber,
    ):
        await subscriber.subscribe("a")
        assert (await subscriber.get_message(timeout=5))["type"] == "subscribe"
        assert await subscriber.get_message() is None
        assert await subscriber.get_message(timeout=0.01) is None
        for number in range(5):
            await client.publish("a", number)
        assert (await subscriber.get_message(timeout=None))["data"] == b"0"
        listening = subscriber.listen()
        heard = [(await anext(listening))["data"] for _ in range(4)]
        assert heard == [b"1", b"2", b"3", b"4"]
        assert await subscriber.ping()
        await subscriber.aclose()
        with pytest.raises(edition.closed):
            await subscriber.receive()


async def test_several_receive_and_one_leaves(edition: Edition, servers: Servers) -> None:
    """Each message goes to one of them; the one that is cancelled has taken none with it."""
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address) as client,
        client.pubsub() as subscriber,
    ):
        await subscriber.subscribe("c")
        heard: list[int] = []

        async def receive() -> None:
            while True:
                item = await subscriber.receive()
                assert isinstance(item, Message)
                heard.append(int(item.data))

        async with anyio.create_task_group() as stays, anyio.create_task_group() as leaves:
            stays.start_soon(receive)
            leaves.start_soon(receive)
            await client.publish("c", 0)
            for number in range(1, 100):
                if number == 50:
                    leaves.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await client.publish("c", number)
            with anyio.CancelScope(shield=True):
                await until(lambda: len(heard) == 100)
            stays.cancel_scope.cancel()
        assert sorted(heard) == list(range(100))


async def test_every_message_of_a_flood(edition: Edition, servers: Servers) -> None:
    """More than any buffer holds: who is slow makes the server wait, and has all of them in order."""
    script = "for i = 1, ARGV[1] do redis.call('PUBLISH', 'c', i) end"
    async with (
        servers(LocalRedis(config={"client-output-buffer-limit": "pubsub 0 0 0"})) as server,
        edition.package.RedisClient(server.address) as client,
        client.pubsub(buffer=100) as subscriber,
    ):
        await subscriber.subscribe("c")
        await client.eval(script, 0, 20_000)
        for number in range(1, 20_001):
            item = await subscriber.receive()
            assert isinstance(item, Message)
            assert int(item.data) == number
            if number % 10_000 == 0:
                await anyio.sleep(0.01)
        assert await subscriber.get_message() is None


async def test_a_buffer_that_is_full_may_be_an_error(edition: Edition, servers: Servers) -> None:
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address) as client,
        client.pubsub(buffer=3, on_full="raise") as subscriber,
    ):
        await subscriber.subscribe("c")
        for number in range(10):
            await client.publish("c", number)
        received = 0
        with pytest.raises(SubscriberOverflow):  # noqa: PT012 (after what was there before)
            while True:
                item = await subscriber.receive()
                assert int(item.data) == received
                received += 1
        assert 3 <= received < 10


async def test_a_server_that_stands_still_is_noticed_by_the_check(edition: Edition, servers: Servers) -> None:
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address, response_timeout=0.3) as client,
        client.pubsub(health_check_interval=0.1) as subscriber,
    ):
        await subscriber.subscribe("c")
        await server.pause()
        await until(lambda: "not connected" in repr(subscriber))
        await server.resume()
        gap = await subscriber.receive()
        assert isinstance(gap, Gap)
        assert "did not answer within 0.3 s" in gap.cause
        await client.publish("c", "x")
        assert isinstance(await subscriber.receive(), Message)
