"""A pass as segments: ranges of positions, each with its own chain of cursors, all on one connection of one process.

A chain that begins at a position, and goes on until its cursor has reached another one, delivers every key whose hash
lies in between: at any size of the table, while it grows and while it shrinks. Ranges that tile the hash space lose
nothing. A segment's last page runs over its end; what was in its neighbours' first pages, which are kept small and
remembered for that, is dropped from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .cursor import SLOTS, CircleDetector, CursorFormat, rev64, sort_key

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_SEGMENTS", "Ask", "Segments", "auto_segments"]

MAX_SEGMENTS: Final = 1024
# The COUNT of a segment's first SCAN, where there are several, and the least that any SCAN asks for: a first page is
# remembered until its pass ends.
SMALL_COUNT: Final = 10
# Near the end of a segment, this share of what seems to be left of it is asked for: what runs over comes twice.
_CAUTION: Final = 0.9


class Ask(NamedTuple):
    """The next SCAN of one segment."""

    segment: int
    cursor: int
    count: int


class _Segment:
    """One range of positions, and the chain of cursors that sweeps it."""

    __slots__ = ("asked", "count_asked", "cursor", "done", "end", "first_page", "position", "start")

    def __init__(self, start: int, end: int, cursor: int) -> None:
        self.start = start
        self.end = end
        self.cursor = cursor
        # Every key before it was delivered. Invariant: it only rises; it and `cursor` move together.
        self.position = start
        self.done = False
        # Whether a SCAN of this segment is on its way.
        self.asked = False
        # The sum of the COUNTs that have brought it this far.
        self.count_asked = 0
        self.first_page: frozenset[Any] | None = None


class Segments:
    """Where a pass stands: what to ask next, what a reply means, how far it has come."""

    def __init__(self, form: CursorFormat, number: int, *, cursor: int = 0) -> None:
        """`number` segments in a known format; one chain from `cursor` where that is given or the format unknown."""
        self._format = form
        self._whole = SLOTS << 64 if form is CursorFormat.SLOTS else 1 << 64
        if cursor or form is CursorFormat.UNKNOWN:
            number = 1
        bounds = [self._bound(i, number) for i in range(number + 1)]
        self._segments = [
            _Segment(start, end, self._cursor_at(start)) for start, end in zip(bounds, bounds[1:], strict=False)
        ]
        if cursor:
            self._segments[0].cursor = cursor
            if form is not CursorFormat.UNKNOWN:
                self._segments[0].position = sort_key(cursor, form)
        self._circles = CircleDetector()
        self._left = number

    # ---- what to ask --------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """How many segments there are."""
        return len(self._segments)

    @property
    def swept(self) -> bool:
        """Whether every segment has come to its end."""
        return self._left == 0

    def due(self, count: int) -> list[Ask]:
        """The SCANs that are neither done nor on their way, with about `count` for each; they count as asked now.

        The later segments come first, so that a segment's last page is never in before its neighbours' first ones.
        """
        asks: list[Ask] = []
        for index in range(len(self._segments) - 1, -1, -1):
            segment = self._segments[index]
            if not segment.asked and not segment.done:
                segment.asked = True
                asks.append(Ask(index, segment.cursor, self._count_for(segment, count)))
        return asks

    def forget_asked(self) -> None:
        """The connection is gone, and with it all replies that were on their way."""
        for segment in self._segments:
            segment.asked = False

    # ---- what came ----------------------------------------------------------------------------------------------

    def rises(self, ask: Ask, cursor: int) -> bool:
        """Whether a reply's cursor is one that can follow: positions strictly rise, no unknown cursor comes twice."""
        if cursor == 0:
            return True
        if self._format is CursorFormat.UNKNOWN:
            return not self._circles.comes_round(cursor)
        return sort_key(cursor, self._format) > sort_key(ask.cursor, self._format)

    def commit(self, ask: Ask, cursor: int, keys: Sequence[Any]) -> Sequence[Any]:
        """A reply to `ask` has come: move on, and return the keys to deliver. Cursor and keys go together."""
        segment = self._segments[ask.segment]
        segment.asked = False
        segment.cursor = cursor
        segment.count_asked += ask.count
        position = self._whole if cursor == 0 else self._position_at(cursor)
        if self.number > 1:
            if segment.first_page is None:
                segment.first_page = frozenset(keys)
            if position > segment.end:
                keys = self._without_neighbours(ask.segment, position, keys)
        segment.position = min(position, segment.end)
        if cursor == 0 or position >= segment.end:
            segment.done = True
            self._left -= 1
        return keys

    @property
    def position(self) -> float | None:
        """How much of the hash space is covered, 0.0 to 1.0; None in an unknown format before the end."""
        if self._left == 0:
            return 1.0
        if self._format is CursorFormat.UNKNOWN:
            return None
        covered = sum(segment.position - segment.start for segment in self._segments)
        return covered / self._whole

    # ---- arithmetic ---------------------------------------------------------------------------------------------

    def _bound(self, index: int, number: int) -> int:
        if self._format is CursorFormat.SLOTS:
            return (index * SLOTS // number) << 64
        return index * self._whole // number

    def _cursor_at(self, position: int) -> int:
        return position >> 64 if self._format is CursorFormat.SLOTS else rev64(position)

    def _position_at(self, cursor: int) -> int:
        return 0 if self._format is CursorFormat.UNKNOWN else sort_key(cursor, self._format)

    def _count_for(self, segment: _Segment, count: int) -> int:
        if self.number == 1:
            return count
        if segment.first_page is None:
            return min(count, SMALL_COUNT)
        # What is left of it, judged by how far the COUNTs so far have brought it.
        covered = segment.position - segment.start
        left = (segment.end - segment.position) * segment.count_asked / covered * _CAUTION if covered else count
        return count if left >= count else max(int(left), min(count, SMALL_COUNT))

    def _without_neighbours(self, index: int, reached: int, keys: Sequence[Any]) -> Sequence[Any]:
        for neighbour in self._segments[index + 1 :]:
            if neighbour.start >= reached:
                break
            if neighbour.first_page:
                keys = [key for key in keys if key not in neighbour.first_page]
        return keys


def auto_segments(form: CursorFormat, count: int) -> int:
    """How many segments go well with pages of `count` keys: what keeps a server busy is the keys on their way."""
    if form is CursorFormat.UNKNOWN:
        return 1
    for number, at_most in ((64, 16), (32, 160), (16, 400)):
        if count <= at_most:
            return number
    return 8
