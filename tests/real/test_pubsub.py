"""Pub/Sub on real servers: through each kind of failure, no message is missing without a gap that says so."""

# pyright: reportUnknownMemberType=false
# (redis-py's **kwargs are not annotated.)

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import redis
import trio
from redis import exceptions as redis_errors

from tests.real.radio import on_air
from tests.real.scenes import HANG, clients_tasks, until
from trio_sentinel_scan import (
    Gap,
    Message,
    RedisClient,
    SentinelClient,
    SubscriptionLost,
)
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel, ServerBinary

pytestmark = pytest.mark.trio

Protocol = Literal[2, 3]


@asynccontextmanager
async def sentinel_client(service: LocalSentinel, **options: Any) -> AsyncGenerator[SentinelClient]:
    """A client of the service; nothing of it is left afterwards."""
    tasks = clients_tasks()
    async with SentinelClient(service.sentinels, service.service, **options) as client:
        yield client
    assert clients_tasks() == tasks


# ---- masters that change ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("how", ["kill", "pause", "planned"])
async def test_another_master(how: str, protocol: Protocol) -> None:
    """SIGKILL, SIGSTOP and an order to the Sentinels. With the master stopped, only they can tell."""
    options: dict[str, Any] = {"response_timeout": None, "protocol": protocol}
    with trio.fail_after(HANG):
        async with (
            LocalSentinel(replicas=1, down_after=2.0) as service,
            sentinel_client(service, **options) as client,
            on_air(client, health_check_interval=None) as (radio, _),
        ):
            old = await service.master()
            match how:
                case "planned":
                    await service.failover()
                case "kill":
                    await old.kill()
                case _:
                    await old.pause()
            await until(lambda: radio.gaps)
            gap = radio.gaps[0]
            assert gap.old_server is not None
            assert gap.new_server is not None
            assert gap.old_server.address == old.address
            assert gap.new_server.address != old.address
            assert gap.began < gap.ended
            await radio.check_end()
            assert len(radio.gaps) == 1


@pytest.mark.full
async def test_one_master_after_the_other() -> None:
    with trio.fail_after(10 * HANG):
        async with (
            LocalSentinel(replicas=2, down_after=2.0, patience=120) as service,
            sentinel_client(service) as client,
            on_air(client) as (radio, _),
        ):
            # Until the nodes have found together again takes some twenty seconds each time.
            for turn in range(3):
                await service.wait_until_ready()
                if turn % 2:
                    await service.failover()
                else:
                    old = await service.kill()
                    await service.wait_for_new_master(old)
                    await old.start()
                await until(lambda turn=turn: len(radio.gaps) > turn)  # type: ignore[misc]
            await radio.check_end()


# ---- one server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
async def test_channels_and_patterns_on_each_server(each_server_binary: ServerBinary, protocol: Protocol) -> None:
    async with (
        LocalRedis(binary=each_server_binary) as server,
        RedisClient(server.address, protocol=protocol) as client,
        client.pubsub() as subscriber,
    ):
        assert await subscriber.ping()
        await subscriber.subscribe("a", "b")
        await subscriber.psubscribe("a*", "x?")
        assert await subscriber.ping()
        await client.publish("a", "1")
        await client.publish("b", b"\xff" * 100_000)
        await client.publish("x1", "")
        await client.publish("x12", "nobody's")
        assert [await subscriber.receive() for _ in range(4)] == [
            Message("message", b"a", None, b"1"),
            Message("pmessage", b"a", b"a*", b"1"),
            Message("message", b"b", None, b"\xff" * 100_000),
            Message("pmessage", b"x1", b"x?", b""),
        ]
        await subscriber.unsubscribe()
        assert await client.pubsub_channels() == []
        assert await client.pubsub_numpat() == 2
        await subscriber.punsubscribe()
        assert await subscriber.ping()


async def test_dictionaries_are_redis_pys() -> None:
    def by_redis_py(port: int) -> list[Any]:
        client: Any = redis.Redis(port=port)
        with client, client.pubsub() as subscriber:
            found: list[Any] = []
            subscriber.subscribe("a", "b")
            subscriber.psubscribe("p*")
            found += [subscriber.get_message(timeout=5) for _ in range(3)]
            for channel in ("a", "p1"):
                client.publish(channel, "x")
                found.append(subscriber.get_message(timeout=5))
            subscriber.unsubscribe("a")
            subscriber.punsubscribe()
            found += [subscriber.get_message(timeout=5) for _ in range(2)]
            return found

    async with LocalRedis() as server:
        expected = await trio.to_thread.run_sync(by_redis_py, server.port)
        async with RedisClient(server.address) as client, client.pubsub() as subscriber:
            found: list[Any] = []
            await subscriber.subscribe("a", "b")
            await subscriber.psubscribe("p*")
            found += [await subscriber.get_message(timeout=5) for _ in range(3)]
            for channel in ("a", "p1"):
                await client.publish(channel, "x")
                found.append(await subscriber.get_message(timeout=5))
            await subscriber.unsubscribe("a")
            await subscriber.punsubscribe()
            found += [await subscriber.get_message(timeout=5) for _ in range(2)]
    assert found == expected


