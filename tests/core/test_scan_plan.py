"""A scan's way through what may happen to servers: what is done next, driven by hand; and that it ends as complete."""

from __future__ import annotations

import itertools

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
)
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.errors import (
    ScanInterrupted,
)
from trio_sentinel_scan._core.scan_states import State

KEYS = keys_named(60)


# ---- nothing happens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 5, 60])
@pytest.mark.parametrize("form", [CursorFormat.REVERSED, CursorFormat.UNKNOWN])
@pytest.mark.parametrize("prefetch", [0, 1, 10])
def test_a_quiet_scan_hands_out_each_key_and_ends(number: int, form: CursorFormat, prefetch: int) -> None:
    """In one epoch, whether or not the cursors' format is known."""
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
    commands = [step.command for step in driver.log if isinstance(step, steps.Ask)]
    assert commands[0] == (b"SCAN", 0, b"COUNT", 4)
    assert all(command[1] != 0 for command in commands[1:])


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
    """Where the format is known; elsewhere there is none until the end."""
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
    cursors = [int(step.command[1]) for step in whole.log if isinstance(step, steps.Ask)]
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


# ---- the master dies -------------------------------------------------------------------------------------------


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


# ---- the master hangs ------------------------------------------------------------------------------------------


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
    driver.plan.report(step, steps.Replied(0, [b"late"]), driver.now)
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


# ---- cursor 0 --------------------------------------------------------------------------------------------------


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


# ---- the last page ---------------------------------------------------------------------------------------------


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
    """What waits in the channel is not handed out, and does not count as handed out."""
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


def test_a_new_pass_is_not_taken_for_swept() -> None:
    """A connection that dies before the new pass's first reply finds everything still to be swept."""
    driver = Driver(World(keys_named(20)))
    driver.go_to(steps.AwaitTaken)
    driver.world.fail_over(B)
    assert driver.hear()
    assert driver.plan.summary(driver.now).position == 0.0
    driver.go_to(steps.Receive)
    driver.report(steps.Lost("connection closed"))
    driver.run()
    is_complete(driver)
    assert set(driver.handed[1]) == driver.world.keys


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


# ---- a planned failover ----------------------------------------------------------------------------------------


def test_a_planned_failover_is_noticed_before_the_next_page_is_handed_out() -> None:
    """The old master answers on for seconds; none of its pages is handed out once the change is known."""
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


# ---- the same address, another process; the same process, another connection -----------------------------------


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
    first = [int(step.command[1]) for step in driver.log if isinstance(step, steps.Ask)]
    assert first.count(0) == 2
