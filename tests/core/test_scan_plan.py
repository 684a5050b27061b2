"""A scan's decisions, driven by hand: what is done next, what comes of it, and how it ends."""

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
    cursors_asked,
    failure,
    is_complete,
    keys_named,
    kinds,
    reasons,
    scan_options,
    scans_in,
)
from trio_sentinel_scan._core import scan_patience, scan_steps as steps
from trio_sentinel_scan._core.certificate import Evidence, Undecided
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.errors import (
    AuthenticationFailed,
    ConfigError,
    ProtocolError,
    ResponseTimeout,
    RoleMismatch,
    ScanError,
    ScanInterrupted,
    ScanNotCertified,
    ScanRefused,
    ScanRestartsExhausted,
    ScanStuck,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
)
from trio_sentinel_scan._core.identity import Role, ServerIdentity
from trio_sentinel_scan._core.scan_failures import lost_by
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.scan_steps import Target
from trio_sentinel_scan._core.summary import ScanPage

KEYS = keys_named(60)


# ---- 1: nothing happens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 5, 60])
@pytest.mark.parametrize("form", list(CursorFormat))
@pytest.mark.parametrize("prefetch", [0, 1, 10])
def test_a_quiet_scan_hands_out_each_key_and_ends(number: int, form: CursorFormat, prefetch: int) -> None:
    """In one epoch, whether or not the cursors' format is known."""
    # The model's tables are not per slot: that format is taken back on the way, in test_a_format_... below.
    form = CursorFormat.REVERSED if form is CursorFormat.SLOTS else form
    driver = Driver(World(keys_named(number), form=form), prefetch=prefetch)
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects, summary.restarts) == (0, 0, ())
    assert sum(driver.handed.get(0, {}).values()) == number
    assert not any(len(page) == 0 for page in driver.pages)


