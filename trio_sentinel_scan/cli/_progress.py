"""The report with a bar at the bottom of the terminal."""

from __future__ import annotations

import contextlib
from typing import TextIO

import trio

from .._core.summary import ScanSummary
from . import _cluster_words as cluster_words
from ._bars import Bar, Bars
from ._formats import harmless
from ._report import Report


class BarReport(Report):
    """Lines as in `Report`, above a bar that is drawn while the scan runs and gone when it has ended."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._bars = Bars(self._stream)
        self._drawn = False

    def insist(self, line: str) -> None:
        """A line, above the bar if there is one."""
        if not self._drawn:
            super().insist(line)
            return
        with contextlib.suppress(OSError):
            self._bars.say(harmless(line))

    async def _show(self, summary: ScanSummary) -> None:
        # In a thread: a terminal that was stopped (Ctrl-S) must not keep the scan from hearing of another master.
        await trio.to_thread.run_sync(self._draw, summary)

    def _draw(self, summary: ScanSummary) -> None:
        self._tell_restarts(summary)
        with contextlib.suppress(OSError):
            self._drawn = True
            self._bars.draw([_cluster_bar(summary) if self._of_cluster else _bar(summary)])

    def _stop(self) -> None:
        if self._drawn:
            self._drawn = False
            with contextlib.suppress(OSError):
                self._bars.stop()


def _bar(summary: ScanSummary) -> Bar:
    where = str(summary.server.address) if summary.server is not None else "waiting for a server"
    return Bar(
        f"epoch {summary.epoch}",
        summary.position,
        "" if summary.position is None else f"{summary.position:.0%}",
        f"{summary.keys_this_epoch:,} keys, {summary.keys_per_second:,.0f}/s, {harmless(where)}",
    )


def _cluster_bar(summary: ScanSummary) -> Bar:
    return Bar(
        cluster_words.state(summary),
        summary.position,
        "" if summary.position is None else f"{summary.position:.0%}",
        f"{summary.keys:,} keys, {summary.keys_per_second:,.0f}/s",
    )
