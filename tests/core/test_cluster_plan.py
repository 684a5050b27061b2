"""The scan of a whole cluster: whatever happens to its slots, every key that stayed is handed out, or it raises."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies

from tests.core._cluster_model import HOT, Cluster, ClusterDriver, Node, keys_of
from trio_sentinel_scan import (
    NoReplicaAvailable,
    ScanError,
    ScanInterrupted,
    ScanNotCertified,
    ScanRestartsExhausted,
    ServerUnavailable,
    SlotsNotCovered,
)
from trio_sentinel_scan._core import lane_judgement, scan_steps
from trio_sentinel_scan._core.cluster_map import ClusterMap
from trio_sentinel_scan._core.cluster_standing import Standing
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.scan_states import FINAL, State
from trio_sentinel_scan._core.slots import ALL_SLOTS, set_of

FORMS = pytest.mark.parametrize("form", [CursorFormat.SLOTS, CursorFormat.REVERSED], ids=["slots", "reversed"])


def at_lane(driver: ClusterDriver, number: int) -> None:
    """Until this lane has brought a page."""
    driver.steps_until(
        lambda: any(lane.step_begun.lane.number == number and lane.plan.share > 0 for lane in driver.lanes)
    )


# ---- nothing happens ------------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("at_once", [1, 8])
def test_at_rest(form: CursorFormat, at_once: int) -> None:
    cluster = Cluster()
    driver = ClusterDriver(cluster, form, max_nodes_at_once=at_once, dedupe=True)
    driver.run()
    summary = driver.check_complete()
    assert summary.keys == len(cluster.stayed)
    assert [step.lane.number for step in driver.began] == [1, 2, 3]
    assert summary.restarts == ()
    assert {page.node for page in driver.pages} == {node.node_id for node in cluster.nodes}
    assert summary.certificate is not None
    assert str(summary.certificate).startswith("16384 slots: 10.0.0.")
    assert "3 of 3 masters agree (config epoch 1)" in str(summary.certificate)
    assert "State" not in repr(driver.plan)
    assert driver.surveys <= 3 + at_once


def test_the_position_comes_to_one() -> None:
    driver = ClusterDriver(Cluster(), max_nodes_at_once=1)
    positions = [0.0]
    while driver.plan.state is State.SCANNING:
        driver.step()
        position = driver.plan.summary(driver.now).position
        assert position is not None
        positions.append(position)
    assert positions == sorted(positions)
    assert positions[-1] == 1.0
    assert len(set(positions)) > 10


# ---- slots move -----------------------------------------------------------------------------------------------------


@FORMS
def test_a_slot_moves_to_a_node_that_was_swept(form: CursorFormat) -> None:
    """Before its own node is: nothing is void, and there is one lane more."""
    cluster = Cluster()
    one, _, three = cluster.nodes
    driver = ClusterDriver(cluster, form, max_nodes_at_once=1)
    at_lane(driver, 2)
    cluster.give(1 << 16_383, one)
    driver.run()
    assert driver.check_complete().restarts == ()
    assert [step.lane.node_id for step in driver.began][2:] in (
        [one.node_id, three.node_id],
        [three.node_id, one.node_id],
    )


@FORMS
def test_a_slot_moves_in_mid_lane(form: CursorFormat) -> None:
    cluster = Cluster(keys=30)
    one, two, _ = cluster.nodes
    driver = ClusterDriver(cluster, form, max_nodes_at_once=1, segments=1)
    at_lane(driver, 2)
    cluster.give(1 << 10_921, one)
    driver.run()
    (restart,) = driver.check_complete().restarts
    assert restart.slots == ((10_921, 10_921),)
    assert (restart.node, restart.epoch) == (two.node_id, 1)
    assert restart.old_server == two.identity
    assert restart.new_server == one.identity
    assert restart.first_page_after is not None
    assert {page.epoch for page in driver.pages} == {0, 1}


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
def test_a_slot_moves_and_comes_back(monkeypatch: pytest.MonkeyPatch, *, guarded: bool) -> None:
    """The config epoch tells."""
    if not guarded:
        monkeypatch.setattr(lane_judgement, "_epoch_changed", lambda *_: False)
    cluster = Cluster(keys=30)
    one, two, _ = cluster.nodes
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1)
    at_lane(driver, 2)
    cluster.give(1 << 10_921, one)
    driver.steps_until(lambda: any(lane.plan.share > 0.999 for lane in driver.lanes) or not driver.lanes)
    cluster.give(1 << 10_921, two)
    if not guarded:
        driver.run()
        assert driver.missed
        return
    driver.run()
    (restart,) = driver.check_complete().restarts
    assert restart.slots == ((5_461, 10_921),)
    assert "config epoch" in restart.reason


def test_all_slots_of_a_lane_have_gone() -> None:
    """It need not go on."""
    cluster = Cluster(keys=30)
    one, two, _ = cluster.nodes
    driver = ClusterDriver(cluster, segments=1)
    at_lane(driver, 2)
    cluster.give(two.slots, one)
    driver.now += 1
    driver.plan.look()
    driver.run()
    # (The epoch of the one that took them has changed.)
    reasons = {restart.node: restart.reason for restart in driver.check_complete().restarts}
    assert reasons[two.node_id] == "other nodes have its slots now"
    assert set(reasons) == {one.node_id, two.node_id}


def test_lanes_become_small_in_a_cluster_that_never_rests() -> None:
    """Node two's epoch changes with each slot that it takes in: ever fewer of its slots are swept at once."""
    cluster = Cluster(keys=30)
    one, two, _ = cluster.nodes
    driver = ClusterDriver(cluster, max_restarts=20)
    known = 0
    while driver.plan.state is State.SCANNING:
        driver.step()
        if len(driver.began) == known:
            continue
        known = len(driver.began)
        lane = driver.began[-1].lane
        if lane.node_id == two.node_id and lane.slots.bit_count() > 100:
            cluster.give(1 << 100 + len(driver.began), two)
            cluster.give(1 << 100 + len(driver.began), one)
            two.epoch += 2
    driver.check_complete()
    assert driver.plan.summary(driver.now).epoch > 5


