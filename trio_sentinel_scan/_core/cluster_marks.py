"""Where a cluster's scan stands, for checkpoints; and what becomes of a checkpoint's lanes when it is gone on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .cluster_checkpoint import ClusterCheckpoint, ClusterMark, LaneMark
from .cluster_lanes import ClusterLanes
from .progress import Progress
from .scan_marks import take_back
from .scan_options import check_seen_keys
from .seen_keys import durable
from .slots import NO_SLOTS, SlotSet

if TYPE_CHECKING:
    from .cluster_lanes import Sweep
    from .cluster_options import ClusterScanOptions
    from .cluster_standing import Standing
    from .summary import ScanPage

__all__ = ["ClusterMarks", "fate_of"]


class ClusterMarks(ClusterLanes):
    """The slots and the lanes, and what is written down of them."""

    def __init__(self, options: ClusterScanOptions, *, failover_timeout: float, now: float) -> None:
        """The filter of seen keys is taken back to the checkpoint that is gone on from. Raises ConfigError."""
        super().__init__(options, failover_timeout=failover_timeout, now=now)
        # The filter, if checkpoints are to tell how far it was.
        self._durable = durable(options.scan.dedupe)
        check_seen_keys(options.scan.dedupe, options.scan.resume)
        if options.scan.resume is not None:
            take_back(self._durable, options.scan.resume)
            # (Of another kind of scan, the text was refused.)
            assert options.scan.resume.cluster is not None
            self._restore(options.scan.resume.cluster)
        self._progress = Progress[ClusterMark](self._stand())

    def _restore(self, stand: ClusterCheckpoint) -> None:
        if stand.wanted is not None:
            self._knows_wanted = True
            self._wanted, self._let_go = stand.wanted, stand.let_go
        self._done = stand.done & self._wanted
        self._pending = self._wanted & ~self._done
        self._carried = list(stand.lanes)
        for epoch, slots in stand.epochs:
            self._epochs.set(slots, epoch)

    # ---- what is written down -----------------------------------------------------------------------------------

    def _stand(self) -> ClusterMark:
        """Where the scan stands with all that was handed out."""
        lanes = [this._replace(slots=this.slots & self._pending) for this in self._carried]
        # Slots that were on their way are worth nothing without what was said of them.
        lanes += [
            sweep.mark._replace(slots=sweep.slots & ~sweep.before.flagged & ~sweep.stirred)
            for sweep in (*self._under_way.values(), *self._swept.values())
            if sweep.mark is not None
        ]
        epochs = [(number, some) for number, slots in self._epochs.numbers if (some := slots & ~self._done)]
        is_one_node = self.options.node is not None and self._knows_wanted
        stand = ClusterCheckpoint(
            self.options.by_majority,
            self._done,
            self._wanted if is_one_node else None,
            self._let_go,
            tuple(epochs),
            tuple(lanes),
        )
        return ClusterMark(self._scan.scope, stand, self._durable)

    def _came_to(self, sweep: Sweep, page: ScanPage[Any]) -> None:
        """This page of a lane is being handed out, or has nothing to hand out."""
        mark = page.mark
        # A lane that covers is of use only together with what was said of its slots.
        if mark is not None and mark.facts.server is not None and not sweep.lane.covers:
            facts = mark.facts
            epoch = sweep.before.epoch(sweep.lane.owner_id) or 0
            sweep.mark = LaneMark(
                sweep.lane, sweep.slots, epoch, mark.facts.server, facts.role, facts.form, mark.cursors
            )

    def _came_to_end(self, sweep: Sweep) -> None:
        """A lane was swept, and all of it was taken."""
        plan = sweep.plan
        assert plan is not None
        if not sweep.lane.covers and plan.server is not None and plan.certificate is not None:
            epoch = sweep.before.epoch(sweep.lane.owner_id) or 0
            role = plan.certificate.role
            sweep.mark = LaneMark(sweep.lane, sweep.slots, epoch, plan.server, role, plan.form, plan.ends)

    def _note_progress(self) -> None:
        """The scan has come on without a page."""
        self._progress.handed_out(self._stand(), is_done=True)

    def done_with(self, page: ScanPage[Any]) -> None:
        """The page's consumer asks for the next one."""
        assert page.mark is not None
        assert page.mark.whole is not None
        self._progress.done_with(page.mark.whole)

    @property
    def checkpoint(self) -> str:
        """A checkpoint that includes all pages whose consumers have done with them."""
        return self._progress.mark.text()

    # ---- what a checkpoint's lane is worth ----------------------------------------------------------------------

    def _unfit_for(self, this: LaneMark, standing: Standing) -> str:
        """Why a checkpoint's lane cannot go on at its node, in words; "" if it can, as far as that is known here."""
        lane = this.lane
        if lane.node_id == lane.owner_id:
            wants_replica = self._scan.read_from == "replica" and not self._scan.falls_back
            return "since the checkpoint, replicas are to be read" if wants_replica else ""
        line = standing.masters[lane.owner_id].lines.get(lane.node_id)
        if line is None or line.master_id != lane.owner_id or line.is_down:
            return "since the checkpoint, the replica is down, or has gone to another master"
        if self.options.node is None and self._scan.read_from != "replica":
            return "since the checkpoint, masters are to be read"
        return ""


def fate_of(
    this: LaneMark, slots: SlotSet, standing: Standing, unfit: str
) -> tuple[SlotSet, list[tuple[SlotSet, str]]]:
    """Of these slots of a checkpoint's lane, those to go on with, and those to be swept from their start, and why.

    Of the others nothing can be said yet: nobody has them. A sweep that goes on counts what is said now as said before
    its first SCAN. It may: at the same config epoch, the slots were its owner's all the time.
    """
    owner_id = this.lane.owner_id
    others = NO_SLOTS
    for node_id, owned in standing.owned.items():
        if node_id != owner_id:
            others |= owned
    again = [(slots & others, "since the checkpoint, the slots have gone to another node")]
    good = slots & standing.own(owner_id)
    if good and _epoch_changed(this, standing):
        again.append((good, "since the checkpoint, the node's config epoch has changed: slots may have gone and come"))
        good = NO_SLOTS
    elif good and unfit:
        again.append((good, unfit))
        good = NO_SLOTS
    again.append((good & standing.flagged, "since the checkpoint, the slots have set out to another node"))
    return good & ~standing.flagged, [(some, reason) for some, reason in again if some]


# ---- a guard: there is a test that takes it away and sees keys lost ------------------------------------------------


def _epoch_changed(this: LaneMark, standing: Standing) -> bool:
    return standing.epoch(this.lane.owner_id) != this.owner_epoch
