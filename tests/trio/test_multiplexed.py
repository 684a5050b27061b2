"""Many commands in flight on one connection: who gets which reply, who reads, and what a server that hangs comes to."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
import trio.testing
from redis import exceptions as redis_errors

from tests.trio.fakes import (
    HANG_UP,
    SILENCE,
    Error,
    Hold,
    Network,
    Push,
    Raw,
    Reply,
    Service,
    User,
    encode,
    on_mock_time,
    settled,
)
from trio_sentinel_scan import (
    AuthenticationFailed,
    CommandOutcomeUnknown,
    RedisClient,
    SentinelClient,
    ServerConnectionError,
    ServerUnavailable,
    TooManyCommandsWaiting,
)
from trio_sentinel_scan._core.commands import Command
from trio_sentinel_scan._core.in_flight import InFlight, Request
from trio_sentinel_scan._trio.multiplexed import MultiplexedConnection

pytestmark = pytest.mark.trio(run=on_mock_time)


@pytest.fixture(params=[True, False], ids=["socket", "tls"])
def service(network: Network, request: pytest.FixtureRequest) -> Service:
    """Streams that read and write at once, as sockets do, or only by waiting, as with TLS."""
    network.at_once = request.param
    return Service(network, keys=300)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(service.addresses, "mymaster") as client:
        yield client


async def get(client: SentinelClient | RedisClient, number: int) -> None:
    """One caller, that knows its own reply."""
    assert await client.get(f"key:{number}") == f"value of key:{number}".encode()


async def give_up(client: SentinelClient, seconds: float) -> None:
    """A caller that does not wait for long."""
    with trio.move_on_after(seconds) as scope:
        await client.get("key:1")
    assert scope.cancelled_caught


def counter(service: Service) -> bytes | None:
    """What the present master holds under "counter"."""
    value = service.master.program.data[0].get(b"counter")
    return None if value is None else value.data


# ---- writing ----------------------------------------------------------------------------------------------------


async def test_what_is_sent_while_replies_are_awaited_goes_together(network: Network) -> None:
    """The first one at once: nobody waits for company."""
    network.at_once = True
    service = Service(network, keys=100)
    async with RedisClient(service.master.address) as client:
        (wire,) = service.master.open_wires
        wire.client_end.writes.clear()
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(get, client, number)
        sizes = [data.count(b"GET") for data in wire.client_end.writes]
        assert sizes == [1, 99]


async def test_callers_that_were_answered_together_go_on_together(network: Network) -> None:
    """The reader, who goes on first, does not send its own alone."""
    network.at_once = True
    service = Service(network, keys=2)

    async def two(client: RedisClient) -> None:
        await get(client, 1)
        await get(client, 1)

    async with RedisClient(service.master.address) as client:
        (wire,) = service.master.open_wires
        service.master.tap("GET", instead=SILENCE)
        replies = encode(b"value of key:1") * 100
        sizes: list[int] = []
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(two, client)
            for _ in range(2):
                await settled()
                sizes = [data.count(b"GET") for data in wire.client_end.writes[-1:]]
                wire.client_end.writes.clear()
                wire.write(replies)
        assert sizes == [100]


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_is_half_written_is_completed_for_a_caller_that_went(network: Network, at_once: bool) -> None:
    """Else what follows would be taken for the rest of it."""
    network.at_once = at_once
    service = Service(network, keys=10)
    async with RedisClient(service.master.address) as client:
        (wire,) = service.master.open_wires
        wire.client_end.full, wire.client_end.room = trio.Event(), 5
        with trio.move_on_after(1) as scope:
            await client.set("key:1", "changed")
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, client, 2)
            await settled()
            wire.client_end.full.set()
        assert len(service.master.commands("SET")) == 1
        assert len(service.master.wires) == 1


async def test_a_command_that_is_half_written_did_not_run(network: Network) -> None:
    """A server runs nothing before it has the whole of it: so it is sent again, even if it writes."""
    network.at_once = True
    service = Service(network)
    async with RedisClient(service.master.address) as client:
        (wire,) = service.master.open_wires
        wire.client_end.full, wire.client_end.room = trio.Event(), 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.incr, "counter")
            await settled()
            service.master.drop_clients()
        assert counter(service) == b"1"


# ---- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
async def test_no_reply_reaches_another_caller(service: Service, client: SentinelClient, seed: int) -> None:
    """Callers come and go at random, replies come in pieces; whoever stays has its own reply."""
    rng = random.Random(seed)
    service.master.delay = 0.01
    service.master.open_wires[0].client_end.slice = 7
    answered = 0

    async def call(number: int) -> None:
        nonlocal answered
        await trio.sleep(rng.random())
        with trio.move_on_after(rng.choice([0, 0.01, 0.5, 100])):
            await get(client, number)
            answered += 1

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(call, number)
    assert len(service.master.wires) == 1
    assert answered >= 60
    statistics = client.statistics()
    assert statistics.replied == answered
    assert statistics.in_flight == 0 or statistics.cancelled > 0


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
async def test_a_reply_without_a_caller_is_dropped_in_its_place(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """Without the place that it keeps, the next caller would be given it."""

    def forget(flights: InFlight, request: Request) -> None:
        flights.queue.remove(request)

    if not guarded:
        monkeypatch.setattr(InFlight, "abandon", forget)
    release = trio.Event()
    service.master.tap("GET", instead=Hold(release))
    await give_up(client, 1)
    found: list[object] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _next() -> None:
            found.append(await client.get("key:2"))

        await settled()
        release.set()
    assert found == [b"value of key:2" if guarded else b"value of key:1"]


async def test_a_reader_that_goes_hands_the_reading_on(service: Service, client: SentinelClient) -> None:
    release = trio.Event()
    service.master.tap("GET", instead=Hold(release))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up, client, 1)
        await settled()
        for number in range(5):
            nursery.start_soon(get, client, number)
        await trio.sleep(2)
        release.set()
    assert trio.current_time() == 2


async def test_pushes_are_nobodys_reply(service: Service, client: SentinelClient) -> None:
    push = encode(Push([b"invalidate", None]), 3)
    (wire,) = service.master.open_wires
    wire.write(push)
    await get(client, 1)
    service.master.tap("GET", before=lambda: service.master.open_wires[0].write(push))
    await get(client, 2)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
async def test_a_reply_that_nobody_asked_for_is_nobodys(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """Such as what a server says before it hangs up. The connection is given up: it cannot be trusted any more."""
    if not guarded:
        monkeypatch.setattr(InFlight, "_check_silence", lambda self: None)
    service.master.tap("GET", instead=Raw(encode(b"value of key:1") + encode(b"value of another")))
    await get(client, 1)
    assert await client.get("key:2") == (b"value of key:2" if guarded else b"value of another")
    assert len(service.master.wires) == (2 if guarded else 1)


async def test_a_value_that_cannot_be_decoded_is_its_own_callers_problem(service: Service) -> None:
    """State that remains: the connection."""
    service.master.tap("GET", instead=Reply(b"\xff"))
    async with RedisClient(service.master.address, decode_responses=True) as client:
        with pytest.raises(UnicodeDecodeError):
            await client.get("key:1")
        assert await client.get("key:2") == "value of key:2"
        assert len(service.master.wires) == 1


# ---- a server that hangs ----------------------------------------------------------------------------------------


async def test_each_reply_has_its_time_and_not_the_queue(service: Service, client: SentinelClient) -> None:
    """A server that is slow and works is not taken for one that hangs."""
    service.master.delay = 4
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(get, client, number)
    assert trio.current_time() == 20
    assert len(service.master.wires) == 1


async def test_a_hang_is_noticed_though_every_caller_gave_up(service: Service, client: SentinelClient) -> None:
    service.master.tap("GET", instead=SILENCE)
    await give_up(client, 1)
    await trio.sleep(3.9)
    await settled()
    assert len(service.master.open_wires) == 1
    await trio.sleep(0.2)
    assert service.master.open_wires == []
    await get(client, 2)


async def test_callers_that_come_and_give_up_do_not_hide_a_hang(service: Service, client: SentinelClient) -> None:
    """The oldest unanswered command's time counts, whoever waits."""
    service.master.tap("GET", instead=SILENCE)
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(give_up, client, 1 + number)
        await trio.sleep(4.9)
        nursery.start_soon(get, client, 5)  # it is answered by the next connection
    assert 5 <= trio.current_time() < 5.1


