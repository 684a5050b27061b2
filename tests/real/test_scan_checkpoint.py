"""Scans that are left in the middle, and resumed from a checkpoint: in another process, at another server."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.scenes import Account, open_booth, open_stage, until_followed
from trio_sentinel_scan import CheckpointInvalid, RedisClient, ScanInterrupted

if TYPE_CHECKING:
    from tests.real.scenes import Booth
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

KEYS = 20_000
ROOT = Path(__file__).parents[2]


async def left_by_another_process(booth: Booth, share: float) -> tuple[set[bytes], str]:
    """The keys that a process has handed out before it was killed, and its checkpoint."""
    host, port = booth.proxy.address
    program = [sys.executable, "-m", "tests.real.leaver", f"redis://{host}:{port}", str(share)]
    found = await trio.run_process(program, capture_stdout=True, check=False, cwd=ROOT)
    assert found.returncode == -signal.SIGKILL
    *keys, checkpoint = found.stdout.decode().split()
    return {bytes.fromhex(key) for key in keys}, checkpoint


@pytest.mark.smoke
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_in_another_process(nursery: trio.Nursery, each_server_binary: ServerBinary, share: float) -> None:
    """It goes on where the dead one was: in the same epoch, and with little of it again."""
    async with open_booth(nursery, keys=KEYS, binary=each_server_binary) as booth:
        before, checkpoint = await left_by_another_process(booth, share)
        assert 0 < len(before) < KEYS
        account: Account[bytes] = Account()
        async with booth.client() as client, client.open_scan(count=50, resume=checkpoint) as pages:
            await account.take_the_rest(pages)
        assert pages.summary.complete
        assert (pages.summary.epoch, pages.summary.restarts) == (0, ())
        after = set(account.keys())
        assert before | after == booth.keys
        # Where segments meet, some may come twice.
        assert len(before & after) < KEYS / 20
        assert pages.summary.position == 1.0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_after_a_restart_of_the_server(nursery: trio.Nursery, share: float) -> None:
    """Its cursors mean nothing to the new process: a new epoch, and everything."""
    async with open_booth(nursery, keys=KEYS) as booth:
        before, checkpoint = await left_by_another_process(booth, share)
        await booth.server.restart()
        account: Account[bytes] = Account()
        async with booth.client() as client:
            async with client.open_scan(count=50, resume=checkpoint) as pages:
                await account.take_the_rest(pages)
            account.check_complete(pages.summary, booth.keys, epoch=1)
            assert "checkpoint is of another process" in pages.summary.restarts[0].reason
            async with client.open_scan(count=50, resume=checkpoint, on_failover="raise") as pages:
                with pytest.raises(ScanInterrupted, match="checkpoint"):
                    await pages.receive()
        assert before < set(account.keys())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_after_a_failover(nursery: trio.Nursery, share: float) -> None:
    """The new master is another process, with other cursors."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        async with client.open_scan(count=50) as pages:
            page = await pages.receive()
            while page.position is not None and page.position < share:
                page = await pages.receive()
            checkpoint = page.checkpoint
        _, new = await stage.depose(kill=True)
        await until_followed(client, new)
        account: Account[bytes] = Account()
        async with client.open_scan(count=50, resume=checkpoint) as pages:
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        assert pages.summary.restarts[0].old_server == page.server


async def test_a_failover_while_a_resumed_scan_goes_on(nursery: trio.Nursery) -> None:
    """It has epochs as any other: two, here, after the one that the checkpoint is of."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        async with client.open_scan(count=50, segments=1, prefetch=0) as pages:
            page = await pages.receive()
        account: Account[bytes] = Account()
        async with client.open_scan(count=50, segments=1, prefetch=0, resume=page.checkpoint) as pages:
            await account.take(pages, 3)
            await stage.depose(kill=True)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        assert account.epochs == [0, 1]


async def test_the_page_being_worked_on_comes_again(nursery: trio.Nursery) -> None:
    """`pages.checkpoint()` includes what the consumer has done with, `page.checkpoint` the page, too."""
    async with open_booth(nursery, keys=2_000) as booth, booth.client() as client:
        async with client.open_scan(count=100, segments=1) as pages:
            assert pages.checkpoint()
            first, second = await pages.receive(), await pages.receive()
            without, including = pages.checkpoint(), second.checkpoint
        for checkpoint, missing in ((without, set(first)), (including, {*first, *second})):
            account: Account[bytes] = Account()
            async with client.open_scan(count=100, segments=1, resume=checkpoint) as pages:
                await account.take_the_rest(pages)
            assert pages.summary.complete
            assert set(account.keys()) == booth.keys - missing


async def test_with_several_consumers(nursery: trio.Nursery) -> None:
    """What any of them is still working on comes again."""
    async with open_booth(nursery, keys=2_000) as booth, booth.client() as client:
        async with client.open_scan(count=100, segments=1) as pages, pages.clone() as clone:
            kept = await clone.receive()
            for _ in range(5):
                await pages.receive()
            checkpoint = pages.checkpoint()
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1, resume=checkpoint) as pages:
            await account.take_the_rest(pages)
        assert set(kept) <= set(account.keys())
        assert set(account.keys()) == booth.keys


async def test_of_another_database_or_pattern(nursery: trio.Nursery) -> None:
    """A typed error, before anything is sent."""
    async with open_booth(nursery, keys=100) as booth, booth.client() as client:
        async with client.open_scan() as pages:
            checkpoint = (await pages.receive()).checkpoint
        async with RedisClient(booth.server.address, db=1) as other:
            with pytest.raises(CheckpointInvalid, match="database 0"):
                other.open_scan(resume=checkpoint)
        with pytest.raises(CheckpointInvalid, match="match"):
            client.open_scan("user:*", resume=checkpoint)
        with pytest.raises(CheckpointInvalid, match="damaged"):
            client.open_scan(resume=checkpoint[:-2])
