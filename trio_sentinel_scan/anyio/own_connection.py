# Generated from _trio/own_connection.py by `nox -s anyio`: change that file, never this one.
"""Commands that run on a connection of their own for as long as they take: blocking ones, and batches of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from redis.exceptions import RedisError

from .._core.blocking import block_time, with_block_time
from .._core.command_fate import goes_again, name_of, outcome_unknown, refused_unrun, spends_connection
from .._core.errors import (
    CommandOutcomeUnknown,
    LeaseLost,
    ResponseTimeout,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
)
from .._core.in_flight import Written
from . import streams
from .pool import RETRY_PERIOD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from .._core.commands import Command
    from .._core.wire import Reply
    from .pool import ConnectionPool, Loan
    from .shared import SharedConnection
    from .sources import SentinelService, SingleServer

__all__ = ["PoolRunner"]


class PoolRunner:
    """Runs a client's blocking commands, batches and WATCHes."""

    def __init__(self, pool: ConnectionPool, shared: SharedConnection, source: SingleServer | SentinelService) -> None:
        self._pool = pool
        self._shared = shared
        self._source = source
        # Whether another master is looked up when a server says that it is none.
        self.follows_master: bool = source.wants_master

    def whereabouts(self, command: Command) -> object:  # noqa: ARG002 (it is all the same)
        """Who answers, for messages."""
        return self._source.target.address

    def check_loop(self) -> None:
        """Raise WrongEventLoop in another loop than the client's."""
        self._pool.check_loop()

    async def run(self, commands: Sequence[Command], decode: Sequence[bool]) -> tuple[list[Reply], int]:
        """Commands that may share a connection, if they are sent next to each other. As `run_alone`."""
        return await self._told(self._shared.execute_batch(commands, decode=decode), len(commands))

    async def run_alone(self, commands: Sequence[Command], decode: Sequence[bool]) -> tuple[list[Reply], int]:
        """Send commands in one go on a connection of their own; their replies, errors among them, and the protocol.

        While the master is away it waits for the next one up to `failover_timeout`, which the time that a server keeps
        the commands waiting is not part of. They are sent again as long as none of them is known to have run, or all
        of them only read; a blocking one waits for what is left of its time then.

        Raises CommandOutcomeUnknown, ServerUnavailable and what `ConnectionPool.take` does.
        """
        return await self._told(self._run_alone(commands, decode), len(commands))

    async def _told(self, work: Awaitable[tuple[list[Reply], int]], number: int) -> tuple[list[Reply], int]:
        telemetry = self._source.telemetry
        return await (work if telemetry is None else telemetry.operation("PIPELINE", work, batch_size=number))

    async def _run_alone(self, commands: Sequence[Command], decode: Sequence[bool]) -> tuple[list[Reply], int]:
        # It begins when the first connection is there: to wait for one's turn is not to wait for a server.
        deadline: float | None = None
        doubt: CommandOutcomeUnknown | None = None
        while True:
            try:
                loan = await self._pool.take()
            except SentinelScanError as error:
                if doubt is None:
                    raise
                # That it had no other try does not tell what came of the one before.
                raise doubt from error
            began = streams.current_time()
            deadline = began + self._source.failover_timeout if deadline is None else deadline
            problem: Exception
            try:
                replies = await loan.ask(commands, decode)
                refusal = refused_unrun(commands, replies, follows_master=self.follows_master)
                if refusal is None:
                    return replies, loan.state.protocol
                problem = refusal
                if spends_connection(refusal):
                    self._source.look_again()
            except LeaseLost as error:
                problem = error
            except (ServerConnectionError, ResponseTimeout) as error:
                if not goes_again(commands, Written.ALL, retry_writes=self._source.settings.retry_writes):
                    raise outcome_unknown(commands, loan.server.address, loan.lost) from error
                if not goes_again(commands, Written.ALL, retry_writes=False):
                    doubt = doubt or outcome_unknown(commands, loan.server.address, loan.lost, tried_again=True)
                problem = error
            finally:
                await self._pool.give_back(loan)  # noqa: ASYNC102 (closing is shielded, and takes no time)
            waited = streams.current_time() - began
            deadline += waited
            commands = [with_block_time(command, block_time(command) - waited) for command in commands]
            if streams.current_time() >= deadline:
                if doubt is not None:
                    raise doubt from problem
                msg = f"no server took {name_of(commands)} within {self._source.failover_timeout:g} s: {problem}"
                raise ServerUnavailable(msg) from problem
            await anyio.sleep(RETRY_PERIOD)

    async def run_one_alone(self, command: Command, *, decode: bool) -> tuple[Reply, int]:
        """The same for one command, whose error reply is raised."""
        # (The client's own call is what telemetry is told of.)
        (reply,), protocol = await self._run_alone([command], [decode])
        if isinstance(reply, RedisError):
            raise reply
        return reply, protocol

    async def take(self, command: Command) -> Loan:  # noqa: ARG002 (it is all the same)
        """A connection for WATCH. Raises what `ConnectionPool.take` does."""
        return await self._pool.take()

    async def give_back(self, loan: Loan) -> None:  # noqa: ASYNC910 (closing takes no time)
        """It is over."""
        await self._pool.give_back(loan)
