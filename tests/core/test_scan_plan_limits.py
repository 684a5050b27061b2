"""A scan's budgets, its consumer, its certificate, and every way in which it ends without being complete."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest

from tests.core._scan_model import (
    A,
    B,
    C,
    Driver,
    World,
    failure,
    is_complete,
    keys_named,
    kinds,
    reasons,
    scan_options,
)
from trio_sentinel_scan._core import scan_plan, scan_steps as steps
from trio_sentinel_scan._core.certificate import Evidence, Undecided
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.errors import (
    AuthenticationFailed,
    ConfigError,
    ProtocolError,
    ScanError,
    ScanInterrupted,
    ScanNotCertified,
    ScanRefused,
    ScanRestartsExhausted,
    ScanStuck,
    ServerUnavailable,
)
from trio_sentinel_scan._core.identity import Role, ServerIdentity
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.scan_steps import Target
from trio_sentinel_scan._core.summary import ScanPage

KEYS = keys_named(60)


# ---- many failovers --------------------------------------------------------------------------------------------


def test_two_failovers_in_a_row_back_to_the_first_node() -> None:
    """Two new epochs, the second one on a new process of the first address."""
    driver = Driver(World(KEYS))
    for to in (B, A):
        driver.go_to(steps.HandOver)
        driver.go_to(steps.Receive)
        driver.world.fail_over(to, kill=True)
        assert driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 2
    assert [restart.new_server.address for restart in summary.restarts if restart.new_server] == [B, A]
    # The same word again is no change.
    assert not driver.hear()


@pytest.mark.parametrize("max_restarts", [0, 1, 3])
def test_more_than_max_restarts_is_a_typed_error(max_restarts: int) -> None:
    """It says why the last pass became void."""
    driver = Driver(World(KEYS), max_restarts=max_restarts)
    for to in itertools.cycle((B, A)):
        driver.go_to(steps.HandOver)
        driver.world.fail_over(to)
        if not driver.hear() or driver.ended:
            break
    error = failure(driver)
    assert isinstance(error, ScanRestartsExhausted)
    assert f"max_restarts={max_restarts}" in str(error)
    assert "MASTER_CHANGE" in str(error)
    assert driver.plan.epoch == max_restarts
    assert error.summary is not None
    assert error.summary.epoch == max_restarts


@pytest.mark.parametrize("max_restarts", [0, 2])
def test_as_many_connections_in_a_row_that_yield_nothing_are_an_error_too(max_restarts: int) -> None:
    """The server takes connections and drops each: a page too large for its output buffer does that."""
    driver = Driver(World(KEYS), max_restarts=max_restarts)
    driver.go_to(steps.HandOver)
    for _ in range(max_restarts + 1):
        driver.go_to(steps.Receive)
        driver.report(steps.Lost("connection closed"))
        assert not driver.ended
    driver.go_to(steps.Receive)
    driver.report(steps.Lost("connection closed"))
    driver.run()
    error = failure(driver)
    assert isinstance(error, ScanRestartsExhausted)
    assert f"{max_restarts + 1} new connections in a row to 10.0.0.1:6379 brought no reply" in str(error)
    assert "connection closed" in str(error)
    assert driver.plan.epoch == 0


def test_a_connection_that_yields_a_reply_starts_the_count_again() -> None:
    """A server that answers once on each connection is slow, not dead."""
    driver = Driver(World(KEYS), max_restarts=1)
    for _ in range(8):
        driver.go_to(steps.Receive)
        driver.report(steps.Lost("connection closed"))
        driver.go_to(steps.Receive)
        driver.finish()
    driver.run()
    is_complete(driver)


def test_attempts_back_off() -> None:
    """Each pause is at least as long as the one before, and a reply starts them again."""
    world = World(KEYS)
    driver = Driver(world, failover_timeout=math.inf)
    driver.go_to(steps.Receive)
    process = world.master
    world.kill(A)
    driver.report(steps.Lost("connection closed"))
    pauses = []
    for _ in range(12):
        pauses.append(driver.go_to(steps.Rest).seconds)
        driver.finish()
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.0
    assert pauses[-1] == pauses[-2] == scan_plan.BACK_OFF[-1] * 1.25
    world.nodes[A] = process
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    driver.report(steps.Lost("connection closed"))
    assert driver.go_to(steps.Rest).seconds == 0.0


def test_waiting_for_a_master_ends_at_the_failover_timeout() -> None:
    """With what the last problem was, and without spinning."""
    driver = Driver(World(KEYS), failover_timeout=10.0)
    driver.go_to(steps.Receive)
    driver.world.kill(A)
    driver.run()
    error = failure(driver)
    assert isinstance(error, ServerUnavailable)
    assert "for 10 s (failover_timeout)" in str(error)
    assert "connection refused" in str(error)
    assert driver.now == pytest.approx(110.0)
    assert len(driver.log) < 100


def test_a_scan_that_never_finds_a_server_ends_at_the_failover_timeout() -> None:
    """Every wait of a step has an end."""
    world = World(KEYS)
    world.kill(A)
    driver = Driver(world, failover_timeout=3.0)
    driver.run()
    assert isinstance(failure(driver), ServerUnavailable)
    assert driver.now == pytest.approx(103.0)
    assert {step.until for step in driver.log if isinstance(step, (steps.Locate, steps.Connect))} == {103.0}


def test_waiting_begins_when_the_last_answer_is_gone_not_when_the_scan_began() -> None:
    """A scan may take hours."""
    driver = Driver(World(KEYS), failover_timeout=10.0)
    driver.go_to(steps.Receive)
    driver.now += 10_000.0
    driver.report(steps.Lost("connection closed"))
    step = driver.go_to(steps.Connect)
    assert step.until == driver.now + 10.0
    driver.finish()
    driver.run()
    is_complete(driver)


# ---- on_failover="raise" ---------------------------------------------------------------------------------------


def test_a_failover_interrupts_where_restarts_are_forbidden() -> None:
    """With reason, epoch, both servers, and the keys so far."""
    driver = Driver(World(KEYS), on_failover="raise")
    driver.go_to(steps.HandOver)
    driver.take()
    old = driver.world.master.identity()
    driver.world.fail_over(B)
    assert driver.hear()
    error = failure(driver)
    assert isinstance(error, ScanInterrupted)
    assert error.reason == "MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379"
    assert (error.epoch, error.old_server) == (0, old)
    assert error.new_server is not None
    assert (error.new_server.address, error.new_server.run_id) == (B, None)
    assert error.keys == sum(driver.handed[0].values()) > 0
    assert error.summary is not None
    assert error.summary.keys == error.keys


def test_a_failover_before_the_first_page_interrupts_too() -> None:
    """The loop that has not begun must not end."""
    driver = Driver(World(KEYS), on_failover="raise")
    driver.go_to(steps.Connect)
    driver.world.fail_over(B)
    assert driver.hear()
    error = failure(driver)
    assert isinstance(error, ScanInterrupted)
    assert (error.old_server, error.keys) == (None, 0)


@pytest.mark.parametrize("max_restarts", [0, 10])
def test_a_restart_at_the_same_address_interrupts_too(max_restarts: int) -> None:
    """Whatever the budget: it is forbidden, not spent."""
    driver = Driver(World(KEYS), on_failover="raise", max_restarts=max_restarts)
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    old = driver.world.master.identity()
    new = driver.world.restart().identity()
    driver.report(steps.Lost("connection closed"))
    driver.run()
    error = failure(driver)
    assert isinstance(error, ScanInterrupted)
    assert (error.old_server, error.new_server) == (old, new)


def test_a_refuted_certificate_interrupts_too() -> None:
    """Every void pass does."""
    world = World(KEYS)
    driver = Driver(world, on_failover="raise")
    driver.go_to(steps.AwaitTaken)
    world.fail_over(B)
    world.demote_old_masters()
    driver.run()
    error = failure(driver)
    assert isinstance(error, ScanInterrupted)
    assert error.new_server is None


def test_a_broken_order_interrupts_too() -> None:
    """The server is the same on both sides."""
    driver = Driver(World(KEYS, honest=False), on_failover="raise")
    driver.run()
    error = failure(driver)
    assert isinstance(error, ScanInterrupted)
    assert error.new_server == error.old_server == driver.world.master.identity()


# ---- the consumer ----------------------------------------------------------------------------------------------


def test_the_connection_dies_with_a_page_in_hand() -> None:
    """The page is handed out and the cursor goes on: they were committed together."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    driver.finish()
    step = driver.begin()
    assert isinstance(step, steps.Ask)
    driver.report(steps.Lost("connection closed"))
    assert isinstance(driver.plan.next_step(driver.now), steps.HandOver)
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 0
    assert sum(driver.handed[0].values()) == len(KEYS)


