"""What a scan of a whole cluster does next: which lanes to begin, what each was worth, and when the scan is over.

Every slot ends *clean* or *covered* (`lane_judgement`), or the scan ends with an error. A lane is one sweep of one
process for some slots (`lane_plan`); between its end and its judgement lies a survey of all masters, and between a
survey that shows who has which slots and the first SCAN of a lane for them lies nothing but time.

The driver asks `next_step`, does it, and reports; all is synchronous, so no await lies between a decision and the state
that it leaves behind.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from . import cluster_steps as steps
from .cluster_account import ClusterAccount
from .cluster_failures import all_gone, interrupted, no_more_sweeps, no_replica, node_not_there, not_certified, not_covered
from .cluster_standing import Standing, Word
from .cluster_waits import SlotWaits
from .cursor import CursorFormat
from .errors import ScanError, ScanInterrupted, SentinelScanError, ServerUnavailable
from .lane_judgement import LaneJudgement, judge_covering, judge_owner
from .lanes import Lane
from .scan_states import FINAL, State
from .segments import auto_segments
from .slot_numbers import SlotNumbers
from .slots import ALL_SLOTS, NO_SLOTS, SLOTS, SlotSet, describe_slots, set_of, slots_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .cluster_map import ClusterMap
    from .cluster_options import ClusterScanOptions
    from .cluster_survey import Survey
    from .lane_plan import LanePlan
    from .summary import ScanPage, ScanSummary

__all__ = ["ClusterPlan"]

# Seconds between two surveys, where one did not settle things.
HESITATION: Final = 0.25

_NOBODY: Final = "no node has them"
_UNNAMED: Final = "no majority of the masters names an owner"
_NO_TARGET: Final = "they are on their way to a node that is not there as a master"
_NOT_THERE: Final = "the node is not there"
_NO_REPLICA: Final = "there is no replica to scan"


@dataclass(slots=True, eq=False)
class _Half:
    """A slot on its way that was swept at its owner."""

    # What was said of it then.
    word: Word
    # Where it is to be swept yet.
    targets: set[str]


@dataclass(slots=True)
class _Sweep:
    """A lane that was begun, and not judged to its end yet."""

    lane: Lane
    # What the masters said before its first SCAN.
    before: Standing
    # Of a lane that covers: its slots as they stood when it began.
    halves: Mapping[int, _Half]
    # Those of its slots that are not judged yet.
    slots: SlotSet
    # None until the driver has begun it.
    plan: LanePlan | None = None
    undecided_since: float | None = None


class ClusterPlan:
    """One scan's decisions. Times are seconds on any clock that does not go back."""

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

        # -- the slots. Invariant: each wanted one is in exactly one of these: done, pending, half, a lane's (of one that
        # covers they are in half as well) --
        self._wanted: SlotSet = ALL_SLOTS
        # Clean or covered.
        self._done: SlotSet = NO_SLOTS
        # To be swept (again), at whoever has them.
        self._pending: SlotSet = ALL_SLOTS
        self._half: dict[int, _Half] = {}
        # Left out: without an owner, by the caller's leave; gone from the one node that is scanned.
        self._uncovered: SlotSet = NO_SLOTS
        self._let_go: SlotSet = NO_SLOTS
        # The number of a slot's next sweep, and how often it was swept again.
        self._epochs = SlotNumbers()
        self._restarts = SlotNumbers()

        # -- the lanes, by their number --
        self._numbers = 0
        self._under_way: dict[int, _Sweep] = {}
        # Swept, and all taken: to be judged by a survey that begins after that.
        self._swept: dict[int, _Sweep] = {}
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
        self._no_replica_since: dict[str, float] = {}
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

    # ---- what to do ---------------------------------------------------------------------------------------------

    def next_step(self, now: float) -> steps.Step:
        """What the driver is to do now."""
        if self.state in FINAL:
            return steps.End()
        if self._to_do:
            return self._to_do.popleft()
        if self._needs_survey():
            if now < self._not_before and not self._has_news:
                return steps.Wait(self._not_before - now)
            self._may_judge = tuple(self._swept)
            self._is_looking = self._has_news = False
            return steps.TakeSurvey()
        return steps.Wait(math.inf)

    def look(self) -> None:
        """The map has changed, or a lane is in trouble: see whether the lanes are still where they belong."""
        self._is_looking = True

    def _needs_survey(self) -> bool:
        return bool(self._swept) or self._is_looking or bool(self._waits.waiting)

    # ---- lanes --------------------------------------------------------------------------------------------------

    def began(self, number: int, plan: LanePlan) -> None:
        """The lane has begun."""
        self._under_way[number].plan = plan

    def lane_over(self, number: int, now: float) -> None:
        """The lane is over: its plan says how."""
        sweep = self._under_way.pop(number)
        plan = sweep.plan
        assert plan is not None
        self._account.lane_over(plan, now)
        if self.state in FINAL:
            return
        lane = sweep.lane
        if plan.distrusts_format:
            self._distrusted.add(lane.node_id)
        if plan.has_slots_in_cursors:
            self._by_slot.add(lane.node_id)
        if plan.server is not None:
            self._failures.pop(lane.node_id, None)
        error = plan.error
        self._is_looking = self._has_news = True
        if error is None:
            # Swept to its end, with its role and its process as they were.
            self._swept[number] = sweep
        elif isinstance(error, ScanInterrupted) and plan.server is None:
            # It had found nothing to begin with.
            self._failures[lane.node_id] = self._failures.get(lane.node_id, 0) + 1
            self._give_back(sweep)
        elif isinstance(error, ScanInterrupted):
            self._sweep_again(sweep, sweep.slots, error.reason, now, keeps_half=lane.covers)
        elif isinstance(error, ServerUnavailable) and self._scan.on_failover == "restart":
            # Its slots may have another owner. If not, there is nobody to ask, and they have waited already.
            self._unreachable[lane.node_id] = error
            self._waits.began(self._still_wanted(sweep), now - self._failover_timeout)
            self._give_back(sweep)
        else:
            self._fail(error, now)

    def _give_back(self, sweep: _Sweep) -> None:
        """What is left of its slots is to be swept, by whoever has them."""
        slots = self._still_wanted(sweep)
        self._pending |= slots
        for slot in slots_in(slots):
            self._half.pop(slot, None)

    def _still_wanted(self, sweep: _Sweep) -> SlotSet:
        """A lane's slots, less those of a lane that covers that have become another lane's matter meanwhile."""
        if sweep.lane.covers:
            sweep.slots &= set_of((slot, slot) for slot, half in sweep.halves.items() if self._half.get(slot) is half)
        return sweep.slots

    def _sweep_again(
        self, sweep: _Sweep, slots: SlotSet, reason: str, now: float, *, keeps_half: bool = False
    ) -> None:
        """These slots of a lane are to be swept again, if that may be; or, with `keeps_half`, where it was only."""
        slots &= self._still_wanted(sweep)
        if self.state in FINAL or not slots:
            return
        lane, server = sweep.lane, None if sweep.plan is None else sweep.plan.server
        if self._scan.on_failover == "raise":
            self._fail(interrupted(lane, slots, reason, server, self.summary(now)), now)
            return
        most = self._scan.max_restarts
        if self._restarts.highest(slots) >= most:
            self._fail(no_more_sweeps(lane, slots, reason, most, self.summary(now)), now)
            return
        self._restarts.add_one(slots)
        self._epochs.set(slots, lane.epoch + 1)
        sweep.slots &= ~slots
        if not keeps_half:
            self._pending |= slots
            for slot in slots_in(slots):
                self._half.pop(slot, None)
        self._account.swept_again(lane, slots, reason, server, now)

    # ---- a survey -----------------------------------------------------------------------------------------------

    def surveyed(self, survey: Survey, known: ClusterMap, now: float) -> None:
        """This is what the masters say, and where the nodes are."""
        if self.state in FINAL:
            return
        standing = Standing(survey, by_majority=self.options.by_majority)
        # Whatever is not settled by this one is asked about again a little later.
        self._not_before = now + HESITATION
        self._find_wanted(standing)
        self._judge_swept(standing, now)
        self._leave_the_lost(standing)
        if self.state not in FINAL:
            self._begin_lanes(standing, known, now)
        if self.state not in FINAL:
            self._give_up_waiting(now)
        if self.state not in FINAL and not self._wanted & ~self._done and not self._under_way:
            self._complete(now)

    def _find_wanted(self, standing: Standing) -> None:
        """The slots of the one node, if it is one that is scanned, as they are now."""
        if self._knows_wanted:
            return
        owner_id = self._owner_of_node(standing)
        if owner_id is not None and (slots := standing.own(owner_id)):
            self._knows_wanted = True
            self._wanted = self._pending = slots
            self._waits.update({}, 0.0)

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

    def _judge_swept(self, standing: Standing, now: float) -> None:
        for number in self._may_judge:
            sweep = self._swept[number]
            self._still_wanted(sweep)
            found = self._judge(sweep, standing)
            self._conclude(sweep, found, standing, now)
            if self.state in FINAL:
                return
            if not sweep.slots:
                del self._swept[number]
                continue
            if sweep.undecided_since is None:
                sweep.undecided_since = now
            if now - sweep.undecided_since >= self._failover_timeout:
                summary = self.summary(now)
                error = not_certified(
                    sweep.lane,
                    sweep.slots,
                    found.reason,
                    self._failover_timeout,
                    summary,
                    by_majority=self.options.by_majority,
                )
                self._fail(error, now)
                return

    def _judge(self, sweep: _Sweep, standing: Standing) -> LaneJudgement:
        if sweep.lane.covers:
            words = {slot: half.word for slot, half in sweep.halves.items()}
            return judge_covering(sweep.lane, sweep.slots, words, standing)
        return judge_owner(sweep.lane, sweep.slots, sweep.before, standing)

    def _conclude(self, sweep: _Sweep, found: LaneJudgement, standing: Standing, now: float) -> None:
        lane, plan = sweep.lane, sweep.plan
        assert plan is not None
        half = set_of((slot, slot) for slot in found.half)
        if whole := found.good | half:
            self._account.certified(plan, whole, standing, by_majority=self.options.by_majority)
        sweep.slots &= ~whole
        if lane.covers:
            self._covered_at(lane.node_id, found.good)
        else:
            self._done |= found.good
        for slot, word in found.half.items():
            # Of one node alone nothing is asked that it does not have.
            targets = set[str]() if self.options.node is not None else word.targets(standing.masters)
            self._half[slot] = _Half(word, targets)
        self._settle(half)
        for slots, reason in found.again:
            gone = self._gone_from_node(standing, slots)
            sweep.slots &= ~gone
            self._let_go_of(gone, now)
            self._sweep_again(sweep, slots, reason, now)

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

    def _covered_at(self, node_id: str, slots: SlotSet) -> None:
        for slot in slots_in(slots):
            self._half[slot].targets.discard(node_id)
        self._settle(slots)

    def _settle(self, slots: SlotSet) -> None:
        """Those of these slots that are to be swept nowhere else are covered."""
        for slot in slots_in(slots):
            if not self._half[slot].targets:
                del self._half[slot]
                self._done |= 1 << slot

    def _leave_the_lost(self, standing: Standing) -> None:
        """Lanes whose node has none of their slots any more need not go on."""
        owned = NO_SLOTS
        for slots in standing.owned.values():
            owned |= slots
        for number, sweep in self._under_way.items():
            claimed = standing.own_word(sweep.lane.owner_id)
            if claimed is None:
                # Its master is away: it comes back, or another one has its slots soon.
                self._is_looking = True
                is_lost = not sweep.slots & ~owned
            else:
                is_lost = not sweep.slots & claimed
            if is_lost and not sweep.lane.covers:
                self._to_do.append(steps.Leave(number, "other nodes have its slots now"))

    # ---- new lanes ----------------------------------------------------------------------------------------------

    def _begin_lanes(self, standing: Standing, known: ClusterMap, now: float) -> None:
        if not self._knows_wanted:
            self._waits.update({_NOT_THERE: ALL_SLOTS}, now)
            return
        self._let_go_of(self._gone_from_node(standing, self._pending), now)
        if self.state in FINAL:
            return
        waits: dict[str, SlotSet] = {}
        ownerless = self._pending
        only = None if self.options.node is None else self._owner_of_node(standing)
        # The lowest slots first: an order of its own each time would be hard to follow.
        for owner_id, owned in sorted(standing.owned.items(), key=lambda item: item[1] & -item[1]):
            if slots := self._pending & owned:
                ownerless &= ~owned
                if self.options.node is not None and owner_id != only:
                    # Its slots have another owner, and whose it is itself nobody tells.
                    _note(waits, _NOT_THERE, slots)
                    continue
                self._begin_at_owner(standing, known, owner_id, slots, waits, now)
        self._unreachable = {name: error for name, error in self._unreachable.items() if name in standing.masters}
        _note(waits, _UNNAMED, ownerless & standing.claimed)
        _note(waits, _NOBODY, ownerless & ~standing.claimed)
        self._begin_covering(standing, known, waits, now)
        self._waits.update(waits, now)

    def _has_room_at(self, node_id: str) -> bool:
        busy = [sweep.lane.node_id for sweep in self._under_way.values()]
        return node_id not in busy and len(busy) < self.options.max_nodes_at_once

    def _begin_at_owner(
        self,
        standing: Standing,
        known: ClusterMap,
        owner_id: str,
        slots: SlotSet,
        waits: dict[str, SlotSet],
        now: float,
    ) -> None:
        if owner_id in self._unreachable:
            self._fail(self._unreachable[owner_id], now)
            return
        if any(sweep.lane.owner_id == owner_id and not sweep.lane.covers for sweep in self._under_way.values()):
            return
        node_id = self._node_to_sweep(standing, owner_id)
        if node_id is None:
            _note(waits, _NO_REPLICA, slots)
        elif self._has_room_at(node_id):
            self._begin(standing, known, node_id, owner_id, self._at_most(node_id, slots))

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

    def _begin_covering(
        self, standing: Standing, known: ClusterMap, waits: dict[str, SlotSet], now: float
    ) -> None:
        at: dict[tuple[str, str], SlotSet] = {}
        for slot, half in self._half.items():
            for target in half.targets:
                assert half.word.owner is not None
                _note(at, (target, half.word.owner), 1 << slot)
        for (target, owner_id), slots in at.items():
            if target not in standing.masters:
                _note(waits, _NO_TARGET, slots)
            elif target in self._unreachable:
                self._fail(self._unreachable[target], now)
            elif owner_id in standing.masters and self._has_room_at(target):
                self._begin(standing, known, target, owner_id, slots, covers=True)

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

    def _begin(
        self,
        standing: Standing,
        known: ClusterMap,
        node_id: str,
        owner_id: str,
        slots: SlotSet,
        *,
        covers: bool = False,
    ) -> None:
        self._numbers += 1
        scan = self._scan
        epoch = self._epochs.highest(slots)
        parts = auto_segments(CursorFormat.SLOTS, scan.count) if scan.segments is None else scan.segments
        lane = Lane(
            number=self._numbers,
            node_id=node_id,
            owner_id=owner_id,
            slots=slots,
            epoch=epoch,
            parts=parts,
            covers=covers,
            distrusts_format=node_id in self._distrusted,
            decoding=self.options.decoding,
        )
        halves = {slot: self._half[slot] for slot in slots_in(slots)} if covers else {}
        self._under_way[lane.number] = _Sweep(lane, standing, halves, slots)
        if not covers:
            self._pending &= ~slots
        self._account.reached(epoch)
        owner = standing.masters[owner_id]
        node = known.named(node_id)
        if node is None:
            node = standing.masters[node_id].myself.node if node_id in standing.masters else owner.lines[node_id].node
        is_replica = node_id != owner_id and not covers
        self._to_do.append(steps.Begin(lane, node.address, is_replica, owner.myself.config_epoch))

    def _give_up_waiting(self, now: float) -> None:
        overdue = self._waits.overdue(now, self._failover_timeout)
        if not overdue or self._under_way or self._swept:
            # The rest is scanned first.
            return
        nobodys = overdue & self._waits.because(_NOBODY)
        summary = self.summary(now)
        if not nobodys:
            reason, by_majority = self._waits.reason(overdue), self.options.by_majority
            error: Exception
            if reason == _NO_REPLICA:
                error = no_replica(overdue, self._failover_timeout)
            elif reason == _NOT_THERE:
                error = node_not_there(self.options.node or "", self._failover_timeout)
            else:
                error = not_certified(None, overdue, reason, self._failover_timeout, summary, by_majority=by_majority)
            self._fail(error, now)
        elif self.options.allow_uncovered:
            self._uncovered |= nobodys
            self._wanted &= ~nobodys
            self._pending &= ~nobodys
        else:
            self._fail(not_covered(nobodys, self._failover_timeout, summary), now)

    # ---- pages --------------------------------------------------------------------------------------------------

    def take(self, page: ScanPage[Any], lane: Lane, now: float) -> ScanPage[Any] | None:
        """A page that its lane holds to be good: what of it is handed out, if anything; it counts as handed out."""
        if self.state in FINAL or self._is_closed:
            return None
        seen = self._scan.dedupe
        if seen is not None:
            try:
                keys = seen.unseen(page.keys)
                seen.mark(keys)
            except Exception as error:  # noqa: BLE001 (the filter may be the caller's own)
                said = f": {error}" if isinstance(error, SentinelScanError) else ""
                failure = ScanError(
                    f"the filter given as dedupe raised {type(error).__name__}{said}", self.summary(now)
                )
                failure.__cause__ = error
                self._fail(failure, now)
                return None
            self._account.duplicates += len(page.keys) - len(keys)
            if not keys:
                return None
            page = page.only(keys)
        self._account.handed_out(page, lane, now)
        return page

    def done_with(self, page: ScanPage[Any]) -> None:
        """The page's consumer asks for the next one."""

    # ---- the end ------------------------------------------------------------------------------------------------

    def _complete(self, now: float) -> None:
        self.state = State.COMPLETE
        self._account.ended(now)

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

    def abandon(self, error: Exception, now: float) -> None:
        """The scan ends with this, unless it has ended."""
        self._fail(error, now)

    def crashed(self, error: Exception, now: float) -> None:
        """Something that cannot happen has happened in the driver; the scan ends with it."""
        failure = ScanError(f"internal error of trio_sentinel_scan ({type(error).__name__})", self.summary(now))
        failure.__cause__ = error
        self._fail(failure, now)

    def closed(self, now: float) -> None:
        """The scan's block was left."""
        self._is_closed = True
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

    def __repr__(self) -> str:
        return (
            f"<ClusterPlan {self.state.name}, {describe_slots(self._done)} done, {len(self._under_way)} lanes under way>"
        )


def _note(found: dict[Any, SlotSet], key: Any, slots: SlotSet) -> None:
    if slots:
        found[key] = found.get(key, NO_SLOTS) | slots
