"""`scan`: how fast a keyspace is gone through, what it costs the client, and how busy it keeps the server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from .peers import EDITIONS, OURS, REFERENCE, Absent, Peer, can_scan_with, find_peers
from .report import Report, Spread, number, share, times
from .rounds import Contestant, Results, interleave, show
from .servers import RARE, Dataset, Proxy, open_dataset, open_proxy

DEFAULT_PEERS = (
    OURS,
    "redis-py",
    "redis-asyncio",
    "coredis-trio",
    "coredis-asyncio",
    "glide-asyncio",
    "glide-trio",
    "node-redis",
    REFERENCE,
)


async def scan(
    report: Report,
    *,
    peers: Sequence[str],
    repeat: int,
    wait_for_quiet: float,
    sizes: Sequence[int],
    counts: Sequence[int | None],
    rare_match: bool,
    delay: float | None,
    duty: float | None,
    binary: Path | None,
) -> None:
    names = list(peers)
    if delay is not None or duty is not None:
        names = _with_variants(names, delay, duty)
    present = find_peers(names, "scan", report.note)
    report.versions |= {peer.name: peer.version for peer in present}
    if not can_scan_with("segments"):
        report.note("open_scan has no segments= yet: ours is one chain of cursors, like everybody's")
    summaries: list[tuple[int, str, Results]] = []
    for size in sizes:
        report.progress(f"filling a server with {size:,} keys ...")
        async with open_dataset(size, binary) as dataset:
            if not summaries:
                report.versions["server"] = f"{dataset.server.binary.product} {dataset.server.binary.version}"
                report.head()
            for count in counts:
                title = _title(size, count, rare_match=rare_match, delay=delay)
                async with _ways(dataset, delay, report) as ways:
                    contestants = _contestants(present, dataset, ways, count, rare_match=rare_match)
                    results = await interleave(
                        report,
                        title,
                        contestants,
                        repeat=repeat,
                        wait_for_quiet=wait_for_quiet,
                        server_pid=dataset.server.pid,
                        work=size,
                    )
                check(report, results, dataset.rare_keys if rare_match else size)
                show(report, title, results, "key")
                _show_proxy(report, title, results)
                summaries.append((size, "default" if count is None else str(count), results))
    if len(sizes) > 1:
        _show_sizes(report, summaries)


def _with_variants(names: Sequence[str], delay: float | None, duty: float | None) -> list[str]:
    """Beside ours as it comes: on one chain of cursors, to see what several win, or with only a part of the server."""
    variants = ["segments=1"] if delay is not None else []
    if duty is not None:
        variants.append(f"duty={duty:g}")
    return [
        name
        for one in names
        for name in ((one, *(f"{one}:{variant}" for variant in variants)) if one in EDITIONS.values() else (one,))
    ]


def _title(size: int, count: int | None, *, rare_match: bool, delay: float | None) -> str:
    parts = [f"{size:,} keys", "each at its own defaults" if count is None else f"COUNT {count}"]
    if rare_match:
        parts.append("rare MATCH")
    if delay is not None:
        parts.append(f"{delay:g} ms each way")
    return ", ".join(parts)


@asynccontextmanager
async def _ways(dataset: Dataset, delay: float | None, report: Report) -> AsyncGenerator[dict[str, Proxy | None]]:
    """The ways to the server: straight, through a proxy that only costs what it costs, and with the delay."""
    if delay is None:
        yield {"": None}
        return
    try:
        async with open_proxy(dataset.server, 0) as quick, open_proxy(dataset.server, delay) as slow:
            yield {"direct": None, "proxy 0 ms": quick, f"proxy {delay:g} ms": slow}
    except Absent as absent:
        report.note(f"left out: {absent}")
        yield {"direct": None}


def _contestants(
    peers: Sequence[Peer], dataset: Dataset, ways: dict[str, Proxy | None], count: int | None, *, rare_match: bool
) -> list[Contestant]:
    contestants = []
    for way, proxy in ways.items():
        task = {
            "what": "scan",
            "host": dataset.server.host,
            "port": dataset.server.port if proxy is None else proxy.port,
            "count": count,
            "match": f"{RARE}*" if rare_match else None,
        }
        helpers = () if proxy is None else (proxy.pid,)
        contestants += [Contestant(peer, task, way, helpers) for peer in peers]
    return contestants


def check(report: Report, results: Results, expected: int) -> None:
    """A scan that lost a key has no speed."""
    for one in results.contestants:
        brought = [run.said["keys"] for run in results.runs[one.label]]
        if min(brought) < expected:
            report.note(f"{one.label} LOST KEYS: it brought {min(brought):,} of {expected:,}")
        if max(brought) > expected * 1.001:
            report.note(f"{one.label} brought {max(brought) - expected:,} keys more than once")
        if any(run.said.get("epoch") for run in results.runs[one.label]):
            report.note(f"{one.label} began again during a run")


def _show_proxy(report: Report, title: str, results: Results) -> None:
    """What the proxy itself takes: the same work through it without a delay, and straight."""
    rows, raw = [], {}
    for one in results.contestants:
        straight = results.find(one.peer.name, "direct")
        if one.group == "proxy 0 ms" and straight is not None:
            kept = results.rate(one) / results.rate(straight)
            rows.append([one.peer.name, kept.show(share)])
            raw[one.peer.name] = kept.values
    if rows:
        report.table(f"{title}: speed that is left behind the proxy at delay 0", ["", "of direct"], rows, raw)


def _show_sizes(report: Report, summaries: Sequence[tuple[int, str, Results]]) -> None:
    """Whether the time for a key depends on their number."""
    rows, raw = [], []
    for size, count, results in summaries:
        for one in results.contestants:
            if one.peer.is_ours or one.peer.name == REFERENCE:
                rate = results.rate(one)
                nanoseconds = Spread(tuple(1e9 / each for each in rate.values))
                ratio = results.ratio(one, REFERENCE)
                told = "1" if ratio is None else ratio.show(times)
                rows.append([f"{one.label}, COUNT {count}", f"{size:,}", nanoseconds.show(number(0)), told])
                raw.append({"peer": one.label, "count": count, "keys": size, "ns_per_key": nanoseconds.values})
    report.table("By size", ["", "keys", "ns/key", f"to {REFERENCE}"], rows, raw)
