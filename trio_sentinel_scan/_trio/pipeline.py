"""Pipelines and transactions, as redis-py has them: commands are buffered, sent in one go, and answered together."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import trio
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import NoScriptError, RedisError, ResponseError, WatchError

from .._core.batches import (
    EXEC,
    MULTI,
    Queued,
    needs_own_connection,
    read_transaction,
    with_number,
)
from .._core.command_fate import goes_again, outcome_unknown, refused_unrun
from .._core.commands import Command
from .._core.errors import LeaseLost, ProtocolError, ResponseTimeout, ServerConnectionError
from .._core.in_flight import Written
from .command_set import CommandSet, Dialect, Script
from .lock import Lock
from .pool import RETRY_PERIOD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence
    from types import TracebackType

    from redis.typing import KeyT

    from .._core.wire import Reply
    from .pool import Loan

__all__ = ["Pipeline", "PipelineOwner", "Runner"]

_UNWATCH = Command("UNWATCH", ("UNWATCH",))


class Runner(Protocol):
    """How pipelines get to a server."""

    # Whether another master is looked up when a server says that it is none.
    follows_master: bool

    def whereabouts(self, command: Command) -> object:
        """Who answers a command, for messages."""
        ...

    def check_loop(self) -> None:
        """Raise WrongEventLoop in another loop than the client's."""
        ...

    async def run(self, commands: Sequence[Command], decode: Sequence[bool]) -> tuple[list[Reply], int]:
        """Send commands in one go, next to each other; their replies, errors among them, and the protocol."""
        ...

    async def run_alone(self, commands: Sequence[Command], decode: Sequence[bool]) -> tuple[list[Reply], int]:
        """The same, on a connection that nobody else uses meanwhile."""
        ...

    async def run_one_alone(self, command: Command, *, decode: bool) -> tuple[Reply, int]:
        """One command, whose error reply is raised."""
        ...

    async def take(self, command: Command) -> Loan:
        """A connection for WATCH and what follows, to be given back; `command` is the first one that it is for."""
        ...

    async def give_back(self, loan: Loan) -> None:
        """It is over."""
        ...


class PipelineOwner(CommandSet):
    """What pipelines and locks can be made of: a client, or a lease."""

    def __init__(self, dialect: Dialect, runner: Runner) -> None:
        super().__init__(dialect)
        self._runner = runner

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # noqa: ARG002, FBT001, FBT002 (redis-py's)
        """Commands that are buffered and sent in one go, as redis-py's pipelines do::

            async with client.pipeline() as pipe:
                results = await pipe.set("a", 1).incr("a").execute()

        `transaction` puts them between MULTI and EXEC: all of them run, with nothing in between, or none.
        """
        return Pipeline(self._dialect, self._runner, transaction=transaction)

    async def transaction(
        self,
        func: Callable[[Pipeline], Any | Awaitable[Any]],
        *watches: KeyT,
        shard_hint: str | None = None,  # noqa: ARG002 (redis-py's)
        value_from_callable: bool = False,
        watch_delay: float | None = None,
    ) -> Any:
        """Run `func` with a pipeline while the keys `watches` are watched, and execute what it has buffered.

        If one of them is changed meanwhile it begins again, after `watch_delay` seconds. Returns the commands' results,
        or what `func` returned if `value_from_callable`.
        """
        async with self.pipeline() as pipe:
            while True:
                try:
                    if watches:
                        await pipe.watch(*watches)
                    value = func(pipe)
                    if inspect.isawaitable(value):
                        value = await value
                    results = await pipe.execute()
                    return value if value_from_callable else results
                except WatchError as error:
                    await pipe.reset()
                    # What was changed is tried again at once; a server that is away or busy needs its time.
                    await trio.sleep(watch_delay or (0 if error.__cause__ is None else RETRY_PERIOD))

    def lock(  # noqa: PLR0917 (redis-py's)
        self,
        name: KeyT,
        timeout: float | None = None,
        sleep: float = 0.1,
        blocking: bool = True,  # noqa: FBT001, FBT002 (redis-py's)
        blocking_timeout: float | None = None,
        lock_class: type[Any] | None = None,
        thread_local: bool = True,  # noqa: FBT001, FBT002 (redis-py's)
        raise_on_release_error: bool = True,  # noqa: FBT001, FBT002 (redis-py's)
    ) -> Lock:
        """redis-py's lock, which whoever could set the key `name` holds: ``async with client.lock("name"): ...``

        `timeout`: seconds after which it goes by itself; None is never. `sleep`: seconds between two attempts.
        `blocking`, `blocking_timeout`: whether, and for how many seconds, to wait for it.
        """
        return (lock_class or Lock)(
            cast("Any", self),
            name,
            timeout=timeout,
            sleep=sleep,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
            raise_on_release_error=raise_on_release_error,
        )


if TYPE_CHECKING:

    class _Commands:
        """redis-py says that a command gives a result to be awaited. Here it gives that or the pipeline."""

        _dialect: Dialect

        def __init__(self, dialect: Dialect) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

