"""Schedules of a service, by lot: what is scanned and how, what goes on beside it, and what befalls it when."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from random import Random
from typing import Final

from tests.simulation.schedule import Fault, Schedule, Value

from .fault_classes import CLASSES, IN_PLACE, draw_args

__all__ = ["DEFAULTS", "NEVER_TOGETHER", "draw"]

# The plainest. A schedule says what is otherwise.
DEFAULTS: Final[Mapping[str, Value]] = {
    # The deployment.
    "keys": 40,
    "hash": 0,
    "replicas": 2,
    "sentinels": 3,
    "down_after": 1.0,
    "sentinels_failover_timeout": 10.0,
    "lag": 0.0,
    "sync": 0.5,
    "latency": 0.0,
    "at_once": 1,
    "capa": 0,
    "version": "7.0.15",
    "password": 0,
    # Whether a replica answers with what it has while it has lost its master (`replica-serve-stale-data`).
    "stale": 1,
    "hash_seed": 0,
    # The client and the scan.
    "response_timeout": 2.0,
    "protocol": 0,
    "failover_timeout": 20.0,
    "kind": "scan",
    "segments": 1,
    "count": 5,
    "dedupe": "no",
    "prefetch": 0,
    "page_size": 0,
    "read_from": "master",
    "fallback": 0,
    "on_failover": "restart",
    "max_restarts": 10,
    "certify": "sentinels",
    "match": 0,
    "duty": 1.0,
    # The consumer.
    "consumers": 1,
    "think": 0.0,
    # Whether it asks for a key of each page before it takes the next one.
    "asks": 0,
    "stops": 0,
    "stop_after": 1,
    "stop_how": "again",
    # Beside it.
    "churn": 0.0,
    "callers": 0,
    "retry_writes": 0,
    "listener": 0,
    # Whether, when all is over and mended, one more scan must be complete.
    "recovers": 0,
}

_STOPS: Final = ("again", "raise", "resume")
# Pairs of classes that exclude each other, and why.
NEVER_TOGETHER: Final[Mapping[tuple[str, str], str]] = dict.fromkeys(
    combinations(_STOPS, 2), "the consumer of a schedule stops in one way"
)

# Faults that end the master's reign sooner or later, and those that bring it about by themselves.
_FAILOVERS: Final = ("kill", "stop", "planned", "coordinated", "handover", "split")
_AT_MOMENTS: Final = ("scan", "scanned", "first", "last", "taken", "certificate", "promotion", "switch", "connect")


def _sometimes(rng: Random, chance: float) -> bool:
    return rng.random() < chance


def _one_of(rng: Random, *values: Value) -> Value:
    return rng.choice(values)


def draw(world: str, rng: Random, seed: int, pair: tuple[str, str] | None = None) -> Schedule:
    """A schedule by lot; if it is about a pair of classes, both are in it, and what they take."""
    settings: dict[str, Value] = dict(DEFAULTS)
    _draw_deployment(rng, settings)
    _draw_scan(rng, settings)
    _draw_consumer(rng, settings)
    if pair is None:
        faults = _draw_faults(rng, settings, rng.choice([0, 1, 1, 2, 2, 3, 4]))
    else:
        _suit(rng, settings, pair)
        faults = _draw_pair(rng, settings, pair)
        faults = _draw_faults(rng, settings, rng.choice([0, 0, 0, 1]), faults)
    kept = {name: value for name, value in settings.items() if value != DEFAULTS[name]}
    return Schedule(world, seed, kept, faults)


def _draw_deployment(rng: Random, settings: dict[str, Value]) -> None:
    settings["keys"] = rng.choice([30, 60, 60, 60, 120, 120, 120, 250, 800])
    settings["replicas"] = rng.choice([2, 2, 2, 1, 3])
    settings["sentinels"] = rng.choice([3, 3, 3, 3, 5])
    settings["lag"] = rng.choice([0.0, 0.0, 0.1, 1.5])
    settings["sync"] = rng.choice([0.2, 0.5, 3.0])
    settings["latency"] = rng.choice([0.0, 0.0, 0.001, 0.02])
    settings["at_once"] = rng.randrange(2)
    settings["capa"] = rng.randrange(2)
    settings["version"] = rng.choice(["7.0.15", "6.2.14"])
    settings["password"] = int(_sometimes(rng, 0.15))
    settings["down_after"] = rng.choice([1.0, 1.0, 3.0])
    settings["response_timeout"] = rng.choice([1.0, 2.0, 5.0])
    settings["protocol"] = rng.choice([0, 0, 0, 2])
    settings["failover_timeout"] = rng.choice([5.0, 20.0, 20.0, 60.0])
    settings["stale"] = int(_sometimes(rng, 0.8))


def _draw_scan(rng: Random, settings: dict[str, Value]) -> None:
    settings["segments"] = _one_of(rng, 1, 1, 2, 4, 8, "auto")
    settings["count"] = rng.choice([1, 5, 5, 10, 10, 20, 0])
    settings["dedupe"] = rng.choice(["no", "no", "memory", "memory", "store"])
    settings["prefetch"] = rng.choice([0, 1, 2, 2, 10])
    settings["page_size"] = rng.choice([0, 0, 0, 1, 7])
    if settings["count"] == 1:
        settings["keys"] = 30
    elif _sometimes(rng, 0.06):
        settings["kind"] = "scan_iter"
    if _sometimes(rng, 0.1) and settings["kind"] == "scan":
        settings["hash_seed"] = 1
    if settings["keys"] == 800:
        settings["count"] = 20
        settings["page_size"] = 0
    # A pass takes no time, or some seconds: what befalls it has to find it.
    settings["think"] = round(rng.choice([0.0, 0.3, 2.0, 4.0, 7.0]) / _pages(settings), 3)
    if _sometimes(rng, 0.2) and not settings["hash_seed"]:
        settings["read_from"] = "replica"
        settings["fallback"] = rng.randrange(2)
    if _sometimes(rng, 0.1):
        settings["on_failover"] = "raise"
    if _sometimes(rng, 0.15):
        settings["max_restarts"] = rng.choice([0, 1, 3])
    if _sometimes(rng, 0.15):
        settings["certify"] = "role"
    if _sometimes(rng, 0.2):
        settings["match"] = 1
    if _sometimes(rng, 0.1):
        settings["duty"] = 0.3
    if _sometimes(rng, 0.08) and settings["read_from"] == "master" and not settings["hash_seed"]:
        settings["kind"], settings["hash"], settings["match"] = "hscan", rng.choice([10, 60, 150]), 0
        settings["segments"] = _one_of(rng, 1, "auto")


def _draw_consumer(rng: Random, settings: dict[str, Value]) -> None:
    if _sometimes(rng, 0.2):
        settings["consumers"] = 2
    settings["asks"] = int(_sometimes(rng, 0.15))
    if _sometimes(rng, 0.35):
        settings["stops"] = rng.choice([1, 1, 2])
        settings["stop_after"] = rng.randrange(1, 8)
        settings["stop_how"] = rng.choice(["again", "raise", "resume", "resume"])
        if settings["stop_how"] == "resume":
            settings["consumers"] = 1
            if settings["dedupe"] == "memory":
                settings["dedupe"] = "no"
        elif settings["dedupe"] == "store":
            settings["dedupe"] = "memory"
    if _sometimes(rng, 0.4):
        settings["churn"] = rng.choice([1.0, 5.0, 20.0])
    if _sometimes(rng, 0.25):
        settings["callers"] = rng.choice([1, 3])
        settings["retry_writes"] = int(_sometimes(rng, 0.2))
    if _sometimes(rng, 0.2):
        settings["listener"] = 1
    if _sometimes(rng, 0.07):
        settings["recovers"] = 1


def _pages(settings: Mapping[str, Value]) -> int:
    """About how many pages one pass has."""
    size = int(settings["page_size"]) or int(settings["count"]) or 10
    return max(3, int(settings["hash"] or settings["keys"]) // size)


def _suit(rng: Random, settings: dict[str, Value], pair: tuple[str, str]) -> None:
    """What both classes take, so that they can befall anything: above all a scan that lasts, and goes on after one."""
    settings["on_failover"], settings["max_restarts"] = "restart", DEFAULTS["max_restarts"]
    settings["replicas"] = max(2, int(settings["replicas"]))
    settings["protocol"] = 0
    if settings["kind"] == "scan_iter":
        settings["kind"] = "scan"
    if settings["keys"] == 800:
        settings["keys"] = 120
    settings["think"] = round(rng.choice([2.0, 4.0, 7.0]) / _pages(settings), 3)
    for how in _STOPS:
        if how in pair:
            settings["stops"], settings["stop_after"], settings["stop_how"] = 1, rng.randrange(1, 4), how
            if how == "resume":
                settings["consumers"] = 1
            if settings["dedupe"] == ("memory" if how == "resume" else "store"):
                settings["dedupe"] = "no" if how == "resume" else "memory"


def _draw_pair(rng: Random, settings: Mapping[str, Value], pair: tuple[str, str]) -> tuple[Fault, ...]:
    """The two, one soon after the other. (What is no fault of its own follows from one, or from the settings.)"""
    names = [name for name in pair if name in CLASSES]
    rng.shuffle(names)
    # (What comes in place of a reply has its moment; the other one comes after it.)
    names.sort(key=lambda name: name not in IN_PLACE)
    faults: list[Fault] = []
    if "tilt" in pair:
        stopped = {"which": rng.randrange(3), "seconds": round(rng.uniform(2.5, 4), 2)}
        faults.append(
            Fault("clock-jump", "scan", 2.0) if rng.random() < 0.3 else Fault("sentinel-stop", "scan", 1.0, stopped)
        )
    for name in names:
        if name in IN_PLACE or not faults:
            before = int(faults[-1].at) if faults else 0
            trigger, at = "scan", float(before + rng.randrange(1, 4))
        else:
            trigger, at = "after", round(rng.choice([0.0, rng.uniform(0, 0.5), rng.uniform(0, 3)]), 2)
        faults.append(Fault(name, trigger, at, draw_args(name, rng)))
    return tuple(faults)


def _draw_faults(
    rng: Random, settings: Mapping[str, Value], number: int, before: tuple[Fault, ...] = ()
) -> tuple[Fault, ...]:
    scans = max(3, int(settings["hash"] or settings["keys"]) // (int(settings["count"]) or 10))
    lasts = _pages(settings) * float(settings["think"])
    faults = list(before)
    for _ in range(number):
        name = rng.choice(_FAILOVERS) if _sometimes(rng, 0.4) else rng.choice(sorted(CLASSES))
        if name in {"cut", "stuck", "garbage", "push"}:
            trigger, at = rng.choice(["scan", "scan", "first", "certificate"]), float(rng.randrange(1, scans + 1))
        elif _sometimes(rng, 0.35 if faults or lasts > 1 else 0.9):
            trigger = rng.choice(_AT_MOMENTS)
            at = (
                float(rng.randrange(1, scans + 1))
                if trigger in {"scan", "scanned", "taken"}
                else float(rng.choice([1, 1, 1, 2]))
            )
        elif faults and _sometimes(rng, 0.5):
            trigger, at = "time", round(min(max(f.at for f in faults), lasts) + rng.uniform(0, 4), 2)
        else:
            trigger, at = "time", round(rng.uniform(0, lasts), 2)
        if trigger != "time" and name in {"first", "last", "certificate"}:
            at = 1.0
        faults.append(Fault(name, trigger, at, draw_args(name, rng)))
    return tuple(faults)
