# pyright: reportUnknownMemberType=false
# (redis-py does not annotate the arguments of its exceptions.)
"""Every exception that is ours, sorted by who is at fault and what can be done.

All of them descend from `redis.exceptions.RedisError`, so that an ``except RedisError`` written for redis-py goes on
working, and the leaves also descend from redis-py's nearest class (`ConnectionError`, `TimeoutError`, ...). Error
*replies* of a server are redis-py's own classes (`ResponseError` and below).

No message here ever holds a password, a key or a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis import exceptions as redis_errors

if TYPE_CHECKING:
    from .identity import ServerIdentity
    from .summary import ScanSummary

__all__ = [
    "AuthenticationFailed",
    "CheckpointInvalid",
    "ClientClosed",
    "ClusterNotFound",
    "CollectionChanged",
    "CollectionGone",
    "CommandNotShareable",
    "CommandOutcomeUnknown",
    "ConfigError",
    "HashSeedMismatch",
    "KeysInDifferentSlots",
    "LeaseLost",
    "MasterNotFound",
    "NoReplicaAvailable",
    "NoSentinelReachable",
    "ProtocolError",
    "RedirectionLoop",
    "ResponseTimeout",
    "RoleMismatch",
    "ScanError",
    "ScanInterrupted",
    "ScanNotCertified",
    "ScanRefused",
    "ScanRestartsExhausted",
    "ScanStuck",
    "SeenKeysUnavailable",
    "SentinelScanError",
    "ServerConnectionError",
    "ServerUnavailable",
    "ServiceUnknown",
    "SlotsNotCovered",
    "SubscriberOverflow",
    "SubscriptionLost",
    "TooManyCommandsWaiting",
    "TopologyUnavailable",
    "WrongEventLoop",
]


class SentinelScanError(redis_errors.RedisError):
    """The root of every error that this package defines."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Python would call the class with the message alone, and some of them want more.
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[SentinelScanError], args: tuple[object, ...]) -> SentinelScanError:
    return kind.__new__(kind, *args)


# ---- You asked for something that cannot be ---------------------------------------------------------------------


class ConfigError(SentinelScanError, ValueError):
    """An argument or a URL is wrong; nothing was sent anywhere.

    `argument` is the name of the argument (or of the part of the URL) at fault.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument}: {problem}")
        self.argument = argument


class CheckpointInvalid(ConfigError):
    """The text given as `resume` is no checkpoint, is damaged, is of a later version, or is another scan's."""

    def __init__(self, problem: str) -> None:
        super().__init__("resume", problem)


class ClientClosed(SentinelScanError):
    """The client (or the scan) was used outside its ``async with`` block."""


class WrongEventLoop(SentinelScanError, RuntimeError):
    """A client, or something of its, was used in another event loop (or thread) than the one it was opened in.

    Nothing was sent. From another thread, have the client's own loop do it: `trio.from_thread.run`,
    `anyio.from_thread.run`, `asyncio.run_coroutine_threadsafe`.

    Or a client of the Trio edition was opened where Trio does not run: `trio_sentinel_scan.anyio` has its like.
    """


class CommandNotShareable(SentinelScanError):
    """A command that changes or depends on a connection's state was sent to the connection that all tasks share.

    The message says how to have a connection of one's own for it: ``async with client.dedicated() as lease``.
    """


