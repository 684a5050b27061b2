"""Servers that belong together: started, waited for and ended as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import trio

from ._binary import ServerBinary
from ._errors import CommandFailed, PortTaken, ServerNotRunning, ServerStartFailed, ServerUnresponsive
from ._members import DataMember, SentinelMember
from ._redis import START_ATTEMPTS
from ._workspace import Workspace, log_tail

# A question to all takes some ten milliseconds of everybody's time.
_STEP_SECONDS = 0.02


class Ensemble(ABC):
    """What a service and a cluster have in common: their block, and how they are waited for."""

    def __init__(self, *, name: str, patience: float) -> None:
        # As what an error's message speaks of it.
        self._name = name
        self._patience = patience
        # There is one inside the block, and never again.
        self._workspace: Workspace | None = None
        self._entered = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"a {type(self).__name__} can be entered only once")
        self._entered = True
        binary = await self._find_binary()
        for _ in range(START_ATTEMPTS):
            workspace = self._workspace = Workspace()
            try:
                await self._start_all(workspace, binary)
            except PortTaken:
                # The ports are in each other's configuration: begin anew.
                await self._leave(workspace)
            except BaseException:
                await self._leave(workspace)  # noqa: ASYNC102 (it shields and bounds itself)
                raise
            else:
                return self
        await trio.lowlevel.checkpoint()
        raise ServerStartFailed(f"ports were taken by other processes, {START_ATTEMPTS} times in a row")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all processes, however the block ended."""
        # Without a checkpoint that could be cancelled, and so put Cancelled in the place of the body's exception.
        await self._leave(self._owner())  # noqa: ASYNC102 (it shields and bounds itself)

    @abstractmethod
    def _members(self) -> Sequence[DataMember | SentinelMember]:
        """All of its servers."""

    @abstractmethod
    async def _find_binary(self) -> ServerBinary:
        """The program that all run."""

    @abstractmethod
    async def _start_all(self, workspace: Workspace, binary: ServerBinary) -> None:
        """Start them in this workspace, and return when they are ready."""

    def _owner(self) -> Workspace:
        if self._workspace is None:
            raise ServerNotRunning(f"a {type(self).__name__} can be used only inside its `async with` block")
        return self._workspace

    async def _leave(self, workspace: Workspace) -> None:
        try:
            await workspace.close()
        finally:
            self._workspace = None
            for member in self._members():
                member.unsettle()

    async def _wait_until(self, goal: str, find_fault: Callable[[], Awaitable[str | None]]) -> None:
        """Wait until there is no fault to be found any more."""
        self._owner()
        await trio.lowlevel.checkpoint()
        fault: str | None = None
        try:
            with trio.fail_after(self._patience):
                while True:
                    try:
                        fault = await find_fault()
                    except (ServerNotRunning, CommandFailed) as error:
                        fault = str(error)  # One that is just going down, or coming up.
                    if fault is None:
                        return
                    await trio.sleep(_STEP_SECONDS)
        except trio.TooSlowError:
            logs = "\n".join(f"{member!r} last wrote:\n{log_tail(member.log_path)}" for member in self._members())
            raise ServerUnresponsive(
                f"{self._name} had {self._patience} seconds {goal}. What was missing: {fault}\n{logs}"
            ) from None
