"""Connections of one's own: bounded, in turn, clean or closed, and never to another server than at the beginning."""

# What is tested here is how a whole block ends:

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio

from tests.trio.fakes import (
    HANG_UP,
    SILENCE,
    Cut,
    Error,
    Hold,
    Network,
    Raw,
    Reply,
    Service,
    on_mock_time,
    settled,
)
from trio_sentinel_scan import (
    ClientClosed,
    CommandNotShareable,
    CommandOutcomeUnknown,
    ConfigError,
    Lease,
    LeaseLost,
    ProtocolError,
    RedisClient,
    ScanInterrupted,
    SentinelClient,
    ServerUnavailable,
)
from trio_sentinel_scan._core.connection_state import ConnectionState

pytestmark = pytest.mark.trio(run=on_mock_time)

SERVICE = "mymaster"


@pytest.fixture
def service(network: Network) -> Service:
    return Service(network, keys=10)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(service.addresses, SERVICE, max_connections=2) as client:
        yield client


def sessions(service: Service) -> int:
    """How many connections to the master are open, the shared one included."""
    return len(service.master.open_wires)


# ---- a connection of one's own ----------------------------------------------------------------------------------


async def test_a_lease_is_a_connection_of_its_own(service: Service, client: SentinelClient) -> None:
    async with client.dedicated() as lease:
        await lease.select(3)
        await lease.set("k", "v")
        assert await client.get("k") is None
        assert await lease.get("k") == b"v"
        assert await lease.wait(1, 100) == 2
        assert lease.server.run_id == service.master.program.run_id
        assert sessions(service) == 2
    assert sessions(service) == 1


async def test_a_clean_one_is_used_again(service: Service, client: SentinelClient) -> None:
    for _ in range(3):
        async with client.dedicated() as lease:
            await lease.execute_command("WATCH", "k")
            await lease.set("k", "v")
            await lease.execute_command("UNWATCH")
    assert len(service.master.wires) == 2


