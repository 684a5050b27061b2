# Generated from _trio/lease.py by `nox -s anyio`: change that file, never this one.
"""A connection of the caller's own, for as long as it is held, with redis-py's commands on it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import RedisError, ResponseError

from .._core.command_fate import goes_again, outcome_unknown
from .._core.errors import LeaseLost, ResponseTimeout, ServerConnectionError
from .._core.in_flight import Written
from .pipeline import PipelineOwner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from .._core.commands import Command
    from .._core.identity import ServerIdentity
    from .._core.wire import Reply
    from .command_set import Dialect
    from .pool import ConnectionPool, Loan, Where

__all__ = ["Lease", "open_lease"]


class _LeaseRunner:
    """Runs what is asked for on the lease's connection, and nowhere else."""

    follows_master = False

    def __init__(self, loan: Loan) -> None:
        self._loan = loan

    def whereabouts(self, command: Command) -> object:  # noqa: ARG002 (it is all the same)
        return self._loan.server.address

    def check_loop(self) -> None:
        self._loan.home.check("a lease")

    async def run(self, commands: Sequence[Command], decode: Sequence[bool]) -> tuple[list[Reply], int]:
        loan = self._loan
        # As it is now: the commands may be about to change it.
        protocol = loan.state.protocol
        try:
            return await loan.ask(commands, decode), protocol
        except LeaseLost:
            raise
        except (ServerConnectionError, ResponseTimeout) as error:
            if goes_again(commands, Written.ALL, retry_writes=False):
                loan.check()
            raise outcome_unknown(commands, loan.server.address, loan.lost) from error

    async def run_alone(self, commands: Sequence[Command], decode: Sequence[bool]) -> tuple[list[Reply], int]:
        return await self.run(commands, decode)

    async def run_one_alone(self, command: Command, *, decode: bool) -> tuple[Reply, int]:
        (reply,), protocol = await self.run([command], [decode])
        if isinstance(reply, RedisError):
            raise reply
        return reply, protocol

    async def take(self, command: Command) -> Loan:  # noqa: ARG002 (it is all the same)
        # There is no other one: without this, `transaction` would begin again for ever.
        self._loan.check()
        return self._loan  # noqa: ASYNC910 (it is there)

    async def give_back(self, loan: Loan) -> None:
        """It stays with the lease."""


class Lease(PipelineOwner):
    """A connection to one server process, which nobody else uses while this one is held.

    It may be set to anything (SELECT, AUTH, CLIENT TRACKING, WATCH, ...), and WAIT answers for what was written here.
    A connection whose state was changed is closed at the end, and another one made when it is needed.

    It is never replaced by a connection to another server: once it is lost, by a failover, a cancelled command or a
    reply that did not come in time, each command raises `LeaseLost`; the one that was under way raises
    `CommandOutcomeUnknown`, unless it only reads. Error replies are raised as they come; nothing is sent again.
    """

    def __init__(self, dialect: Dialect, loan: Loan) -> None:
        """For `client.dedicated()` only."""
        super().__init__(dialect, _LeaseRunner(loan))
        self._loan = loan

    @property
    def server(self) -> ServerIdentity:
        """The process at the other end."""
        return self._loan.server

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command, given as its words, on this connection, and return its reply as redis-py would.

        Raises LeaseLost, CommandOutcomeUnknown, CommandNotShareable (for SUBSCRIBE, MONITOR and their like, which are
        not answered by one reply) and redis-py's errors.
        """
        self._loan.home.check("a lease")
        command = self._dialect.read(args, leased=True)
        try:
            reply, protocol = await self._runner.run_one_alone(command, decode=NEVER_DECODE not in options)
        except ResponseError:
            if EMPTY_RESPONSE in options:
                return options[EMPTY_RESPONSE]  # noqa: ASYNC910 (the reply has been waited for)
            raise
        return await self._dialect.result(command, args[0], reply, protocol, options, self._runner)

    def __repr__(self) -> str:
        return f"<Lease of a connection to {self.server}{', lost' if self._loan.lost else ''}>"


@asynccontextmanager
async def open_lease(dialect: Dialect, pool: ConnectionPool, where: Where | None = None) -> AsyncGenerator[Lease]:
    """A lease for the block, of a connection to whom `where` names. Raises what `ConnectionPool.take` does."""
    loan = await pool.take(where)
    try:
        yield Lease(dialect, loan)
    finally:
        await pool.give_back(loan)  # noqa: ASYNC102 (closing is shielded, and takes no time)
