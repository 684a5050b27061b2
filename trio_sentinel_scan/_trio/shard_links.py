"""Carries a plan of sharded subscriptions out: a connection to each node that holds anything, or is to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from .pubsub_link import Bell, SubscriberLink
from .sources import NodeSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.config import ClientSettings
    from .._core.messages import SubscriberOptions
    from .._core.shard_node import ShardNode
    from .._core.shard_plan import ShardPlan
    from .cluster_monitor import ClusterMonitor

__all__ = ["ShardLinks"]

# Seconds from one attempt to the next to have what is wanted and not held, if nothing else calls for one.
RETRY_PERIOD: Final = 0.5


class _NodeLink(SubscriberLink):
    """The connection to one node. What comes there may be a matter for others."""

    def __init__(self, node: ShardNode, options: SubscriberOptions, source: NodeSource, links: ShardLinks) -> None:
        super().__init__(node, options, source, moved=links.moved, room=links.room)
        self.life = trio.CancelScope()
        self._links = links

    def _tell(self) -> None:
        self._links.follow()


class ShardLinks:
    """The connections of one subscriber's sharded channels, while `run` is running."""

    def __init__(
        self,
        plan: ShardPlan,
        options: SubscriberOptions,
        settings: ClientSettings,
        monitor: ClusterMonitor,
        *,
        moved: Bell,
        room: Bell,
        on_error: Callable[[Exception], None],
    ) -> None:
        """`on_error` is called when the plan has failed."""
        self.plan: ShardPlan = plan
        # See `SubscriberLink`: all links of a subscriber have the same ones.
        self.moved: Bell = moved
        self.room: Bell = room
        self._options = options
        self._settings = settings
        self._monitor = monitor
        self._on_error = on_error
        self._failed = False
        # Rings when something is not held where it belongs.
        self._unsettled = Bell()
        # Those that are running; each for a node that the plan has, or that it had and that is being left.
        self._links: dict[ShardNode, _NodeLink] = {}
        # How many times the map had been asked for when the plan last wanted it: only a later one will do.
        self._asked_after = 0
        # Invariant: not None exactly while `run` is running.
        self._nursery: trio.Nursery | None = None

    # ---- for the subscriber: synchronous -------------------------------------------------------------------------

    def follow(self) -> None:
        """Something about the plan may have changed: do what it wants now."""
        plan = self.plan
        while plan.redirections:
            self._monitor.moved(*plan.redirections.pop(0))
        if plan.wants_map:
            plan.wants_map = False
            self._asked_after = self._monitor.refreshes
            self._monitor.refresh_soon()
        if plan.error is not None and not self._failed:
            self._failed = True
            self._on_error(plan.error)
        for node, link in self._links.items():
            if plan.error is not None or plan.nodes.get(node.address) is not node:
                link.life.cancel(reason="nothing is subscribed to there any more")
            elif node.has_commands:
                link.called()
        if self._nursery is not None and plan.error is None:
            for node in plan.nodes.values():
                if node not in self._links:
                    self._start(node, self._nursery)
        if not plan.is_settled:
            self._unsettled.ring()
        self.moved.ring()

    @property
    def running(self) -> set[ShardNode]:
        """The nodes that there are connections to, or attempts to have one."""
        return set(self._links)

    # ---- the tasks -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Have what is wanted held, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._monitor.on_change.add(self._notice_map)
            self._monitor.on_asked.add(self._notice_asked)
            try:
                self._notice_map()
                await self._tick_on()
            finally:
                self._monitor.on_change.discard(self._notice_map)
                self._monitor.on_asked.discard(self._notice_asked)
                self._nursery = None

    def _notice_map(self) -> None:
        self.plan.map_changed(self._monitor.map)
        self.follow()

    def _notice_asked(self) -> None:
        if self._monitor.refreshes > self._asked_after:
            self.plan.map_was_asked_for()
            self.follow()

    async def _tick_on(self) -> None:
        while True:
            while self.plan.is_settled:
                await self._unsettled.wait()
            await trio.sleep(RETRY_PERIOD)
            self.plan.tick(trio.current_time())
            self.follow()

    def _start(self, node: ShardNode, nursery: trio.Nursery) -> None:
        source = NodeSource(self._settings, self._monitor, node.address)
        link = self._links[node] = _NodeLink(node, self._options, source, self)
        nursery.start_soon(self._serve, node, link)

    async def _serve(self, node: ShardNode, link: _NodeLink) -> None:
        try:
            with link.life:
                await link.run()
        finally:
            del self._links[node]
            self.moved.ring()
