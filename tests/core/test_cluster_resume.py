"""A cluster's scan that is left in the middle and resumed by a plan that knows nothing of it but its checkpoint."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings as run_with, strategies

from tests.core._cluster_model import Cluster, ClusterDriver, cluster_options
from tests.core._store_model import ModelStore
from tests.core.test_cluster_plan import FORMS, at_lane, disturb
from trio_sentinel_scan import CheckpointInvalid, ConfigError, ScanInterrupted, SlotsNotCovered
from trio_sentinel_scan._core import cluster_marks
from trio_sentinel_scan._core.cluster_checkpoint import parse_any_checkpoint
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.scan_passes import Passes
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.slots import ALL_SLOTS, set_of

ONE_BY_ONE: dict[str, Any] = {"max_nodes_at_once": 1, "segments": 1}


def in_mid_lane(driver: ClusterDriver, number: int, share: float = 0.4) -> str:
    """Until this lane has come so far. The checkpoint of the last page by then."""
    driver.steps_until(
        lambda: any(lane.step_begun.lane.number == number and lane.plan.share > share for lane in driver.lanes)
    )
    return driver.pages[-1].checkpoint


def resumed(driver: ClusterDriver, text: str, **changes: Any) -> ClusterDriver:
    """Another plan goes on from there, to the end."""
    after = ClusterDriver(driver.cluster, driver.form, resume=text, **{**ONE_BY_ONE, **changes})
    after.run()
    return after


def check_whole(before: ClusterDriver, after: ClusterDriver) -> None:
    """The resumed one is complete, and nothing is missing in the two together."""
    assert after.plan.error is None, after.plan.error
    assert after.plan.state is State.COMPLETE
    assert after.plan._done == ALL_SLOTS
    missed = before.cluster.stayed - before.keys - after.keys
    assert not missed, f"{len(missed)} keys were lost"


# ---- nothing happens ------------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("at_once", [1, 8])
def test_only_what_was_after_it_comes_again(form: CursorFormat, at_once: int) -> None:
    """From any page on."""
    cluster = Cluster(keys=12)
    driver = ClusterDriver(cluster, form, max_nodes_at_once=at_once, segments=1)
    driver.run()
    for number, page in enumerate(driver.pages):
        after = resumed(driver, page.checkpoint, max_nodes_at_once=at_once)
        behind = {key for page in driver.pages[number + 1 :] for key in page}
        before = {key for page in driver.pages[: number + 1] for key in page}
        assert not cluster.stayed - before - after.keys
        # Slots that are swept and not judged yet go on to their judgement, and no key comes again.
        assert after.keys <= behind, f"page {number}"
        assert after.plan.state is State.COMPLETE
        assert after.plan.summary(after.now).restarts == ()


def test_from_the_end() -> None:
    """There is nothing left, and nothing to certify."""
    driver = ClusterDriver(Cluster())
    start = driver.plan.checkpoint
    driver.run()
    after = resumed(driver, driver.plan.checkpoint)
    assert (after.keys, after.began) == (set(), [])
    summary = after.plan.summary(after.now)
    assert summary.complete
    assert summary.certificate is None
    assert summary.position == 1.0
    assert resumed(driver, start).keys == driver.cluster.stayed


def test_a_lane_that_was_swept_goes_on_to_its_judgement() -> None:
    driver = ClusterDriver(Cluster(keys=12), **ONE_BY_ONE)
    driver.steps_until(lambda: bool(driver.plan._swept))
    after = resumed(driver, driver.plan.checkpoint)
    check_whole(driver, after)
    assert not driver.keys & after.keys
    assert after.began[0].resume is not None
    assert after.lanes == []


def test_a_page_that_somebody_works_on_is_not_behind_it() -> None:
    """However much is done since, slots of other nodes included."""
    held = ClusterDriver(Cluster(keys=12))
    held.holds = True
    held.steps_until(lambda: len(held.pages) == 2)
    held.plan.done_with(held.pages[1])
    early = held.plan.checkpoint
    assert resumed(held, early).keys == held.cluster.stayed
    held.run()
    assert held.plan.checkpoint == early
    held.plan.done_with(held.pages[0])
    assert held.plan.checkpoint != early
    for page in held.pages:
        held.plan.done_with(page)
    assert resumed(held, held.plan.checkpoint).keys == set()


# ---- something happens meanwhile ------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
def test_another_process(monkeypatch: pytest.MonkeyPatch, form: CursorFormat, *, guarded: bool) -> None:
    """At the same address. Its lane alone is swept from its start; to a foreign process, its cursors mean nothing."""
    cluster = Cluster(keys=60)
    two = cluster.nodes[1]
    driver = ClusterDriver(cluster, form, **ONE_BY_ONE)
    text = in_mid_lane(driver, 2)
    cluster.restart(two)
    if not guarded:
        monkeypatch.setattr(Passes, "_cannot_resume", lambda *_: "")
        after = resumed(driver, text)
        assert cluster.stayed - driver.keys - after.keys
        return
    after = resumed(driver, text)
    check_whole(driver, after)
    (restart,) = after.plan.summary(after.now).restarts
    assert restart.slots == ((5_461, 10_921),)
    assert "another process" in restart.reason
    assert restart.old_server is not None
    assert restart.epoch == 1
    raised = resumed(driver, text, on_failover="raise").plan.error
    assert isinstance(raised, ScanInterrupted)
    assert "another process" in str(raised)


@FORMS
@pytest.mark.parametrize("guarded", [True, False], ids=["with", "without"])
def test_slots_go_and_come_back(monkeypatch: pytest.MonkeyPatch, form: CursorFormat, *, guarded: bool) -> None:
    """With keys that were elsewhere when the sweep came by, and are behind its cursors now."""
    cluster = Cluster(keys=60)
    one, two, _ = cluster.nodes
    driver = ClusterDriver(cluster, form, **ONE_BY_ONE)
    at_lane(driver, 2)
    cluster.give(1 << 5_461, one)
    text = in_mid_lane(driver, 2, 0.6)
    cluster.give(1 << 5_461, two)
    if not guarded:
        monkeypatch.setattr(cluster_marks, "_epoch_changed", lambda *_: False)
        # Nor does its own lane look: that it did not change after the checkpoint is so.
        monkeypatch.setattr(Passes, "_cannot_resume", lambda *_: "")
        after = resumed(driver, text)
        assert cluster.stayed - driver.keys - after.keys
        return
    after = resumed(driver, text)
    check_whole(driver, after)
    assert "config epoch" in after.plan.summary(after.now).restarts[0].reason
    assert isinstance(resumed(driver, text, on_failover="raise").plan.error, ScanInterrupted)


def test_slots_move_meanwhile() -> None:
    """They are swept where they are; the others go on, and those that are done stay done."""
    cluster = Cluster(keys=60)
    one, _, three = cluster.nodes
    driver = ClusterDriver(cluster, **ONE_BY_ONE)
    text = in_mid_lane(driver, 2)
    cluster.give(set_of([(8_000, 10_921)]), three)
    cluster.give(1 << 0, three)
    after = resumed(driver, text)
    check_whole(driver, after)
    (restart,) = after.plan.summary(after.now).restarts
    assert restart.slots == ((8_000, 10_921),)
    assert one.node_id not in {step.lane.node_id for step in after.began}


def test_a_migration_has_begun_meanwhile() -> None:
    """That slot is swept from its start, at the owner and at the target."""
    cluster = Cluster(keys=60)
    one = cluster.nodes[0]
    driver = ClusterDriver(cluster, **ONE_BY_ONE)
    text = in_mid_lane(driver, 2)
    cluster.begin_move(8_000, one)
    cluster.move_keys(8_000, one, 30)
    after = resumed(driver, text)
    check_whole(driver, after)
    (restart,) = after.plan.summary(after.now).restarts
    assert restart.slots == ((8_000, 8_000),)
    assert [step.lane.node_id for step in after.began if step.lane.covers] == [one.node_id]


def test_a_slot_that_was_on_its_way_then() -> None:
    """It is no part of what is gone on with: what was said of it is not in the text."""
    cluster = Cluster(keys=60)
    one, two, _ = cluster.nodes
    cluster.begin_move(8_000, one)
    driver = ClusterDriver(cluster, **ONE_BY_ONE)
    text = in_mid_lane(driver, 2)
    cluster.move_keys(8_000, one, 30)
    after = resumed(driver, text)
    check_whole(driver, after)
    assert after.plan.summary(after.now).restarts == ()
    first = after.began[0]
    assert first.lane.node_id == two.node_id
    assert not first.lane.slots >> 8_000 & 1


def test_a_failover() -> None:
    cluster = Cluster(keys=60, replicas=1)
    driver = ClusterDriver(cluster, **ONE_BY_ONE)
    text = in_mid_lane(driver, 2)
    new = cluster.fail_over(cluster.nodes[1], kill=True)
    after = resumed(driver, text)
    check_whole(driver, after)
    (restart,) = after.plan.summary(after.now).restarts
    assert restart.new_server == new.identity


def test_a_master_is_away_and_comes_back() -> None:
    """Nobody else has its slots meanwhile: they wait, and what was swept counts."""
    cluster = Cluster(keys=60)
    two = cluster.nodes[1]
    driver = ClusterDriver(cluster, **ONE_BY_ONE)
    text = in_mid_lane(driver, 2)
    two.is_up = False
    after = ClusterDriver(cluster, resume=text, **ONE_BY_ONE)
    after.steps_until(lambda: after.surveys > 3)
    assert two.node_id not in {step.lane.node_id for step in after.began}
    # What waits is in its checkpoints as well.
    again = after.plan.checkpoint
    two.is_up = True
    after.run()
    check_whole(driver, after)
    assert after.plan.summary(after.now).restarts == ()
    last = resumed(driver, again)
    check_whole(driver, after)
    assert last.plan.summary(last.now).restarts == ()
    two.is_up = False
    assert isinstance(resumed(driver, text, failover_timeout=1.0).plan.error, SlotsNotCovered)
    without = resumed(driver, text, failover_timeout=1.0, allow_uncovered=True)
    assert without.plan.summary(without.now).uncovered_slots == ((5_461, 10_921),)


# ---- one node, replicas ---------------------------------------------------------------------------------------------


def test_one_node() -> None:
    """What it had in the beginning is what complete means; a checkpoint of all of them is another scan's."""
    cluster = Cluster(keys=60)
    one, two, _ = cluster.nodes
    driver = ClusterDriver(cluster, node=two.node_id, segments=1)
    start = driver.plan.checkpoint
    text = in_mid_lane(driver, 1)
    wanted = set(two.keys)
    cluster.give(1 << 8_000, one)
    cluster.give(1 << 5_460, two)
    after = resumed(driver, text, node=two.node_id)
    summary = after.plan.summary(after.now)
    assert summary.complete
    assert summary.slots_let_go == ((8_000, 8_000),)
    assert wanted - driver.keys - after.keys <= one.keys
    later = resumed(driver, after.plan.checkpoint, node=two.node_id)
    assert later.plan.summary(later.now).slots_let_go == ((8_000, 8_000),)
    assert later.began == []
    assert resumed(driver, start, node=two.node_id).keys >= {key for key in two.keys if key in wanted}
    for node in (None, one.node_id):
        with pytest.raises(CheckpointInvalid, match="another scan"):
            ClusterDriver(cluster, resume=text, node=node)


