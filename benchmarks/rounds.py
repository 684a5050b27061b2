"""A B A B: every contestant once, then every one again, so that what the machine does meanwhile is shared by all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .peers import OURS, REFERENCE, Peer, Task
from .plots import Bar
from .report import Report, Spread, number, share, shown, thousands, times
from .runs import Run, WorkerFailed, run_worker, wait_for_quiet as quiet


@dataclass(frozen=True, slots=True)
class Contestant:
    """A peer with what it is to do."""

    peer: Peer
    task: Task
    # Ratios are to others of the same group: those on the same way to the server, for one.
    group: str = ""
    # Processes of ours that work for it.
    helpers: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.peer.name}, {self.group}" if self.group else self.peer.name


@dataclass(frozen=True, slots=True)
class Results:
    """All runs of the contestants that came through, in their order."""

    contestants: list[Contestant]
    runs: dict[str, list[Run]]
    # How much there was to do in each run: keys to look at, calls to make.
    work: int

    def rate(self, contestant: Contestant) -> Spread:
        """How much of the work was done in a second."""
        return Spread(tuple(self.work / run.seconds for run in self.runs[contestant.label]))

    def find(self, name: str, group: str) -> Contestant | None:
        """The one of that name in that group."""
        return next((one for one in self.contestants if (one.peer.name, one.group) == (name, group)), None)

    def ratio(self, contestant: Contestant, name: str) -> Spread | None:
        """How many times faster it is than the other one."""
        other = self.find(name, contestant.group)
        return None if other is None or other is contestant else self.rate(contestant) / self.rate(other)

    def client_nanoseconds(self, contestant: Contestant) -> Spread | None:
        """The client's CPU time for each piece of work."""
        used = (run.client_cpu for run in self.runs[contestant.label])
        return Spread.of(None if cpu is None else cpu / self.work * 1e9 for cpu in used)

    def server_share(self, contestant: Contestant) -> Spread | None:
        """How busy the server was."""
        runs = self.runs[contestant.label]
        return Spread.of(None if run.server_cpu is None else run.server_cpu / run.seconds for run in runs)

    def raw(self) -> dict[str, Any]:
        """Every run, and the medians, for the JSON."""
        return {
            one.label: {
                "task": {name: value for name, value in one.task.items() if name not in ("host", "port")},
                "median_per_second": self.rate(one).median,
                "ratio_to_reference": _median(self.ratio(one, REFERENCE)),
                "client_ns": _median(self.client_nanoseconds(one)),
                "server_share": _median(self.server_share(one)),
                "runs": [run.as_dict() for run in self.runs[one.label]],
            }
            for one in self.contestants
        }


async def interleave(
    report: Report,
    title: str,
    contestants: Sequence[Contestant],
    *,
    repeat: int,
    wait_for_quiet: float,
    server_pid: int,
    work: int,
) -> Results:
    """Run them all, `repeat` times. One that fails is left out, and that is said."""
    standing = list(contestants)
    runs: dict[str, list[Run]] = {one.label: [] for one in contestants}
    for number_of_round in range(1, repeat + 1):
        for one in tuple(standing):
            await quiet(wait_for_quiet)
            try:
                command = one.peer.command(one.task | {"options": dict(one.peer.options)})
                run = await run_worker(command, server_pid, one.helpers)
            except WorkerFailed as error:
                report.note(f"left out: {one.label} ({title}): it failed: {error}")
                standing.remove(one)
                continue
            runs[one.label].append(run)
            report.saw_others(run.others)
            report.progress(f"  {title}, round {number_of_round} of {repeat}, {one.label}: {run.seconds:.3f} s")
    return Results(standing, {one.label: runs[one.label] for one in standing}, work)


def show(report: Report, title: str, results: Results, piece: str) -> None:
    """The table and the plot that all verbs with a rate have in common. `piece`: what the work is counted in."""
    ours = [one.peer.name for one in results.contestants if one.peer.is_ours]
    first = ours[0] if ours else OURS
    rows = [
        [
            one.label,
            results.rate(one).show(thousands),
            shown(results.ratio(one, REFERENCE), times) if one.peer.name != REFERENCE else "1",
            _over(results, one, first),
            shown(results.client_nanoseconds(one), number(0)),
            shown(results.server_share(one), share),
        ]
        for one in results.contestants
    ]
    columns = [f"{piece}s/s", f"to {REFERENCE}", f"{first} is", f"client ns/{piece}", "server busy"]
    if not any(results.find(REFERENCE, one.group) for one in results.contestants):
        columns.pop(1)
        for row in rows:
            row.pop(2)
    report.table(title, ["", *columns], rows, results.raw())
    report.chart(title, f"{piece}s per second", rate_bars(results))


def rate_bars(results: Results) -> list[Bar]:
    """For a plot of the rates."""
    bars = []
    for one in results.contestants:
        rate = results.rate(one)
        bars.append(Bar(one.label, rate.values, rate.median, ours=one.peer.is_ours))
    return bars


def _over(results: Results, one: Contestant, name: str) -> str:
    ours = results.find(name, one.group)
    if ours is None:
        return "-"
    return "1" if ours is one else (results.rate(ours) / results.rate(one)).show(times)


def _median(spread: Spread | None) -> float | None:
    return None if spread is None else spread.median
