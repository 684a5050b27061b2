"""A subscriber on fake servers: what is received, through failures of every kind, and what is said of what is not."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import pytest
import trio
import trio.testing
from redis import exceptions as redis_errors
from redis.typing import Subscription

from tests.trio.fakes import (
    SILENCE,
    DataServer,
    Error,
    Hold,
    Host,
    Network,
    Raw,
    Reply,
    Service,
    User,
    on_mock_time,
    settled,
    tasks_below,
)
from tests.trio.test_cancellation import steps_of
from trio_sentinel_scan import (
    AuthenticationFailed,
    ClientClosed,
    ConfigError,
    Gap,
    Message,
    ProtocolError,
    RedisClient,
    SentinelClient,
    ServerUnavailable,
    Subscriber,
    SubscriberOverflow,
    SubscriptionLost,
)

pytestmark = pytest.mark.trio(run=on_mock_time)


@pytest.fixture
def service(network: Network) -> Service:
    return Service(network)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(service.addresses, "mymaster") as client:
        yield client


@pytest.fixture
async def subscriber(client: SentinelClient) -> AsyncGenerator[Subscriber]:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("c")
        yield subscriber


def publish(service: Service, *messages: bytes, channel: bytes = b"c") -> None:
    service.master.program.publish(channel, *messages)


async def take(subscriber: Subscriber, number: int) -> list[Any]:
    """So many items, with the data in place of messages."""
    items = [await subscriber.receive() for _ in range(number)]
    return [item.data if isinstance(item, Message) else item for item in items]


async def nothing_comes(subscriber: Subscriber, seconds: float = 100) -> None:
    """And the subscriber does not end either."""
    with trio.move_on_after(seconds) as scope:
        item = await subscriber.receive()
        raise AssertionError(item)
    assert scope.cancelled_caught


def subscribed_wires(host: Host[DataServer]) -> int:
    """How many connections to it have subscribed to anything."""
    sessions = host.program._sessions
    return len([session for session in sessions if session.subscriptions]) if host.open_wires else 0


def subscriber_wires(host: Host[DataServer]) -> int:
    """How many connections it has beside that of the client's commands."""
    return len(host.open_wires) - 1


# ---- subscribing and receiving ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
async def test_messages_of_channels_and_patterns(service: Service, protocol: Literal[2, 3]) -> None:
    async with (
        SentinelClient(service.addresses, "mymaster", protocol=protocol) as client,
        client.pubsub() as subscriber,
    ):
        await subscriber.subscribe("a", b"b")
        await subscriber.psubscribe("p.*")
        assert await subscriber.ping()
        for channel in (b"a", b"b", b"p.1", b"other"):
            publish(service, b"to " + channel, channel=channel)
        assert [await subscriber.receive() for _ in range(3)] == [
            Message("message", b"a", None, b"to a"),
            Message("message", b"b", None, b"to b"),
            Message("pmessage", b"p.1", b"p.*", b"to p.1"),
        ]
        await subscriber.unsubscribe("a")
        await subscriber.punsubscribe()
        for channel in (b"a", b"p.1", b"b"):
            publish(service, b"more", channel=channel)
        assert await subscriber.receive() == Message("message", b"b", None, b"more")


async def test_a_subscribe_returns_when_the_server_has_confirmed(service: Service, client: SentinelClient) -> None:
    confirm = trio.Event()
    service.master.tap("SUBSCRIBE", instead=Hold(confirm))
    async with client.pubsub() as subscriber, trio.open_nursery() as nursery:
        nursery.start_soon(subscriber.subscribe, "a")
        await settled()
        assert len(nursery.child_tasks) == 1
        assert subscriber.subscribed
        confirm.set()


async def test_no_connection_before_something_is_wanted(service: Service, client: SentinelClient) -> None:
    async with client.pubsub() as subscriber:
        await nothing_comes(subscriber)
        assert subscriber_wires(service.master) == 0
        await subscriber.ping()
        assert subscriber_wires(service.master) == 1
        service.master.drop_clients()
        await nothing_comes(subscriber)
        assert service.master.open_wires == []
    assert len(service.master.commands("PING")) == 1