def test_the_steps_of_a_quiet_scan() -> None:
    """The next SCAN is sent before a page is handed over, so that the server works while the consumer does."""
    driver = Driver(World(keys_named(10)), count=4)
    driver.run()
    log = kinds(driver.log)
    assert log[:4] == ["Locate", "Connect", "Ask", "Receive"]
    assert log[-4:] == ["HandOver", "AwaitTaken", "Certify", "Finish"]
    middle = log[4:-4]
    assert middle == ["Ask", "HandOver", "Receive"] * (len(middle) // 3)
    asked = [asked for step in driver.log if isinstance(step, steps.Ask) for asked in scans_in(step.data)]
    assert asked[0] == (0, 4)
    assert all(cursor != 0 and count == 4 for cursor, count in asked[1:])


def test_an_empty_database_needs_no_page() -> None:
    """It goes from the only reply to the certificate."""
    driver = Driver(World())
    driver.run()
    assert kinds(driver.log) == ["Locate", "Connect", "Ask", "Receive", "Certify", "Finish"]
    is_complete(driver)


def test_asking_again_gives_the_same_step() -> None:
    """Whatever the state: a step is not used up by being looked at."""
    driver = Driver(World(KEYS))
    while not driver.ended:
        driver.take_all()
        first, again = driver.plan.next_step(driver.now), driver.plan.next_step(driver.now)
        assert first == again
        driver.step()


@pytest.mark.parametrize("form", [CursorFormat.REVERSED, CursorFormat.UNKNOWN])
def test_positions_strictly_rise_to_the_end(form: CursorFormat) -> None:
    """Where the format is known; elsewhere there is none until the end (I9)."""
    driver = Driver(World(KEYS, form=form))
    assert driver.plan.summary(driver.now).position == 0.0
    driver.run()
    positions = [page.position for page in driver.pages]
    assert positions[-1] == 1.0
    if form is CursorFormat.UNKNOWN:
        assert set(positions[:-1]) == {None}
    else:
        known = [position for position in positions if position is not None]
        assert len(known) == len(positions)
        assert all(before < after for before, after in itertools.pairwise(known))


def test_a_page_says_where_it_comes_from() -> None:
    """Its epoch and the process that answered."""
    driver = Driver(World(KEYS))
    driver.run()
    assert {page.epoch for page in driver.pages} == {0}
    assert {page.server for page in driver.pages} == {driver.world.master.identity()}


def test_a_scan_may_begin_at_a_callers_cursor() -> None:
    """And goes on from there; a restart begins at 0 all the same."""
    world = World(KEYS)
    whole = Driver(world)
    whole.run()
    cursors = cursors_asked(whole.log)
    rest = Driver(world, cursor=cursors[3])
    rest.run()
    assert rest.complete
    assert [page.keys for page in rest.pages] == [page.keys for page in whole.pages[3:]]

    restarted = Driver(world, cursor=cursors[3])
    restarted.go_to(steps.AwaitTaken)
    world.fail_over(B)
    restarted.hear()
    restarted.run()
    is_complete(restarted)
    assert set(restarted.handed[1]) == set(KEYS)


# ---- 2: the master dies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [steps.Ask, steps.Receive, steps.HandOver])
@pytest.mark.parametrize("pages", [0, 1, 4])
def test_a_master_that_dies_in_mid_scan_is_followed(at: type[steps.Step], pages: int) -> None:
    """Between pages and with a SCAN in flight: a new epoch on the next master, from cursor 0."""
    driver = Driver(World(KEYS))
    for _ in range(pages):
        driver.go_to(steps.HandOver)
    driver.go_to(at)
    driver.world.fail_over(B, kill=True)
    if driver.pending is not None:
        driver.report(steps.Lost("connection closed"))
    # The Sentinels take their time; the old address refuses.
    for _ in range(5):
        driver.take_all()
        driver.step()
    assert driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 1
    assert reasons(driver) == ["MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379"]
    (restart,) = summary.restarts
    assert restart.old_server is not None
    assert restart.old_server.address == A
    assert restart.new_server == driver.world.master.identity()
    assert summary.server == driver.world.master.identity()


def test_a_restart_tells_how_long_it_took_to_the_first_page() -> None:
    """From the change's becoming known to the new pass's first page; and when it was, from the scan's beginning."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.Receive)
    driver.now += 2.0
    driver.world.fail_over(B)
    driver.hear()
    (restart,) = driver.plan.summary(driver.now).restarts
    assert (restart.at, restart.new_server, restart.first_page_after) == (2.0, None, None)
    driver.go_to(steps.HandOver)
    driver.now += 0.5
    driver.take()
    driver.now += 9.0
    driver.take_all()
    (restart,) = driver.plan.summary(driver.now).restarts
    assert (restart.at, restart.first_page_after) == (2.0, 0.5)


def test_a_summary_is_not_changed_by_what_comes_after() -> None:
    """It is the account up to the moment when it was asked for."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.Receive)
    driver.world.fail_over(B)
    driver.hear()
    before = driver.plan.summary(driver.now)
    driver.run()
    assert before.restarts[0].new_server is None
    assert before.elapsed == 0.0


def test_time_stands_still_when_the_scan_has_ended() -> None:
    """`elapsed` is how long it took."""
    driver = Driver(World(KEYS))
    driver.now += 3.0
    driver.run()
    assert driver.plan.summary(driver.now + 100.0).elapsed == 3.0


# ---- 3: the master hangs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [steps.Connect, steps.Receive, steps.Certify])
def test_a_wait_on_a_master_that_hangs_is_aborted_by_the_sentinels_word(at: type[steps.Step]) -> None:
    """Not by a timeout; what it may have said meanwhile is not listened to."""
    world = World(KEYS)
    driver = Driver(world)
    if at is steps.Connect:
        world.master.hangs = True
    driver.go_to(steps.Connect if at is steps.Connect else at)
    world.master.hangs = True
    step, _ = driver.pending or (None, None)
    driver.pending = (driver.log[-1], None)
    assert driver.is_waiting
    world.fail_over(B)
    assert driver.hear()
    assert driver.link is None
    state = driver.plan.state
    assert step is not None
    driver.plan.report(step, steps.Answered([(0, [b"late"])]), driver.now)
    assert driver.plan.state is state
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 1


def test_a_back_off_is_cut_short_by_the_sentinels_word() -> None:
    """There is somewhere to go."""
    world = World(KEYS)
    driver = Driver(world)
    driver.go_to(steps.Receive)
    world.kill(A)
    driver.report(steps.Lost("connection closed"))
    step = driver.go_to(steps.Rest)
    assert step.seconds >= 0.0
    world.fail_over(B)
    assert driver.hear()
    driver.run()
    is_complete(driver)


def test_without_any_sentinel_the_response_timeout_ends_the_wait() -> None:
    """And the same process, when it is there again, goes on with the cursor."""
    driver = Driver(World(KEYS), has_sentinels=False)
    driver.go_to(steps.HandOver)
    driver.world.master.hangs = True
    driver.go_to(steps.Receive)
    driver.time_out()
    assert driver.link is None
    driver.go_to(steps.Connect)
    driver.world.master.hangs = False
    driver.time_out()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 1)


