"""Commands on a cluster while its nodes die and its slots move: the history is checked, and each redirection."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.real.histories import Workload
from tests.real.scenes import HANG, clients_tasks, until
from trio_sentinel_scan import KeysInDifferentSlots
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan._trio.cluster import ClusterClient
from trio_sentinel_scan.testing import LocalCluster, LocalClusterNode, ServerBinary

pytestmark = pytest.mark.trio

full = pytest.mark.full


@asynccontextmanager
async def open_client(cluster: LocalCluster, **options: Any) -> AsyncGenerator[ClusterClient]:
    """A client of which nothing is left afterwards."""
    with trio.fail_after(HANG):
        tasks = clients_tasks()
        async with ClusterClient(cluster.addresses, **({"failover_timeout": 30.0} | options)) as client:
            yield client
        assert clients_tasks() == tasks


def keys_in(slot: int, number: int, prefix: bytes = b"") -> list[bytes]:
    """So many keys of one slot."""
    tag = next(tag for tag in (b"%d" % n for n in range(1_000_000)) if slot_of(tag) == slot)
    return [b"{%b}%b:%d" % (tag, prefix, n) for n in range(number)]


def has_owner(client: ClusterClient, slot: int, node: LocalClusterNode) -> bool:
    """Whether the client knows that the node has the slot."""
    owner = client.map.owner(slot)
    return owner is not None and owner.address == node.address


# ---- a numbered workload -----------------------------------------------------------------------------------------


async def planned_failover(cluster: LocalCluster) -> None:
    await cluster.failover(cluster.nodes[0])


async def killed(cluster: LocalCluster) -> None:
    await cluster.wait_for_new_master(await cluster.kill(cluster.nodes[1]))


async def slots_moved(cluster: LocalCluster) -> None:
    """Those of ten of the workload's counters, and of ten of its lists, one after the other."""
    for number in range(10):
        for name in (f"counter:{number}", f"list:{number}"):
            slot = slot_of(name.encode())
            owner = await cluster.owner(slot)
            await cluster.migrate_slot(slot, next(node for node in await cluster.masters() if node is not owner))


@pytest.mark.slow
@pytest.mark.parametrize(
    "befall, may_lose",
    [(planned_failover, True), (killed, True), (slots_moved, False)],
    ids=["planned failover", "SIGKILL", "migration"],
)
async def test_a_workload(server_binary: ServerBinary, befall: Any, may_lose: bool) -> None:
    """Each command ends, by its reply or by CommandOutcomeUnknown. What was answered is there (unless a failover lost
    it: replication is asynchronous), and nothing has run twice.
    """
    async with LocalCluster(node_timeout=1.0, binary=server_binary) as cluster, open_client(cluster) as client:
        workload = Workload(client, may_lose=may_lose)
        await workload.set_up()
        await cluster.wait_until_ready()
        async with workload.running():
            await befall(cluster)
        await workload.check()
        assert client.statistics().unavailable == 0
        assert client.statistics().redirected or befall is killed
        if befall is slots_moved:
            assert workload.unknown == 0


# ---- redirections ------------------------------------------------------------------------------------------------


async def test_a_hundred_tasks_that_are_redirected_ask_for_the_map_once(server_binary: ServerBinary) -> None:
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        slot = 42
        keys = keys_in(slot, 100)
        await client.set(keys[0], 0)
        await cluster.migrate_slot(slot, cluster.nodes[2])
        assert not has_owner(client, slot, cluster.nodes[2])
        before = client._monitor.refreshes
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(client.incr, key)
        assert has_owner(client, slot, cluster.nodes[2])
        assert client.statistics().redirected == 100
        await until(lambda: client._monitor.refreshes > before)
        await client.set(keys[0], 0)
        await trio.sleep(0.5)
        assert client._monitor.refreshes == before + 1
        assert client.statistics().redirected == 100


async def test_a_half_done_migration(each_server_binary: ServerBinary) -> None:
    """Keys are on both sides, and each command finds its own; the map stays as it is."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        slot = 7
        keys = keys_in(slot, 40)
        for key in keys:
            await client.set(key, key)
        known = client.map
        migration = await cluster.begin_migration(slot, cluster.nodes[1])
        await migration.move(20)
        assert [await client.get(key) for key in keys] == keys
        assert client.statistics().redirected == 20
        fresh = keys_in(slot, 5, b"fresh")
        for key in fresh:
            await client.set(key, key)
        assert set(fresh) <= await cluster.nodes[1].keys()
        assert client.map is known
        # Keys on both sides: the server says TRYAGAIN until they are together again.
        found: list[Any] = []

        async def ask() -> None:
            found.append(await client.mget(keys))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(lambda: client.statistics().sent_again > 40)
            assert not found
            await migration.move()
        assert found == [keys]
        await migration.finish()
        assert [await client.get(key) for key in keys] == keys
        assert has_owner(client, slot, cluster.nodes[1])


async def test_keys_in_different_slots(server_binary: ServerBinary) -> None:
    """Said before anything is sent; what has a way to do it all the same, does it."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        sent = client.statistics().sent
        with pytest.raises(KeysInDifferentSlots, match="MGET has keys in 2 slots") as caught:
            await client.mget("a", "b")
        assert caught.value.slots == tuple(sorted((slot_of(b"a"), slot_of(b"b"))))
        assert client.statistics().sent == sent
        assert await client.mset_nonatomic({"a": 1, "b": 2, "c": 3}) == [True, True, True]
        assert await client.mget_nonatomic("a", "b", "nothing", "c") == [b"1", b"2", None, b"3"]
        assert await client.exists("a", "b", "nothing") == 2
        assert await client.touch("a", "b", "c") == 3
        assert await client.unlink("a") == 1
        assert await client.delete("a", "b", "c") == 2