async def test_names_and_arguments_as_redis_py_has_them(service: Service, client: SentinelClient) -> None:
    def handle(message: dict[str, Any]) -> None:
        raise NotImplementedError

    async with client.pubsub() as subscriber:
        await subscriber.subscribe(["a", "b"], "c", d=handle)
        await subscriber.psubscribe(Subscription(b"\xff*", handle))
        assert subscriber.channels == {b"a": None, b"b": None, b"c": None, b"d": handle}
        assert subscriber.patterns == {b"\xff*": handle}
        await subscriber.unsubscribe(["a"], "b")
        assert list(subscriber.channels) == [b"c", b"d"]
        await subscriber.unsubscribe()
        assert subscriber.channels == {}
        assert subscriber.subscribed
        await subscriber.punsubscribe("other", b"\xff*")
        assert not subscriber.subscribed
        with pytest.raises(ConfigError):
            await subscriber.subscribe()
        with pytest.raises(ConfigError):
            await subscriber.subscribe([])


async def test_text_where_the_client_decodes(service: Service) -> None:
    """A message that cannot be decoded is one error, and the next one comes all the same."""
    async with (
        SentinelClient(service.addresses, "mymaster", decode_responses=True) as client,
        client.pubsub() as subscriber,
    ):
        await subscriber.subscribe("c")
        assert subscriber.channels == {"c": None}
        publish(service, "é".encode(), b"\xff", b"next")
        assert await subscriber.receive() == Message("message", "c", None, "é")
        with pytest.raises(UnicodeDecodeError):
            await subscriber.receive()
        assert await take(subscriber, 1) == ["next"]
        assert await subscriber.get_message() is None


async def test_each_item_goes_to_one_of_the_tasks(service: Service, subscriber: Subscriber) -> None:
    found: list[bytes] = []

    async def consume() -> None:
        async for item in subscriber:
            assert isinstance(item, Message)
            found.append(item.data)
            if item.data == b"end":
                nursery.cancel_scope.cancel()

    sent = [b"%d" % number for number in range(500)]
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(consume)
        await settled()
        publish(service, *sent, b"end")
    assert sorted(found) == sorted([*sent, b"end"])


async def test_others_get_their_turn_while_a_full_buffer_is_emptied(service: Service, subscriber: Subscriber) -> None:
    publish(service, *[b"x"] * 1000)
    await settled()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await take(subscriber, 1000)
        nursery.cancel_scope.cancel()
    assert turns > 30


# ---- redis-py's ways --------------------------------------------------------------------------------------------


async def test_get_message(service: Service, client: SentinelClient) -> None:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("a")
        assert await subscriber.get_message() == {"type": "subscribe", "pattern": None, "channel": b"a", "data": 1}
        assert await subscriber.get_message() is None
        started = trio.current_time()
        assert await subscriber.get_message(timeout=3) is None
        assert trio.current_time() - started == 3
        publish(service, b"x", channel=b"a")
        message = {"type": "message", "pattern": None, "channel": b"a", "data": b"x"}
        assert await subscriber.get_message(timeout=None) == message
        await subscriber.psubscribe("a*")
        assert await subscriber.get_message(ignore_subscribe_messages=True) is None
        publish(service, b"y", channel=b"ab")
        await settled()
        assert await subscriber.get_message() == {
            "type": "pmessage",
            "pattern": b"a*",
            "channel": b"ab",
            "data": b"y",
        }
        await subscriber.unsubscribe("a")
        assert await subscriber.get_message() == {"type": "unsubscribe", "pattern": None, "channel": b"a", "data": 1}


async def test_get_message_with_no_time_gives_what_is_there(service: Service, subscriber: Subscriber) -> None:
    """However much it is: none of it is taken for nothing."""
    publish(service, *[b"x"] * 100)
    await settled()
    assert (await subscriber.get_message() or {})["type"] == "subscribe"
    for _ in range(100):
        assert await subscriber.get_message() is not None
    assert await subscriber.get_message() is None


async def test_a_gap_is_a_dictionary_too_unless_ignored(service: Service, client: SentinelClient) -> None:
    for ignore in (False, True):
        async with client.pubsub(ignore_subscribe_messages=ignore) as subscriber:
            await subscriber.subscribe("c")
            service.master.drop_clients()
            await settled()
            publish(service, b"x")
            await settled()
            found = [await subscriber.get_message() for _ in range(3)]
            kinds = [item["type"] for item in found if item]
            assert kinds == (["message"] if ignore else ["subscribe", "gap", "message"])


