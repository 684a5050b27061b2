# Generated from _trio/cluster.py by `nox -s anyio`: change that file, never this one.
"""The client of a cluster: commands go to the node that has their slot."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from .._core import config
from .._core.errors import ConfigError
from .cluster_commands import ClusterCommands
from .cluster_monitor import ClusterMonitor
from .cluster_pubsub import ClusterPubSub
from .cluster_scan import ClusterScans
from .first_connection import connect_to_cluster
from .slot_scan import ClusterCollectionScans
from .task_groups import open_service_task_group
from .tls import checked_ssl

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import AsyncGenerator, Sequence

    from redis.credentials import CredentialProvider

__all__ = ["ClusterClient"]


class ClusterClient(ClusterCommands, ClusterPubSub, ClusterScans, ClusterCollectionScans):  # type: ignore[misc]  # as in redis-py's own client
    """A client of a cluster: it learns of all nodes from those it is given, and follows the slots::

    async with ClusterClient([("10.0.0.1", 6379), ("10.0.0.2", 6379)]) as client: ...
    """

    def __init__(
        self,
        nodes: Sequence[config.AddressLike],
        *,
        username: str | None = None,
        password: str | None = None,
        credential_provider: CredentialProvider | None = None,
        ssl: ssl_module.SSLContext | bool | None = None,
        address_map: config.AddressMap | None = None,
        client_name: str | None = None,
        response_timeout: float | None = config.RESPONSE_TIMEOUT,
        failover_timeout: float | None = config.FAILOVER_TIMEOUT,
        retry_writes: bool = False,
        max_waiting: int = config.MAX_WAITING,
        decode_responses: bool = False,
        encoding: str = "utf-8",
        encoding_errors: str = "strict",
        protocol: Literal[2, 3] | None = None,
        wait_ready: bool = False,
        max_connections: int = config.MAX_CONNECTIONS,
    ) -> None:
        """Check the arguments; nothing is sent before ``async with``. Raises ConfigError.

        - `nodes`: some of the cluster's nodes, each ``(host, port)`` or ``"host:port"``; the others are learned.
        - `address_map`: for nodes that announce addresses which cannot be reached from here: a mapping, or a
          function, from the ``(host, port)`` announced to the one to connect to. TLS checks the announced name.
        - The rest is as in `RedisClient`; a cluster has database 0 only.
        """
        addresses = config.checked_addresses(nodes, "nodes", default_port=config.DATA_PORT)
        if any(address.is_unix for address in addresses):
            raise ConfigError("nodes", "has the path of a Unix socket, and the nodes of a cluster announce no such")
        settings = config.checked_settings(
            db=0,
            credentials=config.checked_credentials(username, password, credential_provider),
            ssl=checked_ssl(ssl, "ssl"),
            client_name=client_name,
            response_timeout=response_timeout,
            failover_timeout=failover_timeout,
            retry_writes=retry_writes,
            max_waiting=max_waiting,
            decode_responses=decode_responses,
            encoding=encoding,
            encoding_errors=encoding_errors,
            protocol=protocol,
            wait_ready=wait_ready,
            max_connections=max_connections,
        )
        monitor = ClusterMonitor(addresses, settings, config.checked_address_map(address_map))
        super().__init__(settings, monitor)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        async with open_service_task_group() as task_group:
            try:
                self._monitor.start(task_group)
                self._start_commands(task_group)
                await connect_to_cluster(self._monitor, self._settings)
                yield
            finally:
                self._monitor.stop()
                await self._close_commands()  # noqa: ASYNC102 (closing is shielded, and takes no time)
                await self._monitor.aclose()

    def __repr__(self) -> str:
        return f"<ClusterClient of {len(self._monitor.views.seeds)} nodes given{'' if self._run else ', not open'}>"
