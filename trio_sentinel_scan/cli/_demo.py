"""The demo: a real service on this machine, whose master is killed in the middle of a scan."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

import trio

from .._core.summary import Certificate, ScanSummary
from .._trio.client import SentinelClient
from .._trio.nurseries import open_service_nursery
from .._trio.scan import ScanPages
from ..testing import LocalSentinel
from ._naive import NaiveScan
from ._running import Failure
from ._stage import Lane, Stage
from ._tidings import Tidings

# Seconds that Sentinel waits for an answer before it holds a server to be down. At 1 a busy machine now and then
# brings about a second failover, which would be shown too, and puzzle.
_DOWN_AFTER: Final = 2.0
_PAGES: Final = 200
# Seconds between two looks at what is going on.
_TICK: Final = 0.05
# Seconds that the other scan may take longer than ours.
_PATIENCE: Final = 10.0

_PREFIX: Final = "demo:"


class _News(NamedTuple):
    """Something that has happened; by its time (trio's) it has its place among others."""

    at: float
    text: str
    style: str = ""


class DemoFailed(Failure):
    """The scan did not do what it promises."""


async def run_demo(stage: Stage, *, keys: int, seconds_per_page: float) -> None:
    """Show it. Returns if every key was delivered although the master was killed; raises DemoFailed if not."""
    stage.say("starting a master, two replicas and three Sentinels")
    async with LocalSentinel(replicas=2, sentinels=3, down_after=_DOWN_AFTER) as service:
        master = await service.master()
        program = master.binary
        stage.say(f"the master is {master.host}:{master.port} ({program.product.capitalize()} {program.version})")
        written = await service.fill(keys, _PREFIX)
        stage.say(f"{len(written):,} keys are written, and the replicas have them")
        demo = _Demo(stage, service, written, seconds_per_page)
        await demo.run()
    demo.conclude()


class _Demo:
    """One run: the scan, the one that it is compared with, and what is told of both."""

    def __init__(self, stage: Stage, service: LocalSentinel, written: set[bytes], seconds_per_page: float) -> None:
        self._stage = stage
        self._service = service
        self._written = written
        self._seconds_per_page = seconds_per_page
        self._count = len(written) // _PAGES
        self._tidings = Tidings(service.sentinel_nodes)
        self._naive = NaiveScan(
            service.sentinels,
            service.service,
            keys=len(written),
            count=self._count,
            seconds_per_page=seconds_per_page,
        )
        # What the present pass has delivered: it alone must be everything.
        self._delivered: set[bytes] = set()
        # The times (trio's) of the scan's beginning and of the SIGKILL.
        self._began = 0.0
        self._killed: float | None = None
        # How many restarts, and how many first pages after them, have been told.
        self._restarts_told = 0
        self._pages_told = 0
        self._complete = False

    async def run(self) -> None:
        """Both scans, until both have ended."""
        async with open_service_nursery() as nursery:
            nursery.start_soon(self._naive.run)
            async with (
                SentinelClient(self._service.sentinels, self._service.service) as client,
                client.open_scan(count=self._count, page_size=self._count) as pages,
            ):
                self._stage.say("two scans begin: ours, and redis-py's scan_iter with retries")
                self._began = trio.current_time() - pages.summary.elapsed
                nursery.start_soon(self._watch, pages)
                await self._scan(pages)
                self._tell(pages)
                self._complete = True
                self._stage.say(f"complete: {_words_of(pages.summary.certificate)}", style="green")
            with trio.move_on_after(_PATIENCE):
                await self._naive.ended.wait()

    def conclude(self) -> None:
        """Compare what was delivered with what was written. Raises DemoFailed."""
        say, total = self._stage.conclude, len(self._written)
        theirs = len(self._naive.delivered & self._written)
        say("")
        say(f"redis-py's scan_iter {self._naive.story}:")
        say(f"{theirs:,} of {total:,} keys delivered, {total - theirs:,} lost", style="yellow")
        say("trio-sentinel-scan began again at the new master; its last pass alone:")
        ours = len(self._delivered & self._written)
        success = self._complete and self._restarts_told > 0 and self._delivered == self._written
        say(f"{ours:,} of {total:,} keys delivered", style="bold green" if success else "bold red")
        if not success:
            raise DemoFailed(
                f"{total - ours:,} keys are missing, {len(self._delivered - self._written):,} are none of those"
                f" written, and there were {self._restarts_told} restarts"
            )

    async def _scan(self, pages: ScanPages[Any]) -> None:
        epoch = 0
        async for page in pages:
            if page.epoch != epoch:
                epoch = page.epoch
                self._delivered.clear()
            self._delivered.update(page)
            if self._killed is None and len(self._delivered) >= len(self._written) // 2:
                await self._kill()
            await trio.sleep(self._seconds_per_page)
        await trio.lowlevel.checkpoint()

    async def _kill(self) -> None:
        # Both at the same point: what they make of it is to be compared.
        await self._naive.half_way.wait()
        master = await self._service.master()
        self._killed = trio.current_time()
        self._stage.say(f"half way: SIGKILL for the master, {master.host}:{master.port}", style="bold red")
        await master.kill()
        self._naive.go_on()

    async def _watch(self, pages: ScanPages[Any]) -> None:
        while True:
            self._tell(pages)
            await trio.sleep(_TICK)

    def _tell(self, pages: ScanPages[Any]) -> None:
        """Tell what is new, and how far the scans are."""
        summary = pages.summary
        news = [_News(trio.current_time() - (time.time() - at), text) for at, text in self._tidings.news()]
        for restart in summary.restarts[self._restarts_told :]:
            self._restarts_told += 1
            news.append(_News(self._began + restart.at, f"heard: {restart.reason}", "cyan"))
        for restart in summary.restarts[self._pages_told :]:
            if restart.first_page_after is not None:
                self._pages_told += 1
                text = f"the first page of epoch {restart.epoch}, {restart.first_page_after * 1000:.0f} ms later"
                news.append(_News(self._began + restart.at + restart.first_page_after, text, "cyan"))
        for at, text, style in sorted(news):
            since = f"+{at - self._killed:.2f} s" if self._killed is not None else ""
            at_by_stage = at - trio.current_time() + time.monotonic()
            self._stage.say(f"{since:>9}  {text}", at=at_by_stage, style=style)
        self._show(summary)

    def _show(self, summary: ScanSummary) -> None:
        total = len(self._written)
        ours, theirs = f"epoch {summary.epoch}", self._naive.end
        if self._complete:
            ours = "complete"
        elif self._restarts_told:
            ours += ", from the beginning"
        elif self._killed is not None:
            ours = f"the master is dead, {trio.current_time() - self._killed:.1f} s"
        self._stage.show(
            [
                Lane("trio-sentinel-scan", total, len(self._delivered), ours),
                Lane("redis-py scan_iter", total, len(self._naive.delivered), theirs),
            ]
        )


def _words_of(certificate: Certificate | None) -> str:
    assert certificate is not None
    agreeing = f"{certificate.sentinels_agreeing} of {certificate.sentinels_known} Sentinels agree"
    return f"{certificate.server.address} is the master, {agreeing}"
