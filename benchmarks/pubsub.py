"""`pubsub`: messages that one subscriber takes in a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trio_sentinel_scan.testing import LocalRedis

from .peers import OURS, find_peers
from .report import Report
from .rounds import Contestant, interleave, show

DEFAULT_PEERS: Final = (OURS, "redis-asyncio", "redis-uvloop", "redis-py", "coredis-trio", "coredis-asyncio")
MESSAGES: Final = 100_000

_DATA: Final = "0123456789abcdef" * 2


async def pubsub(
    report: Report,
    *,
    peers: Sequence[str],
    repeat: int,
    wait_for_quiet: float,
    messages: int,
    binary: Path | None,
) -> None:
    present = find_peers(peers, "pubsub", report.note)
    report.versions |= {peer.name: peer.version for peer in present}
    # All of them are published in one go, and wait in the server for a client that is slower: none is to be cut off.
    async with LocalRedis(binary=binary, config={"client-output-buffer-limit": "pubsub 0 0 0"}) as server:
        report.versions["server"] = f"{server.binary.product} {server.binary.version}"
        report.head()
        task = {"what": "pubsub", "host": server.host, "port": server.port, "messages": messages, "data": _DATA}
        title = f"{messages:,} messages of {len(_DATA)} bytes on one channel"
        results = await interleave(
            report,
            title,
            [Contestant(peer, task) for peer in present],
            repeat=repeat,
            wait_for_quiet=wait_for_quiet,
            server_pid=server.pid,
            work=messages,
        )
        show(report, title, results, "message")
