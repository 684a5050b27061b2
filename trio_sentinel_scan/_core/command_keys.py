"""Which of a command's words are keys: by table for what is known, and as the server tells (COMMAND) for the rest."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .errors import ProtocolError
from .replies import as_list, as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .wire import Argument

__all__ = [
    "KeyPlaces",
    "Span",
    "Unlisted",
    "as_key",
    "as_keys",
    "has_subcommand",
    "key_places",
    "keys_at",
    "read_key_places",
]

Words: TypeAlias = "tuple[Argument, ...]"


@dataclass(frozen=True, slots=True)
class Span:
    """Keys from one place to another; what is negative counts from the end, as in COMMAND's reply."""

    first: int
    last: int
    step: int = 1


@dataclass(frozen=True, slots=True)
class Numbered:
    """Keys behind their number. `also`: where other keys stand."""

    number_at: int
    also: tuple[int, ...] = ()
    step: int = 1


class Unlisted(enum.Enum):
    """No place at all."""

    NO_KEYS = "it has no keys"
    # COMMAND GETKEYS says, for one command at a time.
    ASK_EACH_TIME = "where they are depends on its other words"


KeyPlaces: TypeAlias = "Span | Numbered | Unlisted | Callable[[Words], list[Argument]]"

_FIRST: Final = Span(1, 1)
_SECOND: Final = Span(2, 2)


