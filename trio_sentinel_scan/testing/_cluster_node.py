"""One node of a cluster, and what it says of the cluster and of itself."""

from __future__ import annotations

import binascii
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from ._binary import ServerBinary
from ._certificates import Certificates
from ._directives import Config, Directive
from ._members import DataMember
from ._ports import take_port
from ._wire import Argument, text

SLOTS = 16_384
# How far above a node's port its bus has to be, on servers that do not let it be chosen.
_BUS_ABOVE = 10_000
# As an argument of one command, slot by slot.
_SLOTS_PER_COMMAND = 4_096


def slot_of(key: bytes) -> int:
    """The slot of a key: CRC16 of it, or of what stands between the first brace and the next closing one."""
    start = key.find(b"{")
    if start != -1:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class NodeView:
    """One line of CLUSTER NODES: a node as another one (or itself) sees it."""

    node_id: str
    port: int
    flags: frozenset[str]
    master_id: str | None
    config_epoch: int
    link: str
    slots: frozenset[int]
    # Only in the line of the node that was asked: the slots that it is giving away or taking, and the other side.
    migrating: dict[int, str]
    importing: dict[int, str]

    @property
    def is_master(self) -> bool:
        """Whether it is taken for a master that is alive."""
        return "master" in self.flags and not self.flags & {"fail", "fail?", "noaddr", "handshake"}


def read_nodes(reply: str) -> dict[str, NodeView]:
    """CLUSTER NODES, by node id."""
    return {view.node_id: view for view in map(_read_node, reply.splitlines())}


def _read_node(line: str) -> NodeView:
    node_id, address, flags, master, _, _, epoch, link, *ranges = line.split()
    slots: set[int] = set()
    migrating: dict[int, str] = {}
    importing: dict[int, str] = {}
    for words in ranges:
        if words.startswith("["):
            slot, arrow, other = words[1:-1].partition("->-")
            if arrow:
                migrating[int(slot)] = other
            else:
                slot, _, other = words[1:-1].partition("-<-")
                importing[int(slot)] = other
        else:
            first, _, last = words.partition("-")
            slots.update(range(int(first), int(last or first) + 1))
    return NodeView(
        node_id=node_id,
        port=int(address.partition("@")[0].rpartition(":")[2]),
        flags=frozenset(flags.split(",")),
        master_id=None if master == "-" else master,
        config_epoch=int(epoch),
        link=link,
        slots=frozenset(slots),
        migrating=migrating,
        importing=importing,
    )


class LocalClusterNode(DataMember):
    """A node of a :class:`LocalCluster`. Users get instances, and make none."""

    def __init__(
        self,
        *,
        number: int,
        node_timeout: float,
        config: Config | None,
        binary: str | os.PathLike[str] | ServerBinary | None,
        username: str | None,
        password: str | None,
        acl: Mapping[str, str] | None,
        tls: Certificates | None,
        patience: float,
    ) -> None:
        super().__init__(
            config=config,
            binary=binary,
            username=username,
            password=password,
            acl=acl,
            tls=tls,
            patience=patience,
        )
        self._name = f"node {number}"
        self._node_timeout = node_timeout
        # Where the nodes talk to each other, on servers that let it be chosen.
        self._bus_port: int | None = None
        # Where the others find it instead, if that is another port.
        self._announced_bus_port: int | None = None

    async def node_id(self) -> str:
        """Its name in the cluster, which it keeps through restarts."""
        return text(await self.execute("CLUSTER", "MYID"))

    async def views(self) -> dict[str, NodeView]:
        """All nodes as this one sees them, by node id."""
        return read_nodes(text(await self.execute("CLUSTER", "NODES")))

    async def view(self) -> NodeView:
        """Itself as it sees itself."""
        return next(view for view in (await self.views()).values() if "myself" in view.flags)

    async def cluster_info(self) -> dict[str, str]:
        """CLUSTER INFO, as a dictionary of texts."""
        lines = text(await self.execute("CLUSTER", "INFO")).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    async def take_slots(self, slots: list[int]) -> None:
        """Make it the owner of slots that nobody has."""
        await trio.lowlevel.checkpoint()
        for at in range(0, len(slots), _SLOTS_PER_COMMAND):
            some: list[Argument] = list(slots[at : at + _SLOTS_PER_COMMAND])
            await self.execute("CLUSTER", "ADDSLOTS", *some)

    async def give_up_slots(self, slots: list[int]) -> None:
        """Have it forget who has these slots, be it itself or another."""
        await trio.lowlevel.checkpoint()
        for at in range(0, len(slots), _SLOTS_PER_COMMAND):
            some: list[Argument] = list(slots[at : at + _SLOTS_PER_COMMAND])
            await self.execute("CLUSTER", "DELSLOTS", *some)

    def login_of_peers(self) -> tuple[str, ...]:
        """The words by which MIGRATE logs in at another node."""
        if self._password is None:
            return ()
        return ("AUTH", self._password) if self._username is None else ("AUTH2", self._username, self._password)

    def meeting_point(self) -> tuple[str, int, int]:
        """Host, port and bus port, as CLUSTER MEET wants them."""
        return self.host, self.port, self._announced_bus_port or self.bus_port

    @property
    def bus_port(self) -> int:
        """Where it listens for the other nodes."""
        return self.port + _BUS_ABOVE if self._bus_port is None else self._bus_port

    def announce_bus(self, port: int) -> None:
        """Have the others find its bus at this port, from its first start on."""
        self._announced_bus_port = port

    def unsettle(self) -> None:
        """Give back what its workspace does not own."""
        super().unsettle()
        self._bus_port = self._announced_bus_port = None

    def _reserve(self, binary: ServerBinary) -> int:
        if binary.product == "valkey" or binary.version_info >= (7,):
            self._bus_port = take_port()
            self._reserved.append(self._bus_port)
            return super()._reserve(binary)
        port = take_port(and_above=_BUS_ABOVE)
        self._reserved += port, port + _BUS_ABOVE
        return port

    def _directives(self, _binary: ServerBinary, directory: Path, port: int) -> Iterator[Directive]:
        yield "cluster-enabled", "yes"
        yield "cluster-config-file", "nodes.conf"
        yield "cluster-node-timeout", str(round(1000 * self._node_timeout))
        # A replica is to stand for election however long it has been out of touch.
        yield "cluster-replica-validity-factor", "0"
        # Nobody moves to a master without replicas behind the test's back.
        yield "cluster-migration-barrier", "100"
        if self._bus_port is not None:
            yield "cluster-port", str(self._bus_port)
        if self._announced_bus_port is not None:
            yield "cluster-announce-bus-port", str(self._announced_bus_port)
        if self._tls is not None:
            yield "tls-cluster", "yes"
        yield from super()._directives(_binary, directory, port)
