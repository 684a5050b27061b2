"""The connection that commands share: it follows the master, and each command's fate is known or said to be unknown."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
import trio.testing
from redis import exceptions as redis_errors

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
    User,
    on_mock_time,
    settled,
    tasks_below,
)
from trio_sentinel_scan import (
    AuthenticationFailed,
    CommandOutcomeUnknown,
    ProtocolError,
    RedisClient,
    RoleMismatch,
    SentinelClient,
    ServerUnavailable,
)

pytestmark = pytest.mark.trio(run=on_mock_time)


@pytest.fixture(params=[True, False], ids=["socket", "tls"])
def service(network: Network, request: pytest.FixtureRequest) -> Service:
    """Streams that read and write at once, as sockets do, or only by waiting, as with TLS."""
    network.at_once = request.param
    return Service(network, keys=10)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(service.addresses, "mymaster") as client:
        yield client


def data(service: Service, key: bytes) -> bytes | None:
    """What the present master holds under a key."""
    value = service.master.program.data[0].get(key)
    return None if value is None else value.data


READONLY = Reply(Error("READONLY You can't write against a read only replica."))


# ---- one connection for all -------------------------------------------------------------------------------------


async def test_all_tasks_share_one_connection(service: Service, client: SentinelClient) -> None:
    service.master.delay = 0.1

    async def work(number: int) -> None:
        await client.set(f"task:{number}", number)
        assert await client.get(f"task:{number}") == str(number).encode()

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(work, number)
    assert len(service.master.wires) == 1


async def test_it_stays_open_between_commands(service: Service, client: SentinelClient) -> None:
    for _ in range(3):
        await client.ping()
        await trio.sleep(100)
    assert len(service.master.wires) == 1


# ---- a connection that fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize("instead", [HANG_UP, Cut(3), SILENCE], ids=["hang up", "cut", "silence"])
async def test_a_command_that_reads_is_sent_again(service: Service, client: SentinelClient, instead: Any) -> None:
    service.master.tap("GET", instead=instead)
    assert await client.get("key:1") == b"value of key:1"
    assert len(service.master.commands("GET")) == 2
    assert len(service.master.open_wires) == 1


@pytest.mark.parametrize("instead", [HANG_UP, Cut(3), SILENCE], ids=["hang up", "cut", "silence"])
async def test_a_command_that_writes_is_not(service: Service, client: SentinelClient, instead: Any) -> None:
    """State that remains: it was sent once, the connection is closed, and the next command has another one."""
    service.master.tap("INCRBY", instead=instead)
    with pytest.raises(
        CommandOutcomeUnknown, match=r"^INCRBY was sent to 10\.0\.0\.1:6379 and its reply never came"
    ) as e:
        await client.incr("secret:counter")
    assert "secret:counter" not in str(e.value)
    assert len(service.master.commands("INCRBY")) == 1
    assert service.master.open_wires == []
    assert await client.incr("secret:counter") == 2


async def test_a_connection_that_ended_at_rest_is_not_written_to(service: Service, client: SentinelClient) -> None:
    """A server that closes idle connections, or was restarted: that shows before the command is written."""
    service.master.drop_clients()
    assert await client.incr("counter") == 1
    service.master.restart()
    assert await client.incr("counter") == 2
    assert len(service.master.commands("INCRBY")) == 2


async def test_a_command_that_was_never_written_is_sent(service: Service, client: SentinelClient) -> None:
    """There is no connection to write it to, for a while."""
    service.master.kill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.get, "key:1")
        await trio.sleep(1)
        nursery.start_soon(client.incr, "counter")
        await trio.sleep(1)
        service.master.start()
    assert data(service, b"counter") == b"1"


@pytest.mark.parametrize(
    "error",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    ],
)
async def test_a_command_that_the_server_did_not_run_is_sent_again(
    service: Service, client: SentinelClient, error: str
) -> None:
    service.master.tap("INCRBY", times=3, instead=Reply(Error(error)))
    assert await client.incr("counter") == 4  # (the fake ran it all the same, unlike a server)
    assert len(service.master.commands("INCRBY")) == 4
    assert 0 < trio.current_time() < 1


async def test_a_script_is_never_sent_again(service: Service, client: SentinelClient) -> None:
    """The refusal may come from within it, after part of it has run."""
    with pytest.raises(redis_errors.ReadOnlyError):
        await client.eval("return redis.call('SET', KEYS[1], 1)", 1, "k")
    assert len(service.master.commands("EVAL")) == 1


async def test_an_error_reply_is_raised_as_redis_py_has_it(service: Service, client: SentinelClient) -> None:
    service.master.program.users["default"] = User(forbidden=frozenset({"GET"}))
    with pytest.raises(redis_errors.NoPermissionError):
        await client.get("key:1")
    assert len(service.master.wires) == 1


@pytest.mark.parametrize("data", [b"?\r\n", b"*999999999\r\n", b"$-7\r\n", b"*1\r\n" * 100])
async def test_a_reply_that_breaks_the_protocol(service: Service, client: SentinelClient, data: bytes) -> None:
    """State that remains: that connection is closed, and the next command has another one."""
    service.master.tap("GET", instead=Raw(data))
    with pytest.raises(ProtocolError):
        await client.get("key:1")
    assert service.master.open_wires == []
    assert await client.get("key:1") == b"value of key:1"


# ---- a caller that is cancelled ---------------------------------------------------------------------------------


async def test_a_cancelled_command_costs_nobody_anything(service: Service, client: SentinelClient) -> None:
    """State that remains: the connection, where its reply is dropped in order; the others get their own."""
    release = trio.Event()
    service.master.tap("GET", instead=Hold(release))
    with trio.move_on_after(1) as scope:
        await client.get("key:1")
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _next() -> None:
            assert await client.get("key:2") == b"value of key:2"

        await settled()
        release.set()
    assert await client.get("key:3") == b"value of key:3"
    assert len(service.master.wires) == 1
    assert client.statistics().cancelled == 1


async def test_a_command_cancelled_before_it_is_written_is_withdrawn(service: Service, client: SentinelClient) -> None:
    """State that remains: as if it had never been asked for."""
    (wire,) = service.master.open_wires
    wire.client_end.full = trio.Event()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _first() -> None:
            assert await client.get("key:1") == b"value of key:1"

        await settled()
        with trio.move_on_after(1) as scope:
            await client.set("key:2", "changed")
        assert scope.cancelled_caught
        wire.client_end.full.set()
    assert data(service, b"key:2") == b"value of key:2"
    assert service.master.commands("SET") == []
    assert len(service.master.wires) == 1


# ---- another master ---------------------------------------------------------------------------------------------


async def test_the_old_masters_connection_is_closed_at_once(service: Service, client: SentinelClient) -> None:
    """It would go on answering as a master for ten seconds, and take writes that get lost."""
    old = service.fail_over(kill=False)
    await settled()
    assert old.open_wires == []
    await client.set("key", "value")
    assert data(service, b"key") == b"value"
    assert trio.current_time() == 0


async def test_a_command_under_way_ends_with_it(service: Service, client: SentinelClient) -> None:
    old = service.master
    old.tap("GET", instead=SILENCE)
    old.tap("INCRBY", instead=SILENCE)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _reads() -> None:
            assert await client.get("key:1") == b"value of key:1"

        await settled()
        service.fail_over(hang=True)
    assert trio.current_time() < 1
    service.bring_back(old)
    service.master.tap("INCRBY", instead=SILENCE)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _writes() -> None:
            with pytest.raises(CommandOutcomeUnknown):
                await client.incr("counter")

        await settled()
        service.fail_over(hang=True)
    assert trio.current_time() < 2


async def test_a_change_while_it_connects_is_not_missed(service: Service, client: SentinelClient) -> None:
    """The connection that comes about is to a server that is known not to be the master: no command goes there."""
    old = service.master
    old.drop_clients()
    release = trio.Event()
    old.tap("CLIENT", instead=Hold(release))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.ping)
        await settled()
        nursery.start_soon(client.set, "key", "value")
        await settled()
        service.fail_over(kill=False)
        await settled()
        release.set()
    assert data(service, b"key") == b"value"
    assert old.open_wires == []


@pytest.mark.parametrize("trouble", ["hang", "vanish"])
async def test_a_change_aborts_a_connecting_that_hangs(service: Service, client: SentinelClient, trouble: str) -> None:
    service.master.drop_clients()
    getattr(service.master, trouble)()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.get, "key:1")
        await trio.sleep(1)
        service.fail_over(hang=True)
    assert trio.current_time() < 1.5


async def test_commands_wait_for_the_next_master(service: Service, client: SentinelClient) -> None:
    service.master.kill()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _elect() -> None:
            await service.elect(detect=5)

        assert await client.get("key:1") == b"value of key:1"
    assert 5 < trio.current_time() < 20


async def test_a_master_that_says_it_is_none_is_refused(service: Service, client: SentinelClient) -> None:
    """Until another one is named."""
    old = service.master
    service.promote(service.replicas[0])
    service.config_epoch += 1
    service.demote(old, drop=False)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _later() -> None:
            await trio.sleep(3)
            service.tell()

        await client.set("key", "value")
    assert data(service, b"key") == b"value"
    assert len(old.commands("SET")) == 1  # READONLY
    assert 3 <= trio.current_time() < 4


async def test_waiting_ends_at_failover_timeout(network: Network) -> None:
    service = Service(network)
    async with SentinelClient(service.addresses, "mymaster", failover_timeout=30) as client:
        service.master.kill()
        with pytest.raises(ServerUnavailable, match=r"^no server took GET within 30 s: .*Connection refused") as caught:
            await client.get("secret")
        assert "secret" not in str(caught.value)
        assert 30 <= trio.current_time() < 31
        assert caught.value.__cause__ is not None


async def test_a_password_that_was_changed_is_told_at_once(service: Service, client: SentinelClient) -> None:
    service.master.program.users["default"] = User("another")
    service.master.drop_clients()
    with pytest.raises(AuthenticationFailed):
        await client.get("key:1")
    assert trio.current_time() < 1


# ---- one server -------------------------------------------------------------------------------------------------


async def test_a_replica_may_be_talked_to_directly(service: Service) -> None:
    replica = service.replicas[0]
    async with RedisClient(replica.address) as client:
        assert await client.get("key:1") == b"value of key:1"
    replica.program.link = "sync"
    async with RedisClient(replica.address) as client:
        await client.ping()


async def test_a_server_that_restarts(service: Service) -> None:
    server = service.master
    async with RedisClient(server.address) as client:
        await client.ping()
        server.kill()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _later() -> None:
                await trio.sleep(10)
                server.start()

            assert await client.get("key:1") == b"value of key:1"
        assert 10 <= trio.current_time() < 10.2


async def test_role_mismatch_at_the_start(service: Service) -> None:
    """A client of a service cannot start on a "master" that says it is none; the error says so."""
    old = service.master
    service.promote(service.replicas[0])
    service.demote(old)
    with pytest.raises(
        Exception, match=r"10\.0\.0\.1:6379 was named as the master and says that its role is slave"
    ) as e:
        async with SentinelClient(service.addresses, "mymaster"):
            pass
    assert isinstance(e.value.__cause__, RoleMismatch)


# ---- its end ----------------------------------------------------------------------------------------------------


async def test_it_closes_though_cancelled_and_a_bodys_exception_stays(network: Network, service: Service) -> None:
    """State that remains: no task and no open connection; the body's exception, and no Cancelled in its place."""
    for leave_without_connection in (False, True):
        with trio.CancelScope() as outer, pytest.raises(ValueError, match="the body's"):
            async with SentinelClient(service.addresses, "mymaster"):
                if leave_without_connection:
                    service.fail_over(kill=False)
                    await settled()
                outer.cancel()
                raise ValueError("the body's")
        assert not outer.cancelled_caught
        assert tasks_below(trio.lowlevel.current_task()) == []
        assert network.open_client_ends == []


