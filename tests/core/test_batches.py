"""What came of commands that were sent together."""

from __future__ import annotations

from typing import Any

import pytest
from redis.client import EMPTY_RESPONSE
from redis.exceptions import ExecAbortError, ReadOnlyError, RedisError, ResponseError, WatchError

from trio_sentinel_scan._core.batches import (
    EXEC,
    MULTI,
    Queued,
    needs_own_connection,
    read_transaction,
    with_number,
)
from trio_sentinel_scan._core.command_fate import goes_again, outcome_unknown, refused_unrun
from trio_sentinel_scan._core.commands import Command, read_command
from trio_sentinel_scan._core.errors import CommandNotShareable, ProtocolError
from trio_sentinel_scan._core.in_flight import Written
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import Reply

OK, QUEUED = b"OK", b"QUEUED"
READONLY = "READONLY You can't write against a read only replica."
ABORTED = "EXECABORT Transaction discarded because of previous errors."


def batch(*lines: str) -> list[Command]:
    return [read_command(tuple(line.split()), leased=True) for line in lines]


def queued(*lines: str, **options: Any) -> list[Queued]:
    return [Queued(command, command.name, dict(options)) for command in batch(*lines)]


def replies(*said: Reply) -> list[Reply]:
    """Replies; text is an error."""
    return [parse_error_reply(one) if isinstance(one, str) else one for one in said]


@pytest.mark.parametrize(
    "lines, again",
    [(["GET a", "MGET b"], True), (["GET a", "SET b 1"], False), (["MULTI", "GET a", "EXEC"], False)],
)
def test_what_was_written_is_sent_again_if_all_of_it_only_reads(lines: list[str], again: bool) -> None:
    assert goes_again(batch(*lines), Written.ALL, retry_writes=False) is again
    assert goes_again(batch(*lines), Written.NOTHING, retry_writes=False)


@pytest.mark.parametrize(
    "lines, said, nothing_ran",
    [
        (["SET a 1", "SET b 1"], [READONLY, READONLY], True),
        (["SET a 1", "GET b"], [READONLY, OK], False),
        (["SET a 1"], ["ERR syntax error"], False),
        (["EVAL x 0", "SET a 1"], [READONLY, READONLY], False),
        (["MULTI", "SET a 1", "EXEC"], [OK, READONLY, ABORTED], True),
        (["MULTI", "EVAL x 0", "EXEC"], [OK, READONLY, ABORTED], True),
        (["MULTI", "SET a 1", "SET b", "EXEC"], [OK, READONLY, "ERR wrong number of arguments", ABORTED], False),
        (["MULTI", "SET a 1", "EXEC"], [OK, QUEUED, READONLY], False),
        (["MULTI", "SET a 1", "EXEC"], [OK, QUEUED, ABORTED], False),
        (["MULTI", "SET a 1", "EXEC"], [OK, QUEUED, [OK]], False),
        (["MULTI", "EXEC"], [READONLY, "ERR EXEC without MULTI"], False),
    ],
)
def test_refusals_that_prove_that_nothing_ran(lines: list[str], said: list[Reply], nothing_ran: bool) -> None:
    """All were refused, or the transaction was thrown away when it was queued. What EXEC itself says proves nothing."""
    said = replies(*said)
    refusal = refused_unrun(batch(*lines), said, follows_master=True)
    assert refusal is (next(one for one in said if isinstance(one, RedisError)) if nothing_ran else None)
    assert refused_unrun(batch(*lines), said, follows_master=False) is None


def test_an_unknown_outcome_names_what_it_was_and_no_argument() -> None:
    assert str(outcome_unknown(batch("SET secret 1"), "here", "lost")) == (
        "SET was sent to here and its reply never came (lost); it may have run or not, and was not sent again"
    )
    assert str(outcome_unknown([MULTI, *batch("SET secret 1"), EXEC], "here", "lost")).startswith(
        "a transaction of 1 commands (SET) was sent to here and its last reply never came"
    )
    assert str(outcome_unknown(batch("SET secret 1", "GET secret"), "here", "lost")).startswith(
        "a pipeline of 2 commands (SET, GET) was "
    )


@pytest.mark.parametrize(
    "lines, transaction, own",
    [
        (["GET a", "SET b 1"], False, False),
        (["GET a", "BLPOP b 0"], False, True),
        (["GET a", "BLPOP b 0"], True, False),
        (["GET a", "SELECT 1"], False, True),
        (["GET a", "SELECT 1"], True, True),
    ],
)
def test_which_batches_may_not_be_on_the_shared_connection(lines: list[str], transaction: bool, own: bool) -> None:
    """What waits by itself does not wait within a transaction."""
    assert needs_own_connection(batch(*lines), transaction=transaction) is own


def test_what_is_not_answered_cannot_be_queued() -> None:
    with pytest.raises(CommandNotShareable):
        batch("SUBSCRIBE channel")


def test_a_transactions_results() -> None:
    commands = queued("SET a 1", "GET a")
    assert read_transaction(commands, [OK, QUEUED, QUEUED, [OK, b"1"]]) == [OK, b"1"]


def test_a_command_that_was_not_sent_has_its_result_all_the_same() -> None:
    commands = [*queued("SET a 1"), *queued("MGET", **{EMPTY_RESPONSE: []}), *queued("GET a")]
    assert [one.is_sent for one in commands] == [True, False, True]
    assert read_transaction(commands, [OK, QUEUED, QUEUED, [OK, b"1"]]) == [OK, [], b"1"]


def test_an_error_within_is_a_result() -> None:
    error = parse_error_reply("WRONGTYPE Operation against a key")
    assert read_transaction(queued("SET a 1", "LPUSH a 1"), [OK, QUEUED, QUEUED, [OK, error]]) == [OK, error]


def test_a_watched_key_was_changed() -> None:
    with pytest.raises(WatchError):
        read_transaction(queued("SET a 1"), [OK, QUEUED, None])


def test_a_transaction_that_was_refused_raises_the_refusal_by_number() -> None:
    commands = [*queued("MGET", **{EMPTY_RESPONSE: []}), *queued("GET a", "SET secret")]
    with pytest.raises(ResponseError, match=r"^Command # 3 \(SET\) of pipeline caused error: wrong number") as caught:
        read_transaction(commands, replies(OK, QUEUED, "ERR wrong number of arguments for 'set' command", ABORTED))
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ExecAbortError)


@pytest.mark.parametrize(
    "said, error",
    [([READONLY, QUEUED, "ERR EXEC without MULTI"], ReadOnlyError), ([OK, QUEUED, ABORTED], ExecAbortError)],
)
def test_a_transaction_that_failed_as_a_whole(said: list[Reply], error: type[Exception]) -> None:
    with pytest.raises(error):
        read_transaction(queued("SET a 1"), replies(*said))


def test_an_answer_that_cannot_be_decoded() -> None:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    with pytest.raises(UnicodeDecodeError):
        read_transaction(queued("GET a"), [OK, QUEUED, error])


@pytest.mark.parametrize("result", [[OK], [OK, OK, OK], b"OK", 1])
def test_an_answer_to_exec_that_fits_nothing(result: Reply) -> None:
    """No result may be taken for another command's."""
    with pytest.raises(ProtocolError):
        read_transaction(queued("SET a 1", "SET b 1"), [OK, QUEUED, QUEUED, result])


def test_the_number_of_an_error_that_has_no_text() -> None:
    error = with_number(ResponseError(), 2, read_command(("GET", "secret")))
    assert str(error) == "Command # 2 (GET) of pipeline caused error: "
    assert "secret" not in repr(queued("GET secret"))