# ---- slots that are half on their way -------------------------------------------------------------------------------


@FORMS
def test_half_done_for_the_scans_length(form: CursorFormat) -> None:
    cluster = Cluster()
    one, _, three = cluster.nodes
    cluster.begin_move(16_383, one)
    cluster.move_keys(16_383, one, 4)
    driver = ClusterDriver(cluster, form)
    driver.run()
    summary = driver.check_complete()
    assert summary.restarts == ()
    covering = [step for step in driver.began if step.lane.covers]
    assert [(step.lane.node_id, step.lane.owner_id) for step in covering] == [(one.node_id, three.node_id)]
    # Two processes have brought the slot to its end, and it is one slot.
    assert summary.certificate is not None
    assert summary.certificate.slots == 16_384
    assert sum(one.slots for one in summary.certificate.nodes) == 16_385


@FORMS
def test_keys_move_while_the_owner_is_swept(form: CursorFormat) -> None:
    cluster = Cluster(keys=30)
    one = cluster.nodes[0]
    cluster.begin_move(16_383, one)
    driver = ClusterDriver(cluster, form, max_nodes_at_once=1, segments=1)
    at_lane(driver, 3)
    cluster.move_keys(16_383, one, 25)
    driver.run()
    assert driver.check_complete().restarts == ()


@pytest.mark.parametrize("end", ["finished", "cancelled", "begun"])
def test_it_changes_while_the_owner_is_swept(end: str) -> None:
    cluster = Cluster(keys=30)
    one = cluster.nodes[0]
    if end != "begun":
        cluster.begin_move(16_383, one)
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1)
    at_lane(driver, 3)
    if end == "finished":
        cluster.give(1 << 16_383, one)
    elif end == "cancelled":
        cluster.move_keys(16_383, one, 5)
        cluster.cancel_move(16_383)
    else:
        cluster.begin_move(16_383, one)
        cluster.move_keys(16_383, one, 5)
    driver.run()
    (restart,) = driver.check_complete().restarts
    assert restart.slots == ((16_383, 16_383),)


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
def test_it_sets_out_and_is_taken_back_while_the_owner_is_swept(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """The masters were asked in between, for another lane's sake: they told of it, and it is not forgotten."""
    if not guarded:
        monkeypatch.setattr(Standing, "stirred_since", lambda *_: 0)
    cluster = Cluster(keys=30)
    one, _, three = cluster.nodes
    # The first of its slots with keys: the sweep comes by it long before its end.
    slot = next(slot for slot in HOT if three.slots >> slot & 1)
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1)
    driver.steps_until(lambda: len(driver.began) == 3)
    surveys = driver.surveys
    cluster.begin_move(slot, one)
    cluster.move_keys(slot, one, 30)
    driver.plan.look()
    # (Not so soon after the last one.)
    driver.now += 1
    driver.steps_until(lambda: driver.surveys > surveys)
    at_lane(driver, 3)
    back = one.keys & keys_of(slot, 30)
    assert back
    one.keys -= back
    three.keys |= back
    three.migrating.clear()
    one.importing.clear()
    driver.run()
    if guarded:
        (restart,) = driver.check_complete().restarts
        assert restart.slots == ((slot, slot),)
    else:
        assert driver.missed == back


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
def test_it_is_taken_back_while_the_target_is_swept(monkeypatch: pytest.MonkeyPatch, *, guarded: bool) -> None:
    """The owner was swept by then, and has the keys again. (Two guards: each of them is enough here.)"""
    if not guarded:
        monkeypatch.setattr(lane_judgement, "_word_is_alike", lambda *_: True)
        monkeypatch.setattr(Standing, "stirred_since", lambda *_: 0)
    cluster = Cluster(keys=30)
    one, _, three = cluster.nodes
    cluster.begin_move(16_383, one)
    cluster.move_keys(16_383, one, 20)
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1)
    at_lane(driver, 4)
    back = one.keys & keys_of(16_383, 30)
    three.keys |= back
    one.keys -= back
    cluster.cancel_move(16_383)
    driver.run()
    if guarded:
        assert len(driver.check_complete().restarts) == 1
    else:
        assert driver.missed


