"""Data servers that replicate: with a lag, by a part of the stream or from the beginning, and that are restarted.

Replication as Redis has it: each write is numbered within a history (`replid`); a replica that has a part of the
history goes on from there, any other is filled anew, and answers from whatever it has until then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

import trio

from tests.trio.fakes import DataServer, Error, Value
from tests.trio.fakes.data_server import Session
from tests.trio.fakes.table import Table

from .ledger import Ledger, carried_on

if TYPE_CHECKING:
    from .deployment import Deployment
    from .machines import Machine

__all__ = ["CHANNEL", "Node", "SimServer"]

# Seconds after which a replica gives up a master that says nothing, and between two attempts to get to it.
REPL_TIMEOUT: Final = 60.0
RECONNECT: Final = 1.0
# The channel of the messages, and what stands for a database where one is replicated.
CHANNEL: Final = b"news"
MESSAGE: Final = -1
# What a replica without its master does not answer where it is told to give nothing that may be outdated.
_NOT_STALE: Final = frozenset({"DBSIZE", "GET", "HLEN", "HSCAN", "INCRBY", "MGET", "SCAN", "SET"})


class SimTable(Table):
    """Remembers the cursors that it has given."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self.given: set[int] = {0}

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        after, keys = super().scan(cursor, count)
        self.given.add(after)
        return after, keys


