"""What becomes of a cluster's commands: redirected, refused, lost, or answered; and in which order they go again."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import RedisError, ResponseError

from trio_sentinel_scan._core.batches import EXEC, MULTI
from trio_sentinel_scan._core.cluster_work import (
    ASKING,
    MOST_REDIRECTIONS,
    ClusterWork,
    Next,
    Outcome,
    Unit,
    read_redirection,
)
from trio_sentinel_scan._core.commands import Command, read_command
from trio_sentinel_scan._core.errors import (
    CommandOutcomeUnknown,
    ProtocolError,
    RedirectionLoop,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
)
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.in_flight import Written
from trio_sentinel_scan._core.verdicts import parse_error_reply

A, B, C = (Address("10.0.0.1", port) for port in (7000, 7001, 7002))
SLOT = 5
GONE = ServerConnectionError("the connection is gone")

GET = Command("GET", ("GET", b"key"))
SET = Command("SET", ("SET", b"key", b"value"))
INCR = Command("INCR", ("INCR", b"key"))
EVALSHA = Command("EVALSHA", ("EVALSHA", b"sha", 1, b"key"))
LOAD = Command("SCRIPT", ("SCRIPT", "LOAD", b"return 1"))


def error(text: str) -> RedisError:
    return parse_error_reply(text)


def moved(to: Address, slot: int = SLOT) -> RedisError:
    return error(f"MOVED {slot} {to}")


def ask(to: Address, slot: int = SLOT) -> RedisError:
    return error(f"ASK {slot} {to}")


def work_of(*commands: Command, slot: int | None = SLOT, retry_writes: bool = False, **options: Any) -> ClusterWork:
    units = [Unit((command,), slot, keys=frozenset({b"key"})) for command in commands]
    return ClusterWork(units, retry_writes=retry_writes, **options)


def owner(_slot: int | None) -> Address | None:
    return A


def take(
    work: ClusterWork,
    *replies: Any,
    at: Address = A,
    failure: SentinelScanError | None = None,
    written: Written = Written.ALL,
) -> Next:
    work.next_units(owner)
    return work.took(replies, 3, at, failure, written)


def test_an_answer_is_the_outcome() -> None:
    work = work_of(GET)
    assert work.destination(owner) == A
    assert work.next_units(owner) == [0]
    assert work.commands() == [GET]
    assert work.decode() == [True]
    assert work.took([b"value"], 3, A) is Next.DONE
    assert work.outcomes == [Outcome([b"value"], 3)]
    assert not work.pending


@pytest.mark.parametrize(
    "text, found",
    [
        ("MOVED 5 10.0.0.1:7001", (Address("10.0.0.1", 7001), False)),
        ("ASK 5 10.0.0.1:7001", (Address("10.0.0.1", 7001), True)),
        ("MOVED 5 :7001", (Address("10.9.9.9", 7001), False)),
        ("MOVED 5 ?:7001", (Address("10.9.9.9", 7001), False)),
        ("MOVED 5 node.example:7001", (Address("node.example", 7001), False)),
        ("MOVED 5 [fe80::1]:7001", (Address("fe80::1", 7001), False)),
        ("MOVED 5 fe80::1:7001", (Address("fe80::1", 7001), False)),
        ("ERR MOVED 5 10.0.0.1:7001", None),
        ("MOVED elsewhere", None),
        ("TRYAGAIN Multiple keys request during rehashing of slot", None),
    ],
)
def test_a_redirection_is_read(text: str, found: tuple[Address, bool] | None) -> None:
    """Where the host is left out, it is that of the node that answered."""
    redirection = read_redirection(error(text), Address("10.9.9.9", 7000))
    assert (None if redirection is None else (redirection.address, redirection.is_ask)) == found


def test_moved_goes_to_that_node_at_once_and_tells_the_map() -> None:
    work = work_of(SET)
    assert take(work, moved(B)) is Next.AT_ONCE
    assert [(one.slot, one.address) for one in work.moved] == [(SLOT, B)]
    assert not work.map_is_doubtful
    assert work.redirections == 1
    assert work.destination(owner) == B
    assert work.next_units(owner) == [0]
    assert work.commands() == [SET]
    assert take(work, b"OK", at=B) is Next.DONE
    assert work.moved == []
    assert work.redirections == 0


def test_ask_goes_there_behind_asking_for_one_try_and_tells_the_map_nothing() -> None:
    work = work_of(SET)
    assert take(work, ask(B)) is Next.AT_ONCE
    assert work.moved == []
    assert work.destination(owner) == B
    work.next_units(owner)
    assert work.commands() == [ASKING, SET]
    assert work.decode() == [True, True]
    assert take(work, b"OK", error("TRYAGAIN Multiple keys request during rehashing of slot"), at=B) is Next.LATER
    assert work.destination(owner) == A
    assert take(work, ask(B)) is Next.AT_ONCE
    assert take(work, b"OK", b"OK", at=B) is Next.DONE
    assert work.outcomes == [Outcome([b"OK"], 3)]


def test_a_redirection_of_another_slot_is_a_reply() -> None:
    """A script may say what it likes."""
    work = work_of(EVALSHA)
    reply = moved(B, slot=SLOT + 1)
    assert take(work, reply) is Next.DONE
    assert work.outcomes == [Outcome([reply], 3)]


def test_without_a_slot_the_nodes_word_is_final() -> None:
    work = work_of(GET, slot=None)
    reply = moved(B)
    assert take(work, reply) is Next.DONE
    assert work.outcomes == [Outcome([reply], 3)]
    readonly = error("READONLY You can't write against a read only replica.")
    work = work_of(SET, slot=None)
    assert take(work, readonly) is Next.DONE
    work = work_of(SET, slot=None)
    assert take(work, error("LOADING Redis is loading the dataset in memory")) is Next.LATER


def test_a_circle_ends() -> None:
    work = work_of(SET)
    steps: list[Next] = []
    for number in range(MOST_REDIRECTIONS):
        here, there = (A, B) if number % 2 == 0 else (B, A)
        steps.append(take(work, moved(there), at=here))
    assert steps == [Next.AT_ONCE] * 4 + [Next.LATER] * (MOST_REDIRECTIONS - 5) + [Next.DONE]
    (outcome,) = work.outcomes
    assert isinstance(outcome, RedirectionLoop)
    assert (outcome.slot, len(outcome.nodes)) == (SLOT, MOST_REDIRECTIONS)
    assert str(A) in str(outcome)
    assert "slot 5" in str(outcome)
    assert "key" not in str(outcome)


def test_what_was_redirected_and_then_refused_is_in_no_circle() -> None:
    work = work_of(SET)
    for _ in range(MOST_REDIRECTIONS):
        assert take(work, ask(B)) is Next.AT_ONCE
        assert take(work, b"OK", error("CLUSTERDOWN Hash slot not served"), at=B) is Next.LATER


@pytest.mark.parametrize(
    "text",
    [
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN Hash slot not served",
        "CLUSTERDOWN The cluster is down",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "READONLY You can't write against a read only replica.",
    ],
)
def test_what_did_not_run_goes_again_after_a_pause(text: str) -> None:
    work = work_of(SET)
    assert take(work, error(text)) is Next.LATER
    assert work.map_is_doubtful
    assert not work.spends_connection
    assert work.problem is not None
    assert work.slot == SLOT
    assert work.describe() == "SET"
    assert work.pending_commands() == [SET]


def test_a_server_that_hangs_up_is_left() -> None:
    work = work_of(SET)
    assert take(work, error("ERR max number of clients reached")) is Next.LATER
    assert work.spends_connection


@pytest.mark.parametrize(
    "text, goes_again",
    [
        ("TRYAGAIN Multiple keys request during rehashing of slot", True),
        ("CLUSTERDOWN Hash slot not served", True),
        ("CLUSTERDOWN The cluster is down and only accepts read commands", True),
        ("TRYAGAIN says the script", False),
        ("CLUSTERDOWN says the script", False),
        ("LOADING Redis is loading the dataset in memory", False),
        ("READONLY You can't write against a read only replica.", False),
        (f"MOVED {SLOT} {B}", True),
        (f"ASK {SLOT} {B}", True),
        ("NOSCRIPT No matching script.", False),
    ],
)
def test_a_script_goes_again_only_after_what_a_server_says_before_it_begins(text: str, goes_again: bool) -> None:
    assert (take(work_of(EVALSHA), error(text)) is not Next.DONE) is goes_again


# ---- lost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command, written, goes_again",
    [
        (GET, Written.ALL, True),
        (SET, Written.ALL, False),
        (SET, Written.PART, True),
        (SET, Written.NOTHING, True),
    ],
    ids=["read", "write", "half written", "not written"],
)
def test_a_lost_command(command: Command, written: Written, goes_again: bool) -> None:
    work = work_of(command)
    step = take(work, failure=GONE, written=written)
    assert step is (Next.AT_ONCE if goes_again else Next.DONE)
    assert work.map_is_doubtful
    if goes_again:
        assert work.problem is GONE
        assert take(work, failure=GONE, written=Written.NOTHING) is Next.LATER
    else:
        assert isinstance(work.outcomes[0], CommandOutcomeUnknown)
        assert f"SET was sent to {A}" in str(work.outcomes[0])


def test_a_write_that_was_sent_again_leaves_a_doubt() -> None:
    """Whatever ends it: the first try may have run."""
    work = work_of(SET, retry_writes=True)
    assert take(work, failure=GONE) is Next.AT_ONCE
    work.give_up(ServerUnavailable("nobody is there"))
    assert isinstance(work.outcomes[0], CommandOutcomeUnknown)
    assert "nothing came of trying again" in str(work.outcomes[0])
    work = work_of(GET)
    assert take(work, failure=GONE) is Next.AT_ONCE
    away = ServerUnavailable("nobody is there")
    work.give_up(away)
    assert work.outcomes == [away]


def test_what_was_answered_before_the_connection_was_lost_is_answered() -> None:
    work = ClusterWork(
        [Unit((command,), SLOT) for command in (INCR, INCR, GET, INCR)],
        retry_writes=False,
    )
    assert take(work, 1, failure=GONE, written=Written.PART) is Next.AT_ONCE
    assert work.outcomes[0] == Outcome([1], 3)
    assert isinstance(work.outcomes[1], CommandOutcomeUnknown)
    # The last one's end was not written; the one before only reads.
    assert list(work.pending) == [2, 3]


def test_what_broke_the_protocol_was_the_reply_to_the_first() -> None:
    work = ClusterWork([Unit((command,), SLOT) for command in (INCR, GET, SET)], retry_writes=False)
    broken = ProtocolError("it is not RESP")
    assert take(work, failure=broken) is Next.AT_ONCE
    assert work.outcomes[0] is broken
    assert list(work.pending) == [1]
    assert isinstance(work.outcomes[2], CommandOutcomeUnknown)


# ---- several -----------------------------------------------------------------------------------------------------


def test_each_goes_its_own_way() -> None:
    """Those that go to the same node go together."""
    units = [
        Unit((command,), slot, keys=frozenset({b"%d" % slot})) for slot, command in enumerate([SET, GET, INCR, SET])
    ]
    work = ClusterWork(units, retry_writes=False)
    assert take(work, moved(B, 0), b"value", ask(C, 2), moved(B, 3)) is Next.AT_ONCE
    assert work.next_units(owner) == [0, 3]
    assert work.commands() == [SET, SET]
    assert take(work, b"OK", b"OK", at=B) is Next.LATER
    assert work.next_units(owner) == [2]
    assert work.commands() == [ASKING, INCR]
    assert take(work, b"OK", 7, at=C) is Next.DONE
    assert [outcome.replies for outcome in work.outcomes if isinstance(outcome, Outcome)] == [
        [b"OK"],
        [b"value"],
        [7],
        [b"OK"],
    ]


def test_one_that_did_not_run_does_not_overtake_a_later_one_with_its_key() -> None:
    """It would undo what the later one did."""
    work = work_of(SET, SET)
    refusal = error("TRYAGAIN Multiple keys request during rehashing of slot")
    assert take(work, refusal, b"OK") is Next.DONE
    assert work.outcomes == [refusal, Outcome([b"OK"], 3)]
    work = work_of(GET, SET)
    assert take(work, failure=GONE) is Next.DONE
    assert work.outcomes[0] is GONE
    assert isinstance(work.outcomes[1], CommandOutcomeUnknown)


def test_without_that_guard_an_older_write_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """SET 1, SET 2: the first is refused, the second runs, the first is sent again, and 1 is what stays."""
    first, second = (Command("SET", ("SET", b"key", value)) for value in (b"1", b"2"))
    refusal = error("TRYAGAIN Multiple keys request during rehashing of slot")

    def stored() -> object:
        work = work_of(first, second)
        ran: list[object] = []
        answers: dict[int, list[object]] = {0: [refusal], 1: [b"OK"]}
        while work.pending:
            numbers = tuple(work.next_units(owner))
            replies = [answers[number].pop() if answers[number] else b"OK" for number in numbers]
            ran += [
                work.units[number].commands[0].args[-1]
                for number, reply in zip(numbers, replies, strict=True)
                if reply is not refusal
            ]
            work.took(replies, 3, A)
        return ran[-1]

    assert stored() == b"2"
    monkeypatch.setattr(ClusterWork, "_end_overtaken", lambda *_: None)
    assert stored() == b"1"


def test_others_with_that_key_wait_for_it() -> None:
    """The first is sent elsewhere; what is behind it stays behind it."""
    work = work_of(SET, GET)
    assert take(work, ask(B), moved(C)) is Next.AT_ONCE
    assert work.next_units(owner) == [0]
    assert take(work, b"OK", b"OK", at=B) is Next.LATER
    assert work.next_units(owner) == [1]


def test_a_place_that_nobody_answers_at_is_forgotten() -> None:
    work = work_of(SET)
    assert take(work, moved(B)) is Next.AT_ONCE
    work.forget_places()
    assert work.destination(owner) == A


def test_one_that_is_refused_here_is_not_sent() -> None:
    """A cursor that is another process's, for one."""
    work = work_of(GET, INCR)
    work.next_units(owner)
    why = ServerConnectionError("not this one")
    work.refuse(0, why)
    assert work.commands() == [INCR]
    assert work.took([1], 3, A) is Next.DONE
    assert work.outcomes == [why, Outcome([1], 3)]


