"""What the functions of the faults share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tests.simulation.schedule import Value as Setting

__all__ = ["each_of", "seconds_of"]

T = TypeVar("T")


def seconds_of(args: Mapping[str, Setting]) -> float:
    return float(args.get("seconds", 5.0))


def each_of(things: Sequence[T], call: Callable[[T], object]) -> None:
    for thing in things:
        call(thing)
