"""Leases, blocking commands, transactions and locks on real servers, through what befalls them."""

# pyright: reportUnknownMemberType=false
# (redis-py's commands have **kwargs that are not annotated.)

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.lowlevel

from tests.real.scenes import open_stage
from trio_sentinel_scan import CommandOutcomeUnknown, LeaseLost, Pipeline, RedisClient
from trio_sentinel_scan.testing import LocalRedis

pytestmark = pytest.mark.trio


async def waiting(server: LocalRedis, command: str) -> None:
    """Until somebody's command waits at the server."""
    while True:
        listed = await server.execute("CLIENT", "LIST")
        assert isinstance(listed, bytes)
        if f" cmd={command} ".encode() in listed and b" flags=b " in listed:
            return
        await trio.sleep(0.01)


async def more(count: Callable[[], int]) -> None:
    """Until a hundred more of them have come."""
    goal = count() + 100
    while True:
        if count() >= goal:
            return
        await trio.sleep(0.01)


async def test_wait_is_for_what_this_connection_wrote() -> None:
    async with (
        LocalRedis() as master,
        LocalRedis(replica_of=master.address),
        RedisClient(master.address) as client,
        client.dedicated() as lease,
    ):
        await lease.set("k", "v")
        assert await lease.wait(1, 60_000) == 1


async def test_no_state_is_left_for_the_next_one() -> None:
    """Each of these is a state that a server keeps for a connection."""
    async with LocalRedis() as server, RedisClient(server.address, max_connections=1) as client:
        await client.set("k", "v")
        async with client.dedicated() as lease:
            clean = await lease.client_info()
        for change in ("SELECT 5", "CLIENT TRACKING ON", "CLIENT NO-EVICT ON", "WATCH k", "MULTI", "HELLO 2", "RESET"):
            if "NO-EVICT" in change and server.binary.version_info < (7,):
                continue  # Redis 6.2 has no such.
            async with client.dedicated() as lease:
                await lease.execute_command(*change.split())
            async with client.dedicated() as lease:
                found = await lease.client_info()
                assert await lease.get("k") == b"v"
            for name in ("db", "flags", "multi", "resp", "watch"):
                assert found.get(name) == clean.get(name), (change, name)


async def test_others_go_on_while_many_wait() -> None:
    popped: list[int] = []

    async with LocalRedis() as server, RedisClient(server.address) as client, trio.open_nursery() as nursery:

        async def pop() -> None:
            found = await client.blpop("q", timeout=0)
            assert found is not None
            popped.append(int(found[1]))

        for _ in range(20):
            nursery.start_soon(pop)
        await waiting(server, "blpop")
        assert await client.set("k", "v")
        await client.rpush("q", *range(20))
    assert sorted(popped) == list(range(20))


@pytest.mark.parametrize("kill", [False, True], ids=["planned", "killed"])
async def test_waiting_through_a_failover(nursery: trio.Nursery, kill: bool) -> None:
    """Demoted, a master ends the wait by its own word, and it goes on at the next one; killed, it leaves a doubt."""
    ended: list[object] = []
    over = trio.Event()

    async with open_stage(nursery) as stage, stage.client() as client:

        async def pop() -> None:
            try:
                ended.append(await client.blpop("q", timeout=0))
            except CommandOutcomeUnknown as error:
                ended.append(type(error))
            over.set()

        async with client.dedicated() as lease:
            await lease.ping()
            nursery.start_soon(pop)
            await waiting(stage.first, "blpop")
            _, new = await stage.depose(kill=kill)
            with pytest.raises((LeaseLost, CommandOutcomeUnknown)):  # noqa: PT012 (by a later turn of the loop)
                while True:
                    await lease.ping()
                    await trio.sleep(0.01)
        await client.rpush("q", "value")
        async with client.dedicated() as lease:
            assert lease.server.address == new.address
        await over.wait()
        # It is the Sentinels' word, or the server's, whichever comes first.
        assert ended in ([(b"q", b"value")], [CommandOutcomeUnknown])
        assert not kill or ended == [CommandOutcomeUnknown]


async def test_transactions_through_a_failover_run_once_or_are_in_doubt(nursery: trio.Nursery) -> None:
    """Each adds one to both of two counters: they stay the same, and none of the transactions counted twice."""
    acknowledged = doubtful = 0
    stop = trio.Event()

    async with open_stage(nursery) as stage, stage.client() as client:

        async def add(pipe: Pipeline) -> None:
            now = int(await pipe.get("a") or 0)
            pipe.multi()
            pipe.set("a", now + 1).set("b", now + 1)

        async def work(watched: bool) -> None:
            nonlocal acknowledged, doubtful
            while not stop.is_set():
                try:
                    if watched:
                        await client.transaction(add, "a")
                    else:
                        await client.pipeline().incr("a").incr("b").execute()
                    acknowledged += 1
                except CommandOutcomeUnknown:
                    doubtful += 1

        async with trio.open_nursery() as workers:
            for number in range(4):
                workers.start_soon(work, number % 2 == 0)
            await more(lambda: acknowledged)
            await stage.depose()
            await more(lambda: acknowledged)
            stop.set()
        a, b = (int(value or 0) for value in await client.mget("a", "b"))
    assert a == b
    assert a <= acknowledged + doubtful


async def test_a_lock_between_two_clients() -> None:
    async with LocalRedis() as server, RedisClient(server.address) as one, RedisClient(server.address) as two:
        async with one.lock("name", timeout=10) as lock:
            other = two.lock("name", timeout=10, blocking_timeout=0.2, sleep=0.05)
            assert not await other.acquire()
            assert await lock.owned()
            assert await lock.locked()
            assert await lock.extend(100)
            assert await one.ttl("name") > 100
            assert await lock.reacquire()
            assert await one.ttl("name") <= 10
        assert await two.get("name") is None
        with trio.CancelScope() as scope:
            async with other:
                scope.cancel()
                await trio.sleep_forever()
        assert await one.get("name") is None
        counts: list[int] = []

        async def count(client: RedisClient) -> None:
            for _ in range(10):
                async with client.lock("name", sleep=0.001):
                    counts.append(1)
                    await trio.lowlevel.checkpoint()
                    assert len(counts) == 1
                    counts.clear()

        async with trio.open_nursery() as nursery:
            for client in (one, two, one, two):
                nursery.start_soon(count, client)


async def test_a_script_that_a_restarted_server_does_not_know(nursery: trio.Nursery) -> None:
    async with LocalRedis() as server, RedisClient(server.address) as client:
        script = client.register_script("return {KEYS[1], ARGV[1]}")
        assert await script(keys=["k"], args=["v"]) == [b"k", b"v"]
        await server.restart()
        assert await script(keys=["k"], args=["w"]) == [b"k", b"w"]
        await client.script_flush()
        async with client.pipeline() as pipe:
            await script(keys=["k"], args=["x"], client=pipe)
            assert await pipe.execute() == [[b"k", b"x"]]
