"""Which replica a scan goes to, which one it leaves, and what it says when there is none."""

from __future__ import annotations

from typing import Any

import pytest

from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.replicas import ATTEMPTS, ReplicaSearch, choose, why_unusable, why_void
from trio_sentinel_scan._core.scan_patience import BACK_OFF
from trio_sentinel_scan._core.scan_steps import Target
from trio_sentinel_scan._core.topology_state import MasterState, ReplicaState, TopologyState

A, B, C, D = (Address(f"10.0.0.{number}", 6379) for number in (1, 2, 3, 4))


def replica(address: Address, **changes: Any) -> ReplicaState:
    """All is well with it, but for these changes."""
    return ReplicaState(address, **{"run_id": "r", "link_status": "ok", "offset": 100, **changes})


def service(*replicas: ReplicaState, master: Address = A, config_epoch: int = 3) -> TopologyState:
    return TopologyState(MasterState(master, config_epoch), replicas, ())


def on(address: Address, config_epoch: int = 3) -> Target:
    return Target(address, config_epoch, is_replica=True)


# ---- one look ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({}, ""),
        ({"announced": False}, "not meant for clients"),
        ({"flags": frozenset({"slave", "s_down"})}, "is down"),
        ({"flags": frozenset({"disconnected"})}, "not heard from"),
        ({"run_id": None}, "not heard from"),
        ({"role_reported": "master"}, "not heard from by the Sentinels as a replica"),
        ({"link_status": "err"}, "not linked"),
        ({"link_status": ""}, "not linked"),
    ],
)
def test_a_replica_must_be_up_linked_and_announced(changes: dict[str, Any], reason: str) -> None:
    """By the Sentinels' word. Its own is asked for later."""
    said = why_unusable(replica(B, **changes))
    assert reason in said
    assert bool(said) is bool(reason)
    assert (choose(service(replica(B, **changes))) is None) is bool(reason)


def test_the_one_that_has_come_furthest_is_chosen() -> None:
    """The least lag first; one that does not tell is last."""
    state = service(replica(B, offset=None), replica(C, offset=300), replica(D, offset=200))
    assert choose(state) == C
    assert choose(state, avoid={C}) == D
    assert choose(state, avoid={C, D}) == B
    assert choose(state, avoid={B, C, D}) is None
    assert choose(service()) is None


def test_a_preferred_one_is_chosen_if_it_will_do() -> None:
    """And no other rule is bent for it."""
    state = service(replica(B, link_status="err"), replica(C, offset=300), replica(D, offset=200))
    assert choose(state, prefer=D) == D
    assert choose(state, prefer=B) == C
    assert choose(state, prefer=D, avoid={D}) == C
    assert choose(state, prefer=A) == C


@pytest.mark.parametrize(
    "state, reason",
    [
        (service(replica(B), replica(C)), ""),
        # Another master: it is none of the pass's business.
        (service(replica(B), replica(A), master=C, config_epoch=4), ""),
        (service(replica(B, link_status="err", flags=frozenset({"s_down"}))), ""),
        (service(replica(A), replica(C), master=B, config_epoch=4), "was promoted"),
        (service(replica(C)), "REPLICA_REMOVE"),
        (service(), "REPLICA_REMOVE"),
    ],
    ids=range(6),
)
def test_a_pass_on_a_replica_is_void_when_that_is_promoted_or_gone(state: TopologyState, reason: str) -> None:
    said = why_void(state, on(B))
    assert reason in said
    assert bool(said) is bool(reason)
    assert not said or str(B) in said


@pytest.mark.parametrize(
    "state, is_void",
    [
        (service(), False),
        (service(config_epoch=1), False),
        (service(config_epoch=4), True),
        (service(master=B, config_epoch=4), True),
        (service(master=B, config_epoch=1), True),
    ],
)
def test_a_pass_on_the_master_is_void_when_there_is_another(state: TopologyState, is_void: bool) -> None:
    """As in any other scan; epochs that begin again do not make another master of the same one."""
    assert bool(why_void(state, Target(A, 3))) is is_void


# ---- a search ----------------------------------------------------------------------------------------------------


