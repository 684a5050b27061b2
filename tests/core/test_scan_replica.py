"""A scan of replicas, driven by hand: one replica for a whole pass, as long as its process lives and is one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core._scan_model import (
    A,
    B,
    C,
    Driver,
    World,
    cursors_asked,
    failure,
    is_complete,
    keys_named,
    reasons,
)
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.certificate import Evidence, Held, Refuted, judge
from trio_sentinel_scan._core.errors import (
    NoReplicaAvailable,
    ScanInterrupted,
    ScanRestartsExhausted,
    ServerUnavailable,
)
from trio_sentinel_scan._core.identity import Address, Role, ServerIdentity
from trio_sentinel_scan._core.replicas import ATTEMPTS
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.sweep import ROLE_PERIOD, Sweep

KEYS = keys_named(200)


def reading(world: World, **options: Any) -> Driver:
    """A scan of replicas; B is the one that has come furthest."""
    world.shown_as.setdefault(B, {})["offset"] = 200
    return Driver(world, **{"count": 4, "read_from": "replica", **options})


def under_way(world: World, **options: Any) -> Driver:
    """One that has handed out some pages."""
    driver = reading(world, **options)
    for _ in range(3):
        driver.go_to(steps.HandOver)
    driver.take_all()
    return driver


def unsync(world: World) -> None:
    """B is as before its first synchronisation: empty, and answering."""
    process = world.nodes[B]
    assert process is not None
    process.link = "handshake"
    process.table = type(process.table)(seed=b"b", bits=5)


def servers(driver: Driver) -> list[Address]:
    """Where pages came from, in order, each once."""
    return list(dict.fromkeys(page.server.address for page in driver.pages))


def connected_to(driver: Driver) -> list[Address]:
    """Where connections were made, or tried."""
    return [step.target.address for step in driver.log if isinstance(step, steps.Connect)]


def lose(driver: Driver) -> None:
    """Its connection ends."""
    driver.go_to(steps.Receive)
    driver.report(steps.Lost("connection closed"))


def until(driver: Driver, state: State) -> None:
    while driver.plan.state is not state:
        driver.take_all()
        driver.step()


# ---- which one ---------------------------------------------------------------------------------------------------


def test_a_replica_is_scanned_and_the_master_is_not_touched() -> None:
    driver = reading(World(KEYS))
    driver.run()
    is_complete(driver)
    assert connected_to(driver) == [B]
    certificate = driver.plan.certificate
    assert certificate is not None
    assert (certificate.basis, certificate.role, certificate.server.address) == ("replica", "slave", B)
    assert certificate.sentinels_known == 0
    assert "its link to its master is connected (config epoch 1)" in str(certificate)


def test_one_that_is_not_in_sync_is_never_scanned() -> None:
    """The Sentinels say that it is; its own word counts, and another is tried."""
    world = World(KEYS)
    unsync(world)
    driver = reading(world)
    driver.run()
    is_complete(driver)
    assert connected_to(driver) == [B, C]
    assert servers(driver) == [C]
    assert driver.plan.epoch == 0


def test_without_the_guard_an_unsynced_replica_is_an_empty_keyspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete, certified, and nothing was handed out."""
    monkeypatch.setattr(Role, "is_synced_replica", property(lambda _: True))
    world = World(KEYS)
    unsync(world)
    driver = reading(world)
    driver.run()
    assert driver.complete
    assert driver.pages == []


@pytest.mark.parametrize("role", ["master", ""])
def test_one_that_is_none_is_left_alone(role: str) -> None:
    """Promoted, and the Sentinels have not noticed; or it does not tell."""
    world = World(KEYS)
    driver = reading(world)
    tells = world.role_of
    world.role_of = lambda process: Role(role) if process.address == B else tells(process)  # type: ignore[method-assign]  # a test's world
    driver.run()
    is_complete(driver)
    assert servers(driver) == [C]


