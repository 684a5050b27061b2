"""What the command line says on stderr, and what the demo makes of the Sentinels' logs."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from datetime import datetime

import pytest

from trio_sentinel_scan import Address, Certificate, Restart, ScanSummary, ServerIdentity
from trio_sentinel_scan.cli import _app
from trio_sentinel_scan.cli._progress import BarReport
from trio_sentinel_scan.cli._report import Report, ReportHandler, ending, ending_early, progressing, restarting
from trio_sentinel_scan.cli._tidings import Tidings, nodes_tidings

OLD = ServerIdentity("0" * 40, Address("10.0.0.1", 6379))
NEW = ServerIdentity("1" * 40, Address("10.0.0.2", 6379))
RESTART = Restart(1, "MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379", 1.5, OLD, NEW, 0.01)

COMPLETE = ScanSummary(
    complete=True,
    epoch=0,
    keys=2000,
    pages=3,
    keys_this_epoch=2000,
    scans=3,
    reconnects=0,
    duplicates_dropped=0,
    position=1.0,
    server=OLD,
    segments=16,
    certificate=Certificate("server", OLD, "master", 0),
    elapsed=2.0,
)


def test_a_complete_scan() -> None:
    [line] = ending(COMPLETE)
    assert line.startswith("complete: 2,000 keys in 2.00 s (1,000 keys/s); 10.0.0.1:6379 (run_id 00000000) says master")


def test_a_complete_scan_that_began_again() -> None:
    summary = replace(COMPLETE, keys=3500, epoch=1, restarts=(RESTART,))
    assert ending(summary)[0].startswith("complete: 2,000 keys in 2.00 s (1,750 keys/s)")
    assert ending(summary)[1:] == [
        "1 restart: 1,500 keys had come before the final pass, and those that still exist came again in it"
    ]
    assert ending(replace(summary, restarts=(RESTART, RESTART)))[1].startswith("2 restarts: ")


def test_a_complete_scan_that_wrote_each_key_once() -> None:
    """What is complete is what all passes have brought together."""
    summary = replace(COMPLETE, keys=2000, keys_this_epoch=500, epoch=1, restarts=(RESTART,), duplicates_dropped=1501)
    first, *rest = ending(summary, each_once=True)
    assert first.startswith("complete: 2,000 keys in 2.00 s (1,000 keys/s)")
    assert rest == [
        "1 restart: 1,500 keys had come before the final pass, and none of them came again",
        "1,501 duplicates were left out",
    ]
    assert ending(replace(COMPLETE, duplicates_dropped=1), each_once=True)[1:] == ["1 duplicate was left out"]
    assert len(ending(COMPLETE, each_once=True)) == 1
    assert ending_early(replace(summary, complete=False))[1:] == ["1,501 duplicates were left out"]


@pytest.mark.parametrize("position, covered", [(0.25, ", 25% of the pass"), (None, "")])
def test_an_incomplete_scan(position: float | None, covered: str) -> None:
    summary = replace(COMPLETE, complete=False, position=position, certificate=None)
    assert ending_early(summary) == [f"incomplete: 2,000 keys in 2.00 s (epoch 0{covered})"]


def test_a_restart() -> None:
    assert restarting(RESTART) == (
        "restart 1 after 1.50 s: MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379; scanning again from the beginning,"
        " so keys may come again"
    )
    assert restarting(RESTART, each_once=True).endswith(
        "; scanning again from the beginning, and leaving out what was written"
    )


def test_progress() -> None:
    assert progressing(replace(COMPLETE, position=0.5)) == " 50%, 2,000 keys, 1,000 keys/s, epoch 0, 10.0.0.1:6379"
    assert progressing(replace(COMPLETE, position=None, server=None)) == (
        "2,000 keys, 1,000 keys/s, epoch 0, waiting for a server"
    )


class _Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError


def test_nobody_to_tell_is_no_reason_to_stop() -> None:
    Report(_Broken()).insist("x")
    closed = io.StringIO()
    closed.close()
    Report(closed).insist("x")


def test_quiet() -> None:
    stream = io.StringIO()
    report = Report(stream, quiet=True)
    report.say("nothing")
    report.insist("error: \x1b")
    assert stream.getvalue() == "error: \\x1b\n"


def test_lines_above_the_bar() -> None:
    stream = io.StringIO()
    report = BarReport(stream)
    report.say("before")
    report._draw(replace(COMPLETE, complete=False, position=None, epoch=1, server=None, restarts=(RESTART,)))
    report.say("[bold]a[/bold] \x1b")
    report._stop()
    report._stop()
    report.say("after")
    lines = [line for line in stream.getvalue().splitlines() if "━" not in line and line.strip()]
    assert lines == ["before", restarting(RESTART), "[bold]a[/bold] \\x1b", "after"]


def test_log_records_are_lines_of_the_report() -> None:
    stream = io.StringIO()
    record = logging.LogRecord("trio_sentinel_scan.x", logging.INFO, "", 0, "the master is %s", ("h",), None)
    ReportHandler(Report(stream)).handle(record)
    assert stream.getvalue().endswith(" INFO trio_sentinel_scan.x: the master is h\n")


@pytest.mark.parametrize(
    "problem, said",
    [
        ("unexpected argument (redis://u:p@ss@h:1/0)", "unexpected argument (redis://***@h:1/0)"),
        ("10.0.0.1:6379 cannot be reached", "10.0.0.1:6379 cannot be reached"),
        ("see https://example.org", "see https://example.org"),
    ],
)
def test_an_error_shows_no_password(problem: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _app._fail(problem, 2) == 2
    assert capsys.readouterr().err == f"trio-sentinel-scan: error: {said}\n"


@pytest.mark.parametrize(
    "theirs, ours",
    [
        (
            'no replica; fallback="master" would scan the master then',
            "no replica; --fallback master would scan the master then",
        ),
        ('is for scans with read_from="replica"', "is for scans with --replica"),
        ("anything else", "anything else"),
    ],
)
def test_arguments_are_called_what_they_are_here(theirs: str, ours: str) -> None:
    assert _app._in_our_words(theirs) == ours


# ---- the demo ---------------------------------------------------------------------------------------------------


@dataclass
class _Server:
    log: str


FIRST = """\
1:X 20 Nov 2026 10:15:49.300 # +sdown master mymaster 127.0.0.1 7001
1:X 20 Nov 2026 10:15:49.360 # +new-epoch 1
1:X 20 Nov 2026 10:15:49.370 # +odown master mymaster 127.0.0.1 7001 #quorum 2/2
1:X 20 Nov 2026 10:15:49.400 # +elected-leader master mymaster 127.0.0.1 7001
1:X 20 Nov 2026 10:15:49.500 # +selected-slave slave 127.0.0.1:7002 127.0.0.1 7002 @ mymaster 127.0.0.1 7001
"""
SECOND = """\
2:X 20 Nov 2026 10:15:49.200 # Sentinel ID is 6b9bdcaf
2:X 20 Nov 2026 10:15:49.250 # +sdown master mymaster 127.0.0.1 7001
2:X 20 Nov 2026 10:15:49.260 # +sdown slave 127.0.0.1:7003 127.0.0.1 7003 @ mymaster 127.0.0.1 7001
"""
LATER = """\
1:X 20 Nov 2026 10:15:50.400 # +promoted-slave slave 127.0.0.1:7002 127.0.0.1 7002 @ mymaster 127.0.0.1 7001
1:X 20 Nov 2026 10:15:50.500 # +switch-master mymaster 127.0.0.1 7001 127.0.0.1 7002
"""


def test_each_event_is_told_once_and_in_its_order() -> None:
    first, second = _Server(FIRST), _Server(SECOND)
    tidings = Tidings([first, second])
    news = tidings.news()
    assert [tiding.text for tiding in news] == [
        "a Sentinel has waited long enough for its answer (+sdown)",
        "the Sentinels agree that it is down (+odown)",
        "one of them is elected to replace it (+elected-leader)",
        "its choice is the replica 127.0.0.1:7002 (+selected-slave)",
    ]
    assert datetime.fromtimestamp(news[0].at) == datetime(2026, 11, 20, 10, 15, 49, 250_000)  # noqa: DTZ001, DTZ006 (both are local times)
    assert tidings.news() == []
    first.log += LATER
    assert [tiding.text for tiding in tidings.news()] == [
        "127.0.0.1:7002 is a master now (+promoted-slave)",
        "the master is 127.0.0.1:7002 (+switch-master)",
    ]


NODES = [
    """\
