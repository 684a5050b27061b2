"""Where a lane's sweep stands: as `Segments`, and nothing but the lane's slots comes out of it.

Where a cursor carries the slot, the segments are ranges of the lane's slots, and only what their last replies bring
beyond them is dropped. Elsewhere the node is swept whole, and each key's slot says whether it is delivered.
"""

from __future__ import annotations

from binascii import crc_hqx
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from .cursor import SLOTS, CursorFormat, sort_key
from .segments import Segments, SpanSegment
from .slots import SlotSet, ranges_of, set_of, slot_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .lanes import Lane
    from .segments import Ask

__all__ = ["Choice", "NodeSegments", "SlotSegments", "bridged", "lane_segments", "parts_of", "swept_in"]

_END: Final = SLOTS << 64
# Of a segment that has answered: nothing of its first page is remembered, for a key's slot tells whose it is.
_ANSWERED: Final = frozenset[Any]()


def lane_segments(
    lane: Lane, form: CursorFormat, number: int, *, cursor: int = 0, cursors: Sequence[int | None] = ()
) -> Segments:
    """The segments of a lane: `number` of them, where the lane does not say how many; or those that `cursors` has."""
    if form is CursorFormat.SLOTS:
        return SlotSegments(lane, cursors=cursors)
    return NodeSegments(lane, form, number, cursor=cursor, cursors=cursors)


class NodeSegments(Segments):
    """The whole node is swept."""

    def __init__(
        self, lane: Lane, form: CursorFormat, number: int, *, cursor: int = 0, cursors: Sequence[int | None] = ()
    ) -> None:
        super().__init__(form, number, cursor=cursor, cursors=cursors)
        self._lane = lane
        self._choose = Choice(lane.slots)

    def advance(self, ask: Ask, cursor: int, keys: list[Any]) -> list[Any] | None:
        """As in any pass; the keys of other slots are dropped."""
        found = super().advance(ask, cursor, keys)
        if not found:
            return found
        wanted = self._choose.of(found)
        self.dropped += len(found) - len(wanted)
        return [*self._lane.decoded(wanted)]


class SlotSegments(Segments):
    """The lane's slots alone are swept: there is a chain of cursors for each range of them, or part of one."""

    def __init__(self, lane: Lane, *, cursors: Sequence[int | None] = ()) -> None:
        swept = swept_in(lane)
        spans = [(first << 64, (last + 1) << 64) for first, last in parts_of(swept, lane.parts)]
        super().__init__(CursorFormat.SLOTS, len(spans), cursors=cursors, spans=spans)
        self._lane = lane
        # Needed where the sweep comes by slots that are not the lane's; None where it does not.
        self._choose = None if swept == lane.slots else Choice(lane.slots)
        # What is covered: the sum would take long where there are many ranges, and it is asked for with each page.
        self._covered = sum([segment.position - segment.start for segment in self._segments])
        self._at_once = min(len(spans), lane.parts)
        # As `cursors` gives them: there may be very many, and they are asked for with each page.
        self._cursors = super().cursors

    @property
    def number(self) -> int:
        """How many of them are asked for at once."""
        return self._at_once

    @property
    def cursors(self) -> list[int | None]:
        """Where each chain goes on; None where it has come to its end."""
        return self._cursors.copy()

    @property
    def position(self) -> float:
        """How much of the lane's slots is covered, 0.0 to 1.0."""
        return 1.0 if self.swept else self._covered / self._extent

    def advance(self, ask: Ask, cursor: int, keys: list[Any]) -> list[Any] | None:
        """As in any pass; what lies beyond the segment's end, or between the lane's slots, is dropped."""
        index, _, count = ask
        segment = self._segments[index]
        position = sort_key(cursor, CursorFormat.SLOTS) if cursor else _END
        if position <= segment.position:
            return None
        wanted = keys if self._choose is None else self._choose.of(keys)
        if position > segment.end:
            wanted = _in_range(wanted, segment.start >> 64, segment.end >> 64)
        self.dropped += len(keys) - len(wanted)
        # Before anything has changed: a key that cannot be decoded ends the scan.
        found = [*self._lane.decoded(wanted)]
        segment.first_page = _ANSWERED
        self._covered += min(position, segment.end) - segment.position
        self._came_to(index, segment, cursor, position, count)
        self._cursors[index] = cursor if position < segment.end else None
        return found

    def _count_near(self, segment: SpanSegment, count: int) -> int:
        # One chain alone has an end, too.
        return self._count_before_end(segment, count)


def swept_in(lane: Lane) -> SlotSet:
    """The slots that a lane's segments divide, where cursors carry the slot."""
    return lane.swept or bridged(lane.slots, lane.passes)


def bridged(slots: SlotSet, passes: SlotSet) -> SlotSet:
    """A set, and the gaps in it that consist of `passes` alone."""
    found, before = slots, None
    for first, last in ranges_of(slots):
        if before is not None:
            gap = set_of([(before + 1, first - 1)])
            if not gap & ~passes:
                found |= gap
        before = last
    return found


def parts_of(slots: SlotSet, number: int) -> list[tuple[int, int]]:
    """The ranges of a set, the big ones in parts, so that there are about `number` of them or more."""
    size = max(1, -(-slots.bit_count() // number))
    found: list[tuple[int, int]] = []
    for first, last in ranges_of(slots):
        length = last - first + 1
        parts = -(-length // size)
        bounds = [first + length * part // parts for part in range(parts + 1)]
        found += [(start, beyond - 1) for start, beyond in pairwise(bounds)]
    return found


def _in_range(keys: list[bytes], first: int, beyond: int) -> list[bytes]:
    return [key for key in keys if first <= slot_of(key) < beyond]


class Choice:
    """Which keys are in some slots."""

    def __init__(self, slots: SlotSet) -> None:
        # For each slot whether it is one of them.
        self._table = bytes(map(int, format(slots, f"0{SLOTS}b")[::-1]))

    def of(self, keys: list[bytes]) -> list[bytes]:
        """Those of `keys` that are."""
        table, mask = self._table, SLOTS - 1
        if b"{" in b"".join(keys):
            return [key for key in keys if table[slot_of(key)]]
        return [key for key in keys if table[crc_hqx(key, 0) & mask]]
