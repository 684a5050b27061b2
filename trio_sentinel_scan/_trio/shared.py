"""What a client's ordinary commands share: a connection to its present server, and the policy when that fails."""

from __future__ import annotations

import copy
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from .._core.command_fate import goes_again, name_of, outcome_unknown, refused_unrun, spends_connection
from .._core.cursor_home import CursorHome, CursorLedger, has_cursor
from .._core.errors import (
    ClientClosed,
    CommandOutcomeUnknown,
    ProtocolError,
    ResponseTimeout,
    RoleMismatch,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
    TooManyCommandsWaiting,
)
from .._core.handshake import unfit_for_scanning
from .._core.statistics import ClientStatistics, Counters
from .._core.wire import encode_command, encode_commands
from .multiplexed import MultiplexedConnection

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from .._core.commands import Command
    from .._core.in_flight import Request
    from .._core.wire import Reply
    from .sources import SentinelService, SingleServer

__all__ = ["SharedConnection"]

logger = logging.getLogger("trio_sentinel_scan.client")

# Seconds between two attempts to reach a server that is away, or to have a command taken by one that refuses.
RETRY_PERIOD = 0.1


class _Round:
    """What the commands that wait for a connection wait for: one to come about, or to be hopeless."""

    __slots__ = ("error", "over")

    def __init__(self) -> None:
        self.over = trio.Event()
        # Set before `over` is, if there is no use in waiting on.
        self.error: SentinelScanError | None = None


