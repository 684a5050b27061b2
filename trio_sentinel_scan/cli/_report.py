"""What is said on stderr while a scan runs and when it has ended. Nothing here is a key."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, Final, TextIO

import trio

from .._core.summary import Restart, ScanSummary
from .._trio.nurseries import open_service_nursery
from .._trio.scan import ScanPages
from . import _cluster_words as cluster_words
from ._formats import harmless
from ._output import OutputClosed

PROGRAM: Final = "trio-sentinel-scan"

# Seconds between two looks at the scan: a restart is told within this, and the bar moves.
_TICK: Final = 0.1
# Seconds between two lines of progress where there is no bar.
_LINE_EVERY: Final = 2.0


class Report:
    """Lines on stderr: one for each restart, and the account at the end. With `progress`, one every two seconds."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, progress: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._progress = progress
        # How many restarts have been told.
        self._told = 0
        self._next_line = _LINE_EVERY
        self._each_once = False
        self._of_cluster = False

    def say(self, line: str) -> None:
        """A line for the user, unless he wants none."""
        if not self._quiet:
            self.insist(line)

    def insist(self, line: str) -> None:
        """A line that is said in any case."""
        # Nobody to tell is no reason to stop: the exit status says the rest.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(harmless(line) + "\n")
            self._stream.flush()

    @contextlib.asynccontextmanager
    async def following(
        self, pages: ScanPages[Any], *, each_once: bool = False, of_cluster: bool = False
    ) -> AsyncGenerator[None, None]:
        """Tell what happens to the scan for as long as the block lasts, and how it ended.

        `each_once`: whether it leaves duplicates out. `of_cluster`: whether it is a cluster's.
        """
        self._each_once, self._of_cluster = each_once, of_cluster
        account: Callable[[ScanSummary], list[str]] = partial(ending_early, of_cluster=of_cluster)
        try:
            async with open_service_nursery() as nursery:
                nursery.start_soon(self._follow, pages)
                yield
                account = partial(ending, each_once=each_once, of_cluster=of_cluster)
        except OutputClosed:
            # Whoever has enough of the keys has enough of the scan.
            account = _nothing
            raise
        finally:
            self._stop()
            summary = pages.summary
            self._tell_restarts(summary)
            for line in account(summary):
                self.say(line)

    async def _follow(self, pages: ScanPages[Any]) -> None:
        while True:
            await self._show(pages.summary)
            await trio.sleep(_TICK)

    async def _show(self, summary: ScanSummary) -> None:
        """Tell what has happened, and how far the scan is."""
        self._tell_restarts(summary)
        if self._progress and summary.elapsed >= self._next_line:
            self._next_line = summary.elapsed + _LINE_EVERY
            self.say((cluster_words.progressing if self._of_cluster else progressing)(summary))
        await trio.lowlevel.checkpoint()

    def _tell_restarts(self, summary: ScanSummary) -> None:
        words = cluster_words.restarting if self._of_cluster else restarting
        for restart in summary.restarts[self._told :]:
            self.say(words(restart, each_once=self._each_once))
            self._told += 1

    def _stop(self) -> None:
        """Nothing more is to be shown."""


def progressing(summary: ScanSummary) -> str:
    """How far a scan is."""
    covered = "" if summary.position is None else f"{summary.position:4.0%}, "
    where = summary.server.address if summary.server is not None else "waiting for a server"
    return (
        f"{covered}{summary.keys_this_epoch:,} keys, {summary.keys_per_second:,.0f} keys/s,"
        f" epoch {summary.epoch}, {where}"
    )


def restarting(restart: Restart, *, each_once: bool = False) -> str:
    """That a scan begins again."""
    effect = "and leaving out what was written" if each_once else "so keys may come again"
    return (
        f"restart {restart.epoch} after {restart.at:.2f} s: {restart.reason}; scanning again from the beginning,"
        f" {effect}"
    )


def ending(summary: ScanSummary, *, each_once: bool = False, of_cluster: bool = False) -> list[str]:
    """The account of a complete scan."""
    if of_cluster:
        return cluster_words.ending(summary, each_once=each_once) + _left_out(summary)
    took = f"{summary.elapsed:.2f} s ({summary.keys_per_second:,.0f} keys/s)"
    # With duplicates left out the final pass has brought what was missing, and it is all of them that are complete.
    keys = summary.keys if each_once else summary.keys_this_epoch
    lines = [f"complete: {keys:,} keys in {took}; {summary.certificate}"]
    if summary.restarts:
        before = summary.keys - summary.keys_this_epoch
        times = "1 restart" if len(summary.restarts) == 1 else f"{len(summary.restarts)} restarts"
        again = "none of them came again" if each_once else "those that still exist came again in it"
        lines.append(f"{times}: {before:,} keys had come before the final pass, and {again}")
    return lines + _left_out(summary)


def ending_early(summary: ScanSummary, *, of_cluster: bool = False) -> list[str]:
    """The account of a scan that ended otherwise."""
    if of_cluster:
        return [cluster_words.ending_early(summary), *_left_out(summary)]
    covered = "" if summary.position is None else f", {summary.position:.0%} of the pass"
    line = f"incomplete: {summary.keys:,} keys in {summary.elapsed:.2f} s (epoch {summary.epoch}{covered})"
    return [line, *_left_out(summary)]


def _left_out(summary: ScanSummary) -> list[str]:
    dropped = summary.duplicates_dropped
    if not dropped:
        return []
    return ["1 duplicate was left out" if dropped == 1 else f"{dropped:,} duplicates were left out"]


def _nothing(_: ScanSummary) -> list[str]:
    return []


class ReportHandler(logging.Handler):
    """Log records, as lines of the report: so they do not get into the bar's way."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        self._report.insist(self.format(record))
