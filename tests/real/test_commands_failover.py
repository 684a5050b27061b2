"""Many tasks' commands on one client while servers die, hang, restart and are replaced: the history is checked."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.real.histories import Workload
from tests.real.scenes import HANG, Stage, open_booth, open_stage, until_followed
from trio_sentinel_scan import CommandOutcomeUnknown, RedisClient
from trio_sentinel_scan.testing import LocalRedis

pytestmark = pytest.mark.trio

full = pytest.mark.full


# ---- with Sentinels ---------------------------------------------------------------------------------------------


async def killed(stage: Stage) -> None:
    await stage.depose(kill=True)


async def planned(stage: Stage) -> None:
    await stage.depose()


async def hung(stage: Stage) -> None:
    """SIGSTOP: nothing but the Sentinels' word tells; the client's patience with replies has no end here."""
    old = await stage.service.pause()
    await stage.order_failover()
    await stage.service.wait_for_new_master(old)


@pytest.mark.parametrize(
    "befall, times",
    [
        (killed, 1),
        (hung, 1),
        pytest.param(planned, 1, marks=full),
        pytest.param(killed, 3, marks=full),
        pytest.param(planned, 3, marks=full),
    ],
)
async def test_a_workload_through_failovers(nursery: trio.Nursery, befall: Any, times: int) -> None:
    """Replication is asynchronous: what was answered may be gone. But nothing runs twice, and nobody is mixed up."""
    for _ in range(times):
        async with open_stage(nursery) as stage, stage.client() as client:
            workload = Workload(client, may_lose=True)
            await workload.set_up()
            await stage.service.wait_replicated()
            async with workload.running():
                await befall(stage)
                await until_followed(client, await stage.service.master())
            await workload.check()
            assert client.statistics().reconnects >= 1
            assert client.statistics().unavailable == 0


async def test_a_hung_masters_commands_go_on_by_the_sentinels_word(nursery: trio.Nursery) -> None:
    """`response_timeout` is None here, so nothing else can end them. One whose caller has gone hides nothing."""
    async with open_stage(nursery) as stage, stage.client() as client:
        await client.set("k", "v")
        await stage.service.wait_replicated()
        old = await stage.service.pause()
        with trio.move_on_after(0.05):
            await client.get("k")
        unknown = 0

        async def write() -> None:
            nonlocal unknown
            with pytest.raises(CommandOutcomeUnknown, match="MASTER_CHANGE"):
                await client.incr("n")
            unknown += 1

        async def read() -> None:
            assert await client.get("k") == b"v"

        async with trio.open_nursery() as callers:
            for _ in range(10):
                callers.start_soon(write)
                callers.start_soon(read)
            await stage.order_failover()
        assert unknown == 10
        assert (await stage.service.master()).address != old.address
        assert await client.get("n") is None


# ---- one server -------------------------------------------------------------------------------------------------


async def kill_connections(server: LocalRedis, times: int = 20) -> None:
    """CLIENT KILL, again and again."""
    for _ in range(times):
        await server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await trio.sleep(0.02)


@pytest.mark.parametrize("retry_writes", [False, True])
async def test_a_workload_through_a_storm_of_client_kill(retry_writes: bool) -> None:
    """No data is lost: each answered write is there once, each that is not answered at most once."""
    with trio.fail_after(HANG):
        async with LocalRedis() as server, RedisClient(server.address, retry_writes=retry_writes) as client:
            workload = Workload(client, may_lose=False, retries_writes=retry_writes)
            await workload.set_up()
            async with workload.running():
                await kill_connections(server)
            await workload.check()
            assert client.statistics().reconnects >= 10
            assert (workload.unknown == 0) is retry_writes


async def test_a_workload_through_a_pause(nursery: trio.Nursery) -> None:
    """Shorter than anybody's patience: nothing comes of it."""
    async with open_booth(nursery) as booth, booth.client() as client:
        workload = Workload(client, may_lose=False)
        await workload.set_up()
        async with workload.running():
            await booth.server.pause()
            await trio.sleep(0.2)
            await booth.server.resume()
        await workload.check()
        assert (workload.unknown, client.statistics().reconnects) == (0, 0)


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=full)])
async def test_a_workload_through_restarts_on_the_same_port(nursery: trio.Nursery, times: int) -> None:
    async with open_booth(nursery) as booth, booth.client() as client:
        workload = Workload(client, may_lose=True)
        await workload.set_up()
        await booth.server.save()
        async with workload.running():
            for _ in range(times):
                await booth.server.restart(save=False)
                await workload.turns(2)
        await workload.check()
        assert client.statistics().reconnects >= times


async def test_a_server_that_hangs_is_left_after_response_timeout_though_its_callers_gave_up(
    nursery: trio.Nursery,
) -> None:
    async with open_booth(nursery) as booth, booth.client(response_timeout=0.3) as client:
        await client.set("k", "v")
        (link,) = booth.proxy.links
        await booth.server.pause()
        with trio.move_on_after(0.05) as scope:
            await client.get("k")
        assert scope.cancelled_caught
        await link.gone.wait()
        await booth.server.resume()
        assert await client.get("k") == b"v"
