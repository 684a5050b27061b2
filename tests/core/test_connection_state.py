"""Whether the next one to use a connection would notice what was done to it."""

from __future__ import annotations

import pytest

from trio_sentinel_scan._core import commands
from trio_sentinel_scan._core.commands import read_command
from trio_sentinel_scan._core.connection_state import ConnectionState
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import Reply

OK = b"OK"
REFUSED = parse_error_reply("ERR no")


def after(*steps: tuple[str, Reply]) -> ConnectionState:
    """The state after these commands and their replies."""
    state = ConnectionState(3)
    for words, reply in steps:
        command = read_command(tuple(words.split()), leased=True)
        state.sending(command)
        state.answered(command, reply)
    return state


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [("SET a 1", OK), ("WAIT 1 0", 1), ("WAITAOF 1 1 0", [1, 1])],
        [("GET a", REFUSED)],
        [("BLPOP a 0", None)],
        [("WATCH a", OK), ("UNWATCH", OK)],
        [("WATCH a", OK), ("MULTI", OK), ("SET a 1", b"QUEUED"), ("EXEC", [OK])],
        [("WATCH a", OK), ("MULTI", OK), ("EXEC", None)],
        [("WATCH a", OK), ("MULTI", OK), ("SET a", REFUSED), ("EXEC", parse_error_reply("EXECABORT discarded"))],
        [("WATCH a", OK), ("MULTI", OK), ("DISCARD", OK)],
    ],
    ids=lambda steps: ", ".join(words for words, _ in steps) or "nothing",
)
def test_clean(steps: list[tuple[str, Reply]]) -> None:
    assert after(*steps).clean


@pytest.mark.parametrize(
    "steps",
    [
        *[
            [(f"{name} x", OK)]
            for name in sorted(commands.NOT_SHAREABLE - {"DISCARD", "EXEC", "UNWATCH"} - {"WAIT", "WAITAOF"})
        ],
        # Whatever was meant by it, nobody looked into what it did.
        [("SELECT 1", REFUSED)],
        [("CLIENT TRACKING ON", OK)],
        [("SCRIPT DEBUG YES", OK)],
        [("WATCH a", OK), ("UNWATCH", REFUSED)],
        [("WATCH a", OK), ("MULTI", OK), ("UNWATCH", b"QUEUED")],
        [("MULTI", OK), ("DISCARD", REFUSED)],
        # The server is not the master any more, or about to hang up, or does not know us.
        [("SET a 1", parse_error_reply("READONLY You can't write against a read only replica."))],
        [("GET a", parse_error_reply("ERR max number of clients reached"))],
        [("GET b", parse_error_reply("NOAUTH Authentication required."))],
    ],
    ids=lambda steps: ", ".join(words for words, _ in steps),
)
def test_not_clean(steps: list[tuple[str, Reply]]) -> None:
    """It would be somebody else's database, transaction or subscription."""
    assert not after(*steps).clean


def test_what_was_sent_counts_before_it_is_answered() -> None:
    state = ConnectionState(3)
    state.sending(read_command(("SELECT", 1), leased=True))
    assert not state.clean


@pytest.mark.parametrize(
    "words, reply, protocol",
    [
        ("HELLO 2", [b"server", b"redis", b"proto", 2], 2),
        ("HELLO 3", {b"server": b"redis", b"proto": 3}, 3),
        ("HELLO 4", parse_error_reply("NOPROTO unsupported protocol version"), 3),
        ("HELLO", {b"server": b"redis"}, 3),
        ("HELLO 2", {b"proto": b"x"}, 3),
        ("RESET", b"RESET", 2),
        ("SELECT 1", OK, 3),
    ],
)
def test_the_protocol_is_known(words: str, reply: Reply, protocol: int) -> None:
    """The same reply has another shape in the other one."""
    assert after((words, reply)).protocol == protocol
