# Generated from _trio/cluster_pipeline.py by `nox -s anyio`: change that file, never this one.
"""A cluster's pipelines: each command to its node, the nodes at the same time; a transaction where its slot is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, cast

import anyio
from redis.commands.cluster import ClusterMultiKeyCommands
from redis.exceptions import AskError, RedisError, WatchError

from .._core.cluster_routes import Scope, check_fit, different_slots, full_name, scope_of
from .._core.cluster_targets import find_targets
from .._core.cluster_work import ASKING, AT_ONCE, MOST_REDIRECTIONS, read_redirection, redirection_loop
from .._core.commands import Command
from .._core.errors import CommandNotShareable, ConfigError
from .._core.slots import slot_of
from .pipeline import Pipeline
from .pool import RETRY_PERIOD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from redis.typing import EncodableT, KeyT

    from .._core.identity import Address
    from .._core.wire import Reply
    from .cluster_monitor import ClusterMonitor
    from .cluster_runner import ClusterRunner
    from .command_set import Dialect
    from .pool import Loan

__all__ = ["ClusterPipeline"]

# They have no keys.
_AROUND: Final = frozenset({"EXEC", "MULTI", "SCRIPT"})


if TYPE_CHECKING:

    class _MultiKeyCommands:
        """As in `Pipeline`: redis-py says that these give results."""

else:
    _MultiKeyCommands = ClusterMultiKeyCommands


class ClusterPipeline(_MultiKeyCommands, Pipeline):
    """Commands that go to a cluster together, by `execute`. redis-py's, in its names and results.

    Without a transaction each goes to the node that has its slot, all nodes at the same time, and each is redirected,
    sent again or lost by itself; commands with a key in common keep their order. DEL, EXISTS, TOUCH, UNLINK and
    `mset_nonatomic` are split by slots, and have a result for each, as in redis-py.

    A transaction, and what is watched, must have all its keys in one slot: else `KeysInDifferentSlots`.
    """

    def __init__(self, dialect: Dialect, runner: ClusterRunner, monitor: ClusterMonitor, *, transaction: bool) -> None:
        """For `client.pipeline()` only."""
        super().__init__(dialect, runner, transaction=transaction)
        self._nodes = runner
        self._monitor = monitor
        # Which node the caller wants, by a command's number.
        self._given: dict[int, Address] = {}
        # While a connection watches: the slot that it is for, and whether that is on its way there (ASK).
        self._slot: int | None = None
        self._asks = False

    # ---- commands ------------------------------------------------------------------------------------------------

    def pipeline_execute_command(self, *args: Any, **options: Any) -> Self:
        """Buffer a command. Raises CommandNotShareable for what is not answered by one reply of one node."""
        node, targets = options.pop("node", None), options.pop("target_nodes", None)
        if node is not None and targets is not None:
            raise ConfigError("node", "give node or target_nodes, not both")
        check_fit(args)
        command = self._dialect.read(args, leased=True)
        if node is None and targets is None:
            found: object = scope_of(full_name(command))
        else:
            found = find_targets(targets if node is None else node, self._monitor.map)
            if isinstance(found, list) and len(found) == 1:
                if self.is_transaction or self.explicit_transaction:
                    raise ConfigError("target_nodes", "is not for a transaction: it runs where its slot is")
                self._given[len(self)] = found[0].address
                found = None
        if found is not None and found is not Scope.ONE_MASTER:
            raise CommandNotShareable(
                f"{command.name} goes to several nodes here, and a pipeline's command has one result: call it on the"
                " client, or say which node by node="
            )
        return super().pipeline_execute_command(*args, **options)

    def _split_command_across_slots(self, command: str, *keys: KeyT) -> Any:
        if self.is_transaction or self.explicit_transaction or self.watching:
            return self.execute_command(command, *keys)
        for share in self._by_slot((key, (key,)) for key in keys):
            self.execute_command(command, *share)
        return self

    def mset_nonatomic(self, mapping: Mapping[Any, EncodableT]) -> Any:
        """Buffer an MSET for each slot that the keys are in."""
        for share in self._by_slot(((key, (key, value)) for key, value in mapping.items())):
            self.execute_command("MSET", *share)
        return self

    def mget_nonatomic(self, keys: Any, *args: Any) -> NoReturn:  # noqa: ARG002 (redis-py's)
        """One result of several commands is not to be had in a pipeline: raises CommandNotShareable."""
        raise CommandNotShareable("mget_nonatomic is one result of several commands: call it on the client")

    def _by_slot(self, pairs: Iterable[tuple[Any, tuple[Any, ...]]]) -> list[list[Any]]:
        found: dict[int, list[Any]] = {}
        for key, words in pairs:
            found.setdefault(slot_of(self._dialect.encode(key)), []).extend(words)
        return list(found.values())

    # ---- on the connection that watches --------------------------------------------------------------------------

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command at once on the connection that watches; raises WatchError if that was lost."""
        self._runner.check_loop()
        for name in ("node", "target_nodes"):
            if options.pop(name, None) is not None:
                raise ConfigError(name, "is not for what is watched: it is where its slot is")
        check_fit(args)
        command = self._dialect.read(args, leased=True)
        slot = await self._nodes.slot_of_all([command])
        if self._slot is None:
            self._slot = slot
        elif slot is not None and slot != self._slot:
            raise different_slots("What is watched and done", {slot, self._slot})
        redirected_by: list[str] = []
        while True:
            try:
                return await super().immediate_execute_command(*args, **options)
            except AskError as error:
                assert self._loan is not None
                redirected_by.append(str(self._loan.server.address))
                redirected_to = self._note(error)
                if self.watching or redirected_to is None:
                    # (A slot that is on its way still is so at once: whoever tries again is to wait for a moment.)
                    raise _watched_elsewhere() from (None if redirected_to is True else error)
            # Nothing was watched yet, so nothing is lost. (MOVED has told the map.)
            await self._release()
            if len(redirected_by) >= MOST_REDIRECTIONS:
                raise redirection_loop(command.name, slot, redirected_by)
            if len(redirected_by) > AT_ONCE:
                await anyio.sleep(RETRY_PERIOD)
            self._asks = redirected_to is not True
            if redirected_to is not True:
                self._loan = await self._nodes.take_from(redirected_to)

    def _note(self, error: AskError) -> Address | Literal[True] | None:
        """Who is to be asked instead: True for whom the map names now; None if the reply is about another slot."""
        assert self._loan is not None
        found = read_redirection(error, self._loan.server.address)
        if found is None or found.slot != self._slot:
            return None
        if found.is_ask:
            return found.address
        self._monitor.moved(found.slot, found.address)
        return True

    async def _ask(self, loan: Loan, commands: Sequence[Command], decode: Sequence[bool]) -> list[Reply]:
        if not self._asks:
            return await super()._ask(loan, commands, decode)
        # A MULTI keeps it for all that it holds; what stands before that is scripts, which have no slot.
        at = next((at for at, command in enumerate(commands) if command.name != "SCRIPT"), 0)
        words, wanted = [*commands], [*decode]
        words.insert(at, ASKING)
        wanted.insert(at, True)
        replies = await super()._ask(loan, words, wanted)
        del replies[at]
        return replies

    async def _send(
        self, commands: Sequence[Command], decode: Sequence[bool], *, transaction: bool
    ) -> tuple[list[Reply], int]:
        if self._loan is not None:
            slot = await self._nodes.slot_of_all([one for one in commands if one.name not in _AROUND])
            if slot is not None and slot != self._slot:
                raise different_slots("What is watched and done", {slot, cast("int", self._slot)})
        return await super()._send(commands, decode, transaction=transaction)

    async def _run(
        self, commands: Sequence[Command], decode: Sequence[bool], *, alone: bool
    ) -> tuple[list[Reply], int]:
        run = self._nodes.run_alone if alone else self._nodes.run
        return await run(commands, decode, self._given)

    def _refusal(self, commands: Sequence[Command], replies: Sequence[Reply]) -> RedisError | None:
        moved = next((reply for reply in replies if isinstance(reply, AskError)), None)
        if moved is not None and isinstance(replies[-1], RedisError):
            self._note(moved)
            return moved
        return super()._refusal(commands, replies)

    def whereabouts(self, command: Command) -> object:
        """Who answers a command, for messages."""
        given = (node for number, node in self._given.items() if self._queued[number].command is command)
        return next(given, None) or super().whereabouts(command)

    async def reset(self) -> None:  # noqa: ASYNC910 (as the other one's)
        """Forget what was buffered, watch no key any more, and give the connection back."""
        self._given = {}
        try:
            await super().reset()
        finally:
            self._slot, self._asks = None, False


def _watched_elsewhere() -> WatchError:
    return WatchError("The slot of what is watched has another node now.")