async def test_listen_ends_when_nothing_is_subscribed_to(service: Service, subscriber: Subscriber) -> None:
    found: list[tuple[str, Any]] = []
    publish(service, b"x")
    async for message in subscriber.listen():
        found.append((message["type"], message["data"]))
        if message["data"] == b"x":
            await subscriber.unsubscribe()
    assert found == [("subscribe", 1), ("message", b"x"), ("unsubscribe", 0)]


async def test_listen_ends_though_the_server_is_away(service: Service, client: SentinelClient) -> None:
    async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
        await subscriber.subscribe("c")

        async def listen() -> None:
            async for _ in subscriber.listen():
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await settled()
            service.master.kill()
            await settled()
            await subscriber.unsubscribe()


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_has_its_messages_and_nobody_else(
    service: Service, client: SentinelClient, is_async: bool
) -> None:
    handled: list[dict[str, Any]] = []

    async def handle_async(message: dict[str, Any]) -> None:
        await trio.sleep(1)
        handled.append(message)

    handle: Callable[[dict[str, Any]], Any] = handle_async if is_async else handled.append
    async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
        await subscriber.subscribe("plain", handled=handle)
        publish(service, b"1", channel=b"handled")
        publish(service, b"2", channel=b"plain")
        assert await subscriber.receive() == Message("message", b"plain", None, b"2")
        publish(service, b"3", channel=b"handled")
        await settled()
        assert await subscriber.get_message() is None  # the confirmation of "plain"
        while len(handled) < 2:
            assert await subscriber.get_message(timeout=5) is None
        assert handled == [
            {"type": "message", "pattern": None, "channel": b"handled", "data": data} for data in (b"1", b"3")
        ]
        publish(service, b"4", channel=b"handled")
        publish(service, b"5", channel=b"plain")
        async for message in subscriber.listen():
            assert message["data"] == b"5"
            break
        assert len(handled) == 3


async def test_what_a_handler_raises_is_raised_where_it_was_received(service: Service, subscriber: Subscriber) -> None:
    def handle(message: dict[str, Any]) -> None:
        raise ValueError("the handler's")

    await subscriber.subscribe(h=handle)
    publish(service, b"1", channel=b"h")
    publish(service, b"2")
    with pytest.raises(ValueError, match="the handler's"):
        await subscriber.receive()
    assert await take(subscriber, 1) == [b"2"]


# ---- connections that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["end", "pipe", "reset"])
async def test_a_lost_connection_is_made_again_and_a_gap_tells(
    service: Service, client: SentinelClient, how: Any
) -> None:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("a", "c")
        await subscriber.psubscribe("p.*")
        publish(service, b"before")
        await settled()
        began = trio.current_time()
        await trio.sleep(2)
        service.master.drop_clients(how)
        publish(service, b"lost")
        await settled()
        publish(service, b"after", b"and more")
        before, gap, *after = await take(subscriber, 4)
        assert (before, after) == (b"before", [b"after", b"and more"])
        assert isinstance(gap, Gap)
        assert gap.old_server is not None
        assert gap.old_server == gap.new_server
        assert gap.cause.startswith("10.0.0.1:6379 ")
        assert (gap.began, gap.ended, gap.dropped) == (began, began + 2, 0)
        assert [command[1:] for command in service.master.commands("SUBSCRIBE")][1:] == [[b"a", b"c"]]
        assert subscriber_wires(service.master) == 0  # (the client's own was dropped, too)
        await nothing_comes(subscriber)


async def test_another_master_is_followed_at_once(service: Service, subscriber: Subscriber) -> None:
    old = service.fail_over(kill=False)
    await settled()
    assert old.open_wires == []
    publish(service, b"x")
    gap, message = await take(subscriber, 2)
    assert message == b"x"
    assert isinstance(gap, Gap)
    assert gap.cause == "MASTER_CHANGE: the master is 10.0.0.2:6379"
    assert gap.old_server is not None
    assert gap.new_server is not None
    assert (gap.old_server.address.host, gap.new_server.address.host) == ("10.0.0.1", "10.0.0.2")
    assert trio.current_time() == 0


