"""`commands`: GET of a short value, by one task and by many on one shared client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trio_sentinel_scan.testing import LocalRedis

from .peers import OURS, find_peers
from .report import Report, Spread, number
from .rounds import Contestant, Results, interleave, show

DEFAULT_PEERS: Final = (OURS, "redis-asyncio", "coredis-trio", "coredis-asyncio", "glide-asyncio", "node-redis")
DEFAULT_TASKS: Final = (1, 100, 1000)
CALLS: Final = 20_000

_VALUE: Final = "0123456789abcdef" * 2
# It has no tasks to share it: it is there to be seen beside one task of the others.
_ALONE: Final = frozenset({"redis-py"})


async def commands(
    report: Report,
    *,
    peers: Sequence[str],
    repeat: int,
    wait_for_quiet: float,
    tasks: Sequence[int],
    calls: int,
    binary: Path | None,
) -> None:
    present = find_peers(peers, "get", report.note)
    report.versions |= {peer.name: peer.version for peer in present}
    found: dict[int, Results] = {}
    async with LocalRedis(binary=binary) as server:
        report.versions["server"] = f"{server.binary.product} {server.binary.version}"
        report.head()
        for number_of_tasks in tasks:
            # The same number for each task, so that all have done the same.
            work = max(1, calls // number_of_tasks) * number_of_tasks
            task = {"what": "get", "host": server.host, "port": server.port, "key": "bench", "value": _VALUE}
            contestants = [
                Contestant(peer, task | {"tasks": number_of_tasks, "calls": work})
                for peer in present
                if number_of_tasks == 1 or peer.name not in _ALONE
            ]
            title = (
                f"GET of {len(_VALUE)} bytes, {work:,} calls by {number_of_tasks:,} task{'s' * (number_of_tasks > 1)}"
            )
            results = await interleave(
                report,
                title,
                contestants,
                repeat=repeat,
                wait_for_quiet=wait_for_quiet,
                server_pid=server.pid,
                work=work,
            )
            show(report, title, results, "call")
            found[number_of_tasks] = results
    if len(found) > 1:
        _show_scaling(report, found)


def _show_scaling(report: Report, found: dict[int, Results]) -> None:
    """What a call takes, by the number of tasks."""
    names = list(dict.fromkeys(one.peer.name for results in found.values() for one in results.contestants))
    rows, raw = [], {}
    for name in names:
        row = [name]
        for tasks, results in found.items():
            one = results.find(name, "")
            taken = None if one is None else Spread(tuple(1e6 / rate for rate in results.rate(one).values))
            row.append("-" if taken is None else taken.show(number(1)))
            raw[f"{name}, {tasks} tasks"] = None if taken is None else taken.values
        rows.append(row)
    report.table("Microseconds for a call", ["", *(f"{tasks:,} tasks" for tasks in found)], rows, raw)
