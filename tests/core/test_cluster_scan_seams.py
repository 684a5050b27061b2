"""The scan of a cluster where two things meet: slots to be covered, nodes that move, masters that say nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core._cluster_model import Cluster, ClusterDriver
from trio_sentinel_scan import (
    ScanInterrupted,
    ScanNotCertified,
    ScanRestartsExhausted,
    ServerUnavailable,
    SlotsNotCovered,
)
from trio_sentinel_scan._core.cluster_map import ClusterMap
from trio_sentinel_scan._core.cluster_survey import Survey
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.slots import ALL_SLOTS, set_of


def at_lane(driver: ClusterDriver, number: int) -> None:
    """Until this lane has brought a page."""
    driver.steps_until(
        lambda: any(lane.step_begun.lane.number == number and lane.plan.share > 0 for lane in driver.lanes)
    )


def half_way(*, replicas: int = 0, **changes: Any) -> ClusterDriver:
    """A slot of node one's is half way to node three; it was swept at the one, and another lane is under way."""
    cluster = Cluster(keys=30, replicas=replicas)
    cluster.begin_move(0, cluster.nodes[2])
    cluster.move_keys(0, cluster.nodes[2], 12)
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1, failover_timeout=3.0, **changes)
    at_lane(driver, 2)
    assert set(driver.plan._half) == {0}
    return driver


# ---- slots that are to be covered -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "in health"])
def test_the_owner_is_replaced_before_its_slot_is_covered(*, kill: bool) -> None:
    """The new one is swept for it. (Nothing else would ever look at the slot again.)"""
    driver = half_way(replicas=1)
    one = driver.cluster.nodes[0]
    driver.cluster.fail_over(one, kill=kill)
    driver.run()
    (restart,) = driver.check_complete().restarts
    assert restart.slots == ((0, 0),)
    assert "on another one" in restart.reason


def test_the_owner_is_away_before_its_slot_is_covered() -> None:
    """It comes back as it was: what was swept there counts."""
    driver = half_way()
    one = driver.cluster.nodes[0]
    one.is_up = False
    # Held to be up by the others: nobody knows better yet.
    seen = driver.cluster.survey

    def survey() -> Survey:
        found = seen()
        for account in found.accounts.values():
            line = account.lines[one.node_id]
            object.__setattr__(line, "flags", line.flags - {"fail"})
        return found

    driver.cluster.survey = survey  # type: ignore[method-assign]  # what is not known yet
    driver.steps_until(lambda: bool(driver.plan._waits.waiting & 1))
    one.is_up = True
    driver.run()
    assert driver.check_complete().restarts == ()


def test_the_owner_is_cut_off_before_its_slot_is_covered() -> None:
    """It says that it has the slot, and nobody else does: that may end, and here it does not."""
    driver = half_way()
    driver.cluster.nodes[0].cut_off_with = driver.cluster.lines()
    driver.run()
    assert isinstance(driver.plan.error, ScanNotCertified)


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "not allowed"])
def test_the_owner_is_gone_before_its_slot_is_covered(*, allowed: bool) -> None:
    """For ever, and without a replica."""
    driver = half_way(allow_uncovered=allowed)
    driver.cluster.nodes[0].is_up = False
    driver.run()
    if allowed:
        assert driver.plan.state is State.COMPLETE
        assert driver.plan.summary(driver.now).uncovered_slots == ((0, 0),)
    else:
        assert isinstance(driver.plan.error, SlotsNotCovered)
        assert driver.plan.error.slots == ((0, 0),)


@pytest.mark.parametrize("how", ["on_failover", "max_restarts"])
def test_a_slot_that_came_to_rest_may_not_be_swept_again(how: str) -> None:
    changes: dict[str, Any] = {"on_failover": "raise"} if how == "on_failover" else {"max_restarts": 0}
    driver = half_way(**changes)
    driver.cluster.give(1, driver.cluster.nodes[2])
    driver.run()
    expected = ScanInterrupted if how == "on_failover" else ScanRestartsExhausted
    assert isinstance(driver.plan.error, expected)