class SharedConnection:
    """Opens a connection when a command needs one, and follows the master."""

    def __init__(self, source: SingleServer | SentinelService) -> None:
        self._source = source
        self._retry_writes = source.settings.retry_writes
        self._max_waiting = source.settings.max_waiting
        # Where commands go. Invariant: it is for the present target; None while there is none.
        self._link: MultiplexedConnection | None = None
        # Every connection that has not ended; those that are retired, too.
        self._links: set[MultiplexedConnection] = set()
        # Invariant: once True, there is no connection and none is made.
        self._closed = False
        self._ledger = CursorLedger()
        self._counters = Counters()
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
        self._source.on_change.add(self._leave_old_master)

    async def open(self) -> None:
        """Have a connection. Raises what `open_connection` does, and RoleMismatch."""
        async with self._opening:
            while self._link is None:
                if self._closed:
                    raise ClientClosed("the client was closed while it was connecting")
                await self._connect()

    async def aclose(self) -> None:
        """Close the connections, open no other, and listen to the Sentinels no more."""
        self._closed = True
        self._source.on_change.discard(self._leave_old_master)
        gone = ClientClosed("the client was closed while a command was waiting for its server")
        for link in tuple(self._links):
            link.fail(gone)
        self._end_round(gone)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def statistics(self) -> ClientStatistics:
        """The counts so far."""
        in_flight = sum(link.in_flight for link in self._links)
        return self._counters.snapshot(in_flight=in_flight, waiting=self._waiting)

    async def execute(self, command: Command, *, decode: bool, home: CursorHome | None = None) -> tuple[Reply, int]:
        """Send a command; its reply, and the protocol (2 or 3) that it came in. Error replies are raised.

        Raises CommandOutcomeUnknown, ServerUnavailable, TooManyCommandsWaiting, AuthenticationFailed, ProtocolError,
        ClientClosed, ScanInterrupted (for a cursor that would go to another process), UnicodeDecodeError and
        redis-py's errors.
        """
        data = encode_command(*command.args)
        link = self._link
        first: tuple[MultiplexedConnection, Request] | None = None
        if link is not None and link.is_ready() and not has_cursor(command):
            request = link.send(data, 1, decode=decode)
            await link.wait_for(request)
            if request.failure is None and not isinstance(reply := request.replies[0], Exception):
                return reply, link.greeting.protocol
            first = link, request
        (reply,), protocol = await self._see_through((command,), data, decode=decode, home=home, first=first)
        if isinstance(reply, Exception):
            raise reply
        return reply, protocol

    async def execute_batch(
        self, commands: Sequence[Command], *, decode: Sequence[bool] | bool
    ) -> tuple[list[Reply], int]:
        """Send commands without another's in between: their replies in order, and the protocol that they came in.

        An error reply is returned in its place, and so is the UnicodeDecodeError of one that cannot be decoded; it
        raises as `execute` does. `decode` may be given for each reply. MULTI must come with its EXEC.
        They are sent again if nothing of them was written; if the replies prove that none of them ran; and, without
        MULTI, if all of them only read or by `retry_writes`.
        """
        data = encode_commands(command.args for command in commands)
        return await self._see_through(commands, data, decode=decode)

    async def _see_through(
        self,
        commands: Sequence[Command],
        data: bytes,
        *,
        decode: Sequence[bool] | bool,
        home: CursorHome | None = None,
        first: tuple[MultiplexedConnection, Request] | None = None,
    ) -> tuple[list[Reply], int]:
        """Send until the replies are there, or the policy says that it is enough. `first` is a try that was made."""
        doubts: list[CommandOutcomeUnknown] = []
        try:
            return await self._try_on(commands, data, doubts, decode=decode, home=home, first=first)
        except CommandOutcomeUnknown:
            raise
        except SentinelScanError as error:
            if not doubts:
                raise
            # What the last try says, that it was not even sent, is not true of the others.
            self._counters.outcome_unknown += 1
            raise doubts[0] from error

    async def _try_on(
        self,
        commands: Sequence[Command],
        data: bytes,
        doubts: list[CommandOutcomeUnknown],
        *,
        decode: Sequence[bool] | bool,
        home: CursorHome | None,
        first: tuple[MultiplexedConnection, Request] | None,
    ) -> tuple[list[Reply], int]:
        """As `_see_through`; `doubts` get what is to be said if nothing comes of sending a write again."""
        started = trio.current_time() if first is None else first[1].since
        deadline = started + self._source.failover_timeout
        tries = 0
        while True:
            if first is None:
                link = await self._usable_link(commands, deadline)
                self._check_cursors(commands, link, home)
                request = link.send(data, len(commands), decode=decode)
                await link.wait_for(request)
            else:
                (link, request), first = first, None
            tries += 1
            problem: Exception | None
            if request.failure is not None:
                problem = self._lost(commands, link, request)
                if not doubts and not goes_again(commands, link.written(request), retry_writes=False):
                    doubts.append(outcome_unknown(commands, link.address, problem, tried_again=True))
            else:
                replies = request.replies
                problem = refused_unrun(commands, replies, follows_master=self._source.wants_master)
                if problem is None:
                    for command, reply in zip(commands, replies, strict=True):
                        self._ledger.answered(command, reply, link.greeting.identity, home)
                    return replies, link.greeting.protocol  # noqa: ASYNC910 (whoever has replies has waited)
                if spends_connection(problem):
                    self._forget(link)
                    link.retire()
                    self._source.look_again()
            if trio.current_time() >= deadline:
                raise self._unavailable(commands, problem) from problem
            if tries > 1 or request.failure is None:
                # The first loss is made good at once: another master may be there already.
                await trio.sleep(RETRY_PERIOD)
            self._counters.sent_again += 1

    def _lost(self, commands: Sequence[Command], link: MultiplexedConnection, request: Request) -> Exception:
        """Its connection was lost; returns why. Raises if that is the end of it."""
        failure = request.failure
        assert failure is not None
        if isinstance(failure, ProtocolError):
            # What broke the protocol was the reply to this.
            raise failure
        if goes_again(commands, link.written(request), retry_writes=self._retry_writes):
            return failure
        self._counters.outcome_unknown += 1
        raise outcome_unknown(commands, link.address, failure) from failure

    def _check_cursors(self, commands: Sequence[Command], link: MultiplexedConnection, home: CursorHome | None) -> None:
        for command in commands:
            if has_cursor(command):
                self._ledger.check(command, link.greeting.identity, home=home)

    def _unavailable(self, commands: Sequence[Command], problem: Exception | None) -> ServerUnavailable:
        self._counters.unavailable += 1
        within = f"{self._source.failover_timeout:g} s"
        return ServerUnavailable(f"no server took {name_of(commands)} within {within}: {problem}")

    # ---- connecting ----------------------------------------------------------------------------------------------

    async def _usable_link(self, commands: Sequence[Command], deadline: float) -> MultiplexedConnection:
        """A connection on which a request may be sent in this very step."""
        while True:
            link = self._link
            if self._waiting + (0 if link is None else link.in_flight) >= self._max_waiting:
                self._counters.turned_away += 1
                raise TooManyCommandsWaiting(
                    f"{self._max_waiting} commands (max_waiting) are waiting already; {name_of(commands)} was not sent"
                )
            if link is not None and link.is_ready():
                return link  # noqa: ASYNC910 (sending waits)
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
                with trio.move_on_at(deadline):
                    await waited_for.over.wait()
            finally:
                self._waiting -= 1
            if waited_for.error is not None:
                # Each of those who wait raises one of its own.
                raise copy.copy(waited_for.error) from waited_for.error
            if not waited_for.over.is_set():
                problem = self._problem or ServerConnectionError(
                    f"{self._source.target.address} did not take a connection"
                )
                raise self._unavailable(commands, problem) from problem

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
