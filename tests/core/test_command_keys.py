"""Which words of a command are keys."""

from __future__ import annotations

from typing import Any

import pytest

from trio_sentinel_scan._core.command_keys import (
    ONE_KEY,
    Span,
    Unlisted,
    as_key,
    as_keys,
    has_subcommand,
    key_places,
    keys_at,
    read_key_places,
)


@pytest.mark.parametrize(
    "words, keys",
    [
        ("GET k", "k"),
        ("SET k v", "k"),
        ("GET", ""),
        ("MGET a b c", "a b c"),
        ("MSET a 1 b 2", "a b"),
        ("BLPOP a b 0", "a b"),
        ("BITOP AND d a b", "d a b"),
        ("LMOVE a b LEFT RIGHT", "a b"),
        ("EVAL script 2 a b arg", "a b"),
        ("EVAL script 0 arg", ""),
        ("EVAL script two a", ""),
        ("EVAL script", ""),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"),
        ("ZUNION 2 a b", "a b"),
        ("MSETEX 2 a 1 b 2 EX 5", "a b"),
        ("BLMPOP 0 2 a b LEFT", "a b"),
        ("XREAD COUNT 1 STREAMS a b 0 0", "a b"),
        ("XREADGROUP GROUP g c STREAMS a >", "a"),
        ("XREAD COUNT 1", ""),
        ("SORT k BY w_* STORE d", "k d"),
        ("SORT k", "k"),
        ("GEORADIUS k 1 2 3 km STORE d", "k d"),
        ("GEORADIUSBYMEMBER k m 3 km STOREDIST d", "k d"),
        ("GEORADIUS k 1 2 3 km", "k"),
        ("MIGRATE host 1 k 0 100", "k"),
        ("MIGRATE host 1  0 100 KEYS a b", "a b"),
        ("OBJECT ENCODING k", "k"),
        ("OBJECT HELP", ""),
        ("OBJECT", ""),
        ("XINFO STREAM k FULL", "k"),
        ("MEMORY USAGE k SAMPLES 5", "k"),
        ("MEMORY DOCTOR", ""),
        ("DEBUG OBJECT k", "k"),
        ("CLIENT LIST", ""),
        ("PUBLISH c m", "c"),
        ("SPUBLISH c m", "c"),
        ("PING", ""),
        ("DBSIZE", ""),
        ("JSON.GET k $", "k"),
        ("JSON.MGET a b $", "a b"),
        ("JSON.MSET a $ 1 b $ 2", "a b"),
        ("JSON.DEBUG MEMORY k", "k"),
        ("TS.ADD k * 1", "k"),
        ("TS.MADD a * 1 b * 2", "a b"),
        ("TS.MRANGE - + FILTER l=1", ""),
        ("BF.ADD k 1", "k"),
        ("CMS.MERGE d 2 a b", "d a b"),
        ("FT.SEARCH idx q", ""),
        ("FT.SUGADD k s 1", "k"),
        ("VSIM k ELE e", "k"),
    ],
)
def test_the_keys(words: str, keys: str) -> None:
    given = tuple(words.split(" "))
    places = key_places(given[0], given)
    assert places is not None
    assert keys_at(places, given) == keys.split()


@pytest.mark.parametrize("name", ["FROBNICATE", "GRAPH.QUERY", "GET.IT"])
def test_what_is_not_known(name: str) -> None:
    assert key_places(name, (name, "k")) is None


def test_names() -> None:
    assert has_subcommand("CLIENT")
    assert not has_subcommand("GET")
    assert {"GET", "SET", "HSCAN"} <= ONE_KEY
    assert not {"MGET", "PING", "EVAL"} & ONE_KEY


def info(*entry: Any) -> list[Any]:
    return [list(entry)]


@pytest.mark.parametrize(
    "reply, places",
    [
        (info(b"frob", -2, [b"readonly"], 1, 1, 1), Span(1, 1)),
        (info(b"frob", -2, {b"readonly"}, 1, -1, 2, [], [], [], []), Span(1, -1, 2)),
        (info("frob", -2, ["readonly", "movablekeys"], 1, 1, 1), Unlisted.ASK_EACH_TIME),
        (info(b"frob", -2, [], 0, 0, 0), Unlisted.NO_KEYS),
        (info(b"frob", -2, [], 0, 0, 0, [], [], [], [[b"frob|it"]]), Unlisted.ASK_EACH_TIME),
        ([None], Unlisted.NO_KEYS),
        ([], Unlisted.NO_KEYS),
        (None, Unlisted.NO_KEYS),
        (info(b"frob"), Unlisted.NO_KEYS),
    ],
)
def test_what_a_server_says_of_a_command(reply: Any, places: Any) -> None:
    assert read_key_places(reply) == places


def test_a_key_as_bytes() -> None:
    assert as_keys(("k", b"k", memoryview(b"m"), 7)) == {b"k", b"m", b"7"}
    assert as_key("é") == "é".encode()
