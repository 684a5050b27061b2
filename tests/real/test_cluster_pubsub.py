"""Pub/Sub of real clusters: whatever happens to its slot, each sharded channel receives again, and gaps are told."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import pytest
import trio
from redis import exceptions as redis_errors

from tests.real.scenes import HANG, clients_tasks, until
from trio_sentinel_scan import ClusterClient, ClusterSubscriber, Gap, Message, SubscriptionLost
from trio_sentinel_scan._core.shard_node import ShardNode
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan.testing import CommandFailed, LocalCluster, ServerBinary, ServerNotRunning
from trio_sentinel_scan.testing._cluster_node import LocalClusterNode

pytestmark = [pytest.mark.trio, pytest.mark.slow]

CHANNELS = [f"channel:{number}" for number in range(200)]


class Radio:
    """Subscribed to all channels and publishing nothing: it only listens."""

    def __init__(self, cluster: LocalCluster, subscriber: ClusterSubscriber) -> None:
        self.cluster = cluster
        self.subscriber = subscriber
        # Numbers that were received of each channel, in order; and all gaps.
        self.heard: dict[str, list[int]] = {name: [] for name in CHANNELS}
        # The same with None for each gap of the channel; and the numbers whose SPUBLISH was answered.
        self.story: dict[str, list[int | None]] = {name: [] for name in CHANNELS}
        self.sent: dict[str, list[int]] = {name: [] for name in CHANNELS}
        self.handled: Counter[tuple[str, int]] = Counter()
        self.gaps: list[Gap] = []
        self.number = 0

    def handle(self, message: dict[str, Any]) -> None:
        """Every second channel has this for a handler."""
        name, number = message["channel"].decode(), int(message["data"])
        self.handled[name, number] += 1
        self._hear(name, number)

    def _hear(self, name: str, number: int) -> None:
        self.heard[name].append(number)
        self.story[name].append(number)

    async def receive(self) -> None:
        """Receive until cancelled."""
        async for item in self.subscriber:
            if isinstance(item, Message):
                self._hear(item.channel.decode(), int(item.data))
            else:
                self.gaps.append(item)
                for name in item.channels:
                    self.story[name.decode()].append(None)

    async def publish(self) -> int:
        """The next number, on each channel, at its slot's owner."""
        self.number += 1
        owners = [(node, (await node.view()).slots) for node in await self.cluster.masters()]
        of_slot = {slot: node for node, slots in owners for slot in slots}
        shares: dict[LocalClusterNode, list[str]] = {}
        for name in CHANNELS:
            if (owner := of_slot.get(slot_of(name.encode()))) is not None:
                shares.setdefault(owner, []).append(name)
        for node, names in shares.items():
            await node.pipeline([("SPUBLISH", name, self.number) for name in names])
            for name in names:
                self.sent[name].append(self.number)
        return self.number

    async def until_all_hear(self, names: list[str] = CHANNELS) -> None:
        """Publish until each of them has heard something of what was published since this was called."""
        since = self.number
        while any(not self.heard[name] or self.heard[name][-1] <= since for name in names):
            # (A node may be just going down.)
            with suppress(CommandFailed, ServerNotRunning):
                await self.publish()
            await trio.sleep(0.02)

    def check(self, *, hands_over: bool = False) -> None:
        """Nothing came twice, and nothing is missing but where a gap says so.

        `hands_over`: a master did to its replica. The two do not always pass on what is published just then.
        """
        for name, numbers in self.heard.items():
            assert len(numbers) == len(set(numbers)), f"a message of {name} came twice"
        assert set(self.handled.values()) <= {1}, "a handler was called twice for one message"
        for name, story in self.story.items():
            for before, after in itertools.pairwise(story):
                if before is not None and after is not None and not hands_over:
                    missing = [number for number in self.sent[name] if before < number < after]
                    assert not missing, f"{missing} of {name} are missing behind {before}, and no gap says so"

    def gapped(self) -> set[str]:
        """The channels of which a gap was told."""
        return {name.decode() for gap in self.gaps for name in gap.channels}


async def subscribers_of(cluster: LocalCluster) -> dict[str, int]:
    """How many sharded channels each connection to the cluster has that has any, by address."""
    found: dict[str, int] = {}
    for node in cluster.nodes:
        if not node.running:
            continue
        reply = await node.execute("CLIENT", "LIST")
        assert isinstance(reply, bytes)
        for line in reply.decode().splitlines():
            fields = {name: value for name, _, value in (word.partition("=") for word in line.split())}
            if int(fields.get("ssub", 0)):
                key = f"{node.port}#{fields['id']}"
                found[key] = int(fields["ssub"])
    return found


