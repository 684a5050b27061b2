"""Each key once: over restarts and failovers, with each kind of filter, and over processes that are killed."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.real.scenes import Account, open_booth, open_stage, until_followed
from trio_sentinel_scan import CompactSeen, ConfigError, ScanError, SeenKeysUnavailable, SpillingSeen

if TYPE_CHECKING:
    from tests.real.scenes import Booth
    from trio_sentinel_scan import ScanPages
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

KEYS = 8_000
ROOT = Path(__file__).parents[2]

KINDS = ["exact", "compact", "spilling", "temporary"]


def filter_of(kind: str, folder: Path, stack: ExitStack) -> Any:
    """What is given as `dedupe`."""
    match kind:
        case "exact":
            return True
        case "compact":
            return CompactSeen(expected_keys=KEYS // 3)
        case _:
            return stack.enter_context(SpillingSeen(folder / "seen.db" if kind == "spilling" else None))


async def take_from(account: Account[Any], pages: ScanPages[Any], *, epoch: int) -> None:
    """Receive up to the first page of this epoch: others may have been on their way."""
    while account.pages[-1].epoch < epoch:
        await account.take(pages)


def check_once(account: Account[Any], keys: set[Any]) -> None:
    """Every key, and none of them twice."""
    assert Counter(account.keys()) == Counter(keys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segments", [pytest.param(1, marks=pytest.mark.full), "auto"])
async def test_over_three_restarts(nursery: trio.Nursery, tmp_path: Path, kind: str, segments: int | str) -> None:
    """The master is restarted where it is, replaced while it lives, and killed; and each key comes once."""
    with ExitStack() as stack:
        dedupe = filter_of(kind, tmp_path, stack)
        async with open_stage(nursery, keys=KEYS, replicas=2) as stage, stage.client() as client:
            account: Account[bytes] = Account()
            options: dict[str, Any] = {"segments": segments, "count": 20, "page_size": 100, "prefetch": 1}
            async with client.open_scan(dedupe=dedupe, **options) as pages:
                await account.take(pages, 8)
                await stage.service.restart()
                await take_from(account, pages, epoch=1)
                for epoch, kill in ((2, False), (3, True)):
                    _, new = await stage.depose(kill=kill)
                    await until_followed(client, new)
                    await take_from(account, pages, epoch=epoch)
                await account.take_the_rest(pages)
            summary = pages.summary
        assert summary.complete
        assert summary.epoch == 3
        assert len(summary.restarts) == 3
        check_once(account, stage.keys)
        assert (summary.keys, summary.pages) == (KEYS, len(account.pages))
        assert summary.duplicates_dropped > 200
        assert account.epochs == [0, 1, 2, 3]


@pytest.mark.smoke
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decode_responses", [False, True])
async def test_over_restarts_of_one_server(
    nursery: trio.Nursery, each_server_binary: ServerBinary, tmp_path: Path, kind: str, decode_responses: bool
) -> None:
    with ExitStack() as stack:
        dedupe = filter_of(kind, tmp_path, stack)
        async with (
            open_booth(nursery, keys=KEYS, binary=each_server_binary) as booth,
            booth.client(decode_responses=decode_responses) as client,
        ):
            account: Account[Any] = Account()
            async with client.open_scan(count=20, page_size=100, prefetch=0, dedupe=dedupe) as pages:
                await account.take(pages, 5)
                for epoch in (1, 2, 3):
                    await booth.server.restart()
                    await take_from(account, pages, epoch=epoch)
                await account.take_the_rest(pages)
            assert pages.summary.complete
            assert account.epochs == [0, 1, 2, 3]
            check_once(account, {key.decode() for key in booth.keys} if decode_responses else booth.keys)


async def test_on_each_server(nursery: trio.Nursery, each_server_binary: ServerBinary) -> None:
    """While the table grows and shrinks: what comes twice within a pass is held back, too."""
    async with open_booth(nursery, keys=KEYS, binary=each_server_binary) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=10, prefetch=0, dedupe=True) as pages:
            await account.take(pages, 3)
            more = [f"more:{number}" for number in range(4 * KEYS)]
            await client.mset(dict.fromkeys(more, ""))
            await account.take(pages, 10)
            await client.delete(*more)
            await account.take_the_rest(pages)
        assert pages.summary.complete
        found = Counter(account.keys())
        assert set(found) >= booth.keys
        assert set(found.values()) == {1}


async def killed_process(booth: Booth, *arguments: object) -> list[tuple[list[bytes], str | None]]:
    """The pages of a process that has scanned and was killed, each with its checkpoint."""
    host, port = booth.proxy.address
    program = [sys.executable, "-m", "tests.real.keeper", f"redis://{host}:{port}", *map(str, arguments)]
    done = await trio.run_process(program, capture_stdout=True, check=False, cwd=ROOT)
    assert done.returncode == (0 if arguments[1] == 1 else -signal.SIGKILL)
    pages = [json.loads(line) for line in done.stdout.splitlines()]
    return [([bytes.fromhex(key) for key in keys], checkpoint) for keys, checkpoint in pages]


@pytest.mark.parametrize("restarting", [False, True], ids=["same_process", "restarted_server"])
async def test_over_processes_that_are_killed(nursery: trio.Nursery, tmp_path: Path, restarting: bool) -> None:
    """SIGKILL, with pages handed out and marked behind the last checkpoint: those come again, and none else.

    So whoever keeps what it has done with the checkpoint, and forgets what came after it, has each key once.
    """
    file = tmp_path / "seen.db"
    async with open_booth(nursery, keys=KEYS) as booth:
        kept: list[bytes] = []
        checkpoint: str | None = None
        for share in (0.5, 0.8, 1):
            arguments = (file, share) if checkpoint is None else (file, share, checkpoint)
            pages = await killed_process(booth, *arguments)
            if restarting and share < 1:
                await booth.server.restart()
            covered = max(place for place, (_, text) in enumerate(pages) if text is not None) + 1
            assert (covered < len(pages)) is (share < 1)
            checkpoint = pages[covered - 1][1]
            kept += [key for keys, _ in pages[:covered] for key in keys]
            assert len(kept) < KEYS or share == 1
        assert Counter(kept) == Counter(booth.keys)


async def test_a_store_that_has_keys_needs_its_checkpoint(nursery: trio.Nursery, tmp_path: Path) -> None:
    """Also when the scan before it was complete: another one would hand out nothing."""
    async with open_booth(nursery, keys=500) as booth, booth.client() as client:
        with SpillingSeen(tmp_path / "seen.db") as seen:
            account: Account[bytes] = Account()
            async with client.open_scan(dedupe=seen) as pages:
                await account.take_the_rest(pages)
            with pytest.raises(ConfigError, match=r"clear\(\) the store"):
                client.open_scan(dedupe=seen)
            seen.clear()
            again: Account[bytes] = Account()
            async with client.open_scan(dedupe=seen) as pages:
                await again.take_the_rest(pages)
            assert Counter(account.keys()) == Counter(again.keys()) == Counter(booth.keys)


async def test_two_scans_with_one_filter(nursery: trio.Nursery) -> None:
    """Each would have the keys that the other has not: the second is refused before anything is sent."""
    async with open_booth(nursery, keys=500) as booth, booth.client() as client:
        for seen in (CompactSeen(), SpillingSeen()):
            account: Account[bytes] = Account()
            async with client.open_scan(dedupe=seen, prefetch=0) as pages:
                with pytest.raises(ConfigError, match="in use by another scan"):
                    async with client.open_scan(dedupe=seen):
                        raise AssertionError
                await account.take_the_rest(pages)
            check_once(account, booth.keys)


async def test_a_disk_that_is_full(nursery: trio.Nursery, tmp_path: Path) -> None:
    """The scan ends with a typed error, and goes on later: what was committed is whole, and nothing is lost."""
    file = tmp_path / "seen.db"
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        kept: list[bytes] = []
        options: dict[str, Any] = {"count": 20, "page_size": 50, "prefetch": 0}
        with SpillingSeen(file) as seen:
            async with client.open_scan(dedupe=seen, **options) as pages:
                for _ in range(20):
                    kept += await pages.receive()
                checkpoint = (page := await pages.receive()).checkpoint
                kept += page
                assert seen._connection is not None
                (size,) = seen._connection.execute("PRAGMA page_count").fetchone()
                seen._connection.execute(f"PRAGMA max_page_count = {size + 1}")
                with pytest.raises(ScanError, match="full") as caught:
                    await Account[bytes]().take_the_rest(pages)
                assert isinstance(caught.value.__cause__, SeenKeysUnavailable)
                with pytest.raises(SeenKeysUnavailable):
                    pages.checkpoint()
        with SpillingSeen(file) as seen:
            async with client.open_scan(dedupe=seen, resume=checkpoint, **options) as pages:
                async for page in pages:
                    kept += page
        assert pages.summary.complete
        assert Counter(kept) == Counter(booth.keys)
