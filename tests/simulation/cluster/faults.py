"""The faults of a schedule: how they are drawn, what they wait for, and whether they took effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from ..schedule import Fault, Value
from .scripts import ARGUMENTS, Script
from .wire_scripts import AllScripts

if TYPE_CHECKING:
    from ..playing import Account
    from .deployment import SimulatedCluster

__all__ = ["TRIGGERS", "Faults", "draw_fault", "draw_pair"]

# What a fault may wait for (a time is in seconds), and up to how many of it. (Besides, "after": so many seconds after
# the first of the others has begun.)
TRIGGERS: Final[Mapping[str, tuple[float, float]]] = {
    "time": (2, 9),
    "scan": (3, 40),
    "end": (3, 6),
    "look": (3, 24),
    "page": (3, 16),
    "move": (3, 12),
}
_LIKELY: Final = ("time", "scan", "scan", "end", "look", "look", "page", "page", "move")


def draw_fault(rng: Random, names: tuple[str, ...], triggers: tuple[str, ...] = _LIKELY) -> Fault:
    """One by lot."""
    name = rng.choice(names)
    trigger = rng.choice(triggers)
    most = rng.choice(TRIGGERS[trigger])
    at = round(rng.uniform(0, most), 2) if trigger == "time" else float(rng.randint(1, int(most)))
    args = {argument: rng.choice(values) for argument, values in ARGUMENTS[name].items()}
    return Fault(name, trigger, at, args)


def draw_pair(rng: Random, pair: tuple[str, str]) -> tuple[Fault, ...]:
    """Both of these, one soon after the other."""
    names = rng.sample(pair, 2)
    trigger = rng.choice(("scan", "look", "page"))
    first = replace(draw_fault(rng, (names[0],), (trigger,)), at=float(rng.randint(1, 3)))
    # (A slot or a node that the first one is busy with is of no use to the second.)
    second = draw_fault(rng, (names[1],), ("time",))
    later = rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, 1)))
    return first, replace(second, trigger="after", at=round(later, 2))


class Faults(AllScripts):
    """Those of one schedule, and what they are waiting for."""

    def __init__(self, cluster: SimulatedCluster, faults: tuple[Fault, ...], account: Account) -> None:
        super().__init__(cluster)
        self._account = account
        self._waiting: list[Fault] = [fault for fault in faults if fault.trigger != "after"]
        self._after: list[Fault] = [fault for fault in faults if fault.trigger == "after"]
        self._seen: dict[str, int] = {}
        # How many scripts are under way; whether no other is to begin.
        self.under_way = 0
        self.is_over = False
        # Whether there is anything that a fault could do harm to.
        self.matters: Callable[[], bool] = lambda: False
        cluster.on_event = lambda node, word: self.happened(word)
        cluster.on_move = lambda: self.happened("move")

    async def run(self) -> None:
        """Those that come at a time of their own."""
        begun = trio.current_time()
        timed = sorted((fault for fault in self._waiting if fault.trigger == "time"), key=lambda fault: fault.at)
        self._waiting = [fault for fault in self._waiting if fault.trigger != "time"]
        for fault in timed:
            await trio.sleep_until(begun + fault.at)
            self._begin(fault)

    def happened(self, word: str) -> None:
        """Something that faults may wait for."""
        number = self._seen[word] = self._seen.get(word, 0) + 1
        due = [fault for fault in self._waiting if fault.trigger == word and fault.at <= number]
        if due:
            self._waiting = [fault for fault in self._waiting if fault not in due]
            for fault in due:
                self._begin(fault)

    async def _begin_later(self, fault: Fault) -> None:
        await trio.sleep(fault.at)
        self._begin(fault)

    def _begin(self, fault: Fault) -> None:
        if self.is_over:
            return
        after, self._after = self._after, []
        for other in after:
            self._cluster.network.nursery.start_soon(self._begin_later, other)
        self._account.trace(f"{trio.current_time():.3f} {fault}")
        matters = self.matters()
        before = self._cluster.truth.cause
        self._cluster.truth.cause = fault.name
        script: Script = getattr(self, f"_{fault.name}")(**{**_simplest(fault.name), **fault.args})
        first = next(script, None)
        self._cluster.truth.cause = before
        if first is None or first >= 0:
            # (Less than nothing: there was nothing that it could befall.)
            if matters:
                self._account.took_effect(fault.name)
            if first is not None:
                self.under_way += 1
                self._cluster.network.nursery.start_soon(self._go_on, fault.name, script, first)

    async def _go_on(self, name: str, script: Script, seconds: float) -> None:
        try:
            pause: float | None = seconds
            while pause is not None:
                await trio.sleep(pause)
                before = self._cluster.truth.cause
                self._cluster.truth.cause = name
                pause = next(script, None)
                self._cluster.truth.cause = before
        finally:
            self.under_way -= 1


def _simplest(name: str) -> dict[str, Value]:
    return {argument: values[0] for argument, values in ARGUMENTS[name].items()}
