"""When to try again to reach a server that was lost, and when to give up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from .errors import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Reconnecting"]

# Seconds before the second attempt in a row, and the most before any. The first is made at once.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 0.5
# A connection that was good for so many seconds makes up for those that failed before it.
CALM: Final = 5.0


class Reconnecting:
    """The attempts of one subscriber. Times are in seconds; whoever drives it gives `now`."""

    def __init__(self, failover_timeout: float, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers from 0 to 1: clients that were cut off together are not to come back together."""
        self._failover_timeout = failover_timeout
        self._jitter = jitter
        # Attempts in a row that came to nothing, or not to much.
        self._failures = 0
        self._not_before = -math.inf
        # Since when there is something to connect for and it is not all there; None while there is nothing, or it is.
        self._away_since: float | None = None
        self._restored_at: float | None = None
        self._problem = ""

    @property
    def give_up_at(self) -> float:
        """When an attempt that is under way is to end."""
        return math.inf if self._away_since is None else self._away_since + self._failover_timeout

    def pause(self, now: float, *, wanted: bool) -> float | None:
        """Seconds until the next attempt is to be made; None if none is `wanted`. Raises ServerUnavailable."""
        if not wanted:
            self._away_since = None
            return None
        if self._away_since is None:
            self._away_since = now
        if now >= self.give_up_at:
            problem = self._problem or "nothing was tried"
            raise ServerUnavailable(f"no server took the subscriptions within {self._failover_timeout:g} s: {problem}")
        return max(0.0, self._not_before - now)

    def hurry(self) -> None:
        """Another master is named: it has not failed yet."""
        self._failures = 0
        self._not_before = -math.inf

    def lost(self, problem: str, now: float) -> None:
        """An attempt failed, or the connection that it had brought."""
        restored_at, self._restored_at = self._restored_at, None
        self._problem = problem
        if restored_at is not None and now - restored_at >= CALM:
            self._failures = 0
        if self._failures:
            longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
            self._not_before = now + longest * (0.5 + 0.5 * self._jitter())
        self._failures += 1

    def restored(self, now: float) -> None:
        """Everything that is wanted is held."""
        self._away_since = None
        if self._restored_at is None:
            self._restored_at = now