async def test_a_killed_master(service: Service, subscriber: Subscriber) -> None:
    """Through the whole of a failover, with attempts in vain: one gap, and everything after it."""
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _elect() -> None:
            service.master.kill()
            await service.elect(detect=5)

        gap = await subscriber.receive()
    assert isinstance(gap, Gap)
    assert "closed the connection" in gap.cause
    assert 5 < gap.ended - gap.began < 10
    publish(service, b"x")
    assert await take(subscriber, 1) == [b"x"]
    assert subscriber._plan.gaps == 1


@pytest.mark.parametrize("trouble", ["hang", "vanish"])
async def test_a_change_of_masters_aborts_a_connecting_that_hangs(
    service: Service, subscriber: Subscriber, trouble: str
) -> None:
    service.master.drop_clients()
    getattr(service.master, trouble)()
    await trio.sleep(1)
    service.fail_over(hang=True)
    gap = await subscriber.receive()
    assert isinstance(gap, Gap)
    assert trio.current_time() < 1.5


async def test_a_change_of_masters_ends_a_pause(service: Service, subscriber: Subscriber) -> None:
    service.master.kill()
    await trio.sleep(3.01)
    now = trio.current_time()
    service.fail_over(kill=False)
    await subscriber.receive()
    assert trio.current_time() == now


async def test_a_master_that_says_it_is_none_is_refused(service: Service, subscriber: Subscriber) -> None:
    old = service.master
    service.promote(service.replicas[0])
    service.config_epoch += 1
    service.demote(old)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _later() -> None:
            await trio.sleep(3)
            service.tell()

        gap = await subscriber.receive()
    assert isinstance(gap, Gap)
    assert gap.new_server is not None
    assert gap.new_server.address.host == "10.0.0.2"
    assert trio.current_time() == 3


async def test_a_call_while_the_master_is_away_waits_for_the_next_one(service: Service, subscriber: Subscriber) -> None:
    service.master.kill()
    await settled()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscriber.subscribe, "more")
        nursery.start_soon(subscriber.ping)
        await subscriber.unsubscribe("never", "c")
        await trio.sleep(3)
        assert len(nursery.child_tasks) == 2
        service.fail_over()
    publish(service, b"no", channel=b"c")
    publish(service, b"x", channel=b"more")
    # And no gap: what had been held is not wanted any more.
    assert await take(subscriber, 1) == [b"x"]


async def test_garbage_ends_the_connection_and_a_gap_says_so(service: Service, subscriber: Subscriber) -> None:
    (wire,) = (wire for wire in service.master.open_wires if wire is not service.master.wires[0])
    wire.write(b"?\r\n")
    gap = await subscriber.receive()
    assert isinstance(gap, Gap)
    publish(service, b"x")
    assert await take(subscriber, 1) == [b"x"]


async def test_a_server_that_cuts_off_each_time_is_not_asked_in_a_tight_loop(
    service: Service, client: SentinelClient
) -> None:
    service.master.tap("SUBSCRIBE", times=1e9, after=service.master.drop_clients)
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("c")
        await trio.sleep(10)
        assert 20 <= len(service.master.commands("SUBSCRIBE")) < 50


# ---- silence ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["hang", "vanish"])
async def test_a_silent_server_is_noticed_without_any_sentinel(service: Service, trouble: str) -> None:
    server = service.master
    async with (
        RedisClient(server.address, response_timeout=3) as client,
        client.pubsub(health_check_interval=10) as subscriber,
    ):
        await subscriber.subscribe("c")
        getattr(server, trouble)()
        await trio.sleep(13.5)
        assert server.wires[1].over.is_set()
        server.resume()
        gap = await subscriber.receive()
        assert isinstance(gap, Gap)
        assert gap.cause == "10.0.0.1:6379 did not answer within 3 s (response_timeout)"
        assert gap.began == 0


async def test_without_the_check_it_is_not(service: Service) -> None:
    server = service.master
    async with (
        RedisClient(server.address, response_timeout=3) as client,
        client.pubsub(health_check_interval=None) as subscriber,
    ):
        await subscriber.subscribe("c")
        server.hang()
        await nothing_comes(subscriber, 10_000)
        assert len(server.open_wires) == 2


