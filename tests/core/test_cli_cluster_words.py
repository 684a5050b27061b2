"""What the command line says of a cluster's scan on stderr."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import pytest

from trio_sentinel_scan import Address, Certificate, Restart, ScanSummary, ServerIdentity
from trio_sentinel_scan.cli import _app
from trio_sentinel_scan.cli._cluster_words import progressing, restarting, state
from trio_sentinel_scan.cli._progress import BarReport, _cluster_bar
from trio_sentinel_scan.cli._report import ending, ending_early

ONE = ServerIdentity("0" * 40, Address("10.0.0.1", 6379))


@dataclass(frozen=True)
class Summary(ScanSummary):
    """With what only a cluster's has."""

    uncovered_slots: tuple[tuple[int, int], ...] = ()
    slots_let_go: tuple[tuple[int, int], ...] = ()


@dataclass
class SweptAgain(Restart):
    """With what only a cluster's has."""

    slots: tuple[tuple[int, int], ...] = ()


COMPLETE = Summary(
    complete=True,
    epoch=1,
    keys=2100,
    pages=30,
    keys_this_epoch=600,
    scans=30,
    reconnects=0,
    duplicates_dropped=0,
    position=1.0,
    server=ONE,
    segments=16,
    certificate=Certificate("server", ONE, "master", 0),
    elapsed=2.0,
)
AGAIN = SweptAgain(1, "another process answers", 1.5, ONE, slots=((0, 99), (200, 200)))


def test_a_complete_scan() -> None:
    """All keys of all sweeps: there is no final pass."""
    [line] = ending(COMPLETE, of_cluster=True)
    assert line.startswith("complete: 2,100 keys in 2.00 s (1,050 keys/s); 10.0.0.1:6379 (run_id 00000000) says master")
    [line] = ending(replace(COMPLETE, certificate=None), of_cluster=True)
    assert line == "complete: 2,100 keys in 2.00 s (1,050 keys/s)"


def test_slots_that_were_scanned_again() -> None:
    summary = replace(COMPLETE, restarts=(AGAIN,), duplicates_dropped=3)
    assert ending(summary, of_cluster=True)[1:] == [
        "slots were scanned again once: keys of theirs may have come more than once",
        "3 duplicates were left out",
    ]
    twice = replace(COMPLETE, restarts=(AGAIN, AGAIN))
    assert ending(twice, each_once=True, of_cluster=True)[1:] == [
        "slots were scanned again 2 times: none of their keys came again"
    ]


def test_slots_that_are_not_in_it() -> None:
    summary = replace(COMPLETE, uncovered_slots=((5, 9),), slots_let_go=((7, 7),))
    assert ending(summary, of_cluster=True)[1:] == [
        "left out: slots 5-9, which no node has",
        "left out: slot 7, which the node has given away meanwhile",
    ]


@pytest.mark.parametrize("position, covered", [(0.25, " (25% of the slots)"), (None, "")])
def test_an_incomplete_scan(position: float | None, covered: str) -> None:
    summary = replace(COMPLETE, complete=False, position=position, certificate=None)
    assert ending_early(summary, of_cluster=True) == [f"incomplete: 2,100 keys in 2.00 s{covered}"]


def test_a_restart() -> None:
    assert restarting(AGAIN) == (
        "after 1.50 s: another process answers; scanning slots 0-99, 200 again, so keys of theirs may come again"
    )
    assert restarting(AGAIN, each_once=True).endswith("again, leaving out what was written")
    unknown = Restart(1, "another process answers", 1.5, ONE)
    assert "scanning a node's slots again" in restarting(unknown)


def test_progress() -> None:
    under_way = replace(COMPLETE, complete=False, server=None, position=0.5)
    assert progressing(under_way) == " 50%, 2,100 keys, 1,050 keys/s, cluster"
    assert progressing(replace(under_way, position=None)) == "2,100 keys, 1,050 keys/s, cluster"
    assert state(replace(under_way, segments=0)) == "cluster, waiting for a node"
    assert state(replace(under_way, restarts=(AGAIN, AGAIN))) == "cluster, 2 times again"


def test_the_bar() -> None:
    bar = _cluster_bar(replace(COMPLETE, position=0.5))
    assert (bar.name, bar.done, bar.figure, bar.note) == ("cluster", 0.5, "50%", "2,100 keys, 1,050/s")
    assert _cluster_bar(replace(COMPLETE, position=None)).figure == ""


def test_the_bar_is_drawn() -> None:
    screen = io.StringIO()
    report = BarReport(screen)
    report._of_cluster = True
    report._draw(replace(COMPLETE, position=0.5, restarts=(AGAIN,)))
    report._stop()
    assert "scanning slots 0-99, 200 again" in screen.getvalue()


def test_arguments_are_called_what_they_are_here() -> None:
    assert _app._in_our_words("and allow_uncovered=True would do without them") == (
        "and --allow-uncovered would do without them"
    )
