"""The connection to one server that tasks share: made when it is needed, made anew when it was lost."""

from __future__ import annotations

import copy
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from .._core.command_fate import name_of
from .._core.cursor_home import CursorLedger, has_cursor
from .._core.errors import (
    ClientClosed,
    ResponseTimeout,
    RoleMismatch,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
    TooManyCommandsWaiting,
)
from .._core.handshake import unfit_for_scanning
from .._core.statistics import Counters
from .multiplexed import MultiplexedConnection

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from .._core.commands import Command
    from .._core.cursor_home import CursorHome
    from .._core.wire import Reply
    from .sources import SentinelService, SingleServer

__all__ = ["RETRY_PERIOD", "LinkKeeper"]

logger: logging.Logger = logging.getLogger("trio_sentinel_scan.client")

# Seconds between two attempts to reach a server that is away, or to have a command taken by one that refuses.
RETRY_PERIOD = 0.1


class _Round:
    """What the commands that wait for a connection wait for: one to come about, or to be hopeless."""

    __slots__ = ("error", "over")

    def __init__(self) -> None:
        self.over = trio.Event()
        # Set before `over` is, if there is no use in waiting on.
        self.error: SentinelScanError | None = None


class LinkKeeper:
    """Opens a connection when a command needs one, and follows the master."""

    def __init__(
        self, source: SingleServer | SentinelService, counters: Counters | None = None, *, has_moved: bool = False
    ) -> None:
        """`counters`, if it is one of several; `has_moved`, if a cursor may be another one's (`CursorLedger`)."""
        self._source = source
        self._max_waiting = source.settings.max_waiting
        # Where commands go. Invariant: it is for the present target; None while there is none.
        self._link: MultiplexedConnection | None = None
        # Every connection that has not ended; those that are retired, too.
        self._links: set[MultiplexedConnection] = set()
        # Invariant: once True, there is no connection to be had and none is made.
        self._closed = False
        self._ledger = CursorLedger(has_moved=has_moved)
        self._counters = counters or Counters()
        self._has_connected = False
        self._nursery: trio.Nursery | None = None
        # One attempt to connect at a time.
        self._opening = trio.Lock()
        # Around an attempt, and around the pause behind it: left when another master is named.
        self._outdated: set[trio.CancelScope] = set()
        # Commands that wait for a connection. Invariant: while there are any, `_connect_on` runs.
        self._waiting = 0
        self._round = _Round()
        self._connecting = False
        # What came of the last attempt.
        self._problem: Exception | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """From now on a change of masters closes the connection to the old one at once."""
        self._nursery = nursery
        self._closed = False
        self._connecting = False
        # It may have been made where another loop ran, and what is made there may be of no use here.
        self._opening = trio.Lock()
        self._round = _Round()
        self._source.on_change.add(self._leave_old_master)

    async def open(self) -> None:
        """Have a connection. Raises what `open_connection` does, and RoleMismatch."""
        async with self._opening:
            while self._link is None:
                if self._closed:
                    raise ClientClosed("the client was closed while it was connecting")
                await self._connect()

    def close(self) -> None:
        """Close the connections, open no other, and listen to the Sentinels no more."""
        self._source.on_change.discard(self._leave_old_master)
        self.end(ClientClosed("the client was closed while a command was waiting for its server"))

    def end(self, reason: SentinelScanError) -> None:
        """Close the connections, and open no other; what is in flight, or waits, fails for this reason."""
        self._closed = True
        for link in tuple(self._links):
            link.fail(reason)
        self._end_round(reason)

    @property
    def link(self) -> MultiplexedConnection | None:
        """The present connection, if there is one."""
        return self._link

    @property
    def in_flight(self) -> int:
        """How many requests are not answered yet."""
        return sum(link.in_flight for link in self._links)

    @property
    def waiting(self) -> int:
        """How many commands wait for a connection."""
        return self._waiting

    def ready(self, commands: Sequence[Command]) -> MultiplexedConnection | None:
        """A connection on which a request may be sent in this very step; None: wait for one.

        Raises TooManyCommandsWaiting.
        """
        link = self._link
        if self._waiting + (0 if link is None else link.in_flight) >= self._max_waiting:
            self._counters.turned_away += 1
            raise TooManyCommandsWaiting(
                f"{self._max_waiting} commands (max_waiting) are waiting already; {name_of(commands)} was not sent"
            )
        return link if link is not None and link.is_ready() else None

    async def wait(self, commands: Sequence[Command], deadline: float) -> None:
        """Until it is worth another look: there is a connection, or another place to look for one.

        Raises what stands in the way for good, and ServerUnavailable when the time is up.
        """
        if self._nursery is None:
            raise ClientClosed("the client is not open: use it inside its async with block")
        if self._closed:
            raise ClientClosed("the client was closed while a command was waiting for its server")
        if not self._connecting:
            self._connecting = True
            self._round = _Round()
            self._nursery.start_soon(self._connect_on)
        waited_for = self._round
        self._waiting += 1
        try:
            with trio.CancelScope(deadline=deadline):
                await waited_for.over.wait()
        finally:
            self._waiting -= 1
        if waited_for.error is not None:
            # Each of those who wait raises one of its own.
            raise copy.copy(waited_for.error) from waited_for.error
        if not waited_for.over.is_set():
            problem = self._problem or ServerConnectionError(f"{self._source.target.address} did not take a connection")
            raise self.unavailable(commands, problem) from problem

    def unavailable(self, commands: Sequence[Command], problem: Exception | None) -> ServerUnavailable:
        """The error of commands for which `failover_timeout` has gone by."""
        self._counters.unavailable += 1
        within = f"{self._source.failover_timeout:g} s"
        return ServerUnavailable(f"no server took {name_of(commands)} within {within}: {problem}")

    def check_cursors(self, commands: Iterable[Command], link: MultiplexedConnection, home: CursorHome | None) -> None:
        """Commands are about to be sent there. Raises ScanInterrupted for a cursor that is another process's."""
        for command in commands:
            if has_cursor(command):
                self._ledger.check(command, link.greeting.identity, home=home)

    def note_answers(
        self,
        commands: Iterable[Command],
        replies: Iterable[Reply],
        link: MultiplexedConnection,
        home: CursorHome | None,
    ) -> None:
        """Their replies have come from there."""
        for command, reply in zip(commands, replies, strict=True):
            if has_cursor(command):
                self._ledger.answered(command, reply, link.greeting.identity, home)

    def wake(self) -> None:
        """Those that wait for a connection are to look whether they still want this one."""
        waited_for, self._round = self._round, _Round()
        waited_for.over.set()

    def leave(self) -> None:
        """Nothing more is to be sent here; what is in flight may be answered until `aclose`."""
        self._closed = True
        self._link = None
        self.wake()
        for scope in self._outdated:
            scope.cancel(reason="its server is not in the cluster any more")
        for link in tuple(self._links):
            link.retire()

    def give_up(self, link: MultiplexedConnection) -> None:
        """Send nothing more over this connection; it ends with its last reply."""
        self._forget(link)
        link.retire()

    # ---- connecting ----------------------------------------------------------------------------------------------

    async def _connect_on(self) -> None:  # noqa: ASYNC910 (it waits, unless nobody waits for it)
        """Try to connect until that succeeds, or is hopeless, or nobody waits for it any more."""
        self._problem = None
        error: SentinelScanError | None = None
        while self._link is None and error is None and self._waiting:
            try:
                await self.open()
            except (ServerConnectionError, ResponseTimeout) as problem:
                self._problem = problem
                with self._unless_outdated():
                    await trio.sleep(RETRY_PERIOD)
            except SentinelScanError as hopeless:
                error = hopeless
        self._end_round(error)

    def _end_round(self, error: SentinelScanError | None) -> None:
        self._connecting = False
        self._round.error = error
        self._round.over.set()

    @contextmanager
    def _unless_outdated(self) -> Generator[None]:
        with trio.CancelScope() as scope:
            self._outdated.add(scope)
            try:
                yield
            finally:
                self._outdated.discard(scope)

    async def _connect(self) -> None:
        """Connect to the target. Nothing comes of it if another master is named meanwhile."""
        source = self._source
        target = source.target
        with self._unless_outdated():
            connection = await source.connect(target)
            assert connection.greeting is not None
            unfit = unfit_for_scanning(connection.greeting.role, target.address, wants_master=source.wants_master)
            # A replica that is still loading may be talked to; a "master" that says it is none may not.
            if unfit and source.wants_master:
                await connection.aclose()
                raise RoleMismatch(unfit)
            if self._closed or self._nursery is None or source.target.version != target.version:
                await connection.aclose()
                return
            self._link = link = MultiplexedConnection(
                connection,
                response_timeout=source.settings.response_timeout,
                max_in_flight=self._max_waiting,
                counters=self._counters,
                on_end=self._ended,
            )
            self._links.add(link)
            self._ledger.connected(link.greeting.identity)
            self._counters.connections += 1
            self._counters.first_connections += not self._has_connected
            self._has_connected = True
            self._nursery.start_soon(link.run)
            logger.debug("connected to %s", link.greeting.identity)

    def _leave_old_master(self) -> None:
        address = self._source.target.address
        for scope in self._outdated:
            scope.cancel(reason=f"MASTER_CHANGE: the master is {address}")
        # Those that were given up, too: what they wait for may never come.
        for link in tuple(self._links):
            link.fail(ServerConnectionError(f"MASTER_CHANGE: the master is {address}"))

    def _forget(self, link: MultiplexedConnection) -> None:
        if self._link is link:
            self._link = None

    def _ended(self, link: MultiplexedConnection) -> None:
        self._links.discard(link)
        self._forget(link)
