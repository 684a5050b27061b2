"""Topology events, on every back end: each change is told once, by whatever number of Sentinels."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest

from tests.anyio.editions import Edition
from tests.anyio.in_thread import Servers
from tests.anyio.scenes import depose, service
from tests.real.scenes import until
from trio_sentinel_scan import MasterChange, ReplicaAdd, ReplicaRemove, ServerReboot
from trio_sentinel_scan.testing import CommandFailed

full = pytest.mark.full


async def hurry(local: Any) -> None:
    """Have the Sentinels look at the servers twice a second instead of every ten seconds, where they can be told to."""
    for sentinel in local.sentinel_nodes:
        with suppress(CommandFailed):  # Redis 6.2
            await sentinel.execute("SENTINEL", "DEBUG", "info-period", "500", "publish-period", "250")


class Reader:
    """What is read of a stream of events, by a task of its own."""

    def __init__(self) -> None:
        self.read: list[Any] = []

    async def receive(self, events: Any) -> None:
        """To the end of the stream, or until cancelled."""
        async for event in events:
            self.read.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        """Those of this kind."""
        return [event for event in self.read if isinstance(event, kind)]

    async def first(self, kind: type[Any]) -> Any:
        """The first event of this kind."""
        await until(lambda: self.of(kind))
        return self.of(kind)[0]


async def test_a_failover_is_told_once_to_each_reader(edition: Edition, servers: Servers) -> None:
    """The state changes in the step in which the event is told of; commands go to the new master."""
    async with servers(service()) as local:
        await hurry(local)
        old = await local.master()
        async with (
            edition.package.SentinelClient(local.sentinels, local.service) as client,
            client.open_topology() as one,
            client.open_topology() as other,
        ):
            assert one.state.master == client.master
            assert (client.master.address, client.master.run_id) == (old.address, await old.run_id())
            assert {sentinel.address for sentinel in one.state.sentinels} == set(local.sentinels)
            readers = Reader(), Reader()
            async with anyio.create_task_group() as task_group:
                for events, reader in zip((one, other), readers, strict=True):
                    task_group.start_soon(reader.receive, events)
                await old.kill()
                new = await depose(local)
                for reader in readers:
                    change = await reader.first(MasterChange)
                    assert (change.old, change.new) == (old.address, new.address)
                    assert change.config_epoch > change.old_config_epoch
                await client.ping()
                assert (client.master.address, client.master.run_id) == (new.address, await new.run_id())
                # What the slowest of the Sentinels has to say comes before its word of the next thing.
                await old.start()
                for reader in readers:
                    back = await reader.first(ReplicaAdd)
                    assert (back.address, back.run_id) == (old.address, await old.run_id())
                    assert len(reader.of(MasterChange)) == 1
                task_group.cancel_scope.cancel()


@full
async def test_a_replica_goes_and_is_back(edition: Edition, servers: Servers) -> None:
    async with servers(service()) as local:
        await hurry(local)
        (replica,) = await local.replicas()
        async with (
            edition.package.SentinelClient(local.sentinels, local.service) as client,
            client.open_topology() as events,
            anyio.create_task_group() as task_group,
        ):
            reader = Reader()
            task_group.start_soon(reader.receive, events)
            await replica.kill()
            gone = await reader.first(ReplicaRemove)
            assert (gone.address, gone.reason) == (replica.address, "down")
            assert events.state.replicas == ()
            await replica.start()
            assert (await reader.first(ReplicaAdd)).address == replica.address
            assert not reader.of(MasterChange)
            task_group.cancel_scope.cancel()


async def test_a_reboot_is_told(edition: Edition, servers: Servers) -> None:
    """The master's, by our own next connection."""
    async with servers(service()) as local:
        master = await local.master()
        before = await master.run_id()
        async with (
            edition.package.SentinelClient(local.sentinels, local.service) as client,
            client.open_topology() as events,
        ):
            await client.ping()
            await master.restart()
            await client.ping()
            reboot = await events.receive()
            assert isinstance(reboot, ServerReboot)
            assert (reboot.address, reboot.role) == (master.address, "master")
            assert (reboot.old_run_id, reboot.new_run_id) == (before, await master.run_id())
            await events.aclose()
            with pytest.raises(edition.closed):
                await events.receive()


async def test_sentinels_that_die_one_after_the_other(edition: Edition, servers: Servers) -> None:
    """The client goes from one to the next, and with none left still has its master."""
    async with (
        servers(service()) as local,
        edition.package.SentinelClient(local.sentinels, local.service) as client,
    ):
        await client.set("k", "v")
        for sentinel in local.sentinel_nodes:
            await sentinel.kill()
            assert await client.get("k") == b"v"
        for sentinel in local.sentinel_nodes:
            await sentinel.start()
        await local.kill()
        new = await depose(local)
        await until(lambda: client.master.address == new.address)
        assert await client.ping()
