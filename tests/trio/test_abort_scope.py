"""MASTER_CHANGE aborts whatever wait on a server is under way, long before any timeout; never a hand-over.

Time is mock time, and the fakes answer in none of it: what took a moment took a wait.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import SILENCE, Error, Network, Reply, Service, on_mock_time, settled, sweep
from trio_sentinel_scan import SentinelClient, ServerUnavailable
from trio_sentinel_scan._trio.scan import Scan

pytestmark = pytest.mark.trio(run=on_mock_time)

COUNT = 20
RESPONSE_TIMEOUT = 60.0


@pytest.fixture
def service(network: Network) -> Service:
    return Service(network, keys=200)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(
        service.addresses, "mymaster", response_timeout=RESPONSE_TIMEOUT, failover_timeout=RESPONSE_TIMEOUT
    ) as client:
        yield client


def in_connect(service: Service) -> None:
    """Packets are lost: no connection comes about."""
    service.master.vanish()


def in_handshake(service: Service) -> None:
    """The process is stopped: the kernel takes the connection, and nobody answers on it."""
    service.master.hang()


def in_handshakes_end(service: Service) -> None:
    """It answers half of the handshake."""
    service.master.tap("INFO", times=float("inf"), instead=SILENCE)


def in_first_scan(service: Service) -> None:
    """The first SCAN is not answered: the cursor is 0."""
    service.master.tap("SCAN", instead=SILENCE)


def in_scan(service: Service) -> None:
    """A SCAN in the middle is not answered."""
    service.master.tap("SCAN", skip=4, instead=SILENCE)


def in_last_scan(service: Service) -> None:
    """The SCAN that would bring cursor 0 is not answered."""
    table = service.master.program._tables[0]
    cursor, scans = table.scan(0, COUNT)[0], 1
    while cursor:
        cursor, scans = table.scan(cursor, COUNT)[0], scans + 1
    service.master.tap("SCAN", skip=scans - 1, instead=SILENCE)


def in_reconnect(service: Service) -> None:
    """The connection dies, and the next one does not come about."""
    service.master.tap("SCAN", skip=4, before=service.master.drop_clients, after=None)
    service.master.tap("HELLO", skip=1, times=float("inf"), instead=SILENCE)


def in_back_off(service: Service) -> None:
    """The server is away, and the pauses between two attempts have become long."""
    service.master.tap("SCAN", skip=4, before=service.master.kill)


def while_loading(service: Service) -> None:
    """The server asks for patience, and the pauses have become long."""
    service.master.tap("SCAN", skip=4, times=float("inf"), instead=Reply(Error("LOADING Redis is loading")))


def at_the_certificate(service: Service) -> None:
    """Everything is swept and taken; the server does not answer any more."""
    service.master.tap("ROLE", skip=1, times=float("inf"), instead=SILENCE)


def at_the_vote(service: Service) -> None:
    """Two of three Sentinels hang; the third will tell of the change."""
    for host in service.sentinels[:2]:
        host.hang()


def at_a_former_replica(service: Service) -> None:
    """A replica is gone from the master's list, and does not answer the question for its role. (Given two seconds.)"""
    service.replicas[1].hang()
    service.master.tap("SCAN", skip=4, before=service.master.program.replicas.pop)


HANGS = [
    in_connect,
    in_handshake,
    in_handshakes_end,
    in_first_scan,
    in_scan,
    in_last_scan,
    in_reconnect,
    in_back_off,
    while_loading,
    at_the_certificate,
    at_the_vote,
    at_a_former_replica,
]