class Image:
    """A machine that was started from an older image of a node's, and answers for it; the node is still there."""

    def __init__(self, cluster: Cluster, node: Node, lacks: set[bytes], *, has_flags: bool = True) -> None:
        self._cluster, self._node, self._lacks = cluster, node, lacks
        self._flags = dict(node.importing)
        node.keys -= lacks
        if not has_flags:
            node.importing.clear()
        node.known_epoch, node.epoch = node.epoch, node.epoch - 1
        cluster.restart(node)

    def is_gone(self) -> None:
        """The node itself answers again."""
        node = self._node
        node.keys |= self._lacks
        node.importing = self._flags
        assert node.known_epoch is not None
        node.epoch, node.known_epoch = node.known_epoch, None
        self._cluster.restart(node)


@pytest.fixture(params=[True, False], ids=["with", "without"])
def guarded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether an older image of a node is told from it."""
    if not request.param:
        monkeypatch.setattr(Standing, "is_outdated", lambda *_: False)
    return bool(request.param)


def half_moved(*, has_flag: bool = True) -> tuple[Cluster, set[bytes]]:
    """The last slot is on its way from the third node to the first; and its keys there."""
    cluster = Cluster(keys=30)
    one, _, three = cluster.nodes
    cluster.begin_move(16_383, one)
    cluster.move_keys(16_383, one, 20)
    if not has_flag:
        three.migrating.clear()
    return cluster, one.keys & keys_of(16_383, 30)


def surveys_with_image(driver: ClusterDriver) -> None:
    """The masters are asked some times, or the scan takes itself for complete."""
    surveys = driver.surveys
    driver.steps_until(lambda: driver.surveys > surveys + 3 or driver.plan.state in FINAL)


@pytest.mark.parametrize("while_swept", [False, True], ids=["before", "while"])
@pytest.mark.parametrize("is_alone", [False, True], ids=["all_up", "one_down"])
def test_an_older_image_of_a_target(*, guarded: bool, while_swept: bool, is_alone: bool) -> None:
    """What it lacks has moved since. Of three masters one may be away: then nobody bears the image out but itself."""
    cluster, moved = half_moved()
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1, allow_uncovered=is_alone)
    at_lane(driver, 3)
    if while_swept:
        driver.steps_until(lambda: len(driver.began) == 4)
    image = Image(cluster, cluster.nodes[0], moved)
    if is_alone:
        cluster.nodes[1].is_up = False
    surveys_with_image(driver)
    cluster.nodes[1].is_up = True
    image.is_gone()
    driver.run()
    if guarded:
        assert len(driver.check_complete().restarts) == while_swept
    else:
        assert driver.missed == moved


def test_an_older_image_of_a_target_from_before_the_slot_set_out(*, guarded: bool) -> None:
    """It says nothing of the slot, and the owner has forgotten its flag: the slot seems to be at rest."""
    cluster, moved = half_moved(has_flag=False)
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1)
    at_lane(driver, 2)
    image = Image(cluster, cluster.nodes[0], moved, has_flags=False)
    surveys_with_image(driver)
    image.is_gone()
    driver.run()
    if guarded:
        driver.check_complete()
    else:
        assert driver.missed == moved


def test_an_older_image_of_an_owner_while_it_is_swept(*, guarded: bool) -> None:
    """Before its sweep and after it the node itself has answered; a survey in between tells."""
    cluster = Cluster(keys=30)
    three = cluster.nodes[2]
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1)
    driver.steps_until(lambda: len(driver.began) == 3)
    lacks = three.keys & keys_of(16_383, 20)
    image = Image(cluster, three, lacks)
    driver.plan.look()
    driver.now += 1
    surveys = driver.surveys
    driver.steps_until(lambda: driver.surveys > surveys)
    driver.steps_until(lambda: not driver.lanes)
    image.is_gone()
    driver.run()
    if guarded:
        (restart,) = driver.check_complete().restarts
        assert restart.node == three.node_id
    else:
        assert driver.missed == lacks


def test_an_older_image_that_stays() -> None:
    """An error in the end, and no advice that would believe it."""
    cluster, moved = half_moved()
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1, failover_timeout=3.0)
    at_lane(driver, 3)
    Image(cluster, cluster.nodes[0], moved)
    driver.run()
    assert isinstance(driver.plan.error, ScanNotCertified)
    assert "a later config epoch" in str(driver.plan.error)
    assert 'certify="role"' not in str(driver.plan.error)
    assert driver.missed == moved


def test_no_lane_begins_at_an_older_image(*, guarded: bool) -> None:
    """The target's turn comes after other nodes', and by then an image answers for it."""
    cluster = Cluster(keys=30)
    two = cluster.nodes[1]
    cluster.begin_move(0, two)
    cluster.move_keys(0, two, 20)
    moved = two.keys & keys_of(0, 30)
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1)
    at_lane(driver, 3)
    image = Image(cluster, two, moved)
    surveys_with_image(driver)
    assert any(step.lane.covers for step in driver.began) is not guarded
    image.is_gone()
    driver.run()
    if guarded:
        assert driver.check_complete().restarts == ()
    else:
        assert driver.missed == moved


def test_a_target_that_was_a_replica() -> None:
    """Reset, it has no config epoch, and the others keep the one that its master had: it has no slots there."""
    cluster = Cluster(keys=30)
    new = Node(4, known_epoch=3)
    cluster.nodes.append(new)
    cluster.begin_move(16_383, new)
    cluster.move_keys(16_383, new, 20)
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1)
    driver.run()
    assert driver.check_complete().restarts == ()


@pytest.mark.parametrize("what", ["restarted", "killed", "replaced"])
def test_what_happens_to_a_target(what: str) -> None:
    """It is swept again where it is; or else, what the slot's owner says then."""
    cluster = Cluster(keys=30, replicas=1)
    one = cluster.nodes[0]
    cluster.begin_move(16_383, one)
    cluster.move_keys(16_383, one, 20)
    driver = ClusterDriver(cluster, max_nodes_at_once=1, segments=1, failover_timeout=3.0)
    at_lane(driver, 4)
    if what == "restarted":
        cluster.restart(one)
        driver.run()
        (restart,) = driver.check_complete().restarts
        assert restart.node == one.node_id
        assert [step.lane.covers for step in driver.began] == [False] * 3 + [True] * 2
        return
    if what == "killed":
        one.is_up = False
    else:
        cluster.fail_over(one)
    driver.run()
    # The owner gives the slot's keys to a node that is no master any more.
    assert isinstance(driver.plan.error, (ScanNotCertified, SlotsNotCovered))


