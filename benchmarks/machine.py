"""The machine: what it is, what a process has used of it, and who else was using it meanwhile."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

# Of one core. Above it the figures of a run are not its own alone.
NOISE: Final = 0.1

_PROC: Final = Path("/proc")
# Linux: the clock of another process's CPU time is its number, coded (see clock_getcpuclockid in the C library).
_PROCESS_CLOCK: Final = 2


def describe() -> dict[str, object]:
    """The machine and the programs that all runs have in common."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: found for name in ("trio", "redis", "hiredis") if (found := package_version(name))},
        "load average at the start": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def package_version(name: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_seconds(pid: int) -> float | None:
    """CPU time, of all threads, that a process has used; None where that cannot be told."""
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime(~pid << 3 | _PROCESS_CLOCK)
    except OSError:
        return None


def resident_bytes(pid: int) -> int | None:
    """Memory that a process has now."""
    return _status(pid, "VmRSS")


def peak_resident_bytes(pid: int) -> int | None:
    """The most that it has had since `forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Let the peak begin again at what the process has now."""
    try:
        (_PROC / str(pid) / "clear_refs").write_text("5")
    except OSError:
        # Where it may not be written, the peak is that of the process's whole life.
        return


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used of all cores up to some moment, in seconds of CPU time."""

    at: float
    busy: float
    stolen: float

    @classmethod
    def now(cls) -> Usage | None:
        """None where the machine does not tell."""
        try:
            first = (_PROC / "stat").read_text().partition("\n")[0]
        except OSError:
            return None
        user, nice, system, _idle, _iowait, irq, soft_irq, stolen = (int(word) for word in first.split()[1:9])
        tick = 1 / os.sysconf("SC_CLK_TCK")
        return cls(time.perf_counter(), (user + nice + system + irq + soft_irq) * tick, stolen * tick)

    def others_since(self, before: Usage, ours: float) -> float:
        """Cores that other processes, or other machines on the same hardware, had on average since `before`."""
        seconds = self.at - before.at
        if seconds <= 0:
            return 0.0
        return max(0.0, self.busy - before.busy - ours + self.stolen - before.stolen) / seconds


def _status(pid: int, field: str) -> int | None:
    try:
        text = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _cpu_model() -> str:
    try:
        text = (_PROC / "cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (OSError, ValueError):
        return "unknown"
