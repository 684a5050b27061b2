"""What a test must not leave behind: sockets and child processes. Linux alone has /proc to see them with."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

CAN_SEE = sys.platform == "linux"

# <linux/prctl.h>
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent dies: a server that outlives a killed demo is then seen here."""
    if CAN_SEE:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def open_sockets() -> set[str]:
    """This process's open sockets, as "fd -> socket:[inode]": two with one number at different times differ."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir() if CAN_SEE else ():
        with contextlib.suppress(OSError):  # the descriptor that reads this very directory is gone by now
            target = entry.readlink()
            if target.name.startswith("socket:"):
                found.add(f"{entry.name} -> {target.name}")
    return found


class Child(NamedTuple):
    """One child process; the time of its start tells it from a later one of the same number."""

    pid: int
    started: int
    command: str


def child_processes() -> dict[Child, str]:
    """This process's children and their states, as in proc(5); "Z" is one that has ended and was not waited for."""
    return dict(_children())


def _children() -> Iterator[tuple[Child, str]]:
    for entry in Path("/proc").iterdir() if CAN_SEE else ():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it has just ended
            continue
        # "pid (name, which may hold anything) state ppid ...", the start time being the twenty-second.
        state, parent, *rest = stat.rpartition(")")[2].split()
        if int(parent) == os.getpid():
            yield Child(int(entry.name), started=int(rest[17]), command=command), state


def children_left(before: Container[Child], *, grace: float = 1.0) -> set[Child]:
    """The children that are not in `before` and do not end within `grace` seconds; they are killed.

    The grace is for orphans: whoever kills a parent cannot wait for its children, nor reap them. So one that has ended
    is reaped here, and is no fault. (A Popen that nobody waits for says so by itself, with a ResourceWarning.)
    """
    deadline = time.monotonic() + grace
    while True:
        left = set()
        for child, state in child_processes().items():
            if child in before:
                continue
            if state == "Z":
                _reap(child)
            else:
                left.add(child)
        if not left or time.monotonic() >= deadline:
            break
        time.sleep(0.01)
    for child in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        _reap(child)
    return left


def _reap(child: Child) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child.pid, 0)
