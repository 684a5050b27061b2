"""`latency`: what somebody else's GETs take while a scan is on: alone, beside ours, beside others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .peers import OTHERS_COUNT, OURS, Peer, find_peers
from .plots import Bar
from .report import Report, Spread, number, thousands
from .runs import Run, WorkerFailed, open_worker, python_worker, wait_for_quiet as quiet
from .servers import Dataset, open_dataset

DEFAULT_PEERS: Final = (OURS, "redis-py")

_GETS_PER_SECOND: Final = 500
_SECONDS: Final = 5.0


@dataclass
class _Case:
    """One situation that the GETs are made in; without a peer, nobody scans."""

    label: str
    peer: Peer | None = None
    count: int | None = None
    probes: list[Run] = field(default_factory=list)
    scans: list[Run] = field(default_factory=list)

    def percentile(self, percent: int) -> Spread:
        """Of each run's GETs, in milliseconds."""
        cuts = (statistics.quantiles(run.said["milliseconds"], n=100)[percent - 1] for run in self.probes)
        return Spread(tuple(cuts))

    def worst(self) -> Spread:
        return Spread(tuple(max(run.said["milliseconds"]) for run in self.probes))

    def rate(self) -> Spread | None:
        return Spread.of(run.said["keys"] / run.seconds for run in self.scans)


async def latency(
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
        report.versions["server"] = f"{dataset.server.binary.product} {dataset.server.binary.version}"
        report.head()
        cases = [_Case("idle"), *(_case(peer, count) for peer in present)]
        for at in range(1, repeat + 1):
            for case in tuple(cases):
                await quiet(wait_for_quiet)
                try:
                    await _run(case, dataset)
                except WorkerFailed as error:
                    report.note(f"left out: {case.label}: it failed: {error}")
                    cases.remove(case)
                    continue
                report.saw_others(case.probes[-1].others)
                report.progress(f"  round {at} of {repeat}, {case.label}: p99 {case.percentile(99).values[-1]:.3f} ms")
    _show(report, keys, cases)


def _case(peer: Peer, count: int | None) -> _Case:
    if count is None and not peer.is_ours:
        count = OTHERS_COUNT
    return _Case(f"{peer.name}, {'its defaults' if count is None else f'COUNT {count}'}", peer, count)


async def _run(case: _Case, dataset: Dataset) -> None:
    server = dataset.server
    task = {"host": server.host, "port": server.port, "key": "key:0", "at_least": _SECONDS}
    prober = python_worker("get_prober", task | {"per_second": _GETS_PER_SECOND})
    async with open_worker(prober, server.pid) as probe:
        if case.peer is None:
            await probe.go()
            case.probes.append(await probe.result())
            return
        scan = task | {"what": "scan", "count": case.count, "options": dict(case.peer.options)}
        # It scans until the GETs are over, and then to the end of the scan that it is in.
        scan["at_least"] = _SECONDS + 0.2
        async with open_worker(case.peer.command(scan), server.pid) as scanner:
            await scanner.go()
            probe.helpers = [scanner.process.pid]
            await probe.go()
            case.probes.append(await probe.result())
            case.scans.append(await scanner.result())


def _show(report: Report, keys: int, cases: Sequence[_Case]) -> None:
    rows, raw, bars = [], {}, []
    for case in cases:
        rate, ours = case.rate(), case.peer is not None and case.peer.is_ours
        middle, tail, worst = case.percentile(50), case.percentile(99), case.worst()
        rows.append(
            [
                case.label,
                middle.show(number(3)),
                tail.show(number(3)),
                worst.show(number(2)),
                "-" if rate is None else rate.show(thousands),
            ]
        )
        raw[case.label] = {
            "p50_ms": middle.values,
            "p99_ms": tail.values,
            "max_ms": worst.values,
            "gets": [len(run.said["milliseconds"]) for run in case.probes],
            "keys_per_second": None if rate is None else rate.values,
        }
        bars.append(Bar(f"{case.label}, p50", middle.values, middle.median, ours))
        bars.append(Bar(f"{case.label}, p99", tail.values, tail.median, ours))
    title = f"Another client's GETs during a scan of {keys:,} keys"
    columns = ["during", "p50 ms", "p99 ms", "worst ms", "keys/s of the scan"]
    report.table(f"{title} ({_GETS_PER_SECOND} a second for {_SECONDS:g} s)", columns, rows, raw)
    report.chart(title, "milliseconds", bars)
    report.note(
        "three processes (server, scan, GETs) share the cores: where there are fewer than three, a GET also waits for"
        " a core, whoever scans"
    )
