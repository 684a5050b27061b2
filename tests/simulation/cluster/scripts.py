"""What befalls a cluster, each class of faults as a script.

A script is a generator: what comes before its first `yield` happens at the very moment of its trigger (in the midst of
a command that a node has got, for instance), and each `yield` is a pause in seconds. So an operator's tool works, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tests.trio.fakes.data_server import Value as Stored
from trio_sentinel_scan._core.slots import ALL_SLOTS, slot_of

from ..schedule import Value
from .hosts import NodeHost
from .keys import key_in
from .nodes import Node

if TYPE_CHECKING:
    from .deployment import SimulatedCluster

__all__ = ["ARGUMENTS", "Script", "Scripts"]

Script: TypeAlias = Iterator[float]

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
    "snapshot": {"node": (0, 1, 2), "pause": (0.3, 1.0), "seconds": (1.0, 5.0, 12.0)},
    "swap": {"node": (0, 1, 2), "to": (1, 2), "seconds": (0.5, 3.0)},
    "slow": {"node": (0, 1, 2), "delay": (0.05, 0.3), "seconds": (2.0, 5.0)},
    "slices": {"node": (0, 1, 2), "size": (5, 40, 200)},
    "cut": {"node": (0, 1, 2), "size": (1, 20, 90)},
    "silence": {"node": (0, 1, 2), "command": ("SCAN", "CLUSTER", "INCRBY")},
    "hangup": {"node": (0, 1, 2), "command": ("SCAN", "CLUSTER", "ROLE", "INCRBY")},
    "drop": {"node": (0, 1, 2), "how": ("end", "pipe", "reset")},
    "refuse": {"node": (0, 1, 2), "seconds": (0.5, 3.0)},
    "busy": {"node": (0, 1, 2), "times": (1, 5), "command": ("SCAN", "CLUSTER")},
    "grow": {"node": (0, 1, 2), "keys": (60, 150)},
    "shrink": {"node": (0, 1, 2), "keys": (60, 150)},
}


class Scripts:
    """Each method is a class of faults; -1 in place of the first pause says that there was nothing to befall."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        # What may lose what a client was told is done, by the server's own fault.
        self.may_lose_writes = False
        # What the oracle's limits are about: what happened of it.
        self.limits: set[str] = set()
        # The keys that were written, in order.
        self._more: list[bytes] = []

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
        cluster = self._cluster
        replicas = [one for one in cluster.bus.nodes if not one.is_master]
        if not replicas:
            yield -1
            return
        replica = replicas[node % len(replicas)]
        master = cluster.bus.hosts.get(replica.me.master_id or "")
        if not cluster.bus.hand_over(replica):
            yield -1
            return
        if master is not None and not cluster.flavour.keeps_flags:
            # Its flags are gone: whoever comes by ASK is sent away, and what is at the target counts for nothing.
            cluster.torn.update(master.program.migrating, master.program.importing)

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
        self._cluster.torn.add(number)
        self._cluster.call_off(number, (source, target))
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
            self._cluster.torn.add(number)
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
        if not cluster.agree(slots, source, target):
            yield -1
            return
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
            other.is_ok = other.is_ok and other.sees_all
        cluster.truth.look(1 << number)
        self.limits.add("uncovered")
        if not seconds:
            return
        yield seconds
        if cluster.can_write(owner) and cluster.owner(number) is None:
            owner.assign(1 << number, owner.node_id)
            cluster.truth.look(1 << number)
            cluster.bus.announce(owner)
        cluster.busy.discard(number)

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
            self._write_at(owners[slot], slot)

    def _write_at(self, node: Node, slot: int) -> None:
        """One more key."""
        key = key_in(slot, b"sEcReT more %d " % len(self._more))
        self._more.append(key)
        node.put(0, key, Stored(b"more"))
        self._cluster.bus.wrote(node, key, Stored(b"more"))

    def _shrink(self, node: int, keys: int) -> Script:
        yield from self._grow(node, keys)
        yield 0.05
        for key in self._more:
            for master in self._cluster.masters:
                if key in master.data.get(0, {}):
                    master.put(0, key, None)
                    self._cluster.bus.wrote(master, key, None)
        self._cluster.truth.look(ALL_SLOTS)