async def all_held_by_owners(cluster: LocalCluster, subscriber: ClusterSubscriber) -> None:
    """Each channel is held by its slot's owner, and by nobody else."""
    owners = {slot: node.address for node in await cluster.masters() for slot in (await node.view()).slots}
    for name, where in subscriber._shard_plan.held().items():
        assert where == [owners[slot_of(name)]]


@asynccontextmanager
async def on_air(
    binary: ServerBinary, *, protocol: Literal[2, 3] | None = None, hands_over: bool = False, **options: Any
) -> AsyncGenerator[tuple[LocalCluster, Radio]]:
    """A cluster with a subscriber to 200 channels, which hears all of them; nothing of it is left afterwards."""
    tasks = clients_tasks()
    with trio.fail_after(HANG):
        async with LocalCluster(binary=binary, **options) as cluster:
            async with (
                ClusterClient(cluster.addresses, protocol=protocol) as client,
                client.pubsub() as subscriber,
                trio.open_nursery() as nursery,
            ):
                radio = Radio(cluster, subscriber)
                await subscriber.ssubscribe(*CHANNELS[::2], **dict.fromkeys(CHANNELS[1::2], radio.handle))
                nursery.start_soon(radio.receive)
                await radio.publish()
                await until(lambda: all(radio.heard.values()))
                assert not radio.gaps
                yield cluster, radio
                await radio.until_all_hear()
                radio.check(hands_over=hands_over)
                # One connection to each node that holds anything, and each channel once.
                await until(lambda: subscriber._shard_plan.is_settled)
                await all_held_by_owners(cluster, subscriber)
                counts = await subscribers_of(cluster)
                assert sum(counts.values()) == len(CHANNELS)
                assert len(counts) == len({key.partition("#")[0] for key in counts})
                await subscriber.sunsubscribe()
                await until(lambda: not subscriber._shards.running)
                nursery.cancel_scope.cancel()
            assert await subscribers_of(cluster) == {}
    assert clients_tasks() == tasks


def on_slot(slot: int) -> list[str]:
    """The channels of a slot."""
    return [name for name in CHANNELS if slot_of(name.encode()) == slot]


async def another_master(cluster: LocalCluster, node: LocalClusterNode) -> LocalClusterNode:
    """One that does not own what this one owns."""
    return next(other for other in await cluster.masters() if other is not node)


@pytest.mark.smoke
@pytest.mark.parametrize("protocol", [2, 3])
async def test_channels_over_all_slots(shard_pubsub_binary: ServerBinary, protocol: Literal[2, 3]) -> None:
    """Subscribed to in all their slots; plain channels at the same time; unsubscribed from where they are."""
    async with on_air(shard_pubsub_binary, protocol=protocol) as (cluster, radio):
        subscriber = radio.subscriber
        assert await subscriber.ping()
        assert len(subscriber.shard_channels) == 200
        await subscriber.sunsubscribe(*CHANNELS[:100])
        assert sum((await subscribers_of(cluster)).values()) == 100
        await subscriber.ssubscribe(*CHANNELS[:100])
        assert not radio.gaps


async def test_a_slot_that_moves_step_by_step(shard_pubsub_binary: ServerBinary) -> None:
    """The old owner ends the subscription; nobody asks for the map, and the client only listens."""
    async with on_air(shard_pubsub_binary) as (cluster, radio):
        slot = slot_of(CHANNELS[0].encode())
        old = await cluster.owner(slot)
        new = await another_master(cluster, old)
        migration = await cluster.begin_migration(slot, new)
        await radio.until_all_hear()
        assert not radio.gaps
        await migration.move()
        await migration.finish()
        await radio.until_all_hear()
        assert radio.gapped() == set(on_slot(slot))
        gap = radio.gaps[0]
        assert gap.old_server is not None
        assert gap.new_server is not None
        assert (gap.old_server.address, gap.new_server.address) == (old.address, new.address)
        assert gap.began <= gap.ended