def test_two_targets_say_that_they_take_a_slot() -> None:
    """Where any of its keys may be is swept."""
    cluster = Cluster()
    one, two, three = cluster.nodes
    cluster.begin_move(16_383, one)
    two.importing[16_383] = three.node_id
    cluster.move_keys(16_383, one, 2)
    cluster.move_keys(16_383, two, 2)
    driver = ClusterDriver(cluster)
    driver.run()
    driver.check_complete()
    assert {step.lane.node_id for step in driver.began if step.lane.covers} == {one.node_id, two.node_id}


def test_a_target_restarts_while_another_one_ends_the_move() -> None:
    """The lane over the other target has nothing to do with the slot any more when it is judged."""
    cluster = Cluster(keys=30)
    one, two, three = cluster.nodes
    cluster.begin_move(16_383, one)
    two.importing[16_383] = three.node_id
    cluster.move_keys(16_383, one, 10)
    cluster.move_keys(16_383, two, 10)
    driver = ClusterDriver(cluster, segments=1)
    driver.steps_until(lambda: len([lane for lane in driver.lanes if lane.step_begun.lane.covers]) == 2)
    first, second = driver.lanes
    while driver.lanes == [first, second]:
        first.step()
        while driver.channel:
            driver.take(driver.channel.popleft())
    three.migrating.clear()
    one.importing.clear()
    # What it had been given is nobody's now.
    cluster.stayed -= one.keys & keys_of(16_383, 30)
    driver.run()
    driver.check_complete()


def test_an_owner_that_is_itself_taking_in() -> None:
    """What it takes from may have keys yet."""
    cluster = Cluster()
    one, _, three = cluster.nodes
    three.importing[16_383] = one.node_id
    three.importing[16_000] = "f" * 40
    one.keys |= {key for key in three.keys if key in sorted(three.keys)[:2]}
    driver = ClusterDriver(cluster)
    driver.run()
    driver.check_complete()
    assert [step.lane.node_id for step in driver.began if step.lane.covers] == [one.node_id]


# ---- masters are replaced -------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("kill", [True, False])
def test_a_master_is_replaced(form: CursorFormat, *, kill: bool) -> None:
    cluster = Cluster(keys=30, replicas=1)
    two = cluster.nodes[1]
    driver = ClusterDriver(cluster, form, segments=1)
    at_lane(driver, 2)
    new = cluster.fail_over(two, kill=kill)
    driver.run()
    summary = driver.check_complete()
    assert {restart.node for restart in summary.restarts} == {two.node_id}
    assert {step.lane.node_id for step in driver.began if step.lane.epoch} == {new.node_id}


def test_a_master_is_away_until_another_one_has_its_place() -> None:
    """Its lane waits, and the masters are asked meanwhile."""
    cluster = Cluster(keys=30, replicas=1)
    two = cluster.nodes[1]
    driver = ClusterDriver(cluster, segments=1)
    at_lane(driver, 2)
    two.is_up = False
    for _ in range(60):
        driver.step()
    assert driver.plan.state is State.SCANNING
    cluster.fail_over(two, kill=True)
    driver.run()
    driver.check_complete()


@FORMS
def test_masters_are_restarted(form: CursorFormat) -> None:
    cluster = Cluster(keys=30)
    one, two, _ = cluster.nodes
    driver = ClusterDriver(cluster, form, segments=1)
    at_lane(driver, 1)
    at_lane(driver, 2)
    cluster.restart(one)
    cluster.restart(two)
    driver.run()
    summary = driver.check_complete()
    assert {restart.node for restart in summary.restarts} == {one.node_id, two.node_id}


def own_words(standing: Standing) -> dict[str, int]:
    """What each says itself."""
    return {node_id: account.myself.slots for node_id, account in standing.masters.items()}


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
def test_a_master_that_was_cut_off(monkeypatch: pytest.MonkeyPatch, *, guarded: bool) -> None:
    """It goes on calling itself the owner, and answers SCAN. Its successor has a key that it never had."""
    cluster = Cluster(replicas=1)
    three = cluster.nodes[2]
    old = Node(20, slots=three.slots, epoch=three.epoch, keys=set(three.keys))
    cluster.nodes.append(old)
    old.cut_off_with = cluster.lines()
    new = cluster.fail_over(three)
    cluster.nodes.remove(three)
    more = keys_of(16_383, 9) - new.keys
    new.keys |= more
    cluster.stayed |= more
    if not guarded:
        monkeypatch.setattr(Standing, "_by_majority", own_words)
        monkeypatch.setattr(lane_judgement, "_owned_by_others", lambda *_: 0)
        cluster.nodes.sort(key=lambda node: node is not old)
    driver = ClusterDriver(cluster)
    driver.run()
    assert (old.node_id in {page.node for page in driver.pages}) is not guarded
    assert driver.missed == (set() if guarded else more)