async def test_a_quiet_channel_is_no_silence(service: Service, client: SentinelClient) -> None:
    async with client.pubsub(health_check_interval=10) as subscriber:
        await subscriber.subscribe("c")
        await nothing_comes(subscriber, 105)
        assert len(service.master.commands("PING")) == 10
        publish(service, b"x")
        assert await take(subscriber, 1) == [b"x"]


@pytest.mark.parametrize("call", ["subscribe", "psubscribe", "unsubscribe", "ping"])
async def test_a_call_without_an_answer_has_response_timeout(service: Service, call: str) -> None:
    """Not the rest of the health check's interval; and the call is answered by the next connection."""
    server = service.master
    async with (
        RedisClient(server.address, response_timeout=3) as client,
        client.pubsub(health_check_interval=1000) as subscriber,
    ):
        await subscriber.subscribe("c")
        await trio.sleep(1)
        server.tap(call.upper(), instead=SILENCE)
        await getattr(subscriber, call)(*(() if call == "ping" else ("a",)))
        assert 3 <= trio.current_time() - 1 < 4


async def test_a_server_that_reads_nothing_any_more(service: Service) -> None:
    server = service.master
    async with RedisClient(server.address, response_timeout=3) as client, client.pubsub() as subscriber:
        await subscriber.subscribe("c")
        server.wires[1].client_end.full = trio.Event()
        await subscriber.subscribe("a")
        assert server.wires[1].over.is_set()
        assert trio.current_time() < 4


# ---- a buffer that is full ---------------------------------------------------------------------------------------


async def test_block_loses_nothing_and_holds_no_more_than_it_may(service: Service, client: SentinelClient) -> None:
    async with client.pubsub(buffer=10) as subscriber:
        await subscriber.subscribe("c")
        sent = [b"%d" % number for number in range(1000)]
        publish(service, *sent)
        # Long enough for any check: that nothing is read is our own doing, and no sign of a dead server.
        await trio.sleep(100)
        assert subscriber._mailbox._messages == 10
        found = []
        for _ in sent:
            found += await take(subscriber, 1)
            assert subscriber._mailbox._messages <= 10
        assert found == sent
        await nothing_comes(subscriber)


async def test_a_call_gets_its_answer_though_the_buffer_is_full(service: Service, client: SentinelClient) -> None:
    """The one who would make room may be the one who waits for the answer."""
    async with client.pubsub(buffer=10) as subscriber:
        await subscriber.subscribe("c")
        publish(service, *[b"x"] * 100)
        await settled()
        await subscriber.subscribe("a")
        await subscriber.ping()
        await subscriber.unsubscribe("a")
        assert await take(subscriber, 100) == [b"x"] * 100


async def test_it_subscribes_again_though_the_buffer_is_full(service: Service, client: SentinelClient) -> None:
    async with client.pubsub(buffer=10) as subscriber:
        await subscriber.subscribe("a")
        await subscriber.subscribe("c")
        publish(service, *[b"x"] * 10)
        await settled()
        service.master.tap("SUBSCRIBE", before=lambda: publish(service, *[b"y"] * 20))
        service.fail_over()
        await settled()
        publish(service, *[b"z"] * 20)
        await settled()
        items = await take(subscriber, 31)
        assert [item for item in items if isinstance(item, bytes)] == [b"x"] * 10 + [b"z"] * 20
        assert isinstance(items[10], Gap)


@pytest.mark.parametrize("on_full", ["drop_oldest", "drop_newest"])
async def test_dropping_shows_as_a_gap_with_the_number(
    service: Service, client: SentinelClient, on_full: Literal["drop_oldest", "drop_newest"]
) -> None:
    async with client.pubsub(buffer=2, on_full=on_full) as subscriber:
        await subscriber.subscribe("c")
        publish(service, b"1", b"2", b"3", b"4", b"5")
        await settled()
        items = await take(subscriber, 3)
        (gap,) = (item for item in items if isinstance(item, Gap))
        assert gap.dropped == 3
        assert gap.old_server == gap.new_server
        assert on_full in gap.cause
        assert [item for item in items if item is not gap] == (
            [b"4", b"5"] if on_full == "drop_oldest" else [b"1", b"2"]
        )
        publish(service, b"6")
        assert await take(subscriber, 1) == [b"6"]


