"""A node of a cluster as a process: what it answers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from tests.trio.fakes.data_server import Session
from tests.trio.fakes.resp import Error, Simple
from tests.trio.fakes.table import Table
from trio_sentinel_scan._core.slots import ranges_of, slot_of

from .beliefs import Believer, Flavour, Peer

__all__ = ["Node", "SlotTable"]

_KEYED: Final = frozenset({"DEL", "GET", "INCRBY", "MGET", "SET", "TTL"})
_TRY_AGAIN: Final = Error("TRYAGAIN Multiple keys request during rehashing of slot")
_SLOT_BITS: Final = 14


class SlotTable(Table):
    """A table for each slot: the cursor has the slot in its low bits."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self._tables: dict[int, Table] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, key: bytes) -> None:
        """A key that is not there yet."""
        slot = slot_of(key)
        if slot not in self._tables:
            self._tables[slot] = Table(self._seed)
        self._tables[slot].add(key)
        self._size += 1

    def remove(self, key: bytes) -> None:
        """A key that is there."""
        slot = slot_of(key)
        self._tables[slot].remove(key)
        self._size -= 1
        if not len(self._tables[slot]):
            del self._tables[slot]

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """The slots in order; those without keys are left out."""
        keys: list[bytes] = []
        slot, local = cursor & ((1 << _SLOT_BITS) - 1), cursor >> _SLOT_BITS
        while True:
            if slot in self._tables:
                local, found = self._tables[slot].scan(local, count - len(keys))
                keys += found
            else:
                local = 0
            if local == 0:
                slot = min((other for other in self._tables if other > slot), default=-1)
                if slot < 0:
                    return 0, keys
            if len(keys) >= count or local:
                return local << _SLOT_BITS | slot, keys