async def test_without_its_keeper_a_hang_would_not_be_noticed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep_on(connection: MultiplexedConnection) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(MultiplexedConnection, "_watch", sleep_on)
    async with SentinelClient(service.addresses, "mymaster") as client:
        service.master.tap("GET", instead=SILENCE)
        await give_up(client, 1)
        await trio.sleep(100)
        assert len(service.master.open_wires) == 1
        await give_up(client, 100)


async def test_replies_that_nobody_waits_for_are_read(service: Service, client: SentinelClient) -> None:
    """Else a server that did answer would be taken for one that hangs."""
    service.master.delay = 2
    await give_up(client, 1)
    await trio.sleep(100)
    assert client.statistics().in_flight == 0
    assert len(service.master.open_wires) == 1
    assert client.statistics().connections == 1


async def test_a_hung_masters_commands_end_by_the_policy_on_the_sentinels_word(
    service: Service, client: SentinelClient
) -> None:
    """At once. Nobody waits for `response_timeout`."""
    unknown = 0

    async def write() -> None:
        nonlocal unknown
        with pytest.raises(CommandOutcomeUnknown, match="MASTER_CHANGE"):
            await client.incr("counter")
        unknown += 1

    service.master.hang()
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(get, client, number)
            nursery.start_soon(write)
        await settled()
        service.fail_over(hang=True)
    assert trio.current_time() < 0.2
    assert unknown == 10
    assert counter(service) is None
    assert client.statistics().outcome_unknown == 10
    assert client.statistics().sent_again == 10


