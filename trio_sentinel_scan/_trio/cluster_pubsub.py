"""Pub/Sub of a cluster: plain channels on any node, sharded ones on the nodes that own their slots."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from .._core.errors import ClientClosed, ConfigError
from .._core.messages import Handler, OnFull, checked_subscriber_options
from .._core.shard_plan import ShardPlan
from .._core.subscriptions import Subscriptions
from .any_node import AnyNode, AnyNodeLink
from .command_set import Dialect
from .nurseries import open_service_nursery
from .pubsub import Subscriber, given_names, given_subscriptions
from .shard_links import ShardLinks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from redis._parsers.encoders import Encoder

    from .._core.config import ClientSettings
    from .._core.messages import SubscriberOptions
    from .._core.shard_parts import ShardTicket
    from .cluster_monitor import ClusterMonitor
    from .pubsub import Names, Subscribed

__all__ = ["ClusterPubSub", "ClusterSubscriber"]

T = TypeVar("T")


class ClusterSubscriber(Subscriber):
    """A `Subscriber` of a cluster, which can subscribe to sharded channels, too.

    Plain channels and patterns are subscribed to at one node, any one, and at another when that one dies or leaves.
    Sharded channels are each at the node that owns the channel's slot; they follow their slots.
    """

    def __init__(
        self,
        settings: ClientSettings,
        monitor: ClusterMonitor,
        options: SubscriberOptions,
        encoder: Encoder,
    ) -> None:
        plan = Subscriptions(options, failover_timeout=settings.failover_timeout, jitter=random.random)
        link = AnyNodeLink(plan, options, AnyNode(settings, monitor))
        super().__init__(link, plan, options, encoder)
        self._shard_plan = ShardPlan(
            options,
            plan.mailbox,
            monitor.map,
            failover_timeout=settings.failover_timeout,
            jitter=random.random,
        )
        self._shards = ShardLinks(
            self._shard_plan,
            options,
            settings,
            monitor,
            moved=link.moved,
            room=link.room,
            on_error=self._end_with,
        )

    # ---- subscribing ---------------------------------------------------------------------------------------------

    async def ssubscribe(self, *args: Subscribed, **kwargs: Handler) -> None:
        """Subscribe to sharded channels, each at the node that has its slot; returns when all of them are held.

        Arguments are those of `subscribe`. While a slot has no owner, or that one is away, it waits; if it is
        cancelled, the channels are wanted all the same.
        Raises redis-py's `NoPermissionError` if a server refuses one of them, `ResponseError` if it has no sharded
        Pub/Sub, and `ServerUnavailable` when a channel could not be had within `failover_timeout`: this call has
        subscribed to none then, and all else goes on. And what ended the subscriber, if it has ended.
        """
        self._check_open()
        names = given_subscriptions(args, kwargs, self._encode)
        if not names:
            raise ConfigError("args", "there is nothing to subscribe to")
        await self._held(self._shard_plan.subscribe(names, trio.current_time()))

    async def sunsubscribe(self, *args: Names) -> None:
        """Unsubscribe from sharded channels, or from all of them, at the nodes that hold them.

        Returns when no node does any more. Messages of theirs that are on their way are dropped; those that wait in
        the buffer are handed out.
        """
        self._check_open()
        await self._held(self._shard_plan.unsubscribe(given_names(args, self._encode)))

    async def ping(self, message: Any = None) -> bool:
        """Have each server answer that something is subscribed at. True when all did; who is away is waited for.

        Raises what one says instead, and what ended the subscriber, if it has ended.
        """
        if not self._shard_plan.nodes or self._plan.wants_connection:
            await super().ping(message)
        self._check_open()
        await self._held(self._shard_plan.ping())
        return True

    @property
    def subscribed(self) -> bool:
        """Whether any channel, pattern or sharded channel is subscribed to."""
        return super().subscribed or bool(self._shard_plan.wanted())

    @property
    def shard_channels(self) -> dict[Any, Handler | None]:
        """The sharded channels that are subscribed to, with their handlers; wherever their slots are just now."""
        return {self._decoded(name): handler for name, handler in self._shard_plan.wanted().items()}

    async def reset(self) -> None:
        """Unsubscribe from everything, forget what was not received, and close the connections.

        The subscriber can be used again afterwards.
        """
        self._check_open()
        self._shard_plan.reset()
        await super().reset()

    def close(self) -> None:
        """Close, without waiting for the connections to be gone."""
        super().close()
        self._end_with(ClientClosed("the subscriber is closed: use it inside its async with block"))

    def end(self) -> None:
        """The client is closing: nobody tells of the cluster any more, so there is nothing to be followed."""
        super().end()
        self._end_with(ClientClosed("the client was closed, and its subscribers with it"))

    # ---- inside --------------------------------------------------------------------------------------------------

    async def serve_plain(self) -> None:
        """Have a connection for what is plain, until the subscriber has ended."""
        await self._link.run()
        if self._plan.error is not None:
            self._end_with(self._plan.error)

    async def serve_shards(self) -> None:
        """Have connections for what is sharded, until cancelled."""
        await self._shards.run()

    def _end_with(self, error: Exception) -> None:
        """One end for all of it."""
        self._plan.fail(error)
        self._shard_plan.fail(error)
        self._link.hang_up("the subscriber has ended")
        self._link.called()
        self._shards.follow()

    async def _held(self, ticket: ShardTicket) -> None:
        self._shards.follow()
        await self._outcome(ticket, self._shard_plan)

    async def _hang_up(self, reason: str) -> None:
        leaving = self._shards.running
        self._shards.follow()
        await super()._hang_up(reason)
        while leaving & self._shards.running:
            await self._link.moved.wait()

    def __repr__(self) -> str:
        nodes = [str(node.address) for node in self._shard_plan.nodes.values() if node.is_connected]
        where = f" at {', '.join(nodes)}" if nodes else ""
        return f"{super().__repr__()[:-1]}, and of {len(self._shard_plan.wanted())} sharded channels{where}>"


class ClusterPubSub:
    """What a cluster's client has of Pub/Sub."""

    _settings: ClientSettings
    _monitor: ClusterMonitor

    def pubsub(
        self,
        *,
        ignore_subscribe_messages: bool = False,
        buffer: int = 1024,
        on_full: OnFull = "block",
        health_check_interval: float | None = 5.0,
    ) -> AbstractAsyncContextManager[ClusterSubscriber]:
        """Subscribe to channels, patterns and sharded channels, through whatever becomes of the nodes.

        ::

            async with client.pubsub() as subscriber:
                await subscriber.ssubscribe("orders:7", "orders:8")
                async for item in subscriber:
                    match item:
                        case Message(): ...
                        case Gap(channels=channels): ...  # of these channels messages may be missing here

        It has connections of its own: one for plain channels and patterns, to any node, and one to each node that
        owns a slot of its sharded channels; each only as long as there is something to subscribe to there.

        The arguments are those of `RedisClient.pubsub`; one buffer is for all connections.
        Raises ConfigError for an argument that cannot be.
        """
        options = checked_subscriber_options(
            ignore_subscribe_messages=ignore_subscribe_messages,
            buffer=buffer,
            on_full=on_full,
            health_check_interval=health_check_interval,
        )
        self._check_open()
        return self._at_home(_open_subscriber(self._settings, self._monitor, options))

    def _check_open(self) -> None:
        raise NotImplementedError

    def _at_home(self, block: AbstractAsyncContextManager[T]) -> AbstractAsyncContextManager[T]:
        raise NotImplementedError


@asynccontextmanager
async def _open_subscriber(
    settings: ClientSettings, monitor: ClusterMonitor, options: SubscriberOptions
) -> AsyncGenerator[ClusterSubscriber]:
    """A subscriber for as long as the block lasts."""
    subscriber = ClusterSubscriber(settings, monitor, options, Dialect(settings).encoder)
    async with open_service_nursery() as nursery:
        monitor.on_stop.add(subscriber.end)
        nursery.start_soon(subscriber.serve_plain)
        nursery.start_soon(subscriber.serve_shards)
        try:
            yield subscriber
        finally:
            monitor.on_stop.discard(subscriber.end)
            subscriber.close()