class KeysInDifferentSlots(SentinelScanError, redis_errors.CrossSlotTransactionError):
    """A command, a transaction or what was watched has keys in several slots of a cluster; nothing was sent.

    `slots` are their slots. Keys with the same hash tag (``{user:1}:name``, ``{user:1}:mail``) are in one slot.
    """

    def __init__(self, message: str, slots: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.slots = slots


class TopologyUnavailable(SentinelScanError):
    """Topology events were asked of a client that has no Sentinels to tell of them."""


# ---- The world broke it ----------------------------------------------------------------------------------------


class ServerConnectionError(SentinelScanError, redis_errors.ConnectionError):
    """A connection could not be made, or it was lost. `__cause__` has the operating system's word for it."""


class ServerUnavailable(ServerConnectionError):
    """No usable server was found within `failover_timeout`; the message says what was tried and what came of it."""


class NoReplicaAvailable(ServerUnavailable):
    """A scan with ``read_from="replica"`` has found no replica to scan within `failover_timeout`.

    `replicas` maps each replica's address to why it would not do. ``fallback="master"`` would scan the master then.
    """

    def __init__(self, message: str, replicas: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.replicas: dict[str, str] = dict(replicas or {})


class ResponseTimeout(SentinelScanError, redis_errors.TimeoutError):
    """A server did not answer within `response_timeout`. The connection was closed: its next reply means nothing.

    Commands and scans go on from it by themselves; it is the `__cause__` or the reason given when they cannot.
    """


class ProtocolError(SentinelScanError, redis_errors.InvalidResponse):
    """A server sent what is not RESP, nests too deep, or announces an absurd length. The connection was closed.

    Or it sent a whole reply that redis-py's callback for the command cannot read: one that the command cannot have, or
    does not have with the words that redis-py's own method sends. The connection stays then, for its next reply is the
    next command's. What the command did, it did.
    """


class AuthenticationFailed(SentinelScanError, redis_errors.AuthenticationError):
    """A server refused the username or password, or wants one and was given none. Never tried again by itself."""


class RoleMismatch(ServerConnectionError):
    """The server that answered is not what it was taken for: a "master" that says it is a replica, a Sentinel, ..."""


class SeenKeysUnavailable(SentinelScanError):
    """A store of seen keys (`SpillingSeen`) cannot be read or written: the disk is full, or it was closed.

    The scan that it served has ended with a `ScanError`. What was committed is still in the store: open it anew, and
    resume from the last checkpoint. `__cause__` is what the database said, if that was asked.
    """


# ---- The Sentinels could not say -------------------------------------------------------------------------------


class MasterNotFound(SentinelScanError, redis_errors.ConnectionError):
    """The Sentinels led to no master. `sentinels` maps each Sentinel's address to what came of asking it."""

    def __init__(self, message: str, sentinels: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.sentinels: dict[str, str] = dict(sentinels or {})


class NoSentinelReachable(MasterNotFound):
    """No Sentinel answered at all: a matter of addresses, network or passwords."""


class ServiceUnknown(MasterNotFound):
    """Sentinels answered, and none of them knows a service of this name: a matter of its spelling."""


# ---- No node could say -----------------------------------------------------------------------------------------


class ClusterNotFound(SentinelScanError, redis_errors.ConnectionError):
    """No node of the cluster could be asked who has which slot. `nodes` maps each address to what came of asking it."""

    def __init__(self, message: str, nodes: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.nodes: dict[str, str] = dict(nodes or {})


class RedirectionLoop(SentinelScanError, redis_errors.ClusterError):
    """The nodes of a cluster sent a command to each other in a circle, for seconds: they do not agree whose a slot is.

    It did not run. `slot` is the slot, `nodes` the addresses that it was sent to, in order.
    """

    def __init__(self, message: str, slot: int = -1, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.slot = slot
        self.nodes = nodes


# ---- A command's fate ------------------------------------------------------------------------------------------


class CommandOutcomeUnknown(ServerConnectionError):
    """A command was written and its reply never came: it may have run or not, and it was not sent again."""


class TooManyCommandsWaiting(SentinelScanError, redis_errors.ConnectionError):
    """More than `max_waiting` commands are waiting for a server or a reply. This one was not sent.

    The server is away or slower than what is asked of it: let some of the callers do without.
    """


class LeaseLost(ServerConnectionError):
    """A lease's connection is gone, and with it whatever it was set to; what was asked for now was not sent.

    (Or it only reads, and was sent when the connection went.) A lease is bound to one server process: lease another
    connection. `__cause__` is what happened to this one, where that was an error.
    """


# ---- Pub/Sub ---------------------------------------------------------------------------------------------------


class SubscriberOverflow(SentinelScanError):
    """The subscriber's buffer was full, and ``on_full="raise"`` forbids to drop or to wait. It has ended."""


class SubscriptionLost(SentinelScanError, redis_errors.ResponseError):
    """The server refused what nobody was waiting for any more: a subscription that was held before, as a rule.

    (Or no node of a cluster took a sharded channel within `failover_timeout`.) It is not tried again; the subscriber
    goes on with the others. `channels`, `patterns` and `shard_channels` are those that it gave up, as bytes (they are
    not in the message); `__cause__` is the server's reply.
    """

    def __init__(
        self,
        message: str,
        channels: tuple[bytes, ...] = (),
        patterns: tuple[bytes, ...] = (),
        shard_channels: tuple[bytes, ...] = (),
    ) -> None:
        super().__init__(message)
        self.channels = channels
        self.patterns = patterns
        self.shard_channels = shard_channels


# ---- A scan's end that is not "complete" -----------------------------------------------------------------------


class ScanError(SentinelScanError):
    """A scan ended without being complete. What was handed out until then is genuine, but it is not everything.

    `summary` is the scan's `ScanSummary` at that moment.
    """

    def __init__(self, message: str, summary: ScanSummary | None = None) -> None:
        super().__init__(message)
        self.summary = summary


class ScanInterrupted(ScanError):
    """The pass became void and ``on_failover="raise"`` forbids another one.

    `reason` says why, `epoch` is the pass that became void, `old_server` and `new_server` the identities on both
    sides (`None` where not known), `keys` how many keys had been handed out.
    """

    def __init__(
        self,
        reason: str,
        *,
        epoch: int,
        old_server: ServerIdentity | None,
        new_server: ServerIdentity | None,
        keys: int,
        summary: ScanSummary | None = None,
    ) -> None:
        super().__init__(
            f"scan interrupted in epoch {epoch}: {reason}"
            f" (old server {old_server or 'not known'}, new server {new_server or 'not known'},"
            f" {keys} keys handed out); what was handed out is not everything:"
            ' scan again from cursor 0, or let the scan do so with on_failover="restart"',
            summary,
        )
        self.reason = reason
        self.epoch = epoch
        self.old_server = old_server
        self.new_server = new_server
        self.keys = keys


class ScanRestartsExhausted(ScanError):
    """More than `max_restarts` passes became void, or as many new connections in a row yielded nothing."""


class ScanNotCertified(ScanError):
    """The pass was swept to its end, but no majority of the Sentinels was in reach to confirm its master.

    Every key of that server was handed out; whether that server was still *the* master is what nobody could say
    within `failover_timeout`. ``certify="role"`` accepts the server's own word instead. (In a cluster it is a majority
    of the masters, and which of them has which slot.)
    """


class SlotsNotCovered(ScanError):
    """No node of the cluster has had these slots for `failover_timeout`; everything else was scanned.

    `slots` are their ranges, each with its first and its last slot. ``allow_uncovered=True`` does without them.
    """

    def __init__(
        self, message: str, slots: tuple[tuple[int, int], ...] = (), summary: ScanSummary | None = None
    ) -> None:
        super().__init__(message, summary)
        self.slots = slots


class HashSeedMismatch(ScanError):
    """A server's own word contradicts ``hash_seed_shared=True``: it has no `hash-seed`, or not that of the others.

    Give all nodes the same one (it is read when a server starts, and Valkey has it from 9.1 on), or leave
    `hash_seed_shared` out: the scan then begins again when the process changes, as ever.
    """


class ScanStuck(ScanError):
    """The server's cursors go in a circle: this pass would never end."""


class CollectionGone(ScanError):
    """The hash, set or sorted set that was being scanned is not there any more: deleted, expired, or lost.

    (A key that was not there from the beginning is no error: its scan is complete, with no items.)
    """


class CollectionChanged(ScanError):
    """The key that was being scanned holds something else by now: no hash, set or sorted set as it did before."""


class ScanRefused(ScanError, redis_errors.ResponseError):
    """The server refuses the scan itself (no permission for SCAN, no such type, ...); trying again cannot help."""
