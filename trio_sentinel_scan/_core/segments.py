"""A pass as segments: ranges of positions, each with its own chain of cursors, all on one connection of one process.

A chain that begins at a position, and goes on until its cursor has reached another one, delivers every key whose hash
lies in between: at any size of the table, while it grows and while it shrinks. Ranges that tile the hash space lose
nothing. A segment's last page runs over its end; what was in its neighbours' first pages, which are kept small and
remembered for that, is dropped from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, TypeAlias

from .cursor import SLOTS, CircleDetector, CursorFormat, rev64, sort_key

__all__ = ["FIRST_COUNT", "LAST_COUNT", "MAX_SEGMENTS", "Ask", "Segments", "SpanSegment", "auto_segments"]

MAX_SEGMENTS: Final = 1024
# The COUNT of a segment's first SCAN, where there are several: its page is remembered until the pass ends. And the
# COUNT of a SCAN that may run over its segment's end: with the rest of the bucket that it ends in, it brings no more
# than what the neighbour's first page has.
FIRST_COUNT: Final = 32
LAST_COUNT: Final = 8


# The next SCAN of one segment: the segment's index, the cursor, the COUNT. A bare tuple, for there are many.
Ask: TypeAlias = tuple[int, int, int]


class SpanSegment:
    """One range of positions, and the chain of cursors that sweeps it."""

    __slots__ = ("count_asked", "counted_from", "cursor", "end", "first_page", "position", "start", "stride")

    def __init__(self, start: int, end: int, cursor: int) -> None:
        self.start = start
        self.end = end
        self.cursor = cursor
        # Every key before it was delivered. Invariant: it only rises, up to `end`; it and `cursor` move together.
        self.position = start
        # How far the last reply has brought it, for each unit of its COUNT.
        self.stride = 0
        # The sum of the COUNTs that have brought it this far, and from which position on.
        self.count_asked = 0
        self.counted_from = start
        self.first_page: frozenset[Any] | None = None


class Segments:
    """Where a pass stands: what to ask next, what a reply means, how far it has come."""

    def __init__(
        self,
        form: CursorFormat,
        number: int,
        *,
        cursor: int = 0,
        cursors: Sequence[int | None] = (),
        may_be_small: bool = False,
        has_pairs: bool = False,
        spans: Sequence[tuple[int, int]] = (),
    ) -> None:
        """`number` segments in a known format; one chain from `cursor` where that is given or the format unknown.

        With `cursors`, as `cursors` gave them, they go on from there, as many as there were.

        `may_be_small`: what is swept may be a list, which comes as a whole whatever the cursor, so the first segment
        begins alone. `has_pairs`: what comes are pairs, each of a key and what belongs to it. `spans`: the segments'
        positions, where they are not to be the whole.
        """
        self._has_pairs = has_pairs
        # Keys that came and were not wanted. They cost the server as much as the others.
        self.dropped = 0
        if cursors:
            number, cursor = len(cursors), 0
        self._format = form
        self._whole = SLOTS << 64 if form is CursorFormat.SLOTS else 1 << 64
        if cursor or form is CursorFormat.UNKNOWN:
            number = 1
        bounds = spans or list(pairwise([self._bound(i, number) for i in range(number + 1)]))
        self._segments = [SpanSegment(start, end, self._cursor_at(start)) for start, end in bounds]
        # What there is to cover.
        self._extent = sum([end - start for start, end in bounds])
        positions: dict[CursorFormat, Callable[[int], int]] = {
            CursorFormat.REVERSED: rev64,
            CursorFormat.SLOTS: partial(sort_key, form=form),
            CursorFormat.UNKNOWN: _Unordered().position_of,
        }
        self._position_at = positions[form]
        if cursor:
            self._segments[0].cursor = cursor
            self._segments[0].position = self._position_at(cursor)
        for segment, at in zip(self._segments, cursors, strict=False):
            if at is None:
                segment.position = segment.end
            elif at != segment.cursor:
                segment.cursor = at
                segment.position = segment.counted_from = self._position_at(at)
        # Whether there may be nothing to divide: only the first segment is asked for until it has answered.
        self._begins_alone = (
            may_be_small and number > 1 and all(segment.position == segment.start for segment in self._segments)
        )
        # Those that have not come to their end, and that no SCAN is on its way for; and how many have not.
        self._idle: list[int] = []
        self.forget_asked()
        self._left = number if self._begins_alone else len(self._idle)

    # ---- what to ask --------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """How many segments there are."""
        return len(self._segments)

    @property
    def swept(self) -> bool:
        """Whether every segment has come to its end."""
        return self._left == 0

    @property
    def cursors(self) -> list[int | None]:
        """Where each chain goes on; None where it has come to its end."""
        return [segment.cursor if segment.position < segment.end else None for segment in self._segments]

    def due(self, count: int, at_most: int) -> list[Ask]:
        """SCANs for segments that are neither done nor on their way, about `count` for each; they are on it now.

        The later segments come first, so that a segment's last page is never in before its neighbours' first ones.
        """
        idle = self._idle
        if len(idle) > 1:
            idle.sort(reverse=True)
        idle, self._idle = idle[:at_most], idle[at_most:]
        asks: list[Ask] = []
        for index in idle:
            segment = self._segments[index]
            far_from_its_end = segment.stride and segment.end - segment.position > 2 * count * segment.stride
            asks.append((index, segment.cursor, count if far_from_its_end else self._count_near(segment, count)))
        return asks

    def take_back(self, ask: Ask) -> None:
        """It was asked in vain, and is due again."""
        self._idle.append(ask[0])

    def forget_asked(self) -> None:
        """The connection is gone, and with it all replies that were on their way."""
        if self._begins_alone:
            self._idle = [0]
            return
        self._idle = [index for index, segment in enumerate(self._segments) if segment.position < segment.end]

    # ---- what came ----------------------------------------------------------------------------------------------

    def advance(self, ask: Ask, cursor: int, keys: list[Any]) -> list[Any] | None:
        """A reply to `ask` has come: move on, and return the keys to deliver. Cursor and keys go together.

        None, and nothing has changed, if the cursor cannot follow: positions strictly rise, and no cursor of an
        unknown format comes twice.
        """
        index, _, count = ask
        segment = self._segments[index]
        if cursor == 0:
            position = self._whole
        else:
            position = self._position_at(cursor)
            if position <= segment.position:
                return None
        if self._begins_alone:
            self._divide(cursor, position)
        if len(self._segments) > 1:
            if segment.first_page is None:
                # What belongs to a key may be large, and would be kept until the pass ends.
                segment.first_page = frozenset([key for key, _ in keys] if self._has_pairs else keys)
            if position > segment.end:
                keys = self._without_neighbours(index, position, keys)
        self._came_to(index, segment, cursor, position, count)
        return keys

    def _came_to(self, index: int, segment: SpanSegment, cursor: int, position: int, count: int) -> None:
        segment.cursor = cursor
        segment.count_asked += count
        segment.stride = (position - segment.position) // count
        if position >= segment.end:
            segment.position = segment.end
            self._left -= 1
        else:
            segment.position = position
            self._idle.append(index)

    @property
    def position(self) -> float | None:
        """How much of the hash space is covered, 0.0 to 1.0; None in an unknown format before the end."""
        if self._left == 0:
            return 1.0
        if self._format is CursorFormat.UNKNOWN:
            return None
        return sum([segment.position - segment.start for segment in self._segments]) / self._extent

    def _divide(self, cursor: int, position: int) -> None:
        """The first reply shows what there is: all, or a table, of which the other segments get what is left."""
        self._begins_alone = False
        if position == self._whole:
            self._left = 1
            del self._segments[1:]
            self._segments[0].end = self._whole
            return
        for segment in self._segments[1:]:
            if segment.start < position:
                segment.cursor = cursor
                segment.position = segment.counted_from = min(position, segment.end)
        self.forget_asked()
        # The first one's place among them is for whoever it answers.
        self._left = len(self._idle)
        self._idle.remove(0)

    # ---- arithmetic ---------------------------------------------------------------------------------------------

    def _bound(self, index: int, number: int) -> int:
        if self._format is CursorFormat.SLOTS:
            return (index * SLOTS // number) << 64
        return index * self._whole // number

    def _cursor_at(self, position: int) -> int:
        return position >> 64 if self._format is CursorFormat.SLOTS else rev64(position)

    def _count_near(self, segment: SpanSegment, count: int) -> int:
        if len(self._segments) == 1:
            return count
        return self._count_before_end(segment, count)

    def _count_before_end(self, segment: SpanSegment, count: int) -> int:
        if segment.first_page is None:
            return min(count, FIRST_COUNT)
        # What is left of it, judged by how far the COUNTs so far have brought it, less what that may be out by: what
        # runs over its end comes twice.
        left = (segment.end - segment.position) * segment.count_asked / (segment.position - segment.counted_from)
        left *= 1 - segment.count_asked**-0.5
        left -= 2 * left**0.5
        return count if left >= count else max(int(left), min(count, LAST_COUNT))

    def _without_neighbours(self, index: int, reached: int, keys: list[Any]) -> list[Any]:
        for neighbour in self._segments[index + 1 :]:
            if neighbour.start >= reached:
                break
            if neighbour.first_page:
                if self._has_pairs:
                    keys = [pair for pair in keys if pair[0] not in neighbour.first_page]
                else:
                    keys = [key for key in keys if key not in neighbour.first_page]
        return keys


def auto_segments(form: CursorFormat, count: int | None) -> int:
    """How many segments go well with pages of `count` keys: what keeps a server busy is the keys on their way."""
    if form is CursorFormat.UNKNOWN:
        return 1
    if count is None:
        return 16
    for number, at_most in ((64, 16), (32, 160), (16, 400)):
        if count <= at_most:
            return number
    return 8


class _Unordered:
    """Stands in for positions where cursors have none: a rising number, until a cursor comes round again."""

    def __init__(self) -> None:
        self._steps = 0
        self._circles = CircleDetector()

    def position_of(self, cursor: int) -> int:
        if self._circles.comes_round(cursor):
            return 0
        self._steps += 1
        return self._steps
