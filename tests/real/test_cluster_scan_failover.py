"""A cluster's scan while masters are replaced, restarted, killed, added and removed: every key is accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.real.cluster_scenes import ClusterAccount, can_move_atomically, keys_of_slot, open_client
from tests.real.scenes import until
from trio_sentinel_scan import ConfigError, ScanInterrupted, ScanRestartsExhausted, SlotsNotCovered
from trio_sentinel_scan._core.slots import set_of, slots_in
from trio_sentinel_scan.testing import LocalCluster

if TYPE_CHECKING:
    from trio_sentinel_scan import ScanSummary
    from trio_sentinel_scan.testing import LocalClusterNode, ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.slow]

KEYS = 30_000
SLOW: dict[str, Any] = {"count": 20, "segments": 1, "max_nodes_at_once": 1, "prefetch": 0}


async def restarted_slots(summary: ScanSummary, node: LocalClusterNode) -> set[int]:
    """The slots that were swept again after they had been swept at this node."""
    node_id = await node.node_id()
    assert {restart.node for restart in summary.restarts} == {node_id}
    return set(slots_in(set_of(one for restart in summary.restarts for one in restart.slots)))


async def test_a_healthy_master_hands_over(each_server_binary: ServerBinary) -> None:
    """Its shard is swept again at the new master, the others are not."""
    async with LocalCluster(binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        two = cluster.nodes[1]
        account = ClusterAccount()
        async with client.open_scan(**SLOW) as pages:
            await account.take_until_at(pages, two)
            new = await cluster.failover(two)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)
        assert await restarted_slots(pages.summary, two) == set((await new.view()).slots)
        (restart,) = pages.summary.restarts
        assert restart.new_server is not None
        assert restart.new_server.run_id == await new.run_id()


async def test_a_master_is_killed(each_server_binary: ServerBinary) -> None:
    """While it is swept. The others are swept to their end in the meantime."""
    async with (
        LocalCluster(node_timeout=1.0, binary=each_server_binary) as cluster,
        open_client(cluster) as client,
    ):
        keys = await cluster.fill(KEYS)
        two = cluster.nodes[1]
        two_id = await two.node_id()
        account = ClusterAccount()
        async with client.open_scan(count=20, segments=1, prefetch=0, dedupe=True) as pages:
            await account.take_until_at(pages, two)
            await cluster.kill(two)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)
        assert len(account.keys()) == len(keys)
        assert {restart.node for restart in pages.summary.restarts} == {two_id}


@pytest.mark.parametrize("which", [[1], [0, 1]], ids=["one", "two"])
async def test_masters_are_restarted(each_server_binary: ServerBinary, which: list[int]) -> None:
    """At the same address, with the same keys in another order: another process."""
    async with (
        LocalCluster(node_timeout=15.0, binary=each_server_binary) as cluster,
        open_client(cluster) as client,
    ):
        keys = await cluster.fill(KEYS)
        account = ClusterAccount()
        async with client.open_scan(count=20, segments=1, prefetch=0) as pages:
            for number in range(3):
                await account.take_until_at(pages, cluster.nodes[number])
            async with trio.open_nursery() as nursery:
                for number in which:
                    nursery.start_soon(cluster.nodes[number].restart)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)
        again = {restart.node for restart in pages.summary.restarts}
        assert again == {await cluster.nodes[number].node_id() for number in which}
        assert "restarted" in pages.summary.restarts[0].reason


async def test_it_may_be_forbidden_to_begin_again(server_binary: ServerBinary) -> None:
    """By `on_failover` and by `max_restarts`."""
    async with LocalCluster(binary=server_binary) as cluster, open_client(cluster) as client:
        # More than a node gives until it is asked for its role.
        keys = await cluster.fill(KEYS)
        cases: list[tuple[int, dict[str, Any]]] = [(8_000, {"on_failover": "raise"}), (12_000, {"max_restarts": 0})]
        for slot, arguments in cases:
            account = ClusterAccount()
            master = await cluster.owner(slot)
            async with client.open_scan(**SLOW, **arguments) as pages:
                await account.take_until_at(pages, master)
                await cluster.failover(master)
                with pytest.raises((ScanInterrupted, ScanRestartsExhausted)) as caught:
                    await account.take_the_rest(pages)
            assert isinstance(caught.value, ScanInterrupted) == ("on_failover" in arguments)
            assert caught.value.summary is not None
            assert not caught.value.summary.complete
            assert caught.value.summary.keys == len(account.keys())
            assert set(account.keys()) < keys
            await cluster.wait_until_ready()


async def test_a_node_comes_and_one_goes(each_server_binary: ServerBinary) -> None:
    """Some slots go to the new one; then all of another one's go, and it with them."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        account = ClusterAccount()
        one, two, _ = cluster.nodes
        async with client.open_scan(count=20, segments=1, prefetch=0) as pages:
            await account.take(pages, 3)
            new = await cluster.add_node()
            assert await cluster.rebalance_to(new)
            await account.take(pages, 3)
            if can_move_atomically(cluster):
                slots = sorted((await two.view()).slots)
                assert len(slots) == slots[-1] - slots[0] + 1
                await cluster.migrate_slots_atomically(range(slots[0], slots[-1] + 1), one)
            else:
                await cluster.migrate_slots((await two.view()).slots, one)
            await cluster.remove_node(two)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)
        new_id = await new.node_id()
        assert new_id in account.nodes


