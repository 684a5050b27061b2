"""One hash, set or sorted set: its commands, its replies, its size, and every argument."""

from __future__ import annotations

from typing import Any

import pytest

from trio_sentinel_scan._core.checkpoint import Scope
from trio_sentinel_scan._core.collection import Collection, knows_novalues, read_size
from trio_sentinel_scan._core.collection_options import checked_collection_options
from trio_sentinel_scan._core.errors import CheckpointInvalid, ConfigError, ProtocolError
from trio_sentinel_scan._core.identity import Address, Role
from trio_sentinel_scan._core.scan_options import ScanOptions
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.scan_replies import ScanEncoder
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import encode_command

ADDRESS = Address("10.0.0.1", 6379)
NOPERM = parse_error_reply("NOPERM no")
HASH, FIELDS = Collection("hash", b"k"), Collection("hash", b"k", no_values=True)
SET, ZSET = Collection("set", b"k"), Collection("zset", b"k")


def options(
    type_: Any = "set", key: Any = b"k", *, encoding: str = "utf-8", db: int = 0, **changes: Any
) -> ScanOptions:
    """The options of a scan that was given nothing but these arguments."""
    arguments = {"match": None, "count": None, **changes}
    return checked_collection_options(type_, key, **arguments, has_sentinels=True, encoding=encoding, db=db)


# ---- commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "collection, command, size, name",
    [
        (HASH, "HSCAN", "HLEN", "hash"),
        (SET, "SSCAN", "SCARD", "set"),
        (ZSET, "ZSCAN", "ZCARD", "sorted set"),
    ],
)
def test_each_type_has_its_commands(collection: Collection, command: str, size: str, name: str) -> None:
    assert (collection.command, collection.size_command, collection.name) == (command, size, name)
    assert collection.size_request == (size, b"k")
    assert collection.scope == (command.encode(), b"k")


@pytest.mark.parametrize("cursor", [0, 7, 2**64 - 1])
@pytest.mark.parametrize("match", [None, b"", b"a*\r\n"])
@pytest.mark.parametrize("key", [b"k", b"", b"a b\r\n\xff"])
@pytest.mark.parametrize("type_, no_values", [("hash", False), ("hash", True), ("set", False), ("zset", False)])
def test_a_command_is_encoded_as_any(cursor: int, match: bytes | None, key: bytes, type_: str, no_values: bool) -> None:
    """By a shorter way. A key may be any bytes, and none."""
    command = {"hash": "HSCAN", "set": "SSCAN", "zset": "ZSCAN"}[type_]
    words: list[Any] = [command, key, cursor]
    words += [] if match is None else ["MATCH", match]
    words += ["NOVALUES"] * no_values
    found = options(type_, key, match=match, no_values=no_values)
    assert ScanEncoder(found).encode(cursor, 9) == encode_command(*words, "COUNT", 9)
    assert found.command == command


def test_a_key_is_in_no_repr() -> None:
    found = options("hash", b"secret-key", match="secret-match")
    assert "secret" not in repr(found)
    assert "secret" not in repr(found.collection)
    plan = ScanPlan(found, failover_timeout=1, now=0, jitter=lambda: 0.5)
    assert "secret" not in repr(plan)


# ---- replies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "collection, flat, items",
    [
        (HASH, [b"f", b"v", b"g", b""], [(b"f", b"v"), (b"g", b"")]),
        (HASH, ["f", "v"], [("f", "v")]),
        (FIELDS, [b"f", b"g"], [b"f", b"g"]),
        (SET, [b"m", b"n"], [b"m", b"n"]),
        (ZSET, [b"m", b"1.5", b"n", b"-inf"], [(b"m", 1.5), (b"n", float("-inf"))]),
        (ZSET, ["m", "1e+300"], [("m", 1e300)]),
        # RESP3's own numbers, should a server use them here.
        (ZSET, [b"m", 2.5], [(b"m", 2.5)]),
        (HASH, [], []),
        (ZSET, [], []),
    ],
)
def test_items_are_what_redis_py_makes_of_them(collection: Collection, flat: list[Any], items: list[Any]) -> None:
    """Members; fields with their values; members with their scores."""
    assert collection.read_replies([[b"17", flat], [b"0", []]], ADDRESS) == [(17, items), (0, [])]


@pytest.mark.parametrize("collection", [HASH, FIELDS, SET, ZSET])
def test_what_stands_between_stays(collection: Collection) -> None:
    """Errors, and the ROLE that rides along, which is a tuple like a reply."""
    replies = [NOPERM, [b"master", 5, []], [b"0", []], ["slave", "10.0.0.1", 6379, "sync", 7]]
    found = collection.read_replies(replies, ADDRESS)
    assert found == [NOPERM, Role("master"), (0, []), Role("slave", link="sync")]