async def test_nobody_finds_another_database_than_his_own(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without the guard that tells a changed connection, somebody does."""

    async def what_the_next_one_finds() -> Any:
        async with client.dedicated() as lease:
            await lease.select(3)
        async with client.dedicated() as lease:
            return await lease.get("key:1")

    assert await what_the_next_one_finds() == b"value of key:1"
    monkeypatch.setattr(ConnectionState, "clean", True)
    assert await what_the_next_one_finds() is None


async def test_nobody_finds_a_transaction_of_somebody_elses(service: Service, client: SentinelClient) -> None:
    async with client.dedicated() as lease:
        await lease.execute_command("MULTI")
        await lease.set("k", "v")
    async with client.dedicated() as lease:
        assert await lease.get("key:1") == b"value of key:1"


async def test_one_that_ended_at_rest_is_not_used_again(service: Service, client: SentinelClient) -> None:
    async with client.dedicated() as lease:
        await lease.ping()
    service.master.drop_clients()
    async with client.dedicated() as lease:
        await lease.incr("k")
    assert len(service.master.commands("INCRBY")) == 1


async def test_a_lease_that_was_given_back_is_of_no_use(service: Service, client: SentinelClient) -> None:
    """Its connection may be somebody else's by now."""
    async with client.dedicated() as first:
        await first.ping()
    async with client.dedicated() as second:
        with pytest.raises(LeaseLost, match="given back"):
            await first.set("k", "v")
        assert await second.get("k") is None


async def test_what_is_not_answered_by_one_reply_is_refused_here_too(service: Service, client: SentinelClient) -> None:
    async with client.dedicated() as lease:
        with pytest.raises(CommandNotShareable, match=r"client\.pubsub"):
            await lease.execute_command("SUBSCRIBE", "channel")
        assert await lease.get("key:1") == b"value of key:1"


async def test_tasks_that_share_a_lease_wait_for_each_other(service: Service, client: SentinelClient) -> None:
    service.master.delay = 1
    async with client.dedicated() as lease, trio.open_nursery() as nursery:

        async def get(number: int) -> None:
            assert await lease.get(f"key:{number}") == b"value of key:%d" % number

        for number in range(5):
            nursery.start_soon(get, number)


async def test_its_repr_says_where_it_leads(service: Service, client: SentinelClient) -> None:
    async with client.dedicated() as lease:
        assert repr(lease).startswith("<Lease of a connection to 10.0.0.1:6379 (run_id ")
        service.fail_over(kill=False)
        await settled()
        assert repr(lease).endswith(", lost>")


async def test_a_cursor_is_good_where_it_was_issued(network: Network) -> None:
    service = Service(network, keys=100)
    async with RedisClient(service.master.address) as client, client.dedicated() as lease:
        cursor, _ = await lease.scan(0, count=10)
        assert cursor != 0
        await lease.scan(cursor, count=10)
        async with client.dedicated() as other:
            with pytest.raises(ScanInterrupted):
                await other.scan(cursor, count=10)


# ---- a bounded number, in turn ----------------------------------------------------------------------------------


async def test_who_comes_first_is_served_first(service: Service, client: SentinelClient) -> None:
    served: list[int] = []
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        async with client.dedicated() as lease:
            served.append(number)
            await lease.ping()
            most = max(most, sessions(service))
            await trio.sleep(1 + number / 100)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(work, number)
            await settled()
    assert served == list(range(10))
    # Two at a time, and the shared one.
    assert most == 3
    assert 5 < trio.current_time() < 6


async def test_who_gives_up_waiting_keeps_nobody_from_his_turn(service: Service, client: SentinelClient) -> None:
    """State that remains: as if it had never asked."""
    async with client.dedicated(), client.dedicated():
        with trio.move_on_after(1) as scope:
            async with client.dedicated():
                pytest.fail("there were two already")
        assert scope.cancelled_caught
    async with client.dedicated(), client.dedicated() as lease:
        await lease.ping()


async def test_who_cannot_connect_keeps_nobody_from_his_turn(network: Network) -> None:
    service = Service(network)
    async with RedisClient(service.master.address, max_connections=1, failover_timeout=5) as client:
        service.master.kill()
        for _ in range(2):
            with pytest.raises(ServerUnavailable):
                async with client.dedicated():
                    pytest.fail("there was no server")
        service.master.start()
        async with client.dedicated() as lease:
            await lease.ping()


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "2", None])
async def test_the_number_is_checked(number: Any) -> None:  # noqa: ASYNC124 (as its neighbours)
    with pytest.raises(ConfigError, match="max_connections"):
        RedisClient(max_connections=number)


# ---- a connection that fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize("instead", [HANG_UP, Cut(2), SILENCE], ids=["hang up", "cut", "silence"])
async def test_a_lease_that_is_lost_stays_lost(service: Service, client: SentinelClient, instead: Any) -> None:
    """The write's outcome is not known; what comes after it was not sent, and says so."""
    async with client.dedicated() as lease:
        service.master.tap("INCRBY", instead=instead)
        with pytest.raises(CommandOutcomeUnknown, match=r"^INCRBY was sent to 10\.0\.0\.1:6379") as caught:
            await lease.incr("secret")
        assert "secret" not in str(caught.value)
        for _ in range(2):
            with pytest.raises(LeaseLost, match=r"^this lease's connection to 10\.0\.0\.1:6379 is gone") as lost:
                await lease.incr("secret")
            assert lost.value.__cause__ is not None
        assert sessions(service) == 1
    assert len(service.master.commands("INCRBY")) == 1
    async with client.dedicated() as lease:
        assert await lease.incr("secret") == 2