def test_a_master_is_cut_off_in_mid_lane() -> None:
    """It was swept, and calls itself the owner still; most masters name another one."""
    cluster = Cluster(keys=30, replicas=1)
    three = cluster.nodes[2]
    driver = ClusterDriver(cluster, segments=1)
    at_lane(driver, 3)
    three.cut_off_with = cluster.lines()
    slots = three.slots
    cluster.fail_over(three)
    three.master, three.slots = None, slots
    driver.run()
    (restart,) = driver.check_complete().restarts
    assert restart.reason == "by the word of most masters, another one has the slots"


def test_nobody_is_in_reach_to_vouch_for_a_slot() -> None:
    """Cut off together with one master: it is swept, or not even that, and it raises."""
    cluster = Cluster()
    one = cluster.nodes[0]
    driver = ClusterDriver(cluster)
    at_lane(driver, 1)
    one.cut_off_with = cluster.lines()
    for node in cluster.nodes[1:]:
        node.is_up = False
    driver.run()
    assert isinstance(driver.plan.error, ScanNotCertified)
    assert 'certify="role"' in str(driver.plan.error)
    assert "swept at node" in str(driver.plan.error)
    assert driver.plan.error.summary is not None
    late = ClusterDriver(cluster)
    late.run()
    assert isinstance(late.plan.error, ScanNotCertified)


def test_what_the_nodes_say_of_themselves_may_do() -> None:
    """`certify="role"`: where two claim a slot, the one of the later epoch has it."""
    cluster = Cluster()
    one, two, _ = cluster.nodes
    one.slots |= 1 << 8_000
    two.cut_off_with = cluster.lines()
    driver = ClusterDriver(cluster, certify="role")
    driver.run()
    certificate = driver.check_complete().certificate
    assert certificate is not None
    assert "no other master was asked" in str(certificate)
    assert not any(step.lane.slots >> 8_000 & 1 for step in driver.began if step.lane.node_id == one.node_id)


@pytest.mark.parametrize("state", ["fail", "ok"])
def test_what_a_node_says_of_the_cluster(state: str) -> None:
    """One that says it is not well is not believed, unless it is for a slot whose owner it misses."""
    cluster = Cluster()
    cluster.nodes[0].state = state
    driver = ClusterDriver(cluster)
    driver.run()
    if state == "fail":
        assert isinstance(driver.plan.error, ScanNotCertified)
        assert "state is 'fail'" in str(driver.plan.error)
    else:
        driver.check_complete()


def test_a_master_whose_flags_nobody_knows() -> None:
    """It is waited for: it may be taking slots in."""
    cluster = Cluster()
    new = Node(9)
    cluster.nodes.append(new)
    driver = ClusterDriver(cluster)
    at_lane(driver, 1)
    survey = cluster.survey()
    assert new.node_id in survey.accounts
    accounts = {name: account for name, account in survey.accounts.items() if name != new.node_id}
    survey = replace(survey, accounts=accounts)
    assert Standing(survey).missing == {new.node_id}
    assert "1 of the masters could not be asked" in Standing(survey).why_unsound(cluster.nodes[0].node_id)


# ---- slots without an owner -----------------------------------------------------------------------------------------


def test_a_slot_without_an_owner_for_a_while() -> None:
    cluster = Cluster()
    two = cluster.nodes[1]
    two.slots &= ~(1 << 8_000)
    driver = ClusterDriver(cluster)
    driver.steps_until(lambda: len(driver.began) == 3 and not driver.lanes)
    assert driver.plan.state is State.SCANNING
    two.slots |= 1 << 8_000
    driver.run()
    driver.check_complete()


def test_slots_without_an_owner_for_ever() -> None:
    cluster = Cluster()
    two = cluster.nodes[1]
    two.slots &= ~(0b111 << 8_000)
    lost = two.keys & keys_of(8_000, 8)
    driver = ClusterDriver(cluster)
    driver.run()
    error = driver.plan.error
    assert isinstance(error, SlotsNotCovered)
    assert error.slots == ((8_000, 8_002),)
    assert "slots 8000-8002" in str(error)
    assert driver.keys == cluster.stayed - lost
    allowed = ClusterDriver(cluster, allow_uncovered=True)
    allowed.run()
    assert allowed.plan.state is State.COMPLETE
    assert allowed.plan.summary(0).uncovered_slots == ((8_000, 8_002),)
    assert allowed.missed == lost


def test_a_master_without_a_replica_is_killed() -> None:
    """Its slots have waited already when its lane gives up."""
    cluster = Cluster(keys=30)
    two = cluster.nodes[1]
    driver = ClusterDriver(cluster, segments=1)
    at_lane(driver, 2)
    two.is_up = False
    began = driver.now
    driver.run()
    assert isinstance(driver.plan.error, SlotsNotCovered)
    assert driver.now - began < 15
    assert driver.keys >= {key for node in cluster.nodes if node is not two for key in node.keys}


