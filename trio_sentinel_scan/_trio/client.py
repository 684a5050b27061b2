"""The clients: what an application opens, with redis-py's commands and the scan on it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

import trio
from redis._parsers.encoders import Encoder
from redis._parsers.response_callbacks import get_response_callbacks
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands.core import AsyncCoreCommands
from redis.event import EventDispatcher, EventDispatcherInterface
from redis.exceptions import ResponseError
from redis.typing import KeyT, PatternT

from .._core import config
from .._core.commands import read_command
from .._core.cursor_home import CursorHome
from .._core.errors import (
    ClientClosed,
    ConfigError,
    MasterNotFound,
    ResponseTimeout,
    ServerConnectionError,
)
from .._core.messages import OnFull, checked_subscriber_options
from .._core.scan_options import checked_scan_options
from .._core.urls import parse_url
from .nurseries import open_service_nursery
from .pubsub import Subscriber, open_subscriber
from .scan import ScanPages, open_scan
from .sentinel import SentinelMonitor
from .shared import RETRY_PERIOD, SharedConnection
from .sources import SentinelService, SingleServer
from .tls import checked_ssl

if TYPE_CHECKING:
    import ssl as ssl_module
    from types import TracebackType

    from redis.credentials import CredentialProvider

    from .._core.identity import Address

__all__ = ["RedisClient", "SentinelClient", "connect"]

_RAISE: Final = object()
# An option of `execute_command` that redis-py does not have: whose cursors these are.
_HOME: Final = "_cursor_home"

DEFAULT_RESPONSE_TIMEOUT: Final = 5.0
# Sentinel's own default takes half a minute to call a master down, and then elects another one.
DEFAULT_FAILOVER_TIMEOUT: Final = 60.0
# Seconds that entering a SentinelClient goes on trying a master that is named and does not answer as one.
FIRST_PATIENCE: Final = 3.0


class _Client(AsyncCoreCommands):
    """What the clients have in common. Commands are redis-py's, by its own mixins and response callbacks."""

    # redis-py's mixins choose their return types by this.
    _is_async_client: Literal[True] = True

    def __init__(self, source: SingleServer | SentinelService) -> None:
        settings = source.settings
        self._source = source
        self._settings = settings
        self._shared = SharedConnection(source)
        # Invariant: not None exactly inside the ``async with`` block.
        self._run: AbstractAsyncContextManager[None] | None = None
        # redis-py's mixins want one of every client.
        self._event_dispatcher: EventDispatcherInterface = EventDispatcher()
        make_encoder = cast("Callable[[str, str, bool], Encoder]", Encoder)
        self._encoder = make_encoder(settings.encoding, settings.encoding_errors, settings.decode_responses)
        self._encode: Callable[[Any], bytes] = cast("Any", self._encoder).encode
        self._callbacks = _callbacks(settings.protocol)
        # For a server that turns out to have no RESP3.
        self._resp2_callbacks = _callbacks(2)

    async def __aenter__(self) -> Self:
        """Connect. Raises what stands in the way, at once or within seconds."""
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
                self._shared.start(nursery)
                await self._start(nursery)
                yield
            finally:
                await self._shared.aclose()

    async def _start(self, nursery: trio.Nursery) -> None:  # noqa: ARG002 (for those with background tasks)
        await self._shared.open()

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
        return open_subscriber(options, self._source, self._encoder)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command, given as its words, and return its reply as redis-py would.

        While the master is away it waits for the next one, up to `failover_timeout`. A command that is known not to
        have run, or that only reads, is sent again; else `CommandOutcomeUnknown` tells that it may have run.
        """
        self._check_open()
        command = read_command(args)
        command = replace(command, args=tuple(map(self._encode, command.args)))
        never_decode = options.pop(NEVER_DECODE, None) is not None
        home: CursorHome | None = options.pop(_HOME, None)
        options.pop("keys", None)
        instead_of_error = options.pop(EMPTY_RESPONSE, _RAISE)
        try:
            reply, protocol = await self._shared.execute(command, decode=not never_decode, home=home)
        except ResponseError:
            if instead_of_error is _RAISE:
                raise
            reply = instead_of_error
        else:
            callbacks = self._callbacks if protocol == 3 or self._settings.protocol == 2 else self._resp2_callbacks
            callback = callbacks.get(args[0].upper()) if isinstance(args[0], str) else None
            if callback is not None:
                reply = callback(reply, **options)
                if inspect.isawaitable(reply):
                    reply = await reply
        await trio.lowlevel.checkpoint_if_cancelled()
        return reply

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

    def get_encoder(self) -> Encoder:
        """How arguments become bytes, and replies text; redis-py's scripts ask for it."""
        return self._encoder

    def get_connection_kwargs(self) -> dict[str, Any]:
        """What redis-py's mixins ask a client about its connections."""
        return {"decode_responses": self._settings.decode_responses, "protocol": self._settings.protocol}

    def _check_open(self) -> None:
        if self._run is None:
            msg = f"{type(self).__name__} is not open: use it inside its async with block"
            raise ClientClosed(msg)


