"""Where a client's servers come from: one fixed address, a service that Sentinels watch, a node of a cluster."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from .._core.errors import SentinelScanError
from .._core.identity import ServerIdentity
from .._core.scan_steps import Target
from .connection import Connection, open_connection
from .sentinel import SentinelMonitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.config import ClientSettings
    from .._core.identity import Address, Role
    from .._core.topology import Votes
    from .cluster_monitor import ClusterMonitor
    from .telemetry import Telemetry

__all__ = ["ClusterNodes", "NodeSource", "SentinelService", "SingleServer"]

logger: logging.Logger = logging.getLogger("trio_sentinel_scan.connection")


class _Source:
    wants_master: bool

    def __init__(self, settings: ClientSettings) -> None:
        self.settings: ClientSettings = settings
        self.failover_timeout: float = settings.failover_timeout
        self.on_change: set[Callable[[], None]] = set()
        # Called, synchronously, when the client closes.
        self.on_stop: set[Callable[[], None]] = set()
        # Set while a client is open whose application has set up OpenTelemetry.
        self.telemetry: Telemetry | None = None

    def observe(self, telemetry: Telemetry | None) -> None:
        """The client is opening; `telemetry` is to be told what happens from now on."""
        self.telemetry = telemetry

    def stop(self) -> None:
        """The client is closing."""
        for callback in tuple(self.on_stop):
            callback()

    def dial_address(self, announced: Address) -> Address:
        return announced

    async def connect(self, target: Target) -> Connection:
        """A new connection to `target`, through the handshake."""
        settings = self.settings
        connection = await open_connection(
            target.address,
            settings.endpoint,
            dial=self.dial_address(target.address),
            response_timeout=settings.response_timeout,
            protocol=settings.protocol,
            encoding=settings.encoding if settings.decode_responses else None,
            encoding_errors=settings.encoding_errors,
            wants_master=self.wants_master and not target.is_replica,
        )
        self._account_for(connection)
        return connection

    def _account_for(self, connection: Connection) -> None:
        assert connection.greeting is not None
        identity = connection.greeting.identity
        logger.debug("opened a connection to %s", identity)
        no_longer_count = None if self.telemetry is None else self.telemetry.connection_opened(identity.address)

        def closed() -> None:
            logger.debug("closed a connection to %s", identity)
            if no_longer_count is not None:
                no_longer_count()

        connection.on_close = closed


class SingleServer(_Source):
    """One server at one address, whatever its role."""

    wants_master = False

    def __init__(self, settings: ClientSettings, address: Address) -> None:
        super().__init__(settings)
        self.target: Target = Target(address)
        # The process that the latest connection has found there.
        self.identity: ServerIdentity = ServerIdentity(None, address)

    @property
    def view(self) -> Target:
        """The server, whoever it is that a scan is for."""
        return self.target

    def locate(self) -> Target:
        """The same."""
        return self.target

    async def connect(self, target: Target) -> Connection:
        connection = await super().connect(target)
        assert connection.greeting is not None
        self.identity = connection.greeting.identity
        return connection

    async def vote(self, target: Target) -> Votes | None:  # noqa: ARG002 (nobody to ask)
        await trio.lowlevel.checkpoint()
        return None

    async def ask_role(self, address: Address) -> Role | None:  # noqa: ARG002 (one server is one server)
        await trio.lowlevel.checkpoint()
        return None

    def look_again(self) -> None:
        """Nobody to ask."""

    def describe_sentinels(self) -> dict[str, str]:
        return {}


class NodeSource(SingleServer):
    """One node of a cluster, wherever its address leads from here."""

    def __init__(self, settings: ClientSettings, monitor: ClusterMonitor, address: Address) -> None:
        super().__init__(settings, address)
        self.monitor: ClusterMonitor = monitor

    async def connect(self, target: Target) -> Connection:
        try:
            return await super().connect(target)
        except SentinelScanError:
            # Another node may have its slots: look now, not at the next poll.
            self.monitor.refresh_soon()
            raise

    def dial_address(self, announced: Address) -> Address:
        return self.monitor.dial_address(announced)

    def look_again(self) -> None:
        self.monitor.refresh_soon()


class ClusterNodes(_Source):
    """All nodes of a cluster: who connects says to which."""

    wants_master = False

    def __init__(self, settings: ClientSettings, monitor: ClusterMonitor) -> None:
        super().__init__(settings)
        self.monitor: ClusterMonitor = monitor
        self.on_change: set[Callable[[], None]] = monitor.on_change

    @property
    def target(self) -> Target:
        """Any of the masters."""
        return Target(self.monitor.map.masters[0].address)

    async def connect(self, target: Target) -> Connection:
        try:
            return await super().connect(target)
        except SentinelScanError:
            # Another node may have its slots: look now, not at the next poll.
            self.monitor.refresh_soon()
            raise

    def dial_address(self, announced: Address) -> Address:
        return self.monitor.dial_address(announced)

    def look_again(self) -> None:
        self.monitor.refresh_soon()


class SentinelService(_Source):
    """A service: its master, as the Sentinels name it."""

    wants_master = True

    def __init__(self, settings: ClientSettings, monitor: SentinelMonitor) -> None:
        super().__init__(settings)
        self.monitor: SentinelMonitor = monitor
        self.on_change: set[Callable[[], None]] = monitor.on_change

    @property
    def target(self) -> Target:
        """The master now. The client's start has seen to it that there is one."""
        target = self.monitor.target
        assert target is not None
        return target

    @property
    def view(self) -> Target:
        """The master, which is what a scan is for."""
        return self.target

    def locate(self) -> Target:
        """The same."""
        return self.target

    async def connect(self, target: Target) -> Connection:
        try:
            connection = await super().connect(target)
        except SentinelScanError:
            # A master that cannot be used may have been replaced: look now, not at the next poll.
            self.monitor.poke_all()
            raise
        greeting = connection.greeting
        assert greeting is not None
        self.monitor.met(greeting.identity)
        if not target.is_replica and greeting.role.kind not in {"master", ""}:
            # It was demoted: whoever is the master now, its caller wants to know at once.
            self.monitor.poke_all()
        return connection

    def dial_address(self, announced: Address) -> Address:
        return self.monitor.dial_address(announced)

    async def vote(self, target: Target) -> Votes | None:
        return await self.monitor.vote(target)

    async def ask_role(self, address: Address) -> Role | None:
        return await self.monitor.ask_role(address)

    def look_again(self) -> None:
        self.monitor.poke_all()

    def describe_sentinels(self) -> dict[str, str]:
        return dict(self.monitor.describe())

    def observe(self, telemetry: Telemetry | None) -> None:
        super().observe(telemetry)
        if telemetry is not None:
            self.monitor.subscribers.add(telemetry)

    def stop(self) -> None:
        super().stop()
        self.monitor.stop()
        if self.telemetry is not None:
            self.monitor.subscribers.discard(self.telemetry)
