"""The verbs ``scan`` and ``count``, given a client, an output and a report."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from redis.exceptions import RedisError

from .._core.errors import ConfigError, SeenKeysUnavailable
from .._core.summary import ScanPage, ScanSummary
from .._trio.cluster import ClusterClient
from ._checkpoint import CheckpointFile
from ._dedupe import Dedupe, open_seen_keys
from ._formats import Encode
from ._output import Output
from ._report import Report
from ._settings import Client


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
    replica: bool = False
    fallback: Any = None
    # Only of a cluster. None: `open_scan` has its own.
    node: str | None = None
    allow_uncovered: bool = False
    max_nodes_at_once: int | None = None
    # What is written of each key beside its name, in this order.
    with_: tuple[str, ...] = ()
    # How to leave out what was written before; None: it is not left out.
    dedupe: Dedupe | None = None
    # Where to keep the checkpoint; None: nowhere.
    checkpoint: Path | None = None

    def arguments(self, *, of_cluster: bool = False) -> dict[str, Any]:
        """Them as `open_scan` has them. Raises ConfigError for one that only a cluster's has."""
        found = {
            "match": self.pattern,
            "count": self.count,
            "type_": self.type_,
            "on_failover": self.on_failover,
            "max_restarts": self.max_restarts,
            "certify": self.certify,
            "segments": self.segments,
            "duty": self.duty,
            "read_from": "replica" if self.replica else "master",
            "fallback": self.fallback,
            "with_": self.with_,
        }
        cluster_alone = {
            name: value
            for name, value in (
                ("node", self.node),
                ("allow_uncovered", self.allow_uncovered or None),
                ("max_nodes_at_once", self.max_nodes_at_once),
            )
            if value is not None
        }
        if of_cluster:
            # Of a cluster it is a majority of the masters: what it does where nothing is said.
            if self.certify == "sentinels":
                del found["certify"]
            return found | cluster_alone
        for name in cluster_alone:
            raise ConfigError(name, "is for a cluster, which has a URL of its own kind: redis+cluster://host,host")
        return found


async def run_scan(client: Client, options: ScanOptions, encode: Encode, output: Output, report: Report) -> ScanSummary:
    """Write all keys to `output`, page by page.

    Returns if the scan is complete and everything is written; every other end is an exception, `open_scan`'s or
    `Output.write`'s.
    """
    of_cluster = isinstance(client, ClusterClient)
    arguments = options.arguments(of_cluster=of_cluster)
    kept = None if options.checkpoint is None else CheckpointFile(options.checkpoint)
    resume = None if kept is None else kept.read()
    with open_seen_keys(options.dedupe, kept, resume) as seen:
        if resume is not None:
            report.say(
                f"going on from the checkpoint in {options.checkpoint}: keys written before it do not come again"
            )
        async with (
            client,
            client.open_scan(**arguments, resume=resume, dedupe=seen) as pages,
            report.following(pages, each_once=options.dedupe is not None, of_cluster=of_cluster),
            output.writing(),
        ):
            page: ScanPage[bytes] | None = None
            try:
                async for page in pages:
                    await output.write(encode(page))
                    if kept is not None and kept.is_due:
                        await _keep(kept, page, output)
            except RedisError:
                if kept is not None and page is not None:
                    # If the store is what has failed, the last checkpoint stays as it is.
                    with contextlib.suppress(SeenKeysUnavailable):
                        await _keep(kept, page, output)  # noqa: ASYNC120 (a signal that ends it says enough)
                raise
        if kept is not None:
            kept.remove()
    await trio.lowlevel.checkpoint()
    return pages.summary


async def _keep(kept: CheckpointFile, page: ScanPage[bytes], output: Output) -> None:
    """The keys first: a checkpoint that is there before them would lose them in a crash.

    Then the seen keys, which making the checkpoint's text commits, and then the file: it must not count on any that a
    crash would take back.
    """
    await output.flush()
    await kept.write(page.checkpoint)


async def run_count(client: Client, options: ScanOptions, output: Output, report: Report) -> ScanSummary:
    """Write how many keys the final pass delivered, or, with duplicates left out, how many there were in all.

    Nothing if the scan is not complete. Raises as `run_scan` does.
    """
    of_cluster = isinstance(client, ClusterClient)
    arguments = options.arguments(of_cluster=of_cluster)
    # A cluster has no final pass: slots that have moved are scanned again, and keys on their way come from two nodes.
    dedupe = options.dedupe or ("exact" if of_cluster else None)
    if dedupe is None:
        # One chain: where two segments meet, a key may come twice.
        arguments["segments"] = 1
    with open_seen_keys(dedupe, None, None) as seen:
        async with (
            client,
            client.open_scan(**arguments, dedupe=seen) as pages,
            report.following(pages, each_once=dedupe is not None, of_cluster=of_cluster),
        ):
            async for _ in pages:
                pass
    summary = pages.summary
    async with output.writing():
        await output.write(b"%d\n" % (summary.keys_this_epoch if dedupe is None else summary.keys))
    return summary