def test_a_page_in_hand_is_void_with_its_pass() -> None:
    """Its server is not the one any more, and the new pass brings its keys again."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.Receive)
    driver.finish()
    driver.begin()
    driver.report(steps.Lost("connection closed"))
    driver.world.fail_over(B)
    driver.hear()
    assert not isinstance(driver.plan.next_step(driver.now), steps.HandOver)
    driver.run()
    is_complete(driver)
    assert 0 not in driver.handed


@pytest.mark.parametrize("happens", ["the connection dies", "the master changes"])
def test_a_slow_consumer_is_no_absent_server(happens: str) -> None:
    """A hand-over that takes longer than `failover_timeout` leaves the whole of it for finding a server."""
    driver = Driver(World(KEYS), prefetch=0, failover_timeout=10.0)
    if happens == "the connection dies":
        driver.go_to(steps.Receive)
        driver.finish()
        driver.begin()
        driver.report(steps.Lost("connection closed"))
        assert isinstance(driver.begin(), steps.HandOver)
    else:
        driver.go_to(steps.HandOver)
        driver.world.fail_over(B)
        assert driver.hear()
    assert driver.sending is not None
    driver.now += 3600.0
    driver.take()
    step = driver.go_to(steps.Connect)
    assert step.until == driver.now + 10.0
    driver.finish()
    driver.run()
    is_complete(driver)


def test_a_slow_consumer_does_not_stretch_the_timeout_twice() -> None:
    """Once there is nothing left to hand over, the clock runs."""
    driver = Driver(World(KEYS), failover_timeout=10.0)
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    driver.world.kill(A)
    driver.run()
    assert isinstance(failure(driver), ServerUnavailable)
    assert driver.now == pytest.approx(110.0)


def test_a_page_of_another_epoch_is_not_counted() -> None:
    """Neither as taken nor as waited for."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.AwaitTaken)
    stranger = ScanPage([b"x"], 7, driver.world.master.identity(), None)
    assert not driver.plan.take(stranger, driver.now)
    assert driver.plan.summary(driver.now).keys == len(KEYS)
    assert driver.plan.all_taken


