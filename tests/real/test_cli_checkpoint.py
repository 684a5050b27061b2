"""`scan --checkpoint FILE`: killed at any moment and run again, the two outputs together have every key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.commandline import HANG, cli, running
from tests.real.scenes import until
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from pathlib import Path

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

# More than fits into the pipe and all that waits for it: the scan has to wait for its reader.
KEYS = 50_000


async def until_there(file: Path) -> None:
    """Wait until another process has made it."""
    with trio.fail_after(HANG):
        await until(file.exists)


def names_in(folder: Path) -> list[str]:
    """What is there."""
    return [path.name for path in folder.iterdir()]


async def test_killed_and_run_again(server_binary: ServerBinary, tmp_path: Path) -> None:
    """What the checkpoint covers was written before it; the rest comes from the second run. Then the file is gone."""
    file = tmp_path / "here"
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(KEYS)
        async with running("scan", "--checkpoint", str(file), "--count", "100", "-u", server.url) as run:
            await run.read(1)
            await until_there(file)
            await run.read(200_000)
            run.process.kill()
            first = await run.end()
        assert first.status == -9
        # A line that was cut is no key.
        before = set(first.out.split(b"\n")[:-1])
        assert before < keys
        second = await cli("scan", "--checkpoint", str(file), "-u", server.url)
        assert second.status == 0, second.err
        assert before | set(second.keys) == keys
        assert f"going on from the checkpoint in {file}" in second.err
        assert names_in(tmp_path) == []


@pytest.mark.parametrize("option", [(), ("--dedupe",)], ids=["plain", "dedupe"])
async def test_no_checkpoint_is_ahead_of_the_keys(
    server_binary: ServerBinary, tmp_path: Path, option: tuple[str, ...]
) -> None:
    """The first page is more than the pipe holds, and nobody reads: it is not written, so no checkpoint covers it."""
    arguments = ("scan", *option, "--checkpoint", str(tmp_path / "here"), "--count", "1000", "--segments", "1")
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(3_000, prefix="long" * 100)
        async with running(*arguments, "-u", server.url) as run:
            await run.until_quiet()
            run.process.kill()
            first = await run.end()
        before = set(first.out.split(b"\n")[:-1])
        assert before < keys
        second = await cli(*arguments, "-u", server.url)
    assert second.status == 0, second.err
    assert before | set(second.keys) == keys
    assert names_in(tmp_path) == []


async def test_of_a_server_that_was_restarted(server_binary: ServerBinary, tmp_path: Path) -> None:
    """Everything comes again, and it is told why; or nothing, if that is wanted."""
    file = tmp_path / "here"
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(KEYS)
        async with running("scan", "--checkpoint", str(file), "-u", server.url) as run:
            await run.read(1)
            await until_there(file)
            run.process.kill()
            await run.end()
        await server.restart()
        refused = await cli("scan", "--checkpoint", str(file), "--on-failover", "raise", "-u", server.url)
        assert (refused.status, refused.out) == (1, b"")
        assert "the checkpoint is of another process" in refused.err
        again = await cli("scan", "--checkpoint", str(file), "-u", server.url)
        assert again.status == 0
        assert set(again.keys) == keys
        assert "restart 1 after" in again.err


async def test_a_scan_that_fails_leaves_one(server_binary: ServerBinary, tmp_path: Path) -> None:
    """Behind the last key that was written: here, all of them, and nobody who certifies them."""
    file = tmp_path / "here"
    async with LocalSentinel(replicas=1, binary=server_binary) as service:
        # It waits for its reader, so it is not at its end when the Sentinels fall silent.
        keys = await service.fill(KEYS)
        arguments = ("--checkpoint", str(file), "--failover-timeout", "1", "-u", service.url)
        async with running("scan", *arguments) as run:
            await run.read(1)
            for sentinel in service.sentinel_nodes:
                await sentinel.pause()
            ended = await run.end()
            for sentinel in service.sentinel_nodes:
                await sentinel.resume()
        assert ended.status == 1
        assert "could not be certified" in ended.err
        assert set(ended.keys) == keys
        rest = await cli("scan", *arguments)
        assert (rest.status, rest.out) == (0, b"")
        assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "content, problem",
    [(b"tss1.AAAA", "damaged"), (b"\xff\xfe", "not a checkpoint"), (b"", "not a checkpoint"), (b"tss7.A", "version 7")],
)
async def test_a_file_that_is_none(server_binary: ServerBinary, tmp_path: Path, content: bytes, problem: str) -> None:
    """It is left as it is; nothing is scanned."""
    file = tmp_path / "other"
    file.write_bytes(content)
    async with LocalRedis(binary=server_binary) as server:
        ended = await cli("scan", "--checkpoint", str(file), "-u", server.url)
    assert (ended.status, ended.out) == (2, b"")
    assert "--checkpoint: " in ended.err
    assert problem in ended.err
    assert names_in(tmp_path) == [file.name]


async def test_a_place_where_none_can_be(server_binary: ServerBinary, tmp_path: Path) -> None:
    """Noticed before anything is scanned."""
    async with LocalRedis(binary=server_binary) as server:
        for place in (tmp_path / "no" / "here", tmp_path):
            ended = await cli("scan", "--checkpoint", str(place), "-u", server.url)
            assert ended.status in {1, 2}
            assert ended.out == b""
            assert "--checkpoint" in ended.err
