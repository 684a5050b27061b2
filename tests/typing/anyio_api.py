"""The same as api.py, line by line, of the AnyIO edition: tests/core/test_typing.py sees to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never, assert_type

import trio_sentinel_scan.anyio
from trio_sentinel_scan.anyio import (
    Address,
    Certificate,
    ClusterClient,
    ClusterMap,
    ClusterNode,
    ClusterPipeline,
    ClusterSubscriber,
    CompactSeen,
    DurableSeenKeys,
    EventsMissed,
    ExactSeen,
    Gap,
    KeyDetails,
    Lease,
    MasterChange,
    MasterState,
    Message,
    RedisClient,
    ReplicaAdd,
    ReplicaRemove,
    ReplicaState,
    ScanPages,
    SeenKeys,
    SentinelAdd,
    SentinelClient,
    SentinelRemove,
    ServerIdentity,
    ServerReboot,
    Shard,
    SlotsNotCovered,
    SpillingSeen,
    TopologyState,
)

version: str = trio_sentinel_scan.anyio.__version__


async def what_happens_to_a_service(client: SentinelClient) -> None:
    """Each item has a type of its own, and none is left when all are named."""
    assert_type(client.master, MasterState)
    assert_type(client.master.identity, ServerIdentity)
    async with client.open_topology(buffer=8) as events:
        assert_type(events.state, TopologyState)
        assert_type(events.state.replicas, tuple[ReplicaState, ...])
        async for event in events:
            match event:
                case MasterChange(old=old, new=new):
                    assert_type((old, new), tuple[Address, Address])
                case ReplicaAdd() | ReplicaRemove():
                    assert_type(event.config_epoch, int)
                case SentinelAdd() | SentinelRemove():
                    assert_type(event.sentinel_id, str)
                case ServerReboot():
                    assert_type(event.new_run_id, str)
                case EventsMissed():
                    assert_type(event.state, TopologyState)
                case _:
                    assert_never(event)


async def what_a_cluster_tells(subscriber: ClusterSubscriber) -> None:
    """Messages and gaps, and nothing else."""
    await subscriber.ssubscribe("a", b"b", c=print)
    await subscriber.sunsubscribe("a")
    async for item in subscriber:
        match item:
            case Message(type=kind):
                assert_type(kind, str)
            case Gap(channels=channels):
                assert_type(channels, tuple[Any, ...])
            case _:
                assert_never(item)


async def items_of_a_collection(client: RedisClient) -> None:
    """Pairs where there are pairs, whose members and values are bytes or text as the client has them."""
    async with client.open_hscan("key") as fields_and_values:
        assert_type(fields_and_values, ScanPages[tuple[Any, Any]])
    async with client.open_hscan("key", no_values=True, segments=3) as fields:
        assert_type(fields, ScanPages[Any])
    async with client.open_sscan(b"key", "a*", 100, dedupe=True) as members:
        assert_type(members, ScanPages[Any])
    async with client.open_zscan("key", on_failover="raise") as pages:
        async for page in pages:
            for _, score in page:
                assert_type(score, float)
    assert_type(pages.summary.collection_size, int | None)


async def a_cluster(client: ClusterClient) -> None:
    """Its map, and its nodes."""
    assert_type(client.map, ClusterMap)
    assert_type(client.map.shards, tuple[Shard, ...])
    assert_type(client.nodes, tuple[ClusterNode, ...])
    assert_type(client.map.owner(7), ClusterNode | None)
    async with client.pipeline() as pipe:
        same: ClusterPipeline = pipe
        assert_type(await same.execute(), list[Any])
    async with client.dedicated(node=client.nodes[0]) as lease:
        assert_type(lease, Lease)


def one_server(client: RedisClient) -> None:
    """It has a process, and no topology."""
    assert_type(client.server, ServerIdentity)


async def what_there_is_to_know_of_keys(client: RedisClient) -> None:
    """Each field may be missing."""
    async with client.open_scan(with_=("type", "ttl", "memory", "idle", "freq")) as pages:
        async for page in pages:
            assert_type(page.details, Mapping[Any, KeyDetails])
            for details in page.details.values():
                assert_type(details.type, str | None)
                assert_type(details.ttl, int | None)
                assert_type((details.memory, details.idle, details.freq), tuple[int | None, int | None, int | None])


def each_key_once(client: RedisClient) -> None:
    """Whatever has the methods is a filter."""
    filters: list[SeenKeys] = [ExactSeen(), CompactSeen(expected_keys=1_000, error_rate=1e-6), SpillingSeen()]
    client.open_scan(dedupe=True)
    for seen in filters:
        client.open_scan(dedupe=seen)
    with SpillingSeen("seen.db") as store:
        durable: DurableSeenKeys = store
        assert_type(store, SpillingSeen)
        assert_type((durable.name, durable.number), tuple[bytes, int])


async def a_whole_cluster(client: ClusterClient) -> None:
    """Pages say which node they are from, and the account what was left out."""
    async with client.open_scan(node=("10.0.0.1", 7000), max_nodes_at_once=2, allow_uncovered=True) as pages:
        assert_type(pages, ScanPages[Any])
        async for page in pages:
            assert_type(page.node, str | None)
    assert_type(pages.summary.uncovered_slots, tuple[tuple[int, int], ...])
    assert_type(pages.summary.slots_let_go, tuple[tuple[int, int], ...])
    if pages.summary.certificate is not None:
        assert_type(pages.summary.certificate.nodes, tuple[Certificate, ...])


def slots_that_nobody_has(error: SlotsNotCovered) -> None:
    """Their ranges."""
    assert_type(error.slots, tuple[tuple[int, int], ...])
