"""``python -m tests.simulation``: schedules by the minute or by number, or one that is given as text.

Exit status 0 if no promise was broken, else 1; the report names each failure's seed and the line that replays it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from .many import play_for
from .report import Tally
from .runner import run
from .schedule import parse
from .shrinking import shrink
from .worlds import NAMES, world_of


def replay(text: str, *, shrinks: bool, trace: bool) -> int:
    """Play one schedule, and say what came of it."""
    schedule = parse(text)
    world = world_of(schedule.world)
    outcome = run(schedule, world, trace=trace)
    for line in outcome.account.lines or ():
        print(line)
    if outcome.violation is not None and shrinks:
        outcome = shrink(outcome, world)
    print(f"schedule: {outcome.schedule}")
    print(f"digest {outcome.account.digest}, {outcome.simulated:.2f} simulated seconds")
    print(f"endings: {dict(outcome.account.endings)}; faults: {dict(outcome.account.hits)}")
    print(f"broken: {outcome.violation}" if outcome.violation is not None else "no promise was broken")
    return 1 if outcome.violation is not None else 0


def _sayer() -> Callable[[Tally], None]:
    """Says how many there were, and at once what broke a promise: a long run may be ended before its report."""
    told = 0

    def say(tally: Tally) -> None:
        nonlocal told
        for what, schedule, _ in tally.failures[told:]:
            print(f"\n{what}\n    --replay '{schedule}'", file=sys.stderr)
        told = len(tally.failures)
        print(f"\r{tally.schedules} schedules, {told} failures", end="", file=sys.stderr, flush=True)

    return say


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--schedules", type=int, help="how many, instead of how long")
    parser.add_argument("--seed", type=int, help="the first seed (default: by the clock)")
    parser.add_argument("--world", choices=[*NAMES, "all"], default="all")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--replay", metavar="TEXT", help="play this schedule and nothing else")
    parser.add_argument("--shrink", action="store_true", help="with --replay: find a simpler one that fails alike")
    parser.add_argument("--trace", action="store_true", help="with --replay: print everything that happens")
    given = parser.parse_args()
    if given.replay is not None:
        return replay(given.replay, shrinks=given.shrink, trace=given.trace)
    names = list(NAMES) if given.world == "all" else [given.world]
    seed = int(time.time()) * 1000 if given.seed is None else given.seed
    start = time.monotonic()
    total = play_for(
        names,
        seed=seed,
        minutes=given.minutes,
        schedules=given.schedules,
        processes=max(1, given.processes),
        tell=_sayer(),
    )
    print(f"\nfirst seed {seed}")
    print(total.report([world_of(name) for name in names], time.monotonic() - start))
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