@pytest.mark.parametrize(
    "collection, reply",
    [
        (HASH, [b"0", [b"f"]]),
        (HASH, [b"0", [b"f", b"v", b"key"]]),
        (ZSET, [b"0", [b"key"]]),
        (ZSET, [b"0", [b"m", b"key"]]),
        (ZSET, [b"0", [b"m", None]]),
        (HASH, b"key"),
        (SET, [b"0", {b"key": b"v"}]),
    ],
)
def test_what_are_no_pairs_is_a_protocol_error(collection: Collection, reply: Any) -> None:
    """It names the server, and shows nothing of the reply."""
    with pytest.raises(ProtocolError, match=r"10\.0\.0\.1:6379 answered") as caught:
        collection.read_replies([reply], ADDRESS)
    assert "key" not in str(caught.value).removesuffix("a list of keys")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("reply", [0, 5, NOPERM])
def test_a_size_is_a_number_or_an_error_reply(reply: Any) -> None:
    assert read_size(reply, ADDRESS) is reply


@pytest.mark.parametrize("reply", [None, b"5", -1, [], "OK"])
def test_what_is_no_size_is_a_protocol_error(reply: Any) -> None:
    with pytest.raises(ProtocolError, match=r"10\.0\.0\.1:6379"):
        read_size(reply, ADDRESS)


@pytest.mark.parametrize(
    "info, known",
    [
        ({"redis_version": "6.2.14"}, False),
        ({"redis_version": "7.2.9"}, False),
        ({"redis_version": "7.4.0"}, True),
        ({"redis_version": "8.0.1", "gcc_version": "12"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.5"}, False),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.0"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, True),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-1"}, None),
        ({"redis_version": "unstable"}, None),
        ({}, None),
    ],
)
def test_who_knows_novalues(info: dict[str, str], known: bool | None) -> None:
    """From Redis 7.4 and Valkey 8.0 on; of others, only they themselves can say."""
    assert knows_novalues(info) is known


# ---- arguments -------------------------------------------------------------------------------------------------


def test_the_defaults_are_open_scans() -> None:
    found = options()
    assert (found.count, found.segments, found.duty, found.page_size) == (None, None, 1.0, None)
    assert (found.on_failover, found.max_restarts, found.prefetch, found.basis) == ("restart", 10, 2, "sentinels")
    assert (found.match, found.type_, found.cursor, found.dedupe, found.resume) == (None, None, 0, None, None)
    assert found.collection == SET


@pytest.mark.parametrize(
    "key, encoding, found",
    [
        ("größe", "utf-8", "größe".encode()),
        ("größe", "latin-1", "größe".encode("latin-1")),
        ("\udcff", "utf-8", b"\xff"),
        (b"\xff\0", "utf-8", b"\xff\0"),
        (memoryview(b"abc")[1:], "utf-8", b"bc"),
        ("", "utf-8", b""),
        (b"", "utf-8", b""),
    ],
    ids=range(7),
)
def test_a_key_is_bytes_or_in_the_clients_encoding(key: Any, encoding: str, found: bytes) -> None:
    collection = options(key=key, encoding=encoding).collection
    assert collection is not None
    assert collection.key == found
    assert type(collection.key) is bytes


@pytest.mark.parametrize("key", [None, 5, 1.5, True, ["k"], bytearray(b"k"), object()])
def test_a_key_of_another_type_is_refused(key: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        options(key=key)
    assert caught.value.argument == "key"


def test_a_key_that_the_encoding_cannot_write_is_refused() -> None:
    with pytest.raises(ConfigError, match="ascii") as caught:
        options(key="größe", encoding="ascii")
    assert caught.value.argument == "key"
    assert "gr" not in str(caught.value)


@pytest.mark.parametrize(
    "argument, value",
    [
        *[("no_values", value) for value in (None, 1, "yes")],
        *[("match", 1), ("count", 0), ("cursor", -1), ("on_failover", "ignore"), ("max_restarts", -1)],
        *[("prefetch", None), ("certify", "server"), ("segments", 0), ("duty", 0), ("page_size", 0)],
        *[("dedupe", 1), ("resume", 5), ("resume", "nonsense")],
    ],
)
def test_a_refusal_names_the_argument(argument: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        options(**{argument: value})
    assert caught.value.argument == argument


def test_combinations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="one chain"):
        options(cursor=5, segments=2)


def checkpoint_of(found: ScanOptions) -> str:
    return ScanPlan(found, failover_timeout=1, now=0, jitter=lambda: 0.5).checkpoint


def test_a_checkpoint_is_of_one_collection() -> None:
    """Not of another key, another command, another pattern, another database, nor of the keyspace."""
    text = checkpoint_of(options("hash", b"k", match="a*"))
    assert options("hash", b"k", match="a*", resume=text).resume is not None
    # Which items have come does not depend on whether their values did.
    assert options("hash", b"k", match="a*", resume=text, no_values=True).resume is not None
    for other in (("hash", b"j", "a*", 0), ("set", b"k", "a*", 0), ("hash", b"k", None, 0), ("hash", b"k", "a*", 1)):
        with pytest.raises(CheckpointInvalid):
            options(*other[:2], match=other[2], db=other[3], resume=text)
    assert options().scope == Scope(0, None, None, (b"SSCAN", b"k"))
    assert Scope(0, None, None).digests() != options().scope.digests()
