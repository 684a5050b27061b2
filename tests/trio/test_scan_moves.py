"""`hash_seed_shared`: a pass goes on at another process; the servers are asked whether they share their hash seed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.trio.fakes import (
    COUNT,
    HANG_UP,
    KEYS,
    SERVICE,
    SILENCE,
    Error,
    Network,
    Reply,
    Service,
    User,
    on_mock_time,
    settled,
    sweep,
)
from trio_sentinel_scan import HashSeedMismatch, RedisClient, SentinelClient

pytestmark = pytest.mark.trio(run=on_mock_time)

SEED = "a seed that all share"
SHARED: dict[str, Any] = {"count": COUNT, "segments": 1, "hash_seed_shared": True}
HALF_WAY = KEYS // COUNT // 2


@pytest.fixture
def service(network: Network) -> Service:
    """All of its nodes are Valkey, and have one seed."""
    service = Service(network, keys=KEYS)
    for server in service.servers:
        give(server.program, SEED)
    return service


def give(program: Any, seed: str | None) -> None:
    """A hash-seed in the configuration, and a new process that has read it."""
    program.hash_seed = seed
    program.more_info = {"valkey_version": "9.1.2"}
    program.restart()


def fail_over(service: Service) -> None:
    service.fail_over()


def fail_over_planned(service: Service) -> None:
    """The old master goes on as a master."""
    service.fail_over(kill=False)


def hang_and_fail_over(service: Service) -> None:
    service.fail_over(hang=True)


def restart_in_place(service: Service) -> None:
    service.master.restart()


@pytest.mark.parametrize("change", [fail_over, fail_over_planned, hang_and_fail_over, restart_in_place])
async def test_a_change_in_mid_scan_is_gone_through(
    service: Service, client: SentinelClient, change: Callable[[Service], None]
) -> None:
    """None lost, one epoch; and what comes twice is what was read since the old master last proved to be the one."""
    service.master.tap("SCAN", skip=HALF_WAY, before=lambda: change(service))
    swept = await sweep(client, **SHARED)
    assert swept.keys == service.keys()
    twice = sum(map(len, swept.pages)) - KEYS
    assert twice == 0 or (change is fail_over_planned and twice <= 4 * COUNT)
    summary = swept.summary
    assert (summary.epoch, summary.restarts, summary.moves) == (0, (), 1)
    assert summary.server is not None
    assert (summary.server.run_id, summary.server.address) == (service.master.program.run_id, service.master.address)
    assert len({page.server.run_id for page in swept.pages}) == 2
    assert summary.certificate is not None
    assert summary.certificate.server == summary.server


@pytest.mark.parametrize("change", [fail_over, fail_over_planned, restart_in_place])
async def test_in_segments(service: Service, client: SentinelClient, change: Callable[[Service], None]) -> None:
    """As they come, and with the loop doing something else in between."""
    service.master.tap("SCAN", skip=6, before=lambda: change(service))
    found: set[bytes] = set()
    async with client.open_scan(hash_seed_shared=True) as pages:
        async for page in pages:
            found.update(page)
            await trio.sleep(0.01)
    assert found == service.keys()
    assert (pages.summary.epoch, pages.summary.moves) == (0, 1)


async def test_several_changes(service: Service, client: SentinelClient) -> None:
    """There and back; none is a restart."""
    async with client.open_scan(prefetch=0, on_failover="raise", max_restarts=0, **SHARED) as pages:
        found: set[bytes] = set()
        for number in range(6):
            found.update(await pages.receive())
            if number % 2:
                service.master.restart()
            else:
                old = service.fail_over()
                service.bring_back(old)
            await settled()
        async for page in pages:
            found.update(page)
    assert found == service.keys()
    assert pages.summary.epoch == 0
    assert pages.summary.moves >= 3


async def test_a_demotion_that_nobody_tells_of(service: Service, client: SentinelClient) -> None:
    """FAILOVER on the server: the old master is emptied and filled again, and its SCANs succeed meanwhile."""
    old = service.master

    def demote() -> None:
        service.promote(service.replicas[0])
        service.config_epoch += 1
        old.program.master, old.program.link = service.master.address, "sync"
        old.program.empty()

    old.tap("SCAN", skip=HALF_WAY, before=demote)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _sentinels_notice() -> None:
            await trio.sleep(25)
            service.tell()

        swept = await sweep(client, **SHARED)
    assert swept.keys == service.keys()
    assert (swept.summary.epoch, swept.summary.moves) == (0, 1)
    assert swept.summary.server is not None
    assert swept.summary.server.address == service.master.address


async def test_a_single_server(service: Service) -> None:
    """It has no Sentinels, and may be restarted all the same."""
    server = service.master
    async with RedisClient(server.address) as client:
        server.tap("SCAN", skip=HALF_WAY, before=server.restart)
        swept = await sweep(client, **SHARED)
    assert swept.keys == service.keys()
    assert (swept.summary.epoch, swept.summary.moves) == (0, 1)


# ---- what the servers are asked ------------------------------------------------------------------------------------


async def test_each_connection_of_the_scan_is_asked_and_nobody_else(service: Service, client: SentinelClient) -> None:
    """Once each; a scan without the argument asks nobody."""
    await sweep(client, count=COUNT)
    assert not any(server.commands("CONFIG") for server in service.servers)
    service.master.tap("SCAN", skip=HALF_WAY, before=service.fail_over)
    await sweep(client, **SHARED)
    asked = [server.commands("CONFIG") for server in service.servers]
    assert [words for words in asked if words] == [[[b"CONFIG", b"GET", b"hash-seed"]]] * 2


async def test_nobody_may_ask(service: Service, client: SentinelClient) -> None:
    """The caller's word counts then."""
    for server in service.servers:
        server.program.users["default"].forbidden = frozenset({"CONFIG"})
    service.master.tap("SCAN", skip=HALF_WAY, before=service.fail_over)
    swept = await sweep(client, **SHARED)
    assert swept.keys == service.keys()
    assert (swept.summary.epoch, swept.summary.moves) == (0, 1)


