"""Which two classes of faults a schedule has on purpose, by its number: one pair after the other, all in turn.

By lot alone a run of some thousand schedules leaves half of the pairs out. So two of three schedules are about a pair,
and what else they have is drawn beside it; the third is drawn as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import combinations
from random import Random

from .playing import World

__all__ = ["Pair", "pair_of", "pairs_of"]

# Two classes, in the order of the alphabet.
Pair = tuple[str, str]


def pairs_of(world: World) -> tuple[Pair, ...]:
    """All pairs that can be, in a fixed order that looks like none: neighbours have little in common."""
    return _pairs(tuple(sorted(world.classes)), frozenset(world.never_together))


@cache
def _pairs(names: tuple[str, ...], never: Iterable[Pair]) -> tuple[Pair, ...]:
    pairs = [pair for pair in combinations(names, 2) if pair not in never]
    Random("pairs").shuffle(pairs)
    return tuple(pairs)


def pair_of(world: World, seed: int) -> Pair | None:
    """The pair of the schedule of this number; None if it is drawn as it comes."""
    turn, place = divmod(seed, 3)
    pairs = pairs_of(world)
    return pairs[(2 * turn + place - 1) % len(pairs)] if place and pairs else None
