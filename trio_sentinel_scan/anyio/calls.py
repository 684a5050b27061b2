# Generated from _trio/calls.py by `nox -s anyio`: change that file, never this one.
"""What the clients have in common, one server or many: a command in redis-py's words, and the result of its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import ResponseError

from .._core.commands import Place
from .._core.results import NONSENSE, unreadable
from .command_set import Dialect
from .iterators import HOME, Iterators
from .opened_once import OpenedOnce
from .pipeline import PipelineOwner

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .._core.commands import Command
    from .._core.config import ClientSettings
    from .._core.cursor_home import CursorHome
    from .._core.results import Asker
    from .._core.statistics import ClientStatistics
    from .._core.wire import Reply
    from .pipeline import Runner

__all__ = ["Calls", "Send", "SharedWay"]

_RAISE: Final = object()


class SharedWay(Protocol):
    """The connections that tasks share."""

    def execute(
        self, command: Command, *, decode: bool, home: CursorHome | None = None
    ) -> Coroutine[Any, Any, tuple[Reply, int]]:
        """Send a command; its reply, and the protocol that it came in. Error replies are raised."""
        ...

    def statistics(self) -> ClientStatistics:
        """The counts so far."""
        ...


Send: TypeAlias = "Callable[..., Coroutine[Any, Any, tuple[Reply, int]]]"


class Calls(OpenedOnce, Iterators, PipelineOwner):  # type: ignore[misc]  # as in redis-py's own client
    """Commands are redis-py's, by its own mixins and response callbacks."""

    def __init__(self, settings: ClientSettings, shared: SharedWay, runner: Runner) -> None:
        super().__init__(Dialect(settings), runner)
        self._settings = settings
        self._way = shared
        self._execute_shared = shared.execute
        self._read = self._dialect.read
        self._callbacks = self._dialect.callbacks
        self._resp2_callbacks = self._dialect.resp2_callbacks

    def execute_command(self, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        """Run one command, given as its words, and return its reply as redis-py would.

        While the master is away it waits for the next one, up to `failover_timeout`. A command that is known not to
        have run, or that only reads, is sent again; else `CommandOutcomeUnknown` tells that it may have run.
        """
        return self._perform(args, options, self._execute_shared, self._run_elsewhere)

    async def _perform(
        self,
        args: tuple[Any, ...],
        options: dict[str, Any],
        send: Send,
        send_alone: Send,
        asker: Asker | None = None,
    ) -> Any:
        """From words to a result: by `send`, or by `send_alone` what is for a connection of its own.

        `asker` knows who was asked, if it is not whom the command goes to by itself.
        """
        # (`_check_use`, without a call: every command comes by here.)
        if self._here() != self._mark:
            self._check_use()
        decode, home, instead_of_error = True, None, _RAISE
        if options:
            decode = options.pop(NEVER_DECODE, None) is None
            home = options.pop(HOME, None)
            instead_of_error = options.pop(EMPTY_RESPONSE, _RAISE)
            options.pop("keys", None)
        try:
            command = self._read(args)
            if command.place is Place.SHARED:
                reply, protocol = await send(command, decode=decode, home=home)
            else:
                reply, protocol = await send_alone(command, decode=decode)
        except ResponseError:
            if instead_of_error is _RAISE:
                raise
            reply = instead_of_error
        else:
            callbacks = self._callbacks if protocol == 3 or self._settings.protocol == 2 else self._resp2_callbacks
            callback = callbacks.get(args[0].upper()) if isinstance(args[0], str) else None
            if callback is not None:
                try:
                    result = callback(reply, **options)
                except NONSENSE:
                    if not self._dialect.redis_pys.may_not_be(args[0].upper(), callback, reply, options):
                        raise
                else:
                    return await result if hasattr(result, "__await__") else result  # noqa: ASYNC910 (as below)
                raise unreadable(args[0].upper(), (asker or self).whereabouts(command))
        # A reply that is there is returned, even to a caller that is being cancelled: what it tells has happened.
        return reply  # noqa: ASYNC910 (whoever has a reply has waited for it)

    def whereabouts(self, command: Command) -> object:
        """The server that a command goes to at the moment, for messages."""
        return self._runner.whereabouts(command)

    async def _run_elsewhere(self, command: Command, *, decode: bool) -> tuple[Reply, int]:
        return await self._runner.run_one_alone(command, decode=decode)

    def statistics(self) -> ClientStatistics:
        """Counts of what became of the commands so far."""
        return self._way.statistics()
