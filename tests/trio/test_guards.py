"""Each guard switched off: the same scenario that is harmless with it loses keys, or hands out what is void.

A guard that nothing misses when it is gone is not a guard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import COUNT, KEYS, SILENCE, Hold, Service, on_mock_time, settled, sweep
from trio_sentinel_scan import ScanSummary, SentinelClient
from trio_sentinel_scan._core.certificate import Evidence, Held
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.summary import Certificate
from trio_sentinel_scan._core.sweep import Sweep
from trio_sentinel_scan._trio.scan import Scan

pytestmark = pytest.mark.trio(run=on_mock_time)

with_and_without = pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])


def without_identity(monkeypatch: pytest.MonkeyPatch, *, in_the_certificate: bool) -> None:
    """Take every process for the one that issued the cursor; the certificate looks at the run_id once more."""
    monkeypatch.setattr(ScanPlan, "_is_same_process", lambda plan, server: True)
    judged = ScanPlan._judge
    if in_the_certificate:
        monkeypatch.setattr(
            ScanPlan, "_judge", lambda plan, evidence: judged(plan, dataclasses.replace(evidence, run_id=None))
        )


def restart_in_place(service: Service) -> None:
    """Another process at the same address."""
    service.master.restart()


def take_over(service: Service) -> None:
    """Another machine at the same address: a virtual one, a proxy's, a name in DNS."""
    first, second = service.servers[:2]
    first.kill()
    service.network.hosts[first.address] = second
    replicas = first.program.replicas
    service.promote(second)
    second.program.replicas = replicas


