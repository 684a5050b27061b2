"""Each guard switched off: the simulation finds what it guards against, within a bounded number of schedules.

With the guard, the very same schedule breaks no promise. Where there are other locks on the same door, all of them are
opened: that this one alone holds is shown by the schedule with the others open, in `tests/core/test_scan_roles.py`
and in `tests/core/test_scan_plan_guards.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import pytest
import trio

from tests.simulation import runner
from tests.simulation.runner import run
from tests.simulation.schedule import Fault, Schedule, Value
from tests.simulation.service import ServiceWorld
from tests.simulation.service.deployment import Deployment
from tests.simulation.service.fault_classes import draw_args
from trio_sentinel_scan._core import certificate, scan_passes, scan_plan, sweep, topology
from trio_sentinel_scan._core.certificate import Evidence, Held
from trio_sentinel_scan._core.identity import Role
from trio_sentinel_scan._core.in_flight import InFlight, Request
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.segments import Segments
from trio_sentinel_scan._core.summary import Certificate, ScanPage
from trio_sentinel_scan._core.sweep import Sweep
from trio_sentinel_scan._trio import scan, shared
from trio_sentinel_scan._trio.scan import Scan

# So many schedules are tried at most for one guard.
MOST: int = 150
BASE: Mapping[str, Value] = {"keys": 60, "count": 5, "think": 0.05}


def hunt(name: str, settings: Mapping[str, Value], faults: Sequence[str], kinds: set[str]) -> Schedule:
    """Play drawn schedules of these classes of faults until a promise is broken in this way; fails if none is."""
    for seed in range(MOST):
        rng = Random(f"{name} {seed}")
        drawn: list[Fault] = []
        for words in faults:
            fault, trigger, *on = words.split()
            at = round(rng.uniform(0, 1.5), 2) if trigger == "time" else float(rng.randrange(1, 12))
            drawn.append(Fault(fault, trigger, at, {**draw_args(fault, rng), **dict(zip(["on"], on, strict=False))}))
        schedule = Schedule("service", seed, {**BASE, **settings}, tuple(drawn))
        violation = run(schedule, ServiceWorld()).violation
        if violation is not None and violation.kind in kinds:
            return schedule
    pytest.fail(f"{MOST} schedules without this guard, and no promise was broken")


def check(
    switch_off: Callable[[pytest.MonkeyPatch], None],
    name: str,
    settings: Mapping[str, Value],
    faults: Sequence[str],
    kinds: set[str],
) -> None:
    """Without the guard it is found; with it there is nothing to find in that schedule."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "MOST_STEPS", 60_000)
        switch_off(patch)
        schedule = hunt(name, settings, faults, kinds)
    with pytest.MonkeyPatch.context() as patch:
        OTHER_LOCKS.get(switch_off, nothing)(patch)
        outcome = run(schedule, ServiceWorld())
    assert outcome.violation is None, outcome.violation
    assert run(schedule, ServiceWorld()).violation is None


def nothing(patch: pytest.MonkeyPatch) -> None:
    """All guards are on."""


def no_identity(patch: pytest.MonkeyPatch) -> None:
    """Any process at the address is taken for the one that issued the cursor; the certificate does not look, either."""
    judged = ScanPlan._judge
    patch.setattr(Deployment, "checks_cursors", False)
    patch.setattr(ScanPlan, "_is_same_process", lambda plan, server: True)
    patch.setattr(ScanPlan, "_judge", lambda plan, evidence: judged(plan, dataclasses.replace(evidence, run_id=None)))


def no_epoch_filter(patch: pytest.MonkeyPatch) -> None:
    """What waits in the channel is handed out, come what may."""
    patch.setattr(ScanPlan, "_is_current", lambda plan, page: True)


def no_abort_scope(patch: pytest.MonkeyPatch) -> None:
    """A change is heard of, and what is waited for is waited for."""

    def notice_change(this: Scan) -> None:
        this.plan.heard(this._source.view, trio.current_time())
        this._tell_restarts()

    patch.setattr(Scan, "notice_change", notice_change)


