"""A cluster's scan on real servers, at rest and with slots that move once: every key is accounted for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import trio
from redis.exceptions import NoPermissionError

from tests.real.cluster_scenes import ClusterAccount, can_move_atomically, in_slots, keys_of_slot, open_client
from trio_sentinel_scan._core.slots import SLOTS, slot_of
from trio_sentinel_scan.testing import LocalCluster

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import LocalClusterNode, ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.slow]

KEYS = 30_000


async def move_many(cluster: LocalCluster, slots: range, to: LocalClusterNode) -> None:
    """Move slots all at once where the server can, and step by step elsewhere."""
    if can_move_atomically(cluster):
        await cluster.migrate_slots_atomically(slots, to)
    else:
        await cluster.migrate_slots(slots, to)


async def test_at_rest(each_server_binary: ServerBinary) -> None:
    """All masters at once, each key from the node that has it."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        words, empty = itertools.count(), set(range(SLOTS)) - {slot_of(key) for key in keys}
        more: set[bytes] = set()
        while empty:
            # No slot is without a key.
            key = b"more:%d" % next(words)
            if slot_of(key) in empty:
                empty.remove(slot_of(key))
                more.add(key)
        await cluster.write(more)
        keys |= more
        owner_of = {await node.node_id(): await node.keys() for node in cluster.nodes}
        async with open_client(cluster) as client:
            account = ClusterAccount()
            async with client.open_scan() as pages:
                await account.take_the_rest(pages)
            account.check_complete(pages.summary, keys)
            assert sorted(account.nodes) == sorted(owner_of)
            for page in account.pages:
                assert page.node is not None
                assert set(page) <= owner_of[page.node]
            assert pages.summary.restarts == ()
            certificate = pages.summary.certificate
            assert certificate is not None
            assert certificate.slots == 16384
            assert [part.masters_agreeing for part in certificate.nodes] == [3, 3, 3]
            once = ClusterAccount()
            async with client.open_scan("key:1*", 100, dedupe=True, max_nodes_at_once=1, page_size=50) as pages:
                await once.take_the_rest(pages)
            assert sorted(once.keys()) == sorted(key for key in keys if key.startswith(b"key:1"))
            assert max(map(len, once.pages)) <= 50
            # One node after the other.
            assert [page.node for page in once.pages] == sorted(
                [page.node or "" for page in once.pages], key=once.nodes.index
            )


@pytest.mark.parametrize("masters", [1, 3])
async def test_few_slots(each_server_binary: ServerBinary, masters: int) -> None:
    """All keys in three slots, of one node or of two; and none at all."""
    async with LocalCluster(masters, 0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        account = ClusterAccount()
        async with client.open_scan() as pages:
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, set())
        keys = keys_of_slot(0, 20_000) | keys_of_slot(1, 10) | keys_of_slot(16_383, 10_000)
        await cluster.write(keys)
        async with client.open_scan() as pages:
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)


async def test_text(each_server_binary: ServerBinary) -> None:
    """Keys are text with a client that decodes, details included; one that is not raises."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster:
        await cluster.write({"käse:1".encode(), b"b:2", b"c:3"})
        async with open_client(cluster, decode_responses=True) as client:
            async with client.open_scan(with_=("type",)) as pages:
                found = {key: details.type async for page in pages for key, details in page.details.items()}
            assert found == dict.fromkeys(("käse:1", "b:2", "c:3"), "string")


async def test_keys_of_slots_that_the_node_does_not_have(each_server_binary: ServerBinary) -> None:
    """A migration that was cancelled leaves them behind: they are nobody's, and SCAN tells of them."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        orphans = keys_of_slot(7, 20)
        await cluster.write(orphans)
        migration = await cluster.begin_migration(7, cluster.nodes[1])
        assert await migration.move() >= len(orphans)
        await migration.cancel()
        assert orphans <= await cluster.nodes[1].keys()
        account = ClusterAccount()
        async with client.open_scan() as pages:
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys - in_slots(keys, {7}))