# ---- 4: cursor 0 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [steps.Connect, steps.Ask, steps.Receive])
def test_a_failover_before_the_first_reply_ends_nothing(at: type[steps.Step]) -> None:
    """That the cursor is 0 means the beginning here, not the end."""
    driver = Driver(World(KEYS))
    driver.go_to(at)
    driver.world.fail_over(B, kill=True)
    assert driver.hear()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 1


def test_a_failover_right_after_a_restart_ends_nothing() -> None:
    """The cursor is 0 again, and nothing was swept."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    for to in (B, C, A):
        driver.world.fail_over(to, kill=True)
        assert driver.hear()
        driver.go_to(steps.Ask)
        driver.finish()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 3


def test_a_change_before_the_scan_has_looked_for_a_server_is_none() -> None:
    """It will look, and find the new one."""
    driver = Driver(World(KEYS))
    driver.world.fail_over(B)
    assert not driver.hear()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 0


def test_a_change_that_is_found_by_looking_voids_the_pass_too() -> None:
    """The listener may not have run before the producer looks."""
    world = World(KEYS)
    driver = Driver(world)
    driver.go_to(steps.Receive)
    world.fail_over(B, kill=True)
    driver.report(steps.Lost("connection closed"))
    world.known = world.named
    driver.go_to(steps.Connect)
    assert driver.plan.epoch == 1
    assert not driver.heed()
    driver.finish()
    driver.run()
    is_complete(driver)


def test_a_change_that_is_found_by_looking_interrupts_where_restarts_are_forbidden() -> None:
    """The same rules, whoever finds it."""
    world = World(KEYS)
    driver = Driver(world, on_failover="raise")
    driver.go_to(steps.Receive)
    world.fail_over(B, kill=True)
    driver.report(steps.Lost("connection closed"))
    world.known = world.named
    driver.run()
    assert isinstance(failure(driver), ScanInterrupted)


# ---- 5: the last page ------------------------------------------------------------------------------------------


def test_a_failover_while_the_last_page_is_in_flight_voids_the_pass() -> None:
    """Its cursor 0 comes from a dead master."""
    driver = Driver(World(keys_named(4)))
    driver.go_to(steps.Receive)
    driver.world.fail_over(B)
    assert driver.hear()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 1
    assert 0 not in driver.handed


def test_a_failover_while_pages_wait_voids_the_pass() -> None:
    """What waits in the channel is not handed out, and does not count as handed out (I2)."""
    driver = Driver(World(keys_named(20)), prefetch=10)
    driver.go_to(steps.AwaitTaken, taking=False)
    assert len(driver.channel) > 1
    driver.take()
    driver.world.fail_over(B)
    assert driver.hear()
    waiting = len(driver.channel)
    assert [driver.take() for _ in range(waiting)] == [None] * waiting
    assert driver.plan.summary(driver.now).pages == 1
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 1


def test_a_failover_while_the_last_page_is_in_hand_voids_the_pass() -> None:
    """The page is not put into the channel any more."""
    driver = Driver(World(keys_named(4)))
    driver.go_to(steps.Receive)
    driver.finish()
    step = driver.plan.next_step(driver.now)
    assert isinstance(step, steps.HandOver)
    driver.world.fail_over(B)
    assert driver.hear()
    assert not driver.plan.handing_over(step)
    driver.run()
    is_complete(driver)


def test_a_page_is_handed_over_once() -> None:
    """A step that was done is done."""
    driver = Driver(World(keys_named(4)))
    step = driver.go_to(steps.HandOver)
    assert not driver.plan.handing_over(step)


@pytest.mark.parametrize("at", [steps.AwaitTaken, steps.Certify])
def test_a_failover_after_the_last_page_was_taken_and_before_the_certificate_voids_the_pass(
    at: type[steps.Step],
) -> None:
    """Complete is what is certified, and nothing else."""
    driver = Driver(World(keys_named(20)))
    driver.go_to(at)
    driver.take_all()
    driver.world.fail_over(B)
    assert driver.hear()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 1
    assert set(driver.handed) == {0, 1}


def test_a_failover_after_the_certificate_changes_nothing() -> None:
    """The scan is over."""
    driver = Driver(World(KEYS))
    driver.run()
    driver.world.fail_over(B)
    assert not driver.hear()
    is_complete(driver)


def test_the_certificate_waits_for_the_last_page_to_be_taken() -> None:
    """Pages in the channel can still be voided; a certificate before would cover keys that nobody received."""
    driver = Driver(World(keys_named(20)), prefetch=10)
    driver.go_to(steps.AwaitTaken, taking=False)
    while driver.channel:
        assert driver.is_waiting
        assert driver.plan.state is State.DRAINING
        assert not driver.plan.all_taken
        assert driver.pending is not None
        # Even a driver that says otherwise is not believed.
        driver.plan.report(driver.pending[0], steps.Taken(), driver.now)
        assert driver.plan.state is State.DRAINING
        driver.take()
    assert driver.plan.all_taken
    driver.finish()
    driver.run()
    is_complete(driver)


# ---- 6: a planned failover -------------------------------------------------------------------------------------


def test_a_planned_failover_is_noticed_before_the_next_page_is_handed_out() -> None:
    """The old master answers on for seconds; none of its pages is handed out once the change is known (I2)."""
    world = World(KEYS)
    driver = Driver(world, prefetch=10)
    for _ in range(6):
        driver.step()
    old = world.master
    world.fail_over(B)
    # Nobody has heard of it yet: its pages are genuine pages of what was the master.
    driver.go_to(steps.HandOver)
    assert driver.take() is not None
    handed = len(driver.pages)
    # Now it is known, though the listener has not run: the consumer's side heeds it.
    world.known = world.named
    driver.go_to(steps.HandOver, taking=False)
    assert driver.channel
    while driver.channel:
        assert driver.take() is None
    driver.run()
    assert all(page.server != old.identity() for page in driver.pages[handed:])
    is_complete(driver)


def test_a_master_that_was_demoted_without_a_word_is_refused_at_the_certificate() -> None:
    """FAILOVER and REPLICAOF tell nobody: the server's own role does, and then nothing is done until it is clear."""
    world = World(KEYS)
    driver = Driver(world)
    driver.go_to(steps.HandOver)
    world.fail_over(B)
    world.demote_old_masters()
    driver.go_to(steps.Certify)
    driver.finish()
    assert driver.plan.epoch == 1
    assert "role is slave, it was master" in reasons(driver)[0]
    # It may not be scanned any more, and no pass is wasted on it.
    for _ in range(10):
        driver.step()
    assert driver.plan.epoch == 1
    driver.hear()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 2


