# Generated from _trio/base_client.py by `nox -s anyio`: change that file, never this one.
"""What the clients of one server or service have in common: their connections, and all that is done over them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import anyio.abc

from .._core.messages import OnFull, checked_subscriber_options
from .._core.scan_options import checked_scan_options
from .calls import Calls
from .collection_scans import CollectionScans
from .lease import Lease, open_lease
from .own_connection import PoolRunner
from .pool import ConnectionPool
from .pubsub import Subscriber, open_subscriber
from .replica_source import ReplicaSource
from .scan import ScanPages, open_scan
from .shared import SharedConnection
from .sources import SentinelService, SingleServer
from .task_groups import open_service_task_group
from .telemetry import find_telemetry

if TYPE_CHECKING:
    from .._core.seen_keys import SeenKeys

__all__ = ["BaseClient"]


class BaseClient(Calls, CollectionScans):  # type: ignore[misc]  # as in redis-py's own client
    """What the clients have in common. Commands are redis-py's, by its own mixins and response callbacks."""

    def __init__(self, source: SingleServer | SentinelService) -> None:
        settings = source.settings
        self._source = source
        self._shared = SharedConnection(source)
        # For leases, blocking commands and WATCH.
        self._pool = ConnectionPool(source)
        super().__init__(settings, self._shared, PoolRunner(self._pool, self._shared, source))

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        async with open_service_task_group() as task_group:
            try:
                self._observe()
                self._shared.start(task_group)
                self._pool.start(task_group)
                await self._start(task_group)
                yield
            finally:
                self._source.stop()
                self.__dict__.pop("execute_command", None)
                self._shared.close()
                await self._pool.aclose()

    def _observe(self) -> None:
        telemetry = find_telemetry(db=self._settings.endpoint.db, where=lambda: self._source.target.address)
        self._source.observe(telemetry)
        if telemetry is not None:
            # Only then does a command take a way round: without it, it does not even ask.
            self.__dict__["execute_command"] = telemetry.observing(self.execute_command)

    async def _start(self, task_group: anyio.abc.TaskGroup) -> None:
        """Connect; what runs in the background runs in the task group."""
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
        dedupe: bool | SeenKeys = False,
        resume: str | None = None,
        extra_args: Sequence[str | bytes] = (),
        hash_seed_shared: bool = False,
        with_: Iterable[Literal["type", "ttl", "memory", "idle", "freq"]] = (),
        read_from: Literal["master", "replica"] = "master",
        fallback: Literal["master"] | None = None,
    ) -> AbstractAsyncContextManager[ScanPages[Any]]:
        """Iterate the keyspace, without losing a key while masters fail over and servers restart.

        ::

            async with client.open_scan(match="user:*") as pages:
                async for page in pages:
                    for key in page: ...

        The end of the iteration means that every key that was there all through the final pass was handed out at least
        once. Every other end is an exception, raised by the next receive. Keys may come more than once, if not for
        `dedupe`.

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
        - `dedupe`: True hands each key out once, over restarts too, and remembers all of them in memory for that; or a
          filter that remembers them in its own way (`CompactSeen`, `SpillingSeen`, or any `SeenKeys`).
        - `resume`: a checkpoint's text (`page.checkpoint`, `pages.checkpoint()`) of an earlier scan of the same kind.
          If the server process that it was made at is the one found now, the scan goes on from there; if not, it
          begins a new epoch at cursor 0, or raises with ``on_failover="raise"``. What was handed out after the
          checkpoint comes again.
        - `extra_args`: words for the end of each SCAN, as some proxies want them: a node's id, for instance. What is
          there is taken to be a proxy then: one chain of cursors, no position, no role, and each new connection is
          a new epoch, for nothing tells whether it leads to what issued the cursor. `RedisClient` only.
        - `hash_seed_shared`: True says that all nodes (Valkey from 9.1 on) have the same `hash-seed`, so that a pass
          goes on at another process where the last one has left off, in the same epoch. Servers that may be asked are
          (CONFIG GET); `HashSeedMismatch` if one contradicts.
        - `with_`: what is to be known of each key beside its name, several of "type", "ttl", "memory", "idle", "freq".
          `page.details` has a `KeyDetails` for each key then, as the same server process told them a moment after SCAN
          had brought the key; pages have up to 1000 keys. It does not make the keys look as if they had been used.
        - `read_from`: "replica" scans a replica, one for a whole pass, and leaves the master alone: one that the
          Sentinels list as up and linked, that says itself that it is in sync, and that has come furthest. Its
          connection may break: the pass goes on with the same process. A replica that stays away for seconds, is
          promoted or removed is left for another one, in a new epoch.
        - `fallback`: "master" scans the master when there is no replica to scan. None waits for one up to
          `failover_timeout`, then raises `NoReplicaAvailable`.

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
            dedupe=dedupe,
            resume=resume,
            extra_args=extra_args,
            hash_seed_shared=hash_seed_shared,
            with_=with_,
            read_from=read_from,
            fallback=fallback,
            has_sentinels=isinstance(self._source, SentinelService),
            encoding=self._settings.encoding,
            encoding_errors=self._settings.encoding_errors,
            decodes=self._settings.decode_responses,
            db=self._settings.endpoint.db,
        )
        self._check_open()
        source = self._source
        if options.read_from == "replica" and isinstance(source, SentinelService):
            return self._at_home(open_scan(options, ReplicaSource(source)))
        return self._at_home(open_scan(options, source))

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
        return self._at_home(open_lease(self._dialect, self._pool))

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
        return self._at_home(open_subscriber(options, self._source, self._dialect.encoder))
