"""A client's `async with` block: one at a time, and nothing works outside of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from .._core.errors import ClientClosed
from .streams import check_event_loop

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

__all__ = ["OpenedOnce"]


class OpenedOnce:
    """What runs while a client is open is `_running`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Invariant: not None exactly inside the ``async with`` block.
        self._run: AbstractAsyncContextManager[None] | None = None
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
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Close every connection."""
        run, self._run = self._run, None
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
