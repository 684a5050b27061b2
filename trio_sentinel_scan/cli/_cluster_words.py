"""What is said of a cluster's scan: of slots and nodes, where other scans have passes and one server."""

from __future__ import annotations

from .._core.slots import describe_slots, set_of
from .._core.summary import Restart, ScanSummary


def progressing(summary: ScanSummary) -> str:
    """How far it is."""
    covered = "" if summary.position is None else f"{summary.position:4.0%}, "
    return f"{covered}{summary.keys:,} keys, {summary.keys_per_second:,.0f} keys/s, {state(summary)}"


def state(summary: ScanSummary) -> str:
    """What it is at, in a few words."""
    if summary.restarts:
        return f"cluster, {_times(len(summary.restarts))} again"
    return "cluster" if summary.segments else "cluster, waiting for a node"


def restarting(restart: Restart, *, each_once: bool = False) -> str:
    """That some slots are scanned again."""
    slots = set_of(restart.slots)
    what = describe_slots(slots) if slots else "a node's slots"
    effect = "leaving out what was written" if each_once else "so keys of theirs may come again"
    return f"after {restart.at:.2f} s: {restart.reason}; scanning {what} again, {effect}"


def ending(summary: ScanSummary, *, each_once: bool = False) -> list[str]:
    """The account of a complete scan."""
    took = f"{summary.elapsed:.2f} s ({summary.keys_per_second:,.0f} keys/s)"
    certified = f"; {summary.certificate}" if summary.certificate is not None else ""
    lines = [f"complete: {summary.keys:,} keys in {took}{certified}"]
    if summary.restarts:
        again = "none of their keys came again" if each_once else "keys of theirs may have come more than once"
        lines.append(f"slots were scanned again {_times(len(summary.restarts))}: {again}")
    return lines + left_out(summary)


def ending_early(summary: ScanSummary) -> str:
    """The account of one that ended otherwise."""
    covered = "" if summary.position is None else f" ({summary.position:.0%} of the slots)"
    return f"incomplete: {summary.keys:,} keys in {summary.elapsed:.2f} s{covered}"


def left_out(summary: ScanSummary) -> list[str]:
    """The slots that are not in it, which the user has agreed to."""
    lines: list[str] = []
    if uncovered := set_of(summary.uncovered_slots):
        lines.append(f"left out: {describe_slots(uncovered)}, which no node has")
    if let_go := set_of(summary.slots_let_go):
        lines.append(f"left out: {describe_slots(let_go)}, which the node has given away meanwhile")
    return lines


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
