"""What is to be known of a command before it is sent, and after its connection failed: tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from .errors import CommandNotShareable
from .replies import as_text
from .verdicts import Verdict, verdict_of

if TYPE_CHECKING:
    from redis.exceptions import RedisError

    from .wire import Argument

__all__ = ["Command", "has_telling_words", "may_send_again", "never_ran", "read_command"]

# Commands that only read (COMMAND's flag "readonly" on Redis 7.0 and Valkey 9.1, plus those that read a server's
# state without having the flag): they may be sent twice.
READ_ONLY: Final = frozenset(
    """
    BITCOUNT BITFIELD_RO BITPOS DBSIZE DUMP ECHO EXISTS EXPIRETIME GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO
    GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE HEXISTS HEXPIRETIME HGET HGETALL HKEYS HLEN HMGET HPEXPIRETIME
    HPTTL HRANDFIELD HSTRLEN HTTL HVALS INFO KEYS LASTSAVE LCS LINDEX LLEN LOLWUT LPOS LRANGE MGET PEXPIRETIME
    PFCOUNT PING PTTL RANDOMKEY ROLE SCARD SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SORT_RO
    SRANDMEMBER STRLEN SUBSTR SUNION TIME TOUCH TTL TYPE XLEN XPENDING XRANGE XREVRANGE ZCARD ZCOUNT ZDIFF
    ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE
    ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCORE ZUNION
    """.split()  # noqa: SIM905 (as a list it would be 84 lines)
)

# Commands that change or depend on their connection's state, or that keep it waiting: every other task shares it.
NOT_SHAREABLE: Final = frozenset(
    """
    ASKING AUTH BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN DISCARD EXEC HELLO MONITOR MULTI
    PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT READONLY READWRITE REPLCONF RESET SELECT SSUBSCRIBE SUBSCRIBE
    SUNSUBSCRIBE SYNC UNSUBSCRIBE UNWATCH WAIT WAITAOF WATCH
    """.split()  # noqa: SIM905 (as a list it would be 33 lines)
)
_NOT_SHAREABLE_PAIRS: Final = frozenset(
    [("CLIENT", word) for word in ("CACHING", "CAPA", "NO-EVICT", "NO-TOUCH", "REPLY", "TRACKING")]
    + [("SCRIPT", "DEBUG")]
)
# Commands that wait only if they are told to.
_MAY_BLOCK: Final = frozenset({"XREAD", "XREADGROUP"})
# Commands whose first words decide.
_HAS_WORDS: Final = frozenset({"CLIENT", "SCRIPT"}) | _MAY_BLOCK

# What a script, function or transaction answers may come from inside of it, after part of it has run.
_HAS_A_BODY: Final = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO", "EXEC"})


@dataclass(frozen=True, slots=True)
class Command:
    """A command, ready to be sent. Its arguments never get into a message: they may be keys and values."""

    name: str
    args: tuple[Argument, ...] = field(repr=False)

    @property
    def only_reads(self) -> bool:
        """Whether sending it twice does no harm."""
        return self.name in READ_ONLY


def read_command(args: tuple[Argument, ...]) -> Command:
    """A command as redis-py's methods give it: a first argument of several words is a command with its subcommand.

    Raises CommandNotShareable for one that may not use the connection that all tasks share.
    """
    words = as_text(args[0]).split() or [""]
    name = words[0].upper()
    following = [*words[1:], *(as_text(word) for word in args[1:9])] if name in _HAS_WORDS else []
    subcommand = following[0] if following else ""
    # Behind STREAMS there are keys, which may be called anything.
    blocks = name in _MAY_BLOCK and "BLOCK" in takewhile(lambda word: word != "STREAMS", map(str.upper, following))
    if name in NOT_SHAREABLE or (name, subcommand.upper()) in _NOT_SHAREABLE_PAIRS or blocks:
        raise CommandNotShareable(
            f"{name} changes, or waits on, the connection that all tasks of this client share; this client has no"
            " other connection for it yet"
        )
    return Command(name, (*words, *args[1:]))


def has_telling_words(command: Command) -> bool:
    """Whether it takes more than the name to tell what kind of command it is."""
    return command.name in _HAS_WORDS


def never_ran(command: Command, error: RedisError, *, follows_master: bool) -> bool:
    """Whether an error reply proves that the server did not run the command, and that another try may succeed.

    That the server is no master is worth another try only to one who looks up the master each time.
    """
    if command.name in _HAS_A_BODY:
        return False
    verdict = verdict_of(error)
    return verdict in (Verdict.WAIT, Verdict.RECONNECT) or (verdict is Verdict.LOOK_AGAIN and follows_master)


def may_send_again(command: Command, *, written: bool) -> bool:
    """Whether a command whose connection failed may be sent once more."""
    return not written or command.only_reads
