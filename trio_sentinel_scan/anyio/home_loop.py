# Generated from _trio/home_loop.py by `nox -s anyio`: change that file, never this one.
"""The event loop that something was opened in: it works there, and nowhere else."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, TypeVar

from .._core.errors import WrongEventLoop
from .streams import FROM_OUTSIDE, loop_teller

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["AtHome", "HomeLoop"]

T_co = TypeVar("T_co", covariant=True)


class HomeLoop:
    """The loop that runs when this is made.

    What waits in one loop is woken from that one alone: a wait in another would be for ever, and what two threads do
    to one connection at once is nobody's order. So whatever is about to wait, or to send, asks first.
    """

    __slots__ = ("here", "mark")

    def __init__(self) -> None:
        # What is called in this loop returns `mark`; in every other, and where none runs, it returns something else.
        self.here: Final[Callable[[], object]] = loop_teller()
        self.mark: Final[object] = self.here()

    def check(self, what: str) -> None:
        """Raise WrongEventLoop in any other; `what` was used there."""
        if self.here() != self.mark:
            msg = (
                f"{what} was used from another event loop, or thread, than the one that entered its async with block;"
                f" nothing was sent. It works in that one alone: reach it by {FROM_OUTSIDE}, or open another one here"
            )
            raise WrongEventLoop(msg)


class AtHome(AbstractAsyncContextManager[T_co]):
    """A block of something's own (a scan, a lease), which may be made anywhere, and entered in its loop alone."""

    def __init__(self, home: HomeLoop, what: str, block: AbstractAsyncContextManager[T_co]) -> None:
        self._home = home
        self._what = what
        self._block = block

    async def __aenter__(self) -> T_co:
        self._home.check(self._what)
        return await self._block.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._block.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 (the block sees to its shielding)
