"""`scan --dedupe`: each key is written once, over restarts, and with `--checkpoint` over processes that are killed."""

from __future__ import annotations

import io
import shutil
import signal
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.commandline import HANG, cli, running
from tests.real.scenes import until
from trio_sentinel_scan import RedisClient, ScanError, SeenKeysUnavailable, SpillingSeen
from trio_sentinel_scan._core.checkpoint import parse_checkpoint
from trio_sentinel_scan.cli import _dedupe
from trio_sentinel_scan.cli._formats import encoder
from trio_sentinel_scan.cli._output import Output
from trio_sentinel_scan.cli._report import Report
from trio_sentinel_scan.cli._scan import ScanOptions, run_scan
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from pathlib import Path

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

# More than fits into the pipe and all that waits for it: the scan has to wait for its reader.
KEYS = 50_000
# Small pages: what is written behind a checkpoint is less than the pipe holds.
SMALL = ("--count", "50", "--segments", "1")


def names_in(folder: Path) -> set[str]:
    """What is there."""
    return {path.name for path in folder.iterdir()}


def keys_at(file: Path, copy: Path) -> set[bytes]:
    """The keys that the checkpoint in `file` counts on, by a copy of the store beside it."""
    seen = parse_checkpoint(file.read_text(), None).seen
    assert seen is not None
    for name in names_in(file.parent) - {file.name}:
        # The store, and its log where it was not closed.
        shutil.copyfile(file.parent / name, f"{copy}{name.removeprefix(f'{file.name}.seen')}")
    with SpillingSeen(copy) as store:
        store.rollback(seen.number)
    with sqlite3.connect(copy) as database:
        return {key for (key,) in database.execute("SELECT key FROM seen")}


async def checkpoint_of(server: LocalRedis, file: Path, *, dedupe: bool) -> list[bytes]:
    """What a run leaves that has written some keys and was killed. Those keys."""
    seen = SpillingSeen(f"{file}.seen") if dedupe else None
    async with (
        RedisClient(("127.0.0.1", server.port)) as client,
        client.open_scan(dedupe=False if seen is None else seen, page_size=20) as pages,
    ):
        page = await pages.receive()
        text = page.checkpoint
    if seen is not None:
        seen.close()
    await trio.Path(file).write_text(text)
    return list(page)


@pytest.mark.parametrize("kind", [(), ("exact",), ("compact",), ("disk",)], ids=lambda kind: "".join(kind) or "plain")
async def test_each_key_once_over_a_restart(server_binary: ServerBinary, kind: tuple[str, ...]) -> None:
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(KEYS)
        async with running("scan", "--dedupe", *kind, "-u", server.url) as run:
            await run.read(10_000)
            await server.restart()
            ended = await run.end()
        assert ended.status == 0, ended.err
        assert Counter(ended.keys) == Counter(keys)
        restart, complete, told, left_out = ended.err.splitlines()
        assert restart.endswith("scanning again from the beginning, and leaving out what was written")
        assert complete.startswith("complete: 50,000 keys in ")
        assert told.endswith(" keys had come before the final pass, and none of them came again")
        assert left_out.endswith(" duplicates were left out")


@pytest.mark.slow
async def test_each_key_once_over_a_failover(server_binary: ServerBinary) -> None:
    async with LocalSentinel(down_after=2.0, binary=server_binary) as service:
        keys = await service.fill(KEYS)
        async with running("scan", "--dedupe", "-u", service.url) as run:
            await run.read(10_000)
            await service.kill()
            await run.until_says("restart 1 after ")
            ended = await run.end()
        assert ended.status == 0, ended.err
        assert Counter(ended.keys) == Counter(keys)