def test_a_node_that_answers_others_and_not_us() -> None:
    """Its lane cannot reach it, though it says all the time that it is well."""
    cluster = Cluster(keys=30)
    driver = ClusterDriver(cluster, segments=1, failover_timeout=1.0)
    at_lane(driver, 2)
    (lane,) = [lane for lane in driver.lanes if lane.step_begun.lane.number == 2]
    lane._outcome_of = _refused  # type: ignore[method-assign]  # a node that takes no connection
    driver.run()
    assert isinstance(driver.plan.error, ServerUnavailable)
    assert "no server to scan on" in str(driver.plan.error)


def _refused(step: Any) -> Any:
    return scan_steps.Rested() if isinstance(step, scan_steps.Rest) else scan_steps.Lost("refused")


# ---- budgets --------------------------------------------------------------------------------------------------------


def test_it_may_not_begin_again() -> None:
    cases: list[tuple[dict[str, Any], type[ScanError]]] = [
        ({"on_failover": "raise"}, ScanInterrupted),
        ({"max_restarts": 0}, ScanRestartsExhausted),
    ]
    for arguments, kind in cases:
        cluster = Cluster(keys=30)
        driver = ClusterDriver(cluster, segments=1, **arguments)
        at_lane(driver, 2)
        cluster.restart(cluster.nodes[1])
        driver.run()
        error = driver.plan.error
        assert isinstance(error, kind)
        assert isinstance(error, ScanError)
        assert error.summary is not None
        assert error.summary.keys == sum(map(len, driver.pages))
        # What a lane still brings is not handed out.
        before = len(driver.pages)
        for lane in list(driver.lanes):
            for _ in range(5):
                lane.step()
        while driver.channel:
            driver.take(driver.channel.popleft())
        assert len(driver.pages) == before


def test_a_server_that_is_away_may_not_be_waited_for() -> None:
    cluster = Cluster(keys=30)
    driver = ClusterDriver(cluster, segments=1, on_failover="raise", failover_timeout=1.0)
    at_lane(driver, 2)
    cluster.nodes[1].is_up = False
    driver.run()
    assert isinstance(driver.plan.error, ServerUnavailable)


def test_cursors_of_another_kind() -> None:
    """The next lane on that node trusts nothing."""
    cluster = Cluster(keys=30)
    two = cluster.nodes[1]
    two.honest = False
    driver = ClusterDriver(cluster, CursorFormat.REVERSED, segments=1)
    driver.steps_until(lambda: len(driver.began) > 3)
    assert driver.began[3].lane.distrusts_format
    two.honest = True
    driver.run()
    driver.check_complete()


# ---- one node alone -------------------------------------------------------------------------------------------------


def test_one_node() -> None:
    cluster = Cluster(replicas=1)
    two, replica = cluster.nodes[1], cluster.nodes[4]
    cluster.begin_move(8_000, cluster.nodes[0])
    for node in (two, replica):
        driver = ClusterDriver(cluster, node=node.node_id)
        driver.run()
        assert driver.plan.state is State.COMPLETE
        assert driver.keys == two.keys
        assert {page.node for page in driver.pages} == {node.node_id}
        assert [step.is_replica for step in driver.began] == [node is replica]


def test_slots_leave_the_one_node() -> None:
    cluster = Cluster(keys=30)
    one, two, _ = cluster.nodes
    driver = ClusterDriver(cluster, node="10.0.0.2:7000", segments=1)
    at_lane(driver, 1)
    cluster.give(1 << 10_921, one)
    driver.run()
    summary = driver.plan.summary(driver.now)
    assert summary.complete
    assert summary.slots_let_go == ((10_921, 10_921),)
    assert driver.keys >= two.keys
    driver = ClusterDriver(cluster, node="10.0.0.2:7000", segments=1)
    at_lane(driver, 1)
    cluster.give(two.slots, one)
    driver.run()
    assert isinstance(driver.plan.error, ScanInterrupted)
    assert "have gone to other nodes" in str(driver.plan.error)


def test_the_one_node_is_replaced() -> None:
    """It is its successor's replica, and still the node that was asked for."""
    cluster = Cluster(keys=30, replicas=1)
    two = cluster.nodes[1]
    driver = ClusterDriver(cluster, node=two.node_id, segments=1)
    at_lane(driver, 1)
    cluster.fail_over(two)
    driver.run()
    assert driver.plan.state is State.COMPLETE
    assert [step.is_replica for step in driver.began] == [False, True]


def test_the_one_node_is_gone() -> None:
    cluster = Cluster(keys=30, replicas=1)
    two = cluster.nodes[1]
    known = ClusterDriver(cluster, node=two.node_id, segments=1)
    at_lane(known, 1)
    cluster.fail_over(two)
    cluster.nodes.remove(two)
    known.lanes[0].plan.leave("gone", known.now)
    known.run()
    assert isinstance(known.plan.error, ServerUnavailable)
    assert "has been no master with slots" in str(known.plan.error)
    late = ClusterDriver(Cluster(), node="1".zfill(40))
    late.cluster.nodes[0].slots = 0
    late.run()
    assert isinstance(late.plan.error, ServerUnavailable)