def _words(**given: Any) -> tuple[Any, ...]:
    return tuple(word for name, value in given.items() if value is not None for word in (name, value))


def _callbacks(protocol: int | None) -> dict[str, Callable[..., Any]]:
    return {name.upper(): call for name, call in get_response_callbacks(protocol, legacy_responses=True).items()}


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
        decode_responses: bool = False,
        encoding: str = "utf-8",
        encoding_errors: str = "strict",
        protocol: Literal[2, 3] | None = None,
    ) -> None:
        """Check the arguments; nothing is sent before ``async with``. Raises ConfigError.

        - `db`, `username`, `password`, `client_name`, `decode_responses`, `encoding`, `encoding_errors`, `protocol`
          are as in redis-py; `credential_provider` is redis-py's, in place of a username and password.
        - `ssl`: an `ssl.SSLContext`, or True for the system's certificates.
        - `response_timeout`: seconds that the server has for each reply; None waits for ever.
        - `failover_timeout`: seconds that commands and scans wait for a server that is away; None waits for ever.
        """
        self._address: Address = config.checked_address(address, "address")
        settings = config.checked_settings(
            db=db,
            credentials=config.checked_credentials(username, password, credential_provider),
            ssl=checked_ssl(ssl, "ssl"),
            client_name=client_name,
            response_timeout=response_timeout,
            failover_timeout=failover_timeout,
            decode_responses=decode_responses,
            encoding=encoding,
            encoding_errors=encoding_errors,
            protocol=protocol,
        )
        super().__init__(SingleServer(settings, self._address))

    def __repr__(self) -> str:
        return f"<RedisClient of {self._address}{'' if self._run else ', not open'}>"


class SentinelClient(_Client):
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
        decode_responses: bool = False,
        encoding: str = "utf-8",
        encoding_errors: str = "strict",
        protocol: Literal[2, 3] | None = None,
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
            decode_responses=decode_responses,
            encoding=encoding,
            encoding_errors=encoding_errors,
            protocol=protocol,
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
        super().__init__(SentinelService(settings, self._monitor))

    async def _start(self, nursery: trio.Nursery) -> None:
        """Find the master and connect to it; say why if it cannot be done."""
        self._monitor.start(nursery)
        target = await self._monitor.first_target()
        give_up_at = trio.current_time() + min(FIRST_PATIENCE, self._settings.failover_timeout)
        problem: Exception = ServerConnectionError(f"{target.address} did not take a connection")
        while trio.current_time() < give_up_at:
            try:
                with trio.move_on_at(give_up_at):
                    await self._shared.open()
                    return
            except (ServerConnectionError, ResponseTimeout) as error:
                problem = error
            await trio.sleep(RETRY_PERIOD)
        raise self._no_master(problem) from problem

    def _no_master(self, problem: Exception) -> MasterNotFound:
        said = dict(self._monitor.describe())
        lines = "".join(f"\n  {address}: {status}" for address, status in said.items())
        return MasterNotFound(
            f"the master that the Sentinels of service {self._service!r} name cannot be used: {problem};"
            f" if they announce addresses that cannot be reached from here, see address_map:{lines}",
            said,
        )

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
