# Generated from _trio/opened_once.py by `nox -s anyio`: change that file, never this one.
"""A client's `async with` block: one at a time, and nothing works outside of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .._core.errors import ClientClosed
from .home_loop import AtHome, HomeLoop
from .streams import check_event_loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

__all__ = ["OpenedOnce"]

T = TypeVar("T")


class OpenedOnce:
    """What runs while a client is open is `_running`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Invariant: not None exactly inside the ``async with`` block.
        self._run: AbstractAsyncContextManager[None] | None = None
        # The loop that it was entered in last.
        self._home: HomeLoop | None = None
        # Its `here` and `mark`, for those who have no time to call `_check_use`. Invariant: they agree exactly where
        # that passes; so `_mark` is None, which nothing returns there, outside of the block.
        self._here: Callable[[], object] = threading.get_ident
        self._mark: object = None
        # While it is entered, which takes a while, and until it has been left.
        self._in_use = False

    async def __aenter__(self) -> Self:
        """Connect. Raises what stands in the way, at once or within seconds (with `wait_ready`: see there)."""
        check_event_loop(type(self).__name__)
        if self._in_use:
            msg = f"{type(self).__name__} is open already: one client, one async with block"
            raise ClientClosed(msg)
        self._in_use = True
        try:
            run = self._running()
            await run.__aenter__()
        except BaseException:
            self._in_use = False
            raise
        self._run = run
        self._home = home = HomeLoop()
        self._here, self._mark = home.here, home.mark
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Close every connection."""
        run, self._run = self._run, None
        self._here, self._mark = threading.get_ident, None
        assert run is not None
        try:
            return await run.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 (it ends tasks, and shields its closing)
        finally:
            self._in_use = False

    def _running(self) -> AbstractAsyncContextManager[None]:
        """Connect; then the block; then close."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._run is None:
            msg = f"{type(self).__name__} is not open: use it inside its async with block"
            raise ClientClosed(msg)

    def _check_use(self) -> None:
        """Before anything waits, or is sent. Raises ClientClosed, and WrongEventLoop in another loop than its own."""
        self._check_open()
        assert self._home is not None
        self._home.check(type(self).__name__)

    def _at_home(self, block: AbstractAsyncContextManager[T]) -> AbstractAsyncContextManager[T]:
        """A block of this client's. (It may well be made by another thread, which has it entered in the right loop.)"""
        assert self._home is not None
        return AtHome(self._home, type(self).__name__, block)
