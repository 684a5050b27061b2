"""What the oracle knows: since when each key has been there, without a break, where it counts.

Two accounts. Of each server: a scan owes its caller what was on the server that it was certified on, all through the
final pass. And of the service as such: what was on every server that was the master in any way, all through. (Between
a promotion and the moment when a majority of Sentinels knows of it there are two: a scan may complete on either.)

Ticks number everything that happens: two things at one moment of the simulated clock have an order all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .servers import SimServer

__all__ = ["Ledger"]


class Ledger:
    """The ticks, and the account of the service."""

    def __init__(self) -> None:
        self.tick = 0
        # When the deployment was set up: what has been there from before that was there all the time.
        self.begun = 0
        # Whose data counts. Invariant: the union of "is named by a majority" and "was promoted since".
        self.authorities: list[SimServer] = []
        self.since: dict[bytes, int] = {}
        # Every key that was ever anywhere.
        self.ever: set[bytes] = set()

    def now(self) -> int:
        """The number of this moment; greater than that of anything before it."""
        self.tick += 1
        return self.tick

    def set_authorities(self, servers: list[SimServer]) -> None:
        """From now on this is where it counts."""
        if servers != self.authorities:
            self.authorities = servers
            self.reloaded(None)

    def changed(self, server: SimServer, key: bytes) -> None:
        """One key of a server has come or gone, or has another value."""
        self.ever.add(key)
        if server in self.authorities:
            if all(key in other.data.get(0, ()) for other in self.authorities):
                self.since.setdefault(key, self.now())
            else:
                self.since.pop(key, None)

    def reloaded(self, server: SimServer | None) -> None:
        """Many of its keys have; None: whose keys count has changed."""
        if server is not None and server not in self.authorities:
            return
        self.since = _carried_on(self.since, [other.data.get(0, {}) for other in self.authorities], self.now())

    def since_before(self, tick: int) -> set[bytes]:
        """What has been there from before that tick until now."""
        return {key for key, since in self.since.items() if since < tick}


def _carried_on(since: dict[bytes, int], each: Sequence[Mapping[bytes, object]], tick: int) -> dict[bytes, int]:
    if not each:
        return {}
    first, *others = each
    return {key: since.get(key, tick) for key in first if all(key in other for other in others)}


def carried_on(since: dict[bytes, int], data: Mapping[bytes, object], tick: int) -> dict[bytes, int]:
    """The account of one data set, when it may have changed anywhere."""
    return {key: since.get(key, tick) for key in data}