# ---- replicas -------------------------------------------------------------------------------------------------------


def test_replicas() -> None:
    cluster = Cluster(keys=30, replicas=2)
    driver = ClusterDriver(cluster, read_from="replica", segments=1)
    at_lane(driver, 2)
    replica = cluster.node(driver.began[1].lane.node_id)
    assert replica.master is cluster.nodes[1]
    replica.is_up = False
    driver.run()
    summary = driver.check_complete()
    (restart,) = summary.restarts
    assert "of no use for now" in restart.reason
    assert all(step.is_replica for step in driver.began)
    assert cluster.node(driver.began[3].lane.node_id).master is cluster.nodes[1]


def test_a_replica_that_was_never_in_sync() -> None:
    """Another one is tried; nothing was void."""
    cluster = Cluster(replicas=2)
    first = cluster.nodes[3]
    first.link = "sync"
    driver = ClusterDriver(cluster, read_from="replica")
    driver.run()
    assert driver.check_complete().restarts == ()
    assert cluster.nodes[6].node_id in {page.node for page in driver.pages}


@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_replica_goes_to_another_master(monkeypatch: pytest.MonkeyPatch, *, guarded: bool, listed: bool) -> None:
    """Its process is the same, and it is in sync: with other keys."""
    if not guarded:
        monkeypatch.setattr(lane_judgement, "_follows_another", lambda *_: False)
    cluster = Cluster(keys=30, replicas=2)
    driver = ClusterDriver(cluster, read_from="replica", segments=1)
    at_lane(driver, 1)
    replica = cluster.node(driver.began[0].lane.node_id)
    replica.master, replica.keys = cluster.nodes[1], set(cluster.nodes[1].keys)
    if not listed:
        lines = cluster.lines
        monkeypatch.setattr(cluster, "lines", lambda: {k: v for k, v in lines().items() if k != replica.node_id})
    driver.run()
    if guarded:
        assert "another master" in driver.check_complete().restarts[0].reason
    else:
        assert driver.missed


@pytest.mark.parametrize("fallback", [None, "master"])
def test_no_replica(fallback: str | None) -> None:
    cluster = Cluster()
    driver = ClusterDriver(cluster, read_from="replica", fallback=fallback)
    driver.run()
    if fallback is None:
        assert isinstance(driver.plan.error, NoReplicaAvailable)
    else:
        driver.check_complete()


@pytest.mark.parametrize("fallback", [None, "master"])
def test_no_replica_is_of_use(fallback: str | None) -> None:
    cluster = Cluster(replicas=1)
    for node in cluster.nodes[3:]:
        node.link = "sync"
    driver = ClusterDriver(cluster, read_from="replica", fallback=fallback)
    driver.run()
    if fallback is None:
        assert isinstance(driver.plan.error, NoReplicaAvailable)
    else:
        driver.check_complete()
        assert not any(step.is_replica for step in driver.began[3:])


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_each_key_once_whatever_happens() -> None:
    cluster = Cluster(keys=30, replicas=1)
    driver = ClusterDriver(cluster, dedupe=True, segments=1)
    at_lane(driver, 2)
    cluster.give(1 << 10_921, cluster.nodes[0])
    cluster.fail_over(cluster.nodes[2])
    driver.run()
    summary = driver.check_complete()
    assert summary.keys == len(cluster.stayed)
    assert summary.duplicates_dropped > 0


class Broken:
    """A filter that fails."""

    def unseen(self, keys: Any) -> list[Any]:
        raise ZeroDivisionError(keys)

    def mark(self, keys: Any) -> None:
        """Never called."""


def test_a_filter_that_fails() -> None:
    driver = ClusterDriver(Cluster(), dedupe=Broken())
    driver.run()
    assert isinstance(driver.plan.error, ScanError)
    assert isinstance(driver.plan.error.__cause__, ZeroDivisionError)
    assert "k{" not in str(driver.plan.error)


@FORMS
def test_text(form: CursorFormat) -> None:
    cluster = Cluster()
    driver = ClusterDriver(cluster, form, client={"decode_responses": True})
    driver.run()
    assert driver.keys == {key.decode() for key in cluster.stayed}


@FORMS
def test_what_is_no_text(form: CursorFormat) -> None:
    cluster = Cluster()
    cluster.nodes[1].keys.add(min(keys_of(8_000, 1)) + b"\xff")
    driver = ClusterDriver(cluster, form, client={"decode_responses": True})
    driver.run()
    assert isinstance(driver.plan.error, ScanError)
    assert "cannot be decoded" in str(driver.plan.error)


@FORMS
def test_nobodys_keys(form: CursorFormat) -> None:
    cluster = Cluster()
    orphans = {b"left{behind}%d" % number for number in range(20)} | {b"plain:%d" % number for number in range(30)}
    for node in cluster.nodes:
        node.keys |= orphans
    driver = ClusterDriver(cluster, form)
    driver.run()
    driver.check_complete()
    counts: dict[bytes, int] = {}
    for page in driver.pages:
        for key in page:
            counts[key] = counts.get(key, 0) + 1
    # Each is its slot's owner's, and nobody else's word.
    assert all(counts[key] <= 2 for key in orphans)
    assert set(counts) == cluster.stayed | orphans


