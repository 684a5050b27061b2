"""A scan with details of its keys: when they are asked for, what it costs, and that no page is lost while it waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import InvalidResponse

from tests.core._scan_model import (
    A,
    B,
    Driver,
    World,
    failure,
    is_complete,
    keys_named,
    questions_in,
    reasons,
    scan_options,
    scans_in,
)
from trio_sentinel_scan._core import details as details_module, scan_steps as steps
from trio_sentinel_scan._core.cursor import CursorFormat, rev64
from trio_sentinel_scan._core.details import KeyDetails, WaitingRoom
from trio_sentinel_scan._core.errors import AuthenticationFailed, ScanRestartsExhausted, ServerUnavailable
from trio_sentinel_scan._core.identity import Role, ServerIdentity
from trio_sentinel_scan._core.pacing import Pacing
from trio_sentinel_scan._core.scan_replies import ROLE_REQUEST
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.summary import ScanPage
from trio_sentinel_scan._core.sweep import ROLE_PERIOD, Sweep
from trio_sentinel_scan._core.verdicts import parse_error_reply

KEYS = keys_named(60)
ALL = KeyDetails._fields
SERVER = ServerIdentity("a" * 40, A)
LOADING = parse_error_reply("LOADING Redis is loading")
NO_LFU = parse_error_reply("ERR An LFU maxmemory policy is not selected, access frequency not tracked.")
NOPERM = parse_error_reply("NOPERM No permissions to access a key")


def a_page(*keys: Any) -> ScanPage[Any]:
    return ScanPage(list(keys), 0, SERVER, None)


def asked(log: list[steps.Step]) -> list[tuple[str, bytes]]:
    """All questions about keys that these steps sent."""
    return [question for step in log if isinstance(step, steps.Ask) for question in questions_in(step.data)]


# ---- a pass ----------------------------------------------------------------------------------------------------


UNTOLD = Role("")


def a_sweep(role: Role = UNTOLD, **options: Any) -> Sweep:
    """With one segment."""
    arguments = {"segments": 1, "count": 10, "with_": ["ttl"], "has_sentinels": False}
    return Sweep(scan_options(**{**arguments, **options}), SERVER, role, CursorFormat.REVERSED)


class Rounds:
    """Sends the rounds of a sweep and answers them as it is told."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.cursors: deque[int] = deque()

    def send(self, now: float = 0.0, *, page_in_hand: bool = False) -> tuple[int, int, bool] | None:
        """How many questions and SCANs are in the next round, and whether a ROLE is; None if there is none."""
        this = self.sweep.next_round(now, page_in_hand=page_in_hand)
        if this is None:
            return None
        assert this == self.sweep.next_round(now, page_in_hand=page_in_hand)
        self.sweep.sent(now)
        questions, scans = questions_in(this.data), scans_in(this.data)
        self.cursors.extend(cursor for cursor, _ in scans)
        role = this.data.endswith(ROLE_REQUEST)
        assert this.replies == len(questions) + len(scans) + role
        assert not questions or this.data.startswith(b"*2\r\n$3\r\nTTL"), "the page that waits comes first"
        return len(questions), len(scans), role

    def scan(self, *keys: bytes) -> tuple[int, list[bytes]]:
        """The reply to the oldest SCAN that has none."""
        return rev64(rev64(self.cursors.popleft()) + 1), list(keys)

    def receive(self, *replies: Any, now: float = 0.0, waited: bool = True) -> Any:
        """What comes of these; keys wait for their details."""
        found = self.sweep.received(replies, now, waited=waited)
        assert self.sweep.details is not None
        if found.keys:
            self.sweep.details.add([a_page(*found.keys)])
        return found


def test_questions_ride_with_every_other_round_of_scans() -> None:
    """Those in between show what a SCAN costs."""
    rounds = Rounds(a_sweep())
    sent = []
    for number in range(6):
        this = rounds.send()
        assert this is not None
        sent.append(this[:2])
        rounds.receive(*[1] * this[0], rounds.scan(b"%d" % number))
    assert sent == [(0, 1), (1, 1), (0, 1), (2, 1), (0, 1), (2, 1)]