@pytest.mark.parametrize(
    "seed, words", [(None, "knows no hash-seed"), ("", "has no hash-seed set"), ("another", "has another hash-seed")]
)
async def test_a_server_contradicts(
    service: Service, client: SentinelClient, caplog: pytest.LogCaptureFixture, seed: str | None, words: str
) -> None:
    """The next master, in mid-scan. No seed is shown anywhere."""
    caplog.set_level(logging.DEBUG)
    for server in service.replicas:
        give(server.program, seed)
    service.master.tap("SCAN", skip=HALF_WAY, before=service.fail_over)
    with pytest.raises(HashSeedMismatch, match=words) as caught:
        await sweep(client, **SHARED)
    error = caught.value
    assert str(service.master.address[0]) in str(error)
    assert error.summary is not None
    assert 0 < error.summary.keys < KEYS
    shown = f"{error!r} {error.summary!r} {caplog.text}"
    assert SEED not in shown
    assert seed is None or seed == "" or f" {seed}" not in shown.replace("has another hash-seed", "")
    assert len(service.master.commands("SCAN")) == 0


async def test_the_first_server_contradicts(service: Service, client: SentinelClient) -> None:
    """Before a single SCAN."""
    give(service.master.program, None)
    with pytest.raises(HashSeedMismatch, match=r"Valkey does, from 9\.1 on"):
        await sweep(client, **SHARED)
    assert not service.master.commands("SCAN")


@pytest.mark.parametrize("instead", [HANG_UP, SILENCE, Reply(Error("BUSY Redis is busy running a script"))])
async def test_an_answer_that_does_not_come_is_asked_for_again(service: Service, instead: Any) -> None:
    """On another connection: the server may be busy, or gone."""
    async with SentinelClient(service.addresses, SERVICE, response_timeout=3) as client:
        service.master.tap("CONFIG", times=2, instead=instead)
        swept = await sweep(client, **SHARED)
    assert swept.keys == service.keys()
    assert len(service.master.commands("CONFIG")) == 3


async def test_a_move_is_logged(service: Service, client: SentinelClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    service.master.tap("SCAN", skip=HALF_WAY, before=service.fail_over)
    await sweep(client, **SHARED)
    host, port = service.master.address
    text = f"the scan goes on at {host}:{port} (run_id {service.master.program.run_id[:8]}), epoch 0"
    assert caplog.text.count(text) == 1


async def test_a_user_without_any_right_but_scan(service: Service, client: SentinelClient) -> None:
    """Neither identity nor role: each change is a new epoch, as ever. Nobody can say what was in doubt."""
    for server in service.servers:
        server.program.users["default"] = User(forbidden=frozenset({"CONFIG", "INFO", "ROLE", "HELLO"}))
    service.master.tap("SCAN", skip=HALF_WAY, before=service.fail_over)
    swept = await sweep(client, **SHARED)
    assert swept.last_epoch == service.keys()
    assert (swept.summary.epoch, swept.summary.moves) == (1, 0)


# ---- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [fail_over, restart_in_place])
async def test_a_checkpoint_is_gone_on_from(service: Service, change: Callable[[Service], None]) -> None:
    """By another process of the caller's, at another one of the service's."""
    async with SentinelClient(service.addresses, SERVICE) as client, client.open_scan(**SHARED) as pages:
        page = await pages.receive()
        done = set(page)
        for _ in range(HALF_WAY):
            page = await pages.receive()
            done.update(page)
    change(service)
    async with SentinelClient(service.addresses, SERVICE) as client:
        swept = await sweep(client, resume=page.checkpoint, on_failover="raise", **SHARED)
    assert swept.keys | done == service.keys()
    # A page whose ROLE had not come yet comes again.
    assert len(swept.keys & done) < 2 * COUNT
    assert swept.summary.epoch == 0
