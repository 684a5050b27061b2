"""Free ports on loopback that nobody takes between the choice and the server's start, or hardly ever."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

HOST = "127.0.0.1"

# Below it live the well-known services and 6379 itself, which somebody may well be using on this machine.
_LOWEST = 10_000
_FEWEST_WORTH_DRAWING_FROM = 500

_lock = threading.Lock()
_in_use: set[int] = set()
# The file whose byte n stands for port n: who has it locked has the port. Opened once, and never closed, for closing it
# would give up every lock of this process. (-1: not opened yet; None: there is no such file to be had.)
_claims: int | None = -1


def take_port(*, and_above: int | None = None) -> int:
    """Choose a port that is free now, and that no other server of this user's has, in this process or another.

    `and_above`: so far above it lies another one that the server will want as well, and that is taken with it.

    The kernel hands out ports of its ephemeral range to outgoing connections, of which a test under load makes
    thousands, and does not let a server listen at one of those, nor for a minute after it was closed (TIME_WAIT). So
    the choice is made outside that range wherever it can be.

    A port stays a server's while that is down, also for other processes, such as other workers of a test runner: its
    replicas and its Sentinels would take whoever listens there for it, and copy its keys, or tell it what to be. That
    is for programs that choose their ports here; a server that finds its port taken by others is given another. (The
    draw is not from ``random``, which test runners seed alike in every worker.)
    """
    with _lock:
        for _ in range(1000):
            port = _draw(and_above or 0)
            wanted = {port} if and_above is None else {port, port + and_above}
            if wanted.isdisjoint(_in_use) and all(map(_is_free, wanted)) and _claim(wanted):
                _in_use.update(wanted)
                return port
    raise OSError("no free port was found on loopback")


def release_port(port: int) -> None:
    """Let others have the port again."""
    with _lock:
        if port in _in_use:
            _in_use.discard(port)
            _give_up([port])


def _claim(ports: Iterable[int]) -> bool:
    """Reserve ports against other processes; none of them if another one has any. The kernel ends it with this one."""
    claimed: list[int] = []
    for port in ports:
        if not _try_lock(port):
            _give_up(claimed)
            return False
        claimed.append(port)
    return True


def _try_lock(port: int) -> bool:
    if sys.platform == "win32" or (file := _claims_file()) is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # The file system knows no locks: as good as without.
        return True
    return True


def _give_up(ports: Iterable[int]) -> None:
    if sys.platform == "win32" or (file := _claims_file()) is None:
        return
    for port in ports:
        with suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_UN, 1, port)


def _claims_file() -> int | None:
    global _claims  # noqa: PLW0603 (a process has one)
    if sys.platform != "win32" and _claims == -1:
        path = Path(tempfile.gettempdir()) / f"trio-sentinel-scan-{os.getuid()}.ports"
        try:
            # (In a folder that everybody may write to: nobody else's link is followed.)
            _claims = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            _claims = None
    return _claims


def _draw(above: int) -> int:
    first, last = _ephemeral_range()
    # Both out of that range, or else the one that the server's own clients come to.
    for beyond in (above, 0):
        for candidates in (range(_LOWEST, first - beyond), range(last + 1, 65_536 - beyond)):
            if len(candidates) >= _FEWEST_WORTH_DRAWING_FROM:
                return secrets.choice(candidates)
    with socket.socket() as probe:  # The ephemeral range is nearly all there is: take what the kernel gives.
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _ephemeral_range() -> tuple[int, int]:
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return 49_152, 65_535  # IANA's, which macOS and the BSDs use.


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server will bind it: ports of servers whose old connections linger in TIME_WAIT are free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):  # There is none with this number.
            return False
    return True
