"""Commands as redis-py's methods give them, read once and then by name."""

from __future__ import annotations

from typing import Any

import pytest

from trio_sentinel_scan import CommandNotShareable
from trio_sentinel_scan._core import command_reader
from trio_sentinel_scan._core.command_reader import CommandReader
from trio_sentinel_scan._core.commands import Command, Place, read_command


def encode(value: Any) -> bytes:
    """As redis-py's encoder: text by the client's encoding, and not every type."""
    if isinstance(value, bool):
        raise TypeError("not bool")
    return value if isinstance(value, bytes) else str(value).encode("utf-16-le")


@pytest.mark.parametrize(
    "args",
    [
        ("GET", "key"),
        ("get", b"key"),
        ("CONFIG GET", "maxmemory"),
        ("CLIENT", "LIST"),
        ("XREAD", "COUNT", 1, "STREAMS", "BLOCK", "0"),
        (b"GET", b"key"),
        ("", "key"),
        ("SET", "key", 1),
    ],
    ids=repr,
)
def test_it_reads_the_same_the_second_time(args: tuple[Any, ...]) -> None:
    reader = CommandReader(encode, is_utf8=True)
    expected = read_command(args)
    assert reader.read(args) == expected
    assert reader.read(args) == expected


def test_words_that_decide_are_looked_at_each_time() -> None:
    """What was allowed once may be refused with other words."""
    reader = CommandReader(encode, is_utf8=True)
    reader.read(("CLIENT", "LIST"))
    reader.read(("XREAD", "STREAMS", "s", "0"))
    for args in (("CLIENT", "REPLY", "OFF"), ("SELECT", 1), ("SELECT", 1)):
        with pytest.raises(CommandNotShareable):
            reader.read(args)
    assert reader.read(("XREAD", "BLOCK", 0, "STREAMS", "s", "$")).place is Place.OWN


def test_what_is_not_plain_is_redis_pys_encoders_business() -> None:
    reader = CommandReader(encode, is_utf8=True)
    assert reader.read(("SET", "k", 1.5)).args == (b"S\0E\0T\0", b"k\0", b"1\0.\0" + b"5\0")
    with pytest.raises(TypeError, match="not bool"):
        reader.read(("SET", "k", True))


def test_another_encoding_is_obeyed() -> None:
    reader = CommandReader(encode, is_utf8=False)
    for _ in range(2):
        assert reader.read(("GET", "k")) == Command("GET", (b"G\0E\0T\0", b"k\0"))


def test_names_that_are_made_up_are_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_reader, "_MOST", 2)
    reader = CommandReader(encode, is_utf8=True)
    for number in range(5):
        assert reader.read((f"NAME{number}", "x")) == Command(f"NAME{number}", (f"NAME{number}", "x"))
    assert len(reader._names) == 2


@pytest.mark.parametrize("args", [("BLPOP", "queue", 0), ("BLPOP", "queue", 0.5), ("SENTINEL", "MASTERS")])
def test_a_command_that_does_not_go_over_the_shared_connection_is_told_each_time(args: tuple[Any, ...]) -> None:
    """Its name is not remembered as an ordinary one's."""
    reader = CommandReader(lambda arg: str(arg).encode(), is_utf8=True)
    places = {reader.read(args).place for _ in range(3)}
    assert places == {read_command(args).place} != {Place.SHARED}


def test_what_may_not_be_shared_is_told_each_time() -> None:
    """Also when a lease has asked for it before."""
    reader = CommandReader(lambda arg: str(arg).encode(), is_utf8=True)
    for _ in range(2):
        assert reader.read(("SELECT", 1), leased=True).place is Place.LEASE
        with pytest.raises(CommandNotShareable):
            reader.read(("SELECT", 1))
