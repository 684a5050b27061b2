"""What the commands of a lease do to its connection: whether the next one to use it would notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from .commands import Command, Place
from .replies import as_fields
from .verdicts import Verdict, verdict_of

if TYPE_CHECKING:
    from .wire import Reply

__all__ = ["ConnectionState"]

# Commands that are for a connection of one's own and leave it as it was.
_LEAVES_NO_TRACE: Final = frozenset({"DISCARD", "EXEC", "UNWATCH", "WAIT", "WAITAOF"})
# What a server says that is not the one to be asked (any more), or hangs up.
_SUSPICIOUS: Final = frozenset({Verdict.LOOK_AGAIN, Verdict.RECONNECT, Verdict.UNAUTHENTICATED})


class ConnectionState:
    """One connection's, from its handshake to its return. Tell it of each command before and after."""

    def __init__(self, protocol: int) -> None:
        """`protocol` is the one that the handshake came to."""
        # In which replies come: 2 or 3.
        self.protocol: int = protocol
        # Whether it is to the next user what it was after the handshake, but for what is in the two below.
        self._changed = False
        self._watches = False
        # Whether what is sent now is only queued.
        self.in_multi: bool = False

    @property
    def clean(self) -> bool:
        """Whether the next one to use it would find it as the handshake left it."""
        return not (self._changed or self._watches or self.in_multi)

    def sending(self, command: Command) -> None:
        """A command is about to be sent: what it may change counts as changed, whatever becomes of it."""
        if command.name == "WATCH":
            self._watches = True
        elif command.name == "MULTI":
            self.in_multi = True
        elif command.place is Place.LEASE and command.name not in _LEAVES_NO_TRACE:
            self._changed = True

    def answered(self, command: Command, reply: Reply) -> None:
        """Its reply has come."""
        if isinstance(reply, RedisError):
            self._changed = self._changed or verdict_of(reply) in _SUSPICIOUS
            # A transaction that the server has thrown away is over.
            if command.name == "EXEC":
                self.in_multi = self._watches = False
            return
        match command.name:
            case "EXEC" | "DISCARD":
                self.in_multi = self._watches = False
            case "UNWATCH" if not self.in_multi:
                self._watches = False
            case "HELLO":
                self.protocol = {"2": 2, "3": 3}.get(as_fields(reply).get("proto", ""), self.protocol)
            case "RESET":
                self.protocol = 2
            case _:
                pass
