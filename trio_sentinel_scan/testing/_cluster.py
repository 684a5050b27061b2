"""A whole cluster: masters, each with its replicas, and all that can happen to them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

import trio

from ._binary import ServerBinary
from ._certificates import Certificates
from ._cluster_node import SLOTS, LocalClusterNode, slot_of
from ._directives import Config
from ._errors import CommandFailed, PortTaken, ServerNotRunning, ServerStartFailed, ServerUnresponsive
from ._migration import SlotMigration, move_atomically
from ._redis import START_ATTEMPTS, credentials
from ._workspace import Workspace, log_tail

# A question to all takes some ten milliseconds of everybody's time.
_STEP_SECONDS = 0.02
_KEYS_PER_CONVERSATION = 20_000


class LocalCluster:
    """Masters and replicas of a cluster on free loopback ports, for the length of an ``async with`` block::

        async with LocalCluster() as cluster:
            keys = await cluster.fill(30_000)
            await cluster.migrate_slot(7, to=cluster.nodes[1])
            dead = await cluster.kill(cluster.nodes[0])
            await cluster.wait_for_new_master(dead)

    The block begins when every slot has an owner, all nodes agree about it, and every replica is linked to its master.
    Whatever happens to the block, the processes and their files are gone afterwards.

    Args:
        masters: how many masters share the slots evenly. A dead one is replaced only if the majority is left: three.
        replicas: how many replicas each master has.
        node_timeout: seconds of silence after which a node is held to be down (``cluster-node-timeout``).
        username, password, tls, config, binary, patience: as in :class:`LocalRedis`, for all nodes.
        acl: more users, as in :class:`LocalRedis`.

    Raises (on entering):
        ServerBinaryNotFound: there is no server program.
        TlsUnavailable: the server program has no TLS.
        ServerStartFailed, ServerUnresponsive: something did not start, and the message quotes its log.

    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        *,
        node_timeout: float = 2.0,
        username: str | None = None,
        password: str | None = None,
        acl: Mapping[str, str] | None = None,
        tls: Certificates | None = None,
        config: Config | None = None,
        binary: str | os.PathLike[str] | ServerBinary | None = None,
        patience: float = 30.0,
    ) -> None:
        if masters < 1 or replicas < 0:
            raise ValueError(f"a cluster needs masters >= 1 and replicas >= 0, not {masters} and {replicas}")
        self._masters, self._replicas = masters, replicas
        self._tls = tls
        self._credentials = credentials(username, password)
        self._patience = patience
        self._made = 0
        self._make_node: Callable[[int], LocalClusterNode] = lambda number: LocalClusterNode(
            number=number,
            node_timeout=node_timeout,
            config=config,
            binary=binary,
            username=username,
            password=password,
            acl=acl,
            tls=tls,
            patience=patience,
        )
        self._nodes = [self._new_node() for _ in range(masters * (1 + replicas))]
        # Each node's shard, by the name of its first master. Nobody changes it: replicas do not move by themselves.
        self._shards = {node: self._nodes[number % masters] for number, node in enumerate(self._nodes)}
        self._binary: ServerBinary | None = None
        self._workspace: Workspace | None = None
        self._entered = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a LocalCluster can be entered only once")
        self._entered = True
        self._binary = await self._nodes[0].find_binary()
        for _ in range(START_ATTEMPTS):
            workspace = self._workspace = Workspace()
            try:
                await self._start_all(workspace, self._binary)
            except PortTaken:
                # The ports are in each other's configuration: begin anew.
                await self._leave(workspace)
            except BaseException:
                await self._leave(workspace)  # noqa: ASYNC102 (it shields and bounds itself)
                raise
            else:
                return self
        await trio.lowlevel.checkpoint()
        raise ServerStartFailed(f"ports were taken by other processes, {START_ATTEMPTS} times in a row")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all processes, however the block ended."""
        await self._leave(self._owner())  # noqa: ASYNC102 (it shields and bounds itself)

    def _new_node(self) -> LocalClusterNode:
        self._made += 1
        return self._make_node(self._made)

    def _owner(self) -> Workspace:
        if self._workspace is None:
            raise ServerNotRunning("a LocalCluster can be used only inside its `async with` block")
        return self._workspace

    async def _leave(self, workspace: Workspace) -> None:
        try:
            await workspace.close()
        finally:
            self._workspace = None
            for node in self._nodes:
                node.unsettle()

    async def _start_all(self, workspace: Workspace, binary: ServerBinary) -> None:
        for node in self._nodes:
            node.settle(workspace, binary)
            await node.spawn()
        for node in self._nodes:
            await node.wait_until_ready()
        masters = self._nodes[: self._masters]
        for number, node in enumerate(masters):
            first, beyond = number * SLOTS // self._masters, (number + 1) * SLOTS // self._masters
            # Each its own epoch: otherwise they first have to settle who has which.
            await node.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            await node.take_slots(list(range(first, beyond)))
        for node in self._nodes[1:]:
            await node.execute("CLUSTER", "MEET", *masters[0].meeting_point())
        await self._wait_until("to know each other", self._find_fault_in_acquaintance)
        for number, node in enumerate(self._nodes[self._masters :]):
            await node.execute("CLUSTER", "REPLICATE", await masters[number % self._masters].node_id())
        await self.wait_until_ready()

    ################################################################
    # What it is
    ################################################################

    @property
    def nodes(self) -> list[LocalClusterNode]:
        """All nodes, in a fixed order: first those that began as masters; those that were added are the last."""
        return list(self._nodes)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The addresses of all nodes."""
        return [node.address for node in self._nodes]

    @property
    def url(self) -> str:
        """``redis+cluster://127.0.0.1:<port>,...``, or ``rediss+cluster://``, with the credentials if there are any."""
        scheme = "redis+cluster" if self._tls is None else "rediss+cluster"
        return f"{scheme}://{self._credentials}" + ",".join(f"{host}:{port}" for host, port in self.addresses)

    async def masters(self) -> list[LocalClusterNode]:
        """The nodes that call themselves masters and own slots now; those that are down or paused are left out."""
        await trio.lowlevel.checkpoint()
        return [node for node in self._answering() if (view := await node.view()).is_master and view.slots]

    async def replicas(self, master: LocalClusterNode) -> list[LocalClusterNode]:
        """The nodes that call themselves replicas of ``master`` now."""
        master_id = await master.node_id()
        return [node for node in self._answering() if (await node.view()).master_id == master_id]

    async def owner(self, slot: int) -> LocalClusterNode:
        """The master that has the slot, by its own word, of the latest config epoch.

        Waits while there is none.

        Raises:
            ServerUnresponsive: there was none within the harness's patience.

        """
        found: list[LocalClusterNode] = []

        async def find_fault() -> str | None:
            await trio.lowlevel.checkpoint()
            owners = [
                (view.config_epoch, node)
                for node in self._answering()
                if (view := await node.view()).is_master and slot in view.slots
            ]
            found[:] = [max(owners, key=lambda pair: pair[0])[1]] if owners else []
            return None if found else f"slot {slot} has no owner"

        await self._wait_until("to own a slot", find_fault)
        return found[0]

    ################################################################
    # What can be done to it
    ################################################################

    async def fill(self, n: int, prefix: str | bytes = "key:", start: int = 0, *, value: bytes = b"x") -> set[bytes]:
        """Write ``n`` keys, ``prefix`` with the numbers from ``start`` on, each to its slot's owner; return the keys.

        Returns when all replicas have them.
        """
        head = prefix.encode() if isinstance(prefix, str) else prefix
        keys = {b"%b%d" % (head, number) for number in range(start, start + n)}
        await self.write(keys, value=value)
        return keys

    async def write(self, keys: Iterable[bytes], *, value: bytes = b"x") -> None:
        """Write these keys, each to its slot's owner. Returns when all replicas have them."""
        owners = [(node, (await node.view()).slots) for node in await self.masters()]
        of_slot = {slot: node for node, slots in owners for slot in slots}
        shares: dict[LocalClusterNode, list[bytes]] = {}
        for key in keys:
            shares.setdefault(of_slot[slot_of(key)], []).append(key)
        for node, share in shares.items():
            for at in range(0, len(share), _KEYS_PER_CONVERSATION):
                await node.pipeline([("SET", key, value) for key in share[at : at + _KEYS_PER_CONVERSATION]])
        await self.wait_until_ready()

    async def begin_migration(self, slot: int, to: LocalClusterNode) -> SlotMigration:
        """Begin to move a slot in the legacy way, key by key; the rest is for the caller to do, or not.

        The slot is then MIGRATING at its owner and IMPORTING at ``to``, and stays so until
        :meth:`SlotMigration.finish` or :meth:`SlotMigration.cancel`.
        """
        migration = SlotMigration(slot, await self.owner(slot), to, self._answering)
        await migration.begin()
        return migration

    async def migrate_slot(self, slot: int, to: LocalClusterNode) -> None:
        """Move a whole slot to another master, in the legacy way."""
        migration = await self.begin_migration(slot, to)
        await migration.move()
        await migration.finish()

    async def migrate_slots_atomically(self, slots: range, to: LocalClusterNode) -> None:
        """Move slots of one owner to another master by MIGRATESLOTS, which Valkey has from 9.0 on.

        Raises:
            CommandFailed: the server has no such command, or refuses.
            ServerUnresponsive: it is not done within the harness's patience.

        """
        source = await self.owner(slots[0])
        find_fault = await move_atomically(source, slots, await to.node_id())
        await self._wait_until("to move slots", find_fault)
        await self._wait_until("to agree", self._find_fault_in_ownership)

    async def failover(self, master: LocalClusterNode) -> LocalClusterNode:
        """Let a replica of a healthy master take over (CLUSTER FAILOVER), and return it when all nodes know."""
        replica = (await self.replicas(master))[0]
        await replica.execute("CLUSTER", "FAILOVER")
        return await self._wait_for_successor(master, replica)

    async def wait_for_new_master(self, old: LocalClusterNode) -> LocalClusterNode:
        """Wait until a replica has taken the place of ``old``, and all nodes know; return it.

        Raises:
            ServerUnresponsive: there was none within the harness's patience.

        """
        return await self._wait_for_successor(old, None)

    async def kill(self, node: LocalClusterNode) -> LocalClusterNode:
        """Kill a node (SIGKILL), and return it. ``await node.start()`` brings it back, empty."""
        self._owner()
        await node.kill()
        return node

    async def add_node(self) -> LocalClusterNode:
        """A new master without slots, that all others know."""
        assert self._binary is not None
        node = self._new_node()
        self._nodes.append(node)
        self._shards[node] = node
        node.settle(self._owner(), self._binary)
        await node.spawn()
        await node.wait_until_ready()
        await node.execute("CLUSTER", "MEET", *self._answering()[0].meeting_point())
        await self._wait_until("to know each other", self._find_fault_in_acquaintance)
        # A node that has not heard yet who has which slot takes nothing in.
        await self._wait_until("to agree", self._find_fault_in_ownership)
        return node

    async def remove_node(self, node: LocalClusterNode) -> None:
        """Have all others forget a node that has no slots (any more), and stop it."""
        node_id = await node.node_id()
        if (await node.view()).slots:
            raise ValueError(f"{node!r} still has slots: move them first")
        self._nodes.remove(node)
        for other in self._answering():
            await other.execute("CLUSTER", "FORGET", node_id)
        await node.stop()
        node.unsettle()

    async def wait_until_ready(self) -> None:
        """Wait until all who are up are one cluster: every slot owned, all agree, each replica has all its master has.

        Raises:
            ServerUnresponsive: it did not come to that within the harness's patience; the message says what is missing.

        """
        await self._wait_until("to be one cluster", self._find_fault)

    ################################################################
    # What is not as it should be
    ################################################################

    def _answering(self) -> list[LocalClusterNode]:
        return [node for node in self._nodes if node.running and not node.paused]

    async def _find_fault_in_acquaintance(self) -> str | None:
        await trio.lowlevel.checkpoint()
        nodes = self._answering()
        ports = {node.port for node in nodes}
        for node in nodes:
            met = {view.port for view in (await node.views()).values() if not view.flags & {"handshake", "noaddr"}}
            if not ports <= met:
                return f"{node!r} does not know all of the others"
        return None

    async def _find_fault_in_ownership(self) -> str | None:
        """All who are up agree on who has which slot, and each slot has an owner."""
        await trio.lowlevel.checkpoint()
        found: set[tuple[tuple[str, frozenset[int]], ...]] = set()
        for node in self._answering():
            views = (await node.views()).values()
            owners = sorted((view.node_id, view.slots) for view in views if view.slots)
            if sum(len(slots) for _, slots in owners) != SLOTS:
                return f"for {node!r} some slots have no owner"
            found.add(tuple(owners))
            if (await node.cluster_info()).get("cluster_state") != "ok":
                return f"for {node!r} the cluster is not ok"
        return None if len(found) == 1 else "the nodes do not agree on the slots' owners"

    async def _find_fault(self) -> str | None:
        fault = await self._find_fault_in_ownership()
        if fault is not None:
            return fault
        for master in await self.masters():
            offset = int((await master.info("replication"))["master_repl_offset"])
            for replica in await self.replicas(master):
                info = await replica.info("replication")
                if info.get("master_link_status") != "up":
                    return f"{replica!r} is not linked to its master"
                if int(info["slave_repl_offset"]) < offset:
                    return f"{replica!r} does not have all that its master has"
        return None

    async def _wait_for_successor(self, old: LocalClusterNode, wanted: LocalClusterNode | None) -> LocalClusterNode:
        found: list[LocalClusterNode] = []

        async def find_fault() -> str | None:
            await trio.lowlevel.checkpoint()
            for node in self._answering():
                if node is old or self._shards[node] is not self._shards[old] or wanted not in {None, node}:
                    continue
                view = await node.view()
                if view.is_master and view.slots:
                    found[:] = [node]
                    return await self._find_fault_in_ownership()
            return f"nobody has taken the place of {old!r}"

        await self._wait_until("to have a new master", find_fault)
        return found[0]

    async def _wait_until(self, goal: str, find_fault: Callable[[], Awaitable[str | None]]) -> None:
        """Wait until there is no fault to be found any more."""
        self._owner()
        await trio.lowlevel.checkpoint()
        fault: str | None = None
        try:
            with trio.fail_after(self._patience):
                while True:
                    try:
                        fault = await find_fault()
                    except (ServerNotRunning, CommandFailed) as error:
                        fault = str(error)  # One that is just going down, or coming up.
                    if fault is None:
                        return
                    await trio.sleep(_STEP_SECONDS)
        except trio.TooSlowError:
            logs = "\n".join(f"{node!r} last wrote:\n{log_tail(node.log_path)}" for node in self._nodes)
            raise ServerUnresponsive(
                f"the cluster had {self._patience} seconds {goal}. What was missing: {fault}\n{logs}"
            ) from None
