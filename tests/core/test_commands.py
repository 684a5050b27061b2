"""What is known of a command before it is sent, and after its connection failed."""

from __future__ import annotations

import pytest

from trio_sentinel_scan._core import commands
from trio_sentinel_scan._core.commands import Command, Place, may_send_again, never_ran, read_command
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


ALL_CALLERS = (False, True)


@pytest.mark.parametrize("name", sorted(commands.NOT_SHAREABLE))
def test_a_command_that_is_for_a_connection_of_its_own_is_refused(name: str) -> None:
    """In whatever case or type it is written; and the message says what to do instead."""
    for written in (name, name.lower(), name.encode()):
        with pytest.raises(CommandNotShareable, match=rf"^{name} .*client\.dedicated\(\) as lease"):
            read_command((written, "secret"))
        leased = read_command((written, "x"), leased=True)
        assert (leased.name, leased.place) == (name, Place.LEASE)


@pytest.mark.parametrize("name", sorted(commands.NOT_A_CALL))
def test_a_command_that_is_not_answered_by_one_reply_is_refused_everywhere(name: str) -> None:
    """Whoever called it would take what is published later for the reply to the next command."""
    for leased in ALL_CALLERS:
        with pytest.raises(CommandNotShareable, match=f"^{name} is not answered by one reply"):
            read_command((name.lower(), "secret"), leased=leased)


@pytest.mark.parametrize("args", [("CLIENT REPLY", "OFF"), ("client", b"reply", b"skip")], ids=repr)
def test_nobody_can_switch_the_replies_off(args: tuple[Argument, ...]) -> None:
    for leased in ALL_CALLERS:
        with pytest.raises(CommandNotShareable, match=r"^CLIENT REPLY"):
            read_command(args, leased=leased)


@pytest.mark.parametrize(
    "args",
    [
        ("CLIENT REPLY", "ON"),
        ("CLIENT", "REPLY"),
        (b"CLIENT", b"tracking", b"on"),
        ("CLIENT", "CACHING", "YES"),
        ("CLIENT TRACKING", "ON"),
        ("CLIENT NO-EVICT", "ON"),
        ("CLIENT", b"no-touch", "ON"),
        ("CLIENT", "CAPA", "redirect"),
        ("CLIENT", "SETNAME", "me"),
        ("SCRIPT DEBUG", "YES"),
    ],
    ids=repr,
)
def test_words_that_change_the_connection_are_refused(args: tuple[Argument, ...]) -> None:
    """One caller's CLIENT TRACKING would be everybody's, until the connection is replaced."""
    with pytest.raises(CommandNotShareable, match=r"that all tasks of this client share.*client\.dedicated\(\)"):
        read_command(args)
    assert read_command(args, leased=True).place is Place.LEASE


def test_a_refusal_names_what_does_it_better() -> None:
    for args, better in (
        (("SELECT", 1), r"db="),
        (("WATCH", "k"), r"client\.pipeline\(\)"),
        (("SUBSCRIBE", "c"), r"client\.pubsub\(\)"),
    ):
        with pytest.raises(CommandNotShareable, match=better):
            read_command(args)


@pytest.mark.parametrize(
    "args",
    [
        *[(name.lower(), "key", 0) for name in sorted(commands.BLOCKING)],
        ("XREAD", "COUNT", 1, "BLOCK", 0, "STREAMS", "key", "$"),
        (b"XREAD", b"block", b"0", b"streams", b"key", b"$"),
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "BLOCK", 1000, "STREAMS", "key", ">"),
        ("XREADGROUP", "GROUP", "streams", "streams", "BLOCK", 1000, "STREAMS", "key", ">"),
        # As redis-py's xreadgroup has it.
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "MAXCOUNT", 2, "MAXSIZE", 3, "BLOCK", 0, "STREAMS", "key", ">"),
    ],
    ids=repr,
)
def test_a_command_that_may_wait_gets_a_connection_of_its_own(args: tuple[Argument, ...]) -> None:
    """One caller's XREAD BLOCK 0 would leave all others without an answer."""
    for leased in ALL_CALLERS:
        assert read_command(args, leased=leased).place is Place.OWN


