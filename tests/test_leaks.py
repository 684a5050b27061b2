"""The guard that fails a test for what it leaves behind does see it. (Linux only, as the guard is.)"""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import pytest

from tests import _leaks

pytestmark = pytest.mark.skipif(not _leaks.CAN_SEE, reason="the guard sees nothing without Linux's /proc")


def test_an_open_socket_is_seen() -> None:
    before = _leaks.open_sockets()
    with socket.socket():
        assert len(_leaks.open_sockets() - before) == 1
    assert _leaks.open_sockets() <= before


def test_a_running_child_is_seen_and_killed() -> None:
    before = _leaks.child_processes()
    with subprocess.Popen(["sleep", "60"]) as child:
        [left] = _leaks.children_left(before, grace=0)
        assert (left.pid, left.command) == (child.pid, "sleep 60")
    assert not _leaks.children_left(before)


def test_an_orphan_is_seen() -> None:
    """A grandchild whose parent was killed: a demo's server, say."""
    before = _leaks.child_processes()
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        assert orphan not in {child.pid for child in _leaks.child_processes()}
        parent.kill()
    assert {child.pid for child in _leaks.children_left(before, grace=0)} == {orphan}


def test_a_child_that_ends_in_time_is_not_left() -> None:
    before = _leaks.child_processes()
    with subprocess.Popen(["sh", "-c", "kill -STOP $$; sleep 60"]) as child:
        os.waitpid(child.pid, os.WUNTRACED)
        child.send_signal(signal.SIGKILL)
        assert not _leaks.children_left(before)