async def test_guard_without_the_nodes_own_word_it_stays_silent(
    shard_pubsub_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client that only listens and does not understand `sunsubscribe` hears nothing until the map is asked for."""
    async with on_air(shard_pubsub_binary) as (cluster, radio):
        with monkeypatch.context() as patch:
            patch.setattr(ShardNode, "_take_end", lambda *_: None)
            patch.setattr("trio_sentinel_scan._trio.cluster_monitor.POLL_PERIOD", 1000.0)
            patch.setattr(radio.subscriber._shards._monitor, "refresh_soon", lambda: None)
            slot = slot_of(CHANNELS[0].encode())
            old = await cluster.owner(slot)
            await cluster.migrate_slot(slot, await another_master(cluster, old))
            for _ in range(20):
                await radio.publish()
            last = radio.number
            rest = [name for name in CHANNELS if name not in on_slot(slot)]
            await until(lambda: all(radio.heard[name][-1] >= last for name in rest))
            assert radio.heard[CHANNELS[0]][-1] < last
        # It is mended by a lost connection.
        await old.execute("CLIENT", "KILL", "TYPE", "pubsub")
        radio.subscriber._shards._monitor.refresh_soon()


async def test_many_slots_that_move_at_once(shard_pubsub_binary: ServerBinary) -> None:
    """Valkey from 9.0 on; others say that they do not know the command."""
    async with on_air(shard_pubsub_binary) as (cluster, radio):
        first = await cluster.owner(0)
        new = await another_master(cluster, first)
        if shard_pubsub_binary.product != "valkey" or shard_pubsub_binary.version_info < (9,):
            with pytest.raises(CommandFailed):
                await cluster.migrate_slots_atomically(range(2000), new)
            return
        await cluster.migrate_slots_atomically(range(2000), new)
        await radio.until_all_hear()
        assert radio.gapped() == {name for name in CHANNELS if slot_of(name.encode()) < 2000}
        assert {gap.new_server.address for gap in radio.gaps if gap.new_server is not None} == {new.address}


async def test_a_planned_failover(shard_pubsub_binary: ServerBinary) -> None:
    """Both nodes of the shard live, and both could pass the same messages on."""
    async with on_air(shard_pubsub_binary, hands_over=True) as (cluster, radio):
        old = await cluster.owner(0)
        owned = (await old.view()).slots
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.failover, old)
            await radio.until_all_hear()
        await radio.until_all_hear()
        assert radio.gapped() == {name for name in CHANNELS if slot_of(name.encode()) in owned}


async def test_an_owner_that_is_killed(shard_pubsub_binary: ServerBinary) -> None:
    """The channels of the others go on all the time."""
    async with on_air(shard_pubsub_binary) as (cluster, radio):
        old = await cluster.owner(0)
        owned = {name for name in CHANNELS if slot_of(name.encode()) in (await old.view()).slots}
        await cluster.kill(old)
        await radio.until_all_hear([name for name in CHANNELS if name not in owned])
        assert not radio.gaps
        new = await cluster.wait_for_new_master(old)
        await radio.until_all_hear()
        assert radio.gapped() == owned
        assert {gap.new_server.address for gap in radio.gaps if gap.new_server is not None} == {new.address}


async def test_an_owner_that_is_restarted(shard_pubsub_binary: ServerBinary) -> None:
    """Quickly, so that it stays the owner: another process at the same address."""
    async with on_air(shard_pubsub_binary, node_timeout=20.0) as (cluster, radio):
        old = await cluster.owner(0)
        owned = {name for name in CHANNELS if slot_of(name.encode()) in (await old.view()).slots}
        await cluster.kill(old)
        await old.start()
        await radio.until_all_hear()
        assert radio.gapped() == owned
        gap = radio.gaps[0]
        assert gap.old_server is not None
        assert gap.new_server is not None
        assert gap.old_server.address == gap.new_server.address
        assert gap.old_server != gap.new_server


async def without_an_owner(cluster: LocalCluster, slot: int) -> LocalClusterNode:
    """All nodes forget who has the slot. Returns who had it."""
    old = await cluster.owner(slot)
    # (Its owner last: the others would learn it from him again.)
    for node in [*(node for node in cluster.nodes if node is not old), old]:
        if (await node.view()).is_master:
            await node.execute("CLUSTER", "DELSLOTS", slot)
    for node in cluster.nodes:
        # What was learned again meanwhile.
        view = await node.view()
        if view.is_master and node is not old:
            with_slot = [other for other in (await node.views()).values() if slot in other.slots]
            if with_slot:
                await node.execute("CLUSTER", "DELSLOTS", slot)
    return old


async def test_a_slot_without_an_owner_for_a_while(shard_pubsub_binary: ServerBinary) -> None:
    """Its siblings go on, and when it has one again, so does it; a new channel of it waits as well."""
    config = {"cluster-require-full-coverage": "no"}
    async with on_air(shard_pubsub_binary, config=config) as (cluster, radio):
        slot = slot_of(CHANNELS[0].encode())
        old = await without_an_owner(cluster, slot)
        subscriber = radio.subscriber
        new = f"{{{CHANNELS[0]}}}:new"
        await until(lambda: not subscriber._shard_plan.is_settled)
        others = [name for name in CHANNELS if name not in on_slot(slot)]
        await radio.until_all_hear(others)
        assert not radio.gaps
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.ssubscribe, new)
            await radio.until_all_hear(others)
            assert nursery.child_tasks
            await old.execute("CLUSTER", "ADDSLOTS", slot)
        await radio.until_all_hear()
        assert radio.gapped() == set(on_slot(slot))
        await subscriber.sunsubscribe(new)


async def test_guard_without_the_timer_a_slot_that_had_no_owner_stays_silent(
    shard_pubsub_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map is asked for when nothing else calls for it."""
    config = {"cluster-require-full-coverage": "no"}
    monkeypatch.setattr("trio_sentinel_scan._trio.cluster_monitor.POLL_PERIOD", 1000.0)
    async with on_air(shard_pubsub_binary, config=config) as (cluster, radio):
        slot = slot_of(CHANNELS[0].encode())
        monitor = radio.subscriber._shards._monitor
        with monkeypatch.context() as patch:
            patch.setattr(radio.subscriber._shard_plan, "tick", lambda _: None)
            old = await without_an_owner(cluster, slot)
            await until(lambda: not radio.subscriber._shard_plan.is_settled)
            # Everything that this has called for was asked.
            await monitor.refreshed()
            await monitor.refreshed()
            await old.execute("CLUSTER", "ADDSLOTS", slot)
            await cluster.wait_until_ready()
            others = [name for name in CHANNELS if name not in on_slot(slot)]
            for _ in range(5):
                await radio.until_all_hear(others)
            assert not radio.subscriber._shard_plan.is_settled


async def test_a_node_that_leaves_and_one_that_comes(shard_pubsub_binary: ServerBinary) -> None:
    """Its slots move to a new one; the old connection is closed when nothing is held there any more."""
    async with on_air(shard_pubsub_binary, replicas=0) as (cluster, radio):
        new = await cluster.add_node()
        old = await cluster.owner(0)
        for slot in sorted({slot_of(name.encode()) for name in CHANNELS} & (await old.view()).slots):
            await cluster.migrate_slot(slot, new)
        await radio.until_all_hear()
        assert old.address not in radio.subscriber._shard_plan.nodes
        radio.check()


async def test_plain_pubsub_moves_to_another_node(each_server_binary: ServerBinary) -> None:
    """When the node that it is at dies, and it is told of the gap."""
    with trio.fail_after(HANG):
        async with (
            LocalCluster(binary=each_server_binary) as cluster,
            ClusterClient(cluster.addresses) as client,
            client.pubsub() as subscriber,
        ):
            await subscriber.subscribe("news")
            await subscriber.psubscribe("w*")
            assert subscriber._plan.server is not None
            address = subscriber._plan.server.address
            dead = next(node for node in cluster.nodes if node.address == address)
            other = next(node for node in cluster.nodes if node is not dead)
            await other.execute("PUBLISH", "news", "1")
            assert await subscriber.receive() == Message("message", b"news", None, b"1")
            await cluster.kill(dead)
            # It comes when all is subscribed to anew.
            gap = await subscriber.receive()
            await other.execute("PUBLISH", "weather", "2")
            assert isinstance(gap, Gap)
            assert gap.channels == ()
            assert gap.old_server is not None
            assert gap.new_server is not None
            assert gap.old_server.address == address != gap.new_server.address
            assert await subscriber.receive() == Message("pmessage", b"weather", b"w*", b"2")


async def gaps_only(subscriber: ClusterSubscriber) -> None:
    """Receive for ever, or until that fails."""
    async for item in subscriber:
        assert isinstance(item, Gap)


async def test_what_a_user_may_not_hear(shard_pubsub_binary: ServerBinary) -> None:
    """The call is refused; and what was held before is lost when the permission is."""
    acl = {"listener": "on >secret ~* &open:* +@all"}
    with trio.fail_after(HANG):
        async with (
            LocalCluster(replicas=0, binary=shard_pubsub_binary, acl=acl) as cluster,
            ClusterClient(cluster.addresses, username="listener", password="secret") as client,
            client.pubsub() as subscriber,
        ):
            with pytest.raises(redis_errors.NoPermissionError):
                await subscriber.ssubscribe("open:1", "closed")
            assert subscriber.shard_channels == {}
            await subscriber.ssubscribe("open:1", "open:2")
            for node in cluster.nodes:
                # (Who holds what it may not any more is thrown out.)
                await node.execute("ACL", "SETUSER", "listener", "resetchannels", "&open:2")
            with pytest.raises(SubscriptionLost) as lost:
                await gaps_only(subscriber)
            assert lost.value.shard_channels == (b"open:1",)
            assert list(subscriber.shard_channels) == [b"open:2"]


async def test_a_server_before_7_0_is_a_clear_error(server_binary: ServerBinary) -> None:
    """(A command that is renamed looks the same.)"""
    config = {"rename-command": "SSUBSCRIBE NOTHING"} if server_binary.version_info >= (7,) else {}
    with trio.fail_after(HANG):
        async with (
            LocalCluster(replicas=0, binary=server_binary, config=config) as cluster,
            ClusterClient(cluster.addresses) as client,
            client.pubsub() as subscriber,
        ):
            with pytest.raises(redis_errors.ResponseError, match=r"no sharded Pub/Sub .* from 7\.0 on"):
                await subscriber.ssubscribe("a")