def _held(plan: ScanPlan, evidence: Evidence) -> Held:
    assert plan._server is not None
    return Held(Certificate(plan.options.basis, plan._server, evidence.role.kind, 0))


def no_role_before_or_after(patch: pytest.MonkeyPatch) -> None:
    """Those of the handshake and of the certificate are not looked at."""
    patch.setattr(scan, "unfit_for_scanning", lambda *args, **more: "")
    patch.setattr(ScanPlan, "_judge", _held)


def no_roles(patch: pytest.MonkeyPatch) -> None:
    """Nor is a ROLE that rides along."""
    no_role_before_or_after(patch)
    patch.setattr(Sweep, "_unfit_role", lambda sweep, replies: None)


def no_certificate(patch: pytest.MonkeyPatch) -> None:
    """A pass that was swept is complete."""

    patch.setattr(ScanPlan, "_judge", _held)


def no_monotony(patch: pytest.MonkeyPatch) -> None:
    """A cursor may lead anywhere."""
    advance = Segments.advance

    def advance_anywhere(segments: Segments, ask: Any, cursor: int, keys: list[Any]) -> Any:
        segments._segments[ask[0]].position = -1
        return advance(segments, ask, cursor, keys)

    patch.setattr(Segments, "advance", advance_anywhere)


def no_discarding(patch: pytest.MonkeyPatch) -> None:
    """Nobody remembers a caller that has gone; whose reply comes then is the next one's."""

    def abandon(in_flight: InFlight, request: Request) -> None:
        if request in in_flight.queue:
            in_flight.queue.remove(request)
        if request in in_flight.unsent:
            in_flight.unsent.remove(request)
        request.done = True

    patch.setattr(InFlight, "abandon", abandon)


def no_order_of_epochs(patch: pytest.MonkeyPatch) -> None:
    """Whatever a Sentinel says last is believed."""

    def weigh(self: topology.Topology, record: Any, before: Any, now: float, effect: Any) -> None:
        if self.view is None:
            self._choose_first(now, effect)
        elif record.said is not None and record.said != self.view:
            self._adopt(record.said, now, effect)

    patch.setattr(topology.Topology, "_weigh", weigh)


def no_joint_commit(patch: pytest.MonkeyPatch) -> None:
    """The cursor moves on when the reply is there, its keys count when they are handed over: lost with a connection."""
    lost = ScanPlan._lost

    def lose(plan: ScanPlan, *args: Any, **more: Any) -> None:
        if plan._in_hand:
            plan._in_hand.pop()
        lost(plan, *args, **more)

    patch.setattr(ScanPlan, "_lost", lose)


def early_certificate(patch: pytest.MonkeyPatch) -> None:
    """It is drawn up while pages still wait."""
    patch.setattr(ScanPlan, "_may_certify", lambda plan: True)


def early_dedupe(patch: pytest.MonkeyPatch) -> None:
    """Keys count as seen when they are put into the channel, not when they come out of it."""
    hand_over = ScanPlan.handing_over

    def mark_too_early(plan: ScanPlan, step: Any) -> bool:
        given = hand_over(plan, step)
        seen = plan.options.dedupe
        if given and seen is not None:
            page: ScanPage[Any] = step.page
            early[id(page)] = seen.unseen(page.keys)
            kept.append(page)
            seen.mark(page.keys)
        return given

    def take(plan: ScanPlan, page: ScanPage[Any], now: float) -> ScanPage[Any] | None:
        if not plan._is_current(page):
            return None
        unseen = early[id(page)]
        plan._mark_unseen = lambda seen, keys: unseen  # type: ignore[method-assign]  # the guard that is off
        return taken(plan, page, now)

    early: dict[int, list[Any]] = {}
    kept: list[Any] = []
    taken = ScanPlan.take
    patch.setattr(ScanPlan, "handing_over", mark_too_early)
    patch.setattr(ScanPlan, "take", take)


def always_resent(patch: pytest.MonkeyPatch) -> None:
    """A command whose reply did not come is sent again, whatever it does."""
    patch.setattr(shared, "goes_again", lambda commands, written, *, retry_writes: True)