@pytest.mark.smoke
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_restart_on_the_same_port(each_server_binary: ServerBinary, protocol: Protocol) -> None:
    async with (
        LocalRedis(binary=each_server_binary) as server,
        RedisClient(server.address, protocol=protocol) as client,
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


@pytest.mark.parametrize("protocol", [2, 3])
async def test_client_kill_again_and_again(protocol: Protocol) -> None:
    """Many channels and patterns, all of which are held again each time."""
    async with (
        LocalRedis() as server,
        RedisClient(server.address, protocol=protocol) as client,
        on_air(client) as (radio, subscriber),
    ):
        await subscriber.subscribe(*(f"channel:{number}" for number in range(2500)))
        await subscriber.psubscribe(*(f"other:{number}:*" for number in range(100)))
        for turn in range(10):
            await server.execute("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda turn=turn: len(radio.gaps) > turn)  # type: ignore[misc]
        await radio.check_end()
        assert len(radio.gaps) == 10
        for gap in radio.gaps:
            assert gap.old_server == gap.new_server
        assert len(await client.pubsub_channels()) == 2501
        assert await client.pubsub_numpat() == 100


async def test_a_server_that_stands_still_is_noticed_by_the_check() -> None:
    async with (
        LocalRedis() as server,
        RedisClient(server.address, response_timeout=0.5) as client,
        client.pubsub(health_check_interval=0.2) as subscriber,
    ):
        await subscriber.subscribe("c")
        await server.pause()
        await until(lambda: "not connected" in repr(subscriber))
        await server.resume()
        gap = await subscriber.receive()
        assert isinstance(gap, Gap)
        assert "did not answer within 0.5 s" in gap.cause
        await client.publish("c", "x")
        assert isinstance(await subscriber.receive(), Message)


async def test_who_receives_too_slowly_is_cut_off_by_the_server_and_told_so() -> None:
    """The buffer, the sockets and then the server's own buffer are full; nothing is missing but at the gap."""
    data = b"x" * 50_000
    async with (
        LocalRedis(config={"client-output-buffer-limit": "pubsub 1mb 0 0"}) as server,
        RedisClient(server.address) as client,
        client.pubsub(buffer=10) as subscriber,
    ):
        await subscriber.subscribe("c")
        number = 0
        while await client.publish("c", b"%d " % number + data):
            number += 1
        last = number
        received = 0
        while isinstance(item := await subscriber.receive(), Message):
            assert item.data == b"%d " % received + data
            received += 1
        assert isinstance(item, Gap)
        assert 10 < received <= last
        for number in range(5):
            assert await client.publish("c", number) == 1
            item = await subscriber.receive()
            assert isinstance(item, Message)
            assert item.data == b"%d" % number


async def test_channels_that_a_user_may_not_hear() -> None:
    async with (
        LocalRedis(acl={"listener": "on >secret ~* +@all resetchannels &open* &c"}) as server,
        RedisClient(server.address, username="listener", password="secret") as client,
        client.pubsub() as subscriber,
    ):
        await subscriber.subscribe("open1", "c")
        with pytest.raises(redis_errors.NoPermissionError):
            await subscriber.subscribe("open2", "closed")
        with pytest.raises(redis_errors.NoPermissionError):
            await subscriber.psubscribe("*")
        assert set(subscriber.channels) == {b"open1", b"c"}
        # It loses a right: the server cuts it off, and refuses what it held before.
        await server.execute("ACL", "SETUSER", "listener", "resetchannels", "&open*")
        with pytest.raises(SubscriptionLost) as caught:
            await subscriber.receive()
        assert caught.value.channels == (b"c",)
        assert isinstance(await subscriber.receive(), Gap)
        await client.publish("open1", "x")
        assert await subscriber.receive() == Message("message", b"open1", None, b"x")


async def test_every_message_of_a_flood() -> None:
    """More than any buffer holds, by a script, at once; and a slow reader with "block" has them all in order."""
    script = "for i = 1, ARGV[1] do redis.call('PUBLISH', 'c', i) end"
    async with (
        LocalRedis(config={"client-output-buffer-limit": "pubsub 0 0 0"}) as server,
        RedisClient(server.address) as client,
        client.pubsub(buffer=100) as subscriber,
    ):
        await subscriber.subscribe("c")
        some: Any = client
        await some.eval(script, 0, 100_000)
        for number in range(1, 100_001):
            item = await subscriber.receive()
            assert isinstance(item, Message)
            assert int(item.data) == number
            if number % 10_000 == 0:
                await trio.sleep(0.01)
        assert await subscriber.get_message() is None
