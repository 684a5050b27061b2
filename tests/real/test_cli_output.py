"""Stdout as a place that may keep us waiting: the loop goes on, nothing is lost, and the end is noticed."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.commandline import HANG
from trio_sentinel_scan import RedisClient
from trio_sentinel_scan.cli._formats import encoder
from trio_sentinel_scan.cli._output import Output, OutputClosed, OutputFailed, write_now
from trio_sentinel_scan.cli._report import Report
from trio_sentinel_scan.cli._scan import ScanOptions, run_scan
from trio_sentinel_scan.testing import LocalRedis

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio


@contextmanager
def pipe() -> Generator[tuple[int, int], None, None]:
    """A pipe: where to read, and where to write. The test may have closed either."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            try:
                os.close(end)
            except OSError:
                continue


def read_all(reading: int) -> bytes:
    return b"".join(iter(lambda: os.read(reading, 4096), b""))


async def test_everything_is_written_when_the_block_ends() -> None:
    pages = [b"%d\n" % number * 50 for number in range(1000)]
    with pipe() as (reading, writing):
        received: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                received.append(await trio.to_thread.run_sync(read_all, reading))

            nursery.start_soon(read)
            output = Output(writing)
            async with output.writing():
                for page in pages:
                    await output.write(page)
            os.close(writing)
    assert received == [b"".join(pages)]


async def test_a_slow_reader_makes_the_writer_wait_and_nobody_else() -> None:
    """The writer is stopped after some pages; the loop goes on; a cancellation gets through."""
    written = 0
    with pipe() as (reading, writing), trio.fail_after(HANG):

        async def write() -> None:
            nonlocal written
            output = Output(writing)
            async with output.writing():
                while True:
                    await output.write(b"x" * 10_000)
                    written += 10_000

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            before = -1
            while before != written or not written:
                before = written
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        # What fits into the pipe, what is being written, what waits, and the page that made it too much.
        assert written <= 65_536 + 2 * (65_536 + 10_000)
        # The thread that was left behind is to come to its end before the pipe does.
        emptied = False
        while not emptied:
            with trio.move_on_after(0.5) as silence:
                await trio.lowlevel.wait_readable(reading)
                os.read(reading, 65_536)
            emptied = silence.cancelled_caught


async def test_the_reader_goes_away() -> None:
    with pipe() as (reading, writing):
        os.close(reading)

        async def write_and_do_something_else() -> None:
            output = Output(writing)
            async with output.writing():
                await output.write(b"x")
                await trio.sleep_forever()

        with pytest.raises(OutputClosed):
            await write_and_do_something_else()
        with pytest.raises(OutputClosed):
            write_now(b"x", writing)


async def test_what_cannot_be_written() -> None:
    with pipe() as (reading, _):
        output = Output(reading)
        with pytest.raises(OutputFailed, match=r"^cannot write to standard output: Bad file descriptor$"):
            async with output.writing():
                await output.write(b"x")


async def test_a_pipe_that_somebody_made_non_blocking() -> None:
    data = os.urandom(500_000)
    with pipe() as (reading, writing):
        os.set_blocking(writing, False)
        received: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                received.append(await trio.to_thread.run_sync(read_all, reading))

            async def write() -> None:
                output = Output(writing)
                async with output.writing():
                    await output.write(data)
                os.close(writing)

            nursery.start_soon(write)
            await trio.sleep(0.1)
            nursery.start_soon(read)
    assert received == [data]


# ---- the verbs, with such an output ------------------------------------------------------------------------------


async def test_a_scan_writes_all_keys_and_then_says_so(server_binary: ServerBinary) -> None:
    report = io.StringIO()
    with pipe() as (reading, writing):
        async with LocalRedis(binary=server_binary) as server:
            keys = await server.fill(1_000)
            client = RedisClient(server.address)
            summary = await run_scan(client, ScanOptions(segments=1), encoder("null"), Output(writing), Report(report))
        os.close(writing)
        assert set(read_all(reading).split(b"\0")) == {*keys, b""}
    assert summary.complete
    assert report.getvalue().startswith("complete: 1,000 keys")


async def test_who_has_enough_of_the_keys_is_told_nothing_of_the_scan(server_binary: ServerBinary) -> None:
    report = io.StringIO()
    with pipe() as (reading, writing):
        os.close(reading)
        async with LocalRedis(binary=server_binary) as server:
            await server.fill(1_000)
            client = RedisClient(server.address)
            with pytest.raises(OutputClosed):
                await run_scan(client, ScanOptions(), encoder("text"), Output(writing), Report(report))
    assert report.getvalue() == ""