@pytest.mark.parametrize(
    "args",
    [
        ("CLIENT", "LIST"),
        ("CLIENT INFO",),
        ("SCRIPT", "LOAD", "return 1"),
        ("XREAD", "COUNT", 1, "STREAMS", "BLOCK", "0"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "key", ">"),
        ("XREADGROUP", "GROUP", "block", "5", "STREAMS", "key", ">"),
        ("SET", "BLOCK", "REPLY"),
        ("SCRIPT",),
        ("XREAD",),
    ],
    ids=repr,
)
def test_what_does_not_wait_is_shared(args: tuple[Argument, ...]) -> None:
    """A key may be called BLOCK."""
    command = read_command(args)
    assert command.name == str(args[0]).split()[0]
    assert command.place is Place.SHARED


def test_a_command_shows_no_argument() -> None:
    """It may get into a log, or a traceback."""
    assert repr(read_command(("SET", "secret-key", b"secret"))) == "Command(name='SET')"


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
    "words, again",
    [
        ("COUNT 1 STREAMS s 0", True),
        ("BLOCK 0 STREAMS s 5-1", True),
        ("BLOCK 0 STREAMS s $", False),
        ("BLOCK 0 STREAMS s t 5-1 $", False),
        ("BLOCK 0 STREAMS $ 5-1", True),
        ("COUNT 1", True),
    ],
)
def test_a_stream_is_read_again_unless_from_its_end(words: str, again: bool) -> None:
    """Between the two readings something may have come, which the second one would pass over. A key may be named $."""
    assert may_send_again(read_command(("XREAD", *words.split())), written=True) is again


@pytest.mark.parametrize(
    "name, reply, follows, proved",
    [
        *[("SET", "LOADING Redis is loading", follows, True) for follows in (True, False)],
        *[("SET", "BUSY Redis is busy", follows, True) for follows in (True, False)],
        *[("SET", "ERR max number of clients reached", follows, True) for follows in (True, False)],
        *[
            ("SET", "READONLY You can't write against a read only replica.", follows, follows)
            for follows in (True, False)
        ],
        *[("SET", "MASTERDOWN Link with MASTER is down", follows, follows) for follows in (True, False)],
        ("BLPOP", "UNBLOCKED force unblock from blocking operation, instance state changed", True, True),
        ("BLPOP", "UNBLOCKED client unblocked via CLIENT UNBLOCK", True, False),
        ("SET", "NOPERM no", True, False),
        ("SET", "ERR syntax error", True, False),
        ("SET", "WRONGTYPE Operation", True, False),
        ("SET", "OOM command not allowed", True, False),
        ("SET", "NOAUTH Authentication required.", True, False),
        *[(name, "READONLY You can't write", True, False) for name in sorted(commands.HAS_A_BODY)],
    ],
)
def test_an_error_proves_that_nothing_ran_unless_it_comes_from_inside_a_body(
    name: str, reply: str, follows: bool, proved: bool
) -> None:
    """Half of a script may have run before one was refused; and it must be worth another try."""
    assert never_ran(Command(name, (name,)), parse_error_reply(reply), follows_master=follows) is proved


def test_no_command_is_in_two_tables() -> None:
    """What waits on the connection is never sent again by itself."""
    tables = [commands.READ_ONLY, commands.BLOCKING, commands.NOT_SHAREABLE, commands.NOT_A_CALL]
    assert sum(map(len, tables)) == len(frozenset().union(*tables))
    assert all(name == name.upper() for name in commands.READ_ONLY | commands.NOT_SHAREABLE)


def test_a_server_that_is_no_master_is_asked_again_only_by_who_looks_up_the_master() -> None:
    """A client of one server would ask the same replica for a minute."""
    error = parse_error_reply("READONLY You can't write against a read only replica.")
    assert not never_ran(Command("SET", ("SET",)), error, follows_master=False)
    assert never_ran(Command("SET", ("SET",)), parse_error_reply("LOADING wait"), follows_master=False)


def test_a_stream_may_be_called_anything() -> None:
    """What stands behind STREAMS is no option."""
    assert read_command(("XREAD", "COUNT", 1, "STREAMS", "BLOCK", "0")).name == "XREAD"


def test_a_repr_shows_no_arguments() -> None:
    """They may be keys and values."""
    assert "secret" not in repr(read_command(("SET", "secret", "secret")))


@pytest.mark.parametrize(
    "words, reads",
    [("SENTINEL MASTERS", True), ("sentinel ckquorum s", True), ("SENTINEL FAILOVER s", False), ("SENTINEL", True)],
)
def test_a_sentinel_is_asked_again_only_what_changes_nothing(words: str, reads: bool) -> None:
    command = read_command(tuple(words.split()))
    assert command.place is Place.SENTINEL
    assert command.only_reads is reads
