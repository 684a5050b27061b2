# Generated from _trio/iterators.py by `nox -s anyio`: change that file, never this one.
"""redis-py's iterators, with its signatures, which raise where a cursor would go to another server process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, cast

import anyio.lowlevel
from redis.typing import KeyT, PatternT

from .._core.cursor_home import CursorHome
from .command_set import CommandSet

__all__ = ["HOME", "Iterators", "words_of"]

# An option of `execute_command` that redis-py does not have: whose cursors these are.
HOME: Final = "_cursor_home"


class Iterators(CommandSet):
    """`scan_iter` and its kin. They hold no task group and no scope, so a generator does no harm here."""

    async def scan_iter(  # type: ignore[override]  # noqa: ASYNC900
        self, match: PatternT | None = None, count: int | None = None, _type: str | None = None, **options: Any
    ) -> AsyncGenerator[Any]:
        """redis-py's `scan_iter`. It raises `ScanInterrupted` when its cursor would go to another server process.

        `open_scan` begins again by itself instead, and it is faster.
        """
        words = words_of(MATCH=match, COUNT=count, TYPE=_type)
        async for key in self._iterate(("SCAN",), words, options):
            yield key

    async def sscan_iter(  # type: ignore[override]  # noqa: ASYNC900
        self, name: KeyT, match: PatternT | None = None, count: int | None = None
    ) -> AsyncGenerator[Any]:
        """redis-py's `sscan_iter`; it raises as `scan_iter` does."""
        async for member in self._iterate(("SSCAN", name), words_of(MATCH=match, COUNT=count), {}):
            yield member

    async def zscan_iter(  # type: ignore[override]  # noqa: ASYNC900
        self,
        name: KeyT,
        match: PatternT | None = None,
        count: int | None = None,
        score_cast_func: Any = float,
    ) -> AsyncGenerator[Any]:
        """redis-py's `zscan_iter`; it raises as `scan_iter` does."""
        options = {"score_cast_func": score_cast_func}
        async for pair in self._iterate(("ZSCAN", name), words_of(MATCH=match, COUNT=count), options):
            yield pair

    async def hscan_iter(  # type: ignore[override]  # noqa: ASYNC900
        self,
        name: KeyT,
        match: PatternT | None = None,
        count: int | None = None,
        no_values: bool | None = None,  # noqa: FBT001 (redis-py's)
    ) -> AsyncGenerator[Any]:
        """redis-py's `hscan_iter`; it raises as `scan_iter` does."""
        words = (*words_of(MATCH=match, COUNT=count), *(("NOVALUES",) if no_values else ()))
        async for item in self._iterate(("HSCAN", name), words, {"no_values": no_values}):
            yield item

    async def _iterate(  # noqa: ASYNC900
        self,
        begin: tuple[Any, ...],
        words: tuple[Any, ...],
        options: dict[str, Any],
        *,
        before_each: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Any]:
        cursor, home = 0, CursorHome()
        while True:
            found: Any
            cursor, found = await cast("Any", self).execute_command(*begin, cursor, *words, **options, **{HOME: home})
            for item in found.items() if hasattr(found, "items") else found:
                if before_each is not None:
                    before_each()
                yield item  # noqa: ASYNC911 (of one reply)
            await anyio.lowlevel.checkpoint()
            if cursor == 0:
                return


def words_of(**given: Any) -> tuple[Any, ...]:
    """Options with their values, as words of a command."""
    return tuple(word for name, value in given.items() if value is not None for word in (name, value))