# ---- 7: the same address, another process; the same process, another connection --------------------------------


@pytest.mark.parametrize("at", [steps.Ask, steps.Receive, steps.AwaitTaken, steps.Certify])
def test_a_restart_at_the_same_address_is_a_new_epoch(at: type[steps.Step]) -> None:
    """No Sentinel says a word: the run_id does, on the new connection, which is used at once."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    driver.go_to(at)
    driver.world.restart()
    if driver.pending is not None and at is not steps.AwaitTaken:
        driver.report(steps.Lost("connection closed"))
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 1
    assert reasons(driver) == ["another process answers at this address: the server was restarted"]
    assert summary.reconnects == 0
    assert kinds(driver.log).count("Connect") == 2
    assert summary.restarts[0].new_server == driver.world.master.identity()
    assert summary.restarts[0].new_server != summary.restarts[0].old_server


@pytest.mark.parametrize("at", [steps.Ask, steps.Receive, steps.Certify])
def test_a_connection_that_dies_costs_nothing_if_the_process_lives(at: type[steps.Step]) -> None:
    """CLIENT KILL, a proxy, an idle timeout: the cursor goes on, in the same epoch."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    driver.go_to(at)
    driver.report(steps.Lost("connection closed"))
    assert driver.link is None
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 1)
    assert sum(driver.handed[0].values()) == len(KEYS)


