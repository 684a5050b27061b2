"""Scans of one hash, set or sorted set in a real cluster, while its key's slot moves and its master is replaced."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.real.cluster_scenes import open_client
from tests.real.scenes import until
from tests.real.test_collection_scans import expected
from trio_sentinel_scan import ClusterClient, CollectionGone, ScanInterrupted
from trio_sentinel_scan._core.slot_collection import SlotCollectionPlan
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan._trio import cluster_monitor
from trio_sentinel_scan.testing import LocalCluster, LocalClusterNode, ServerBinary

pytestmark = pytest.mark.trio

KEY = b"collection"
SLOT = slot_of(KEY)
SMALL: dict[str, Any] = {"count": 10, "page_size": 50, "prefetch": 0, "segments": 4}


async def fill(client: ClusterClient, type_: str = "set", number: int = 3000) -> set[Any]:
    """A collection of so many items."""
    names = [b"name:%d" % n for n in range(number)]
    if type_ == "hash":
        await client.hset(KEY, mapping={name: n for n, name in enumerate(names)})
    elif type_ == "set":
        await client.sadd(KEY, *names)
    else:
        await client.zadd(KEY, {name: n for n, name in enumerate(names)})
    return expected(type_, range(number))


def opened(client: ClusterClient, type_: str, **options: Any) -> Any:
    """The scan of it."""
    opens: dict[str, Any] = {"hash": client.open_hscan, "set": client.open_sscan, "zset": client.open_zscan}
    return opens[type_](KEY, **options)


async def other_than(cluster: LocalCluster, owner: LocalClusterNode) -> LocalClusterNode:
    """Another master."""
    return next(node for node in await cluster.masters() if node is not owner)


async def half(pages: Any) -> None:
    """Up to the middle of the pass."""
    async for page in pages:
        if page.position >= 0.3:
            return


async def the_rest(pages: Any) -> set[Any]:
    """The items of the last epoch."""
    found = [page async for page in pages]
    return {item for page in found for item in page if page.epoch == pages.summary.epoch}


async def test_at_rest(each_server_binary: ServerBinary) -> None:
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        for type_ in ("hash", "set", "zset"):
            items = await fill(client, type_)
            for options in ({}, {"certify": "role"}):
                async with opened(client, type_, **options) as pages:
                    assert await the_rest(pages) == items
                    assert pages.summary.collection_size == len(items)
                    assert pages.summary.complete
                    assert pages.summary.certificate.basis == "cluster"
            await client.delete(KEY)
            async with opened(client, type_) as pages:
                assert await the_rest(pages) == set()


async def test_the_slot_moves(each_server_binary: ServerBinary) -> None:
    """The pass begins again at the new owner, and nothing is lost; also when it comes back."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        items = await fill(client)
        owner = await cluster.owner(SLOT)
        target = await other_than(cluster, owner)
        async with opened(client, "set", **SMALL) as pages:
            await half(pages)
            await cluster.migrate_slot(SLOT, target)
            assert await the_rest(pages) == items
            assert pages.summary.server.address == target.address
            assert pages.summary.epoch == 1
            assert pages.summary.certificate.nodes[0].masters_agreeing == 3
        async with opened(client, "set", **SMALL, on_failover="raise") as pages:
            await half(pages)
            await cluster.migrate_slot(SLOT, owner)
            await cluster.migrate_slot(SLOT, target)
            with pytest.raises(ScanInterrupted):
                await the_rest(pages)


async def test_a_move_that_is_under_way_is_waited_for(server_binary: ServerBinary) -> None:
    """The key has gone, the slot not yet: nobody but the new owner has it, and that one does not say so yet."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        items = await fill(client)
        target = await other_than(cluster, await cluster.owner(SLOT))
        found: list[set[Any]] = []
        async with opened(client, "set", **SMALL) as pages, trio.open_nursery() as nursery:
            await half(pages)
            migration = await cluster.begin_migration(SLOT, target)
            await migration.move()

            async def drain() -> None:
                found.append(await the_rest(pages))

            nursery.start_soon(drain)
            await until(lambda: "on its way" in pages._scan.plan._patience.problem)
            assert not found
            await migration.finish()
        assert found == [items]
        assert pages.summary.server is not None
        assert pages.summary.server.address == target.address


async def test_there_and_back_between_two_pages(server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner's config epoch tells. Without that guard nothing does."""
    # Nobody else is to tell.
    monkeypatch.setattr(cluster_monitor, "POLL_PERIOD", 1000.0)
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        await fill(client, number=300)
        owner = await cluster.owner(SLOT)
        target = await other_than(cluster, owner)

        async def epochs() -> int:
            """How often the scan began anew, with the slot away and back between two of its pages."""
            async with client.open_sscan(KEY, count=1000, prefetch=0, page_size=100) as pages:
                await pages.receive()
                await cluster.migrate_slot(SLOT, target)
                await cluster.migrate_slot(SLOT, owner)
                await the_rest(pages)
                return pages.summary.epoch

        assert await epochs() > 0
        monkeypatch.setattr(SlotCollectionPlan, "_doubt", lambda *_: None)
        # On a busy machine a request may meet the slot on its way, and a redirection is another guard's.
        assert 0 in [await epochs() for _ in range(3)]


async def test_a_failover(server_binary: ServerBinary) -> None:
    async with LocalCluster(binary=server_binary) as cluster, open_client(cluster) as client:
        items = await fill(client)
        owner = await cluster.owner(SLOT)
        async with opened(client, "set", **SMALL) as pages:
            await half(pages)
            new = await cluster.failover(owner)
            assert await the_rest(pages) == items
            assert pages.summary.epoch >= 1
            assert pages.summary.server.address == (await cluster.owner(SLOT)).address
        assert new is not owner


async def test_it_is_deleted_meanwhile(server_binary: ServerBinary) -> None:
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        await fill(client)
        async with opened(client, "set", **SMALL) as pages:
            await half(pages)
            await client.delete(KEY)
            with pytest.raises(CollectionGone):
                await the_rest(pages)
