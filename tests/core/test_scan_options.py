"""What `open_scan` was asked for: the defaults, the command that comes of it, and every refusal."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.core._store_model import ModelStore
from trio_sentinel_scan._core.checkpoint import Mark, PassFacts, Scope
from trio_sentinel_scan._core.compact_seen import CompactSeen
from trio_sentinel_scan._core.errors import ConfigError
from trio_sentinel_scan._core.scan_options import ScanOptions, checked_scan_options
from trio_sentinel_scan._core.scan_replies import ScanEncoder
from trio_sentinel_scan._core.seen_keys import ExactSeen
from trio_sentinel_scan._core.segments import MAX_SEGMENTS
from trio_sentinel_scan._core.wire import encode_command

# Of a scan of everything, that had not found its server yet.
CHECKPOINT = Mark(PassFacts(Scope(0, None, None), 0)).text()


def options(*, has_sentinels: bool = True, encoding: str = "utf-8", **changes: Any) -> ScanOptions:
    """The options of a scan that was given nothing but these arguments."""
    arguments: dict[str, Any] = {
        "match": None,
        "count": None,
        "type_": None,
        "cursor": 0,
        "on_failover": "restart",
        "max_restarts": 10,
        "prefetch": 2,
        "certify": "sentinels",
    }
    return checked_scan_options(**{**arguments, **changes}, has_sentinels=has_sentinels, encoding=encoding)


def test_a_plain_scan_adapts() -> None:
    """Its COUNT and its segments, at full speed, in pages as they come."""
    found = options()
    assert (found.count, found.segments, found.duty, found.page_size) == (None, None, 1.0, None)


def test_what_bounds_a_scan_may_be_said() -> None:
    """Each by itself; a whole duty may be a whole number."""
    found = options(segments=7, duty=0.25, page_size=100)
    assert (found.segments, found.duty, found.page_size) == (7, 0.25, 100)
    assert options(duty=1).duty == 1.0
    assert options(segments="auto", cursor=5).segments is None


def test_a_scan_from_a_callers_cursor_is_one_chain() -> None:
    """There is no telling where other segments would have to begin."""
    assert options(segments=1, cursor=5).segments == 1
    with pytest.raises(ConfigError, match="one chain") as caught:
        options(segments=2, cursor=5)
    assert caught.value.argument == "segments"


def test_every_option_gets_into_the_command() -> None:
    """With the cursor of the moment, not the one that the scan began with."""
    found = options(match="user:*", count=7, type_="zset", cursor="5")
    assert found.cursor == 5
    assert found.count == 7
    command = ("SCAN", 9, "MATCH", "user:*", "TYPE", "zset", "COUNT", 7)
    assert ScanEncoder(found).encode(9, found.count) == encode_command(*command)


@pytest.mark.parametrize(
    "match, encoding, pattern",
    [
        ("größe*", "utf-8", "größe*".encode()),
        ("größe*", "latin-1", "größe*".encode("latin-1")),
        ("\udcff*", "utf-8", b"\xff*"),
        (b"\xff*", "utf-8", b"\xff*"),
        ("", "utf-8", b""),
    ],
)
def test_a_pattern_is_in_the_clients_encoding(match: str | bytes, encoding: str, pattern: bytes) -> None:
    """Keys that are not text are matched by bytes, or by what decoding them with surrogateescape gave."""
    assert options(match=match, encoding=encoding).match == pattern


@pytest.mark.parametrize(
    "certify, has_sentinels, basis",
    [
        ("sentinels", True, "sentinels"),
        ("role", True, "role"),
        ("sentinels", False, "server"),
        ("role", False, "server"),
    ],
)
def test_a_certificate_rests_on_the_sentinels_where_there_are_some(
    certify: str, has_sentinels: bool, basis: str
) -> None:
    """Unless the caller is content with the server's own word."""
    assert options(certify=certify, has_sentinels=has_sentinels).basis == basis


def test_replicas_are_scanned_where_sentinels_know_them() -> None:
    """And the master only if the caller says so."""
    assert (options().read_from, options().falls_back) == ("master", False)
    found = options(read_from="replica")
    assert (found.read_from, found.falls_back) == ("replica", False)
    assert options(read_from="replica", fallback="master").falls_back
    assert options(read_from="master", fallback=None).read_from == "master"