def test_what_a_blocking_command_has_waited_is_taken_from_its_time() -> None:
    work = ClusterWork([Unit((read_command(("BLPOP", b"key", b"5")),), SLOT)], retry_writes=False)
    assert take(work, error("UNBLOCKED force unblock from blocking operation")) is Next.LATER
    work.waited(2.0)
    assert work.pending_commands()[0].args[-1] == b"3.000"


def test_scripts_go_along_wherever_they_are_run() -> None:
    units = [
        Unit((GET,), 1, keys=frozenset({b"1"}), decode=False),
        Unit((EVALSHA,), 2, keys=frozenset({b"2"}), runs_scripts=True),
    ]
    work = ClusterWork(units, retry_writes=False, loads=[LOAD])
    work.next_units(owner)
    assert work.commands() == [LOAD, GET, EVALSHA]
    assert work.decode() == [True, False, True]
    assert work.took([b"sha", b"value", moved(B, 2)], 3, A) is Next.AT_ONCE
    assert work.load_replies == [b"sha"]
    work.next_units(owner)
    assert work.commands() == [LOAD, EVALSHA]
    assert work.took([b"sha", 1], 2, B) is Next.DONE
    assert work.outcomes == [Outcome([b"value"], 3), Outcome([1], 2)]


# ---- transactions ------------------------------------------------------------------------------------------------

