"""What entering a client does: find the server, connect to it, or say in one error why that cannot be.

With `wait_ready` the servers may come up later than we do: what would be that error is logged, and tried again. What
no waiting mends (a password, a database, a Sentinel where a data node should be) is raised at once all the same.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from .._core.errors import (
    AuthenticationFailed,
    ClusterNotFound,
    MasterNotFound,
    ResponseTimeout,
    RoleMismatch,
    ServerConnectionError,
    ServerUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._core.config import ClientSettings
    from .cluster_monitor import ClusterMonitor
    from .sentinel import SentinelMonitor
    from .sources import SentinelService, SingleServer

__all__ = ["connect_to_cluster", "connect_to_server", "connect_to_service"]

logger: logging.Logger = logging.getLogger("trio_sentinel_scan.client")

# Seconds that entering a client goes on trying a master that is named and does not answer as one.
FIRST_PATIENCE: Final = 3.0
# The same for finding the Sentinels' word at all: each of them has `sentinel.PATIENCE` for each of its answers.
FIRST_VIEW_PATIENCE: Final = 10.0
# Seconds between two attempts to reach a server that is away.
RETRY_PERIOD: Final = 0.1
# Seconds after which the log tells again what is being waited for, though nothing has changed.
TELL_PERIOD: Final = 30.0


class _Waiting:
    """What the log tells of a wait: what for, whenever that changes and now and then, and its end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = trio.current_time()
        self._told = ""
        self._told_at = self._began

    def because(self, problem: Exception) -> None:
        """It is not there yet, and this is why."""
        now, text = trio.current_time(), str(problem)
        if text != self._told or now - self._told_at >= TELL_PERIOD:
            self._told, self._told_at = text, now
            logger.info("waiting for %s (wait_ready): %s", self._what, text)

    def over(self) -> None:
        """It is there."""
        if self._told:
            logger.info("%s is ready after %.1f s", self._what, trio.current_time() - self._began)


async def connect_to_server(source: SingleServer, connect: Callable[[], Awaitable[None]]) -> None:
    """Have a connection to one server; `connect` makes it.

    Raises what `connect` does; ServerUnavailable when `failover_timeout` has gone by.
    """
    waiting = _Waiting(f"the server {source.target.address}")
    problem: Exception = ServerConnectionError(f"{source.target.address} did not take a connection")
    with trio.move_on_after(source.failover_timeout):
        while True:
            try:
                await connect()
                waiting.over()
                return
            except (ServerConnectionError, ResponseTimeout) as error:
                # A Sentinel (RoleMismatch) will not become a data node.
                if not source.settings.wait_ready or isinstance(error, RoleMismatch):
                    raise
                problem = error
                waiting.because(error)
            await trio.sleep(RETRY_PERIOD)
    msg = f"no server within {source.failover_timeout:g} s (failover_timeout): {problem}"
    raise ServerUnavailable(msg) from problem


async def connect_to_service(source: SentinelService, connect: Callable[[], Awaitable[None]]) -> None:
    """Have a connection to the master of a service whose monitor has been started; `connect` makes it.

    Raises MasterNotFound (or below), with a line for each Sentinel, within seconds, or with `wait_ready` when
    `failover_timeout` has gone by. AuthenticationFailed, ConfigError and ProtocolError at once.
    """
    began, settings = trio.current_time(), source.settings
    monitor = source.monitor
    waiting = _Waiting(f"the service {monitor.topology.service!r}")
    give_up_at = began + settings.failover_timeout if settings.wait_ready else began + FIRST_VIEW_PATIENCE
    problem: Exception | None = None
    while True:
        try:
            with trio.CancelScope(deadline=give_up_at):
                await monitor.first_target()
                break
        except MasterNotFound as error:
            if not settings.wait_ready or monitor.topology.is_refused:
                raise
            problem = error
            waiting.because(error)
        if trio.current_time() >= give_up_at:
            raise problem or monitor.topology.no_master_error()
        with trio.CancelScope(deadline=give_up_at):
            await monitor.wait_for_news()
    if not settings.wait_ready:
        give_up_at = trio.current_time() + min(FIRST_PATIENCE, settings.failover_timeout)
    problem = ServerConnectionError(f"{source.target.address} did not take a connection")
    while trio.current_time() < give_up_at:
        try:
            with trio.CancelScope(deadline=give_up_at):
                await connect()
                waiting.over()
                return
        except AuthenticationFailed as error:
            msg = f"{error}; the Sentinels had named it:{_lines(monitor)}"
            raise AuthenticationFailed(msg) from error
        except (ServerConnectionError, ResponseTimeout) as error:
            problem = error
            if settings.wait_ready:
                waiting.because(error)
        await trio.sleep(RETRY_PERIOD)
    raise _unusable(monitor, problem) from problem


async def connect_to_cluster(monitor: ClusterMonitor, settings: ClientSettings) -> None:
    """Have the map of a cluster whose monitor has been started.

    Raises ClusterNotFound, with a line for each node that was asked; with `wait_ready` when `failover_timeout` has gone
    by. AuthenticationFailed and ConfigError at once.
    """
    waiting = _Waiting("the cluster")
    give_up_at = trio.current_time() + settings.failover_timeout
    while True:
        try:
            await monitor.first_map()
            waiting.over()
            return
        except ClusterNotFound as error:
            if not settings.wait_ready or trio.current_time() >= give_up_at:
                raise
            waiting.because(error)
        await trio.sleep(RETRY_PERIOD)


def _unusable(monitor: SentinelMonitor, problem: Exception) -> MasterNotFound:
    return MasterNotFound(
        f"the master that the Sentinels of service {monitor.topology.service!r} name cannot be used: {problem};"
        f" if they announce addresses that cannot be reached from here, see address_map:{_lines(monitor)}",
        dict(monitor.describe()),
    )


def _lines(monitor: SentinelMonitor) -> str:
    return "".join(f"\n  {address}: {status}" for address, status in monitor.describe().items())