def no_links(patch: pytest.MonkeyPatch) -> None:
    """A replica is taken for its master's image, whether or not it is linked to it."""
    patch.setattr(Role, "is_synced_replica", property(lambda role: role.kind == "slave"))
    for module in (certificate, sweep, scan_plan):
        patch.setattr(module, "lost_link", lambda role: "")


def no_going_back(patch: pytest.MonkeyPatch) -> None:
    """What no ROLE has vouched for is kept."""
    patch.setattr(Sweep, "_read_again", lambda sweep: None)


def any_heir(patch: pytest.MonkeyPatch) -> None:
    """Whoever is the next master may go on with a pass, whether or not it was a replica when that began."""
    patch.setattr(scan_passes, "heir", lambda address: b"any")


TIMES_3 = ("client-kill time",) * 3
OTHER_LOCKS: Mapping[Callable[[pytest.MonkeyPatch], None], Callable[[pytest.MonkeyPatch], None]] = {
    no_roles: no_role_before_or_after
}


@pytest.mark.parametrize(
    "switch_off, settings, faults, kinds",
    [
        pytest.param(no_identity, {}, ["restart scan"], {"lost"}, id="identity rule"),
        pytest.param(
            no_epoch_filter,
            {"prefetch": 10, "keys": 250, "think": 0.1},
            ["planned time"],
            {"superseded", "epoch"},
            id="epoch filter",
        ),
        pytest.param(no_abort_scope, {"response_timeout": 5.0}, ["stop scan"], {"late"}, id="abort scope"),
        pytest.param(
            no_roles,
            {"certify": "role", "sync": 3.0},
            ["handover scan here", "restart-empty scan here"],
            {"lost"},
            id="role ride-along",
        ),
        pytest.param(
            no_certificate,
            {"think": 0.3, "stops": 2, "stop_after": 8, "churn": 20.0, "failover_timeout": 5.0},
            ["split time"],
            {"lost"},
            id="certificate",
        ),
        pytest.param(
            no_monotony,
            {"think": 0.0, "segments": 2},
            ["odd-cursor scan"],
            {"spin", "position", "lost", "never ends"},
            id="monotony",
        ),
        pytest.param(no_discarding, {"callers": 3, "latency": 0.02}, ["slow time"], {"reply"}, id="reply discard"),
        pytest.param(
            no_order_of_epochs,
            {"think": 0.3},
            ["planned time", "stale-sentinel time"],
            {"regression", "superseded"},
            id="config epoch order",
        ),
        pytest.param(no_joint_commit, {"prefetch": 0}, list(TIMES_3), {"lost"}, id="joint commit"),
        pytest.param(early_certificate, {"prefetch": 10}, ["planned time"], {"lost", "end"}, id="certificate last"),
        pytest.param(
            early_dedupe,
            {"prefetch": 10, "keys": 250, "think": 0.1, "dedupe": "memory"},
            ["planned time"],
            {"lost"},
            id="dedupe at hand-out",
        ),
        pytest.param(
            no_links,
            {"read_from": "replica", "sync": 3.0, "think": 0.25},
            ["restart-empty scan here", "resync time"],
            {"lost"},
            id="replica's link",
        ),
        pytest.param(
            no_going_back,
            {"read_from": "replica", "replicas": 1, "sync": 0.2},
            ["failed-sync scan here", "client-kill scanned here", "slices scan here"],
            {"lost"},
            id="going back",
        ),
        pytest.param(
            any_heir,
            {"hash_seed": 1, "think": 0.3, "stops": 2, "stop_after": 8, "churn": 20.0},
            ["blind time"],
            {"lost"},
            id="heirs",
        ),
        pytest.param(always_resent, {"callers": 3, "latency": 0.02}, list(TIMES_3), {"write"}, id="resend rules"),
    ],
)
def test_the_simulation_misses_the_guard(
    switch_off: Callable[[pytest.MonkeyPatch], None],
    settings: Mapping[str, Value],
    faults: Sequence[str],
    kinds: set[str],
    request: pytest.FixtureRequest,
) -> None:
    check(switch_off, switch_off.__name__, settings, faults, kinds)
