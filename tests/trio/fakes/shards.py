"""Nodes of a cluster as a subscriber meets them: who has which slot, and sharded channels."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from trio_sentinel_scan._core.slots import SLOTS, slot_of

from .data_server import DataServer, Session
from .network import Host, Network
from .resp import Error, Push

__all__ = ["ShardCluster", "ShardServer"]

_FORBIDDEN: Final = Error("NOPERM No permissions to access a channel")


class ShardServer(DataServer):
    """One node. All of them know at once what is so."""

    cluster: ShardCluster

    def _do_cluster(self, session: Session, subcommand: bytes, *args: bytes) -> Any:
        if subcommand == b"INFO":
            return f"cluster_state:ok\r\ncluster_current_epoch:{self.cluster.epoch}\r\n".encode()
        return self.cluster.shards()

    def _do_ssubscribe(self, session: Session, *names: bytes) -> Any:
        if (error := self._wrong_node(names)) is not None:
            return error
        if session.user is not None and self.users[session.user].secret & set(names):
            return _FORBIDDEN
        return self._subscribe(session, b"s", names)

    def _do_sunsubscribe(self, session: Session, *names: bytes) -> Any:
        return self._wrong_node(names) or self._unsubscribe(session, b"s", names)

    def _wrong_node(self, names: tuple[bytes, ...]) -> Error | None:
        (slot,) = {slot_of(name) for name in names}
        owner = self.cluster.owner(slot)
        if owner is None:
            return Error("CLUSTERDOWN Hash slot not served")
        if owner.program is not self:
            return Error(f"MOVED {slot} {owner.address[0]}:{owner.address[1]}")
        return None

    def spublish(self, channel: bytes, *messages: bytes) -> None:
        """Say something to whoever has subscribed to a sharded channel here."""
        for data in messages:
            for session in self._sessions:
                if (b"s", channel) in session.subscriptions:
                    session.push(Push([b"smessage", channel, data]))

    def end(self, slot: int) -> None:
        """It has lost the slot: whoever has subscribed there is told."""
        for session in self._sessions:
            for kind, name in sorted(session.subscriptions):
                if kind == b"s" and slot_of(name) == slot:
                    session.subscriptions.discard((kind, name))
                    session.push(Push([b"sunsubscribe", name, 0]))

    def holds(self) -> list[bytes]:
        """The sharded channels that anybody has subscribed to here."""
        return sorted(name for session in self.subscribers for kind, name in session.subscriptions if kind == b"s")

    @property
    def subscribers(self) -> list[Session]:
        """The connections that have subscribed to anything."""
        return [session for session in self._sessions if session.is_open() and session.subscriptions]


class ShardCluster:
    """Masters that share the slots evenly, in turns."""

    def __init__(self, network: Network, masters: int = 3) -> None:
        rng = Random(0)
        self.nodes: list[Host[ShardServer]] = [
            network.add(ShardServer((f"10.9.0.{number}", 7000), rng)) for number in range(1, masters + 1)
        ]
        for node in self.nodes:
            node.program.cluster = self
        self.epoch = 1
        self._owners: list[Host[ShardServer] | None] = [self.nodes[slot * masters // SLOTS] for slot in range(SLOTS)]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The nodes, as a client is told of them."""
        return [node.address for node in self.nodes]

    def owner(self, slot: int) -> Host[ShardServer] | None:
        return self._owners[slot]

    def of(self, channel: bytes) -> Host[ShardServer]:
        """The node that a channel belongs to."""
        owner = self._owners[slot_of(channel)]
        assert owner is not None
        return owner

    def move(self, channel: bytes, to: Host[ShardServer] | None, *, tell: bool = True) -> None:
        """Its slot has another owner, or none; the old one tells its subscribers."""
        slot = slot_of(channel)
        old, self._owners[slot] = self._owners[slot], to
        self.epoch += 1
        if old is not None and tell:
            old.program.end(slot)

    def take_over(self, old: Host[ShardServer], new: Host[ShardServer]) -> None:
        """All slots of one go to another."""
        self._owners = [new if owner is old else owner for owner in self._owners]
        self.epoch += 1

    def publish(self, channel: bytes, *messages: bytes) -> None:
        """SPUBLISH where the channel belongs."""
        self.of(channel).program.spublish(channel, *messages)

    def shards(self) -> list[Any]:
        """CLUSTER SHARDS."""
        found: list[Any] = []
        for number, node in enumerate(self.nodes):
            bounds: list[int] = []
            owned = [slot for slot, owner in enumerate(self._owners) if owner is node]
            for slot in owned:
                if bounds and bounds[-1] == slot - 1:
                    bounds[-1] = slot
                else:
                    bounds += [slot, slot]
            fields: list[Any] = [b"id", b"%040d" % number, b"port", node.address[1], b"ip", node.address[0].encode()]
            fields += [b"endpoint", node.address[0].encode(), b"role", b"master", b"health", b"online"]
            found.append([b"slots", bounds, b"nodes", [fields]])
        return found