else:
    _Commands = CommandSet


class Pipeline(_Commands):
    """Commands that go to the server together, by `execute`. redis-py's, in its names and results.

    After `watch`, and until `multi`, commands are sent at once, on a connection that is held from then on until
    `execute` or `reset`; `execute` raises `WatchError` if a watched key was changed, and also if that connection was
    lost, for then nobody watches any more.
    """

    def __init__(self, dialect: Dialect, runner: Runner, *, transaction: bool) -> None:
        """For `client.pipeline()` only."""
        super().__init__(dialect)
        self._runner = runner
        self.is_transaction: bool = transaction
        # Whether `multi` was called since `watch`: commands are buffered again.
        self.explicit_transaction: bool = False
        # Whether the server watches keys for us. Invariant: only while there is a loan.
        self.watching: bool = False
        self.scripts: set[Script] = set()
        self._queued: list[Queued] = []
        # The connection that watches. Invariant: None once `execute` or `reset` is over.
        self._loan: Loan | None = None

    async def __aenter__(self) -> Self:
        return self  # noqa: ASYNC910 (there is nothing to be done)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.reset()  # noqa: ASYNC102 (what it does with a server, it does not do when cancelled)

    def __await__(self) -> Generator[Any, Any, Self]:
        # A buffered command may be awaited, as redis-py's script objects do.
        return self._itself().__await__()

    async def _itself(self) -> Self:
        return self  # noqa: ASYNC910 (there is nothing to be done)

    def __len__(self) -> int:
        return len(self._queued)

    def __bool__(self) -> bool:
        """Always true, also without a command."""
        return True

    def note_script(self, script: Script) -> None:
        """A script is to be run: the server is given it in the same go."""
        self.scripts.add(script)

    # ---- commands ------------------------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Buffer a command, and return the pipeline. While keys are watched, run it at once instead (to be awaited)."""
        if (self.watching or args[0] == "WATCH") and not self.explicit_transaction:
            return self.immediate_execute_command(*args, **options)
        return self.pipeline_execute_command(*args, **options)

    def pipeline_execute_command(self, *args: Any, **options: Any) -> Self:
        """Buffer a command. Raises CommandNotShareable for one that is not answered by one reply."""
        self._queued.append(Queued(self._dialect.read(args, leased=True), args[0], options))
        return self

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command at once on the connection that watches; raises WatchError if that was lost."""
        self._runner.check_loop()
        command = self._dialect.read(args, leased=True)
        if self._loan is None:
            self._loan = await self._runner.take(command)
        loan = self._loan
        try:
            (reply,) = await self._ask(loan, [command], [NEVER_DECODE not in options])
        except (ServerConnectionError, ResponseTimeout) as error:
            await self.reset()  # noqa: ASYNC120 (whoever cancels wants to hear of nothing else)
            # Nothing that was watched, or read, holds any more. WATCH itself only reads.
            harmless = isinstance(error, LeaseLost) or command.name == "WATCH"
            if harmless or goes_again([command], Written.ALL, retry_writes=False):
                raise self._unwatched(loan) from error
            raise outcome_unknown([command], loan.server.address, loan.lost) from error
        if isinstance(reply, RedisError):
            if EMPTY_RESPONSE in options and isinstance(reply, ResponseError):
                return options[EMPTY_RESPONSE]
            raise reply
        if command.name == "WATCH":
            self.watching = True
        elif command.name in {"UNWATCH", "DISCARD", "EXEC"}:
            self.watching = False
            await self._release()
        return await self._dialect.result(command, args[0], reply, loan.state.protocol, options, self)

    async def watch(self, *names: KeyT) -> Any:
        """Watch keys: `execute` runs nothing if one of them is changed until then."""
        if self.explicit_transaction:
            raise RedisError("Cannot issue a WATCH after a MULTI")
        return await self.immediate_execute_command("WATCH", *names)

    async def unwatch(self) -> Any:
        """Watch no key any more."""
        if not self.watching:
            await trio.lowlevel.checkpoint()
            return True
        return await self.immediate_execute_command("UNWATCH")

    def multi(self) -> None:
        """After `watch`: commands are buffered from now on, for `execute`."""
        if self.explicit_transaction:
            raise RedisError("Cannot issue nested calls to MULTI")
        if self._queued:
            raise RedisError("Commands without an initial WATCH have already been issued")
        self.explicit_transaction = True

    async def discard(self) -> None:
        """Forget what was buffered, and watch no key any more."""
        await self.reset()
        await trio.lowlevel.checkpoint()

    # ---- all of them ---------------------------------------------------------------------------------------------

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 (redis-py's)
        """Send what was buffered, and return the results in order. The pipeline is empty then, also if this fails.

        `raise_on_error` raises the first error reply, which says the command's number and name then; without, error
        replies are among the results. Raises WatchError, CommandOutcomeUnknown, ServerUnavailable; and WrongEventLoop
        in another loop than the client's, where nothing is done, and the commands stay buffered.
        """
        self._runner.check_loop()
        queued, scripts = self._queued, sorted(self.scripts, key=lambda script: script.sha)
        if not queued and not self.watching:
            await trio.lowlevel.checkpoint()
            return []
        # On the same connection and in the same go: whichever server runs this knows them.
        loads = [self._dialect.read(("SCRIPT LOAD", script.script), leased=True) for script in scripts]
        try:
            if self.is_transaction or self.explicit_transaction:
                sent = [one.command for one in queued if one.is_sent]
                commands = [*loads, MULTI, *sent, EXEC]
                replies, protocol = await self._send(commands, [True] * len(commands), transaction=True)
                self.watching = False
                results = read_transaction(queued, replies[len(loads) :])
            else:
                commands = [*loads, *(one.command for one in queued)]
                decode = [True] * len(loads) + [NEVER_DECODE not in one.options for one in queued]
                replies, protocol = await self._send(commands, decode, transaction=False)
                results = replies[len(loads) :]
            if any(isinstance(result, NoScriptError) for result in results):
                # That is why. (Else the server knew them, and what was asked for has run.)
                _raise_first(replies[: len(loads)])
            return [
                await self._result_of(number, one, reply, protocol, raise_on_error=raise_on_error)
                for number, (one, reply) in enumerate(zip(queued, results, strict=True), 1)
            ]
        finally:
            await self.reset()  # noqa: ASYNC102 (what it does with a server, it does not do when cancelled)

    async def _send(
        self, commands: Sequence[Command], decode: Sequence[bool], *, transaction: bool
    ) -> tuple[list[Reply], int]:
        loan = self._loan
        if loan is None:
            return await self._run(commands, decode, alone=needs_own_connection(commands, transaction=transaction))
        try:
            replies = await self._ask(loan, commands, decode)
        except LeaseLost as error:
            raise self._unwatched(loan) from error
        except (ServerConnectionError, ResponseTimeout) as error:
            raise outcome_unknown(commands, loan.server.address, loan.lost) from error
        refusal = self._refusal(commands, replies)
        if refusal is not None:
            msg = "The server that watched refuses the transaction: it is not the master any more, or busy."
            raise WatchError(msg) from refusal
        return replies, loan.state.protocol

    async def _run(
        self, commands: Sequence[Command], decode: Sequence[bool], *, alone: bool
    ) -> tuple[list[Reply], int]:
        run = self._runner.run_alone if alone else self._runner.run
        return await run(commands, decode)

    async def _ask(self, loan: Loan, commands: Sequence[Command], decode: Sequence[bool]) -> list[Reply]:
        return await loan.ask(commands, decode)

    def _refusal(self, commands: Sequence[Command], replies: Sequence[Reply]) -> RedisError | None:
        """What proves that the server which watched did not run the transaction."""
        return refused_unrun(commands, replies, follows_master=self._runner.follows_master)

    async def _result_of(self, number: int, one: Queued, reply: Reply, protocol: int, *, raise_on_error: bool) -> Any:
        if isinstance(reply, RedisError):
            if not one.is_sent and isinstance(reply, ResponseError):
                reply = one.options[EMPTY_RESPONSE]
            elif raise_on_error:
                raise with_number(reply, number, one.command)
            return reply  # noqa: ASYNC910 (it has been waited for)
        if isinstance(reply, UnicodeDecodeError):
            raise reply
        try:
            return await self._dialect.result(one.command, one.name, reply, protocol, one.options, self)
        except ProtocolError as error:
            if not self._dialect.is_redis_pys(one.name, protocol):
                raise
            if raise_on_error:
                with_number(error, number, one.command)
                raise
            return error  # noqa: ASYNC910 (as above)

    def whereabouts(self, command: Command) -> object:
        """Who answers a command, for messages."""
        return self._runner.whereabouts(command) if self._loan is None else self._loan.server.address

    async def reset(self) -> None:  # noqa: ASYNC910 (without a connection there is nothing to wait for)
        """Forget what was buffered, watch no key any more, and give the connection back."""
        if self._loan is not None:
            self._runner.check_loop()
        self._queued = []
        self.scripts = set()
        self.explicit_transaction = False
        loan, watched = self._loan, self.watching
        try:
            if loan is not None and watched and not loan.lost:
                await loan.ask([_UNWATCH], [True])
        except (ServerConnectionError, ResponseTimeout):
            # Then it is closed, and watches nothing.
            pass
        finally:
            self.watching = False
            await self._release()  # noqa: ASYNC102 (closing is shielded, and takes no time)

    async def aclose(self) -> None:  # noqa: ASYNC910 (as reset)
        """The same as `reset`."""
        await self.reset()

    async def _release(self) -> None:  # noqa: ASYNC910 (closing takes no time)
        loan, self._loan = self._loan, None
        if loan is not None:
            await self._runner.give_back(loan)

    @staticmethod
    def _unwatched(loan: Loan) -> WatchError:
        return WatchError(f"The connection that watched was lost: {loan.lost}")

    def __repr__(self) -> str:
        return f"<Pipeline of {len(self)} commands>"


def _raise_first(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
