"""Each guard of a scan, switched off: keys are lost or superseded pages go out. With it, the same events do no harm."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core._scan_model import B, Driver, World, keys_named
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.certificate import Evidence, Held, Judgement
from trio_sentinel_scan._core.identity import ServerIdentity
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.segments import Ask
from trio_sentinel_scan._core.summary import Certificate, ScanPage
from trio_sentinel_scan._core.sweep import Sweep

KEYS = keys_named(60)

guarded = pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])

several = pytest.mark.parametrize("segments", [1, 3])


def is_same_address(plan: ScanPlan, server: ServerIdentity) -> bool:
    """What many clients take for the same server."""
    return plan._server is not None and server.address == plan._server.address


def scan_half_and_restart(driver: Driver) -> None:
    """The server is restarted, with its data, when half of the keys were handed out; then the scan goes on."""
    while sum(map(len, driver.pages)) < len(KEYS) // 2:
        driver.go_to(steps.HandOver)
        driver.take_all()
    driver.go_to(steps.Receive)
    driver.world.restart()
    driver.report(steps.Lost("connection closed"))
    driver.run()


@guarded
@several
def test_without_the_identity_rule_a_restart_at_the_same_address_loses_keys(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, segments: int
) -> None:
    """The guard: a cursor goes on only at the process that issued it. Without it: at the address that issued it."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_is_same_process", is_same_address)
    world = World(KEYS, tell_run_id=False)
    driver = Driver(world, segments=segments)
    scan_half_and_restart(driver)
    assert driver.complete
    assert bool(driver.missed()) is not guarded
    assert bool(driver.misused()) is not guarded
    if not guarded:
        # f(1 - f) of the keys at the fraction f: a quarter, or thereabouts.
        assert 5 < len(driver.missed()) < 25


