"""Sharded subscriptions: what is wanted, which node really holds it, and what is to be sent where now.

A channel belongs to the node that owns its slot. *Wanted* is what the callers asked for last; *held* is what a node has
confirmed and not taken back. Whatever comes, wanted is compared with held, and what is missing is asked for, so that in
the end each wanted channel is held by its slot's owner and by nobody else.

When a channel's slot has another owner by the map, while the old one holds it still, the new one is asked first, and
the old one lets go when the new one has confirmed: an old owner may still get messages, and a map may be wrong. No
message comes twice by that, for it is published in one shard. But within one shard all nodes pass on the same messages:
there the old one lets go first. And a node that has ended a subscription by itself is not asked again before the map
is, if anybody tells of it: a replica by now, it would take it, and pass on what its new master passes on late as well.

A channel that was held and is held again, or elsewhere, owes its caller a `Gap`, before the first message from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import AskError, RedisError, ResponseError

from .cluster_work import read_redirection
from .errors import ServerConnectionError, ServerUnavailable, SubscriptionLost
from .messages import Gap, Handler
from .shard_books import ShardBooks
from .shard_parts import ShardTicket, WantedChannel
from .slots import slot_of
from .subscription_parts import Interruption
from .verdicts import Verdict, error_code, verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .cluster_map import ClusterMap
    from .shard_node import ShardNode
    from .shard_parts import LostConnection

__all__ = ["ShardPlan"]

# Redirections in a row that are followed at once: a map and two nodes may send us in circles.
MOST_REDIRECTS: Final = 5
# Ticks for which a map is doubted: a master that has become a replica ends its subscriptions and takes them again, and
# a map that takes it for the master still would leave us there.
MOST_DOUBTS: Final = 4
# Ticks after which a node that has ended a subscription is asked again though nobody told of the map. (The first may be
# due at once.)
TICKS_WITHOUT_A_MAP: Final = 2


class ShardPlan(ShardBooks):
    """One subscriber's sharded channels. Times are in seconds; whoever drives it gives `now`."""

    # As in `ShardBooks`: what is assigned here, too, type checkers want to be told of here, too.
    error: Exception | None
    wants_map: bool
    gaps: int

    # ---- calls ---------------------------------------------------------------------------------------------------

    def subscribe(self, handlers: Mapping[bytes, Handler | None], now: float) -> ShardTicket:
        """These channels are wanted from now on, whatever becomes of the ticket's caller."""
        ticket = ShardTicket(True, tuple(handlers), set(handlers))
        self._tickets[ticket] = set()
        for name, handler in handlers.items():
            want = self._wanted.get(name)
            if want is None:
                want = self._wanted[name] = WantedChannel(slot_of(name), handler, since=now)
            want.handler = handler
            want.tickets.append(ticket)
            self._has_left(name, silently=True)
            if any(node.keeps(name) for node in self._nodes.values()):
                self._confirm(ticket, name)
        self._reconcile(handlers)
        return ticket

    def unsubscribe(self, names: Iterable[bytes] | None = None) -> ShardTicket:
        """These channels (None: all) are not wanted any more; what comes of them is dropped."""
        ticket = ShardTicket(False, tuple(self._wanted if names is None else dict.fromkeys(names)))
        ticket.pending.update(ticket.names)
        self._tickets[ticket] = set()
        for name in ticket.names:
            want = self._wanted.get(name)
            if want is not None:
                self._unwant(name)
                for waiting in want.tickets:
                    self._confirm(waiting, name, silently=True)
            self._leaving.setdefault(name, []).append(ticket)
        self._reconcile(ticket.names)
        for name in ticket.names:
            self._check_left(name)
        self._check(ticket)
        return ticket

    def ping(self) -> ShardTicket:
        """Have every node answer that there is a connection to, or is to be one."""
        ticket = ShardTicket(True, ())
        self._tickets[ticket] = set(self._nodes.values())
        for node in self._nodes.values():
            if node.is_connected:
                node.ping(ticket)
        self._check(ticket)
        return ticket

    def abandon(self, ticket: ShardTicket) -> None:
        """Its caller has gone. What it asked for stands."""
        ticket.abandoned = True

    def reset(self) -> None:
        """Nothing is wanted any more. All connections are to be given up."""
        self._wanted.clear()
        self._unsettled.clear()
        self._doubted.clear()
        self._leaving.clear()
        self._nodes.clear()
        for ticket in tuple(self._tickets):
            self._settle(ticket)

    def fail(self, error: Exception) -> None:
        """It has ended; every call that waits is told so, and so will be every later one."""
        if self.error is None:
            self.error = error
        for ticket in tuple(self._tickets):
            self._settle(ticket, self.error)

    # ---- the cluster ---------------------------------------------------------------------------------------------

    def map_changed(self, cluster: ClusterMap) -> None:
        """There is another map."""
        self._read_map(cluster)
        self._reconcile(self._wanted)

    def map_was_asked_for(self) -> None:
        """Whatever it says, and since `wants_map` was last set and passed on: what waited for that is asked for."""
        if self.wants_map:
            # That was before something called for it.
            return
        names = [name for name, want in self._wanted.items() if want.ended_at is not None]
        for name in names:
            self._wanted[name].ended_at = None
        self._reconcile(names)

    def tick(self, now: float) -> None:
        """A while has gone by, and something is unsettled: what waited for that is asked for again."""
        for name, times in tuple(self._doubted.items()):
            self.wants_map = True
            self._doubted[name] = times - 1
            if times == 1:
                del self._doubted[name]
        names = tuple(self._unsettled)
        for name in names:
            want = self._wanted[name]
            want.rests, want.rests_at, want.redirects = False, None, 0
            want.ended_ticks -= 1
            if want.ended_ticks <= 0:
                want.ended_at = None
            if want.node is None or name not in want.node.busy:
                self.wants_map = True
        self._give_up(
            [name for name in names if (since := self._wanted[name].since) is not None and self._is_over(since, now)]
        )
        self._reconcile(names)

    # ---- what nodes tell: called by them -------------------------------------------------------------------------

    def connected(self, node: ShardNode, now: float) -> None:
        """There is a connection to it."""
        for name in node.assigned:
            want = self._wanted[name]
            if want.rests_at == node.address:
                want.rests_at = None
            if want.ended_at == node.address:
                want.ended_at = None
        for ticket, nodes in self._tickets.items():
            if node in nodes:
                node.ping(ticket)
        self._reconcile(tuple(node.assigned))
        if not node.answer_is_due:
            node.reconnecting.restored(now)

    def lost(self, node: ShardNode, was: LostConnection, now: float) -> None:
        """There is none (any more)."""
        interruption = Interruption(was.cause, node.server, was.heard)
        for name in was.held:
            self._fell(node, name, was.regained.get(name, interruption), now)
        self.wants_map = True
        self._reconcile(dict.fromkeys((*node.assigned, *was.held, *was.busy)))
        for name in was.held | was.busy:
            self._check_left(name)

    def confirmed(self, node: ShardNode, name: bytes) -> None:
        """It holds the channel."""
        want = self._wanted.get(name)
        if want is not None:
            if want.is_promised:
                self._regain(node, name, want)
            want.is_promised = True
            want.since = None
            want.redirects = 0
            want.is_alone = False
            for ticket in tuple(want.tickets):
                self._confirm(ticket, name)
        self._reconcile((name,))

    def dropped(self, node: ShardNode, name: bytes, now: float, *, was_asked_to: bool) -> None:
        """It does not hold the channel any more."""
        if was_asked_to:
            cause = f"{node.address} has let go of it: its slot has another owner"
        else:
            cause = f"{node.address} has ended the subscription: it does not own the slot any more"
            self.wants_map = True
            want = self._wanted.get(name)
            if want is not None:
                # (By another's map it may belong there again in a moment.)
                want.ended_at, want.ended_ticks = node.address, TICKS_WITHOUT_A_MAP
                if want.node is node:
                    self._doubted[name] = MOST_DOUBTS
        untold = node.regained.pop(name) if name in node.regained else Interruption(cause, node.server, now)
        self._fell(node, name, untold, now)
        self._reconcile((name,))
        self._check_left(name)

    def was_let_go(self, names: tuple[bytes, ...]) -> None:
        """A node has answered all that made it let go of these."""
        self._reconcile(names)
        for name in names:
            self._check_left(name)

    def refused(self, node: ShardNode, names: Iterable[bytes], ticket: ShardTicket | None, error: RedisError) -> None:
        """It will not subscribe to these. Raises ServerConnectionError if the connection is to be given up."""
        asked, names = names, tuple(name for name in names if name in self._wanted)
        if isinstance(error, AskError):
            self._redirected(node, names, error)
        elif (verdict := verdict_of(error)) in {Verdict.WAIT, Verdict.LOOK_AGAIN}:
            self.wants_map = True
            node.problem = f"{node.address} answers {error_code(error)}"
            for name in names:
                self._wanted[name].rests_at = node.address
        elif verdict is not Verdict.REFUSED:
            # Its words may have the names in them, and this goes into a log.
            raise ServerConnectionError(f"the server will not subscribe: {error_code(error)}")
        else:
            self._refused(node, names, ticket, error)
        self._reconcile(asked)
        for name in asked:
            self._check_left(name)

    def take_message(self, node: ShardNode, reply: list[Any], now: float) -> None:
        """A message. Raises SubscriberOverflow."""
        want = self._wanted.get(reply[1])
        # What was not yet unsubscribed from there is of no more interest here.
        if want is not None:
            if reply[1] in node.regained:
                self.tell_gaps(node, now)
            self.mailbox.put_message(reply, want.handler, now, node.server)

    def ponged(self, node: ShardNode, ticket: ShardTicket | None, error: RedisError | None) -> None:
        """It has answered a PING."""
        if ticket is not None and ticket in self._tickets:
            self._tickets[ticket].discard(node)
            ticket.error = ticket.error or error
            self._check(ticket)

    def tell_gaps(self, node: ShardNode, now: float) -> None:
        """Everything that was asked of it was answered, or a message has come: what it has regained is told."""
        regained, node.regained = node.regained, {}
        together: dict[tuple[str, object], list[bytes]] = {}
        for name, told in regained.items():
            together.setdefault((told.cause, told.old_server and told.old_server.run_id), []).append(name)
        for names in together.values():
            first = min((regained[name] for name in names), key=lambda one: one.began)
            self.gaps += 1
            self.mailbox.put(Gap(first.cause, first.old_server, node.server, first.began, now, channels=tuple(names)))

    # ---- what follows from it ------------------------------------------------------------------------------------

    def _regain(self, node: ShardNode, name: bytes, want: WantedChannel) -> None:
        interruption, want.interruption = want.interruption, None
        if interruption is None:
            # It is held elsewhere still; where it is published now, nobody listened until now.
            old = next(other for other in self._nodes.values() if other is not node and name in other.held)
            cause = f"its slot has moved from {old.address} to {node.address}"
            untold = name in old.regained
            interruption = old.regained.pop(name) if untold else Interruption(cause, old.server, old.heard)
        node.regained[name] = interruption

    def _fell(self, node: ShardNode, name: bytes, interruption: Interruption, now: float) -> None:
        """A node holds a channel no more."""
        want = self._wanted.get(name)
        if want is None:
            return
        held_elsewhere = any(other is not node and name in other.held for other in self._nodes.values())
        if held_elsewhere and node is not want.node:
            return
        if want.is_promised and want.interruption is None:
            want.interruption = interruption
        if not held_elsewhere:
            want.since = now

    def _redirected(self, node: ShardNode, names: Iterable[bytes], error: AskError) -> None:
        self.wants_map = True
        for name in names:
            want = self._wanted[name]
            want.rests_at = node.address
            want.redirects += 1
            want.rests = want.redirects > MOST_REDIRECTS
        told = read_redirection(error, node.address)
        if told is not None and not told.is_ask and any(self._wanted[name].slot == told.slot for name in names):
            self.redirections.append((told.slot, told.address))

    def _refused(
        self, node: ShardNode, names: tuple[bytes, ...], ticket: ShardTicket | None, error: RedisError
    ) -> None:
        if "unknown command" in str(error):
            error = ResponseError(
                f"{node.address} has no sharded Pub/Sub (Redis and Valkey have it from 7.0 on): use subscribe, or"
                f" newer servers (it said: {error})"
            )
        if ticket is not None and not ticket.settled:
            self._report(self._refuse(ticket, error), error)
        elif len(names) > 1:
            # Which of them it was is not said: each is asked for by itself.
            for name in names:
                self._wanted[name].is_alone = True
        elif names:
            # What calls there are for it by now, they are told, too.
            lost = [name for one in tuple(self._wanted[names[0]].tickets) for name in self._refuse(one, error)]
            if names[0] in self._wanted:
                self._unwant(names[0])
                lost.append(names[0])
            self._report(lost, error)

    def _refuse(self, ticket: ShardTicket, error: Exception) -> list[bytes]:
        """A call has failed: what it asked for is not wanted, but for what other calls did so, too.

        Returns what nobody hears of by that, for the caller has gone.
        """
        gone: list[bytes] = []
        self._settle(ticket, error)
        for name in ticket.names:
            want = self._wanted.get(name)
            if want is not None and not want.tickets and not want.is_kept:
                self._unwant(name)
                gone.append(name)
        self._reconcile(ticket.names)
        return gone if ticket.abandoned else []

    def _give_up(self, names: Iterable[bytes]) -> None:
        """No node has taken these within `failover_timeout`."""
        lost: list[bytes] = []
        error: Exception | None = None
        for name in names:
            want = self._wanted.get(name)
            if want is None:
                continue
            why = f"slot {want.slot} has no owner" if want.node is None else want.node.problem
            problem = f"no node took a sharded subscription within {self._failover_timeout:g} s: {why}"
            error = ServerUnavailable(problem)
            for ticket in tuple(want.tickets):
                lost += self._refuse(ticket, error)
            if name in self._wanted:
                self._unwant(name)
                lost.append(name)
        if error is not None:
            self._report(lost, error)

    def _is_over(self, since: float, now: float) -> bool:
        return now - since >= self._failover_timeout

    def _report(self, names: list[bytes], cause: Exception) -> None:
        if names:
            error = SubscriptionLost(
                f"{len(names)} sharded channels were given up: {cause}", shard_channels=tuple(names)
            )
            error.__cause__ = cause
            self.mailbox.put(error)
