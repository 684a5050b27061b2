"""The examples run as they stand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

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


@pytest.mark.parametrize("page", ["README.md", "docs/anyio.md"])
async def test_the_first_program_on_asyncio(page: str) -> None:
    """It runs as it stands, but for the Sentinels' addresses."""
    text = (EXAMPLES.parent / page).read_text(encoding="utf-8")
    [program] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "asyncio.run(" in block]
    async with LocalSentinel(replicas=0, sentinels=1) as sentinel:
        await sentinel.fill(1, "user:")
        [(host, port)] = sentinel.sentinels
        program = program.replace("10.0.0.1,10.0.0.2,10.0.0.3", f"{host}:{port}")
        program = re.sub(r"sentinels = .*", f"sentinels = {sentinel.sentinels}", program)
        command = [sys.executable, "-c", program]
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
        done = await trio.run_process(command, capture_stdout=True, env=environment)
    page_line, certificate = done.stdout.splitlines()
    assert page_line.startswith(b"0 b'user:0'")
    assert b"1 of 1 Sentinels agree" in certificate


# Dies with the first page behind the second checkpoint.
KILLED = """
import os, signal, sys, trio
import resumable_export as example

class Export(example.Export):
    saves = 0

    def save(self, checkpoint):
        super().save(checkpoint)
        self.saves += 1

    def write(self, keys):
        super().write(keys)
        if self.saves == 2:
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

example.Export, example.EVERY = Export, 2_000
trio.run(example.main, *sys.argv[1:])
"""


async def test_resumable_export(tmp_path: Path) -> None:
    """Killed in the middle, on a server that is another one when it goes on."""
    folder = tmp_path / "export"
    environment = {**os.environ, "PYTHONPATH": f"{EXAMPLES.parent}:{EXAMPLES}"}
    async with LocalRedis() as server:
        keys = await server.fill(20_000)
        command = [sys.executable, "-c", KILLED, server.url, str(folder)]
        done = await trio.run_process(command, check=False, env=environment)
        assert done.returncode == -signal.SIGKILL
        size, _ = json.loads((folder / "checkpoint").read_text())
        assert 0 < size < (folder / "keys").stat().st_size
        # A snapshot, so that its keys are there again.
        await server.execute("SAVE")
        await server.restart()
        command = [sys.executable, str(EXAMPLES / "resumable_export.py"), server.url, str(folder)]
        done = await trio.run_process(command, capture_stderr=True, env=environment)
        assert b"says master" in done.stderr
    exported = [json.loads(line).encode() for line in (folder / "keys").read_text().splitlines()]
    assert sorted(exported) == sorted(keys)
    assert [path.name for path in folder.iterdir()] == ["keys"]


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
