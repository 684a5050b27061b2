"""What befalls a cluster: each class of faults as a script, drawn with its trigger, and whether it took effect.

A script is a generator: what comes before its first `yield` happens at the very moment of its trigger (in the midst of
a command that a node has got, for instance), and each `yield` is a pause in seconds. So an operator's tool works, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Final

import trio

from tests.trio.fakes.data_server import Value as Stored
from tests.trio.fakes.network import HANG_UP, SILENCE, Cut, Reply
from tests.trio.fakes.resp import Error
from trio_sentinel_scan._core.slots import ALL_SLOTS, slot_of

from .hosts import NodeHost
from .nodes import Node
from .deployment import key_in
from ..schedule import Fault, Value

if TYPE_CHECKING:
    from .deployment import SimulatedCluster
    from ..playing import Account

__all__ = ["ARGUMENTS", "TRIGGERS", "Faults", "draw_fault"]

Script = Iterator[float]

# Each class, and its arguments: what is drawn for them, the simplest first.
ARGUMENTS: Final[Mapping[str, Mapping[str, tuple[Value, ...]]]] = {
    "kill": {"node": (0, 1, 2, 3), "back": (0.0, 1.0, 6.0), "how": ("end", "pipe", "reset")},
    "restart": {"node": (0, 1, 2), "keeps": (1, 1, 1, 0), "loading": (0.0, 0.0, 1.5)},
    "freeze": {"node": (0, 1, 2, 3), "seconds": (1.0, 4.0, 9.0)},
    "planned": {"node": (0, 1, 2)},
    "legacy": {"slot": (0, 1, 2, 3, 4, 5, 6, 7), "to": (1, 2), "pace": (0.0, 0.01, 0.1), "late": (0.0, 0.5, 2.0)},
    "halfdone": {"slot": (0, 1, 2, 3, 4, 5, 6, 7), "to": (1, 2), "share": (0.5, 0.9, 1.0), "pace": (0.0, 0.05)},
    "cancelled": {"slot": (0, 1, 2, 3, 4, 5, 6, 7), "to": (1, 2), "pace": (0.0, 0.02), "pause": (0.0, 0.3, 1.0)},
    "returned": {"slot": (0, 1, 2, 3, 4, 5, 6, 7), "to": (1, 2), "pace": (0.0, 0.02), "pause": (0.0, 0.3, 1.0)},
    "handback": {"slot": (0, 1, 2, 3, 4, 5, 6, 7), "to": (1, 2), "pace": (0.01, 0.05), "pause": (0.0, 0.3, 1.0)},
    "roundtrip": {"slot": (0, 1, 2, 3, 4, 5, 6, 7), "to": (1, 2), "pace": (0.0, 0.02), "pause": (0.0, 0.2, 1.0)},
    "atomic": {"node": (0, 1, 2), "to": (1, 2), "share": (0.5, 1.0), "seconds": (0.0, 0.1, 0.5)},
    "addnode": {"node": (0, 1, 2), "seconds": (0.1, 1.0)},
    "removenode": {"node": (0, 1, 2), "to": (1, 2)},
    "uncover": {"slot": (0, 1, 2, 3, 4, 5, 6, 7), "seconds": (1.0, 5.0, 0.0)},
    "isolate": {"node": (0, 1, 2), "seconds": (5.0, 12.0, 30.0)},
    "minority": {"node": (0, 1, 2), "seconds": (5.0, 12.0)},
    "deaf": {"node": (0, 1, 2, 3), "seconds": (3.0, 10.0)},
    "blackhole": {"node": (0, 1, 2, 3), "seconds": (1.0, 6.0)},
    "readdress": {"node": (0, 1, 2), "back": (0.1, 1.0)},
    "swap": {"node": (0, 1, 2), "to": (1, 2), "seconds": (0.5, 3.0)},
    "slow": {"node": (0, 1, 2), "delay": (0.05, 0.3), "seconds": (2.0, 5.0)},
    "slices": {"node": (0, 1, 2), "size": (5, 40, 200)},
    "cut": {"node": (0, 1, 2), "size": (1, 20, 90)},
    "silence": {"node": (0, 1, 2), "command": ("SCAN", "CLUSTER")},
    "hangup": {"node": (0, 1, 2), "command": ("SCAN", "CLUSTER", "ROLE")},
    "drop": {"node": (0, 1, 2), "how": ("end", "pipe", "reset")},
    "refuse": {"node": (0, 1, 2), "seconds": (0.5, 3.0)},
    "busy": {"node": (0, 1, 2), "times": (1, 5), "command": ("SCAN", "CLUSTER")},
    "grow": {"node": (0, 1, 2), "keys": (60, 150)},
    "shrink": {"node": (0, 1, 2), "keys": (60, 150)},
}
# What a fault may wait for (a time is in seconds), and up to how many of it.
TRIGGERS: Final[Mapping[str, tuple[float, float]]] = {
    "time": (2, 9),
    "scan": (3, 40),
    "end": (3, 6),
    "look": (3, 24),
    "page": (3, 16),
    "move": (3, 12),
}
_LIKELY: Final = ("time", "scan", "scan", "end", "look", "look", "page", "page", "move")


def draw_fault(rng: Random, names: tuple[str, ...], triggers: tuple[str, ...] = _LIKELY) -> Fault:
    """One by lot."""
    name = rng.choice(names)
    trigger = rng.choice(triggers)
    most = rng.choice(TRIGGERS[trigger])
    at = round(rng.uniform(0, most), 2) if trigger == "time" else float(rng.randint(1, int(most)))
    args = {argument: rng.choice(values) for argument, values in ARGUMENTS[name].items()}
    return Fault(name, trigger, at, args)


class Faults:
    """Those of one schedule, and what they are waiting for."""

    def __init__(self, cluster: SimulatedCluster, faults: tuple[Fault, ...], account: Account, rng: Random) -> None:
        self._cluster = cluster
        self._account = account
        self._rng = rng
        self._waiting: list[Fault] = list(faults)
        self._seen: dict[str, int] = {}
        # How many scripts are under way.
        self.under_way = 0
        # Whether there is anything that a fault could do harm to.
        self.matters: Callable[[], bool] = lambda: False
        # What may lose what a client was told is done, by the server's own fault.
        self.may_lose_writes = False
        # What the oracle's limits are about: what happened of it.
        self.limits: set[str] = set()
        # Each address that a node has had.
        self._more: list[bytes] = []
        cluster.on_event = lambda node, word: self.happened(word)
        cluster.on_move = lambda: self.happened("move")

    async def run(self) -> None:
        """Those that come at a time of their own."""
        begun = trio.current_time()
        timed = sorted((fault for fault in self._waiting if fault.trigger == "time"), key=lambda fault: fault.at)
        self._waiting = [fault for fault in self._waiting if fault.trigger != "time"]
        for fault in timed:
            await trio.sleep_until(begun + fault.at)
            self._begin(fault)

    def happened(self, word: str) -> None:
        """Something that faults may wait for."""
        number = self._seen[word] = self._seen.get(word, 0) + 1
        due = [fault for fault in self._waiting if fault.trigger == word and fault.at <= number]
        if due:
            self._waiting = [fault for fault in self._waiting if fault not in due]
            for fault in due:
                self._begin(fault)

    def _begin(self, fault: Fault) -> None:
        self._account.trace(f"{trio.current_time():.3f} {fault}")
        matters = self.matters()
        before = self._cluster.truth.cause
        self._cluster.truth.cause = fault.name
        script: Script = getattr(self, f"_{fault.name}")(**{**_simplest(fault.name), **fault.args})
        first = next(script, None)
        self._cluster.truth.cause = before
        if first is None or first >= 0:
            # (Less than nothing: there was nothing that it could befall.)
            if matters:
                self._account.took_effect(fault.name)
            if first is not None:
                self.under_way += 1
                self._cluster.network.nursery.start_soon(self._go_on, fault.name, script, first)

    async def _go_on(self, name: str, script: Script, seconds: float) -> None:
        try:
            pause: float | None = seconds
            while pause is not None:
                await trio.sleep(pause)
                before = self._cluster.truth.cause
                self._cluster.truth.cause = name
                pause = next(script, None)
                self._cluster.truth.cause = before
        finally:
            self.under_way -= 1

    # ---- whom ------------------------------------------------------------------------------------------------------

    def _any(self, number: int) -> NodeHost:
        nodes = self._cluster.bus.nodes
        return self._cluster.host(nodes[number % len(nodes)])

    def _master(self, number: int) -> NodeHost:
        masters = [node for node in self._cluster.masters if node.slots]
        return self._cluster.host(masters[number % len(masters)])

    def _another(self, node: Node, number: int) -> Node | None:
        others = [other for other in self._cluster.masters if other is not node and self._cluster.can_write(other)]
        return others[number % len(others)] if others else None

    def _way(self, number: int, to: int) -> tuple[int, Node, Node] | None:
        """A slot that nobody is busy with, where it is, and where it may go."""
        slot = self._cluster.hot[number % len(self._cluster.hot)]
        source = self._cluster.owner(slot)
        if source is None or slot in self._cluster.busy or not self._cluster.can_write(source):
            return None
        target = self._another(source, to)
        if target is None or source.node_id not in target.peers or target.node_id not in source.peers:
            return None
        return slot, source, target

    # ---- processes -------------------------------------------------------------------------------------------------

    def _kill(self, node: int, back: float, how: Any) -> Script:
        host = self._any(node)
        self.may_lose_writes = True
        host.kill(how)
        if back:
            yield back
            if not host.up and host.program.node_id in self._cluster.bus.hosts:
                self._cluster.start(host.program)

    def _restart(self, node: int, keeps: int, loading: float) -> Script:
        host = self._master(node)
        self.may_lose_writes |= not keeps
        host.kill()
        self._cluster.start(host.program, keeps=bool(keeps), loading=loading)
        yield 0

    def _freeze(self, node: int, seconds: float) -> Script:
        host = self._any(node)
        self.may_lose_writes = True
        host.hang()
        yield seconds
        host.resume()

    def _planned(self, node: int) -> Script:
        replicas = [one for one in self._cluster.bus.nodes if not one.is_master]
        if not replicas or not self._cluster.bus.hand_over(replicas[node % len(replicas)]):
            yield -1

    # ---- slots on their way ----------------------------------------------------------------------------------------

    def _legacy(self, slot: int, to: int, pace: float, late: float) -> Script:
        way = self._way(slot, to)
        if way is None:
            yield -1
            return
        yield from self._carry(*way, pace)
        yield from self._come_to_rest(*way, late)

    def _halfdone(self, slot: int, to: int, share: float, pace: float) -> Script:
        way = self._way(slot, to)
        if way is None:
            yield -1
            return
        yield from self._carry(*way, pace, share)

    def _cancelled(self, slot: int, to: int, pace: float, pause: float) -> Script:
        way = self._way(slot, to)
        if way is None:
            yield -1
            return
        number, source, target = way
        yield from self._carry(*way, pace, 0.5)
        yield pause
        self._cluster.call_off(number, (source, target))
        self.may_lose_writes = True
        self._cluster.busy.discard(number)

    def _returned(self, slot: int, to: int, pace: float, pause: float) -> Script:
        """Cancelled, and what had moved moved back by hand, all at once."""
        yield from self._there_and_back(slot, to, pace, pause, 0.0)

    def _handback(self, slot: int, to: int, pace: float, pause: float) -> Script:
        """Moved back by hand, key by key, while the flags say that keys go the other way."""
        yield from self._there_and_back(slot, to, pace, pause, pace)

    def _there_and_back(self, slot: int, to: int, pace: float, pause: float, pace_back: float) -> Script:
        way = self._way(slot, to)
        if way is None:
            yield -1
            return
        number, source, target = way
        looks = source.looks + target.looks
        yield from self._carry(*way, pace, 0.7)
        yield pause
        moved = target.keys_in(number)
        if pace_back:
            self._cluster.moved_back.update(moved)
            # (What is written meanwhile, at the target, stays there.)
            self.may_lose_writes = True
        for key in moved:
            self._cluster.move_key(key, target, source)
            if pace_back:
                yield pace_back
        self._cluster.call_off(number, (source, target))
        if looks == source.looks + target.looks:
            # Nobody has seen that it was on its way.
            self._cluster.unseen_moves.update(moved)
        self._cluster.busy.discard(number)

    def _roundtrip(self, slot: int, to: int, pace: float, pause: float) -> Script:
        way = self._way(slot, to)
        if way is None:
            yield -1
            return
        number, source, target = way
        yield from self._carry(*way, pace)
        yield from self._come_to_rest(*way, 0)
        yield pause
        if number not in self._cluster.busy and target.slots >> number & 1 and source.is_master:
            yield from self._carry(number, target, source, pace)
            yield from self._come_to_rest(number, target, source, 0)

    def _carry(self, slot: int, source: Node, target: Node, pace: float, share: float = 1.0) -> Script:
        """Set the flags, and move keys."""
        cluster = self._cluster
        cluster.busy.add(slot)
        cluster.begin_move(slot, source, target)
        keys = source.keys_in(slot)
        for key in keys[: round(len(keys) * share)]:
            if pace:
                yield pace
            if source.slots >> slot & 1 and not cluster.move_key(key, source, target):
                # One of the two is away: it stays half done.
                return

    def _come_to_rest(self, slot: int, source: Node, target: Node, late: float) -> Script:
        """The slot is the target's, if it has all keys; the others are told a little later."""
        cluster = self._cluster
        owner = cluster.owner(slot)
        if owner is not source or any(cluster.move_key(key, source, target) is False for key in source.keys_in(slot)):
            return
        if slot not in target.importing:
            return
        cluster.settle_at(slot, target, ())
        if late:
            yield late
        for node in [source, *(node for node in cluster.masters if node not in {source, target})]:
            if target.slots >> slot & 1:
                cluster.tell_of_owner(slot, target, node)
        cluster.busy.discard(slot)

    def _atomic(self, node: int, to: int, share: float, seconds: float) -> Script:
        cluster = self._cluster
        source = self._master(node).program
        target = self._another(source, to)
        hot = cluster.slots_of_keys(source)
        if target is None or not hot or not cluster.can_write(source):
            yield -1
            return
        wanted = hot[: max(1, round(len(hot) * share))]
        slots = sum(1 << slot for slot in wanted)
        cluster.busy.update(wanted)
        if seconds:
            target.hidden |= slots
            cluster.copy_slots(slots & source.slots, source, target)
            yield seconds
        done = cluster.owner(wanted[0]) is source and cluster.hand_over_slots(slots, source, target)
        target.hidden &= ~slots
        if not done and seconds:
            for key in [key for key in target.data.get(0, {}) if slots >> slot_of(key) & 1]:
                if not target.slots >> slot_of(key) & 1:
                    target.put(0, key, None)
                    cluster.bus.wrote(target, key, None)
        cluster.busy.difference_update(wanted)

    # ---- nodes, and slots without any ------------------------------------------------------------------------------

    def _addnode(self, node: int, seconds: float) -> Script:
        new = self._cluster.add_master()
        yield seconds
        source = self._master(node).program
        hot = self._cluster.slots_of_keys(source)[:2]
        if hot and new.peers.get(source.node_id):
            self._cluster.hand_over_slots(sum(1 << slot for slot in hot), source, new)

    def _removenode(self, node: int, to: int) -> Script:
        leaver = self._master(node).program
        heir = self._another(leaver, to)
        masters = [one for one in self._cluster.masters if one.slots]
        if heir is None or len(masters) < 3 or leaver.migrating or leaver.importing:
            yield -1
            return
        if not self._cluster.hand_over_slots(leaver.slots, leaver, heir):
            yield -1
            return
        yield 1.5
        if leaver.slots or leaver.node_id not in self._cluster.bus.hosts:
            return
        for replica in self._cluster.bus.replicas(leaver.node_id):
            replica.follow(heir.node_id)
        self._cluster.remove(leaver)

    def _uncover(self, slot: int, seconds: float) -> Script:
        cluster = self._cluster
        way = self._way(slot, 0)
        if way is None:
            yield -1
            return
        number, owner, _ = way
        cluster.busy.add(number)
        for other in cluster.bus.nodes:
            other.assign(1 << number, None)
        for other in cluster.bus.nodes:
            other.is_ok = other.sees_all
        self.limits.add("uncovered")
        if not seconds:
            return
        yield seconds
        if cluster.can_write(owner) and cluster.owner(number) is None:
            owner.assign(1 << number, owner.node_id)
            cluster.truth.look(1 << number)
            cluster.bus.announce(owner)
        cluster.busy.discard(number)

    # ---- the network -----------------------------------------------------------------------------------------------

    def _isolate(self, node: int, seconds: float) -> Script:
        """Cut off from all other nodes, and not from the client."""
        name = self._master(node).program.node_id
        self.may_lose_writes = True
        self.limits.add("isolated")
        self._cluster.bus.isolated.add(name)
        yield seconds
        self._cluster.bus.isolated.discard(name)

    def _minority(self, node: int, seconds: float) -> Script:
        """The client is cut off together with one master: neither hears of the others."""
        host = self._master(node)
        name = host.program.node_id
        self.may_lose_writes = True
        self.limits.add("isolated")
        self._cluster.bus.isolated.add(name)
        others = [other for other in self._cluster.bus.hosts.values() if other is not host]
        for other in others:
            _hide(other, seconds)
        yield seconds
        self._cluster.bus.isolated.discard(name)
        for other in others:
            self._show(other)

    def _show(self, host: NodeHost) -> None:
        host.restore(self._cluster.latency)

    def _deaf(self, node: int, seconds: float) -> Script:
        name = self._any(node).program.node_id
        self.may_lose_writes = True
        self._cluster.bus.deaf.add(name)
        yield seconds
        self._cluster.bus.deaf.discard(name)

    def _blackhole(self, node: int, seconds: float) -> Script:
        host = self._any(node)
        _hide(host, seconds)
        yield seconds
        self._show(host)

    def _readdress(self, node: int, back: float) -> Script:
        host = self._master(node)
        host.kill()
        hosts = self._cluster.network.hosts
        old = host.address
        yield back
        program = host.program
        if host.up or program.node_id not in self._cluster.bus.hosts:
            return
        if hosts.get(old) is host:
            del hosts[old]
        self._cluster.move_address(program)
        hosts[program.address] = host
        self._cluster.start(program)
        self._cluster.bus.announce(program)

    def _swap(self, node: int, to: int, seconds: float) -> Script:
        """Whoever connects to the one comes to the other."""
        one = self._master(node)
        other = self._another(one.program, to)
        if other is None:
            yield -1
            return
        self._exchange(one.program, other)
        yield seconds
        self._exchange(one.program, other)

    def _exchange(self, one: Node, other: Node) -> None:
        hosts = self._cluster.network.hosts
        if one.address in hosts and other.address in hosts:
            hosts[one.address], hosts[other.address] = hosts[other.address], hosts[one.address]

    def _slow(self, node: int, delay: float, seconds: float) -> Script:
        host = self._master(node)
        host.latency = delay
        yield seconds
        host.latency = self._cluster.latency

    def _slices(self, node: int, size: int) -> Script:
        host = self._master(node)
        host.slice = size
        for wire in host.open_wires:
            wire.client_end.slice = size
        yield 1
        host.slice = None
        for wire in host.open_wires:
            wire.client_end.slice = None

    def _cut(self, node: int, size: int) -> Script:
        self._master(node).tap("SCAN", instead=Cut(size))
        yield 0

    def _silence(self, node: int, command: str) -> Script:
        self._master(node).tap(command, instead=SILENCE)
        yield 0

    def _hangup(self, node: int, command: str) -> Script:
        self._master(node).tap(command, instead=HANG_UP)
        yield 0

    def _drop(self, node: int, how: Any) -> Script:
        self._master(node).drop_clients(how)
        yield 0

    def _refuse(self, node: int, seconds: float) -> Script:
        host = self._master(node)
        host.turns_away = b"-ERR max number of clients reached\r\n"
        host.drop_clients()
        yield seconds
        host.turns_away = None

    def _busy(self, node: int, times: int, command: str) -> Script:
        host = self._master(node)
        host.tap(command, times=times, instead=Reply(Error("BUSY Redis is busy running a script.")))
        yield 0

    # ---- the tables ------------------------------------------------------------------------------------------------

    def _grow(self, node: int, keys: int) -> Script:
        cluster = self._cluster
        hot = cluster.slots_of_keys(self._master(node).program)
        owners = {
            slot: owner for slot in hot if (owner := cluster.owner(slot)) is not None and cluster.can_write(owner)
        }
        if not owners:
            yield -1
            return
        slots = sorted(owners)
        for number in range(keys):
            slot = slots[number % len(slots)]
            key = key_in(slot, b"sEcReT more %d " % len(self._more))
            self._more.append(key)
            owners[slot].put(0, key, Stored(b"more"))
            cluster.bus.wrote(owners[slot], key, Stored(b"more"))

    def _shrink(self, node: int, keys: int) -> Script:
        yield from self._grow(node, keys)
        yield 0.05
        for key in self._more:
            for master in self._cluster.masters:
                if key in master.data.get(0, {}):
                    master.put(0, key, None)
                    self._cluster.bus.wrote(master, key, None)
        self._cluster.truth.look(ALL_SLOTS)


def _hide(host: NodeHost, seconds: float) -> None:
    """The client does not reach it: what is sent comes when that is over, and nobody can connect."""
    host.vanished = True
    host.latency = seconds


def _simplest(name: str) -> dict[str, Value]:
    return {argument: values[0] for argument, values in ARGUMENTS[name].items()}
