# Generated from _trio/scan.py by `nox -s anyio`: change that file, never this one.
"""The scan's two tasks: one that hears of another master, one that produces pages. Neither decides anything.

Both run in the scan's task group. The listener waits for the Sentinels' view to move, and aborts what is under way. The
producer does the plan's steps: every wait on a server happens inside the abort scope, and the hand-over of a page to
the memory stream never does.
"""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol

import anyio
import anyio.abc
import anyio.lowlevel

from .._core import scan_steps as steps
from .._core.certificate import Evidence, Undecided
from .._core.collection import KeyFound, knows_novalues, read_size
from .._core.collection_plan import CollectionPlan
from .._core.errors import (
    ClientClosed,
    SentinelScanError,
)
from .._core.handshake import unfit_for_scanning
from .._core.hash_seed import HASH_SEED_REQUEST, read_hash_seed
from .._core.scan_failures import lost_by
from .._core.scan_plan import ScanPlan
from .._core.scan_replies import STANDING, read_scan_replies, read_standing
from .._core.scan_states import State
from .._core.seen_keys import lent_to_a_scan
from .._core.summary import KeyT_co, ScanPage, ScanSummary
from . import streams
from .home_loop import HomeLoop
from .task_groups import open_service_task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from .._core.identity import Address, Role
    from .._core.scan_options import ScanOptions
    from .._core.scan_replies import ScanReply
    from .._core.topology import Votes
    from .._core.topology_state import TopologyState
    from .._core.wire import Reply
    from .connection import Connection
    from .telemetry import ScanTelemetry, Telemetry

__all__ = ["ScanPages", "ScanSource", "open_scan"]

logger: logging.Logger = logging.getLogger("trio_sentinel_scan.scan")


class ScanSource(Protocol):
    """What a scan needs of its client."""

    # Whether only a master will do.
    wants_master: bool
    failover_timeout: float
    # Callbacks for whenever `view` has moved.
    on_change: set[Callable[[], None]]
    # Callbacks for when the client closes.
    on_stop: set[Callable[[], None]]
    # Who is told of scans; None for nobody.
    telemetry: Telemetry | None

    @property
    def view(self) -> steps.Target | TopologyState:
        """The server to scan, as the Sentinels (or the caller) have it now; or the service to choose one from."""
        ...

    def locate(self) -> steps.Target | TopologyState:
        """The same, as new as can be."""
        ...

    async def connect(self, target: steps.Target) -> Connection:
        """A new connection to it, through the handshake."""
        ...

    async def vote(self, target: steps.Target) -> Votes | None:
        """The Sentinels' votes on it, asked now; None where there are no Sentinels."""
        ...

    async def ask_role(self, address: Address) -> Role | None:
        """Another server's role by its own word; None if it does not say."""
        ...

    def look_again(self) -> None:
        """The target may have been replaced: find out soon."""
        ...

    def describe_sentinels(self) -> dict[str, str]:
        """Each Sentinel and what came of asking it."""
        ...


