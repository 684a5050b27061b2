"""`memory`: how much a process grows while it scans a keyspace that is far larger than what it may hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .peers import OTHERS_COUNT, OURS, find_peers
from .plots import Bar
from .report import Report, Spread, number, shown, thousands
from .rounds import Contestant, interleave
from .servers import open_dataset

DEFAULT_PEERS: Final = (OURS, "redis-py", "redis-asyncio", "coredis-trio")
# See workers/ours.py.
DEDUPE: Final = (
    "ours",
    "ours:dedupe=exact",
    "ours:dedupe=compact",
    "ours:dedupe=compact-not-expected",
    "ours:dedupe=spilling",
    "ours:dedupe=temporary",
)

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
    dedupe: bool = False,
) -> None:
    """`dedupe`: ours with each kind of it, instead of the peers."""
    if dedupe:
        peers = DEDUPE
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
        row = [one.label, shown(growth, number(1)), seconds.show(number(1))]
        if dedupe:
            per_key = Spread.of(None if run.growth is None else run.growth / keys for run in runs)
            on_disk = Spread.of(run.said.get("on_disk", 0) / keys for run in runs)
            row += [shown(per_key, number(1)), shown(on_disk, number(1)), results.rate(one).show(thousands)]
            row.append(shown(results.client_nanoseconds(one), thousands))
        rows.append(row)
        if growth is not None:
            bars.append(Bar(one.label, growth.values, growth.median, one.peer.is_ours))
    of_dedupe = ["bytes/key", "on disk, bytes/key", "keys/s", "client ns/key"]
    columns = ["", "MiB", "seconds", *(of_dedupe if dedupe else [])]
    report.table(f"{title}: growth of the client", columns, rows, results.raw())
    report.chart(f"{title}: growth of the client", "MiB", bars)
    report.note(
        "growth: the most memory (RSS) that the process had during the scan, beyond what it had before, connected"
    )
    if dedupe:
        report.note("keys have names of 5 to 14 bytes; compact-not-expected expects a hundredth of those that come")
