"""The stream of topology events, as an application reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import (
    SERVICE,
    Error,
    Network,
    Reply,
    Sentinel,
    Service,
    on_mock_time,
    settled,
)
from tests.trio.fakes.sentinel import Monitored
from trio_sentinel_scan import (
    Address,
    ClientClosed,
    EventsMissed,
    MasterChange,
    MasterState,
    RedisClient,
    ReplicaAdd,
    ReplicaRemove,
    SentinelAdd,
    SentinelClient,
    SentinelRemove,
    ServerReboot,
    TopologyEvent,
    TopologyEvents,
    TopologyUnavailable,
)
from trio_sentinel_scan._trio.sentinel import POLL_PERIOD

pytestmark = pytest.mark.trio(run=on_mock_time)

MASTER, FIRST, SECOND = (Address(f"10.0.0.{number}", 6379) for number in (1, 2, 3))


async def so_far(events: TopologyEvents) -> list[TopologyEvent | EventsMissed]:
    """What has happened by now."""
    await settled()
    found: list[TopologyEvent | EventsMissed] = []
    with trio.move_on_after(1e-9):
        while True:
            found.append(await events.receive())
    return found


def say(service: Service, **views: Any) -> None:
    """All Sentinels say this of the first replica."""
    for host in service.sentinels:
        host.program.views[FIRST] = views


async def test_how_the_service_is_found_is_the_state(service: Service, client: SentinelClient) -> None:
    async with client.open_topology() as events:
        assert await so_far(events) == []
        state = events.state
    assert state.master == client.master == MasterState(MASTER, 0, service.master.program.run_id)
    assert state.master.identity.run_id == service.master.program.run_id
    assert [replica.address for replica in state.replicas] == [FIRST, SECOND]
    assert all(replica.is_linked for replica in state.replicas)
    assert [sentinel.address for sentinel in state.sentinels] == service.addresses


async def test_a_failover_is_told_once(service: Service, client: SentinelClient) -> None:
    """Though three Sentinels tell of it, one after the other, and each lists replicas anew."""
    async with client.open_topology() as events:
        old = service.master
        old.kill()
        await service.elect(detect=1.0, tell=0.9)
        for host in service.sentinels:
            host.program.views[old.address] = {"runid": "", "role-reported": "master"}
        await trio.sleep(5)
        change, promoted = await so_far(events)
        assert isinstance(change, MasterChange)
        assert (change.old, change.new, change.old_config_epoch, change.config_epoch) == (MASTER, FIRST, 0, 1)
        assert change.time == pytest.approx(1.9)
        assert promoted == ReplicaRemove(FIRST, "promoted", 1, change.time)
        assert client.master.address == events.state.master.address == FIRST
        for host in service.sentinels:
            host.program.views.clear()
        service.bring_back(old)
        await trio.sleep(POLL_PERIOD)
        [back] = await so_far(events)
        assert isinstance(back, ReplicaAdd)
        assert (back.address, back.run_id) == (MASTER, old.program.run_id)


async def test_a_replica_that_goes_and_comes(service: Service, client: SentinelClient) -> None:
    """+sdown makes it look, and the Sentinels' lists say what is the case."""
    async with client.open_topology() as events:
        say(service, flags="slave,s_down,disconnected")
        payload = f"slave {FIRST} {FIRST.host} {FIRST.port} @ {SERVICE} {MASTER.host} {MASTER.port}"
        for host in service.sentinels:
            host.program.publish("+sdown", payload)
        now = trio.current_time()
        assert await so_far(events) == [ReplicaRemove(FIRST, "down", 0, now)]
        say(service)
        for host in service.sentinels:
            host.program.publish("-sdown", payload)
        [back] = await so_far(events)
        assert isinstance(back, ReplicaAdd)
        assert (back.address, back.run_id) == (FIRST, service.servers[1].program.run_id)


async def test_an_event_alone_is_no_evidence(service: Service, client: SentinelClient) -> None:
    async with client.open_topology() as events:
        for host in service.sentinels:
            for channel in ("+sdown", "+reboot"):
                host.program.publish(channel, f"slave x {FIRST.host} {FIRST.port} @ {SERVICE} 10.0.0.1 6379")
        await trio.sleep(3)
        assert await so_far(events) == []