class Scan:
    """One scan under way: the plan, and the two tasks that carry it out."""

    def __init__(self, options: ScanOptions, source: ScanSource, plan_class: type[ScanPlan] | None = None) -> None:
        self._collection = options.collection
        if plan_class is None:
            plan_class = ScanPlan if self._collection is None else CollectionPlan
        self.plan: ScanPlan = plan_class(
            options,
            failover_timeout=source.failover_timeout,
            now=streams.current_time(),
            jitter=random.random,
        )
        self._read_replies: Callable[[Sequence[Reply], Address], Sequence[ScanReply]] = (
            partial(read_scan_replies, details=options.with_ is not None)
            if self._collection is None
            else self._collection.read_replies
        )
        self._source = source
        self._connection: Connection | None = None
        # Around the producer's present wait on a server; None while it waits for none.
        self._abort: anyio.CancelScope | None = None
        # Set, and replaced, when a page was taken.
        self._taken = anyio.Event()
        self._view_moved = anyio.Event()
        # What the log and OpenTelemetry have been told of.
        self._told_epoch = self.plan.epoch
        self._told_moves = 0
        self._telemetry = self._begin_telemetry(source, options.command)

    def _begin_telemetry(self, source: ScanSource, command: str) -> ScanTelemetry | None:
        return None if source.telemetry is None else source.telemetry.scan(command)

    # ---- the consumer's side: synchronous -----------------------------------------------------------------------

    def take(self, page: ScanPage[Any]) -> ScanPage[Any] | None:
        """What of a page that came out of the memory stream is to be handed out; None for nothing."""
        # The listener may not have run yet; what is known is known.
        self.notice_change()
        taken = self.plan.take(page, streams.current_time())
        if self.plan.all_taken:
            self._taken.set()
            self._taken = anyio.Event()
        return taken

    def notice_change(self) -> None:
        """If the Sentinels tell now that what is under way is void: abort the wait on the server that it was on."""
        if self.plan.heard(self._source.view, streams.current_time()) and self._abort is not None:
            self._abort.cancel(reason="the Sentinels name another server")
        self._tell_restarts()

    def end(self) -> None:
        """The client is closing: nobody tells of another master any more, nor confirms the one that is scanned."""
        self.plan.abandon(ClientClosed("the client was closed, and its scans with it"), streams.current_time())
        if self._abort is not None:
            self._abort.cancel(reason="the client was closed")

    def _tell_moves(self) -> None:
        summary = self.plan.summary(streams.current_time())
        if summary.moves != self._told_moves:
            self._told_moves = summary.moves
            logger.info("the scan goes on at %s, epoch %d: hash_seed_shared=True", summary.server, summary.epoch)

    def _tell_restarts(self) -> None:
        if self.plan.epoch == self._told_epoch:
            return
        for restart in self.plan.summary(streams.current_time()).restarts[self._told_epoch - self.plan.first_epoch :]:
            logger.info(
                "the scan begins again at cursor 0, epoch %d: %s (it was on %s)",
                restart.epoch,
                restart.reason,
                restart.old_server or "no server yet",
            )
            if self._telemetry is not None:
                self._telemetry.restarted(restart)
        self._told_epoch = self.plan.epoch

    def closed(self) -> None:
        """The block was left; the account is closed."""
        now = streams.current_time()
        self.plan.closed(now)
        self._tell_restarts()
        summary = self.plan.summary(now)
        logger.debug(
            "the scan %s after %d keys in %.3f s, epoch %d%s",
            "is complete" if summary.complete else "ended early",
            summary.keys,
            summary.elapsed,
            summary.epoch,
            "" if self.plan.error is None else f" ({type(self.plan.error).__name__})",
        )
        if self._telemetry is not None:
            self._telemetry.ended(summary, self.plan.error)

    # ---- the listener -------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """React to each move of the view."""
        self._source.on_change.add(self._wake_listener)
        try:
            while True:
                moved = self._view_moved
                self.notice_change()
                await moved.wait()
        finally:
            self._source.on_change.discard(self._wake_listener)

    def _wake_listener(self) -> None:
        self._view_moved.set()
        self._view_moved = anyio.Event()

    # ---- the producer -------------------------------------------------------------------------------------------

    async def produce(self, send_stream: streams.SendStream[ScanPage[Any]]) -> None:
        """Do the plan's steps until it has ended, then close the memory stream; the plan says what that end means."""
        async with send_stream:
            try:
                while not isinstance(step := await self._work(), steps.Finish):
                    if self.plan.handing_over(step):
                        try:
                            # With room in it there is nothing to wait for, and the next reply is due.
                            send_stream.send_nowait(step.page)
                        except anyio.WouldBlock:
                            await send_stream.send(step.page)
                await anyio.lowlevel.checkpoint()
            except anyio.BrokenResourceError:
                # Every consumer has closed its end: nobody is left to scan for.
                return
            except Exception as error:  # noqa: BLE001 (whatever it is, the consumer must hear of it)
                self.plan.crashed(error, streams.current_time())
            finally:
                await self._disconnect()  # noqa: ASYNC102 (closing is shielded, and takes no time)

    async def _work(self) -> steps.HandOver | steps.Finish:  # noqa: ASYNC910 (the steps wait)
        """Do the steps that are inside the abort scope, up to one that is not."""
        while True:
            # One scope for as many steps as there are in a row, for one costs as much as reading a page does.
            with anyio.CancelScope() as abort:
                self._abort = abort
                try:
                    while not abort.cancel_called:
                        step = self.plan.next_step(streams.current_time())
                        if isinstance(step, (steps.HandOver, steps.Finish)):
                            return step
                        await self._do(step)
                finally:
                    self._abort = None
            await self._disconnect_if_lost()

    async def _do(self, step: steps.Step) -> None:  # noqa: ASYNC910 (each step waits)
        try:
            outcome = await self._outcome_of(step)
        except (SentinelScanError, UnicodeDecodeError) as error:
            outcome = lost_by(error, self.plan.summary(streams.current_time()))
        # What has become known while this was under way comes first: a certificate is not held against it.
        self.notice_change()
        self.plan.report(step, outcome, streams.current_time())
        if isinstance(outcome, steps.Connected):
            self._tell_moves()
        if self.plan.suspects_failover:
            self.plan.suspects_failover = False
            self._source.look_again()
        self._tell_restarts()
        await self._disconnect_if_lost()

    async def _disconnect_if_lost(self) -> None:  # noqa: ASYNC910 (closing nothing takes no time)
        if not self.plan.connected:
            await self._disconnect()

    async def _outcome_of(self, step: steps.Step) -> steps.Outcome:
        match step:
            case steps.Locate():
                await anyio.lowlevel.checkpoint()
                return steps.Located(self._source.locate())
            case steps.Connect():
                return await self._connect(step)
            case steps.Ask(_, data, replies):
                await self._held.send_encoded(data, replies)
                return steps.Asked()
            case steps.Receive():
                held = self._held
                found, waited = await held.receive_ready()
                return steps.Answered(self._read_replies(found, held.address), waited)
            case steps.Rest(_, seconds):
                await anyio.sleep(seconds)
                return steps.Rested()
            case steps.AwaitTaken():
                while not self.plan.all_taken:
                    await self._taken.wait()
                await anyio.lowlevel.checkpoint()
                return steps.Taken()
            case steps.Certify():
                return await self._gather_evidence(step)
            case _:
                raise AssertionError(step)

    @property
    def _held(self) -> Connection:
        assert self._connection is not None
        return self._connection

    async def _connect(self, step: steps.Connect) -> steps.Outcome:
        await self._disconnect()
        with anyio.CancelScope(deadline=step.until):
            connection = self._connection = await self._source.connect(step.target)
            greeting = connection.greeting
            assert greeting is not None
            unfit = unfit_for_scanning(
                greeting.role,
                step.target.address,
                wants_master=self._source.wants_master and not step.target.is_replica,
                wants_replica=step.target.is_replica,
            )
            seed = None
            if self.plan.options.hash_seed_shared:
                (reply,) = await connection.request(HASH_SEED_REQUEST, decode=False)
                seed = read_hash_seed(reply, greeting.info, connection.address)
            key = None
            if self._collection is not None:
                (reply,) = await connection.request(self._collection.size_request, decode=False)
                key = KeyFound(read_size(reply, connection.address), knows_novalues(greeting.info))
            return steps.Connected(greeting.identity, greeting.role, greeting.cursor_format, unfit, seed, key)
        return steps.Lost(f"{step.target.address} did not take a connection")

    async def _gather_evidence(self, step: steps.Certify) -> Evidence | Undecided:
        connection = self._held
        asked = STANDING if self._collection is None else (*STANDING, self._collection.size_request)
        replies = await connection.request(*asked, decode=False)
        size = None if self._collection is None else read_size(replies.pop(), connection.address)
        standing = read_standing(replies, step.role_before)
        if isinstance(standing, str):
            return Undecided(standing)
        run_id, role = standing
        # A replica that is missing may have become the master; one that is merely away says nothing.
        promoted: list[Address] = []
        for replica in sorted(step.role_before.replicas - role.replicas):
            its_role = await self._source.ask_role(replica)
            if its_role is not None and its_role.kind == "master":
                promoted.append(replica)
        votes = await self._source.vote(step.target) if step.basis == "sentinels" else None
        return Evidence(
            run_id=run_id,
            role=role,
            promoted=tuple(promoted),
            votes=votes,
            config_epoch=step.target.config_epoch,
            sentinels=self._source.describe_sentinels(),
            size=size,
        )

    async def _disconnect(self) -> None:  # noqa: ASYNC910 (closing nothing takes no time)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()


