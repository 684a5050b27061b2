"""What befalls the connections between a client and the nodes, and the nodes among themselves."""

from __future__ import annotations

from typing import Any

from tests.trio.fakes.network import HANG_UP, SILENCE, Cut, Reply
from tests.trio.fakes.resp import Error

from .hosts import NodeHost
from .nodes import Node
from .scripts import Script, Scripts

__all__ = ["AllScripts"]


class AllScripts(Scripts):
    """All of them."""

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

    def _snapshot(self, node: int, pause: float, seconds: float) -> Script:
        """Clients that connect to a node come to its machine as it was a while ago. No other node hears of that one.

        The node has drawn a later config epoch since, and most masters know that: else nobody could tell the two apart.
        (So there is one such machine at a time: two of three masters would be right about each other.)
        """
        cluster = self._cluster
        masters = [one for one in cluster.masters if cluster.can_write(one) and cluster.slots_of_keys(one)]
        latest = max((peer.config_epoch for one in masters for peer in one.peers.values()), default=0)
        masters = [one for one in masters if one.me.config_epoch < latest]
        if not masters:
            yield -1
            return
        now = masters[node % len(masters)]
        old = now.snapshot()
        now.bump()
        cluster.bus.announce(now)
        for slot in cluster.slots_of_keys(now):
            self._write_at(now, slot)
        yield pause
        said = [one.peers.get(now.node_id) for one in cluster.masters if one.slots]
        know = sum(peer is not None and peer.config_epoch > old.me.config_epoch for peer in said)
        hosts = cluster.network.hosts
        host = cluster.bus.hosts.get(now.node_id)
        is_in_its_place = hosts.get(old.address) is host
        is_alone = all(one is cluster.bus.hosts.get(one.program.node_id) for one in hosts.values() if one.up)
        if host is None or not is_in_its_place or not is_alone or (know - 1) * 2 < len(said):
            return
        self.may_lose_writes = True
        self.limits.add("snapshot")
        stand_in = hosts[old.address] = NodeHost(cluster.network.nursery, old)
        stand_in.latency = cluster.latency
        host.drop_clients()
        yield seconds
        stand_in.kill()
        for address in [address for address, one in hosts.items() if one is stand_in]:
            hosts[address] = host

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


def _hide(host: NodeHost, seconds: float) -> None:
    """The client does not reach it: what is sent comes when that is over, and nobody can connect."""
    host.vanished = True
    host.latency = seconds