async def test_a_reply_that_has_come_counts_though_the_master_is_left(network: Network) -> None:
    """It was read with the next read only, which never came about."""
    network.at_once = True
    service = Service(network)
    async with SentinelClient(service.addresses, "mymaster") as client:
        release = trio.Event()
        service.master.tap("INCRBY", instead=Hold(release))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _write() -> None:
                assert await client.incr("counter") == 1

            await settled()
            (wire,) = service.master.open_wires
            # In one step: the reply comes, and with it the end.
            wire.write(encode(1))
            (link,) = client._shared._links
            link.fail(ServerConnectionError("MASTER_CHANGE"))
            release.set()
    assert client.statistics().replied == 1


# ---- the policy -------------------------------------------------------------------------------------------------


async def test_retry_writes_sends_a_write_again(service: Service) -> None:
    """And so it may run twice: that is what the caller has said it can bear."""
    service.master.tap("INCRBY", instead=HANG_UP)
    async with SentinelClient(service.addresses, "mymaster", retry_writes=True) as client:
        assert await client.incr("counter") == 2
        assert client.statistics().sent_again == 1


async def test_a_scan_is_sent_again_to_the_same_process_only(service: Service, client: SentinelClient) -> None:
    some: Any = client
    cursor, _ = await some.scan(0)
    service.master.tap("SCAN", instead=HANG_UP)
    await some.scan(cursor)
    service.master.tap("SCAN", before=service.fail_over)
    with pytest.raises(redis_errors.RedisError, match="another server process"):
        await some.scan(cursor)
    # The beginning of an iteration is good anywhere.
    service.master.tap("SCAN", instead=HANG_UP)
    assert len([key async for key in client.scan_iter(count=100)]) >= 300


async def test_a_refusal_harms_nobody_elses_command(service: Service, client: SentinelClient) -> None:
    """The connection is left with those who wait on it, and closed when they have their replies."""
    old = service.master
    release = trio.Event()
    old.tap("INCRBY", instead=Reply(Error("READONLY You can't write against a read only replica.")))
    old.tap("GET", instead=Hold(release))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.incr, "counter")
        await settled()
        nursery.start_soon(get, client, 1)
        await settled()
        release.set()
    assert client.statistics().sent_again == 1
    assert len(old.open_wires) == 1
    assert client.statistics().connections == 2


async def test_commands_that_wait_share_the_attempts_to_connect(service: Service, client: SentinelClient) -> None:
    """A hundred callers do not make a hundred times as many attempts."""
    service.master.kill()
    before = len(service.network.dialled)
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(get, client, number)
        await trio.sleep(1)
        assert client.statistics().waiting == 100
        service.master.start()
    dialled = service.network.dialled[before:]
    assert len([dial for dial, _ in dialled if dial == service.master.address]) < 15


async def test_what_makes_waiting_useless_is_told_to_all_who_wait(service: Service, client: SentinelClient) -> None:
    """Each has an exception of its own, and the server is not asked again for each."""
    service.master.kill()
    caught: list[AuthenticationFailed] = []

    async def call(number: int) -> None:
        with pytest.raises(AuthenticationFailed) as error:
            await get(client, number)
        caught.append(error.value)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(call, number)
        await trio.sleep(1)
        service.master.program.users["default"] = User("another")
        service.master.start()
        tries = len(service.master.commands("HELLO"))
    assert len({id(error) for error in caught}) == 5
    assert len(service.master.commands("HELLO")) == tries + 1


# ---- bounds -----------------------------------------------------------------------------------------------------


