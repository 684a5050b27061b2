"""The passes of a scan: which process each is bound to, what ends one, and what begins the next, or nothing.

The state and the moves that `scan_plan` decides upon. Every method is synchronous and leaves a whole state behind.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from . import scan_steps as steps
from .certificate import changed_role
from .checkpoint import PassFacts, heir
from .cursor import CursorFormat
from .errors import ScanError, ScanInterrupted
from .hash_seed import SharedSeed
from .identity import Role, ServerIdentity
from .replicas import ReplicaSearch
from .scan_account import Account
from .scan_failures import no_more_moves, no_more_restarts, no_replica, no_server, not_certified
from .scan_marks import Marks
from .scan_patience import Patience
from .scan_states import FINAL, Event, State, move
from .sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .certificate import Basis
    from .checkpoint import Checkpoint
    from .scan_options import ScanOptions
    from .summary import Certificate, ScanPage, ScanSummary

__all__ = ["Passes"]


def is_successor(old: steps.Target, new: steps.Target) -> bool:
    """Whether, by their config epochs, nobody else was the master between these two."""
    return new.address != old.address and (new.config_epoch or 0) == (old.config_epoch or 0) + 1


class Passes:
    """What a scan is in, and the ways from one pass to the next. `ScanPlan` is the one that takes them."""

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
        self._generation: int = 0
        # Where the scan is bound for, and under which version of the Sentinels' view. None until first located.
        self._target: steps.Target | None = None
        # Which replica to go to; None where the master is scanned, and nothing but the master.
        self._search: ReplicaSearch | None = None
        if options.read_from == "replica":
            held = self._resume.server if self._resume is not None else None
            self._search = ReplicaSearch(
                falls_back=options.falls_back, resume_at=held.address if held is not None else None
            )
        self._is_closed = False
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
        # Who can go on with this pass, where it may move: its first server, and who was that one's replica when it
        # began. Anyone else may have been the master by then already, with keys that the first server never had.
        self._heirs: frozenset[bytes] = frozenset()
        # What the servers have told of the hash seed that they share by the caller's word.
        self._seeds = SharedSeed(b"" if self._resume is None else self._resume.seed_check)
        self._marks = Marks(options, self.epoch)
        # Pages that replies brought and that have not been handed over to the channel yet.
        self._in_hand: deque[ScanPage[Any]] = deque()
        # Pages of this epoch that were handed over and not taken yet. Invariant: 0 whenever the pass is certified.
        self._waiting = 0
        # Whether the driver has been busy handing a page over since it last asked what to do.
        self._held_up = False

    @property
    def all_taken(self) -> bool:
        """Whether the consumer has taken every page that this pass has brought."""
        return self._waiting == 0 and not self._in_hand

    def closed(self, now: float) -> None:
        """The scan's block was left: the account ends, whatever it had come to, and no page is handed out any more.

        (A clone may have outlived the block. What it took would be marked in a filter that is given back by then.)
        """
        self._is_closed = True
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
            and self._is_heir(found)
            and found.cursor_format is self._bound.format
            and (found.hash_seed is None or found.hash_seed.release == self._seeds.release)
        )

    def _is_as_in_checkpoint(self, found: steps.Connected) -> bool:
        """Whether the checkpoint's server, too, had its keys in the order that this one has."""
        return self._seeds.is_as_in_checkpoint(found.hash_seed)

    def _is_heir(self, found: steps.Connected) -> bool:
        return heir(found.server.address) in self._heirs

    def _succeeds(self, old: steps.Target, new: steps.Target) -> bool:
        """Whether this master has only become one since the pass began, and nobody else was one in between.

        Else somebody was the master of whom it is not known since when.
        """
        return is_successor(old, new) and heir(new.address) in self._heirs

    def _contradiction(self, found: steps.Connected) -> str:
        return self._seeds.contradiction(found.server, found.hash_seed) if found.hash_seed is not None else ""

    # ---- a pass begins ------------------------------------------------------------------------------------------

    def _begin_pass(self, found: steps.Connected, *, cursor: int, cursors: Sequence[int | None] = ()) -> None:
        if self.options.hash_seed_shared and not self._heirs:
            self._heirs = frozenset(map(heir, (found.server.address, *found.role.replicas)))
        self._bind_sweep(found, cursor=cursor, cursors=cursors)
        self._note_binding(anew=True)
        self._patience.bound()
        self._account.bound(found.server)

    def _bind_sweep(
        self, found: steps.Connected, *, cursor: int = 0, cursors: Sequence[int | None] = (), moves: bool = False
    ) -> None:
        """The pass is on this process from now on."""
        form = CursorFormat.UNKNOWN if self._format_distrusted else self._format_at(found)
        self._sweep = Sweep(self.options, found.server, found.role, form, cursor=cursor, cursors=cursors)
        if found.hash_seed is not None:
            self._seeds.release = found.hash_seed.release
        config_epoch = self._target.config_epoch if self._target is not None else None
        role = found.role.kind
        facts = PassFacts(
            self.options.scope,
            self.epoch,
            found.server,
            role,
            config_epoch,
            form,
            self._seeds.check,
            self._heirs,
            self.options.lane,
        )
        self._marks.bound(facts, self._sweep.cursors, moves=moves)

    def _format_at(self, found: steps.Connected) -> CursorFormat:
        return found.cursor_format

    def _cannot_resume(self, resume: Checkpoint, found: steps.Connected) -> str:
        """Why the checkpoint's cursors are not good here, in words; "" if they are."""
        if not found.server.is_same_process(resume.server):
            if self.options.hash_seed_shared:
                return self._has_no_claim(resume, found)
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

    def _has_no_claim(self, resume: Checkpoint, found: steps.Connected) -> str:
        """Why this server, whose keys are in the same order, cannot go on with the checkpoint's pass; "" if it can."""
        then = resume.server
        assert then is not None
        assert self._target is not None
        if not self._is_as_in_checkpoint(found):
            return "the checkpoint is of another process, of another release, or was made without hash_seed_shared"
        if resume.form not in {found.cursor_format, CursorFormat.UNKNOWN}:
            return "the checkpoint has cursors of another kind than the server that answers now"
        if heir(found.server.address) not in resume.heirs:
            return "the server that answers now was no replica when the pass of the checkpoint began"
        at = steps.Target(then.address, resume.config_epoch)
        if at.config_epoch != self._target.config_epoch and not is_successor(at, self._target):
            return "there may have been other masters since the checkpoint, with keys that its server never had"
        return ""

    def _go_on(self, resume: Checkpoint, found: steps.Connected) -> None:
        self._format_distrusted = resume.form is CursorFormat.UNKNOWN
        self._heirs = resume.heirs
        self._begin_pass(found, cursor=0, cursors=resume.cursors)

    # ---- a pass is left -----------------------------------------------------------------------------------------

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
        self._bind_sweep(found, cursors=sweep.cursors, moves=True)
        # Committed, and not to be fetched again: the new server tells of their keys what the old one had not told yet.
        self._bound.details = sweep.details

    def _another_process(self, found: steps.Connected) -> str:
        if self._may_go_on_elsewhere:
            return (
                "another process answers, of another release or with other cursors than the one before"
                if self._is_heir(found)
                else "another server answers that was no replica when the pass began"
            )
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
        self._heirs = frozenset()
        self._in_hand.clear()
        self._waiting = 0
        self._marks.cleared(self.epoch)

    # ---- the end ------------------------------------------------------------------------------------------------

    def _complete(self, certificate: Certificate, now: float) -> None:
        self.certificate = certificate
        self._account.ended(now)
        self._move(Event.HELD)

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

    def _hold_connection(self) -> None:
        self.connected = True

    def _suspect_failover(self) -> None:
        self.suspects_failover = True

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