def test_a_page_that_waits_when_the_scan_fails_is_not_handed_out() -> None:
    """The error is what the consumer gets next."""
    driver = Driver(World(KEYS), prefetch=10)
    driver.go_to(steps.HandOver, taking=False)
    driver.go_to(steps.Receive, taking=False)
    driver.report(steps.Lost("broken", ProtocolError("garbage")))
    assert driver.take() is None
    assert isinstance(failure(driver), ProtocolError)


# ---- Sentinels and permissions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("in_reach", [0, 1])
def test_without_a_majority_in_reach_the_pass_is_kept_and_asked_about_again(in_reach: int) -> None:
    """When they are there again, it is complete, and nothing was swept twice."""
    world = World(KEYS)
    driver = Driver(world)
    world.sentinels_in_reach = in_reach
    for _ in range(3):
        driver.go_to(steps.Certify)
        driver.finish()
        step = driver.go_to(steps.Rest)
        assert step.seconds == scan_plan.HESITATION
        driver.finish()
    world.sentinels_in_reach = 2
    summary = driver.run()
    is_complete(driver)
    assert summary.certificate is not None
    assert (summary.certificate.sentinels_known, summary.certificate.sentinels_agreeing) == (3, 2)
    assert summary.epoch == 0


def test_without_a_majority_for_too_long_the_pass_is_swept_but_not_certified() -> None:
    """A type of its own, that says what would accept it."""
    world = World(KEYS)
    world.sentinels_in_reach = 1
    driver = Driver(world, failover_timeout=5.0)
    driver.run()
    error = failure(driver)
    assert isinstance(error, ScanNotCertified)
    assert "swept to its end" in str(error)
    assert 'certify="role"' in str(error)
    assert "1 of 3 Sentinels confirm" in str(error)
    assert driver.now == pytest.approx(105.0)
    assert driver.missed() == set()


