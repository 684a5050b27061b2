"""The one connection that a client's ordinary commands share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio
from redis import exceptions as redis_errors

from .._core.commands import Command, may_send_again, never_ran
from .._core.cursor_home import CursorHome, CursorLedger
from .._core.errors import (
    ClientClosed,
    CommandOutcomeUnknown,
    ResponseTimeout,
    RoleMismatch,
    ServerConnectionError,
    ServerUnavailable,
)
from .._core.handshake import Greeting, unfit_for_scanning

if TYPE_CHECKING:
    from .._core.scan_steps import Target
    from .._core.wire import Reply
    from .connection import Connection
    from .sources import SentinelService, SingleServer

__all__ = ["SharedConnection"]

logger = logging.getLogger("trio_sentinel_scan.client")

# Seconds between two attempts to reach a server that is away.
RETRY_PERIOD = 0.1


class SharedConnection:
    """Opens a connection when a command needs one, and follows the master. One command at a time."""

    def __init__(self, source: SingleServer | SentinelService) -> None:
        self._source = source
        self._lock = trio.Lock()
        self._connection: Connection | None = None
        # What `_connection` was opened for. Invariant: None exactly when `_connection` is.
        self._target: Target | None = None
        # Whether it has not been used for a command yet.
        self._fresh = True
        # Invariant: once True, there is no connection and none is made.
        self._closed = False
        self._ledger = CursorLedger()
        # Around the attempt to connect that is under way; None while there is none.
        self._connecting: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """From now on a change of masters closes the connection to the old one at once."""
        self._nursery = nursery
        self._closed = False
        self._source.on_change.add(self._leave_old_master)

    async def open(self) -> None:
        """Have a connection. Raises what `open_connection` does, and RoleMismatch."""
        async with self._lock:
            await self._usable_connection()

    async def execute(self, command: Command, *, decode: bool, home: CursorHome | None = None) -> tuple[Reply, int]:
        """Send a command; its reply, and the protocol (2 or 3) that it came in. Error replies are raised.

        Raises CommandOutcomeUnknown, ServerUnavailable, AuthenticationFailed, ProtocolError, ScanInterrupted (for a
        cursor that would go to another process) and redis-py's errors.
        """
        deadline = trio.current_time() + self._source.failover_timeout
        problem: Exception = ServerConnectionError(f"{self._source.target.address} did not take a connection")
        while True:
            written = False
            try:
                connection = await self._acquire(deadline)
                if connection is not None:
                    try:
                        greeting = self._greet(connection, command, home)
                        written = True
                        reply = await self._round_trip(connection, command, decode=decode)
                    finally:
                        self._lock.release()
                    if not isinstance(reply, redis_errors.RedisError):
                        self._ledger.answered(command, reply, home)
                        return reply, greeting.protocol
                    if not never_ran(command, reply, follows_master=self._source.wants_master):
                        raise reply
                    problem = reply
                    await self._drop_if(connection)
            except (ServerConnectionError, ResponseTimeout) as error:
                if not may_send_again(command, written=written):
                    msg = (
                        f"{command.name} was sent to {self._source.target.address} and its reply never came"
                        f" ({error}); it may have run or not, and was not sent again"
                    )
                    raise CommandOutcomeUnknown(msg) from error
                problem = error
            if trio.current_time() >= deadline:
                msg = f"no server took {command.name} within {self._source.failover_timeout:g} s: {problem}"
                raise ServerUnavailable(msg) from problem
            await trio.sleep(RETRY_PERIOD)

    async def _acquire(self, deadline: float) -> Connection | None:
        """The connection, and with it the lock; None, without the lock, if there was none until the deadline."""
        with trio.move_on_at(deadline):
            await self._lock.acquire()
            try:
                return await self._usable_connection()
            except BaseException:
                self._lock.release()
                raise
        return None

    def _greet(self, connection: Connection, command: Command, home: CursorHome | None) -> Greeting:
        greeting = connection.greeting
        assert greeting is not None
        fresh, self._fresh = self._fresh, False
        self._ledger.check(command, greeting.identity, fresh=fresh, home=home)
        return greeting

    async def aclose(self) -> None:  # noqa: ASYNC910 (closing nothing takes no time)
        """Close the connection, open no other, and listen to the Sentinels no more."""
        self._closed = True
        self._source.on_change.discard(self._leave_old_master)
        await self._drop()

    async def _round_trip(self, connection: Connection, command: Command, *, decode: bool) -> Reply:
        try:
            (reply,) = await connection.request(command.args, decode=decode)
        except BaseException:
            # Its next reply would be this command's, or the rest of it.
            if self._connection is connection:
                self._connection = self._target = None
            await connection.aclose()
            raise
        return reply

    async def _usable_connection(self) -> Connection:
        # No await lies between the last look at the target and the return: the connection is to the master now.
        while True:
            target = self._source.target
            connection = self._connection
            if self._closed:
                raise ClientClosed("the client was closed while a command was waiting for its server")
            if connection is not None and connection.usable and connection.is_quiet and self._is_for(target):
                return connection  # noqa: ASYNC910 (whoever holds the lock has waited for it)
            await self._drop()
            await self._connect(target)

    async def _connect(self, target: Target) -> None:
        """Connect to `target`. Nothing comes of it if another master is named meanwhile."""
        with trio.CancelScope() as scope:
            self._connecting = scope
            try:
                connection = await self._source.connect(target)
            finally:
                self._connecting = None
            assert connection.greeting is not None
            unfit = unfit_for_scanning(connection.greeting.role, target.address, wants_master=self._source.wants_master)
            # A replica that is still loading may be talked to; a "master" that says it is none may not.
            if unfit and self._source.wants_master:
                await connection.aclose()
                raise RoleMismatch(unfit)
            if self._closed:
                await connection.aclose()
                return
            self._connection, self._target, self._fresh = connection, target, True
            logger.debug("connected to %s", connection.greeting.identity)

    def _leave_old_master(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel(reason=f"MASTER_CHANGE: the master is {self._source.target.address}")
        connection = self._connection
        if connection is not None and not self._is_for(self._source.target) and self._nursery is not None:
            self._connection = self._target = None
            self._nursery.start_soon(connection.aclose)

    def _is_for(self, target: Target) -> bool:
        return self._target is not None and self._target.version == target.version

    async def _drop_if(self, connection: Connection) -> None:
        async with self._lock:
            if self._connection is connection:
                await self._drop()

    async def _drop(self) -> None:  # noqa: ASYNC910 (closing nothing takes no time)
        connection, self._connection, self._target = self._connection, None, None
        if connection is not None:
            await connection.aclose()