def test_when_there_is_none_the_error_says_why() -> None:
    """Replica by replica, after `failover_timeout`."""
    world = World(KEYS)
    world.kill(B)
    world.shown_as[C] = {"link_status": "err"}
    driver = reading(world)
    driver.run()
    error = failure(driver)
    assert isinstance(error, NoReplicaAvailable)
    assert isinstance(error, ServerUnavailable)
    assert error.replicas == {
        str(B): "connection refused",
        str(C): "is not linked to its master, as the Sentinels see it",
    }
    for part in (
        "10 s (failover_timeout)",
        'fallback="master"',
        "10.0.0.2:6379: connection refused",
        "10.0.0.3:6379: ",
    ):
        assert part in str(error)
    assert driver.now == pytest.approx(110.0)
    assert A not in connected_to(driver)


def test_when_none_is_listed_the_error_says_so() -> None:
    world = World(KEYS)
    world.removed = {B, C}
    driver = reading(world)
    driver.run()
    error = failure(driver)
    assert isinstance(error, NoReplicaAvailable)
    assert error.replicas == {}
    assert "the Sentinels list none" in str(error)


def test_one_that_comes_is_taken() -> None:
    world = World(KEYS)
    world.removed = {B, C}
    driver = reading(world)
    for _ in range(20):
        driver.step()
    world.removed.clear()
    assert not driver.hear()
    driver.run()
    is_complete(driver)
    assert servers(driver) == [B]
    assert driver.plan.epoch == 0


# ---- the fallback ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certify", ["sentinels", "role"])
def test_the_master_is_scanned_where_there_is_no_replica(certify: str) -> None:
    """Certified as any scan of the master is. A replica that comes meanwhile changes nothing."""
    world = World(KEYS)
    world.removed = {B, C}
    driver = under_way(world, fallback="master", certify=certify)
    world.removed.clear()
    assert not driver.hear()
    driver.run()
    is_complete(driver)
    assert servers(driver) == [A]
    certificate = driver.plan.certificate
    assert certificate is not None
    assert (certificate.basis, certificate.role) == (certify, "master")


def test_a_master_that_was_fallen_back_to_is_followed_by_a_replica() -> None:
    """When it is the master no more, its pass is void, and there is a choice again."""
    world = World(KEYS)
    world.removed = {B, C}
    driver = under_way(world, fallback="master")
    lose(driver)
    driver.go_to(steps.Ask)
    assert connected_to(driver) == [A, A]
    world.removed.clear()
    world.fail_over(B)
    world.demote_old_masters()
    assert driver.hear()
    driver.run()
    is_complete(driver)
    assert reasons(driver) == ["MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379"]
    assert B not in servers(driver)


def test_a_master_that_is_not_to_be_had_is_no_replicas_fault() -> None:
    world = World(KEYS)
    world.removed = {B, C}
    world.kill(A)
    driver = reading(world, fallback="master")
    driver.run()
    assert type(failure(driver)) is ServerUnavailable


# ---- the same one ------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_made_anew_and_the_cursor_goes_on() -> None:
    """To the same process, though another has come further meanwhile."""
    driver = under_way(World(KEYS))
    lose(driver)
    asked = cursors_asked(driver.log)[-1]
    driver.world.shown_as = {C: {"offset": 900}, B: {"link_status": "err"}}
    driver.go_to(steps.Ask)
    assert cursors_asked(driver.log)[-1] == asked != 0
    summary = driver.run()
    is_complete(driver)
    assert servers(driver) == [B]
    assert (summary.epoch, summary.reconnects) == (0, 1)


def test_a_failover_of_the_master_is_none_of_its_business() -> None:
    """Sentinel kills its connections, it has no link for a moment, and its process has what it had."""
    world = World(KEYS)
    driver = under_way(world)
    world.fail_over(C, kill=True)
    assert not driver.hear()
    lose(driver)
    process = world.nodes[B]
    assert process is not None
    process.link = "connect"
    for _ in range(5):
        driver.step()
    process.link = "connected"
    driver.run()
    is_complete(driver)
    assert servers(driver) == [B]
    certificate = driver.plan.certificate
    assert certificate is not None
    assert (driver.plan.epoch, certificate.config_epoch) == (0, 2)


