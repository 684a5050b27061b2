"""What a scan does next: the one place that decides about cursors, epochs, budgets and the end.

The driver asks `next_step`, does just that, and reports what came of it to `report`; the consumer's side asks
`take` for each page that comes out of the channel; whoever hears from the Sentinels calls `heard`. All three are
synchronous, so no await ever lies between a decision and the state that it leaves behind.

The one rule: **a cursor is only ever sent to the process that issued it.** (Or, where the caller says that all nodes
have one hash seed, to one that has its keys in the same order.) And its twin: the end of the iteration means complete,
and nothing else does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, assert_never

from . import scan_steps as steps
from .certificate import Evidence, Held, Judgement, Refuted, Undecided, judge, lost_link
from .cursor import CursorFormat
from .errors import AuthenticationFailed, ScanError, ScanRefused, SentinelScanError
from .other_products import as_believed
from .replicas import why_void
from .scan_failures import no_more_connections, seeds_differ, stuck
from .scan_passes import Passes
from .scan_states import FINAL, Event, State
from .summary import ScanPage, pages_of
from .verdicts import Verdict, error_code, verdict_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import exceptions as redis_errors

    from .identity import Role
    from .seen_keys import SeenKeys
    from .topology_state import TopologyState

__all__ = ["ScanPlan"]


class ScanPlan(Passes):
    """One scan's decisions. Times are seconds on any clock that does not go back."""

    # ---- what to do ---------------------------------------------------------------------------------------------

    def next_step(self, now: float) -> steps.Step:
        """What the driver is to do now. Asking again without a report in between gives the same step."""
        if self._held_up:
            self._held_up = False
            self._patience.held_up(now)
        if self.state in FINAL:
            return steps.Finish(self._generation)
        if (
            self.state is State.SCANNING
            and (this := self._bound.next_round(now, page_in_hand=bool(self._in_hand))) is not None
        ):
            # Before the page in hand: the server works while the consumer does.
            return steps.Ask(self._generation, this.data, this.replies)
        if self._in_hand:
            return steps.HandOver(self._generation, self._in_hand[0])
        if self._patience.is_overdue(now):
            self._give_up_waiting(now)
            return steps.Finish(self._generation)
        generation, until = self._generation, self._patience.deadline
        match self.state:
            case State.LOCATING:
                return steps.Locate(generation, until)
            case State.CONNECTING:
                assert self._target is not None
                return steps.Connect(generation, until, self._target)
            case State.SCANNING if self._bound.is_waiting_for_replies:
                return steps.Receive(generation)
            case State.SCANNING:
                return steps.Rest(generation, max(0.0, self._bound.rests_until - now))
            case State.DRAINING:
                return steps.AwaitTaken(generation)
            case State.CERTIFYING:
                assert self._target is not None
                return steps.Certify(generation, self._basis, self._target, self._bound.role)
            case _:
                return steps.Rest(generation, min(self._patience.rest, max(0.0, until - now)))

    def handing_over(self, step: steps.HandOver) -> bool:
        """The driver is about to put this page into the channel. False if the page has become void meanwhile."""
        if step.generation != self._generation or not self._in_hand or self._in_hand[0] is not step.page:
            return False
        self._in_hand.popleft()
        self._waiting += 1
        self._held_up = True
        return True

    # ---- what came of it ----------------------------------------------------------------------------------------

    def report(self, step: steps.Step, outcome: steps.Outcome, now: float) -> None:
        """The driver did `step` and this came of it. Ignored if the step had lost its meaning by then."""
        if step.generation != self._generation or self.state in FINAL:
            return
        match outcome:
            case steps.Located(view):
                self._located(view, now)
            case steps.Connected():
                self._bind(outcome, now)
            case steps.Asked():
                self._bound.sent(now)
            case steps.Answered():
                self._answered(outcome, now)
            case steps.Lost(problem, final):
                self._lost(problem, final, now)
            case steps.Rested():
                self._rested()
            case steps.Taken():
                self._taken_all()
            case Evidence(role=role) if self._is_on_replica and lost_link(role):
                # As in mid-pass.
                self._lost_link(role, now)
            case Evidence():
                self._judged(self._judge(outcome), now)
            case Undecided():
                self._judged(outcome, now)
            case _:
                assert_never(outcome)

    def heard(self, view: steps.Target | TopologyState, now: float) -> bool:
        """What the Sentinels say now: the master, or for a scan of replicas the service.

        True if what is under way must be aborted at once. Asked for each page, so it is quick where nothing is new.
        """
        if isinstance(view, steps.Target):
            return self.master_changed(view, now)
        return self._service_changed(view, now)

    def master_changed(self, target: steps.Target, now: float) -> bool:
        """The Sentinels name `target`. True if what is under way must be aborted at once, and is void as a rule.

        Of no consequence if the scan is bound there already, has not looked for a server yet, or has ended.
        """
        if self.state in FINAL or self._target is None or target.version <= self._target.version:
            return False
        old = self._target
        self._target = target
        reason = f"MASTER_CHANGE {old.address} -> {target.address}"
        if self._sweep is None or self._succeeds(old, target):
            self._leave(reason, now, target=target)
        else:
            self._void(reason, now, target=target)
        return True

    def take(self, page: ScanPage[Any], now: float) -> ScanPage[Any] | None:
        """A page has come out of the channel. What of it is to be handed out, if anything; it counts as handed out.

        The epoch filter: once a change is known, no page of an older epoch goes out, not even one that waited. Only
        then are keys marked as seen: in a page that was filtered out, they would be lost.
        """
        if not self._is_current(page):
            return None
        self._waiting -= 1
        mark = page.mark
        assert mark is not None
        seen = self.options.dedupe
        if seen is not None:
            try:
                keys = self._mark_unseen(seen, page.keys)
            except Exception as error:  # noqa: BLE001 (the filter may be the caller's own)
                self._filter_failed(error, now)
                return None
            self._marks.seen(mark)
            self._account.duplicates += len(page.keys) - len(keys)
            if not keys:
                self._marks.handed_out(mark, is_done=True)
                return None
            page = page.only(keys)
        self._account.handed_out(page, now)
        self._marks.handed_out(mark)
        return page

    def _mark_unseen(self, seen: SeenKeys, keys: Sequence[Any]) -> list[Any]:
        unseen = seen.unseen(keys)
        seen.mark(unseen)
        return unseen

    def done_with(self, page: ScanPage[Any]) -> None:
        """The page's consumer asks for the next one."""
        assert page.mark is not None
        self._marks.done_with(page.mark)

    @property
    def checkpoint(self) -> str:
        """A checkpoint that includes all pages whose consumers have done with them."""
        return self._marks.checkpoint

    # ---- the guards: each has a test that takes it away and sees keys lost -----------------------------------------

    def _is_current(self, page: ScanPage[Any]) -> bool:
        return page.epoch == self.epoch and self.state not in FINAL and not self._is_closed

    def _may_certify(self) -> bool:
        return self.all_taken

    def _judge(self, evidence: Evidence) -> Judgement:
        return judge(self._basis, self._bound.server, self._bound.role, evidence)

    def _why_void(self, state: TopologyState, target: steps.Target) -> str:
        return why_void(state, target)

    # ---- where to -----------------------------------------------------------------------------------------------

    def _located(self, target: steps.Target | TopologyState, now: float) -> None:
        if not isinstance(target, steps.Target):
            self._located_service(target, now)
            return
        if self._target is not None and target.version > self._target.version:
            self.master_changed(target, now)
        if self.state is State.LOCATING:
            self._target = target
            self._move(Event.LOCATED)

    def _service_changed(self, state: TopologyState, now: float) -> bool:
        search, target = self._search, self._target
        assert search is not None
        if state is search.state:
            return False
        search.state = state
        if self.state in FINAL or target is None:
            return False
        reason = self._why_void(state, target)
        if not reason:
            if target.is_replica:
                self._target = replace(target, config_epoch=state.master.config_epoch)
            return False
        if self._sweep is not None:
            self._void(reason, now)
        else:
            # No pass has begun there, so none is void.
            self._generation += 1
            self.connected = False
            self._target = None
            self._move(Event.VOIDED)
        return True

    def _located_service(self, state: TopologyState, now: float) -> None:
        search = self._search
        assert search is not None
        self._service_changed(state, now)
        if self._sweep is not None and self._target is not None:
            failures, address = self._patience.failures, self._target.address
            if self._target.is_replica and search.is_to_be_left(state, address, failures):
                search.failed(address, self._patience.problem, give_up=True)
                self._void(f"the replica {address} is of no use for now: {self._patience.problem}", now)
            # Else to the same one: its cursors are good as long as its process lives.
        if self.state is not State.LOCATING:
            return
        if self._sweep is None:
            self._target = search.next_target(state, self._patience.failures)
        if self._target is not None:
            self._move(Event.LOCATED)
        else:
            self._lost("there is no replica to scan", None, now)

    def _bind(self, found: steps.Connected, now: float) -> None:
        found = as_believed(found, self.options.basis, format_distrusted=self._format_distrusted)
        if found.unfit:
            self._lost(found.unfit, None, now)
            return
        if contradiction := self._contradiction(found):
            self._fail(seeds_differ(contradiction, self.summary(now)), now)
            return
        if self._sweep is None:
            self._hold_connection()
            resume, self._resume = self._resume, None
            if resume is None or resume.server is None:
                self._begin_pass(found, cursor=self.options.cursor if self.epoch == self.first_epoch else 0)
            elif reason := self._cannot_resume(resume, found):
                self._void(reason, now, here=found, old=resume.server)
                return
            else:
                self._go_on(resume, found)
            self._move(Event.BOUND_SWEPT if self._bound.swept else Event.BOUND)
            return
        if self._is_same_process(found.server):
            self._account.reconnects += 1
        elif self._is_same_order(found):
            self._carry_over(found)
        else:
            self._void(self._another_process(found), now, here=found)
            return
        most = self.options.max_restarts
        if self._patience.fruitless > most:
            self._fail(no_more_connections(self._patience, found.server.address, most, self.summary(now)), now)
            return
        self._hold_connection()
        self._note_binding(anew=False)
        self._patience.reconnected()
        if self._bound.details is not None:
            # What was on its way, and is not asked for any more, would be waited for in vain.
            self._in_hand.extend(self._bound.details.take_ready())
        self._move(Event.BOUND_SWEPT if self._bound.swept else Event.BOUND)

    # ---- what a server said -------------------------------------------------------------------------------------

    def _answered(self, answered: steps.Answered, now: float) -> None:
        sweep, before = self._bound, self._position()
        scans = sweep.scans
        found = sweep.received(answered.replies, now, waited=answered.waited)
        self._account.scans += sweep.scans - scans
        if found.unfit is not None:
            self._unfit(found.unfit, now)
            return
        if found.lost_replicas:
            self._suspect_failover()
        if found.keys:
            size = self.options.page_size
            old_mark, new_mark = self._marks.committed(sweep.standing)
            way = (before, old_mark), (sweep.position, new_mark)
            pages = pages_of(found.keys, size, self.epoch, sweep.server, way)
            if sweep.details is None:
                self._in_hand.extend(pages)
            else:
                sweep.details.add(pages)
        elif found.came_on:
            self._came_on_without_a_page()
        if sweep.details is not None:
            self._in_hand.extend(sweep.details.take_ready())
        if found.out_of_order:
            self._out_of_order(now)
        elif found.error is not None:
            self._refused(found.error, now, had_cursor=found.had_cursor)
        elif found.wait is not None:
            problem = f"{sweep.server} answers {error_code(found.wait)}"
            self._patience.told_to_wait(problem, now, came_on=found.settled)
        elif found.settled:
            self._patience.answered()
        if self._sweep is not sweep or self.state is not State.SCANNING:
            return
        if sweep.swept:
            self._move(Event.SWEPT)
            self._taken_all()
        elif sweep.told_to_wait and not sweep.is_waiting_for_replies:
            self._patience.back_off(now)
            self._move(Event.TOLD_TO_WAIT)
        else:
            self._move(Event.REPLIED)

    def _came_on_without_a_page(self) -> None:
        self._marks.came_on(self._bound.standing)

    def _unfit(self, role: Role, now: float) -> None:
        reason = self._bound.changed_role(role)
        if reason:
            self._note_failure(reason)
            self._suspect_failover()
            self._leave(reason, now)
        else:
            self._lost_link(role, now)

    def _lost_link(self, role: Role, now: float) -> None:
        # The same process: when it is linked again, its cursors are good.
        self._bound.go_back()
        self._lost(lost_link(role), None, now)

    def _out_of_order(self, now: float) -> None:
        if self._bound.format is CursorFormat.UNKNOWN:
            self._fail(stuck(self.summary(now)), now)
        else:
            # Not the format it was taken for. What the pass has covered cannot be told any more.
            self._format_distrusted = True
            self._void("the server's cursors do not rise: their format is not the one it was taken for", now)

    def _refused(self, error: redis_errors.RedisError, now: float, *, had_cursor: bool) -> None:
        match verdict_of(error):
            case Verdict.LOOK_AGAIN if not self._is_on_replica:
                self._suspect_failover()
                if error_code(error) == "REDIRECT":
                    # It has left its role, as ROLE would tell. Where the master is, the Sentinels say.
                    self._leave("the server is no master any more: it answers REDIRECT", now)
                else:
                    self._lost(f"{self._server} answers {error_code(error)}", None, now)
            case Verdict.RECONNECT | Verdict.LOOK_AGAIN as verdict:
                problem = f"{self._server} answers {error_code(error)}"
                # One without its master (MASTERDOWN) says itself that another is to be asked, if there is any.
                self._lost(problem, None, now, give_up=verdict is Verdict.LOOK_AGAIN)
            case Verdict.RESTART if had_cursor:
                # A cursor that a segment began with is not of the server's making: next time, only its own are used.
                self._format_distrusted = self._format_distrusted or self._bound.segments > 1
                self._void("the server does not know its cursor", now)
            case Verdict.UNAUTHENTICATED:
                self._fail(AuthenticationFailed(f"{self._server} refuses {self.options.command}: {error}"), now)
            case _:
                problem = f"{self._server} refuses {self.options.command}: {error}"
                self._fail(ScanRefused(problem, self.summary(now)), now)

    def _rested(self) -> None:
        # A rest between two rounds, for the sake of `duty`, is no state of its own.
        if self.state is not State.SCANNING:
            if self._sweep is not None:
                self._sweep.told_to_wait = False
            self._move(Event.RESTED)

    def _taken_all(self) -> None:
        if self.state is State.DRAINING and self._may_certify():
            self._move(Event.TAKEN)

    def _judged(self, judgement: Judgement, now: float) -> None:
        if isinstance(judgement, Held):
            self._complete(judgement.certificate, now)
        elif isinstance(judgement, Refuted):
            self._leave(f"no certificate: {judgement.reason}", now)
        else:
            self._patience.hesitate(judgement.reason, now)
            self._move(Event.UNDECIDED)

    def _filter_failed(self, error: Exception, now: float) -> None:
        # Whatever else it raises may tell of keys.
        said = f": {error}" if isinstance(error, SentinelScanError) else ""
        failure = ScanError(f"the filter given as dedupe raised {type(error).__name__}{said}", self.summary(now))
        failure.__cause__ = error
        self._fail(failure, now)
