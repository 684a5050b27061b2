"""The errors that a cluster's scan ends with, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    NoReplicaAvailable,
    ScanInterrupted,
    ScanNotCertified,
    ScanRestartsExhausted,
    ServerUnavailable,
    SlotsNotCovered,
)
from .slots import SlotSet, describe_slots, ranges_of

if TYPE_CHECKING:
    from .identity import ServerIdentity
    from .lanes import Lane
    from .summary import ScanSummary

__all__ = [
    "all_gone",
    "interrupted",
    "no_more_sweeps",
    "no_replica",
    "node_not_there",
    "not_certified",
    "not_covered",
]


def interrupted(
    lane: Lane, slots: SlotSet, reason: str, server: ServerIdentity | None, summary: ScanSummary
) -> ScanInterrupted:
    """Slots are to be swept again, and the caller does not want that."""
    return ScanInterrupted(
        f"{describe_slots(slots)} of node {lane.node_id[:8]}: {reason}",
        epoch=lane.epoch,
        old_server=server,
        new_server=None,
        keys=summary.keys,
        summary=summary,
    )


def no_more_sweeps(
    lane: Lane, slots: SlotSet, reason: str, max_restarts: int, summary: ScanSummary
) -> ScanRestartsExhausted:
    """Slots are to be swept again, and were so often enough."""
    return ScanRestartsExhausted(
        f"the sweep of {describe_slots(slots)} at node {lane.node_id[:8]} is void ({reason}), and"
        f" max_restarts={max_restarts} allows no other one",
        summary,
    )


def not_covered(slots: SlotSet, failover_timeout: float, summary: ScanSummary) -> SlotsNotCovered:
    """Nobody has these slots."""
    return SlotsNotCovered(
        f"no node of the cluster has had {describe_slots(slots)} for {failover_timeout:g} s (failover_timeout); the"
        " rest was scanned, and allow_uncovered=True would do without them",
        tuple(ranges_of(slots)),
        summary,
    )


def not_certified(
    lane: Lane | None,
    slots: SlotSet,
    reason: str,
    failover_timeout: float,
    summary: ScanSummary,
    *,
    by_majority: bool,
    silence: str,
) -> ScanNotCertified:
    """Nobody can vouch for these slots. `silence`: why some master could not be asked, if that is so."""
    if silence:
        reason += f" ({silence})"
    what = "not scanned" if lane is None else f"swept at node {lane.node_id[:8]}, but not certified"
    hint = '; certify="role" would accept each node\'s own word' if by_majority else ""
    return ScanNotCertified(
        f"{describe_slots(slots)}: {what} within {failover_timeout:g} s (failover_timeout): {reason}{hint}", summary
    )


def all_gone(node_id: str, summary: ScanSummary) -> ScanInterrupted:
    """Of one node alone: nothing of what it had is its own any more."""
    return ScanInterrupted(
        f"all slots of node {node_id[:8]} have gone to other nodes",
        epoch=summary.epoch,
        old_server=None,
        new_server=None,
        keys=summary.keys,
        summary=summary,
    )


def no_replica(slots: SlotSet, failover_timeout: float) -> NoReplicaAvailable:
    """No master of these slots has a replica that would do."""
    return NoReplicaAvailable(
        f"no replica to scan {describe_slots(slots)} on for {failover_timeout:g} s (failover_timeout);"
        ' fallback="master" would scan the master then'
    )


def node_not_there(node_id: str, failover_timeout: float) -> ServerUnavailable:
    """The one node to be scanned is no master with slots, nor a replica of one."""
    return ServerUnavailable(
        f"node {node_id[:8]} has been no master with slots, nor the replica of one, for {failover_timeout:g} s"
        " (failover_timeout)"
    )