@pytest.mark.parametrize("hang", HANGS)
async def test_a_wait_is_aborted(service: Service, client: SentinelClient, hang: Callable[[Service], None]) -> None:
    """State that remains: no connection to the old master; the new epoch has begun and ended in no time."""
    await trio.sleep(0.5)
    hang(service)
    old = service.master
    waits = 1.77 if hang is at_a_former_replica else 7.77
    ended_at: list[float] = []

    async def consume() -> None:
        swept = await sweep(client, count=COUNT)
        ended_at.append(trio.current_time())
        assert swept.last_epoch == service.keys()
        assert swept.summary.epoch == 1
        assert [restart.at for restart in swept.summary.restarts] == [waits]
        assert [restart.first_page_after for restart in swept.summary.restarts] == [0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await trio.sleep(waits)
        assert ended_at == []
        service.fail_over(kill=False, tell=False)
        for host in service.sentinels:
            if not host.hung:
                service.tell(host)
            else:
                host.resume()
                service.tell(host)
        await settled()
        assert [wire for wire in old.wires if not wire.client_end.closed] == []
    assert ended_at == [0.5 + waits]


@pytest.mark.parametrize("hang", [in_connect, in_handshake, in_first_scan, in_scan, in_last_scan])
async def test_without_the_abort_scope_it_takes_until_response_timeout(
    service: Service, client: SentinelClient, hang: Callable[[Service], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard switched off: no key is lost, and much time is."""

    def notice_change(self: Scan) -> None:
        self.plan.heard(self._source.view, trio.current_time())

    monkeypatch.setattr(Scan, "notice_change", notice_change)
    hang(service)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _consume() -> None:
            assert (await sweep(client, count=COUNT)).last_epoch == service.keys()

        await trio.sleep(7.77)
        service.fail_over(kill=False)
    assert trio.current_time() >= RESPONSE_TIMEOUT


async def test_a_wait_for_the_consumer_is_aborted_too(service: Service, client: SentinelClient) -> None:
    """The pass is swept, and its last pages wait: the next one begins to be fetched at once."""
    async with client.open_scan(count=COUNT, prefetch=100) as pages:
        await trio.sleep(5)
        assert pages._scan.plan.state.name == "DRAINING"
        service.fail_over(kill=False)
        await settled()
        assert len(service.master.commands("SCAN")) > 5
        assert {page.epoch async for page in pages} == {1}


@pytest.mark.parametrize("prefetch", [0, 1, 3])
async def test_a_hand_over_is_not_aborted(service: Service, client: SentinelClient, prefetch: int) -> None:
    """The channel is full and the consumer slow: the page stays where it is, and is filtered when it comes out."""
    async with client.open_scan(count=COUNT, prefetch=prefetch) as pages:
        first = await pages.receive()
        assert first.epoch == 0
        await trio.sleep(1)
        assert pages._receive_channel.statistics().tasks_waiting_send == 1
        service.fail_over(kill=False)
        await trio.sleep(1)
        statistics = pages._receive_channel.statistics()
        assert (statistics.tasks_waiting_send, statistics.current_buffer_used) == (1, prefetch)
        assert service.master.commands("SCAN") == []
        rest: dict[int, set[bytes]] = {}
        async for page in pages:
            rest.setdefault(page.epoch, set()).update(page)
    assert rest == {1: service.keys()}
    assert trio.current_time() == 2


async def test_connecting_ends_at_failover_timeout(service: Service) -> None:
    """Whatever response_timeout would still allow."""
    async with SentinelClient(
        service.addresses, "mymaster", response_timeout=RESPONSE_TIMEOUT, failover_timeout=5
    ) as client:
        service.master.vanish()
        with pytest.raises(ServerUnavailable, match="did not take a connection"):
            await sweep(client)
        assert trio.current_time() == 5


async def test_an_event_that_turns_out_to_be_nothing_aborts_nothing(service: Service, client: SentinelClient) -> None:
    service.master.delay = 1
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _noise() -> None:
            for _ in range(10):
                await trio.sleep(1.1)
                for host in service.sentinels:
                    host.program.publish("+switch-master", "mymaster 10.0.0.1 6379 10.0.0.2 6379")
                    host.program.publish("+switch-master", "another 10.0.0.1 6379 10.0.0.2 6379")

        swept = await sweep(client, count=COUNT)
    assert (swept.summary.epoch, swept.summary.reconnects) == (0, 0)
    assert swept.keys == service.keys()


async def test_one_change_is_one_restart_however_often_it_is_said(service: Service, client: SentinelClient) -> None:
    async def say_again() -> None:
        for _ in range(20):
            await trio.sleep(0.1)
            for host in service.sentinels:
                host.program.publish("+switch-master", "mymaster 10.0.0.1 6379 10.0.0.2 6379")

    service.servers[1].delay = 0.1
    service.master.tap("SCAN", skip=4, before=lambda: service.fail_over(hang=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_again)
        swept = await sweep(client, count=COUNT)
    assert swept.summary.epoch == 1


def reasons(scan: Any) -> list[str]:
    return [restart.reason for restart in scan.summary.restarts]


async def test_the_old_masters_end_and_the_change_are_one_restart(service: Service, client: SentinelClient) -> None:
    """EOF first, the Sentinels a little later: attempts to reach the old one in between are none."""
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _elect() -> None:
            await service.elect(detect=3)

        service.master.tap("SCAN", skip=4, before=service.master.kill)
        swept = await sweep(client, count=COUNT)
    assert reasons(swept) == ["MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379"]
