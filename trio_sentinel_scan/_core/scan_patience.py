"""How long a scan waits, and for what: back-off, the budgets of time, and new connections that come to nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HESITATION", "Patience"]

# Seconds before the first, second, ... new attempt in a row; the last one repeats. Each is stretched by up to half.
BACK_OFF: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
# Seconds between two askings of too few Sentinels.
HESITATION: Final = 0.25


class Patience:
    """The budgets of one scan. Times are seconds on the clock of the plan that has it."""

    def __init__(self, failover_timeout: float, now: float, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers from 0 to 1; `failover_timeout` may be infinite."""
        self.failover_timeout = failover_timeout
        self._jitter = jitter
        self._failures = 0
        # New connections since the last whole reply: one that yields nothing counts like a restart.
        self.fruitless = 0
        # Servers that were left since the last whole reply, by a pass that goes on elsewhere.
        self.moves_in_vain = 0
        # Since when there has been no answer to work with; None while all is well.
        self._away_since: float | None = now
        # Since when a pass that was swept could not be certified; None while none is in that state.
        self._undecided_since: float | None = None
        # What stands, or last stood, in the way.
        self.problem = "no server was named"
        # How long to wait, in the states that wait.
        self.rest: float = 0.0

    # ---- how long ------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to give up."""
        since = self._undecided_since if self._undecided_since is not None else self._away_since
        return math.inf if since is None else since + self.failover_timeout

    @property
    def failures(self) -> int:
        """How many attempts in a row have failed, since the last whole reply or the beginning of a search."""
        return self._failures

    def is_overdue(self, now: float) -> bool:
        """Whether it is time to give up."""
        return now >= self.deadline

    @property
    def is_undecided(self) -> bool:
        """Whether what is waited for is a certificate, and no server."""
        return self._undecided_since is not None

    # ---- what happened -------------------------------------------------------------------------------------------

    def held_up(self, now: float) -> None:
        """The driver was busy with the consumer. A slow consumer is no absent server: the waiting begins now."""
        if self._away_since is not None:
            self._away_since = now

    def reconnected(self) -> None:
        """A new connection to the same process. It is counted in advance; a reply takes it back."""
        self.fruitless += 1
        self._away_since = None

    def answered(self) -> None:
        """Whole replies have come: all is well."""
        self.fruitless = self._failures = self.moves_in_vain = 0
        self._away_since = None

    def told_to_wait(self, problem: str, now: float, *, came_on: bool) -> None:
        """A server that is there asks for patience; others of the same replies may have brought the pass on."""
        self.problem = problem
        if came_on:
            self.fruitless = self.moves_in_vain = 0
        if self._away_since is None or came_on:
            self._away_since = now

    def failed(self, problem: str, now: float) -> None:
        """A connection failed, or could not be made."""
        # An attempt that our own deadline cut short says less than what went wrong before it.
        if not (self._failures and self.is_overdue(now)):
            self.problem = problem

    def back_off(self, now: float) -> None:
        """Before the next attempt there is to be a rest, the longer the more have failed in a row."""
        if self._away_since is None:
            self._away_since = now
        pause = BACK_OFF[min(self._failures, len(BACK_OFF) - 1)]
        self._failures += 1
        self.rest = pause * (1 + self._jitter() / 2)

    def hesitate(self, problem: str, now: float) -> None:
        """Too few Sentinels have answered."""
        self.problem = problem
        if self._undecided_since is None:
            self._undecided_since = now
        self.rest = HESITATION

    def begin_anew(self, problem: str, now: float) -> None:
        """The pass is void, and its server left: another one is looked for."""
        self.problem = problem
        self._undecided_since = None
        self._away_since = now
        self._failures = 0

    def moved_on(self, problem: str, now: float) -> None:
        """The server is left, and another one is looked for. It is counted in advance; a reply takes it back."""
        self.moves_in_vain += 1
        self.begin_anew(problem, now)

    def begin_here(self, problem: str) -> None:
        """The pass is void, and another one begins on a connection that is there."""
        self.problem = problem
        self._undecided_since = None
        self._away_since = None

    def bound(self) -> None:
        """A pass has begun on a server that answers."""
        self._away_since = None
