# Generated from _trio/cluster_runner.py by `nox -s anyio`: change that file, never this one.
"""A cluster's blocking commands, leases and WATCHes: over connections of their own, to the node that has the slot."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from .._core.batches import MULTI
from .._core.cluster_routes import different_slots
from .._core.cluster_work import ClusterWork, Next, Outcome, Unit
from .._core.command_fate import name_of
from .._core.errors import (
    LeaseLost,
    ProtocolError,
    ResponseTimeout,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
)
from .._core.in_flight import Written
from .._core.scan_steps import Target
from .._core.slots import slots_in
from . import streams
from .cluster_router import LEAVE_PERIOD, single_reply
from .pool import RETRY_PERIOD, ConnectionPool
from .sources import ClusterNodes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from .._core.cluster_map import Shard
    from .._core.commands import Command
    from .._core.config import ClientSettings
    from .._core.identity import Address
    from .._core.wire import Reply
    from .cluster_monitor import ClusterMonitor
    from .cluster_router import ClusterRouter, Locate
    from .pool import Loan, Where

__all__ = ["ClusterRunner", "NodePool"]


SeeThrough: TypeAlias = "Callable[[ClusterWork, Locate], Coroutine[Any, Any, None]]"


class NodePool(ConnectionPool):
    """Connections to the nodes of a cluster; `take` is told to which."""

    def __init__(self, source: ClusterNodes) -> None:
        super().__init__(source)
        self._nodes = source

    def _is_present(self, target: Target) -> bool:
        return self._nodes.monitor.map.at(target.address) is not None

    def _leave_old_master(self) -> None:
        """The map is another one. A node that has become a replica says so itself; who is gone says nothing."""
        self._end_attempts("another node has the slot now")
        left = [connection for connection, of in self._idle if not self._is_present(of)]
        self._idle = [(connection, of) for connection, of in self._idle if self._is_present(of)]
        assert self._task_group is not None
        for connection in left:
            self._task_group.start_soon(connection.aclose)
        for loan in self._out:
            if not self._is_present(loan.target) and not loan.lost:
                self._task_group.start_soon(self._see_off, loan)

    async def _see_off(self, loan: Loan) -> None:
        await anyio.sleep(LEAVE_PERIOD)
        if loan in self._out and not loan.lost and not self._is_present(loan.target):
            loan.lost = "its node has left the cluster"
            await loan.connection.aclose()


class ClusterRunner:
    """Runs what may not go over a connection that is shared."""

    # Whether another master is looked up when a server says that it is none.
    follows_master = True

    def __init__(
        self, settings: ClientSettings, monitor: ClusterMonitor, router: ClusterRouter, pool: NodePool
    ) -> None:
        self._settings = settings
        self._monitor = monitor
        self._router = router
        self._pool = pool

    def check_loop(self) -> None:
        """Raise WrongEventLoop in another loop than the client's."""
        self._pool.check_loop()

    # ---- several commands ----------------------------------------------------------------------------------------

    async def run(
        self, commands: Sequence[Command], decode: Sequence[bool], given: Mapping[int, Address] | None = None
    ) -> tuple[list[Reply], int]:
        """Send a transaction to the node that has its slot; or commands, each to its own, the nodes at the same time.

        Returns their replies in order, and the protocol. What came instead of a reply stands in its place; what came
        instead of a transaction's replies is raised. Scripts to be loaded first may stand in front. `given` has nodes
        by a command's number, those in front not counted.
        """
        return await self._told(self._run(commands, decode, given or {}, self._router.see_through), len(commands))

    async def run_alone(
        self, commands: Sequence[Command], decode: Sequence[bool], given: Mapping[int, Address] | None = None
    ) -> tuple[list[Reply], int]:
        """The same on connections that nobody else uses meanwhile, one to each node."""
        return await self._told(self._run(commands, decode, given or {}, self.see_through), len(commands))

    async def _told(self, work: Awaitable[tuple[list[Reply], int]], number: int) -> tuple[list[Reply], int]:
        telemetry = self._router.telemetry
        return await (work if telemetry is None else telemetry.operation("PIPELINE", work, batch_size=number))

    async def _run(
        self, commands: Sequence[Command], decode: Sequence[bool], given: Mapping[int, Address], see_through: SeeThrough
    ) -> tuple[list[Reply], int]:
        in_front = next((at for at, command in enumerate(commands) if command.name != "SCRIPT"), len(commands))
        loads, commands = commands[:in_front], commands[in_front:]
        retry_writes = self._settings.retry_writes
        if commands and commands[0].name == "MULTI":
            slot = await self.slot_of_all(commands[1:-1])
            if slot is None:
                # Any will do; a slot's owner is one that follows a failover.
                slot = next(slots_in(self._monitor.map.shards[0].slots)) if self._monitor.map.shards else 0
            unit = Unit(tuple(commands), slot, tuple(decode[in_front:]), runs_scripts=True)
            work = ClusterWork([unit], retry_writes=retry_writes, loads=loads)
            await see_through(work, self._router.owner)
            (outcome,) = work.outcomes
            if not isinstance(outcome, Outcome):
                assert outcome is not None
                raise outcome
            return [*work.load_replies, *outcome.replies], outcome.protocol
        replies: list[Reply] = [None] * in_front
        protocol = 2
        shares = await self._shares(commands, decode[in_front:], given)
        works = [
            (ClusterWork(list(share.values()), retry_writes=retry_writes, loads=loads), address, list(share))
            for address, share in shares.items()
        ]
        async with anyio.create_task_group() as task_group:
            for work, address, _ in works:
                task_group.start_soon(see_through, work, partial(self._where, address))
        found: dict[int, Reply] = {}
        for work, _, numbers in works:
            for number, outcome in zip(numbers, work.outcomes, strict=True):
                assert outcome is not None
                if isinstance(outcome, Outcome):
                    (found[number],), protocol = outcome
                else:
                    found[number] = outcome
            if work.load_replies:
                replies = work.load_replies
        return [*replies, *(found[number] for number in range(len(commands)))], protocol

    async def _shares(
        self, commands: Sequence[Command], decode: Sequence[bool], given: Mapping[int, Address]
    ) -> dict[Address | None, dict[int, Unit]]:
        """Each node's share of the commands, by their numbers."""
        shares: dict[Address | None, dict[int, Unit]] = {}
        routes = {
            number: await self._router.route(command) for number, command in enumerate(commands) if number not in given
        }
        # From here on in one step: commands of one slot are in one share, in order, whatever becomes of the map.
        for number, (command, wanted) in enumerate(zip(commands, decode, strict=True)):
            node, route, keys = given.get(number), routes.get(number), frozenset[bytes]()
            slot = route if isinstance(route, int) else None
            if slot is not None:
                node, keys = self._router.owner(slot), self._router.keys_of(command)
            elif node is None:
                node = self._router.any_master(0)
            unit = Unit((command,), slot, wanted, keys, runs_scripts=command.name in {"EVALSHA", "EVALSHA_RO"})
            shares.setdefault(node, {})[number] = unit
        return shares  # noqa: ASYNC910 (sending waits)

    def _where(self, address: Address | None, slot: int | None) -> Address | None:
        """A slot's owner, or the node itself that these commands are for."""
        return address if slot is None else self._router.owner(slot)

    async def slot_of_all(self, commands: Sequence[Command]) -> int | None:
        """The one slot of all their keys; None if there are no keys. Raises KeysInDifferentSlots."""
        slots: dict[int, None] = {}
        for command in commands:
            route = await self._router.route(command)
            if isinstance(route, int):
                slots[route] = None
        if len(slots) > 1:
            raise different_slots(name_of([MULTI, *commands]), slots)
        return next(iter(slots), None)  # noqa: ASYNC910 (sending waits)

    # ---- blocking commands ---------------------------------------------------------------------------------------

    def whereabouts(self, command: Command) -> object:
        """Who answers a command, for messages: as far as that is known without a question."""
        return self._router.whereabouts(command)

    async def run_one_alone(self, command: Command, *, decode: bool) -> tuple[Reply, int]:
        """A command by its keys; its reply, and the protocol. Error replies are raised."""
        route = await self._router.route(command)
        if isinstance(route, int):
            return await self.run_in(route, command, decode=decode)
        work = ClusterWork([Unit((command,), None, decode)], retry_writes=self._settings.retry_writes)
        await self.see_through(work, lambda _: self._router.any_master(work.tries))
        return single_reply(work)

    async def run_in(self, slot: int, command: Command, *, decode: bool) -> tuple[Reply, int]:
        """The same at a slot's owner."""
        work = ClusterWork([Unit((command,), slot, decode)], retry_writes=self._settings.retry_writes)
        await self.see_through(work, self._router.owner)
        return single_reply(work)

    async def run_for(self, shard: Shard, command: Command, *, decode: bool) -> tuple[Reply, int]:
        """The same at a shard's master; where that is replaced meanwhile, at the next one."""
        unit = Unit((command,), next(slots_in(shard.slots)), decode)
        work = ClusterWork([unit], retry_writes=self._settings.retry_writes)
        await self.see_through(work, lambda _: self._router.master_of(shard))
        return single_reply(work)

    async def run_at(self, address: Address, command: Command, *, decode: bool) -> tuple[Reply, int]:
        """The same at a node."""
        work = ClusterWork([Unit((command,), None, decode)], retry_writes=self._settings.retry_writes)
        await self.see_through(work, lambda _: address)
        return single_reply(work)

    async def see_through(self, work: ClusterWork, where: Locate) -> None:  # noqa: ASYNC910 (taking a connection waits)
        """Send until there is an outcome for everything, each time over a connection that nobody else uses.

        While a node is away it waits for the next one up to `failover_timeout`, which the time that a server keeps the
        commands waiting is not part of; a blocking one waits for what is left of its time then.
        """
        # It begins when the first connection is there: to wait for one's turn is not to wait for a server.
        deadline: float | None = None
        step = Next.AT_ONCE
        while step is not Next.DONE:
            if step is Next.LATER:
                await anyio.sleep(RETRY_PERIOD)
            try:
                loan = await self._pool.take(
                    self._found_by(lambda: work.destination(where)), until=math.inf if deadline is None else deadline
                )
            except SentinelScanError as error:
                work.give_up(error)
                return  # noqa: ASYNC910 (as above)
            began = streams.current_time()
            deadline = began + self._settings.failover_timeout if deadline is None else deadline
            # (Only what this node is for: the map may be another one by now.)
            work.next_units(where)
            replies: Sequence[Reply] = ()
            failure: SentinelScanError | None = None
            written = Written.ALL
            try:
                replies = await loan.ask(work.commands(), work.decode())
            except LeaseLost as error:
                failure, written = error, Written.NOTHING
            except (ServerConnectionError, ResponseTimeout, ProtocolError) as error:
                failure = error
            finally:
                await self._pool.give_back(loan)  # noqa: ASYNC102 (closing is shielded, and takes no time)
            step = work.took(replies, loan.state.protocol, loan.server.address, failure, written)
            self._router.note(work)
            waited = streams.current_time() - began
            deadline += waited
            work.waited(waited)
            if step is not Next.DONE and streams.current_time() >= deadline:
                msg = f"no node took {work.describe()} within {self._settings.failover_timeout:g} s: {work.problem}"
                work.give_up(ServerUnavailable(msg))
                return

    # ---- leases --------------------------------------------------------------------------------------------------

    def owner_of(self, slot: int) -> Where:
        """What says who has a slot at the moment."""
        return self._found_by(lambda: self._router.owner(slot))

    def _found_by(self, where: Callable[[], Address | None]) -> Where:
        def found() -> Target | None:
            address = where()
            if address is None:
                self._monitor.refresh_soon()
                return None
            return Target(address)

        return found

    async def take(self, command: Command) -> Loan:
        """A connection for WATCH, to the node that has the command's slot. Raises what `ConnectionPool.take` does."""
        route = await self._router.route(command)
        return await self._pool.take(self.owner_of(route) if isinstance(route, int) else None)

    async def take_from(self, address: Address) -> Loan:
        """A connection to this node."""
        return await self._pool.take(lambda: Target(address))

    async def give_back(self, loan: Loan) -> None:  # noqa: ASYNC910 (closing takes no time)
        """It is over."""
        await self._pool.give_back(loan)
