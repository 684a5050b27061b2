"""Commands of a pipeline: where they may go, and what their replies mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from redis.client import EMPTY_RESPONSE
from redis.exceptions import RedisError, WatchError

from .commands import Command, Place
from .errors import ProtocolError
from .replies import as_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .wire import Reply

__all__ = [
    "EXEC",
    "MULTI",
    "Queued",
    "needs_own_connection",
    "read_transaction",
    "with_number",
]


@dataclass(frozen=True, slots=True)
class Queued:
    """A command of a pipeline, and what redis-py wants to know of it when its reply has come."""

    command: Command
    # The command as it was given, by which redis-py finds what makes a result of the reply; and its options.
    name: object = field(repr=False)
    options: dict[str, Any] = field(repr=False)

    @property
    def is_sent(self) -> bool:
        """Whether a transaction sends it. MGET of no keys is one that it does not: the result is known."""
        return EMPTY_RESPONSE not in self.options


MULTI: Final = Command("MULTI", ("MULTI",))
EXEC: Final = Command("EXEC", ("EXEC",))


def needs_own_connection(commands: Sequence[Command], *, transaction: bool) -> bool:
    """Whether these commands may not go over the connection that all tasks share."""
    # Within a transaction nothing waits.
    fine = {Place.SHARED, Place.OWN} if transaction else {Place.SHARED}
    return not all(command.place in fine for command in commands)


def read_transaction(queued: Sequence[Queued], replies: Sequence[Reply]) -> list[Any]:
    """The results of a transaction, from the replies to MULTI, to each command that was sent, and to EXEC.

    A command with redis-py's EMPTY_RESPONSE was not sent; what it holds is its result. Raises WatchError if a watched
    key was changed, else what made the server refuse the transaction, ProtocolError for what is no such answer, and
    UnicodeDecodeError.
    """
    *queueing, result = replies
    if isinstance(result, UnicodeDecodeError):
        # It may stand in the place of a reply that cannot be decoded.
        raise result
    if isinstance(result, RedisError):
        if (refusal := _first_refusal(queued, queueing)) is not None:
            raise refusal from result
        raise result
    if result is None:
        raise WatchError("Watched variable changed.")
    found = as_list(result)
    if found is None or len(found) != len(queueing) - 1:
        raise ProtocolError("EXEC did not answer with one reply for each command of the transaction")
    answers = iter(found)
    return [next(answers) if one.is_sent else one.options[EMPTY_RESPONSE] for one in queued]


def _first_refusal(queued: Sequence[Queued], queueing: Sequence[Reply]) -> RedisError | None:
    multi, *rest = queueing
    if isinstance(multi, RedisError):
        return multi
    sent = [(number, one) for number, one in enumerate(queued, 1) if one.is_sent]
    for (number, one), reply in zip(sent, rest, strict=True):
        if isinstance(reply, RedisError):
            return with_number(reply, number, one.command)
    return None


def with_number(error: RedisError, number: int, command: Command) -> RedisError:
    """The error of a pipeline's command, which says now which command that was. Its arguments stay out of it."""
    said = error.args[0] if error.args else ""
    error.args = (f"Command # {number} ({command.name}) of pipeline caused error: {said}", *error.args[1:])
    return error
