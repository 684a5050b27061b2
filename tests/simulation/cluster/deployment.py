"""A cluster put together, what can be done to it, and what is true of it: where each key is, and since when.

A cluster has 16,384 slots, and only a few of them have keys here: `HOT`. What is done to it is done step by step, as an
operator's tool does it; a step takes no time, and what lies between steps may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Final

import trio

from tests.trio.fakes.data_server import Value
from tests.trio.fakes.network import Network
from trio_sentinel_scan._core.slots import ALL_SLOTS, SLOTS, set_of, slot_of

from ..runner import SECRET
from .beliefs import Flavour, Peer
from .bus import Bus, Timing
from .hosts import NodeHost, add_host
from .keys import key_in, keys_of_slots
from .nodes import Node
from .truth import Truth

__all__ = ["FLAVOURS", "SimulatedCluster"]

# Seconds for which a master that was restarted does not call the cluster's state "ok", in all versions.
_WRITABLE_DELAY: Final = 2.0
FLAVOURS: Final = {
    "redis6": Flavour("6.2.14", "", by_slot=False, knows_shards=False, keeps_flags=False),
    "redis7": Flavour("7.0.15", "", by_slot=False, knows_shards=True, keeps_flags=False),
    "redis74": Flavour("7.4.1", "", by_slot=True, knows_shards=True, keeps_flags=False),
    "valkey9": Flavour("7.2.4", "9.1.0", by_slot=True, knows_shards=True, keeps_flags=True),
}


class SimulatedCluster:
    """Masters with replicas."""

    def __init__(
        self,
        network: Network,
        rng: Random,
        *,
        flavour: Flavour,
        timing: Timing,
        masters: int,
        replicas: int,
        hot: int,
        keys: int,
        tagged: bool,
    ) -> None:
        self.network = network
        self.rng = rng
        self.flavour = flavour
        self.truth = Truth(self)
        self.bus = Bus(network.nursery, rng, timing, self.truth.look)
        self._ports = 0
        self.on_event: Callable[[Node, str], None] = lambda node, word: None
        # Each step of a migration that moved a key.
        self.on_move: Callable[[], None] = lambda: None
        # Seconds before each reply, as a rule.
        self.latency = 0.0
        # Slots that something is being done to by an operator.
        self.busy: set[int] = set()
        # Keys of migrations that were begun and cancelled between two looks at their nodes.
        self.unseen_moves: set[bytes] = set()
        # Keys that went from the target to the owner while the flags said the opposite.
        self.moved_back: set[bytes] = set()
        # Keys of slots that have come back to a node before it had heard of any later config epoch than its own: it has
        # the same one as before. And with which epoch which node has given which slot.
        self.back_at_once: set[bytes] = set()
        self._left_at: dict[tuple[int, str], int] = {}
        # Slots in which the servers themselves may have lost what a client was told is done.
        self.torn: set[int] = set()
        hosts = [self._make() for _ in range(masters)]
        for place, host in enumerate(hosts):
            node = host.program
            slots = set_of([(SLOTS * place // masters, SLOTS * (place + 1) // masters - 1)])
            node.believe(replace(node.me, config_epoch=place + 1, slots=slots))
        for host in hosts:
            for number in range(replicas):
                replica = self._make()
                replica.program.believe(replace(replica.program.me, master_id=host.program.node_id))
                replica.program.master = host.address
                assert number < replicas
        for node in self.bus.nodes:
            node.current_epoch = masters
            for other in self.bus.nodes:
                node.believe(other.me)
        # The slots that have keys.
        self.hot: list[int] = []
        self._fill(hot, keys, tagged=tagged)

    def _make(self) -> NodeHost:
        self._ports += 1
        name = f"{self.rng.getrandbits(160):040x}"
        node = Node(("10.0.0.1", 7000 + self._ports), name, Random(self.rng.getrandbits(64)), self.flavour)
        host = add_host(self.network, node)
        host.latency = self.latency
        node.on_event = lambda word: self.on_event(node, word)
        node.on_lost = lambda slots: self._forget_keys(node, slots)
        node.on_write = lambda db, key, value: self.bus.wrote(node, key, value)
        self.bus.add(host)
        return host

    def _fill(self, hot: int, keys: int, *, tagged: bool) -> None:
        made = keys_of_slots(hot, keys, tagged=tagged)
        self.hot = sorted(made)
        ghosts: list[bytes] = []
        for slot, names in made.items():
            owner = self.owner(slot)
            assert owner is not None
            for key in names:
                self._put_at(owner, key, Value(b"value " + SECRET.encode()))
        # What cancelled migrations have left behind once: keys of slots that their node does not have.
        for number, slot in enumerate(self.hot[:4]):
            others = [node for node in self.masters if not node.slots >> slot & 1]
            if others:
                key = key_in(slot, b"%b ghost %d " % (SECRET.encode(), number))
                self._put_at(self.rng.choice(others), key, Value(b"ghost"))
                ghosts.append(key)
        self.truth.begin([key for names in made.values() for key in names], ghosts)

    def _put_at(self, node: Node, key: bytes, value: Value | None) -> None:
        node.put(0, key, value)
        for replica in self.bus.replicas(node.node_id):
            replica.put(0, key, value)

    # ---- what is true ----------------------------------------------------------------------------------------------

    @property
    def masters(self) -> list[Node]:
        """Who calls itself a master."""
        return [node for node in self.bus.nodes if node.is_master]

    def host(self, node: Node) -> NodeHost:
        """Where it runs."""
        return self.bus.hosts[node.node_id]

    def owner(self, slot: int) -> Node | None:
        """Who has a slot: of those who say that they do, the one with the latest epoch."""
        claim = [node for node in self.masters if node.slots >> slot & 1]
        return max(claim, key=lambda node: node.me.config_epoch, default=None)

    def places(self, slot: int, *, of_one: bool = False) -> list[dict[bytes, Value]] | None:
        """The data sets in which keys of a slot are there for whoever asks: its owner's, and its targets'.

        `of_one`: for whoever asks the one node that the truth is about, if it is about one.
        """
        owner = self.owner(slot)
        if owner is None:
            return None
        if of_one and (only := self.truth.only) is not None:
            if only.node_id not in self.bus.hosts or owner.node_id not in {only.node_id, only.me.master_id}:
                return []
            theirs = owner.data.get(0, {})
            return [{key: value for key, value in only.data.get(0, {}).items() if key in theirs}]
        # (What only a target's own flag tells of, and that one is down, nobody can know of: it is as if called off.)
        found = [owner]
        found += (
            node
            for node in self.masters
            if node is not owner
            and (
                owner.migrating.get(slot) == node.node_id
                or (slot in node.importing and self.bus.is_alive(node.node_id))
            )
        )
        return [node.data.get(0, {}) for node in found]

    def _forget_keys(self, node: Node, slots: int) -> None:
        """A node has learned that it has lost slots: their keys go (if it is a replica, its master sees to that)."""
        if node.is_master:
            self.truth.look(slots)
            for key in [key for key in node.data.get(0, {}) if slots >> slot_of(key) & 1]:
                owner = self.owner(slot_of(key))
                if owner is None or key not in owner.data.get(0, {}):
                    # (Who has the slot now, by a later config epoch, never had it.)
                    self.torn.add(slot_of(key))
                node.put(0, key, None)
                self.bus.wrote(node, key, None)

    # ---- processes -------------------------------------------------------------------------------------------------

    def start(self, node: Node, *, keeps: bool = True, loading: float = 0.0) -> None:
        """A new process in the place of one that is gone."""
        host = self.host(node)
        if not keeps:
            node.data = {}
        host.start()
        host.resume()
        node.waits_until = trio.current_time() + _WRITABLE_DELAY
        node.is_ok = not node.is_master
        if not node.is_master:
            node.link = "connect"
        if not keeps:
            self.truth.look(ALL_SLOTS)
            for replica in self.bus.replicas(node.node_id):
                # (Its replication id is another one.)
                replica.link = "connect"
        if loading:
            node.loading = True
            self.network.nursery.start_soon(self._load, node, node.run_id, loading)

    def move_address(self, node: Node) -> None:
        """It will be at another one when it is started."""
        self._ports += 1
        node.address = ("10.0.0.1", 7000 + self._ports)
        node.believe(replace(node.me, address=node.address))

    async def _load(self, node: Node, run_id: str, seconds: float) -> None:
        await trio.sleep(seconds)
        if node.run_id == run_id:
            node.loading = False

    # ---- slots, as an operator moves them --------------------------------------------------------------------------

    def begin_move(self, slot: int, source: Node, target: Node) -> None:
        """SETSLOT IMPORTING and MIGRATING."""
        if not target.slots >> slot & 1:
            target.importing[slot] = source.node_id
            target.changed()
        if source.slots >> slot & 1:
            source.migrating[slot] = target.node_id
            source.changed()
        self.truth.look(1 << slot)

    def move_key(self, key: bytes, source: Node, target: Node) -> bool:
        """MIGRATE of one key."""
        value = source.data.get(0, {}).get(key)
        takes = slot_of(key) in target.importing or target.slots >> slot_of(key) & 1
        if value is None or not takes or not (self.can_write(source) and self.can_write(target)):
            return False
        target.put(0, key, value)
        self.bus.wrote(target, key, value)
        source.put(0, key, None)
        self.bus.wrote(source, key, None)
        if self.truth.only is not None:
            self.truth.look(1 << slot_of(key))
        self.on_move()
        return True

    def can_write(self, node: Node) -> bool:
        """Whether a master is there to take commands."""
        return self.bus.is_alive(node.node_id) and node.is_master and not node.loading

    def settle_at(self, slot: int, target: Node, told: Iterable[Node]) -> None:
        """SETSLOT NODE, at the target first; then at those who are told."""
        if not self.can_write(target):
            return
        source = self.owner(slot)
        if source is not None and source is not target:
            self._left_at[slot, source.node_id] = source.me.config_epoch
        if slot in target.importing:
            del target.importing[slot]
            target.assign(1 << slot, target.node_id)
            target.bump()
        else:
            target.assign(1 << slot, target.node_id)
        if self._left_at.get((slot, target.node_id)) == target.me.config_epoch:
            self.back_at_once.update(target.keys_in(slot))
        self.truth.look(1 << slot)
        self.bus.announce(target)
        for node in told:
            self.tell_of_owner(slot, target, node)

    def tell_of_owner(self, slot: int, owner: Node, node: Node) -> None:
        """SETSLOT NODE at another master. It refuses while it has keys of the slot and calls it its own."""
        if not self.can_write(node) or (node.slots >> slot & 1 and node.keys_in(slot)):
            return
        if owner.node_id not in node.peers:
            return
        node.migrating.pop(slot, None)
        node.importing.pop(slot, None)
        node.assign(1 << slot, owner.node_id)
        node.changed()
        self.truth.look(1 << slot)

    def call_off(self, slot: int, nodes: Iterable[Node]) -> None:
        """SETSLOT STABLE."""
        for node in nodes:
            if self.bus.is_alive(node.node_id):
                node.migrating.pop(slot, None)
                node.importing.pop(slot, None)
                node.changed()
        self.truth.look(1 << slot)

    def hand_over_slots(self, slots: int, source: Node, target: Node) -> bool:
        """The end of an atomic migration: slots and keys are the target's, all at once."""
        slots &= source.slots
        if not self.agree(slots, source, target) or not (self.can_write(source) and self.can_write(target)):
            return False
        if any(slots >> slot & 1 for node in (source, target) for slot in (*node.migrating, *node.importing)):
            return False
        self.copy_slots(slots, source, target)
        target.hidden &= ~slots
        source.given[target.node_id] = source.given.get(target.node_id, 0) | slots
        target.assign(slots, target.node_id)
        target.bump()
        if target.me.config_epoch <= source.me.config_epoch:
            target.current_epoch = max(target.current_epoch, source.me.config_epoch) + 1
            target.believe(replace(target.me, config_epoch=target.current_epoch))
        self.truth.look(slots)
        self.bus.announce(target)
        return True

    def agree(self, slots: int, source: Node, target: Node) -> bool:
        """Whether one gives these slots to the other: both know each other, and whose they are. (As Valkey 9 asks.)"""
        giver = target.peers.get(source.node_id)
        return bool(slots) and target.node_id in source.peers and giver is not None and not slots & ~giver.slots

    def copy_slots(self, slots: int, source: Node, target: Node) -> None:
        """The target has these slots' keys as the source has them."""
        theirs = {key: value for key, value in source.data.get(0, {}).items() if slots >> slot_of(key) & 1}
        for key in [key for key in target.data.get(0, {}) if slots >> slot_of(key) & 1 and key not in theirs]:
            target.put(0, key, None)
            self.bus.wrote(target, key, None)
        for key, value in theirs.items():
            target.put(0, key, value)
            self.bus.wrote(target, key, value)

    # ---- nodes -----------------------------------------------------------------------------------------------------

    def add_master(self) -> Node:
        """A new node without slots; the others hear of it one after the other."""
        host = self._make()
        node = host.program
        for other in self.bus.nodes:
            if other is not node and self.bus.is_alive(other.node_id):
                node.current_epoch = max(node.current_epoch, other.current_epoch)
                for peer in other.peers.values():
                    node.peers.setdefault(peer.node_id, peer)
                self.network.nursery.start_soon(self._meet, other, node.me)
        node.changed()
        return node

    async def _meet(self, node: Node, other: Peer) -> None:
        await trio.sleep(self.rng.uniform(0, 1))
        if other.node_id in self.bus.hosts and other.node_id not in node.peers:
            node.believe(other)

    def remove(self, node: Node) -> None:
        """CLUSTER FORGET at all others; and its process goes."""
        host = self.host(node)
        del self.bus.hosts[node.node_id]
        for other in self.bus.nodes:
            if node.node_id in other.peers and not other.peers[node.node_id].slots:
                del other.peers[node.node_id]
                other.changed()
            elif node.node_id in other.peers:
                other.believe(replace(other.peers[node.node_id], is_failed=True))
        host.kill()

    def slots_of_keys(self, node: Node) -> list[int]:
        """The slots with keys that a node has, by its own word, and that nobody is busy with."""
        return [slot for slot in self.hot if node.slots >> slot & 1 and slot not in self.busy]