def test_the_last_questions_go_by_themselves_and_the_sweep_ends_with_them() -> None:
    rounds = Rounds(a_sweep())
    rounds.send()
    rounds.receive((0, [b"a", b"b"]))
    assert not rounds.sweep.swept
    assert rounds.send() == (2, 0, False)
    assert rounds.send() is None
    rounds.receive(1)
    assert not rounds.sweep.swept
    assert rounds.receive(2).came_on
    assert rounds.sweep.details is not None
    assert not rounds.sweep.swept
    assert len(rounds.sweep.details.take_ready()) == 1
    assert rounds.sweep.swept


def test_questions_do_not_get_between_the_scans() -> None:
    """While a round is on its way that others will follow, they wait for the next one."""
    rounds = Rounds(a_sweep(segments=4))
    assert rounds.send() == (0, 2, False)
    assert rounds.send() == (0, 2, False)
    rounds.receive(rounds.scan(b"a"))
    assert rounds.send() is None
    rounds.receive(rounds.scan(b"b"))
    assert rounds.send() == (2, 2, False)
    assert rounds.send(page_in_hand=True) is None


def test_a_server_that_asked_for_patience_is_asked_nothing() -> None:
    rounds = Rounds(a_sweep())
    rounds.send()
    rounds.receive(rounds.scan(b"a"))
    rounds.send()
    found = rounds.receive(LOADING, LOADING)
    assert (found.wait, found.error, found.came_on, found.keys) == (LOADING, None, False, [])
    assert rounds.send() is None
    rounds.sweep.told_to_wait = False
    assert rounds.send() == (0, 1, False)
    rounds.receive(rounds.scan())
    assert rounds.send() == (1, 1, False)


@pytest.mark.parametrize("reply", [b"x", 5, None, "x"], ids=repr)
def test_a_scan_is_not_answered_by_what_is_said_of_a_key(reply: Any) -> None:
    rounds = Rounds(a_sweep())
    rounds.send()
    assert isinstance(rounds.receive(reply).error, InvalidResponse)


def test_when_too_many_keys_wait_no_more_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """I5. Their details are asked for meanwhile, in two rounds at once."""
    monkeypatch.setattr(details_module, "MOST_WAITING", 4)
    monkeypatch.setattr(details_module, "MOST_KEYS", 2)
    sweep = a_sweep(segments=2)
    rounds = Rounds(sweep)
    assert sweep.details is not None
    assert rounds.send() == (0, 1, False)
    assert rounds.send() == (0, 1, False)
    for page in (a_page(b"a", b"b"), a_page(b"c", b"d"), a_page(b"e", b"f")):
        sweep.details.add([page])
    rounds.receive(rounds.scan())
    assert rounds.send() == (2, 0, False)
    assert rounds.send() is None
    rounds.receive(rounds.scan())
    assert rounds.send() == (2, 0, False)
    rounds.receive(1, 2)
    assert len(sweep.details.take_ready()) == 1
    assert rounds.send() == (2, 0, False)
    rounds.receive(1, 2)
    assert len(sweep.details.take_ready()) == 1
    assert rounds.send() == (0, 1, False)


def test_a_role_rides_with_questions_alone_too() -> None:
    """However long it takes, the server's role is known."""
    rounds = Rounds(a_sweep(Role("master")))
    rounds.send()
    rounds.receive((0, [b"a"]))
    assert rounds.send(now=ROLE_PERIOD) == (1, 0, True)
    rounds.receive(1)
    assert rounds.sweep.details is not None
    rounds.sweep.details.take_ready()
    assert not rounds.sweep.swept
    rounds.receive(Role("master"))
    assert rounds.sweep.swept


def test_a_read_with_a_bad_role_in_it_brings_no_details() -> None:
    """Nothing of it counts; what was asked is asked again."""
    linked = Role("slave", link="connected")
    rounds = Rounds(a_sweep(linked))
    rounds.send()
    rounds.receive(rounds.scan(b"a"), linked)
    assert rounds.send(now=ROLE_PERIOD) == (1, 1, True)
    found = rounds.receive(1, rounds.scan(b"b"), Role("slave", link="connect"))
    assert found.unfit is not None
    assert rounds.sweep.details is not None
    assert rounds.sweep.details.take_ready() == []
    rounds.sweep.connection_lost()
    assert rounds.send(now=ROLE_PERIOD) == (1, 1, True)


