# Generated from _trio/client.py by `nox -s anyio`: change that file, never this one.
"""The clients: what an application opens, with redis-py's commands and the scan on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import anyio.abc
from redis.commands.sentinel import AsyncSentinelCommands

from .._core import config
from .._core.commands import Command, Place
from .._core.errors import (
    ConfigError,
    TopologyUnavailable,
)
from .._core.urls import parse_url
from .base_client import BaseClient
from .cluster import ClusterClient
from .first_connection import connect_to_server, connect_to_service
from .sentinel import SentinelMonitor
from .sentinel_commands import ask_a_sentinel
from .sources import SentinelService, SingleServer
from .tls import checked_ssl
from .topology import TopologyEvents, checked_buffer, open_topology

if TYPE_CHECKING:
    import ssl as ssl_module

    from redis.credentials import CredentialProvider

    from .._core.identity import Address, ServerIdentity
    from .._core.topology_state import MasterState
    from .._core.wire import Reply

__all__ = ["RedisClient", "SentinelClient", "connect"]


class RedisClient(BaseClient):
    """A client of one server, whatever its role::

        async with RedisClient(("127.0.0.1", 6379)) as client: ...

    `address` is ``(host, port)``, ``"host:port"``, or the path of a Unix socket. Without Sentinels nobody tells of
    another master; a restart of the server is noticed all the same, by its `run_id`.
    """

    def __init__(
        self,
        address: config.AddressLike = ("127.0.0.1", config.DATA_PORT),
        *,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        credential_provider: CredentialProvider | None = None,
        ssl: ssl_module.SSLContext | bool | None = None,
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

        - `db`, `username`, `password`, `client_name`, `decode_responses`, `encoding`, `encoding_errors`, `protocol`
          are as in redis-py; `credential_provider` is redis-py's, in place of a username and password.
        - `ssl`: an `ssl.SSLContext`, or True for the system's certificates.
        - `response_timeout`: seconds that the server has for each reply; None waits for ever.
        - `failover_timeout`: seconds that commands and scans wait for a server that is away; None waits for ever.
        - `retry_writes`: whether a write whose outcome is unknown is sent again, though it may run twice then. Without
          it such a write raises `CommandOutcomeUnknown`.
        - `max_waiting`: how many commands may wait for a server or a reply at once; one more raises
          `TooManyCommandsWaiting`.
        - `wait_ready`: entering the block waits, up to `failover_timeout`, for servers that are not up yet.
        - `max_connections`: how many leases, blocking commands and WATCHes may have a connection of their own at the
          same time; the shared connection and those of scans do not count.
        """
        self._address: Address = config.checked_address(address, "address")
        settings = config.checked_settings(
            db=db,
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
        self._server_source = SingleServer(settings, self._address)
        super().__init__(self._server_source)

    async def _start(self, task_group: anyio.abc.TaskGroup) -> None:  # noqa: ARG002 (no background tasks)
        await connect_to_server(self._server_source, self._shared.open)

    @property
    def server(self) -> ServerIdentity:
        """The server: its address, and the process that the latest connection found there (`run_id` None: unknown)."""
        return self._server_source.identity

    def open_topology(self, *, buffer: int = 64) -> NoReturn:
        """Topology is what Sentinels tell, and this client has none: raises TopologyUnavailable."""
        checked_buffer(buffer)
        raise TopologyUnavailable("a RedisClient has no Sentinels to tell of a topology: use a SentinelClient")

    def __repr__(self) -> str:
        return f"<RedisClient of {self._address}{'' if self._run else ', not open'}>"


class SentinelClient(BaseClient, AsyncSentinelCommands):  # type: ignore[misc]  # as in redis-py's own client
    """A client of a service that Sentinels watch: it is connected to the service's master, and follows it::

    async with SentinelClient([("10.0.0.1", 26379), ("10.0.0.2", 26379)], "mymaster") as client: ...
    """

    def __init__(
        self,
        sentinels: Sequence[config.AddressLike],
        service: str,
        *,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        credential_provider: CredentialProvider | None = None,
        ssl: ssl_module.SSLContext | bool | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        sentinel_credential_provider: CredentialProvider | None = None,
        sentinel_ssl: ssl_module.SSLContext | bool | None = None,
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

        - `sentinels`: some of the Sentinels, each ``(host, port)`` or ``"host:port"``; the others are learned.
        - `service`: the name in their ``sentinel monitor`` lines.
        - `username`, `password`, `credential_provider`, `ssl` are for the data nodes; the Sentinels have their own.
        - `address_map`: for Sentinels that announce addresses which cannot be reached from here: a mapping, or a
          function, from the ``(host, port)`` announced to the one to connect to. TLS checks the announced name.
        - The rest is as in `RedisClient`.
        """
        addresses = config.checked_addresses(sentinels, "sentinels", default_port=config.SENTINEL_PORT)
        self._service = config.checked_service(service)
        address_map = config.checked_address_map(address_map)
        settings = config.checked_settings(
            db=db,
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
        sentinel_endpoint = config.Endpoint(
            config.checked_credentials(sentinel_username, sentinel_password, sentinel_credential_provider, "sentinel_"),
            checked_ssl(sentinel_ssl, "sentinel_ssl"),
        )
        self._monitor = SentinelMonitor(
            self._service,
            addresses,
            endpoint=sentinel_endpoint,
            data_endpoint=settings.endpoint,
            address_map=address_map,
            response_timeout=settings.response_timeout,
        )
        self._service_source = SentinelService(settings, self._monitor)
        super().__init__(self._service_source)

    async def _start(self, task_group: anyio.abc.TaskGroup) -> None:
        self._monitor.start(task_group)
        await connect_to_service(self._service_source, self._shared.open)

    def open_topology(self, *, buffer: int = 64) -> AbstractAsyncContextManager[TopologyEvents]:
        """Hear of what happens to the service::

            async with client.open_topology() as events:
                print(events.state)
                async for event in events: ...

        Items are `MasterChange`, `ReplicaAdd`, `ReplicaRemove`, `SentinelAdd`, `SentinelRemove`, `ServerReboot`: one
        for each change, however many Sentinels tell of it. `buffer` is how many may wait for the reader; when there
        are more, it gets one `EventsMissed` for all of them, with their number and the state that they led to.
        Raises ConfigError for an argument that cannot be, ClientClosed.
        """
        limit = checked_buffer(buffer)
        self._check_open()
        return self._at_home(open_topology(self._monitor, limit))

    @property
    def master(self) -> MasterState:
        """The master that this client follows now: address, config epoch, process. Raises ClientClosed."""
        self._check_open()
        return self._monitor.state.master

    def whereabouts(self, command: Command) -> object:
        """The server that a command goes to at the moment, for messages."""
        return "one of the Sentinels" if command.place is Place.SENTINEL else super().whereabouts(command)

    async def _run_elsewhere(self, command: Command, *, decode: bool) -> tuple[Reply, int]:
        if command.place is Place.SENTINEL:
            return await ask_a_sentinel(self._monitor, command, self._settings)
        return await super()._run_elsewhere(command, decode=decode)

    def __repr__(self) -> str:
        target = self._monitor.target
        where = f", master {target.address}" if target is not None else ""
        return f"<SentinelClient of {self._service!r}{where}{'' if self._run else ', not open'}>"


def connect(url: str, **options: Any) -> RedisClient | SentinelClient | ClusterClient:
    """A client by URL, to be used in ``async with``::

        async with connect("redis+sentinel://10.0.0.1,10.0.0.2/mymaster/0") as client: ...

    ``redis://``, ``rediss://``, ``unix://`` give a `RedisClient`, ``redis+sentinel://`` and ``rediss+sentinel://`` a
    `SentinelClient`, ``redis+cluster://`` and ``rediss+cluster://`` a `ClusterClient`. `options` are the client's
    arguments; those in the URL win, as in redis-py.
    Raises ConfigError.
    """
    parsed = parse_url(url)
    arguments: dict[str, Any] = {**options, **parsed.options}
    for name in ("ssl", "sentinel_ssl"):
        # A scheme with TLS says only that there is to be some: a context of the caller's says how.
        if parsed.options.get(name) is True and options.get(name) is not None:
            if options[name] is False:
                raise ConfigError(name, "is False, and the URL's scheme asks for TLS")
            arguments[name] = options[name]
    try:
        if parsed.kind == "cluster":
            return ClusterClient(parsed.addresses, **arguments)
        if parsed.service is None:
            return RedisClient(parsed.addresses[0], **arguments)
        return SentinelClient(parsed.addresses, parsed.service, **arguments)
    except TypeError as error:
        raise ConfigError("options", str(error).rpartition("() ")[2]) from None
