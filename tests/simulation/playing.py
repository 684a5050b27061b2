"""What a simulated world is to the runner, and the account of one run that it fills in."""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from .schedule import Schedule, Value

__all__ = ["Account", "Outcome", "Violation", "World"]


class Violation(Exception):
    """A promise was broken. `kind` is a short word: shrinking keeps to the same."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


class Account:
    """What one run has come to so far. Whoever notices something writes it here."""

    def __init__(self) -> None:
        # Classes of faults that really took effect: something was under way that they could do harm to.
        self.hits: Counter[str] = Counter()
        # Anything worth adding up over all runs: "keys", "restarts", "failovers", ...
        self.counts: Counter[str] = Counter()
        # And what only the greatest of is of interest: "commands in one second", ...
        self.peaks: dict[str, float] = {}
        # How scans, commands and the like have ended, each by a short text: "complete", "ScanNotCertified", ...
        self.endings: Counter[str] = Counter()
        # The first promise that was broken where nobody could raise it.
        self.broken: Violation | None = None
        # Called then: the run need not go on.
        self.on_broken: Callable[[], object] = lambda: None
        self._digest = 0
        self.lines: list[str] | None = None

    def took_effect(self, name: str) -> None:
        """A fault of this class has befallen somebody."""
        self.hits[name] += 1

    def peak(self, name: str, value: float) -> None:
        """Keep it if it is the greatest so far."""
        self.peaks[name] = max(value, self.peaks.get(name, value))

    def breaks(self, kind: str, what: str) -> None:
        """A promise was broken; the first one counts."""
        if self.broken is None:
            self.broken = Violation(kind, what)
            self.trace(f"broken: {self.broken}")
            self.on_broken()

    def trace(self, what: str) -> None:
        """Something happened: two runs of one schedule are the same if all of this was."""
        self._digest = zlib.crc32(what.encode("utf-8", "surrogateescape"), self._digest)
        if self.lines is not None:
            self.lines.append(what)

    @property
    def digest(self) -> str:
        """Of everything that has happened."""
        return f"{self._digest:08x}"


@dataclass
class Outcome:
    """What came of one schedule."""

    schedule: Schedule
    account: Account = field(repr=False)
    violation: Violation | None
    # On the simulated clock and on the real one.
    simulated: float = 0.0
    seconds: float = 0.0


class World(Protocol):
    """One kind of deployment, with its faults and with what its oracle knows."""

    name: str
    # All classes of faults that it can draw; a report names those that never took effect.
    classes: tuple[str, ...]
    # Pairs of them (in the order of the alphabet) that no schedule can have by their nature, and why.
    never_together: Mapping[tuple[str, str], str]
    # What its settings are where a schedule does not say; the simplest, for shrinking goes there.
    defaults: Mapping[str, Value]
    # The same of the arguments of its faults.
    fault_defaults: Mapping[str, Mapping[str, Value]]

    def draw(self, rng: Random, seed: int) -> Schedule:
        """A schedule by lot."""
        ...

    def heard(self, record: logging.LogRecord) -> None:
        """The package has logged this; that it holds no secret is looked at elsewhere."""
        ...

    async def play(self, schedule: Schedule, account: Account) -> None:
        """Set the world up, let the client at it, let the faults happen, and judge. Raises Violation.

        What it does at a time of its own, without a task, goes into `Agenda.current()`.
        `random` and Trio's scheduler have been seeded; whatever else is drawn is to come from the schedule's seed.
        Nothing may be left behind: no task, no open stream, no patched name.
        """
        ...