def test_questions_that_are_looked_at_when_the_connection_dies_are_asked_on_the_next() -> None:
    rounds = Rounds(a_sweep())
    rounds.send()
    rounds.receive(rounds.scan(b"a"))
    assert rounds.sweep.next_round(0.0, page_in_hand=False) is not None
    rounds.sweep.connection_lost()
    assert rounds.send() == (1, 1, False)
    # Some of the answers came, so the round was not too large for the connection.
    rounds.receive(1)
    rounds.sweep.connection_lost()
    assert rounds.send() == (0, 1, False)
    rounds.sweep.connection_lost()
    assert rounds.sweep._pacing.count(1) == 10


# ---- the pace --------------------------------------------------------------------------------------------------


@pytest.fixture
def first_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether the time until a first byte came was taken for what SCANs cost, for each."""
    found: list[bool] = []

    def first_byte(pacing: Pacing, sent: float, asked: int, now: float, *, waited: bool) -> None:
        found.append(waited)

    monkeypatch.setattr(Pacing, "first_byte", first_byte)
    return iter([found])


def test_scans_behind_questions_do_not_show_what_they_cost(first_bytes: Iterator[list[bool]]) -> None:
    """Whether their replies come together or not; those of the next round do."""
    found = next(first_bytes)
    rounds = Rounds(a_sweep())
    rounds.send()
    rounds.receive(rounds.scan(b"a", b"b"))
    assert rounds.send() == (2, 1, False)
    rounds.receive(1)
    assert found == [True]
    rounds.receive(2, rounds.scan(b"c"))
    assert found == [True, False]
    assert rounds.send() == (0, 1, False)
    rounds.receive(rounds.scan(b"d"))
    assert found == [True, False, True]
    assert rounds.send() == (2, 1, False)
    rounds.receive(1, 2)
    rounds.receive(rounds.scan())
    assert found == [True, False, True, False]


def test_a_round_whose_first_byte_comes_with_answers_does_not_either(first_bytes: Iterator[list[bool]]) -> None:
    """Nor one that was sent while nothing but questions was on its way."""
    found = next(first_bytes)
    sweep = a_sweep(segments=2)
    rounds = Rounds(sweep)
    rounds.send()
    rounds.send()
    rounds.receive(rounds.scan(b"a"), rounds.scan(b"b"))
    assert rounds.send() == (2, 1, False)
    assert rounds.send() == (0, 1, False)
    rounds.receive(1, 2, rounds.scan(), rounds.scan())
    assert found == [True, False]
    assert sweep.details is not None
    sweep.details.take_ready()

    sweep.rests_until = 5.0
    sweep.details.add([a_page(b"c")])
    assert rounds.send(now=1.0) == (1, 0, False)
    assert rounds.send(now=1.0) is None
    assert rounds.send(now=5.0) == (0, 1, False)
    rounds.receive(1, now=6.0)
    rounds.receive(rounds.scan(), now=7.0)
    assert found == [True, False, False]


def test_a_duty_rests_for_questions_too() -> None:
    """By what they seem to cost: from when the server was free for them to when the last reply came."""
    pacing = Pacing(10, 0.25)
    pacing.first_byte(0.0, 10, 1.0, waited=True)
    assert pacing.told(1.0, 100, 2.0, waited=False) == 0.0
    assert pacing.told(2.0, 100, 5.0, waited=True) == pytest.approx(3 * 2.0)
    # Nobody looked: they cost what they did before.
    assert pacing.told(5.0, 50, 99.0, waited=False) == pytest.approx(3 * 1.0)
    assert Pacing(10, 1.0).told(0.0, 100, 5.0, waited=True) == 0.0
    rounds = Rounds(a_sweep(duty=0.5))
    rounds.send(now=0.0)
    rounds.receive((0, [b"a"]), now=1.0)
    rests = rounds.sweep.rests_until
    assert rounds.send(now=1.0) == (1, 0, False)
    rounds.receive(1, now=9.0)
    assert rounds.sweep.rests_until > max(rests, 9.0)


# ---- a scan ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", [1, 3, 8])
@pytest.mark.parametrize("page_size", [None, 1, 3])
@pytest.mark.parametrize("batch", [1, 3, 1000])
@pytest.mark.parametrize("names", [ALL, ["memory"]])
def test_a_quiet_scan_has_the_details_of_each_key(
    segments: int, page_size: int | None, batch: int, names: tuple[str, ...]
) -> None:
    """Each asked for once, however the replies come."""
    driver = Driver(World(KEYS), segments=segments, page_size=page_size, with_=names)
    driver.batch = batch
    driver.run()
    is_complete(driver)
    process = driver.world.master
    for page in driver.pages:
        for key in page:
            there = process.details_of(key)
            assert page.details[key] == KeyDetails(**{name: getattr(there, name) for name in names})
    positions = [page.position or 0.0 for page in driver.pages]
    assert positions == sorted(positions)
    assert positions[-1] == 1.0
    assert len(asked(driver.log)) == len(names) * sum(len(page) for page in driver.pages)


def test_without_it_nothing_is_asked() -> None:
    driver = Driver(World(KEYS))
    driver.run()
    is_complete(driver)
    assert asked(driver.log) == []
    assert {len(page.details) for page in driver.pages} == {0}


def lose_at(driver: Driver, replies_in: int) -> None:
    """The connection dies when this many of the replies to questions about keys have come."""
    while not (isinstance(step := driver.step(), steps.Ask) and questions_in(step.data)):
        driver.take_all()
    driver.batch = 1
    for _ in range(replies_in):
        driver.go_to(steps.Receive)
        driver.finish()
    driver.batch = 1000
    assert driver.link is not None
    driver.link.alive = False


@pytest.mark.parametrize("replies_in", [0, 1, 3, 7, 12])
@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("dedupe", [False, True])
def test_a_page_whose_connection_dies_before_its_details_came_is_not_lost(
    replies_in: int, segments: int, dedupe: bool
) -> None:
    """Its cursor was committed with its keys. The same process is asked about them again, on the next connection."""
    driver = Driver(World(KEYS), segments=segments, with_=["type", "ttl"], dedupe=dedupe, page_size=3)
    lose_at(driver, replies_in)
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 1)
    # No SCAN was sent a second time for their sake.
    assert sum(driver.handed[0].values()) == len(KEYS)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_without_asking_again_such_pages_would_be_lost(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """The guard: what was asked about in vain goes back in line. Without it: it goes down with its connection."""

    def forget(room: WaitingRoom) -> None:
        for waiting in room._asked:
            room._pages.remove(waiting)
        room._asked.clear()

    if not guarded:
        monkeypatch.setattr(WaitingRoom, "connection_lost", forget)
    driver = Driver(World(KEYS), with_=["ttl"])
    lose_at(driver, 1)
    driver.run()
    assert driver.complete
    assert bool(driver.missed()) is not guarded


@pytest.mark.parametrize("to", [A, B])
def test_a_page_that_waits_goes_with_its_pass(to: Any) -> None:
    """Another process would speak of another one's keys."""
    driver = Driver(World(KEYS), with_=ALL)
    while not (isinstance(step := driver.step(), steps.Ask) and questions_in(step.data)):
        driver.take_all()
    if to == A:
        driver.world.restart()
    else:
        driver.world.fail_over(B)
        driver.hear()
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 1
    assert {page.server for page in driver.pages if page.epoch == 1} == {driver.world.master.identity()}


