"""All classes of faults by their names, and their arguments by lot."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Final

from tests.simulation.schedule import Value as Setting

from .network_faults import NETWORK_FAULTS
from .server_faults import SERVER_FAULTS

if TYPE_CHECKING:
    from .faults import Fire

__all__ = ["CLASSES", "IN_PLACE", "default_args", "draw_args"]

CLASSES: Final[Mapping[str, Fire]] = {**SERVER_FAULTS, **NETWORK_FAULTS}


IN_PLACE: Final = frozenset({"cut", "stuck", "garbage", "push"})


def default_args() -> dict[str, dict[str, Setting]]:
    """The plainest arguments."""
    return {
        name: {"seconds": 5.0, "on": "master", "how": "end", "which": 0, "times": 1, "keys": 10} for name in CLASSES
    }


def _one_of(rng: Random, *values: Setting) -> Setting:
    return rng.choice(values)


def draw_args(name: str, rng: Random) -> dict[str, Setting]:
    """Arguments by lot."""
    args: dict[str, Setting] = {}
    if name in {"kill", "client-kill", "restart"}:
        args["how"] = rng.choice(["end", "pipe", "reset"])
    if name in {"kill", "restart", "stop", "loading", "black-hole", "busy", "slow", "slices", "client-kill", "drops"}:
        args["on"] = rng.choice(["master", "master", "here", "replica"])
        args["which"] = rng.randrange(2)
    if name == "failed-sync":
        args["on"] = rng.choice(["here", "replica"])
    if name == "kill":
        args["back"] = rng.choice([0, round(rng.uniform(0.01, 3), 2), round(rng.uniform(3, 15), 1)])
        args["keeps"] = rng.choice(["all", "all", "saved", "none"])
    if name in {"sentinel-stop", "sentinel-kill", "deaf"}:
        args["which"] = _one_of(rng, 0, 1, 2, "all")
    if name in {"stale-sentinel", "lying-sentinel", "forgetful-sentinel", "garbage", "resync", "follow", "failed-sync"}:
        args["which"] = rng.randrange(6)
    if name in {"split", "blind"}:
        args["client"] = rng.choice(["both", "old"])
    if name == "slices":
        args["size"] = rng.choice([1, 1, 2, 7, 100])
    if name == "odd-cursor":
        args["kind"] = rng.choice(["circle", "falling", "too large"])
    if name == "forbidden":
        args["command"] = rng.choice(["SCAN", "ROLE", "INFO"])
    if name == "grow":
        args["keys"] = rng.choice([20, 150, 400])
    if name == "storm":
        args["times"] = rng.choice([3, 8, 15])
        args["seconds"] = round(rng.choice([rng.uniform(0.01, 0.2), rng.uniform(0.2, 2)]), 2)
    elif name not in IN_PLACE | {
        "noise",
        "grow",
        "shrink",
        "flush",
        "clock-jump",
        "planned",
        "coordinated",
        "handover",
        "restart",
    }:
        args["seconds"] = round(rng.choice([rng.uniform(0.05, 1.5), rng.uniform(1, 8), rng.uniform(5, 25)]), 2)
    return args
