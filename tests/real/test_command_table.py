"""The table of which command may use which connection, held against what servers say of their commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from trio_sentinel_scan import CommandNotShareable
from trio_sentinel_scan._core.commands import BLOCKING, READ_ONLY, Place, read_command
from trio_sentinel_scan._core.replies import as_text
from trio_sentinel_scan.testing import LocalRedis, ServerBinary

pytestmark = pytest.mark.trio

# Commands of these categories are about their connection, or wait on it ...
ABOUT_THE_CONNECTION: Final = frozenset({"@blocking", "@connection", "@pubsub", "@transaction"})
# ... but for these: they tell something, or do something elsewhere.
HARMLESS: Final = frozenset(
    """
    CLIENT|GETNAME CLIENT|GETREDIR CLIENT|HELP CLIENT|ID CLIENT|INFO CLIENT|KILL CLIENT|LIST CLIENT|PAUSE
    CLIENT|TRACKINGINFO CLIENT|UNBLOCK CLIENT|UNPAUSE COMMAND COMMAND|COUNT COMMAND|DOCS COMMAND|GETKEYS
    COMMAND|GETKEYSANDFLAGS COMMAND|HELP COMMAND|INFO COMMAND|LIST ECHO PING PUBLISH PUBSUB|CHANNELS PUBSUB|HELP
    PUBSUB|NUMPAT PUBSUB|NUMSUB PUBSUB|SHARDCHANNELS PUBSUB|SHARDNUMSUB SPUBLISH CLUSTER|HELP
    """.split()  # noqa: SIM905 (as a list it would be 30 lines)
)
# Commands of one server process's state that only tell it, without the flag that they read data.
TELL_ONLY: Final = frozenset({"ECHO", "INFO", "LASTSAVE", "LOLWUT", "PING", "ROLE", "TIME"})


def commands_of(reply: Any) -> Iterator[tuple[str, set[str], set[str]]]:
    """Each command without subcommands, and each subcommand: its name, flags and categories."""
    for entry in reply:
        below = entry[9] if len(entry) > 9 else []
        if below:
            yield from commands_of(below)
        else:
            flags, categories = ({as_text(word) for word in entry[at]} for at in (2, 6))
            yield as_text(entry[0]).upper(), flags, categories


def place_of(name: str) -> Place:
    """Where the table has a command, by COMMAND's name for it."""
    words = name.split("|")
    streams = ["BLOCK", "0", "STREAMS", "key", "0"] if name in {"XREAD", "XREADGROUP"} else []
    try:
        return read_command((*words, *streams)).place
    except CommandNotShareable:
        return Place.LEASE


async def test_no_command_about_the_connection_is_shared(each_server_binary: ServerBinary) -> None:
    """A server that brings another such command fails here."""
    async with LocalRedis(binary=each_server_binary) as server:
        known = list(commands_of(await server.execute("COMMAND")))
    shared = {name for name, _, of in known if of & ABOUT_THE_CONNECTION and place_of(name) is Place.SHARED}
    # Before Redis 7.0 these stand there as a whole; which of their subcommands is shared, others tell.
    whole = {"CLIENT", "PUBSUB"} if each_server_binary.version_info < (7,) else set[str]()
    assert shared <= HARMLESS | whole
    assert len(known) > 200


async def test_every_command_that_blocks_has_a_connection_of_its_own(each_server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=each_server_binary) as server:
        known = list(commands_of(await server.execute("COMMAND")))
    blocking = {name for name, flags, _ in known if "blocking" in flags}
    assert blocking - {name for name in blocking if place_of(name) is not Place.SHARED} == set()
    assert {name for name in blocking if place_of(name) is Place.OWN} - {"XREAD", "XREADGROUP"} <= BLOCKING


async def test_what_may_be_sent_twice_only_reads(each_server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=each_server_binary) as server:
        known = {name: flags for name, flags, _ in commands_of(await server.execute("COMMAND"))}
    writes = {name for name in READ_ONLY & set(known) if "readonly" not in known[name]}
    assert writes <= TELL_ONLY
