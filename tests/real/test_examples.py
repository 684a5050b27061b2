"""The examples run as they stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from trio_sentinel_scan.testing import LocalRedis

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.trio, pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not in the wheel")]


async def test_export_keys() -> None:
    async with LocalRedis() as server:
        keys = await server.fill(2_000, value=b"v")
        await server.execute("SADD", "a set", "member")
        command = [sys.executable, str(EXAMPLES / "export_keys.py"), server.url]
        # Whether or not the package is installed here.
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, env=environment)
        exported = dict(map(json.loads, done.stdout.splitlines()))
        assert exported == {key.decode(): "v" for key in keys}
        assert b"says master" in done.stderr


async def test_follow_channels() -> None:
    said = bytearray()
    async with LocalRedis() as server, trio.open_nursery() as nursery:
        command = [sys.executable, str(EXAMPLES / "follow_channels.py"), server.url, "a*", "b"]
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}

        start = partial(trio.run_process, command, stdout=subprocess.PIPE, env=environment, check=False)
        process: trio.Process = await nursery.start(start)
        assert process.stdout is not None
        try:
            # Until it listens, nobody hears.
            while await server.execute("PUBLISH", "a1", "hello") == 0:  # noqa: ASYNC110 (no event tells of it)
                await trio.sleep(0.01)
            async for part in process.stdout:
                said += part
                if b"\n" in said:
                    break
        finally:
            process.kill()
    assert said == b"a1: hello\n"