1:M 20 Nov 2026 10:15:49.302 * FAIL message received from 787ecdc4 about d1f8d2f6
1:M 20 Nov 2026 10:15:49.303 # Cluster state changed: fail
1:M 20 Nov 2026 10:15:49.600 # Failover auth granted to 20de03e9 for epoch 6
""",
    """\
2:M 20 Nov 2026 10:15:49.301 * Marking node d1f8d2f6 (127.0.0.1:7001) as failing (quorum reached).
""",
    """\
3:M 20 Nov 2026 10:15:49.300 * Marking node d1f8d2f6 as failing (quorum reached).
3:S 20 Nov 2026 10:15:49.500 # Starting a failover election for epoch 6.
3:S 20 Nov 2026 10:15:49.700 * Failover election won: I'm the new primary.
""",
]


def test_what_a_clusters_nodes_tell() -> None:
    tidings = Tidings([_Server(log) for log in NODES], nodes_tidings)
    news = tidings.news()
    assert [tiding.text for tiding in news] == [
        "the masters agree that it is down (FAIL)",
        "its replica stands for election (vote)",
        "its replica is elected, and has its slots now (won)",
    ]
    assert datetime.fromtimestamp(news[0].at) == datetime(2026, 11, 20, 10, 15, 49, 300_000)  # noqa: DTZ001, DTZ006 (both are local times)
    assert tidings.news() == []
