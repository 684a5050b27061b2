"""Whether what is kept stays the same, however long it goes on: objects of ours, memory, descriptors."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

from trio._core import _run as trio_run

__all__ = ["Flatness", "objects_of_ours", "open_descriptors"]


def objects_of_ours() -> Counter[str]:
    """How many there are of each class of the package, and of tasks and scopes."""
    # Trio forgets deadlines that will not be met when there are a thousand of them: until then it holds their scopes.
    context: Any = trio_run.GLOBAL_RUN_CONTEXT  # (it does not tell type checkers what it has)
    context.runner.deadlines._prune()
    gc.collect()
    found: Counter[str] = Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        # (As text: of a few classes it is a descriptor.)
        if str(kind.__module__).partition(".")[0] == "trio_sentinel_scan" or kind.__name__ in {"Task", "CancelScope"}:
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return found


def open_descriptors() -> int:
    """Of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Flatness:
    """Looks now and then, once things have warmed up; the last look is held against the first."""

    def __init__(self) -> None:
        self.counts: list[Counter[str]] = []
        self.memory: list[int] = []

    def look(self) -> None:
        """Take what there is now."""
        self.counts.append(objects_of_ours())
        self.memory.append(tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0)

    def grown(self, *, slack: int = 3) -> dict[str, int]:
        """Classes with more objects at the last look than at the first, by more than `slack`."""
        first, last = self.counts[0], self.counts[-1]
        return {kind: count - first[kind] for kind, count in last.items() if count > first[kind] + slack}

    def check(self, *, most_bytes: int = 300_000) -> None:
        """Nothing has grown."""
        assert len(self.counts) > 2
        grown = self.grown()
        assert not grown, f"there are more and more of these: {grown}"
        # (Less than a few hundred bytes for each time that something happened between the two.)
        assert self.memory[-1] - self.memory[0] < most_bytes, self.memory
