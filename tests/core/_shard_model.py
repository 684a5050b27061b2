"""A cluster as a subscriber to sharded channels meets it: nodes that learn of things late, and drop whom they must."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from trio_sentinel_scan import Address, ServerIdentity
from trio_sentinel_scan._core.cluster_map import ClusterMap, ClusterNode, Shard
from trio_sentinel_scan._core.shard_node import ShardNode
from trio_sentinel_scan._core.slots import ALL_SLOTS, slot_of
from trio_sentinel_scan._core.verdicts import parse_error_reply

CHANNELS = (b"{1}a", b"{1}b", b"{2}a", b"{3}a")
SLOTS = tuple(sorted({slot_of(name) for name in CHANNELS}))


@dataclass(eq=False)
class Wire:
    """One connection: commands on their way to the node, and what is on its way back."""

    sent: deque[tuple[Any, ...]] = field(default_factory=deque[tuple[Any, ...]])
    coming: deque[Any] = field(default_factory=deque[Any])
    held: set[bytes] = field(default_factory=set[bytes])
    # Commands that the client has sent, and the channels of which it has had no answer.
    unanswered: deque[tuple[str, set[bytes]]] = field(default_factory=deque[tuple[str, set[bytes]]])


@dataclass
class View:
    """What is so, or what a node takes to be so: each slot's owner, and each replica's master."""

    owner: dict[int, str | None]
    master: dict[str, str]

    def copy(self) -> View:
        return View(dict(self.owner), dict(self.master))

    def serves(self, node: str, slot: int) -> bool:
        """Whether it is the slot's owner, or a replica of that."""
        owner = self.owner[slot]
        return owner is not None and owner in {node, self.master.get(node)}

    def shard(self, node: str) -> str:
        return self.master.get(node, node)


class Node:
    """One node: its present process, its view, and the connections of the one client."""

    def __init__(self, name: str, number: int, view: View) -> None:
        self.name = name
        self.address = Address("10.0.0.1", 7000 + number)
        self.view = view.copy()
        self.processes = 0
        self.wires: dict[ShardNode, Wire] = {}
        self.restart()

    def restart(self) -> None:
        self.processes += 1
        self.identity = ServerIdentity(f"{self.address.port}{self.processes:036x}", self.address)

    def learn(self, truth: View) -> None:
        """The news has come: whoever listens to a slot that changed hands, or that it does not serve, is told."""
        old, self.view = self.view, truth.copy()
        for wire in self.wires.values():
            for name in sorted(wire.held):
                slot = slot_of(name)
                if old.owner[slot] != truth.owner[slot] or not truth.serves(self.name, slot):
                    # (The one that is promoted keeps those of its own.)
                    if truth.owner[slot] == self.name and old.serves(self.name, slot):
                        continue
                    wire.held.discard(name)
                    wire.coming.append([b"sunsubscribe", name, len(wire.held)])


class Cluster:
    """Three masters, and a replica of the first."""

    def __init__(self) -> None:
        names = "ABCD"
        self.truth = View({slot: names[number % 3] for number, slot in enumerate(SLOTS)}, {"D": "A"})
        self.nodes = {name: Node(name, number, self.truth) for number, name in enumerate(names)}
        self.at = {node.address: node for node in self.nodes.values()}
        self.forbidden: set[bytes] = set()

    def map(self, view: View, version: int = 0) -> ClusterMap:
        """The map as somebody of this view tells it."""
        shards: list[Shard] = []
        for name, node in self.nodes.items():
            slots = sum(1 << slot for slot, owner in view.owner.items() if owner == name)
            # Each shard has a slot that nobody cares for, so that it is in the map; the third has all the others.
            if name == "C":
                slots |= ALL_SLOTS & ~sum(1 << slot for slot in (0, 1, *SLOTS))
            elif name == "B":
                slots |= 1 << 1
            elif name == view.shard("A"):
                slots |= 1 << 0
            if slots:
                replicas = [
                    ClusterNode(other, self.nodes[other].address)
                    for other, master in view.master.items()
                    if master == name
                ]
                shards.append(Shard(ClusterNode(name, node.address), slots, tuple(replicas)))
        return ClusterMap(tuple(shards), version)

    def serve(self, node: Node, wire: Wire) -> None:
        """The node runs the next command."""
        command, *names = wire.sent.popleft()
        if command == "PING":
            wire.coming.append(b"PONG")
            return
        (slot,) = {slot_of(name) for name in names}
        owner = node.view.owner[slot]
        if owner is None:
            wire.coming.append(parse_error_reply("CLUSTERDOWN Hash slot not served"))
        elif not node.view.serves(node.name, slot):
            host, port = self.nodes[owner].address
            wire.coming.append(parse_error_reply(f"MOVED {slot} {host}:{port}"))
        elif command == "SSUBSCRIBE" and self.forbidden & set(names):
            wire.coming.append(parse_error_reply("NOPERM No permissions to access a channel"))
        else:
            for name in names:
                (wire.held.add if command == "SSUBSCRIBE" else wire.held.discard)(name)
                wire.coming.append([command.lower().encode(), name, len(wire.held)])

    def publish(self, node: Node, channel: bytes, data: bytes) -> bool:
        """SPUBLISH at a node that takes itself for the owner: it is passed on to all of its shard."""
        if node.view.owner[slot_of(channel)] != node.name:
            return False
        for other in self.nodes.values():
            if other is node or self.truth.shard(other.name) == self.truth.shard(node.name):
                for wire in other.wires.values():
                    if channel in wire.held:
                        wire.coming.append([b"smessage", channel, data])
        return True
