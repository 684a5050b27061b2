"""Each guard of a cluster's scan, switched off: keys are lost, or nobody's are handed out, on real servers.

So each is needed, and the tests with the guard in place can fail. (That a majority must name a slot's owner is shown in
`test_cluster_scan_partition.py`; that a lane asks which node it has got, in `tests/trio/test_cluster_scan.py`.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.real.cluster_scenes import ClusterAccount, in_slots, keys_of_slot, open_client
from trio_sentinel_scan._core import cluster_plan, lane_judgement, lane_segments
from trio_sentinel_scan._core.cluster_standing import Standing, Word
from trio_sentinel_scan._core.lane_judgement import LaneJudgement
from trio_sentinel_scan.testing import LocalCluster

if TYPE_CHECKING:
    from trio_sentinel_scan._core.lanes import Lane
    from trio_sentinel_scan._core.slots import SlotSet
    from trio_sentinel_scan.testing import LocalClusterNode, ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.slow]

KEYS = 3_000
SLOW: dict[str, Any] = {"count": 20, "segments": 1, "max_nodes_at_once": 1, "prefetch": 0}


def never(*args: object) -> bool:
    return False


def always(*args: object) -> bool:
    return True


async def test_without_the_second_survey(each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that has left its node while that was swept counts as swept."""

    def all_good(lane: Lane, slots: SlotSet, *args: object) -> LaneJudgement:
        return LaneJudgement(slots)

    monkeypatch.setattr(cluster_plan, "judge_owner", all_good)
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(10_000, 300)
        await cluster.write(more)
        one, two, _ = cluster.nodes
        account = ClusterAccount()
        async with client.open_scan(**SLOW) as pages:
            await account.take_until_at(pages, two)
            await cluster.migrate_slot(10_000, one)
            await account.take_the_rest(pages)
        assert pages.summary.complete
        assert pages.summary.restarts == ()
        assert (keys | more) - set(account.keys())


async def test_without_the_config_epoch(each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that was away in between, while the sweep came by, counts as swept."""
    monkeypatch.setattr(lane_judgement, "_epoch_changed", never)
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        await cluster.fill(KEYS)
        more = keys_of_slot(6_000, 300)
        await cluster.write(more)
        one, two, _ = cluster.nodes
        await cluster.migrate_slot(6_000, one)
        await cluster.migrate_slot(6_000, two)
        account = ClusterAccount()
        async with client.open_scan(**SLOW) as pages:
            await account.take_until_at(pages, two)
            await cluster.migrate_slot(6_000, one)
            # Nearly to the node's end, so that the slot is behind the cursor as far as may be.
            while (account.pages[-1].position or 0) < 0.95:
                await account.take(pages)
            await cluster.migrate_slot(6_000, two)
            await account.take_the_rest(pages)
        assert pages.summary.complete
        assert pages.summary.restarts == ()
        assert more - set(account.keys())


async def test_without_the_targets_of_moves(each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a slot that is half on its way, what is at the target is not seen."""
    monkeypatch.setattr(Word, "targets", lambda *_: set[str]())
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(16_000, 300)
        await cluster.write(more)
        migration = await cluster.begin_migration(16_000, cluster.nodes[0])
        moved = await migration.move(150)
        account = ClusterAccount()
        async with client.open_scan() as pages:
            await account.take_the_rest(pages)
        assert pages.summary.complete
        assert len((keys | more) - set(account.keys())) == moved


async def move_back(cluster: LocalCluster, slot: int, source: LocalClusterNode, target: LocalClusterNode) -> None:
    """Take a half done migration back: the target's keys to the source, and then the flags away."""
    await source.execute("CLUSTER", "SETSLOT", slot, "STABLE")
    names = in_slots(await target.keys(), {slot})
    await target.execute("MIGRATE", *source.address, "", 0, 5_000, "KEYS", *names)
    await target.execute("CLUSTER", "SETSLOT", slot, "STABLE")


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
async def test_without_the_word_of_a_slot(
    each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """The owner was swept, and then the target gave the keys back: with the guard, the slot is swept again.

    (Two guards, if the masters are asked between the one and the other.)
    """
    if not guarded:
        monkeypatch.setattr(lane_judgement, "_word_is_alike", always)
        monkeypatch.setattr(Standing, "stirred_since", lambda *_: 0)
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(16_000, 300)
        await cluster.write(more)
        one, _, three = cluster.nodes
        migration = await cluster.begin_migration(16_000, one)
        await migration.move(200)
        account = ClusterAccount()
        async with client.open_scan(**SLOW) as pages:
            await account.take_until_at(pages, three)
            await account.take_until_at(pages, one)
            await move_back(cluster, 16_000, three, one)
            await account.take_the_rest(pages)
        assert pages.summary.complete
        missing = (keys | more) - set(account.keys())
        assert bool(missing) is not guarded
        assert [restart.slots for restart in pages.summary.restarts] == [((16_000, 16_000),)] * guarded


async def test_without_the_slots_of_keys(each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of nobody's slot are handed out where a node is swept whole; else what lies beyond a range comes twice."""
    monkeypatch.setattr(lane_segments, "_in_range", lambda keys, *_: keys)
    monkeypatch.setattr(lane_segments.Choice, "of", lambda _, keys: keys)
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(KEYS)
        orphans = keys_of_slot(7, 20)
        await cluster.write(orphans)
        migration = await cluster.begin_migration(7, cluster.nodes[1])
        await migration.move()
        await migration.cancel()
        account = ClusterAccount()
        async with client.open_scan(count=10) as pages:
            await account.take_the_rest(pages)
        found = account.keys()
        assert orphans <= set(found) or len(found) > len(keys)
