"""What is known of each Sentinel, and what follows from several of them together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from .identity import Address
from .sentinel_replies import MasterView
from .topology_state import ReplicaState

__all__ = ["Effect", "SentinelRecord", "Votes", "ids_of", "largest_circle"]


class Votes(NamedTuple):
    """How the known Sentinels stand to one master, by their latest answers."""

    known: int
    agreeing: int
    # Live Sentinels that name another address.
    dissenting: int

    @property
    def is_majority(self) -> bool:
        """Whether more than half of the known Sentinels agree."""
        return 2 * self.agreeing > self.known


@dataclass(slots=True)
class SentinelRecord:
    """What is known of one Sentinel."""

    address: Address
    configured: bool
    # Its own id, by which two addresses of one Sentinel are seen to be one; None until it or a peer has told.
    sentinel_id: str | None = None
    # Its latest word; kept when it fails, but counted only while it is live.
    said: MasterView | None = None
    # Invariant: True exactly while its latest asking was answered.
    live: bool = False
    # What came of asking it, for people to read.
    status: str = "not asked yet"
    tried: bool = False
    # When it was asked what it answered last: an answer vouches for nothing later than its question.
    asked_at: float = float("-inf")
    # The same, or when it failed, if that was later.
    heard_at: float = float("-inf")
    peers: frozenset[str] = frozenset()
    # The replicas that it lists, and its master's process; of the same answer as `said`.
    replicas: tuple[ReplicaState, ...] | None = None
    master_run_id: str | None = None
    # Invariant: True exactly while its latest asking failed by its refusing the username or password.
    refused: bool = False


@dataclass(slots=True)
class Effect:
    """What an answer brings about."""

    # The view moved to another master (or the first one was found).
    changed: bool = False
    # Before it can move: ask this server for its role, and report by `role_confirmed`.
    confirm: MasterView | None = None
    # Sentinels heard of for the first time: to be watched too.
    new_sentinels: list[Address] = field(default_factory=list[Address])
    # Addresses that turned out to be other names of a Sentinel already watched: to be dropped.
    redundant: list[Address] = field(default_factory=list[Address])


def ids_of(records: Iterable[SentinelRecord]) -> set[str]:
    """The ids of these Sentinels, and of those that they list."""
    ids: set[str] = set()
    for record in records:
        ids |= record.peers
        if record.sentinel_id is not None:
            ids.add(record.sentinel_id)
    return ids


def largest_circle(records: list[SentinelRecord]) -> list[SentinelRecord]:
    """The most of these records that belong together: who lists whom, or does not tell its id."""

    def circle(of: SentinelRecord) -> list[SentinelRecord]:
        return [
            other
            for other in records
            if other is of
            or other.sentinel_id is None
            or of.sentinel_id is None
            or other.sentinel_id in of.peers
            or of.sentinel_id in other.peers
        ]

    circles = [circle(record) for record in records]
    return max(circles, key=len) if circles else []
