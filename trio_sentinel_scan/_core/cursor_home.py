"""Cursors outside of `open_scan`: SCAN, HSCAN, SSCAN and ZSCAN as ordinary commands, and redis-py's `*_iter` methods.

They obey the same rule: a cursor is only ever sent to the process that issued it. Here nothing begins again by itself;
a cursor that would go elsewhere raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .errors import ScanInterrupted
from .replies import as_list, as_text

if TYPE_CHECKING:
    from .cluster_map import ClusterMap
    from .commands import Command
    from .identity import ServerIdentity
    from .wire import Reply

__all__ = ["CursorHome", "CursorLedger", "SameOwners", "has_cursor"]

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


class SameOwners:
    """Whether the slots of a cluster stay where one iteration over its masters, one by one, found them.

    Keys that move from a master not yet come to, to one that is done with, are seen on neither.
    """

    def __init__(self, known: ClusterMap) -> None:
        self._map = known
        self._owned = known.ownership()
        self._keys = 0

    def check_key(self, known: ClusterMap) -> None:
        """One more key is about to be given. Raises ScanInterrupted if slots have got another owner."""
        self._check(known)
        self._keys += 1

    def check_end(self, known: ClusterMap, *, answered: bool) -> None:
        """All masters are done. `answered`: a node has told since then, and `known` is what it told.

        Raises ScanInterrupted if slots have got another owner, or if nobody can tell whether they have.
        """
        if not answered:
            raise self._may_have_missed("no node could tell in the end whether slots have got another owner meanwhile")
        self._check(known)

    def _check(self, known: ClusterMap) -> None:
        if known is not self._map and known.ownership() != self._owned:
            raise self._may_have_missed("slots have got another owner meanwhile")

    def _may_have_missed(self, what: str) -> ScanInterrupted:
        return ScanInterrupted(
            f"{what}, and keys may have passed it by; client.open_scan() loses none",
            epoch=0,
            old_server=None,
            new_server=None,
            keys=self._keys,
        )


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
