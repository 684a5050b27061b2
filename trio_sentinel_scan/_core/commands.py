"""What is to be known of a command before it is sent, and after its connection failed: tables."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .blocking import block_option_at
from .errors import CommandNotShareable
from .replies import as_text
from .verdicts import Verdict, error_code, verdict_of

if TYPE_CHECKING:
    from redis.exceptions import RedisError

    from .wire import Argument

__all__ = ["Command", "Place", "has_telling_words", "may_send_again", "never_ran", "read_command"]

# Commands that only read (COMMAND's flag "readonly" on Redis 7.0 and Valkey 9.1, plus those that read a server's
# state without having the flag): they may be sent twice.
READ_ONLY: Final = frozenset(
    """
    BITCOUNT BITFIELD_RO BITPOS DBSIZE DIGEST DUMP ECHO EXISTS EXPIRETIME GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO
    GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE HEXISTS HEXPIRETIME HGET HGETALL HKEYS HLEN HMGET HPEXPIRETIME
    HPTTL HRANDFIELD HSTRLEN HTTL HVALS INFO KEYS LASTSAVE LCS LINDEX LLEN LOLWUT LPOS LRANGE MGET PEXPIRETIME
    PFCOUNT PING PTTL RANDOMKEY ROLE SCARD SDIFF SDIFFCARD SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SORT_RO
    SRANDMEMBER STRLEN SUBSTR SUNION SUNIONCARD TIME TOUCH TTL TYPE XLEN XPENDING XRANGE XREVRANGE ZCARD ZCOUNT ZDIFF
    ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE
    ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCORE ZUNION
    """.split()  # noqa: SIM905 (as a list it would be 84 lines)
)

# Commands that keep their connection waiting until something happens (COMMAND's flag "blocking"): each gets a
# connection of its own for as long as it takes. XREAD and XREADGROUP do so if they are told to.
BLOCKING: Final = frozenset(
    {"BLMOVE", "BLMOVEM", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN"}
)
_MAY_BLOCK: Final = frozenset({"XREAD", "XREADGROUP"})

# Commands that change their connection, or mean something only on the connection that other commands went over: every
# other task shares it, and it is replaced by another one without notice.
NOT_SHAREABLE: Final = frozenset(
    """
    ASKING AUTH DISCARD EXEC HELLO HIMPORT MULTI QUIT READONLY READWRITE REPLCONF RESET SELECT UNWATCH WAIT WAITAOF
    WATCH
    """.split()  # noqa: SIM905 (as a list it would be 17 lines)
)
_NOT_SHAREABLE_WORDS: Final = {
    "CLIENT": frozenset(
        {"CACHING", "CAPA", "IMPORT-SOURCE", "NO-EVICT", "NO-TOUCH", "REPLY", "SETINFO", "SETNAME", "TRACKING"}
    ),
    "SCRIPT": frozenset({"DEBUG"}),
}

# Commands that are not answered by one reply: there is no call that could return what comes.
NOT_A_CALL: Final = frozenset(
    {"MONITOR", "PSUBSCRIBE", "PSYNC", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "SYNC", "UNSUBSCRIBE"}
)
_NOT_A_CALL_WORDS: Final = frozenset({("REPLY", "OFF"), ("REPLY", "SKIP")})

# Commands whose first words decide.
_HAS_WORDS: Final = frozenset(_NOT_SHAREABLE_WORDS) | _MAY_BLOCK

# What does the same in a better way, where there is something.
_BETTER: Final = {
    "SELECT": "a client with db=",
    **dict.fromkeys(("AUTH", "HELLO"), "a client with username=, password= and protocol="),
    **dict.fromkeys(("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"), "async with client.pipeline() as pipe"),
    **dict.fromkeys(sorted(name for name in NOT_A_CALL if name.endswith("SUBSCRIBE")), "client.pubsub()"),
}

# What a Sentinel may be asked twice, or another one in its place.
_SENTINEL_READS: Final = frozenset(
    {"CKQUORUM", "GET-MASTER-ADDR-BY-NAME", "MASTER", "MASTERS", "MYID", "REPLICAS", "SENTINELS", "SLAVES"}
)

# Commands of which nobody wants a second one, whatever was said of writes: it would be another server's end.
_NEVER_AGAIN: Final = frozenset({"SHUTDOWN"})

# What a script, function or transaction answers may come from inside of it, after part of it has run.
HAS_A_BODY: Final = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO", "EXEC"})


class Place(enum.Enum):
    """Where a command may be sent."""

    SHARED = "the connection that all tasks share"
    OWN = "a connection of its own for as long as the call takes: the server may keep it waiting"
    LEASE = "a connection that the caller has leased: the command changes it, or depends on it"
    SENTINEL = "a Sentinel, where the client has some"
    NOWHERE = "no connection of this client: it is not answered by one reply"


@dataclass(frozen=True, slots=True)
class Command:
    """A command, ready to be sent. Its arguments never get into a message: they may be keys and values."""

    name: str
    args: tuple[Argument, ...] = field(repr=False)
    place: Place = field(default=Place.SHARED, repr=False)

    @property
    def only_reads(self) -> bool:
        """Whether sending it twice does no harm."""
        if self.name in READ_ONLY:
            return True
        if self.place is Place.SENTINEL:
            return as_text(self.args[1]).upper() in _SENTINEL_READS if len(self.args) > 1 else True
        return self.name == "XREAD" and not self._begins_at_the_end

    @property
    def _begins_at_the_end(self) -> bool:
        # XREAD from "$" is about what comes after it was sent: sent again, it would pass over what came in between.
        # The ids are the second half of what stands behind STREAMS; a key may have any name.
        words = [as_text(word) for word in self.args]
        at = next((at for at, word in enumerate(words, 1) if word.upper() == "STREAMS"), len(words))
        return "$" in words[(at + len(words)) // 2 :]


def read_command(args: tuple[Argument, ...], *, leased: bool = False) -> Command:
    """A command as redis-py's methods give it: a first argument of several words is a command with its subcommand.

    `leased` tells that it is for a connection that is the caller's own. Raises CommandNotShareable for one that may not
    use the connection it is for.
    """
    words = as_text(args[0]).split() or [""]
    name = words[0].upper()
    given = (*words, *args[1:])
    following = [as_text(word).upper() for word in given[1:3]] if name in _NOT_SHAREABLE_WORDS else []
    place = _place_of(name, following, given)
    if place is Place.NOWHERE or (place is Place.LEASE and not leased):
        raise _refusal(name, following[0] if following else "", place)
    return Command(name, given, place)


def _place_of(name: str, following: list[str], args: tuple[Argument, ...]) -> Place:
    if name in BLOCKING or (name in _MAY_BLOCK and block_option_at(args) is not None):
        return Place.OWN
    if name in NOT_A_CALL or (name == "CLIENT" and tuple(following[:2]) in _NOT_A_CALL_WORDS):
        return Place.NOWHERE
    if name in NOT_SHAREABLE or (following and following[0] in _NOT_SHAREABLE_WORDS.get(name, ())):
        return Place.LEASE
    return Place.SENTINEL if name == "SENTINEL" else Place.SHARED


def _refusal(name: str, subcommand: str, place: Place) -> CommandNotShareable:
    said = f"{name} {subcommand}".rstrip()
    better = f"; see also {_BETTER[name]}" if name in _BETTER else ""
    if place is Place.NOWHERE:
        return CommandNotShareable(f"{said} is not answered by one reply, so it cannot be called as a command{better}")
    return CommandNotShareable(
        f"{said} changes, or depends on, the connection that all tasks of this client share; for a connection of your"
        f" own: async with client.dedicated() as lease: await lease.<command>{better}"
    )


def has_telling_words(command: Command) -> bool:
    """Whether it takes more than the name to tell what kind of command it is."""
    return command.name in _HAS_WORDS or command.place is not Place.SHARED


def never_ran(command: Command, error: RedisError, *, follows_master: bool) -> bool:
    """Whether an error reply proves that the server did not run the command, and that another try may succeed.

    That the server is no master is worth another try only to one who looks up the master each time.
    """
    if command.name in HAS_A_BODY or _was_called_off(error):
        return False
    verdict = verdict_of(error)
    return verdict in (Verdict.WAIT, Verdict.RECONNECT) or (verdict is Verdict.LOOK_AGAIN and follows_master)


def _was_called_off(error: RedisError) -> bool:
    # Somebody ended this very wait on purpose; the other reason for UNBLOCKED is that the server is no master any more.
    return error_code(error) == "UNBLOCKED" and "CLIENT UNBLOCK" in str(error)


def may_send_again(command: Command, *, written: bool, retry_writes: bool = False) -> bool:
    """Whether a command whose connection failed may be sent once more; `retry_writes` is what the caller says to it."""
    return not written or command.only_reads or (retry_writes and command.name not in _NEVER_AGAIN)