async def test_a_reboot_that_a_sentinel_sees(service: Service, client: SentinelClient) -> None:
    """Of a replica, to which no connection of ours goes."""
    host = service.servers[1]
    before = host.program.run_id
    async with client.open_topology() as events:
        await trio.sleep(20)
        host.restart()
        await trio.sleep(POLL_PERIOD)
        [event] = await so_far(events)
        assert isinstance(event, ServerReboot)
        assert (event.address, event.role, event.old_run_id) == (FIRST, "replica", before)
        assert event.new_run_id == host.program.run_id


async def test_a_reboot_that_our_own_connection_sees(service: Service, client: SentinelClient) -> None:
    """Sentinels take up to ten seconds to notice; a command finds out when it connects again."""
    old = service.master.program.run_id
    for host in service.sentinels:
        host.program.views[service.master.address] = {"runid": old}
    async with client.open_topology() as events:
        await trio.sleep(20)
        service.master.restart()
        await client.ping()
        [event] = await so_far(events)
        assert isinstance(event, ServerReboot)
        assert (event.address, event.role, event.old_run_id) == (MASTER, "master", old)
        assert client.master.run_id == event.new_run_id == service.master.program.run_id
        for host in service.sentinels:
            host.program.views.clear()
        await trio.sleep(20)
        assert await so_far(events) == []


async def test_sentinels_join_and_leave(network: Network, service: Service, client: SentinelClient) -> None:
    joining = network.add(Sentinel(("10.0.1.4", 26379), "4" * 40))
    programs = [host.program for host in service.sentinels]
    joining.program.services[SERVICE] = Monitored(service.master.address, 0)
    joining.program.peers, joining.program.servers = programs, programs[0].servers
    async with client.open_topology() as events:
        for program in programs:
            program.peers.append(joining.program)
        await trio.sleep(POLL_PERIOD)
        [event] = await so_far(events)
        assert isinstance(event, SentinelAdd)
        assert (event.address, event.sentinel_id) == (("10.0.1.4", 26379), "4" * 40)
        joining.kill()
        await trio.sleep(5)
        assert await so_far(events) == []
        assert [sentinel.answers for sentinel in events.state.sentinels] == [True, True, True, False]
        for program in programs:
            program.peers.remove(joining.program)
        await trio.sleep(5)
        [event] = await so_far(events)
        assert isinstance(event, SentinelRemove)
        assert event.sentinel_id == "4" * 40


async def test_a_sentinel_that_may_not_list_replicas_still_tells_of_the_master(service: Service) -> None:
    for host in service.sentinels:
        host.tap("SENTINEL REPLICAS", times=float("inf"), instead=Reply(Error("NOPERM no permissions")))
    async with SentinelClient(service.addresses, SERVICE) as client, client.open_topology() as events:
        assert events.state.replicas == ()
        service.fail_over()
        [event] = await so_far(events)
        assert isinstance(event, MasterChange)


# ---- readers ----------------------------------------------------------------------------------------------------


async def test_a_slow_reader_gets_the_newest_state(service: Service, client: SentinelClient) -> None:
    """Another one, beside it, gets everything."""
    async with client.open_topology(buffer=2) as slow, client.open_topology() as quick:
        for flags in ("slave,s_down", "slave", "slave,s_down"):
            say(service, flags=flags)
            await trio.sleep(POLL_PERIOD + 0.1)
        service.fail_over(service.servers[2])
        events = await so_far(quick)
        assert [type(event) for event in events] == [
            *(ReplicaRemove, ReplicaAdd, ReplicaRemove),
            *(MasterChange, ReplicaRemove),
        ]
        [missed] = await so_far(slow)
        assert isinstance(missed, EventsMissed)
        assert missed.count == 5
        assert missed.state == slow.state
        assert missed.state.master.address == SECOND