@pytest.mark.parametrize("change", [restart_in_place, take_over])
async def test_the_identity_of_the_process(
    service: Service, client: SentinelClient, change: Callable[[Service], None]
) -> None:
    """Half way, another process: a new epoch, and nothing lost."""
    service.master.tap("SCAN", skip=KEYS // COUNT // 2, before=lambda: change(service))
    swept = await sweep(client, count=COUNT, segments=1)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 1
    assert max(page.position or 0 for page in swept.pages if page.epoch == 0) < 0.6


@pytest.mark.parametrize("change", [restart_in_place, take_over])
async def test_without_the_identity_of_the_process(
    service: Service, client: SentinelClient, change: Callable[[Service], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old cursor skips a quarter of the keys of the new order, and the scan calls itself complete."""
    without_identity(monkeypatch, in_the_certificate=True)
    service.master.tap("SCAN", skip=KEYS // COUNT // 2, before=lambda: change(service))
    swept = await sweep(client, count=COUNT, segments=1)
    assert swept.summary.complete
    assert swept.summary.epoch == 0
    assert 0.15 < len(service.keys() - swept.keys) / KEYS < 0.35


async def test_the_identity_of_the_process_in_the_certificate(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second lock: the pass comes to its end with a quarter missing, and is not certified."""
    without_identity(monkeypatch, in_the_certificate=False)
    service.master.tap("SCAN", skip=KEYS // COUNT // 2, before=service.master.restart)
    swept = await sweep(client, count=COUNT, segments=1)
    assert 0.15 < len(service.keys() - swept.by_epoch[0]) / KEYS < 0.35
    assert [restart.reason for restart in swept.summary.restarts] == [
        "no certificate: another process answers at the address"
    ]
    assert swept.last_epoch == service.keys()


@with_and_without
async def test_the_epoch_filter(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """Pages wait in the channel when another master is named; the old one's are void from then on."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_is_current", lambda plan, page: True)
    async with client.open_scan(count=COUNT, prefetch=10) as pages:
        await pages.receive()
        await settled()
        service.fail_over(kill=False)
        await settled()
        page = await pages.receive()
        if guarded:
            assert (page.epoch, page.server.address) == (1, service.master.address)
        else:
            assert (page.epoch, page.server.address) == (0, service.servers[0].address)


async def asleep(scan: Scan) -> None:
    """In place of the listener: one that never gets its turn."""
    await trio.sleep_forever()


async def test_what_is_known_is_known_though_the_listener_sleeps(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of the old master's arrives at a consumer that waits, in the very moment of the change or after it."""
    monkeypatch.setattr(Scan, "listen", asleep)
    release = trio.Event()
    service.master.tap("SCAN", skip=3, instead=Hold(release))
    epochs: list[int] = []
    async with client.open_scan(count=COUNT, segments=1) as pages:
        for _ in range(3):
            await pages.receive()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _consume() -> None:
                epochs.extend([page.epoch async for page in pages])

            await settled()
            service.fail_over(kill=False)
            await settled()
            release.set()
    assert set(epochs) == {1}


async def test_a_receive_looks_for_itself_though_the_listener_sleeps(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old master hangs, and the change is known: the consumer's asking is enough to abort the wait on it."""
    monkeypatch.setattr(Scan, "listen", asleep)
    service.master.tap("SCAN", skip=3, instead=SILENCE)
    async with client.open_scan(count=COUNT, segments=1) as pages:
        for _ in range(3):
            await pages.receive()
        await settled()
        service.fail_over(hang=True)
        await settled()
        assert {page.epoch async for page in pages} == {1}
    assert trio.current_time() == 0


@with_and_without
async def test_the_certificate(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """FAILOVER on the server: no connection is killed, no Sentinel says a word, and SCAN goes on on the demoted node.

    As a replica it is emptied and filled again; what it says in between is a successful, empty end.
    """

    def held(plan: ScanPlan, evidence: Evidence) -> Held:
        assert plan._server is not None
        return Held(Certificate("sentinels", plan._server, evidence.role.kind, 0))

    if not guarded:
        monkeypatch.setattr(ScanPlan, "_judge", held)
    old = service.master

    def demote() -> None:
        service.promote(service.replicas[0])
        service.config_epoch += 1
        old.program.master, old.program.link = service.master.address, "sync"
        old.program.empty()

    old.tap("SCAN", skip=5, before=demote)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _sentinels_notice() -> None:
            await trio.sleep(25)
            service.tell()

        swept = await sweep(client, count=COUNT)
    assert swept.summary.complete
    lost = service.keys() - swept.last_epoch
    if guarded:
        assert not lost
        assert swept.summary.epoch >= 1
        assert swept.summary.server is not None
        assert swept.summary.server.address == service.master.address
    else:
        assert len(lost) > KEYS / 2
        assert swept.summary.epoch == 0


@with_and_without
async def test_the_sentinels_part_of_the_certificate(service: Service, client: SentinelClient, guarded: bool) -> None:
    """A cut-off old master calls itself one, and has its replicas on its list.

    The events are lost, and the last SCAN comes before the next poll: only the vote can tell. (`certify="role"` is
    the switch that callers have.)
    """
    old = service.master
    scans = (await sweep(client, count=COUNT)).summary.scans
    await trio.sleep(0.5)

    def change() -> None:
        service.fail_over(kill=False, tell=False)
        service.tell(quietly=True)
        service.write([b"written to the new master, and never to the old one"])
        old.program.replicas = [server.address for server in service.servers[1:]]

    old.tap("SCAN", skip=scans - 1, before=change)
    swept = await sweep(client, count=COUNT, certify="sentinels" if guarded else "role")
    assert swept.summary.complete
    assert swept.summary.server is not None
    assert swept.summary.server.address == (service.master.address if guarded else old.address)
    assert (swept.last_epoch == service.keys()) is guarded


@with_and_without
async def test_the_certificate_comes_after_the_last_page_was_taken(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """Given while pages still wait, it would cover keys that nobody has received: the end overtakes them."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_may_certify", lambda plan: True)
    found: set[bytes] = set()
    async with client.open_scan(count=COUNT, prefetch=5) as pages:
        async for page in pages:
            found.update(page)
            await trio.sleep(1)
    assert pages.summary.complete
    assert (found == service.keys()) is guarded


@with_and_without
async def test_cursor_and_keys_are_committed_together(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """The connection dies between a reply and the next SCAN: a page that belonged to that round trip goes with it."""
    commit, lost = Sweep._commit, ScanPlan._lost

    def commit_the_cursor_alone(sweep: Sweep, *reply: Any) -> list[Any] | None:
        keys = commit(sweep, *reply)
        going_under[:] = keys or []
        return keys

    def lose_the_keys_too(plan: ScanPlan, *args: Any) -> None:
        if plan._in_hand and plan._in_hand[-1].keys[-1] in going_under:
            plan._in_hand.pop()
        lost(plan, *args)

    going_under: list[bytes] = []
    if not guarded:
        monkeypatch.setattr(Sweep, "_commit", commit_the_cursor_alone)
        monkeypatch.setattr(ScanPlan, "_lost", lose_the_keys_too)
    service.master.tap("SCAN", skip=5, after=lambda: service.master.drop_clients("pipe"))
    swept = await sweep(client, count=COUNT, segments=1)
    assert swept.summary.complete
    assert swept.summary.reconnects == 1
    missing = service.keys() - swept.keys
    if guarded:
        assert not missing
    else:
        assert COUNT <= len(missing) < 2 * COUNT


@with_and_without
async def test_the_end_of_the_iteration_means_complete(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """A scan that failed closes its channel too: without a look at the plan, that would be an early, quiet end."""
    if not guarded:
        monkeypatch.setattr("trio_sentinel_scan._trio.scan.ScanPages._raise_failure", lambda pages: None)
    service.master.tap("SCAN", skip=5, before=service.fail_over)
    summary: ScanSummary | None = None
    error: BaseException | None = None
    async with client.open_scan(count=COUNT, on_failover="raise") as pages:
        try:
            async for _ in pages:
                pass
        except BaseException as caught:  # noqa: ASYNC103, BLE001 (it is looked at below)
            error = caught
        summary = pages.summary
    assert not summary.complete
    # (Two locks on one door: with the first open, the second still keeps the loop from ending.)
    assert type(error).__name__ == ("ScanInterrupted" if guarded else "ClosedResourceError")
