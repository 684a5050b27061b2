"""LocalCluster, further: what nodes say of each other, many slots at once, slots without an owner, a node cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.test_testing_cluster import all_keys, keys_of_slot
from trio_sentinel_scan.testing import CommandFailed, LocalCluster, make_test_certificates
from trio_sentinel_scan.testing._cluster_agreement import find_fault_in_roles, find_fault_in_slots
from trio_sentinel_scan.testing._cluster_node import SLOTS, LocalClusterNode, read_nodes, slot_of
from trio_sentinel_scan.testing._wire import text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = [pytest.mark.trio]


# ---- what they say of each other ---------------------------------------------------------------------------------


def seen_by(*lines: str) -> str:
    """CLUSTER NODES, from lines such as ``a master - 0-99``."""
    told = []
    for line in lines:
        node_id, flags, master, *slots = line.split()
        told.append(" ".join([node_id, "127.0.0.1:7000@17000", flags, master, "0", "0", "1", "connected", *slots]))
    return "\n".join(told)


@pytest.mark.parametrize(
    "third, fault",
    [
        ("c myself,slave a", None),
        ("c myself,slave b", "one does not know yet whether c is a master, or whose replica"),
        ("c myself,master -", "one does not know yet whether c is a master, or whose replica"),
    ],
    ids=["agreed", "another's replica", "not a replica"],
)
async def test_a_role_that_not_all_know(third: str, fault: str | None) -> None:
    """Slots alone do not show it."""
    await trio.lowlevel.checkpoint()
    views = {
        "one": read_nodes(seen_by("a myself,master - 0-99", "b master - 100-199", "c slave a", "d slave,fail b")),
        "two": read_nodes(seen_by("a master - 0-99", "b myself,master - 100-199", third.replace("myself,", ""))),
        "three": read_nodes(seen_by("a master - 0-99", "b master - 100-199", third, "d slave b")),
    }
    assert find_fault_in_slots(views, 200) is None
    assert find_fault_in_roles(views) == fault


@pytest.mark.parametrize("flags", ["slave,fail", "slave,fail?", "handshake", "slave,noaddr", ""])
async def test_one_that_is_up_must_be_seen(flags: str) -> None:
    """One that is down (d above) may be what it likes."""
    await trio.lowlevel.checkpoint()
    others = (f"b {flags} a",) if flags else ()
    views = {
        "one": read_nodes(seen_by("a myself,master - 0-99", *others)),
        "two": read_nodes(seen_by("a master - 0-99", "b myself,slave a")),
    }
    assert find_fault_in_roles(views) == "one does not see b"


async def roles_told(cluster: LocalCluster) -> set[frozenset[tuple[str, str | None]]]:
    """What the nodes say of all that are up: one thing, if they agree."""
    up = [node for node in cluster.nodes if node.running]
    ids = [await node.node_id() for node in up]
    told = [await node.views() for node in up]
    return {frozenset((node_id, views[node_id].master_id) for node_id in ids) for views in told}


async def roles_in_shards(nodes: Sequence[LocalClusterNode]) -> set[frozenset[tuple[str, str]]]:
    """The same by CLUSTER SHARDS, as clients ask."""
    found = set()
    for node in nodes:
        shards = await node.execute("CLUSTER", "SHARDS")
        assert isinstance(shards, list)
        roles = set()
        for shard in shards:
            assert isinstance(shard, list)
            assert isinstance(shard[3], list)
            for member in shard[3]:
                assert isinstance(member, list)
                words = [text(word) if isinstance(word, bytes) else "" for word in member]
                roles.add((words[words.index("id") + 1], words[words.index("role") + 1]))
        found.add(frozenset(roles))
    return found


@pytest.mark.slow
async def test_all_know_who_is_whose_replica(each_server_binary: ServerBinary) -> None:
    """From the block's first moment, after failovers, and after one has moved to another master."""
    async with LocalCluster(binary=each_server_binary) as cluster:
        assert len(await roles_told(cluster)) == 1
        if each_server_binary.product == "valkey" or each_server_binary.version_info >= (7,):
            assert len(await roles_in_shards(cluster.nodes)) == 1
        old = cluster.nodes[0]
        new = await cluster.failover(old)
        assert len(await roles_told(cluster)) == 1
        await old.execute("CLUSTER", "REPLICATE", await cluster.nodes[1].node_id())
        await cluster.wait_until_ready()
        assert old in await cluster.replicas(cluster.nodes[1])
        (told,) = await roles_told(cluster)
        assert (await old.node_id(), await cluster.nodes[1].node_id()) in told
        # One that is down may be what it likes to those that are up.
        await cluster.kill(cluster.nodes[2])
        await cluster.wait_for_new_master(cluster.nodes[2])
        (told,) = await roles_told(cluster)
        assert (await new.node_id(), None) in told


# ---- many slots at once ------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_thousand_slots_move(each_server_binary: ServerBinary) -> None:
    """With their keys, from two owners, more keys in one of them than are moved at once; and back again."""
    async with LocalCluster(binary=each_server_binary) as cluster:
        one, two, three = cluster.nodes[:3]
        keys = await cluster.fill(2_000)
        many = keys_of_slot(5_400, 250)
        await cluster.write(many)
        # (The three share the slots evenly: 5,461 is the second's first.)
        slots = range(5_000, 6_000)
        await cluster.migrate_slots(slots, three)
        assert set(slots) <= (await three.view()).slots
        for node in (one, two):
            view = await node.view()
            assert not view.slots & set(slots)
            assert not view.migrating
        assert not (await three.view()).importing
        assert {key for key in keys | many if slot_of(key) in slots} <= await three.keys()
        assert await all_keys(cluster) == keys | many
        await cluster.migrate_slots(slots, one)
        await cluster.wait_until_ready()
        assert set(slots) <= (await one.view()).slots
        assert await all_keys(cluster) == keys | many