class ScanPages(anyio.abc.ObjectReceiveStream[ScanPage[KeyT_co]], Generic[KeyT_co]):
    """What a scan brings, page by page: ``async for page in pages``.

    The end of the iteration means that the scan is complete, and nothing else does: every other end is raised, as a
    `ScanError` or a connection's error, by the next `receive`.
    """

    def __init__(
        self,
        scan: Scan,
        receive_stream: streams.ReceiveStream[ScanPage[KeyT_co]],
        home: HomeLoop | None = None,
    ) -> None:
        """`home` is the loop of the scan, if that need not be this one."""
        self._scan = scan
        self._home = home or HomeLoop()
        self._receive_stream = receive_stream
        # What this end's consumer is working on: handed out, and the next one not asked for yet.
        self._at_work: ScanPage[KeyT_co] | None = None

    async def receive(self) -> ScanPage[KeyT_co]:
        """The next page.

        Raises `anyio.EndOfStream` when the scan is complete, and otherwise what made it end: `ScanInterrupted`,
        `ScanRestartsExhausted`, `ScanNotCertified`, `ScanStuck`, `ScanRefused`, `HashSeedMismatch`, `CollectionGone`,
        `CollectionChanged` (each a `ScanError`, as is by itself that a filter given as `dedupe` failed),
        `ServerUnavailable`, `NoReplicaAvailable`, `AuthenticationFailed`, `ProtocolError`, `ConfigError` (a server
        without the database), `ClientClosed`. `anyio.ClosedResourceError` if this end was closed. `WrongEventLoop` in
        another loop than the scan's, which goes on.
        """
        self._home.check("a scan")
        if self._at_work is not None:
            self._scan.plan.done_with(self._at_work)
            self._at_work = None
        while True:
            self._scan.notice_change()
            self._raise_failure()
            try:
                page = await self._receive_stream.receive()
            except anyio.EndOfStream:
                if self._scan.plan.state is State.COMPLETE:
                    raise
            else:
                self._at_work = self._scan.take(page)
                if self._at_work is not None:
                    return self._at_work
                continue
            # Raised out here, a failure does not come with an EndOfStream that it had nothing to do with.
            self._raise_failure()
            # The scan's block was left under this task's feet: no end of ours, and no completeness.
            raise anyio.ClosedResourceError

    @property
    def summary(self) -> ScanSummary:
        """The account of the scan up to now; still there when the scan is over."""
        return self._scan.plan.summary(streams.current_time())

    def checkpoint(self) -> str:
        """A text that a later scan can go on from (`resume`), behind all pages whose consumers have done with them.

        A consumer has done with a page when it asks for the next one; so a crash in the middle of a page brings that
        page again. (`page.checkpoint` includes the page itself.) With a `dedupe` that outlives the process, what it
        has marked is committed first.
        """
        return self._scan.plan.checkpoint

    def clone(self) -> ScanPages[KeyT_co]:
        """Another receiving end of the same scan: each page goes to one of them. Each is to be closed."""
        return ScanPages(self._scan, self._receive_stream.clone(), self._home)

    async def aclose(self) -> None:
        """Close this end. When the last one is closed, the scan stops."""
        await self._receive_stream.aclose()

    def _raise_failure(self) -> None:
        error = self._scan.plan.error
        if error is not None:
            raise error.with_traceback(None)

    def __repr__(self) -> str:
        return f"<ScanPages of {self._scan.plan!r}>"


@asynccontextmanager
async def open_scan(
    options: ScanOptions, source: ScanSource, make: Callable[[], Scan] | None = None
) -> AsyncGenerator[ScanPages[Any]]:
    """Run a scan for as long as the block lasts; `make` gives one of another kind."""
    with lent_to_a_scan(options.dedupe):
        async with open_service_task_group() as task_group:
            # (In here: what is made before a wait is not closed if that is cancelled.)
            scan = Scan(options, source) if make is None else make()
            send_stream, receive_stream = streams.open_memory_stream[ScanPage[Any]](options.prefetch)
            pages: ScanPages[Any] = ScanPages(scan, receive_stream)
            source.on_stop.add(scan.end)
            task_group.start_soon(scan.listen)
            task_group.start_soon(scan.produce, send_stream)
            try:
                with receive_stream:
                    yield pages
            finally:
                source.on_stop.discard(scan.end)
                scan.closed()
