"""Who has which slot, as one node of a cluster tells it: CLUSTER SHARDS, or CLUSTER SLOTS on servers before 7.0.

It is where commands are sent, and no more than that: it may be old, and a node that is not the owner says so (MOVED).
What a scan rests on is what all masters say of themselves: `cluster_survey`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from .identity import Address
from .replies import as_list, as_port, as_text, printable
from .slots import ALL_SLOTS, NO_SLOTS, SLOTS, SlotSet, describe_slots, set_of, slots_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ClusterMap", "ClusterNode", "Shard", "read_shards", "read_slots"]

# What a node says in place of an address that it does not know.
_UNKNOWN: Final = frozenset({"", "?"})


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node: its name in the cluster, which it keeps through restarts, and where it announces to be."""

    # "" where only an address is known: a redirection named it.
    node_id: str
    address: Address

    def __str__(self) -> str:
        return f"{self.address} (node {printable(self.node_id[:8]) or 'unknown'})"


@dataclass(frozen=True, slots=True)
class Shard:
    """A master with its slots, and its replicas."""

    master: ClusterNode
    slots: SlotSet
    replicas: tuple[ClusterNode, ...] = ()

    def __repr__(self) -> str:
        # (The set as a number would have five thousand digits: more than Python writes, which raises ValueError.)
        return f"<Shard of {self.master} with {describe_slots(self.slots)}, {len(self.replicas)} replicas>"


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """The shards that own slots. Never changes: news is another map, with a higher `version`."""

    shards: tuple[Shard, ...]
    # Grows by one with each map of a client.
    version: int = 0
    # Slot -> shard; None for a slot without an owner.
    _by_slot: tuple[Shard | None, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_slot: list[Shard | None] = [None] * SLOTS
        for shard in self.shards:
            bits = format(shard.slots, f"0{SLOTS}b")[::-1]
            at = bits.find("1")
            while at != -1:
                end = bits.find("0", at)
                end = SLOTS if end == -1 else end
                by_slot[at:end] = [shard] * (end - at)
                at = bits.find("1", end)
        object.__setattr__(self, "_by_slot", tuple(by_slot))

    def shard_of(self, slot: int) -> Shard | None:
        """The shard that has the slot; None if nobody has."""
        return self._by_slot[slot]

    def owner(self, slot: int) -> ClusterNode | None:
        """The master that has the slot; None if nobody has."""
        shard = self._by_slot[slot]
        return None if shard is None else shard.master

    @property
    def masters(self) -> tuple[ClusterNode, ...]:
        """The masters that own slots."""
        return tuple(shard.master for shard in self.shards)

    @property
    def nodes(self) -> tuple[ClusterNode, ...]:
        """Masters, and then replicas."""
        return (*self.masters, *(replica for shard in self.shards for replica in shard.replicas))

    @property
    def uncovered(self) -> SlotSet:
        """The slots without an owner."""
        owned = NO_SLOTS
        for shard in self.shards:
            owned |= shard.slots
        return ALL_SLOTS & ~owned

    def at(self, address: Address) -> ClusterNode | None:
        """The node at an announced address."""
        return next((node for node in self.nodes if node.address == address), None)

    def named(self, node_id: str) -> ClusterNode | None:
        """The node of this name."""
        return next((node for node in self.nodes if node.node_id == node_id), None)

    def ownership(self) -> dict[Address, SlotSet]:
        """Who has which slots, and nothing else."""
        return {shard.master.address: shard.slots for shard in self.shards}

    def successor(self, shard: Shard) -> ClusterNode | None:
        """Who is the master now of what was this shard, wherever its slots went; None if there is nobody.

        The same node, or one that was its replica, or the one whose replica it is. If none of them is a master, the
        owner of its first slot: the slots went to others, and it has left.
        """
        masters = {node.address: node for node in self.masters}
        for node in (shard.master, *shard.replicas):
            if node.address in masters:
                return masters[node.address]
        for other in self.shards:
            if any(replica.address == shard.master.address for replica in other.replicas):
                return other.master
        return self.owner(next(slots_in(shard.slots)))

    def is_same(self, other: ClusterMap) -> bool:
        """Whether another map says the same."""
        return set(self.shards) == set(other.shards)

    def moved(self, slot: int, owner: ClusterNode) -> ClusterMap:
        """As a redirection has it: this slot has this owner now. The same map if that is known."""
        if (present := self.owner(slot)) is not None and present.address == owner.address:
            return self
        this = 1 << slot
        shards = [Shard(shard.master, shard.slots & ~this, shard.replicas) for shard in self.shards]
        for number, shard in enumerate(shards):
            if shard.master.address == owner.address:
                shards[number] = Shard(shard.master, shard.slots | this, shard.replicas)
                break
        else:
            shards.append(Shard(owner, this))
        return ClusterMap(tuple(shard for shard in shards if shard.slots), self.version + 1)


def read_shards(reply: object, asked: Address, *, tls: bool) -> tuple[Shard, ...]:
    """CLUSTER SHARDS as the node at the address `asked` has answered it. Raises ValueError if it makes no sense."""
    try:
        return _joined(_read_shard(_fields(entry), asked, tls=tls) for entry in _listed(reply))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _senseless("CLUSTER SHARDS", error) from None


def _read_shard(entry: Mapping[str, Any], asked: Address, *, tls: bool) -> tuple[SlotSet, list[tuple[bool, Any]]]:
    bounds = [_slot(bound) for bound in _listed(entry["slots"])]
    nodes: list[tuple[bool, ClusterNode]] = []
    for node in map(_fields, _listed(entry["nodes"])):
        port = node["tls-port"] if tls and "tls-port" in node else node.get("port")
        # (Port 0: a node of which the one that was asked has no address.)
        if as_text(node.get("health", "online")) == "fail" or port is None or as_text(port) == "0":
            continue
        host = _host(node.get("endpoint"), node.get("ip"), asked)
        is_master = as_text(node["role"]) == "master"
        nodes.append((is_master, ClusterNode(as_text(node["id"]), Address(host, as_port(port)))))
    return set_of(zip(bounds[::2], bounds[1::2], strict=True)), nodes


def read_slots(reply: object, asked: Address) -> tuple[Shard, ...]:
    """CLUSTER SLOTS, in the same way. (The ports in it are those of the kind of connection that it was asked over.)"""
    try:
        return _joined(_read_slot_range(_listed(entry), asked) for entry in _listed(reply))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _senseless("CLUSTER SLOTS", error) from None


def _read_slot_range(entry: list[Any], asked: Address) -> tuple[SlotSet, list[tuple[bool, Any]]]:
    first, last, *nodes = entry
    found: list[tuple[bool, ClusterNode]] = []
    for number, node in enumerate(map(_listed, nodes)):
        if as_text(node[1]) == "0":
            continue
        more = _fields(node[3]) if len(node) > 3 else {}
        name = as_text(node[2]) if len(node) > 2 else ""
        found.append((number == 0, ClusterNode(name, Address(_host(node[0], more.get("ip"), asked), as_port(node[1])))))
    return set_of([(_slot(first), _slot(last))]), found


def _joined(parts: Iterable[tuple[SlotSet, list[tuple[bool, Any]]]]) -> tuple[Shard, ...]:
    """One shard for each master that has slots. Where two lists name the same one, it has the slots of both."""
    slots_of: dict[ClusterNode, SlotSet] = {}
    replicas_of: dict[ClusterNode, dict[ClusterNode, None]] = {}
    for slots, nodes in parts:
        master = next((node for is_master, node in nodes if is_master), None)
        if not slots or master is None:
            # A master without slots serves nobody; slots without a master have no owner.
            continue
        slots_of[master] = slots_of.get(master, NO_SLOTS) | slots
        replicas_of.setdefault(master, {}).update((node, None) for is_master, node in nodes if not is_master)
    return tuple(Shard(master, slots, tuple(replicas_of[master])) for master, slots in slots_of.items())


def _host(preferred: object, ip: object, asked: Address) -> str:
    """Where a node says that it is: nothing at all means the host that was asked (cluster-preferred-endpoint-type)."""
    if preferred is None:
        return asked.host
    for host in (preferred, ip):
        if host is not None and (text := as_text(host)) not in _UNKNOWN:
            return text
    return asked.host


def _slot(value: object) -> int:
    slot = int(as_text(value))
    if not 0 <= slot < SLOTS:
        raise ValueError(slot)
    return slot


def _listed(reply: object) -> list[Any]:
    found = as_list(reply)
    if found is None:
        raise TypeError
    return found


def _fields(reply: object) -> dict[str, Any]:
    """Names and values, as a map (RESP3) or a flat list (RESP2)."""
    if isinstance(reply, dict):
        return {as_text(name): value for name, value in cast("dict[object, Any]", reply).items()}
    flat = _listed(reply)
    return {as_text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _senseless(command: str, error: Exception) -> ValueError:
    return ValueError(f"a reply to {command} makes no sense ({type(error).__name__})")
