"""What can befall a service: each class of faults, as a function of the world. It says whether it took effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import trio

from tests.simulation.schedule import Fault, Value as Setting
from tests.trio.fakes.data_server import Session

from .actors import Actor
from .deployment import Deployment
from .fault_classes import CLASSES
from .machines import Machine
from .reader import Reader
from .servers import Node, SimServer

if TYPE_CHECKING:
    from tests.trio.fakes.network import Ending

__all__ = ["TRIGGERS", "Faults", "Fire"]

# When a fault can come: at a time, or at the n-th time that this happens.
TRIGGERS: Final = (
    "time",
    # A SCAN comes; is answered (the reply is on its way); comes with cursor 0; is answered with cursor 0.
    "scan",
    "scanned",
    "first",
    "last",
    # The consumer takes a page; the certificate is drawn up.
    "taken",
    "certificate",
    # So many seconds after the first of the other faults.
    "after",
    # A server is promoted; a Sentinel says +switch-master; the client connects to a data server.
    "promotion",
    "switch",
    "connect",
)

T = TypeVar("T")
Fire = Callable[["Faults", Mapping[str, Setting], "Machine[Any] | None", "Session | None"], object]


class Faults:
    """The faults of one schedule, waiting for their moments."""

    def __init__(self, world: Deployment, reader: Reader, faults: tuple[Fault, ...]) -> None:
        self.world = world
        self.reader = reader
        self.rng = Random(f"faults {world.rng.random()}")
        self._waiting: dict[str, list[list[Any]]] = {}
        self._after: list[Fault] = []
        for fault in faults:
            if fault.trigger == "time":
                self._fire_later(fault)
            elif fault.trigger == "after":
                self._after.append(fault)
            else:
                self._waiting.setdefault(fault.trigger, []).append([int(fault.at), fault])
        world.on_trigger = self.happened

    def _fire_later(self, fault: Fault) -> None:
        self.later(fault.at, lambda: self._fire(fault, None, None))

    def happened(self, trigger: str, machine: Machine[Any] | None, session: Session | None) -> object:
        """One more of these; what is to come in place of a reply, if anything."""
        instead: object = None
        for entry in self._waiting.get(trigger, ()):
            entry[0] -= 1
            # (What a fault brings about may be a trigger, but not while it is at it.)
            if entry[0] == 0:
                instead = self._fire(entry[1], machine, session) or instead
        return instead

    def _fire(self, fault: Fault, machine: Machine[Any] | None, session: Session | None) -> object:
        done = CLASSES[fault.name](self, fault.args, machine, session)
        self.world.befallen = True
        after, self._after = self._after, []
        for other in after:
            self._fire_later(other)
        if done is not None and done is not False and self.reader.active:
            self.world.account.took_effect(fault.name)
            self.world.account.trace(f"{trio.current_time():.6f} {fault.name}")
        return None if done is True or done is False else done

    # ---- whom ------------------------------------------------------------------------------------------------------

    def node(self, args: Mapping[str, Setting], machine: Machine[Any] | None) -> Node:
        """Whom it befalls: the master, the server of the moment, or one of the replicas."""
        on = args.get("on", "master")
        if on == "here" and machine is not None and isinstance(machine.program, SimServer):
            node = machine.program.node
            assert node is not None
            return node
        if on == "replica":
            replicas = [node for node in self.world.nodes if not node.is_master and node.machine.up]
            if replicas:
                return replicas[int(args.get("which", 0)) % len(replicas)]
        return self.world.master

    def actors(self, args: Mapping[str, Setting]) -> list[Actor]:
        """Some of the Sentinels: "all", or the n-th."""
        which = args.get("which", 0)
        actors = self.world.actors
        return list(actors) if which == "all" else [actors[int(which) % len(actors)]]

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self.world.agenda.after(seconds, call)

    def kill(self, node: Node, how: str = "end") -> bool:
        if not node.machine.up:
            return False
        node.machine.kill(cast("Ending", how))
        node.died()
        return True

    def start(self, node: Node, args: Mapping[str, Setting]) -> None:
        if not node.machine.up:
            node.start(str(args.get("keeps", "all")), float(args.get("loading", 0.0)))

    def fail_over(self, *, coordinated: bool = False) -> bool:
        """SENTINEL FAILOVER."""
        for actor in self.world.actors:
            if actor.usable and actor.failover is None and actor.replicas:
                actor.start_failover(forced=True, coordinated=coordinated)
                return True
        return False