async def test_a_connection_that_was_given_up_ends_with_its_master_too(network: Network) -> None:
    """Else whoever waits there would wait for as long as `response_timeout` lets him, which may be for ever."""
    service = Service(network, keys=10)
    async with SentinelClient(service.addresses, "mymaster", response_timeout=None) as client:
        late = trio.Event()
        service.master.tap("SET", instead=READONLY)
        service.master.tap("GET", instead=Hold(late))
        service.master.delay = 0.02
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.set, "k", 1)
                await trio.sleep(0.01)
                nursery.start_soon(client.get, "key:1")
                await trio.sleep(0.05)
                service.fail_over(hang=True)


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_write_that_was_sent_stays_in_doubt_if_it_cannot_be_sent_again(
    network: Network, blocking: bool
) -> None:
    """That no server took it the second time says nothing of the first."""
    service = Service(network)
    async with SentinelClient(service.addresses, "mymaster", retry_writes=True, failover_timeout=3) as client:
        service.master.tap("INCRBY", after=service.master.kill, instead=HANG_UP)
        service.master.tap("BLPOP", after=service.master.kill, instead=HANG_UP)
        with pytest.raises(CommandOutcomeUnknown, match="nothing came of trying again") as caught:
            await (client.blpop("k", 1) if blocking else client.incr("k"))
        assert isinstance(caught.value.__cause__, ServerUnavailable)