def test_the_pass_is_swept_only_when_the_last_details_have_come() -> None:
    """And when the connection dies then, the pass is scanned to its end, not drained."""
    driver = Driver(World(keys_named(4)), with_=["ttl"], count=100)
    step = driver.go_to(steps.Ask)
    driver.finish()
    while not questions_in(step.data):
        driver.step()
        step = driver.log[-1] if isinstance(driver.log[-1], steps.Ask) else step
    assert driver.plan.state is State.SCANNING
    assert scans_in(step.data) == []
    assert driver.link is not None
    driver.link.alive = False
    driver.go_to(steps.Connect)
    driver.finish()
    assert driver.plan.state is State.SCANNING
    driver.run()
    is_complete(driver)
    assert driver.plan.summary(driver.now).scans == 1


def test_a_checkpoint_does_not_include_a_page_that_waits() -> None:
    """It is of pages that were handed out; a scan that goes on from it has the others."""
    world = World(KEYS)
    driver = Driver(world, with_=["ttl"])
    for _ in range(3):
        driver.go_to(steps.HandOver)
        driver.take_all()
    text = driver.pages[-1].checkpoint
    seen = set(driver.handed[0])
    rest = Driver(world, with_=["ttl"], resume=text)
    rest.run()
    assert rest.complete
    assert rest.plan.epoch == 0
    assert seen | set(rest.handed[0]) == set(KEYS)


