"""What the masters of a cluster say of themselves and of each other (CLUSTER NODES): what a scan may rest on.

That a slot is on its way is told only by the two nodes concerned, each for itself; so all masters are asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from .cluster_map import ClusterNode
from .identity import Address
from .slots import SLOTS, SlotSet, set_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NodeAccount", "Survey", "read_nodes"]

_DOWN: Final = frozenset({"fail", "noaddr", "handshake"})


@dataclass(frozen=True, slots=True)
class NodeLine:
    """One node as another one (or itself) sees it."""

    node: ClusterNode
    flags: frozenset[str]
    # The name of its master; None for a master.
    master_id: str | None
    config_epoch: int
    slots: SlotSet = field(repr=False)

    @property
    def is_master(self) -> bool:
        """Whether it is taken for a master that is not known to be down."""
        return "master" in self.flags and not self.flags & _DOWN

    @property
    def is_down(self) -> bool:
        """Whether it is known to be down, or not known yet."""
        return bool(self.flags & _DOWN)


@dataclass(frozen=True, slots=True)
class NodeAccount:
    """What one node says."""

    node_id: str
    # When it was asked, in seconds on the client's clock.
    asked_at: float
    # All nodes, itself too, by name.
    lines: Mapping[str, NodeLine]
    # Its own slots that are on their way to another master, and those that are on their way here: the other one's name.
    migrating: Mapping[int, str]
    importing: Mapping[int, str]
    # By CLUSTER INFO: "ok" if it serves its slots.
    state: str = ""

    @property
    def myself(self) -> NodeLine:
        """Itself."""
        return self.lines[self.node_id]


@dataclass(frozen=True, slots=True)
class Survey:
    """What all masters that could be asked said, at about the same time."""

    # Nobody was asked before this time.
    began_at: float
    accounts: Mapping[str, NodeAccount]
    # Those that could not be asked, and why.
    silent: Mapping[str, str]


def read_nodes(reply: str, asked: Address, asked_at: float, *, state: str = "") -> NodeAccount:
    """CLUSTER NODES as the node at the address `asked` has answered it. Raises ValueError if it makes no sense."""
    lines: dict[str, NodeLine] = {}
    me = ""
    migrating: dict[int, str] = {}
    importing: dict[int, str] = {}
    try:
        for text in reply.splitlines():
            node_id, where, flags, master, _, _, epoch, _, *ranges = text.split()
            line = NodeLine(
                ClusterNode(node_id, _address(where, asked)),
                frozenset(flags.split(",")),
                None if master == "-" else master,
                int(epoch),
                set_of(_bounds(one) for one in ranges if not one.startswith("[")),
            )
            lines[node_id] = line
            if "myself" in line.flags:
                me = node_id
                for one in ranges:
                    if one.startswith("["):
                        _read_move(one.strip("[]"), migrating, importing)
    except (IndexError, ValueError) as error:
        raise _senseless(error) from None
    if not me:
        raise ValueError("a reply to CLUSTER NODES does not say which of them has answered")
    return NodeAccount(me, asked_at, lines, migrating, importing, state)


def _address(text: str, asked: Address) -> Address:
    # host:port@bus[,hostname[,more]]; a node that has not heard its own address yet writes ":port".
    where, _, names = text.partition(",")
    host, _, port = where.partition("@")[0].rpartition(":")
    hostname = names.partition(",")[0]
    host = host.strip("[]") or hostname or asked.host
    # (One that cannot be reached at present has the port 0, which would make a Unix socket of a path.)
    if not 0 <= int(port) < 65536 or host.startswith("/"):
        raise ValueError("an address that cannot be")
    return Address(host, int(port))


def _bounds(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    bounds = int(first), int(last or first)
    if not 0 <= bounds[0] <= bounds[1] < SLOTS:
        raise ValueError
    return bounds


def _read_move(text: str, migrating: dict[int, str], importing: dict[int, str]) -> None:
    slot, arrow, other = text.partition("->-")
    if arrow:
        migrating[_bounds(slot)[0]] = other
        return
    slot, arrow, other = text.partition("-<-")
    if not arrow:
        raise ValueError
    importing[_bounds(slot)[0]] = other


def _senseless(error: Exception) -> ValueError:
    return ValueError(f"a reply to CLUSTER NODES makes no sense ({type(error).__name__})")
