"""How much to ask for at once, and how long to rest in between: what a scan costs the server's other clients.

A server is one thread and runs what one client has sent in one go, so a *round*, the SCANs that were sent together,
is what every other client waits for. What bounds it is the server's time. That cannot be asked for; it shows in when
the first byte of a round's replies comes, for they come when the whole round has been run. The server began on it
when it had come there, or when it was done with the round before.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

__all__ = ["Pacing"]

# Seconds that one round may keep the server from its other clients, and the keys that it may bring. Another client may
# find two of them before it: together they are about what a single SCAN with COUNT 1000 does. On a quick server the
# keys are what bounds a round; the time bounds it on a slow one, and where next to nothing fulfils a MATCH.
ROUND_SECONDS: Final = 0.0004
ROUND_KEYS: Final = 400
ROUND_SCANS: Final = 4
# What a quick server takes for that many keys: so many rounds are on their way while the network is.
QUICK_ROUND_SECONDS: Final = 0.00025
# COUNT of a round to begin with, per segment, and the most for one SCAN (a rare MATCH brings next to no keys).
FIRST_COUNT: Final = 10
MAX_COUNT: Final = 10_000
# Over how many rounds the cost of a unit of COUNT is taken: enough for one that was held up not to matter.
_WINDOW: Final = 15


class Pacing:
    """COUNT and rests for one scan. Times are in seconds."""

    def __init__(self, count: int | None, duty: float) -> None:
        """A fixed `count`, or None for one that adapts; `duty` is the share of the server's time to take."""
        self._fixed = count
        self._duty = duty
        # The sum of the COUNTs of one round.
        self._round = 0.0
        # The quickest first byte of all: the network, and next to no work.
        self._quickest = math.inf
        # When the last first byte came: the server was done with that round, and free for the next.
        self._last = -math.inf
        # What one unit of COUNT seems to have cost the server, lately.
        self._costs: deque[float] = deque(maxlen=_WINDOW)
        # And what one question about a key did.
        self._detail_costs: deque[float] = deque(maxlen=_WINDOW)

    def scans(self, at_most: int) -> int:
        """Over how many SCANs to spread a round: few large ones, where that is ours to say, for each has its cost."""
        return at_most if self._fixed is not None else min(at_most, ROUND_SCANS)

    def count(self, scans: int) -> int:
        """The COUNT for each of the `scans` SCANs of a round."""
        if self._fixed is not None:
            return self._fixed
        return int(min(MAX_COUNT, max(FIRST_COUNT, self._round / scans)))

    def rounds(self, segments: int) -> int:
        """How many rounds to have on their way: one that the server works on, one that waits, and those in between.

        With a fixed count there are no more than are worth it: small ones would only be more pages.
        """
        in_between = 0 if self._quickest == math.inf else int(self._quickest / QUICK_ROUND_SECONDS)
        if self._fixed is not None:
            in_between = min(in_between, segments * self._fixed // ROUND_KEYS - 2)
        return 2 + max(0, in_between)

    def first_byte(self, sent: float, asked: int, now: float, *, waited: bool) -> None:
        """Of the replies to a round that asked for `asked` (at least 1) in all, the first byte has come.

        With `waited` False it may have come long before `now`, while nobody looked; what the round cost is not known
        then. Rounds whose first bytes come together are as one.
        """
        if waited:
            self._quickest = min(self._quickest, now - sent)
            self._costs.append((now - max(self._last, sent + self._quickest)) / asked)
        self._last = now

    def replied(self, asked: int, keys: int) -> float:
        """A round that asked for `asked` (at least 1) in all has brought `keys` keys.

        Returns how long to rest before the next one.
        """
        cost = _typical(self._costs)
        by_time = ROUND_SECONDS / cost if cost > 0 else math.inf
        by_keys = asked * ROUND_KEYS / keys if keys else math.inf
        self._round = min(2 * max(self._round, asked), by_time, by_keys)
        return cost * asked * (1 / self._duty - 1)

    def told(self, sent: float, asked: int, now: float, *, waited: bool) -> float:
        """The last of the replies to `asked` (at least 1) questions about keys has come.

        If that had to be waited for, the server was done with them only now. Returns how long to rest for them.
        """
        if waited:
            self._quickest = min(self._quickest, now - sent)
            self._detail_costs.append((now - max(self._last, sent + self._quickest)) / asked)
        self._last = now
        return _typical(self._detail_costs) * asked * (1 / self._duty - 1)

    def shrink(self) -> None:
        """A round was more than the connection could take: ask for half of it."""
        self._round /= 2
        if self._fixed is not None:
            self._fixed = max(1, self._fixed // 2)


def _typical(costs: deque[float]) -> float:
    # The lower quartile: what held a reply up was more often this machine than the server.
    return sorted(costs)[len(costs) // 4] if costs else 0.0