async def test_a_slot_without_an_owner_for_a_while(each_server_binary: ServerBinary) -> None:
    """For three seconds, with its keys where they are: the rest is scanned, and then they are."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        slot = 12_000
        owner = await cluster.owner(slot)
        away = keys_of_slot(slot, 50)
        await cluster.write(away)
        away |= await keys_in(cluster, slot)
        await cluster.uncover([slot])
        account = ClusterAccount()
        async with client.open_scan() as pages, trio.open_nursery() as nursery:
            nursery.start_soon(account.take_the_rest, pages)
            await until(lambda: keys - away <= set(account.keys()))
            # However long that took, it is without an owner for longer than a poll of the map or a round of asking.
            await trio.sleep(3)
            assert not pages.summary.complete
            assert not away & set(account.keys())
            await cluster.cover([slot], owner)
        account.check_complete(pages.summary, keys | away)
        assert pages.summary.uncovered_slots == ()


async def keys_in(cluster: LocalCluster, slot: int) -> set[bytes]:
    """The keys that a slot has."""
    reply = await (await cluster.owner(slot)).execute("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
    assert isinstance(reply, list)
    return {key for key in reply if isinstance(key, bytes)}


async def test_a_slot_without_an_owner_for_ever(each_server_binary: ServerBinary) -> None:
    """An error that names it; or a scan without it, that names it, too."""
    async with (
        LocalCluster(replicas=0, binary=each_server_binary) as cluster,
        open_client(cluster, failover_timeout=1.5) as client,
    ):
        keys = await cluster.fill(KEYS)
        lost = await keys_in(cluster, 12_000) | await keys_in(cluster, 12_001)
        for node in cluster.nodes:
            await node.execute("CLUSTER", "DELSLOTS", 12_000, 12_001)
        account = ClusterAccount()
        async with client.open_scan() as pages:
            with pytest.raises(SlotsNotCovered, match="slots 12000-12001") as caught:
                await account.take_the_rest(pages)
        assert caught.value.slots == ((12_000, 12_001),)
        assert set(account.keys()) == keys - lost
        again = ClusterAccount()
        async with client.open_scan(allow_uncovered=True) as pages:
            await again.take_the_rest(pages)
        assert set(again.keys()) == keys - lost
        assert pages.summary.complete
        assert pages.summary.uncovered_slots == ((12_000, 12_001),)


async def test_a_master_without_a_replica_is_killed(each_server_binary: ServerBinary) -> None:
    """Its slots have nobody any more, the others' are scanned."""
    async with (
        LocalCluster(replicas=0, node_timeout=1.0, binary=each_server_binary) as cluster,
        open_client(cluster, failover_timeout=4) as client,
    ):
        keys = await cluster.fill(KEYS)
        two = cluster.nodes[1]
        lost = await two.keys()
        slots = set_of([(min((await two.view()).slots), max((await two.view()).slots))])
        account = ClusterAccount()
        async with client.open_scan(**SLOW) as pages:
            await account.take_until_at(pages, two)
            await cluster.kill(two)
            with pytest.raises(SlotsNotCovered) as caught:
                await account.take_the_rest(pages)
        assert set_of(caught.value.slots) == slots
        assert set(account.keys()) >= keys - lost
        again = ClusterAccount()
        async with client.open_scan(allow_uncovered=True) as pages:
            await again.take_the_rest(pages)
        assert set(again.keys()) == keys - lost
        assert set_of(pages.summary.uncovered_slots) == slots


