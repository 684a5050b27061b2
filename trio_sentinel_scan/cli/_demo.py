"""The demo: a real service on this machine, whose master is killed in the middle of a scan."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final

import trio

from .._core.summary import Certificate, Restart, ScanSummary
from .._trio.client import SentinelClient
from .._trio.scan import ScanPages
from ..testing import LocalSentinel
from ._comparison import PAGES, Comparison, DemoFailed as DemoFailed
from ._naive import NaiveScan
from ._stage import Stage
from ._tidings import Tidings

# Seconds that Sentinel waits for an answer before it holds a server to be down. At 1 a busy machine now and then
# brings about a second failover, which would be shown too, and puzzle.
_DOWN_AFTER: Final = 2.0

PREFIX: Final = "demo:"


async def run_demo(stage: Stage, *, keys: int, seconds_per_page: float) -> None:
    """Show it. Returns if every key was delivered although the master was killed; raises DemoFailed if not."""
    stage.say("starting a master, two replicas and three Sentinels")
    async with LocalSentinel(replicas=2, sentinels=3, down_after=_DOWN_AFTER) as service:
        master = await service.master()
        program = master.binary
        stage.say(f"the master is {master.host}:{master.port} ({program.product.capitalize()} {program.version})")
        written = await service.fill(keys, PREFIX)
        stage.say(f"{len(written):,} keys are written, and the replicas have them")
        demo = _Demo(stage, service, written, seconds_per_page)
        await demo.run()
    demo.conclude()


class _Demo(Comparison):
    """One run: a service's master is killed."""

    WHOLE_PASSES: ClassVar = True
    THEIR_NAME: ClassVar = "redis-py's scan_iter"
    THEIR_LABEL: ClassVar = "redis-py scan_iter"
    OUR_STORY: ClassVar = "trio-sentinel-scan began again at the new master; its last pass alone:"

    def __init__(self, stage: Stage, service: LocalSentinel, written: set[bytes], seconds_per_page: float) -> None:
        self._service = service
        self._count = len(written) // PAGES
        naive = NaiveScan(
            service.sentinels,
            service.service,
            keys=len(written),
            count=self._count,
            seconds_per_page=seconds_per_page,
        )
        super().__init__(
            stage,
            written,
            naive,
            seconds_per_page=seconds_per_page,
            tidings=Tidings(service.sentinel_nodes).news,
        )

    @asynccontextmanager
    async def _open_pages(self) -> AsyncGenerator[ScanPages[Any]]:
        async with (
            SentinelClient(self._service.sentinels, self._service.service) as client,
            client.open_scan(count=self._count, page_size=self._count) as pages,
        ):
            yield pages

    async def _strike(self, nursery: trio.Nursery) -> None:  # noqa: ARG002 (the rest happens by itself)
        master = await self._service.master()
        self._killed = trio.current_time()
        self._stage.say(f"half way: SIGKILL for the master, {master.host}:{master.port}", style="bold red")
        await master.kill()

    def _words_for(self, restart: Restart) -> tuple[str, str]:
        return f"heard: {restart.reason}", f"the first page of epoch {restart.epoch}"

    def _words_of(self, certificate: Certificate | None) -> str:
        assert certificate is not None
        agreeing = f"{certificate.sentinels_agreeing} of {certificate.sentinels_known} Sentinels agree"
        return f"{certificate.server.address} is the master, {agreeing}"

    def _note(self, summary: ScanSummary) -> str:
        if self._restarts_told:
            return f"epoch {summary.epoch}, from the beginning"
        if self._killed is not None:
            return f"the master is dead, {trio.current_time() - self._killed:.1f} s"
        return f"epoch {summary.epoch}"
