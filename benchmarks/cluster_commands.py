"""`cluster-commands`: GETs over a cluster's masters, by one task and by many on one client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trio_sentinel_scan import __version__
from trio_sentinel_scan.testing import LocalCluster

from .machine import package_version
from .peers import OURS, CannotBegin, Peer, Task
from .report import Report
from .rounds import Contestant, interleave, show
from .runs import python_worker

# Name -> whose client it is, on which loop, and what must be installed for it.
_PEERS: Final = {
    OURS: (OURS, "trio", ()),
    "redis-asyncio": ("redis-py", "asyncio", ("redis", "hiredis")),
    "glide-asyncio": ("glide", "asyncio", ("valkey-glide",)),
    "glide-trio": ("glide", "trio", ("valkey-glide",)),
}
DEFAULT_PEERS: Final = (OURS, "redis-asyncio", "glide-asyncio")
DEFAULT_TASKS: Final = (1, 100)
CALLS: Final = 20_000
MASTERS: Final = 3

_KEYS: Final = 1_000
_VALUE: Final = "0123456789abcdef" * 2


async def cluster_commands(
    report: Report,
    *,
    peers: Sequence[str],
    repeat: int,
    wait_for_quiet: float,
    tasks: Sequence[int],
    calls: int,
    binary: Path | None,
) -> None:
    present = [found for name in peers if (found := _find(name, report)) is not None]
    report.versions |= {peer.name: peer.version for peer in present}
    async with LocalCluster(MASTERS, 0, binary=binary) as cluster:
        first = cluster.nodes[0]
        report.versions["servers"] = f"{MASTERS} masters, {first.binary.product} {first.binary.version}"
        report.head()
        for number_of_tasks in tasks:
            work = max(1, calls // number_of_tasks) * number_of_tasks
            task: Task = {"host": first.host, "port": first.port, "keys": _KEYS, "value": _VALUE, "calls": work}
            title = (
                f"GET over {MASTERS} masters, {work:,} calls by {number_of_tasks:,} task{'s' * (number_of_tasks > 1)}"
            )
            results = await interleave(
                report,
                title,
                [Contestant(peer, task | {"tasks": number_of_tasks}) for peer in present],
                repeat=repeat,
                wait_for_quiet=wait_for_quiet,
                # (Of the first one; the others have as much to do.)
                server_pid=first.pid,
                work=work,
            )
            show(report, title, results, "call")


def _find(name: str, report: Report) -> Peer | None:
    if name not in _PEERS:
        raise CannotBegin(f"there is no peer {name!r}; there are {', '.join(_PEERS)}")
    client, loop, packages = _PEERS[name]
    versions = {package: package_version(package) for package in packages}
    missing = [package for package, version in versions.items() if version is None]
    if missing:
        report.note(f"left out: {name}: {', '.join(missing)} is not installed")
        return None
    version = ", ".join(f"{package} {found}" for package, found in versions.items())
    return Peer(
        name,
        version or f"trio-sentinel-scan {__version__}",
        lambda task: python_worker("cluster_get", task | {"client": client, "on": loop}),
    )