def test_a_replica() -> None:
    """The same one goes on, if it follows its master still, and replicas are read."""
    cluster = Cluster(keys=60, replicas=1)
    two, replica = cluster.nodes[1], cluster.nodes[4]
    driver = ClusterDriver(cluster, read_from="replica", **ONE_BY_ONE)
    text = in_mid_lane(driver, 2)
    after = resumed(driver, text, read_from="replica")
    check_whole(driver, after)
    assert after.plan.summary(after.now).restarts == ()
    assert after.began[0].lane.node_id == replica.node_id
    after = resumed(driver, text)
    check_whole(driver, after)
    assert "masters are to be read" in after.plan.summary(after.now).restarts[0].reason
    replica.master = cluster.nodes[0]
    after = resumed(driver, text, read_from="replica", fallback="master")
    check_whole(driver, after)
    assert "another master" in after.plan.summary(after.now).restarts[0].reason
    assert two.node_id in {step.lane.node_id for step in after.began}


def test_of_a_master_where_replicas_are_to_be_read() -> None:
    cluster = Cluster(keys=60, replicas=1)
    driver = ClusterDriver(cluster, **ONE_BY_ONE)
    text = in_mid_lane(driver, 2)
    after = resumed(driver, text, read_from="replica")
    check_whole(driver, after)
    assert "replicas are to be read" in after.plan.summary(after.now).restarts[0].reason
    after = resumed(driver, text, read_from="replica", fallback="master")
    assert after.plan.summary(after.now).restarts == ()


