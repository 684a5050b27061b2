"""Scans of every kind, one after the other, and whether each of them kept its promise."""

from __future__ import annotations

import random
import tempfile
import traceback
from collections import Counter
from collections.abc import Collection, Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from tests.chaos.arenas import FAILOVER_TIMEOUT, MEMBERS, SETS, Arena
from tests.chaos.report import Account
from trio_sentinel_scan import (
    CollectionChanged,
    CollectionGone,
    ConfigError,
    ScanPage,
    ScanSummary,
    SentinelScanError,
    SpillingSeen,
)

# Far longer than a scan may be without a page: its every wait is bounded, by FAILOVER_TIMEOUT as a rule. (How long a
# whole scan takes is a matter of the machine.)
HANG: Final = 4 * FAILOVER_TIMEOUT
# How many scans go on at the same time.
AT_ONCE: Final = 3

# What sets each kind apart. A scan that is "resumed" is left half way, and gone on with by another one, now and then of
# another client. A "set" is scanned for its members.
KINDS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"segments": 1},
    "segmented": {"segments": 8},
    "automatic": {},
    "replica": {"read_from": "replica", "fallback": "master"},
    "deduped": {"dedupe": True},
    "resumed": {"segments": 4},
    "resumed, deduped": {"segments": 4},
    "set": {},
}


@dataclass
class Haul:
    """What one scan, or one and those that went on with it, has handed out."""

    by_epoch: dict[int, list[bytes]] = field(default_factory=dict[int, list[bytes]])
    wrong: list[str] = field(default_factory=list[str])
    last: ScanPage[Any] | None = None
    # Ends a scan that hangs.
    patience: trio.CancelScope | None = None

    def take(self, page: ScanPage[Any], *, in_order: bool) -> None:
        """Take down a page. `in_order`: epochs and positions may not go back in it."""
        if len(page) == 0:
            self.wrong.append("a page is empty")
        if self.patience is not None:
            self.patience.deadline = trio.current_time() + HANG
        before = self.last
        if in_order and before is not None:
            if page.epoch < before.epoch:
                self.wrong.append(f"a page of epoch {page.epoch} came after one of epoch {before.epoch}")
            elif page.epoch == before.epoch:
                if page.server != before.server:
                    self.wrong.append(f"epoch {page.epoch} has pages of two processes")
                rises = page.position is None or before.position is None or page.position > before.position
                if not rises:
                    self.wrong.append(f"the position went from {before.position} to {page.position}")
        self.by_epoch.setdefault(page.epoch, []).extend(page.keys)
        self.last = page

    def keys(self, epoch: int | None = None) -> list[bytes]:
        """Those of one epoch, or all."""
        epochs = self.by_epoch.values() if epoch is None else [self.by_epoch.get(epoch, [])]
        return [key for keys in epochs for key in keys]


