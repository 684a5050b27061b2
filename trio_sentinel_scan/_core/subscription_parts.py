"""What a subscriber keeps account of: names that are wanted, calls that wait, commands that were asked."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .identity import ServerIdentity
    from .messages import Handler

__all__ = ["CONFIRMATIONS", "Asked", "Interruption", "Kind", "Ticket", "Wanted"]


class Kind(enum.Enum):
    """What a name names. The value is what its commands begin with."""

    CHANNEL = ""
    PATTERN = "P"


# The first word of a confirmation -> what was confirmed, and whether it is a subscription.
CONFIRMATIONS: Final = {
    f"{kind.value}{command}".lower().encode(): (kind, wants)
    for kind in Kind
    for command, wants in (("SUBSCRIBE", True), ("UNSUBSCRIBE", False))
}


@dataclass(slots=True, eq=False)
class Ticket:
    """A call that waits for the server's word. Once it is settled, nothing about it changes any more."""

    # None: a PING.
    kind: Kind | None
    wants: bool
    names: tuple[bytes, ...] = field(repr=False)
    settled: bool = False
    # With the server's own words in it, as a rule.
    error: Exception | None = field(default=None, repr=False)
    # Whether the caller has gone: nobody is there to be told of an error.
    abandoned: bool = False


@dataclass(slots=True, eq=False)
class Wanted:
    """A name that is wanted."""

    handler: Handler | None
    # The call that asked for it last.
    ticket: Ticket


@dataclass(slots=True, eq=False)
class Asked:
    """A command that the server has not answered in full."""

    kind: Kind | None
    wants: bool
    names: tuple[bytes, ...] = field(repr=False)
    # The call whose command it is; None for what the subscriber asks by itself.
    ticket: Ticket | None = None
    # Whether it makes up for what a lost connection held.
    restores: bool = False
    # How many of `names` were confirmed.
    confirmed: int = 0


@dataclass(frozen=True, slots=True)
class Interruption:
    """What the next Gap will tell."""

    cause: str
    old_server: ServerIdentity | None
    began: float
