"""The scan of a whole cluster: one task that asks the masters, and one for each lane. None of them decides anything.

A lane is a scan of one node, with a connection of its own. All lanes send into one memory channel; what comes out of it
is taken at the lane that it came from.
"""

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

import trio
from redis.exceptions import RedisError

from .._core import cluster_steps as steps
from .._core.cluster_options import checked_cluster_scan
from .._core.cluster_plan import ClusterPlan
from .._core.errors import AuthenticationFailed, ClientClosed, ServerConnectionError
from .._core.lane_plan import LanePlan, lane_options
from .._core.replies import as_text
from .._core.scan_states import FINAL
from .._core.scan_steps import Target
from .._core.seen_keys import lent_to_a_scan
from .._core.summary import ScanPage
from .._core.verdicts import Verdict, error_code, verdict_of
from .nurseries import open_service_nursery
from .scan import Scan, ScanPages
from .sources import NodeSource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from .._core.cluster_options import ClusterScanOptions
    from .._core.config import AddressLike, ClientSettings
    from .._core.scan_options import ScanOptions
    from .._core.seen_keys import SeenKeys
    from .cluster_monitor import ClusterMonitor
    from .cluster_router import ClusterRouter
    from .connection import Connection
    from .scan import ScanSource
    from .telemetry import Telemetry