def test_a_slot_that_came_to_rest_need_not_be_covered() -> None:
    """It is swept where it is, and not there and there."""
    driver = half_way()
    driver.cluster.give(1, driver.cluster.nodes[2])
    driver.run()
    driver.check_complete()
    assert not [step for step in driver.began if step.lane.covers]


def test_a_target_is_swept_once() -> None:
    """While its lane cannot be judged, no other one is begun for the same slots."""
    cluster = Cluster(keys=30)
    one, _, three = cluster.nodes
    cluster.begin_move(16_383, one)
    cluster.move_keys(16_383, one, 12)
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1)
    at_lane(driver, 4)
    one.state = "fail"
    driver.steps_until(lambda: not driver.lanes)
    surveys = driver.surveys
    driver.steps_until(lambda: driver.surveys > surveys + 5)
    one.state = "ok"
    driver.run()
    assert driver.check_complete().restarts == ()
    assert [step.lane.owner_id for step in driver.began if step.lane.covers] == [three.node_id]


# ---- nodes that move ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["by the map", "by its own word"])
def test_a_master_is_started_anew_at_another_address(monkeypatch: pytest.MonkeyPatch, *, known: bool) -> None:
    """As in a cluster whose nodes are given addresses when they start."""
    cluster = Cluster(keys=30)
    two = cluster.nodes[1]
    driver = ClusterDriver(cluster, segments=1)
    at_lane(driver, 2)
    if not known:
        monkeypatch.setattr(cluster, "map", lambda: ClusterMap(()))
    two.port += 1
    cluster.restart(two)
    driver.run()
    (restart,) = driver.check_complete().restarts
    assert restart.reason == "the node is at another address now"
    assert restart.new_server == two.identity


def test_a_master_is_at_another_address_before_it_is_swept() -> None:
    """Its lane has found nothing yet that would be void."""
    cluster = Cluster(keys=30)
    two = cluster.nodes[1]
    driver = ClusterDriver(cluster, segments=1)
    driver.steps_until(lambda: any(step.lane.node_id == two.node_id for step in driver.began))
    two.port += 1
    driver.run()
    assert driver.check_complete().restarts == ()


def test_a_replica_that_nobody_names_any_more() -> None:
    """Where it is, there is nobody to say: its lane goes on as it can."""
    cluster = Cluster(keys=30, replicas=1)
    one = cluster.nodes[0]
    driver = ClusterDriver(cluster, segments=1, read_from="replica", fallback="master", failover_timeout=3.0)
    at_lane(driver, 1)
    (replica,) = cluster.replicas(one)
    replica.is_up = False
    one.is_up = False
    driver.run()
    assert isinstance(driver.plan.error, (SlotsNotCovered, ServerUnavailable))


# ---- masters that say nothing ---------------------------------------------------------------------------------------


def test_nobody_says_anything() -> None:
    """That is not the same as slots that nobody has: nothing is left out for it."""
    cluster = Cluster()
    driver = ClusterDriver(cluster, allow_uncovered=True)
    for node in cluster.nodes:
        node.is_up = False
    driver.run()
    assert isinstance(driver.plan.error, ScanNotCertified)
    assert "the master that has them could not be asked (no)" in str(driver.plan.error)


def test_a_master_that_answers_others_and_not_us_has_its_slots() -> None:
    """They are not left out, whatever else may be."""
    cluster = Cluster()
    two = cluster.nodes[1]
    driver = ClusterDriver(cluster, allow_uncovered=True, certify="role")
    lines = cluster.lines()
    two.is_up = False
    for node in cluster.nodes:
        node.cut_off_with = lines
    driver.run()
    assert isinstance(driver.plan.error, ScanNotCertified)
    assert str(driver.plan.error).startswith("slots 5461-10921: not scanned")
    assert driver.plan._done == ALL_SLOTS & ~set_of([(5_461, 10_921)])