@pytest.mark.slow
@pytest.mark.parametrize("restarting", [False, True], ids=["same_process", "restarted_server"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
async def test_ended_and_run_again(
    server_binary: ServerBinary, tmp_path: Path, restarting: bool, signum: signal.Signals
) -> None:
    """What was written up to the last checkpoint does not come again, whatever the server does; nothing is missing.

    With SIGTERM the store keeps keys that were never written, and they are taken out of it again.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "here"
    arguments = ("scan", "--dedupe", "--checkpoint", str(file))
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(KEYS)
        async with running(*arguments, *SMALL, "-u", server.url) as run:
            await run.read(1)
            with trio.fail_after(HANG):
                await until(file.exists)
                first_text = file.read_text()
                # The next one comes with a page that is written a second later. Whoever reads as fast as they come may
                # have them all by then.
                while file.read_text() == first_text:
                    await run.read(len(run.out) + 1)
                    await trio.sleep(0.05)
            # Room for some pages that no checkpoint covers; it stands in the middle of one of them then.
            await run.read(len(run.out) + 10_000)
            await run.until_quiet()
            run.process.send_signal(signum)
            first = await run.end()
        assert first.status == -signum
        # A line that was cut is no key.
        before = Counter(first.out.split(b"\n")[:-1])
        covered = keys_at(file, tmp_path / "copy")
        # The keys first, then the checkpoint; and it was ended somewhere in the middle.
        assert covered
        assert covered < set(before) < keys
        if restarting:
            await server.restart()
        second = await cli(*arguments, "-u", server.url)
        assert second.status == 0, second.err
        assert ("restart 1 after " in second.err) is restarting
        assert Counter(covered) + Counter(second.keys) == Counter(keys)
        # Nothing twice but for what was written behind the checkpoint.
        again = before + Counter(second.keys) - Counter(keys)
        assert set(again) == set(before) - covered
        assert set(again.values()) == {1}
        assert names_in(folder) == set()


async def test_a_scan_that_fails_leaves_both(server_binary: ServerBinary, tmp_path: Path) -> None:
    """All keys are written and nobody certifies them: the next run has nothing to write, and is complete."""
    file = tmp_path / "here"
    async with LocalSentinel(replicas=1, binary=server_binary) as service:
        keys = await service.fill(KEYS)
        arguments = ("--dedupe", "--checkpoint", str(file), "--failover-timeout", "1", "-u", service.url)
        async with running("scan", *arguments) as run:
            await run.read(1)
            for sentinel in service.sentinel_nodes:
                await sentinel.pause()
            ended = await run.end()
            for sentinel in service.sentinel_nodes:
                await sentinel.resume()
        assert ended.status == 1
        assert Counter(ended.keys) == Counter(keys)
        assert names_in(tmp_path) == {"here", "here.seen"}
        rest = await cli("scan", *arguments)
        assert (rest.status, rest.out) == (0, b"")
        assert names_in(tmp_path) == set()


async def test_a_store_without_its_file_counts_for_nothing(server_binary: ServerBinary, tmp_path: Path) -> None:
    """A run that was killed before its first checkpoint left it: what it has would be missing."""
    file = tmp_path / "here"
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(1_000)
        with SpillingSeen(f"{file}.seen") as left:
            left.mark(list(keys)[:500])
        ended = await cli("scan", "--dedupe", "disk", "--checkpoint", str(file), "-u", server.url)
    assert ended.status == 0, ended.err
    assert Counter(ended.keys) == Counter(keys)
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize(
    "left, option, problem",
    [
        ({"dedupe"}, ["--dedupe"], "here.seen is not there"),
        ({"dedupe", "store"}, [], "is of a scan with --dedupe"),
        (set(), ["--dedupe"], "is of a scan without --dedupe"),
        ({"store"}, ["--dedupe"], "is of a scan without --dedupe"),
        ({"dedupe", "store"}, ["--dedupe", "compact"], "--dedupe: compact is in memory alone"),
    ],
)
async def test_a_file_and_a_store_that_do_not_go_together(
    server_binary: ServerBinary, tmp_path: Path, left: set[str], option: list[str], problem: str
) -> None:
    """Refused, rather than keys that come twice or are missing; and both are left as they are."""
    file = tmp_path / "here"
    store = tmp_path / "here.seen"
    async with LocalRedis(binary=server_binary) as server:
        await server.fill(1_000)
        await checkpoint_of(server, file, dedupe="dedupe" in left)
        if "store" not in left:
            store.unlink(missing_ok=True)
        elif "dedupe" not in left:
            SpillingSeen(store).close()
        there, text = names_in(tmp_path), file.read_text()
        ended = await cli("scan", *option, "--checkpoint", str(file), "-u", server.url)
    assert (ended.status, ended.out) == (2, b"")
    assert problem in ended.err
    assert ended.err.count("\n") == 1
    assert (names_in(tmp_path), file.read_text()) == (there, text)


async def test_a_store_of_another_scan(server_binary: ServerBinary, tmp_path: Path) -> None:
    file = tmp_path / "here"
    async with LocalRedis(binary=server_binary) as server:
        await server.fill(1_000)
        await checkpoint_of(server, file, dedupe=True)
        with SpillingSeen(f"{file}.seen") as store:
            store.clear()
        ended = await cli("scan", "--dedupe", "--checkpoint", str(file), "-u", server.url)
    assert (ended.status, ended.out) == (2, b"")
    assert (
        "--checkpoint: is not a checkpoint of the scan whose seen keys are in the store beside it (.seen)" in ended.err
    )
    assert names_in(tmp_path) == {"here", "here.seen"}


async def test_with_neither_a_plain_checkpoint_minds_no_store(server_binary: ServerBinary, tmp_path: Path) -> None:
    """A store that lies about is not this run's: its file says that it has none."""
    file = tmp_path / "here"
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(1_000)
        written = await checkpoint_of(server, file, dedupe=False)
        SpillingSeen(f"{file}.seen").close()
        ended = await cli("scan", "--checkpoint", str(file), "-u", server.url)
    assert ended.status == 0, ended.err
    assert {*ended.keys, *written} == keys


async def test_what_is_no_store(server_binary: ServerBinary, tmp_path: Path) -> None:
    """It is left as it is; nothing is scanned."""
    file, other = tmp_path / "here", tmp_path / "here.seen"
    other.write_text("my own notes")
    async with LocalRedis(binary=server_binary) as server:
        ended = await cli("scan", "--dedupe", "--checkpoint", str(file), "-u", server.url)
    assert (ended.status, ended.out) == (2, b"")
    assert f"--dedupe: {other} is not a store of seen keys" in ended.err
    assert other.read_text() == "my own notes"


async def test_two_runs_at_once(server_binary: ServerBinary, tmp_path: Path) -> None:
    """The second is refused, and takes nothing away from the first."""
    file = tmp_path / "here"
    arguments = ("scan", "--dedupe", "--checkpoint", str(file), "-u")
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(KEYS)
        async with running(*arguments, server.url) as run:
            await run.read(1)
            ended = await cli(*arguments, server.url)
            first = await run.end()
    assert (ended.status, ended.out) == (2, b"")
    assert "is in use" in ended.err
    assert first.status == 0, first.err
    assert Counter(first.keys) == Counter(keys)


async def test_nothing_is_left_of_a_run_that_has_not_begun(tmp_path: Path) -> None:
    async with LocalRedis() as server:
        url = server.url
    ended = await cli(
        "scan", "--dedupe", "--checkpoint", str(tmp_path / "here"), "--failover-timeout", "0.1", "-u", url
    )
    assert (ended.status, ended.out) == (1, b"")
    assert names_in(tmp_path) == set()


async def test_without_its_package(server_binary: ServerBinary, tmp_path: Path) -> None:
    (tmp_path / "rbloom.py").write_text("raise ImportError")
    async with LocalRedis(binary=server_binary) as server:
        ended = await cli("scan", "--dedupe", "compact", "-u", server.url, env={"PYTHONPATH": str(tmp_path)})
    assert (ended.status, ended.out) == (2, b"")
    assert '--dedupe: CompactSeen needs the package rbloom: pip install "trio-sentinel-scan[compact]"' in ended.err


async def test_a_disk_that_is_full(
    server_binary: ServerBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan fails, the last checkpoint stays, and a run that finds room again goes on from it."""

    class Small(SpillingSeen):
        """One for which there is little room."""

        def clear(self) -> None:
            super().clear()
            assert self._connection is not None
            self._connection.execute("PRAGMA max_page_count = 60")

    file = tmp_path / "here"
    options = ScanOptions(checkpoint=file, dedupe="disk", count=50)
    async with LocalRedis(binary=server_binary) as server, await trio.open_file(tmp_path / "out", "wb") as out:
        keys = await server.fill(20_000)
        client = RedisClient(("127.0.0.1", server.port))
        monkeypatch.setattr(_dedupe, "SpillingSeen", Small)
        with pytest.raises(ScanError) as caught:
            await run_scan(client, options, encoder("text"), Output(out.fileno()), Report(io.StringIO()))
        assert isinstance(caught.value.__cause__, SeenKeysUnavailable)
        assert {"here", "here.seen"} <= names_in(tmp_path)
        second = await cli("scan", "--dedupe", "--checkpoint", str(file), "-u", server.url)
    assert second.status == 0, second.err
    assert {*(tmp_path / "out").read_bytes().split(b"\n")[:-1], *second.keys} == keys
    assert max(Counter(second.keys).values()) == 1
    assert names_in(tmp_path) == {"out"}