async def test_raise_ends_the_subscriber_after_what_was_there(service: Service, client: SentinelClient) -> None:
    async with client.pubsub(buffer=2, on_full="raise") as subscriber:
        await subscriber.subscribe("c")
        publish(service, b"1", b"2", b"3")
        await settled()
        assert await take(subscriber, 2) == [b"1", b"2"]
        for _ in range(2):
            with pytest.raises(SubscriberOverflow):
                await subscriber.receive()
        with pytest.raises(SubscriberOverflow):
            await subscriber.subscribe("d")
        assert subscriber_wires(service.master) == 0


# ---- errors -----------------------------------------------------------------------------------------------------


async def test_a_forbidden_channel_is_that_calls_error(service: Service, subscriber: Subscriber) -> None:
    service.master.program.users["default"] = User(secret=frozenset({b"secret"}))
    with pytest.raises(redis_errors.NoPermissionError):
        await subscriber.subscribe("a", "secret")
    assert subscriber.channels == {b"c": None}
    publish(service, b"x")
    assert await take(subscriber, 1) == [b"x"]


async def test_a_subscription_that_the_next_master_refuses(service: Service, client: SentinelClient) -> None:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("a", "secret", "c")
        service.replicas[0].program.users["default"] = User(secret=frozenset({b"secret"}))
        service.fail_over()
        with pytest.raises(SubscriptionLost) as caught:
            await subscriber.receive()
        assert caught.value.channels == (b"secret",)
        publish(service, b"x")
        gap, message = await take(subscriber, 2)
        assert isinstance(gap, Gap)
        assert message == b"x"
        another = next(server for server in service.replicas if server.up)
        another.program.users["default"] = User(secret=frozenset({b"a"}))
        service.fail_over(another)
        with pytest.raises(SubscriptionLost):
            while await subscriber.get_message(timeout=None):
                pass
        assert subscriber.channels == {b"c": None}


async def test_no_server_within_failover_timeout(network: Network) -> None:
    """Said by the next receive, after what was received before, and to each call."""
    service = Service(network)
    async with (
        SentinelClient(service.addresses, "mymaster", failover_timeout=30) as client,
        client.pubsub() as subscriber,
    ):
        await subscriber.subscribe("c")
        publish(service, b"x")
        await settled()
        service.master.kill()
        with pytest.raises(ServerUnavailable, match=r"within 30 s: .*Connection refused"):
            await subscriber.subscribe("d")
        assert 30 <= trio.current_time() < 31
        assert await take(subscriber, 1) == [b"x"]
        for call in (subscriber.receive, subscriber.ping, subscriber.unsubscribe, subscriber.reset):
            with pytest.raises(ServerUnavailable):
                await call()
        with pytest.raises(ServerUnavailable):
            await subscriber.get_message(timeout=None)


@pytest.mark.parametrize("trouble", ["hang", "vanish"])
async def test_a_hanging_attempt_ends_at_failover_timeout_too(network: Network, trouble: str) -> None:
    service = Service(network)
    async with (
        SentinelClient(service.addresses, "mymaster", failover_timeout=30, response_timeout=None) as client,
        client.pubsub() as subscriber,
    ):
        await subscriber.subscribe("c")
        service.master.drop_clients()
        getattr(service.master, trouble)()
        with pytest.raises(ServerUnavailable, match=r"10\.0\.0\.1:6379 did not take a connection"):
            await subscriber.receive()
        assert trio.current_time() == 30


async def test_a_server_that_confirms_nothing_ends_it_at_failover_timeout(network: Network) -> None:
    service = Service(network)
    async with (
        SentinelClient(service.addresses, "mymaster", failover_timeout=30, response_timeout=None) as client,
        client.pubsub() as subscriber,
    ):
        service.master.tap("SUBSCRIBE", instead=SILENCE)
        with pytest.raises(ServerUnavailable, match="did not confirm the subscriptions"):
            await subscriber.subscribe("c")
        assert trio.current_time() == 30