async def test_more_than_so_many_may_not_wait_for_replies(service: Service) -> None:
    """One that its caller gave up counts until its reply has come."""
    async with SentinelClient(service.addresses, "mymaster", max_waiting=3) as client:
        release = trio.Event()
        service.master.tap("GET", instead=Hold(release))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up, client, 1)
            await settled()
            nursery.start_soon(get, client, 1)
            nursery.start_soon(get, client, 2)
            await trio.sleep(2)
            with pytest.raises(
                TooManyCommandsWaiting, match=r"^3 commands \(max_waiting\).*SET was not sent"
            ) as caught:
                await client.set("secret", "secret")
            assert "secret" not in str(caught.value)
            release.set()
        await get(client, 3)
        assert client.statistics().turned_away == 1
        assert service.master.commands("SET") == []


async def test_nor_for_a_server(service: Service) -> None:
    async with SentinelClient(service.addresses, "mymaster", max_waiting=3) as client:
        service.master.kill()
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(get, client, number)
            await trio.sleep(1)
            with pytest.raises(TooManyCommandsWaiting):
                await get(client, 4)
            service.master.start()
        await get(client, 4)


async def test_what_does_not_come_about_in_time_is_counted(service: Service) -> None:
    async with SentinelClient(service.addresses, "mymaster", failover_timeout=1) as client:
        service.master.kill()
        with pytest.raises(ServerUnavailable):
            await get(client, 1)
        assert client.statistics().unavailable == 1


# ---- batches ----------------------------------------------------------------------------------------------------


def batch(*commands: str) -> list[Command]:
    """Commands by their words."""
    return [Command(text.split()[0], tuple(text.split())) for text in commands]


async def test_a_batch_is_written_without_anything_in_between(service: Service, client: SentinelClient) -> None:
    async def busy() -> None:
        while True:
            await get(client, 1)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(busy)
        replies, protocol = await client._shared.execute_batch(
            batch("SET a 1", "NOSUCH", "INCRBY a 1", "GET a"), decode=True
        )
        nursery.cancel_scope.cancel()
    assert protocol == 3
    assert (replies[0], replies[2], replies[3]) == (b"OK", 2, b"2")
    assert isinstance(replies[1], redis_errors.ResponseError)
    names = [words[0] for _, words in service.master.log]
    at = names.index(b"SET")
    assert names[at : at + 4] == [b"SET", b"NOSUCH", b"INCRBY", b"GET"]


@pytest.mark.parametrize(
    "commands, again",
    [(("GET a", "GET b"), True), (("GET a", "INCRBY a 1"), False), (("MULTI", "GET a", "EXEC"), False)],
)
async def test_a_batch_whose_connection_was_lost(
    service: Service, client: SentinelClient, commands: tuple[str, ...], again: bool
) -> None:
    service.master.tap("GET", instead=HANG_UP)
    if again:
        replies, _ = await client._shared.execute_batch(batch(*commands), decode=True)
        assert replies == [None, None]
    else:
        with pytest.raises(CommandOutcomeUnknown, match=r"^a (pipeline|transaction) of [12] commands \(GET"):
            await client._shared.execute_batch(batch(*commands), decode=True)
    assert len(service.master.commands("GET")) == (3 if again else 1)


async def test_a_batch_that_was_refused_as_a_whole_is_sent_again(service: Service, client: SentinelClient) -> None:
    service.master.program.loading = True
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _ends() -> None:
            await trio.sleep(1)
            service.master.program.loading = False

        replies, _ = await client._shared.execute_batch(batch("INCRBY counter 1", "GET counter"), decode=True)
    assert replies == [1, b"1"]


# ---- its end ----------------------------------------------------------------------------------------------------


async def test_commands_under_way_end_with_the_client(service: Service) -> None:
    """The one that may have run says so; the other says that the client was closed."""
    ended: list[type[BaseException]] = []

    async def call(awaitable: Any) -> None:
        try:
            await awaitable
        except redis_errors.RedisError as error:
            ended.append(type(error))

    async with trio.open_nursery() as nursery, SentinelClient(service.addresses, "mymaster") as client:
        service.master.hang()
        # That the client ends before its callers do is the point.
        nursery.start_soon(call, client.get("key:1"))  # noqa: ASYNC111
        nursery.start_soon(call, client.incr("counter"))  # noqa: ASYNC111
        await settled()
    assert sorted(kind.__name__ for kind in ended) == ["ClientClosed", "CommandOutcomeUnknown"]


async def test_the_counts(service: Service, client: SentinelClient) -> None:
    await get(client, 1)
    service.master.drop_clients()
    await get(client, 1)
    statistics = client.statistics()
    assert (statistics.sent, statistics.replied, statistics.connections, statistics.reconnects) == (2, 2, 2, 1)
    assert (statistics.in_flight, statistics.waiting, statistics.cancelled) == (0, 0, 0)
