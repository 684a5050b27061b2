"""A cluster's scan that is left in its middle and resumed, by another client: nothing is lost, little comes again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.real.cluster_scenes import ClusterAccount, keys_of_slot, open_client
from trio_sentinel_scan import CheckpointInvalid, RedisClient, ScanInterrupted, SpillingSeen
from trio_sentinel_scan._core import cluster_marks
from trio_sentinel_scan._core.scan_passes import Passes
from trio_sentinel_scan.testing import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from trio_sentinel_scan import ScanSummary
    from trio_sentinel_scan.testing import LocalClusterNode, ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.slow]

KEYS = 30_000
SLOW: dict[str, Any] = {"count": 20, "segments": 1, "max_nodes_at_once": 1, "prefetch": 0}


class Left:
    """A scan that was left: what it had handed out, and where it stood."""

    def __init__(self) -> None:
        self.account = ClusterAccount()
        self.text = ""

    @property
    def keys(self) -> set[bytes]:
        return set(self.account.keys())


async def left_at(
    cluster: LocalCluster,
    node: LocalClusterNode,
    *,
    share: float = 0.5,
    some_of: Collection[bytes] = (),
    dedupe: Any = False,
) -> Left:
    """A scan, left when so much of this node was swept; or when it has handed out a third of some keys."""
    left = Left()
    account = left.account
    async with open_client(cluster) as client, client.open_scan(dedupe=dedupe, **SLOW) as pages:
        await account.take_until_at(pages, node)
        while (
            len(left.keys & set(some_of)) < len(some_of) // 3 if some_of else (account.pages[-1].position or 0) < share
        ):
            await account.take(pages)
        left.text = account.pages[-1].checkpoint
    return left


async def gone_on(cluster: LocalCluster, left: Left, **changes: Any) -> tuple[ClusterAccount, ScanSummary]:
    """The rest, for another client."""
    account = ClusterAccount()
    async with open_client(cluster) as client, client.open_scan(resume=left.text, **{**SLOW, **changes}) as pages:
        await account.take_the_rest(pages)
    assert pages.summary.complete
    return account, pages.summary


def check_whole(left: Left, account: ClusterAccount, keys: Collection[bytes]) -> None:
    missing = set(keys) - left.keys - set(account.keys())
    assert not missing, f"{len(missing)} keys were lost"


async def test_nothing_has_happened(each_server_binary: ServerBinary) -> None:
    """It goes on where it was, in mid node; not a key comes again."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        left = await left_at(cluster, cluster.nodes[1])
        account, summary = await gone_on(cluster, left)
        check_whole(left, account, keys)
        assert summary.restarts == ()
        assert await cluster.nodes[0].node_id() not in account.nodes
        assert await cluster.nodes[1].node_id() in account.nodes
        # (Tables may be resized between two SCANs of one bucket.)
        assert len(left.keys & set(account.keys())) < 50
        assert len(left.text) < 1_000
        node = cluster.nodes[0]
        client = RedisClient(node.address)
        async with client:
            with pytest.raises(CheckpointInvalid, match="scan of a cluster"):
                client.open_scan(resume=left.text)


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
async def test_a_master_is_restarted(
    each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """On the same port, with the same slots at the same epoch. Its run_id alone tells.

    Most keys are in one slot: where cursors carry the slot, slots come in the same order in any process.
    """
    if not guarded:
        monkeypatch.setattr(Passes, "_cannot_resume", lambda *_: "")
    async with LocalCluster(replicas=0, node_timeout=15.0, binary=each_server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        big = keys_of_slot(8_000, 3_000)
        await cluster.write(big)
        two = cluster.nodes[1]
        left = await left_at(cluster, two, some_of=big)
        await two.restart()
        await cluster.wait_until_ready()
        if not guarded:
            account, _ = await gone_on(cluster, left)
            assert (keys | big) - left.keys - set(account.keys())
            return
        account, summary = await gone_on(cluster, left)
        check_whole(left, account, keys | big)
        (restart,) = summary.restarts
        assert "another process" in restart.reason
        assert restart.node == await two.node_id()
        with pytest.raises(ScanInterrupted, match="another process"):
            await gone_on(cluster, left, on_failover="raise")


async def test_a_failover(each_server_binary: ServerBinary) -> None:
    """That shard is swept from its start, at the new master."""
    async with LocalCluster(binary=each_server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        two = cluster.nodes[1]
        left = await left_at(cluster, two)
        new = await cluster.failover(two)
        account, summary = await gone_on(cluster, left)
        check_whole(left, account, keys)
        assert {restart.node for restart in summary.restarts} == {await two.node_id()}
        assert await new.node_id() in account.nodes


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
async def test_a_slot_was_away(
    each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """It left while its node was swept, and is back when the scan goes on. The config epoch alone tells."""
    if not guarded:
        monkeypatch.setattr(cluster_marks, "_epoch_changed", lambda *_: False)
        monkeypatch.setattr(Passes, "_cannot_resume", lambda *_: "")
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(6_000, 300)
        await cluster.write(more)
        one, two, _ = cluster.nodes
        # Both have an epoch of their own now, so that the next moves are seen.
        await cluster.migrate_slot(6_000, one)
        await cluster.migrate_slot(6_000, two)
        left = Left()
        async with open_client(cluster) as client, client.open_scan(**SLOW) as pages:
            await left.account.take_until_at(pages, two)
            await cluster.migrate_slot(6_000, one)
            while (left.account.pages[-1].position or 0) < 0.95:
                await left.account.take(pages)
            left.text = left.account.pages[-1].checkpoint
        await cluster.migrate_slot(6_000, two)
        account, summary = await gone_on(cluster, left)
        if not guarded:
            assert more - left.keys - set(account.keys())
            return
        check_whole(left, account, keys | more)
        assert "config epoch" in summary.restarts[0].reason


async def test_a_migration_is_half_done(each_server_binary: ServerBinary) -> None:
    """It began after the checkpoint: that slot alone is swept from its start, at both nodes."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(10_000, 300)
        await cluster.write(more)
        one, two, _ = cluster.nodes
        left = await left_at(cluster, two, share=0.3)
        migration = await cluster.begin_migration(10_000, one)
        await migration.move(150)
        account, summary = await gone_on(cluster, left)
        check_whole(left, account, keys | more)
        assert [restart.slots for restart in summary.restarts] == [((10_000, 10_000),)]


async def test_each_key_once(each_server_binary: ServerBinary, tmp_path: Path) -> None:
    """With seen keys on disk, whatever happens in between."""
    async with LocalCluster(replicas=0, node_timeout=15.0, binary=each_server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        with SpillingSeen(tmp_path / "seen") as seen:
            left = await left_at(cluster, cluster.nodes[1], dedupe=seen)
            # What is marked behind the checkpoint is to come again.
            async with open_client(cluster) as client, client.open_scan(resume=left.text, dedupe=seen, **SLOW) as pages:
                await ClusterAccount().take(pages, 20)
        await cluster.nodes[1].restart()
        await cluster.wait_until_ready()
        with SpillingSeen(tmp_path / "seen") as seen:
            account, summary = await gone_on(cluster, left, dedupe=seen)
        found = [*left.account.keys(), *account.keys()]
        assert len(found) == len(set(found))
        assert set(found) == keys
        assert summary.restarts


async def test_several_nodes_at_once(server_binary: ServerBinary) -> None:
    """Every lane goes on; and what a consumer works on is not behind `pages.checkpoint()`."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        first, left = ClusterAccount(), Left()
        async with open_client(cluster) as client, client.open_scan(count=20, segments=4) as pages:
            await first.take(pages, 40)
            left.text = pages.checkpoint()
        left.account.pages = first.pages[:-1]
        account, summary = await gone_on(cluster, left, max_nodes_at_once=8, segments="auto")
        check_whole(left, account, keys)
        assert set(first.pages[-1]) <= set(account.keys())
        assert summary.restarts == ()
        assert len(left.keys & set(account.keys())) < 500
        again, _ = await gone_on(cluster, left)
        check_whole(left, again, keys)
