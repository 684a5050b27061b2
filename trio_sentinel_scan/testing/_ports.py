"""Free ports on loopback that nobody takes between the choice and the server's start, or hardly ever."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

HOST = "127.0.0.1"

# Below it live the well-known services and 6379 itself, which somebody may well be using on this machine.
_LOWEST = 10_000
_FEWEST_WORTH_DRAWING_FROM = 500

_lock = threading.Lock()
_in_use: set[int] = set()
# By port, the socket whose name says that it is taken: on Linux, where a name is of one network, as ports are.
_claims: dict[int, int] = {}


def take_port(*, and_above: int | None = None) -> int:
    """Choose a port that is free now, and that no other server of this process has; on Linux, of any process.

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
        if not _try_claim(port):
            _give_up(claimed)
            return False
        claimed.append(port)
    return True


def _try_claim(port: int) -> bool:
    if sys.platform != "linux":
        return True
    # (A name in no file system: nothing is left of it when the process ends, however it does.)
    with socket.socket(socket.AF_UNIX) as name:
        try:
            name.bind(f"\0trio-sentinel-scan port {port}")
        except OSError as error:
            # (Where there are no such names, it is as good as without.)
            return error.errno != errno.EADDRINUSE
        _claims[port] = name.detach()
    return True


def _give_up(ports: Iterable[int]) -> None:
    for port in ports:
        if (claim := _claims.pop(port, None)) is not None:
            os.close(claim)


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
