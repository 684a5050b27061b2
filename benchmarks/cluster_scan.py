"""`cluster-scan`: how fast all keys of a cluster are gone through, by each at its own defaults."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from trio_sentinel_scan.testing import LocalCluster

from .peers import OURS, Peer, Task, find_peers
from .report import Report
from .rounds import Contestant, interleave, show
from .runs import python_worker
from .scan import check

DEFAULT_PEERS: Final = (OURS, "redis-asyncio", "glide-asyncio")
MASTERS: Final = 3

_CHUNK: Final = 100_000


async def cluster_scan(
    report: Report,
    *,
    peers: Sequence[str],
    repeat: int,
    wait_for_quiet: float,
    keys: int,
    count: int | None,
    binary: Path | None,
) -> None:
    present = [replace(peer, command=partial(_command, peer)) for peer in find_peers(peers, "scan", report.note)]
    report.versions |= {peer.name: peer.version for peer in present}
    report.progress(f"filling {MASTERS} masters with {keys:,} keys ...")
    async with _open_cluster(keys, binary) as cluster:
        first, *others = cluster.nodes
        report.versions["server"] = f"{first.binary.product} {first.binary.version}"
        report.head()
        report.note(f"how busy the server is, is told of the first of the {MASTERS} masters")
        task: Task = {"what": "scan", "host": first.host, "port": first.port, "count": count}
        helpers = tuple(node.pid for node in others)
        how = "each at its own defaults" if count is None else f"COUNT {count}"
        title = f"{keys:,} keys on {MASTERS} masters, {how}"
        results = await interleave(
            report,
            title,
            [Contestant(peer, task, helpers=helpers) for peer in present],
            repeat=repeat,
            wait_for_quiet=wait_for_quiet,
            server_pid=first.pid,
            work=keys,
        )
        check(report, results, keys)
        show(report, title, results, "key")


def _command(peer: Peer, task: Task) -> list[str]:
    """Each peer's way to scan a cluster is in one file."""
    return python_worker("cluster_scan", task | {"client": peer.name.partition(":")[0]})


@asynccontextmanager
async def _open_cluster(keys: int, binary: Path | None) -> AsyncGenerator[LocalCluster]:
    """Masters without replicas, which some would scan instead, with so many keys and nothing left to do."""
    async with LocalCluster(MASTERS, 0, binary=binary, patience=120) as cluster:
        # Twice: each lookup takes a table's rehashing a step on, and it has fewer steps to go than keys.
        for _ in range(2):
            for start in range(0, keys, _CHUNK):
                await cluster.fill(min(_CHUNK, keys - start), start=start)
        yield cluster
