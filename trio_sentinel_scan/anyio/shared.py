# Generated from _trio/shared.py by `nox -s anyio`: change that file, never this one.
"""What a client's ordinary commands share: a connection to its present server, and the policy when that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from .._core.command_fate import goes_again, outcome_unknown, refused_unrun, spends_connection
from .._core.cursor_home import CursorHome, has_cursor
from .._core.errors import CommandOutcomeUnknown, ProtocolError, SentinelScanError
from .._core.wire import encode_command, encode_commands
from . import streams
from .link_keeper import RETRY_PERIOD, LinkKeeper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._core.commands import Command
    from .._core.in_flight import Request
    from .._core.statistics import ClientStatistics
    from .._core.wire import Reply
    from .multiplexed import MultiplexedConnection
    from .sources import SentinelService, SingleServer

__all__ = ["SharedConnection"]


class SharedConnection(LinkKeeper):
    """Sends commands until they are answered, or the policy says that it is enough."""

    def __init__(self, source: SingleServer | SentinelService) -> None:
        super().__init__(source)
        self._retry_writes = source.settings.retry_writes

    def statistics(self) -> ClientStatistics:
        """The counts so far."""
        return self._counters.snapshot(in_flight=self.in_flight, waiting=self.waiting)

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
        started = streams.current_time() if first is None else first[1].since
        deadline = started + self._source.failover_timeout
        tries = 0
        while True:
            if first is None:
                while (link := self.ready(commands)) is None:
                    await self.wait(commands, deadline)
                self.check_cursors(commands, link, home)
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
                    self.note_answers(commands, replies, link, home)
                    return replies, link.greeting.protocol  # noqa: ASYNC910 (whoever has replies has waited)
                if spends_connection(problem):
                    self.give_up(link)
                    self._source.look_again()
            if streams.current_time() >= deadline:
                raise self.unavailable(commands, problem) from problem
            if tries > 1 or request.failure is None:
                # The first loss is made good at once: another master may be there already.
                await anyio.sleep(RETRY_PERIOD)
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