@pytest.mark.parametrize("info", [True, False], ids=["as documented", "without CLUSTER INFO"])
async def test_a_user_with_few_rights(each_server_binary: ServerBinary, *, info: bool) -> None:
    """Those that SECURITY.md names are enough, also where keys are to be asked for by ASKING."""
    rights = "+scan +role +info +hello +client +ping +asking +readonly +cluster|myid +cluster|nodes"
    rights += " +cluster|shards +cluster|slots" + " +cluster|info" * info
    async with LocalCluster(replicas=0, binary=each_server_binary, acl={"scanner": f"on >secret {rights}"}) as cluster:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(7, 100)
        await cluster.write(more)
        migration = await cluster.begin_migration(7, cluster.nodes[1])
        await migration.move(50)
        account = ClusterAccount()
        async with open_client(cluster, username="scanner", password="secret") as client:
            async with client.open_scan() as pages:
                await account.take_the_rest(pages)
            with pytest.raises(NoPermissionError):
                await client.get("key:1")
        account.check_complete(pages.summary, keys | more)


async def test_a_slot_moves_from_a_node_not_swept_yet_to_one_that_was(each_server_binary: ServerBinary) -> None:
    """It is swept there, in a lane of its own, and nothing else is swept again."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(16_000, 300)
        await cluster.write(more)
        one, two, three = cluster.nodes
        account = ClusterAccount()
        async with client.open_scan(max_nodes_at_once=1, prefetch=0) as pages:
            await account.take_until_at(pages, two)
            await cluster.migrate_slot(16_000, one)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys | more)
        ids = [await node.node_id() for node in (one, two, three)]
        assert account.nodes[:2] == ids[:2]
        assert {page.node for page in account.pages if set(page) & more} == {ids[0]}
        assert pages.summary.restarts == ()


async def test_a_slot_moves_while_its_node_is_swept(each_server_binary: ServerBinary) -> None:
    """That slot is swept again where it is now, in epoch 1; nothing else is."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(10_000, 300)
        await cluster.write(more)
        one, two, _ = cluster.nodes
        account = ClusterAccount()
        async with client.open_scan(count=20, segments=1, max_nodes_at_once=1, prefetch=0) as pages:
            await account.take_until_at(pages, two)
            await cluster.migrate_slot(10_000, one)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys | more)
        (restart,) = pages.summary.restarts
        assert restart.slots == ((10_000, 10_000),)
        assert restart.node == await two.node_id()
        assert restart.new_server is not None
        assert restart.new_server.run_id == await one.run_id()
        again = {key for page in account.pages if page.epoch == 1 for key in page}
        assert again == more | in_slots(keys, {10_000})


async def test_a_thousand_slots_move(each_server_binary: ServerBinary) -> None:
    """While their node is swept, to one that was swept before."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        one, two, _ = cluster.nodes
        account = ClusterAccount()
        async with client.open_scan(count=20, segments=1, max_nodes_at_once=1, prefetch=0) as pages:
            await account.take_until_at(pages, two)
            await move_many(cluster, range(9_900, 10_900), one)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)
        assert pages.summary.restarts


async def test_slots_move_and_come_back(each_server_binary: ServerBinary) -> None:
    """Between two SCANs of their node: by who has what, nothing has happened. The config epoch tells."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(10_900, 300)
        await cluster.write(more)
        one, two, _ = cluster.nodes
        account = ClusterAccount()
        async with client.open_scan(count=20, segments=1, max_nodes_at_once=1, prefetch=0) as pages:
            await account.take_until_at(pages, two)
            await move_many(cluster, range(9_900, 10_901), one)
            await account.take(pages)
            await move_many(cluster, range(9_900, 10_901), two)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys | more)
        assert pages.summary.restarts


async def test_slots_move_while_it_goes_on(each_server_binary: ServerBinary) -> None:
    """There and back, as fast as the servers can, beside a scan that nobody holds up."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        one, two, _ = cluster.nodes
        account = ClusterAccount()
        there = 0
        async with trio.open_nursery() as nursery, client.open_scan(count=20, segments=1, max_restarts=200) as pages:

            @nursery.start_soon
            async def move() -> None:
                nonlocal there
                for number in range(6):
                    await move_many(cluster, range(9_900, 10_200), (one, two)[number % 2])
                    there += 1

            async for page in pages:
                account.note(page)
                if there < 6:
                    # So that it has not come to its end before them.
                    await trio.sleep(0.002)
        account.check_complete(pages.summary, keys)
        assert there == 6