@pytest.mark.parametrize("when", ["mid-pass", "certifying"])
def test_a_lost_link_is_waited_for(when: str) -> None:
    """Told by the ROLE that rides along, or by the last one of all."""
    world = World(KEYS)
    driver = under_way(world)
    process = world.nodes[B]
    assert process is not None
    if when == "certifying":
        until(driver, State.CERTIFYING)
    driver.now += ROLE_PERIOD
    process.link = "sync"
    until(driver, State.BACKING_OFF)
    handed_out = len(driver.pages)
    for _ in range(8):
        driver.take_all()
        driver.step()
    assert len(driver.pages) == handed_out
    process.link = "connected"
    driver.run()
    is_complete(driver)
    assert (driver.plan.epoch, servers(driver)) == (0, [B])


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_what_a_replica_without_its_data_said_does_not_outlast_the_connection(
    monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """The ROLE that would have told is lost with it; at the next one, the replica has its data back."""
    if not guarded:
        monkeypatch.setattr(Sweep, "_read_again", lambda sweep: None)
    world = World(KEYS)
    driver = under_way(world)
    driver.go_to(steps.Receive)
    driver.finish()
    process = world.nodes[B]
    assert process is not None
    whole = process.table
    process.link, process.table = "connect", type(whole)(seed=b"b", bits=5)
    driver.batch = 1
    driver.go_to(steps.Receive)
    driver.finish()
    lose(driver)
    process.link, process.table = "connected", whole
    driver.batch = 1000
    driver.run()
    assert driver.complete
    assert (driver.plan.epoch, servers(driver)) == (0, [B])
    assert bool(driver.missed()) is not guarded


def test_connections_that_end_before_the_role_is_told_come_to_an_end() -> None:
    """A replica's SCANs are answered each time, and nothing vouches for them: that is no progress."""
    driver = under_way(World(KEYS), max_restarts=2)
    driver.batch = 1
    for _ in range(50):
        if isinstance(driver.go_to((steps.Receive, steps.Finish)), steps.Finish):
            break
        driver.finish()
        lose(driver)
    assert isinstance(failure(driver), ScanRestartsExhausted)


def test_a_replica_that_is_busy_for_ever_comes_to_an_end() -> None:
    """It answers its ROLE all the same, in a read of its own: that is no progress."""
    world = World(KEYS)
    driver = under_way(world, segments=1)
    process = world.nodes[B]
    assert process is not None
    process.errors.extend(["BUSY a script"] * 1_000)
    driver.batch = 1
    for _ in range(1_000):
        if isinstance(driver.go_to((steps.Rest, steps.Finish), taking=True), steps.Finish):
            break
        driver.finish()
        driver.now += 0.05
    assert isinstance(failure(driver), ServerUnavailable)


def test_a_replica_that_was_restarted_is_another_one() -> None:
    world = World(KEYS)
    driver = under_way(world)
    world.start(B)
    world.demote_old_masters()
    driver.run()
    is_complete(driver)
    assert servers(driver) == [B]
    (reason,) = reasons(driver)
    assert "another process" in reason


def test_without_the_identity_check_a_restarted_replica_loses_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """And without the certificate's own look at the run_id."""
    monkeypatch.setattr(ScanPlan, "_is_same_process", lambda *_: True)
    world = World(KEYS, tell_run_id=False)
    driver = under_way(world)
    for _ in range(12):
        driver.go_to(steps.HandOver)
    world.start(B)
    world.demote_old_masters()
    driver.run()
    assert driver.complete
    assert driver.missed()
    assert driver.misused()


# ---- another one -------------------------------------------------------------------------------------------------


def test_one_that_stays_away_is_left_for_another() -> None:
    """After some seconds of trying."""
    world = World(KEYS)
    driver = under_way(world)
    world.kill(B)
    begun = driver.now
    driver.run()
    is_complete(driver)
    assert servers(driver) == [B, C]
    assert connected_to(driver) == [B] * (1 + ATTEMPTS - 1) + [C]
    (reason,) = reasons(driver)
    assert reason == "the replica 10.0.0.2:6379 is of no use for now: connection refused"
    assert 3.0 <= driver.now - begun <= 5.0


def test_one_that_stays_away_is_left_for_the_master_if_so_wished() -> None:
    world = World(KEYS)
    world.shown_as[C] = {"link_status": "err"}
    driver = under_way(world, fallback="master")
    world.kill(B)
    # The other one is there, and may be in sync in a moment: the master is not gone to at once.
    driver.run()
    is_complete(driver)
    assert servers(driver) == [B, A]
    assert driver.plan.epoch == 1


def test_with_nowhere_to_go_it_is_waited_for_to_the_end() -> None:
    """What the pass has covered is not thrown away for nothing; and then all is as it was."""
    world = World(KEYS)
    world.removed = {C}
    driver = under_way(world)
    process = world.nodes[B]
    assert process is not None
    process.link = "sync"
    driver.now += ROLE_PERIOD
    until(driver, State.BACKING_OFF)
    begun = driver.now
    while driver.now < begun + 8.0:
        driver.step()
    process.link = "connected"
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 0


def test_with_nowhere_to_go_the_error_tells_of_it() -> None:
    world = World(KEYS)
    world.removed = {C}
    driver = under_way(world)
    world.kill(B)
    driver.run()
    error = failure(driver)
    assert isinstance(error, NoReplicaAvailable)
    assert "10.0.0.2:6379: connection refused" in str(error)


@pytest.mark.parametrize("others", [True, False])
def test_one_without_its_master_is_left_if_there_is_another(others: bool) -> None:
    """MASTERDOWN: it says itself that it is of no use; with no other it may be again."""
    world = World(KEYS)
    if not others:
        world.removed = {C}
    driver = under_way(world)
    process = world.nodes[B]
    assert process is not None
    process.errors.append("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.")
    driver.run()
    is_complete(driver)
    assert servers(driver) == ([B, C] if others else [B])
    assert len(reasons(driver)) == others
    if others:
        assert "answers MASTERDOWN" in reasons(driver)[0]


@pytest.mark.parametrize("known", ["by its role", "by the Sentinels"])
def test_one_that_is_promoted_is_left(known: str) -> None:
    world = World(KEYS)
    driver = under_way(world)
    process = world.nodes[B]
    assert process is not None
    if known == "by its role":
        process.role = "master"
        driver.now += ROLE_PERIOD
        while driver.plan.epoch == 0:
            driver.take_all()
            driver.step()
        assert driver.plan.suspects_failover
    world.fail_over(B)
    world.demote_old_masters()
    driver.hear()
    driver.run()
    is_complete(driver)
    assert servers(driver)[0] == B
    assert B not in servers(driver)[1:]
    assert len(reasons(driver)) == 1
    expected = "the server's role is master, it was slave" if known == "by its role" else "was promoted"
    assert expected in reasons(driver)[0]


@pytest.mark.parametrize("guarded", [True, False])
def test_one_that_is_removed_is_left_at_once(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """It hangs, and no timeout ends the wait. Without the check, nothing would."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_why_void", lambda *_: "")
    world = World(KEYS)
    driver = under_way(world)
    process = world.nodes[B]
    assert process is not None
    process.hangs = True
    driver.go_to(steps.Receive)
    assert driver.is_waiting
    world.removed.add(B)
    assert driver.hear() is guarded
    assert driver.is_waiting is not guarded
    if guarded:
        driver.run()
        is_complete(driver)
        assert servers(driver) == [B, C]
        assert reasons(driver)[0].startswith("REPLICA_REMOVE")


def test_a_connection_to_one_that_is_removed_is_not_waited_for() -> None:
    """No pass has begun there, and so none is void."""
    world = World(KEYS)
    process = world.nodes[B]
    assert process is not None
    process.hangs = True
    driver = reading(world)
    driver.go_to(steps.Connect)
    assert driver.is_waiting
    world.removed.add(B)
    assert driver.hear()
    driver.run()
    is_complete(driver)
    assert (driver.plan.epoch, servers(driver)) == (0, [C])


def test_raising_instead_of_going_to_another() -> None:
    world = World(KEYS)
    driver = under_way(world, on_failover="raise")
    world.kill(B)
    driver.run()
    error = failure(driver)
    assert isinstance(error, ScanInterrupted)
    assert error.reason.startswith("the replica 10.0.0.2:6379 is of no use for now")
    assert error.old_server is not None
    assert error.old_server.address == B


def test_a_change_after_the_end_is_of_no_consequence() -> None:
    world = World(KEYS)
    driver = reading(world)
    driver.run()
    world.removed.add(B)
    assert not driver.hear()
    is_complete(driver)


def test_a_pass_begun_anew_for_another_reason_stays_on_its_replica() -> None:
    world = World(KEYS)
    driver = under_way(world)
    process = world.nodes[B]
    assert process is not None
    process.errors.append("ERR invalid cursor")
    driver.world.shown_as[C] = {"offset": 900}
    driver.run()
    is_complete(driver)
    assert (driver.plan.epoch, servers(driver)) == (1, [B])


# ---- checkpoints -------------------------------------------------------------------------------------------------


def checkpoint_of(world: World) -> str:
    driver = under_way(world)
    lose(driver)
    return driver.pages[-1].checkpoint


def test_a_checkpoint_goes_on_at_its_replica_through_a_failover() -> None:
    """Another has come further, and the config epoch has moved: the process is the same, and a replica still."""
    world = World(KEYS)
    text = checkpoint_of(world)
    world.fail_over(C)
    world.demote_old_masters()
    world.known = world.named
    driver = reading(world, resume=text)
    world.shown_as = {A: {"offset": 900}, B: {"link_status": "err", "offset": 1}}
    driver.go_to(steps.Ask)
    assert cursors_asked(driver.log)[0] != 0
    driver.run()
    assert driver.complete
    assert (driver.plan.epoch, servers(driver), driver.misused()) == (0, [B], 0)


def test_a_checkpoints_replica_that_is_gone_makes_a_new_epoch() -> None:
    world = World(KEYS)
    text = checkpoint_of(world)
    world.removed.add(B)
    driver = reading(world, resume=text)
    driver.run()
    is_complete_but_for_restarts(driver)
    assert (driver.plan.epoch, servers(driver)) == (1, [C])
    assert reasons(driver) == ["the checkpoint is of another process than the one that answers now"]


def test_a_checkpoints_replica_that_stays_away_is_given_up() -> None:
    world = World(KEYS)
    text = checkpoint_of(world)
    world.kill(B)
    driver = reading(world, resume=text)
    driver.run()
    is_complete_but_for_restarts(driver)
    assert connected_to(driver) == [B] * ATTEMPTS + [C]
    assert (driver.plan.epoch, servers(driver)) == (1, [C])


def is_complete_but_for_restarts(driver: Driver) -> None:
    assert driver.complete
    assert driver.missed() == set()
    assert driver.misused() == 0


# ---- the certificate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "role, run_id, held",
    [
        (Role("slave", link="connected"), "a" * 40, True),
        (Role("slave", link="connected"), "b" * 40, False),
        (Role("slave", link="connect"), "a" * 40, False),
        (Role("master"), "a" * 40, False),
        (Role(""), "a" * 40, False),
    ],
)
def test_a_replicas_certificate_is_its_own_word(role: Role, run_id: str, held: bool) -> None:
    """The same process, still a replica, in sync. No Sentinel is asked."""
    server = ServerIdentity("a" * 40, B)
    judgement = judge("replica", server, Role("slave", link="connected"), Evidence(run_id, role, config_epoch=3))
    assert isinstance(judgement, Held if held else Refuted)
