"""What a scan of a whole cluster does next: which lanes to begin, what each was worth, and when the scan is over.

Every slot ends *clean* or *covered* (`lane_judgement`), or the scan ends with an error. A lane is one sweep of one
process for some slots (`lane_plan`); between its end and its judgement lies a survey of all masters, and between a
survey that shows who has which slots and the first SCAN of a lane for them lies nothing but time.

The driver asks `next_step`, does it, and reports; all is synchronous, so no await lies between a decision and the state
that it leaves behind.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from . import cluster_steps as steps
from .cluster_failures import (
    interrupted,
    no_more_sweeps,
    no_replica,
    node_not_there,
    not_certified,
    not_covered,
)
from .cluster_lanes import (
    NO_REPLICA,
    NO_TARGET,
    NOBODY,
    NOT_THERE,
    OUTDATED,
    UNASKED,
    UNNAMED,
    Half,
    Round,
    Sweep,
    note,
)
from .cluster_marks import ClusterMarks, fate_of
from .cluster_standing import Standing
from .errors import ScanError, ScanInterrupted, SentinelScanError, ServerUnavailable
from .lane_judgement import LaneJudgement, judge_covering, judge_owner
from .lanes import Lane
from .scan_states import FINAL, State
from .slots import NO_SLOTS, SlotSet, describe_slots, set_of, slots_in

if TYPE_CHECKING:
    from .cluster_checkpoint import LaneMark
    from .cluster_map import ClusterMap
    from .cluster_survey import Survey
    from .lane_plan import LanePlan
    from .summary import ScanPage

__all__ = ["ClusterPlan"]

# Seconds between two surveys, where one did not settle things.
HESITATION: Final = 0.25


class ClusterPlan(ClusterMarks):
    """One scan's decisions. Times are seconds on any clock that does not go back."""

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
            self._useless_since.pop(lane.owner_id, None)
        error = plan.error
        self._is_looking = self._has_news = True
        if error is None:
            # Swept to its end, with its role and its process as they were.
            self._came_to_end(sweep)
            self._swept[number] = sweep
            self._note_progress()
        elif isinstance(error, ScanInterrupted) and plan.server is None:
            # It had found nothing to begin with.
            if sweep.resumed is not None:
                # It had: what a checkpoint was made at. And it may well answer, as another process.
                self._sweep_again(sweep, sweep.slots, error.reason, now)
                return
            self._failures[lane.node_id] = self._failures.get(lane.node_id, 0) + 1
            self._useless_since.setdefault(lane.owner_id, sweep.began_at)
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

    def _give_back(self, sweep: Sweep) -> None:
        """What is left of its slots is to be swept, by whoever has them."""
        slots = self._still_wanted(sweep)
        self._pending |= slots
        for slot in slots_in(slots):
            self._half.pop(slot, None)

    def _still_wanted(self, sweep: Sweep) -> SlotSet:
        """A lane's slots, less those of a lane that covers that have become another lane's matter meanwhile."""
        if sweep.lane.covers:
            sweep.slots &= set_of((slot, slot) for slot, half in sweep.halves.items() if self._half.get(slot) is half)
        return sweep.slots

    def _sweep_again(self, sweep: Sweep, slots: SlotSet, reason: str, now: float, *, keeps_half: bool = False) -> None:
        """These slots of a lane are to be swept again, if that may be; or, with `keeps_half`, where it was only."""
        slots &= self._still_wanted(sweep)
        if self.state not in FINAL and slots and self._begin_again(sweep, slots, reason, now, keeps_half=keeps_half):
            sweep.slots &= ~slots

    def _begin_again(self, sweep: Sweep, slots: SlotSet, reason: str, now: float, *, keeps_half: bool = False) -> bool:
        """Slots that this lane has swept, or was to, are another one's from now on. False if the scan fails for it."""
        lane, server = sweep.lane, sweep.server
        if self._scan.on_failover == "raise":
            self._fail(interrupted(lane, slots, reason, server, self.summary(now)), now)
            return False
        most = self._scan.max_restarts
        if self._restarts.highest(slots) >= most:
            self._fail(no_more_sweeps(lane, slots, reason, most, self.summary(now)), now)
            return False
        self._restarts.add_one(slots)
        self._epochs.set(slots, lane.epoch + 1)
        if not keeps_half:
            self._pending |= slots
            for slot in slots_in(slots):
                self._half.pop(slot, None)
        self._account.swept_again(lane, slots, reason, server, now)
        return True

    # ---- a survey -----------------------------------------------------------------------------------------------

    def surveyed(self, survey: Survey, known: ClusterMap, now: float) -> None:
        """This is what the masters say, and where the nodes are."""
        if self.state in FINAL:
            return
        standing = Standing(survey, by_majority=self.options.by_majority)
        # Whatever is not settled by this one is asked about again a little later.
        self._not_before = now + HESITATION
        self._find_wanted(standing)
        for sweep in (*self._under_way.values(), *self._swept.values()):
            sweep.note_stirred(standing)
        self._judge_swept(standing, now)
        this = Round(standing, known, now)
        self._leave_the_lost(this)
        if self.state not in FINAL:
            self._look_after_halves(this)
        if self.state not in FINAL:
            self._go_on_with_lanes(this)
        if self.state not in FINAL:
            self._begin_lanes(this)
        if self.state not in FINAL:
            self._give_up_waiting(standing, now)
        if self.state not in FINAL and not self._wanted & ~self._done and not self._under_way:
            self._complete(now)
        if self.state is not State.FAILED:
            self._note_progress()

    def _find_wanted(self, standing: Standing) -> None:
        """The slots of the one node, if it is one that is scanned, as they are now."""
        if self._knows_wanted:
            return
        owner_id = self._owner_of_node(standing)
        if owner_id is not None and (slots := standing.own(owner_id)):
            self._knows_wanted = True
            self._wanted = self._pending = slots
            self._waits.update({}, 0.0)

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
                error = not_certified(
                    sweep.lane,
                    sweep.slots,
                    found.reason,
                    self._failover_timeout,
                    self.summary(now),
                    # (What an image says is not to be taken.)
                    by_majority=self.options.by_majority and not standing.has_outdated,
                    silence=standing.silence,
                )
                self._fail(error, now)
                return

    def _judge(self, sweep: Sweep, standing: Standing) -> LaneJudgement:
        if sweep.lane.covers:
            words = {slot: half.word for slot, half in sweep.halves.items()}
            return judge_covering(sweep.lane, sweep.slots, words, standing, sweep.stirred)
        return judge_owner(sweep.lane, sweep.slots, sweep.before, standing, sweep.stirred)

    def _conclude(self, sweep: Sweep, found: LaneJudgement, standing: Standing, now: float) -> None:
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
            self._half[slot] = Half(word, targets, sweep)
        self._settle(half)
        for slots, reason in found.again:
            gone = self._gone_from_node(standing, slots)
            sweep.slots &= ~gone
            self._let_go_of(gone, now)
            self._sweep_again(sweep, slots, reason, now)

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

    def _look_after_halves(self, this: Round) -> None:
        """Of slots that no lane covers yet: none need cover what has come to rest, or has lost its owner, meanwhile."""
        standing = this.standing
        covered = NO_SLOTS
        for sweep in (*self._under_way.values(), *self._swept.values()):
            if sweep.lane.covers:
                covered |= self._still_wanted(sweep)
        owned = NO_SLOTS
        for slots in standing.owned.values():
            owned |= slots
        changed: dict[int, tuple[Sweep, SlotSet]] = {}
        for slot, half in self._half.items():
            this_one = 1 << slot
            if covered & this_one or standing.words.get(slot) == half.word:
                continue
            if this_one & ~owned & (standing.claimed | standing.unasked):
                # Its owner may come back, as it was.
                note(this.waits, UNNAMED if standing.claimed & this_one else UNASKED, this_one)
                continue
            sweep = half.sweep
            changed[sweep.lane.number] = sweep, changed.get(sweep.lane.number, (sweep, NO_SLOTS))[1] | this_one
        for sweep, slots in changed.values():
            if not self._begin_again(sweep, slots, "the slots are on their way no more, or on another one", this.now):
                return

    def _leave_the_lost(self, this: Round) -> None:
        """Lanes whose node has none of their slots any more, or is somewhere else, need not go on."""
        standing = this.standing
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
            elif self._has_gone_elsewhere(sweep, this):
                self._to_do.append(steps.Leave(number, "the node is at another address now"))

    def _go_on_with_lanes(self, this: Round) -> None:
        """A checkpoint's lanes go on, where nothing has happened; else their slots begin anew."""
        waiting: list[LaneMark] = []
        standing = this.standing
        for one in self._carried:
            slots = one.slots & self._pending
            slots &= ~self._gone_from_node(standing, slots)
            lane = one.lane
            unfit = self._unfit_for(one, standing) if lane.owner_id in standing.masters else ""
            good, again = fate_of(one, slots, standing, unfit)
            for some, reason in again:
                slots &= ~some
                sweep = Sweep(lane, standing, {}, some, this.now, resumed=one)
                self._sweep_again(sweep, some, reason, this.now)
                if self.state in FINAL:
                    return
            if good and self._has_room_at(lane.node_id):
                self._go_on(this, one, good)
                slots &= ~good
            if slots:
                waiting.append(one._replace(slots=slots))
        self._carried = waiting

    def _has_gone_elsewhere(self, sweep: Sweep, this: Round) -> bool:
        """Whether a lane waits for its node where that is no more: it was started anew at another address."""
        lane, plan = sweep.lane, sweep.plan
        if plan is None or plan.connected or not this.standing.knows(lane.node_id, lane.owner_id):
            return False
        return self._address_of(this, lane.node_id, lane.owner_id) != sweep.address

    def _give_up_waiting(self, standing: Standing, now: float) -> None:
        overdue = self._waits.overdue(now, self._failover_timeout)
        if not overdue or self._under_way or self._swept:
            # The rest is scanned first.
            return
        nobodys = overdue & self._waits.because(NOBODY)
        summary = self.summary(now)
        if not nobodys:
            reason, by_majority = self._waits.reason(overdue), self.options.by_majority
            error: Exception
            if reason == NO_REPLICA:
                error = no_replica(overdue, self._failover_timeout)
            elif reason == NOT_THERE:
                error = node_not_there(self.options.node or "", self._failover_timeout)
            else:
                error = not_certified(
                    None,
                    overdue,
                    reason,
                    self._failover_timeout,
                    summary,
                    # (Whom nobody can ask has no word of its own either; and of an older image it is not to be taken.)
                    by_majority=by_majority and reason not in {UNASKED, NO_TARGET, OUTDATED},
                    silence=standing.silence,
                )
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
                self._came_to(self._under_way[lane.number], page)
                self._note_progress()
                return None
            page = page.only(keys)
        self._account.handed_out(page, lane, now)
        self._came_to(self._under_way[lane.number], page)
        assert page.mark is not None
        page.mark.whole = self._stand()
        self._progress.handed_out(page.mark.whole)
        return page

    # ---- the end ------------------------------------------------------------------------------------------------

    def _complete(self, now: float) -> None:
        self.state = State.COMPLETE
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

    def __repr__(self) -> str:
        done = describe_slots(self._done)
        return f"<ClusterPlan {self.state.name}, {done} done, {len(self._under_way)} lanes under way>"
