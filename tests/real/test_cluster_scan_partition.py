"""A master that is cut off from the others goes on answering, and the scan does not take its word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.real.cluster_scenes import ClusterAccount, keys_of_slot, open_client
from trio_sentinel_scan._core import cluster_standing
from trio_sentinel_scan.testing import LocalCluster

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.slow]

SLOW: dict[str, Any] = {"count": 20, "segments": 1, "max_nodes_at_once": 1, "prefetch": 0}
KEYS = 30_000
# One of the first master's.
SLOT = 100


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
async def test_cut_off_before_the_scan(
    each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Its successor was written to before the scan. By its own word, and nobody else's, it would be swept instead."""
    async with LocalCluster(partitions=True, node_timeout=1.0, binary=each_server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        one = cluster.nodes[0]
        one_id = await one.node_id()
        async with open_client(cluster) as client:
            await cluster.isolate(one)
            new = await cluster.wait_for_new_master(one)
            later = keys_of_slot(SLOT, 50, "later")
            await cluster.write(later)
            if not guarded:
                believe(monkeypatch, one_id)
            account = ClusterAccount()
            async with client.open_scan(certify="masters" if guarded else "role") as pages:
                await account.take_the_rest(pages)
        if guarded:
            account.check_complete(pages.summary, keys | later)
            assert await new.node_id() in account.nodes
            assert one_id not in account.nodes
        else:
            assert pages.summary.complete
            assert later - set(account.keys())


def believe(monkeypatch: pytest.MonkeyPatch, node_id: str) -> None:
    """Each node's own word will do, and this one's goes before that of a later epoch."""

    def own_words(standing: cluster_standing.Standing) -> dict[str, int]:
        first = standing.masters[node_id].myself.slots
        return {
            name: account.myself.slots & (~0 if name == node_id else ~first)
            for name, account in standing.masters.items()
        }

    monkeypatch.setattr(cluster_standing.Standing, "_by_epoch", own_words)


async def test_cut_off_in_mid_scan(each_server_binary: ServerBinary) -> None:
    """While it is swept; it answers to the end, and its slots are swept again at its successor."""
    async with (
        LocalCluster(partitions=True, node_timeout=1.0, binary=each_server_binary) as cluster,
        open_client(cluster) as client,
    ):
        keys = await cluster.fill(KEYS)
        one = cluster.nodes[0]
        one_id = await one.node_id()
        account = ClusterAccount()
        async with client.open_scan(**SLOW) as pages:
            await account.take_until_at(pages, one)
            await cluster.isolate(one)
            new = await cluster.wait_for_new_master(one)
            later = keys_of_slot(SLOT, 50, "later")
            await cluster.write(later)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys | later)
        assert await new.node_id() in account.nodes
        assert {restart.node for restart in pages.summary.restarts} == {one_id}
