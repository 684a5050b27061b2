"""`failover`: a master is killed in the midst of a scan, again and again; when do the keys come on?"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import trio

from trio_sentinel_scan import SentinelClient, __version__
from trio_sentinel_scan.testing import LocalSentinel

from . import machine
from .peers import CannotBegin
from .plots import Bar
from .report import Report, Spread
from .runs import wait_for_quiet as quiet

# It is killed when the consumer has had so many pages.
_PAGES_BEFORE: Final = 5
# Seconds for the client to have found all Sentinels, as one has that was not started this very moment.
_SETTLING: Final = 0.5
# Its readers want to see at once whether something is wrong.
_LOGGER: Final = "trio_sentinel_scan.sentinel"


@dataclass(frozen=True, slots=True)
class Failover:
    """One of them, in milliseconds. A figure may be negative: keys may come before the event does."""

    # From when the client heard the first +switch-master of any Sentinel to the first page of the new epoch. None, and
    # so for the other events, if the scan was over before it was heard.
    after_switch_master: float | None
    # From when it knew of the change of masters, by whatever hint, to that page.
    after_known: float
    # From the first +promoted-slave, which is what makes it look.
    after_promoted: float | None
    # From the SIGKILL to that page; most of it is Sentinel's.
    after_kill: float
    # By how much the client knew before the first +switch-master was heard.
    head_start: float | None
    epochs: int
    why: str
    keys_lost: int
    # Cores that others had meanwhile.
    others: float | None


class _Ear(logging.Handler):
    """What the client's log tells of the Sentinels, with the time."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        # When each was heard first.
        self.promoted: float | None = None
        self.switch_master: float | None = None
        self.changed: float | None = None

    def listen(self) -> None:
        """What was said before is of no interest."""
        self.promoted = self.switch_master = self.changed = None

    def emit(self, record: logging.LogRecord) -> None:
        now = time.perf_counter()
        text = record.getMessage()
        if record.levelno == logging.INFO and "the master is" in text:
            self.changed = self.changed or now
        elif "+switch-master" in text:
            self.switch_master = self.switch_master or now
        elif "+promoted-slave" in text:
            self.promoted = self.promoted or now


@dataclass(frozen=True, slots=True)
class Hang:
    """A master that hangs while commands are under way, in milliseconds up to the first reply of the next one."""

    after_switch_master: float | None
    after_known: float | None
    # From the SIGSTOP; most of it is Sentinel's.
    after_stop: float


async def failover(
    report: Report, *, repeat: int, wait_for_quiet: float, keys: int, count: int | None, hang: bool, binary: Path | None
) -> None:
    async with LocalSentinel(binary=binary, down_after=2.0, patience=120) as sentinel:
        server = sentinel.nodes[0].binary
        report.versions |= {
            "server": f"{server.product} {server.version}, 1 master, 2 replicas, 3 Sentinels, down-after 2 s",
            "ours": f"trio-sentinel-scan {__version__}",
        }
        report.head()
        if hang:
            await _hang_often(report, sentinel, repeat, wait_for_quiet)
            return
        expected = await sentinel.fill(keys)
        found: list[Failover] = []
        for at in range(1, repeat + 1):
            await sentinel.wait_until_ready()
            await sentinel.wait_replicated()
            await quiet(wait_for_quiet)
            one = await _fail_over(sentinel, expected, count)
            found.append(one)
            report.saw_others(one.others)
            report.progress(
                f"  failover {at} of {repeat}: first page {one.after_known:.1f} ms after the change was known,"
                f" {one.after_kill:.0f} ms after the SIGKILL"
            )
    _show(report, found)


async def _fail_over(sentinel: LocalSentinel, expected: set[bytes], count: int | None) -> Failover:
    seen: set[bytes] = set()
    pages_so_far = 0
    victim = await sentinel.master()
    killed = first = 0.0
    with _listening() as ear:
        async with SentinelClient(sentinel.sentinels, sentinel.service) as client:
            await trio.sleep(_SETTLING)
            neighbours = _Neighbours(sentinel)
            others: float | None = None
            async with client.open_scan(count=count) as pages:
                async for page in pages:
                    if page.epoch and not first:
                        first = time.perf_counter()
                        others = neighbours.cores()
                    pages_so_far += 1
                    if pages_so_far == _PAGES_BEFORE:
                        killed = time.perf_counter()
                        await victim.kill()
                        ear.listen()
                    seen.update(page)
            summary = pages.summary
    if not summary.restarts or ear.changed is None:
        raise CannotBegin(f"the scan was over before the failover ({summary.keys:,} keys): give it more --keys")
    await victim.start()
    return Failover(
        after_switch_master=_milliseconds(ear.switch_master, first),
        after_known=(first - ear.changed) * 1000,
        after_promoted=_milliseconds(ear.promoted, first),
        after_kill=(first - killed) * 1000,
        head_start=_milliseconds(ear.changed, ear.switch_master),
        epochs=summary.epoch,
        why=summary.restarts[0].reason,
        keys_lost=len(expected - seen),
        others=others,
    )


