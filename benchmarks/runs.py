"""One run of one worker: a fresh process, watched from outside between two of its lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from . import machine

_ROOT: Final = Path(__file__).parent.parent
# A worker that is stuck ends the benchmark, rather than standing there all night.
_PATIENCE: Final = 1200.0
# Seconds of looking at who uses the machine; the kernel counts in hundredths.
_GLANCE: Final = 0.5


class WorkerFailed(Exception):
    """It ended before its time; the message is the last that it said."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run."""

    # By the worker's own clock.
    seconds: float
    # The rest of what the worker said.
    said: dict[str, Any]
    # CPU time during the task, in seconds; None where the machine does not tell.
    client_cpu: float | None
    server_cpu: float | None
    # The most memory that the worker had during its task, beyond what it had before.
    growth: int | None
    # How many cores others had meanwhile.
    others: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def wait_for_quiet(seconds: float) -> None:
    """Wait, but not longer than so many seconds, until others leave the machine alone."""
    with trio.move_on_after(seconds):
        while True:
            before, used = machine.Usage.now(), machine.cpu_seconds(os.getpid())
            await trio.sleep(_GLANCE)
            after, used_now = machine.Usage.now(), machine.cpu_seconds(os.getpid())
            if before is None or after is None or used is None or used_now is None:
                return
            if after.others_since(before, used_now - used) <= machine.NOISE:
                return


@dataclass
class Worker:
    """A worker that is connected, and waits for the word."""

    process: trio.Process
    server_pid: int
    # Other processes of ours that work for this run, the proxy for one.
    helpers: Sequence[int]
    greeting: dict[str, Any] = field(default_factory=dict)
    _said: bytearray = field(default_factory=bytearray)
    _before: dict[int, float | None] = field(default_factory=dict)
    _usage_before: machine.Usage | None = None
    _resident_before: int | None = None

    async def go(self) -> None:
        """Let it begin."""
        pid = self.process.pid
        machine.forget_peak(pid)
        self._resident_before = machine.resident_bytes(pid)
        self._usage_before = machine.Usage.now()
        self._before = {pid: machine.cpu_seconds(pid) for pid in (pid, self.server_pid, *self.helpers)}
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"go\n")

    async def result(self) -> Run:
        """Wait until it is done."""
        said = await self.read_line()
        pid = self.process.pid
        used = {pid: _difference(machine.cpu_seconds(pid), before) for pid, before in self._before.items()}
        usage, peak = machine.Usage.now(), machine.peak_resident_bytes(pid)
        others = None
        if usage is not None and self._usage_before is not None and None not in used.values():
            others = usage.others_since(self._usage_before, sum(seconds or 0.0 for seconds in used.values()))
        return Run(
            seconds=said.pop("seconds"),
            said=said,
            client_cpu=used[pid],
            server_cpu=used[self.server_pid],
            growth=None if peak is None or self._resident_before is None else peak - self._resident_before,
            others=others,
        )

    async def read_line(self) -> dict[str, Any]:
        """The next thing that it says."""
        assert self.process.stdout is not None
        while b"\n" not in self._said:
            part = await self.process.stdout.receive_some()
            if not part:
                raise WorkerFailed("it ended without a word")
            self._said += part
        line, _, rest = self._said.partition(b"\n")
        self._said = bytearray(rest)
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def open_worker(command: Sequence[str], server_pid: int, helpers: Sequence[int] = ()) -> AsyncGenerator[Worker]:
    """Start a worker and wait until it is connected. Raises WorkerFailed."""
    with tempfile.TemporaryFile() as errors:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=_ROOT
        )
        try:
            worker = Worker(process, server_pid, helpers)
            with trio.fail_after(_PATIENCE):
                try:
                    worker.greeting = await worker.read_line()
                    yield worker
                except (WorkerFailed, trio.BrokenResourceError):
                    raise WorkerFailed(_last_line(errors.fileno())) from None
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                for pipe in (process.stdin, process.stdout):
                    assert pipe is not None
                    await pipe.aclose()


async def run_worker(command: Sequence[str], server_pid: int, helpers: Sequence[int] = ()) -> Run:
    """One run from beginning to end. Raises WorkerFailed."""
    async with open_worker(command, server_pid, helpers) as worker:
        await worker.go()
        return await worker.result()


def python_worker(module: str, task: dict[str, Any]) -> list[str]:
    """The command that starts a worker of this folder's."""
    return [sys.executable, "-m", f"{__package__}.workers.{module}", json.dumps(task)]


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _last_line(errors: int) -> str:
    with open(errors, "rb", closefd=False) as file:
        file.seek(0)
        lines = file.read().decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    # An exception group is drawn with a frame around it.
    return next((line for line in reversed(said) if line.strip("+-| ")), "it ended without a word").lstrip("| ")
