"""The verbs ``scan`` and ``count``, given a client, an output and a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trio

from .._core.summary import ScanSummary
from .._trio.client import RedisClient, SentinelClient
from ._formats import Encode
from ._output import Output
from ._report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOptions:
    """What is to be scanned, and what a change of servers means; as in `open_scan`, which checks it."""

    pattern: bytes | None = None
    count: int | None = None
    type_: str | None = None
    on_failover: Any = "restart"
    max_restarts: int = 10
    certify: Any = "sentinels"
    segments: Any = "auto"
    duty: float = 1.0

    def arguments(self) -> dict[str, Any]:
        """Them as `open_scan` has them."""
        return {
            "match": self.pattern,
            "count": self.count,
            "type_": self.type_,
            "on_failover": self.on_failover,
            "max_restarts": self.max_restarts,
            "certify": self.certify,
            "segments": self.segments,
            "duty": self.duty,
        }


async def run_scan(
    client: RedisClient | SentinelClient, options: ScanOptions, encode: Encode, output: Output, report: Report
) -> ScanSummary:
    """Write all keys to `output`, page by page.

    Returns if the scan is complete and everything is written; every other end is an exception, `open_scan`'s or
    `Output.write`'s.
    """
    async with (
        client,
        client.open_scan(**options.arguments()) as pages,
        report.following(pages),
        output.writing(),
    ):
        async for page in pages:
            await output.write(encode(page.keys))
    await trio.lowlevel.checkpoint()
    return pages.summary


async def run_count(
    client: RedisClient | SentinelClient, options: ScanOptions, output: Output, report: Report
) -> ScanSummary:
    """Write how many keys the final pass delivered; nothing if there is no such pass. Raises as `run_scan` does."""
    # One chain: where two segments meet, a key may come twice.
    arguments: dict[str, Any] = {**options.arguments(), "segments": 1}
    async with (
        client,
        client.open_scan(**arguments) as pages,
        report.following(pages),
    ):
        async for _ in pages:
            pass
    summary = pages.summary
    async with output.writing():
        await output.write(b"%d\n" % summary.keys_this_epoch)
    return summary
