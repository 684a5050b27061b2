"""What the demo's Sentinels, or the nodes of its cluster, make of the dead master, as they write it into their logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple, Protocol

# What a Sentinel writes: "4711:X 20 Nov 2026 10:15:49.302 # +sdown master mymaster 127.0.0.1 12284"
_LINE: Final = re.compile(r"^\d+:\w (\d+ \w+ \d+ [\d:.]+) \S (\+\S+) (.*)$", re.MULTILINE)

# Event, beginning of its text -> what it means. Others are steps in between.
_MEANING: Final[dict[tuple[str, str], Callable[[list[str]], str]]] = {
    ("+sdown", "master"): lambda _: "a Sentinel has waited long enough for its answer",
    ("+odown", "master"): lambda _: "the Sentinels agree that it is down",
    ("+elected-leader", "master"): lambda _: "one of them is elected to replace it",
    ("+selected-slave", "slave"): lambda words: f"its choice is the replica {words[1]}",
    ("+promoted-slave", "slave"): lambda words: f"{words[1]} is a master now",
    ("+switch-master", ""): lambda words: f"the master is {words[3]}:{words[4]}",
}


# Beginning of what a cluster's node writes -> what it means. (Redis and Valkey differ in what comes behind.)
_NODES_MEANING: Final = {
    "Marking node": "the masters agree that it is down (FAIL)",
    "Starting a failover election": "its replica stands for election (vote)",
    "Failover election won": "its replica is elected, and has its slots now (won)",
}

# "4711:M 20 Nov 2026 10:15:49.302 # Failover election won: I'm the new master."; there may be thousands of others.
_NODES_LINE: Final = re.compile(
    rf"^\d+:\w (\d+ \w+ \d+ [\d:.]+) \S ({'|'.join(map(re.escape, _NODES_MEANING))})", re.MULTILINE
)


class Log(Protocol):
    """A server with a log."""

    @property
    def log(self) -> str:
        """All that it has written so far."""
        ...


class Tiding(NamedTuple):
    """An event in a Sentinel's log."""

    # Seconds since 1970, by the Sentinel's clock, which is ours.
    at: float
    text: str


def sentinels_tidings(log: str) -> Iterator[Tiding]:
    """What a Sentinel's log tells."""
    for stamp, event, text in _LINE.findall(log):
        words = text.split()
        meaning = _MEANING.get((event, words[0])) or _MEANING.get((event, ""))
        if meaning is not None:
            yield Tiding(_time_of(stamp), f"{meaning(words)} ({event})")


def nodes_tidings(log: str) -> Iterator[Tiding]:
    """What the log of a cluster's node tells."""
    for stamp, beginning in _NODES_LINE.findall(log):
        yield Tiding(_time_of(stamp), _NODES_MEANING[beginning])


class Tidings:
    """Follows some logs. Each kind of event is told once, whoever was the first to see it."""

    def __init__(self, logs: Sequence[Log], read: Callable[[str], Iterator[Tiding]] = sentinels_tidings) -> None:
        self._logs = logs
        self._read = read
        self._told: set[str] = set()

    def news(self) -> list[Tiding]:
        """What has not been told yet, in its order."""
        found = sorted(tiding for log in self._logs for tiding in self._read(log.log))
        return [tiding for tiding in found if self._is_new(tiding)]

    def _is_new(self, tiding: Tiding) -> bool:
        event = tiding.text.rpartition("(")[2]
        if event in self._told:
            return False
        self._told.add(event)
        return True


def _time_of(stamp: str) -> float:
    return datetime.strptime(stamp, "%d %b %Y %H:%M:%S.%f").timestamp()  # noqa: DTZ007 (it is local time)
