"""A cluster, on every back end: the scan, commands and sharded Pub/Sub while slots move and masters die."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from tests.anyio.editions import Edition
from tests.anyio.in_thread import Servers
from tests.anyio.scenes import SLOWLY
from tests.real.cluster_scenes import ClusterAccount, keys_of_slot
from tests.real.histories import Workload
from trio_sentinel_scan import Gap, Message
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan.testing import CommandFailed, LocalCluster, ServerNotRunning

full = pytest.mark.full

KEYS = 2_000
# Of the last node, going to the first one: which is swept before it.
SLOT = 16_000
CHANNELS = [f"channel:{number}" for number in range(50)]


@asynccontextmanager
async def open_both(
    edition: Edition, servers: Servers, *, replicas: int = 0, **options: Any
) -> AsyncGenerator[tuple[Any, Any]]:
    """A cluster, and a client of it."""
    async with (
        servers(LocalCluster(replicas=replicas, node_timeout=1.0)) as cluster,
        edition.package.ClusterClient(cluster.addresses, **options) as client,
    ):
        yield cluster, client


async def test_a_scan_while_a_slot_moves(edition: Edition, servers: Servers) -> None:
    """From the owner, which is swept just then, to a node that was swept before: the slot is swept again."""
    async with open_both(edition, servers) as (cluster, client):
        keys = await cluster.fill(KEYS)
        more = keys_of_slot(SLOT, 300)
        await cluster.write(more)
        one, _, three = cluster.nodes
        migration = await cluster.begin_migration(SLOT, one)
        account = ClusterAccount()
        async with client.open_scan(**SLOWLY, max_nodes_at_once=1) as pages:
            await account.take_until_at(pages, three)
            await migration.move()
            await migration.finish()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys | more)
        (restart,) = pages.summary.restarts
        assert restart.slots == ((SLOT, SLOT),)


@full
async def test_a_scan_while_a_master_is_killed(edition: Edition, servers: Servers) -> None:
    """And each key comes once; the others are swept meanwhile."""
    async with open_both(edition, servers, replicas=1) as (cluster, client):
        keys = await cluster.fill(KEYS)
        two = cluster.nodes[1]
        two_id = await two.node_id()
        account = ClusterAccount()
        async with client.open_scan(**SLOWLY, dedupe=True) as pages:
            await account.take_until_at(pages, two)
            await cluster.kill(two)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)
        assert len(account.keys()) == len(keys)
        assert {restart.node for restart in pages.summary.restarts} == {two_id}


async def test_a_checkpoint_goes_on_in_another_client(edition: Edition, servers: Servers) -> None:
    async with open_both(edition, servers) as (cluster, client):
        keys = await cluster.fill(KEYS)
        found: set[bytes] = set()
        async with client.open_scan(**SLOWLY) as pages:
            found.update(page := await pages.receive())
            while len(found) < KEYS // 2:
                found.update(page := await pages.receive())
        async with (
            edition.package.connect(cluster.url) as other,
            other.open_scan(**SLOWLY, resume=page.checkpoint) as pages,
        ):
            rest = {key async for page in pages for key in page}
        assert found | rest == keys
        assert len(rest) < KEYS
        assert pages.summary.complete


@pytest.mark.parametrize("befall", ["migration", pytest.param("killed", marks=full)])
async def test_a_workload(edition: Edition, servers: Servers, befall: str) -> None:
    """Each command ends, and nothing runs twice; by a migration nothing is lost or in doubt either."""
    replicas = int(befall == "killed")
    async with open_both(edition, servers, replicas=replicas, failover_timeout=30.0) as (cluster, client):
        workload = Workload(client, may_lose=befall == "killed")
        await workload.set_up()
        await cluster.wait_until_ready()
        async with workload.running():
            if befall == "killed":
                await cluster.wait_for_new_master(await cluster.kill(cluster.nodes[1]))
            else:
                for name in ("counter:1", "list:1", "counter:2"):
                    owner = await cluster.owner(slot_of(name.encode()))
                    to = next(node for node in await cluster.masters() if node != owner)
                    await cluster.migrate_slot(slot_of(name.encode()), to)
        await workload.check()
        assert client.statistics().unavailable == 0
        if befall == "migration":
            assert client.statistics().redirected
            assert workload.unknown == 0


@full
async def test_pipelines_while_a_slot_moves(edition: Edition, servers: Servers) -> None:
    """Each result is its command's own, each INCR ran once, and those of one key ran in their order."""
    async with open_both(edition, servers) as (cluster, client):
        keys = [f"n:{number}" for number in range(20)]
        rounds = 0
        done = False

        async def count() -> None:
            nonlocal rounds
            while not done:
                pipe = client.pipeline()
                for key in keys:
                    pipe.incr(key).get(key).incr(key)
                now = 2 * rounds
                assert await pipe.execute() == [now + 1, b"%d" % (now + 1), now + 2] * len(keys)
                rounds += 1

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(count)
            for key in keys[:3]:
                owner = await cluster.owner(slot_of(key.encode()))
                to = next(node for node in await cluster.masters() if node != owner)
                await cluster.migrate_slot(slot_of(key.encode()), to)
            done = True
        assert [int(await client.get(key)) for key in keys] == [2 * rounds] * len(keys)


