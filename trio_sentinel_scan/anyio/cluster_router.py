# Generated from _trio/cluster_router.py by `nox -s anyio`: change that file, never this one.
"""A cluster's shared connections, one for each node, and the way of a command to the one that has its slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
import anyio.abc
from redis.exceptions import ResponseError

from .._core.cluster_routes import HAS_ONE_KEY, Scope, common_slot, full_name, keys_of, route_of
from .._core.cluster_work import ClusterWork, Next, Unit
from .._core.command_keys import as_key, read_key_places
from .._core.commands import Command
from .._core.cursor_home import has_cursor
from .._core.errors import (
    ClientClosed,
    CommandOutcomeUnknown,
    KeysInDifferentSlots,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
)
from .._core.replies import as_list
from .._core.slots import slot_of, slots_in
from .._core.statistics import Counters
from .._core.wire import encode_command, encode_commands
from . import streams
from .link_keeper import RETRY_PERIOD, LinkKeeper
from .sources import NodeSource

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .._core.cluster_map import ClusterMap, Shard
    from .._core.cluster_routes import Route
    from .._core.command_keys import KeyPlaces
    from .._core.config import ClientSettings
    from .._core.cursor_home import CursorHome
    from .._core.identity import Address
    from .._core.in_flight import Request
    from .._core.statistics import ClientStatistics
    from .._core.wire import Argument, Reply
    from .cluster_monitor import ClusterMonitor
    from .multiplexed import MultiplexedConnection
    from .telemetry import Telemetry

__all__ = ["ClusterRouter", "Locate", "single_reply"]

# Seconds that a node which has left the cluster has for what is in flight to it: by then it does not answer any more.
LEAVE_PERIOD: Final = 2.0
# Seconds that a command for any master waits for one of them before it tries the next one.
_PATIENCE_WITH_ONE: Final = 1.0

# Commands without a table that are remembered; a caller that makes up names gets no more than this.
_MOST_LEARNED: Final = 2_000

# Who has a slot; who is asked for what has none.
Locate: TypeAlias = "Callable[[int | None], Address | None]"
# A try that was made: to whom, over what, and what was sent.
_Try: TypeAlias = "tuple[LinkKeeper, MultiplexedConnection, Request]"


class ClusterRouter:
    """Sends commands to slots and nodes."""

    def __init__(self, settings: ClientSettings, monitor: ClusterMonitor) -> None:
        self._settings = settings
        self._monitor = monitor
        self._failover_timeout = settings.failover_timeout
        # Of the nodes that something was sent to, as long as they are in the map (or were named by a redirection).
        self._keepers: dict[Address, LinkKeeper] = {}
        # Those that are not any more, until what is in flight to them is answered.
        self._leaving: set[LinkKeeper] = set()
        self._counters = Counters()
        self._task_group: anyio.abc.TaskGroup | None = None
        # Set, and replaced, whenever the map becomes another one.
        self._map_changed = anyio.Event()
        # Commands that wait for a slot to have an owner.
        self._waiting = 0
        self._closed = False
        # Where the keys are of commands that no table of ours has, as a server told.
        self._learned: dict[str, KeyPlaces] = {}
        self.telemetry: Telemetry | None = None

    def start(self, task_group: anyio.abc.TaskGroup) -> None:
        """From now on commands may be sent."""
        self._task_group = task_group
        self._closed = False
        # The last one was set when the client was closed, and may belong to another loop.
        self._map_changed = anyio.Event()
        self._monitor.on_change.add(self._follow)

    def close(self) -> None:
        """Close the connections, and make no other."""
        self._closed = True
        self._monitor.on_change.discard(self._follow)
        self._map_changed.set()
        for keeper in (*self._keepers.values(), *self._leaving):
            keeper.close()
        self._keepers.clear()
        self._leaving.clear()

    def statistics(self) -> ClientStatistics:
        """The counts so far."""
        keepers = (*self._keepers.values(), *self._leaving)
        return self._counters.snapshot(
            in_flight=sum(keeper.in_flight for keeper in keepers),
            waiting=self._waiting + sum(keeper.waiting for keeper in keepers),
        )

    # ---- commands ------------------------------------------------------------------------------------------------

    def execute(
        self, command: Command, *, decode: bool, home: CursorHome | None = None
    ) -> Coroutine[Any, Any, tuple[Reply, int]]:
        """Send a command to where it goes by its keys, or to any master; its reply, and the protocol that it came in.

        Error replies are raised; so are CommandOutcomeUnknown, ServerUnavailable, RedirectionLoop,
        TooManyCommandsWaiting, AuthenticationFailed, ProtocolError, ClientClosed, ScanInterrupted (for a cursor that
        would go to another process), KeysInDifferentSlots, CommandNotShareable and UnicodeDecodeError.
        """
        if command.name in HAS_ONE_KEY and len(command.args) > 1:
            return self.execute_in(slot_of(as_key(command.args[1])), command, decode=decode, home=home)
        return self._execute_by_route(command, decode=decode, home=home)

    async def _execute_by_route(self, command: Command, *, decode: bool, home: CursorHome | None) -> tuple[Reply, int]:
        route = await self.route(command)
        if isinstance(route, int):
            return await self.execute_in(route, command, decode=decode, home=home)
        return await self.execute_anywhere(command, decode=decode)

    async def execute_in(
        self, slot: int, command: Command, *, decode: bool, home: CursorHome | None = None
    ) -> tuple[Reply, int]:
        """The same at the owner of this slot."""
        first: _Try | None = None
        owner = self._monitor.map.owner(slot)
        keeper = None if owner is None else self._keepers.get(owner.address)
        if keeper is not None:
            link = keeper.link
            if link is not None and link.is_ready() and not has_cursor(command):
                request = link.send(encode_command(*command.args), 1, decode=decode)
                await link.wait_for(request)
                if request.failure is None and not isinstance(reply := request.replies[0], Exception):
                    return reply, link.greeting.protocol
                first = keeper, link, request
        work = ClusterWork([Unit((command,), slot, decode)], retry_writes=self._settings.retry_writes)
        await self.see_through(work, self.owner, home=home, first=first)
        return single_reply(work)

    async def execute_for(
        self, shard: Shard, command: Command, *, decode: bool, home: CursorHome | None = None
    ) -> tuple[Reply, int]:
        """The same at a shard's master; where that is replaced meanwhile, at the next one."""
        unit = Unit((command,), next(slots_in(shard.slots)), decode)
        work = ClusterWork([unit], retry_writes=self._settings.retry_writes)
        await self.see_through(work, lambda _: self.master_of(shard), home=home)
        return single_reply(work)

    async def covered_map(self, what: str) -> ClusterMap:  # noqa: ASYNC910 (sending waits)
        """The map, once each slot has an owner: a master that is being replaced is in no map, and has keys.

        Raises ServerUnavailable.
        """
        deadline = streams.current_time() + self._failover_timeout
        while uncovered := (known := self._monitor.map).uncovered:
            self._monitor.refresh_soon()
            if streams.current_time() >= deadline:
                self._counters.unavailable += 1
                raise ServerUnavailable(
                    f"{what} was not sent to all masters: {uncovered.bit_count()} slots had no owner for"
                    f" {self._failover_timeout:g} s; target_nodes=client.get_primaries() names those that there are"
                )
            await self._wait_for_map()
        return known  # noqa: ASYNC910 (sending waits)

    async def route(self, command: Command) -> Route:
        """Where a command goes: by table, or by asking a server where its keys are.

        Raises KeysInDifferentSlots and CommandNotShareable, and what asking does.
        """
        while (route := route_of(command, self._learned)) is None:
            name = full_name(command)
            if name in self._learned:
                keys = await self._keys_by_asking(command)
                return common_slot(keys, name) if keys else Scope.ONE_MASTER
            reply, _ = await self.execute_anywhere(_asking("INFO", name.replace(" ", "|")), decode=False)
            if len(self._learned) >= _MOST_LEARNED:
                self._learned.clear()
            self._learned[name] = read_key_places(reply)
        return route  # noqa: ASYNC910 (sending waits)

    async def _keys_by_asking(self, command: Command) -> list[Any]:
        try:
            reply, _ = await self.execute_anywhere(_asking("GETKEYS", *command.args), decode=False)
        except ResponseError as error:
            # It has none, or makes no sense: whoever gets it will say so.
            if "no key arguments" in str(error) or "Invalid" in str(error):
                return []  # noqa: ASYNC910 (it was an answer)
            raise
        return as_list(reply) or []

    def keys_of(self, command: Command) -> frozenset[bytes]:
        """The keys of a command that was routed."""
        return keys_of(command, self._learned)

    async def execute_at(
        self, address: Address, command: Command, *, decode: bool, home: CursorHome | None = None
    ) -> tuple[Reply, int]:
        """The same at one node, whose word is final: a MOVED is raised, too. Without it the wait is over at once."""
        work = ClusterWork([Unit((command,), None, decode)], retry_writes=self._settings.retry_writes)
        await self.see_through(work, lambda _: self._known(address), home=home)
        return single_reply(work)

    async def execute_anywhere(
        self, command: Command, *, decode: bool, home: CursorHome | None = None
    ) -> tuple[Reply, int]:
        """The same at any master: at one that can be reached, if there is one."""
        work = ClusterWork([Unit((command,), None, decode)], retry_writes=self._settings.retry_writes)
        await self.see_through(work, lambda _: self.any_master(work.tries), home=home, patience=_PATIENCE_WITH_ONE)
        return single_reply(work)

    # ---- a command's way -----------------------------------------------------------------------------------------

    async def see_through(  # noqa: ASYNC910 (it waits, unless nothing may be sent)
        self,
        work: ClusterWork,
        where: Locate,
        *,
        home: CursorHome | None = None,
        first: _Try | None = None,
        patience: float | None = None,
    ) -> None:
        """Send until there is an outcome for everything. `where` says who is asked if no redirection does."""
        started = streams.current_time() if first is None else first[2].since
        deadline = started + self._failover_timeout
        try:
            step = Next.AT_ONCE
            while step is not Next.DONE:
                if step is Next.LATER:
                    await self._pause(work, deadline)
                if first is None:
                    keeper, link = await self._link_for(work, where, deadline, patience)
                    request = self._send(work, where, keeper, link, home)
                    if request is None:
                        step = Next.AT_ONCE if work.pending else Next.DONE
                        continue
                    await link.wait_for(request)
                else:
                    work.next_units(where)
                    (keeper, link, request), first = first, None
                step = self._took(work, keeper, link, request, home)
                self._counters.sent_again += step is not Next.DONE
        except SentinelScanError as error:
            work.give_up(error)
        self._counters.outcome_unknown += sum(isinstance(one, CommandOutcomeUnknown) for one in work.outcomes)

    def _send(
        self,
        work: ClusterWork,
        where: Locate,
        keeper: LinkKeeper,
        link: MultiplexedConnection,
        home: CursorHome | None,
    ) -> Request | None:
        for number in tuple(work.next_units(where)):
            try:
                keeper.check_cursors(work.units[number].commands, link, home)
            except SentinelScanError as error:
                work.refuse(number, error)
        commands = work.commands()
        if not commands:
            return None
        return link.send(encode_commands(command.args for command in commands), len(commands), decode=work.decode())

    def _took(
        self,
        work: ClusterWork,
        keeper: LinkKeeper,
        link: MultiplexedConnection,
        request: Request,
        home: CursorHome | None,
    ) -> Next:
        """One step: all that follows from a try."""
        failure = request.failure
        if failure is None:
            keeper.note_answers(work.commands(), request.replies, link, home)
        step = work.took(request.replies, link.greeting.protocol, link.address, failure, link.written(request))
        self.note(work)
        if work.spends_connection:
            keeper.give_up(link)
        return step

    def note(self, work: ClusterWork) -> None:
        """What a try has told about the cluster."""
        self._counters.redirected += work.redirections
        for redirection in work.moved:
            self._monitor.moved(redirection.slot, redirection.address)
        if work.map_is_doubtful:
            self._monitor.refresh_soon()

    async def _link_for(
        self, work: ClusterWork, where: Locate, deadline: float, patience: float | None
    ) -> tuple[LinkKeeper, MultiplexedConnection]:
        """Whom to ask, and a connection over which it may be asked in this very step."""
        commands = work.pending_commands()
        while True:
            address = work.destination(where)
            if address is None:
                self._monitor.refresh_soon()
                await self._pause(work, deadline)
                continue
            keeper = self._keeper(address)
            link = keeper.ready(commands)
            if link is not None:
                return keeper, link  # noqa: ASYNC910 (sending waits)
            if patience is None:
                await keeper.wait(commands, deadline)
            else:
                with anyio.move_on_after(patience):
                    await keeper.wait(commands, deadline)
                work.tries += keeper.link is None
            if keeper.link is None:
                # The map has become another one meanwhile: it says where to go.
                work.forget_places()

    async def _pause(self, work: ClusterWork, deadline: float) -> None:
        """Before another try: for a while, or until the map becomes another one. Raises ServerUnavailable."""
        if streams.current_time() >= deadline:
            self._counters.unavailable += 1
            within = f"{self._failover_timeout:g} s"
            slot = "" if work.slot is None else f" (slot {work.slot})"
            why = work.problem or "no node has that slot"
            msg = f"no node took {work.describe()}{slot} within {within}: {why}"
            raise ServerUnavailable(msg) from work.problem
        # In a circle the map goes round with it: the nodes are to have their time.
        await self._wait_for_map(in_full=work.redirections > 0)

    async def _wait_for_map(self, *, in_full: bool = False) -> None:
        """For a while, or (if not `in_full`) until the map becomes another one. Raises ClientClosed."""
        changed = self._map_changed
        self._waiting += 1
        try:
            with anyio.move_on_after(RETRY_PERIOD):
                if in_full:
                    await anyio.sleep_forever()
                await changed.wait()
        finally:
            self._waiting -= 1
        if self._closed:
            raise ClientClosed("the client was closed while a command was waiting for its server")

    # ---- nodes ---------------------------------------------------------------------------------------------------

    def owner(self, slot: int | None) -> Address | None:
        """Who has the slot now, by the map."""
        assert slot is not None
        owner = self._monitor.map.owner(slot)
        return None if owner is None else owner.address

    def master_of(self, shard: Shard) -> Address | None:
        """Who is the master now of what was this shard, by the map."""
        master = self._monitor.map.successor(shard)
        return None if master is None else master.address

    def whereabouts(self, command: Command) -> object:
        """Who answers a command, for messages: as far as that is known without a question."""
        try:
            route = route_of(command, self._learned)
        except KeysInDifferentSlots:
            route = None
        owner = self.owner(route) if isinstance(route, int) else None
        # (While a slot is on its way, it may be the other one.)
        return "a node of the cluster" if owner is None else f"the node of slot {route}, {owner},"

    def _known(self, address: Address) -> Address:
        if self._monitor.map.at(address) is None:
            raise ServerUnavailable(f"{address} is no node of the cluster (any more)")
        return address

    def any_master(self, tries: int) -> Address | None:
        """One that can be reached, if there is one; after so many tries, another one."""
        masters = self._monitor.map.masters
        for master in masters:
            keeper = self._keepers.get(master.address)
            if keeper is not None and keeper.link is not None and keeper.link.is_ready():
                return master.address
        return masters[tries % len(masters)].address if masters else None

    def _keeper(self, address: Address) -> LinkKeeper:
        keeper = self._keepers.get(address)
        if keeper is None:
            if self._task_group is None or self._closed:
                raise ClientClosed("the client is not open: use it inside its async with block")
            source = NodeSource(self._settings, self._monitor, address)
            source.observe(self.telemetry)
            # A cursor of a key is another process's after the key's slot has moved: none is good but those issued here.
            keeper = self._keepers[address] = LinkKeeper(source, self._counters, has_moved=True)
            keeper.start(self._task_group)
        return keeper

    def _follow(self) -> None:
        """The map is another one: leave those that are not in it, and look elsewhere for what waits for them."""
        self._map_changed.set()
        self._map_changed = anyio.Event()
        known = {node.address for node in self._monitor.map.nodes}
        for address, keeper in tuple(self._keepers.items()):
            if address not in known:
                del self._keepers[address]
                keeper.leave()
                self._leaving.add(keeper)
                assert self._task_group is not None
                self._task_group.start_soon(self._see_off, keeper)
            elif keeper.waiting:
                # It may be no master any more, or have lost one slot of many: each of them looks for its own.
                keeper.wake()

    async def _see_off(self, keeper: LinkKeeper) -> None:
        """Whoever has left may have been voted down, and never answer what is in flight."""
        await anyio.sleep(LEAVE_PERIOD)
        keeper.end(ServerConnectionError("it has left the cluster, and does not answer any more"))
        self._leaving.discard(keeper)


def _asking(*words: Argument) -> Command:
    return Command("COMMAND", ("COMMAND", *words))


def single_reply(work: ClusterWork) -> tuple[Reply, int]:
    """The reply to the only command, and the protocol. Raises what came instead."""
    outcome = work.outcomes[0]
    if isinstance(outcome, Exception):
        raise outcome
    assert outcome is not None
    ((reply,), protocol) = outcome
    if isinstance(reply, Exception):
        raise reply
    return reply, protocol
