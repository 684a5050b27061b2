"""A failover at every moment of a scan: a new epoch each time, nothing lost, no early end."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import (
    COUNT,
    KEYS,
    SILENCE,
    Network,
    Service,
    on_mock_time,
    settled,
    sweep,
)
from trio_sentinel_scan import (
    ScanInterrupted,
    ScanPage,
    ScanRestartsExhausted,
    SentinelClient,
)

pytestmark = pytest.mark.trio(run=on_mock_time)


def page_is_of(page: ScanPage[Any], host: Any) -> bool:
    return bool(page.server.run_id == host.program.run_id)


@pytest.mark.parametrize("old_master", ["killed", "hanging", "alive"])
@pytest.mark.parametrize("after", [1, 5, 15])
async def test_a_failover_between_pages(service: Service, client: SentinelClient, old_master: str, after: int) -> None:
    """No page of the old master's once the change is known, though it goes on answering; no key is lost."""
    known = False
    old = service.master
    pages_seen = 0
    last: set[bytes] = set()
    async with client.open_scan(count=COUNT, segments=1) as pages:
        async for page in pages:
            assert page_is_of(page, service.master)
            assert page.epoch == int(known)
            if page.epoch == 1:
                last.update(page)
            pages_seen += 1
            if pages_seen == after:
                service.fail_over(kill=old_master == "killed", hang=old_master == "hanging")
                service.write([b"written after the failover"])
                await settled()
                known = True
    assert last == service.keys()
    assert pages.summary.complete
    [restart] = pages.summary.restarts
    assert restart.reason == "MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379"
    assert restart.first_page_after is not None
    assert restart.first_page_after < 1
    assert old.open_wires == []
    assert trio.current_time() < 1


async def test_a_failover_before_the_first_page(service: Service, client: SentinelClient) -> None:
    """The cursor is 0, and the loop must not end."""
    service.master.tap("SCAN", before=lambda: service.fail_over(hang=True))
    swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 1
    assert trio.current_time() == 0


async def test_a_failover_right_after_a_restart(service: Service, client: SentinelClient) -> None:
    """The cursor is 0 again, and the loop must not end."""
    service.master.tap("SCAN", skip=3, before=service.fail_over)
    service.servers[1].tap("SCAN", before=lambda: service.fail_over(to=service.servers[2]))
    swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 2
    assert page_is_of(swept.pages[-1], service.servers[2])


@pytest.mark.parametrize("moment", ["in flight", "just answered"])
async def test_a_failover_on_the_last_page(service: Service, client: SentinelClient, moment: str) -> None:
    """Cursor 0 comes from the old master: that is no end."""
    scans = (await sweep(client, count=COUNT)).summary.scans
    if moment == "in flight":
        service.master.tap("SCAN", skip=scans - 1, before=lambda: service.fail_over(kill=False))
    else:
        service.master.tap("SCAN", skip=scans - 1, after=lambda: service.fail_over(kill=False))
    swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 1


async def test_a_failover_while_the_last_pages_wait_in_the_channel(service: Service, client: SentinelClient) -> None:
    async with client.open_scan(count=COUNT, prefetch=100) as pages:
        await settled()
        scans = len(service.master.commands("SCAN"))
        service.fail_over(kill=False)
        await settled()
        found: set[bytes] = set()
        async for page in pages:
            assert page.epoch == 1
            found.update(page)
    assert scans > 10
    assert found == service.keys()


async def test_a_failover_after_the_last_page_and_before_the_certificate(
    service: Service, client: SentinelClient
) -> None:
    scans = (await sweep(client, count=COUNT)).summary.scans
    service.master.tap(
        "SCAN",
        skip=scans - 1,
        after=lambda: service.master.tap("ROLE", before=lambda: service.fail_over(kill=False)),
    )
    swept = await sweep(client, count=COUNT)
    assert swept.by_epoch[0] == swept.by_epoch[1] == service.keys()
    assert swept.summary.epoch == 1