@guarded
@several
def test_the_certificate_stands_behind_the_identity_rule(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, segments: int
) -> None:
    """Where processes tell who they are, a foreign cursor costs a pass: what was missed is noticed at its end."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_is_same_process", is_same_address)
    driver = Driver(World(KEYS), segments=segments)
    scan_half_and_restart(driver)
    assert driver.complete
    assert driver.missed() == set()
    assert driver.plan.epoch == 1
    assert bool(driver.misused()) is not guarded
    (restart,) = driver.plan.summary(driver.now).restarts
    assert ("no certificate" in restart.reason) is not guarded


@guarded
@several
def test_without_the_epoch_filter_a_page_of_the_old_master_goes_out(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, segments: int
) -> None:
    """The guard: what waits in the channel when a change becomes known is dropped. Without it: it goes out."""

    def any_page(plan: ScanPlan, page: ScanPage[Any]) -> bool:
        return True

    if not guarded:
        monkeypatch.setattr(ScanPlan, "_is_current", any_page)
    world = World(KEYS)
    driver = Driver(world, prefetch=10, segments=segments)
    driver.go_to(steps.HandOver)
    assert driver.channel
    # A key that is deleted on the new master, and that the old one still has.
    ghost = driver.channel[0].keys[0]
    world.fail_over(B)
    world.delete(ghost)
    assert driver.hear()
    page = driver.take()
    assert (page is None) is guarded
    if page is not None:
        assert page.epoch < driver.plan.epoch
        assert ghost in page.keys
        assert ghost not in world.keys


@guarded
@several
def test_without_the_certificate_a_deposed_master_ends_the_scan(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, segments: int
) -> None:
    """The guard: a majority must name the master still. Without it: a pass over the old one counts as complete."""

    def always_held(plan: ScanPlan, evidence: Evidence) -> Judgement:
        assert plan._server is not None
        return Held(Certificate(basis="sentinels", server=plan._server, role="master", replicas=0))

    if not guarded:
        monkeypatch.setattr(ScanPlan, "_judge", always_held)
    world = World(KEYS)
    driver = Driver(world, segments=segments)
    # The client has not heard; the old master says "master" for ten seconds more, and its keys are no longer it.
    world.fail_over(B)
    world.write(b"new")
    driver.go_to(steps.Certify)
    driver.finish()
    assert driver.complete is not guarded
    driver.hear()
    driver.run()
    assert driver.complete
    assert driver.missed() == (set() if guarded else {b"new"})


@guarded
@several
def test_without_the_certificate_a_demoted_master_ends_the_scan(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, segments: int
) -> None:
    """The guard: its role must be what it was. Without it: FAILOVER, which tells nobody, passes unnoticed."""

    def only_the_votes(plan: ScanPlan, evidence: Evidence) -> Judgement:
        assert plan._server is not None
        return Held(Certificate(basis="role", server=plan._server, role="", replicas=0))

    if not guarded:
        monkeypatch.setattr(ScanPlan, "_judge", only_the_votes)
    world = World(KEYS)
    driver = Driver(world, certify="role", segments=segments)
    driver.go_to(steps.Receive)
    # Demoted in mid-scan, and not in touch with its new master yet: it answers, with what it has.
    old = world.master
    world.fail_over(B)
    old.role = "slave"
    old.table.discard(KEYS[7])
    driver.go_to(steps.Certify)
    driver.finish()
    assert driver.complete is not guarded
    driver.hear()
    driver.run()
    assert driver.complete
    assert driver.missed() == (set() if guarded else {KEYS[7]})


@guarded
@several
def test_a_certificate_before_the_last_page_was_taken_ends_the_scan_too_early(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, segments: int
) -> None:
    """The guard: first the last page, then the certificate. Without it: pages that wait are never handed out."""

    def at_once(plan: ScanPlan) -> bool:
        return True

    if not guarded:
        monkeypatch.setattr(ScanPlan, "_may_certify", at_once)
    driver = Driver(World(KEYS), prefetch=100, segments=segments)
    driver.go_to(steps.AwaitTaken if guarded else steps.Finish, taking=False)
    assert driver.complete is not guarded
    assert driver.channel
    driver.take_all()
    driver.run()
    assert driver.complete
    assert bool(driver.missed()) is not guarded


@guarded
@several
def test_a_failover_after_too_early_a_certificate_is_not_noticed(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, segments: int
) -> None:
    """The same guard: a change that comes while pages wait voids the pass. Without it: it comes too late."""

    def at_once(plan: ScanPlan) -> bool:
        return True

    if not guarded:
        monkeypatch.setattr(ScanPlan, "_may_certify", at_once)
    driver = Driver(World(keys_named(10)), prefetch=100, segments=segments)
    driver.go_to(steps.AwaitTaken if guarded else steps.Finish, taking=False)
    driver.world.fail_over(B)
    assert driver.hear() is guarded
    driver.take_all()
    driver.run()
    assert driver.plan.epoch == int(guarded)
    assert bool(driver.missed()) is not guarded


@guarded
@several
def test_a_cursor_that_is_committed_before_its_keys_loses_them(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, segments: int
) -> None:
    """The guard: cursor and keys in one step. Without it: keys that wait for the next SCANs go down with them."""
    aside: list[ScanPage[Any]] = []
    commit, report = Sweep._commit, ScanPlan.report
    held_back: list[bytes] = []

    def commit_the_cursor(sweep: Sweep, ask: Ask, cursor: int, keys: list[Any]) -> list[Any] | None:
        committed = commit(sweep, ask, cursor, keys)
        if committed and not sweep.swept:
            held_back.extend(committed)
            return []
        return committed

    def report_and_commit_the_keys(plan: ScanPlan, step: steps.Step, outcome: steps.Outcome, now: float) -> None:
        report(plan, step, outcome, now)
        if held_back:
            aside.append(ScanPage(held_back[:], plan.epoch, plan._bound.server, plan._position(), plan._marks.latest))
            held_back.clear()
        if isinstance(step, steps.Ask):
            if isinstance(outcome, steps.Asked):
                plan._in_hand.extend(aside)
            aside.clear()

    if not guarded:
        monkeypatch.setattr(Sweep, "_commit", commit_the_cursor)
        monkeypatch.setattr(ScanPlan, "report", report_and_commit_the_keys)
    driver = Driver(World(KEYS), segments=segments)
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    driver.finish()
    assert isinstance(driver.begin(), steps.Ask)
    driver.report(steps.Lost("connection closed"))
    summary = driver.run()
    assert driver.complete
    assert summary.epoch == 0
    assert bool(driver.missed()) is not guarded


@guarded
@several
def test_keys_that_are_committed_before_their_cursor_come_twice(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, segments: int
) -> None:
    """The same guard the other way round: nothing is lost, and what could have gone on is asked for again."""
    commit, report = Sweep._commit, ScanPlan.report
    # What each segment was asked for last, once the keys of its reply are committed and its cursor is not.
    behind: dict[int, tuple[int, int]] = {}

    def commit_and_remember(sweep: Sweep, ask: Ask, cursor: int, keys: list[Any]) -> list[Any] | None:
        segment = sweep._segments._segments[ask[0]]
        behind[ask[0]] = (segment.cursor, segment.position)
        return commit(sweep, ask, cursor, keys)

    def report_and_go_back(plan: ScanPlan, step: steps.Step, outcome: steps.Outcome, now: float) -> None:
        if isinstance(step, steps.Receive) and isinstance(outcome, steps.Lost):
            for index, (cursor, position) in behind.items():
                segment = plan._bound._segments._segments[index]
                if segment.position < segment.end:
                    segment.cursor, segment.position = cursor, position
        report(plan, step, outcome, now)

    if not guarded:
        monkeypatch.setattr(Sweep, "_commit", commit_and_remember)
        monkeypatch.setattr(ScanPlan, "report", report_and_go_back)
    driver = Driver(World(KEYS), segments=segments)
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    driver.report(steps.Lost("connection closed"))
    driver.run()
    assert driver.complete
    assert driver.missed() == set()
    assert (sum(driver.handed[0].values()) > len(KEYS)) is not guarded
