"""The scan of a cluster on fake nodes: who it is that is swept, what is left of it, and cancellation at its steps."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import pytest
import trio

from tests.trio.fakes import (
    CancelAtStep,
    Error,
    FakeCluster,
    Hold,
    Network,
    Reply,
    Value,
    on_mock_time,
    settled,
    tasks_below,
)
from tests.trio.test_cancellation import is_below, nothing_is_left, sampled, spread
from trio_sentinel_scan import (
    AuthenticationFailed,
    ClientClosed,
    ClusterClient,
    ScanInterrupted,
    ScanNotCertified,
    ScanPages,
    ServerUnavailable,
)
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan._trio import cluster_scan

pytestmark = pytest.mark.trio(run=on_mock_time)

KEYS: Final = {b"key:%d" % number for number in range(120)}
# One that the first node has, and that is on its way in some tests.
KEY: Final = min(key for key in KEYS if slot_of(key) < 5_461)
Scenario = Callable[[FakeCluster, ClusterClient], Awaitable[None]]


def make_cluster(network: Network) -> FakeCluster:
    """The world as each run finds it."""
    network.hosts.clear()
    network.connect_delay = 0
    cluster = FakeCluster(network)
    for key in KEYS:
        cluster.of(key).program.put(0, key, Value(b"value"))
    return cluster


@pytest.fixture
def cluster(network: Network) -> FakeCluster:
    return make_cluster(network)


async def all_of(pages: ScanPages[Any]) -> set[bytes]:
    return {key for page in [page async for page in pages] for key in page}


async def sweep(client: ClusterClient, **arguments: Any) -> set[bytes]:
    """A whole scan."""
    async with client.open_scan(count=10, **arguments) as pages:
        return await all_of(pages)


def end_the_way(cluster: FakeCluster, key: bytes) -> None:
    """The slot of a key has come to where it was on its way to, with its keys."""
    slot = slot_of(key)
    source = cluster.of(key)
    cluster.move(slot, next(host for host in cluster.hosts if host.address == cluster.migrating[slot]))
    for other in [other for other in source.program.data[0] if slot_of(other) == slot]:
        source.program.put(0, other, None)
        cluster.of(key).program.put(0, other, Value(b"value"))
    del cluster.migrating[slot]


# ---- who it is that is swept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
async def test_addresses_have_changed_hands(
    network: Network, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Two nodes have each other's address when the lanes connect, and their own when the masters are asked.

    So it is where nodes are given addresses when they start, and where another connection leads elsewhere. Without the
    guard, each lane sweeps the other node, finds none of its own slots' keys there, and the masters confirm them.
    """
    if not guarded:

        async def believe(*args: object, **kwargs: object) -> None:
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(cluster_scan._LaneSource, "_meet", believe)
    one, two, _ = cluster.hosts
    async with ClusterClient(cluster.addresses, failover_timeout=30) as client:
        # What asks the nodes about the cluster is connected by now, and stays so.
        await client._monitor.survey()
        network.hosts[one.address], network.hosts[two.address] = two, one
        async with client.open_scan(count=10) as pages, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def give_back() -> None:
                await trio.sleep(5)
                network.hosts[one.address], network.hosts[two.address] = one, two

            found = await all_of(pages)
        assert pages.summary.complete
        assert (found == KEYS) is guarded
    nothing_is_left(network)


async def test_another_node_is_there_for_good(cluster: FakeCluster) -> None:
    """What it is that stands in the way is said in the end."""
    one = cluster.hosts[0]
    async with ClusterClient(cluster.addresses, failover_timeout=5) as client:
        one.tap("CLUSTER MYID", times=1000, instead=Reply(b"f" * 40))
        with pytest.raises(ServerUnavailable, match="is node ffffffff now, and not node 00000000"):
            await sweep(client)


async def test_a_node_does_not_say_who_it_is(cluster: FakeCluster) -> None:
    """For a while, or because it may not."""
    one = cluster.hosts[0]
    async with ClusterClient(cluster.addresses) as client:
        one.tap("CLUSTER MYID", times=3, instead=Reply(Error("LOADING Redis is loading the dataset in memory")))
        assert await sweep(client) == KEYS
        one.tap("CLUSTER MYID", times=9, instead=Reply(Error("NOPERM this user has no permissions to run it")))
        with pytest.raises(AuthenticationFailed, match="refuses CLUSTER MYID: this user has no permissions"):
            await sweep(client)


async def test_nobody_may_tell_of_the_nodes(cluster: FakeCluster) -> None:
    """The error says that; slots without an owner are another matter."""
    for host in cluster.hosts:
        host.tap("CLUSTER NODES", times=1000, instead=Reply(Error("NOPERM no permissions to run 'cluster|nodes'")))
    async with ClusterClient(cluster.addresses, failover_timeout=3) as client:
        with pytest.raises(ScanNotCertified, match=r"could not be asked .*no permissions to run"):
            await sweep(client, allow_uncovered=True)


