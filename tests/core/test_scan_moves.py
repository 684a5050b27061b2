"""`hash_seed_shared`: a pass goes on at another process, in the same epoch, and when it does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core._scan_model import A, B, C, Driver, World, failure, is_complete, keys_named, kinds, reasons, scans_in
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.errors import HashSeedMismatch, ScanInterrupted, ScanRestartsExhausted
from trio_sentinel_scan._core.hash_seed import HashSeed
from trio_sentinel_scan._core.identity import Role
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.scan_replies import ROLE_REQUEST
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.sweep import Sweep

KEYS = keys_named(60)

guarded = pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
several = pytest.mark.parametrize("segments", [1, 3])


def one_seed(**world: Any) -> World:
    """A service whose nodes have one hash seed."""
    return World(KEYS, hash_seed=b"one", **world)


def scan(world: World, **options: Any) -> Driver:
    """A scan that is told so."""
    return Driver(world, **{"hash_seed_shared": True, **options})


def go_half_way(driver: Driver) -> None:
    """Hand out half of the keys; the next SCAN is under way then."""
    while sum(map(len, driver.pages)) < len(KEYS) // 2:
        driver.go_to(steps.HandOver)
        driver.take_all()
    driver.go_to(steps.Receive)


def cursors_since(driver: Driver, steps_before: int) -> set[int]:
    """The cursors that were asked for since."""
    log = driver.log[steps_before:]
    return {cursor for step in log if isinstance(step, steps.Ask) for cursor, _ in scans_in(step.data)}


# ---- it goes on -------------------------------------------------------------------------------------------------


@several
@pytest.mark.parametrize("kill", [True, False])
def test_a_failover_is_gone_through(segments: int, kill: bool) -> None:
    """The new master goes on where the old one has left off; no key is handed out twice, for nothing was in doubt.

    (But where two segments meet: what was in their first pages is not remembered over the change.)
    """
    driver = scan(one_seed(), segments=segments)
    go_half_way(driver)
    before = len(driver.log)
    driver.world.fail_over(B, kill=kill)
    assert driver.hear()
    assert driver.link is None
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves, summary.reconnects) == (0, 1, 0)
    assert summary.server == driver.world.master.identity()
    assert segments > 1 or set(driver.handed[0].values()) == {1}
    assert segments > 1 or 0 not in cursors_since(driver, before)
    assert {page.server.address for page in driver.pages} == {A, B}


@several
def test_a_restart_at_the_same_address_is_gone_through(segments: int) -> None:
    """With or without Sentinels; the process is another one, and the order of the keys is the same."""
    for has_sentinels in (True, False):
        driver = scan(one_seed(), segments=segments, has_sentinels=has_sentinels)
        go_half_way(driver)
        driver.world.restart()
        driver.report(steps.Lost("connection closed"))
        summary = driver.run()
        is_complete(driver)
        assert (summary.epoch, summary.moves) == (0, 1)
        assert segments > 1 or set(driver.handed[0].values()) == {1}


def test_where_restarts_are_forbidden_it_is_gone_through_too() -> None:
    """Nothing begins again."""
    driver = scan(one_seed(), on_failover="raise", max_restarts=0)
    for to in (B, C, A):
        driver.go_to(steps.Receive)
        driver.world.fail_over(to)
        assert driver.hear()
        driver.go_to(steps.HandOver)
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == (0, 3)


def test_a_change_before_any_server_has_answered_is_no_new_epoch() -> None:
    """The pass has not begun; it begins there."""
    driver = scan(one_seed())
    driver.go_to(steps.Connect)
    driver.world.fail_over(B)
    assert driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == (0, 0)


@guarded
@pytest.mark.parametrize("back", [False, True], ids=["to the one that was promoted", "back to the first"])
def test_a_pass_that_began_on_a_superseded_master_is_void(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, back: bool
) -> None:
    """The new master had been promoted before, and has keys that this one never got; no ROLE tells of that."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_succeeds", lambda *_: True)
        monkeypatch.setattr(ScanPlan, "_is_heir", lambda *_: True)
    driver = scan(one_seed(), segments=3, prefetch=100)
    driver.go_to(steps.Connect)
    driver.finish()
    driver.world.fail_over(B)
    # The pass is bound to A, of which the Sentinels have yet to say that it is none any more.
    bound = scan(driver.world, segments=3, prefetch=100)
    bound.go_to(steps.Connect)
    driver.world.write(b"a key of the new master's")
    bound.go_to(steps.AwaitTaken)
    bound.hear()
    if back:
        driver.world.fail_over(A)
        bound.hear()
    summary = bound.run()
    assert summary.complete
    assert (bound.missed() == set()) is guarded
    assert summary.epoch == guarded


