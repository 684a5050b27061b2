"""Each guard of a cluster's scan, switched off: the simulation finds what it was there for, and nothing with it on.

The schedules are drawn as always, from the classes of faults that the guard is about. The first that goes wrong is
played once more with the guard in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from random import Random
from typing import Any

import pytest

from tests.simulation.cluster.faults import draw_fault
from tests.simulation.cluster.world import ClusterWorld
from tests.simulation.playing import Outcome
from tests.simulation.runner import draw, run
from tests.simulation.schedule import Schedule, Value
from trio_sentinel_scan import Certificate
from trio_sentinel_scan._core import (
    cluster_marks,
    cluster_plan,
    cluster_work,
    lane_judgement,
    lane_segments,
)
from trio_sentinel_scan._core.certificate import Evidence, Held
from trio_sentinel_scan._core.cluster_lanes import ClusterLanes
from trio_sentinel_scan._core.cluster_standing import Standing, Word
from trio_sentinel_scan._core.lane_judgement import LaneJudgement
from trio_sentinel_scan._core.lane_segments import Choice
from trio_sentinel_scan._core.lanes import Lane
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._trio import cluster_scan

# Of so many schedules one must show the harm; by far the most of these guards are missed within a tenth of them.
MOST = 150

WORLD = ClusterWorld()

# What makes faults of slots on their way meet a sweep: one node after the other, and small pages.
SLOWLY: Mapping[str, Value] = {"nodes": 1, "count": 3, "segments": 1, "prefetch": 0, "slow": 0.01, "lag": 0.0}


def never(*args: object) -> bool:
    return False


def always(*args: object, **kwargs: object) -> bool:
    return True


def no_slots(*args: object) -> int:
    return 0


@dataclass(frozen=True)
class Guard:
    """One guard: how it is switched off, what it is about, and what comes of it."""

    switch_off: Callable[[pytest.MonkeyPatch], None]
    classes: tuple[str, ...]
    settings: Mapping[str, Value] = field(default_factory=lambda: SLOWLY)
    kinds: frozenset[str] = frozenset({"lost"})
    faults: int = 3
    triggers: tuple[str, ...] = ("time", "scan", "end", "look", "page")
    # The latest time at which one comes, if they come by the time.
    latest: float = inf
    # Arguments of the faults that are not drawn.
    args: Mapping[str, Value] = field(default_factory=dict[str, Value])


# ---- how they are switched off -----------------------------------------------------------------------------------


def clean_slots(patch: pytest.MonkeyPatch) -> None:
    """A slot that was swept to its end counts as clean, whatever the masters say afterwards."""

    def all_good(lane: Lane, slots: int, *args: object) -> LaneJudgement:
        return LaneJudgement(slots)

    patch.setattr(cluster_plan, "judge_owner", all_good)


def between_surveys(patch: pytest.MonkeyPatch) -> None:
    """What is said in between, for other lanes' sake, is forgotten."""
    patch.setattr(Standing, "stirred_since", no_slots)


def targets(patch: pytest.MonkeyPatch) -> None:
    """A slot on its way is swept at its owner alone."""
    patch.setattr(Word, "targets", lambda *_: set[str]())


def source_before_target(patch: pytest.MonkeyPatch) -> None:
    """What a node is taking in is swept with its own slots, whenever that is: the owner may be swept later."""
    begin = ClusterLanes._begin
    # What the node of a lane was taking in when it began, by the lane's slots.
    also: dict[int, int] = {}

    def begin_with_importing(
        self: ClusterLanes, this: Any, node_id: str, owner_id: str, slots: int, **kwargs: Any
    ) -> None:
        also[slots] = sum(1 << slot for slot in this.standing.masters[node_id].importing)
        begin(self, this, node_id, owner_id, slots, **kwargs)

    patch.setattr(ClusterLanes, "_begin", begin_with_importing)
    patch.setattr(lane_segments, "Choice", lambda slots: Choice(slots | also[slots]))
    targets(patch)


def config_epochs(patch: pytest.MonkeyPatch) -> None:
    """A node that has a slot before and after had it all the time."""
    patch.setattr(lane_judgement, "_epoch_changed", never)
    patch.setattr(cluster_marks, "_epoch_changed", never)
    # (The flags of such a round trip may have been seen in between.)
    between_surveys(patch)


def identity(patch: pytest.MonkeyPatch) -> None:
    """The process that answers at an address is the one that did so before. (Its node's name is its own still.)"""

    def same_address(plan: ScanPlan, server: Any) -> bool:
        return plan._server is not None and plan._server.address == server.address

    patch.setattr(ScanPlan, "_is_same_process", same_address)
    # (The second lock on the same door: at the lane's end the process is asked who it is once more.)

    def always_held(plan: ScanPlan, evidence: Evidence) -> Held:
        assert plan._server is not None
        return Held(Certificate(basis="role", server=plan._server, role="master", replicas=0))

    patch.setattr(ScanPlan, "_judge", always_held)


def name_of_the_node(patch: pytest.MonkeyPatch) -> None:
    """Whoever answers at a node's address is that node."""

    async def believe(*args: object, **kwargs: object) -> None:
        pass

    patch.setattr(cluster_scan._LaneSource, "_meet", believe)