@pytest.mark.parametrize(
    "argument, given, reason",
    [
        ("fallback", {"fallback": "master"}, "nothing to fall back from"),
        ("read_from", {"read_from": "replica", "has_sentinels": False}, "a RedisClient has none"),
        ("cursor", {"read_from": "replica", "cursor": 7}, "the scan picks the replica"),
        ("hash_seed_shared", {"read_from": "replica", "hash_seed_shared": True}, "a replica that is left has none"),
    ],
)
def test_what_makes_no_sense_with_replicas_is_refused_with_the_reason(
    argument: str, given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        options(**given)
    assert caught.value.argument == argument


@pytest.mark.parametrize("type_", ["string", "list", "set", "zset", "hash", "stream", "vectorset", "Hash", "ReJSON-RL"])
def test_types_are_the_servers_own_and_those_of_modules(type_: str) -> None:
    """A module's type has nine characters, always."""
    assert options(type_=type_).type_ == type_


@pytest.mark.parametrize(
    "argument, values",
    [
        ("match", [1, ["a*"], object(), bytearray(b"a*")]),
        ("count", [0, -1, 1.0, "10", True, 2**31]),
        ("type_", ["", "nosuch", "strings", "ReJSON-R", "ReJSON RL", b"hash", 1]),
        ("cursor", [-1, 2**64, "x", None, 1.5, True]),
        ("on_failover", ["", "ignore", None, True, ["restart"]]),
        ("max_restarts", [-1, None, 1.0, "3", False, 2**31]),
        ("prefetch", [-1, None, 1.0, "3", True]),
        ("certify", ["", "server", "replica", None, ["role"]]),
        ("read_from", ["", "slave", "any", None, True, ["replica"]]),
        ("fallback", ["", "replica", True, 0, ["master"]]),
        ("segments", [0, -1, "all", None, 1.0, True, b"auto", MAX_SEGMENTS + 1]),
        ("duty", [0, -0.5, 1.01, "1", None, True, math.nan, math.inf]),
        ("page_size", [0, -1, 1.0, "10", True, 2**31]),
        ("dedupe", [None, 1, "exact", ExactSeen, CompactSeen, object(), set()]),
        ("resume", ["", "tss1", "tss1.", "tss2.AAAA", b"tss1.AAAA", 0, False, ["tss1.AAAA"]]),
        ("with_", ["type", b"type", "", None, 1, ["size"], ["TYPE"], ["type", "type"], [b"type"], [["type"]], [None]]),
        ("extra_args", ["node", b"node", None, 1, {"node"}, [""], [b""], [1], [None], ["count"], [b"Match"], ["TYPE"]]),
        ("hash_seed_shared", [None, 1, "yes", []]),
    ],
)
def test_a_refusal_names_the_argument(argument: str, values: list[object]) -> None:
    """Older servers answer an unknown type with an empty result, so nothing is left to them."""
    refuse: Any = options
    for value in values:
        with pytest.raises(ConfigError) as caught:
            refuse(**{argument: value})
        assert caught.value.argument == argument


@pytest.mark.parametrize(
    "argument, given, reason",
    [
        ("cursor", {"cursor": 5, "resume": CHECKPOINT}, "has its cursors from the checkpoint"),
        ("cursor", {"cursor": 5, "read_from": "replica"}, "the scan picks the replica"),
        ("segments", {"cursor": 5, "segments": 2}, "one chain"),
        ("segments", {"extra_args": ["node"], "segments": 2, "has_sentinels": False}, "taken to be a proxy"),
        ("extra_args", {"extra_args": ["node"]}, "use RedisClient with the proxy's address"),
        ("hash_seed_shared", {"hash_seed_shared": True, "read_from": "replica"}, "a master's list of replicas"),
        (
            "hash_seed_shared",
            {"hash_seed_shared": True, "extra_args": ["node"], "has_sentinels": False},
            "cursors of a proxy",
        ),
        ("dedupe", {"dedupe": True, "resume": CHECKPOINT}, "use SpillingSeen"),
        ("dedupe", {"dedupe": ExactSeen(), "resume": CHECKPOINT}, "use SpillingSeen"),
        ("resume", {"match": "other:*", "resume": CHECKPOINT}, "of another scan: match"),
        ("resume", {"type_": "hash", "resume": CHECKPOINT}, "of another scan: type_"),
        ("resume", {"db": 1, "resume": CHECKPOINT}, "of database 0"),
        (
            "resume",
            {"extra_args": ["node"], "resume": CHECKPOINT, "has_sentinels": False},
            "of another scan: what is scanned",
        ),
        ("resume", {"dedupe": ModelStore(), "resume": CHECKPOINT}, "whose seen keys"),
        ("with_", {"with_": ["type"], "decodes": True, "encoding_errors": "replace"}, "no way back"),
    ],
)
def test_what_does_not_go_together_is_refused_and_why(argument: str, given: dict[str, Any], reason: str) -> None:
    """The argument that is named is one of those given."""
    with pytest.raises(ConfigError, match=reason) as caught:
        options(**given)
    assert caught.value.argument == argument
    assert argument in given


def test_a_pattern_that_the_encoding_cannot_write_is_refused() -> None:
    """It could match nothing."""
    with pytest.raises(ConfigError, match="ascii") as caught:
        options(match="größe*", encoding="ascii")
    assert caught.value.argument == "match"
    assert "gr" not in str(caught.value)


def test_a_scan_may_be_held_to_a_single_pass() -> None:
    """The smallest budgets are nought."""
    found = options(max_restarts=0, prefetch=0, count=1)
    assert (found.max_restarts, found.prefetch, found.count) == (0, 0, 1)