@pytest.mark.parametrize("options", [{"certify": "role"}, {"has_sentinels": False}], ids=["role", "server"])
def test_a_server_that_cannot_tell_for_too_long_is_not_certified_either(options: dict[str, Any]) -> None:
    """Where the server's own word is what it rests on already, nobody is told to accept that."""
    driver = Driver(World(KEYS), failover_timeout=5.0, **options)
    while not driver.ended:
        driver.take_all()
        if isinstance(driver.begin(), steps.Certify):
            driver.report(Undecided("the server answers BUSY"))
        elif driver.pending is not None:
            driver.finish()
    error = failure(driver)
    assert isinstance(error, ScanNotCertified)
    assert "the server answers BUSY" in str(error)
    assert "certify" not in str(error).replace("certified", "")


def test_a_server_that_is_lost_while_hesitating_does_not_begin_the_time_again() -> None:
    """The whole of it is one wait."""
    world = World(KEYS)
    world.sentinels_in_reach = 1
    driver = Driver(world, failover_timeout=5.0)
    driver.go_to(steps.Certify)
    driver.finish()
    driver.go_to(steps.Certify)
    world.kill(A)
    driver.report(steps.Lost("connection closed"))
    driver.run()
    assert isinstance(failure(driver), ScanNotCertified)
    assert driver.now == pytest.approx(105.0)


def test_a_new_pass_has_all_the_time_to_be_certified() -> None:
    """What was spent on asking about the one before is forgotten with it."""
    world = World(KEYS)
    world.sentinels_in_reach = 1
    driver = Driver(world, failover_timeout=5.0)
    driver.go_to(steps.Certify)
    driver.finish()
    driver.now += 4.9
    world.fail_over(B)
    assert driver.hear()
    driver.go_to(steps.Certify)
    driver.now += 4.9
    driver.finish()
    world.sentinels_in_reach = 3
    driver.run()
    is_complete(driver)


def test_the_last_problem_is_the_last_that_says_something() -> None:
    """An attempt that our own deadline cut short says less than what went wrong before it."""
    driver = Driver(World(KEYS), failover_timeout=5.0)
    driver.go_to(steps.Receive)
    driver.world.kill(A)
    driver.report(steps.Lost("connection closed"))
    driver.go_to(steps.Rest)
    driver.go_to(steps.Rest)
    driver.go_to(steps.Connect)
    driver.now += 5.0
    driver.report(steps.Lost("it took too long"))
    driver.run()
    assert "connection refused" in str(failure(driver))


