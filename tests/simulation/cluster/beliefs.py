"""What one node of a cluster believes of the others and of itself, and what it lets itself be told.

Nobody here knows the truth. Each node has a table of its own of who has which slot, at which config epoch, and learns
from what others say of themselves, by the rules of Redis (`clusterUpdateSlotsConfigWith` and what is around it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple

from tests.trio.fakes.resp import Push
from tests.trio.fakes.shards import ShardServer
from trio_sentinel_scan._core.slots import ALL_SLOTS, slot_of

__all__ = ["Believer", "Flavour", "Header", "Peer"]


class Flavour(NamedTuple):
    """What the servers of a cluster are, as far as it matters here."""

    version: str
    valkey: str
    # A table for each slot, and the slot in the cursor.
    by_slot: bool
    # Whether CLUSTER SHARDS is known, and sharded Pub/Sub.
    knows_shards: bool
    # Whether replicas know what is on its way from and to their master (Valkey from 8.0 on).
    keeps_flags: bool


@dataclass(frozen=True)
class Peer:
    """What one node believes of another one, or of itself."""

    node_id: str
    address: tuple[str, int]
    master_id: str | None
    config_epoch: int
    slots: int
    is_failed: bool = False


class Header(NamedTuple):
    """What every message on the bus begins with: what its sender says of itself."""

    peer: Peer
    current_epoch: int
    # What of the sender's master it knows, if it is a replica.
    of_master: Peer | None


class Believer(ShardServer):
    """A node as far as the others can tell. What happens to it from outside, others do: `Bus` and the faults."""

    def __init__(self, address: tuple[str, int], node_id: str, rng: Random, flavour: Flavour) -> None:
        self.flavour = flavour
        self.node_id = node_id
        super().__init__(address, rng)
        self.version = flavour.version
        self.more_info = {"redis_mode": "cluster"}
        if flavour.valkey:
            self.more_info |= {"server_name": "valkey", "valkey_version": flavour.valkey}
            self.knows_capa = True
        # Of all nodes that it knows, itself too, by name. (nodes.conf: it survives the process.)
        self.peers: dict[str, Peer] = {node_id: Peer(node_id, address, None, 0, 0)}
        self.migrating: dict[int, str] = {}
        self.importing: dict[int, str] = {}
        self.current_epoch = 0
        # Slots whose keys are coming in all at once: SCAN does not show them yet (an atomic migration).
        self.hidden = 0
        # Whom it has given slots to, all at once; until it believes it itself, it runs nothing there.
        self.given: dict[str, int] = {}
        # As CLUSTER INFO says it.
        self.is_ok = True
        # Until then it is not, as a master: one that was restarted waits for others to say that they have its slots.
        self.waits_until = 0.0
        # Called with the slots that it has lost to another node: their keys are to go.
        self.on_lost: Callable[[int], None] = lambda slots: None
        self._said: dict[str, Any] = {}

    # ---- what it believes ------------------------------------------------------------------------------------------

    @property
    def me(self) -> Peer:
        """Itself."""
        return self.peers[self.node_id]

    @property
    def slots(self) -> int:
        """What it says it has."""
        return self.me.slots

    @property
    def is_master(self) -> bool:
        """By its own word."""
        return self.me.master_id is None

    def believe(self, peer: Peer) -> None:
        """From now on."""
        self.peers[peer.node_id] = peer
        self._said.clear()

    def changed(self) -> None:
        """Something else that it tells has changed."""
        self._said.clear()

    def owner_of(self, slot: int) -> Peer | None:
        """Who has a slot, as far as it knows."""
        return next((peer for peer in self.peers.values() if peer.slots >> slot & 1), None)

    def header(self) -> Header:
        """What it says of itself."""
        me = self.me
        return Header(me, self.current_epoch, None if me.master_id is None else self.peers.get(me.master_id))

    def bump(self) -> None:
        """A new config epoch, without asking anybody; none if it has the latest already.

        What it has given away it has lost by then: it would have that back by the epoch.
        """
        for heir, slots in tuple(self.given.items()):
            self.assign(slots, heir if heir in self.peers else None)
        highest = max(self.current_epoch, *(peer.config_epoch for peer in self.peers.values()))
        if self.me.config_epoch == 0 or self.me.config_epoch != highest:
            self.current_epoch = highest + 1
            self.believe(replace(self.me, config_epoch=self.current_epoch))

    def assign(self, slots: int, owner_id: str | None) -> None:
        """These slots are that node's now, or nobody's, whoever had them: CLUSTER SETSLOT NODE, DELSLOTS and so on."""
        lost = 0
        for name, peer in tuple(self.peers.items()):
            if name != owner_id and peer.slots & slots:
                if name in {self.node_id, self.me.master_id}:
                    lost |= peer.slots & slots
                self.believe(replace(peer, slots=peer.slots & ~slots))
        if owner_id is not None:
            self.believe(replace(self.peers[owner_id], slots=self.peers[owner_id].slots | slots))
        if lost:
            self._lose(lost)

    def hear(self, header: Header) -> Peer | None:
        """A message from another node has come. What it says wrongly is returned: whom it should know better."""
        sender = header.peer
        if sender.node_id not in self.peers:
            # (Who has been forgotten is a stranger.)
            return None
        self.current_epoch = max(self.current_epoch, header.current_epoch)
        known = self.peers[sender.node_id]
        if sender.master_id is not None:
            if known.slots or known.master_id != sender.master_id or known.address != sender.address:
                # (A replica has no slots, whoever had them for it.)
                self.believe(replace(known, master_id=sender.master_id, address=sender.address, slots=0))
            return self._outdated(header.of_master)
        epoch = max(known.config_epoch, sender.config_epoch)
        if (known.master_id, known.address, known.config_epoch) != (None, sender.address, epoch):
            self.believe(replace(known, master_id=None, address=sender.address, config_epoch=epoch))
        if self.is_master and self.me.config_epoch == sender.config_epoch and self.node_id < sender.node_id:
            # Two with the same epoch: one of them draws another one.
            self.current_epoch += 1
            self.believe(replace(self.me, config_epoch=self.current_epoch))
        self.update(sender.node_id, sender.config_epoch, sender.slots)
        return self._outdated(sender)

    def update(self, sender_id: str, epoch: int, claimed: int) -> None:
        """A node has these slots at this epoch: whatever somebody has at an earlier one, or nobody has, is its own."""
        known = self.peers[sender_id]
        new = claimed & ~known.slots
        # What it is taking in itself, it is told by nobody.
        for slot in self.importing:
            new &= ~(1 << slot)
        if not new:
            return
        lost = 0
        shard = self.node_id if self.is_master else self.me.master_id
        for peer in tuple(self.peers.values()):
            if peer.node_id != sender_id and (both := peer.slots & new):
                if peer.config_epoch >= epoch:
                    new &= ~both
                    continue
                if peer.node_id == shard:
                    lost |= both
                self.believe(replace(peer, slots=peer.slots & ~both))
        self.believe(replace(self.peers[sender_id], slots=self.peers[sender_id].slots | new))
        if lost:
            self._lose(lost)
            self.on_lost(lost)
            assert shard is not None
            if not self.peers[shard].slots:
                # What its shard had, that one has now: it follows.
                self.follow(sender_id)

    def follow(self, master_id: str) -> None:
        """It is a replica of that node from now on. (Its data set comes later: `Bus`.)"""
        if self.me.master_id == master_id:
            return
        self.believe(replace(self.me, master_id=master_id, slots=0))
        self.master = self.peers[master_id].address
        self.link = "connect"
        self.migrating.clear()
        self.importing.clear()

    def promote(self) -> None:
        """It is a master from now on, and has nothing yet."""
        self.believe(replace(self.me, master_id=None))
        self.master = None
        self.link = "connected"

    def _outdated(self, said: Peer | None) -> Peer | None:
        if said is None:
            return None
        return next(
            (
                peer
                for peer in self.peers.values()
                if peer.slots & said.slots and peer.node_id != said.node_id and peer.config_epoch > said.config_epoch
            ),
            None,
        )

    def _lose(self, slots: int) -> None:
        for slot in [slot for slot in self.migrating if slots >> slot & 1 and self.flavour.by_slot]:
            # (Before that, the flag stays until SETSLOT comes here, too.)
            del self.migrating[slot]
        self.given = {name: left for name, given in self.given.items() if (left := given & ~slots)}
        self.changed()
        for session in self._sessions:
            for kind, name in sorted(session.subscriptions):
                if kind == b"s" and slots >> slot_of(name) & 1:
                    session.subscriptions.discard((kind, name))
                    session.push(Push([b"sunsubscribe", name, 0]))

    @property
    def sees_all(self) -> bool:
        """Whether each slot has an owner that is not known to be down, as far as it knows."""
        seen = 0
        for peer in self.peers.values():
            if not peer.is_failed:
                seen |= peer.slots
        return seen == ALL_SLOTS