# ---- how it ends -------------------------------------------------------------------------------------------------


async def test_consumers_close_early(network: Network, cluster: FakeCluster) -> None:
    """One of two, and the other goes on; then both, and the scan stops while its block lasts."""
    async with ClusterClient(cluster.addresses) as client:
        await settled()
        tasks = len(tasks_below(trio.lowlevel.current_task()))
        async with client.open_scan(count=5, prefetch=0) as pages:
            other = pages.clone()
            await other.receive()
            await other.aclose()
            async for _ in pages:
                pass
            assert pages.summary.complete
        async with client.open_scan(count=5, prefetch=0) as pages:
            other = pages.clone()
            await pages.receive()
            await other.aclose()
            await pages.aclose()
            await trio.sleep(5)
            # (One holds the block's nursery.)
            assert len(tasks_below(trio.lowlevel.current_task())) == tasks + 1
            with pytest.raises(trio.ClosedResourceError):
                await pages.receive()
        assert not pages.summary.complete
        assert await sweep(client) == KEYS
    nothing_is_left(network)


async def test_a_body_raises(network: Network, cluster: FakeCluster) -> None:
    """It comes out as it is, and nothing is left."""
    async with ClusterClient(cluster.addresses) as client:
        await settled()
        tasks = len(tasks_below(trio.lowlevel.current_task()))
        with pytest.raises(ZeroDivisionError):
            async with client.open_scan(count=5, prefetch=0) as pages:
                async for _ in pages:
                    raise ZeroDivisionError
        assert len(tasks_below(trio.lowlevel.current_task())) == tasks
        assert client._monitor.on_stop == set()
    nothing_is_left(network)


async def test_the_client_closes_first(network: Network, cluster: FakeCluster) -> None:
    """The scan's next page is the error that says so."""
    async with ClusterClient(cluster.addresses) as client, client.open_scan(count=5, prefetch=0) as pages:
        await pages.receive()
        client._monitor.stop()
        with pytest.raises(ClientClosed):
            await pages.receive()
    nothing_is_left(network)


async def test_a_duty_leaves_each_node_its_time(cluster: FakeCluster) -> None:
    """Each SCAN takes a node 10 ms; the first ones are sent before anything is known of what they cost."""
    taken: dict[float, float] = {}
    for duty in (1.0, 0.25):
        for host in cluster.hosts:
            host.delay = 0.0
            host.tap("SCAN", after=partial(setattr, host, "delay", 0.01))
        async with ClusterClient(cluster.addresses) as client:
            begun = trio.current_time()
            async with client.open_scan(count=1, segments=1, duty=duty) as pages:
                assert await all_of(pages) == KEYS
            taken[duty] = trio.current_time() - begun
    assert taken[0.25] > 3 * taken[1.0]


@pytest.mark.parametrize("nodes", [1, 2, 3])
async def test_the_client_closes_while_nodes_are_asked(network: Network, cluster: FakeCluster, nodes: int) -> None:
    """From another task, while what asks the masters is connecting: what comes of that is closed all the same."""
    may_go_on, is_closing = trio.Event(), trio.Event()
    client = ClusterClient(cluster.addresses)

    async def scan() -> None:
        with pytest.raises(ClientClosed):
            await sweep(client)

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def own() -> None:
            async with client:
                for host in cluster.hosts[-nodes:]:
                    host.tap("HELLO", instead=Hold(may_go_on))
                nursery.start_soon(scan)
                await settled()
                is_closing.set()

        await is_closing.wait()
        await settled()
        assert network.open_client_ends
        may_go_on.set()
    nothing_is_left(network)


async def test_a_client_that_is_opened_again_keeps_nothing_of_before(network: Network, cluster: FakeCluster) -> None:
    """What was connecting when it was closed is of no use to it, and who waited for that connection dials none."""
    may_go_on = trio.Event()
    client = ClusterClient(cluster.addresses)
    host = cluster.hosts[-1]

    async def ask() -> None:
        with pytest.raises(ClientClosed):
            await client._monitor.ask(Address(*host.address), ("PING",))

    async with trio.open_nursery() as nursery:
        async with client:
            host.tap("HELLO", instead=Hold(may_go_on))
            dialled = len(host.commands("HELLO"))
            for _ in range(3):
                nursery.start_soon(ask)
            await settled()
            assert len(host.commands("HELLO")) == dialled + 1
        async with client:
            may_go_on.set()
            await settled()
            assert len(host.commands("HELLO")) == dialled + 1
    nothing_is_left(network)