def test_a_driver_may_find_nothing_to_judge() -> None:
    """The server is busy: asked again."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.Certify)
    driver.report(Undecided("the server answers BUSY"))
    assert driver.plan.state is State.HESITATING
    driver.run()
    is_complete(driver)


def test_a_majority_for_another_master_waits_for_the_view_to_move() -> None:
    """Another pass over the same server would spend the budget in an instant, and prove no more than this one."""
    world = World(KEYS)
    driver = Driver(world, max_restarts=1)
    driver.go_to(steps.AwaitTaken)
    world.fail_over(B)
    driver.take_all()
    driver.finish()
    for _ in range(4):
        driver.go_to(steps.Certify)
        driver.finish()
    assert driver.plan.epoch == 0
    assert driver.hear()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 1


def test_with_certify_role_no_sentinel_is_asked() -> None:
    """The summary says what it rests on."""
    world = World(KEYS)
    world.sentinels_in_reach = 0
    driver = Driver(world, certify="role")
    summary = driver.run()
    is_complete(driver)
    assert summary.certificate is not None
    assert summary.certificate.basis == "role"


def test_a_single_server_is_asked_for_its_own_word() -> None:
    """The same process in the same role; a changed role is a new epoch on the same server."""
    world = World(KEYS)
    driver = Driver(world, has_sentinels=False)
    driver.go_to(steps.AwaitTaken)
    world.master.role = "slave"
    driver.take_all()
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 1
    assert summary.certificate is not None
    assert (summary.certificate.basis, summary.certificate.role) == ("server", "slave")


def test_a_server_in_the_wrong_role_is_not_scanned() -> None:
    """It is looked for again until `failover_timeout`."""
    world = World(KEYS)
    world.master.role = "slave"
    driver = Driver(world)
    driver.run()
    error = failure(driver)
    assert isinstance(error, ServerUnavailable)
    assert "says that its role is slave" in str(error)
    assert "Ask" not in kinds(driver.log)
    assert driver.link is None


@pytest.mark.parametrize(
    "reply, kind",
    [
        ("NOPERM this user has no permissions to run the 'scan' command", ScanRefused),
        ("ERR unknown type name", ScanRefused),
        ("ERR syntax error", ScanRefused),
        ("ERR unknown command 'SCAN', with args beginning with: '0' ", ScanRefused),
        ("MOVED 1 10.0.0.9:6379", ScanRefused),
        ("NOAUTH Authentication required.", AuthenticationFailed),
    ],
)
@pytest.mark.parametrize("pages", [0, 2])
def test_a_refusal_is_final(reply: str, kind: type[Exception], pages: int) -> None:
    """Trying again cannot help; the server's reason is in the error."""
    driver = Driver(World(KEYS))
    for _ in range(pages):
        driver.go_to(steps.HandOver)
    driver.world.master.errors.append(reply)
    driver.run()
    error = failure(driver)
    assert type(error) is kind
    assert "10.0.0.1:6379" in str(error)
    assert "refuses SCAN" in str(error)


@pytest.mark.parametrize("reply", ["LOADING Redis is loading", "BUSY Redis is busy", "CLUSTERDOWN The cluster is down"])
def test_a_server_that_asks_for_patience_gets_it(reply: str) -> None:
    """On the same connection, with the same cursor."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    driver.world.master.errors.extend([reply] * 5)
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 0)
    assert kinds(driver.log).count("Rest") == 5
    assert sum(driver.handed[0].values()) == len(KEYS)


def test_patience_ends_at_the_failover_timeout() -> None:
    """A server that loads for ever is no server."""
    driver = Driver(World(KEYS), failover_timeout=5.0)
    driver.world.master.errors.extend(["LOADING Redis is loading"] * 1000)
    driver.run()
    error = failure(driver)
    assert isinstance(error, ServerUnavailable)
    assert "answers LOADING" in str(error)
    assert driver.now == pytest.approx(105.0)


@pytest.mark.parametrize(
    "reply", ["MASTERDOWN Link", "READONLY no", "REDIRECT 10.0.0.2:6379", "ERR max number of clients"]
)
def test_a_server_that_is_not_the_one_to_ask_is_left_and_looked_up_again(reply: str) -> None:
    """Over a new connection; the same process goes on with its cursor."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    driver.world.master.errors.append(reply)
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 1)


def test_a_server_that_does_not_know_its_cursor_is_asked_from_the_start() -> None:
    """On the same connection, in a new epoch."""
    driver = Driver(World(KEYS, form=CursorFormat.UNKNOWN))
    driver.go_to(steps.HandOver)
    driver.go_to(steps.HandOver)
    driver.world.master.errors.append("ERR invalid cursor(master node idx out of range)")
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (1, 0)
    assert kinds(driver.log).count("Connect") == 1
    assert reasons(driver) == ["the server does not know its cursor"]


def test_a_server_that_does_not_know_cursor_0_refuses() -> None:
    """There is nothing to begin again from."""
    driver = Driver(World(KEYS))
    driver.world.master.errors.append("ERR invalid cursor")
    driver.run()
    assert isinstance(failure(driver), ScanRefused)


def test_a_server_that_never_knows_its_cursors_spends_the_budget() -> None:
    """Each new beginning is a restart."""
    driver = Driver(World(KEYS, form=CursorFormat.UNKNOWN), max_restarts=3)
    while not driver.ended:
        driver.go_to(steps.Receive)
        driver.finish()
        driver.world.master.errors.append("ERR invalid cursor")
        driver.go_to(steps.Receive)
        driver.finish()
    assert isinstance(failure(driver), ScanRestartsExhausted)