@pytest.mark.slow
async def test_a_new_node_gets_its_share(server_binary: ServerBinary) -> None:
    """A quarter, of all; and nothing when it has it."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        keys = await cluster.fill(2_000)
        new = await cluster.add_node()
        moved = await cluster.rebalance_to(new)
        assert set(moved) == (await new.view()).slots
        assert {len((await node.view()).slots) for node in cluster.nodes} <= {4_096, 4_097}
        assert await new.keys()
        assert await all_keys(cluster) == keys
        assert await cluster.rebalance_to(new) == []


# ---- slots without an owner --------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_slots_without_an_owner(each_server_binary: ServerBinary) -> None:
    """No node thinks that they have one; the keys are still there when they have one again, or another."""
    async with LocalCluster(binary=each_server_binary, config={"cluster-require-full-coverage": "no"}) as cluster:
        one, two, _ = cluster.nodes[:3]
        orphans, others = keys_of_slot(7, 10), await cluster.fill(500)
        await cluster.write(orphans)
        await cluster.uncover(range(5, 10))
        for node in cluster.nodes:
            views = (await node.views()).values()
            assert sum(len(view.slots) for view in views) == SLOTS - 5
        with pytest.raises(CommandFailed, match="CLUSTERDOWN"):
            await one.execute("GET", min(orphans))
        with pytest.raises(ValueError, match="slot 7 has no owner"):
            await cluster.write(orphans)
        with pytest.raises(ValueError, match="slot 7 has no owner"):
            await cluster.migrate_slots([4, 7], two)
        # It is a cluster as it should be all the same.
        await cluster.wait_until_ready()
        assert orphans <= await one.keys()
        await cluster.cover(range(5, 8), one)
        await cluster.cover(range(8, 10), two)
        await cluster.wait_until_ready()
        assert await cluster.owner(7) is one
        assert await cluster.owner(8) is two
        assert await one.execute("GET", min(orphans)) == b"x"
        assert orphans | others == await all_keys(cluster)


@pytest.mark.slow
async def test_without_full_coverage_all_is_down(server_binary: ServerBinary) -> None:
    """Keys of other slots too; SCAN is answered."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        keys = await cluster.fill(100)
        await cluster.uncover([9])
        key = next(key for key in keys if slot_of(key) != 9)
        with pytest.raises(CommandFailed, match="CLUSTERDOWN"):
            await (await cluster.owner(slot_of(key))).execute("GET", key)
        assert await all_keys(cluster) == keys
        await cluster.cover([9], cluster.nodes[1])
        assert await (await cluster.owner(slot_of(key))).execute("GET", key) == b"x"


# ---- a node that is cut off --------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_master_cut_off_goes_on_answering(each_server_binary: ServerBinary) -> None:
    """Its replica is elected, while it calls itself the owner and answers SCAN; joined again, it is a replica."""
    async with LocalCluster(partitions=True, binary=each_server_binary) as cluster:
        old = cluster.nodes[0]
        keys = await cluster.fill(500)
        slots, theirs = (await old.view()).slots, await old.keys()
        await cluster.isolate(old)
        new = await cluster.wait_for_new_master(old)
        assert new is cluster.nodes[3]
        assert old not in await cluster.masters()
        assert await all_keys(cluster) == keys
        # What makes it dangerous.
        view = await old.view()
        assert view.is_master
        assert view.slots == slots == (await new.view()).slots
        assert view.config_epoch < (await new.view()).config_epoch
        found = await old.execute("SCAN", 0, "COUNT", 10_000)
        assert isinstance(found, list)
        assert isinstance(found[1], list)
        assert {key for key in found[1] if isinstance(key, bytes)} == theirs
        info = await old.cluster_info()
        assert info["cluster_state"] == "fail"
        # Writes that only the new one has are not what the old one answers.
        later = {key for key in {b"later:%d" % number for number in range(200)} if slot_of(key) in slots}
        await cluster.write(later)
        assert not later & await old.keys()
        await cluster.rejoin(old)
        await cluster.wait_until_ready()
        assert await cluster.replicas(new) == [old]
        assert await old.keys() == theirs | later


@pytest.mark.slow
async def test_a_new_node_can_be_cut_off_too(server_binary: ServerBinary) -> None:
    """One that was added has a door of its own; and nothing happens to the others."""
    async with LocalCluster(replicas=0, partitions=True, binary=server_binary) as cluster:
        new = await cluster.add_node()
        await cluster.isolate(new)
        gone = await new.node_id()
        with trio.fail_after(30):
            while "fail" not in (await cluster.nodes[0].views())[gone].flags:  # noqa: ASYNC110 (another process's fact)
                await trio.sleep(0.05)
        await cluster.wait_until_ready()
        await cluster.rejoin(new)
        await cluster.wait_until_ready()
        assert "fail" not in (await cluster.nodes[0].views())[gone].flags


@pytest.mark.slow
async def test_who_can_be_cut_off(server_binary: ServerBinary, tmp_path: Path) -> None:
    """Only one whose cluster was made for it, and none that speaks TLS."""
    async with LocalCluster(1, 0, binary=server_binary) as cluster:
        for method in (cluster.isolate, cluster.rejoin):
            with pytest.raises(ValueError, match="partitions=True"):
                await method(cluster.nodes[0])
    certificates = await trio.to_thread.run_sync(make_test_certificates, tmp_path)
    with pytest.raises(ValueError, match="read in clear"):
        LocalCluster(partitions=True, tls=certificates)