def test_one_after_the_other_is_tried_and_then_all_again() -> None:
    """With nothing else to go to."""
    state = service(replica(B, offset=2), replica(C, offset=1))
    search = ReplicaSearch(falls_back=False)
    for _ in range(2):
        assert search.next_target(state, 0) == on(B)
        search.failed(B, "refused")
        assert search.next_target(state, 1) == on(C)
        search.failed(C, "refused")
        assert search.next_target(state, 2) is None


def test_the_master_is_left_in_peace_for_as_long_as_a_replica_may_come() -> None:
    """One that was re-pointed has its link again in a second."""
    state = service(replica(B, link_status="err"))
    search = ReplicaSearch(falls_back=True)
    assert search.next_target(state, 0) is None
    assert search.next_target(state, ATTEMPTS - 1) is None
    assert search.next_target(state, ATTEMPTS) == Target(A, 3)
    assert ReplicaSearch(falls_back=False).next_target(state, ATTEMPTS) is None


def test_without_any_replica_the_master_is_gone_to_at_once() -> None:
    """Nobody is there to wait for."""
    assert ReplicaSearch(falls_back=True).next_target(service(), 0) == Target(A, 3)
    assert ReplicaSearch(falls_back=False).next_target(service(), 0) is None


def test_one_that_was_given_up_is_not_waited_for() -> None:
    """It had its time; but where there is nothing else, it is tried again."""
    state = service(replica(B))
    search = ReplicaSearch(falls_back=True)
    search.bound(B)
    search.failed(B, "refused", give_up=True)
    assert search.next_target(state, 0) == Target(A, 3)

    search = ReplicaSearch(falls_back=False)
    search.failed(B, "refused", give_up=True)
    assert search.next_target(state, 0) is None
    assert search.next_target(state, 1) == on(B)


@pytest.mark.parametrize("falls_back", [True, False])
def test_a_pass_is_left_when_it_was_waited_for_and_there_is_somewhere_to_go(falls_back: bool) -> None:
    """Else leaving it would only throw away what it has covered."""
    search = ReplicaSearch(falls_back=falls_back)
    two, one = service(replica(B), replica(C)), service(replica(B), replica(C, link_status="err"))
    assert not search.is_to_be_left(two, B, ATTEMPTS - 1)
    assert search.is_to_be_left(two, B, ATTEMPTS)
    assert search.is_to_be_left(one, B, ATTEMPTS) is falls_back
    search.failed(B, "answers MASTERDOWN", give_up=True)
    assert search.is_to_be_left(two, B, 1)
    search.answered(B)
    assert not search.is_to_be_left(two, B, 1)


def test_the_replica_of_the_last_pass_is_taken_again() -> None:
    """Unless it has just failed."""
    state = service(replica(B, offset=200), replica(C, offset=100))
    search = ReplicaSearch(falls_back=False)
    search.bound(C)
    assert search.next_target(state, 0) == on(C)
    search.failed(C, "refused")
    assert search.next_target(state, 1) == on(B)


def test_a_checkpoints_replica_is_waited_for_like_a_passs_own() -> None:
    """Its cursors are good there alone. Of the Sentinels it need only be listed."""
    state = service(replica(B), replica(C, link_status="err"))
    search = ReplicaSearch(falls_back=False, resume_at=C)
    for failures in range(ATTEMPTS):
        assert search.next_target(state, failures) == on(C)
        search.failed(C, "refused")
    assert search.next_target(state, ATTEMPTS) == on(B)
    # From then on it is one like the others.
    assert search.next_target(state, 0) == on(B)
    assert ReplicaSearch(falls_back=False, resume_at=D).next_target(state, 0) == on(B)


def test_each_replica_has_its_reason() -> None:
    """What came of trying it, or else what the Sentinels say."""
    search = ReplicaSearch(falls_back=False)
    assert search.describe() == {}
    search.state = service(replica(B), replica(C, link_status="err"), replica(D))
    search.failed(B, "10.0.0.2:6379 cannot be reached")
    found = search.describe()
    assert found[str(B)] == "10.0.0.2:6379 cannot be reached"
    assert "not linked" in found[str(C)]
    assert found[str(D)] == "was not tried"


def test_the_attempts_take_some_seconds() -> None:
    """A replica that is pointed to another master has its link again in a second or two."""
    pauses = sum(BACK_OFF[min(number, len(BACK_OFF) - 1)] for number in range(ATTEMPTS))
    assert 3.0 <= pauses <= 1.5 * pauses <= 5.0