def test_keys_that_go_in_between_are_told_of() -> None:
    driver = Driver(World(KEYS), with_=ALL, segments=1)
    driver.go_to(steps.Receive)
    driver.finish()
    for key in KEYS:
        driver.delete(key)
    driver.run()
    is_complete(driver)
    found = {details for page in driver.pages for details in page.details.values()}
    assert found == {KeyDetails("none", -2)}


@pytest.mark.parametrize("errors", [1, 5, 20])
def test_a_server_that_loads_or_is_busy_is_waited_for(errors: int) -> None:
    """On the same connection, and asked again."""
    driver = Driver(World(KEYS), with_=["type", "ttl"])
    driver.world.master.question_errors.extend([None, "BUSY Redis is busy"] * errors)
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 0)
    assert {details[:2] for page in driver.pages for details in page.details.values()} <= {
        ("string", 8),
        ("hash", 8),
    }


@pytest.mark.parametrize("segments", [1, 8])
def test_the_patience_with_details_has_an_end(monkeypatch: pytest.MonkeyPatch, segments: int) -> None:
    """SCANs that go on are no reason to wait for ever, nor to fetch more and more: I4 and I5."""
    monkeypatch.setattr(details_module, "MOST_WAITING", 50)
    world = World(keys_named(2000))
    driver = Driver(world, with_=["ttl"], segments=segments, count=5)
    most = 0
    while driver.plan.error is None and driver.now < 1000:
        if not world.master.question_errors:
            world.master.question_errors.extend(["CLUSTERDOWN Hash slot not served"] * 100)
        driver.now += 0.01
        driver.step()
        sweep = driver.plan._sweep
        assert sweep is None or sweep.details is not None
        most = max(most, sweep.details._keys if sweep is not None and sweep.details is not None else 0)
    assert isinstance(failure(driver), ServerUnavailable)
    # The model's table gives some sixty keys to each SCAN, and so many of them may be on their way.
    assert 50 <= most < 50 + segments * 75
    assert driver.pages == []


@pytest.mark.parametrize("code", ["MASTERDOWN Link", "READONLY no", "ERR max number of clients reached"])
def test_an_error_that_means_look_again_or_reconnect_is_heeded(code: str) -> None:
    driver = Driver(World(KEYS), with_=["ttl"])
    driver.world.master.question_errors.extend([None, code])
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 1)


def test_a_password_that_is_asked_for_ends_the_scan() -> None:
    driver = Driver(World(KEYS), with_=["ttl"])
    driver.world.master.question_errors.append("NOAUTH Authentication required.")
    driver.run()
    assert isinstance(failure(driver), AuthenticationFailed)


def test_connections_that_never_bring_details_are_counted() -> None:
    """I4: each that yields nothing counts like a restart."""
    driver = Driver(World(KEYS), with_=["ttl"], max_restarts=3)
    while driver.plan.error is None:
        driver.take_all()
        if isinstance(step := driver.step(), steps.Ask) and questions_in(step.data):
            assert driver.link is not None
            driver.link.alive = False
    assert isinstance(failure(driver), ScanRestartsExhausted)
    assert driver.plan.summary(driver.now).reconnects == 3 + 2


def test_a_role_between_two_pages_that_wait() -> None:
    """Two pages wait, and the bad news comes with the first one's details: neither goes out."""
    driver = Driver(World(KEYS), with_=["ttl"], segments=2, prefetch=10)
    while len(driver.pages) < 4:
        driver.take_all()
        driver.step()
    driver.now += ROLE_PERIOD
    driver.world.master.role = "slave"
    while driver.plan.epoch == 0:
        driver.take_all()
        driver.step()
    out = len([page for page in driver.pages if page.epoch == 0])
    assert out <= 4 + 5
    driver.world.fail_over(B)
    driver.hear()
    driver.run()
    is_complete(driver)
    assert reasons(driver)[0] == "the server's role is slave, it was master"
