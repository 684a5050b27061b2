"""What a cluster's scan has done so far: the counts that its summary is drawn from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .slots import NO_SLOTS, SlotSet, ranges_of
from .summary import Certificate, Restart, ScanSummary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .cluster_standing import Standing
    from .identity import ServerIdentity
    from .lane_plan import LanePlan
    from .lanes import Lane
    from .summary import ScanPage

__all__ = ["ClusterAccount"]


class ClusterAccount:
    """The counts of one scan. Times are seconds on the clock of the plan that keeps it."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._ended: float | None = None
        self.keys = 0
        self.duplicates = 0
        # The highest epoch of all, and the keys handed out that are of it.
        self.epoch = 0
        self._keys_this_epoch = 0
        self._pages = 0
        # Of the lanes that are over; those under way have their own counts.
        self._scans = 0
        self._reconnects = 0
        self._restarts: list[tuple[Restart, SlotSet]] = []
        # Of each process that has brought slots to their end, by node and process, and which slots these are: one that
        # is covered was brought to its end by two, and some that were swept again by the same one twice.
        self._certificates: dict[tuple[str, ServerIdentity], tuple[Certificate, SlotSet]] = {}

    def handed_out(self, page: ScanPage[Any], lane: Lane, now: float) -> None:
        """The consumer has this page of that lane now."""
        self.keys += len(page.keys)
        self._pages += 1
        if page.epoch == self.epoch:
            self._keys_this_epoch += len(page.keys)
        for restart, slots in self._restarts:
            if restart.first_page_after is None and slots & lane.slots:
                restart.first_page_after = now - self._started - restart.at
                restart.new_server = page.server

    def reached(self, epoch: int) -> None:
        """A lane of this epoch begins."""
        if epoch > self.epoch:
            self.epoch, self._keys_this_epoch = epoch, 0

    def swept_again(self, lane: Lane, slots: SlotSet, reason: str, server: ServerIdentity | None, now: float) -> None:
        """These slots of a lane on `server` are to be swept again."""
        at = now - self._started
        restart = Restart(lane.epoch + 1, reason, at, server, None, None, lane.node_id, tuple(ranges_of(slots)))
        self._restarts.append((restart, slots))

    def lane_over(self, plan: LanePlan, now: float) -> None:
        """A lane has come to its end."""
        summary = plan.summary(now)
        self._scans += summary.scans
        self._reconnects += summary.reconnects

    def certified(self, plan: LanePlan, slots: SlotSet, standing: Standing, *, by_majority: bool) -> None:
        """These slots of a lane need not be swept again, by what the masters say now."""
        server, told = plan.server, plan.certificate
        assert server is not None
        assert told is not None
        key = plan.lane.node_id, server
        whole = slots | self._certificates[key][1] if key in self._certificates else slots
        owner_id = plan.lane.owner_id
        # Whoever takes slots in does not own them: it is the master that their owner names.
        owned = slots & standing.own(owner_id)
        certificate = Certificate(
            basis="cluster",
            server=server,
            role=told.role,
            replicas=told.replicas,
            config_epoch=standing.epoch(owner_id),
            slots=whole.bit_count(),
            node=plan.lane.node_id,
            masters_known=len(standing.voters) if by_majority else 0,
            masters_agreeing=standing.agreeing(owner_id, owned) if by_majority else 0,
        )
        self._certificates[key] = certificate, whole

    def certificate(self) -> Certificate | None:
        """That of the whole; None if there was nothing to scan."""
        found = tuple(certificate for certificate, _ in self._certificates.values())
        if not found:
            return None
        slots = NO_SLOTS
        for _, some in self._certificates.values():
            slots |= some
        return replace(found[0], slots=slots.bit_count(), nodes=found, node=None)

    def ended(self, now: float) -> None:
        """The scan's time is over. The first such moment counts."""
        if self._ended is None:
            self._ended = now

    def summary(
        self,
        now: float,
        *,
        complete: bool,
        position: float,
        under_way: Iterable[LanePlan],
        uncovered: SlotSet,
        let_go: SlotSet,
    ) -> ScanSummary:
        """The account up to now."""
        lanes = [plan.summary(now) for plan in under_way]
        certificate = self.certificate() if complete else None
        return ScanSummary(
            complete=complete,
            epoch=self.epoch,
            keys=self.keys,
            pages=self._pages,
            keys_this_epoch=self._keys_this_epoch,
            scans=self._scans + sum(lane.scans for lane in lanes),
            reconnects=self._reconnects + sum(lane.reconnects for lane in lanes),
            duplicates_dropped=self.duplicates,
            position=position,
            server=None if certificate is None else certificate.server,
            segments=sum(lane.segments for lane in lanes),
            certificate=certificate,
            elapsed=(self._ended if self._ended is not None else now) - self._started,
            restarts=tuple(replace(restart) for restart, _ in self._restarts),
            uncovered_slots=tuple(ranges_of(uncovered)),
            slots_let_go=tuple(ranges_of(let_go)),
        )
