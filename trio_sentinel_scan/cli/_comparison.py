"""What the demos have in common: two scans side by side, a blow half way, and the account of both."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Final, NamedTuple

import trio

from .._core.summary import Certificate, Restart, ScanSummary
from .._trio.nurseries import open_service_nursery
from .._trio.scan import ScanPages
from ._naive import Naive
from ._running import Failure
from ._stage import Lane, Stage
from ._tidings import Tiding

PAGES: Final = 200
# Seconds between two looks at what is going on.
_TICK: Final = 0.05
# Seconds that the other scan may take longer than ours.
_PATIENCE: Final = 10.0


class News(NamedTuple):
    """Something that has happened; by its time (trio's) it has its place among others."""

    at: float
    text: str
    style: str = ""


class DemoFailed(Failure):
    """The scan did not do what it promises."""


class Comparison(ABC):
    """One run: the scan, the one that it is compared with, and what is told of both."""

    # Whether a pass begins with nothing, and must be everything by itself.
    WHOLE_PASSES: ClassVar[bool]
    # What the other scan is called: in the midst of a sentence, and beside its bar.
    THEIR_NAME: ClassVar[str]
    THEIR_LABEL: ClassVar[str]
    # What ours did, before its result.
    OUR_STORY: ClassVar[str]

    def __init__(
        self,
        stage: Stage,
        written: set[bytes],
        naive: Naive,
        *,
        seconds_per_page: float,
        tidings: Callable[[], Sequence[Tiding]],
    ) -> None:
        self._stage = stage
        self._written = written
        self._naive = naive
        self._seconds_per_page = seconds_per_page
        self._tidings = tidings
        # What must be everything in the end.
        self._delivered: set[bytes] = set()
        # The times (trio's) of the scan's beginning and of the SIGKILL.
        self._began = 0.0
        self._killed: float | None = None
        # How many restarts, and first pages after them, have been told.
        self._restarts_told = 0
        self._pages_told: set[int] = set()
        self._complete = False
        # What others have to tell, in no order.
        self._news: list[News] = []

    @abstractmethod
    def _open_pages(self) -> AbstractAsyncContextManager[ScanPages[Any]]:
        """Begin our scan, with a client of its own."""

    @abstractmethod
    async def _strike(self, nursery: trio.Nursery) -> None:
        """Do what is shown; both scans are half way, and wait."""

    @abstractmethod
    def _words_for(self, restart: Restart) -> tuple[str, str]:
        """What is told of a restart, and of its first page."""

    @abstractmethod
    def _words_of(self, certificate: Certificate | None) -> str:
        """Why it is complete."""

    @abstractmethod
    def _note(self, summary: ScanSummary) -> str:
        """What our scan is at, beside its bar."""

    async def run(self) -> None:
        """Both scans, until both have ended."""
        async with open_service_nursery() as nursery:
            nursery.start_soon(self._naive.run)
            async with self._open_pages() as pages:
                self._stage.say(f"two scans begin: ours, and {self.THEIR_NAME} with retries")
                self._began = trio.current_time() - pages.summary.elapsed
                nursery.start_soon(self._watch, pages)
                await self._scan(pages, nursery)
                self._tell(pages)
                self._complete = True
                self._stage.say(f"complete: {self._words_of(pages.summary.certificate)}", style="green")
            with trio.move_on_after(_PATIENCE):
                await self._naive.ended.wait()

    def conclude(self) -> None:
        """Compare what was delivered with what was written. Raises DemoFailed."""
        say, total = self._stage.conclude, len(self._written)
        theirs = len(self._naive.delivered & self._written)
        say("")
        say(f"{self.THEIR_NAME} {self._naive.story}:")
        say(f"{theirs:,} of {total:,} keys delivered, {total - theirs:,} lost", style="yellow")
        say(self.OUR_STORY)
        ours = len(self._delivered & self._written)
        success = self._complete and self._restarts_told > 0 and self._delivered == self._written
        say(f"{ours:,} of {total:,} keys delivered", style="bold green" if success else "bold red")
        if not success:
            raise DemoFailed(
                f"{total - ours:,} keys are missing, {len(self._delivered - self._written):,} are none of those"
                f" written, and there were {self._restarts_told} restarts"
            )

    async def _scan(self, pages: ScanPages[Any], nursery: trio.Nursery) -> None:
        epoch, struck = 0, False
        async for page in pages:
            if self.WHOLE_PASSES and page.epoch != epoch:
                epoch = page.epoch
                self._delivered.clear()
            self._delivered.update(page)
            if not struck and len(self._delivered) >= len(self._written) // 2:
                struck = True
                # Both at the same point: what they make of it is to be compared.
                await self._naive.half_way.wait()
                await self._strike(nursery)
                self._naive.go_on()
            await trio.sleep(self._seconds_per_page)
        await trio.lowlevel.checkpoint()

    async def _watch(self, pages: ScanPages[Any]) -> None:
        while True:
            self._tell(pages)
            await trio.sleep(_TICK)

    def _tell(self, pages: ScanPages[Any]) -> None:
        """Tell what is new, and how far the scans are."""
        summary = pages.summary
        news, self._news = self._news, []
        news += [News(trio.current_time() - (time.time() - at), text) for at, text in self._tidings()]
        for number, restart in enumerate(summary.restarts):
            heard, first_page = self._words_for(restart)
            if number >= self._restarts_told:
                self._restarts_told += 1
                news.append(News(self._began + restart.at, heard, "cyan"))
            # Where several parts are scanned at once, a later restart may have its first page first.
            if restart.first_page_after is not None and number not in self._pages_told:
                self._pages_told.add(number)
                text = f"{first_page}, {restart.first_page_after * 1000:.0f} ms later"
                news.append(News(self._began + restart.at + restart.first_page_after, text, "cyan"))
        for at, text, style in sorted(news):
            since = f"+{at - self._killed:.2f} s" if self._killed is not None else ""
            at_by_stage = at - trio.current_time() + time.monotonic()
            self._stage.say(f"{since:>9}  {text}", at=at_by_stage, style=style)
        ours = "complete" if self._complete else self._note(summary)
        self._stage.show(
            [
                Lane("trio-sentinel-scan", len(self._written), len(self._delivered), ours),
                Lane(self.THEIR_LABEL, len(self._written), len(self._naive.delivered), self._naive.end),
            ]
        )
