"""A scan of replicas over the fake network: what the driver hears, whom it connects to, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import COUNT, KEYS, SERVICE, SILENCE, DataServer, Host, Service, on_mock_time, settled, sweep
from trio_sentinel_scan import ConfigError, NoReplicaAvailable, RedisClient, ScanPages, SentinelClient
from trio_sentinel_scan._core.identity import Role
from trio_sentinel_scan._core.replicas import ATTEMPTS
from trio_sentinel_scan._core.scan_plan import ScanPlan

pytestmark = pytest.mark.trio(run=on_mock_time)

# (Of two replicas that have come equally far, the first is taken.)
OPTIONS: dict[str, Any] = {"count": COUNT, "segments": 1, "read_from": "replica"}


def unsync(host: Host[DataServer]) -> None:
    """As before its first synchronisation: empty, and the Sentinels have not looked lately."""
    host.program.empty()
    host.program.link = "handshake"


async def take(pages: ScanPages[Any], count: int) -> set[bytes]:
    """The keys of so many pages."""
    found: set[bytes] = set()
    for _ in range(count):
        found.update(await pages.receive())
    return found


async def test_the_master_is_left_alone(service: Service, client: SentinelClient) -> None:
    """But for the connection that the client has for commands."""
    connections = len(service.master.wires)
    swept = await sweep(client, **OPTIONS)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 0
    assert {page.server.address for page in swept.pages} == {service.servers[1].address}
    assert len(service.master.wires) == connections
    assert service.master.commands("SCAN") == service.servers[2].commands("SCAN") == []
    certificate = swept.summary.certificate
    assert certificate is not None
    assert (certificate.basis, certificate.role) == ("replica", "slave")


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
async def test_one_that_is_not_in_sync(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """It would answer an empty scan as a success, whatever the Sentinels think of it."""
    if not guarded:
        monkeypatch.setattr(Role, "is_synced_replica", property(lambda _: True))
    for host in service.sentinels:
        host.program.views[service.servers[1].address] = {"master-link-status": "ok"}
    unsync(service.servers[1])
    swept = await sweep(client, **OPTIONS)
    assert swept.summary.complete
    assert swept.last_epoch == (service.keys() if guarded else set())


async def test_none_is_in_sync(service: Service, client: SentinelClient) -> None:
    for host in service.servers[1:]:
        unsync(host)
        for sentinel in service.sentinels:
            sentinel.program.views[host.address] = {"master-link-status": "ok"}
    with pytest.raises(NoReplicaAvailable) as caught:
        await sweep(client, **OPTIONS)
    assert set(caught.value.replicas) == {"10.0.0.2:6379", "10.0.0.3:6379"}
    assert "its link is 'handshake'" in str(caught.value)
    assert trio.current_time() == pytest.approx(60.0, abs=0.1)
    assert service.master.commands("SCAN") == []


async def test_none_is_in_sync_and_the_master_will_do(service: Service, client: SentinelClient) -> None:
    for host in service.servers[1:]:
        unsync(host)
    swept = await sweep(client, **OPTIONS, fallback="master")
    assert swept.last_epoch == service.keys()
    assert swept.summary.certificate is not None
    assert swept.summary.certificate.basis == "sentinels"
    assert trio.current_time() < 6


async def test_a_dropped_connection(service: Service, client: SentinelClient) -> None:
    """The same process: the same cursor."""
    service.servers[1].tap("SCAN", skip=8, before=service.servers[1].drop_clients)
    swept = await sweep(client, **OPTIONS)
    assert swept.last_epoch == service.keys()
    assert (swept.summary.epoch, swept.summary.reconnects) == (0, 1)


async def test_a_failover_that_it_is_not_part_of(service: Service, client: SentinelClient) -> None:
    """Its connections are killed, and it follows another master. Its pass goes on."""
    replica = service.servers[1]
    async with client.open_scan(**OPTIONS) as pages:
        found = await take(pages, 5)
        service.fail_over(to=service.servers[2])
        replica.drop_clients()
        service.write([b"late"])
        await settled()
        async for page in pages:
            assert page.server.address == replica.address
            found.update(page)
    assert found >= service.keys() - {b"late"}
    assert (pages.summary.epoch, pages.summary.reconnects) == (0, 1)
    assert pages.summary.certificate is not None
    assert pages.summary.certificate.config_epoch == 1


async def test_its_own_promotion(service: Service, client: SentinelClient) -> None:
    async with client.open_scan(**OPTIONS) as pages:
        await take(pages, 5)
        service.fail_over(to=service.servers[1])
        await settled()
        found: set[bytes] = set()
        async for page in pages:
            assert page.epoch == 1
            found.update(page)
    assert found == service.keys()
    assert "was promoted" in pages.summary.restarts[0].reason
    assert pages.summary.server is not None
    assert pages.summary.server.address == service.servers[2].address


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
async def test_its_removal(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """It hangs, and the Sentinels hold it to be down: the wait is aborted long before any timeout would end it."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_why_void", lambda *_: "")
    replica = service.servers[1]
    async with client.open_scan(**OPTIONS) as pages:
        await take(pages, 5)
        replica.hang()
        for host in service.sentinels:
            host.program.views[replica.address] = {"flags": "slave,s_down"}
        with trio.move_on_after(3):
            async for _ in pages:
                pass
    assert pages.summary.complete is guarded
    if guarded:
        assert pages.summary.restarts[0].reason.startswith("REPLICA_REMOVE")
        assert pages.summary.keys_this_epoch == KEYS


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
async def test_its_restart(service: Service, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """Another process at once, whose run_id may not be read: nothing else stands between the scan and the loss."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_is_same_process", lambda *_: True)
    for host in service.servers:
        host.program.users["default"].forbidden = frozenset({"INFO"})
    async with SentinelClient(service.addresses, SERVICE) as client:
        service.servers[1].tap("SCAN", skip=KEYS // COUNT // 2, before=service.servers[1].restart)
        swept = await sweep(client, **OPTIONS)
    assert swept.summary.complete
    assert swept.summary.epoch == int(guarded)
    assert (swept.last_epoch == service.keys()) is guarded


async def test_one_that_stays_away(service: Service, client: SentinelClient) -> None:
    """It is tried for some seconds, and then left for another."""
    replica = service.servers[1]
    replica.tap("SCAN", skip=8, before=replica.kill)
    swept = await sweep(client, **OPTIONS)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 1
    assert "of no use for now: 10.0.0.2:6379 cannot be reached" in swept.summary.restarts[0].reason
    assert sum(address == replica.address for address, _ in service.network.dialled) == ATTEMPTS
    assert 3 < trio.current_time() < 6


async def test_a_lost_link_brings_no_page(service: Service, client: SentinelClient) -> None:
    """Told by the ROLE that rides along: what came in the same read is not handed out, and comes again."""
    replica = service.servers[1]
    replica.delay = 0.05

    def resynchronise() -> None:
        replica.program.link = "sync"

    replica.tap("SCAN", skip=8, before=resynchronise)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _linked_again() -> None:
            while replica.program.link == "connected":  # noqa: ASYNC110 (a fact of the fake world)
                await trio.sleep(0.01)
            await trio.sleep(2)
            replica.program.link = "connected"

        swept = await sweep(client, **OPTIONS)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 0
    assert swept.summary.reconnects >= 1


async def test_two_scans_at_once_and_their_end(service: Service, client: SentinelClient) -> None:
    """Nothing of them is left with the monitor."""
    async with client.open_scan(**OPTIONS) as one, client.open_scan(**OPTIONS) as other:
        await one.receive()
        await other.receive()
        assert len(client._monitor.on_news) == 2
    assert client._monitor.on_news == set()


async def test_a_single_server_has_no_replicas_to_choose_from(service: Service) -> None:
    async with RedisClient(service.servers[1].address) as client:
        with pytest.raises(ConfigError, match="a RedisClient has none"):
            client.open_scan(read_from="replica")
        # It scans the replica that it was given.
        assert (await sweep(client)).last_epoch == service.keys()


# ---- CLIENT CAPA redirect ----------------------------------------------------------------------------------------


async def test_who_is_asked_to_redirect(service: Service, client: SentinelClient) -> None:
    """A server that is to be the master. Never one that may be a replica; and who does not know how is left alone."""
    await sweep(client, **OPTIONS)
    await sweep(client, count=COUNT)
    async with client.dedicated() as lease:
        await lease.get("key:1")
    async with RedisClient(service.master.address) as single:
        await single.get("key:1")
    assert len(service.master.wires) == 4
    assert len(service.master.commands("CLIENT", "CAPA")) == 3
    assert service.servers[1].commands("CLIENT", "CAPA") == []


async def test_a_demoted_master_that_redirects_is_left(service: Service) -> None:
    """The Sentinels are asked at once; the address in the reply is nobody's word."""
    old, new = service.servers[:2]
    for host in service.servers:
        host.program.knows_capa = True
    async with SentinelClient(service.addresses, SERVICE) as client:
        async with client.open_scan(count=COUNT, segments=1, prefetch=0) as pages:
            await take(pages, 5)
            service.fail_over(to=new, kill=False, tell=False)
            service.demote(old, drop=False)
            old.program.master = ("10.9.9.9", 6379)
            service.tell(quietly=True)
            before = trio.current_time()
            found: set[bytes] = set()
            async for page in pages:
                assert page.server.address == new.address or page.epoch == 0
                if page.epoch == pages.summary.epoch:
                    found.update(page)
        assert found == service.keys()
        assert trio.current_time() - before < 0.2
        assert "REDIRECT" in pages.summary.restarts[0].reason
        assert not any(dialled[0] == ("10.9.9.9", 6379) for dialled in service.network.dialled)


@pytest.mark.parametrize("way", ["shared", "dedicated to it"])
async def test_a_command_that_is_redirected_goes_to_the_new_master(service: Service, way: str) -> None:
    """It did not run, so it is sent again; and long before the next poll."""
    old, new = service.servers[:2]
    for host in service.servers:
        host.program.knows_capa = True
    async with SentinelClient(service.addresses, SERVICE) as client:
        await client.set("answer", "41")
        service.fail_over(to=new, kill=False, tell=False)
        service.demote(old, drop=False)
        service.tell(quietly=True)
        new.program.put(0, b"answer", type(new.program.data[0][b"answer"])(b"42"))
        before = trio.current_time()
        if way == "shared":
            assert await client.get("answer") == b"42"
        else:
            assert await client.blpop(["list"], timeout=1) == (b"list", b"popped")
        assert trio.current_time() - before < 0.5


async def test_a_connection_that_hangs_is_given_up_when_its_replica_is_removed(
    service: Service, client: SentinelClient
) -> None:
    """No pass has begun on it yet: there is no new epoch."""
    replica = service.servers[1]
    replica.tap("HELLO", instead=SILENCE)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _remove() -> None:
            await trio.sleep(0.5)
            for host in service.sentinels:
                host.program.unlisted.add(replica.address)

        swept = await sweep(client, **OPTIONS)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 0
    assert trio.current_time() < 3