async def test_a_read_that_was_lost_is_not_in_doubt(service: Service, client: SentinelClient) -> None:
    """But it is not sent again: what the lease was set to is gone."""
    async with client.dedicated() as lease:
        service.master.tap("GET", instead=HANG_UP)
        with pytest.raises(LeaseLost):
            await lease.get("key:1")
    assert len(service.master.commands("GET")) == 1


async def test_a_cancelled_command_costs_the_lease(service: Service, client: SentinelClient) -> None:
    """State that remains: closed, so that nobody takes its reply for his own."""
    async with client.dedicated() as lease:
        service.master.tap("GET", instead=Hold(trio.Event()))
        with trio.move_on_after(1) as scope:
            await lease.get("key:1")
        assert scope.cancelled_caught
        assert sessions(service) == 1
        with pytest.raises(LeaseLost, match="cancelled"):
            await lease.get("key:2")
    async with client.dedicated() as lease:
        assert await lease.get("key:2") == b"value of key:2"


async def test_what_is_not_resp_costs_the_lease(service: Service, client: SentinelClient) -> None:
    async with client.dedicated() as lease:
        service.master.tap("GET", instead=Raw(b"?\r\n"))
        with pytest.raises(ProtocolError):
            await lease.get("key:1")
        with pytest.raises(LeaseLost, match=r"Protocol error"):
            await lease.get("key:1")


async def test_two_replies_to_one_command_cost_the_lease(service: Service, client: SentinelClient) -> None:
    """The second is not taken for the next command's; nor is the connection given to the next one."""
    async with client.dedicated() as lease:
        service.master.tap("GET", instead=Raw(b"$1\r\na\r\n$1\r\nb\r\n"))
        assert await lease.get("key:1") == b"a"
        with pytest.raises(ProtocolError, match="nobody had asked for"):
            await lease.get("key:1")
    async with client.dedicated() as lease:
        service.master.tap("GET", instead=Raw(b"$1\r\na\r\n$1\r\nb\r\n"))
        assert await lease.get("key:1") == b"a"
    await settled()
    assert sessions(service) == 1
    async with client.dedicated() as lease:
        assert await lease.get("key:1") == b"value of key:1"


async def test_a_server_that_refuses_is_not_asked_again(service: Service, client: SentinelClient) -> None:
    """An error reply is an answer. What it says of the server is kept in mind for when the lease is over."""
    async with client.dedicated() as lease:
        service.master.tap("INCRBY", instead=Reply(Error("LOADING Redis is loading the dataset in memory")))
        with pytest.raises(Exception, match="loading"):
            await lease.incr("k")
        assert await lease.incr("k") == 2
        service.master.tap("INCRBY", instead=Reply(Error("READONLY You can't write against a read only replica.")))
        with pytest.raises(Exception, match="read only"):
            await lease.incr("k")
    assert sessions(service) == 1


# ---- another master ---------------------------------------------------------------------------------------------


async def test_it_never_becomes_a_connection_to_another_server(service: Service, client: SentinelClient) -> None:
    """The old master goes on answering as one: it is left all the same, at once."""
    async with client.dedicated() as lease:
        await lease.set("k", "v")
        old = service.fail_over(kill=False)
        await settled()
        assert old.open_wires == []
        with pytest.raises(LeaseLost, match=r"MASTER_CHANGE: the master is 10\.0\.0\.2"):
            await lease.set("k", "w")
    assert trio.current_time() == 0
    async with client.dedicated() as lease:
        assert lease.server.address == service.master.address
    assert len(service.master.commands("SET")) == 0


@pytest.mark.parametrize("hang", [False, True])
async def test_a_command_under_way_ends_with_the_master(service: Service, client: SentinelClient, hang: bool) -> None:
    """Long before its `response_timeout`."""
    old = service.master
    old.tap("INCRBY", instead=SILENCE)

    async def switch() -> None:
        await trio.sleep(1)
        service.fail_over(kill=False, hang=hang)

    async with trio.open_nursery() as nursery, client.dedicated() as lease:
        nursery.start_soon(switch)
        with pytest.raises(CommandOutcomeUnknown, match="MASTER_CHANGE"):
            await lease.incr("k")
        assert trio.current_time() == 1


