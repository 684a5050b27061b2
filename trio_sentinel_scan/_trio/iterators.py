"""redis-py's iterators, with its signatures, which raise where a cursor would go to another server process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final, cast

import trio
from redis.typing import KeyT, PatternT

from .._core.cursor_home import CursorHome
from .command_set import CommandSet

__all__ = ["HOME", "Iterators", "words_of"]

# An option of `execute_command` that redis-py does not have: whose cursors these are.
HOME: Final = "_cursor_home"


class Iterators(CommandSet):
    """`scan_iter` and its kin. They hold no nursery and no scope, so a generator does no harm here.

    Each returns the one generator, and is none itself: of one within another, nobody but the garbage collector would
    close the inner one when the outer one is left early.
    """

    def scan_iter(  # type: ignore[override]
        self, match: PatternT | None = None, count: int | None = None, _type: str | None = None, **options: Any
    ) -> AsyncGenerator[Any]:
        """redis-py's `scan_iter`. It raises `ScanInterrupted` when its cursor would go to another server process.

        `open_scan` begins again by itself instead, and it is faster.
        """
        words = words_of(MATCH=match, COUNT=count, TYPE=_type)
        return self._iterate(("SCAN",), words, options)

    def sscan_iter(  # type: ignore[override]
        self, name: KeyT, match: PatternT | None = None, count: int | None = None
    ) -> AsyncGenerator[Any]:
        """redis-py's `sscan_iter`; it raises as `scan_iter` does."""
        return self._iterate(("SSCAN", name), words_of(MATCH=match, COUNT=count), {})

    def zscan_iter(  # type: ignore[override]
        self,
        name: KeyT,
        match: PatternT | None = None,
        count: int | None = None,
        score_cast_func: Any = float,
    ) -> AsyncGenerator[Any]:
        """redis-py's `zscan_iter`; it raises as `scan_iter` does."""
        options = {"score_cast_func": score_cast_func}
        return self._iterate(("ZSCAN", name), words_of(MATCH=match, COUNT=count), options)

    def hscan_iter(  # type: ignore[override]
        self,
        name: KeyT,
        match: PatternT | None = None,
        count: int | None = None,
        no_values: bool | None = None,  # noqa: FBT001 (redis-py's)
    ) -> AsyncGenerator[Any]:
        """redis-py's `hscan_iter`; it raises as `scan_iter` does."""
        words = (*words_of(MATCH=match, COUNT=count), *(("NOVALUES",) if no_values else ()))
        return self._iterate(("HSCAN", name), words, {"no_values": no_values})

    async def _iterate(  # noqa: ASYNC900
        self, begin: tuple[Any, ...], words: tuple[Any, ...], options: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        cursor, home = 0, CursorHome()
        while True:
            cursor, items = await self._read_on(begin, cursor, words, options, home)
            for item in items:
                yield item  # noqa: ASYNC911 (of one reply)
            await trio.lowlevel.checkpoint()
            if cursor == 0:
                return

    async def _read_on(
        self, begin: tuple[Any, ...], cursor: int, words: tuple[Any, ...], options: dict[str, Any], home: CursorHome
    ) -> tuple[int, Iterable[Any]]:
        """The cursor after this one, and what lay between the two."""
        found: Any
        cursor, found = await cast("Any", self).execute_command(*begin, cursor, *words, **options, **{HOME: home})
        return cursor, found.items() if hasattr(found, "items") else found


def words_of(**given: Any) -> tuple[Any, ...]:
    """Options with their values, as words of a command."""
    return tuple(word for name, value in given.items() if value is not None for word in (name, value))