@pytest.mark.parametrize(
    "final",
    [AuthenticationFailed("no"), ProtocolError("garbage"), ConfigError("db", "no"), ScanError("undecodable")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("at", [steps.Connect, steps.Receive, steps.Certify])
def test_a_final_problem_ends_the_scan_with_itself(at: type[steps.Step], final: Exception) -> None:
    """As it is, unwrapped."""
    driver = Driver(World(KEYS))
    driver.go_to(at)
    driver.report(steps.Lost("why", final))
    assert failure(driver) is final
    assert driver.link is None


# ---- cursors that are not what they seem -----------------------------------------------------------------------


@pytest.mark.parametrize("form, honest", [(CursorFormat.REVERSED, False), (CursorFormat.SLOTS, True)])
def test_a_format_that_turns_out_wrong_is_taken_back_with_a_restart(form: CursorFormat, honest: bool) -> None:
    """Positions that do not rise are none; from then on nothing is assumed, on this server or the next."""
    world = World(KEYS, form=form, honest=honest)
    driver = Driver(world)
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 1
    assert "do not rise" in reasons(driver)[0]
    assert kinds(driver.log).count("Connect") == 1
    assert {page.position for page in driver.pages if page.epoch == 1} <= {None, 1.0}

    # A failover later the format is still not trusted.
    driver = Driver(world)
    while driver.plan.epoch == 0:
        driver.step()
        driver.take_all()
    world.fail_over(B)
    driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 2


@pytest.mark.parametrize("cursors", [[7, 7, 7], [1, 2, 3, 1, 2, 3], [9, 1, 2, 1, 2]])
def test_opaque_cursors_that_go_in_a_circle_are_an_error(cursors: list[int]) -> None:
    """The pass would never end."""
    driver = Driver(World(form=CursorFormat.UNKNOWN))
    for cursor in itertools.chain(cursors, itertools.cycle(cursors[-2:])):
        driver.go_to(steps.Receive)
        driver.report(steps.Replied(cursor, []))
        if driver.ended:
            break
        assert driver.plan.summary(driver.now).scans < 20
    error = failure(driver)
    assert isinstance(error, ScanStuck)
    assert "come round again" in str(error)


def test_reversed_cursors_that_go_in_a_circle_are_an_error_in_the_end() -> None:
    """First the format is distrusted, then the circle is found."""
    driver = Driver(World())
    while not driver.ended:
        driver.go_to(steps.Receive)
        driver.report(steps.Replied(5, []))
        assert driver.plan.summary(driver.now).scans < 20
    assert isinstance(failure(driver), ScanStuck)
    assert driver.plan.epoch == 1


def test_a_cursor_may_come_again_in_another_epoch() -> None:
    """A circle is one within a pass."""
    world = World(KEYS, form=CursorFormat.UNKNOWN)
    driver = Driver(world)
    for _ in range(5):
        driver.go_to(steps.HandOver)
        driver.go_to(steps.HandOver)
        world.master.errors.append("ERR invalid cursor")
        driver.go_to(steps.Receive)
        driver.finish()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 5


# ---- the machine itself ----------------------------------------------------------------------------------------


def test_a_report_on_a_step_that_was_overtaken_is_ignored() -> None:
    """Whatever it is: it is of another generation."""
    driver = Driver(World(KEYS))
    step = driver.go_to(steps.Receive)
    driver.world.fail_over(B)
    driver.hear()
    before = (driver.plan.state, driver.plan.epoch, driver.plan.summary(driver.now))
    server = ServerIdentity("x", A)
    outcomes: list[steps.Outcome] = [
        steps.Located(Target(A, 9, 99)),
        steps.Connected(server, Role("master"), CursorFormat.REVERSED),
        steps.Asked(),
        steps.Replied(0, [b"late"]),
        steps.Lost("gone", ProtocolError("late")),
        steps.Rested(),
        steps.Taken(),
        Evidence("x", Role("master")),
        Undecided("late"),
    ]
    for outcome in outcomes:
        driver.plan.report(step, outcome, driver.now)
    assert (driver.plan.state, driver.plan.epoch, driver.plan.summary(driver.now)) == before


def test_an_older_word_of_the_sentinels_is_no_change() -> None:
    """Nor is the present one again."""
    driver = Driver(World(KEYS))
    driver.world.fail_over(B)
    driver.world.known = driver.world.named
    driver.go_to(steps.Receive)
    for target in (Target(B, 2, 2), Target(A, 1, 1), Target(C, 0, 0)):
        assert not driver.plan.master_changed(target, driver.now)
    assert driver.plan.epoch == 0


def test_a_driver_that_crashes_ends_the_scan() -> None:
    """With a scan's error whose cause is the crash; a second crash, or one after the end, changes nothing."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.Receive)
    crash = RuntimeError("key:0001")
    driver.plan.crashed(crash, driver.now)
    error = failure(driver)
    assert type(error) is ScanError
    assert error.__cause__ is crash
    assert str(error) == "internal error of trio_sentinel_scan (RuntimeError)"
    assert error.summary is not None
    driver.plan.crashed(ValueError(), driver.now)
    assert driver.plan.error is error

    complete = Driver(World())
    complete.run()
    complete.plan.crashed(crash, complete.now)
    is_complete(complete)


def test_the_account_ends_when_the_block_is_left() -> None:
    """Neither complete nor failed, and its time stands still; a scan that has ended has ended."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    driver.take()
    driver.now += 2.0
    driver.plan.closed(driver.now)
    driver.plan.closed(driver.now + 1.0)
    summary = driver.plan.summary(driver.now + 100.0)
    assert (summary.complete, summary.elapsed, summary.pages) == (False, 2.0, 1)
    assert driver.plan.error is None

    complete = Driver(World())
    complete.run()
    complete.plan.closed(complete.now + 5.0)
    assert complete.plan.summary(complete.now + 100.0).elapsed == 0.0
    is_complete(complete)


def test_a_plan_says_where_it_is() -> None:
    """In its repr, for logs; no key is in it."""
    driver = Driver(World(KEYS))
    assert repr(driver.plan) == "<ScanPlan LOCATING, epoch 0, not bound>"
    driver.go_to(steps.HandOver)
    assert repr(driver.plan).startswith("<ScanPlan SCANNING, epoch 0, 10.0.0.1:6379 (run_id 0000")


def test_jitter_stretches_a_pause_by_up_to_half() -> None:
    """So that many clients do not come back at once."""
    for jitter, factor in ((0.0, 1.0), (1.0, 1.5)):
        plan = ScanPlan(scan_options(), failover_timeout=math.inf, now=0.0, jitter=partial(float, jitter))
        pauses = []
        for _ in range(4):
            for outcome in (steps.Located(Target(A)), steps.Lost("refused")):
                plan.report(plan.next_step(0.0), outcome, 0.0)
            step = plan.next_step(0.0)
            assert isinstance(step, steps.Rest)
            pauses.append(step.seconds)
            plan.report(step, steps.Rested(), 0.0)
        assert pauses == pytest.approx([seconds * factor for seconds in scan_plan.BACK_OFF[:4]])


def test_no_message_of_a_scan_has_a_key_in_it() -> None:
    """Neither its errors nor its reprs."""
    shown = "".join(map(repr, (steps.Replied(1, KEYS), steps.Ask(0, (b"SCAN", 0, b"MATCH", b"key:*")))))
    assert "key:" not in shown
    for reply in ("NOPERM no", "ERR unknown command 'SCAN', with args beginning with: 'key:0001' "):
        driver = Driver(World(KEYS))
        driver.go_to(steps.HandOver)
        driver.world.master.errors.append(reply)
        driver.run()
        shown = f"{failure(driver)}{failure(driver)!r}{driver.plan!r}{driver.plan.summary(driver.now)}{driver.pages}"
        assert "key:" not in shown


def test_the_account_ends_when_the_scan_is_left() -> None:
    """Whatever is asked of it later, and once it has ended it has ended."""
    plan = ScanPlan(scan_options(), failover_timeout=10.0, now=5.0, jitter=float)
    assert plan.summary(6.0).elapsed == 1.0
    plan.closed(7.0)
    plan.closed(9.0)
    assert plan.summary(99.0).elapsed == 2.0