def test_a_page_of_a_lane_that_is_void_says_nothing() -> None:
    """It is not handed out, so the scan does not stand behind it."""
    driver = ClusterDriver(Cluster(keys=60), **ONE_BY_ONE)
    in_mid_lane(driver, 1)
    (lane,) = driver.lanes
    page, known = driver.pages[-1], driver.plan.checkpoint
    lane.plan.leave("other nodes have its slots now", driver.now)
    assert lane.plan.take(page, driver.now) is None
    assert driver.plan.checkpoint == known


# ---- arguments ------------------------------------------------------------------------------------------------------


def test_another_scans() -> None:
    driver = ClusterDriver(Cluster(), match="k")
    driver.run()
    text = driver.pages[0].checkpoint
    known = driver.cluster.map()
    with pytest.raises(CheckpointInvalid, match="match"):
        cluster_options(known, resume=text)
    with pytest.raises(CheckpointInvalid, match="type_"):
        cluster_options(known, resume=text, match="k", type_="hash")
    with pytest.raises(ConfigError, match="cursor"):
        cluster_options(known, resume=text, match="k", cursor=5)
    with pytest.raises(ConfigError, match="SpillingSeen"):
        cluster_options(known, resume=text, match="k", dedupe=True)


def test_less_was_asked_for() -> None:
    """What one node says of itself is no majority's word."""
    driver = ClusterDriver(Cluster(), certify="role")
    driver.run()
    text = driver.pages[0].checkpoint
    with pytest.raises(CheckpointInvalid, match='certify="role"'):
        cluster_options(driver.cluster.map(), resume=text)
    assert cluster_options(driver.cluster.map(), resume=text, certify="role").scan.resume is not None


