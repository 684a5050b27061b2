"""What is to be known of a command before it is sent, and after its connection failed: tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .errors import CommandNotShareable
from .replies import as_text
from .verdicts import Verdict, verdict_of

if TYPE_CHECKING:
    from redis.exceptions import RedisError

    from .wire import Argument

__all__ = ["Command", "may_send_again", "never_ran", "read_command"]

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
_NOT_SHAREABLE_PAIRS: Final = frozenset({("CLIENT", "REPLY"), ("CLIENT", "TRACKING"), ("CLIENT", "CACHING")})

# What a script, function or transaction answers may come from inside of it, after part of it has run.
_HAS_A_BODY: Final = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO", "EXEC"})


@dataclass(frozen=True, slots=True)
class Command:
    """A command, ready to be sent. Its arguments never get into a message: they may be keys and values."""

    name: str
    args: tuple[Argument, ...]

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
    subcommand = words[1] if len(words) > 1 else as_text(args[1]) if name == "CLIENT" and len(args) > 1 else ""
    if name in NOT_SHAREABLE or (name, subcommand.upper()) in _NOT_SHAREABLE_PAIRS:
        msg = (
            f"{name} changes, or waits on, the connection that all tasks of this client share;"
            " use a client of its own for it"
        )
        raise CommandNotShareable(msg)
    return Command(name, (*words, *args[1:]))


def never_ran(command: Command, error: RedisError) -> bool:
    """Whether an error reply proves that the server did not run the command, and that another try may succeed."""
    if command.name in _HAS_A_BODY:
        return False
    return verdict_of(error) in (Verdict.WAIT, Verdict.LOOK_AGAIN, Verdict.RECONNECT)


def may_send_again(command: Command, *, written: bool) -> bool:
    """Whether a command whose connection failed may be sent once more."""
    return not written or command.only_reads