class ShardRadio:
    """Subscribed to sharded channels in many slots, each second one with a handler."""

    def __init__(self, cluster: Any) -> None:
        self.gaps: list[Gap] = []
        self.heard: dict[str, list[int]] = {name: [] for name in CHANNELS}
        self._cluster = cluster
        self._number = 0

    def handle(self, message: dict[str, Any]) -> None:
        """redis-py's dictionary of it."""
        self.heard[message["channel"].decode()].append(int(message["data"]))

    async def receive(self, subscriber: Any) -> None:
        """Receive until cancelled."""
        async for item in subscriber:
            if isinstance(item, Message):
                self.heard[item.channel.decode()].append(int(item.data))
            else:
                self.gaps.append(item)

    async def until_all_hear(self) -> None:
        """Publish, at each slot's owner, until each channel has heard something of it."""
        since = self._number
        while any(not numbers or numbers[-1] <= since for numbers in self.heard.values()):
            self._number += 1
            # (A node may be just going down.)
            with suppress(CommandFailed, ServerNotRunning):
                for node in await self._cluster.masters():
                    slots = (await node.view()).slots
                    mine = [name for name in CHANNELS if slot_of(name.encode()) in slots]
                    await node.pipeline([("SPUBLISH", name, self._number) for name in mine])
            await anyio.sleep(0.02)

    def check(self) -> None:
        """Nothing came twice, or out of order."""
        for numbers in self.heard.values():
            assert numbers == sorted(set(numbers))

    def gapped(self) -> set[str]:
        """The channels of which a gap was told."""
        return {name.decode() for gap in self.gaps for name in gap.channels}


@pytest.mark.parametrize("befall", ["migration", pytest.param("killed", marks=full)])
async def test_sharded_channels_follow_their_slots(edition: Edition, servers: Servers, befall: str) -> None:
    """A gap is told of those whose slot has another owner, and of no others."""
    async with (
        open_both(edition, servers, replicas=int(befall == "killed")) as (cluster, client),
        client.pubsub() as subscriber,
        anyio.create_task_group() as task_group,
    ):
        radio = ShardRadio(cluster)
        await subscriber.ssubscribe(*CHANNELS[::2], **dict.fromkeys(CHANNELS[1::2], radio.handle))
        task_group.start_soon(radio.receive, subscriber)
        await radio.until_all_hear()
        slot = slot_of(CHANNELS[0].encode())
        owner = await cluster.owner(slot)
        if befall == "killed":
            owned = {name for name in CHANNELS if slot_of(name.encode()) in (await owner.view()).slots}
            await cluster.kill(owner)
            await cluster.wait_for_new_master(owner)
        else:
            owned = {name for name in CHANNELS if slot_of(name.encode()) == slot}
            to = next(node for node in await cluster.masters() if node != owner)
            await cluster.migrate_slot(slot, to)
        await radio.until_all_hear()
        radio.check()
        assert radio.gapped() == owned
        task_group.cancel_scope.cancel()