# ---- cancellation ------------------------------------------------------------------------------------------------


async def slots_on_their_way(cluster: FakeCluster, client: ClusterClient) -> None:
    """A slot half on its way; commands in the loop; it comes to rest while another lane is under way."""
    cluster.migrating[slot_of(KEY)] = cluster.hosts[2].address
    async with client.open_scan(count=10, prefetch=1, max_nodes_at_once=2) as pages:
        number = 0
        async for page in pages:
            number += 1
            if number == 3:
                end_the_way(cluster, KEY)
            await client.get(page.keys[0])
    assert pages.summary.complete


async def trouble_with_nodes(cluster: FakeCluster, client: ClusterClient) -> None:
    """One is restarted, one loses its connections, one is slow; two consumers."""
    one, two, three = cluster.hosts
    one.tap("SCAN", skip=1, before=one.restart)
    two.tap("SCAN", skip=1, after=two.drop_clients)
    three.delay = 0.1
    found: set[bytes] = set()
    async with client.open_scan(count=10) as pages, trio.open_nursery() as nursery:

        async def consume() -> None:
            async with pages.clone() as mine:
                async for page in mine:
                    found.update(page)

        nursery.start_soon(consume)
        nursery.start_soon(consume)
    assert pages.summary.complete
    assert found == KEYS


async def a_scan_that_fails(cluster: FakeCluster, client: ClusterClient) -> None:
    """The failure of one lane ends the others."""
    one = cluster.hosts[0]
    one.tap("SCAN", skip=1, before=one.restart)
    async with client.open_scan(count=10, on_failover="raise") as pages:
        with pytest.raises(ScanInterrupted):
            async for _ in pages:
                await trio.sleep(0.01)


SCENARIOS = [slots_on_their_way, trouble_with_nodes, a_scan_that_fails]


async def steps_of(run: Callable[[], Awaitable[None]], step: int | None, when: str) -> tuple[int, bool]:
    """Run it, and cancel it and all its tasks at a step."""
    me = trio.lowlevel.current_task()
    before = {me, *tasks_below(me)} - {me}
    scope = trio.CancelScope()
    instrument = CancelAtStep(scope, step, when, concerns=lambda task: is_below(task, me) and task not in before)
    with scope:
        trio.lowlevel.add_instrument(instrument)
        try:
            await run()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return instrument.steps, scope.cancelled_caught


@pytest.mark.slow
@sampled
@pytest.mark.parametrize("when", ["waiting", "waking"])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_scan_cancelled_at_each_step_leaves_the_client_whole(
    network: Network, scenario: Scenario, when: str, part: int | None
) -> None:
    """State that remains: the client with its own tasks, the lines to the nodes with nobody's turn held.

    No task of the scan's, no callback, no connection of a lane's; another scan of the same client completes.
    """

    async def run(step: int | None) -> tuple[int, bool]:
        cluster = make_cluster(network)
        async with ClusterClient(cluster.addresses) as client:
            await settled()
            monitor = client._monitor
            listeners = len(monitor.on_change)
            steps, cancelled = await steps_of(lambda: scenario(cluster, client), step, when)
            assert len(monitor.on_change) == listeners
            assert monitor.on_stop == set()
            assert not monitor._surveying.locked()
            for host in cluster.hosts:
                host.untap()
                host.delay = 0
            await trio.sleep(1)
            assert not any(line.turn.locked() for line in monitor._lines.values())
            # One for what is asked about the cluster, and one for commands.
            assert all(len(host.open_wires) <= 2 for host in cluster.hosts)
            left = {task.name for task in tasks_below(trio.lowlevel.current_task())}
            assert not {name for name in left if "scan." in name.removeprefix("trio_sentinel_scan.")}
            with trio.fail_after(60):
                assert await sweep(client) == KEYS
        nothing_is_left(network)
        return steps, cancelled

    steps, cancelled = await run(None)
    assert not cancelled
    assert any([(await run(step))[1] for step in spread(steps, part)])


@sampled
@pytest.mark.parametrize("when", ["waiting", "waking"])
async def test_a_client_cancelled_at_each_step_of_all_its_tasks(network: Network, when: str, part: int | None) -> None:
    """State that remains: nothing, wherever the map, the survey and the lanes were."""

    async def run(step: int | None) -> tuple[int, bool]:
        cluster = make_cluster(network)

        async def whole() -> None:
            async with ClusterClient(cluster.addresses) as client:
                await slots_on_their_way(cluster, client)

        outcome = await steps_of(whole, step, when)
        nothing_is_left(network)
        return outcome

    steps, _ = await run(None)
    assert any([(await run(step))[1] for step in spread(steps, part)])
