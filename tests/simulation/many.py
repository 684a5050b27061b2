"""Many schedules, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Final

from .playing import Outcome
from .report import Tally
from .runner import draw, run
from .shrinking import shrink
from .worlds import world_of

__all__ = ["play_for", "play_seeds"]

# So many schedules go to a process at a time.
BATCH: Final = 25
# After so many broken promises there is enough to look at.
MOST_FAILURES: Final = 10


def play_seeds(world_name: str, seeds: range, on_broken: Callable[[Outcome], object] | None = None) -> Tally:
    """Draw, play and count the schedules of these seeds.

    One that breaks a promise is noted, the first of them with a simpler one; with `on_broken`, that is called instead.
    """
    tally = Tally()
    for seed in seeds:
        world = world_of(world_name)
        outcome = run(draw(world, seed), world)
        tally.count(outcome)
        if outcome.violation is not None:
            if on_broken is not None:
                on_broken(outcome)
            else:
                tally.failed(outcome, shrink(outcome, world) if not tally.failures else None)
    return tally


def play_for(
    names: list[str],
    *,
    seed: int,
    minutes: float,
    schedules: int | None,
    processes: int,
    tell: Callable[[Tally], object],
) -> Tally:
    """Play until the time is over or there were so many, in so many processes; `tell` is called now and then."""
    total = Tally()
    end = time.monotonic() + minutes * 60

    def batches() -> Iterator[tuple[str, range]]:
        first, left = seed, schedules if schedules is not None else sys.maxsize
        while left > 0 and (schedules is not None or time.monotonic() < end) and len(total.failures) < MOST_FAILURES:
            for name in names:
                size = min(BATCH, left)
                if size > 0:
                    yield name, range(first, first + size)
                left -= size
            first += BATCH

    if processes == 1:
        for name, seeds in batches():
            total.add(play_seeds(name, seeds))
            tell(total)
        return total
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _end_with_the_parent) as pool:
        running: set[Future[Tally]] = set()
        for name, seeds in batches():
            running.add(pool.submit(play_seeds, name, seeds))
            if len(running) > processes:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    total.add(future.result())
                tell(total)
        for future in running:
            total.add(future.result())
    return total


def _end_with_the_parent() -> None:
    """A process of a pool waits for more work for ever, also when nobody is left to send it any."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_the_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
