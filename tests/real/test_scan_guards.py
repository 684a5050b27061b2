"""Each guard of the scan, switched off: keys are lost, or a superseded page is handed out, on real servers.

So each is needed, and the tests with the guard in place can fail. (The guards are methods of `_core.scan_plan`.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.proxy import is_page
from tests.real.scenes import Account, consuming, open_booth, open_stage, until_followed, until_in
from trio_sentinel_scan import Certificate, RedisClient, ScanPage
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.certificate import Evidence, Held
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.segments import Ask
from trio_sentinel_scan._core.sweep import Sweep

if TYPE_CHECKING:
    import trio

pytestmark = pytest.mark.trio

KEYS = 2_000


def always(*args: object) -> bool:
    return True


async def test_without_the_identity_rule(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user may not read the run_id, so that nothing else stands between the scan and the loss."""
    monkeypatch.setattr(ScanPlan, "_is_same_process", always)
    acl = {"scanner": "on >secret ~* &* +@all -info"}
    async with open_booth(nursery, keys=KEYS, acl=acl) as booth:
        account: Account[bytes] = Account()
        async with (
            RedisClient(booth.proxy.address, username="scanner", password="secret") as client,
            client.open_scan(count=100, prefetch=0, segments=1) as pages,
        ):
            booth.proxy.starts = {0}
            await account.take(pages, KEYS // 200)
            await booth.server.restart()
            await account.take_the_rest(pages)
        assert pages.summary.complete
        assert pages.summary.epoch == 0
        assert booth.keys - set(account.keys()), "half way, a quarter of the keys is lost"
        assert booth.proxy.foreign_cursors


async def test_without_the_identity_rule_and_with_a_run_id(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass loses keys as well. Only the certificate notices, and another pass makes it good."""
    monkeypatch.setattr(ScanPlan, "_is_same_process", always)
    async with open_booth(nursery, keys=KEYS) as booth:
        account: Account[bytes] = Account()
        async with (
            RedisClient(booth.proxy.address) as client,
            client.open_scan(count=100, prefetch=0, segments=1) as pages,
        ):
            booth.proxy.starts = {0}
            await account.take(pages, KEYS // 200)
            await booth.server.restart()
            await account.take_the_rest(pages)
        assert booth.keys - set(account.keys(0))
        assert booth.proxy.foreign_cursors
        account.check_complete(pages.summary, booth.keys, epoch=1)
        assert pages.summary.restarts[0].reason.startswith("no certificate: another process")


async def test_without_the_epoch_filter(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is known, and pages that waited go out all the same."""
    monkeypatch.setattr(ScanPlan, "_is_current", always)
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=1000, segments=1) as pages:
            await account.take(pages)
            await until_in(pages, State.DRAINING)
            _, new = await stage.depose()
            await until_followed(client, new)
            assert pages.summary.epoch == 1
            await account.take(pages)
            assert account.pages[-1].epoch == 0, "a superseded page"
            assert account.pages[-1].server.address == stage.first.address


async def test_without_the_certificate(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is cut off from the Sentinels, the master was replaced, and the old one sees no reason to say so."""

    def hold(plan: ScanPlan, evidence: Evidence) -> Held:
        assert plan._server is not None
        return Held(Certificate(plan.options.basis, plan._server, "master", 0))

    monkeypatch.setattr(ScanPlan, "_judge", hold)
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        for proxy in stage.sentinel_proxies:
            proxy.swallow()
        _, new = await stage.depose()
        late = await new.fill(100, "late:")
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages:
            await account.take_the_rest(pages)
        assert pages.summary.complete
        assert pages.summary.server is not None
        assert pages.summary.server.address == stage.first.address
        assert not late & set(account.keys()), "keys that the master had all the time were lost"


async def test_without_its_order_after_the_last_page(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certified while pages wait: what is filtered out of the channel later on, nobody has received."""
    monkeypatch.setattr(ScanPlan, "_may_certify", always)
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=1000, segments=1) as pages:
            await account.take(pages)
            await until_in(pages, State.COMPLETE)
            await account.take_the_rest(pages)
        assert pages.summary.complete
        assert stage.keys - set(account.keys()), "keys were lost"


async def test_without_the_joint_commit(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor with the reply, the page only when the next SCAN has been sent: the connection dies in between."""
    commit, report = Sweep._commit, ScanPlan.report
    pending: list[bytes] = []

    def commit_the_cursor(sweep: Sweep, ask: Ask, cursor: int, keys: list[bytes]) -> list[bytes] | None:
        committed = commit(sweep, ask, cursor, keys)
        if committed is None or sweep.swept:
            return committed
        pending[:] = committed
        return []

    def report_and_commit_the_page(plan: ScanPlan, step: steps.Step, outcome: steps.Outcome, now: float) -> None:
        report(plan, step, outcome, now)
        if isinstance(outcome, steps.Asked) and pending:
            plan._in_hand.append(
                ScanPage(pending[:], plan.epoch, plan._bound.server, plan._position(), plan._marks.latest)
            )
            pending.clear()
        elif isinstance(outcome, steps.Lost):
            pending.clear()

    monkeypatch.setattr(Sweep, "_commit", commit_the_cursor)
    monkeypatch.setattr(ScanPlan, "report", report_and_commit_the_page)
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        stop = booth.proxy.stop_reply(is_page, skip=4)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages, consuming(pages, account):
            await stop.reached.wait()
            await stop.release_and_reset()
        assert pages.summary.complete
        assert pages.summary.epoch == 0
        assert booth.keys - set(account.keys()), "a page was lost"
