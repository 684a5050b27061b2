"""A cluster's subscriber on fake nodes: what is received, through what befalls the nodes, and what is left behind."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import trio
import trio.testing
from redis import exceptions as redis_errors

from tests.trio.fakes import HANG_UP, Error, Hold, Host, Network, Reply, User, on_mock_time, settled, tasks_below
from tests.trio.fakes.shards import ShardCluster, ShardServer
from tests.trio.test_cancellation import sampled, spread, steps_of
from trio_sentinel_scan import (
    AuthenticationFailed,
    ClientClosed,
    ClusterClient,
    ClusterSubscriber,
    ConfigError,
    Message,
    ServerUnavailable,
    SubscriberOverflow,
    SubscriptionLost,
)
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan._trio.any_node import AnyNode
from trio_sentinel_scan._trio.shard_links import RETRY_PERIOD

pytestmark = pytest.mark.trio(run=on_mock_time)

# One on each of three nodes (see `ShardCluster`), and one in the same slot as the first.
A, B, C = b"a:{1}", b"b:{3}", b"c:{x}"
A2 = b"a2:{1}"


@pytest.fixture
def cluster(network: Network) -> ShardCluster:
    return ShardCluster(network)


@pytest.fixture
async def client(cluster: ShardCluster) -> AsyncGenerator[ClusterClient]:
    async with ClusterClient(cluster.addresses) as client:
        yield client


@pytest.fixture
async def subscriber(client: ClusterClient) -> AsyncGenerator[ClusterSubscriber]:
    async with client.pubsub() as subscriber:
        await subscriber.ssubscribe(A, B, C)
        yield subscriber


def other(cluster: ShardCluster, channel: bytes) -> Host[ShardServer]:
    """A node that the channel does not belong to."""
    return next(node for node in cluster.nodes if node is not cluster.of(channel))


def wires(cluster: ShardCluster) -> int:
    """How many connections have subscribed to anything."""
    return sum(len(node.program.subscribers) for node in cluster.nodes)


async def take(subscriber: ClusterSubscriber, number: int) -> list[Any]:
    """So many items, with the data in place of messages."""
    items = [await subscriber.receive() for _ in range(number)]
    return [item.data if isinstance(item, Message) else item for item in items]


async def until_settled(subscriber: ClusterSubscriber) -> None:
    """Until each channel is held where it belongs."""
    while not subscriber._shard_plan.is_settled:
        await subscriber._link.moved.wait()


# ---- subscribing and receiving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
async def test_messages_of_all_nodes_and_kinds(cluster: ShardCluster, protocol: Literal[2, 3]) -> None:
    async with ClusterClient(cluster.addresses, protocol=protocol) as client, client.pubsub() as subscriber:
        assert {cluster.of(name) for name in (A, B, C)} == set(cluster.nodes)
        await subscriber.ssubscribe(A, B, C, A2)
        await subscriber.subscribe("plain")
        assert await subscriber.ping()
        for name in (A, B, C, A2):
            cluster.publish(name, b"to " + name)
        for node in cluster.nodes:
            node.program.publish(b"plain", b"to all")
        items = [await subscriber.receive() for _ in range(5)]
        assert {item for item in items if isinstance(item, Message)} == {
            *(Message("smessage", name, None, b"to " + name) for name in (A, B, C, A2)),
            Message("message", b"plain", None, b"to all"),
        }
        await subscriber.sunsubscribe([A], C)
        assert list(subscriber.shard_channels) == [B, A2]
        await subscriber.unsubscribe()
        assert subscriber.subscribed
        await subscriber.sunsubscribe()
        assert not subscriber.subscribed


async def test_names_handlers_and_dictionaries_as_redis_py_has_them(cluster: ShardCluster) -> None:
    handled: list[dict[str, Any]] = []

    async def handle(message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        handled.append(message)

    async with ClusterClient(cluster.addresses, decode_responses=True) as client, client.pubsub() as subscriber:
        await subscriber.ssubscribe("a:{1}", news=handle)
        assert subscriber.shard_channels == {"a:{1}": None, "news": handle}
        first, second = [await subscriber.get_message() for _ in range(2)]
        assert first is not None
        assert second is not None
        assert first == {"type": "ssubscribe", "pattern": None, "channel": first["channel"], "data": 1}
        assert {first["channel"], second["channel"]} == {"a:{1}", "news"}
        cluster.publish(b"news", b"1")
        await settled()
        assert await subscriber.get_message() is None
        assert handled == [{"type": "smessage", "pattern": None, "channel": "news", "data": "1"}]
        cluster.publish(A, b"2")
        async for item in subscriber.listen():
            assert item == {"type": "smessage", "pattern": None, "channel": "a:{1}", "data": "2"}
            break
        cluster.move(A, other(cluster, A))
        gap = await subscriber.get_message(timeout=None)
        assert gap is not None
        assert gap["type"] == "gap"
        assert gap["data"].channels == ("a:{1}",)
        with pytest.raises(ConfigError):
            await subscriber.ssubscribe()


async def test_a_gap_of_a_channel_whose_name_is_no_text(cluster: ShardCluster) -> None:
    async with ClusterClient(cluster.addresses, decode_responses=True) as client, client.pubsub() as subscriber:
        await subscriber.ssubscribe(b"\xff")
        cluster.move(b"\xff", other(cluster, b"\xff"))
        (gap,) = await take(subscriber, 1)
        assert gap.channels == (b"\xff",)


async def test_no_connection_before_something_is_wanted_and_none_when_nothing_is(
    cluster: ShardCluster, client: ClusterClient
) -> None:
    before = sum(len(node.open_wires) for node in cluster.nodes)
    async with client.pubsub() as subscriber:
        await trio.sleep(100)
        assert sum(len(node.open_wires) for node in cluster.nodes) == before
        await subscriber.ssubscribe(A, A2, B)
        assert wires(cluster) == 2
        await subscriber.sunsubscribe(A)
        assert wires(cluster) == 2
        await subscriber.sunsubscribe(A2)
        await settled()
        assert wires(cluster) == 1
        assert len(cluster.of(A).commands("SUNSUBSCRIBE")) == 2
        await subscriber.sunsubscribe()
        await settled()
        assert wires(cluster) == 0
        assert not subscriber._shards.running


async def test_nothing_private_is_shown(
    cluster: ShardCluster, subscriber: ClusterSubscriber, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        cluster.move(A, other(cluster, A))
        (gap,) = await take(subscriber, 1)
    for text in (repr(subscriber), repr(gap), caplog.text):
        assert "{1}" not in text
    assert "3 sharded channels at 10.9.0." in repr(subscriber)


# ---- slots that move ----------------------------------------------------------------------------------------------


async def test_a_subscription_that_the_node_ends_goes_where_the_slot_is(
    cluster: ShardCluster, subscriber: ClusterSubscriber
) -> None:
    """And nobody has to ask for anything."""
    old, new = cluster.of(A), other(cluster, A)
    cluster.publish(A, b"before")
    cluster.move(A, new)
    (before, gap) = await take(subscriber, 2)
    assert before == b"before"
    assert (gap.old_server.address, gap.new_server.address) == (old.address, new.address)
    assert gap.channels == (A,)
    cluster.publish(A, b"after")
    assert await take(subscriber, 1) == [b"after"]
    await until_settled(subscriber)
    assert old.program.holds() == []
    # Nothing was held there any more.
    assert old.address not in subscriber._shard_plan.nodes
    assert wires(cluster) == 2


async def test_an_owner_that_ends_it_is_asked_again_once_the_map_was(
    cluster: ShardCluster, subscriber: ClusterSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only by the timer."""
    monkeypatch.setattr(subscriber._shard_plan, "tick", lambda _: None)
    home, monitor = cluster.of(A), subscriber._shards._monitor
    asked = monitor.refreshes
    home.program.end(slot_of(A))
    with trio.fail_after(5):
        (gap,) = await take(subscriber, 1)
    assert (gap.channels, gap.new_server.address) == ((A,), home.address)
    assert monitor.refreshes > asked
    # Whoever was asked before cannot have known.
    monkeypatch.setattr(monitor, "refresh_soon", lambda: None)
    home.program.end(slot_of(A))
    await trio.sleep(0.01)
    for callback in tuple(monitor.on_asked):
        callback()
    await trio.sleep(5)
    assert home.program.holds() == []
    monitor.refreshes += 1
    for callback in tuple(monitor.on_asked):
        callback()
    with trio.fail_after(5):
        (gap,) = await take(subscriber, 1)
    assert gap.channels == (A,)


