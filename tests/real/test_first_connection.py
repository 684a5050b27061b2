"""Entering a client of real servers that are not up, not what they are named as, or want another password."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.real.scenes import HANG, clients_tasks
from trio_sentinel_scan import (
    AuthenticationFailed,
    MasterNotFound,
    NoSentinelReachable,
    RedisClient,
    SentinelClient,
    SentinelScanError,
)
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

pytestmark = pytest.mark.trio


async def refused(client: SentinelClient | RedisClient) -> SentinelScanError:
    """The error with which the client is not opened. No task of it is left; after the test, sockets are looked for."""
    with trio.fail_after(HANG), pytest.raises(SentinelScanError) as caught:
        async with client:
            pytest.fail("it was opened")
    assert clients_tasks() == []
    return caught.value


def lines_of(error: SentinelScanError, service: LocalSentinel) -> list[str]:
    """The error's lines about the Sentinels: one for each."""
    lines = sorted(line.strip() for line in str(error).splitlines()[1:])
    for line, (host, port) in zip(lines, sorted(service.sentinels), strict=True):
        assert line.startswith(f"{host}:{port}: ")
    return lines


@pytest.mark.parametrize("wait_ready", [False, True])
async def test_a_password_that_is_wrong(wait_ready: bool) -> None:
    """Nothing to wait for."""
    async with LocalSentinel(replicas=1, password="data", sentinel_password="watch") as service:

        def client(password: str | None, sentinel_password: str | None) -> SentinelClient:
            return SentinelClient(
                service.sentinels,
                service.service,
                password=password,
                sentinel_password=sentinel_password,
                wait_ready=wait_ready,
                failover_timeout=None,
            )

        for wrong in ("hunter2", None):
            error = await refused(client("data", wrong))
            assert isinstance(error, NoSentinelReachable)
            assert all("refuse" in line for line in lines_of(error, service))
            assert "hunter2" not in str(error)
            error = await refused(client(wrong, "watch"))
            assert isinstance(error, AuthenticationFailed)
            assert any("names " in line for line in lines_of(error, service))
            assert "hunter2" not in str(error)
        async with client("data", "watch") as opened:
            await opened.ping()


async def test_a_master_that_is_not_one() -> None:
    """Somebody has made it a replica by hand; the Sentinels name it all the same."""
    async with LocalSentinel(replicas=1) as service:
        master, [replica] = await service.master(), await service.replicas()
        await master.execute("REPLICAOF", *map(str, replica.address))
        error = await refused(SentinelClient(service.sentinels, service.service))
        assert isinstance(error, MasterNotFound)
        assert "its role is slave" in str(error).splitlines()[0]
        assert all("names " in line for line in lines_of(error, service))


async def test_a_service_that_is_not_up_yet_is_waited_for() -> None:
    """First nobody answers, then the Sentinels, then the master itself."""
    async with LocalSentinel(replicas=1, down_after=30.0) as service, trio.open_nursery() as nursery:
        master = await service.master()
        for server in (master, *service.sentinel_nodes):
            await server.kill()
        assert isinstance(await refused(SentinelClient(service.sentinels, service.service)), NoSentinelReachable)
        opened = trio.Event()

        @nursery.start_soon
        async def _open() -> None:
            async with SentinelClient(service.sentinels, service.service, wait_ready=True) as client:
                assert client.master.run_id == await master.run_id()
                await client.ping()
                opened.set()

        for server in (*service.sentinel_nodes, master):
            assert not opened.is_set()
            await server.start()
        with trio.fail_after(HANG):
            await opened.wait()


async def test_a_server_that_is_not_up_yet_is_waited_for() -> None:
    async with LocalRedis() as server, trio.open_nursery() as nursery:
        await server.kill()
        opened = trio.Event()

        @nursery.start_soon
        async def _open() -> None:
            async with RedisClient(server.address, wait_ready=True) as client:
                assert client.server.run_id == await server.run_id()
                opened.set()

        await trio.testing.wait_all_tasks_blocked()
        assert not opened.is_set()
        await server.start()
        with trio.fail_after(HANG):
            await opened.wait()