async def test_a_reader_waits_for_what_happens(service: Service, client: SentinelClient) -> None:
    heard: list[TopologyEvent | EventsMissed] = []
    async with client.open_topology() as events, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _read() -> None:
            while True:
                heard.append(await events.receive())

        await trio.sleep(100)
        assert heard == []
        service.fail_over()
        await settled()
        assert [type(event) for event in heard] == [MasterChange, ReplicaRemove]
        nursery.cancel_scope.cancel()


async def test_a_receive_that_is_cancelled_loses_nothing(service: Service, client: SentinelClient) -> None:
    async with client.open_topology() as events:
        service.fail_over()
        await settled()
        with trio.CancelScope() as scope:
            scope.cancel()
            await events.receive()
        assert scope.cancelled_caught
        assert isinstance(await events.receive(), MasterChange)


async def test_outside_of_its_block_it_is_closed(service: Service, client: SentinelClient) -> None:
    """State that remains: nothing of it at the client."""
    async with client.open_topology() as events, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await events.receive()

        await settled()
        await events.aclose()
    assert client._monitor.subscribers == set()
    with pytest.raises(trio.ClosedResourceError):
        await events.receive()
    await events.aclose()


async def test_when_the_client_is_closed_readers_are_told(network: Network) -> None:
    """After what had happened until then; the last state stays to be read."""
    service = Service(network)
    async with trio.open_nursery() as nursery:
        client = SentinelClient(service.addresses, SERVICE)
        async with client:
            opening = client.open_topology()
            events = await opening.__aenter__()
            service.fail_over()
            await settled()

            @nursery.start_soon
            async def _read() -> None:
                assert isinstance(await events.receive(), MasterChange)
                assert isinstance(await events.receive(), ReplicaRemove)
                with pytest.raises(ClientClosed):
                    await events.receive()

        assert events.state.master.address == FIRST
        await settled()
    await opening.__aexit__(None, None, None)


async def test_a_client_that_is_opened_again_begins_anew(service: Service) -> None:
    """What happened in between is how it is found."""
    client = SentinelClient(service.addresses, SERVICE)
    async with client:
        pass
    service.fail_over()
    async with client, client.open_topology() as events:
        assert events.state.master.address == client.master.address == FIRST
        assert await so_far(events) == []


def _master(client: SentinelClient) -> object:
    return client.master


@pytest.mark.parametrize("use", [SentinelClient.open_topology, _master])
async def test_outside_of_its_block_a_client_knows_of_nothing(
    service: Service, use: Callable[[SentinelClient], object]
) -> None:
    client = SentinelClient(service.addresses, SERVICE)
    for _ in range(2):
        with pytest.raises(ClientClosed):
            use(client)
        async with client:
            use(client)


# ---- one server -------------------------------------------------------------------------------------------------


async def test_one_server_has_no_topology(service: Service) -> None:
    async with RedisClient(service.master.address) as client:
        with pytest.raises(TopologyUnavailable, match="use a SentinelClient"):
            client.open_topology()


async def test_one_server_and_its_process(service: Service) -> None:
    client = RedisClient(service.master.address)
    assert (client.server.address, client.server.run_id) == (MASTER, None)
    async with client:
        assert client.server.run_id == service.master.program.run_id
        service.master.restart()
        await client.ping()
        assert client.server.run_id == service.master.program.run_id


# ---- the log ----------------------------------------------------------------------------------------------------


async def test_reboots_stand_in_the_log_and_the_rest_for_who_looks(
    service: Service, client: SentinelClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_sentinel_scan.sentinel")
    old = service.master.program.run_id
    service.master.restart()
    await client.ping()
    say(service, flags="slave,s_down")
    await trio.sleep(2 * POLL_PERIOD)
    service.fail_over(service.servers[2])
    await settled()
    told = [(record.levelname, record.getMessage()) for record in caplog.records if "service my" in record.getMessage()]
    new = service.servers[0].program.run_id
    assert told == [
        ("INFO", f"service mymaster: the master {MASTER} was restarted: run_id {old[:8]} is {new[:8]} now"),
        ("DEBUG", f"service mymaster: the replica {FIRST} is gone (down)"),
        ("INFO", f"service mymaster: the master is {SECOND} (config epoch 1)"),
        ("DEBUG", f"service mymaster: the replica {SECOND} is gone (promoted)"),
    ]
