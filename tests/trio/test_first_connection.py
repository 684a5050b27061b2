"""Entering a client: what stands in the way is one error, in bounded time; or it is waited for, if that was asked."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import SERVICE, SILENCE, Host, Network, Reply, Service, User, on_mock_time, tasks_below
from trio_sentinel_scan import (
    AuthenticationFailed,
    ConfigError,
    MasterNotFound,
    NoSentinelReachable,
    RedisClient,
    ResponseTimeout,
    RoleMismatch,
    SentinelClient,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
    ServiceUnknown,
    connect,
)
from trio_sentinel_scan._core.topology import Topology

pytestmark = pytest.mark.trio(run=on_mock_time)

FOR_EVER = float("inf")


@asynccontextmanager
async def after(seconds: float, act: Callable[[], object]) -> AsyncGenerator[None]:
    """Something happens while the block waits."""

    async def later() -> None:
        await trio.sleep(seconds)
        act()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        yield


async def refused(network: Network, client: SentinelClient | RedisClient) -> SentinelScanError:
    """The error with which the client is not opened. Nothing half-open is left: no task, no connection."""
    tasks = tasks_below(trio.lowlevel.current_task())
    with pytest.raises(SentinelScanError) as caught:
        async with client:
            pytest.fail("it was opened")
    assert tasks_below(trio.lowlevel.current_task()) == tasks
    assert network.open_client_ends == []
    return caught.value


def line_of(error: SentinelScanError, sentinel: int) -> str:
    """The line of the error that speaks of this Sentinel."""
    [line] = [line for line in str(error).splitlines()[1:] if line.strip().startswith(f"10.0.1.{sentinel}:26379: ")]
    return line


# ---- what stands in the way -------------------------------------------------------------------------------------


async def test_sentinels_each_with_a_trouble_of_its_own(network: Network) -> None:
    service = Service(network, sentinels=5)
    one, two, three, four, five = service.sentinels
    one.kill()
    two.vanish()
    three.program.password = "secret"
    four.turns_away = b"-ERR max number of clients reached\r\n"
    five.tap("SENTINEL", times=FOR_EVER, instead=Reply([]))
    error = await refused(network, SentinelClient(service.addresses, SERVICE))
    assert isinstance(error, NoSentinelReachable)
    assert SERVICE in str(error).splitlines()[0]
    assert "Connection refused" in line_of(error, 1)
    assert "took no connection within 2 s" in line_of(error, 2)
    assert "Authentication required" in line_of(error, 3)
    assert "max number of clients" in line_of(error, 4)
    assert "makes no sense" in line_of(error, 5)
    assert trio.current_time() <= 2


async def test_a_sentinel_that_takes_its_time_with_everything(network: Network) -> None:
    """It answers each time before its patience ends, and comes to no end: that is bounded, too."""
    service = Service(network, sentinels=1)
    service.sentinels[0].delay = 1.9
    error = await refused(network, SentinelClient(service.addresses, SERVICE))
    assert isinstance(error, MasterNotFound)
    assert "not asked yet" in line_of(error, 1)
    assert trio.current_time() <= 10


async def test_a_name_that_nobody_knows(network: Network) -> None:
    service = Service(network)
    service.sentinels[2].kill()
    error = await refused(network, SentinelClient(service.addresses, "another"))
    assert isinstance(error, ServiceUnknown)
    assert "does not know the service 'another'" in line_of(error, 1)
    assert "Connection refused" in line_of(error, 3)
    assert trio.current_time() == 0


async def test_a_master_that_says_it_is_none(network: Network) -> None:
    service = Service(network)
    service.master.program.master = service.servers[1].address
    error = await refused(network, SentinelClient(service.addresses, SERVICE))
    assert isinstance(error, MasterNotFound)
    assert not isinstance(error, (NoSentinelReachable, ServiceUnknown))
    assert isinstance(error.__cause__, RoleMismatch)
    assert "says that its role is slave" in str(error)
    assert "names 10.0.0.1:6379" in line_of(error, 2)


async def test_the_data_nodes_password_is_wrong(network: Network) -> None:
    """Who named that server is told, too."""
    service = Service(network)
    for host in service.servers:
        host.program.users["default"] = User("secret")
    error = await refused(network, SentinelClient(service.addresses, SERVICE, password="hunter2"))
    assert isinstance(error, AuthenticationFailed)
    assert str(error).startswith("10.0.0.1:6379 refused the username or password")
    assert "names 10.0.0.1:6379" in line_of(error, 3)
    assert "hunter2" not in str(error)
    assert trio.current_time() == 0


@pytest.mark.parametrize("wait_ready", [False, True])
async def test_patience_with_one_server_has_an_end_though_its_replies_may_take_for_ever(
    network: Network, wait_ready: bool
) -> None:
    service = Service(network)
    service.master.hang()
    options: Any = {"response_timeout": None, "failover_timeout": 20, "wait_ready": wait_ready}
    error = await refused(network, RedisClient(service.master.address, **options))
    assert isinstance(error, ServerUnavailable)
    assert trio.current_time() == 20


# ---- waiting until all is ready ---------------------------------------------------------------------------------


def start(hosts: Iterable[Host[Any]]) -> None:
    for host in hosts:
        host.start()


def take_down(service: Service, trouble: str) -> Callable[[], object]:
    """Make a service one that is not up yet. What is returned brings it up."""
    if trouble == "all":
        for host in service.hosts:
            host.kill()
        return partial(start, service.hosts)
    if trouble == "sentinels":
        for host in service.sentinels:
            host.kill()
        return partial(start, service.sentinels)
    if trouble == "name":
        known = [host.program.services.pop(SERVICE) for host in service.sentinels]

        def monitor() -> None:
            for host, monitored in zip(service.sentinels, known, strict=True):
                host.program.services[SERVICE] = monitored

        return monitor
    if trouble == "replica":
        service.master.program.master = service.servers[1].address
        return lambda: setattr(service.master.program, "master", None)
    getattr(service.master, trouble)()
    return service.master.start if trouble == "kill" else service.master.resume


@pytest.mark.parametrize("trouble", ["all", "sentinels", "name", "replica", "kill", "vanish", "hang"])
@pytest.mark.parametrize("seconds", [0.1, 20])
async def test_servers_that_come_up_later_are_waited_for(network: Network, trouble: str, seconds: float) -> None:
    service = Service(network, keys=3)
    bring_up = take_down(service, trouble)
    async with (
        after(seconds, bring_up),
        SentinelClient(service.addresses, SERVICE, wait_ready=True) as client,
    ):
        # A connection that was begun while it hung, or an attempt that waits for its turn, may go on for some seconds.
        assert seconds <= trio.current_time() <= seconds + 6
        assert await client.dbsize() == 3


@pytest.mark.parametrize("trouble", ["all", "sentinels", "name", "replica", "kill", "vanish"])
async def test_not_for_ever_if_they_do_not(network: Network, trouble: str) -> None:
    """What is raised then is what would have been raised at once without waiting."""
    service = Service(network)
    take_down(service, trouble)
    expected = type(await refused(network, SentinelClient(service.addresses, SERVICE)))
    started = trio.current_time()
    error = await refused(network, SentinelClient(service.addresses, SERVICE, wait_ready=True, failover_timeout=30))
    assert type(error) is expected
    assert 30 <= trio.current_time() - started <= 30.5
    for sentinel in (1, 2, 3):
        assert line_of(error, sentinel)


async def test_for_ever_if_that_was_asked(network: Network) -> None:
    service = Service(network)
    bring_up = take_down(service, "all")
    client = connect("redis+sentinel://10.0.1.1,10.0.1.2/mymaster?wait_ready=true", failover_timeout=None)
    async with after(500, bring_up), client:
        assert trio.current_time() >= 500


async def test_a_wait_can_be_cancelled(network: Network) -> None:
    """State that remains: no task and no open connection."""
    service = Service(network)
    for trouble in ("vanish", "all"):
        take_down(service, trouble)
        for client in (
            SentinelClient(service.addresses, SERVICE, wait_ready=True, failover_timeout=None),
            RedisClient(service.master.address, wait_ready=True, failover_timeout=None),
        ):
            with trio.move_on_after(100) as scope:
                async with client:
                    pytest.fail("it was opened")
            assert scope.cancelled_caught
            assert tasks_below(trio.lowlevel.current_task()) == []
            assert network.open_client_ends == []


async def test_a_failover_while_it_waits_is_followed(network: Network) -> None:
    service = Service(network)
    service.master.vanish()
    async with (
        after(10, lambda: service.fail_over(kill=False)),
        SentinelClient(service.addresses, SERVICE, wait_ready=True, response_timeout=None) as client,
    ):
        assert client.master.address == service.master.address == ("10.0.0.2", 6379)
        assert trio.current_time() == pytest.approx(10, abs=0.2)


async def test_a_password_is_not_waited_for(network: Network) -> None:
    """Neither the data nodes' nor, with nobody else to ask, the Sentinels'."""
    service = Service(network)
    for host in service.servers:
        host.program.users["default"] = User("secret")
    options: Any = {"wait_ready": True, "failover_timeout": None}
    for password in ("hunter2", None):
        error = await refused(network, SentinelClient(service.addresses, SERVICE, password=password, **options))
        assert isinstance(error, AuthenticationFailed)
        error = await refused(network, RedisClient(service.master.address, password=password, **options))
        assert isinstance(error, AuthenticationFailed)
    assert trio.current_time() == 0
    for sentinel in service.sentinels:
        sentinel.program.password = "secret"
    service.sentinels[0].kill()
    for password in ("hunter2", None):
        client = SentinelClient(service.addresses, SERVICE, sentinel_password=password, password="secret", **options)
        error = await refused(network, client)
        assert isinstance(error, NoSentinelReachable)
        assert "hunter2" not in str(error)
    assert trio.current_time() == 0


async def test_without_that_guard_it_would_be_waited_for(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Topology, "is_refused", False)
    service = Service(network)
    for host in service.sentinels:
        host.program.password = "secret"
    await refused(network, SentinelClient(service.addresses, SERVICE, wait_ready=True, failover_timeout=30))
    assert trio.current_time() >= 30


async def test_nor_is_a_database_that_is_not_there(network: Network) -> None:
    service = Service(network)
    for client in (
        SentinelClient(service.addresses, SERVICE, wait_ready=True, db=99),
        RedisClient(service.master.address, wait_ready=True, db=99),
    ):
        error = await refused(network, client)
        assert isinstance(error, ConfigError)
    assert trio.current_time() == 0


@pytest.mark.parametrize("trouble", ["kill", "vanish", "hang"])
async def test_one_server_is_waited_for(network: Network, trouble: str) -> None:
    service = Service(network)
    bring_up = take_down(service, trouble)
    async with after(20, bring_up), RedisClient(service.master.address, wait_ready=True) as client:
        assert 20 <= trio.current_time() <= 26
        await client.ping()


async def test_one_server_is_not_waited_for_without_being_asked_nor_for_ever(network: Network) -> None:
    service = Service(network)
    service.master.kill()
    address = service.master.address
    error = await refused(network, RedisClient(address))
    assert type(error) is ServerConnectionError
    assert trio.current_time() == 0
    error = await refused(network, RedisClient(address, wait_ready=True, failover_timeout=7))
    assert isinstance(error, ServerUnavailable)
    assert "Connection refused" in str(error)
    assert trio.current_time() == 7


async def test_a_sentinel_in_a_servers_place_is_not_waited_for(network: Network) -> None:
    service = Service(network)
    error = await refused(network, RedisClient(service.sentinels[0].address, wait_ready=True))
    assert isinstance(error, RoleMismatch)
    assert trio.current_time() == 0


async def test_a_server_that_answers_late(network: Network) -> None:
    service = Service(network)
    service.master.tap("HELLO", times=2, instead=SILENCE)
    async with RedisClient(service.master.address, wait_ready=True, response_timeout=3):
        assert trio.current_time() == pytest.approx(6.2)
    service.master.tap("HELLO", instead=SILENCE)
    error = await refused(network, RedisClient(service.master.address, response_timeout=3))
    assert isinstance(error, ResponseTimeout)


# ---- what an operator reads -------------------------------------------------------------------------------------


async def test_the_log_tells_what_is_waited_for(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """Once, again when it is something else, and now and then if nothing changes."""
    caplog.set_level(logging.INFO, "trio_sentinel_scan")
    service = Service(network, sentinels=1)
    [sentinel] = service.sentinels
    service.master.kill()
    sentinel.kill()
    sentinel.program.views[service.master.address] = {"runid": ""}
    client = SentinelClient(service.addresses, SERVICE, wait_ready=True, failover_timeout=None)
    async with after(40, sentinel.start), after(49.95, service.master.start), client:
        pass
    told = [(record.name, record.levelname, record.getMessage().splitlines()[0]) for record in caplog.records]
    waiting = "waiting for the service 'mymaster' (wait_ready): "
    nobody = waiting + "no Sentinel of service 'mymaster' answers; check their addresses, the network"
    nobody += " and sentinel_username/sentinel_password:"
    assert told == [
        ("trio_sentinel_scan.client", "INFO", nobody),
        ("trio_sentinel_scan.client", "INFO", nobody),
        ("trio_sentinel_scan.sentinel", "INFO", "service mymaster: the master is 10.0.0.1:6379 (config epoch 0)"),
        ("trio_sentinel_scan.client", "INFO", waiting + "10.0.0.1:6379 cannot be reached: Connection refused"),
        ("trio_sentinel_scan.client", "INFO", "the service 'mymaster' is ready after 50.0 s"),
    ]
