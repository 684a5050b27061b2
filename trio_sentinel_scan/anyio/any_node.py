# Generated from _trio/any_node.py by `nox -s anyio`: change that file, never this one.
"""Plain Pub/Sub in a cluster: any node will do, and another one when that will not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .._core.scan_steps import Target
from .pubsub_link import SubscriberLink
from .sources import NodeSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.config import ClientSettings
    from .._core.messages import SubscriberOptions
    from .._core.subscriptions import Subscriptions
    from .cluster_monitor import ClusterMonitor

__all__ = ["AnyNode", "AnyNodeLink"]


class AnyNode(NodeSource):
    """One node of a cluster, drawn by lot: each passes on what is published at any of them."""

    # As in `NodeSource`: what is assigned here, too, type checkers want to be told of here, too.
    target: Target

    def __init__(
        self, settings: ClientSettings, monitor: ClusterMonitor, dice: Callable[[], float] = random.random
    ) -> None:
        """`dice` gives numbers from 0 to less than 1."""
        super().__init__(settings, monitor, monitor.views.candidates()[0])
        self.on_change: set[Callable[[], None]] = monitor.on_change
        self._dice = dice
        self.choose()

    @property
    def has_left(self) -> bool:
        """Whether the node that was drawn is not in the cluster any more."""
        nodes = self.monitor.map.nodes
        return bool(nodes) and all(node.address != self.target.address for node in nodes)

    def choose(self, *, another: bool = False) -> None:
        """Draw a node; `another` than the present one, if there is one."""
        nodes = [node.address for node in self.monitor.map.nodes]
        if another and len(nodes) > 1:
            nodes = [address for address in nodes if address != self.target.address]
        if nodes:
            self.target = Target(nodes[int(self._dice() * len(nodes))], version=self.target.version + 1)


class AnyNodeLink(SubscriberLink):
    """A subscriber's connection for plain channels and patterns."""

    def __init__(self, plan: Subscriptions, options: SubscriberOptions, source: AnyNode) -> None:
        super().__init__(plan, options, source)
        self._any = source
        # The node that it had when that left.
        self._left = source.target.address

    def _notice_change(self) -> None:
        if self._any.has_left:
            self._left = self._any.target.address
            self._any.choose(another=True)
            super()._notice_change()

    def _change_of_masters(self) -> str:
        return f"{self._left} has left the cluster"

    async def _attempt(self) -> None:
        await super()._attempt()
        # Whatever it was that went wrong there: another node need not have it.
        self._any.choose(another=True)
