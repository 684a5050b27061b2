"""Topology events of real services: masters, replicas and Sentinels that are killed, restarted, added and removed."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from typing import TypeVar

import pytest
import trio

from tests.real.scenes import DOWN_AFTER, HANG
from trio_sentinel_scan import (
    Address,
    EventsMissed,
    MasterChange,
    ReplicaAdd,
    ReplicaRemove,
    SentinelAdd,
    SentinelClient,
    SentinelRemove,
    ServerReboot,
    TopologyEvent,
    TopologyEvents,
)
from trio_sentinel_scan.testing import CommandFailed, LocalRedis, LocalSentinel, LocalSentinelNode

pytestmark = pytest.mark.trio

EventT = TypeVar("EventT", bound=TopologyEvent)


def address_of(server: LocalRedis | LocalSentinelNode) -> Address:
    return Address(*server.address)


async def hurry(service: LocalSentinel) -> None:
    """Have the Sentinels look at the servers twice a second instead of every ten seconds, where they can be told to."""
    for sentinel in service.sentinel_nodes:
        with suppress(CommandFailed):  # Redis 6.2
            await sentinel.execute("SENTINEL", "DEBUG", "info-period", "500", "publish-period", "250")


class Reader:
    """What has been read of a stream of events."""

    def __init__(self, events: TopologyEvents) -> None:
        self._events = events
        self.read: list[TopologyEvent | EventsMissed] = []

    async def wait_for(self, kind: type[EventT]) -> EventT:
        """The next event of this kind; what comes before it is kept, too."""
        with trio.fail_after(HANG):
            while True:
                event = await self._events.receive()
                self.read.append(event)
                if isinstance(event, kind):
                    return event

    async def rest(self) -> None:
        """Read on until nothing has come for as long as a Sentinel takes to find out anything."""
        while True:
            with trio.move_on_after(2 * DOWN_AFTER) as scope:
                self.read.append(await self._events.receive())
            if scope.cancelled_caught:
                return

    def counts(self) -> Counter[str]:
        """How many of each kind have been read."""
        return Counter(type(event).__name__ for event in self.read)


@pytest.mark.slow
@pytest.mark.parametrize("planned", [False, True])
async def test_a_failover_is_told_once(planned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """By three Sentinels, the last of them seconds after the first; and stands in the log once."""
    caplog.set_level(logging.INFO, "trio_sentinel_scan")
    async with LocalSentinel(down_after=DOWN_AFTER) as service:
        await hurry(service)
        old = await service.master()
        others = {address_of(node) for node in service.nodes if node is not old}
        async with SentinelClient(service.sentinels, service.service) as client, client.open_topology() as events:
            assert events.state.master == client.master
            assert (client.master.address, client.master.run_id) == (address_of(old), await old.run_id())
            assert {replica.address for replica in events.state.replicas} == others
            assert {sentinel.address for sentinel in events.state.sentinels} == set(service.sentinels)
            reader = Reader(events)
            if planned:
                await service.failover()
            else:
                await old.kill()
            change = await reader.wait_for(MasterChange)
            new = await service.wait_for_new_master(old)
            assert (change.old, change.new) == (address_of(old), address_of(new))
            assert change.config_epoch > change.old_config_epoch
            if not planned:
                await old.start()
            # It says so itself, before it is told: a demoted master takes its time.
            back = await reader.wait_for(ReplicaAdd)
            assert (back.address, back.run_id) == (address_of(old), await old.run_id())
            await reader.rest()
            assert reader.counts() == {"MasterChange": 1, "ReplicaRemove": 1, "ReplicaAdd": 1}
            assert client.master.address == address_of(new)
            assert client.master.config_epoch == change.config_epoch
            await client.ping()
            assert client.master.run_id == await new.run_id()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"service mymaster: the master is {address_of(old)} (config epoch {change.old_config_epoch})",
        f"service mymaster: the master is {address_of(new)} (config epoch {change.config_epoch})",
    ]


@pytest.mark.slow
async def test_a_replica_that_is_killed_is_gone_until_it_is_back() -> None:
    async with LocalSentinel(down_after=DOWN_AFTER) as service:
        await hurry(service)
        [killed, other] = await service.replicas()
        async with SentinelClient(service.sentinels, service.service) as client, client.open_topology() as events:
            reader = Reader(events)
            await killed.kill()
            gone = await reader.wait_for(ReplicaRemove)
            assert (gone.address, gone.reason) == (address_of(killed), "down")
            assert [replica.address for replica in events.state.replicas] == [address_of(other)]
            await killed.start()
            back = await reader.wait_for(ReplicaAdd)
            assert back.address == address_of(killed)
            await reader.rest()
            if {replica.run_id for replica in events.state.replicas if replica.address == back.address} != {
                await killed.run_id()
            }:
                # A Sentinel of Redis 6.2 looks every ten seconds.
                await reader.wait_for(ServerReboot)
            counts = reader.counts()
            # Its new process may be found out after it is back.
            assert counts.pop("ServerReboot", 0) <= 1
            assert counts == {"ReplicaRemove": 1, "ReplicaAdd": 1}
            states = {replica.address: replica for replica in events.state.replicas}
            assert states[address_of(killed)].run_id == await killed.run_id()
            assert states[address_of(killed)].is_linked


@pytest.mark.slow
async def test_a_reboot_is_told_once() -> None:
    """The master's by our own next connection; a replica's, which nobody of us talks to, by the Sentinels."""
    async with LocalSentinel(down_after=DOWN_AFTER) as service:
        await hurry(service)
        master, replica = await service.master(), (await service.replicas())[0]
        async with SentinelClient(service.sentinels, service.service) as client, client.open_topology() as events:
            reader = Reader(events)
            for server, role in ((master, "master"), (replica, "replica")):
                before = await server.run_id()
                await server.restart()
                await client.ping()
                reboot = await reader.wait_for(ServerReboot)
                assert (reboot.address, reboot.role) == (address_of(server), role)
                assert (reboot.old_run_id, reboot.new_run_id) == (before, await server.run_id())
            await reader.rest()
            assert reader.counts()["ServerReboot"] == 2
            assert reader.counts()["MasterChange"] == 0


@pytest.mark.slow
async def test_a_sentinel_is_taken_away_and_joins_again() -> None:
    """As the manual has it: stop it, and SENTINEL RESET the others one after the other. Replicas are not disturbed."""
    async with LocalSentinel(replicas=1, down_after=DOWN_AFTER) as service:
        await hurry(service)
        *staying, leaving = service.sentinel_nodes
        # The client is not told of the one that leaves: it learns of it.
        addresses = [sentinel.address for sentinel in staying]
        async with SentinelClient(addresses, service.service) as client, client.open_topology() as events:
            reader = Reader(events)
            await leaving.kill()
            for sentinel in staying:
                await sentinel.execute("SENTINEL", "RESET", service.service)
                await service.wait_until_ready()
            gone = await reader.wait_for(SentinelRemove)
            assert (gone.address, gone.sentinel_id) == (address_of(leaving), leaving.myid)
            assert {sentinel.address for sentinel in events.state.sentinels} == set(addresses)
            await leaving.start()
            joined = await reader.wait_for(SentinelAdd)
            assert (joined.address, joined.sentinel_id) == (address_of(leaving), leaving.myid)
            await reader.rest()
            assert reader.counts() == {"SentinelRemove": 1, "SentinelAdd": 1}
