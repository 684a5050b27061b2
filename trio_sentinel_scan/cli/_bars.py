"""Lines on a terminal, with bars below them that are drawn again and again and are gone in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

# Columns at the right edge that stay empty. A cursor behind the last one would be carried to the next line by the
# "^C" that the terminal shows, and the bars would be wiped out one line too low.
_MARGIN: Final = 4


@dataclass(frozen=True, slots=True)
class Bar:
    """One line with a bar in it."""

    name: str
    # From 0 to 1; None where nobody knows, and the bar only shows that something moves.
    done: float | None
    # What is done, as a figure.
    figure: str
    note: str


class Bars:
    """The lower end of a terminal. Drawn when told to, by the caller's own thread: there is none to be waited for."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        # What others write to stderr goes above the bars too. Stdout is left alone: there are keys on it.
        self._live = Live(Text(""), console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)

    def say(self, text: str, style: str = "") -> None:
        """A line above the bars."""
        self._console.print(Text(text, style), soft_wrap=True)

    def draw(self, bars: Sequence[Bar]) -> None:
        """Draw these in place of the last ones."""
        self._live.start()
        self._live.update(self._table(bars), refresh=True)

    def stop(self) -> None:
        """Wipe them out, and give the cursor back."""
        self._live.stop()

    def _table(self, bars: Sequence[Bar]) -> Table:
        table = Table.grid(padding=(0, 2))
        table.width = max(self._console.width - _MARGIN, 1)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True)
        for bar in bars:
            total = None if bar.done is None else 1.0
            table.add_row(
                Text(bar.name), ProgressBar(total=total, completed=bar.done or 0.0), Text(bar.figure), Text(bar.note)
            )
        return table
