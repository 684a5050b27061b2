"""`memory`: how much a process grows while it scans a keyspace that is far larger than what it may hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .peers import OTHERS_COUNT, OURS, find_peers
from .plots import Bar
from .report import Report, Spread, number, shown
from .rounds import Contestant, interleave
from .servers import open_dataset

DEFAULT_PEERS: Final = (OURS, "redis-py", "redis-asyncio", "coredis-trio")

_MIB: Final = 2**20


async def memory(
    report: Report,
    *,
    peers: Sequence[str],
    repeat: int,
    wait_for_quiet: float,
    keys: int,
    count: int | None,
    binary: Path | None,
) -> None:
    present = find_peers(peers, "scan", report.note)
    report.versions |= {peer.name: peer.version for peer in present}
    report.progress(f"filling a server with {keys:,} keys ...")
    async with open_dataset(keys, binary) as dataset:
        server = dataset.server
        report.versions["server"] = f"{server.binary.product} {server.binary.version}"
        report.head()
        task = {"what": "scan", "host": server.host, "port": server.port, "count": count}
        others = task if count is not None else task | {"count": OTHERS_COUNT}
        contestants = [Contestant(peer, task if peer.is_ours else others) for peer in present]
        told = f"ours at its defaults, others COUNT {OTHERS_COUNT}" if count is None else f"COUNT {count}"
        title = f"{keys:,} keys, {told}"
        results = await interleave(
            report, title, contestants, repeat=repeat, wait_for_quiet=wait_for_quiet, server_pid=server.pid, work=keys
        )
    rows, bars = [], []
    for one in results.contestants:
        runs = results.runs[one.label]
        growth = Spread.of(None if run.growth is None else run.growth / _MIB for run in runs)
        seconds = Spread(tuple(run.seconds for run in runs))
        rows.append([one.label, shown(growth, number(1)), seconds.show(number(1))])
        if growth is not None:
            bars.append(Bar(one.label, growth.values, growth.median, one.peer.is_ours))
    report.table(f"{title}: growth of the client", ["", "MiB", "seconds"], rows, results.raw())
    report.chart(f"{title}: growth of the client", "MiB", bars)
    report.note(
        "growth: the most memory (RSS) that the process had during the scan, beyond what it had before, connected"
    )