async def _hang_often(report: Report, sentinel: LocalSentinel, repeat: int, wait_for_quiet: float) -> None:
    found: list[Hang] = []
    for at in range(1, repeat + 1):
        await sentinel.wait_until_ready()
        await quiet(wait_for_quiet)
        one = await _hang(sentinel)
        found.append(one)
        report.progress(f"  hang {at} of {repeat}: a reply {one.after_stop:.0f} ms after the SIGSTOP")
    figures: dict[str, list[float | None]] = {
        "+switch-master heard to first reply": [one.after_switch_master for one in found],
        "change known to first reply": [one.after_known for one in found],
        "SIGSTOP to first reply": [one.after_stop for one in found],
    }
    rows = []
    for label, values in figures.items():
        spread = Spread.of(values)
        if spread is not None:
            rows.append([label, *(f"{value:,.1f}" for value in (spread.median, spread.low, spread.high))])
    title = f"{len(found)} masters that hang (SIGSTOP) under GETs, without a response_timeout, in milliseconds"
    report.table(title, ["", "median", "least", "most"], rows, [asdict(one) for one in found])


async def _hang(sentinel: LocalSentinel) -> Hang:
    """GETs one after the other; the master is stopped, and the first reply after that is its successor's."""
    victim = await sentinel.master()
    with _listening() as ear:
        # No timeout of the client's could be what ends the wait.
        async with SentinelClient(
            sentinel.sentinels, sentinel.service, response_timeout=None, failover_timeout=None
        ) as client:
            await trio.sleep(_SETTLING)
            await client.get("key")
            await victim.pause()
            stopped = time.perf_counter()
            ear.listen()
            await client.get("key")
            first = time.perf_counter()
            if ear.switch_master is None:
                # The reply came before the event.
                await trio.sleep(1)
    await victim.resume()
    return Hang(
        after_switch_master=_milliseconds(ear.switch_master, first),
        after_known=_milliseconds(ear.changed, first),
        after_stop=(first - stopped) * 1000,
    )


def _milliseconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else (end - start) * 1000


@contextmanager
def _listening() -> Generator[_Ear]:
    logger, ear = logging.getLogger(_LOGGER), _Ear()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(ear)
    try:
        yield ear
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)
        logger.propagate = propagate


class _Neighbours:
    """Who else uses the machine, from now on."""

    def __init__(self, sentinel: LocalSentinel) -> None:
        members = [*sentinel.nodes, *sentinel.sentinel_nodes]
        # This process is the one that scans.
        self._pids = [os.getpid(), *(member.pid for member in members if member.running)]
        self._usage = machine.Usage.now()
        self._used = self._of_ours()

    def cores(self) -> float | None:
        """How many cores they had since then; None where the machine does not tell."""
        usage = machine.Usage.now()
        if usage is None or self._usage is None:
            return None
        used = self._of_ours()
        # One of ours was killed meanwhile, and what it used goes by unseen.
        return usage.others_since(self._usage, sum(used[pid] - self._used[pid] for pid in used))

    def _of_ours(self) -> dict[int, float]:
        found = {pid: machine.cpu_seconds(pid) for pid in self._pids}
        return {pid: seconds for pid, seconds in found.items() if seconds is not None}


def _show(report: Report, found: Sequence[Failover]) -> None:
    figures: dict[str, list[float | None]] = {
        "+switch-master heard to first page": [one.after_switch_master for one in found],
        "change known to first page": [one.after_known for one in found],
        "+promoted-slave heard to first page": [one.after_promoted for one in found],
        "known before +switch-master by": [one.head_start for one in found],
        "SIGKILL to first page": [one.after_kill for one in found],
    }
    rows, bars = [], []
    for label, values in figures.items():
        spread = Spread.of(values)
        if spread is None:
            continue
        rows.append([label, *(f"{value:,.1f}" for value in (spread.median, spread.low, spread.high))])
        if "to first page" in label and not label.startswith("SIGKILL"):
            bars.append(Bar(label, spread.values, spread.median, ours=True))
    title = f"{len(found)} failovers by SIGKILL, in milliseconds"
    report.table(title, ["", "median", "least", "most"], rows, [asdict(one) for one in found])
    report.chart(title, "milliseconds", bars)
    unheard = sum(one.after_switch_master is None for one in found)
    if unheard:
        report.note(f"in {unheard} of {len(found)} failovers the scan was over before a +switch-master was heard")
    more = sum(one.epochs > 1 for one in found)
    if more:
        report.note(f"{more} of {len(found)} scans began again more than once")
    lost = sum(one.keys_lost for one in found)
    report.note(f"keys lost in all {len(found)} failovers: {lost:,}")
    report.note(f"why the scans began again: {'; '.join(sorted({_kind(one.why) for one in found}))}")
    report.note("at or below 0: that page came before the event; Sentinel says +promoted-slave first, and we look then")


def _kind(reason: str) -> str:
    """Without the addresses."""
    return reason.partition(" 127.")[0]
