"""What the nodes of a cluster say of it and of each other, and where they do not agree.

The functions whose names begin with ``find_fault`` answer None when all is well, and else say what is not, for
whoever waits for it and for the message when the wait was in vain. They are asked of nodes that can answer; what
those hold a node to be that cannot is nobody's fault.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import trio

from ._cluster_node import SLOTS, LocalClusterNode, NodeView


async def find_fault_in_acquaintance(nodes: Sequence[LocalClusterNode]) -> str | None:
    """Say who does not know all of the others yet."""
    await trio.lowlevel.checkpoint()
    ports = {node.port for node in nodes}
    for node in nodes:
        met = {view.port for view in (await node.views()).values() if not view.flags & {"handshake", "noaddr"}}
        if not ports <= met:
            return f"{node!r} does not know all of the others"
    return None


async def find_fault_in_agreement(nodes: Sequence[LocalClusterNode], uncovered: Collection[int]) -> str | None:
    """Say what keeps all from agreeing on who has which slot, and who is a master or whose replica.

    `uncovered`: the slots that are to have no owner.
    """
    await trio.lowlevel.checkpoint()
    views: dict[str, Mapping[str, NodeView]] = {}
    for node in nodes:
        views[repr(node)] = await node.views()
        # With a slot that nobody has, what a node makes of it is a matter of its configuration.
        if not uncovered and (await node.cluster_info()).get("cluster_state") != "ok":
            return f"for {node!r} the cluster is not ok"
    return find_fault_in_slots(views, SLOTS - len(uncovered)) or find_fault_in_roles(views)


def find_fault_in_slots(views: Mapping[str, Mapping[str, NodeView]], covered: int) -> str | None:
    """Say where the nodes' views (by the node's name, and by the id of whom it sees) differ on the slots' owners."""
    found: set[tuple[tuple[str, frozenset[int]], ...]] = set()
    for name, seen in views.items():
        owners = sorted((view.node_id, view.slots) for view in seen.values() if view.slots)
        if sum(len(slots) for _, slots in owners) != covered:
            return f"for {name} not {covered} slots have an owner"
        found.add(tuple(owners))
    return None if len(found) == 1 else "the nodes do not agree on the slots' owners"


def find_fault_in_roles(views: Mapping[str, Mapping[str, NodeView]]) -> str | None:
    """Say who takes one of these nodes for something else than that one does itself.

    (Slots alone do not show it: who has not heard yet that a node is a replica takes it for a master without any.)
    """
    selves = [view for seen in views.values() for view in seen.values() if "myself" in view.flags]
    for name, seen in views.items():
        for truth in selves:
            view = seen.get(truth.node_id)
            if view is None or view.flags & {"fail", "fail?", "handshake", "noaddr"}:
                return f"{name} does not see {truth.node_id}"
            if (view.is_master, view.master_id) != (truth.is_master, truth.master_id):
                return f"{name} does not know yet whether {truth.node_id} is a master, or whose replica"
    return None


async def find_fault_in_replication(
    masters: Sequence[LocalClusterNode], nodes: Sequence[LocalClusterNode]
) -> str | None:
    """Say which replica of these masters is not linked to it, or does not have all that it has."""
    await trio.lowlevel.checkpoint()
    followed = [(node, (await node.view()).master_id) for node in nodes]
    for master in masters:
        master_id = await master.node_id()
        offset = int((await master.info("replication"))["master_repl_offset"])
        for replica in [node for node, its_master in followed if its_master == master_id]:
            info = await replica.info("replication")
            if info.get("master_link_status") != "up":
                return f"{replica!r} is not linked to its master"
            if int(info["slave_repl_offset"]) < offset:
                return f"{replica!r} does not have all that its master has"
    return None
