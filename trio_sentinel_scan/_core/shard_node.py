"""One node's part in sharded subscriptions: its connection, what it holds, and what its answers belong to.

A node answers commands in order, and that is how answers are told apart. One thing it says by itself, in the words of
an answer: `sunsubscribe`, for a channel whose slot it has lost. So every SUNSUBSCRIBE of ours has a PING behind it:
each `sunsubscribe` before its answer means the same (the node does not hold that channel any more), and an error before
it is a SUNSUBSCRIBE's own, for a node that has lost the slot answers that with MOVED.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from .errors import ProtocolError, ServerConnectionError
from .reconnecting import Reconnecting
from .replies import is_list
from .shard_parts import Ask, LostConnection, ShardAsked
from .wire import Push

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .identity import Address, ServerIdentity
    from .mailbox import Mailbox
    from .shard_parts import ShardTicket
    from .shard_plan import ShardPlan
    from .subscription_parts import Interruption
    from .wire import Argument, Reply

__all__ = ["ShardNode"]

# How many names go into one command.
NAMES_PER_COMMAND: Final = 1000
_ABOUT_CHANNELS: Final = (b"smessage", b"ssubscribe", b"sunsubscribe")


class ShardNode:
    """What one node holds, or is to hold. Made and let go by the plan; whoever drives its connection tells it all."""

    def __init__(self, plan: ShardPlan, address: Address) -> None:
        self._plan = plan
        self.address: Address = address
        # It never gives up by itself: the plan knows for how long each channel was missing.
        self.reconnecting: Reconnecting = Reconnecting(math.inf, plan.jitter)
        # The process at the other end; of the last connection, while there is none.
        self.server: ServerIdentity | None = None
        self.is_connected: bool = False
        # When something was heard of it last, and why it could not be used last.
        self.heard: float = -math.inf
        self.problem: str = "no connection has been made yet"
        # Channels that belong here by the map.
        self.assigned: dict[bytes, None] = {}
        # Invariant: all that follows is empty while `is_connected` is False.
        # Channels that it has confirmed, and not taken back.
        self.held: set[bytes] = set()
        # Those that a command under way is about: there is never another one for the same channel.
        self.busy: set[bytes] = set()
        # Channels that it holds now and that were interrupted before, with what their Gap is to tell.
        self.regained: dict[bytes, Interruption] = {}
        self._asked: deque[ShardAsked] = deque()
        self._to_send: list[tuple[Argument, ...]] = []
        # Invariant: how many of `_asked` are SUBSCRIBE.
        self._subscribing = 0

    # ---- for whoever drives its connection -----------------------------------------------------------------------

    @property
    def mailbox(self) -> Mailbox:
        """Where messages go."""
        return self._plan.mailbox

    @property
    def error(self) -> Exception | None:
        """The end of the whole subscriber."""
        return self._plan.error

    def fail(self, error: Exception) -> None:
        """The whole subscriber has ended."""
        self._plan.fail(error)

    @property
    def wants_connection(self) -> bool:
        """Whether there is something to have a connection for."""
        return bool(self.assigned or self.held or self.busy)

    @property
    def answer_is_due(self) -> bool:
        """Whether the server owes an answer."""
        return bool(self._asked)

    @property
    def must_read(self) -> bool:
        """Whether something waits for an answer, which may come behind any number of messages."""
        return any(asked.what is not Ask.PING or asked.ticket is not None for asked in self._asked)

    @property
    def has_commands(self) -> bool:
        """Whether there is something to send."""
        return bool(self._to_send)

    def commands(self) -> list[tuple[Argument, ...]]:
        """What is to be sent. It is not given out twice."""
        commands, self._to_send = self._to_send, []
        return commands

    def check_health(self) -> None:
        """Nothing was heard for a while: have the server answer."""
        self.ping(None)

    def connected(self, server: ServerIdentity, now: float) -> None:
        """A new connection."""
        self.server = server
        self.is_connected = True
        self.heard = now
        self.problem = f"{self.address} has not answered"
        self._plan.connected(self, now)

    def lost(self, cause: str, now: float, heard: float) -> None:
        """There is no connection (any more); `heard` is when the last was heard of it."""
        was = LostConnection(cause, heard, self.held, self.busy, self.regained)
        self.held, self.busy, self.regained = set(), set(), {}
        self.is_connected = False
        self.problem = cause
        self._asked.clear()
        self._to_send.clear()
        self._subscribing = 0
        self.reconnecting.lost(cause, now)
        self._plan.lost(self, was, now)

    def take(self, reply: Reply, now: float) -> None:
        """Something that the server said.

        Raises ProtocolError and ServerConnectionError for what means that the connection is to be given up, and
        SubscriberOverflow.
        """
        self.heard = now
        if not is_list(reply):
            self._take_answer(reply, now)
            return
        word = reply[0] if reply else None
        if word not in _ABOUT_CHANNELS:
            self._take_other(reply)
            return
        if len(reply) != 3 or not isinstance(reply[1], bytes):
            raise ProtocolError("the server pushed what is no message")
        if word == b"smessage":
            self._plan.take_message(self, reply, now)
        elif word == b"ssubscribe":
            self._take_confirmation(reply[1], now)
        else:
            self._take_end(reply[1], now)

    # ---- for the plan --------------------------------------------------------------------------------------------

    def has(self, name: bytes) -> bool:
        """Whether it holds the channel, or may: a command about it is under way."""
        return name in self.held or name in self.busy

    def keeps(self, name: bytes) -> bool:
        """Whether it holds the channel, and is not about to let it go."""
        return name in self.held and name not in self.busy

    def subscribe(self, names: Sequence[bytes], ticket: ShardTicket | None) -> None:
        """Ask for channels of one slot. None of them is held or busy."""
        for at in range(0, len(names), NAMES_PER_COMMAND):
            some = tuple(names[at : at + NAMES_PER_COMMAND])
            self.busy.update(some)
            self._subscribing += 1
            self._ask(ShardAsked(Ask.SUBSCRIBE, some, ticket), ("SSUBSCRIBE", *some))

    def let_go(self, by_slot: Mapping[int, Sequence[bytes]]) -> None:
        """Unsubscribe from channels. All of them are held, and none is busy."""
        commands: list[tuple[Argument, ...]] = [
            ("SUNSUBSCRIBE", *names[at : at + NAMES_PER_COMMAND])
            for names in by_slot.values()
            for at in range(0, len(names), NAMES_PER_COMMAND)
        ]
        names = tuple(name for names in by_slot.values() for name in names)
        self.busy.update(names)
        self._ask(ShardAsked(Ask.LET_GO, names, may_fail=len(commands)), *commands, ("PING",))

    def ping(self, ticket: ShardTicket | None) -> None:
        """Have it answer."""
        self._ask(ShardAsked(Ask.PING, ticket=ticket), ("PING",))

    # ---- inside --------------------------------------------------------------------------------------------------

    def _ask(self, asked: ShardAsked, *commands: tuple[Argument, ...]) -> None:
        self._asked.append(asked)
        self._to_send += commands

    def _take_confirmation(self, name: bytes, now: float) -> None:
        asked = self._asked[0] if self._asked else None
        if asked is None or asked.what is not Ask.SUBSCRIBE or asked.names[asked.confirmed] != name:
            raise ProtocolError("the server confirmed what it was not asked for")
        asked.confirmed += 1
        self.held.add(name)
        self.busy.discard(name)
        whole = asked.confirmed == len(asked.names)
        if whole:
            self._asked.popleft()
            self._subscribing -= 1
        self._plan.confirmed(self, name)
        if whole:
            self._check_restored(now)

    def _take_end(self, name: bytes, now: float) -> None:
        if name not in self.held:
            # It said so twice: once by itself, and once when it was asked to let it go.
            return
        self.held.discard(name)
        # `busy` stays: a SUNSUBSCRIBE that is under way is over when the PING behind it is answered.
        self._plan.dropped(self, name, now, was_asked_to=name in self.busy)

    def _take_answer(self, reply: Reply, now: float) -> None:
        if isinstance(reply, RedisError):
            if not self._asked:
                raise ServerConnectionError(f"the server said, unasked: {reply}")
            self._take_refusal(self._asked[0], reply, now)
        else:
            self._take_pong()

    def _take_other(self, reply: list[Any]) -> None:
        if reply and reply[0] == b"pong":
            self._take_pong()
        elif not isinstance(reply, Push):
            # (RESP3 has other pushes, which are none of ours.)
            raise ProtocolError("the server answered what it was not asked")

    def _take_pong(self, error: RedisError | None = None) -> None:
        """The answer to a PING; whatever it says, the server is alive."""
        if not self._asked or self._asked[0].what is Ask.SUBSCRIBE:
            raise ProtocolError("the server answered what it was not asked")
        asked = self._asked.popleft()
        if asked.what is Ask.PING:
            self._plan.ponged(self, asked.ticket, error)
            return
        if any(name in self.held for name in asked.names):
            raise ServerConnectionError("the server does not let go of subscriptions")
        self.busy.difference_update(asked.names)
        self._plan.was_let_go(asked.names)

    def _take_refusal(self, asked: ShardAsked, error: RedisError, now: float) -> None:
        if asked.what is Ask.SUBSCRIBE:
            self._asked.popleft()
            self._subscribing -= 1
            rest = asked.names[asked.confirmed :]
            self.busy.difference_update(rest)
            self._plan.refused(self, rest, asked.ticket, error)
            self._check_restored(now)
        elif asked.what is Ask.PING or not asked.may_fail or "'ping'" in str(error):
            self._take_pong(error)
        else:
            asked.may_fail -= 1

    def _check_restored(self, now: float) -> None:
        if not self._subscribing:
            self.reconnecting.restored(now)
            self._plan.tell_gaps(self, now)

    def forget(self, names: Iterable[bytes]) -> None:
        """No Gap is owed for these any more."""
        for name in names:
            self.regained.pop(name, None)
