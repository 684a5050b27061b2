"""The slots and the lanes of a cluster's scan: which are where, and what lanes are to begin.

The state, and the ways on from it, that `cluster_plan` decides upon. Every method is synchronous and leaves a whole
state behind.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from . import cluster_steps as steps
from .cluster_account import ClusterAccount
from .cluster_failures import all_gone, no_replica
from .cluster_waits import SlotWaits
from .cursor import CursorFormat
from .errors import ScanError
from .lanes import Lane
from .scan_states import FINAL, State
from .segments import auto_segments
from .slot_numbers import SlotNumbers
from .slots import ALL_SLOTS, NO_SLOTS, SLOTS, SlotSet, slots_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .cluster_checkpoint import LaneMark
    from .cluster_map import ClusterMap
    from .cluster_options import ClusterScanOptions
    from .cluster_standing import Standing, Word
    from .identity import Address, ServerIdentity
    from .lane_plan import LanePlan
    from .summary import ScanSummary

__all__ = [
    "NOBODY",
    "NOT_THERE",
    "NO_REPLICA",
    "NO_TARGET",
    "OUTDATED",
    "UNASKED",
    "UNNAMED",
    "ClusterLanes",
    "Half",
    "Round",
    "Sweep",
    "note",
]

# What slots wait for.
NOBODY: Final = "no node has them"
UNNAMED: Final = "no majority of the masters names an owner"
UNASKED: Final = "the master that has them could not be asked"
NO_TARGET: Final = "they are on their way to a node that is not there as a master"
OUTDATED: Final = "they are on their way to a node of which others know a later config epoch than it does itself"
NOT_THERE: Final = "the node is not there"
NO_REPLICA: Final = "there is no replica to scan"


@dataclass(slots=True, eq=False)
class Half:
    """A slot on its way that was swept at its owner."""

    # What was said of it then.
    word: Word
    # Where it is to be swept yet.
    targets: set[str]
    # The lane at its owner.
    sweep: Sweep


@dataclass(slots=True)
class Sweep:
    """A lane that was begun, and not judged to its end yet."""

    lane: Lane
    # What the masters said before its first SCAN.
    before: Standing
    # Of a lane that covers: its slots as they stood when it began.
    halves: Mapping[int, Half]
    # Those of its slots that are not judged yet.
    slots: SlotSet = field(repr=False)
    began_at: float
    # None until the driver has begun it.
    plan: LanePlan | None = None
    # Where its node was when it began; None for one that never does.
    address: Address | None = None
    # Those of its slots that were seen to set out, or to come to rest, since it began; they may have done both. All of
    # them, if an older image was seen to answer for the node.
    stirred: SlotSet = NO_SLOTS
    undecided_since: float | None = None
    # What of a checkpoint it goes on from; None for a lane from the start of its slots.
    resumed: LaneMark | None = None
    # Where it stands with the pages that were handed out; None before the first.
    mark: LaneMark | None = None

    @property
    def server(self) -> ServerIdentity | None:
        """The process that is swept, or was; None if none was found."""
        found = None if self.plan is None else self.plan.server
        return self.resumed.server if found is None and self.resumed is not None else found

    def note_stirred(self, standing: Standing) -> None:
        """All masters were asked while it was under way."""
        words = {slot: half.word for slot, half in self.halves.items()} if self.lane.covers else self.before.words
        self.stirred |= standing.stirred_since(words, self.slots)
        if standing.is_outdated(self.lane.node_id if self.lane.covers else self.lane.owner_id):
            # Who answers in its name now may have answered the lane as well.
            self.stirred |= self.slots


@dataclass(slots=True)
class Round:
    """What is known from one survey."""

    standing: Standing
    known: ClusterMap
    now: float
    # What has to wait, by what for.
    waits: dict[str, SlotSet] = field(default_factory=dict[str, SlotSet], repr=False)


class ClusterLanes:
    """What a cluster's scan is in. `ClusterPlan` is the one that takes the ways on."""

    def __init__(self, options: ClusterScanOptions, *, failover_timeout: float, now: float) -> None:
        self.options = options
        self._scan = options.scan
        self._failover_timeout = failover_timeout
        # SCANNING, and then one of the two that are final.
        self.state: State = State.SCANNING
        # Why the scan failed. Invariant: set exactly when state is FAILED.
        self.error: Exception | None = None
        self._account = ClusterAccount(now)
        # The block was left.
        self._is_closed = False

        # -- the slots --
        # Invariant: each wanted one is in exactly one of done, pending, half, a lane's; those of a lane that covers are
        # in half as well.
        self._wanted: SlotSet = ALL_SLOTS
        # Clean or covered.
        self._done: SlotSet = NO_SLOTS
        # To be swept (again), at whoever has them.
        self._pending: SlotSet = ALL_SLOTS
        # On their way, and swept at their owner.
        self._half: dict[int, Half] = {}
        # Left out: without an owner, by the caller's leave; gone from the one node that is scanned.
        self._uncovered: SlotSet = NO_SLOTS
        self._let_go: SlotSet = NO_SLOTS
        # The number of a slot's next sweep, and how often it was swept again.
        self._epochs = SlotNumbers()
        self._restarts = SlotNumbers()

        # A checkpoint's lanes that have not begun yet. Their slots are pending, and begin in no other lane.
        self._carried: list[LaneMark] = []

        # -- the lanes, by their number --
        self._numbers = 0
        self._under_way: dict[int, Sweep] = {}
        # Swept, and all taken: to be judged by a survey that begins after that.
        self._swept: dict[int, Sweep] = {}
        # Those that the survey under way may judge: they were swept before it began.
        self._may_judge: tuple[int, ...] = ()

        # -- the nodes --
        # Those whose cursors are of another kind than they say; those whose cursors carry the slot.
        self._distrusted: set[str] = set()
        self._by_slot: set[str] = set()
        # Those that a lane could not reach for `failover_timeout`.
        self._unreachable: dict[str, Exception] = {}
        # How often a replica was of no use; since when none of a master's was of any.
        self._failures: dict[str, int] = {}
        self._useless_since: dict[str, float] = {}
        # Whether it is known what the one node has that is scanned.
        self._knows_wanted = options.node is None

        # -- what to do --
        self._to_do: deque[steps.Begin | steps.Leave] = deque()
        # The map has changed, or something else calls for a look.
        self._is_looking = True
        # The next survey is not due before this time, unless a lane is over since the last one was begun.
        self._not_before = -math.inf
        self._has_news = False
        self._waits = SlotWaits()

    def _gone_from_node(self, standing: Standing, slots: SlotSet) -> SlotSet:
        """Of these slots, those that the one node that is scanned has no more."""
        if self.options.node is None:
            return NO_SLOTS
        owner_id = self._owner_of_node(standing)
        claimed = None if owner_id is None else standing.own_word(owner_id)
        return NO_SLOTS if claimed is None else slots & ~claimed

    def _let_go_of(self, slots: SlotSet, now: float) -> None:
        """Of one node alone: slots that are not its own any more are nothing to it."""
        if slots:
            self._let_go |= slots
            self._wanted &= ~slots
            self._pending &= ~slots
            if not self._wanted:
                # Nothing that was asked for could be brought to its end.
                self._fail(all_gone(self.options.node or "", self.summary(now)), now)

    def _owner_of_node(self, standing: Standing) -> str | None:
        """The one node that is scanned, or its master."""
        node_id = self.options.node
        if node_id in standing.masters:
            return node_id
        for account in standing.masters.values():
            line = account.lines.get(node_id or "")
            if line is not None and line.master_id == account.node_id:
                return account.node_id
        return None

    # ---- new lanes ----------------------------------------------------------------------------------------------

    def _begin_lanes(self, this: Round) -> None:
        standing, now, waits = this.standing, this.now, this.waits
        if not self._knows_wanted:
            self._waits.update({NOT_THERE: self._wanted}, now)
            return
        self._let_go_of(self._gone_from_node(standing, self._pending), now)
        if self.state in FINAL:
            return
        ownerless = self._pending
        carried = self._carried_slots()
        only = None if self.options.node is None else self._owner_of_node(standing)
        # The lowest slots first: an order of its own each time would be hard to follow.
        for owner_id, owned in sorted(standing.owned.items(), key=lambda item: item[1] & -item[1]):
            if slots := self._pending & owned:
                ownerless &= ~owned
                if self.options.node is not None and owner_id != only:
                    # Its slots have another owner, and whose it is itself nobody tells.
                    note(waits, NOT_THERE, slots)
                    continue
                if slots := slots & ~carried:
                    self._begin_at_owner(this, owner_id, slots)
        self._unreachable = {name: error for name, error in self._unreachable.items() if name in standing.masters}
        note(waits, UNNAMED, ownerless & standing.claimed)
        ownerless &= ~standing.claimed
        note(waits, UNASKED, ownerless & standing.unasked)
        note(waits, NOBODY, ownerless & ~standing.unasked)
        self._begin_covering(this)
        self._waits.update(waits, now)

    def _has_room_at(self, node_id: str) -> bool:
        busy = [sweep.lane.node_id for sweep in self._under_way.values()]
        return node_id not in busy and len(busy) < self.options.max_nodes_at_once

    def _carried_slots(self) -> SlotSet:
        found = NO_SLOTS
        for this in self._carried:
            found |= this.slots
        return found

    def _begin_at_owner(self, this: Round, owner_id: str, slots: SlotSet) -> None:
        now = this.now
        if owner_id in self._unreachable:
            self._fail(self._unreachable[owner_id], now)
            return
        if any(sweep.lane.owner_id == owner_id and not sweep.lane.covers for sweep in self._under_way.values()):
            return
        node_id = self._node_to_sweep(this.standing, owner_id)
        if node_id is None:
            note(this.waits, NO_REPLICA, slots)
        elif node_id != owner_id and now - self._useless_since.get(owner_id, now) >= self._failover_timeout:
            self._fail(no_replica(slots, self._failover_timeout), now)
        elif self._has_room_at(node_id):
            self._begin(this, node_id, owner_id, self._at_most(node_id, slots))

    def _node_to_sweep(self, standing: Standing, owner_id: str) -> str | None:
        """The node to sweep for slots of this owner; None if it is to be a replica, and there is none."""
        if self.options.node is not None:
            return self.options.node
        if self._scan.read_from == "master":
            return owner_id
        replicas = [
            line.node.node_id
            for line in standing.masters[owner_id].lines.values()
            if line.master_id == owner_id and not line.is_down
        ]
        best = min(replicas, key=lambda node_id: (self._failures.get(node_id, 0), node_id), default=None)
        if self._scan.falls_back and (best is None or best in self._failures):
            return owner_id
        return best

    def _begin_covering(self, this: Round) -> None:
        masters = this.standing.masters
        at: dict[tuple[str, str], SlotSet] = {}
        for slot, half in self._half.items():
            for target in half.targets:
                assert half.word.owner is not None
                if not self._is_swept_at(target, slot, half):
                    note(at, (target, half.word.owner), 1 << slot)
        for (target, owner_id), slots in at.items():
            if target not in masters:
                note(this.waits, NO_TARGET, slots)
            elif this.standing.is_outdated(target):
                note(this.waits, OUTDATED, slots)
            elif target in self._unreachable:
                self._fail(self._unreachable[target], this.now)
            elif owner_id in masters and self._has_room_at(target):
                self._begin(this, target, owner_id, slots, covers=True)

    def _is_swept_at(self, target: str, slot: int, half: Half) -> bool:
        """Whether a lane over this target is over that brought the slot, and is yet to be judged."""
        return any(
            sweep.lane.node_id == target and sweep.halves.get(slot) is half and sweep.slots >> slot & 1
            for sweep in self._swept.values()
        )

    def _address_of(self, this: Round, node_id: str, owner_id: str) -> Address:
        """Where a node is, by the map; or by its own word, or its master's."""
        node = this.known.named(node_id)
        if node is None:
            masters = this.standing.masters
            node = masters[node_id].myself.node if node_id in masters else masters[owner_id].lines[node_id].node
        return node.address

    def _at_most(self, node_id: str, slots: SlotSet) -> SlotSet:
        """Those of these slots to sweep in one lane.

        Where slots are swept one by one anyway, the lanes of a cluster that never rests become smaller, until what
        happens in their time is nothing to them.
        """
        restarts = self._restarts.highest(slots)
        if node_id not in self._by_slot or restarts < 2:
            return slots
        most = max(1, SLOTS >> restarts)
        some = NO_SLOTS
        for number, slot in enumerate(slots_in(slots)):
            if number == most:
                break
            some |= 1 << slot
        return some

    def _begin(self, this: Round, node_id: str, owner_id: str, slots: SlotSet, *, covers: bool = False) -> None:
        scan, masters = self._scan, this.standing.masters
        epoch = self._epochs.highest(slots)
        # One lane, one epoch: no slot's epoch goes back when its next lane has other company.
        self._epochs.set(slots, epoch)
        parts = auto_segments(CursorFormat.SLOTS, scan.count) if scan.segments is None else scan.segments
        lane = Lane(
            number=self._numbers + 1,
            node_id=node_id,
            owner_id=owner_id,
            slots=slots,
            epoch=epoch,
            parts=parts,
            passes=NO_SLOTS if covers else ALL_SLOTS & ~masters[owner_id].myself.slots,
            covers=covers,
            distrusts_format=node_id in self._distrusted,
            decoding=self.options.decoding,
        )
        halves = {slot: self._half[slot] for slot in slots_in(slots)} if covers else {}
        self._begin_lane(this, Sweep(lane, this.standing, halves, slots, this.now))

    def _go_on(self, this: Round, carried: LaneMark, slots: SlotSet) -> None:
        """A checkpoint's lane goes on, with these of its slots."""
        lane = carried.lane_for(self._numbers + 1, slots, self.options.decoding)
        self._begin_lane(this, Sweep(lane, this.standing, {}, slots, this.now, resumed=carried, mark=carried))

    def _begin_lane(self, this: Round, sweep: Sweep) -> None:
        self._numbers += 1
        lane, masters, resumed = sweep.lane, this.standing.masters, sweep.resumed
        self._under_way[lane.number] = sweep
        node_id, owner_id, covers = lane.node_id, lane.owner_id, lane.covers
        if not covers:
            self._pending &= ~lane.slots
        self._account.reached(lane.epoch)
        address = sweep.address = self._address_of(this, node_id, owner_id)
        is_replica = node_id != owner_id and not covers
        resume = None if resumed is None else resumed.resumed()
        self._to_do.append(steps.Begin(lane, address, is_replica, masters[owner_id].myself.config_epoch, resume))

    # ---- the end ------------------------------------------------------------------------------------------------

    def _fail(self, error: Exception, now: float) -> None:
        if self.state in FINAL:
            return
        if isinstance(error, ScanError):
            # Not that of one lane.
            error.summary = self.summary(now)
        self.error = error
        self.state = State.FAILED
        self._to_do.clear()
        self._account.ended(now)

    # ---- the account --------------------------------------------------------------------------------------------

    def summary(self, now: float) -> ScanSummary:
        """The account up to now."""
        return self._account.summary(
            now,
            complete=self.state is State.COMPLETE,
            position=self._position(),
            under_way=[sweep.plan for sweep in self._under_way.values() if sweep.plan is not None],
            uncovered=self._uncovered,
            let_go=self._let_go,
        )

    def _position(self) -> float:
        """How many of the slots are done; those under way count by how far their lanes have come."""
        wanted = self._wanted.bit_count()
        if not wanted:
            return 1.0
        done = float((self._done & self._wanted).bit_count())
        # One half of the way of slots that are swept in two places.
        done += len(self._half) / 2
        for sweep in (*self._under_way.values(), *self._swept.values()):
            share = 0.0 if sweep.plan is None else sweep.plan.share
            done += sweep.slots.bit_count() * share / (2 if sweep.lane.covers else 1)
        return min(1.0, done / wanted)


def note(found: dict[Any, SlotSet], key: Any, slots: SlotSet) -> None:
    """Add some slots (if any) to those that are found under a key."""
    if slots:
        found[key] = found.get(key, NO_SLOTS) | slots
