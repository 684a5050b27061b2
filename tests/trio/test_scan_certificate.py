"""The certificate: what a pass must have, once its last page was taken, to be called complete."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.trio.fakes import (
    COUNT,
    HANG_UP,
    Error,
    Reply,
    Service,
    on_mock_time,
    sweep,
)
from trio_sentinel_scan import (
    ScanNotCertified,
    SentinelClient,
)

pytestmark = pytest.mark.trio(run=on_mock_time)


async def test_sentinels_that_are_all_down_in_mid_scan_do_not_matter(service: Service, client: SentinelClient) -> None:
    async with trio.open_nursery() as nursery:
        for host in service.sentinels:
            service.master.tap("SCAN", skip=3, before=host.kill)

        @nursery.start_soon
        async def _later() -> None:
            await trio.sleep(20)
            for host in service.sentinels:
                host.start()

        swept = await sweep(client, count=COUNT)
    assert swept.keys == service.keys()
    assert swept.summary.epoch == 0
    assert 20 <= trio.current_time() < 25


async def test_no_majority_of_sentinels_at_the_end(service: Service) -> None:
    async with SentinelClient(service.addresses, "mymaster", failover_timeout=30) as client:
        await trio.sleep(1)
        for host in service.sentinels[1:]:
            host.kill()
        async with client.open_scan(count=COUNT) as pages:
            found: set[bytes] = set()
            with pytest.raises(ScanNotCertified, match="swept to its end") as caught:
                async for page in pages:
                    found.update(page)
        assert found == service.keys()
        assert "1 of 3 Sentinels confirm the master" in str(caught.value)
        assert 'certify="role"' in str(caught.value)
        assert not pages.summary.complete
        assert pages.summary.certificate is None
        assert 30 <= trio.current_time() - 1 < 33


async def test_the_servers_own_word_if_that_is_enough(service: Service, client: SentinelClient) -> None:
    for host in service.sentinels:
        host.kill()
    swept = await sweep(client, count=COUNT, certify="role")
    assert swept.summary.complete
    assert str(swept.summary.certificate).endswith('says master; no Sentinel was asked (certify="role")')


async def test_a_majority_that_names_another_master_refutes(service: Service, client: SentinelClient) -> None:
    """The certificate is asked for before the monitor has seen the change."""
    old = service.fail_over  # the old master stays alive, and is demoted later

    def change() -> None:
        old(kill=False, tell=False)
        service.tell(quietly=True)

    scans = (await sweep(client, count=COUNT)).summary.scans
    service.master.tap("SCAN", skip=scans - 1, after=change)
    swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.server is not None
    assert swept.summary.server.address == service.master.address
    assert swept.summary.epoch == 1


async def test_a_server_that_cannot_tell_at_the_end_is_asked_again(service: Service, client: SentinelClient) -> None:
    scans = (await sweep(client, count=COUNT)).summary.scans
    service.master.tap(
        "SCAN", skip=scans - 1, after=lambda: service.master.tap("ROLE", times=4, instead=Reply(Error("BUSY script")))
    )
    swept = await sweep(client, count=COUNT)
    assert swept.keys == service.keys()
    assert swept.summary.epoch == 0
    assert trio.current_time() == pytest.approx(1.0, abs=0.1)


async def test_the_connection_dies_at_the_certificate(service: Service, client: SentinelClient) -> None:
    """The same process answers on the next one: nothing is scanned again."""
    scans = (await sweep(client, count=COUNT)).summary.scans
    service.master.log.clear()
    service.master.tap("SCAN", skip=scans - 1, after=lambda: service.master.tap("ROLE", instead=HANG_UP))
    swept = await sweep(client, count=COUNT)
    assert swept.keys == service.keys()
    assert (swept.summary.epoch, swept.summary.reconnects) == (0, 1)
    assert len(service.master.commands("SCAN")) == scans


async def test_the_process_is_another_at_the_certificate(service: Service, client: SentinelClient) -> None:
    scans = (await sweep(client, count=COUNT)).summary.scans
    service.master.tap("SCAN", skip=scans - 1, after=service.master.restart)
    swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 1


async def test_a_replica_that_is_merely_away_says_nothing(service: Service, client: SentinelClient) -> None:
    def lose_one() -> None:
        service.replicas[0].kill()
        service.master.program.replicas.pop(0)

    service.master.tap("SCAN", skip=3, after=lose_one)
    swept = await sweep(client, count=COUNT)
    assert swept.summary.epoch == 0
    assert swept.summary.certificate is not None
    assert swept.summary.certificate.replicas == 1


async def test_a_replica_that_has_become_the_master_does(service: Service, client: SentinelClient) -> None:
    """The promotion is seen on the old master's own list, a second before any Sentinel names the new one.

    Until one does there is nowhere else to go: the pass is held back, neither certified nor begun again.
    """
    service.master.tap("SCAN", skip=3, after=lambda: service.fail_over(kill=False, tell=False))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _later() -> None:
            await trio.sleep(1)
            service.tell()

        swept = await sweep(client, count=COUNT)
    assert [restart.reason for restart in swept.summary.restarts] == ["MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379"]
    assert swept.by_epoch[0] == swept.last_epoch == service.keys()
    assert 1 <= trio.current_time() < 1.5