# ---- the end --------------------------------------------------------------------------------------------------------


def test_it_is_abandoned() -> None:
    driver = ClusterDriver(Cluster())
    driver.plan.abandon(ScanError("first"), 101.0)
    driver.plan.crashed(ZeroDivisionError(), 102.0)
    driver.plan.surveyed(driver.cluster.survey(), driver.cluster.map(), 103.0)
    assert str(driver.plan.error) == "first"
    assert driver.plan.summary(200.0).elapsed == 1.0
    crashed = ClusterDriver(Cluster())
    crashed.plan.crashed(ZeroDivisionError(), 102.0)
    assert "internal error" in str(crashed.plan.error)


def test_its_block_is_left() -> None:
    driver = ClusterDriver(Cluster())
    at_lane(driver, 1)
    driver.plan.closed(driver.now)
    before = len(driver.pages)
    for _ in range(200):
        driver.step()
    assert len(driver.pages) == before


# ---- whatever happens -----------------------------------------------------------------------------------------------


def disturb(cluster: Cluster, chance: random.Random) -> None:
    """Something that happens to clusters."""
    slot = chance.choice(HOT)
    owner = cluster.owner(slot)
    others = [node for node in cluster.masters if node is not owner and node.is_up]
    to = chance.choice(others)
    match chance.randrange(7):
        case 0:
            first = max(0, slot - chance.randrange(1_000))
            cluster.give(set_of([(first, slot)]) & owner.slots, to)
        case 1 if slot not in owner.migrating:
            cluster.begin_move(slot, to)
        case 2 | 3 if slot in owner.migrating:
            cluster.move_keys(slot, cluster.node(owner.migrating[slot]), chance.randrange(9))
        case 4 if slot in owner.migrating:
            cluster.give(1 << slot, cluster.node(owner.migrating[slot]))
        case 5:
            cluster.restart(chance.choice(cluster.masters))
        case 6 if slot in owner.migrating:
            cluster.cancel_move(slot)
        case _:
            pass


@FORMS
@given(seed=strategies.integers(0, 1 << 32))
def test_whatever_happens(form: CursorFormat, seed: int) -> None:
    """Slots move, set out, come back; processes come and go: no key is lost that somebody had all the time."""
    chance = random.Random(seed)
    cluster = Cluster(keys=6)
    driver = ClusterDriver(cluster, form, seed=seed, max_restarts=100, dedupe=chance.random() < 0.3)
    often = chance.choice((0.0, 0.01, 0.05))
    for _ in range(30_000):
        if driver.plan.state is not State.SCANNING:
            break
        if len(driver.began) < 30 and chance.random() < often:
            disturb(cluster, chance)
        driver.step()
    driver.check_complete()
    assert driver.plan._done == ALL_SLOTS


# ---- corners ---------------------------------------------------------------------------------------------------------


def test_a_cluster_without_slots() -> None:
    """Left out by the caller's leave, all of them: it is complete, and there is nothing to certify."""
    cluster = Cluster()
    for node in cluster.nodes:
        node.slots = 0
        node.keys.clear()
    cluster.stayed.clear()
    driver = ClusterDriver(cluster, allow_uncovered=True)
    driver.run()
    summary = driver.plan.summary(driver.now)
    assert summary.complete
    assert summary.certificate is None
    assert summary.uncovered_slots == ((0, 16_383),)


def test_all_slots_of_the_one_node_go_while_its_lane_ends() -> None:
    """They are given back, and found to be another's: the lane was void before it was judged."""
    cluster = Cluster(keys=30)
    one, two, _ = cluster.nodes
    driver = ClusterDriver(cluster, node=two.node_id, segments=1)
    at_lane(driver, 1)
    cluster.restart(two)
    driver.steps_until(lambda: not driver.lanes)
    cluster.give(two.slots, one)
    driver.run()
    assert isinstance(driver.plan.error, ScanInterrupted)


def test_a_target_that_cannot_be_reached() -> None:
    """It says that it is well, and takes no connection."""
    cluster = Cluster(keys=30)
    cluster.begin_move(16_383, cluster.nodes[0])
    driver = ClusterDriver(cluster, segments=1, failover_timeout=1.0, max_nodes_at_once=1)
    for _ in range(20_000):
        if driver.plan.state is not State.SCANNING:
            break
        for lane in driver.lanes:
            if lane.step_begun.lane.covers:
                lane._outcome_of = _refused  # type: ignore[method-assign]  # as above
        driver.step()
    assert isinstance(driver.plan.error, ServerUnavailable)


def test_a_node_that_the_map_does_not_know_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is where its own word has it."""
    cluster = Cluster()
    driver = ClusterDriver(cluster)
    monkeypatch.setattr(cluster, "map", lambda: ClusterMap(()))
    driver.run()
    driver.check_complete()


def test_a_lane_that_is_over_after_the_scan() -> None:
    """Nobody asks any more."""
    driver = ClusterDriver(Cluster(keys=30), segments=1)
    at_lane(driver, 1)
    driver.plan.abandon(ScanError("the end"), driver.now)
    for lane in list(driver.lanes):
        lane.plan.leave("the end", driver.now)
        lane.step()
    assert not driver.lanes
    assert driver.plan.summary(driver.now).scans > 0