@guarded
def test_masters_that_nobody_told_of_make_the_pass_void(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """The config epoch has grown by two: somebody was the master in between, of whom it is not known since when."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_succeeds", lambda *_: True)
    driver = scan(one_seed())
    go_half_way(driver)
    driver.world.fail_over(B)
    driver.world.fail_over(C)
    assert driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == ((1, 0) if guarded else (0, 1))


@pytest.mark.parametrize("at", [steps.AwaitTaken, steps.Certify, steps.HandOver])
def test_what_was_swept_stays_swept(at: type[steps.Step]) -> None:
    """Pages that wait are handed out, and the new master is asked for the certificate."""
    driver = scan(one_seed(), prefetch=1000, count=100)
    driver.go_to(at, taking=at is steps.Certify)
    driver.world.fail_over(B, kill=True)
    assert driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == (0, 1)
    assert set(driver.handed[0].values()) == {1}
    assert summary.certificate is not None
    assert summary.certificate.server.address == B


@several
def test_pages_that_wait_for_details_go_with_the_pass(segments: int) -> None:
    """They are committed, and never fetched again: the new server tells what the old one had not told yet."""
    driver = scan(one_seed(), segments=segments, with_=["type"])
    driver.go_to(steps.HandOver)
    while driver.plan._bound.details is None or driver.plan._bound.details.is_empty:
        driver.go_to(steps.Receive)
        driver.finish()
        driver.take_all()
    driver.world.fail_over(B, kill=True)
    assert driver.hear()
    driver.run()
    is_complete(driver)
    assert all(set(page.details or ()) == set(page.keys) for page in driver.pages)


def test_each_round_has_a_role_in_it() -> None:
    """So that what was read is vouched for as soon as it is there."""
    driver = scan(one_seed())
    driver.run()
    asked = [step.data for step in driver.log if isinstance(step, steps.Ask)]
    assert all(data.endswith(ROLE_REQUEST) for data in asked)
    driver = Driver(one_seed())
    driver.run()
    assert not any(step.data.endswith(ROLE_REQUEST) for step in driver.log if isinstance(step, steps.Ask))


# ---- a deposed master's word -------------------------------------------------------------------------------------


def demote_and_empty(driver: Driver) -> None:
    """REPLICAOF, by hand or by a failover of the server's own: no connection is killed, no Sentinel says a word, and
    the data set is on its way.
    """
    old = driver.world.master
    old.role, old.link = "slave", "sync"
    for key in KEYS:
        old.table.discard(key)


@guarded
@pytest.mark.parametrize("heard", ["by its role", "from the Sentinels"])
def test_what_a_demoted_master_said_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, guarded: bool, heard: str
) -> None:
    """Its SCANs succeed, and are empty; the ROLE behind them tells. Cursors go back to where one has vouched."""
    if not guarded:
        monkeypatch.setattr(Sweep, "go_back", Sweep.connection_lost)
    driver = scan(one_seed())
    go_half_way(driver)
    driver.finish()
    driver.batch = 1
    demote_and_empty(driver)
    for _ in range(2):
        driver.go_to(steps.Receive)
    if heard == "by its role":
        driver.finish()
        assert driver.plan.state is State.LOCATING
    driver.world.fail_over(B)
    assert driver.hear()
    driver.batch = 1000
    summary = driver.run()
    assert driver.complete
    assert (summary.epoch, summary.moves) == (0, 1)
    assert bool(driver.missed()) is not guarded


def test_a_master_that_has_lost_a_replica_vouches_for_nothing_more() -> None:
    """It may be the master now. What was read since then comes again from it, and what was read before does not."""
    driver = scan(one_seed())
    go_half_way(driver)
    driver.finish()
    vouched = set(driver.plan._bound.standing)
    driver.world.fail_over(B)
    for _ in range(3):
        driver.go_to(steps.HandOver)
        driver.take_all()
    assert driver.plan.suspects_failover
    before, known = len(driver.log), {page.server.address for page in driver.pages}
    assert known == {A}
    assert driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == (0, 1)
    assert vouched <= cursors_since(driver, before)
    assert 0 not in cursors_since(driver, before)
    assert set(driver.handed[0].values()) == {1, 2}


def test_a_replica_that_comes_back_makes_it_vouch_again() -> None:
    """It was away, and that was all."""
    driver = scan(one_seed())
    driver.go_to(steps.HandOver)
    driver.world.kill(C)
    driver.go_to(steps.HandOver)
    held = driver.plan._bound.standing
    driver.go_to(steps.HandOver)
    assert driver.plan._bound.standing == held != driver.plan._bound.cursors
    driver.world.start(C)
    driver.go_to(steps.HandOver)
    driver.go_to(steps.HandOver)
    assert driver.plan._bound.standing == driver.plan._bound.cursors
    driver.run()
    is_complete(driver)


def test_a_demoted_master_that_is_the_master_again() -> None:
    """The same process: it too goes on where a ROLE has vouched for it."""
    driver = scan(one_seed())
    go_half_way(driver)
    driver.finish()
    driver.batch = 1
    demote_and_empty(driver)
    driver.go_to(steps.Receive)
    driver.go_to(steps.Receive)
    driver.finish()
    driver.batch = 1000
    driver.world._set_roles()
    driver.world.master.link = "connected"
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves, summary.reconnects) == (0, 0, 1)


def test_a_single_server_that_changes_its_role_is_left() -> None:
    """There is nobody to say where to go on."""
    driver = scan(one_seed(), has_sentinels=False)
    go_half_way(driver)
    driver.finish()
    driver.world.master.role = "slave"
    driver.go_to(steps.Receive)
    driver.finish()
    assert driver.plan.epoch == 1
    driver.run()
    assert driver.complete
    assert reasons(driver) == ["the server's role is slave, it was master"]


def test_a_certificate_that_is_refuted_moves_on_too() -> None:
    """Demoted with nothing left to scan: the pass is vouched for, and the next master confirms it."""
    driver = scan(one_seed())
    step = driver.go_to(steps.Certify)
    driver.world.master.role = "slave"
    driver.pending = (step, driver._evidence(driver.world.master, step))
    driver.finish()
    assert (driver.plan.epoch, driver.plan.state) == (0, State.LOCATING)
    driver.world.fail_over(B)
    driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == (0, 1)
    assert set(driver.handed[0].values()) == {1}


# ---- when it does not go on --------------------------------------------------------------------------------------


def test_without_the_argument_every_change_is_a_new_epoch() -> None:
    """It is never guessed."""
    driver = Driver(one_seed())
    go_half_way(driver)
    driver.world.fail_over(B)
    driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == (1, 0)


@several
@pytest.mark.parametrize("told", ["never", "in the handshake"])
def test_a_server_that_does_not_tell_its_role_cannot_vouch(
    monkeypatch: pytest.MonkeyPatch, segments: int, told: str
) -> None:
    """Whether it was the master when a page was read, nobody knows then: a new epoch, as ever."""
    world = one_seed()
    driver = scan(world, segments=segments)
    if told == "never":
        monkeypatch.setattr(world, "role_of", lambda process: Role(""))
    elif told == "in the handshake":
        for process in world.processes:
            process.refuses_role = True
    go_half_way(driver)
    world.fail_over(B)
    driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == (1, 0)
    assert reasons(driver)[0].startswith("MASTER_CHANGE")


@pytest.mark.parametrize("change", ["release", "format"])
def test_another_kind_of_server_is_a_new_epoch(change: str) -> None:
    """Another release may hash in another way, whatever the seed."""
    driver = scan(one_seed())
    go_half_way(driver)
    driver.world.fail_over(B, kill=True)
    if change == "release":
        driver.world.master.told_seed = HashSeed(b"one", release="valkey 9.2")
    else:
        driver.world.master.form = CursorFormat.UNKNOWN
    driver.hear()
    summary = driver.run()
    assert driver.complete
    assert driver.missed() == set()
    assert (summary.epoch, summary.moves) == (1, 0)
    assert reasons(driver) == ["another process answers, of another release or with other cursors than the one before"]
    assert summary.restarts[0].new_server is not None
    assert summary.restarts[0].new_server.address == B


def test_who_tells_nothing_is_taken_at_the_callers_word() -> None:
    """Neither INFO nor CONFIG GET may be used."""
    driver = scan(World(KEYS, hash_seed=b"one", tell_run_id=False))
    for process in driver.world.processes:
        process.told_seed = HashSeed(None)
    go_half_way(driver)
    driver.world.fail_over(B)
    driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == (0, 1)


@pytest.mark.parametrize("told", [HashSeed(None, "has no hash-seed set"), HashSeed(b"another", release="valkey 9.1")])
@pytest.mark.parametrize("on_failover", ["restart", "raise"])
def test_a_contradiction_ends_the_scan(told: HashSeed, on_failover: str) -> None:
    """With a typed error, not with a new epoch: the caller has said what is not so."""
    driver = scan(one_seed(), on_failover=on_failover)
    go_half_way(driver)
    driver.world.fail_over(B)
    driver.world.master.told_seed = told
    driver.hear()
    driver.run()
    error = failure(driver)
    assert isinstance(error, HashSeedMismatch)
    assert str(error).startswith("10.0.0.2:6379 (run_id 00000000) has ")
    assert "or scan without hash_seed_shared" in str(error)
    assert error.summary is not None
    assert error.summary.keys == sum(map(len, driver.pages)) >= len(KEYS) // 2


def test_a_contradiction_at_once() -> None:
    """Before a single SCAN."""
    driver = scan(one_seed())
    driver.world.master.told_seed = HashSeed(None, "knows no hash-seed")
    driver.run()
    assert isinstance(failure(driver), HashSeedMismatch)
    assert "Ask" not in kinds(driver.log)


@guarded
def test_without_the_seeds_being_compared_keys_are_lost(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """The guard: each process has drawn its own, whatever the caller says."""
    world = World(KEYS)
    for process in world.processes:
        process.told_seed = HashSeed(process.run_id.encode(), release="valkey 9.1")
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_contradiction", lambda plan, found: "")
    driver = scan(world)
    go_half_way(driver)
    world.fail_over(B)
    driver.hear()
    driver.run()
    if guarded:
        assert isinstance(failure(driver), HashSeedMismatch)
        assert driver.misused() == 0
    else:
        assert driver.complete
        assert driver.plan.epoch == 0
        assert 5 < len(driver.missed()) < 25
        assert driver.misused() > 0


def test_servers_that_all_bring_nothing_spend_the_budget() -> None:
    """One change after the other, and never a reply (I4)."""
    driver = scan(one_seed(), max_restarts=3)
    driver.go_to(steps.Receive)
    changes = 0
    while not driver.ended:
        changes += 1
        assert changes < 10
        driver.world.fail_over(B if driver.world.named.address == A else A)
        driver.hear()
        if not driver.ended:
            driver.go_to(steps.Connect)
    assert isinstance(failure(driver), ScanRestartsExhausted)
    assert "more than 3 changes of server in a row brought no reply" in str(driver.plan.error)
    assert changes == 5


# ---- checkpoints -------------------------------------------------------------------------------------------------


def stop_half_way(world: World, **options: Any) -> tuple[str, set[bytes]]:
    """A checkpoint, and the keys that were done with."""
    driver = scan(world, **options)
    go_half_way(driver)
    for page in driver.pages:
        driver.plan.done_with(page)
    return driver.plan.checkpoint, {key for page in driver.pages for key in page.keys}


@several
def test_a_checkpoint_is_gone_on_from_at_another_process(segments: int) -> None:
    """After a failover, and under another config epoch."""
    world = one_seed()
    text, done = stop_half_way(world, segments=segments)
    world.fail_over(B, kill=True)
    world.known = world.named
    driver = scan(world, segments=segments, resume=text, on_failover="raise")
    summary = driver.run()
    assert driver.complete
    rest = set(driver.handed[0])
    assert done | rest == set(KEYS)
    assert segments > 1 or done & rest == set()
    assert (summary.epoch, summary.moves) == (0, 0)

    driver = Driver(world, resume=text, on_failover="raise")
    driver.run()
    assert isinstance(failure(driver), ScanInterrupted)


def test_a_change_of_masters_before_a_checkpoint_was_taken_up_keeps_it() -> None:
    """It is good at the next one, too."""
    world = one_seed()
    text, done = stop_half_way(world)
    driver = scan(world, resume=text)
    driver.go_to(steps.Connect)
    world.fail_over(B)
    assert driver.hear()
    driver.run()
    assert driver.complete
    assert done & set(driver.handed[0]) == set()
    assert done | set(driver.handed[0]) == set(KEYS)


def test_a_checkpoint_of_another_seed_is_a_contradiction() -> None:
    """All nodes have been given another one in between."""
    text, _ = stop_half_way(one_seed())
    driver = scan(World(KEYS, hash_seed=b"two"), resume=text)
    driver.run()
    assert isinstance(failure(driver), HashSeedMismatch)
    assert "the server of the checkpoint" in str(driver.plan.error)


def test_a_checkpoint_is_not_for_whom_others_may_have_come_before() -> None:
    """Who was no replica then, or what lies between may have been another master."""
    for promoted_before, problem in ((True, "was no replica when"), (False, "may have been other masters")):
        world = one_seed()
        if promoted_before:
            # Nobody has told of it, and the pass begins on the old master.
            world.fail_over(B)
        text, _ = stop_half_way(world)
        if not promoted_before:
            world.fail_over(C)
            world.fail_over(B)
        world.known = world.named
        driver = scan(world, resume=text)
        assert driver.run().epoch == 1
        assert driver.missed() == set()
        assert problem in reasons(driver)[0]


def test_a_checkpoint_with_cursors_of_another_kind_begins_again() -> None:
    world = one_seed()
    text, _ = stop_half_way(world)
    world.fail_over(B)
    world.known = world.named
    world.master.form = CursorFormat.UNKNOWN
    driver = scan(world, resume=text)
    driver.run()
    assert driver.complete
    assert driver.missed() == set()
    assert reasons(driver) == ["the checkpoint has cursors of another kind than the server that answers now"]


def test_a_checkpoint_has_nothing_that_was_not_vouched_for_or_not_handed_out() -> None:
    """Pages wait for the consumer when the pass moves: what they brought is not behind it yet."""
    world = one_seed()
    driver = scan(world, prefetch=3)
    driver.go_to(steps.HandOver)
    page = driver.take()
    assert page is not None
    for _ in range(3):
        driver.go_to(steps.HandOver, taking=False)
    driver.go_to(steps.Receive, taking=False)
    driver.plan.done_with(page)
    world.fail_over(B)
    driver.hear()
    driver.go_to(steps.Ask, taking=False)
    assert driver.plan.summary(driver.now).moves == 1
    later = scan(world, resume=driver.plan.checkpoint)
    later.run()
    assert later.complete
    assert set(page.keys) | set(later.handed[0]) == set(KEYS)
