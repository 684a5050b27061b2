"""The command line as a user has it: a process with its arguments, its environment and its exit status."""

from __future__ import annotations

import array
import fcntl
import os
import subprocess
import sys
import termios
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

# A guard against hanging, far from what anything takes; no test measures time.
HANG: Final = 90.0

PROGRAM: Final = (sys.executable, "-W", "error", "-m", "trio_sentinel_scan")

# What the desk's own environment must not decide.
OURS: Final = (
    "TRIO_SENTINEL_SCAN_URL",
    "REDISCLI_AUTH",
    "REDISCLI_SENTINEL_AUTH",
    "NO_COLOR",
    "FORCE_COLOR",
    "COLUMNS",
)


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process: this one's, and what the test says."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    return {**kept, "TERM": "xterm", **(given or {})}


@dataclass(frozen=True)
class Ended:
    """A process that has ended; the status is negative if a signal ended it."""

    status: int | None
    out: bytes
    err: str

    @property
    def keys(self) -> list[bytes]:
        """The lines of stdout."""
        return self.out.splitlines()


async def cli(*arguments: str, env: Mapping[str, str] | None = None) -> Ended:
    """Run it to its end, without a terminal."""
    with trio.fail_after(HANG):
        ended = await trio.run_process(
            [*PROGRAM, *arguments], capture_stdout=True, capture_stderr=True, check=False, env=environment(env)
        )
    return Ended(ended.returncode, ended.stdout, ended.stderr.decode())


class Running:
    """A process whose stdout is read only when the test says so."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.out = b""
        self.err = ""
        self.said_everything = trio.Event()
        # Set, and replaced, when something was said.
        self._heard = trio.Event()

    async def read(self, at_least: int) -> None:
        """Read some of stdout."""
        assert self.process.stdout is not None
        with trio.fail_after(HANG):
            while len(self.out) < at_least:
                some = await self.process.stdout.receive_some(4096)
                assert some, f"stdout has ended: {self.err}"
                self.out += some

    async def until_says(self, words: str) -> None:
        """Wait until it has said this on stderr."""
        with trio.fail_after(HANG):
            while words not in self.err:
                await self._heard.wait()

    async def until_quiet(self) -> None:
        """Wait until it writes no more, because nobody reads."""
        assert isinstance(self.process.stdout, trio.lowlevel.FdStream)
        descriptor = self.process.stdout.fileno()
        waiting = -1
        with trio.fail_after(HANG):
            while (now := _bytes_in(descriptor)) != waiting or not now:
                waiting = now
                await trio.sleep(0.1)

    async def end(self) -> Ended:
        """Read stdout to its end, and wait for the process's and for its last words."""
        assert self.process.stdout is not None
        with trio.fail_after(HANG):
            async for some in self.process.stdout:
                self.out += some
            await self.process.wait()
            await self.said_everything.wait()
        return Ended(self.process.returncode, self.out, self.err)

    async def listen(self) -> None:
        """Read stderr, all the time."""
        assert self.process.stderr is not None
        async for some in self.process.stderr:
            self.err += some.decode()
            self._heard.set()
            self._heard = trio.Event()
        self.said_everything.set()


@asynccontextmanager
async def running(*arguments: str, env: Mapping[str, str] | None = None) -> AsyncGenerator[Running, None]:
    """Run it beside the block. It is killed if it outlives the block."""
    process = await trio.lowlevel.open_process(
        [*PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(env),
    )
    run = Running(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.listen)
            yield run
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                await stream.aclose()


def _bytes_in(pipe: int) -> int:
    waiting = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0]


class Terminal:
    """The other side of a terminal: what a process wrote on it, and a keyboard."""

    def __init__(self, columns: int = 100) -> None:
        self._ours, self.theirs = os.openpty()
        termios.tcsetwinsize(self.theirs, (40, columns))
        self.seen = ""
        # Set, and replaced, when something was shown.
        self._shown = trio.Event()

    async def watch(self) -> None:
        """Read until every process has let go of it."""
        while True:
            await trio.lowlevel.wait_readable(self._ours)
            try:
                self.seen += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:  # how a pty says that the other side is closed
                return
            self._shown.set()
            self._shown = trio.Event()

    async def until_shows(self, words: str) -> None:
        """Wait until it shows this."""
        with trio.fail_after(HANG):
            while words not in self.seen:
                await self._shown.wait()

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def let_go(self) -> None:
        """Close our copy of the side that the process has."""
        os.close(self.theirs)

    def close(self) -> None:
        """Take the terminal away."""
        os.close(self._ours)


@dataclass
class Seen:
    """What came of a process at a terminal."""

    status: int | None
    # What the terminal got.
    screen: str
    # What went to stdout or stderr, where that was no terminal.
    piped: bytes


async def cli_at_terminal(
    *arguments: str,
    shows: str = "both",
    env: Mapping[str, str] | None = None,
    types: tuple[str, str] | None = None,
    columns: int = 100,
) -> Seen:
    """Run it at a terminal which is its stdin and its stdout ("out"), stderr ("err"), or "both".

    `types`: when the terminal shows the first, press the keys of the second.
    """
    terminal = Terminal(columns)
    there, elsewhere = terminal.theirs, subprocess.PIPE
    process = await trio.lowlevel.open_process(
        [*PROGRAM, *arguments],
        stdin=there,
        stdout=there if shows in ("out", "both") else elsewhere,
        stderr=there if shows in ("err", "both") else elsewhere,
        env=environment(env),
        # A session of its own, so that no other terminal is found in /dev/tty.
        start_new_session=True,
    )
    terminal.let_go()
    piped = b""
    try:
        with trio.fail_after(HANG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(terminal.watch)
                if types is not None:
                    await terminal.until_shows(types[0])
                    terminal.type(types[1])
                other = process.stdout or process.stderr
                if other is not None:
                    async with other:
                        async for some in other:
                            piped += some
                await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
        terminal.close()
    return Seen(process.returncode, terminal.seen, piped)
