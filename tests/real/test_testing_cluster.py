"""LocalCluster: a real cluster whose slots move, and whose masters are replaced, on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests import _leaks
from trio_sentinel_scan.testing import CommandFailed, LocalCluster, ServerNotRunning, make_test_certificates
from trio_sentinel_scan.testing._cluster_node import SLOTS, slot_of

if TYPE_CHECKING:
    from pathlib import Path

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.slow]


async def all_keys(cluster: LocalCluster) -> set[bytes]:
    """The keys that the masters have."""
    found: set[bytes] = set()
    for master in await cluster.masters():
        found |= await master.keys()
    return found


def keys_of_slot(slot: int, number: int) -> set[bytes]:
    """So many keys in one slot."""
    tag = next(word for word in map(str, range(1_000_000)) if slot_of(word.encode()) == slot)
    return {b"{%b}:%d" % (tag.encode(), at) for at in range(number)}


async def test_the_slot_of_a_key() -> None:
    """As the servers have it: the examples of the cluster's specification, and its corner cases."""
    await trio.lowlevel.checkpoint()
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"{user1000}.following") == slot_of(b"{user1000}.followers") == slot_of(b"user1000")
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")
    assert slot_of(b"foo{bar}{zap}") == slot_of(b"bar")
    assert slot_of(b"foo{bar") != slot_of(b"bar")


@pytest.mark.smoke
async def test_it_begins_when_everybody_agrees(each_server_binary: ServerBinary) -> None:
    """Every slot has an owner, every master its replica, and the keys are where they belong."""
    async with LocalCluster(binary=each_server_binary) as cluster:
        assert len(cluster.nodes) == 6
        assert cluster.url == "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        masters = await cluster.masters()
        assert masters == cluster.nodes[:3]
        assert sum([len((await node.view()).slots) for node in masters]) == SLOTS
        assert [await cluster.replicas(node) for node in masters] == [[node] for node in cluster.nodes[3:]]
        keys = await cluster.fill(500)
        assert len(keys) == 500
        assert await all_keys(cluster) == keys
        for node in masters:
            (replica,) = await cluster.replicas(node)
            assert await replica.keys() == await node.keys() != set()
            slots = (await node.view()).slots
            assert {slot_of(key) for key in await node.keys()} <= slots
            assert await cluster.owner(min(slots)) is node


async def test_a_slot_moves_step_by_step(each_server_binary: ServerBinary) -> None:
    """Begun, half done, and finished; in between its flags are on both sides. Cancelled, they are gone."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster:
        one, two, three = cluster.nodes
        keys = keys_of_slot(7, 250)
        await cluster.write(keys)
        migration = await cluster.begin_migration(7, two)
        assert (migration.source, migration.target) == (one, two)
        assert (await one.view()).migrating == {7: await two.node_id()}
        assert (await two.view()).importing == {7: await one.node_id()}
        assert await migration.move(120) == 120
        assert len(await one.keys()) == 130
        assert len(await two.keys()) == 120
        assert await migration.move() == 130
        await migration.finish()
        assert await cluster.owner(7) is two
        for node in (one, two, three):
            assert not (await node.view()).migrating
            assert not (await node.view()).importing
        await cluster.migrate_slot(7, three)
        assert await cluster.owner(7) is three
        assert await three.keys() == keys
        given_up = await cluster.begin_migration(7, one)
        await given_up.move(10)
        await given_up.cancel()
        assert await cluster.owner(7) is three
        assert not (await three.view()).migrating
        assert len(await one.keys()) == 10


async def test_slots_move_at_once_where_the_server_can(each_server_binary: ServerBinary) -> None:
    """Valkey from 9.0 on; others say that they do not know the command."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster:
        keys = await cluster.fill(2_000)
        if each_server_binary.product == "valkey" and each_server_binary.version_info >= (9,):
            await cluster.migrate_slots_atomically(range(500), cluster.nodes[2])
            assert set(range(500)) <= (await cluster.nodes[2].view()).slots
        else:
            with pytest.raises(CommandFailed, match="MIGRATESLOTS"):
                await cluster.migrate_slots_atomically(range(500), cluster.nodes[2])
        assert await all_keys(cluster) == keys


async def test_masters_are_replaced(server_binary: ServerBinary) -> None:
    """A healthy one by order, and a dead one by the others' vote; it comes back as a replica."""
    async with LocalCluster(node_timeout=1.0, binary=server_binary) as cluster:
        keys = await cluster.fill(300)
        first, second = cluster.nodes[:2]
        new = await cluster.failover(first)
        assert new is cluster.nodes[3]
        assert await cluster.replicas(new) == [first]
        assert await cluster.kill(second) is second
        successor = await cluster.wait_for_new_master(second)
        assert successor is cluster.nodes[4]
        await second.start()
        await cluster.wait_until_ready()
        assert await cluster.replicas(successor) == [second]
        assert await all_keys(cluster) == keys


async def test_nodes_come_and_go(server_binary: ServerBinary) -> None:
    """One that is new has no slots; one that has some is not sent away."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        await cluster.write(keys_of_slot(9, 5))
        new = await cluster.add_node()
        assert cluster.nodes[-1] is new
        assert new not in await cluster.masters()
        await cluster.migrate_slot(9, new)
        assert new in await cluster.masters()
        with pytest.raises(ValueError, match="still has slots"):
            await cluster.remove_node(new)
        await cluster.migrate_slot(9, cluster.nodes[0])
        await cluster.remove_node(new)
        assert not new.running
        assert len(cluster.nodes) == 3
        await cluster.wait_until_ready()
        assert len(await cluster.nodes[0].views()) == 3


async def test_with_a_password_and_tls(tls_server_binary: ServerBinary, tmp_path: Path) -> None:
    """Clients, nodes among themselves, and migrations."""
    certificates = await trio.to_thread.run_sync(make_test_certificates, tmp_path)
    async with LocalCluster(
        replicas=0, username="app", password="pass word", tls=certificates, binary=tls_server_binary
    ) as cluster:
        assert cluster.url.startswith("rediss+cluster://app:pass%20word@127.0.0.1:")
        keys = keys_of_slot(3, 5)
        await cluster.write(keys)
        await cluster.migrate_slot(3, cluster.nodes[1])
        assert await cluster.nodes[1].keys() == keys


@pytest.mark.skipif(not _leaks.CAN_SEE, reason="the processes are counted in /proc")
async def test_nothing_is_left_when_it_is_cancelled(server_binary: ServerBinary) -> None:
    """In the middle of its start, and of a wait that has no end."""
    before = set(_leaks.child_processes())
    cluster = LocalCluster(binary=server_binary)
    with trio.move_on_after(0.2) as scope:
        async with cluster:
            raise AssertionError("it cannot start in no time")
    assert scope.cancelled_caught
    assert set(_leaks.child_processes()) <= before
    other = LocalCluster(1, 0, binary=server_binary)
    async with trio.open_nursery() as nursery, other:
        nursery.start_soon(other.wait_for_new_master, other.nodes[0])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert set(_leaks.child_processes()) <= before


async def test_what_cannot_be() -> None:
    """Said at once, or at the first use."""
    with pytest.raises(ValueError, match="masters >= 1"):
        LocalCluster(0)
    with pytest.raises(ValueError, match="replicas >= 0"):
        LocalCluster(3, -1)
    with pytest.raises(ServerNotRunning, match="async with"):
        await LocalCluster().wait_until_ready()