class SimServer(DataServer):
    """One process's view of its keys, with an account of since when they are there."""

    def __init__(self, address: tuple[str, int], rng: Random, ledger: Ledger) -> None:
        self.ledger = ledger
        # Of what counts here: while the link to its master is down, a replica owes nobody anything, so what happens
        # to its keys meanwhile shows when the link is up again.
        self.since: dict[bytes, int] = {}
        # When this process held its data set for the first time: at once as a master, as a replica when it is in sync.
        self.first_held = 0
        self.node: Node | None = None
        # (Connection, cursor) of SCANs with a cursor that this process has not given.
        self.strangers: list[int] = []
        # Keys that INCRBY was run for, in this or an earlier process, each as often as it was.
        self.ran: list[bytes] = []
        # None, or "MATCH"-like faults of another product: what SCAN says instead of the next cursor.
        self.odd_cursors: Callable[[int, int], int] | None = None
        self.busy = False
        self.serves_stale = True
        self._given: dict[int, set[int]] = {}
        super().__init__(address, rng)

    @property
    def counts(self) -> bool:
        """Whether what it holds is what it is taken to hold."""
        return self.master is None or self.link == "connected"

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody listens here."""
        return any(session.subscriptions and session.is_open() for session in self._sessions)

    def restart(self) -> None:
        super().restart()
        self.since = {}
        self.first_held = 0
        self.recounted()

    def _table(self, db: int) -> Table:
        if db not in self._tables:
            self._tables[db] = SimTable(self._seed)
        return self._tables[db]

    def put(self, db: int, key: bytes, value: Value | None) -> None:
        super().put(db, key, value)
        if db == 0:
            if self.counts:
                if value is None:
                    self.since.pop(key, None)
                else:
                    self.since.setdefault(key, self.ledger.now())
            self.ledger.changed(self, key)

    def _reload(self) -> None:
        # (The process, so its seed, stays: cursors that it has given are good still.)
        given = {db: table.given for db, table in self._tables.items() if isinstance(table, SimTable)}
        super()._reload()
        for db, cursors in given.items():
            table = self._table(db)
            assert isinstance(table, SimTable)
            table.given |= cursors
        self.recounted()

    def recounted(self) -> None:
        """Its data, or what it is taken for, has changed as a whole."""
        if self.counts:
            self.first_held = self.first_held or self.ledger.now()
            self.since = carried_on(self.since, dict(self.data.get(0, {})), self.ledger.now())
        self.ledger.reloaded(self)

    def since_before(self, tick: int) -> set[bytes]:
        """What has been there from before that tick until now."""
        return {key for key, since in self.since.items() if since < tick}

    def owes_as_a_replica(self, tick: int) -> set[bytes]:
        """What a scan of it owes: what is never missing from the service, from when it was in sync first.

        A pass has no business to begin before that.
        """
        always = self.ledger.since_before(self.ledger.begun)
        if not self.first_held:
            return always
        return {key for key in always if self.since.get(key, math.inf) <= max(tick, self.first_held + 1)}

    def _refusal(self, session: Session, name: str, words: list[bytes]) -> Any:
        if self.busy and name not in {"HELLO", "AUTH", "CLIENT"}:
            return Error("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.")
        if not self.serves_stale and self.master is not None and self.link != "connected" and name in _NOT_STALE:
            return Error("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.")
        return super()._refusal(session, name, words)

    def _do_scan(self, session: Session, cursor: bytes, *options: bytes) -> Any:
        number = int(cursor)
        if number >= 1 << 64:
            return Error("ERR invalid cursor")
        table = self._table(session.db)
        assert isinstance(table, SimTable)
        # (A segment begins at a cursor of the client's own making: one with few bits.)
        if number not in table.given and number >= 1024:
            self.strangers.append(number)
        reply = super()._do_scan(session, cursor, *options)
        if self.odd_cursors is not None:
            reply[0] = str(self.odd_cursors(number, int(reply[0])))
            table.given.add(int(reply[0]))
        return reply

    def _do_incrby(self, session: Session, key: bytes, by: bytes) -> Any:
        self.ran.append(key)
        return super()._do_incrby(session, key, by)


class Node:
    """A data server's machine and its part in replication."""

    def __init__(self, machine: Machine[SimServer], world: Deployment) -> None:
        self.machine = machine
        self.program = machine.program
        self.program.node = self
        self.world = world
        self.rng: Random = world.rng
        # What was written, in order: all of this history, whoever wrote it.
        self.log: list[tuple[int, bytes, Value | None]] = []
        self.replid = f"{self.rng.getrandbits(64):016x}"
        # The history before the last promotion, and how much of it this one shares.
        self.replid2, self.shared = "", 0
        # Seconds from a write on its master to the same here.
        self.lag = 0.0
        # Grows whenever it is told to follow somebody, or nobody: what is under way then counts no more.
        self._turn = 0
        self.followers: list[Node] = []
        # How often it was made a replica.
        self.demotions = 0
        # Until when its master's silence counts as a connection.
        self.link_down_since: float | None = None
        self.saved: dict[int, dict[bytes, Value]] = {}
        self.program.on_write = self._written

    @property
    def address(self) -> tuple[str, int]:
        return self.machine.address

    @property
    def offset(self) -> int:
        """How far it has come in its history."""
        return len(self.log)

    @property
    def is_master(self) -> bool:
        return self.program.master is None

    @property
    def usable(self) -> bool:
        """Whether another server gets answers from it."""
        return self.machine.runs

    def __repr__(self) -> str:
        return f"<Node {self.address[0]}>"

    # ---- as a master ---------------------------------------------------------------------------------------------

    def _written(self, db: int, key: bytes, value: Value | None) -> None:
        self._append(db, key, value)

    def _append(self, db: int, key: bytes, value: Value | None) -> None:
        self.log.append((db, key, value))
        for follower in self.followers:
            follower.feed(self)

    def write(self, key: bytes, value: Value | None) -> None:
        """A write by somebody else's client."""
        self.program.put(0, key, value)
        self._append(0, key, value)

    def publish(self, message: bytes) -> None:
        """PUBLISH: it goes to its replicas as well, and to their clients, in the order of all writes."""
        self.program.publish(CHANNEL, message)
        self._append(MESSAGE, message, None)

    def feed(self, master: Node) -> None:
        """Its master has written more."""
        turn = self._turn
        if self.lag:
            self.world.agenda.after(self.lag, lambda: self._catch_up(master, turn))
        else:
            self._catch_up(master, turn)

    def _catch_up(self, master: Node, turn: int) -> None:
        if turn != self._turn or self.program.link != "connected" or self not in master.followers:
            return
        if not (self.usable and self.world.reach(self, master)):
            self.world.agenda.after(0.25, lambda: self._catch_up(master, turn))
            return
        upto = master.offset
        if self.lag:
            # What was written less than the lag ago is on its way.
            upto = min(upto, self.offset + 1)
        self.apply(master.log[self.offset : upto])

    def apply(self, entries: list[tuple[int, bytes, Value | None]]) -> None:
        """What its master has written."""
        for db, key, value in entries:
            if db == MESSAGE:
                self.program.publish(CHANNEL, key)
            else:
                self.program.put(db, key, value)
            self._append(db, key, value)

    # ---- as a replica --------------------------------------------------------------------------------------------

    def follow(self, address: tuple[str, int]) -> None:
        """REPLICAOF. Its data stays until the new master's arrives."""
        self._leave_master()
        self.demotions += self.is_master
        self.program.master = address
        self.program.replicas = [f.address for f in self.followers]
        self._link("connect")
        self._try_later(0.05)

    def promote(self) -> None:
        """REPLICAOF NO ONE; nothing, to a master."""
        if self.is_master:
            self.world.promoted(self)
            return
        self._leave_master()
        self.program.master = None
        self.replid2, self.shared = self.replid, self.offset
        self.replid = f"{self.rng.getrandbits(64):016x}"
        self.program.link = "connected"
        self.link_down_since = None
        self.program.recounted()
        self.world.promoted(self)

    def _leave_master(self) -> None:
        self._turn += 1
        master = self.world.node_at(self.program.master) if self.program.master is not None else None
        if master is not None and self in master.followers:
            master.followers.remove(self)
            if self.world.reach(self, master):
                master.list_followers()

    def list_followers(self) -> None:
        """What ROLE lists."""
        self.program.replicas = [f.address for f in self.followers if f.program.link == "connected"]

    def _link(self, state: str) -> None:
        self.program.link = state
        if state == "connected":
            self.link_down_since = None
            self.program.recounted()
        elif self.link_down_since is None:
            self.link_down_since = trio.current_time()

    def _try_later(self, seconds: float) -> None:
        turn = self._turn
        self.world.agenda.after(seconds, lambda: self._try_link(turn))

    def _try_link(self, turn: int) -> None:
        if turn != self._turn or self.program.master is None or not self.machine.up:
            return
        master = self.world.node_at(self.program.master)
        if master is None or not (self.usable and master.usable and self.world.reach(self, master)):
            self._try_later(RECONNECT)
            return
        if master.program.loading or master is self or not (master.is_master or master.program.link == "connected"):
            self._try_later(RECONNECT)
            return
        if self not in master.followers:
            master.followers.append(self)
        goes_on = (self.replid == master.replid and self.offset <= master.offset) or (
            self.replid == master.replid2 and self.offset <= master.shared
        )
        if goes_on:
            self._linked(master)
            return
        # Filled anew: it answers from what it has, then not at all, then it has the master's keys.
        self._link("sync")
        transfer, load = self.world.sync_times()
        self.world.account.counts["full synchronisations"] += 1
        self.world.agenda.after(transfer, lambda: self._load(master, turn, load))

    def _load(self, master: Node, turn: int, seconds: float) -> None:
        if turn != self._turn or not self.machine.up:
            return
        if not (self.usable and master.usable and self.world.reach(self, master)):
            self._lose_link(master)
            return
        self.program.empty()
        self.program.loading = seconds > 0
        self.world.agenda.after(seconds, lambda: self._loaded(master, turn))

    def _loaded(self, master: Node, turn: int) -> None:
        self.program.loading = False
        if turn != self._turn or not self.machine.up:
            return
        if not (self.usable and master.usable and self.world.reach(self, master)) or self not in master.followers:
            self._lose_link(master)
            return
        self.log = list(master.log)
        self.program.copy_from(master.program)
        self._linked(master)

    def _linked(self, master: Node) -> None:
        self.replid, self.replid2, self.shared = master.replid, master.replid2, master.shared
        self.apply(master.log[self.offset :])
        self._link("connected")
        master.list_followers()

    def _lose_link(self, master: Node | None) -> None:
        if master is not None and self in master.followers:
            master.followers.remove(self)
            if master.machine.up:
                master.list_followers()
        self._link("connect")
        self._turn += 1
        self._try_later(self.rng.uniform(0.1, RECONNECT))

    def check_link(self) -> None:
        """Its master may have said nothing for too long: called when that time is over."""
        master = self.world.node_at(self.program.master) if self.program.master is not None else None
        if master is None or self.program.link != "connected" or not self.machine.up:
            return
        if not (master.usable and self.world.reach(self, master)):
            self._lose_link(master)

    # ---- the process ---------------------------------------------------------------------------------------------

    def died(self) -> None:
        """Its process was killed: those at the other ends of its replication connections notice."""
        self._turn += 1
        for follower in [*self.followers]:
            if self.world.reach(follower, self) and follower.machine.up:
                follower._lose_link(self)
        self.followers.clear()
        self._leave_master()

    def start(self, keeps: str, loading: float) -> None:
        """Another process at the same address. It has all the data, what was saved, or none; nobody follows it yet."""
        program = self.program
        if keeps == "none":
            program.data = {}
        elif keeps == "saved":
            program.data = {db: dict(keys) for db, keys in self.saved.items()}
        self.log = []
        self.replid, self.replid2, self.shared = f"{self.rng.getrandbits(64):016x}", "", 0
        self.followers.clear()
        program.replicas = []
        program.link = "connect" if program.master is not None else "connected"
        self.machine.up = True
        self.machine.resume()
        program.restart()
        self._turn += 1
        self.link_down_since = trio.current_time() if program.master is not None else None
        if loading:
            program.loading = True
            run_id = program.run_id
            self.world.agenda.after(loading, lambda: self._has_loaded(run_id))
        else:
            program.loading = False
        if program.master is not None:
            self._try_later(0.05 + loading)

    def _has_loaded(self, run_id: str) -> None:
        if self.program.run_id == run_id:
            self.program.loading = False

    def save(self) -> None:
        """What is there now is what a restart may find."""
        self.saved = {db: dict(keys) for db, keys in self.program.data.items()}
