"""The clients: what an application opens, with redis-py's commands and the scan on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self

import trio
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands.sentinel import AsyncSentinelCommands
from redis.exceptions import ResponseError
from redis.typing import KeyT, PatternT

from .._core import config
from .._core.commands import Command, Place
from .._core.cursor_home import CursorHome
from .._core.errors import (
    ClientClosed,
    ConfigError,
    TopologyUnavailable,
)
from .._core.messages import OnFull, checked_subscriber_options
from .._core.scan_options import checked_scan_options
from .._core.statistics import ClientStatistics
from .._core.urls import parse_url
from .command_set import Dialect
from .first_connection import connect_to_server, connect_to_service
from .lease import Lease, open_lease
from .nurseries import open_service_nursery
from .own_connection import PoolRunner
from .pipeline import PipelineOwner
from .pool import ConnectionPool
from .pubsub import Subscriber, open_subscriber
from .scan import ScanPages, open_scan
from .sentinel import SentinelMonitor
from .sentinel_commands import ask_a_sentinel
from .shared import SharedConnection
from .sources import SentinelService, SingleServer
from .telemetry import find_telemetry
from .tls import checked_ssl
from .topology import TopologyEvents, checked_buffer, open_topology

if TYPE_CHECKING:
    import ssl as ssl_module
    from types import TracebackType

    from redis.credentials import CredentialProvider

    from .._core.identity import Address, ServerIdentity
    from .._core.topology_state import MasterState
    from .._core.wire import Reply

__all__ = ["RedisClient", "SentinelClient", "connect"]

_RAISE: Final = object()
# An option of `execute_command` that redis-py does not have: whose cursors these are.
_HOME: Final = "_cursor_home"

DEFAULT_RESPONSE_TIMEOUT: Final = 5.0
# As redis-py's BlockingConnectionPool.
DEFAULT_MAX_CONNECTIONS: Final = 50
# Sentinel's own default takes half a minute to call a master down, and then elects another one.
DEFAULT_FAILOVER_TIMEOUT: Final = 60.0


class _Client(PipelineOwner):
    """What the clients have in common. Commands are redis-py's, by its own mixins and response callbacks."""

    def __init__(self, source: SingleServer | SentinelService) -> None:
        settings = source.settings
        self._source = source
        self._settings = settings
        self._shared = SharedConnection(source)
        # For leases, blocking commands and WATCH.
        self._pool = ConnectionPool(source)
        super().__init__(Dialect(settings), PoolRunner(self._pool, self._shared, source))
        # Invariant: not None exactly inside the ``async with`` block.
        self._run: AbstractAsyncContextManager[None] | None = None
        self._read = self._dialect.read
        self._callbacks = self._dialect.callbacks
        self._resp2_callbacks = self._dialect.resp2_callbacks

    async def __aenter__(self) -> Self:
        """Connect. Raises what stands in the way, at once or within seconds (with `wait_ready`: see there)."""
        if self._run is not None:
            msg = f"{type(self).__name__} is open already: one client, one async with block"
            raise ClientClosed(msg)
        run = self._running()
        await run.__aenter__()
        self._run = run
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Close every connection."""
        run, self._run = self._run, None
        assert run is not None
        return await run.__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 (it ends tasks, and shields its closing)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        async with open_service_nursery() as nursery:
            try:
                self._observe()
                self._shared.start(nursery)
                self._pool.start(nursery)
                await self._start(nursery)
                yield
            finally:
                self._source.stop()
                self.__dict__.pop("execute_command", None)
                await self._pool.aclose()
                await self._shared.aclose()

    def _observe(self) -> None:
        telemetry = find_telemetry(db=self._settings.endpoint.db, where=lambda: self._source.target.address)
        self._source.observe(telemetry)
        if telemetry is not None:
            # Only then does a command take a way round: without it, it does not even ask.
            self.__dict__["execute_command"] = telemetry.observing(self.execute_command)

    async def _start(self, nursery: trio.Nursery) -> None:
        """Connect; what runs in the background runs in the nursery."""
        raise NotImplementedError

    def open_scan(
        self,
        match: str | bytes | None = None,
        count: int | None = None,
        type_: str | None = None,
        *,
        cursor: int | str = 0,
        on_failover: Literal["restart", "raise"] = "restart",
        max_restarts: int = 10,
        prefetch: int = 2,
        certify: Literal["sentinels", "role"] = "sentinels",
        segments: int | Literal["auto"] = "auto",
        duty: float = 1.0,
        page_size: int | None = None,
    ) -> AbstractAsyncContextManager[ScanPages[Any]]:
        """Iterate the keyspace, without losing a key while masters fail over and servers restart.

        ::

            async with client.open_scan(match="user:*") as pages:
                async for page in pages:
                    for key in page: ...

        The end of the iteration means that every key that was there all through the final pass was handed out at least
        once. Every other end is an exception, raised by the next receive. Keys may come more than once.

        - `match`: a glob-style pattern, as for SCAN's MATCH. `type_`: one of the server's types, as for TYPE.
        - `count`: how many keys the server should look at for each SCAN, as for COUNT. None adapts it: the server is
          never kept from its other clients for longer than by a single SCAN with COUNT 1000.
        - `cursor`: where the first pass begins. A cursor means something only to the process that issued it, and
          here nothing tells whether this is the one; a restart begins at 0 all the same. Without a restart,
          complete means complete from there on.
        - `on_failover`: "restart" begins again at cursor 0 when the pass becomes void (each page's `epoch` shows it);
          "raise" raises `ScanInterrupted` instead.
        - `max_restarts`: how many times it may begin again; then `ScanRestartsExhausted`.
        - `prefetch`: how many pages may wait for the consumer.
        - `certify`: what a complete pass must have: "sentinels", a majority of the Sentinels that names its master
          still; "role", the server's own word. Without Sentinels it is always the server's own word.
        - `segments`: how many parts of the keyspace are scanned at once, on the one connection. "auto" is what keeps
          the server busy; one part where the server's cursors are not of a known kind, or with `cursor`.
        - `duty`: the share of the server's time to take, above 0.0 and up to 1.0.
        - `page_size`: the most keys in a page; None makes a page of whatever a read brings.

        The scan has a connection of its own, so the loop may use this client for anything else.
        Raises ConfigError for an argument that cannot be, before anything is sent.
        """
        options = checked_scan_options(
            match=match,
            count=count,
            type_=type_,
            cursor=cursor,
            on_failover=on_failover,
            max_restarts=max_restarts,
            prefetch=prefetch,
            certify=certify,
            segments=segments,
            duty=duty,
            page_size=page_size,
            has_sentinels=isinstance(self._source, SentinelService),
            encoding=self._settings.encoding,
        )
        self._check_open()
        return open_scan(options, self._source)

    def dedicated(self) -> AbstractAsyncContextManager[Lease]:
        """A connection of the caller's own, with redis-py's commands on it, for as long as the block lasts::

            async with client.dedicated() as lease:
                await lease.set("key", "value")
                await lease.wait(1, 1000)

        It is for commands that change or depend on their connection. There are `max_connections` of them at the same
        time, blocking commands and WATCH included; whoever comes later waits for its turn, in the order of coming.

        Entering raises ServerUnavailable, AuthenticationFailed and ProtocolError; `Lease` says what commands raise.
        """
        self._check_open()
        return open_lease(self._dialect, self._pool)

    def pubsub(
        self,
        *,
        ignore_subscribe_messages: bool = False,
        buffer: int = 1024,
        on_full: OnFull = "block",
        health_check_interval: float | None = 5.0,
    ) -> AbstractAsyncContextManager[Subscriber]:
        """Subscribe to channels and patterns, through reconnects and changes of masters.

        ::

            async with client.pubsub() as subscriber:
                await subscriber.subscribe("news")
                async for item in subscriber:
                    match item:
                        case Message(): ...
                        case Gap(): ...  # messages may be missing here

        It has a connection of its own, made when something is first subscribed to, and follows the master.

        - `ignore_subscribe_messages`: whether `get_message` and `listen` leave out all but messages, as in redis-py.
        - `buffer`: how many messages may wait to be received.
        - `on_full`: what happens to the next one then. "block" stops reading, so that nothing is lost before the
          server's own buffer is full, too (it then drops the connection, which shows as a `Gap`); "drop_oldest" and
          "drop_newest" drop, which shows as a `Gap` that counts them; "raise" ends with `SubscriberOverflow`.
        - `health_check_interval`: after so many seconds without a word from the server it is made to answer, within
          `response_timeout`. None never does that.

        Raises ConfigError for an argument that cannot be.
        """
        options = checked_subscriber_options(
            ignore_subscribe_messages=ignore_subscribe_messages,
            buffer=buffer,
            on_full=on_full,
            health_check_interval=health_check_interval,
        )
        self._check_open()
        return open_subscriber(options, self._source, self._dialect.encoder)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command, given as its words, and return its reply as redis-py would.

        While the master is away it waits for the next one, up to `failover_timeout`. A command that is known not to
        have run, or that only reads, is sent again; else `CommandOutcomeUnknown` tells that it may have run.
        """
        self._check_open()
        decode, home, instead_of_error = True, None, _RAISE
        if options:
            decode = options.pop(NEVER_DECODE, None) is None
            home = options.pop(_HOME, None)
            instead_of_error = options.pop(EMPTY_RESPONSE, _RAISE)
            options.pop("keys", None)
        try:
            command = self._read(args)
            if command.place is Place.SHARED:
                reply, protocol = await self._shared.execute(command, decode=decode, home=home)
            else:
                reply, protocol = await self._run_elsewhere(command, decode=decode)
        except ResponseError:
            if instead_of_error is _RAISE:
                raise
            reply = instead_of_error
        else:
            callbacks = self._callbacks if protocol == 3 or self._settings.protocol == 2 else self._resp2_callbacks
            callback = callbacks.get(args[0].upper()) if isinstance(args[0], str) else None
            if callback is not None:
                reply = callback(reply, **options)
                if hasattr(reply, "__await__"):
                    reply = await reply
        # A reply that is there is returned, even to a caller that is being cancelled: what it tells has happened.
        return reply  # noqa: ASYNC910 (whoever has a reply has waited for it)

    async def _run_elsewhere(self, command: Command, *, decode: bool) -> tuple[Reply, int]:
        return await self._runner.run_one_alone(command, decode=decode)

    # redis-py's iterators, with its signatures. They hold no nursery and no scope, so a generator does no harm here.

    async def scan_iter(  # type: ignore[override]  # noqa: ASYNC900
        self, match: PatternT | None = None, count: int | None = None, _type: str | None = None, **options: Any
    ) -> AsyncGenerator[Any]:
        """redis-py's `scan_iter`. It raises `ScanInterrupted` when its cursor would go to another server process.

        `open_scan` begins again by itself instead, and it is faster.
        """
        words = _words(MATCH=match, COUNT=count, TYPE=_type)
        async for key in self._iterate(("SCAN",), words, options):
            yield key

    async def sscan_iter(  # type: ignore[override]  # noqa: ASYNC900
        self, name: KeyT, match: PatternT | None = None, count: int | None = None
    ) -> AsyncGenerator[Any]:
        """redis-py's `sscan_iter`; it raises as `scan_iter` does."""
        async for member in self._iterate(("SSCAN", name), _words(MATCH=match, COUNT=count), {}):
            yield member

    async def zscan_iter(  # type: ignore[override]  # noqa: ASYNC900
        self,
        name: KeyT,
        match: PatternT | None = None,
        count: int | None = None,
        score_cast_func: Any = float,
    ) -> AsyncGenerator[Any]:
        """redis-py's `zscan_iter`; it raises as `scan_iter` does."""
        options = {"score_cast_func": score_cast_func}
        async for pair in self._iterate(("ZSCAN", name), _words(MATCH=match, COUNT=count), options):
            yield pair

    async def hscan_iter(  # type: ignore[override]  # noqa: ASYNC900
        self,
        name: KeyT,
        match: PatternT | None = None,
        count: int | None = None,
        no_values: bool | None = None,  # noqa: FBT001 (redis-py's)
    ) -> AsyncGenerator[Any]:
        """redis-py's `hscan_iter`; it raises as `scan_iter` does."""
        words = (*_words(MATCH=match, COUNT=count), *(("NOVALUES",) if no_values else ()))
        async for item in self._iterate(("HSCAN", name), words, {"no_values": no_values}):
            yield item

    async def _iterate(  # noqa: ASYNC900
        self, begin: tuple[Any, ...], words: tuple[Any, ...], options: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        cursor, home = 0, CursorHome()
        while True:
            found: Any
            cursor, found = await self.execute_command(*begin, cursor, *words, **options, **{_HOME: home})
            for item in found.items() if hasattr(found, "items") else found:
                yield item  # noqa: ASYNC911 (of one reply)
            await trio.lowlevel.checkpoint()
            if cursor == 0:
                return

    def statistics(self) -> ClientStatistics:
        """Counts of what became of the commands so far."""
        return self._shared.statistics()

    def _check_open(self) -> None:
        if self._run is None:
            msg = f"{type(self).__name__} is not open: use it inside its async with block"
            raise ClientClosed(msg)


def _words(**given: Any) -> tuple[Any, ...]:
    return tuple(word for name, value in given.items() if value is not None for word in (name, value))


class RedisClient(_Client):
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
        response_timeout: float | None = DEFAULT_RESPONSE_TIMEOUT,
        failover_timeout: float | None = DEFAULT_FAILOVER_TIMEOUT,
        retry_writes: bool = False,
        max_waiting: int = config.MAX_WAITING,
        decode_responses: bool = False,
        encoding: str = "utf-8",
        encoding_errors: str = "strict",
        protocol: Literal[2, 3] | None = None,
        wait_ready: bool = False,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
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

    async def _start(self, nursery: trio.Nursery) -> None:  # noqa: ARG002 (no background tasks)
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


class SentinelClient(_Client, AsyncSentinelCommands):  # type: ignore[misc]  # as in redis-py's own client
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
        response_timeout: float | None = DEFAULT_RESPONSE_TIMEOUT,
        failover_timeout: float | None = DEFAULT_FAILOVER_TIMEOUT,
        retry_writes: bool = False,
        max_waiting: int = config.MAX_WAITING,
        decode_responses: bool = False,
        encoding: str = "utf-8",
        encoding_errors: str = "strict",
        protocol: Literal[2, 3] | None = None,
        wait_ready: bool = False,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
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
        if address_map is not None and not callable(address_map) and not hasattr(address_map, "get"):
            raise ConfigError("address_map", "must be a mapping or a function of (host, port)")
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

    async def _start(self, nursery: trio.Nursery) -> None:
        self._monitor.start(nursery)
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
        return open_topology(self._monitor, limit)

    @property
    def master(self) -> MasterState:
        """The master that this client follows now: address, config epoch, process. Raises ClientClosed."""
        self._check_open()
        return self._monitor.state.master

    async def _run_elsewhere(self, command: Command, *, decode: bool) -> tuple[Reply, int]:
        if command.place is Place.SENTINEL:
            return await ask_a_sentinel(self._monitor, command, self._settings)
        return await super()._run_elsewhere(command, decode=decode)

    def __repr__(self) -> str:
        target = self._monitor.target
        where = f", master {target.address}" if target is not None else ""
        return f"<SentinelClient of {self._service!r}{where}{'' if self._run else ', not open'}>"


def connect(url: str, **options: Any) -> RedisClient | SentinelClient:
    """A client by URL, to be used in ``async with``::

        async with connect("redis+sentinel://10.0.0.1,10.0.0.2/mymaster/0") as client: ...

    ``redis://``, ``rediss://``, ``unix://`` give a `RedisClient`, ``redis+sentinel://`` and ``rediss+sentinel://`` a
    `SentinelClient`. `options` are the client's arguments; those in the URL win, as in redis-py.
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
        if parsed.service is None:
            return RedisClient(parsed.addresses[0], **arguments)
        return SentinelClient(parsed.addresses, parsed.service, **arguments)
    except TypeError as error:
        raise ConfigError("options", str(error).rpartition("() ")[2]) from None