def test_a_swept_pass_is_not_swept_again_on_a_new_connection() -> None:
    """What is missing is only the certificate."""
    driver = Driver(World(keys_named(4)))
    driver.go_to(steps.Certify)
    driver.report(steps.Lost("connection closed"))
    driver.run()
    is_complete(driver)
    assert kinds(driver.log).count("Receive") == 1


@pytest.mark.parametrize("on_failover, max_restarts", [("raise", 10), ("restart", 0), ("raise", 0)])
def test_a_new_connection_to_the_same_process_is_no_restart(on_failover: str, max_restarts: int) -> None:
    """So it is allowed where restarts are not."""
    driver = Driver(World(KEYS), on_failover=on_failover, max_restarts=max_restarts)
    for _ in range(3):
        driver.go_to(steps.HandOver)
        driver.go_to(steps.Receive)
        driver.report(steps.Lost("connection closed"))
    summary = driver.run()
    is_complete(driver)
    assert summary.reconnects == 3


def test_a_process_that_does_not_tell_its_run_id_is_another_on_each_connection() -> None:
    """INFO is forbidden: nothing could tell a restarted server from the old one."""
    driver = Driver(World(KEYS, tell_run_id=False))
    for _ in range(3):
        driver.go_to(steps.HandOver)
        driver.go_to(steps.Receive)
        driver.report(steps.Lost("connection closed"))
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (3, 0)
    assert set(reasons(driver)) == {"a new connection, and the server does not tell which process it is"}


def test_the_old_process_at_a_new_beginning_is_still_a_new_beginning() -> None:
    """A failover there and back to one and the same process: its cursor would be good, its pages were dropped."""
    world = World(KEYS)
    driver = Driver(world)
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    world.fail_over(B)
    world.demote_old_masters()
    world.fail_over(A)
    world.demote_old_masters()
    assert driver.hear()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 1
    first = cursors_asked(driver.log)
    assert first.count(0) == 2


# ---- 8: many failovers -----------------------------------------------------------------------------------------


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
    assert pauses[-1] == pauses[-2] == scan_patience.BACK_OFF[-1] * 1.25
    world.nodes[A] = process
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    driver.report(steps.Lost("connection closed"))
    assert driver.go_to(steps.Rest).seconds == 0.0


def test_waiting_for_a_master_ends_at_the_failover_timeout() -> None:
    """With what the last problem was, and without spinning (I4)."""
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


# ---- 9: on_failover="raise" ------------------------------------------------------------------------------------


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
    """What the next pass would run on is not known yet: it would take a connection of its own."""
    driver = Driver(World(KEYS, honest=False), on_failover="raise")
    driver.run()
    error = failure(driver)
    assert isinstance(error, ScanInterrupted)
    assert (error.old_server, error.new_server) == (driver.world.master.identity(), None)


# ---- 10: the consumer ------------------------------------------------------------------------------------------


def test_the_connection_dies_with_a_page_in_hand() -> None:
    """The page is handed out and the cursor goes on: they were committed together (I1)."""
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


# ---- 11: Sentinels and permissions -----------------------------------------------------------------------------


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
        assert step.seconds == scan_patience.HESITATION
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


@pytest.mark.parametrize("reply", ["MASTERDOWN Link", "READONLY no", "ERR max number of clients"])
def test_a_server_that_is_not_the_one_to_ask_is_left_and_looked_up_again(reply: str) -> None:
    """Over a new connection; the same process goes on with its cursor."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    driver.world.master.errors.append(reply)
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 1)


def test_a_redirect_is_as_good_as_a_role() -> None:
    """The server has left its role, so its pass is void; the Sentinels are asked, and the address is not looked at."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    driver.world.master.errors.append("REDIRECT 10.0.0.99:6379")
    while driver.plan.epoch == 0:
        driver.take_all()
        driver.step()
    assert driver.plan.suspects_failover
    driver.run()
    is_complete(driver)
    assert reasons(driver) == ["the server is no master any more: it answers REDIRECT"]
    assert driver.pages[-1].server.address == A


