"""Commands, on every back end: each ends by its reply or by CommandOutcomeUnknown, and none runs twice."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.anyio.editions import Edition
from tests.anyio.in_thread import Servers
from tests.anyio.scenes import Tally, depose, service
from tests.real.histories import Workload
from tests.real.scenes import until
from trio_sentinel_scan import CommandOutcomeUnknown, LeaseLost, ServerUnavailable, TooManyCommandsWaiting
from trio_sentinel_scan.testing import LocalRedis

full = pytest.mark.full


async def waiting(server: Any, number: int = 1) -> None:
    """Until so many commands wait at the server."""
    while (await server.execute("CLIENT", "LIST")).count(b" flags=b ") < number:  # noqa: ASYNC110 (another process)
        await anyio.sleep(0.01)


# ---- masters that change -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("befall", ["killed", pytest.param("hung", marks=full), pytest.param("planned", marks=full)])
async def test_a_workload_through_a_failover(edition: Edition, servers: Servers, befall: str) -> None:
    """Fifty tasks. Replication is asynchronous: what was answered may be gone, but nothing runs twice."""
    async with (
        servers(service()) as local,
        edition.package.SentinelClient(local.sentinels, local.service, response_timeout=None) as client,
    ):
        workload = Workload(client, may_lose=True)
        await workload.set_up()
        await local.wait_replicated()
        async with workload.running():
            if befall == "planned":
                new = await local.failover()
            else:
                await (local.kill() if befall == "killed" else local.pause())
                new = await depose(local)
            await until(lambda: client.master.address == new.address)
        await workload.check()
        assert client.statistics().reconnects >= 1
        assert client.statistics().unavailable == 0


@full
async def test_pipelines_through_a_failover(edition: Edition, servers: Servers) -> None:
    """Of a transaction all is there or nothing, and never twice."""
    async with (
        servers(service()) as local,
        edition.package.SentinelClient(local.sentinels, local.service) as client,
    ):

        async def push(number: int) -> None:
            await client.pipeline().rpush("a", number).rpush("b", number).execute()

        tally = Tally(push)
        async with tally.running():
            await local.kill()
            new = await depose(local)
            await until(lambda: client.master.address == new.address)
        a, b = [[int(value) for value in await client.lrange(name, 0, -1)] for name in ("a", "b")]
        assert a == b
        tally.check(a, may_lose=True)


@full
async def test_what_waits_at_a_master_that_is_killed(edition: Edition, servers: Servers) -> None:
    """A blocking command is in doubt, a lease is lost, and both can be had of the next master."""
    async with (
        servers(service()) as local,
        edition.package.SentinelClient(local.sentinels, local.service) as client,
        anyio.create_task_group() as task_group,
    ):
        ended = anyio.Event()

        async def pop() -> None:
            with pytest.raises(CommandOutcomeUnknown):
                await client.blpop("q", timeout=0)
            ended.set()

        task_group.start_soon(pop)
        async with client.dedicated() as lease:
            await lease.ping()
            await waiting(await local.master())
            await local.kill()
            await ended.wait()
            with pytest.raises((LeaseLost, CommandOutcomeUnknown)):
                await lease.incr("n")
            with pytest.raises(LeaseLost):
                await lease.ping()
        new = await depose(local)
        async with client.dedicated() as lease:
            assert lease.server.address == new.address
        await client.rpush("q", "value")
        assert await client.blpop("q", timeout=0) == (b"q", b"value")


# ---- one server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_writes", [False, pytest.param(True, marks=full)])
async def test_a_workload_while_its_connections_are_killed(
    edition: Edition, servers: Servers, retry_writes: bool
) -> None:
    """No data is lost: each answered write is there once, each that is not answered at most once."""
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address, retry_writes=retry_writes) as client,
    ):
        workload = Workload(client, may_lose=False, retries_writes=retry_writes)
        await workload.set_up()
        async with workload.running():
            for _ in range(10):
                await server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await workload.turns(1)
        await workload.check()
        assert client.statistics().reconnects >= 10
        assert not (retry_writes and workload.unknown)


async def test_pipelines_while_their_connections_are_killed(edition: Edition, servers: Servers) -> None:
    """With and without a transaction; the results are in the order of the commands."""
    async with servers(LocalRedis()) as server, edition.package.RedisClient(server.address) as client:

        async def push(number: int) -> None:
            pipe = client.pipeline(transaction=number % 2 == 0)
            results = await pipe.rpush("list", number).set(f"k:{number}", number).get(f"k:{number}").execute()
            assert results[1:] == [True, b"%d" % number]

        tally = Tally(push)
        async with tally.running():
            for _ in range(10):
                await server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await tally.turns(10)
        tally.check([int(value) for value in await client.lrange("list", 0, -1)])
        assert client.statistics().reconnects >= 1


async def test_a_restart_is_waited_for(edition: Edition, servers: Servers) -> None:
    """And a server that stays away is an error after `failover_timeout`; one that is back is used again."""
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address, failover_timeout=0.5) as client,
    ):
        await client.set("k", "v")
        await server.restart()
        assert await client.get("k") == b"v"
        await server.kill()
        with pytest.raises(ServerUnavailable):
            await client.get("k")
        await server.start()
        assert await client.ping()


async def test_replies_and_values_that_fill_all_buffers(edition: Edition, servers: Servers) -> None:
    """Many megabytes each way, on one connection, between commands of other tasks: each gets its own."""
    values = {f"k:{number}": b"%d" % number * 3_000_000 for number in range(4)}
    async with servers(LocalRedis()) as server, edition.package.RedisClient(server.address) as client:
        small = 0

        async def store(name: str) -> None:
            await client.set(name, values[name])
            assert await client.get(name) == values[name]

        async def count() -> None:
            nonlocal small
            for _ in range(200):
                await client.incr("n")
                small += 1

        async with anyio.create_task_group() as task_group:
            for name in values:
                task_group.start_soon(store, name)
            task_group.start_soon(count)
        assert await client.mget(*values) == list(values.values())
        assert int(await client.get("n")) == small == 200


async def test_a_server_that_stands_still_fills_everything(edition: Edition, servers: Servers) -> None:
    """What is sent meanwhile waits, a caller may leave, and nothing is lost or mixed up when it goes on."""
    data = b"x" * 1_000_000
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address, response_timeout=None) as client,
    ):
        await client.ping()
        await server.pause()
        async with anyio.create_task_group() as task_group:
            for number in range(20):
                task_group.start_soon(client.set, f"k:{number}", data)
            with anyio.move_on_after(0.1) as scope:
                await client.incr("left")
            assert scope.cancelled_caught
            await server.resume()
        assert await client.mget([f"k:{number}" for number in range(20)]) == [data] * 20
        assert client.statistics().in_flight == 0


async def test_more_commands_than_may_wait(edition: Edition, servers: Servers) -> None:
    async with (
        servers(LocalRedis()) as server,
        edition.package.RedisClient(server.address, response_timeout=None, max_waiting=5) as client,
    ):
        await client.ping()
        await server.kill()
        refused = done = 0

        async def ask() -> None:
            nonlocal refused, done
            try:
                await client.get("k")
                done += 1
            except TooManyCommandsWaiting:
                refused += 1

        async with anyio.create_task_group() as task_group:
            for _ in range(20):
                task_group.start_soon(ask)
            await until(lambda: refused)
            await server.start()
        assert refused
        assert refused + done == 20


async def test_blocking_commands_leases_and_transactions(edition: Edition, servers: Servers) -> None:
    async with servers(LocalRedis()) as server, edition.package.RedisClient(server.address) as client:
        popped: list[int] = []

        async def pop() -> None:
            popped.append(int((await client.blpop("q", timeout=0))[1]))

        async with anyio.create_task_group() as task_group:
            for _ in range(20):
                task_group.start_soon(pop)
            await waiting(server, 20)
            assert await client.set("k", "v")
            await client.rpush("q", *range(20))
        assert sorted(popped) == list(range(20))
        with anyio.move_on_after(0.05):
            await client.blpop("q", timeout=0)
        async with client.dedicated() as lease:
            await lease.select(3)
            assert await lease.get("k") is None
        assert await client.get("k") == b"v"

        async def double(pipe: Any) -> None:
            now = int(await pipe.get("n") or 1)
            pipe.multi()
            pipe.set("n", 2 * now)

        async with anyio.create_task_group() as task_group:
            for _ in range(10):
                task_group.start_soon(client.transaction, double, "n")
        assert await client.get("n") == b"1024"


async def test_locks(edition: Edition, servers: Servers) -> None:
    """Held by one at a time; given back by who is cancelled, while waiting for it or in its block."""
    async with servers(LocalRedis()) as server, edition.package.RedisClient(server.address) as client:
        holders = most = rounds = 0

        async def work() -> None:
            nonlocal holders, most, rounds
            for _ in range(3):
                async with client.lock("lock", sleep=0.005):
                    holders += 1
                    most = max(most, holders)
                    rounds += 1
                    await client.ping()
                    holders -= 1

        async with anyio.create_task_group() as task_group:
            for _ in range(5):
                task_group.start_soon(work)
        assert (most, rounds) == (1, 15)
        async with client.lock("lock"):
            with anyio.move_on_after(0.05) as scope:
                await client.lock("lock", sleep=0.005).acquire()
            assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            async with client.lock("lock"):
                scope.cancel()
                # (Not a command: on asyncio a reply may come before the cancellation does.)
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert await client.exists("lock") == 0
