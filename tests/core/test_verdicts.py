"""What each error reply of a server means: the whole table, as servers spell it."""

from __future__ import annotations

import pytest
from redis import exceptions as redis_errors

from trio_sentinel_scan._core import verdicts
from trio_sentinel_scan._core.verdicts import Verdict, error_code, parse_error_reply, verdict_of

# As seen on Redis 6.2 to 8, Valkey 8 and 9, and proxies: the reply, its code, what is to be done.
REPLIES = [
    ("LOADING Redis is loading the dataset in memory", "LOADING", Verdict.WAIT),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", "BUSY", Verdict.WAIT),
    ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN", Verdict.WAIT),
    ("CLUSTERDOWN Hash slot not served", "CLUSTERDOWN", Verdict.WAIT),
    ("CLUSTERDOWN The cluster is down", "CLUSTERDOWN", Verdict.WAIT),
    (
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MASTERDOWN",
        Verdict.LOOK_AGAIN,
    ),
    ("READONLY You can't write against a read only replica.", "READONLY", Verdict.LOOK_AGAIN),
    ("REDIRECT 10.0.0.2:6379", "REDIRECT", Verdict.LOOK_AGAIN),
    (
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "UNBLOCKED",
        Verdict.LOOK_AGAIN,
    ),
    ("NOAUTH Authentication required.", "NOAUTH", Verdict.UNAUTHENTICATED),
    (
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH ...",
        "NOAUTH",
        Verdict.UNAUTHENTICATED,
    ),
    ("WRONGPASS invalid username-password pair or user is disabled.", "WRONGPASS", Verdict.UNAUTHENTICATED),
    ("ERR invalid password", "ERR", Verdict.UNAUTHENTICATED),
    ("ERR operation not permitted", "ERR", Verdict.UNAUTHENTICATED),
    ("NOPERM this user has no permissions to run the 'scan' command", "NOPERM", Verdict.REFUSED),
    ("NOPERM User scanner has no permissions to run the 'scan' command", "NOPERM", Verdict.REFUSED),
    ("DENIED Redis is running in protected mode because protected mode is enabled", "DENIED", Verdict.REFUSED),
    ("ERR max number of clients reached", "ERR", Verdict.RECONNECT),
    ("ERR max number of clients + cluster connections reached", "ERR", Verdict.RECONNECT),
    ("max number of clients reached", "ERR", Verdict.RECONNECT),
    ("ERR invalid cursor", "ERR", Verdict.RESTART),
    ("ERR Invalid Cursor", "ERR", Verdict.RESTART),
    ("ERR invalid cursor(master node idx out of range)", "ERR", Verdict.RESTART),
    ("invalid cursor", "ERR", Verdict.RESTART),
    ("ERR unknown command 'SCAN', with args beginning with: '0' ", "ERR", Verdict.REFUSED),
    ("ERR unknown type name", "ERR", Verdict.REFUSED),
    ("ERR syntax error", "ERR", Verdict.REFUSED),
    ("ERR value is not an integer or out of range", "ERR", Verdict.REFUSED),
    ("ERR DB index is out of range", "ERR", Verdict.REFUSED),
    ("ERR", "ERR", Verdict.REFUSED),
    ("", "ERR", Verdict.REFUSED),
    ("something without a code", "ERR", Verdict.REFUSED),
    # A script's, with a key in it.
    ("USER:42 has no account", "ERR", Verdict.REFUSED),
    ("SEARCH_INDEX_NOT_FOUND Index not found", "SEARCH_INDEX_NOT_FOUND", Verdict.REFUSED),
    ("NOPROTO unsupported protocol version", "NOPROTO", Verdict.REFUSED),
    ("EXECABORT Transaction discarded because of: LOADING Redis is loading", "EXECABORT", Verdict.REFUSED),
    ("MOVED 1234 10.0.0.2:6379", "MOVED", Verdict.REFUSED),
    ("ASK 1234 10.0.0.2:6379", "ASK", Verdict.REFUSED),
    ("OOM command not allowed when used memory > 'maxmemory'.", "OOM", Verdict.REFUSED),
    ("MISCONF Redis is configured to save RDB snapshots", "MISCONF", Verdict.REFUSED),
    ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS", Verdict.REFUSED),
    # Codes that only begin like one in the table.
    ("BUSYGROUP Consumer Group name already exists", "BUSYGROUP", Verdict.REFUSED),
    ("BUSYKEY Target key name already exists.", "BUSYKEY", Verdict.REFUSED),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", "WRONGTYPE", Verdict.REFUSED),
]


@pytest.mark.parametrize("text, code, verdict", REPLIES, ids=[text[:40] for text, _, _ in REPLIES])
def test_each_reply_has_its_code_and_its_verdict(text: str, code: str, verdict: Verdict) -> None:
    """A reply means the same whether or not redis-py has a class for it and cut its code off."""
    error = parse_error_reply(text)
    assert error_code(error) == code
    assert verdict_of(error) is verdict


def test_each_line_of_the_table_is_tried() -> None:
    """A code that is added to the table is added to the replies above."""
    tried = {code for _, code, _ in REPLIES}
    assert set(verdicts._BY_CODE) <= tried
    texts = [text.removeprefix("ERR ").lower() for text, _, _ in REPLIES]
    assert all(any(text.startswith(start) for text in texts) for start, _ in verdicts._BY_TEXT)
    assert {verdict for _, _, verdict in REPLIES} == set(Verdict)


@pytest.mark.parametrize(
    "text, kind",
    [
        ("LOADING x", redis_errors.BusyLoadingError),
        ("READONLY x", redis_errors.ReadOnlyError),
        ("NOPERM x", redis_errors.NoPermissionError),
        ("NOAUTH x", redis_errors.AuthenticationError),
        ("WRONGPASS x", redis_errors.AuthenticationError),
        ("ERR max number of clients reached", redis_errors.ConnectionError),
        ("ERR whatever", redis_errors.ResponseError),
    ],
)
def test_replies_become_redis_pys_own_classes(text: str, kind: type[Exception]) -> None:
    """Whoever catches redis-py's errors catches these."""
    assert type(parse_error_reply(text)) is kind


def test_keys_that_an_unknown_command_repeats_are_cut_off() -> None:
    """An error's text has no argument in it: it may be a key, or a password."""
    error = parse_error_reply("ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'user' 'hunter2' ")
    assert str(error) == "unknown command 'HELLO'"
    assert "hunter2" not in repr(error)
    backquoted = parse_error_reply("ERR unknown command `FOO`, with args beginning with: `secret-key`, ")
    assert "secret" not in str(backquoted)
