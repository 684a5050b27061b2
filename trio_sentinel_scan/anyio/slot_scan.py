# Generated from _trio/slot_scan.py by `nox -s anyio`: change that file, never this one.
"""Scans of one hash, set or sorted set in a cluster: at the owner of the key's slot, whoever that is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
from redis.exceptions import RedisError

from .._core import scan_steps as steps
from .._core.certificate import Evidence, Undecided
from .._core.cluster_standing import Standing
from .._core.cluster_work import read_redirection
from .._core.collection_options import checked_cluster_collection
from .._core.errors import ServerConnectionError
from .._core.scan_steps import Target
from .._core.slot_collection import SlotCollectionPlan
from .._core.slots import slot_of
from .collection_scans import CollectionScans
from .scan import Scan, ScanPages, open_scan
from .sources import NodeSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from .._core.collection import CollectionType
    from .._core.collection_options import CollectionScanOptions
    from .._core.config import ClientSettings
    from .._core.scan_options import ScanOptions
    from .cluster_monitor import ClusterMonitor
    from .cluster_router import ClusterRouter
    from .scan import ScanSource
    from .telemetry import ScanTelemetry

__all__ = ["ClusterCollectionScans", "SlotOwner"]


class SlotOwner(NodeSource):
    """The master that has a slot, by the map."""

    wants_master = True
    # As in `NodeSource`: what is assigned here, too, type checkers want to be told of here, too.
    target: Target
    on_change: set[Callable[[], None]]
    on_stop: set[Callable[[], None]]

    def __init__(self, settings: ClientSettings, monitor: ClusterMonitor, slot: int, *, asks_masters: bool) -> None:
        """`asks_masters`: whether a majority of them must name it the owner, too."""
        owner = monitor.map.owner(slot)
        # (Nobody is asked at an address that no owner has: `located` sees to that.)
        super().__init__(settings, monitor, monitor.views.seeds[0] if owner is None else owner.address)
        self.on_change = monitor.on_change
        self.on_stop = monitor.on_stop
        self.slot: int = slot
        self.asks_masters: bool = asks_masters

    @property
    def view(self) -> Target:
        """The owner; while there is none, the last one. Another version, whenever the slot may have been another's."""
        owner = self.monitor.map.owner(self.slot)
        if owner is not None and owner.address != self.target.address:
            self.target = Target(owner.address, version=self.target.version + 1)
        return self.target

    @property
    def node_id(self) -> str:
        """The target's name."""
        node = self.monitor.map.at(self.target.address)
        return "" if node is None else node.node_id

    async def located(self) -> Target:  # noqa: ASYNC910 (without a survey to be waited for, connecting waits)
        """The owner, with its config epoch. Raises ServerConnectionError if there is none, or none to rely on."""
        standing = Standing(await self.monitor.survey()) if self.asks_masters else None
        target = self.view
        if self.monitor.map.owner(self.slot) is None:
            self.look_again()
            raise ServerConnectionError(f"slot {self.slot} has no owner")
        if standing is None:
            return target  # noqa: ASYNC910 (as above)
        epoch = standing.epoch(self.node_id)
        if epoch is None or not standing.own(self.node_id) >> self.slot & 1:
            self.look_again()
            raise ServerConnectionError(f"no majority of the masters names {target.address} owner of slot {self.slot}")
        if target.config_epoch != epoch:
            again = target.config_epoch is not None
            self.target = replace(target, config_epoch=epoch, version=target.version + again)
        return self.target  # noqa: ASYNC910 (as above)

    def told(self, error: RedisError) -> None:
        """The node has answered this in place of a reply: it may not be the one to ask."""
        found = read_redirection(error, self.target.address)
        if found is not None and not found.is_ask and found.slot == self.slot:
            self.monitor.moved(found.slot, found.address)
        self.look_again()


class SlotScan(Scan):
    """One scan under way."""

    def __init__(self, options: ScanOptions, source: SlotOwner) -> None:
        super().__init__(options, source, SlotCollectionPlan)
        self._owner = source

    def _begin_telemetry(self, source: ScanSource, command: str) -> ScanTelemetry | None:
        assert isinstance(source, SlotOwner)
        return None if source.telemetry is None else source.telemetry.scan(command, source.target.address)

    async def _outcome_of(self, step: steps.Step) -> steps.Outcome:
        if isinstance(step, steps.Locate):
            target = await self._owner.located()
            await anyio.lowlevel.checkpoint()
            return steps.Located(target)
        outcome = await super()._outcome_of(step)
        if isinstance(outcome, steps.Connected) and outcome.key is not None:
            self._hear((outcome.key.size,))
        elif isinstance(outcome, steps.Answered):
            self._hear(outcome.replies)
        return outcome

    async def _gather_evidence(self, step: steps.Certify) -> Evidence | Undecided:
        evidence = await super()._gather_evidence(step)
        if isinstance(evidence, Undecided):
            return evidence
        self._hear((evidence.size,))
        if not self._owner.asks_masters:
            return evidence
        # After all else: it tells of all the time up to now.
        standing = Standing(await self._owner.monitor.survey())
        return replace(evidence, standing=standing, node_id=self._owner.node_id)

    def _hear(self, replies: Any) -> None:
        for reply in replies:
            if isinstance(reply, RedisError):
                self._owner.told(reply)


class ClusterCollectionScans(CollectionScans):
    """`open_hscan`, `open_sscan`, `open_zscan` of a client of a cluster."""

    _monitor: ClusterMonitor
    _router: ClusterRouter

    def _open(
        self,
        type_: CollectionType,
        key: object,
        match: object,
        count: object,
        options: CollectionScanOptions,
        *,
        no_values: object = False,
    ) -> AbstractAsyncContextManager[ScanPages[Any]]:
        checked, asks_masters = checked_cluster_collection(
            type_, key, match=match, count=count, no_values=no_values, encoding=self._settings.encoding, **options
        )
        self._check_open()
        assert checked.collection is not None
        slot = slot_of(checked.collection.key)
        source = SlotOwner(self._settings, self._monitor, slot, asks_masters=asks_masters)
        source.observe(self._router.telemetry)
        return self._at_home(open_scan(checked, source, lambda: SlotScan(checked, source)))
