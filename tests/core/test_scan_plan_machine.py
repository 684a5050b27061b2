"""A scan through anything that servers, Sentinels and its consumer may do, in any order, at any moment.

The model has real hash tables with a seed for each process, so that a cursor is only good where it came from; a step
that has begun may be overtaken by anything before what came of it is reported.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.core._scan_model import A, B, C, Driver, World, keys_named
from trio_sentinel_scan._core import details, scan_steps as steps
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.details import KeyDetails
from trio_sentinel_scan._core.errors import (
    ScanInterrupted,
    ScanNotCertified,
    ScanRefused,
    ScanRestartsExhausted,
    ServerUnavailable,
)
from trio_sentinel_scan._core.scan_patience import BACK_OFF
from trio_sentinel_scan._core.scan_states import State

ADDRESSES = st.sampled_from([A, B, C])
ERRORS = st.sampled_from(
    [
        *["LOADING Redis is loading", "BUSY Redis is busy", "MASTERDOWN Link", "READONLY no", "REDIRECT 10.0.0.2:6379"],
        *["ERR max number of clients reached", "ERR invalid cursor"],
    ]
)
KEPT = ["idle", "freq", "memory", "type"]
# What a scan may fail with here. (Whatever its cursors look like, they are never in a circle.)
MAY_FAIL = (ScanInterrupted, ScanNotCertified, ScanRefused, ScanRestartsExhausted, ServerUnavailable)


def driving(machine: ScanMachine) -> bool:
    return not machine.driver.ended


def under_way(machine: ScanMachine) -> bool:
    return machine.driver.pending is not None


class ScanMachine(RuleBasedStateMachine):
    """One scan, and the world around it."""

    driver: Driver
    world: World

    @initialize(
        number=st.integers(10, 60),
        kind=st.sampled_from(["reversed", "opaque", "opaque and dishonest", "anonymous", "one seed", "one seed"]),
        count=st.integers(1, 12),
        prefetch=st.integers(0, 3),
        segments=st.sampled_from([1, 1, 2, 3, 8, 13]),
        page_size=st.sampled_from([None, None, 1, 4]),
        max_restarts=st.sampled_from([0, 2, 50, 50, 50]),
        on_failover=st.sampled_from(["restart", "restart", "restart", "raise"]),
        certify=st.sampled_from(["sentinels", "sentinels", "role"]),
        with_=st.sampled_from([(), (), ["memory"], ["type", "ttl"], KeyDetails._fields]),
        dedupe=st.booleans(),
        cramped=st.booleans(),
    )
    def begin(self, number: int, kind: str, certify: str, cramped: bool, **options: Any) -> None:
        """A scan of a service with some keys; pages that wait for details may have hardly any room."""
        self.patches = pytest.MonkeyPatch()
        if cramped:
            self.patches.setattr(details, "MOST_KEYS", 7)
            self.patches.setattr(details, "MOST_WAITING", 9)
        self.world = World(
            keys_named(number),
            form=CursorFormat.UNKNOWN if kind == "opaque" else CursorFormat.REVERSED,
            honest=kind != "opaque and dishonest",
            tell_run_id=kind != "anonymous",
            hash_seed=b"one" if kind == "one seed" else None,
        )
        self.moves = kind == "one seed"
        self.driver = Driver(self.world, certify=certify, failover_timeout=20.0, hash_seed_shared=self.moves, **options)
        self.trusts_old_masters = certify == "role"
        self.is_judged = False
        self.fresh_names = itertools.count()

    # -- the producer and the consumer --

    @precondition(driving)
    @rule(steps_to_take=st.integers(1, 30), consuming=st.booleans())
    def go_on(self, steps_to_take: int, consuming: bool) -> None:
        """The producer takes some steps, as far as it gets."""
        for _ in range(steps_to_take):
            if consuming:
                self.consume(4)
            if self.driver.is_waiting or self.driver.ended:
                return
            if self.driver.pending is not None:
                self.driver.finish()
            else:
                self.driver.begin()

    @precondition(driving)
    @rule(steps_to_take=st.integers(1, 30))
    def go_on_with_a_quick_consumer(self, steps_to_take: int) -> None:
        """The usual case."""
        self.go_on(steps_to_take, consuming=True)

    @precondition(lambda self: driving(self) and not under_way(self) and self.driver.sending is None)
    @rule()
    def begin_a_step(self) -> None:
        """One step is under way; the other rules may come between it and its report."""
        self.driver.begin()

    @rule(pages=st.integers(1, 4))
    def consume(self, pages: int) -> None:
        """The consumer takes some pages. Whatever is handed out is of the present pass."""
        for _ in range(pages):
            known = self.world.known
            page = self.driver.take()
            if page is not None:
                assert page.epoch == self.driver.plan.epoch
                superseded = page.server.address != known.address
                assert not superseded or self.moves, "a page of a master that is known to be superseded"
                assert len(page.keys) > 0

    @rule(replies=st.sampled_from([1, 2, 5, 1000]))
    def reads_bring(self, replies: int) -> None:
        """A read brings so many of the replies that were sent together; the others come later, or never."""
        self.driver.batch = replies

    # -- trouble --

    @precondition(under_way)
    @rule()
    def lose_what_is_under_way(self) -> None:
        """The connection dies under a step, or a timeout ends it; its reply, if it was on its way, is gone."""
        assert self.driver.pending is not None
        if isinstance(self.driver.pending[0], (steps.Connect, steps.Ask, steps.Receive, steps.Certify)):
            self.driver.time_out(seconds=0.5)

    @rule(to=ADDRESSES, kill=st.booleans(), heard=st.sampled_from(["now", "when somebody looks", "later"]))
    def fail_over(self, to: Any, kill: bool, heard: str) -> None:
        """Another master; the old one is dead, or goes on as if nothing had happened."""
        self.world.fail_over(to, kill=kill)
        if heard == "now":
            self.hear()
        elif heard == "when somebody looks":
            self.world.known = self.world.named

    @rule()
    def hear(self) -> None:
        """The Sentinels' word arrives, and is heeded at once."""
        was = self.driver.plan.epoch
        changed = self.driver.hear()
        assert changed is (self.driver.plan.epoch > was or (changed and (self.driver.ended or self.moves)))

    @rule(cut=st.booleans())
    def restart_master(self, cut: bool) -> None:
        """At once, at the same address, with its data; or only its connections are cut."""
        if not cut:
            self.world.restart()
        elif self.driver.link is not None:
            self.driver.link.alive = False

    @rule(hangs=st.booleans(), error=st.none() | ERRORS)
    def trouble_the_master(self, hangs: bool, error: str | None) -> None:
        """SIGSTOP and SIGCONT; and the next SCAN may be refused for now."""
        self.world.master.hangs = hangs
        self.world.master.errors.extend([error] if error else [])

    @rule(error=ERRORS | st.just("NOPERM no"), after=st.integers(0, 5), keeps=st.none() | st.sampled_from(KEPT))
    def trouble_with_details(self, error: str, after: int, keeps: str | None) -> None:
        """The master may not answer one of the next questions about keys, or some of them never."""
        self.world.master.question_errors.extend([*[None] * after, error])
        self.world.master.keeps_to_itself.update([keeps] if keeps else [])

    @rule(
        in_reach=st.sampled_from([0, 1, 2, 3, 3]),
        demote=st.booleans(),
        dies=st.none() | ADDRESSES,
        seconds=st.sampled_from([0.0, 0.01, 1.0, 1.0, 30.0]),
    )
    def meanwhile(self, in_reach: int, demote: bool, dies: Any, seconds: float) -> None:
        """Time goes by. Sentinels come and go, and get round to old masters; a node that is no master dies."""
        self.world.sentinels_in_reach = in_reach
        if demote:
            self.world.demote_old_masters()
        if dies is not None and dies != self.world.named.address:
            self.world.kill(dies)
        self.driver.now += seconds

    @rule(number=st.integers(0, 59), bits=st.integers(0, 8))
    def other_clients(self, number: int, bits: int) -> None:
        """A new key, one key less (no pass owes it any more), and a table that grows or shrinks."""
        self.world.write(b"new:%d" % next(self.fresh_names))
        self.driver.delete(b"key:%04d" % number)
        self.world.master.table.resize(bits)

    # -- what holds at every moment --

    @invariant()
    def no_cursor_went_to_a_process_that_did_not_issue_it(self) -> None:
        """The one rule."""
        assert self.driver.misused() == 0

    @invariant()
    def an_end_is_complete_or_a_typed_error(self) -> None:
        """I4, I8, and the twin of the one rule."""
        plan = self.driver.plan
        assert (plan.error is not None) is (plan.state is State.FAILED)
        assert (plan.certificate is not None) is (plan.state is State.COMPLETE)
        assert plan.error is None or isinstance(plan.error, MAY_FAIL)
        if isinstance(plan.error, ScanRefused):
            assert "invalid cursor" in str(plan.error)
        if plan.certificate is not None and not self.is_judged:
            self.is_judged = True
            # (A failover that comes between the evidence and the certificate comes too late for any client.)
            deposed = plan.certificate.server.address != self.driver.named_when_asked
            # Who takes a master's own word takes a deposed one's, too.
            assert not deposed or self.trusts_old_masters
            assert deposed or self.driver.missed() == set()

    @invariant()
    def budgets_are_kept(self) -> None:
        """I4: passes, and connections in a row that yield nothing."""
        plan = self.driver.plan
        assert plan.epoch <= self.driver.options.max_restarts
        assert plan.epoch == 0 or self.driver.options.on_failover == "restart"
        summary = plan.summary(self.driver.now)
        assert [restart.epoch for restart in summary.restarts] == list(range(1, plan.epoch + 1))

    @invariant()
    def positions_strictly_rise(self) -> None:
        """I9. A pass that moves to another process goes back a little."""
        if self.moves:
            return
        for _, pages in itertools.groupby(self.driver.pages, key=lambda page: page.epoch):
            positions = [page.position for page in pages if page.position is not None]
            assert all(before < after for before, after in itertools.pairwise(positions))

    @invariant()
    def epochs_never_go_back(self) -> None:
        """A consumer that collects by epoch needs to look forward only."""
        epochs = [page.epoch for page in self.driver.pages]
        assert epochs == sorted(epochs)

    @invariant()
    def the_account_is_right(self) -> None:
        """What was handed out, as the consumer counts it."""
        summary = self.driver.plan.summary(self.driver.now)
        assert summary.keys == sum(len(page.keys) for page in self.driver.pages)
        assert summary.pages == len(self.driver.pages)
        present = sum(len(page.keys) for page in self.driver.pages if page.epoch == summary.epoch)
        assert summary.keys_this_epoch == present

    @precondition(lambda self: driving(self) and not under_way(self) and self.driver.sending is None)
    @invariant()
    def a_step_can_be_looked_at_twice(self) -> None:
        """Looking at what is to be done changes nothing, or gives up once."""
        plan = self.driver.plan
        assert plan.next_step(self.driver.now) == plan.next_step(self.driver.now)

    @invariant()
    def a_key_is_handed_out_once_if_that_was_asked_for(self) -> None:
        """Over all epochs."""
        if self.driver.options.dedupe is not None:
            keys = [key for page in self.driver.pages for key in page]
            assert len(keys) == len(set(keys))

    # -- and in the end --

    def teardown(self) -> None:
        """When the storm is over every scan ends, soon, and as it should."""
        if not hasattr(self, "driver"):
            return
        try:
            self.end_the_storm()
        finally:
            self.patches.undo()

    def end_the_storm(self) -> None:
        """Nothing is wrong any more."""
        driver, world = self.driver, self.world
        world.sentinels_in_reach = 3
        for process in world.processes:
            process.errors.clear()
            process.question_errors.clear()
            process.hangs = False
        driver.hear()
        if driver.pending is not None and driver.pending[1] is None:
            # A wait that began while the server hung, and that `response_timeout` ends.
            self.lose_what_is_under_way()
        before = driver.now
        for _ in range(2000):
            driver.take_all()
            if driver.ended:
                break
            if driver.pending is not None:
                driver.finish()
            else:
                driver.begin()
        assert driver.ended, f"it does not end: {driver.plan!r}, {driver.log[-6:]}"
        self.an_end_is_complete_or_a_typed_error()
        self.no_cursor_went_to_a_process_that_did_not_issue_it()
        self.budgets_are_kept()
        self.positions_strictly_rise()
        self.the_account_is_right()
        # Nothing is wrong any more, so it is over within a back-off or two.
        assert driver.now - before <= 2 * 1.5 * BACK_OFF[-1]


TestScanMachine = ScanMachine.TestCase
TestScanMachine.settings = settings(
    max_examples=120, stateful_step_count=50, suppress_health_check=[HealthCheck.too_slow]
)
