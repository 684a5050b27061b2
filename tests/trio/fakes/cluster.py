"""A cluster of fake nodes: who has which slot, slots on their way, and nodes that are wrong about it."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from trio_sentinel_scan._core.slots import SLOTS, slot_of

from .data_server import DataServer, Session
from .network import Host, Network
from .resp import Error, Simple

__all__ = ["ClusterServer", "FakeCluster"]

_HAVE_A_KEY: Final = frozenset({"BLPOP", "DEL", "EVALSHA", "GET", "INCRBY", "MGET", "SET", "WATCH", "HSCAN", "TTL"})


class FakeCluster:
    """Masters that share the slots, and what is true of them."""

    def __init__(self, network: Network, masters: int = 3) -> None:
        self.hosts: list[Host[ClusterServer]] = [
            network.add(ClusterServer(("10.0.0.1", 7000 + number), self)) for number in range(masters)
        ]
        self.epoch = 1
        # Of each slot; None for a slot that nobody has.
        self.owner: list[tuple[str, int] | None] = [
            self.hosts[slot * masters // SLOTS].address for slot in range(SLOTS)
        ]
        # CLUSTER SHARDS, and what it was made of: it is asked for often, and is long.
        self._told: list[Any] = []
        self._told_of: tuple[list[Any], list[Any]] | None = None
        # Slots on their way -> the node that they come to.
        self.migrating: dict[int, tuple[str, int]] = {}

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where they are."""
        return [host.address for host in self.hosts]

    def of(self, key: bytes) -> Host[ClusterServer]:
        """The owner of a key's slot."""
        owner = self.owner[slot_of(key)]
        return next(host for host in self.hosts if host.address == owner)

    def move(self, slot: int, to: Host[ClusterServer] | None) -> None:
        """The slot has another owner, or none; its keys stay where they are."""
        self.owner[slot] = None if to is None else to.address
        self.epoch += 1
        if to is not None:
            to.program.config_epoch = self.epoch

    def shards(self) -> list[Any]:
        """CLUSTER SHARDS."""
        if self._told_of == (self.owner, self.hosts):
            return self._told
        self._told_of = ([*self.owner], [*self.hosts])
        found: list[Any] = []
        self._told = found
        for number, host in enumerate(self.hosts):
            mine = [slot for slot in range(SLOTS) if self.owner[slot] == host.address]
            starts = [slot for slot in mine if slot - 1 < 0 or self.owner[slot - 1] != host.address]
            ends = [slot for slot in mine if slot + 1 == SLOTS or self.owner[slot + 1] != host.address]
            bounds = [bound for pair in zip(starts, ends, strict=True) for bound in pair]
            node = [b"id", b"%d" % number * 40, b"port", host.address[1], b"endpoint", host.address[0].encode()]
            found.append([b"slots", bounds, b"nodes", [[*node, b"role", b"master", b"health", b"online"]]])
        return found

    def nodes(self, asked: tuple[str, int]) -> bytes:
        """CLUSTER NODES, as one of them says it."""
        names = {host.address: host.program.node_id for host in self.hosts}
        found: list[str] = []
        for host, entry in zip(self.hosts, self.shards(), strict=True):
            flags = "myself,master" if host.address == asked else "master"
            ranges = [f"{first}-{last}" for first, last in zip(entry[1][::2], entry[1][1::2], strict=True)]
            where = f"{host.address[0]}:{host.address[1]}@{host.address[1] + 10_000}"
            if host.address == asked:
                for slot, to in self.migrating.items():
                    owner = self.owner[slot]
                    if owner == asked:
                        ranges.append(f"[{slot}->-{names[to]}]")
                    elif to == asked and owner is not None:
                        ranges.append(f"[{slot}-<-{names[owner]}]")
            epoch = host.program.config_epoch
            found.append(" ".join([names[host.address], where, flags, f"- 0 0 {epoch} connected", *ranges]))
        return ("\n".join(found) + "\n").encode()


class ClusterServer(DataServer):
    """One of its masters."""

    def __init__(self, address: tuple[str, int], cluster: FakeCluster) -> None:
        super().__init__(address, Random(address[1]))
        self.cluster = cluster
        self.node_id = f"{address[1] - 7000}" * 40
        self.config_epoch = 1
        # Slots of which it believes something else than is true.
        self.believes: dict[int, tuple[str, int] | None] = {}
        # Sessions whose last command was ASKING, and those that it holds for, within MULTI.
        self._asking: set[int] = set()
        self._executes = False

    def answer(self, session: Session, words: list[bytes]) -> Any:
        """The reply to one command, or where it is to be sent instead."""
        name = words[0].decode().upper()
        if name == "ASKING":
            self._asking.add(id(session))
            return Simple("OK")
        asking = id(session) in self._asking
        if name == "EXEC":
            # (It runs what was queued by this method.)
            self._executes = True
            reply = super().answer(session, words)
            self._executes = False
            self._asking.discard(id(session))
            return reply
        if session.queue is None and name != "MULTI" and not self._executes:
            self._asking.discard(id(session))
        if name in _HAVE_A_KEY:
            keys = words[3:4] if name == "EVALSHA" else words[1:] if name == "MGET" else words[1:2]
            redirection = self._redirection(keys, asking=asking)
            if redirection is not None:
                session.refused = True
                return redirection
        return super().answer(session, words)

    def _redirection(self, keys: list[bytes], *, asking: bool) -> Error | None:
        slot = slot_of(keys[0])
        owner = self.believes.get(slot, self.cluster.owner[slot])
        target = self.cluster.migrating.get(slot)
        here = [key in self.data.get(0, {}) for key in keys]
        if owner == self.address:
            if target is None or all(here):
                return None
            if any(here):
                return Error("TRYAGAIN Multiple keys request during rehashing of slot")
            return Error(f"ASK {slot} {target[0]}:{target[1]}")
        if target == self.address and asking:
            if len(keys) > 1 and not all(here):
                return Error("TRYAGAIN Multiple keys request during rehashing of slot")
            return None
        if owner is None:
            return Error("CLUSTERDOWN Hash slot not served")
        return Error(f"MOVED {slot} {owner[0]}:{owner[1]}")

    def _do_cluster(self, session: Session, subcommand: bytes) -> Any:
        if subcommand.upper() == b"SHARDS":
            return self.cluster.shards()
        if subcommand.upper() == b"NODES":
            return self.cluster.nodes(self.address)
        if subcommand.upper() == b"MYID":
            return self.node_id.encode()
        return f"cluster_state:ok\r\ncluster_current_epoch:{self.cluster.epoch}\r\n".encode()
