"""Who the master is, and what is not as it should be, asked of the processes themselves.

The functions whose names begin with ``find_fault`` answer None when all is well, and else say what is not, for
whoever waits for it and for the message when the wait was in vain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import trio

from ._errors import CommandFailed
from ._redis import LocalRedis
from ._sentinel_node import Address, LocalSentinelNode
from ._server import LocalServer
from ._wire import within_a_second


def can_answer(server: LocalServer) -> bool:
    """Whether there is any use in asking the server."""
    return server.running and not server.paused


async def find_master(nodes: Sequence[LocalRedis], sentinels: Sequence[LocalSentinelNode]) -> LocalRedis | None:
    """Find the node that the majority of the Sentinels that can answer names, and that says so itself.

    The majority alone may be talking of a node that has died since; the node alone may be an old master that
    nobody has told yet. Without any Sentinel the one node that calls itself master is believed.
    """
    votes: Counter[Address] = Counter()
    voters = [sentinel for sentinel in sentinels if can_answer(sentinel)]
    for sentinel in voters:
        named = await within_a_second(sentinel.master_address)
        if named is not None:
            votes[named] += 1
    masters = [
        node
        for node in nodes
        if (not voters or 2 * votes[node.address] > len(voters)) and await find_role(node) == "master"
    ]
    await trio.lowlevel.checkpoint()
    return masters[0] if len(masters) == 1 else None


async def find_role(node: LocalRedis) -> str | None:
    """What the node says that it is; None if it cannot say."""
    await trio.lowlevel.checkpoint()
    return await within_a_second(node.role) if can_answer(node) else None


async def find_fault_in_service(nodes: Sequence[LocalRedis], sentinels: Sequence[LocalSentinelNode]) -> str | None:
    """Say what keeps those who are up from being one service, ready to fail over at once."""
    master = await find_master(nodes, sentinels)
    if master is None:
        return "there is no master that a majority of the Sentinels and itself agree upon"
    replicas = [node for node in nodes if node is not master and can_answer(node)]
    fault = await find_fault_in_links(master, replicas)
    if fault is not None:
        return fault
    watching = [sentinel for sentinel in sentinels if can_answer(sentinel)]
    for sentinel in watching:
        fault = await sentinel.find_fault(
            master.address,
            [replica.address for replica in replicas],
            [other.address for other in watching if other is not sentinel],
        )
        if fault is not None:
            return f"{sentinel!r}: {fault}"
    return None


async def find_fault_in_links(
    master: LocalRedis, replicas: Sequence[LocalRedis], offset: int | None = None
) -> str | None:
    """Say which replica is not linked to the master, or has not yet processed its stream up to ``offset``."""
    for replica in replicas:
        info = await replica.info("replication")
        linked = (
            info.get("role") == "slave"
            and info.get("master_port") == str(master.port)
            and info.get("master_link_status") == "up"
            and info.get("master_sync_in_progress") == "0"
        )
        if not linked:
            return f"{replica!r} is not linked to {master!r}"
        if offset is not None and int(info.get("slave_repl_offset", "0")) < offset:
            return f"{replica!r} has not caught up with {master!r}"
    await trio.lowlevel.checkpoint()
    return None


async def ask_for_failover(sentinels: Sequence[LocalSentinelNode]) -> str | None:
    """Ask a Sentinel to fail over, and say why it does not; None if it does."""
    await trio.lowlevel.checkpoint()
    watching = [sentinel for sentinel in sentinels if can_answer(sentinel)]
    for sentinel in watching:
        # Only the Sentinel that leads a failover refuses to begin another one beside it.
        if await sentinel.is_failing_over():
            return f"{sentinel!r} sees a failover under way"
    for sentinel in watching:
        try:
            await sentinel.begin_failover()
        except CommandFailed as error:
            return error.reply
        return None
    return "there is no Sentinel to ask"
