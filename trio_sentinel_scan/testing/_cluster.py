"""A whole cluster: masters, each with its replicas, and all that can happen to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import trio

from ._agreement import can_answer
from ._binary import ServerBinary
from ._certificates import Certificates
from ._cluster_agreement import find_fault_in_acquaintance, find_fault_in_agreement, find_fault_in_replication
from ._cluster_node import SLOTS, LocalClusterNode
from ._cluster_slots import even_share, find_fault_in_forgetting, keys_by_owner, owners_by, slots_by_owner
from ._directives import Config
from ._ensemble import Ensemble
from ._migration import SlotMigration, move_atomically, move_in_bulk
from ._partition import Partition
from ._redis import credentials
from ._workspace import Workspace

_KEYS_PER_CONVERSATION = 20_000


class LocalCluster(Ensemble):
    """Masters and replicas of a cluster on free loopback ports, for the length of an ``async with`` block::

        async with LocalCluster() as cluster:
            keys = await cluster.fill(30_000)
            await cluster.migrate_slot(7, to=cluster.nodes[1])
            dead = await cluster.kill(cluster.nodes[0])
            await cluster.wait_for_new_master(dead)

    The block begins when every slot has an owner, all nodes agree about it and about who is whose replica, and every
    replica is linked to its master.
    Whatever happens to the block, the processes and their files are gone afterwards.

    Args:
        masters: how many masters share the slots evenly. A dead one is replaced only if the majority is left: three.
        replicas: how many replicas each master has.
        node_timeout: seconds of silence after which a node is held to be down (``cluster-node-timeout``).
        partitions: whether :meth:`isolate` is to be possible; the nodes then talk to each other through one process
            more. It cannot be had with ``tls``.
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
        partitions: bool = False,
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
        if partitions and tls is not None:
            raise ValueError("partitions= cannot be had with tls=: who talks to whom on the bus is read in clear")
        super().__init__(name="the cluster", patience=patience)
        self._masters, self._replicas = masters, replicas
        self._tls = tls
        self._credentials = credentials(username, password)
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
        self._wants_partition = partitions
        self._partition: Partition | None = None
        # Those that the others cannot hear; nobody counts on them.
        self._isolated: set[LocalClusterNode] = set()
        # Those that are to have no owner: a cluster in which they have none is as it should be.
        self._uncovered: set[int] = set()

    def _new_node(self) -> LocalClusterNode:
        self._made += 1
        return self._make_node(self._made)

    def _members(self) -> Sequence[LocalClusterNode]:
        return self._nodes

    async def _find_binary(self) -> ServerBinary:
        return await self._nodes[0].find_binary()

    async def _leave(self, workspace: Workspace) -> None:
        try:
            await super()._leave(workspace)
        finally:
            if self._partition is not None:
                self._partition.release()
                self._partition = None

    async def _start_all(self, workspace: Workspace, binary: ServerBinary) -> None:
        self._binary = binary
        if self._wants_partition:
            self._partition = await Partition.open(workspace, self._patience)
        for node in self._nodes:
            await self._begin(node)
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

    async def _begin(self, node: LocalClusterNode) -> None:
        """Start a new node's process."""
        assert self._binary is not None
        node.settle(self._owner(), self._binary)
        if self._partition is not None:
            await self._partition.lead_through(node)
        await node.spawn()

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
        """The nodes that call themselves masters and own slots now, without those that are down, paused or cut off."""
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
        owners = await owners_by(await self.masters())
        for node, share in keys_by_owner(owners, keys).items():
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

    async def migrate_slots(self, slots: Iterable[int], to: LocalClusterNode) -> None:
        """Move many slots to another master, in the legacy way and all at once: a thousand in a second or so.

        They may have several owners. All masters know of it in the end.
        """
        masters = await self.masters()
        shares = slots_by_owner(await owners_by(masters), slots)
        for source, share in shares.items():
            if source is not to:
                await move_in_bulk(share, source, to, [node for node in masters if node not in {source, to}])

    async def rebalance_to(self, node: LocalClusterNode) -> list[int]:
        """Give a master that has no slots, or few, its even share, as :meth:`migrate_slots` does; return what it got.

        Each of the others gives what it has beyond that share, its last slots.
        """
        moved = even_share(await owners_by(await self.masters()), node)
        await self.migrate_slots(moved, node)
        return moved

    async def uncover(self, slots: Collection[int]) -> None:
        """Take slots away from their owners (CLUSTER DELSLOTS at all nodes). Their keys stay where they are.

        Unless ``cluster-require-full-coverage`` is ``no``, nodes then answer no command with a key, whatever its slot.
        """
        self._uncovered.update(slots)

        async def find_fault() -> str | None:
            return await find_fault_in_forgetting(await self.masters(), self._answering(), self._uncovered)

        await self._wait_until("to uncover slots", find_fault)

    async def cover(self, slots: Collection[int], to: LocalClusterNode) -> None:
        """Make a master the owner of slots that have none. Returns when all nodes know."""
        await to.take_slots(sorted(slots))
        self._uncovered.difference_update(slots)
        await self._wait_until("to agree", self._find_fault_in_agreement)

    async def isolate(self, node: LocalClusterNode) -> None:
        """Cut a node off from all other nodes, while clients still reach it. Needs ``partitions=True``.

        A master that is cut off goes on calling itself the owner of its slots and answers SCAN; commands with keys it
        refuses after ``node_timeout``. The others replace it by its replica meanwhile: :meth:`wait_for_new_master`
        waits for that. (Replicas copy from it until then: it is the cluster's bus that is cut.) Whatever the cluster is
        asked or waited for from then on, is asked of the others.
        """
        await self._partitioned().cut(node, await node.node_id())
        self._isolated.add(node)

    async def rejoin(self, node: LocalClusterNode) -> None:
        """Let a node that was cut off hear the others again. A master that was replaced then becomes a replica."""
        await self._partitioned().join(node, await node.node_id())
        self._isolated.discard(node)

    async def migrate_slots_atomically(self, slots: range, to: LocalClusterNode) -> None:
        """Move slots of one owner to another master by MIGRATESLOTS, which Valkey has from 9.0 on.

        Raises:
            CommandFailed: the server has no such command, or refuses.
            ServerUnresponsive: it is not done within the harness's patience.

        """
        source = await self.owner(slots[0])
        find_fault = await move_atomically(source, slots, await to.node_id())
        await self._wait_until("to move slots", find_fault)
        await self._wait_until("to agree", self._find_fault_in_agreement)

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
        node = self._new_node()
        self._nodes.append(node)
        self._shards[node] = node
        await self._begin(node)
        await node.wait_until_ready()
        await node.execute("CLUSTER", "MEET", *self._answering()[0].meeting_point())
        await self._wait_until("to know each other", self._find_fault_in_acquaintance)
        # A node that has not heard yet who has which slot takes nothing in.
        await self._wait_until("to agree", self._find_fault_in_agreement)
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

    def _partitioned(self) -> Partition:
        self._owner()
        if self._partition is None:
            raise ValueError("only a LocalCluster with partitions=True can be cut in two")
        return self._partition

    def _answering(self) -> list[LocalClusterNode]:
        return [node for node in self._nodes if can_answer(node) and node not in self._isolated]

    async def _find_fault_in_acquaintance(self) -> str | None:
        return await find_fault_in_acquaintance(self._answering())

    async def _find_fault_in_agreement(self) -> str | None:
        return await find_fault_in_agreement(self._answering(), self._uncovered)

    async def _find_fault(self) -> str | None:
        fault = await self._find_fault_in_agreement()
        return fault or await find_fault_in_replication(await self.masters(), self._answering())

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
                    return await self._find_fault_in_agreement()
            return f"nobody has taken the place of {old!r}"

        await self._wait_until("to have a new master", find_fault)
        return found[0]
