"""Pub/Sub: what an application subscribes with and receives from."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, cast

import trio
from redis.commands.helpers import list_or_args, parse_pubsub_subscriptions

from .._core.errors import ClientClosed, ConfigError
from .._core.mailbox import Handled, Item
from .._core.messages import Confirmation, Gap, Handler, Message
from .._core.subscriptions import Kind, Subscriptions
from .home_loop import HomeLoop
from .nurseries import open_service_nursery
from .pubsub_link import SubscriberLink

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

    from redis._parsers.encoders import Encoder
    from redis.typing import ChannelT, Subscription

    Names: TypeAlias = ChannelT | Iterable[ChannelT]
    Subscribed: TypeAlias = ChannelT | Subscription | Iterable[ChannelT | Subscription]

    from .._core.messages import SubscriberOptions
    from .._core.shard_parts import ShardTicket
    from .._core.subscriptions import Ticket
    from .sources import SentinelService, SingleServer

__all__ = ["Subscriber", "given_names", "given_subscriptions", "open_subscriber"]

# redis-py's form of what was received.
_Dict: TypeAlias = dict[str, Any]

# After so many items in a row that were there already, the other tasks get their turn.
ITEMS_PER_TURN: Final = 16

TicketT = TypeVar("TicketT", "Ticket", "ShardTicket")
# Only taken as an argument.
_TicketT_contra = TypeVar("_TicketT_contra", contravariant=True)


class _Abandons(Protocol[_TicketT_contra]):
    def abandon(self, ticket: _TicketT_contra, /) -> None: ...


_encode_all = cast("Callable[..., dict[Any, Handler | None]]", parse_pubsub_subscriptions)


class Subscriber(trio.abc.ReceiveChannel[Message | Gap]):
    """Subscriptions that are kept through reconnects and changes of masters, and what comes of them.

    ``async for item in subscriber`` gives a `Message` for each message, and a `Gap` wherever some may be missing.
    Several tasks may receive; each item goes to one of them. `get_message` and `listen` are redis-py's.
    """

    def __init__(self, link: SubscriberLink, plan: Subscriptions, options: SubscriberOptions, encoder: Encoder) -> None:
        self._home = HomeLoop()
        self._link = link
        self._plan = plan
        self._mailbox = plan.mailbox
        self._options = options
        self._encode: Callable[[Any], Any] = cast("Any", encoder).encode
        decode: Callable[[Any], Any] = cast("Any", encoder).decode
        # None where what comes is handed out as it is.
        self._decode = decode if encoder.decode_responses else None
        # Items handed out since the other tasks had their turn.
        self._in_a_row = 0
        # Invariant: once True, nothing is received or asked for any more.
        self._closed = False

    # ---- subscribing ---------------------------------------------------------------------------------------------

    async def subscribe(self, *args: Subscribed, **kwargs: Handler) -> None:
        """Subscribe to channels; returns when the server has confirmed all of them.

        As in redis-py, a keyword's value is a handler: it is called (and awaited, if it is async) by whoever receives,
        with redis-py's dictionary, and the message is not handed out.

        While the master is away it waits for the next one. If it is cancelled, the channels are wanted all the same.
        Raises redis-py's `NoPermissionError` if the server refuses one of them (then this call has subscribed to
        none), and what ended the subscriber, if it has ended.
        """
        await self._subscribe(Kind.CHANNEL, args, kwargs)

    async def psubscribe(self, *args: Subscribed, **kwargs: Handler) -> None:
        """Subscribe to patterns, as `subscribe` does to channels."""
        await self._subscribe(Kind.PATTERN, args, kwargs)

    async def unsubscribe(self, *args: Names) -> None:
        """Unsubscribe from channels, or from all of them; returns when the server has confirmed it.

        Messages of theirs that are still on their way are dropped; those that wait in the buffer are handed out.
        """
        await self._unsubscribe(Kind.CHANNEL, args)

    async def punsubscribe(self, *args: Names) -> None:
        """Unsubscribe from patterns, or from all of them, as `unsubscribe` does from channels."""
        await self._unsubscribe(Kind.PATTERN, args)

    async def ping(self, message: Any = None) -> bool:  # noqa: ARG002 (redis-py's; the answer is the same)
        """Have the server answer. True when it did; while the master is away it waits for the next one.

        Raises what the server says instead, and what ended the subscriber, if it has ended.
        """
        self._check_open()
        await self._settled(self._plan.ping())
        return True

    @property
    def subscribed(self) -> bool:
        """Whether any channel or pattern is subscribed to."""
        return bool(self._plan.wanted(Kind.CHANNEL) or self._plan.wanted(Kind.PATTERN))

    @property
    def channels(self) -> dict[Any, Handler | None]:
        """The channels that are subscribed to, with their handlers; through reconnects too."""
        return self._names(Kind.CHANNEL)

    @property
    def patterns(self) -> dict[Any, Handler | None]:
        """The patterns that are subscribed to, with their handlers; through reconnects too."""
        return self._names(Kind.PATTERN)

    async def reset(self) -> None:
        """Unsubscribe from everything, forget what was not received, and close the connection.

        The subscriber can be used again afterwards.
        """
        self._check_open()
        self._plan.reset()
        await self._hang_up("reset")

    async def aclose(self) -> None:
        """Close. Tasks that receive get `trio.ClosedResourceError`."""
        self.close()
        await self._hang_up("closed")

    def close(self) -> None:
        """Close, without waiting for the connection to be gone."""
        self._closed = True
        self._mailbox.clear()
        self._plan.fail(_closed())
        self._link.hang_up("closed")
        self._link.called()

    def end(self) -> None:
        """The client is closing: nobody tells of another master any more, so there is no server to be followed."""
        self._plan.fail(ClientClosed("the client was closed, and its subscribers with it"))
        self._link.hang_up("the client was closed")
        self._link.called()

    # ---- receiving -----------------------------------------------------------------------------------------------

    async def receive(self) -> Message | Gap:
        """The next message, or a gap. A message with a handler is given to that, and the next one is waited for.

        Raises what a handler raises; `SubscriptionLost` when the server refuses what was held before (it goes on
        with the rest); UnicodeDecodeError for a message that cannot be decoded (likewise). What has ended the
        subscriber comes after all that was received before: `ServerUnavailable`, `AuthenticationFailed`,
        `ProtocolError`, `ConfigError`, `SubscriberOverflow`, `ClientClosed` (the client's block was left).
        `trio.ClosedResourceError` if it was closed itself.
        """
        while True:
            item = await self._next()
            if isinstance(item, list):
                return self._message(item)
            if isinstance(item, Gap):
                return self._gap(item)
            if isinstance(item, Handled):
                await self._handle(item)
            elif isinstance(item, Exception):
                raise item

    async def get_message(
        self,
        ignore_subscribe_messages: bool = False,  # noqa: FBT001, FBT002 (redis-py's)
        timeout: float | None = 0.0,  # noqa: ASYNC109 (redis-py's)
    ) -> _Dict | None:
        """redis-py's `get_message`: the next item as a dictionary, or None if none has come within `timeout` seconds.

        None waits without end. None is returned too for what a handler took, and for what is ignored. A gap is a
        dictionary of type "gap" with the `Gap` as its data; `ignore_subscribe_messages` ignores these as well.
        Raises as `receive` does.
        """
        self._home.check("a subscriber")
        item: Item | None = None
        with trio.move_on_after(math.inf if timeout is None else timeout):
            item = await self._next()
        if item is None:
            # No time to wait is time enough for what is there.
            if not len(self._mailbox):
                return None
            item = self._take()
        if isinstance(item, Handled):
            await self._handle(item)
            return None
        return self._as_dict(item, ignore=ignore_subscribe_messages)  # noqa: ASYNC910 (the item was waited for)

    def listen(self) -> AsyncIterator[_Dict]:
        """redis-py's `listen`: dictionaries, until nothing is subscribed to any more. Raises as `receive` does."""
        return _Listening(self._next_dict)

    # ---- inside --------------------------------------------------------------------------------------------------

    async def _next(self, *, only_while_subscribed: bool = False) -> Item | None:
        self._home.check("a subscriber")
        while True:
            if len(self._mailbox):
                if self._in_a_row < ITEMS_PER_TURN:
                    await trio.lowlevel.checkpoint_if_cancelled()
                    return self._take()
                self._in_a_row = 0
                await trio.lowlevel.checkpoint()
                continue
            if self._closed:
                raise trio.ClosedResourceError
            if self._plan.error is not None:
                raise self._plan.error.with_traceback(None)
            if only_while_subscribed and not self.subscribed:
                await trio.lowlevel.checkpoint()
                return None
            self._in_a_row = 0
            await self._link.moved.wait()

    async def _next_dict(self) -> _Dict | None:
        """What `listen` gives next; None at its end."""
        while (item := await self._next(only_while_subscribed=True)) is not None:
            if isinstance(item, Handled):
                await self._handle(item)
            elif (found := self._as_dict(item)) is not None:
                return found
        return None

    def _take(self) -> Item:
        self._in_a_row += 1
        item = self._mailbox.take()
        self._link.made_room()
        return item

    def _message(self, reply: list[Any]) -> Message:
        if self._decode is not None:
            reply = [reply[0], *map(self._decode, reply[1:])]
        if len(reply) == 3:
            return Message("smessage" if reply[0] == b"smessage" else "message", reply[1], None, reply[2])
        return Message("pmessage", reply[2], reply[1], reply[3])

    def _as_dict(self, item: Item, *, ignore: bool = False) -> _Dict | None:
        """What redis-py gives for it; None if that is to be ignored."""
        if isinstance(item, list):
            return self._message(item)._asdict()
        if isinstance(item, Exception):
            raise item
        if ignore or self._options.ignore_subscribe_messages:
            return None
        if isinstance(item, Gap):
            return {"type": "gap", "pattern": None, "channel": None, "data": self._gap(item)}
        assert isinstance(item, Confirmation)
        return {"type": item.type, "pattern": None, "channel": self._decoded(item.name), "data": item.count}

    async def _handle(self, item: Handled) -> None:  # noqa: ASYNC910 (the item was waited for)
        result = item.handler(self._message(item.reply)._asdict())
        if inspect.isawaitable(result):
            await result

    def _gap(self, gap: Gap) -> Gap:
        if self._decode is None or not gap.channels:
            return gap
        try:
            return replace(gap, channels=tuple(map(self._decode, gap.channels)))
        except UnicodeDecodeError:
            # Better in bytes than not told.
            return gap

    def _decoded(self, name: bytes) -> Any:
        return name if self._decode is None else self._decode(name)

    def _names(self, kind: Kind) -> dict[Any, Handler | None]:
        return {self._decoded(name): handler for name, handler in self._plan.wanted(kind).items()}

    async def _subscribe(self, kind: Kind, args: tuple[Any, ...], kwargs: Mapping[str, Handler]) -> None:
        self._check_open()
        names = given_subscriptions(args, kwargs, self._encode)
        if not names:
            raise ConfigError("args", "there is nothing to subscribe to")
        await self._settled(self._plan.subscribe(kind, names))

    async def _unsubscribe(self, kind: Kind, args: tuple[Any, ...]) -> None:
        self._check_open()
        await self._settled(self._plan.unsubscribe(kind, given_names(args, self._encode)))

    async def _settled(self, ticket: Ticket) -> None:
        self._link.called()
        await self._outcome(ticket, self._plan)

    async def _outcome(self, ticket: TicketT, plan: _Abandons[TicketT]) -> None:
        try:
            await trio.lowlevel.checkpoint()
            while not ticket.settled:
                await self._link.moved.wait()
        finally:
            if not ticket.settled:
                plan.abandon(ticket)
        if ticket.error is not None:
            raise ticket.error.with_traceback(None)

    async def _hang_up(self, reason: str) -> None:
        attempt = self._link.attempt
        self._link.hang_up(reason)
        self._link.called()
        await trio.lowlevel.checkpoint()
        # Until it is that one no more: another task's subscription may have the next one made at once.
        while attempt is not None and self._link.attempt is attempt:
            await self._link.moved.wait()

    def _check_open(self) -> None:
        self._home.check("a subscriber")
        if self._closed:
            raise _closed()
        if self._plan.error is not None:
            raise self._plan.error.with_traceback(None)

    def __repr__(self) -> str:
        where = f" at {self._plan.server}" if self._plan.is_connected else ", not connected"
        channels, patterns = len(self._plan.wanted(Kind.CHANNEL)), len(self._plan.wanted(Kind.PATTERN))
        return f"<Subscriber of {channels} channels and {patterns} patterns{where}>"


class _Listening(AsyncIterator[_Dict]):
    """An iterator and no generator: one may leave it in the middle."""

    def __init__(self, get: Callable[[], Awaitable[_Dict | None]]) -> None:
        self._get = get

    async def __anext__(self) -> _Dict:
        if (found := await self._get()) is None:
            raise StopAsyncIteration
        return found


def given_subscriptions(
    args: tuple[Any, ...], kwargs: Mapping[str, Handler], encode: Callable[[Any], Any]
) -> dict[bytes, Handler | None]:
    """Names and their handlers, in all the ways in which redis-py takes them."""
    return {bytes(encode(name)): handler for name, handler in _encode_all(args, kwargs).items()}


def given_names(args: tuple[Any, ...], encode: Callable[[Any], Any]) -> list[bytes] | None:
    """Names, as redis-py takes them; None if none are given."""
    return [bytes(encode(name)) for name in list_or_args(args[0], args[1:])] if args else None


def _closed() -> ClientClosed:
    return ClientClosed("the subscriber is closed: use it inside its async with block")


@asynccontextmanager
async def open_subscriber(
    options: SubscriberOptions, source: SingleServer | SentinelService, encoder: Encoder
) -> AsyncGenerator[Subscriber]:
    """A subscriber for as long as the block lasts."""
    plan = Subscriptions(options, failover_timeout=source.failover_timeout, jitter=random.random)
    link = SubscriberLink(plan, options, source)
    subscriber = Subscriber(link, plan, options, encoder)
    async with open_service_nursery() as nursery:
        source.on_stop.add(subscriber.end)
        nursery.start_soon(link.run)
        try:
            yield subscriber
        finally:
            source.on_stop.discard(subscriber.end)
            subscriber.close()
