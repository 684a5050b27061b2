"""Cursors outside of `open_scan`: SCAN, HSCAN, SSCAN and ZSCAN as ordinary commands, and redis-py's `*_iter` methods.

They obey the same rule: a cursor is only ever sent to the process that issued it. Here nothing begins again by itself;
a cursor that would go elsewhere raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .errors import ScanInterrupted
from .replies import as_list, as_text

if TYPE_CHECKING:
    from .commands import Command
    from .identity import ServerIdentity
    from .wire import Reply

__all__ = ["CursorHome", "CursorLedger", "has_cursor"]

# Command -> where its cursor stands.
_CURSOR_AT: Final = {"SCAN": 1, "HSCAN": 2, "SSCAN": 2, "ZSCAN": 2}
# Cursors that are remembered. Past this, those of a process that has been left since are refused with the rest.
_MOST: Final = 10_000


def has_cursor(command: Command) -> bool:
    """Whether this is a command of the SCAN family."""
    return command.name in _CURSOR_AT


class CursorHome:
    """The process that one iteration's cursors come from."""

    def __init__(self) -> None:
        # None until the first command of the iteration is about to be sent.
        self.server: ServerIdentity | None = None
        self.keys = 0


class CursorLedger:
    """Which cursors are good at the process that a connection leads to. One per client, and one per lease."""

    def __init__(self, *, has_moved: bool = False) -> None:
        """`has_moved`: only what is issued from now on is good; a lease cannot tell where a cursor was before it."""
        self._server: ServerIdentity | None = None
        # Whether the client has been connected to more than one process.
        self._has_moved = has_moved
        # What the present process has issued: command, key and cursor.
        self._issued: set[tuple[str, ...]] = set()

    def connected(self, server: ServerIdentity) -> None:
        """Commands go to `server` from now on. A lease may have issued cursors of the one before."""
        if server is not self._server and not server.is_same_process(self._server):
            self._has_moved = self._has_moved or self._server is not None
            self._issued.clear()
        self._server = server

    def check(self, command: Command, server: ServerIdentity, *, home: CursorHome | None) -> None:
        """`command` is about to be sent to `server`, by which each connection's own object is meant.

        Raises ScanInterrupted if it has a cursor that this process may not have issued.
        """
        self.connected(server)
        place = _place(command)
        if place is None:
            return
        if home is not None:
            left, home.server = home.server, server
            if place[-1] == "0":
                # The iteration's first command: nothing was handed out yet, so it may begin anywhere (once more).
                return
            if left is not None and left is not server and not server.is_same_process(left):
                raise _interrupted(command, left, server, home.keys)
        elif place[-1] != "0" and self._has_moved and place not in self._issued:
            raise _interrupted(command, None, server, 0)

    def answered(self, command: Command, reply: Reply, server: ServerIdentity, home: CursorHome | None) -> None:
        """Its reply has come from `server`, which may have been left meanwhile."""
        place, pair = _place(command), as_list(reply)
        if place is None or pair is None or len(pair) != 2:
            return
        if home is not None:
            home.keys += len(as_list(pair[1]) or ())
        if server is not self._server and not server.is_same_process(self._server):
            return
        if len(self._issued) >= _MOST:
            self._issued.clear()
        self._issued.add((*place[:-1], as_text(pair[0])))


def _place(command: Command) -> tuple[str, ...] | None:
    at = _CURSOR_AT.get(command.name)
    if at is None or len(command.args) <= at:
        return None
    return (
        command.name,
        *(as_text(bytes(word) if isinstance(word, memoryview) else word) for word in command.args[1 : at + 1]),
    )


def _interrupted(command: Command, old: ServerIdentity | None, new: ServerIdentity, keys: int) -> ScanInterrupted:
    return ScanInterrupted(
        f"{command.name} has a cursor of another server process, which means nothing to this one;"
        " client.open_scan() begins again by itself",
        epoch=0,
        old_server=old,
        new_server=new,
        keys=keys,
    )