ABORTED = "EXECABORT Transaction discarded because of previous errors."


def transaction() -> ClusterWork:
    return ClusterWork([Unit((MULTI, SET, INCR, EXEC), SLOT, (True, False, True, True))], retry_writes=True)


@pytest.mark.parametrize(
    "replies, asks",
    [
        ((b"OK", moved(B), moved(B), error(ABORTED)), False),
        ((b"OK", b"QUEUED", moved(B), error(ABORTED)), False),
        ((b"OK", b"QUEUED", b"QUEUED", moved(B)), False),
        ((b"OK", ask(B), b"QUEUED", error(ABORTED)), True),
        ((b"OK", b"QUEUED", b"QUEUED", ask(B)), True),
    ],
    ids=["queued nowhere", "not queued", "at EXEC", "asked", "asked at EXEC"],
)
def test_a_transaction_is_redirected_as_one(replies: tuple[Any, ...], asks: bool) -> None:
    work = transaction()
    assert take(work, *replies) is Next.AT_ONCE
    assert work.destination(owner) == B
    work.next_units(owner)
    assert work.commands() == [*([ASKING] if asks else []), MULTI, SET, INCR, EXEC]
    assert work.decode() == [*([True] if asks else []), True, False, True, True]
    done = (*((b"OK",) if asks else ()), b"OK", b"QUEUED", b"QUEUED", [b"OK", 1])
    assert take(work, *done, at=B) is Next.DONE
    assert work.outcomes == [Outcome([b"OK", b"QUEUED", b"QUEUED", [b"OK", 1]], 3)]


