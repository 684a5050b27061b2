"""A thousand failovers: as many objects, as much memory and as many connections after the last as after the first."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.load.flatness import Flatness
from tests.trio.fakes import SERVICE, FakeCluster, Network, Service, Value, on_mock_time, settled
from trio_sentinel_scan import ClusterClient, Gap, SentinelClient
from trio_sentinel_scan._core.mailbox import Mailbox

pytestmark = pytest.mark.trio(run=on_mock_time)

LOOKS = 5
MANY = pytest.param(1_000, marks=[pytest.mark.full, pytest.mark.slow])


@pytest.fixture
def traced(rounds: int) -> Iterator[None]:
    """Memory too, where there is time for it."""
    if rounds > 100:
        tracemalloc.start()
    yield
    tracemalloc.stop()


def forget(service: Any) -> None:
    """What the fakes keep of the past is not ours."""
    for host in service.hosts:
        host.log.clear()
        host.wires = host.open_wires
        host.program._sessions = [session for session in host.program._sessions if session.is_open()]


@pytest.mark.parametrize("rounds", [60, MANY])
@pytest.mark.usefixtures("traced")
async def test_failovers(network: Network, rounds: int) -> None:
    """With a command, a scan that is under way, a subscriber, and a pipeline in each of them."""
    service = Service(network, keys=30)
    flat = Flatness()
    gaps = 0
    async with (
        SentinelClient(service.addresses, SERVICE, retry_writes=True) as client,
        client.pubsub(ignore_subscribe_messages=True, buffer=10) as subscriber,
        client.open_topology() as events,
    ):
        await subscriber.subscribe("news")
        for number in range(rounds):
            if number % 10 == 0:
                # (Their lists are as long as the scan has begun again.)
                async with client.open_scan(count=5, segments=1, max_restarts=rounds) as pages:
                    await pages.receive()
                    await one_failover(service, client, number)
                    async for _ in pages:
                        pass
            else:
                await one_failover(service, client, number)
            while not isinstance(await subscriber.receive(), Gap):
                pass
            gaps += 1
            with trio.move_on_after(0.1):
                while True:
                    await events.receive()
            network.dialled.clear()
            forget(service)
            # The first are for what warms up.
            if number >= rounds // 3 and number % (rounds * 2 // 3 // LOOKS) == 0:
                await settled()
                flat.look()
        await settled()
        # The commands', the subscriber's; and nobody has one to a server that was left.
        assert [len(server.open_wires) for server in service.servers] == [
            2 * (s is service.master) for s in service.servers
        ]
    assert gaps == rounds
    flat.check()


async def one_failover(service: Service, client: SentinelClient, number: int) -> None:
    """Of the three kinds in turn: killed, still there, hanging."""
    kind = number % 3
    old = service.fail_over(kill=kind == 0, hang=kind == 2)
    # (Of a master that goes on answering this is lost with it.)
    await client.set("n", 0)
    await settled()
    await client.set("n", number)
    assert await client.pipeline(transaction=False).get("n").execute() == [b"%d" % number]
    await trio.sleep(1)
    old.resume()
    if kind:
        service.demote(old)
    else:
        service.bring_back(old)
    await trio.sleep(3)


@pytest.mark.parametrize("rounds", [24, MANY])
@pytest.mark.usefixtures("traced")
async def test_restarts_of_a_clusters_nodes(network: Network, rounds: int) -> None:
    cluster = FakeCluster(network)
    for number in range(20):
        cluster.of(b"key:%d" % number).program.put(0, b"key:%d" % number, Value(b"x"))
    flat = Flatness()
    async with ClusterClient(cluster.addresses) as client:
        for number in range(rounds):
            cluster.hosts[number % 3].restart()
            cluster.move(number % 100, cluster.hosts[number % 2])
            assert await client.get(f"key:{number % 20}") == b"x"
            if number % 20 == 0:
                async with client.open_scan(count=10) as pages:
                    assert len({key for page in [page async for page in pages] for key in page}) == 20
            await trio.sleep(5)
            network.dialled.clear()
            for host in cluster.hosts:
                host.log.clear()
                host.wires = host.open_wires
                host.program._sessions = [session for session in host.program._sessions if session.is_open()]
            if number >= rounds // 3 and number % (rounds * 2 // 3 // LOOKS) == 0:
                await settled()
                flat.look()
    flat.check()


async def test_growth_is_noticed(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measure itself: something that is kept at each failover is seen."""
    service = Service(network)
    kept: list[object] = []
    flat = Flatness()
    async with SentinelClient(service.addresses, SERVICE, retry_writes=True) as client:
        for number in range(12):
            await one_failover(service, client, number)
            kept.extend(Mailbox(1, "block") for _ in range(2))
            forget(service)
            if number > 5:
                flat.look()
    assert flat.grown()[f"{Mailbox.__module__}.Mailbox"] == 10