class Node(Believer):
    """One node: a data server that sends commands to where they belong."""

    def __init__(self, address: tuple[str, int], node_id: str, rng: Random, flavour: Flavour) -> None:
        # Sessions whose last command was ASKING, and those that are READONLY.
        self._asking: set[int] = set()
        self._readonly: set[int] = set()
        # Called when something comes that faults wait for: a SCAN, the end of a chain of cursors, a look at the nodes.
        self.on_event: Callable[[str], None] = lambda word: None
        # How often it was asked about the cluster's nodes.
        self.looks = 0
        super().__init__(address, node_id, rng, flavour)

    # ---- the process -----------------------------------------------------------------------------------------------

    def restart(self) -> None:
        super().restart()
        self._asking.clear()
        self._readonly.clear()

    def snapshot(self) -> Node:
        """What a machine is like that is started from a snapshot of this one: its files, and another process."""
        other = Node(self.address, self.node_id, Random(self.run_id), self.flavour)
        other.peers = dict(self.peers)
        other.migrating, other.importing = dict(self.migrating), dict(self.importing)
        other.current_epoch = self.current_epoch
        other.data = {db: dict(keys) for db, keys in self.data.items()}
        other.restart()
        return other

    def _table(self, db: int) -> Table:
        if db not in self._tables and self.flavour.by_slot:
            self._tables[db] = SlotTable(self._seed)
        return super()._table(db)

    def keys_in(self, slot: int) -> list[bytes]:
        """The keys that it has in a slot, whoever that belongs to."""
        return [key for key in self.data.get(0, {}) if slot_of(key) == slot]

    # ---- what it answers -------------------------------------------------------------------------------------------

    def answer(self, session: Session, words: list[bytes]) -> Any:
        """The reply to one command, or where it is to be sent instead."""
        name = words[0].decode().upper()
        if name == "ASKING":
            self._asking.add(id(session))
            return Simple("OK")
        asking = id(session) in self._asking
        self._asking.discard(id(session))
        if name == "READONLY":
            self._readonly.add(id(session))
            return Simple("OK")
        if name in _KEYED and not self.loading:
            reads = name in {"GET", "MGET", "TTL"} and id(session) in self._readonly
            keys = words[1:] if name == "MGET" else words[1:2]
            redirection = self._redirection(keys, asking=asking, reads=reads)
            if redirection is not None:
                return redirection
        return super().answer(session, words)

    def _redirection(self, keys: list[bytes], *, asking: bool, reads: bool) -> Error | None:
        slot = slot_of(keys[0])
        if not self.is_ok:
            return Error("CLUSTERDOWN The cluster is down")
        owner = self.owner_of(slot)
        here = [key in self.data.get(0, {}) for key in keys]
        if slot in self.importing and asking:
            return _TRY_AGAIN if len(keys) > 1 and not all(here) else None
        if owner is None:
            return Error("CLUSTERDOWN Hash slot not served")
        if owner.node_id == self.node_id:
            heir = next((name for name, given in self.given.items() if given >> slot & 1), None)
            if heir in self.peers:
                return _redirect("MOVED", slot, self.peers[heir])
            target = self.migrating.get(slot)
            if target is None or all(here) or target not in self.peers:
                return None
            if any(here):
                return _TRY_AGAIN
            return _redirect("ASK", slot, self.peers[target])
        if reads and owner.node_id == self.me.master_id:
            return None
        return _redirect("MOVED", slot, owner)

    def _do_cluster(self, session: Session, subcommand: bytes, *args: bytes) -> Any:
        match subcommand.upper():
            case b"NODES":
                self.looks += 1
                self.on_event("look")
                return self._cached("nodes", self._nodes)
            case b"SHARDS" if self.flavour.knows_shards:
                return self._cached("shards", self._shards)
            case b"SLOTS":
                return self._cached("slots", self._slot_ranges)
            case b"MYID":
                return self.node_id.encode()
            case b"INFO":
                state = "ok" if self.is_ok else "fail"
                return f"cluster_state:{state}\r\ncluster_current_epoch:{self.current_epoch}\r\n".encode()
            case _:
                return Error(f"ERR unknown subcommand '{subcommand.decode()}'. Try CLUSTER HELP.")

    def _cached(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._said:
            self._said[name] = make()
        return self._said[name]

    def _nodes(self) -> bytes:
        lines: list[str] = []
        for peer in self.peers.values():
            flags = "master" if peer.master_id is None else "slave"
            ranges = [str(first) if first == last else f"{first}-{last}" for first, last in ranges_of(peer.slots)]
            if peer.node_id == self.node_id:
                flags = "myself," + flags
                ranges += [f"[{slot}->-{to}]" for slot, to in self.migrating.items()]
                ranges += [f"[{slot}-<-{source}]" for slot, source in self.importing.items()]
            if peer.is_failed:
                flags += ",fail"
            host, port = peer.address
            state = "disconnected" if peer.is_failed else "connected"
            where = f"{host}:{port}@{port + 10_000}"
            head = [peer.node_id, where, flags, peer.master_id or "-", "0", "0", str(peer.config_epoch), state]
            lines.append(" ".join([*head, *ranges]))
        return ("\n".join(lines) + "\n").encode()

    def _shards(self) -> list[Any]:
        found: list[Any] = []
        for master in [peer for peer in self.peers.values() if peer.master_id is None]:
            bounds = [bound for pair in ranges_of(master.slots) for bound in pair]
            members = [master, *(peer for peer in self.peers.values() if peer.master_id == master.node_id)]
            nodes = [
                [
                    *(b"id", peer.node_id.encode(), b"port", peer.address[1], b"ip", peer.address[0].encode()),
                    *(b"endpoint", peer.address[0].encode(), b"role", b"replica" if peer.master_id else b"master"),
                    *(b"replication-offset", 1, b"health", b"fail" if peer.is_failed else b"online"),
                ]
                for peer in members
            ]
            found.append([b"slots", bounds, b"nodes", nodes])
        return found

    def _slot_ranges(self) -> list[Any]:
        found: list[Any] = []
        for master in [peer for peer in self.peers.values() if peer.master_id is None]:
            replicas = [p for p in self.peers.values() if p.master_id == master.node_id and not p.is_failed]
            named = [[p.address[0].encode(), p.address[1], p.node_id.encode()] for p in [master, *replicas]]
            found += [[first, last, *named] for first, last in ranges_of(master.slots)]
        return found

    def _do_scan(self, session: Session, cursor: bytes, *options: bytes) -> Any:
        self.on_event("scan")
        after, keys = super()._do_scan(session, cursor, *options)
        if after == "0":
            self.on_event("end")
        if self.hidden:
            keys = [key for key in keys if not self.hidden >> slot_of(key) & 1]
        return [after, keys]

    def _wrong_node(self, names: tuple[bytes, ...]) -> Error | None:
        if not self.flavour.knows_shards:
            return Error("ERR unknown command 'SSUBSCRIBE', with args beginning with: ")
        (slot,) = {slot_of(name) for name in names}
        if not self.is_ok:
            return Error("CLUSTERDOWN The cluster is down")
        owner = self.owner_of(slot)
        if owner is None:
            return Error("CLUSTERDOWN Hash slot not served")
        if owner.node_id not in {self.node_id, self.me.master_id}:
            return _redirect("MOVED", slot, owner)
        return None


def _redirect(word: str, slot: int, peer: Peer) -> Error:
    return Error(f"{word} {slot} {peer.address[0]}:{peer.address[1]}")
