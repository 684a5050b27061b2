"""The demo of a cluster: in the middle of a scan one master is killed, and slots of another move to the third."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final

import trio

from .._core.slots import describe_slots, set_of
from .._core.summary import Certificate, Restart, ScanSummary
from .._trio.cluster import ClusterClient
from .._trio.scan import ScanPages
from ..testing import LocalCluster, LocalClusterNode
from ._cluster_naive import NaiveClusterScan
from ._comparison import PAGES, Comparison, News
from ._demo import PREFIX
from ._stage import Stage
from ._tidings import Tidings, nodes_tidings

# How many slots move: the last ones of the third master, which whoever goes from node to node has not come to yet.
_MOVED: Final = range(15_384, 16_384)


async def run_demo(stage: Stage, *, keys: int, seconds_per_page: float) -> None:
    """Show it. Returns if every key was delivered whatever happened to the cluster; raises DemoFailed if not."""
    stage.say("starting a cluster of three masters, each with a replica")
    async with LocalCluster(masters=3, replicas=1) as cluster:
        masters = await cluster.masters()
        program = masters[0].binary
        ports = ", ".join(str(master.port) for master in masters)
        stage.say(f"the masters are at ports {ports} ({program.product.capitalize()} {program.version})")
        written = await cluster.fill(keys, PREFIX)
        stage.say(f"{len(written):,} keys are written, and the replicas have them")
        demo = _Demo(stage, cluster, written, seconds_per_page)
        await demo.run()
    demo.conclude()


class _Demo(Comparison):
    """One run: one of three masters is killed, and slots move between the others."""

    WHOLE_PASSES: ClassVar = False
    THEIR_NAME: ClassVar = "redis-py, node by node,"
    THEIR_LABEL: ClassVar = "redis-py, by nodes"
    OUR_STORY: ClassVar = "trio-sentinel-scan scanned the slots concerned again:"

    def __init__(self, stage: Stage, cluster: LocalCluster, written: set[bytes], seconds_per_page: float) -> None:
        self._cluster = cluster
        self._count = len(written) // PAGES
        naive = NaiveClusterScan(
            cluster.addresses, keys=len(written), count=self._count, seconds_per_page=seconds_per_page
        )
        super().__init__(
            stage,
            written,
            naive,
            seconds_per_page=seconds_per_page,
            tidings=Tidings(cluster.nodes, nodes_tidings).news,
        )
        # Whether the dead master's slots have an owner again.
        self._is_replaced = False

    @asynccontextmanager
    async def _open_pages(self) -> AsyncGenerator[ScanPages[Any]]:
        async with (
            ClusterClient(self._cluster.addresses) as client,
            client.open_scan(count=self._count, page_size=self._count) as pages,
        ):
            yield pages

    async def _strike(self, nursery: trio.Nursery) -> None:
        swept, killed, unswept = self._cluster.nodes[:3]
        self._killed = trio.current_time()
        self._stage.say(f"half way: SIGKILL for the master at port {killed.port}", style="bold red")
        await self._cluster.kill(killed)
        nursery.start_soon(self._see_it_replaced, killed)
        await self._cluster.migrate_slots(_MOVED, swept)
        moved = f"{len(_MOVED):,} slots have moved from port {unswept.port} to port {swept.port}"
        self._news.append(News(trio.current_time(), moved, "bold red"))

    async def _see_it_replaced(self, killed: LocalClusterNode) -> None:
        successor = await self._cluster.wait_for_new_master(killed)
        self._is_replaced = True
        self._news.append(News(trio.current_time(), f"all nodes know the new master, at port {successor.port}"))

    def _words_for(self, restart: Restart) -> tuple[str, str]:
        which = describe_slots(set_of(restart.slots)) if restart.slots else "slots"
        # A line is to fit into a terminal's.
        return f"{which}: {restart.reason.partition(': ')[0]}", f"the first page of {which}"

    def _words_of(self, certificate: Certificate | None) -> str:
        assert certificate is not None
        return "all slots, as a majority of the masters has them"

    def _note(self, summary: ScanSummary) -> str:
        if self._killed is not None and not self._is_replaced:
            return f"a master is dead, {trio.current_time() - self._killed:.1f} s"
        return "some slots again" if summary.restarts else "three nodes at once"