async def test_a_password_that_was_changed_is_told_at_once(service: Service, subscriber: Subscriber) -> None:
    service.master.program.users["default"] = User("another")
    service.master.drop_clients()
    with pytest.raises(AuthenticationFailed):
        await subscriber.receive()
    assert trio.current_time() < 1
    assert subscriber_wires(service.master) <= 0


async def test_what_is_no_server_ends_it(service: Service, subscriber: Subscriber) -> None:
    service.master.tap("HELLO", times=10, instead=Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    service.master.drop_clients()
    with pytest.raises(ProtocolError):
        await subscriber.receive()


async def test_a_server_that_is_busy_is_asked_until_it_is_not(service: Service, subscriber: Subscriber) -> None:
    busy = Error("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.")
    service.master.tap("SUBSCRIBE", times=3, instead=Reply(busy))
    await subscriber.subscribe("a")
    assert set(subscriber.channels) == {b"a", b"c"}


async def test_an_error_of_ours_is_raised_and_not_kept_quiet(
    service: Service, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(subscriber._plan, "take", broken)
    publish(service, b"x")
    with pytest.raises(RuntimeError, match="a mistake"):
        await subscriber.receive()


# ---- its end ----------------------------------------------------------------------------------------------------


async def test_reset_begins_anew(service: Service, subscriber: Subscriber, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_sentinel_scan.pubsub")
    publish(service, b"x")
    await settled()
    await subscriber.reset()
    assert caplog.messages == ["the subscriber's connection to 10.0.0.1:6379 ended: reset"]
    assert subscriber_wires(service.master) == 0
    assert not subscriber.subscribed
    assert await subscriber.get_message() is None
    await subscriber.subscribe("d")
    publish(service, b"y", channel=b"d")
    assert await take(subscriber, 1) == [b"y"]


async def test_a_reset_waits_for_its_own_connection_only(service: Service, subscriber: Subscriber) -> None:
    """Another task subscribes meanwhile, and the next connection is there before the reset looks."""
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.subscribe, "d")
            await subscriber.reset()
    publish(service, b"x", channel=b"d")
    assert await take(subscriber, 1) == [b"x"]


@pytest.mark.parametrize("kind", ["one server", "a service"])
async def test_when_the_client_is_closed_its_subscribers_end(network: Network, kind: str) -> None:
    """Nobody would tell them of another master. What had come until then is handed out first."""
    service = Service(network)
    found: list[Subscriber] = []
    async with trio.open_nursery() as nursery:
        address = service.master.address
        client = RedisClient(address) if kind == "one server" else SentinelClient(service.addresses, "mymaster")
        async with client:
            opening = client.pubsub()
            opened = trio.Event()
            nursery.start_soon(_subscribe_for_ever, opening, found, opened)
            await opened.wait()
            (subscriber,) = found
            publish(service, b"x")
            await settled()
        await settled()
        assert service.master.open_wires == []
        assert await take(subscriber, 1) == [b"x"]
        for call in (subscriber.receive, subscriber.ping):
            with pytest.raises(ClientClosed, match="the client was closed"):
                await call()
        nursery.cancel_scope.cancel()
    assert client._source.on_stop == set()


async def _subscribe_for_ever(
    opening: AbstractAsyncContextManager[Subscriber], found: list[Subscriber], opened: trio.Event
) -> None:
    """A subscriber in a task of its own, which stays in the block."""
    async with opening as subscriber:
        await subscriber.subscribe("c")
        found.append(subscriber)
        opened.set()
        await trio.sleep_forever()


async def test_closing_wakes_who_receives_and_who_calls(service: Service, subscriber: Subscriber) -> None:
    service.master.tap("PING", instead=SILENCE)
    errors: list[BaseException] = []

    async def expect(kind: type[Exception], call: Callable[[], Any]) -> None:
        with pytest.raises(kind) as caught:
            await call()
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.ClosedResourceError, subscriber.receive)
        nursery.start_soon(expect, ClientClosed, subscriber.ping)
        await settled()
        await subscriber.aclose()
        assert subscriber_wires(service.master) == 0
    assert len(errors) == 2
    await subscriber.aclose()
    for call in (subscriber.subscribe, subscriber.ping, subscriber.reset):
        with pytest.raises(ClientClosed):
            await call()


async def test_nothing_is_left_after_the_block(service: Service, client: SentinelClient) -> None:
    await settled()
    before = len(tasks_below(trio.lowlevel.current_task()))
    listeners = len(client._source.on_change)
    left: list[Subscriber] = []
    with pytest.raises(ValueError, match="the body's"):
        async with client.pubsub() as subscriber:
            left.append(subscriber)
            await subscriber.subscribe("c")
            assert len(tasks_below(trio.lowlevel.current_task())) > before
            raise ValueError("the body's")
    assert len(tasks_below(trio.lowlevel.current_task())) == before
    assert len(client._source.on_change) == listeners
    assert subscriber_wires(service.master) == 0
    with pytest.raises(trio.ClosedResourceError):
        await left[0].receive()


async def test_a_client_that_is_not_open(service: Service) -> None:  # noqa: ASYNC124 (its fixtures are async)
    with pytest.raises(ClientClosed):
        SentinelClient(service.addresses, "mymaster").pubsub()


async def test_names_and_messages_are_not_shown(
    service: Service, client: SentinelClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with client.pubsub() as subscriber:
        assert repr(subscriber) == "<Subscriber of 0 channels and 0 patterns, not connected>"
        await subscriber.subscribe("secret")
        publish(service, b"secret", channel=b"secret")
        shown = repr(subscriber) + repr(await subscriber.receive())
        service.fail_over()
        shown += repr(await subscriber.receive())
        assert "1 channels" in shown
    assert caplog.text
    assert "secret" not in caplog.text + shown


# ---- cancellation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["waiting", "waking"])
@pytest.mark.parametrize("state", ["connected", "not yet", "away"])
async def test_a_subscribe_cancelled_at_each_step(network: Network, when: str, state: str) -> None:
    """State that remains: the channel is wanted from the first step on, and held soon after; all else as it was."""

    async def run(step: int | None) -> tuple[int, bool]:
        network.hosts.clear()
        service = Service(network)
        async with SentinelClient(service.addresses, "mymaster") as client, client.pubsub() as subscriber:
            if state != "not yet":
                await subscriber.subscribe("c")
            if state == "away":
                service.fail_over()

            async def subscribe(service: Service) -> None:
                await subscriber.subscribe("a")

            steps, cancelled = await steps_of(subscribe, service, step, when)
            assert b"a" in subscriber.channels
            await subscriber.subscribe("b")
            for channel in (b"a", b"b"):
                publish(service, channel, channel=channel)
            items = await take(subscriber, 3 if state == "away" else 2)
            assert items[-2:] == [b"a", b"b"]
            assert subscribed_wires(service.master) == 1
        return steps, cancelled

    steps, _ = await run(None)
    assert any([(await run(step))[1] for step in range(1, steps + 1)])


@pytest.mark.parametrize("when", ["waiting", "waking"])
@pytest.mark.parametrize("how", ["receive", "get_message", "listen"])
async def test_a_receive_cancelled_at_each_step_loses_nothing(network: Network, when: str, how: str) -> None:
    """State that remains: what was not handed out comes with the next receive."""

    async def run(step: int | None) -> int:
        network.hosts.clear()
        service = Service(network)
        found: list[Any] = []
        async with (
            SentinelClient(service.addresses, "mymaster") as client,
            client.pubsub(ignore_subscribe_messages=True) as subscriber,
        ):
            await subscriber.subscribe("c")
            sent = [b"%d" % number for number in range(40)]
            publish(service, *sent[:20])

            async def receive(service: Service) -> None:
                if how == "listen":
                    async for message in subscriber.listen():
                        found.append(message["data"])
                        if len(found) == 40:
                            return
                while len(found) < 40:
                    if how == "receive":
                        found.extend(await take(subscriber, 1))
                    elif (message_or_none := await subscriber.get_message(timeout=None)) is not None:
                        found.append(message_or_none["data"])

            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _later() -> None:
                    await trio.sleep(1)
                    publish(service, *sent[20:])

                steps, _ = await steps_of(receive, service, step, when)
            found += await take(subscriber, 40 - len(found))
            assert found == sent
        return steps

    for step in range(1, await run(None) + 1):
        await run(step)