async def test_a_failover_after_the_certificate_changes_nothing(service: Service, client: SentinelClient) -> None:
    async with client.open_scan(count=COUNT) as pages:
        async for _ in pages:
            pass
        service.fail_over()
        await settled()
        with pytest.raises(trio.EndOfChannel):
            await pages.receive()
    assert pages.summary.complete
    assert pages.summary.epoch == 0


async def test_two_failovers_back_to_the_first_node(service: Service, client: SentinelClient) -> None:
    first = service.master
    seen = 0
    found: dict[int, set[bytes]] = {0: set(), 1: set(), 2: set()}
    async with client.open_scan(count=COUNT) as pages:
        async for page in pages:
            found[page.epoch].update(page)
            seen += 1
            if seen == 5:
                service.fail_over()
            elif seen == 10:
                service.bring_back(first)
                service.fail_over(to=first)
    assert found[2] == service.keys()
    assert pages.summary.server is not None
    assert pages.summary.server.address == first.address
    assert [restart.reason.partition(" ")[0] for restart in pages.summary.restarts] == ["MASTER_CHANGE"] * 2


async def test_two_failovers_between_two_looks(service: Service, client: SentinelClient) -> None:
    """Back at the same address, under a higher epoch: another master was there in between."""
    first = service.master
    first.tap("SCAN", skip=8, instead=SILENCE)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _twice() -> None:
            await trio.sleep(0.5)
            service.fail_over(tell=False, kill=False)
            service.demote(first)
            service.fail_over(to=first, tell=False, kill=False)
            service.tell(quietly=True)

        swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 1


async def test_more_failovers_than_allowed(service: Service, client: SentinelClient) -> None:
    with pytest.raises(ScanRestartsExhausted, match="max_restarts=2") as caught:
        async with client.open_scan(count=COUNT, max_restarts=2) as pages:
            async for page in pages:
                service.fail_over(to=service.servers[(page.epoch + 1) % 3], kill=False)
                service.demote(service.servers[page.epoch % 3])
                await settled()
    assert caught.value.summary is not None
    assert caught.value.summary.epoch == 2


async def test_raising_instead_of_restarting(service: Service, client: SentinelClient) -> None:
    async with client.open_scan(count=COUNT, on_failover="raise") as pages:
        keys = len(await pages.receive())
        old = service.fail_over()
        with pytest.raises(ScanInterrupted) as caught:
            async for page in pages:
                keys += len(page)
    error = caught.value
    assert error.reason == "MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379"
    assert error.old_server is not None
    assert error.new_server is not None
    assert (error.old_server.run_id, error.new_server.address) == (old.program.run_id, ("10.0.0.2", 6379))
    assert (error.epoch, error.keys) == (0, keys)


async def test_raising_on_another_process_too(service: Service, client: SentinelClient) -> None:
    service.master.tap("SCAN", skip=8, before=service.master.restart)
    with pytest.raises(ScanInterrupted, match="another process answers at this address"):
        await sweep(client, count=COUNT, on_failover="raise")


async def test_raising_even_before_the_first_page(service: Service, client: SentinelClient) -> None:
    service.master.tap("SCAN", before=lambda: service.fail_over(hang=True))
    with pytest.raises(ScanInterrupted) as caught:
        await sweep(client, on_failover="raise")
    assert caught.value.keys == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("old_master", ["kill", "hang", None])
async def test_a_failover_as_sentinels_make_it(network: Network, seed: int, old_master: str | None) -> None:
    """With their delays, a slow loop, and writes that go on: every key that was there all through the last pass."""
    service = Service(network, keys=KEYS, seed=seed)
    service.master.delay = service.servers[1].delay = 0.05
    async with SentinelClient(service.addresses, "mymaster") as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _elect() -> None:
            await trio.sleep(0.3 + seed / 10)
            if old_master is not None:
                getattr(service.master, old_master)()
            await service.elect(detect=0 if old_master is None else 1)
            service.write(f"new:{number}".encode() for number in range(50))

        before = service.keys()
        swept = await sweep(client, count=COUNT)
        assert swept.last_epoch >= before
        assert page_is_of(swept.pages[-1], service.master)
        assert swept.summary.epoch >= 1
