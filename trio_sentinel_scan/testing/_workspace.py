"""Where a harness's processes live, and the certainty that none of them outlives it.

Three ways in which the harness can end, and what cleans up:

* the ``async with`` block ends, by whatever exception or cancellation: :meth:`Workspace.close` kills and reaps;
* Ctrl-C at a terminal: each server has a session of its own, so the signal reaches only Python, which then
  leaves the block as above;
* Python itself is killed, or calls ``os._exit``: the *lifeline*, a small shell process that reads from a pipe
  whose other end only Python holds. When the pipe ends, it kills the servers and removes the directory.

The lifeline is there because the usual ways do not hold: ``atexit`` does not run when Python is killed, and
``PR_SET_PDEATHSIG`` (Linux only, and only through a ``preexec_fn``, which is unsafe beside threads) fires when the
*thread* that forked ends; Trio forks from worker threads, which end whenever they have been idle for a while.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

# A killed process is gone in milliseconds, unless it waits for a disk.
_REAPING_SECONDS = 10.0
_LOG_TAIL_BYTES = 3000

# Reads "+ pid" (watch it) and "- pid" (it is gone). A harness that ends in order kills it before it can act.
_LIFELINE = """
trap '' HUP INT TERM
pids=
while read -r word pid; do
    case $word in
        +) pids="$pids $pid" ;;
        -) rest=
           for one in $pids; do [ "$one" = "$pid" ] || rest="$rest $one"; done
           pids=$rest ;;
    esac
done
for one in $pids; do kill -s KILL -- "-$one" 2>/dev/null; done
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"""


class Workspace:
    """A temporary directory, the processes started in it, and the guard over both."""

    directory: Path

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="trio-sentinel-scan-"))
        self._processes: list[trio.Process] = []
        self._lifeline: int | None = None

    # An interrupt between a process's birth and its being noted down would leave it to nobody.
    @trio.lowlevel.enable_ki_protection
    async def spawn(self, command: Sequence[str], directory: Path, log: Path) -> trio.Process:
        """Start a process whose output goes to the end of the file ``log``.

        Either it is started and owned by this workspace, or an exception is raised and it is not.

        Raises:
            OSError: it could not be started.

        """
        if self._lifeline is None:
            await self._start_lifeline()
        with _open_for_appending(log) as output:
            # Not interrupted half way: Trio lets a thread that has begun finish, cancelled or not.
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
            )
        self._processes.append(process)
        self._tell_lifeline(f"+ {process.pid}\n")
        return process

    def kill(self, process: trio.Process) -> None:
        """Send SIGKILL, which a stopped process obeys too. Reaping it is left to ``process.wait()``.

        It goes to the process's whole group: a server forks to write its data, and that child outlives it.
        """
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        # Whatever has this number next is not ours to shoot at.
        self._tell_lifeline(f"- {process.pid}\n")

    async def close(self) -> None:
        """Kill and reap all processes and remove the directory. Cannot be cancelled; takes some milliseconds."""
        try:
            # Everything that can be done without waiting is done before the first wait.
            # The lifeline is the first of the processes, so it is the last to go.
            for process in reversed(self._processes):
                self.kill(process)
            with trio.CancelScope(deadline=trio.current_time() + _REAPING_SECONDS, shield=True):
                for process in self._processes:
                    await process.wait()
                await trio.lowlevel.checkpoint()
        finally:
            # Ctrl-C comes through shields as well: finish by blocking, for the moment that it takes.
            self._close_now()

    def _close_now(self) -> None:
        until = time.monotonic() + 1.0
        while any(process.returncode is None for process in self._processes) and time.monotonic() < until:
            time.sleep(0.002)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    async def _start_lifeline(self) -> None:
        await trio.lowlevel.checkpoint()
        reading, writing = os.pipe()
        try:
            lifeline = await trio.lowlevel.open_process(
                ["/bin/sh", "-c", _LIFELINE, "sh", str(self.directory)],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            # A machine without a shell has to do without the guard.
            os.close(writing)
        except BaseException:
            os.close(writing)
            raise
        else:
            self._lifeline = writing
            self._processes.append(lifeline)
        finally:
            os.close(reading)

    def _tell_lifeline(self, line: str) -> None:
        if self._lifeline is not None:
            with contextlib.suppress(BrokenPipeError):  # Somebody killed it. The servers are still ours to kill.
                os.write(self._lifeline, line.encode())


def log_tail(log: Path) -> str:
    """The end of a log, indented for an error message."""
    try:
        written = log.read_bytes()
    except OSError:
        return "  (there is no log)"
    lines = written[-_LOG_TAIL_BYTES:].decode(errors="replace").splitlines()
    return "\n".join(f"  | {line}" for line in lines[-20:]) or "  (the log is empty)"


def _open_for_appending(log: Path) -> io.FileIO:
    return io.FileIO(log, "ab")
