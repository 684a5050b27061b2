"""The master dies while keys are being written: they are all there in the end, or the status says that they are not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.real.commandline import running
from trio_sentinel_scan.testing import LocalSentinel

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

# More than fits into the pipe and all that waits for it: the scan has to wait for its reader.
KEYS = 50_000
# With COUNT 1 they take seconds, in which the master can be killed.
FEWER_KEYS = 20_000
DOWN_AFTER = 2.0


async def test_a_slow_reader_gets_everything(server_binary: ServerBinary) -> None:
    async with LocalSentinel(down_after=DOWN_AFTER, binary=server_binary) as service:
        keys = await service.fill(KEYS)
        async with running("scan", "--progress", "-u", service.url) as run:
            await run.read(10_000)
            old = await service.kill()
            # Nobody reads, so no page moves; it hears of the new master all the same.
            await run.until_says("restart 1 after ")
            new = await service.wait_for_new_master(old)
            assert len(run.out) < 20_000
            ended = await run.end()
        assert ended.status == 0
        assert set(ended.keys) == keys
        assert len(ended.keys) > KEYS
        restart = next(line for line in ended.err.splitlines() if line.startswith("restart 1 after "))
        assert f"MASTER_CHANGE 127.0.0.1:{old.port} -> 127.0.0.1:{new.port}" in restart
        assert restart.endswith("scanning again from the beginning, so keys may come again")
        complete, told = ended.err.splitlines()[-2:]
        # (A few may come twice where two segments meet.)
        assert re.match(r"complete: 50,0\d\d keys in ", complete)
        assert "of 3 Sentinels agree" in complete
        assert told.startswith("1 restart: ")
        # What --progress is for where there is no terminal.
        assert "keys/s, epoch 0, 127.0.0.1:" in ended.err


async def test_count_counts_the_final_pass_alone(server_binary: ServerBinary) -> None:
    async with LocalSentinel(down_after=DOWN_AFTER, binary=server_binary) as service:
        await service.fill(FEWER_KEYS)
        async with running("count", "--count", "1", "-vv", "-u", service.url) as run:
            await run.until_says("connected to ")
            old = await service.kill()
            ended = await run.end()
        assert (ended.status, ended.out) == (0, b"%d\n" % FEWER_KEYS)
        assert "restart 1 after" in ended.err
        assert f"MASTER_CHANGE 127.0.0.1:{old.port}" in ended.err


@pytest.mark.parametrize("verb", ["scan", "count"])
async def test_on_failover_raise(server_binary: ServerBinary, verb: str) -> None:
    async with LocalSentinel(down_after=DOWN_AFTER, binary=server_binary) as service:
        await service.fill(FEWER_KEYS)
        # (With one chain of cursors, as `count` has it, they take seconds.)
        chain = ("--segments", "1") if verb == "scan" else ()
        async with running(verb, "--on-failover", "raise", "--count", "1", *chain, "-vv", "-u", service.url) as run:
            await run.until_says("connected to ")
            await service.kill()
            ended = await run.end()
        assert ended.status == 1
        assert "incomplete: " in ended.err
        assert "\ntrio-sentinel-scan: error: scan interrupted in epoch 0: MASTER_CHANGE" in ended.err
        assert "restart 1" not in ended.err
        assert "Traceback" not in ended.err
        assert verb == "scan" or ended.out == b""
