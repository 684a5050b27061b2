"""A node of a cluster as a process: what it believes of the others, what it answers, and what it lets itself be told.

Nobody here knows the truth. Each node has a table of its own of who has which slot, at which config epoch, and learns
from what others say of themselves, by the rules of Redis (`clusterUpdateSlotsConfigWith` and what is around it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, NamedTuple

from tests.trio.fakes.data_server import Session
from tests.trio.fakes.resp import Error, Push, Simple
from tests.trio.fakes.shards import ShardServer
from tests.trio.fakes.table import Table
from trio_sentinel_scan._core.slots import ALL_SLOTS, ranges_of, slot_of

__all__ = ["Flavour", "Header", "Node", "Peer", "SlotTable"]

_KEYED: Final = frozenset({"DEL", "GET", "INCRBY", "MGET", "SET", "TTL"})
_TRY_AGAIN: Final = Error("TRYAGAIN Multiple keys request during rehashing of slot")
_SLOT_BITS: Final = 14


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


class SlotTable:
    """A table for each slot: the cursor has the slot in its low bits."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
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


class Node(ShardServer):
    """One node. What happens to it from outside, others do: `Bus` and the faults."""

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
        # Called with the slots that it has lost to another node: their keys are to go.
        self.on_lost: Callable[[int], None] = lambda slots: None
        # Called when something comes that faults wait for: a SCAN, the end of a chain of cursors, a look at the nodes.
        self.on_event: Callable[[str], None] = lambda word: None
        # How often it was asked about the cluster's nodes.
        self.looks = 0
        self._asking: set[int] = set()
        self._readonly: set[int] = set()
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
        """A new config epoch, without asking anybody; none if it has the latest already."""
        highest = max(self.current_epoch, *(peer.config_epoch for peer in self.peers.values()))
        if self.me.config_epoch in {0} or self.me.config_epoch != highest:
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
        """A node has these slots at this epoch: of each that somebody has at an earlier one, or nobody has, it is so."""
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

    # ---- the process -----------------------------------------------------------------------------------------------

    def restart(self) -> None:
        super().restart()
        self._asking: set[int] = set()
        self._readonly: set[int] = set()

    def _table(self, db: int) -> Table:
        if db not in self._tables and self.flavour.by_slot:
            self._tables[db] = SlotTable(self._seed)  # type: ignore[assignment]  # it has all that is used of a table
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

    @property
    def sees_all(self) -> bool:
        """Whether each slot has an owner that is not known to be down, as far as it knows."""
        seen = 0
        for peer in self.peers.values():
            if not peer.is_failed:
                seen |= peer.slots
        return seen == ALL_SLOTS


def _redirect(word: str, slot: int, peer: Peer) -> Error:
    return Error(f"{word} {slot} {peer.address[0]}:{peer.address[1]}")
