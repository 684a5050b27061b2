"""The simplest schedule that still goes wrong in the same way: fewer faults first, then plainer ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from .playing import Outcome, World
from .runner import run
from .schedule import Schedule, Value

__all__ = ["shrink"]

MOST_TRIES: Final = 300
# Seconds of real time.
LONGEST: Final = 60.0


def shrink(
    outcome: Outcome,
    world: World,
    *,
    tries: int = MOST_TRIES,
    play: Callable[[Schedule, World], Outcome] = run,
) -> Outcome:
    """A run of a simpler schedule with the same kind of violation; the one given, if there is none."""
    assert outcome.violation is not None
    kind = outcome.violation.kind
    best = outcome
    end = time.monotonic() + LONGEST
    while tries > 0:
        for candidate in _simpler(best.schedule, world):
            tries = tries - 1 if time.monotonic() < end else 0
            found = play(candidate, world)
            if found.violation is not None and found.violation.kind == kind:
                best = found
                break
            if tries <= 0:
                break
        else:
            break
    return best


def _simpler(schedule: Schedule, world: World) -> Iterator[Schedule]:
    """Schedules that are a little simpler, the greatest steps first."""
    for number in range(len(schedule.faults)):
        yield schedule.without(number)
    if schedule.settings:
        yield schedule.with_settings({})
    for name, value in schedule.settings.items():
        rest = {key: old for key, old in schedule.settings.items() if key != name}
        yield schedule.with_settings(rest)
        for plainer in _nearer(value, world.defaults[name]):
            yield schedule.with_settings({**schedule.settings, name: plainer})
    for number, fault in enumerate(schedule.faults):
        for args in _simpler_args(fault.args, world.fault_defaults.get(fault.name, {})):
            yield schedule.with_fault(number, replace(fault, args=args))
        for at in _nearer(fault.at, 0 if fault.at == int(fault.at) else 0.0):
            assert not isinstance(at, str)
            yield schedule.with_fault(number, replace(fault, at=at))


def _simpler_args(args: Mapping[str, Value], defaults: Mapping[str, Value]) -> Iterator[Mapping[str, Value]]:
    for name, value in args.items():
        yield {key: old for key, old in args.items() if key != name}
        for plainer in _nearer(value, defaults.get(name, 0)):
            yield {**args, name: plainer}


def _nearer(value: Value, default: Value) -> Iterator[Value]:
    """Numbers between this one and the plainest, whole ones for whole ones."""
    if isinstance(value, str) or isinstance(default, str) or value == default:
        return
    if isinstance(default, int) and value == int(value):
        for plainer in (default + (int(value) - default) // 2, int(value) - (1 if value > default else -1)):
            if plainer not in {value, default}:
                yield plainer
    elif abs(value - default) > 0.1:
        yield round(default + (value - default) / 2, 2)
