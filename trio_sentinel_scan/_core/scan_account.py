"""What a scan has done so far: the counts that its summary is drawn from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .summary import Restart, ScanSummary

if TYPE_CHECKING:
    from .identity import ServerIdentity
    from .summary import Certificate, ScanPage
    from .sweep import Sweep

__all__ = ["Account"]


class Account:
    """The counts of one scan. Times are seconds on the clock of the plan that keeps it."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._ended: float | None = None
        # Handed out, over all epochs and by the present one.
        self.keys = 0
        self._keys_this_epoch = 0
        self._pages = 0
        # SCAN replies, and new connections to the very process that the pass was on.
        self.scans = 0
        # Keys that were held back as seen before.
        self.duplicates = 0
        self.reconnects = 0
        # Changes to another process that the pass went on through.
        self.moves = 0
        self._restarts: list[Restart] = []

    def handed_out(self, page: ScanPage[Any], now: float) -> None:
        """The consumer has this page now."""
        self.keys += len(page.keys)
        self._keys_this_epoch += len(page.keys)
        self._pages += 1
        if self._restarts and self._restarts[-1].first_page_after is None:
            restart = self._restarts[-1]
            restart.first_page_after = now - self._started - restart.at

    def restarted(
        self, epoch: int, reason: str, now: float, old: ServerIdentity | None, new: ServerIdentity | None
    ) -> None:
        """The pass on `old` is void; `epoch` begins, on `new` where that is known."""
        self._restarts.append(Restart(epoch, reason, now - self._started, old, new))
        self._keys_this_epoch = 0

    def bound(self, server: ServerIdentity) -> None:
        """The present epoch's pass runs on this process."""
        if self._restarts and self._restarts[-1].new_server is None:
            self._restarts[-1].new_server = server

    def ended(self, now: float) -> None:
        """The scan's time is over. The first such moment counts."""
        if self._ended is None:
            self._ended = now

    def summary(
        self, now: float, *, epoch: int, complete: bool, sweep: Sweep | None, certificate: Certificate | None
    ) -> ScanSummary:
        """The account up to now."""
        return ScanSummary(
            complete=complete,
            epoch=epoch,
            keys=self.keys,
            pages=self._pages,
            keys_this_epoch=self._keys_this_epoch,
            scans=self.scans,
            reconnects=self.reconnects,
            duplicates_dropped=self.duplicates,
            position=sweep.position if sweep is not None else 0.0,
            server=sweep.server if sweep is not None else None,
            segments=sweep.segments if sweep is not None else 0,
            certificate=certificate,
            elapsed=(self._ended if self._ended is not None else now) - self._started,
            restarts=tuple(replace(restart) for restart in self._restarts),
            moves=self.moves,
        )
