"""The books of sharded subscriptions: what is wanted, which nodes hold it, who waits for what.

Whatever has changed, `_reconcile` compares wanted with held for the channels concerned, and asks for what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .messages import Confirmation, Handler
from .shard_node import ShardNode
from .shard_parts import ShardTicket, WantedChannel
from .slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .cluster_map import ClusterMap
    from .identity import Address
    from .mailbox import Mailbox
    from .messages import SubscriberOptions
    from .shard_plan import ShardPlan

__all__ = ["ShardBooks"]


class ShardBooks:
    """One subscriber's. `ShardPlan` says what each event does to them."""

    def __init__(
        self,
        options: SubscriberOptions,
        mailbox: Mailbox,
        cluster: ClusterMap,
        *,
        failover_timeout: float,
        jitter: Callable[[], float],
    ) -> None:
        self.mailbox: Mailbox = mailbox
        self.jitter: Callable[[], float] = jitter
        # The end of it: why nothing more will come. Set once.
        self.error: Exception | None = None
        # How many Gaps were told.
        self.gaps: int = 0
        # What nodes have said of slots (MOVED), and whether the map may be wrong: whoever drives it passes both on.
        self.redirections: list[tuple[int, Address]] = []
        self.wants_map: bool = False
        self._options = options
        self._failover_timeout = failover_timeout
        self._wanted: dict[bytes, WantedChannel] = {}
        # Of each node of the map, or that something belongs to, those that were in one shard with it in any map so far.
        self._were_one: dict[Address, set[Address]] = {}
        # Those that something belongs to, or that hold something, or may. The others' connections are to be closed.
        self._nodes: dict[Address, ShardNode] = {}
        # Invariant: the channels that are wanted and not held by their slot's owner alone.
        self._unsettled: dict[bytes, None] = {}
        # Channels that a node has ended by itself, and for how many ticks more the map is doubted if it names that one.
        self._doubted: dict[bytes, int] = {}
        # Calls that unsubscribe, by the channels that a node holds still.
        self._leaving: dict[bytes, list[ShardTicket]] = {}
        # Calls that are not settled. For a ping: the nodes that owe an answer.
        self._tickets: dict[ShardTicket, set[ShardNode]] = {}
        self._read_map(cluster)

    # ---- what can be asked of it ---------------------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[Address, ShardNode]:
        """The nodes to have a connection to."""
        return self._nodes

    @property
    def is_settled(self) -> bool:
        """Whether everything that is wanted is held where it belongs; else it wants `tick` to be called."""
        return not (self._unsettled or self._doubted)

    def wanted(self) -> dict[bytes, Handler | None]:
        """The channels that are wanted, with their handlers."""
        return {name: want.handler for name, want in self._wanted.items()}

    def held(self) -> dict[bytes, list[Address]]:
        """By which nodes each channel is held, the unwanted ones too."""
        found: dict[bytes, list[Address]] = {}
        for node in self._nodes.values():
            for name in node.held:
                found.setdefault(name, []).append(node.address)
        return found

    # ---- wanted against held -------------------------------------------------------------------------------------

    def _reconcile(self, names: Iterable[bytes]) -> None:
        """Ask for what is missing of these channels, and have let go what is too much."""
        wishes: dict[tuple[ShardNode, int, ShardTicket | bytes | None], list[bytes]] = {}
        too_much: dict[ShardNode, dict[int, list[bytes]]] = {}
        for name in tuple(names):
            want = self._wanted.get(name)
            if want is None:
                for node in self._nodes.values():
                    if node.keeps(name):
                        too_much.setdefault(node, {}).setdefault(slot_of(name), []).append(name)
                continue
            owner = self._assign(name, want)
            others = [node for node in self._nodes.values() if node is not owner and node.has(name)]
            is_held = owner is not None and owner.keeps(name)
            if is_held and not others:
                self._unsettled.pop(name, None)
                continue
            self._unsettled[name] = None
            if owner is None or not owner.is_connected:
                continue
            if not is_held:
                if name in owner.busy or want.rests or owner.address in (want.rests_at, want.ended_at):
                    continue
                others = [node for node in others if self._may_repeat(node, owner)]
                if not others:
                    # A call's own channels go in commands of its own: a refusal is that call's alone.
                    whose = want.tickets[0] if want.tickets and not want.is_alone else None
                    wishes.setdefault((owner, want.slot, name if want.is_alone else whose), []).append(name)
                    continue
            for node in others:
                if node.keeps(name):
                    too_much.setdefault(node, {}).setdefault(want.slot, []).append(name)
        for node, by_slot in too_much.items():
            node.let_go(by_slot)
        for (node, _, group), some in wishes.items():
            node.subscribe(some, group if isinstance(group, ShardTicket) else None)
        self._drop_nodes()

    def _assign(self, name: bytes, want: WantedChannel) -> ShardNode | None:
        """The node that the channel belongs to now."""
        owner = self._map.owner(want.slot)
        if owner is None:
            node = None
        elif (node := self._nodes.get(owner.address)) is None:
            # (Books are always a plan's.)
            node = self._nodes[owner.address] = ShardNode(cast("ShardPlan", self), owner.address)
        if node is not want.node:
            if want.node is not None:
                want.node.assigned.pop(name, None)
            want.node = node
            self._doubted.pop(name, None)
        if node is not None:
            node.assigned[name] = None
        return node

    def _drop_nodes(self) -> None:
        """Connections that hold nothing and are to hold nothing are not needed any more."""
        for node in [node for node in self._nodes.values() if not node.wants_connection]:
            del self._nodes[node.address]
            for ticket in [ticket for ticket, nodes in self._tickets.items() if node in nodes]:
                self._tickets[ticket].discard(node)
                self._check(ticket)

    def _read_map(self, cluster: ClusterMap) -> None:
        self._map = cluster
        # Each node's shards, by their masters. (After a redirection a node may be in two.)
        self._shards_of: dict[Address, set[Address]] = {}
        for shard in cluster.shards:
            members = {node.address for node in (shard.master, *shard.replicas)}
            for address in members:
                self._shards_of.setdefault(address, set()).add(shard.master.address)
                self._were_one.setdefault(address, set()).update(members)
        self._were_one = {
            address: kin
            for address, kin in self._were_one.items()
            if address in self._shards_of or address in self._nodes
        }

    def _may_repeat(self, node: ShardNode, owner: ShardNode) -> bool:
        """Whether both may pass on the same message: unless they are, and were, known to be in different shards.

        While a master hands over to its replica, maps show it for a moment as one by itself, and then as a replica.
        """
        shards = self._shards_of.get(node.address)
        if shards is None or owner.address in self._were_one[node.address]:
            return True
        return not shards.isdisjoint(self._shards_of.get(owner.address, shards))

    def _unwant(self, name: bytes) -> None:
        want = self._wanted.pop(name)
        self._unsettled.pop(name, None)
        self._doubted.pop(name, None)
        if want.node is not None:
            want.node.assigned.pop(name, None)
        for node in self._nodes.values():
            node.forget((name,))

    # ---- calls that wait -----------------------------------------------------------------------------------------

    def _confirm(self, ticket: ShardTicket, name: bytes, *, silently: bool = False) -> None:
        if name in ticket.pending:
            ticket.pending.discard(name)
            if not (silently or self._options.ignore_subscribe_messages):
                count = sum(len(node.held) for node in self._nodes.values())
                self.mailbox.put(Confirmation("ssubscribe" if ticket.wants else "sunsubscribe", name, count))
            self._check(ticket)

    def _check_left(self, name: bytes) -> None:
        """Calls that unsubscribe from a channel wait until no node holds it."""
        if name in self._leaving and not any(node.has(name) for node in self._nodes.values()):
            self._has_left(name)

    def _has_left(self, name: bytes, *, silently: bool = False) -> None:
        for ticket in self._leaving.pop(name, ()):
            self._confirm(ticket, name, silently=silently)

    def _check(self, ticket: ShardTicket) -> None:
        if not ticket.pending and not self._tickets.get(ticket):
            self._settle(ticket, ticket.error)

    def _settle(self, ticket: ShardTicket, error: Exception | None = None) -> None:
        if self._tickets.pop(ticket, None) is None:
            return
        ticket.settled = True
        ticket.error = error
        for name in ticket.names:
            want = self._wanted.get(name)
            if want is not None and ticket in want.tickets:
                want.tickets.remove(ticket)
                want.is_kept = want.is_kept or error is None
