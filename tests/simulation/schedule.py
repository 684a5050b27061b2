"""What happens in one run of a simulation, as a value and as a line of text that replays it.

    service 4711 keys=120 segments=4 + kill@scan:12 how=reset + partition@time:3.5 seconds=8

Everything that a run draws by lot comes from the seed or stands here, so that a schedule is all there is to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

__all__ = ["Fault", "Schedule", "Value", "parse"]

# (Texts have no white space in them, and look like no number.)
Value: TypeAlias = int | float | str


@dataclass(frozen=True)
class Fault:
    """Something that befalls the world, and when."""

    # The class: a short word that the world knows.
    name: str
    # When: "time" (seconds from the start), or another word that the world knows, with a number.
    trigger: str
    at: float
    args: Mapping[str, Value] = field(default_factory=dict[str, Value])

    def __str__(self) -> str:
        return " ".join([f"{self.name}@{self.trigger}:{self.at:.10g}", *_pairs(self.args)])


@dataclass(frozen=True)
class Schedule:
    """One run. What `settings` leaves out is as the world has it by default, which is the simplest."""

    world: str
    seed: int
    settings: Mapping[str, Value] = field(default_factory=dict[str, Value])
    faults: tuple[Fault, ...] = ()

    def without(self, number: int) -> Schedule:
        """The same without one of its faults."""
        return replace(self, faults=self.faults[:number] + self.faults[number + 1 :])

    def with_fault(self, number: int, fault: Fault) -> Schedule:
        """The same with one of its faults replaced."""
        return replace(self, faults=(*self.faults[:number], fault, *self.faults[number + 1 :]))

    def with_settings(self, settings: Mapping[str, Value]) -> Schedule:
        """The same with other settings."""
        return replace(self, settings=settings)

    def __str__(self) -> str:
        head = " ".join([self.world, str(self.seed), *_pairs(self.settings)])
        return " + ".join([head, *map(str, self.faults)])


def parse(text: str) -> Schedule:
    """A schedule from its line of text. Raises ValueError for one that makes no sense."""
    head, *faults = (part.split() for part in text.split(" + "))
    world, seed, *pairs = head
    return Schedule(world, int(seed), _read_pairs(pairs), tuple(_read_fault(words) for words in faults))


def _read_fault(words: list[str]) -> Fault:
    name, _, when = words[0].partition("@")
    trigger, _, at = when.partition(":")
    return Fault(name, trigger, float(at), _read_pairs(words[1:]))


def _pairs(values: Mapping[str, Value]) -> list[str]:
    return [f"{name}={value!r}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()]


def _read_pairs(words: list[str]) -> dict[str, Value]:
    return {name: _read(value) for name, _, value in (word.partition("=") for word in words)}


def _read(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