async def test_a_slot_whose_owner_says_nothing_is_left_when_the_map_says_so(
    cluster: ShardCluster, subscriber: ClusterSubscriber
) -> None:
    """It is a node that has not heard of it: the new owner is asked first. Then the old one lets go, unwillingly."""
    old, new = cluster.of(A), other(cluster, A)
    cluster.move(A, new, tell=False)
    subscriber._shards._monitor.refresh_soon()
    (gap,) = await take(subscriber, 1)
    assert "its slot has moved" in gap.cause
    cluster.publish(A, b"after")
    assert await take(subscriber, 1) == [b"after"]
    await until_settled(subscriber)
    assert old.program.holds() == []


async def test_a_slot_without_an_owner_waits_and_its_siblings_go_on(
    cluster: ShardCluster, subscriber: ClusterSubscriber
) -> None:
    home = cluster.of(A)
    cluster.move(A, None)
    await trio.sleep(5)
    cluster.publish(B, b"sibling")
    assert await take(subscriber, 1) == [b"sibling"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscriber.ssubscribe, A2, C)
        await trio.sleep(5)
        assert nursery.child_tasks
        cluster.move(A, home)
        began = trio.current_time()
    assert trio.current_time() - began <= 2 * RETRY_PERIOD
    (gap,) = await take(subscriber, 1)
    assert gap.channels == (A,)