class Scanners:
    """Scans that go on until they are told to stop."""

    def __init__(self, arena: Arena, client: Any, account: Account, dice: random.Random) -> None:
        self._arena = arena
        self._client = client
        self._account = account
        self._dice = dice
        self._ordered: list[str] = []
        # What scans have missed since the last check, with the tale of it: the servers may have lost it themselves.
        self._missed: list[tuple[set[bytes], str, str]] = []
        # What the servers had lost and was written again, each time: to a scan that was under way then it is new.
        self._mended: list[set[bytes]] = []
        self.finished = 0

    async def run(self) -> None:
        """One after the other, until cancelled."""
        while True:
            if not self._ordered:
                self._ordered = self._dice.sample(list(KINDS), len(KINDS))
            await self.scan(self._ordered.pop())

    async def scan(self, kind: str, *, must_complete: bool = False) -> None:
        """One scan. `must_complete`: nothing is the matter with the servers, so it has no excuse."""
        batches, mended = len(self._arena.batches), self.mended
        options = {"count": self._dice.choice([100, 300, None]), "prefetch": self._dice.choice([0, 2]), **KINDS[kind]}
        pause = 0.0 if must_complete else self._dice.choice([0.0, 0.01, 0.05])
        if must_complete:
            options["count"] = 200
        haul = Haul()
        tally = self._account.tally(kind)
        summary: ScanSummary | None = None
        try:
            with trio.fail_after(HANG) as haul.patience, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                if kind == "resumed, deduped":
                    # What was seen is kept on disk and committed with each checkpoint.
                    options["dedupe"] = stack.enter_context(SpillingSeen(Path(folder) / "seen"))
                summary = await self._carry_out(kind, options, pause, haul)
        except ConfigError:
            raise  # This program is wrong.
        except (CollectionGone, CollectionChanged) as error:
            self._missed.append((set(MEMBERS), f"a scan ({kind}) did not find what was there", str(error)))
        except SentinelScanError as error:
            tally.errors[type(error).__name__] += 1
            if must_complete:
                self._account.found(f"a scan ({kind}) failed while all was well", f"{type(error).__name__}: {error}")
        except trio.TooSlowError:
            self._account.found(f"a scan ({kind}) hangs", f"no page for {HANG} seconds")
        except Exception:  # noqa: BLE001 (whatever it is: a scan raises typed errors and nothing else)
            self._account.found(f"a scan ({kind}) ended in an error of no type of ours", traceback.format_exc())
        else:
            owed = [MEMBERS] if kind == "set" else self._arena.batches[:batches]
            self.judge(kind, haul, summary, owed, self.written_again(mended))
        for what in haul.wrong:
            self._account.found(f"a scan ({kind})", what)
        self.finished += 1

    async def _carry_out(self, kind: str, options: dict[str, Any], pause: float, haul: Haul) -> ScanSummary:
        # (A cluster's nodes are scanned at once; a replica that has lost its link may be behind what it was.)
        in_order = kind == "set" or not (self._arena.is_cluster or "read_from" in options)
        if kind == "set":
            async with self._client.open_sscan(self._dice.choice(SETS), **options) as pages:
                await self._take_all(pages, pause, haul)
            return _summary_of(pages)
        checkpoint: str | None = None
        if kind.startswith("resumed"):
            leave_at = self._dice.uniform(0.1, 0.9)
            async with self._client.open_scan(**options) as pages:
                async for page in pages:
                    haul.take(page, in_order=in_order)
                    if page.position is not None and page.position >= leave_at:
                        checkpoint = page.checkpoint
                        break
                    await trio.sleep(pause)
                else:
                    return _summary_of(pages)
            await trio.sleep(self._dice.choice([0.0, 0.5, 2.0]))
            if self._dice.random() < 0.5:
                async with (
                    self._arena.client() as client,
                    client.open_scan(**options, resume=checkpoint) as pages,
                ):
                    await self._take_all(pages, pause, haul, in_order=in_order)
                return _summary_of(pages)
        async with self._client.open_scan(**options, resume=checkpoint) as pages:
            await self._take_all(pages, pause, haul, in_order=in_order)
        return _summary_of(pages)

    async def _take_all(self, pages: Any, pause: float, haul: Haul, *, in_order: bool = True) -> None:
        async for page in pages:
            haul.take(page, in_order=in_order)
            await trio.sleep(pause)

    def judge(
        self,
        kind: str,
        haul: Haul,
        summary: ScanSummary | None,
        batches: Collection[AbstractSet[bytes]],
        excused: AbstractSet[bytes] = frozenset(),
    ) -> None:
        """What came of a scan that ended as complete ones do, when it was to bring the keys of these batches.

        `excused`: those that the servers themselves did not have for a while.
        """
        assert summary is not None
        tally = self._account.tally(kind)
        tally.complete += 1
        tally.restarts += len(summary.restarts)
        if not summary.complete or summary.certificate is None:
            haul.wrong.append("it ended, and its summary does not call it complete")
        deduped = "deduped" in kind
        # A cluster's nodes have an epoch each; with dedupe what an earlier epoch has brought does not come again.
        keys = haul.keys(None if deduped or (self._arena.is_cluster and kind != "set") else summary.epoch)
        found = set(keys)
        missed: set[bytes] = set()
        for batch in batches:
            tally.keys_checked += len(batch)
            missed |= batch - found - excused
        if missed:
            restarts = "; ".join(f"{one.reason} at {one.at:.2f}" for one in summary.restarts) or "no restarts"
            how = f"{len(missed)} of {sum(map(len, batches))} keys, epoch {summary.epoch}, {restarts}"
            self._missed.append((missed, f"a scan ({kind}) lost keys", f"{how}; {summary.certificate}"))
        if deduped:
            twice = [key for key, times in Counter(haul.keys()).items() if times > 1]
            if twice:
                haul.wrong.append(f"{len(twice)} keys came twice, in spite of dedupe")

    @property
    def mended(self) -> int:
        """How often something was written again."""
        return len(self._mended)

    def written_again(self, since: int) -> set[bytes]:
        """All that was, since it had been so often."""
        return set[bytes]().union(*self._mended[since:])

    def settle(self, lost_by_servers: set[bytes]) -> None:
        """Of what was missed, what the servers had is a loss."""
        for missed, what, how in self._missed:
            if missed - lost_by_servers:
                self._account.found(what, how)
        self._missed.clear()
        if lost_by_servers:
            self._mended.append(lost_by_servers)


def _summary_of(pages: Any) -> ScanSummary:
    summary: ScanSummary = pages.summary
    return summary
