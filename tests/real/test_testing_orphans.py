"""When Python itself is interrupted, killed, or leaves without a word, its test servers go too."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests import _leaks

if TYPE_CHECKING:
    from pathlib import Path

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.skipif(not _leaks.CAN_SEE, reason="the processes are counted in /proc")

SCRIPT = """
import os, sys, trio
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

async def main():
    async with LocalSentinel(1, 1) as sentinel, LocalRedis() as server:
        await server.pause()
        print(*[node.pid for node in (*sentinel.nodes, *sentinel.sentinel_nodes, server)], flush=True)
        if sys.argv[1] == "exit":
            os._exit(3)
        await trio.sleep_forever()

trio.run(main)
"""


def everything_is_gone(pids: list[int], folder: Path) -> bool:
    """Orphans are adopted by this process (see conftest.py): one that has ended is a zombie until they are reaped."""
    states = {child.pid: state for child, state in _leaks.child_processes().items()}
    return all(states.get(pid, "Z") == "Z" for pid in pids) and not list(folder.iterdir())


@pytest.mark.parametrize("how, status", [("SIGINT", -2), ("SIGTERM", -15), ("SIGKILL", -9), ("exit", 3)])
def test_no_server_outlives_python(
    how: str, status: int, server_binary: ServerBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("TRIO_SENTINEL_SCAN_SERVER", str(server_binary.path))
    python = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with python:
        try:
            assert python.stdout is not None
            pids = [int(pid) for pid in python.stdout.readline().split()]
            assert len(pids) == 4
            if how != "exit":
                python.send_signal(signal.Signals[how])
            assert python.wait(10) == status
        finally:
            python.kill()
        assert python.stderr is not None
        complaints = python.stderr.read()
    if how == "SIGINT":
        # Ctrl-C cleans up before it leaves, and nothing hides it.
        assert everything_is_gone(pids, folder)
        assert complaints.rstrip().endswith("KeyboardInterrupt")
        assert "Group" not in complaints
        return
    deadline = time.monotonic() + 10
    while not everything_is_gone(pids, folder):
        assert time.monotonic() < deadline, "servers outlived Python"
        time.sleep(0.01)
