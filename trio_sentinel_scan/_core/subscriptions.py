"""What a subscriber wants, what its server holds of it, and what everything that comes from there means.

*Wanted* is what the callers asked for last; *held* is what the server of the present connection has confirmed. Each
new connection is asked for everything that is wanted, in a few commands; a call's own names go in a command of the
call's own, so that a refusal is that call's alone. A server answers commands in order, and that is how answers are told
apart: by the queue of what was asked.

A subscriber that had held something and lost it owes its caller one `Gap`, before the first message of the connection
that holds it again.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from .errors import ProtocolError, ServerConnectionError, SubscriptionLost
from .mailbox import Mailbox
from .messages import Confirmation, Gap, Handler
from .reconnecting import Reconnecting
from .replies import as_text, is_list
from .subscription_parts import CONFIRMATIONS, Asked, Interruption, Kind, Ticket, Wanted
from .verdicts import Verdict, error_code, verdict_of
from .wire import Push

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .identity import ServerIdentity
    from .messages import SubscriberOptions
    from .wire import Argument, Reply

__all__ = ["Kind", "Subscriptions", "Ticket"]

# How many names go into one command when all of them are subscribed to again.
NAMES_PER_COMMAND: Final = 1000


class Subscriptions:
    """One subscriber. Times are in seconds; whoever drives it gives `now`."""

    def __init__(self, options: SubscriberOptions, *, failover_timeout: float, jitter: Callable[[], float]) -> None:
        self._options = options
        self.mailbox: Mailbox = Mailbox(options.buffer, options.on_full)
        self.reconnecting: Reconnecting = Reconnecting(failover_timeout, jitter)
        # The end of it: why nothing more will come. Set once.
        self.error: Exception | None = None
        # The process at the other end; of the last connection, while there is none.
        self.server: ServerIdentity | None = None
        # How many interruptions have become a Gap.
        self.gaps: int = 0
        self._wanted: dict[Kind, dict[bytes, Wanted]] = {kind: {} for kind in Kind}
        self._channels = self._wanted[Kind.CHANNEL]
        self._patterns = self._wanted[Kind.PATTERN]
        # Calls that are not settled.
        self._tickets: dict[Ticket, None] = {}
        self._connected = False
        # Invariant: these four are empty, and `_restoring` is 0, while `_connected` is False.
        self._held: dict[Kind, set[bytes]] = {kind: set() for kind in Kind}
        self._asked: deque[Asked] = deque()
        self._to_send: list[tuple[Argument, ...]] = []
        self._refused: list[tuple[Kind, bytes, Exception]] = []
        # How many of `_asked` make up for what a lost connection held.
        self._restoring = 0
        # Names that were held, are wanted still, and are not held again.
        self._missed: set[tuple[Kind, bytes]] = set()
        self._regained = False
        # Invariant: None unless something in `_missed`, or `_regained`, is owed a Gap that was not told yet.
        self._interruption: Interruption | None = None

    # ---- what can be asked of it ---------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connected

    @property
    def wants_connection(self) -> bool:
        """Whether there is something to have a connection for."""
        return bool(self._channels or self._patterns or self._tickets)

    @property
    def answer_is_due(self) -> bool:
        """Whether the server owes an answer."""
        return bool(self._asked)

    @property
    def must_read(self) -> bool:
        """Whether somebody waits for an answer, which may come behind any number of messages."""
        return self._restoring > 0 or any(asked.ticket in self._tickets for asked in self._asked)

    def wanted(self, kind: Kind) -> dict[bytes, Handler | None]:
        """The names of a kind that are wanted, with their handlers."""
        return {name: wanted.handler for name, wanted in self._wanted[kind].items()}

    # ---- calls ---------------------------------------------------------------------------------------------------

    def subscribe(self, kind: Kind, handlers: Mapping[bytes, Handler | None]) -> Ticket:
        """These names are wanted from now on, whatever becomes of the ticket's caller."""
        ticket = Ticket(kind, True, tuple(handlers))
        for name, handler in handlers.items():
            self._wanted[kind][name] = Wanted(handler, ticket)
        self._tickets[ticket] = None
        if self._connected:
            self._ask_for(ticket)
        return ticket

    def unsubscribe(self, kind: Kind, names: Iterable[bytes] | None = None) -> Ticket:
        """These names (None: all of their kind) are not wanted any more; what comes of them is dropped."""
        ticket = Ticket(kind, False, tuple(self._wanted[kind] if names is None else dict.fromkeys(names)))
        for name in ticket.names:
            self._unwant(kind, name)
        if not (self._missed or self._regained):
            self._interruption = None
        if self._connected and ticket.names:
            self._tickets[ticket] = None
            self._ask_for(ticket)
        else:
            # No server holds any of them. Nor will those be asked for that other calls were waiting for.
            ticket.settled = True
            self._settle_the_superseded()
        return ticket

    def ping(self) -> Ticket:
        """Have the server answer; on the next connection, if this one is lost before it does."""
        ticket = Ticket(None, True, ())
        self._tickets[ticket] = None
        if self._connected:
            self._ask_for(ticket)
        return ticket

    def check_health(self) -> None:
        """Nothing was heard for a while: have the server answer."""
        self._ask(Asked(None, True, ()))

    def abandon(self, ticket: Ticket) -> None:
        """Its caller has gone. What it asked for stands."""
        ticket.abandoned = True
        if ticket.kind is None:
            self._tickets.pop(ticket, None)

    def reset(self) -> None:
        """Nothing is wanted any more, and what was not received is forgotten. The connection is to be given up."""
        for kind in Kind:
            self._wanted[kind].clear()
            self._held[kind].clear()
        self._missed.clear()
        self._regained = False
        self._interruption = None
        self.mailbox.clear()
        for ticket in tuple(self._tickets):
            self._settle(ticket)

    def fail(self, error: Exception) -> None:
        """It has ended; every call that waits is told so, and so will be every later one."""
        if self.error is None:
            self.error = error
        for ticket in tuple(self._tickets):
            self._settle(ticket, self.error)

    # ---- the connection ------------------------------------------------------------------------------------------

    @property
    def has_commands(self) -> bool:
        """Whether there is something to send."""
        return bool(self._to_send)

    def commands(self) -> list[tuple[Argument, ...]]:
        """What is to be sent. It is not given out twice."""
        commands, self._to_send = self._to_send, []
        return commands

    def connected(self, server: ServerIdentity, now: float) -> None:
        """A new connection: everything that is wanted is asked for."""
        self.server = server
        self._connected = True
        for kind, wanted in self._wanted.items():
            names = [name for name, want in wanted.items() if want.ticket not in self._tickets]
            for at in range(0, len(names), NAMES_PER_COMMAND):
                self._ask(Asked(kind, True, tuple(names[at : at + NAMES_PER_COMMAND]), restores=True))
        for ticket in tuple(self._tickets):
            self._ask_for(ticket, restores=True)
        self._check_restored(now)

    def lost(self, cause: str, now: float, heard: float) -> None:
        """There is no connection (any more); `heard` is when the last was heard of it."""
        if self._connected:
            self._missed.update(
                (kind, name) for kind, held in self._held.items() for name in held if name in self._wanted[kind]
            )
            if self._missed and self._interruption is None:
                self._interruption = Interruption(cause, self.server, heard)
        self._regained = False
        self._connected = False
        for held in self._held.values():
            held.clear()
        self._asked.clear()
        self._to_send.clear()
        self._restoring = 0
        self._report_refused()
        self._settle_the_superseded()
        self.reconnecting.lost(cause, now)

    def take(self, reply: Reply, now: float) -> None:
        """Something that the server said.

        Raises ProtocolError and ServerConnectionError for what means that the connection is to be given up, and
        SubscriberOverflow.
        """
        if not is_list(reply):
            self._take_answer(reply, now)
            return
        try:
            word = reply[0]
            if word == b"message" and len(reply) == 3:
                want = self._channels.get(reply[1])
            elif word == b"pmessage" and len(reply) == 4:
                want = self._patterns.get(reply[1])
            elif word in CONFIRMATIONS:
                self._take_confirmation(word, reply[1], reply[2], now)
                return
            else:
                self._take_other(reply, now)
                return
        except (IndexError, TypeError):
            raise ProtocolError("the server pushed what is no message") from None
        # What was not yet unsubscribed from at the server is of no more interest here.
        if want is not None:
            if self._interruption is not None:
                self._tell_gap(now)
            self.mailbox.put_message(reply, want.handler, now, self.server)

    # ---- answers -------------------------------------------------------------------------------------------------

    def _take_answer(self, reply: Reply, now: float) -> None:
        if isinstance(reply, RedisError):
            if not self._asked:
                raise ServerConnectionError(f"the server said, unasked: {reply}")
            self._take_refusal(self._asked[0], reply, now)
        elif self._asked and self._asked[0].kind is None:
            self._answered(now)
        else:
            raise ProtocolError("the server answered what it was not asked")

    def _take_other(self, reply: list[Any], now: float) -> None:
        if as_text(reply[0]) == "pong" and self._asked and self._asked[0].kind is None:
            self._answered(now)
        elif not isinstance(reply, Push):
            # (RESP3 has other pushes, which are none of ours.)
            raise ProtocolError("the server answered what it was not asked")

    def _take_confirmation(self, word: bytes, name: bytes, count: int, now: float) -> None:
        kind, wants = CONFIRMATIONS[word]
        asked = self._asked[0] if self._asked else None
        if asked is None or (asked.kind, asked.wants) != (kind, wants) or asked.names[asked.confirmed] != name:
            raise ProtocolError("the server confirmed what it was not asked for")
        asked.confirmed += 1
        if wants:
            self._held[kind].add(name)
            if (kind, name) in self._missed:
                self._missed.discard((kind, name))
                self._regained = True
        else:
            self._held[kind].discard(name)
        if asked.ticket is not None and not self._options.ignore_subscribe_messages:
            self.mailbox.put(Confirmation(word.decode(), name, count))
        if asked.confirmed == len(asked.names):
            self._answered(now)

    def _take_refusal(self, asked: Asked, error: RedisError, now: float) -> None:
        if asked.kind is None:
            # Whatever it says, it is alive.
            self._answered(now, error)
            return
        if verdict_of(error) is not Verdict.REFUSED:
            # Its words may have the names in them, and this goes into a log.
            raise ServerConnectionError(f"the server will not subscribe: {error_code(error)}")
        if asked.ticket is not None:
            self._forget(asked.kind, asked.ticket)
            if asked.ticket.abandoned and asked.wants:
                self._refused += [(asked.kind, name, error) for name in asked.names]
        else:
            for name in filter(partial(self._is_mine, asked.kind), asked.names):
                if len(asked.names) > 1:
                    # Which of them it was is not said: each is asked for by itself.
                    self._ask(Asked(asked.kind, True, (name,), restores=True))
                else:
                    self._unwant(asked.kind, name)
                    self._refused.append((asked.kind, name, error))
        self._answered(now, error)

    def _answered(self, now: float, error: RedisError | None = None) -> None:
        """The oldest question was answered in full."""
        asked = self._asked.popleft()
        if asked.ticket is not None:
            self._settle(asked.ticket, error)
        if asked.restores:
            self._restoring -= 1
        if self._restoring == 0:
            self._report_refused()
            self._check_restored(now)

    def _is_mine(self, kind: Kind, name: bytes) -> bool:
        """Whether a name is wanted, is not held, and no call is waiting for it."""
        want = self._wanted[kind].get(name)
        return want is not None and want.ticket not in self._tickets and name not in self._held[kind]

    def _forget(self, kind: Kind, ticket: Ticket) -> None:
        """A call was refused: what it asked for is not wanted, unless another one did so too, or it is held."""
        for name in ticket.names:
            want = self._wanted[kind].get(name)
            if want is not None and want.ticket is ticket and name not in self._held[kind]:
                self._unwant(kind, name)

    def _unwant(self, kind: Kind, name: bytes) -> None:
        self._wanted[kind].pop(name, None)
        self._missed.discard((kind, name))

    # ---- questions -----------------------------------------------------------------------------------------------

    def _ask_for(self, ticket: Ticket, *, restores: bool = False) -> None:
        if ticket.kind is None:
            self._ask(Asked(None, True, (), ticket, restores))
            return
        wanted = self._wanted[ticket.kind]
        names = tuple(name for name in ticket.names if not ticket.wants or name in wanted)
        self._ask(Asked(ticket.kind, ticket.wants, names, ticket, restores))

    def _ask(self, asked: Asked) -> None:
        self._asked.append(asked)
        self._restoring += asked.restores
        if asked.kind is None:
            self._to_send.append(("PING",))
        else:
            command = "SUBSCRIBE" if asked.wants else "UNSUBSCRIBE"
            self._to_send.append((asked.kind.value + command, *asked.names))

    # ---- what follows from it ------------------------------------------------------------------------------------

    def _settle(self, ticket: Ticket, error: Exception | None = None) -> None:
        if self._tickets.pop(ticket, ticket) is None:
            ticket.settled = True
            ticket.error = error

    def _settle_the_superseded(self) -> None:
        """Without a connection there is nothing to wait for but what will be asked for on the next one."""
        if self._connected:
            return
        for ticket in tuple(self._tickets):
            if ticket.kind is None:
                continue
            wanted = self._wanted[ticket.kind]
            if not ticket.wants or not any(name in wanted for name in ticket.names):
                self._settle(ticket)

    def _check_restored(self, now: float) -> None:
        if self._restoring == 0:
            self.reconnecting.restored(now)
            if self._regained:
                self._tell_gap(now)
            self._regained = False
            if not self._missed:
                self._interruption = None

    def _tell_gap(self, now: float) -> None:
        interruption, self._interruption = self._interruption, None
        if interruption is not None:
            self.gaps += 1
            self.mailbox.put(Gap(interruption.cause, interruption.old_server, self.server, interruption.began, now))

    def _report_refused(self) -> None:
        if self._refused:
            refused, self._refused = self._refused, []
            channels, patterns = (tuple(name for of, name, _ in refused if of is kind) for kind in Kind)
            error = SubscriptionLost(
                f"the server refuses {len(channels)} channels and {len(patterns)} patterns: {refused[0][2]}",
                channels,
                patterns,
            )
            error.__cause__ = refused[0][2]
            self.mailbox.put(error)
