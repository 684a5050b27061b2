"""One pass on one server: rounds, what their replies come to, and what is asked again when a connection dies."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, TypeAlias

import pytest
from redis.exceptions import InvalidResponse

from tests.core._scan_model import A, B, C, keys_named, scan_options, scans_in
from tests.core._tables import LargeTable, SlotTables, Table
from trio_sentinel_scan._core.cursor import CursorFormat, rev64
from trio_sentinel_scan._core.identity import Role, ServerIdentity
from trio_sentinel_scan._core.pacing import Pacing
from trio_sentinel_scan._core.scan_replies import ROLE_REQUEST, ScanReply
from trio_sentinel_scan._core.sweep import Round, Sweep, Yield
from trio_sentinel_scan._core.verdicts import parse_error_reply

KEYS = keys_named(300)
LOADING = parse_error_reply("LOADING Redis is loading")
BUSY = parse_error_reply("BUSY Redis is busy")
NOPERM = parse_error_reply("NOPERM no")
SERVER = ServerIdentity("a" * 40, A)
UNTOLD = Role("")


def a_sweep(
    *, form: CursorFormat = CursorFormat.REVERSED, cursor: int = 0, role: Role = UNTOLD, **options: Any
) -> Sweep:
    """One whose server does not tell its role, unless it is given one."""
    options = {"segments": "auto", "count": 10, **options}
    return Sweep(scan_options(**options), SERVER, role, form, cursor=cursor)


def ask(sweep: Sweep, now: float = 0.0) -> list[tuple[int, int]]:
    """Send the next round."""
    this = sweep.next_round(now, page_in_hand=False)
    assert this is not None
    sweep.sent(now)
    asked = scans_in(this.data)
    assert len(asked) == this.replies
    return asked


def run(sweep: Sweep, table: Any) -> list[bytes]:
    """To its end, every reply in a read of its own; the keys."""
    keys: list[bytes] = []
    waiting: deque[tuple[int, int]] = deque()
    while not sweep.swept:
        while (this := sweep.next_round(0.0, page_in_hand=False)) is not None:
            sweep.sent(0.0)
            waiting.extend(scans_in(this.data))
        assert sweep.is_waiting_for_replies
        found = sweep.received([table.scan(*waiting.popleft())], 0.0)
        assert (found.error, found.wait, found.out_of_order) == (None, None, False)
        keys += found.keys
    assert not sweep.is_waiting_for_replies
    assert sweep.next_round(0.0, page_in_hand=False) is None
    return keys


# ---- rounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", ["auto", 1, 2, 3, 16, 64])
@pytest.mark.parametrize("count", [None, 1, 10, 1000])
def test_a_sweep_brings_every_key(segments: Any, count: int | None) -> None:
    sweep = a_sweep(segments=segments, count=count)
    assert set(run(sweep, LargeTable(KEYS, bits=9))) == set(KEYS)
    assert sweep.position == 1.0


def test_how_many_segments_there_are_is_the_callers_or_the_servers_business() -> None:
    """By itself it goes by the COUNT, and by whether there is any order in the cursors."""
    assert a_sweep(segments=5).segments == 5
    assert a_sweep().segments == 64
    assert a_sweep(count=None).segments == 16
    assert a_sweep(form=CursorFormat.SLOTS, count=None).segments == 16
    assert a_sweep(form=CursorFormat.UNKNOWN).segments == 1
    assert a_sweep(form=CursorFormat.UNKNOWN, segments=5).segments == 1
    assert a_sweep(cursor=7).segments == 1


def test_a_sweep_of_slots_begins_at_slots() -> None:
    tables = SlotTables({slot: Table([b"%d" % slot]) for slot in (0, 5000, 16383)})
    sweep = a_sweep(form=CursorFormat.SLOTS, segments=4)
    assert set(run(sweep, tables)) == {b"0", b"5000", b"16383"}


def test_a_round_is_half_of_the_segments() -> None:
    """While the server works on one half, the other half's pages are on their way through us."""
    sweep = a_sweep(segments=5)
    assert [cursor for cursor, _ in ask(sweep)] == [rev64(index * 2**64 // 5) for index in (4, 3, 2)]
    assert [cursor for cursor, _ in ask(sweep)] == [rev64(index * 2**64 // 5) for index in (1, 0)]
    assert sweep.next_round(0.0, page_in_hand=False) is None
    assert sweep.is_waiting_for_replies


def test_a_round_that_is_looked_at_is_not_sent() -> None:
    """It is the same until it is; when the connection dies under it, it is asked again."""
    sweep = a_sweep(segments=4)
    first = sweep.next_round(0.0, page_in_hand=False)
    assert isinstance(first, Round)
    assert sweep.next_round(5.0, page_in_hand=True) == first
    assert not sweep.is_waiting_for_replies
    sweep.connection_lost()
    assert sweep.next_round(0.0, page_in_hand=False) == first


def test_a_second_round_lets_the_page_in_hand_go_first() -> None:
    """Else the server would find the two together, and make one of them."""
    sweep = a_sweep(segments=4)
    ask(sweep)
    assert sweep.next_round(0.0, page_in_hand=True) is None
    ask(sweep)
    assert [len(sweep.received([(2**63 - 1, [])] * 2, 0.0).keys) for _ in range(2)] == [0, 0]
    # Something was received: the first of two rounds goes out before the page.
    assert sweep.next_round(0.0, page_in_hand=True) is not None


# ---- replies ---------------------------------------------------------------------------------------------------


def test_the_keys_of_one_read_are_one_list() -> None:
    sweep = a_sweep(segments=2)
    ask(sweep)
    ask(sweep)
    found = sweep.received([(rev64(2**63 + 5), [b"b"]), (rev64(5), [b"a", b"c"])], 0.0)
    assert found.keys == [b"b", b"a", b"c"]
    assert sweep.position == 10 / 2**64


def test_a_round_may_be_answered_in_pieces() -> None:
    """And one read may bring the end of one round and the beginning of the next."""
    sweep = a_sweep(segments=6)
    ask(sweep)
    ask(sweep)
    table = LargeTable(KEYS, bits=9)
    replies: list[ScanReply] = [table.scan(rev64(index * 2**64 // 6), 10) for index in (5, 4, 3, 2, 1, 0)]
    expected = [key for reply in replies if isinstance(reply, tuple) for key in reply[1]]
    keys = [key for part in (replies[:1], replies[1:5], replies[5:]) for key in sweep.received(part, 0.0).keys]
    assert keys == expected
    assert not sweep.is_waiting_for_replies


@pytest.mark.parametrize("refused", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_a_request_for_patience_is_for_the_scans_that_it_answers(refused: tuple[int, ...]) -> None:
    """The others have gone on. Nothing more is asked until the wait is over."""
    sweep = a_sweep(segments=6)
    asked = ask(sweep)
    table = LargeTable(KEYS, bits=9)
    replies: list[ScanReply] = [LOADING if i in refused else table.scan(*asked[i]) for i in range(3)]
    expected = sum(len(reply[1]) for reply in replies if isinstance(reply, tuple))
    found = sweep.received(replies, 0.0)
    assert found.wait is LOADING
    assert (found.error, found.out_of_order) == (None, False)
    assert len(found.keys) == expected
    assert sweep.told_to_wait
    assert sweep.next_round(0.0, page_in_hand=False) is None
    sweep.told_to_wait = False
    again = [*ask(sweep), *ask(sweep)]
    assert len(again) == 6
    assert {asked[i] for i in refused} <= set(again)
    assert all(asked[i] not in again for i in range(3) if i not in refused)


def test_the_last_request_for_patience_is_the_one_that_is_told() -> None:
    sweep = a_sweep(segments=6)
    ask(sweep)
    assert sweep.received([LOADING, BUSY], 0.0).wait is BUSY


def test_what_a_server_refused_says_nothing_about_what_a_scan_costs() -> None:
    """A server that loads answers at once and brings no keys; that is no reason to ask for more."""
    sweep = a_sweep(segments=8, count=None)
    counts = []
    for _ in range(20):
        counts.append({count for _, count in ask(sweep)})
        sweep.received([LOADING] * 4, 0.0)
        sweep.told_to_wait = False
    assert counts == [{10}] * 20
    assert sweep._pacing.count(8) == 10


def test_a_round_that_adapts_is_of_few_large_scans() -> None:
    """Each has its cost, to us and to the server. Where the network is slow, more rounds are on their way."""
    sweep = a_sweep(segments=16, count=None)
    asked: list[list[tuple[int, int]]] = []
    for now in (0.0, 0.002):
        while sweep.next_round(now, page_in_hand=False) is not None:
            asked.append(ask(sweep, now))
        if not now:
            assert [len(this) for this in asked] == [4, 4]
            sweep.received([(rev64(rev64(cursor) + 1), []) for cursor, _ in asked[0]], 0.002)
    # Two milliseconds there and back: sixteen SCANs in as many rounds as there are segments to spread over them.
    assert sum(map(len, asked)) == 16 + 4
    assert {len(this) for this in asked[2:]} == {2}


@pytest.mark.parametrize("segments, count", [(16, None), (8, 100), (1, 100)])
def test_no_more_rounds_are_on_their_way_than_the_pace_allows(segments: int, count: int | None) -> None:
    """A piece of a round that is back is no reason for another: the rest of it comes with the next read."""
    sweep = a_sweep(segments=segments, count=count)
    sent = []
    while sweep.next_round(0.0, page_in_hand=False) is not None:
        sent.append(len(ask(sweep)))
    assert len(sent) == min(2, segments)
    if sent[0] > 1:
        sweep.received([(2**62, [])], 0.0)
        assert sweep.next_round(0.0, page_in_hand=False) is None


@pytest.mark.parametrize("first_error_at", [0, 1])
def test_an_error_ends_the_read_and_what_came_before_it_counts(first_error_at: int) -> None:
    """It says whether its SCAN went on from somewhere; the rest of the connection's replies are of no use."""
    sweep = a_sweep(segments=2)
    ask(sweep)
    ask(sweep)
    replies: list[ScanReply] = [(0, [b"b"]), (rev64(9), [b"a"])]
    replies.insert(first_error_at, NOPERM)
    found = sweep.received(replies[:2], 0.0)
    assert found.error is NOPERM
    assert found.keys == [b"b"][:first_error_at]
    # The second half begins at a cursor, the first one at 0.
    assert found.had_cursor is (first_error_at == 0)


def test_a_request_for_patience_before_an_error_is_told_too() -> None:
    sweep = a_sweep(segments=4)
    ask(sweep)
    found = sweep.received([LOADING, NOPERM], 0.0)
    assert (found.wait, found.error) == (LOADING, NOPERM)


def test_a_cursor_that_does_not_rise_ends_the_read() -> None:
    sweep = a_sweep(segments=4)
    ask(sweep)
    found = sweep.received([(0, [b"d"]), (rev64(7), [b"c"])], 0.0)
    assert found.out_of_order
    assert found.keys == [b"d"]
    assert sweep.position == 0.25


def test_the_end_of_one_segment_is_not_the_end() -> None:
    """A cursor 0 ends the segment that it answers."""
    sweep = a_sweep(segments=2)
    ask(sweep)
    ask(sweep)
    assert sweep.received([(0, [b"b"])], 0.0).keys == [b"b"]
    assert not sweep.swept
    assert sweep.received([(0, [b"a", b"b"])], 0.0).keys == [b"a"]
    assert sweep.swept


# ---- a connection that dies ------------------------------------------------------------------------------------


def test_what_was_on_its_way_is_asked_again() -> None:
    """From what was committed: a reply that came is not asked for twice."""
    sweep = a_sweep(segments=4)
    asked = [*ask(sweep), *ask(sweep)]
    sweep.received([(rev64(2**63 + 2**62 + 5), [b"d"]), LOADING], 0.0)
    sweep.connection_lost()
    assert not sweep.told_to_wait
    assert not sweep.is_waiting_for_replies
    again = [cursor for cursor, _ in [*ask(sweep), *ask(sweep)]]
    assert again == [rev64(2**63 + 2**62 + 5), *[cursor for cursor, _ in asked[1:]]]


def test_rounds_that_bring_not_a_byte_are_perhaps_too_large() -> None:
    """For the connection's output buffer. Once may be chance; from the second time on, each is half of the last."""
    sweep = a_sweep(segments=2, count=64)
    for count in (32, 32, 32, 16):
        assert [n for _, n in ask(sweep)] == [count]
        sweep.connection_lost()
    assert sweep._pacing.count(2) == 8


def test_a_connection_that_was_killed_once_costs_no_speed() -> None:
    """Whoever did that, it was not for the size of a round: others came before and after."""
    sweep = a_sweep(segments=1, count=64)
    for reach in range(1, 6):
        ask(sweep)
        sweep.connection_lost()
        ask(sweep)
        sweep.received([(rev64(reach), [])], 0.0)
    assert sweep._pacing.count(1) == 64


def test_a_connection_that_dies_in_the_midst_of_a_round_was_able_to_take_it() -> None:
    """Even if its first byte came in no time at all."""
    sweep = a_sweep(segments=4, count=64)
    ask(sweep)
    sweep.received([(0, [])], 0.0)
    sweep.connection_lost()
    assert sweep._pacing.count(4) == 64
    # Nor is one to blame that had nothing to do.
    sweep.connection_lost()
    assert sweep._pacing.count(4) == 64


# ---- pace ------------------------------------------------------------------------------------------------------


def test_without_a_duty_nothing_rests() -> None:
    sweep = a_sweep(segments=1)
    assert sweep.rests_until == -math.inf
    cursor = 2**63
    for now in range(5):
        ask(sweep, now)
        sweep.received([(cursor, [])], now + 0.9)
        cursor >>= 1
        cursor |= 2**63
        assert sweep.rests_until <= now + 0.9


FirstBytes: TypeAlias = list[tuple[float, int, float, bool]]


@pytest.fixture
def first_bytes(monkeypatch: pytest.MonkeyPatch) -> FirstBytes:
    """What the pacing is told of first bytes: when the round was sent, its COUNT, when it came, if it was awaited."""
    found: FirstBytes = []

    def first_byte(pacing: Pacing, sent: float, asked: int, now: float, *, waited: bool) -> None:
        found.append((sent, asked, now, waited))

    monkeypatch.setattr(Pacing, "first_byte", first_byte)
    return found


@pytest.fixture
def charged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What each round was charged with: its COUNT, its keys. Its rest is three seconds."""
    rounds: list[tuple[int, int]] = []

    def replied(pacing: Pacing, asked: int, keys: int) -> float:
        rounds.append((asked, keys))
        return 3.0

    monkeypatch.setattr(Pacing, "replied", replied)
    return rounds


def test_a_duty_rests_after_each_round(charged: list[tuple[int, int]]) -> None:
    """Two rounds in one read rest for both, and each is charged with what it brought itself."""
    sweep = a_sweep(segments=2)
    ask(sweep, 1.0)
    ask(sweep, 1.0)
    sweep.received([(rev64(2**63 + 1), [b"b"])], 2.0)
    assert sweep.rests_until == 5.0
    assert sweep.next_round(4.9, page_in_hand=False) is None
    sweep.received([(rev64(1), [])], 3.0)
    assert sweep.rests_until == 8.0
    ask(sweep, 11.0)
    ask(sweep, 11.0)
    sweep.received([(rev64(2**63 + 2), [b"c", b"d"]), (rev64(2), [b"a"])], 12.0)
    assert sweep.rests_until == 18.0
    assert charged == [(10, 1), (10, 0), (10, 2), (10, 1)]


def test_a_round_is_timed_by_its_first_byte(charged: list[tuple[int, int]], first_bytes: FirstBytes) -> None:
    """What comes later is our own reading. What was refused is not counted."""
    sweep = a_sweep(segments=6)
    ask(sweep, 0.0)
    sweep.received([(0, [b"f"])], 1.0)
    sweep.received([LOADING], 3.0)
    sweep.received([(0, [b"d", b"e"])], 8.0)
    assert first_bytes == [(0.0, 30, 1.0, True)]
    assert charged == [(20, 3)]
    assert sweep.rests_until == 11.0


def test_rounds_that_come_together_are_timed_as_one(first_bytes: FirstBytes) -> None:
    """From when the first of them was sent. Whether they were awaited is passed on."""
    sweep = a_sweep(segments=4)
    ask(sweep, 1.0)
    ask(sweep, 2.0)
    sweep.received([(0, [])], 3.0, waited=False)
    sweep.received([(0, []), (0, [])], 4.0)
    sweep.received([(0, [])], 5.0)
    assert first_bytes == [(1.0, 20, 3.0, False), (2.0, 20, 4.0, True)]
    sweep = a_sweep(segments=4)
    ask(sweep, 1.0)
    ask(sweep, 2.0)
    sweep.received([(0, [])] * 4, 6.0)
    assert first_bytes[2:] == [(1.0, 40, 6.0, True)]


def test_what_was_refused_is_timed_as_if_nobody_had_looked(first_bytes: FirstBytes) -> None:
    """It is quick, and says nothing of what a SCAN costs."""
    sweep = a_sweep(segments=2)
    ask(sweep, 1.0)
    ask(sweep, 1.0)
    sweep.received([(0, [])], 2.0)
    sweep.received([LOADING], 3.0)
    assert first_bytes == [(1.0, 10, 2.0, True), (1.0, 10, 3.0, False)]


# ---- the role that rides along -----------------------------------------------------------------------------------

MASTER = Role("master", frozenset({B, C}))


def asks_role(sweep: Sweep, now: float) -> bool:
    """Send the next round; whether there is a ROLE in it."""
    this = sweep.next_round(now, page_in_hand=False)
    assert this is not None
    sweep.sent(now)
    return this.data.endswith(ROLE_REQUEST) and this.replies == len(scans_in(this.data)) + 1


def with_role(role: Role, reply: Any, **options: Any) -> Yield:
    """What comes of this reply to the ROLE that rode along with a round that brought a key."""
    sweep = a_sweep(role=role, segments=1, **options)
    told = [role] if asks_role(sweep, 0.0) else []
    # (A replica is asked with each round.)
    assert bool(told) is (role.kind == "slave")
    sweep.received([(2**62, [b"a"]), *told], 0.0)
    assert asks_role(sweep, 1.0)
    return sweep.received([(2**61, [b"b"]), reply], 1.0)


def test_the_role_rides_along_four_times_a_second() -> None:
    """Not with the first round: it was told with the handshake."""
    sweep = a_sweep(role=MASTER, segments=1)
    asked = []
    cursor = 2**63
    for tick in range(100):
        now = tick / 100
        asked.append(asks_role(sweep, now))
        cursor = rev64(rev64(cursor) + 1)
        sweep.received([(cursor, []), *([MASTER] if asked[-1] else [])], now)
    assert [tick for tick, was in enumerate(asked) if was] == [25, 50, 75]
    assert sweep.scans == 100


@pytest.mark.parametrize("role", [MASTER, Role("master"), Role("master", frozenset({B, C, A}))])
def test_a_good_role_changes_nothing(role: Role) -> None:
    found = with_role(MASTER, role)
    assert (found.keys, found.unfit, found.lost_replicas) == ([b"b"], None, not {B, C} <= role.replicas)


@pytest.mark.parametrize(
    "was, is_now, has_sentinels",
    [
        (MASTER, Role("slave", link="connected"), True),
        (MASTER, Role("slave", link="sync"), False),
        (Role("slave", link="connected"), Role("master"), False),
        (Role("slave", link="connected"), Role("slave", link="connect"), False),
    ],
)
def test_a_read_with_a_bad_role_in_it_brings_nothing(was: Role, is_now: Role, has_sentinels: bool) -> None:
    """Not even what came before it in the same read."""
    assert with_role(was, is_now, has_sentinels=has_sentinels) == Yield([], unfit=is_now)


def test_keys_of_a_read_with_a_bad_role_in_it_are_asked_for_again() -> None:
    """Cursors and keys go together: neither was committed."""
    linked = Role("slave", link="connected")
    sweep = a_sweep(role=linked, segments=1, has_sentinels=False)
    assert asks_role(sweep, 0.0)
    sweep.received([(2**62, [b"a"]), linked], 0.0)
    assert asks_role(sweep, 0.0)
    sweep.received([(2**61, [b"b"]), Role("slave", link="connect")], 1.0)
    sweep.connection_lost()
    this = sweep.next_round(1.1, page_in_hand=False)
    assert this is not None
    assert scans_in(this.data) == [(2**62, 10)]
    assert sweep.scans == 1


def test_what_no_role_has_vouched_for_is_asked_for_again() -> None:
    """A replica that is not in sync may have nothing, and say so."""
    linked = Role("slave", link="connected")
    sweep = a_sweep(role=linked, segments=1, has_sentinels=False)
    asks_role(sweep, 0.0)
    sweep.received([(2**62, [b"a"]), linked], 0.0)
    asks_role(sweep, 0.0)
    sweep.received([(0, [])], 0.0)
    assert list(sweep.cursors) == [None]
    assert list(sweep.standing) == [2**62]
    sweep.go_back()
    assert list(sweep.cursors) == [2**62]
    assert not sweep.swept


def test_what_no_role_has_vouched_for_does_not_outlast_the_connection_to_a_replica() -> None:
    """The ROLE was lost with it; by the next one, the replica may have its data back."""
    linked = Role("slave", link="connected")
    sweep = a_sweep(role=linked, segments=1, has_sentinels=False)
    asks_role(sweep, 0.0)
    assert not sweep.received([(2**62, [b"a"])], 0.0).settled
    assert sweep.received([linked], 0.0).settled
    asks_role(sweep, 0.0)
    assert not sweep.received([(0, [])], 0.0).settled
    sweep.connection_lost()
    assert list(sweep.cursors) == [2**62]
    assert not sweep.swept


def test_a_replica_that_does_not_tell_its_role_is_read_once() -> None:
    """There is nothing to go back to."""
    sweep = a_sweep(role=Role("slave", link="connected"), segments=1, has_sentinels=False)
    asks_role(sweep, 0.0)
    assert sweep.received([(2**62, [b"a"]), NOPERM], 0.0).settled
    sweep.connection_lost()
    assert list(sweep.cursors) == [2**62]


def test_a_role_that_vouches_for_nothing_new_settles_nothing() -> None:
    """A server that is loading tells its role all the same."""
    linked = Role("slave", link="connected")
    sweep = a_sweep(role=linked, segments=1, has_sentinels=False)
    asks_role(sweep, 0.0)
    assert sweep.received([LOADING], 0.0).wait is not None
    assert not sweep.received([linked], 0.0).settled


def test_a_replicas_connection_that_ends_before_each_role_may_have_to_hold_less() -> None:
    """Some bytes come each time, and no ROLE behind them: the next ones are asked for in smaller pieces."""
    sweep = a_sweep(role=Role("slave", link="connected"), segments=2, count=100, has_sentinels=False)
    counts = []
    for _ in range(6):
        this = sweep.next_round(0.0, page_in_hand=False)
        assert this is not None
        counts.append(scans_in(this.data)[0][1])
        sweep.sent(0.0)
        sweep.received([(2**62 + 1, [b"a"])], 0.0)
        sweep.connection_lost()
    assert counts[-1] < counts[0]


@pytest.mark.parametrize("reply, again", [(LOADING, True), (NOPERM, False), ((0, []), False)])
def test_a_role_that_is_not_told(reply: Any, again: bool) -> None:
    """It is asked for again only if that may help. What the SCANs brought counts."""
    sweep = a_sweep(role=MASTER, segments=1)
    ask(sweep)
    sweep.received([(2**62, [b"a"])], 0.0)
    asks_role(sweep, 1.0)
    assert sweep.received([(2**61, [b"b"]), reply], 1.0) == Yield([b"b"], came_on=True, settled=True)
    assert asks_role(sweep, 2.0) is again


def test_replicas_that_are_missing_are_told_once() -> None:
    """And again when one more is missing; a new one is no news."""
    sweep = a_sweep(role=MASTER, segments=1)
    ask(sweep)
    sweep.received([(2**62, [])], 0.0)
    told = []
    cursor = 2**61
    for now, replicas in enumerate([{B, C}, {B}, {B}, {B, A}, set(), {B}], 1):
        assert asks_role(sweep, float(now))
        told.append(sweep.received([(cursor, []), Role("master", frozenset(replicas))], now).lost_replicas)
        cursor = rev64(rev64(cursor) + 1)
    assert told == [False, True, False, False, True, False]


def test_a_role_in_place_of_a_scans_reply_is_nonsense() -> None:
    sweep = a_sweep(role=MASTER, segments=1)
    ask(sweep)
    assert isinstance(sweep.received([MASTER], 0.0).error, InvalidResponse)
