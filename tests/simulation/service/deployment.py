"""One service put together: data servers, Sentinels, who reaches whom, and whose data counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, ClassVar, Final

import pytest
import trio

from tests.simulation.agenda import Agenda
from tests.simulation.playing import Account
from tests.simulation.runner import SECRET
from tests.simulation.schedule import Value as Setting
from tests.trio.fakes import Value
from tests.trio.fakes.data_server import Session

from .actors import Actor
from .ledger import Ledger
from .machines import Machine, Machines
from .sentinels import SimSentinel
from .servers import Node, SimServer

__all__ = ["PASSWORD", "Deployment", "key_of"]

PASSWORD: Final = f"{SECRET}-password"
# More commands, or attempts to connect, in one simulated second than any client needs: one that spins.
MOST_COMMANDS: Final = 30_000
MOST_DIALS: Final = 400


def key_of(number: int) -> bytes:
    """One key in four does not match the pattern that scans use; some are no text, and some are long."""
    key = f"{'other' if number % 4 == 0 else 'key'}:{SECRET}:{number}".encode()
    if number % 5 == 1:
        key += b"\0\xff\r\n{*}"
    return key + b"x" * 2_000 * (number % 37 == 2)


class Deployment:
    """A master, its replicas, and their Sentinels."""

    service: Final = "mymaster"
    # Whether a cursor at a process that has not issued it is an offence by itself, before any key is lost by it.
    checks_cursors: ClassVar[bool] = True

    def __init__(
        self,
        nursery: trio.Nursery,
        patch: pytest.MonkeyPatch,
        settings: Mapping[str, Setting],
        seed: int,
        account: Account,
    ) -> None:
        self.settings = settings
        self.account = account
        self.rng = Random(f"deployment {seed}")
        self.agenda = Agenda.current()
        self.ledger = Ledger()
        self.network = Machines(nursery, patch, self.rng)
        self.network.at_once = bool(settings["at_once"])
        self.network.count = self._count
        self.network.opened = self._dialled
        self.network.later = self.agenda.after
        self.network.before = self._before
        self.network.after = self._after
        self.down_after = float(settings["down_after"])
        self.failover_timeout = float(settings["sentinels_failover_timeout"])
        # Pairs of machines that do not reach each other, and machines that reach none (but the client, maybe).
        self._cuts: set[tuple[Any, Any]] = set()
        # Called at every trigger with its name, before and after commands and elsewhere.
        self.on_trigger: Callable[[str, Machine[Any] | None, Session | None], object] = lambda name, machine, session: (
            None
        )
        self.on_publish: list[Callable[[Node], object]] = []
        self._second, self._commands, self._dials = -1, 0, 0
        self.promotions = self.switches = 0
        # Keys served by SCAN, each as often as it was.
        self.served = 0
        # By address: until when a majority of Sentinels named it.
        self._majority_until: dict[tuple[str, int], float] = {}
        # Whether any fault has come yet, and how far the clock has jumped.
        self.befallen = False
        self.jumped = 0.0
        # Of each SCAN since the last with cursor 0: the server, and its process.
        self.scanned: list[tuple[tuple[str, int], str]] = []
        self.by_session: dict[int, int] = {}

        self.nodes: list[Node] = []
        for number in range(1, int(settings["replicas"]) + 2):
            machine = self.network.add_machine(SimServer((f"10.0.0.{number}", 6379), self.rng, self.ledger))
            self.nodes.append(Node(machine, self))
        self._by_address = {node.address: node for node in self.nodes}
        master, *replicas = self.nodes
        self._set_up_data(master, replicas)
        for node in self.nodes:
            node.lag = float(settings["lag"]) if node is not master else 0.0
            node.machine.latency = float(settings["latency"])
            node.program.knows_capa = bool(settings["capa"])
            node.program.version = str(settings["version"])
            node.program.serves_stale = bool(settings["stale"])
            if settings["password"]:
                node.program.users["default"].password = PASSWORD
        self.ledger.set_authorities([master.program])
        self.ledger.begun = self.ledger.now()
        self.actors: list[Actor] = []
        for number in range(1, int(settings["sentinels"]) + 1):
            sentinel = SimSentinel((f"10.0.1.{number}", 26379), f"{self.rng.getrandbits(160):040x}")
            if settings["password"]:
                sentinel.password = PASSWORD
            its_machine = self.network.add_machine(sentinel)
            its_machine.latency = float(settings["latency"])
            self.actors.append(Actor(its_machine, self))
        for actor in self.actors:
            actor.program.peers = [other.program for other in self.actors if other is not actor]
        self.knows_changed()

    def _set_up_data(self, master: Node, replicas: list[Node]) -> None:
        if self.settings["hash_seed"]:
            for node in self.nodes:
                node.program.hash_seed = "a seed that all share"
                node.program.more_info = {"valkey_version": "9.1.2"}
                node.program.restart()
        data = master.program.data.setdefault(0, {})
        for number in range(int(self.settings["keys"])):
            data[key_of(number)] = Value(b"value of " + key_of(number), "string" if number % 3 else "list")
            self.ledger.ever.add(key_of(number))
        items = {f"field:{SECRET}:{n}".encode(): b"%d" % n for n in range(int(self.settings["hash"]))}
        if items:
            data[b"hash:" + SECRET.encode()] = Value(b"", "hash", items)
            self.ledger.ever.add(b"hash:" + SECRET.encode())
        master.program._reload()
        for replica in replicas:
            replica.program.master = master.address
            replica.replid = master.replid
            replica.program.copy_from(master.program)
            master.followers.append(replica)
        master.list_followers()
        for node in self.nodes:
            node.save()

    # ---- who reaches whom ----------------------------------------------------------------------------------------

    @property
    def quorum(self) -> int:
        """How many Sentinels must agree that the master is down."""
        return len(self.actors) // 2 + 1

    def node_at(self, address: tuple[str, int] | None) -> Node | None:
        """The server at an address."""
        return self._by_address.get(address) if address is not None else None

    def reach(self, one: Node | Actor, other: Node | Actor) -> bool:
        """Whether packets get through between two machines."""
        return (one.address, other.address) not in self._cuts

    def cut(self, one: Node | Actor, other: Node | Actor) -> None:
        """They do no more."""
        self._cuts |= {(one.address, other.address), (other.address, one.address)}
        for node, master in ((one, other), (other, one)):
            if isinstance(node, Node) and isinstance(master, Node):
                self.agenda.after(60.0, node.check_link)

    def heal(self, one: Node | Actor, other: Node | Actor) -> None:
        """They do again."""
        self._cuts -= {(one.address, other.address), (other.address, one.address)}

    def sync_times(self) -> tuple[float, float]:
        """How long a full synchronisation takes: until the data is there, and to load it."""
        scale = float(self.settings["sync"])
        return self.rng.uniform(0.05, 1) * scale, self.rng.choice([0.0, self.rng.uniform(0, 1) * scale])

    # ---- whose data counts ---------------------------------------------------------------------------------------

    @property
    def master(self) -> Node:
        """Where somebody who knows everything would write."""
        node = self.ledger.authorities[-1].node
        assert node is not None
        return node

    def promoted(self, node: Node) -> None:
        """It is a master, by its own word."""
        self.promotions += 1
        self.account.counts["promotions"] += 1
        others = [server for server in self.ledger.authorities if server is not node.program]
        self.ledger.set_authorities([*others, node.program])
        self.on_trigger("promotion", node.machine, None)

    def demoted(self, node: Node) -> None:
        """It is none any more."""
        others = [server for server in self.ledger.authorities if server is not node.program]
        if others:
            self.ledger.set_authorities(others)

    def knows_changed(self) -> None:
        """A Sentinel names another master: with a majority, those before it do not count any more."""
        named = [actor.monitored.master for actor in self.actors]
        for node in self.nodes:
            if 2 * named.count(node.address) > len(named):
                self._majority_until[node.address] = math.inf
            elif self._majority_until.get(node.address) == math.inf:
                self._majority_until[node.address] = trio.current_time()
        authorities = self.ledger.authorities
        for node in self.nodes:
            if self._majority_until.get(node.address) == math.inf and node.program not in authorities:
                # Promoted by Sentinels before another was by hand, whom they named themselves until now.
                authorities = [node.program, *authorities]
        for number, server in enumerate(authorities):
            if 2 * named.count(server.address) > len(named):
                self.ledger.set_authorities(authorities[number:])
                return

    def had_majority(self, address: tuple[str, int], since: float) -> bool:
        """Whether, since that time, a majority of Sentinels has named it as the master."""
        return self._majority_until.get(address, -math.inf) >= since

    def switched(self, actor: Actor) -> None:
        """A Sentinel has said +switch-master."""
        self.switches += 1
        self.account.counts["switches"] += 1
        self.knows_changed()
        self.on_trigger("switch", actor.machine, None)

    def hand_over(self, old: Node, new: Node) -> None:
        """FAILOVER on a server: nothing is lost, no connection is killed, and no Sentinel is told."""
        new.apply(old.log[new.offset :])
        new.promote()
        old.follow(new.address)
        self.demoted(old)

    # ---- what the client does ------------------------------------------------------------------------------------

    def _count(self, machine: Machine[Any], words: list[bytes]) -> None:
        self._this_second()
        self._commands += 1
        self.account.peak("commands in one second", self._commands)
        self.account.trace(f"{trio.current_time():.6f} {machine.address[0]} {b' '.join(words[:3]).decode('latin-1')}")
        if self._commands > MOST_COMMANDS:
            self.account.breaks("spin", f"{self._commands} commands within one second")

    def _dialled(self, machine: Machine[Any]) -> None:
        self._this_second()
        self._dials += 1
        self.account.peak("connections in one second", self._dials)
        self.account.trace(f"{trio.current_time():.6f} {machine.address[0]} is dialled")
        if self._dials > MOST_DIALS:
            self.account.breaks("spin", f"{self._dials} connections within one second")
        if isinstance(machine.program, SimServer):
            self.on_trigger("connect", machine, None)

    def _this_second(self) -> None:
        second = int(trio.current_time())
        if second != self._second:
            self._second, self._commands, self._dials = second, 0, 0

    def _before(self, machine: Machine[Any], session: Session, words: list[bytes]) -> object:
        if words[0] == b"SCAN":
            if words[1] == b"0":
                self.scanned.clear()
            self.scanned.append((machine.address, machine.program.run_id))
            self.by_session[id(session)] = self.by_session.get(id(session), 0) + 1
            instead = self.on_trigger("scan", machine, session)
            if words[1] == b"0":
                instead = self.on_trigger("first", machine, session) or instead
            return instead
        if words[0] == b"HSCAN":
            return self.on_trigger("scan", machine, session)
        if words[0] == b"INFO" and id(session) in self.by_session:
            return self.on_trigger("certificate", machine, session)
        return None

    def _after(self, machine: Machine[Any], session: Session, words: list[bytes], value: Any) -> None:
        if words[0] == b"SCAN" and isinstance(value, list):
            self.served += len(value[1])
            program: SimServer = machine.program
            if program.strangers and self.checks_cursors and not self.settings["hash_seed"]:
                self.account.breaks("cursor", f"{machine.address[0]} got a cursor that this process has not issued")
            self.on_trigger("scanned", machine, session)
            if value[0] == "0":
                self.on_trigger("last", machine, session)
