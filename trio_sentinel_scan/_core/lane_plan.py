"""One lane of a cluster's scan: the plan of a scan that never begins again by itself.

What makes a pass void ends the lane, and its slots go to whoever has them then, in another lane.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint
from .cursor import CursorFormat
from .replicas import ATTEMPTS
from .scan_failures import lost_by
from .scan_plan import ScanPlan
from .scan_states import FINAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from . import scan_steps as steps
    from .identity import ServerIdentity
    from .lanes import Lane
    from .scan_options import ScanOptions
    from .summary import ScanPage

__all__ = ["LanePlan", "lane_options"]


def lane_options(options: ScanOptions, lane: Lane, resume: Checkpoint | None = None) -> ScanOptions:
    """A lane's part of a scan's options. With `resume` it goes on where an earlier lane has left off."""
    begin = Checkpoint(lane.epoch, None, "", None, CursorFormat.UNKNOWN, (), None)
    return replace(
        options,
        lane=lane,
        on_failover="raise",
        basis="role",
        # The seen keys are the whole scan's.
        dedupe=None,
        read_from="master",
        falls_back=False,
        resume=begin if resume is None else resume,
    )


class LanePlan(ScanPlan):
    """The plan of one lane."""

    def __init__(
        self, options: ScanOptions, *, failover_timeout: float, now: float, jitter: Callable[[], float]
    ) -> None:
        """`options` as `lane_options` gives them."""
        super().__init__(options, failover_timeout=failover_timeout, now=now, jitter=jitter)
        assert options.lane is not None
        self.lane: Lane = options.lane
        self._format_distrusted = self.lane.distrusts_format

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self.state in FINAL

    @property
    def server(self) -> ServerIdentity | None:
        """The process that it sweeps, or swept; None if it found none."""
        return self._server

    @property
    def share(self) -> float:
        """How much of its slots it has swept, 0.0 to 1.0; 0.0 where that cannot be told."""
        return self._position() or 0.0

    @property
    def has_slots_in_cursors(self) -> bool:
        """Whether it sweeps no more than its own slots."""
        return self._sweep is not None and self._sweep.format is CursorFormat.SLOTS

    @property
    def distrusts_format(self) -> bool:
        """Whether the node's cursors are of another kind than it says."""
        return self._format_distrusted

    def leave(self, reason: str, now: float) -> None:
        """The node is not the one to sweep any more."""
        if not self.is_over:
            self._void(reason, now)

    @property
    def form(self) -> CursorFormat:
        """The kind of its cursors, if it has any."""
        return CursorFormat.UNKNOWN if self._sweep is None else self._sweep.format

    @property
    def ends(self) -> list[None]:
        """Its cursors, when it has come to its end."""
        return [] if self._sweep is None else [None] * len(self._sweep.cursors)

    def take(self, page: ScanPage[Any], now: float) -> ScanPage[Any] | None:
        """As of any scan. Which pages were done with is kept for the whole scan alone."""
        found = super().take(page, now)
        if found is not None:
            self.done_with(found)
        return found

    def _answered(self, answered: steps.Answered, now: float) -> None:
        try:
            super()._answered(answered, now)
        except UnicodeDecodeError as error:
            final = lost_by(error, self.summary(now)).final
            assert final is not None
            self._fail(final, now)

    def _lost(self, problem: str, final: Exception | None, now: float, *, give_up: bool = False) -> None:
        super()._lost(problem, final, now, give_up=give_up)
        # A master has a successor when it does not come back. A replica has siblings.
        if self._is_on_replica and (give_up or self._patience.failures >= ATTEMPTS):
            self.leave(f"the replica is of no use for now: {problem}", now)
