# Generated from _trio/replica_source.py by `nox -s anyio`: change that file, never this one.
"""Where a scan of replicas has its servers from: the service as the Sentinels see it, of which it chooses one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.identity import Address, Role
    from .._core.scan_steps import Target
    from .._core.topology import Votes
    from .._core.topology_state import TopologyState
    from .connection import Connection
    from .sources import SentinelService
    from .telemetry import Telemetry

__all__ = ["ReplicaSource"]


class ReplicaSource:
    """A `SentinelService` as a scan of replicas has it."""

    # Of what is no replica by the scan's own choice: the server that it falls back to.
    wants_master = True

    def __init__(self, service: SentinelService) -> None:
        self._service = service
        self._monitor = service.monitor
        self.failover_timeout: float = service.failover_timeout
        # A replica goes without the master's changing.
        self.on_change: set[Callable[[], None]] = service.monitor.on_news
        self.on_stop: set[Callable[[], None]] = service.on_stop
        self.telemetry: Telemetry | None = service.telemetry
        # The service as it was when something last happened to it, and when that was.
        self._state: TopologyState | None = None
        self._as_of = -1

    @property
    def view(self) -> TopologyState:
        """The service; the same object until something happens to it, for it is asked for with each page."""
        if self._state is None or self._as_of != self._monitor.news:
            return self.locate()
        return self._state

    def locate(self) -> TopologyState:
        """The service as it is now, with how far each replica has come."""
        self._as_of = self._monitor.news
        self._state = self._monitor.state
        return self._state

    async def connect(self, target: Target) -> Connection:
        """A new connection to it, through the handshake."""
        return await self._service.connect(target)

    async def vote(self, target: Target) -> Votes | None:
        """The Sentinels' votes on a master that was fallen back to."""
        return await self._service.vote(target)

    async def ask_role(self, address: Address) -> Role | None:
        """Another server's role by its own word; None if it does not say."""
        return await self._service.ask_role(address)

    def look_again(self) -> None:
        """Something may have changed: find out soon."""
        self._service.look_again()

    def describe_sentinels(self) -> dict[str, str]:
        """Each Sentinel and what came of asking it."""
        return self._service.describe_sentinels()
