"""What becomes of commands whose replies did not come, or were refusals."""

from __future__ import annotations

import pytest

from trio_sentinel_scan import Address, CommandOutcomeUnknown
from trio_sentinel_scan._core.command_fate import goes_again, name_of, outcome_unknown, refused_unrun, spends_connection
from trio_sentinel_scan._core.commands import Command
from trio_sentinel_scan._core.in_flight import Written
from trio_sentinel_scan._core.verdicts import parse_error_reply

NOTHING, PART, ALL = Written.NOTHING, Written.PART, Written.ALL
QUEUED = b"QUEUED"


def commands(names: str) -> list[Command]:
    return [Command(name, (name, "secret")) for name in names.split()]


@pytest.mark.parametrize(
    "names, written, again, with_retry_writes",
    [
        # What was not written whole did not run.
        ("INCR", NOTHING, True, True),
        ("INCR", PART, True, True),
        ("EVAL", PART, True, True),
        # What was written may have run.
        ("INCR", ALL, False, True),
        ("EVAL", ALL, False, True),
        ("GET", ALL, True, True),
        ("SCAN", ALL, True, True),
        # A batch: some of it may have run, when part of it was written.
        ("GET GET", PART, True, True),
        ("GET HSCAN", ALL, True, True),
        ("GET INCR", NOTHING, True, True),
        ("GET INCR", PART, False, True),
        ("GET INCR", ALL, False, True),
        # A transaction runs with its EXEC, or not at all; it is never run twice.
        ("MULTI INCR EXEC", NOTHING, True, True),
        ("MULTI INCR EXEC", PART, True, True),
        ("MULTI INCR EXEC", ALL, False, False),
        ("MULTI GET EXEC", ALL, False, False),
    ],
)
def test_what_is_sent_again_after_its_connection_was_lost(
    names: str, written: Written, again: bool, with_retry_writes: bool
) -> None:
    assert goes_again(commands(names), written, retry_writes=False) is again
    assert goes_again(commands(names), written, retry_writes=True) is with_retry_writes


@pytest.mark.parametrize(
    "names, replies, unrun",
    [
        ("INCR", ["-READONLY no"], True),
        ("INCR", ["-LOADING wait"], True),
        ("INCR", ["-WRONGTYPE no"], False),
        ("INCR", [1], False),
        ("EVAL", ["-READONLY from within"], False),
        ("EVAL", ["-TRYAGAIN from within"], False),
        ("INCR GET", ["-LOADING wait", "-LOADING wait"], True),
        ("INCR GET", ["-READONLY no", b"value"], False),
        ("GET INCR", [b"value", "-READONLY no"], False),
        # EXECABORT tells that nothing ran, and the refusals why.
        ("MULTI INCR EXEC", [b"OK", "-READONLY no", "-EXECABORT Transaction discarded"], True),
        ("MULTI INCR EXEC", ["-LOADING wait", "-LOADING wait", "-EXECABORT Transaction discarded"], True),
        ("MULTI INCR EXEC", [b"OK", "-ERR syntax", "-EXECABORT Transaction discarded"], False),
        ("MULTI INCR EXEC", [b"OK", QUEUED, "-READONLY from within"], False),
        ("MULTI INCR EXEC", [b"OK", "-READONLY no", [1]], False),
        ("MULTI INCR EXEC", [b"OK", QUEUED, [1]], False),
        # ... within: what stands beside the transaction has run.
        ("SCRIPT MULTI INCR EXEC", [b"sha", b"OK", "-READONLY no", "-EXECABORT Transaction discarded"], True),
        ("PUBLISH MULTI INCR EXEC", [1, b"OK", "-READONLY no", "-EXECABORT Transaction discarded"], False),
        ("MULTI INCR EXEC MULTI INCR EXEC", [b"OK", QUEUED, [1], b"OK", "-READONLY no", "-EXECABORT no"], False),
    ],
)
def test_which_refusals_prove_that_nothing_ran(names: str, replies: list[object], unrun: bool) -> None:
    told = [parse_error_reply(reply[1:]) if isinstance(reply, str) else reply for reply in replies]
    refusal = refused_unrun(commands(names), told, follows_master=True)
    assert (refusal is not None) is unrun
    if unrun:
        assert refusal is next(reply for reply in told if isinstance(reply, Exception))


def test_a_replica_stays_one_for_who_asked_for_that_server() -> None:
    refusal = parse_error_reply("READONLY You can't write against a read only replica.")
    assert refused_unrun(commands("INCR"), [refusal], follows_master=False) is None


@pytest.mark.parametrize(
    "reply, spent",
    [("LOADING wait", False), ("BUSY wait", False), ("READONLY no", True), ("MASTERDOWN no", True),
     ("ERR max number of clients reached", True)],
)  # fmt: skip
def test_after_which_refusals_another_connection_is_made(reply: str, spent: bool) -> None:
    assert spends_connection(parse_error_reply(reply)) is spent


def test_the_error_names_the_command_the_server_and_what_is_known() -> None:
    """And no argument."""
    lost = ConnectionError("10.0.0.1:6379 closed the connection")
    one = outcome_unknown(commands("INCR"), Address("10.0.0.1", 6379), lost)
    assert isinstance(one, CommandOutcomeUnknown)
    assert str(one) == (
        "INCR was sent to 10.0.0.1:6379 and its reply never came (10.0.0.1:6379 closed the connection);"
        " it may have run or not, and was not sent again"
    )
    several = outcome_unknown(commands("MULTI SET INCR EXEC"), Address("10.0.0.1", 6379), lost)
    assert str(several) == (
        "a transaction of 2 commands (SET, INCR) was sent to 10.0.0.1:6379 and its last reply never came"
        " (10.0.0.1:6379 closed the connection); it may have run or not, and was not sent again"
    )
    again = outcome_unknown(commands("INCR"), Address("10.0.0.1", 6379), lost, tried_again=True)
    assert str(again).endswith("; it may have run or not, and nothing came of trying again")


def test_a_long_batch_is_named_by_its_beginning() -> None:
    assert name_of(commands("A B C D E F")) == "a pipeline of 6 commands (A, B, C, D, E, ...)"
    assert name_of(commands("A B C D E")) == "a pipeline of 5 commands (A, B, C, D, E)"


def test_a_shutdown_is_never_sent_again() -> None:
    """The second one would be another server's end."""
    assert not goes_again(commands("SHUTDOWN"), Written.ALL, retry_writes=True)
