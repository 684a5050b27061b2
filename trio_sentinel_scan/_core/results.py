"""Replies that redis-py's response callbacks can make nothing of: whose doing that is, and what is said of it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from .errors import ProtocolError
from .replies import as_list

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .commands import Command
    from .identity import Address

__all__ = ["NONSENSE", "Asker", "At", "RedisPysCallbacks", "checked_page", "unreadable"]

Callback: TypeAlias = "Callable[..., Any]"

# What redis-py's callbacks trip over when a reply is of another shape than they think: they unpack, index, convert and
# iterate without looking. (OSError: a time that the system's calendar has not got. Not LookupError itself: that is an
# encoding that Python has not got, and the caller's doing.)
NONSENSE: Final = (ArithmeticError, AttributeError, IndexError, KeyError, OSError, TypeError, ValueError)

# The option by which a caller has a function of its own called within redis-py's.
_CAST: Final = "score_cast_func"


class Asker(Protocol):
    """Who has sent a command."""

    def whereabouts(self, command: Command) -> object:
        """Who answers it, in words for a message."""
        ...


class At(NamedTuple):
    """A node that was asked because the caller has named it."""

    address: Address

    def whereabouts(self, command: Command) -> object:  # noqa: ARG002 (whatever it is)
        """As above."""
        return self.address


class RedisPysCallbacks:
    """Which callbacks are redis-py's own, so that what they raise is about the reply; a user's may raise what it likes.

    Both stand in the same tables, and those are the user's to change: so it is the function itself that tells.
    """

    def __init__(self, *tables: Mapping[str, Callback]) -> None:
        self._tables = tuple(dict(table) for table in tables)

    def add(self, table: Mapping[str, Callback]) -> None:
        """These are redis-py's, too."""
        for known in self._tables:
            known.update(table)

    def has(self, name: str, callback: Callback | None) -> bool:
        """Whether this, which stands under `name` (in capitals), is redis-py's."""
        return any(known.get(name) is callback for known in self._tables)

    def may_not_be(self, name: str, callback: Callback, reply: object, options: Mapping[str, Any]) -> bool:
        """The callback of the command `name` (in capitals) has raised one of NONSENSE: whether the reply is to blame.

        Else it is the caller's: the callback, an option that it does not take, or a function among the options.
        """
        if not self.has(name, callback) or not _takes(callback, options):
            return False
        if options.get(_CAST, float) is float:
            return True
        try:
            # The same without the caller's function, which is not called again.
            callback(reply, **{**options, _CAST: _itself})
        except NONSENSE:
            return True
        return False


def unreadable(name: str, where: object) -> ProtocolError:
    """The error of a command whose reply is whole, and of no shape that redis-py knows. Nothing of the reply is in it.

    It is to be raised where no other exception is being handled: that of redis-py may have the value in its text.
    """
    return ProtocolError(
        f"{where} answered {name} with what redis-py's callback for it cannot read: the command was given by hand, with"
        " words that redis-py's own method does not send (set_response_callback helps), or this is no Redis or Valkey"
        " server"
    )


def checked_page(parse: Callback) -> Callback:
    """redis-py's callback of SCAN or one of its kin, for pages only: of two bytes it makes a cursor and a number."""

    def checked(reply: object, **options: Any) -> Any:
        pair = as_list(reply)
        if pair is None or len(pair) != 2 or not isinstance(pair[1], (list, dict)):
            raise ValueError("no page")
        return parse(reply, **options)

    return checked


def _takes(callback: Callback, options: Mapping[str, Any]) -> bool:
    if not options:
        return True
    try:
        inspect.signature(callback).bind(None, **options)
    except (TypeError, ValueError):
        # (Of what is built in there may be no signature; it takes no options.)
        return False
    return True


def _itself(value: object) -> object:
    return value
