"""Slots that are half on their way, in the legacy way, for all or part of a scan's time: covered, not waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.real.cluster_scenes import ClusterAccount, in_slots, keys_of_slot, open_client
from trio_sentinel_scan.testing import LocalCluster

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.slow]

KEYS = 30_000
# Of the last node, going to the first one: which is swept before it.
SLOT = 16_000
SLOW: dict[str, Any] = {"count": 20, "segments": 1, "max_nodes_at_once": 1, "prefetch": 0}


async def test_half_done_for_the_scans_length(each_server_binary: ServerBinary) -> None:
    """The keys that are at the target come from there, the others from the owner: none is missing."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(SLOT, 300)
        await cluster.write(more)
        one, _, three = cluster.nodes
        migration = await cluster.begin_migration(SLOT, one)
        assert await migration.move(150) == 150
        account = ClusterAccount()
        async with client.open_scan(max_nodes_at_once=1, with_=("type",)) as pages:
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys | more)
        assert pages.summary.restarts == ()
        came_from = {key: page.node for page in account.pages for key in page}
        assert {came_from[key] for key in more} == {await one.node_id(), await three.node_id()}
        # What it would say of them, it says only to who asks for the way (ASKING).
        details = {key: of_key for page in account.pages for key, of_key in page.details.items()}
        assert {details[key].type for key in keys - in_slots(keys, {SLOT})} == {"string"}
        assert {details[key].type for key in more} == {"string", None}


async def test_more_keys_move_while_it_lasts(each_server_binary: ServerBinary) -> None:
    """From the owner, which is swept just then, to the target, which was swept before."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(SLOT, 300)
        await cluster.write(more)
        one, _, three = cluster.nodes
        migration = await cluster.begin_migration(SLOT, one)
        account = ClusterAccount()
        async with client.open_scan(**SLOW) as pages:
            await account.take_until_at(pages, three)
            assert await migration.move(250) == 250
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys | more)
        assert pages.summary.restarts == ()


@pytest.mark.parametrize("end", ["finished", "cancelled"])
async def test_it_ends_meanwhile(each_server_binary: ServerBinary, end: str) -> None:
    """While its owner is swept: the slot is swept again, by whose it is then."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(SLOT, 300)
        await cluster.write(more)
        one, _, three = cluster.nodes
        migration = await cluster.begin_migration(SLOT, one)
        account = ClusterAccount()
        gone: set[bytes] = set()
        async with client.open_scan(**SLOW) as pages:
            await account.take_until_at(pages, three)
            if end == "finished":
                await migration.move()
                await migration.finish()
            else:
                await migration.move(50)
                # What was moved by then is nobody's any more.
                gone = in_slots(await one.keys(), {SLOT})
                await migration.cancel()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, (keys | more) - gone, others=gone)
        (restart,) = pages.summary.restarts
        assert restart.slots == ((SLOT, SLOT),)
        assert restart.node == await three.node_id()


async def test_it_begins_meanwhile(each_server_binary: ServerBinary) -> None:
    """And stays half done: the owner is swept again for that slot, and then the target."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(SLOT, 300)
        await cluster.write(more)
        one, _, three = cluster.nodes
        account = ClusterAccount()
        async with client.open_scan(**SLOW) as pages:
            await account.take_until_at(pages, three)
            migration = await cluster.begin_migration(SLOT, one)
            await migration.move(150)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys | more)
        (restart,) = pages.summary.restarts
        assert restart.slots == ((SLOT, SLOT),)


async def test_a_target_that_is_the_next_owner_of_other_slots(each_server_binary: ServerBinary) -> None:
    """Two slots on their way to each other's owners, half done."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more, others = keys_of_slot(SLOT, 100), keys_of_slot(5, 100)
        await cluster.write(more | others)
        one, _, three = cluster.nodes
        for slot, to in ((SLOT, one), (5, three)):
            migration = await cluster.begin_migration(slot, to)
            await migration.move(50)
        account = ClusterAccount()
        async with client.open_scan(dedupe=True) as pages:
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys | more | others)
        assert len(account.keys()) == len(set(account.keys()))


@pytest.mark.parametrize("when", ["before the scan", "meanwhile"])
async def test_the_source_is_replaced_in_mid_migration(each_server_binary: ServerBinary, when: str) -> None:
    """Redis 7.0 forgets the flag of the source then; the target's own counts."""
    async with LocalCluster(binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(SLOT, 300)
        await cluster.write(more)
        one, _, three = cluster.nodes[:3]
        await cluster.wait_until_ready()
        (new,) = await cluster.replicas(three)
        account = ClusterAccount()

        async def replace_the_source() -> None:
            migration = await cluster.begin_migration(SLOT, one)
            await migration.move(150)
            # (A target does not believe in another owner of what it takes in: the nodes never agree about this slot.)
            await new.execute("CLUSTER", "FAILOVER")
            while not (await new.view()).slots or (await three.view()).is_master:  # noqa: ASYNC110 (another process)
                await trio.sleep(0.02)

        if when == "meanwhile":
            async with client.open_scan(**SLOW) as pages:
                await account.take_until_at(pages, three)
                await replace_the_source()
                await account.take_the_rest(pages)
            assert {restart.node for restart in pages.summary.restarts} >= {await three.node_id()}
        else:
            await replace_the_source()
            async with client.open_scan(max_nodes_at_once=1) as pages:
                await account.take_the_rest(pages)
            came_from = {key: page.node for page in account.pages for key in page}
            assert {came_from[key] for key in more} == {await one.node_id(), await new.node_id()}
        account.check_complete(pages.summary, keys | more)