def majority(patch: pytest.MonkeyPatch) -> None:
    """A node has what it says it has."""

    def own_words(standing: Standing) -> dict[str, int]:
        return {name: account.myself.slots for name, account in standing.masters.items()}

    patch.setattr(Standing, "_by_majority", own_words)
    patch.setattr(Standing, "why_unsound", lambda *_: "")
    patch.setattr(lane_judgement, "_owned_by_others", no_slots)


def images_of_targets(patch: pytest.MonkeyPatch) -> None:
    """A node that slots are on their way to is taken for itself, whatever the others know of it."""
    patch.setattr(Standing, "is_outdated", never)


def epochs_of_words(patch: pytest.MonkeyPatch) -> None:
    """What the others say of a node counts, though they know of a later config epoch of it than it does itself.

    (Two guards: each of them is enough for an owner's image.)
    """
    images_of_targets(patch)

    def said_of(standing: Standing, node_id: str) -> list[int]:
        lines = [account.lines.get(node_id) for name, account in standing.masters.items() if name in standing.voters]
        return [line.slots if line is not None else 0 for line in lines]

    patch.setattr(Standing, "_said_of", said_of)


def resend_rules(patch: pytest.MonkeyPatch) -> None:
    """A command whose reply did not come is sent again, whatever it does."""
    patch.setattr(cluster_work, "goes_again", always)


def slots_of_keys(patch: pytest.MonkeyPatch) -> None:
    """What a node has, it may hand out."""
    patch.setattr(lane_segments, "_in_range", lambda keys, *_: keys)
    patch.setattr(Choice, "of", lambda _, keys: keys)


MOVES = ("legacy", "roundtrip", "halfdone", "returned", "atomic")

GUARDS: Mapping[str, Guard] = {
    "clean slots": Guard(clean_slots, MOVES),
    "between surveys": Guard(
        between_surveys, ("returned",), {**SLOWLY, "nodes": 2, "keys": 150, "hot": 6, "slow": 0.03}, faults=5
    ),
    "targets": Guard(targets, ("halfdone", "legacy")),
    # (The flags are set before the scan, and keys move all through it. Each node is swept whole, with what it is taking
    # in: what is missed is so for the order alone.)
    "source before target": Guard(
        source_before_target,
        ("halfdone",),
        {**SLOWLY, "flavour": "redis7", "wait": 1.0},
        triggers=("time",),
        latest=0.9,
        args={"pace": 0.3},
    ),
    "config epochs": Guard(
        # (News spreads at once: who has not heard of the other node's epoch does not take a new one for his own. The
        # slot is away for some pages, and back before its node is judged.)
        config_epochs,
        ("roundtrip",),
        {**SLOWLY, "spread": 0.001, "keys": 150, "hot": 6, "slow": 0.03},
        faults=6,
        triggers=("scan", "page"),
        args={"pace": 0.0, "pause": 0.2},
    ),
    "identity": Guard(identity, ("restart", "drop", "slow")),
    "name of the node": Guard(name_of_the_node, ("swap", "drop", "hangup")),
    "majority": Guard(
        majority, ("isolate", "grow"), {**SLOWLY, "replicas": 1, "wait": 8.0, "keys": 50}, faults=5, triggers=("time",)
    ),
    "epochs of words": Guard(
        epochs_of_words, ("snapshot",), {**SLOWLY, "spread": 0.01, "wait": 3.0}, faults=2, triggers=("time",)
    ),
    "images of targets": Guard(
        images_of_targets,
        ("snapshot", "halfdone"),
        {**SLOWLY, "spread": 0.01, "wait": 3.0},
        faults=2,
        triggers=("scan",),
    ),
    "resend rules": Guard(
        resend_rules,
        ("hangup", "silence"),
        {**SLOWLY, "commands": 3},
        kinds=frozenset({"run twice"}),
        args={"command": "INCRBY"},
    ),
    "slots of keys": Guard(slots_of_keys, ("cancelled", "drop"), kinds=frozenset({"ghost", "lost", "twice"})),
}


def drawn(guard: Guard, seed: int) -> Schedule:
    """A schedule as the world draws it, with faults of the guard's classes."""
    rng = Random(f"guard {seed}")
    schedule = draw(WORLD, seed)
    plain = {name: value for name, value in schedule.settings.items() if name in PLAIN}
    faults = [draw_fault(rng, guard.classes, guard.triggers) for _ in range(guard.faults)]
    some = tuple(replace(fault, at=min(fault.at, guard.latest), args={**fault.args, **guard.args}) for fault in faults)
    return Schedule(schedule.world, seed, {**plain, **guard.settings}, some)


PLAIN = {"flavour", "masters", "replicas", "hot", "keys", "tagged", "latency", "lag", "spread"}


def first_harm(guard: Guard) -> Outcome | None:
    """The first of its schedules in which the promise is broken that the guard holds."""
    for seed in range(MOST):
        outcome = run(drawn(guard, seed), WORLD)
        if outcome.violation is not None and outcome.violation.kind in guard.kinds:
            return outcome
    return None


@pytest.mark.parametrize("name", GUARDS)
def test_without_it_the_simulation_finds_the_loss(name: str) -> None:
    guard = GUARDS[name]
    with pytest.MonkeyPatch.context() as patch:
        guard.switch_off(patch)
        outcome = first_harm(guard)
    assert outcome is not None
    again = run(outcome.schedule, WORLD)
    assert again.violation is None, f"{outcome.schedule}: {again.violation}"