async def test_one_node_alone(each_server_binary: ServerBinary) -> None:
    """A master, by its id or its address; a replica; what leaves it is let go; and when all has gone."""
    async with LocalCluster(binary=each_server_binary) as cluster, open_client(cluster) as client:
        await cluster.fill(KEYS)
        one, two, three = cluster.nodes[:3]
        (replica,) = await cluster.replicas(two)
        for node, name in ((two, await two.node_id()), (two, two.address), (replica, await replica.node_id())):
            account = ClusterAccount()
            async with client.open_scan(node=name) as pages:
                await account.take_the_rest(pages)
            assert set(account.keys()) == await two.keys()
            assert account.nodes == [await node.node_id()]
            certificate = pages.summary.certificate
            assert certificate is not None
            assert certificate.role == ("master" if node is two else "slave")
            assert pages.summary.slots_let_go == ()
        account = ClusterAccount()
        async with client.open_scan(node=two.address, count=20, segments=1, prefetch=0) as pages:
            await account.take(pages)
            await cluster.migrate_slot(6_000, one)
            stayed = await two.keys()
            await account.take_the_rest(pages)
        assert set(account.keys()) >= stayed
        assert pages.summary.complete
        assert pages.summary.slots_let_go == ((6_000, 6_000),)
        account = ClusterAccount()
        async with client.open_scan(node=three.address, count=20, segments=1, prefetch=0) as pages:
            await account.take(pages)
            await cluster.failover(three)
            await account.take_the_rest(pages)
        # It is a replica now, and still the node that was asked for.
        assert set(account.keys()) == await three.keys()
        assert account.nodes == [await three.node_id()]
        assert pages.summary.epoch == 1
        assert pages.summary.certificate is not None
        assert pages.summary.certificate.role == "slave"
        with pytest.raises(ConfigError, match="neither the id nor the address"):
            client.open_scan(node="10.0.0.1:7000")


async def test_replicas(each_server_binary: ServerBinary) -> None:
    """Each shard at its replica; one of them is killed meanwhile, and the master has to do."""
    async with LocalCluster(binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        masters = cluster.nodes[:3]
        replicas = [(await cluster.replicas(master))[0] for master in masters]
        account = ClusterAccount()
        async with client.open_scan(read_from="replica", with_=("type",)) as pages:
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)
        assert set(account.nodes) == {await node.node_id() for node in replicas}
        assert {details.type for page in account.pages for details in page.details.values()} == {"string"}
        ids = {await node.node_id() for node in (*replicas, masters[1])}
        account = ClusterAccount()
        async with client.open_scan(**SLOW, read_from="replica", fallback="master") as pages:
            await account.take_until_at(pages, replicas[1])
            await cluster.kill(replicas[1])
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)
        assert set(account.nodes) == ids
