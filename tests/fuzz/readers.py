"""Whatever reads what others write: its result, or one of the errors that it says it raises, and nothing else.

Each property is what draws nonsense and a function of it. `test_fuzz.py` tries some of each in every run, and
``python -m tests.fuzz --minutes n`` for as long as it is told.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from zlib import compress, crc32, decompress

from redis.exceptions import RedisError

from tests.fuzz.values import Draw, any_text, anything, mutated, mutated_bytes, mutated_text, one_of, word
from trio_sentinel_scan._core.batches import EXEC, MULTI, Queued, read_transaction
from trio_sentinel_scan._core.checkpoint import Mark, PassFacts, Scope, parse_checkpoint
from trio_sentinel_scan._core.cluster_checkpoint import (
    ClusterCheckpoint,
    ClusterMark,
    LaneMark,
    parse_any_checkpoint,
    parse_cluster_checkpoint,
)
from trio_sentinel_scan._core.cluster_map import read_shards, read_slots
from trio_sentinel_scan._core.cluster_survey import read_nodes
from trio_sentinel_scan._core.cluster_work import read_redirection
from trio_sentinel_scan._core.collection import Collection, knows_novalues, read_size
from trio_sentinel_scan._core.command_keys import key_places, keys_at, read_key_places
from trio_sentinel_scan._core.commands import Command, read_command
from trio_sentinel_scan._core.cursor import CursorFormat, cursor_format_of
from trio_sentinel_scan._core.errors import (
    CheckpointInvalid,
    CommandNotShareable,
    ConfigError,
    ProtocolError,
    SentinelScanError,
)
from trio_sentinel_scan._core.handshake import Handshake, read_info, read_role, read_run_id
from trio_sentinel_scan._core.hash_seed import _release as hash_seed_release, read_hash_seed
from trio_sentinel_scan._core.identity import Address, Role, ServerIdentity
from trio_sentinel_scan._core.lanes import Lane
from trio_sentinel_scan._core.scan_replies import read_scan_replies, read_standing
from trio_sentinel_scan._core.sentinel_replies import read_answer, read_event
from trio_sentinel_scan._core.urls import parse_url
from trio_sentinel_scan._core.verdicts import error_code, parse_error_reply, verdict_of

__all__ = ["PROPERTIES", "Property"]

HERE: Final = Address("10.0.0.1", 6379)
SCOPE: Final = Scope(0, b"user:*", None)


class Property(NamedTuple):
    """What is drawn, and what must hold of it."""

    draw: Draw
    holds: Callable[[Any], object]
    # How many of them there are to one of the cheapest.
    costs: int = 1


PROPERTIES: Final[dict[str, Property]] = {}


def reads(draw: Draw, *errors: type[Exception], costs: int = 1) -> Callable[[Any], Any]:
    """The function is a property: no other errors than these leave it."""

    def decorate(function: Callable[[Any], object]) -> Callable[[Any], object]:
        def holds(value: Any) -> None:
            with contextlib.suppress(*errors):
                function(value)

        PROPERTIES[function.__name__] = Property(draw, holds, costs)
        return function

    return decorate


# ---- a connection's first words ---------------------------------------------------------------------------------

MASTER: Final[Any] = [b"master", 7, [[b"10.0.0.2", b"6379", b"1"], [b"10.0.0.3", b"6379", b"1"]]]
SLAVE: Final[Any] = [b"slave", b"10.0.0.2", 6379, b"connected", 7]
INFO: Final[Any] = b"# Server\r\nredis_version:7.0.15\r\nrun_id:" + b"a" * 40 + b"\r\nredis_mode:standalone\r\n"
HELLO: Final[Any] = {b"server": b"redis", b"proto": 3, b"mode": b"standalone", b"role": b"master", b"modules": []}
FLAT: Final[Any] = [b"server", b"redis", b"proto", 2, b"mode", b"cluster", b"role", b"replica"]


@reads(
    mutated([HELLO, b"OK", MASTER, INFO, b"OK", b"OK", b"OK"], [FLAT, b"OK", SLAVE, INFO, b"OK", b"OK", b"OK"]),
    SentinelScanError,
)
def handshake(replies: Any) -> None:
    replies = (replies if isinstance(replies, list) else [replies])[:7]
    # As many as were asked for: the connection sees to that.
    replies += [b"OK"] * (7 - len(replies))
    talk = Handshake(HERE, login=("app", "x"), db=1, client_name=None, protocol=None, version="1", wants_master=True)
    if talk.read(replies) is None:
        talk.read((replies * 2)[: len(talk.commands())])


@reads(mutated(MASTER, SLAVE, [b"sentinel", [b"mymaster"]]), ProtocolError)
def role(reply: Any) -> None:
    found = read_role(reply)
    assert all(isinstance(address.host, str) for address in found.replicas)
    str(found)


@reads(mutated(INFO))
def info(reply: Any) -> None:
    read_info(reply)
    read_run_id(reply)


@reads(mutated_text(INFO.decode(), "# Server\r\nvalkey_version:8.1.0\r\nredis_version:7.2.4\r\nserver_name:valkey\r\n"))
def info_text(text: str) -> None:
    """What the server is, and what can be concluded from that."""
    found = read_info(text.encode())
    for mode in (None, "cluster", "x"):
        cursor_format_of(found, mode)
    knows_novalues(found)
    hash_seed_release(found)


@reads(mutated([b"hash-seed", b"abc"], {b"hash-seed": b"abc"}), SentinelScanError)
def hash_seed(reply: Any) -> None:
    read_hash_seed(reply, {"redis_version": "9"}, HERE)


# ---- scans -------------------------------------------------------------------------------------------------------


@reads(mutated([[b"17", [b"a", b"b"]], MASTER, [b"0", []]], [[b"17", [b"a", b"1"]], SLAVE]), ProtocolError)
def scan_replies(replies: Any) -> None:
    replies = replies if isinstance(replies, list) else [replies]
    read_scan_replies(replies, HERE)
    read_scan_replies(replies, HERE, details=True)


@reads(mutated([[b"17", [b"a", b"1"]], MASTER, [b"0", []]]), ProtocolError)
def collection_replies(replies: Any) -> None:
    replies = replies if isinstance(replies, list) else [replies]
    for type_ in ("hash", "set", "zset"):
        with contextlib.suppress(ProtocolError):
            Collection(type_, b"key").read_replies(replies, HERE)
    read_size(replies[0] if replies else None, HERE)


@reads(mutated([MASTER, INFO, HELLO], [SLAVE, INFO, FLAT]), ProtocolError)
def standing(replies: Any) -> None:
    replies = replies if isinstance(replies, list) else [replies]
    read_standing((replies + [None] * 3)[:3], Role("master"))


QUEUED: Final = [Queued(Command("GET", ("GET", "k")), "GET", {}), Queued(Command("SET", ("SET", "k", 1)), "SET", {})]


@reads(mutated([b"OK", b"QUEUED", b"QUEUED", [b"value", b"OK"]]), RedisError)
def transaction(replies: Any) -> None:
    replies = replies if isinstance(replies, list) else [replies]
    assert (MULTI.name, EXEC.name) == ("MULTI", "EXEC")
    read_transaction(QUEUED, (replies + [b"OK"] * 4)[:4])


# ---- Sentinels ---------------------------------------------------------------------------------------------------

KNOWN: Final[Any] = [
    b"name",
    b"mymaster",
    b"ip",
    b"10.0.0.1",
    b"port",
    b"6379",
    b"config-epoch",
    b"3",
    b"runid",
    b"a" * 40,
]
PEERS: Final[Any] = [[b"name", b"s", b"ip", b"10.0.1.1", b"port", b"26379", b"runid", b"b" * 40]]
REPLICAS: Final[Any] = [
    [b"name", b"r", b"ip", b"10.0.0.2", b"port", b"6379", b"flags", b"slave", b"slave-repl-offset", b"9"]
]


# (As `SentinelMonitor` catches them.)
@reads(mutated([KNOWN, [b"10.0.0.1", b"6379"], KNOWN, PEERS, REPLICAS]), ValueError, KeyError, TypeError)
def sentinels_answer(replies: Any) -> None:
    replies = replies if isinstance(replies, list) else [replies]
    found = read_answer(*(replies + [None] * 5)[:5])
    if found is not None and found.master is not None:
        str(found.master.address)
        hash(found)


@reads(lambda rng: (word(rng), [word(rng) for _ in range(rng.randrange(8))]))
def sentinels_event(drawn: Any) -> None:
    channel, words = drawn
    read_event(channel, b" ".join(words), "mymaster")


# ---- clusters ----------------------------------------------------------------------------------------------------

NODE: Final[Any] = [
    b"id",
    b"a" * 40,
    b"port",
    7000,
    b"ip",
    b"10.0.0.1",
    b"endpoint",
    b"10.0.0.1",
    b"role",
    b"master",
    b"health",
    b"online",
]
SHARDS: Final[Any] = [[b"slots", [0, 100, 200, 300], b"nodes", [NODE]], {b"slots": [101, 199], b"nodes": [NODE]}]
SLOTS: Final[Any] = [
    [0, 100, [b"10.0.0.1", 7000, b"a" * 40, [b"hostname", b"h"]], [b"10.0.0.2", 7001, b"b" * 40]],
    [101, 16383, [None, 7000, b"a"]],
]
NODES: Final = (
    "07c3 127.0.0.1:30004@31004,host slave e7d1 0 1426238317239 4 connected\n"
    "e7d1 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5460 5462 [93->-292f] [77-<-e7d1]\n"
    "292f :0@0 master,noaddr - 1426238316232 1426238316232 3 disconnected 10923-16383\n"
)


@reads(mutated(SHARDS), ValueError)
def cluster_shards(reply: Any) -> None:
    for tls in (True, False):
        repr(read_shards(reply, HERE, tls=tls))


@reads(mutated(SLOTS), ValueError)
def cluster_slots(reply: Any) -> None:
    repr(read_slots(reply, HERE))


@reads(mutated_text(NODES), ValueError)
def cluster_nodes(text: str) -> None:
    found = read_nodes(text, HERE, 0.0)
    repr(found)
    assert found.myself.slots >= 0


SLOT_WORDS: Final = ["0", "16383", "16384", "-1", "x", "", "9" * 30, "9" * 5_000]
WHERE: Final = ["h:1", ":7000", "?:1", "[::1]:7", "::1:7", "h", "", "h:x", "h:99999999", "h:" + "9" * 5_000, "h:-1"]


@reads(lambda rng: f"{rng.choice(['MOVED', 'ASK'])} {rng.choice(SLOT_WORDS)} {rng.choice(WHERE)}")
def redirection(text: str) -> None:
    error = parse_error_reply(text)
    found = read_redirection(error, HERE)
    assert found is None or str(found.address)


# ---- errors and commands ----------------------------------------------------------------------------------------


@reads(one_of(any_text, mutated_text("MOVED 7 h:1", "ERR unknown command 'x', with args beginning with: 'y'")))
def error_reply(text: str) -> None:
    error = parse_error_reply(text)
    assert isinstance(error, RedisError)
    verdict_of(error)
    assert error_code(error)
    assert str(error).isprintable()


@reads(mutated([[b"get", 2, [b"readonly"], 1, 1, 1, [], [], [], []]]), ProtocolError)
def commands_key_places(reply: Any) -> None:
    keys_at(read_key_places(reply), ("GET", "a", "b"))


@reads(lambda rng: [rng.choice([word, any_text])(rng) for _ in range(rng.randint(1, 6))], CommandNotShareable)
def commands_keys(words: Any) -> None:
    """Whatever is given, to whatever command there is."""
    for name in ("EVAL", "XREAD", "SORT", "ZUNION", "GEORADIUS", "MIGRATE", "MSET", "XREADGROUP", "BITOP", "LMPOP"):
        given = (name, *words)
        places = key_places(name, given)
        if places is not None:
            keys_at(places, given)
    assert isinstance(read_command(tuple(words)), Command)


# ---- URLs and checkpoints ---------------------------------------------------------------------------------------

URLS: Final = (
    "redis://user:pass@localhost:6379/0?response_timeout=3&client_name=x",
    "redis+sentinel://u:p@h1,h2:26380,[::1]:5/mymaster/3?sentinel_username=a&sentinel_password=b",
    "rediss+cluster://h1:1,h2",
    "unix:///tmp/redis.sock?db=3&decode_responses=yes",
)


@reads(mutated_text(*URLS), ConfigError)
def url(text: str) -> None:
    parse_url(text)


SERVER: Final = ServerIdentity("c" * 40, HERE)
PLAIN: Final = Mark(PassFacts(SCOPE, 2, SERVER, "master", 7, CursorFormat.REVERSED), [1, None, 2**64 - 1]).text()
LANE: Final = LaneMark(Lane(0, "a" * 40, "a" * 40, 0xFF, 1), 0xFF, 1, SERVER, "master", CursorFormat.REVERSED, [7])
STAND: Final = ClusterCheckpoint(True, 0xFF00, None, 0, ((1, 0xFF),), (LANE,))
WHOLE: Final = ClusterMark(SCOPE, STAND).text()


def _read_any(text: Any) -> None:
    for read in (parse_checkpoint, parse_cluster_checkpoint):
        for scope in (SCOPE, None):
            with contextlib.suppress(CheckpointInvalid):
                read(text, scope)
    if isinstance(text, str):
        parse_any_checkpoint(text)


@reads(one_of(mutated_text(PLAIN, WHOLE, "17592186044416", "tss2.AAAA"), anything), CheckpointInvalid)
def checkpoint(text: Any) -> None:
    _read_any(text)


def _body(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.partition(".")[2] + "==")[:-4]


def sealed(family: str, body: bytes) -> str:
    encoded = base64.urlsafe_b64encode(body + crc32(body).to_bytes(4, "big")).decode().rstrip("=")
    return f"{family}.{encoded}"


@reads(mutated_bytes(_body(PLAIN)), CheckpointInvalid)
def checkpoint_with_a_good_check_sum(body: bytes) -> None:
    """Made by somebody who knows how."""
    _read_any(sealed("tss1", body))


def _unfolded() -> bytes:

    return decompress(_body(WHOLE))


@reads(one_of(mutated_bytes(_unfolded()), lambda rng: b"\xff" * rng.choice([30, 300_000])), CheckpointInvalid, costs=2)
def cluster_checkpoint_with_a_good_check_sum(body: bytes) -> None:
    _read_any(sealed("tssc1", compress(body)))
