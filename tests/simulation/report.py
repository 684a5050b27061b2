"""What many runs amount to: how many, how quick, which faults took effect, alone and together, and how scans ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

from .pairs import pairs_of
from .playing import Outcome, World

__all__ = ["Tally"]


@dataclass
class Tally:
    """Runs added up. One of each process, and one of them all (`add`)."""

    schedules: int = 0
    simulated: float = 0.0
    # By class: in how many schedules it was drawn, and in how many it took effect.
    drawn: Counter[str] = field(default_factory=Counter[str])
    hit: Counter[str] = field(default_factory=Counter[str])
    # Two classes that took effect in one schedule.
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    counts: Counter[str] = field(default_factory=Counter[str])
    endings: Counter[str] = field(default_factory=Counter[str])
    peaks: dict[str, float] = field(default_factory=dict[str, float])
    # (What went wrong, the schedule, the shrunk schedule or "").
    failures: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    def count(self, outcome: Outcome) -> None:
        """One more run."""
        account = outcome.account
        self.schedules += 1
        self.simulated += outcome.simulated
        self.drawn.update({fault.name for fault in outcome.schedule.faults})
        # (What is no fault of the schedule's own, such as a setting of the world, counts as drawn when it took effect.)
        self.drawn.update(set(account.hits) - {fault.name for fault in outcome.schedule.faults})
        self.hit.update(set(account.hits))
        self.pairs.update(combinations(sorted(account.hits), 2))
        self.counts.update(account.counts)
        self.endings.update(account.endings)
        self._peak(account.peaks)

    def failed(self, outcome: Outcome, shrunk: Outcome | None = None) -> None:
        """That run broke a promise."""
        last = shrunk or outcome
        self.failures.append((str(last.violation), str(outcome.schedule), str(shrunk.schedule) if shrunk else ""))

    def add(self, other: Tally) -> None:
        """What another process has counted."""
        self.schedules += other.schedules
        self.simulated += other.simulated
        for mine, theirs in ((self.drawn, other.drawn), (self.hit, other.hit), (self.counts, other.counts)):
            mine.update(theirs)
        self.pairs.update(other.pairs)
        self.endings.update(other.endings)
        self.failures += other.failures
        self._peak(other.peaks)

    def _peak(self, peaks: dict[str, float]) -> None:
        for name, value in peaks.items():
            self.peaks[name] = max(value, self.peaks.get(name, value))

    def report(self, worlds: Iterable[World], seconds: float) -> str:
        """For people to read."""
        lines = [
            f"{self.schedules} schedules in {seconds:.0f} s, {self.schedules / max(seconds, 1e-9):.1f} a second",
            f"{self.simulated / 3600:.1f} simulated hours",
            "",
            "endings:",
            *(f"  {number:8} {name}" for name, number in self.endings.most_common()),
            "",
            "counts:",
            *(f"  {number:8} {name}" for name, number in sorted(self.counts.items())),
            "",
            "greatest:",
            *(f"  {value:8.6g} {name}" for name, value in sorted(self.peaks.items())),
        ]
        for world in worlds:
            lines += ["", f"faults of the world {world.name!r} (in how many schedules it took effect, and was drawn):"]
            lines += [f"  {self.hit[name]:8} {self.drawn[name]:8} {name}" for name in world.classes]
            never = [name for name in world.classes if not self.hit[name]]
            lines += ["  never hit: " + (", ".join(never) or "none")]
            every = sorted(pairs_of(world))
            missing = [f"{one}+{other}" for one, other in every if not self.pairs[one, other]]
            lines += [f"  pairs: {len(every) - len(missing)} of {len(every)} met in one schedule"]
            lines += ["  pairs never hit: " + (", ".join(missing) or "none")]
            lines += [f"  cannot meet: {one}+{other} ({why})" for (one, other), why in world.never_together.items()]
        lines += ["", f"broken promises: {len(self.failures)}"]
        for what, schedule, shrunk in self.failures:
            lines += [f"  {what}", f"    drawn:  --replay '{schedule}'"]
            lines += [f"    shrunk: --replay '{shrunk}'"] if shrunk else []
        return "\n".join(lines)
