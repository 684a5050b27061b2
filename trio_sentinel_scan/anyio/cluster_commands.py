# Generated from _trio/cluster_commands.py by `nox -s anyio`: change that file, never this one.
# pyright: reportUnknownMemberType=false
# (redis-py does not annotate all arguments of its commands.)
"""redis-py's cluster commands: to the slot of their keys, or to several nodes, whose replies become one result."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.abc
from redis.cluster import AbstractRedisCluster
from redis.commands.cluster import AsyncClusterManagementCommands, AsyncClusterMultiKeyCommands
from redis.exceptions import RedisError

from .._core.cluster_routes import Scope, check_fit, full_name, put_together, route_of, scope_of
from .._core.cluster_targets import find_node, find_targets
from .._core.command_keys import has_subcommand
from .._core.config import checked_address
from .._core.cursor_home import CursorHome, SameOwners
from .._core.errors import ConfigError
from .._core.results import At
from .._core.scan_steps import Target
from .._core.slots import slot_of
from .calls import Calls
from .cluster_pipeline import ClusterPipeline
from .cluster_router import ClusterRouter
from .cluster_runner import ClusterRunner, NodePool
from .iterators import words_of
from .lease import Lease, open_lease
from .sources import ClusterNodes
from .telemetry import find_telemetry

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from redis.typing import EncodableT, KeyT, PatternT

    from .._core.cluster_map import ClusterMap, ClusterNode, Shard
    from .._core.config import ClientSettings
    from .._core.identity import Address
    from .cluster_monitor import ClusterMonitor

__all__ = ["ClusterCommands"]

# Names that are remembered; a caller that makes up names gets no more than this.
_MOST_NAMES: Final = 2_000

_redis_py: Final = cast("Any", AbstractRedisCluster)


class ClusterCommands(  # type: ignore[misc]  # pyright: ignore[reportIncompatibleMethodOverride]  # as in redis-py's
    AsyncClusterMultiKeyCommands, AsyncClusterManagementCommands, Calls
):
    """redis-py's commands for a cluster; what is below says to which nodes they go."""

    # redis-py's words for several nodes, as `target_nodes` takes them.
    PRIMARIES: Final[str] = _redis_py.PRIMARIES
    REPLICAS: Final[str] = _redis_py.REPLICAS
    ALL_NODES: Final[str] = _redis_py.ALL_NODES
    RANDOM: Final[str] = _redis_py.RANDOM
    DEFAULT_NODE: Final[str] = _redis_py.DEFAULT_NODE

    def __init__(self, settings: ClientSettings, monitor: ClusterMonitor) -> None:
        self._monitor = monitor
        self._nodes_source = ClusterNodes(settings, monitor)
        self._router = router = ClusterRouter(settings, monitor)
        # For leases, blocking commands and WATCH.
        self._pool = NodePool(self._nodes_source)
        self._alone = runner = ClusterRunner(settings, monitor, router, self._pool)
        # First words of which it is known that they always go to one node, whose reply is the result.
        self._to_one: set[object] = set()
        super().__init__(settings, router, runner)
        self._dialect.add_redis_pys(_redis_py.CLUSTER_COMMANDS_RESPONSE_CALLBACKS)

    def _start_commands(self, task_group: anyio.abc.TaskGroup) -> None:
        telemetry = find_telemetry(db=0, where=self._any_address)
        self._router.telemetry = telemetry
        self._nodes_source.observe(telemetry)
        if telemetry is not None:
            # Only then does a command take a way round: without it, it does not even ask.
            self.__dict__["execute_command"] = telemetry.observing(self.execute_command, self._address_for)
        self._router.start(task_group)
        self._pool.start(task_group)

    async def _close_commands(self) -> None:  # noqa: ASYNC910 (closing takes no time)
        self.__dict__.pop("execute_command", None)
        self._router.close()
        await self._pool.aclose()

    def _any_address(self) -> Address:
        known = self._monitor.views.map
        return known.masters[0].address if known is not None and known.masters else self._monitor.views.seeds[0]

    def _address_for(self, args: tuple[Any, ...]) -> Address:
        """Where a command goes as far as the tables and the map tell, for telemetry."""
        try:
            route = route_of(self._read(args), {})
        except (RedisError, IndexError):
            route = None
        owner = self._monitor.map.owner(route) if isinstance(route, int) else None
        return self._any_address() if owner is None else owner.address

    # ---- the map -------------------------------------------------------------------------------------------------

    @property
    def map(self) -> ClusterMap:
        """Who has which slot, as far as this client knows: commands go by it. Raises ClientClosed."""
        self._check_open()
        return self._monitor.map

    @property
    def nodes(self) -> tuple[ClusterNode, ...]:
        """The nodes that have slots, and then their replicas. Raises ClientClosed."""
        return self.map.nodes

    def get_nodes(self) -> list[ClusterNode]:
        """redis-py's name for `nodes`."""
        return list(self.map.nodes)

    def get_primaries(self) -> list[ClusterNode]:
        """The masters that have slots."""
        return list(self.map.masters)

    def get_replicas(self) -> list[ClusterNode]:
        """Their replicas."""
        return [replica for shard in self.map.shards for replica in shard.replicas]

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode | None:
        """The node at this address, or (redis-py's `node_name`) at this "host:port"; None if there is no such."""
        if (host is None) == (node_name is None) or (host is None) != (port is None):
            raise ConfigError("node_name", "give host and port, or node_name")
        where = node_name if host is None else (host, port)
        return self.map.at(checked_address(where, "node_name" if host is None else "host"))

    def get_random_node(self) -> ClusterNode | None:
        """Any of the nodes, replicas too; None while no slot has an owner."""
        nodes = self.map.nodes
        return random.choice(nodes) if nodes else None  # noqa: S311 (nothing secret)

    def get_default_node(self) -> ClusterNode | None:
        """The first of the masters. Unlike in redis-py nothing depends on it: a command for any master goes to one that
        can be reached. (So there is no `set_default_node`.)
        """
        return next(iter(self.map.masters), None)

    def keyslot(self, key: EncodableT) -> int:
        """The slot of a key."""
        return slot_of(self._dialect.encode(key))

    def get_node_from_key(self, key: EncodableT) -> ClusterNode | None:
        """The master that has a key's slot; None if nobody has."""
        return self.map.owner(self.keyslot(key))

    # ---- to one node, or to several ------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        """Run one command, given as its words, and return its reply as redis-py would.

        It goes to the master that has its keys' slot; without keys, where redis-py's tables send it. `node` sends it
        to one node, given by its id, its address or as one of `nodes`; `target_nodes` as in redis-py: to a node, to
        a list or a mapping of them, or to ``"primaries"``, ``"replicas"``, ``"all"``, ``"random"``,
        ``"default-node"``. The results of several are put together as in redis-py, or are a dictionary by the nodes'
        addresses.

        While a node is away, or a slot has no owner, it waits for the next one, up to `failover_timeout`. A command
        that is known not to have run, or that only reads, is sent again; else `CommandOutcomeUnknown` tells that it
        may have run. Raises KeysInDifferentSlots before anything is sent.
        """
        if args and args[0] in self._to_one and "node" not in options and "target_nodes" not in options:
            return self._perform(args, options, self._execute_shared, self._run_elsewhere)
        return self._execute_with_care(args, options)

    async def _execute_with_care(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._check_use()
        node, targets = options.pop("node", None), options.pop("target_nodes", None)
        check_fit(args)
        command = self._read(args)
        if node is not None:
            if targets is not None:
                raise ConfigError("node", "give node or target_nodes, not both")
            return await self._perform_at(find_node(node, self._monitor.map), args, options)
        name = full_name(command)
        found = scope_of(name) if targets is None else find_targets(targets, self._monitor.map)
        if found is None or found is Scope.ONE_MASTER:
            result = await self._perform(args, options, self._execute_shared, self._run_elsewhere)
            if found is not None:
                return self._made(name, put_together, name, {"": result})
            if not has_subcommand(command.name) and len(self._to_one) < _MOST_NAMES and isinstance(args[0], str):
                self._to_one.add(args[0])
            return result
        return self._made(name, put_together, name, await self._spread(found, args, options))

    def _made(self, name: str, make: Callable[..., Any], *results: Any) -> Any:
        """What is made of several nodes' results. Raises ProtocolError if one of them cannot be."""
        return self._dialect.made(name, "one of the nodes", make, *results)

    async def _spread(
        self, targets: Scope | list[ClusterNode], args: tuple[Any, ...], options: dict[str, Any]
    ) -> dict[str, Any]:
        """The results of all of them, by their addresses. Raises the first one's error when all have answered."""
        results: dict[str, Any] = {}
        errors: dict[str, Exception] = {}

        async def ask(where: str, work: Coroutine[Any, Any, Any]) -> None:  # noqa: ASYNC910 (sending waits)
            try:
                results[where] = await work
            except Exception as error:  # noqa: BLE001 (it is raised below)
                errors[where] = error

        asked: dict[str, Coroutine[Any, Any, Any]] = {}
        if targets is Scope.MASTERS:
            known = await self._router.covered_map(full_name(self._read(args)))
            asked = {str(shard.master.address): self._perform_for(shard, args, options) for shard in known.shards}
        else:
            nodes = self._nodes_of(targets) if isinstance(targets, Scope) else targets
            asked = {str(node.address): self._perform_at(node, args, options) for node in nodes}
        async with anyio.create_task_group() as task_group:
            for where, work in asked.items():
                task_group.start_soon(ask, where, work)
        for where in asked:
            if where in errors:
                raise errors[where]
        return {where: results[where] for where in asked}

    def _nodes_of(self, scope: Scope) -> list[ClusterNode]:
        known = self._monitor.map
        if scope is Scope.REPLICAS:
            found = self.get_replicas()
        else:
            found = list(known.nodes if scope is Scope.ALL else known.masters)
            found = found[:1] if scope is Scope.ONE_MASTER else found
        if not found:
            raise ConfigError("target_nodes", "names no node at all: the cluster has no replicas")
        return found

    def _perform_for(self, shard: Shard, args: tuple[Any, ...], options: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        router, runner = self._router, self._alone
        send, send_alone = partial(router.execute_for, shard), partial(runner.run_for, shard)
        return self._perform(args, dict(options), send, send_alone, At(shard.master.address))

    def _perform_at(
        self, node: ClusterNode, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        router, runner, address = self._router, self._alone, node.address
        send, send_alone = partial(router.execute_at, address), partial(runner.run_at, address)
        return self._perform(args, dict(options), send, send_alone, At(address))

    # ---- pipelines, connections of one's own ---------------------------------------------------------------------

    def pipeline(self, transaction: bool | None = None, shard_hint: str | None = None) -> ClusterPipeline:  # noqa: ARG002, FBT001 (redis-py's)
        """Commands that are buffered and sent together, as redis-py's pipelines for clusters do::

            async with client.pipeline() as pipe:
                results = await pipe.set("a", 1).incr("b").execute()

        Each goes to its node. `transaction` puts them between MULTI and EXEC, for which all keys must be in one slot.
        """
        return ClusterPipeline(self._dialect, self._alone, self._monitor, transaction=bool(transaction))

    async def transaction(
        self,
        func: Callable[[ClusterPipeline], Any | Awaitable[Any]],
        *watches: KeyT,
        shard_hint: str | None = None,
        value_from_callable: bool = False,
        watch_delay: float | None = None,
    ) -> Any:
        """Run `func` with a pipeline while the keys `watches` are watched, and execute what it has buffered.

        All keys must be in one slot. If one of the watched ones is changed meanwhile it begins again, after
        `watch_delay` seconds. Returns the commands' results, or what `func` returned if `value_from_callable`.
        """
        return await super().transaction(
            cast("Any", func),
            *watches,
            shard_hint=shard_hint,
            value_from_callable=value_from_callable,
            watch_delay=watch_delay,
        )

    def dedicated(self, *, key: EncodableT | None = None, node: object = None) -> AbstractAsyncContextManager[Lease]:
        """A connection of the caller's own to one node, for as long as the block lasts::

            async with client.dedicated(key="user:1") as lease:
                await lease.set("user:1", "value")
                await lease.wait(1, 1000)

        `key` says which node: the master that has its slot. Or `node` does: its id, its address, or one of `nodes`. On
        a lease nothing is redirected: a MOVED is raised. There are `max_connections` of them at the same time, to all
        nodes together, blocking commands and WATCH included; whoever comes later waits for its turn.

        Entering raises ServerUnavailable, AuthenticationFailed and ProtocolError; `Lease` says what commands raise.
        """
        self._check_open()
        if (key is None) == (node is None):
            raise ConfigError("node", "give node or key: a lease is of one node's connection")
        if node is not None:
            address = find_node(node, self._monitor.map).address
            return self._at_home(open_lease(self._dialect, self._pool, lambda: Target(address)))
        owner = self._alone.owner_of(self.keyslot(cast("Any", key)))
        return self._at_home(open_lease(self._dialect, self._pool, owner))

    # ---- all keys ------------------------------------------------------------------------------------------------

    async def scan_iter(  # type: ignore[override]  # noqa: ASYNC900
        self,
        match: PatternT | None = None,
        count: int | None = None,
        _type: str | None = None,
        target_nodes: object = None,
        **options: Any,
    ) -> AsyncGenerator[Any]:
        """redis-py's `scan_iter`: the keys of all masters (or of `target_nodes`), one node after the other.

        It raises `ScanInterrupted` where keys may have been missed: a cursor would go to another server process, slots
        have got another owner meanwhile, or no node can tell in the end whether they have. A migration that is under
        way, and changes no owner, it does not notice, and misses what that carries past it. `open_scan` loses nothing:
        it begins again where it must.
        """
        self._check_use()
        # What a slot without an owner has, nobody could be asked for.
        known = await self._router.covered_map("SCAN") if target_nodes is None else self._monitor.map
        targets = Scope.MASTERS if target_nodes is None else find_targets(target_nodes, known)
        nodes = self._nodes_of(targets) if isinstance(targets, Scope) else targets
        owners = SameOwners(known)
        words = words_of(MATCH=match, COUNT=count, TYPE=_type)
        for node in nodes:
            there, home = {**options, "node": node.address}, CursorHome()
            cursor, found = await self._read_on(("SCAN",), 0, words, there, home)
            while True:
                for key in found:
                    owners.check_key(self._monitor.map)
                    yield key  # noqa: ASYNC911 (of one reply)
                if cursor == 0:
                    break
                cursor, found = await self._read_on(("SCAN",), cursor, words, there, home)
        answered = await self._monitor.refreshed()
        owners.check_end(self._monitor.map, answered=answered)

    # ---- keys in many slots --------------------------------------------------------------------------------------

    def _partition_keys_by_slot(self, keys: Iterable[KeyT]) -> dict[int, list[KeyT]]:
        found: dict[int, list[KeyT]] = {}
        for key in keys:
            found.setdefault(self.keyslot(cast("Any", key)), []).append(key)
        return found

    def _partition_pairs_by_slot(self, mapping: Mapping[Any, EncodableT]) -> dict[int, list[EncodableT]]:
        found: dict[int, list[EncodableT]] = {}
        for pair in mapping.items():
            found.setdefault(self.keyslot(pair[0]), []).extend(pair)
        return found

    async def _execute_pipeline_by_slot(  # type: ignore[override]  # redis-py's own way to be asynchronous
        self, command: str, slots_to_args: Mapping[int, Iterable[EncodableT]]
    ) -> list[Any]:
        shares = list(slots_to_args.values())
        if len(shares) == 1:
            return [await self.execute_command(command, *shares[0])]
        pipe = self.pipeline(transaction=False)
        for words in shares:
            pipe.execute_command(command, *words)
        return await pipe.execute()

    def _reorder_keys_by_command(
        self, keys: Iterable[KeyT], slots_to_args: Mapping[int, Iterable[EncodableT]], responses: Iterable[Any]
    ) -> list[Any]:
        reorder = super()._reorder_keys_by_command
        return cast("list[Any]", self._made("MGET", reorder, keys, slots_to_args, responses))

    async def _split_command_across_slots(  # type: ignore[override]  # as above
        self, command: str, *keys: KeyT
    ) -> int:
        counts = await self._execute_pipeline_by_slot(command, self._partition_keys_by_slot(keys))
        return cast("int", self._made(command, sum, counts))

    async def cluster_delslots(self, *slots: EncodableT) -> list[bool]:  # type: ignore[override]  # as above
        """Take slots from their owners; a result for each."""
        return [await self.execute_command("CLUSTER DELSLOTS", slot) for slot in slots]  # noqa: ASYNC910 (each waits)
