"""Where the demo is shown: lines, and on a terminal a bar below them for each of the two scans."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ._output import Output, write_now


@dataclass(slots=True)
class Lane:
    """One scan's bar."""

    name: str
    total: int
    done: int = 0
    note: str = ""


class Stage:
    """Lines on stdout, each with the seconds since the first."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._quarters = 0

    def say(self, text: str, *, at: float | None = None, style: str = "") -> None:
        """A line about what has happened, now or at the time `at` of `time.monotonic`."""
        seconds = (time.monotonic() if at is None else at) - self._began
        self._print(f"{seconds:6.2f} s  {text}", style)

    def conclude(self, text: str, *, style: str = "") -> None:
        """A line of the result."""
        self._print(text, style)

    def show(self, lanes: Sequence[Lane]) -> None:
        """How far the scans are. Without a terminal: a line for each quarter of the first."""
        lane = lanes[0]
        quarters = 4 * lane.done // lane.total
        if quarters > self._quarters and lane.done < lane.total:
            self.say(f"{lane.done:,} of {lane.total:,} keys, {lane.note}")
        self._quarters = quarters

    def _print(self, text: str, style: str) -> None:  # noqa: ARG002 (for a terminal)
        write_now(text.encode() + b"\n")


@contextlib.contextmanager
def open_stage() -> Generator[Stage, None, None]:
    """The stage for this process's stdout. Raises OutputFailed if there is none."""
    if Output.stdout().is_terminal and os.environ.get("TERM") != "dumb":
        from ._screen import Screen

        with Screen(sys.stdout) as screen:
            yield screen
    else:
        yield Stage()
