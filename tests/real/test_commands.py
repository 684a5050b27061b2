"""Ordinary commands on real servers: which connection, which process, and what becomes of those that are under way."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from redis.exceptions import ReadOnlyError

from trio_sentinel_scan import ClientClosed, RedisClient, ScanInterrupted, SentinelClient
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

pytestmark = pytest.mark.trio

KEYS = 5_000


async def test_redis_pys_iterators_give_what_there_is() -> None:
    async with LocalRedis() as server, RedisClient(server.address) as client:
        keys = await server.fill(KEYS)
        assert {key async for key in client.scan_iter(count=100)} == keys
        assert {key async for key in client.scan_iter(match="key:1*", _type="string")} == {
            key for key in keys if key.startswith(b"key:1")
        }
        some: Any = client
        await some.hset("h", mapping={f"f{i}": i for i in range(1000)})
        await some.sadd("s", *range(1000))
        await some.zadd("z", {str(i): i for i in range(1000)})
        assert len({field async for field, _ in client.hscan_iter("h", count=10)}) == 1000
        assert {member async for member in client.sscan_iter("s")} == {b"%d" % i for i in range(1000)}
        assert {pair async for pair in client.zscan_iter("z", match="99*")} == {
            (b"%d" % i, float(i)) for i in (99, *range(990, 1000))
        }


async def test_no_iterator_goes_on_at_a_restarted_server() -> None:
    """redis-py's own would end normally, without a quarter of the keys."""
    async with LocalRedis() as server, RedisClient(server.address) as client:
        keys = await server.fill(KEYS)
        seen: set[bytes] = set()
        with pytest.raises(ScanInterrupted) as caught:  # noqa: PT012 (it is raised by a later turn of the loop)
            async for key in client.scan_iter(count=10):
                seen.add(key)
                if len(seen) == KEYS // 2:
                    await server.restart()
                    # Another command has a new connection made first: the cursor must not slip over with it.
                    await client.ping()
        assert seen < keys
        assert caught.value.old_server is not None
        assert caught.value.new_server is not None
        assert caught.value.old_server.run_id != caught.value.new_server.run_id
        assert {key async for key in client.scan_iter(count=10)} == keys


async def test_a_raw_cursor_is_not_sent_to_another_process() -> None:
    async with LocalRedis() as server, RedisClient(server.address) as client:
        await server.fill(KEYS)
        some: Any = client
        cursor, _ = await some.scan(0, count=100)
        await server.restart()
        with pytest.raises(ScanInterrupted):
            await some.scan(cursor, count=100)
        # One of the present process goes on.
        cursor, _ = await some.scan(0, count=100)
        await some.scan(cursor, count=100)


async def test_no_iterator_goes_on_at_a_new_master() -> None:
    async with LocalSentinel(down_after=2.0) as service:
        await service.fill(KEYS)
        async with SentinelClient(service.sentinels, service.service) as client:
            seen = 0
            with pytest.raises(ScanInterrupted):  # noqa: PT012 (as above)
                async for _ in client.scan_iter(count=10):
                    seen += 1
                    if seen == KEYS // 2:
                        await service.kill()


async def test_a_connection_that_the_server_closed_meanwhile_costs_no_command() -> None:
    """A write on it would be of unknown outcome; it is not made there."""
    async with LocalRedis() as server, RedisClient(server.address) as client:
        await server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await client.incr("n") == 1


async def test_a_write_to_a_replica_is_refused_at_once() -> None:
    async with (
        LocalRedis() as master,
        LocalRedis(replica_of=master.address) as replica,
        RedisClient(replica.address) as client,
    ):
        with pytest.raises(ReadOnlyError):
            await client.set("k", "v")


async def test_replies_are_redis_pys_where_the_server_has_no_resp3() -> None:
    """The client finds out at the handshake, and reads the older shapes from then on."""
    async with LocalRedis(config={"rename-command": "HELLO nohello"}) as server, RedisClient(server.address) as client:
        some: Any = client
        await some.zadd("z", {"a": 1.5})
        assert await some.zscore("z", "a") == 1.5
        assert await some.zrange("z", 0, -1, withscores=True) == [(b"a", 1.5)]
        assert (await some.config_get("maxclients")).keys() == {"maxclients"}


async def test_a_command_that_waits_for_its_server_ends_with_its_client(nursery: trio.Nursery) -> None:
    """And makes no connection of its own afterwards."""
    waiting = trio.Event()
    closed = trio.Event()

    async def wait_for(client: RedisClient) -> None:
        waiting.set()
        with pytest.raises(ClientClosed):
            await client.get("k")
        closed.set()

    async with LocalRedis() as server:
        async with RedisClient(server.address) as client:
            await server.kill()
            nursery.start_soon(wait_for, client)
            await waiting.wait()
        await server.start()
        await closed.wait()
        assert await server.execute("CLIENT", "LIST", "TYPE", "normal") is not None
