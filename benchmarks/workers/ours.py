"""This project's client: the Trio edition, or the AnyIO edition on the loop that is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import trio

import trio_sentinel_scan
import trio_sentinel_scan.anyio
from trio_sentinel_scan import CompactSeen, Message, SeenKeys, SpillingSeen

from . import CHANNEL, Stage


def client_of(stage: Stage) -> Any:
    """A client of the edition that is measured."""
    package: Any = trio_sentinel_scan if stage.task["edition"] == "trio" else trio_sentinel_scan.anyio
    return package.RedisClient((stage.host, stage.port))


@contextmanager
def open_filter(kind: object, keys: int) -> Generator[tuple[bool | SeenKeys, list[int]]]:
    """What `dedupe` is to be, and a place for the bytes that are on disk afterwards."""
    on_disk: list[int] = []
    match kind:
        case "compact":
            yield CompactSeen(keys), on_disk
        case "compact-not-expected":
            yield CompactSeen(max(1, keys // 100)), on_disk
        case "temporary":
            with SpillingSeen() as store:
                yield store, on_disk
        case "spilling":
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "seen.db")
                with SpillingSeen(path) as store:
                    yield store, on_disk
                on_disk.append(path.stat().st_size)
        case _:
            yield kind is not None, on_disk


async def scan(stage: Stage) -> None:
    async with client_of(stage) as client:
        await client.ping()
        options = dict(stage.task["options"])
        touch, dedupe = options.pop("touch", True), options.pop("dedupe", None)
        # Their libraries are not to count as theirs.
        for kind in ("compact", "temporary"):
            with open_filter(kind, 1):
                pass
        expected = await client.dbsize()
        stage.ready()
        keys = 0
        summary = None
        disk = 0
        while stage.again():
            with open_filter(dedupe, expected) as (options["dedupe"], on_disk):
                async with client.open_scan(**stage.scan_arguments, **options) as pages:
                    async for page in pages:
                        if touch:
                            # As where `scan_iter` hands them out one by one.
                            for _key in page:
                                keys += 1
                        else:
                            keys += len(page)
            summary, disk = pages.summary, sum(on_disk)
        assert summary is not None
        stage.done(keys=keys, pages=summary.pages, scans=summary.scans, epoch=summary.epoch, on_disk=disk)


async def get(stage: Stage) -> None:
    async with client_of(stage) as client:
        await client.set(stage.task["key"], stage.task["value"])
        expected = stage.task["value"].encode()
        key = stage.task["key"]

        async def caller(calls: int) -> None:
            for _ in range(calls):
                assert await client.get(key) == expected

        stage.ready()
        # (Its tasks are Trio's own where Trio runs.)
        async with anyio.create_task_group() as task_group:
            for _ in range(stage.task["tasks"]):
                task_group.start_soon(caller, stage.task["calls"] // stage.task["tasks"])
        stage.done()


async def pubsub(stage: Stage) -> None:
    expected, left = stage.task["data"].encode(), stage.task["messages"]
    async with client_of(stage) as client, client.pubsub() as subscriber:
        await subscriber.subscribe(CHANNEL)
        stage.ready()
        stage.publish()
        async for item in subscriber:
            assert isinstance(item, Message)
            assert item.data == expected
            left -= 1
            if not left:
                break
        stage.done()


if __name__ == "__main__":
    current = Stage()
    work = {"scan": scan, "get": get, "pubsub": pubsub}[current.task["what"]]
    match current.task["edition"]:
        case "trio":
            trio.run(work, current)
        case "anyio-trio":
            anyio.run(work, current, backend="trio")
        case edition:
            anyio.run(work, current, backend_options={"use_uvloop": edition == "anyio-uvloop"})