async def test_one_at_rest_is_closed_with_the_others(service: Service, client: SentinelClient) -> None:
    async with client.dedicated() as lease:
        await lease.ping()
    old = service.fail_over(kill=False)
    await settled()
    assert old.open_wires == []


async def test_a_change_while_it_connects_is_not_missed(service: Service, client: SentinelClient) -> None:
    old = service.master
    release = trio.Event()
    old.tap("CLIENT", instead=Hold(release))
    leased: list[Lease] = []

    async def take() -> None:
        async with client.dedicated() as lease:
            leased.append(lease)
            await lease.set("k", "v")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await settled()
        service.fail_over(kill=False)
        await settled()
        release.set()
    assert leased[0].server.address == service.master.address
    assert old.commands("SET") == []


async def test_a_master_that_says_it_is_none_is_not_leased(network: Network) -> None:
    service = Service(network)
    async with SentinelClient(service.addresses, SERVICE, failover_timeout=3) as client:
        service.master.program.master = service.servers[1].address
        with pytest.raises(ServerUnavailable, match="role is slave"):
            async with client.dedicated():
                pytest.fail("it is no master")
        assert trio.current_time() == pytest.approx(3, abs=0.2)


# ---- the client's end -------------------------------------------------------------------------------------------


async def test_a_lease_ends_with_its_client(network: Network) -> None:
    """So does whoever waits for one."""
    service = Service(network)
    ended: list[str] = []

    async def hold(client: RedisClient, has: trio.Event) -> None:
        async with client.dedicated() as lease:
            has.set()
            await trio.sleep(2)
            with pytest.raises(LeaseLost, match="client was closed"):
                await lease.ping()
            ended.append("held")

    async def wait(client: RedisClient) -> None:
        with pytest.raises(ClientClosed):
            async with client.dedicated():
                pytest.fail("the client was closed")
        ended.append(f"waited {trio.current_time():g}")

    async with trio.open_nursery() as nursery:
        async with RedisClient(service.master.address, max_connections=1) as client:
            has = trio.Event()
            nursery.start_soon(hold, client, has)  # noqa: ASYNC111 (the client's end is the question)
            await has.wait()
            nursery.start_soon(wait, client)  # noqa: ASYNC111 (as above)
            await trio.sleep(1)
        assert network.open_client_ends == []
    assert ended == ["waited 1", "held"]
    with pytest.raises(ClientClosed):
        client.dedicated()


async def test_a_transaction_on_a_lost_lease_does_not_begin_again_for_ever(
    service: Service, client: SentinelClient
) -> None:
    async with client.dedicated() as lease:
        service.fail_over()
        await settled()
        with trio.fail_after(10), pytest.raises(LeaseLost):
            await lease.transaction(lambda pipe: pipe.multi(), "k")


async def test_what_is_only_queued_is_due_at_once(service: Service, client: SentinelClient) -> None:
    """Within a transaction BLPOP does not wait, so a server that does not answer is noticed."""
    async with client.dedicated() as lease:
        await lease.execute_command("MULTI")
        service.master.hang()
        with trio.fail_after(10), pytest.raises(CommandOutcomeUnknown):
            await lease.blpop("k", 0)
    assert trio.current_time() == 5


async def test_a_leases_cursor_does_not_go_to_another_process(service: Service, client: SentinelClient) -> None:
    """Not by the client's own connection either, which has never seen a cursor before."""
    async with client.dedicated() as lease:
        cursor, _ = await lease.scan(0, count=2)
    assert cursor
    service.fail_over()
    await settled()
    with pytest.raises(ScanInterrupted):
        await client.scan(cursor, count=2)
    assert service.master.commands("SCAN") == []
