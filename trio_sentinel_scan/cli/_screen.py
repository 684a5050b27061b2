"""The demo's stage on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self, TextIO

from ._bars import Bar, Bars
from ._stage import Lane, Stage

# Characters for a note, so that the bars do not change their length with it.
_NOTE_WIDTH: Final = 26


class Screen(Stage):
    """Lines as in `Stage`, above the bars."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._bars = Bars(stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def show(self, lanes: Sequence[Lane]) -> None:
        """Draw the bars."""
        width = len(f"{lanes[0].total:,}")
        self._bars.draw(
            [
                Bar(lane.name, lane.done / lane.total, f"{lane.done:>{width},}", f"{lane.note:{_NOTE_WIDTH}}")
                for lane in lanes
            ]
        )

    def conclude(self, text: str, *, style: str = "") -> None:
        """A line of the result; the bars have had their time."""
        self._bars.stop()
        super().conclude(text, style=style)

    def _print(self, text: str, style: str) -> None:
        self._bars.say(text, style)