def test_a_server_that_does_not_know_its_cursor_is_asked_from_the_start() -> None:
    """On a new connection, in a new epoch: replies to other SCANs may be on their way on the old one."""
    driver = Driver(World(KEYS, form=CursorFormat.UNKNOWN))
    driver.go_to(steps.HandOver)
    driver.go_to(steps.HandOver)
    driver.world.master.errors.append("ERR invalid cursor(master node idx out of range)")
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (1, 0)
    assert kinds(driver.log).count("Connect") == 2
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


def test_a_format_that_turns_out_wrong_is_taken_back_with_a_restart() -> None:
    """Positions that do not rise are none; from then on nothing is assumed, on this server or the next."""
    world = World(KEYS, honest=False)
    driver = Driver(world)
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 1
    assert "do not rise" in reasons(driver)[0]
    assert kinds(driver.log).count("Connect") == 2
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
    """The pass would never end (I4, I9)."""
    driver = Driver(World(form=CursorFormat.UNKNOWN))
    for cursor in itertools.chain(cursors, itertools.cycle(cursors[-2:])):
        driver.go_to(steps.Receive)
        driver.report(steps.Answered([(cursor, [])]))
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
        driver.report(steps.Answered([(5, [])]))
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


# ---- several segments ------------------------------------------------------------------------------------------


several = pytest.mark.parametrize("segments", [2, 3, 8, 64])


@several
@pytest.mark.parametrize("batch", [1, 2, 1000])
@pytest.mark.parametrize("number", [0, 1, 5, 60])
def test_a_quiet_scan_in_segments_hands_out_each_key_and_ends(number: int, segments: int, batch: int) -> None:
    """However many replies a read brings; positions strictly rise through all of them."""
    driver = Driver(World(keys_named(number)), segments=segments)
    driver.batch = batch
    summary = driver.run()
    is_complete(driver)
    assert summary.segments == segments
    assert set(driver.handed.get(0, {})) == driver.world.keys
    positions = [page.position for page in driver.pages if page.position is not None]
    assert positions == sorted(set(positions))


def test_there_are_no_segments_while_there_is_no_pass() -> None:
    """The number belongs to the server that is scanned."""
    driver = Driver(World(KEYS), segments=4)
    assert driver.plan.summary(driver.now).segments == 0
    driver.go_to(steps.Receive)
    assert driver.plan.summary(driver.now).segments == 4
    driver.world.fail_over(B)
    driver.hear()
    assert driver.plan.summary(driver.now).segments == 0


@several
@pytest.mark.parametrize("change", ["failover", "restart"])
def test_a_restart_voids_segments_that_have_ended_too(segments: int, change: str) -> None:
    """They are another process's: its order is another."""
    driver = Driver(World(KEYS), segments=segments, count=1)
    driver.batch = 1
    while driver.plan._sweep is None or driver.plan._bound._segments._left == segments:
        driver.go_to(steps.Receive)
        driver.finish()
    if change == "failover":
        driver.world.fail_over(B)
        driver.hear()
    else:
        driver.world.restart()
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 1
    assert set(driver.handed[1]) == set(KEYS)


@several
def test_patience_for_some_of_the_scans(segments: int) -> None:
    """What the others brought is handed out meanwhile."""
    driver = Driver(World(KEYS), segments=segments, count=2)
    driver.go_to(steps.Ask)
    driver.world.master.errors.extend(["LOADING Redis is loading"])
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 0)
    assert kinds(driver.log).count("Rest") == 1


def test_progress_between_requests_for_patience_keeps_the_time_from_running_out() -> None:
    """A server that answers some of the SCANs is there."""
    driver = Driver(World(KEYS), segments=4, count=2, failover_timeout=5.0)
    # Of each read, which may have a ROLE in it, one SCAN at least is answered.
    driver.batch = 3
    driver.world.master.errors.extend([None, "LOADING x"] * 100)
    while not driver.ended:
        if isinstance(driver.go_to((steps.Receive, steps.Certify)), steps.Certify):
            break
        driver.now += 2.0
    driver.run()
    is_complete(driver)
    assert driver.now > 120.0


def test_a_new_connection_that_brought_something_before_patience_was_asked_for_is_not_fruitless() -> None:
    """Each time."""
    driver = Driver(World(KEYS), segments=8, count=2, max_restarts=1)
    driver.batch = 2
    for _ in range(4):
        driver.go_to(steps.Receive)
        driver.report(steps.Lost("connection closed"))
        driver.world.master.errors.extend([None, "LOADING x"])
        driver.go_to(steps.Receive)
        driver.finish()
    summary = driver.run()
    is_complete(driver)
    assert summary.reconnects == 4


