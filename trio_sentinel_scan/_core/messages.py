"""What a subscriber hands out, and what it was asked for: checked once, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from .config import checked_duration
from .errors import ConfigError

if TYPE_CHECKING:
    from .identity import ServerIdentity

__all__ = ["Confirmation", "Gap", "Handler", "Message", "OnFull", "SubscriberOptions", "checked_subscriber_options"]

OnFull: TypeAlias = Literal["block", "drop_oldest", "drop_newest", "raise"]
# redis-py's: it is given a message as redis-py's dict; what it returns is awaited if it can be.
Handler: TypeAlias = Callable[[dict[str, Any]], Any]


class Message(NamedTuple):
    """A message that was published. `channel`, `pattern` and `data` are bytes, or str where the client decodes."""

    # "message", "pmessage" for one that came by a pattern, "smessage" for one of a sharded channel.
    type: str
    channel: Any
    # The pattern that it came by; None for all but "pmessage".
    pattern: Any
    data: Any

    def __repr__(self) -> str:
        return f"<Message of type {self.type!r}>"


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages may be missing here: the subscription was interrupted, or the buffer was full.

    One stands for each interruption, in front of the first message that came after it. Times are those of the event
    loop's clock (`trio.current_time()` or `anyio.current_time()`), in seconds.
    """

    cause: str
    # The process that was subscribed to, and the one that is now; the same one if only the connection was lost.
    old_server: ServerIdentity | None
    new_server: ServerIdentity | None
    # When the last was heard of the old connection, and when the new one held the subscriptions. (Of messages that
    # were dropped: when the first and the last of them were.)
    began: float
    ended: float
    # How many messages were dropped because the buffer was full; 0 for an interruption, where nobody knows.
    dropped: int = 0
    # The sharded channels that were interrupted, as in `Message`; empty where it is about all that came from a server,
    # and where messages were dropped: those may have been any channel's.
    channels: tuple[Any, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The server's answer to a (un)subscribe of the caller's, for one name: what redis-py's `get_message` shows."""

    type: str
    name: bytes = field(repr=False)
    count: int


@dataclass(frozen=True, slots=True)
class SubscriberOptions:
    """The checked arguments of `pubsub`. Durations are in seconds; `math.inf` is never."""

    ignore_subscribe_messages: bool
    buffer: int
    on_full: OnFull
    health_check_interval: float


def checked_subscriber_options(
    *, ignore_subscribe_messages: object, buffer: object, on_full: object, health_check_interval: object
) -> SubscriberOptions:
    """Check the arguments of `pubsub`; a ConfigError names the one at fault."""
    if isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 1:
        raise ConfigError("buffer", "must be a whole number of messages from 1")
    if on_full not in ("block", "drop_oldest", "drop_newest", "raise"):
        raise ConfigError("on_full", 'must be "block", "drop_oldest", "drop_newest" or "raise"')
    return SubscriberOptions(
        ignore_subscribe_messages=bool(ignore_subscribe_messages),
        buffer=buffer,
        on_full=on_full,
        health_check_interval=checked_duration(health_check_interval, "health_check_interval"),
    )