async def test_guard_without_the_timer_it_stays_silent(
    cluster: ShardCluster, subscriber: ClusterSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that is lost and found between two looks at the map."""
    monkeypatch.setattr("trio_sentinel_scan._trio.cluster_monitor.POLL_PERIOD", 1e9)
    home = cluster.of(A)
    monkeypatch.setattr(subscriber._shard_plan, "tick", lambda _: None)
    cluster.move(A, None)
    await trio.sleep(5)
    cluster.move(A, home)
    with trio.move_on_after(1000) as scope:
        await subscriber.receive()
    assert scope.cancelled_caught


async def test_a_call_that_nobody_takes_within_the_time_fails_alone(cluster: ShardCluster) -> None:
    async with (
        ClusterClient(cluster.addresses, failover_timeout=10.0) as client,
        client.pubsub() as subscriber,
    ):
        await subscriber.ssubscribe(B, A2)
        cluster.move(A, None)
        with pytest.raises(ServerUnavailable, match=f"slot {slot_of(A)} has no owner"):
            await subscriber.ssubscribe(A)
        with pytest.raises(SubscriptionLost) as lost:
            await subscriber.receive()
        assert lost.value.shard_channels == (A2,)
        cluster.publish(B, b"sibling")
        assert await take(subscriber, 1) == [b"sibling"]


# ---- nodes that fail ----------------------------------------------------------------------------------------------


async def test_a_connection_that_is_lost(cluster: ShardCluster, subscriber: ClusterSubscriber) -> None:
    cluster.of(A).drop_clients()
    (gap,) = await take(subscriber, 1)
    assert gap.channels == (A,)
    assert gap.old_server == gap.new_server
    cluster.publish(A, b"again")
    assert await take(subscriber, 1) == [b"again"]


async def test_a_connection_that_is_lost_while_it_is_asked(cluster: ShardCluster, client: ClusterClient) -> None:
    cluster.of(A).tap("SSUBSCRIBE", instead=HANG_UP)
    async with client.pubsub() as subscriber:
        await subscriber.ssubscribe(A, B)
        cluster.publish(A, b"1")
        assert await take(subscriber, 1) == [b"1"]


async def test_an_owner_that_dies(cluster: ShardCluster, subscriber: ClusterSubscriber) -> None:
    dead, new = cluster.of(A), other(cluster, A)
    dead.kill()
    await trio.sleep(3)
    cluster.publish(B, b"sibling")
    assert await take(subscriber, 1) == [b"sibling"]
    cluster.take_over(dead, new)
    (gap,) = await take(subscriber, 1)
    assert gap.channels == (A,)
    assert (gap.old_server.address, gap.new_server.address) == (dead.address, new.address)
    assert len(subscriber._shard_plan.nodes) == 2


async def test_an_owner_that_hangs(cluster: ShardCluster, subscriber: ClusterSubscriber) -> None:
    """It is asked for a sign of life, and left when none comes."""
    hung, new = cluster.of(A), other(cluster, A)
    hung.hang()
    cluster.take_over(hung, new)
    (gap,) = await take(subscriber, 1)
    assert gap.new_server.address == new.address
    hung.resume()


async def test_a_redirection_while_the_map_is_old(cluster: ShardCluster, client: ClusterClient) -> None:
    async with client.pubsub() as subscriber:
        cluster.move(A, other(cluster, A))
        await subscriber.ssubscribe(A)
        assert cluster.of(A).program.holds() == [A]


async def test_a_refusal_is_the_calls_own(cluster: ShardCluster, subscriber: ClusterSubscriber) -> None:
    for node in cluster.nodes:
        node.program.users["default"] = User(secret=frozenset({A2}))
    with pytest.raises(redis_errors.NoPermissionError):
        await subscriber.ssubscribe(A2, b"more")
    assert set(subscriber.shard_channels) == {A, B, C}
    for node in cluster.nodes:
        node.program.users["default"] = User(secret=frozenset({A}))
    cluster.of(A).drop_clients()
    with pytest.raises(SubscriptionLost):
        await subscriber.receive()
    assert set(subscriber.shard_channels) == {B, C}


async def test_a_password_that_is_not_good_any_more_ends_it(
    cluster: ShardCluster, subscriber: ClusterSubscriber
) -> None:
    for node in cluster.nodes:
        node.program.users["default"] = User("secret")
    cluster.of(A).drop_clients()
    with pytest.raises(AuthenticationFailed):
        await subscriber.receive()
    with pytest.raises(AuthenticationFailed):
        await subscriber.ssubscribe(A2)
    with pytest.raises(AuthenticationFailed):
        await subscriber.subscribe("plain")
    await settled()
    assert not subscriber._shards.running
    assert wires(cluster) == 0


async def test_the_end_of_the_plain_part_is_that_of_the_sharded(
    cluster: ShardCluster, subscriber: ClusterSubscriber
) -> None:
    await subscriber.subscribe("plain")
    for node in cluster.nodes:
        node.program.users["default"] = User("secret")
    assert subscriber._plan.server is not None
    plain = next(node for node in cluster.nodes if node.address == subscriber._plan.server.address)
    for wire in plain.open_wires[-1:]:
        wire.hang_up()
    with pytest.raises(AuthenticationFailed):
        await subscriber.receive()
    await settled()
    assert wires(cluster) == 0


async def test_a_ping_is_answered_by_all(cluster: ShardCluster, client: ClusterClient) -> None:
    async with client.pubsub() as subscriber:
        assert await subscriber.ping()
        await subscriber.ssubscribe(A, B)
        silent = cluster.of(B)
        go = trio.Event()
        silent.tap("PING", instead=Hold(go))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.ping)
            await settled()
            assert nursery.child_tasks
            go.set()
        silent.tap("PING", instead=Reply(Error("ERR no")))
        with pytest.raises(redis_errors.ResponseError):
            await subscriber.ping()


# ---- the buffer is one for all ------------------------------------------------------------------------------------


async def test_a_full_buffer_stops_all_nodes(cluster: ShardCluster, client: ClusterClient) -> None:
    async with client.pubsub(buffer=4, ignore_subscribe_messages=True) as subscriber:
        await subscriber.ssubscribe(A, B, C)
        sent = [b"%d" % number for number in range(30)]
        for number, data in enumerate(sent):
            cluster.publish((A, B, C)[number % 3], data)
        await settled()
        assert len(subscriber._mailbox) == 4
        assert sorted(await take(subscriber, 30)) == sorted(sent)


async def test_a_full_buffer_ends_all_of_it_if_it_is_to(cluster: ShardCluster, client: ClusterClient) -> None:
    async with client.pubsub(buffer=2, on_full="raise") as subscriber:
        await subscriber.ssubscribe(A, B)
        cluster.publish(A, b"1")
        cluster.publish(B, b"2", b"3")
        await settled()
        assert len(await take(subscriber, 2)) == 2
        with pytest.raises(SubscriberOverflow):
            await subscriber.receive()
        assert wires(cluster) == 0


async def test_a_full_buffer_drops_what_is_to_give_way(cluster: ShardCluster, client: ClusterClient) -> None:
    async with client.pubsub(buffer=1, on_full="drop_oldest") as subscriber:
        await subscriber.ssubscribe(A, B)
        cluster.publish(A, b"1")
        await settled()
        cluster.publish(B, b"2")
        await settled()
        gap, message = await take(subscriber, 2)
        assert gap.dropped == 1
        assert message == b"2"


# ---- plain channels -----------------------------------------------------------------------------------------------


def plain_node(cluster: ShardCluster, subscriber: ClusterSubscriber) -> Host[ShardServer]:
    server = subscriber._plan.server
    assert server is not None
    return next(node for node in cluster.nodes if node.address == server.address)


async def test_plain_channels_move_when_their_node_dies(cluster: ShardCluster, client: ClusterClient) -> None:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("plain")
        dead = plain_node(cluster, subscriber)
        dead.kill()
        while subscriber._plan.server is None or subscriber._plan.server.address == dead.address:
            await subscriber._link.moved.wait()
        await settled()
        plain_node(cluster, subscriber).program.publish(b"plain", b"1")
        gap, data = await take(subscriber, 2)
        assert data == b"1"
        assert gap.old_server.address == dead.address != gap.new_server.address


async def test_plain_channels_move_when_their_node_leaves(cluster: ShardCluster, client: ClusterClient) -> None:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("plain")
        old = plain_node(cluster, subscriber)
        cluster.take_over(old, next(node for node in cluster.nodes if node is not old))
        (gap,) = await take(subscriber, 1)
        assert "has left the cluster" in gap.cause
        assert gap.old_server.address == old.address != gap.new_server.address


async def test_a_node_is_drawn_by_lot(cluster: ShardCluster, client: ClusterClient) -> None:
    await trio.lowlevel.checkpoint()
    dice = iter([0.5, 0.0, 0.99, 0.0])
    node = AnyNode(client._settings, client._monitor, lambda: next(dice))
    drawn = [node.target.address]
    for _ in range(2):
        node.choose(another=True)
        drawn.append(node.target.address)
    assert drawn == [cluster.nodes[1].address, cluster.nodes[0].address, cluster.nodes[2].address]
    assert not node.has_left
    for dead in cluster.nodes[:2]:
        cluster.take_over(dead, cluster.nodes[2])
    await client._monitor.refreshed()
    await client._monitor.refreshed()
    node.choose(another=True)
    assert node.target.address == cluster.nodes[2].address


# ---- the end ------------------------------------------------------------------------------------------------------


async def test_reset_and_use_again(cluster: ShardCluster, subscriber: ClusterSubscriber) -> None:
    await subscriber.subscribe("plain")
    cluster.publish(A, b"1")
    await settled()
    await subscriber.reset()
    assert not subscriber.subscribed
    assert wires(cluster) == 0
    assert not subscriber._shards.running
    assert await subscriber.get_message() is None
    await subscriber.ssubscribe(A)
    cluster.publish(A, b"2")
    assert await take(subscriber, 1) == [b"2"]


async def test_closing_wakes_who_receives_and_who_subscribes(cluster: ShardCluster, client: ClusterClient) -> None:
    cluster.move(A, None)
    async with client.pubsub() as subscriber, trio.open_nursery() as nursery:
        await subscriber.ssubscribe(B)

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await subscriber.receive()

        async def subscribe() -> None:
            with pytest.raises(ClientClosed):
                await subscriber.ssubscribe(A)

        nursery.start_soon(receive)
        nursery.start_soon(subscribe)
        await settled()
        await subscriber.aclose()
        assert wires(cluster) == 0
        assert not subscriber._shards.running
        with pytest.raises(ClientClosed):
            await subscriber.sunsubscribe()


async def test_a_client_that_closes_ends_its_subscribers(cluster: ShardCluster) -> None:
    async with trio.open_nursery() as nursery:
        client = ClusterClient(cluster.addresses)
        async with client:
            subscribed = trio.Event()

            async def receive() -> None:
                async with client.pubsub() as subscriber:
                    await subscriber.ssubscribe(A)
                    subscribed.set()
                    with pytest.raises(ClientClosed):
                        await subscriber.receive()

            nursery.start_soon(receive)
            await subscribed.wait()
    with pytest.raises(ClientClosed):
        client.pubsub()


async def test_an_argument_that_cannot_be(client: ClusterClient) -> None:
    await trio.lowlevel.checkpoint()
    with pytest.raises(ConfigError):
        client.pubsub(buffer=0)


# ---- cancelled at each step ---------------------------------------------------------------------------------------


@asynccontextmanager
async def whole(cluster: ShardCluster) -> AsyncGenerator[ClusterSubscriber]:
    async with ClusterClient(cluster.addresses) as client, client.pubsub() as subscriber:
        yield subscriber


async def scenario(cluster: Any) -> None:
    """All that a subscriber does, and what befalls its nodes."""
    async with whole(cluster) as subscriber:
        await subscriber.ssubscribe(A, B, C)
        home = cluster.of(A)
        cluster.move(A, other(cluster, A))
        await subscriber.receive()
        cluster.of(B).drop_clients()
        await subscriber.receive()
        cluster.move(A, None)
        await trio.sleep(1)
        cluster.move(A, home)
        await subscriber.receive()
        await subscriber.ping()
        await subscriber.sunsubscribe(B)
        await subscriber.reset()
        await subscriber.ssubscribe(A)
        await subscriber.aclose()


@pytest.mark.slow
@sampled
@pytest.mark.parametrize("when", ["waiting", "waking"])
@pytest.mark.parametrize("whole_client", [False, True])
async def test_cancelled_at_each_step_it_leaves_nothing_behind(
    network: Network, when: str, whole_client: bool, part: int | None
) -> None:
    world: Any = ShardCluster(network)
    steps, cancelled = await steps_of(scenario, world, None, when, whole_client=whole_client)
    assert not cancelled
    cancellations = 0
    for step in spread(steps, part):
        world = ShardCluster(network)
        _, cancelled = await steps_of(scenario, world, step, when, whole_client=whole_client)
        cancellations += cancelled
        assert tasks_below(trio.lowlevel.current_task()) == []
        assert network.open_client_ends == []
    assert cancellations > 5


async def test_a_call_cancelled_at_each_step_leaves_the_subscriber_whole(
    cluster: ShardCluster, client: ClusterClient
) -> None:
    """Its channels are wanted all the same, or not wanted; and what is wanted is held by the owners alone."""
    async with client.pubsub() as subscriber:

        async def call(_: Any) -> None:
            await subscriber.ssubscribe(A, B)
            await subscriber.sunsubscribe(A)
            await subscriber.ssubscribe(C, A2)

        world: Any = cluster
        steps, _ = await steps_of(call, world, None, "waiting")
        assert steps > 3
        for step in range(1, steps + 1):
            await subscriber.sunsubscribe()
            await steps_of(call, world, step, "waiting")
            await until_settled(subscriber)
            await settled()
            held = sorted(name for node in cluster.nodes for name in node.program.holds())
            assert held == sorted(subscriber.shard_channels)
            assert all(node.program.holds() == sorted(set(node.program.holds())) for node in cluster.nodes)
