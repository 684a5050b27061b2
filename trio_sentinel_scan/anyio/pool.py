# Generated from _trio/pool.py by `nox -s anyio`: change that file, never this one.
"""A bounded number of connections that one caller at a time has for itself: for leases, blocking commands, WATCH.

Whoever waits for one is served in the order of coming. A connection is returned clean, or it is closed.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.abc

from .._core.blocking import block_times
from .._core.connection_state import ConnectionState
from .._core.cursor_home import CursorLedger
from .._core.errors import (
    ClientClosed,
    LeaseLost,
    ResponseTimeout,
    RoleMismatch,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
)
from .._core.handshake import unfit_for_scanning
from .._core.wire import encode_commands
from . import streams
from .home_loop import HomeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.commands import Command
    from .._core.identity import ServerIdentity
    from .._core.scan_steps import Target
    from .._core.wire import Reply
    from .connection import Connection
    from .sources import ClusterNodes, SentinelService, SingleServer

__all__ = ["ConnectionPool", "Loan", "Where"]

logger: logging.Logger = logging.getLogger("trio_sentinel_scan.client")

# Which server a connection is to be to, at the moment; None: it is not known.
Where: TypeAlias = "Callable[[], Target | None]"

# Seconds between two attempts to reach a server that is away.
RETRY_PERIOD = 0.1


class Loan:
    """A connection that is out of the pool. Tasks that use it at the same time wait for each other."""

    def __init__(self, connection: Connection, target: Target) -> None:
        greeting = connection.greeting
        assert greeting is not None
        self.connection: Connection = connection
        self.target: Target = target
        self.server: ServerIdentity = greeting.identity
        self.state: ConnectionState = ConnectionState(greeting.protocol)
        # Why the connection is gone. Invariant: empty exactly as long as commands may be sent on it.
        self.lost: str = ""
        self._cause: Exception | None = None
        self._turn = anyio.Lock()
        self.home: HomeLoop = HomeLoop()
        # A cursor is good here if it was issued here: nothing else tells which process it is from.
        self._ledger = CursorLedger(has_moved=True)

    async def ask(self, commands: Sequence[Command], decode: Sequence[bool]) -> list[Reply]:
        """Send commands in one go and return their replies, errors among them.

        Raises LeaseLost, if the connection was gone before anything was sent; then ServerConnectionError,
        ResponseTimeout and ProtocolError. It leaves a connection that failed, or whose caller was cancelled, closed.
        """
        async with self._turn:
            self.check()
            waits = block_times(commands, in_multi=self.state.in_multi)
            for command in commands:
                self._ledger.check(command, self.server, home=None)
                self.state.sending(command)
            try:
                await self.connection.send_encoded(encode_commands(c.args for c in commands), len(commands))
                replies: list[Reply] = []
                for command, wanted, wait in zip(commands, decode, waits, strict=True):
                    reply = await self.connection.receive(decode=wanted, waits=wait)
                    self.state.answered(command, reply)
                    self._ledger.answered(command, reply, self.server, None)
                    replies.append(reply)
            except BaseException as error:
                self._spoil(error)
                await self.connection.aclose()
                raise
            return replies

    def _spoil(self, error: BaseException) -> None:
        if self.lost:
            # A change of masters, or the end of the client: that is why it was closed.
            return
        if isinstance(error, SentinelScanError):
            self.lost, self._cause = str(error), error
        elif isinstance(error, Exception):
            self.lost, self._cause = f"a reply cannot be understood ({type(error).__name__})", error
        else:
            self.lost = "a command on it was cancelled before its reply had come"

    def check(self) -> None:
        """Raise LeaseLost if the connection is gone."""
        if self.lost:
            msg = f"this lease's connection to {self.server.address} is gone: {self.lost}; lease another one"
            raise LeaseLost(msg) from self._cause

    @property
    def reusable(self) -> bool:
        """Whether the next one to have it would find it as new."""
        return not self.lost and self.connection.usable and not self.connection.has_more and self.state.clean


class ConnectionPool:
    """The connections of one client beside the shared one, all to its present server."""

    def __init__(self, source: SingleServer | SentinelService | ClusterNodes) -> None:
        self._source = source
        # Its places: one for each connection that is out. First come, first served.
        self._room = anyio.Semaphore(source.settings.max_connections)
        # At rest, the last one used at the end. Invariant: each is for the present target.
        self._idle: list[tuple[Connection, Target]] = []
        self._out: set[Loan] = set()
        # Around each wait for a place, to be ended with the client, and each attempt to connect, with its target and
        # what says whether that is the one still.
        self._waits: set[anyio.CancelScope] = set()
        self._attempts: dict[anyio.CancelScope, tuple[Target, Where]] = {}
        self._task_group: anyio.abc.TaskGroup | None = None
        # The loop that it was started in last.
        self._home: HomeLoop | None = None
        # Invariant: while True, there is no connection, in or out, and none is made.
        self._closed = True

    def start(self, task_group: anyio.abc.TaskGroup) -> None:
        """From now on a change of masters closes every connection to the old one at once."""
        self._task_group = task_group
        self._home = HomeLoop()
        # It may have been made where another loop ran, and what is made there may be of no use here.
        self._room = anyio.Semaphore(self._source.settings.max_connections)
        # (What has not come back by now had its place in the other one.)
        self._out.clear()
        self._closed = False
        self._source.on_change.add(self._leave_old_master)

    async def aclose(self) -> None:  # noqa: ASYNC910 (closing takes no time)
        """Close every connection, those that are out too, and make no other."""
        self._closed = True
        self._source.on_change.discard(self._leave_old_master)
        for scope in (*self._waits, *self._attempts):
            scope.cancel(reason="the client was closed")
        for loan in list(self._out):
            loan.lost = loan.lost or "the client was closed"
            await loan.connection.aclose()
        while self._idle:
            connection, _ = self._idle.pop()
            await connection.aclose()

    def check_loop(self) -> None:
        """Raise WrongEventLoop where its connections are not to be used. (Once it is closed, that is what matters.)"""
        if self._home is not None and not self._closed:
            self._home.check("a client's pipeline")

    async def take(self, where: Where | None = None, *, until: float = math.inf) -> Loan:
        """A connection to the present server, to be given back. It waits for its turn, however long that takes, and
        then for a server up to `failover_timeout`, or `until` then. `where` says which server that is, if there are
        several.

        Raises ServerUnavailable, AuthenticationFailed, ProtocolError, ClientClosed.
        """
        with anyio.CancelScope() as turn:
            self._waits.add(turn)
            # (A client that is opened again has another one.)
            room = self._room
            try:
                await room.acquire()
            finally:
                self._waits.discard(turn)
            try:
                loan = Loan(*await self._connected(where or self._present, until))
            except BaseException:
                room.release()
                raise
            self._out.add(loan)
            return loan
        raise self._was_closed()

    async def give_back(self, loan: Loan) -> None:  # noqa: ASYNC910 (closing takes no time)
        """A loan is over."""
        if loan in self._out:
            self._out.discard(loan)
            self._room.release()
        reusable = loan.reusable and not self._closed and self._is_present(loan.target)
        # Whoever still has the loan in hand must not use what is somebody else's from now on.
        loan.lost = loan.lost or "it was given back"
        if reusable:
            self._idle.append((loan.connection, loan.target))
        else:
            await loan.connection.aclose()

    def _present(self) -> Target | None:
        """The server that there are connections to."""
        return self._source.target

    def _is_present(self, target: Target) -> bool:
        """Whether a connection to this one is of use to the next one to come."""
        return target.version == self._source.target.version

    async def _connected(self, where: Where, until: float) -> tuple[Connection, Target]:  # noqa: ASYNC910 (its caller has waited)
        deadline = min(until, streams.current_time() + self._source.failover_timeout)
        problem: Exception | None = None
        while True:
            if self._closed:
                raise self._was_closed()
            target = where()
            if target is not None:
                if (found := await self._idle_to(target)) is not None:
                    return found
                try:
                    # No await lies between its last look at the target and the return: it is to the master now.
                    connection = await self._connect(target, where, deadline)
                    if connection is not None:
                        return connection, target
                except (ServerConnectionError, ResponseTimeout) as error:
                    problem = error
            if streams.current_time() >= deadline:
                said = problem or (f"{target.address} did not take a connection" if target else "nobody has the slot")
                msg = f"no server gave a connection within {self._source.failover_timeout:g} s: {said}"
                raise ServerUnavailable(msg) from problem
            if target is None or _is_same(target, where()):
                await anyio.sleep(RETRY_PERIOD)

    async def _idle_to(self, target: Target) -> tuple[Connection, Target] | None:  # noqa: ASYNC910 (as above)
        """The connection to `target` that was used last, if it is still good; that of others are left alone."""
        for at in reversed(range(len(self._idle))):
            idle, of = self._idle[at]
            if _is_same(of, target):
                del self._idle[at]
                if idle.usable and idle.is_quiet:
                    return idle, of  # noqa: ASYNC910 (as above)
                await idle.aclose()
        return None  # noqa: ASYNC910 (as above)

    async def _connect(self, target: Target, where: Where, deadline: float) -> Connection | None:
        """A connection to `target`; None if another master was named meanwhile, or the time was up."""
        if len(self._idle) + len(self._out) >= self._source.settings.max_connections and self._idle:
            # (To other servers than this.)
            oldest, _ = self._idle.pop(0)
            await oldest.aclose()
        with anyio.CancelScope(deadline=deadline) as attempt:
            self._attempts[attempt] = target, where
            try:
                connection = await self._source.connect(target)
            finally:
                del self._attempts[attempt]
            greeting = connection.greeting
            assert greeting is not None
            unfit = unfit_for_scanning(greeting.role, target.address, wants_master=self._source.wants_master)
            if self._closed or not _is_same(target, where()):
                await connection.aclose()
                return None
            # A replica that is still loading may be talked to; a "master" that says it is none may not.
            if unfit and self._source.wants_master:
                await connection.aclose()
                raise RoleMismatch(unfit)
            logger.debug("connected to %s, for one caller", greeting.identity)
            return connection
        return None

    def _leave_old_master(self) -> None:
        target = self._source.target
        reason = f"MASTER_CHANGE: the master is {target.address}"
        self._end_attempts(reason)
        left = [connection for connection, of in self._idle if of.version != target.version]
        self._idle = [(connection, of) for connection, of in self._idle if of.version == target.version]
        for loan in self._out:
            if loan.target.version != target.version and not loan.lost:
                loan.lost = reason
                left.append(loan.connection)
        if self._task_group is not None:
            for connection in left:
                self._task_group.start_soon(connection.aclose)

    def _end_attempts(self, reason: str) -> None:
        """Those that are not to the right server any more."""
        for attempt, (target, where) in self._attempts.items():
            if not _is_same(target, where()):
                attempt.cancel(reason=reason)

    @staticmethod
    def _was_closed() -> ClientClosed:
        return ClientClosed("the client is not open (any more): there is no connection to be had")


def _is_same(target: Target, other: Target | None) -> bool:
    return other is not None and (target.address, target.version) == (other.address, other.version)
