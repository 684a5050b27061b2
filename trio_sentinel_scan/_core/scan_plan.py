"""What a scan does next: the one place that decides about cursors, epochs, budgets and the end.

The driver asks `next_step`, does just that, and reports what came of it to `report`; the consumer's side asks
`take` for each page that comes out of the channel; whoever hears from the Sentinels calls `heard`. All three are
synchronous, so no await ever lies between a decision and the state that it leaves behind.

The one rule: **a cursor is only ever sent to the process that issued it.** (Or, where the caller says that all nodes
have one hash seed, to one that has its keys in the same order.) And its twin: the end of the iteration means complete,
and nothing else does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, assert_never

from redis import exceptions as redis_errors

from . import scan_steps as steps
from .certificate import Evidence, Held, Judgement, Refuted, Undecided, changed_role, judge, lost_link
from .checkpoint import Mark, PassFacts
from .cursor import CursorFormat
from .errors import (
    AuthenticationFailed,
    CheckpointInvalid,
    ScanError,
    ScanInterrupted,
    ScanRefused,
    SentinelScanError,
)
from .hash_seed import SharedSeed
from .identity import Role, ServerIdentity
from .other_products import as_believed
from .progress import Progress
from .replicas import ReplicaSearch, why_void
from .scan_account import Account
from .scan_failures import (
    no_more_connections,
    no_more_moves,
    no_more_restarts,
    no_replica,
    no_server,
    not_certified,
    seeds_differ,
    stuck,
)
from .scan_options import check_seen_keys
from .scan_patience import Patience
from .scan_states import FINAL, Event, State, move
from .seen_keys import durable
from .summary import Certificate, ScanPage, ScanSummary, pages_of
from .sweep import Sweep
from .verdicts import Verdict, error_code, verdict_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .certificate import Basis
    from .checkpoint import Checkpoint
    from .scan_options import ScanOptions
    from .seen_keys import SeenKeys
    from .topology_state import TopologyState

__all__ = ["ScanPlan"]


class ScanPlan:
    """One scan's decisions. Times are seconds on any clock that does not go back."""

    def __init__(
        self, options: ScanOptions, *, failover_timeout: float, now: float, jitter: Callable[[], float]
    ) -> None:
        """`jitter` gives numbers from 0 to 1; `failover_timeout` may be infinite."""
        self.options = options
        self.state: State = State.LOCATING
        # The checkpoint to go on from. Invariant: None once a pass was bound to a process, or became void.
        self._resume: Checkpoint | None = options.resume
        # The pass under way: 0 (or what a checkpoint says), then one more with each restart. Never goes back.
        self.epoch: int = self._resume.epoch if self._resume is not None else 0
        self.first_epoch: int = self.epoch
        # Why the scan failed. Invariant: set exactly when state is FAILED.
        self.error: Exception | None = None
        self.certificate: Certificate | None = None
        self._patience = Patience(failover_timeout, now, jitter)
        self._account = Account(now)

        # Grows whenever what is under way loses its meaning; a report on an older step is ignored.
        self._generation = 0
        # Where the scan is bound for, and under which version of the Sentinels' view. None until first located.
        self._target: steps.Target | None = None
        # Which replica to go to; None where the master is scanned, and nothing but the master.
        self._search: ReplicaSearch | None = None
        if options.read_from == "replica":
            held = self._resume.server if self._resume is not None else None
            self._search = ReplicaSearch(
                falls_back=options.falls_back, resume_at=held.address if held is not None else None
            )
        # Whether the driver holds an open connection that this scan may still use.
        self.connected: bool = False

        # The server was seen to lose a replica, which may be a master now: worth asking the Sentinels at once, who
        # alone can say where to go. Whoever asks them takes it back.
        self.suspects_failover: bool = False

        # -- the pass --
        # The sweep of one process, with its cursors. Invariant: None exactly while the pass has not been bound to a
        # process. A sweep has one process, and a pass one sweep; one after the other where it may move.
        self._sweep: Sweep | None = None
        self._format_distrusted = False
        # What the servers have told of the hash seed that they share by the caller's word.
        self._seeds = SharedSeed(b"" if self._resume is None else self._resume.seed_check)
        # What the marks of the present pass have in common; and the one that stands for all that was committed.
        self._facts = PassFacts(options.scope, self.epoch)
        # The filter, if checkpoints are to tell how far it was.
        self._durable = durable(options.dedupe)
        check_seen_keys(options.dedupe, self._resume)
        if self._resume is not None:
            self._restore(self._resume)
        self._mark = self._mark_to_begin(() if self._resume is None else self._resume.cursors)
        self._progress = Progress(self._mark, once=options.dedupe is not None)
        # Pages that replies brought and that have not been handed over to the channel yet.
        self._in_hand: deque[ScanPage[Any]] = deque()
        # Pages of this epoch that were handed over and not taken yet. Invariant: 0 whenever the pass is certified.
        self._waiting = 0
        # Whether the driver has been busy handing a page over since it last asked what to do.
        self._held_up = False

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
        self._leave(f"MASTER_CHANGE {old.address} -> {target.address}", now, target=target)
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
            if self._durable is not None:
                mark.seen_number = self._durable.number
            self._account.duplicates += len(page.keys) - len(keys)
            if not keys:
                self._progress.handed_out(mark, is_done=True)
                return None
            page = page.only(keys)
        self._account.handed_out(page, now)
        self._progress.handed_out(mark)
        return page

    def _mark_unseen(self, seen: SeenKeys, keys: Sequence[Any]) -> list[Any]:
        unseen = seen.unseen(keys)
        seen.mark(unseen)
        return unseen

    def done_with(self, page: ScanPage[Any]) -> None:
        """The page's consumer asks for the next one."""
        if page.mark is not None:
            self._progress.done_with(page.mark)

    @property
    def checkpoint(self) -> str:
        """A checkpoint that includes all pages whose consumers have done with them."""
        return self._progress.mark.text()

    @property
    def all_taken(self) -> bool:
        """Whether the consumer has taken every page that this pass has brought."""
        return self._waiting == 0 and not self._in_hand

    def closed(self, now: float) -> None:
        """The scan's block was left: the account ends here, whatever it had come to."""
        self._account.ended(now)

    def crashed(self, error: Exception, now: float) -> None:
        """Something that cannot happen has happened in the driver; the scan ends with it."""
        failure = ScanError(f"internal error of trio_sentinel_scan ({type(error).__name__})", self.summary(now))
        failure.__cause__ = error
        self.abandon(failure, now)

    def abandon(self, error: Exception, now: float) -> None:
        """The scan ends with this, unless it has ended."""
        if self.state not in FINAL:
            self._fail(error, now)

    def summary(self, now: float) -> ScanSummary:
        """The account up to now."""
        return self._account.summary(
            now,
            epoch=self.epoch,
            complete=self.state is State.COMPLETE,
            sweep=self._sweep,
            certificate=self.certificate,
        )

    def __repr__(self) -> str:
        return f"<ScanPlan {self.state.name}, epoch {self.epoch}, {self._server or 'not bound'}>"

    # ---- the guards: each has a test that takes it away and sees keys lost -----------------------------------------

    def _is_same_process(self, server: ServerIdentity) -> bool:
        return server.is_same_process(self._server)

    def _is_same_order(self, found: steps.Connected) -> bool:
        """Whether this other process has its keys in the same order, so that the pass's cursors are good there."""
        return (
            self._bound.can_move
            and found.cursor_format is self._bound.format
            and (found.hash_seed is None or found.hash_seed.release == self._seeds.release)
        )

    def _is_as_in_checkpoint(self, found: steps.Connected) -> bool:
        """Whether the checkpoint's server, too, had its keys in the order that this one has."""
        return self.options.hash_seed_shared and self._seeds.is_as_in_checkpoint(found.hash_seed)

    def _contradiction(self, found: steps.Connected) -> str:
        return self._seeds.contradiction(found.server, found.hash_seed) if found.hash_seed is not None else ""

    def _is_current(self, page: ScanPage[Any]) -> bool:
        return page.epoch == self.epoch and self.state not in FINAL

    def _may_certify(self) -> bool:
        return self.all_taken

    def _judge(self, evidence: Evidence) -> Judgement:
        return judge(self._basis, self._bound.server, self._bound.role, evidence)

    def _why_void(self, state: TopologyState, target: steps.Target) -> str:
        return why_void(state, target)

    # ---- what it means ------------------------------------------------------------------------------------------

    def _located(self, target: steps.Target | TopologyState, now: float) -> None:
        if not isinstance(target, steps.Target):
            self._located_service(target, now)
            return
        if self._target is not None and target.version > self._target.version:
            self.master_changed(target, now)
        if self.state is State.LOCATING:
            self._target = target
            self._move(Event.LOCATED)

    # ---- replicas -----------------------------------------------------------------------------------------------

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

    @property
    def _is_on_replica(self) -> bool:
        return self._target is not None and self._target.is_replica

    @property
    def _basis(self) -> Basis:
        return "replica" if self._is_on_replica else self.options.basis

    def _note_failure(self, problem: str, *, give_up: bool = False) -> None:
        if self._search is not None and self._target is not None and self._target.is_replica:
            self._search.failed(self._target.address, problem, give_up=give_up)

    def _note_binding(self, *, anew: bool) -> None:
        if self._search is not None and self._target is not None and self._target.is_replica:
            if anew:
                self._search.bound(self._target.address)
            else:
                self._search.answered(self._target.address)

    def _bind(self, found: steps.Connected, now: float) -> None:
        found = as_believed(found, self.options.basis, format_distrusted=self._format_distrusted)
        if found.unfit:
            self._lost(found.unfit, None, now)
            return
        if contradiction := self._contradiction(found):
            self._fail(seeds_differ(contradiction, self.summary(now)), now)
            return
        if self._sweep is None:
            self.connected = True
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
        self.connected = True
        self._note_binding(anew=False)
        self._patience.reconnected()
        if self._bound.details is not None:
            # What was on its way, and is not asked for any more, would be waited for in vain.
            self._in_hand.extend(self._bound.details.take_ready())
        self._move(Event.BOUND_SWEPT if self._bound.swept else Event.BOUND)

    def _answered(self, answered: steps.Answered, now: float) -> None:
        sweep, before = self._bound, self._position()
        scans = sweep.scans
        found = sweep.received(answered.replies, now, waited=answered.waited)
        self._account.scans += sweep.scans - scans
        if found.unfit is not None:
            self._unfit(found.unfit, now)
            return
        self.suspects_failover = self.suspects_failover or found.lost_replicas
        if found.keys:
            size = self.options.page_size
            mark = self._mark_of(sweep.standing)
            way = (before, self._mark), (sweep.position, mark)
            pages = pages_of(found.keys, size, self.epoch, sweep.server, way)
            if sweep.details is None:
                self._in_hand.extend(pages)
            else:
                sweep.details.add(pages)
            self._mark = mark
        if sweep.details is not None:
            self._in_hand.extend(sweep.details.take_ready())
        if found.out_of_order:
            self._out_of_order(now)
        elif found.error is not None:
            self._refused(found.error, now, had_cursor=found.had_cursor)
        elif found.wait is not None:
            problem = f"{sweep.server} answers {error_code(found.wait)}"
            self._patience.told_to_wait(problem, now, came_on=found.came_on)
        elif found.came_on:
            # (A server that is loading tells its role all the same.)
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

    def _unfit(self, role: Role, now: float) -> None:
        reason = self._bound.changed_role(role)
        if reason:
            self._note_failure(reason)
            self.suspects_failover = True
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
                self.suspects_failover = True
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

    def _lost(self, problem: str, final: Exception | None, now: float, *, give_up: bool = False) -> None:
        self.connected = False
        self._note_failure(problem, give_up=give_up)
        if self._sweep is not None:
            self._sweep.connection_lost()
        self._patience.failed(problem, now)
        if final is not None:
            self._fail(final, now)
            return
        self._patience.back_off(now)
        self._move(Event.LOST)

    def _taken_all(self) -> None:
        if self.state is State.DRAINING and self._may_certify():
            self._move(Event.TAKEN)

    def _judged(self, judgement: Judgement, now: float) -> None:
        if isinstance(judgement, Held):
            self.certificate = judgement.certificate
            self._account.ended(now)
            self._move(Event.HELD)
        elif isinstance(judgement, Refuted):
            self._leave(f"no certificate: {judgement.reason}", now)
        else:
            self._patience.hesitate(judgement.reason, now)
            self._move(Event.UNDECIDED)

    # ---- restarts and ends --------------------------------------------------------------------------------------

    def _leave(self, reason: str, now: float, *, target: steps.Target | None = None) -> None:
        """This server is not the one to ask any more. Its pass is void, unless another server can go on with it."""
        if self.options.basis == "server" or not self._may_go_on_elsewhere:
            self._void(reason, now, target=target)
            return
        most = self.options.max_restarts
        if self._patience.moves_in_vain > most:
            self._fail(no_more_moves(reason, most, self.summary(now)), now)
            return
        # What is in hand, or waits to be taken, is of this pass still. What was asked for is not.
        self._generation += 1
        self.connected = False
        if self._sweep is not None:
            self._sweep.go_back()
        self._patience.moved_on(reason, now)
        self._move(Event.LEFT)

    @property
    def _may_go_on_elsewhere(self) -> bool:
        return self.options.hash_seed_shared if self._sweep is None else self._sweep.can_move

    def _carry_over(self, found: steps.Connected) -> None:
        """Another process goes on with the pass: the same epoch, and the keys in the same order."""
        sweep = self._bound
        sweep.go_back()
        self._account.moves += 1
        self._patience.begin_here("another process goes on with the pass")
        # The progress stays: pages that were not done with are not yet behind the consumer.
        self._mark = self._bind_sweep(found, cursors=sweep.cursors)
        # Committed, and not to be fetched again: the new server tells of their keys what the old one had not told yet.
        self._bound.details = sweep.details

    def _another_process(self, found: steps.Connected) -> str:
        if self._may_go_on_elsewhere:
            return "another process answers, of another release or with other cursors than the one before"
        if found.server.run_id is None:
            return "a new connection, and the server does not tell which process it is"
        return "another process answers at this address: the server was restarted"

    def _void(
        self,
        reason: str,
        now: float,
        *,
        target: steps.Target | None = None,
        here: steps.Connected | None = None,
        old: ServerIdentity | None = None,
    ) -> None:
        """The pass is void. The next one begins elsewhere, or on the new connection `here`."""
        old = old or self._server
        new = here.server if here is not None else None
        if self.options.on_failover == "raise":
            if new is None and target is not None:
                new = ServerIdentity(None, target.address)
            error = ScanInterrupted(
                reason,
                epoch=self.epoch,
                old_server=old,
                new_server=new,
                keys=self._account.keys,
                summary=self.summary(now),
            )
            self._fail(error, now)
            return
        if self.epoch - self.first_epoch >= self.options.max_restarts:
            self._fail(no_more_restarts(reason, self.options.max_restarts, self.summary(now)), now)
            return
        self.epoch += 1
        self._generation += 1
        self._account.restarted(self.epoch, reason, now, old, new)
        self._clear_pass()
        if here is not None:
            self.connected = True
            self._patience.begin_here(reason)
            self._begin_pass(here, cursor=0)
            self._move(Event.VOIDED_HERE)
        else:
            self.connected = False
            if self._search is not None:
                self._target = None
            self._patience.begin_anew(reason, now)
            self._move(Event.VOIDED)

    def _clear_pass(self) -> None:
        self._sweep = self._resume = None
        self._in_hand.clear()
        self._waiting = 0
        self._facts = PassFacts(self.options.scope, self.epoch)
        self._progress.begin(self._mark_to_begin(()))

    def _begin_pass(self, found: steps.Connected, *, cursor: int, cursors: Sequence[int | None] = ()) -> None:
        self._mark = self._bind_sweep(found, cursor=cursor, cursors=cursors)
        self._progress.begin(self._mark)
        self._note_binding(anew=True)
        self._patience.bound()
        self._account.bound(found.server)

    def _bind_sweep(self, found: steps.Connected, *, cursor: int = 0, cursors: Sequence[int | None] = ()) -> Mark:
        """The pass is on this process from now on. Returns where it stands."""
        form = CursorFormat.UNKNOWN if self._format_distrusted else self._format_at(found)
        self._sweep = Sweep(self.options, found.server, found.role, form, cursor=cursor, cursors=cursors)
        if found.hash_seed is not None:
            self._seeds.release = found.hash_seed.release
        config_epoch = self._target.config_epoch if self._target is not None else None
        role = found.role.kind
        self._facts = PassFacts(
            self.options.scope, self.epoch, found.server, role, config_epoch, form, self._seeds.check
        )
        return self._mark_to_begin(self._sweep.cursors)

    def _format_at(self, found: steps.Connected) -> CursorFormat:
        return found.cursor_format

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def _restore(self, resume: Checkpoint) -> None:
        """Until a server has been found, this scan stands where the checkpoint does."""
        self._facts = PassFacts(
            self.options.scope,
            self.epoch,
            resume.server,
            resume.role,
            resume.config_epoch,
            resume.form,
            resume.seed_check,
        )
        if resume.seen is not None and self._durable is not None:
            try:
                self._durable.rollback(resume.seen.number)
            except ValueError as error:
                raise CheckpointInvalid(
                    "is a checkpoint of what the store given as dedupe does not have: it was rolled back to an earlier"
                    " one since then, or the file is an older copy"
                ) from error

    def _cannot_resume(self, resume: Checkpoint, found: steps.Connected) -> str:
        """Why the checkpoint's cursors are not good here, in words; "" if they are."""
        if self._is_as_in_checkpoint(found):
            if resume.form not in {found.cursor_format, CursorFormat.UNKNOWN}:
                return "the checkpoint has cursors of another kind than the server that answers now"
            return ""
        if not found.server.is_same_process(resume.server):
            if self.options.hash_seed_shared:
                return "the checkpoint is of another process, of another release, or was made without hash_seed_shared"
            if found.server.run_id is None:
                return "the server does not tell whether it is the process that the checkpoint was made at"
            return "the checkpoint is of another process than the one that answers now"
        if changed := changed_role(self._basis, Role(resume.role), found.role):
            return f"since the checkpoint, {changed}"
        assert self._target is not None
        # A process that is a replica now has the data set that it had, whoever is its master.
        if not self._target.is_replica and resume.config_epoch != self._target.config_epoch:
            return (
                f"the checkpoint is of config epoch {resume.config_epoch}, and now it is {self._target.config_epoch}:"
                " the master has been another one in between"
            )
        return ""

    def _go_on(self, resume: Checkpoint, found: steps.Connected) -> None:
        self._format_distrusted = resume.form is CursorFormat.UNKNOWN
        self._begin_pass(found, cursor=0, cursors=resume.cursors)

    def _mark_of(self, cursors: Sequence[int | None]) -> Mark:
        return Mark(self._facts, cursors, self._durable)

    def _mark_to_begin(self, cursors: Sequence[int | None]) -> Mark:
        """Where the pass stands before its first page; what was seen by then counts."""
        mark = self._mark_of(cursors)
        if mark.seen is not None:
            mark.seen_number = mark.seen.number
        return mark

    def _filter_failed(self, error: Exception, now: float) -> None:
        # Whatever else it raises may tell of keys.
        said = f": {error}" if isinstance(error, SentinelScanError) else ""
        failure = ScanError(f"the filter given as dedupe raised {type(error).__name__}{said}", self.summary(now))
        failure.__cause__ = error
        self._fail(failure, now)

    def _fail(self, error: Exception, now: float) -> None:
        self.error = error
        self.connected = False
        self._account.ended(now)
        self._in_hand.clear()
        self._generation += 1
        self._move(Event.GIVEN_UP)

    def _give_up_waiting(self, now: float) -> None:
        if self._patience.is_undecided:
            self._fail(not_certified(self._patience, self._server, self._basis, self.summary(now)), now)
        elif self._search is not None and (self._target is None or self._target.is_replica):
            self._fail(no_replica(self._patience, self._search.describe()), now)
        else:
            self._fail(no_server(self._patience), now)

    # ---- small things -------------------------------------------------------------------------------------------

    @property
    def _bound(self) -> Sweep:
        assert self._sweep is not None
        return self._sweep

    @property
    def _server(self) -> ServerIdentity | None:
        return self._sweep.server if self._sweep is not None else None

    def _position(self) -> float | None:
        return self._sweep.position if self._sweep is not None else 0.0

    def _move(self, event: Event) -> None:
        self.state = move(self.state, event)