def test_the_length() -> None:
    """Three masters, sixteen segments each, all of them under way."""
    driver = ClusterDriver(Cluster(keys=60), segments=16)
    driver.run()
    assert max(len(page.checkpoint) for page in driver.pages) < 700
    assert len({page.checkpoint for page in driver.pages}) > 10


def test_epochs_go_on() -> None:
    """Those of slots whose sweep was void before the checkpoint, and was not done again by then."""
    cluster = Cluster(keys=60)
    driver = ClusterDriver(cluster, **ONE_BY_ONE)
    at_lane(driver, 2)
    cluster.restart(cluster.nodes[1])
    driver.steps_until(lambda: bool(driver.plan.summary(driver.now).restarts))
    driver.steps_until(lambda: driver.plan.checkpoint != driver.pages[-1].checkpoint)
    after = resumed(driver, driver.plan.checkpoint)
    check_whole(driver, after)
    assert 1 in {page.epoch for page in after.pages}


# ---- each key once --------------------------------------------------------------------------------------------------


@FORMS
def test_each_key_once(form: CursorFormat) -> None:
    cluster, store = Cluster(keys=60), ModelStore()
    driver = ClusterDriver(cluster, form, dedupe=store, **ONE_BY_ONE)
    text = in_mid_lane(driver, 2)
    covered = list(driver.pages)
    driver.run()
    store.crash()
    cluster.restart(cluster.nodes[1])
    after = resumed(driver, text, dedupe=store)
    found = [key for page in (*covered, *after.pages) for key in page]
    assert len(found) == len(set(found)) == len(cluster.stayed)
    with pytest.raises(CheckpointInvalid, match="seen keys"):
        ClusterDriver(cluster, form, resume=text, dedupe=ModelStore())
    store.rollback(0)
    with pytest.raises(CheckpointInvalid, match="rolled back"):
        ClusterDriver(cluster, form, resume=text, dedupe=store)


@FORMS
@run_with(max_examples=100)
@given(seed=strategies.integers(0, 1 << 32))
def test_left_and_resumed_whatever_happens(form: CursorFormat, seed: int) -> None:
    """Any number of times, at any page or where its consumers were: nothing is lost; with a store each comes once."""
    chance = random.Random(seed)
    cluster = Cluster(keys=6)
    store = ModelStore() if chance.random() < 0.4 else None
    often = chance.choice((0.0, 0.01, 0.05))
    text: str | None = None
    kept: list[Any] = []
    driver = ClusterDriver(cluster)
    for life in range(6):
        driver = ClusterDriver(
            cluster,
            form,
            seed=chance.randrange(1 << 30),
            max_restarts=100,
            resume=text,
            dedupe=store or False,
            segments=chance.choice((1, 2, 5)),
            max_nodes_at_once=chance.choice((1, 8)),
        )
        driver.holds = chance.random() < 0.5
        at_work: set[int] = set()
        steps = 30_000 if life == 5 else chance.randrange(150)
        for _ in range(steps):
            if driver.plan.state is not State.SCANNING:
                break
            if len(driver.began) < 30 and chance.random() < often:
                disturb(cluster, chance)
            known = len(driver.pages)
            driver.step()
            if driver.holds:
                at_work |= set(range(known, len(driver.pages)))
                # Several consumers, of whom any may be the next to have done with its page.
                if at_work and chance.random() < 0.5:
                    number = chance.choice(sorted(at_work))
                    at_work.discard(number)
                    driver.plan.done_with(driver.pages[number])
        assert driver.plan.error is None, driver.plan.error
        if driver.plan.state is State.COMPLETE:
            kept += driver.pages
            break
        if driver.pages and chance.random() < 0.7:
            number = chance.randrange(len(driver.pages)) + 1
            text = driver.pages[number - 1].checkpoint
        else:
            number = min(at_work, default=len(driver.pages))
            text = driver.plan.checkpoint
        kept += driver.pages[:number]
        if store is not None:
            store.crash()
        for _ in range(chance.randrange(3)):
            disturb(cluster, chance)
    found = [key for page in kept for key in page]
    assert not cluster.stayed - set(found), f"{len(cluster.stayed - set(found))} keys were lost"
    if store is not None:
        assert len(found) == len(set(found))
    assert driver.plan.state is State.COMPLETE
    assert parse_any_checkpoint(driver.plan.checkpoint).cluster is not None