def _behind_streams(words: Words) -> list[Argument]:
    at = next((at for at, word in enumerate(words, 1) if as_text(word).upper() == "STREAMS"), len(words))
    names = words[at:]
    return list(names[: len(names) // 2])


def _of_sort(words: Words) -> list[Argument]:
    return [*words[1:2], *_behind(words, {"STORE"}, start=2)]


def _of_georadius(words: Words) -> list[Argument]:
    return [*words[1:2], *_behind(words, {"STORE", "STOREDIST"}, start=5)]


def _of_migrate(words: Words) -> list[Argument]:
    at = next((at for at, word in enumerate(words[6:], 7) if as_text(word).upper() == "KEYS"), 0)
    return list(words[at:]) if at else list(words[3:4])


def _behind(words: Words, options: set[str], *, start: int) -> list[Argument]:
    return [
        words[at + 1] for at in range(start, len(words) - 1) if as_text(words[at]).upper() in options
    ]  # (what a server takes for a key is behind the last of them; all must be in one slot)


def _listed(places: KeyPlaces, names: str) -> dict[str, KeyPlaces]:
    return dict.fromkeys(names.split(), places)


_TABLE: Final[dict[str, KeyPlaces]] = {
    **_listed(
        _FIRST,
        """
        APPEND BITCOUNT BITFIELD BITFIELD_RO BITPOS DECR DECRBY DELEX DELIFEQ DIGEST DUMP EXPIRE EXPIREAT EXPIRETIME
        GEOADD GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETDEL GETEX GETRANGE
        GETSET HDEL HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETALL HGETDEL HGETEX HINCRBY HINCRBYFLOAT HKEYS HLEN
        HMGET HMSET HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSET HSETEX HSETNX HSTRLEN HTTL
        HVALS INCR INCRBY INCRBYFLOAT LINDEX LINSERT LLEN LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM MOVE PERSIST
        PEXPIRE PEXPIREAT PEXPIRETIME PFADD PSETEX PTTL RESTORE RESTORE-ASKING RPOP RPUSH RPUSHX SADD SCARD SET SETBIT
        SETEX SETNX SETRANGE SISMEMBER SMEMBERS SMISMEMBER SORT_RO SPOP SPUBLISH SRANDMEMBER SREM SSCAN STRLEN SUBSTR
        TTL TYPE XACK XACKDEL XADD XAUTOCLAIM XCFGSET XCLAIM XDEL XDELEX XLEN XPENDING XRANGE XREVRANGE XSETID XTRIM
        ZADD ZCARD ZCOUNT ZINCRBY ZLEXCOUNT ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK
        ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN
        ZSCORE CLUSTERSCAN PUBLISH
        VADD VCARD VDIM VEMB VGETATTR VINFO VISMEMBER VLINKS VRANDMEMBER VRANGE VREM VSETATTR VSIM
        """,
    ),
    **_listed(
        Span(1, -1),
        """
        DEL EXISTS MGET PFCOUNT PFMERGE SDIFF SDIFFSTORE SINTER SINTERSTORE SSUBSCRIBE SUNION SUNIONSTORE SUNSUBSCRIBE
        TOUCH UNLINK WATCH
        """,
    ),
    **_listed(Span(1, -2), "BLPOP BRPOP BZPOPMAX BZPOPMIN JSON.MGET"),
    **_listed(
        Span(1, 2),
        "BLMOVE BRPOPLPUSH COPY GEOSEARCHSTORE LCS LMOVE RENAME RENAMENX RPOPLPUSH SMOVE ZRANGESTORE"
        " TS.CREATERULE TS.DELETERULE",
    ),
    **_listed(Span(1, -1, 2), "MSET MSETNX"),
    **_listed(Span(1, -1, 3), "JSON.MSET TS.MADD"),
    **_listed(Span(2, -1), "BITOP"),
    **_listed(Numbered(1), "LMPOP SINTERCARD SDIFFCARD SUNIONCARD ZDIFF ZINTER ZINTERCARD ZMPOP ZUNION"),
    "MSETEX": Numbered(1, step=2),
    **_listed(Numbered(2), "BLMPOP BZMPOP EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO"),
    **_listed(Numbered(2, (1,)), "ZDIFFSTORE ZINTERSTORE ZUNIONSTORE CMS.MERGE TDIGEST.MERGE"),
    **_listed(_behind_streams, "XREAD XREADGROUP"),
    "SORT": _of_sort,
    **_listed(_of_georadius, "GEORADIUS GEORADIUSBYMEMBER"),
    "MIGRATE": _of_migrate,
    "PFDEBUG": _SECOND,
    "FT.SUGADD": _FIRST,
    "FT.SUGDEL": _FIRST,
    "FT.SUGGET": _FIRST,
    "FT.SUGLEN": _FIRST,
    **_listed(
        Unlisted.NO_KEYS,
        """
        ASKING AUTH BGREWRITEAOF BGSAVE DBSIZE DISCARD ECHO EXEC FAILOVER FLUSHALL FLUSHDB HELLO INFO KEYS LASTSAVE
        LOLWUT MONITOR MULTI PFSELFTEST PING PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT RANDOMKEY READONLY READWRITE REPLCONF
        REPLICAOF RESET ROLE SAVE SCAN SELECT SHUTDOWN SLAVEOF SUBSCRIBE SWAPDB SYNC TIME UNSUBSCRIBE UNWATCH WAIT
        WAITAOF TS.MGET TS.MRANGE TS.MREVRANGE TS.QUERYINDEX
        """,
    ),
}

# Commands with one key, their second word.
ONE_KEY: Final = frozenset(name for name, places in _TABLE.items() if places is _FIRST)

_CONTAINERS: Final = (
    "ACL CLIENT CLUSTER COMMAND COMMANDLOG CONFIG FUNCTION HOTKEYS LATENCY MODULE PUBSUB SCRIPT SENTINEL SLOWLOG"
)
# Commands of two words -> where the keys of those are that have any; the others have none.
_SUBCOMMANDS: Final[dict[str, dict[str, KeyPlaces]]] = {
    **{name: {} for name in _CONTAINERS.split()},
    "DEBUG": _listed(_SECOND, "OBJECT SDSLEN LISTPACK"),
    "MEMORY": {"USAGE": _SECOND},
    "OBJECT": _listed(_SECOND, "ENCODING FREQ IDLETIME REFCOUNT"),
    "XGROUP": _listed(_SECOND, "CREATE CREATECONSUMER DELCONSUMER DESTROY SETID"),
    "XINFO": _listed(_SECOND, "CONSUMERS GROUPS STREAM"),
    "JSON.DEBUG": {"MEMORY": _SECOND},
}

# Modules whose commands have their key first, as far as they are not in the table.
_KEY_FIRST: Final = frozenset({"BF", "CF", "CMS", "JSON", "TDIGEST", "TOPK", "TS"})


def has_subcommand(name: str) -> bool:
    """Whether a command's second word is part of its name."""
    return name in _SUBCOMMANDS


def key_places(name: str, words: Words) -> KeyPlaces | None:
    """Where the keys of a command are; None if that is not known here."""
    places = _TABLE.get(name)
    if places is not None:
        return places
    if (below := _SUBCOMMANDS.get(name)) is not None:
        return below.get(as_text(words[1]).upper(), Unlisted.NO_KEYS) if len(words) > 1 else Unlisted.NO_KEYS
    module, dot, _ = name.partition(".")
    if dot and module in _KEY_FIRST:
        return _FIRST
    return Unlisted.NO_KEYS if dot and module == "FT" else None


def keys_at(places: KeyPlaces, words: Words) -> list[Argument]:
    """The keys of a command. What is wrong with its other words, the server says: then there may be none here."""
    if isinstance(places, Span):
        last = places.last if places.last >= 0 else len(words) + places.last
        return list(words[places.first : last + 1 : places.step])
    if isinstance(places, Numbered):
        also = [words[at] for at in places.also if at < len(words)]
        number = as_text(words[places.number_at]) if places.number_at < len(words) else ""
        # (No more than there are words, however many digits that has.)
        count = int(number[-9:]) if number.isascii() and number.isdecimal() else 0
        start = places.number_at + 1
        return [*also, *words[start : start + count * places.step : places.step]]
    return [] if isinstance(places, Unlisted) else places(words)


def read_key_places(reply: object) -> KeyPlaces:
    """What COMMAND INFO says of one command: where its keys are. One that the server does not know has none.

    Raises ProtocolError if it makes no sense.
    """
    entries: list[Any] = as_list(reply) or []
    entry = as_list(entries[0]) if entries else None
    if entry is None or len(entry) < 6:
        return Unlisted.NO_KEYS
    try:
        flags = {as_text(flag) for flag in entry[2]}
        first, last, step = (int(as_text(number)) for number in entry[3:6])
    except (TypeError, ValueError):
        raise ProtocolError("COMMAND INFO was answered with something else than what it is to tell") from None
    if "movablekeys" in flags or (len(entry) > 9 and entry[9]):
        # (Of a command with subcommands it is another place for each.)
        return Unlisted.ASK_EACH_TIME
    return Span(first, last, max(step, 1)) if first > 0 else Unlisted.NO_KEYS


def as_key(word: Argument) -> bytes:
    """A key as the server gets it. (What was not bytes already was found to be plain, or was encoded.)"""
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, bytes):
        return word
    return bytes(word) if isinstance(word, memoryview) else str(word).encode()


def as_keys(words: Sequence[Argument]) -> frozenset[bytes]:
    """Several of them."""
    return frozenset(map(as_key, words))
