"""The bounded buffer between a subscribed connection and whoever receives: what waits in it, and what gives way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .errors import SubscriberOverflow
from .messages import Confirmation, Gap, Handler

if TYPE_CHECKING:
    from .errors import SubscriptionLost
    from .identity import ServerIdentity
    from .messages import OnFull

__all__ = ["Handled", "Item", "Mailbox"]


class Handled(NamedTuple):
    """A message, as the server sent it, and the handler that is to have it."""

    reply: list[Any]
    handler: Handler

    def __repr__(self) -> str:
        return f"<Handled by {self.handler}>"


@dataclass(slots=True)
class _Dropped:
    """Messages that gave way in this place, one after the other."""

    server: ServerIdentity | None
    first: float
    last: float
    number: int = 1


# A message without a handler is kept as the server sent it: a list.
Item: TypeAlias = "list[Any] | Handled | Confirmation | Gap | SubscriptionLost"


class Mailbox:
    """Items in the order in which they came. The bound is on messages; nothing else is ever dropped."""

    def __init__(self, size: int, on_full: OnFull) -> None:
        self._size = size
        self._on_full: OnFull = on_full
        # What lies before the first of `_items`, when that is a message that had to give way. No message is in it.
        self._front: deque[Item | _Dropped] = deque()
        self._items: deque[Item | _Dropped] = deque()
        # Invariant: the number of messages in `_items`.
        self._messages = 0

    def __len__(self) -> int:
        return len(self._front) + len(self._items)

    @property
    def must_wait(self) -> bool:
        """Whether nothing more is to be read until somebody has received something."""
        return self._on_full == "block" and self._messages >= self._size

    @property
    def has_room_again(self) -> bool:
        """Whether it is worth to read on: half of it is free."""
        return self._messages <= self._size // 2

    def put(self, item: Confirmation | Gap | SubscriptionLost) -> None:
        """Something other than a message."""
        self._items.append(item)

    def put_message(
        self, reply: list[Any], handler: Handler | None, now: float, server: ServerIdentity | None = None
    ) -> None:
        """A message. If the buffer is full, what is to give way does; with "block", nothing does.

        Raises SubscriberOverflow with "raise".
        """
        if self._messages >= self._size and self._on_full != "block":
            if self._on_full == "raise":
                raise SubscriberOverflow(
                    f'{self._messages} messages were waiting to be received, and another came (on_full="raise")'
                )
            if self._on_full == "drop_newest":
                self._note_drop(self._items, now, server)
                return
            self._drop_oldest(now, server)
        self._items.append(reply if handler is None else Handled(reply, handler))
        self._messages += 1

    def take(self) -> Item:
        """The next item. There must be one."""
        item = self._front.popleft() if self._front else self._items.popleft()
        if isinstance(item, (list, Handled)):
            self._messages -= 1
        elif isinstance(item, _Dropped):
            cause = f'the buffer was full (on_full="{self._on_full}")'
            return Gap(cause, item.server, item.server, item.first, item.last, item.number)
        return item

    def clear(self) -> None:
        """Forget everything."""
        self._front.clear()
        self._items.clear()
        self._messages = 0

    def _drop_oldest(self, now: float, server: ServerIdentity | None) -> None:
        while not isinstance(item := self._items.popleft(), (list, Handled)):
            self._front.append(item)
        self._messages -= 1
        self._note_drop(self._front, now, server)

    @staticmethod
    def _note_drop(place: deque[Item | _Dropped], now: float, server: ServerIdentity | None) -> None:
        last = place[-1] if place else None
        if isinstance(last, _Dropped):
            last.number += 1
            last.last = now
        else:
            place.append(_Dropped(server, now, now))
