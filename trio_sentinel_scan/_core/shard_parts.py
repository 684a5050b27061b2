"""What sharded subscriptions are made of: channels that are wanted, calls that wait, commands that were asked."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .identity import Address
    from .messages import Handler
    from .shard_node import ShardNode
    from .subscription_parts import Interruption

__all__ = ["Ask", "LostConnection", "ShardAsked", "ShardTicket", "WantedChannel"]


@dataclass(slots=True, eq=False)
class ShardTicket:
    """A call that waits. Once it is settled, nothing about it changes any more."""

    wants: bool
    names: tuple[bytes, ...] = field(repr=False)
    # Those of them that no node has confirmed.
    pending: set[bytes] = field(default_factory=set[bytes], repr=False)
    settled: bool = False
    # With the server's own words in it, as a rule.
    error: Exception | None = field(default=None, repr=False)
    # Whether the caller has gone: nobody is there to be told of an error.
    abandoned: bool = False


@dataclass(slots=True, eq=False)
class WantedChannel:
    """A sharded channel that is wanted."""

    slot: int
    handler: Handler | None
    # Since when no node holds it; None while one does.
    since: float | None
    # Calls for it that are not settled; and whether one was that got it. A channel with neither is not wanted.
    tickets: list[ShardTicket] = field(default_factory=list[ShardTicket])
    is_kept: bool = False
    # Where the map says that it belongs; None while its slot has no owner.
    node: ShardNode | None = None
    # Whether a node has confirmed it: from then on messages are owed, or a Gap.
    is_promised: bool = False
    # What the Gap will tell that is owed when it is held again.
    interruption: Interruption | None = None
    # Not to be asked for until the next tick: at this node, or at none.
    rests_at: Address | None = None
    rests: bool = False
    # Not to be asked for at this node, which has ended the subscription by itself, before the map has been asked for or
    # so many ticks have gone by.
    ended_at: Address | None = None
    ended_ticks: int = 0
    # Redirections in a row.
    redirects: int = 0
    # Whether it is asked for in a command of its own: it was refused together with others.
    is_alone: bool = False


class Ask(enum.Enum):
    """What a node is asked."""

    SUBSCRIBE = "subscribe"
    # SUNSUBSCRIBE commands, with a PING behind them.
    LET_GO = "let go"
    PING = "ping"


@dataclass(slots=True, eq=False)
class ShardAsked:
    """Something that a node has not answered in full."""

    what: Ask
    names: tuple[bytes, ...] = field(default=(), repr=False)
    # The call whose command it is; None for what the subscriber asks by itself.
    ticket: ShardTicket | None = None
    # SUBSCRIBE: how many of `names` were confirmed.
    confirmed: int = 0
    # LET_GO: how many of its commands may still be answered by an error.
    may_fail: int = 0


@dataclass(frozen=True, slots=True)
class LostConnection:
    """What a node's connection was, until it was lost."""

    cause: str
    # When the last was heard of it.
    heard: float
    held: set[bytes] = field(repr=False)
    busy: set[bytes] = field(repr=False)
    regained: Mapping[bytes, Interruption] = field(repr=False)