@pytest.mark.parametrize(
    "replies, goes_again",
    [
        ((b"OK", b"QUEUED", b"QUEUED", error("TRYAGAIN Multiple keys request during rehashing of slot")), True),
        ((b"OK", error("CLUSTERDOWN Hash slot not served"), b"QUEUED", error(ABORTED)), True),
        ((b"OK", b"QUEUED", error("LOADING Redis is loading the dataset in memory"), error(ABORTED)), True),
        ((b"OK", b"QUEUED", error("ERR wrong number of arguments"), error(ABORTED)), False),
        ((b"OK", b"QUEUED", b"QUEUED", error(ABORTED)), False),
        ((b"OK", b"QUEUED", b"QUEUED", error("ERR no")), False),
        ((b"OK", b"QUEUED", b"QUEUED", None), False),
        ((b"OK", b"QUEUED", b"QUEUED", [ResponseError("WRONGTYPE"), 1]), False),
    ],
    ids=[
        "at EXEC",
        "no owner",
        "loading",
        "a mistake",
        "aborted for no reason",
        "refused",
        "watched",
        "an error within",
    ],
)
def test_a_transaction_goes_again_only_if_nothing_of_it_ran(replies: tuple[Any, ...], goes_again: bool) -> None:
    work = transaction()
    assert take(work, *replies) is (Next.LATER if goes_again else Next.DONE)


def test_a_lost_transaction_is_never_sent_again() -> None:
    """Whatever was said of writes."""
    work = transaction()
    assert take(work, b"OK", failure=GONE) is Next.DONE
    assert isinstance(work.outcomes[0], CommandOutcomeUnknown)
    work = transaction()
    assert take(work, failure=GONE, written=Written.PART) is Next.AT_ONCE