def test_a_page_size_cuts_what_one_read_brought() -> None:
    """Each part has a position of its own; the last one's is exact."""
    driver = Driver(World(KEYS), segments=4, count=100, page_size=7)
    driver.run()
    is_complete(driver)
    assert {len(page) for page in driver.pages[:-1]} <= set(range(1, 8))
    positions = [page.position for page in driver.pages if page.position is not None]
    assert positions == sorted(set(positions))
    assert positions[-1] == 1.0


def test_parts_of_a_page_in_an_unknown_format_have_no_position() -> None:
    """But for the very last."""
    driver = Driver(World(KEYS, form=CursorFormat.UNKNOWN), count=100, page_size=20)
    driver.run()
    is_complete(driver)
    assert [page.position for page in driver.pages] == [None, None, 1.0]


def test_a_share_of_the_servers_time_is_kept_by_resting() -> None:
    """Between rounds, on the connection, without being in any other state."""
    driver = Driver(World(KEYS), count=5, duty=0.5)
    rests = []
    while not driver.ended:
        driver.take_all()
        step = driver.begin()
        if isinstance(step, steps.Rest):
            assert driver.plan.state is State.SCANNING
            rests.append(step.seconds)
        if isinstance(step, steps.Receive):
            driver.now += 0.1 if len(driver.pages) else 0.0
        if driver.pending is not None:
            driver.finish()
    is_complete(driver)
    assert rests
    assert sum(rests) == pytest.approx(driver.now - 100.0, rel=0.6)


@several
def test_a_server_that_refuses_cursors_that_it_has_not_issued_is_scanned_in_one_chain(segments: int) -> None:
    """Its format is not the one it was taken for: the restarts are not spent on trying the same again."""
    driver = Driver(World(KEYS, honest=False), segments=segments, max_restarts=1)
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.segments) == (1, 1)
    assert reasons(driver) == ["the server does not know its cursor"]


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
        steps.Answered([(0, [b"late"])]),
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
    driver.plan.crashed(ValueError(), driver.now)
    assert driver.plan.error is error

    complete = Driver(World())
    complete.run()
    complete.plan.crashed(crash, complete.now)
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
        assert pauses == pytest.approx([seconds * factor for seconds in scan_patience.BACK_OFF[:4]])


def test_no_message_of_a_scan_has_a_key_in_it() -> None:
    """Neither its errors nor its reprs (I11)."""
    for reply in ("NOPERM no", "ERR unknown command 'SCAN', with args beginning with: 'key:0001' "):
        driver = Driver(World(KEYS))
        driver.go_to(steps.HandOver)
        driver.world.master.errors.append(reply)
        driver.run()
        shown = f"{failure(driver)}{failure(driver)!r}{driver.plan!r}{driver.plan.summary(driver.now)}{driver.pages}"
        assert "key:" not in shown


# ---- the end of time, and of the account -----------------------------------------------------------------------


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


# ---- what a failed step means -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, is_final",
    [
        (ServerConnectionError("gone"), False),
        (ResponseTimeout("late"), False),
        (RoleMismatch("a replica"), False),
        (AuthenticationFailed("refused"), True),
        (ProtocolError("nonsense"), True),
        (ConfigError("db", "is not there"), True),
    ],
)
def test_what_trying_again_cannot_mend(error: SentinelScanError, is_final: bool) -> None:
    """It ends the scan as itself."""
    lost = lost_by(error, Driver(World(KEYS)).plan.summary(100.0))
    assert lost.problem == str(error)
    assert lost.final is (error if is_final else None)


def test_a_key_that_cannot_be_decoded_ends_the_scan_and_is_not_shown() -> None:
    """The error that Python raises has it."""
    with pytest.raises(UnicodeDecodeError) as caught:
        b"secret\xff".decode()
    lost = lost_by(caught.value, Driver(World(KEYS)).plan.summary(100.0))
    assert isinstance(lost.final, ScanError)
    assert "secret" not in f"{lost.problem} {lost.final}"
    assert "surrogateescape" in str(lost.final)