__all__ = ["ClusterScan", "ClusterScans", "open_cluster_scan"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("trio_sentinel_scan.scan")

_MYID: Final = ("CLUSTER", "MYID")


class _LaneSource(NodeSource):
    """One node, as a lane has it."""

    wants_master = True

    def __init__(
        self,
        settings: ClientSettings,
        monitor: ClusterMonitor,
        telemetry: Telemetry | None,
        step: steps.Begin,
        look: Callable[[], None],
    ) -> None:
        # Which slot a key is in is told by its bytes.
        super().__init__(replace(settings, decode_responses=False), monitor, step.address)
        self.observe(telemetry)
        self.target = Target(step.address, step.config_epoch, is_replica=step.is_replica)
        self._node_id = step.lane.node_id
        self._look = look

    async def connect(self, target: Target) -> Connection:
        try:
            connection = await super().connect(target)
        except BaseException:
            self._look()
            raise
        try:
            await self._meet(connection, is_replica=target.is_replica)
        except BaseException:
            await connection.aclose()  # noqa: ASYNC102 (closing is shielded, and takes no time)
            self.look_again()
            raise
        return connection

    async def _meet(self, connection: Connection, *, is_replica: bool) -> None:
        """See that it is the node that the masters have told of: addresses change hands, and a sweep of another node
        would be judged by what was said of this one.
        """
        # Without READONLY a replica sends whoever asks about a key to its master.
        told, *_ = await connection.request(_MYID, *[("READONLY",)] * is_replica, decode=False)
        if isinstance(told, RedisError):
            if verdict_of(told) is Verdict.UNAUTHENTICATED or error_code(told) == "NOPERM":
                raise AuthenticationFailed(f"{connection.address} refuses CLUSTER MYID: {told}")
            raise ServerConnectionError(f"{connection.address} does not say which node it is: {told}")
        if (node_id := as_text(told)) != self._node_id:
            raise ServerConnectionError(
                f"{connection.address} is node {node_id[:8]} now, and not node {self._node_id[:8]}"
            )

    def look_again(self) -> None:
        super().look_again()
        self._look()


class LaneScan(Scan):
    """One lane under way."""

    def __init__(self, options: ScanOptions, source: ScanSource) -> None:
        super().__init__(options, source, LanePlan)
        assert isinstance(self.plan, LanePlan)
        self.lane_plan: LanePlan = self.plan

    def _begin_telemetry(self, source: ScanSource, command: str) -> None:
        """The scan of the whole cluster is one span."""

    def leave(self, reason: str) -> None:
        """Its node is not the one to sweep any more."""
        self.lane_plan.leave(reason, trio.current_time())
        self._abort_wait(reason)

    def stop(self) -> None:
        """The whole scan has ended."""
        self.plan.abandon(ClientClosed("the scan has ended, and its lanes with it"), trio.current_time())
        self._abort_wait("the scan has ended")

    def _abort_wait(self, reason: str) -> None:
        if self._abort is not None:
            self._abort.cancel(reason=reason)


class ClusterScan:
    """One scan under way: the plan, and what carries it out. To `ScanPages` it is a `Scan`."""

    def __init__(
        self,
        options: ClusterScanOptions,
        settings: ClientSettings,
        monitor: ClusterMonitor,
        telemetry: Telemetry | None,
    ) -> None:
        self.plan: ClusterPlan = ClusterPlan(
            options, failover_timeout=settings.failover_timeout, now=trio.current_time()
        )
        self._settings = settings
        self._monitor = monitor
        # The lanes under way, by their number.
        self._lanes: dict[int, LaneScan] = {}
        # Set, and replaced, when the plan may have something to do.
        self._woken = trio.Event()
        # Nobody is left to scan for.
        self._is_deserted = False
        # What the log and OpenTelemetry have been told of: so many restarts; the end.
        self._told_restarts = 0
        self._is_told = False
        # For the lanes' connections; and for this scan itself.
        self._clients_telemetry = telemetry
        self._telemetry = None if telemetry is None else telemetry.scan("SCAN")

    # ---- the consumer's side: synchronous -----------------------------------------------------------------------

    def take(self, page: ScanPage[Any]) -> ScanPage[Any] | None:
        """What of a page that came out of the memory channel is to be handed out; None for nothing."""
        assert page.mark is not None
        lane = page.mark.facts.lane
        assert lane is not None
        scan = self._lanes.get(lane.number)
        # Of a lane that is over, everything was taken, or it is void.
        found = None if scan is None else scan.take(page)
        if found is not None:
            found = self.plan.take(found, lane, trio.current_time())
            self._wake_if_over()
        return found

    def notice_change(self) -> None:
        """What is known of changes was told to the lanes already."""

    def look(self) -> None:
        """The map has changed, or a lane is in trouble."""
        self.plan.look()
        self._wake()

    def end(self) -> None:
        """The client is closing."""
        self.plan.abandon(ClientClosed("the client was closed, and its scans with it"), trio.current_time())
        self._wake_if_over()

    def closed(self) -> None:
        """The block was left; the account is closed."""
        now = trio.current_time()
        self.plan.closed(now)
        self._tell_restarts()
        summary = self.plan.summary(now)
        logger.debug(
            "the scan of the cluster %s after %d keys in %.3f s, epoch %d%s",
            "is complete" if summary.complete else "ended early",
            summary.keys,
            summary.elapsed,
            summary.epoch,
            "" if self.plan.error is None else f" ({type(self.plan.error).__name__})",
        )
        if self._telemetry is not None:
            self._telemetry.ended(summary, self.plan.error)
        self._is_told = True

    def _tell_restarts(self) -> None:
        # (A lane may come to its end after the block was left, and the account is closed.)
        if self._is_told:
            return
        restarts = self.plan.summary(trio.current_time()).restarts
        for restart in restarts[self._told_restarts :]:
            logger.info("%s of node %s: swept again, epoch %d", restart.reason, restart.node, restart.epoch)
            if self._telemetry is not None:
                self._telemetry.restarted(restart)
        self._told_restarts = len(restarts)

    def _wake(self) -> None:
        self._woken.set()
        self._woken = trio.Event()

    def _wake_if_over(self) -> None:
        if self.plan.state in FINAL:
            self._stop_lanes()
            self._wake()

    def _stop_lanes(self) -> None:
        for scan in self._lanes.values():
            scan.stop()

    # ---- the conductor ------------------------------------------------------------------------------------------

    async def conduct(self, nursery: trio.Nursery, send_channel: trio.MemorySendChannel[ScanPage[Any]]) -> None:
        """Do the plan's steps until it has ended; the lanes run in the nursery."""
        self._monitor.on_change.add(self.look)
        async with send_channel:
            try:
                while not self._is_deserted:
                    woken = self._woken
                    step = self.plan.next_step(trio.current_time())
                    if isinstance(step, steps.End):
                        break
                    await self._do(step, woken, nursery, send_channel)
                await trio.lowlevel.checkpoint()
            except Exception as error:  # noqa: BLE001 (whatever it is, the consumer must hear of it)
                self.plan.crashed(error, trio.current_time())
            finally:
                self._monitor.on_change.discard(self.look)
                self._stop_lanes()

    async def _do(  # noqa: ASYNC910 (what does not wait only tells a lane, or starts it)
        self,
        step: steps.Step,
        woken: trio.Event,
        nursery: trio.Nursery,
        send_channel: trio.MemorySendChannel[ScanPage[Any]],
    ) -> None:
        match step:
            case steps.TakeSurvey():
                survey = await self._monitor.survey()
                self.plan.surveyed(survey, self._monitor.map, trio.current_time())
                self._tell_restarts()
                self._wake_if_over()
            case steps.Begin():
                self._begin(step)
                nursery.start_soon(self._run, step.lane.number, send_channel.clone())
            case steps.Leave(number, reason):
                if (scan := self._lanes.get(number)) is not None:
                    scan.leave(reason)
            case steps.Wait(seconds) if seconds == math.inf:
                await woken.wait()
            case steps.Wait(seconds):
                with trio.move_on_after(seconds):
                    await woken.wait()
            case _:
                raise AssertionError(step)

    def _begin(self, step: steps.Begin) -> None:
        lane = step.lane
        logger.debug("lane %d of the scan: %d slots at %s", lane.number, lane.slots.bit_count(), step.address)
        options = lane_options(self.plan.options.scan, lane, step.resume)
        source = _LaneSource(self._settings, self._monitor, self._clients_telemetry, step, self.look)
        scan = LaneScan(options, source)
        self._lanes[lane.number] = scan
        self.plan.began(lane.number, scan.lane_plan)

    async def _run(self, number: int, send_channel: trio.MemorySendChannel[ScanPage[Any]]) -> None:
        scan = self._lanes[number]
        await scan.produce(send_channel)
        del self._lanes[number]
        if scan.lane_plan.is_over:
            self.plan.lane_over(number, trio.current_time())
            self._tell_restarts()
        else:
            self._is_deserted = True
        self._wake_if_over()
        self._wake()


@asynccontextmanager
async def open_cluster_scan(
    options: ClusterScanOptions,
    settings: ClientSettings,
    monitor: ClusterMonitor,
    telemetry: Telemetry | None,
) -> AsyncGenerator[ScanPages[Any]]:
    """Run a scan of a cluster for as long as the block lasts."""
    with lent_to_a_scan(options.scan.dedupe):
        async with open_service_nursery() as nursery:
            # (In here: what is made before a wait is not closed if that is cancelled.)
            scan = ClusterScan(options, settings, monitor, telemetry)
            send_channel, receive_channel = trio.open_memory_channel[ScanPage[Any]](options.scan.prefetch)
            # It has all of a scan that pages use.
            pages: ScanPages[Any] = ScanPages(cast("Scan", scan), receive_channel)
            monitor.on_stop.add(scan.end)
            nursery.start_soon(scan.conduct, nursery, send_channel)
            try:
                with receive_channel:
                    yield pages
            finally:
                monitor.on_stop.discard(scan.end)
                scan.closed()


class ClusterScans:
    """The scans of a client of a cluster."""

    _settings: ClientSettings
    _monitor: ClusterMonitor
    _router: ClusterRouter

    def _check_open(self) -> None:
        raise NotImplementedError

    def _at_home(self, block: AbstractAsyncContextManager[T]) -> AbstractAsyncContextManager[T]:
        raise NotImplementedError

    def open_scan(
        self,
        match: str | bytes | None = None,
        count: int | None = None,
        type_: str | None = None,
        *,
        cursor: int | str = 0,
        node: AddressLike | None = None,
        max_nodes_at_once: int = 8,
        on_failover: Literal["restart", "raise"] = "restart",
        max_restarts: int = 10,
        prefetch: int = 2,
        certify: Literal["masters", "sentinels", "role"] = "masters",
        segments: int | Literal["auto"] = "auto",
        duty: float = 1.0,
        page_size: int | None = None,
        dedupe: bool | SeenKeys = False,
        resume: str | None = None,
        extra_args: Sequence[str | bytes] = (),
        hash_seed_shared: bool = False,
        with_: Iterable[Literal["type", "ttl", "memory", "idle", "freq"]] = (),
        read_from: Literal["master", "replica"] = "master",
        fallback: Literal["master"] | None = None,
        allow_uncovered: bool = False,
    ) -> AbstractAsyncContextManager[ScanPages[Any]]:
        """Iterate the keys of all masters at once, without losing one while slots move and masters fail over.

        ::

            async with client.open_scan(match="user:*") as pages:
                async for page in pages:
                    for key in page: ...  # page.node is where they came from

        The end of the iteration means that every key that was there all the time was handed out at least once: each of
        the 16,384 slots was swept while one node had it, or, where it was on its way from one node to another, at the
        one and then at the other. Slots of which that cannot be said are swept again, in a new epoch; the rest is
        not disturbed. Every other end is an exception, raised by the next receive. Keys may come more than once, if not
        for `dedupe`.

        - `match`, `count`, `type_`, `prefetch`, `page_size`, `dedupe`: as in a client of one server. What `count`,
          `segments` and `duty` say is said of each node.
        - `cursor`: must be 0. A cursor means something only to the process that issued it.
        - `node`: scan one node alone, a master or a replica, by its id or address. Complete means complete for the
          slots that it had when the scan began and has still at its end; those that left it meanwhile are named in
          `summary.slots_let_go`. If all did, `ScanInterrupted` is raised.
        - `max_nodes_at_once`: how many nodes are scanned at once, each on a connection of its own.
        - `on_failover`: "restart" sweeps slots again whose sweep became void, wherever they are then: another process
          answers, or another node has them, or they set out or arrived meanwhile. "raise" raises `ScanInterrupted`.
        - `max_restarts`: how many times any slot may be swept again; then `ScanRestartsExhausted`.
        - `certify`: what a slot must have: "masters", a majority of the masters that names its node its owner still (or
          "sentinels", which means the same here); "role", the node's own word.
        - `resume`: a `page.checkpoint` of a scan of this cluster. Slots that were done stay done; each sweep under way
          goes on where the same process has the same slots, at the same config epoch. Else they are swept from their
          start.
        - `extra_args`, `hash_seed_shared`: cannot be used; the ConfigError says why.
        - `with_`: what is to be known of each key beside its name. A node does not say it of a key whose slot is on its
          way or has left meanwhile: then it is None.
        - `read_from`: "replica" scans a replica of each master, one that says that it is in sync. Whose slots they are
          is for the masters to say all the same. `fallback`: "master" scans the master where there is none; None
          waits for one up to `failover_timeout`, then raises `NoReplicaAvailable`.
        - `allow_uncovered`: do without slots that no node has. They are waited for up to `failover_timeout`, while the
          rest is scanned; then `summary.uncovered_slots` names them. False raises `SlotsNotCovered`.

        Raises ConfigError for an argument that cannot be, before anything is sent.
        """
        self._check_open()
        options = checked_cluster_scan(
            self._monitor.map,
            self._settings,
            match=match,
            count=count,
            type_=type_,
            cursor=cursor,
            node=node,
            max_nodes_at_once=max_nodes_at_once,
            on_failover=on_failover,
            max_restarts=max_restarts,
            prefetch=prefetch,
            certify=certify,
            segments=segments,
            duty=duty,
            page_size=page_size,
            dedupe=dedupe,
            resume=resume,
            extra_args=extra_args,
            hash_seed_shared=hash_seed_shared,
            with_=with_,
            read_from=read_from,
            fallback=fallback,
            allow_uncovered=allow_uncovered,
        )
        return self._at_home(open_cluster_scan(options, self._settings, self._monitor, self._router.telemetry))
