"""What is known of a command before it is sent, and after its connection failed."""

from __future__ import annotations

import pytest

from trio_sentinel_scan._core import commands
from trio_sentinel_scan._core.commands import Command, may_send_again, never_ran, read_command
from trio_sentinel_scan._core.errors import CommandNotShareable
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import Argument


@pytest.mark.parametrize(
    "args, command",
    [
        (("GET", "key"), Command("GET", ("GET", "key"))),
        (("get", b"key"), Command("GET", ("get", b"key"))),
        ((b"GET", b"key"), Command("GET", ("GET", b"key"))),
        (("CONFIG GET", "maxmemory"), Command("CONFIG", ("CONFIG", "GET", "maxmemory"))),
        (("CLIENT LIST",), Command("CLIENT", ("CLIENT", "LIST"))),
        (("CLIENT",), Command("CLIENT", ("CLIENT",))),
        (("SET", "REPLY", "a b"), Command("SET", ("SET", "REPLY", "a b"))),
        ((" ", "key"), Command("", ("", "key"))),
    ],
    ids=repr,
)
def test_a_command_is_read_as_redis_py_gives_it(args: tuple[Argument, ...], command: Command) -> None:
    """A first argument of several words is a command with its subcommand; other arguments are left alone."""
    assert read_command(args) == command


@pytest.mark.parametrize("name", sorted(commands.NOT_SHAREABLE))
def test_a_command_that_is_for_a_connection_of_its_own_is_refused(name: str) -> None:
    """In whatever case or type it is written."""
    for written in (name, name.lower(), name.encode()):
        with pytest.raises(CommandNotShareable, match=name):
            read_command((written, "secret"))


@pytest.mark.parametrize(
    "args",
    [
        ("CLIENT REPLY", "OFF"),
        ("CLIENT", "REPLY", "OFF"),
        ("client", b"reply", b"off"),
        (b"CLIENT", b"tracking", b"on"),
        ("CLIENT", "CACHING", "YES"),
        ("CLIENT TRACKING", "ON"),
    ],
    ids=repr,
)
def test_subcommands_that_change_the_connection_are_refused(args: tuple[Argument, ...]) -> None:
    """One caller's CLIENT REPLY OFF would leave all others without an answer."""
    with pytest.raises(CommandNotShareable, match="a client of its own"):
        read_command(args)


def test_a_refusal_repeats_no_argument() -> None:
    """Arguments may be keys, values, or a password."""
    with pytest.raises(CommandNotShareable) as caught:
        read_command(("AUTH", "hunter2"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name, again",
    [
        *[(name, True) for name in ("GET", "SCARD", "INFO", "MGET")],
        *[(name, False) for name in ("SET", "INCR", "SCAN")],
    ],
)
def test_a_command_is_sent_again_if_it_was_never_written_or_only_reads(name: str, again: bool) -> None:
    """A write whose reply was lost may have run; a SCAN's cursor may be another process's."""
    command = read_command((name, "x"))
    assert may_send_again(command, written=False)
    assert may_send_again(command, written=True) is again


@pytest.mark.parametrize(
    "name, reply, proved",
    [
        ("SET", "LOADING Redis is loading", True),
        ("SET", "BUSY Redis is busy", True),
        ("SET", "READONLY You can't write against a read only replica.", True),
        ("SET", "MASTERDOWN Link with MASTER is down", True),
        ("SET", "ERR max number of clients reached", True),
        ("SET", "NOPERM no", False),
        ("SET", "ERR syntax error", False),
        ("SET", "WRONGTYPE Operation", False),
        ("SET", "OOM command not allowed", False),
        ("SET", "NOAUTH Authentication required.", False),
        *[(name, "READONLY You can't write", False) for name in sorted(commands._HAS_A_BODY)],
    ],
)
def test_an_error_proves_that_nothing_ran_unless_it_comes_from_inside_a_body(
    name: str, reply: str, proved: bool
) -> None:
    """Half of a script may have run before one of its commands was refused."""
    assert never_ran(Command(name, (name,)), parse_error_reply(reply)) is proved


def test_no_command_is_in_two_tables() -> None:
    """What waits on the connection is never sent again by itself."""
    assert not commands.READ_ONLY & commands.NOT_SHAREABLE
    assert all(name == name.upper() for name in commands.READ_ONLY | commands.NOT_SHAREABLE)
