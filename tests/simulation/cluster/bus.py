"""What goes on between the nodes of a cluster: gossip, failure detection, elections, replication.

Once a second each node tells the others what it believes of itself, and not everybody hears it each time. Whoever
cannot be heard of for `node_timeout` is taken for failed by those who notice, once a majority of masters has; a replica
of it then asks for votes. All by Redis's rules, without its packets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final, NamedTuple

import trio

from tests.trio.fakes.data_server import Value

from .beliefs import Header, Peer
from .hosts import NodeHost
from .nodes import Node

__all__ = ["Bus", "Timing"]

# Seconds from one round of gossip to the next.
_PERIOD: Final = 1.0
# The part of the messages of a round that come in it; the others come in a later one.
_HEARD: Final = 0.7


class _Write(NamedTuple):
    due: float
    replica: Node
    run_id: str
    key: bytes
    value: Value | None


@dataclass
class Timing:
    """How long things take, in seconds."""

    node_timeout: float = 2.0
    # From a write to the moment when replicas have it.
    lag: float = 0.0
    # What a full synchronisation takes.
    sync: float = 0.3
    # The most that news of a change takes to a node.
    spread: float = 0.05


class Bus:
    """The cluster bus, and the links from replicas to their masters."""

    def __init__(self, nursery: trio.Nursery, rng: Random, timing: Timing, changed: Callable[[int], None]) -> None:
        """`changed` is called with the slots of which the owner, or where their keys are, may be another one now."""
        self._nursery = nursery
        self._rng = rng
        self.timing = timing
        self._changed = changed
        # By name. Nodes that have left are not in it.
        self.hosts: dict[str, NodeHost] = {}
        # Nodes that nobody hears, and that hear nobody; and nodes that only hear nobody.
        self.isolated: set[str] = set()
        self.deaf: set[str] = set()
        # When somebody last heard of somebody.
        self._heard: dict[tuple[str, str], float] = {}
        self._writes: deque[_Write] = deque()
        self._syncing: set[str] = set()
        self._electing: set[str] = set()
        # Called when a replica has become a master.
        self.on_failover: Callable[[Node], None] = lambda node: None

    # ---- who there is ----------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """All that belong to the cluster, up or not."""
        return [host.program for host in self.hosts.values()]

    def add(self, host: NodeHost) -> None:
        """A node that is known to nobody yet."""
        self.hosts[host.program.node_id] = host

    def is_alive(self, node_id: str) -> bool:
        """Whether its process is there and runs."""
        host = self.hosts.get(node_id)
        return host is not None and host.up and not host.hung

    def reaches(self, a: str, b: str) -> bool:
        """Whether messages pass between two nodes, both ways."""
        cut = self.isolated & {a, b}
        return not cut and self.is_alive(a) and self.is_alive(b)

    def replicas(self, node_id: str) -> list[Node]:
        """The nodes that say that they are this one's replicas."""
        return [node for node in self.nodes if node.me.master_id == node_id]

    # ---- news ------------------------------------------------------------------------------------------------------

    def announce(self, node: Node) -> None:
        """What a node says of itself has changed: it tells all others, now."""
        header = node.header()
        for other in self.nodes:
            if other is not node:
                self._nursery.start_soon(self._deliver, node, other, header, self._rng.uniform(0, self.timing.spread))

    async def _deliver(self, sender: Node, to: Node, header: Header, delay: float) -> None:
        await trio.sleep(delay)
        self._hear(sender, to, header)

    def _hear(self, sender: Node, to: Node, header: Header) -> None:
        if not self.reaches(sender.node_id, to.node_id) or to.node_id in self.deaf:
            return
        before = to.slots
        better = to.hear(header)
        if before != to.slots:
            self._changed(before ^ to.slots)
        if better is not None and sender.node_id not in self.deaf:
            self._correct(sender, better)

    def _correct(self, wrong: Node, better: Peer) -> None:
        """An UPDATE message: another node has those slots since a later epoch."""
        known = wrong.peers.get(better.node_id)
        if known is None or better.node_id == wrong.node_id or known.config_epoch >= better.config_epoch:
            return
        before = wrong.slots
        wrong.believe(replace(known, master_id=None, config_epoch=better.config_epoch))
        wrong.update(better.node_id, better.config_epoch, better.slots)
        if before != wrong.slots:
            self._changed(before ^ wrong.slots)

    # ---- the rounds ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        now = trio.current_time()
        self._heard = {(a, b): now for a in self.hosts for b in self.hosts}
        while True:
            await trio.sleep(_PERIOD * self._rng.uniform(0.8, 1.2))
            self._round(trio.current_time())

    def _round(self, now: float) -> None:
        nodes = self.nodes
        for sender in nodes:
            header = sender.header()
            for other in nodes:
                if sender is other or not self.reaches(sender.node_id, other.node_id):
                    continue
                self._heard[other.node_id, sender.node_id] = now
                known = other.peers.get(sender.node_id)
                if known is not None and known.is_failed and other.node_id not in self.deaf:
                    # (A master with slots only after a while: somebody may be taking its place.)
                    other.believe(replace(known, is_failed=False))
                if self._rng.random() < _HEARD:
                    self._hear(sender, other, header)
        for node in nodes:
            if self.is_alive(node.node_id):
                self._look_after(node, now)

    def _misses(self, node: Node, other_id: str, now: float) -> bool:
        heard = self._heard.setdefault((node.node_id, other_id), now)
        return node.node_id != other_id and now - heard > self.timing.node_timeout

    def _look_after(self, node: Node, now: float) -> None:
        voters = [peer.node_id for peer in node.peers.values() if peer.master_id is None and peer.slots]
        reached = [name for name in voters if not self._misses(node, name, now)]
        has_majority = len(reached) > len(voters) // 2
        if has_majority:
            for peer in tuple(node.peers.values()):
                if not peer.is_failed and self._misses(node, peer.node_id, now):
                    others = [self.hosts[name].program for name in reached if name in self.hosts]
                    witnesses = sum(self._misses(other, peer.node_id, now) for other in others)
                    if witnesses > len(voters) // 2:
                        node.believe(replace(peer, is_failed=True))
        node.is_ok = has_majority and node.sees_all and (not node.is_master or now >= node.waits_until)
        master_id = node.me.master_id
        if master_id is None:
            return
        master = node.peers.get(master_id)
        if master is None:
            return
        if master.master_id in node.peers and master.master_id != node.node_id:
            # Its master has become a replica itself: it goes to the same one. (Whom it does not know,
            # a node that has just been added, it cannot follow.)
            assert master.master_id is not None
            node.follow(master.master_id)
            return
        if master.is_failed and has_majority and master.slots and node.node_id not in self._electing:
            self._electing.add(node.node_id)
            self._nursery.start_soon(self._elect, node, master_id)
        self._look_after_link(node, master_id)

    def _look_after_link(self, node: Node, master_id: str) -> None:
        if not self.reaches(node.node_id, master_id):
            if node.link == "connected" and self._misses(node, master_id, trio.current_time()):
                node.link = "connect"
            return
        node.master = self.hosts[master_id].address
        if node.link == "connect" and node.node_id not in self._syncing:
            self._syncing.add(node.node_id)
            self._nursery.start_soon(self._synchronise, node, master_id)

    # ---- failovers -------------------------------------------------------------------------------------------------

    async def _elect(self, node: Node, master_id: str) -> None:
        await trio.sleep(self._rng.uniform(0.5, 1.0) + self._rng.choice([0.0, 0.0, 1.0]))
        self._electing.discard(node.node_id)
        master = node.peers.get(master_id)
        if self.is_alive(node.node_id) and node.me.master_id == master_id and master is not None and master.is_failed:
            self.promote(node)

    def promote(self, node: Node) -> bool:
        """A replica asks for the votes of all masters, and has its master's slots if it gets most of them."""
        master = node.peers[node.me.master_id or ""]
        voters = [peer.node_id for peer in node.peers.values() if peer.master_id is None and peer.slots]
        votes = 0
        epoch = node.current_epoch
        for name in voters:
            if not self.reaches(node.node_id, name):
                continue
            voter = self.hosts[name].program
            # (Whose claim is outdated, or whose master somebody still hears, gets no vote.)
            outdated = any(
                peer.slots & master.slots and peer.config_epoch > master.config_epoch for peer in voter.peers.values()
            )
            votes += not outdated
            epoch = max(epoch, voter.current_epoch)
        if votes <= len(voters) // 2:
            return False
        self.take_over(node, epoch + 1)
        return True

    def take_over(self, node: Node, epoch: int) -> None:
        """A replica has its master's place."""
        master = node.peers[node.me.master_id or ""]
        old = self.hosts.get(master.node_id)
        flags = (dict(old.program.migrating), dict(old.program.importing)) if old is not None else ({}, {})
        # What it has not got by now, it never will.
        self._writes = deque(write for write in self._writes if write.replica is not node)
        node.promote()
        node.current_epoch = epoch
        node.believe(replace(master, slots=0))
        node.believe(replace(node.me, config_epoch=epoch, slots=master.slots))
        if node.flavour.keeps_flags:
            node.migrating, node.importing = flags
        node.changed()
        self._changed(master.slots)
        self.on_failover(node)
        self.announce(node)

    def hand_over(self, node: Node) -> bool:
        """CLUSTER FAILOVER: the master waits until its replica has everything, and gives it its place."""
        master = self.hosts.get(node.me.master_id or "")
        if master is None or not self.reaches(node.node_id, master.program.node_id) or node.link != "connected":
            return False
        self._flush(node)
        # (It answers nobody until it knows whether it has been replaced.)
        slots = master.program.slots
        if done := self.promote(node):
            master.program.given[node.node_id] = slots
        return done

    # ---- replication -----------------------------------------------------------------------------------------------

    def wrote(self, node: Node, key: bytes, value: Value | None) -> None:
        """A master has written something: its replicas are to have it."""
        for replica in self.replicas(node.node_id):
            if replica.link == "connected" and not self.reaches(node.node_id, replica.node_id):
                # It has missed something, and will have to ask for it.
                replica.link = "connect"
            if replica.link != "connected":
                continue
            if self.timing.lag:
                if not self._writes:
                    self._nursery.start_soon(self._replicate)
                due = trio.current_time() + self.timing.lag
                self._writes.append(_Write(due, replica, replica.run_id, key, value))
            else:
                self._apply(replica, key, value)

    async def _replicate(self) -> None:
        while self._writes:
            await trio.sleep_until(self._writes[0].due)
            now = trio.current_time()
            while self._writes and self._writes[0].due <= now:
                write = self._writes.popleft()
                if write.replica.run_id == write.run_id:
                    self._apply(write.replica, write.key, write.value)

    def _flush(self, node: Node) -> None:
        for write in self._writes:
            if write.replica is node and node.run_id == write.run_id:
                self._apply(node, write.key, write.value)
        self._writes = deque(write for write in self._writes if write.replica is not node)

    def _apply(self, replica: Node, key: bytes, value: Value | None) -> None:
        if not replica.is_master and replica.link == "connected":
            replica.put(0, key, value)

    async def _synchronise(self, node: Node, master_id: str) -> None:
        run_id = node.run_id
        node.link = "sync"
        await trio.sleep(self.timing.sync * self._rng.uniform(0.5, 2.0))
        self._syncing.discard(node.node_id)
        if node.run_id != run_id or node.me.master_id != master_id:
            # It has been started anew, or has another master: from the beginning.
            if not node.is_master:
                node.link = "connect"
            return
        if not self.reaches(node.node_id, master_id) or self.hosts[master_id].program.loading:
            node.link = "connect"
            return
        self._writes = deque(write for write in self._writes if write.replica is not node)
        node.copy_from(self.hosts[master_id].program)
        node.link = "connected"
