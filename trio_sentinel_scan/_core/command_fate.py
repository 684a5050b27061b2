"""What becomes of commands whose replies did not come, or were refusals: sent again, or said to be unknown.

Asynchronous replication may lose what was answered; that is Redis's promise, and nothing here changes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from redis.exceptions import ExecAbortError, RedisError

from .commands import Command, may_send_again, never_ran
from .cursor_home import has_cursor
from .errors import CommandOutcomeUnknown
from .in_flight import Written
from .verdicts import Verdict, verdict_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .wire import Reply

__all__ = ["goes_again", "name_of", "outcome_unknown", "refused_unrun", "spends_connection"]

# How many commands of a batch a message names.
_MOST_NAMES: Final = 5
# What makes a transaction of them.
_AROUND: Final = frozenset({"MULTI", "EXEC"})


def goes_again(commands: Sequence[Command], written: Written, *, retry_writes: bool) -> bool:
    """Whether commands that were written together, and whose connection was lost, are sent once more.

    A server begins to run a command when it has the whole of it, and a transaction when it has the EXEC: what was
    written in part did not run. What was written may have. Iterations are among what only reads; that their cursors
    go to no other process is seen to when they are sent.
    """
    in_one = len(commands) == 1 or _is_transaction(commands)
    if written is Written.NOTHING or (written is Written.PART and in_one):
        return True
    if _is_transaction(commands):
        return False
    return all(
        may_send_again(command, written=True, retry_writes=retry_writes) or has_cursor(command) for command in commands
    )


def refused_unrun(commands: Sequence[Command], replies: Sequence[Reply], *, follows_master: bool) -> RedisError | None:
    """The refusal, if the replies prove that the server ran nothing of this, and another try may succeed; else None.

    All must have been refused. Of a transaction that the server refused to queue in full, it runs nothing; but what
    stands beside it has run.
    """
    if _is_transaction(commands):
        before = next(at for at, command in enumerate(commands) if command.name == "MULTI")
        ends = sum(command.name == "EXEC" for command in commands)
        # (What scripts are loaded with may be sent as often as one likes.)
        if ends != 1 or any(command.name != "SCRIPT" for command in commands[:before]):
            return None
        within = [
            (command, reply)
            for command, reply in zip(commands, replies, strict=True)
            if isinstance(reply, RedisError) and command.name != "EXEC"
        ]
        # A script that is refused when it is queued has not run in part.
        may_help = all(never_ran(Command("", c.args), reply, follows_master=follows_master) for c, reply in within)
        return within[0][1] if isinstance(replies[-1], ExecAbortError) and within and may_help else None
    first: RedisError | None = None
    for command, reply in zip(commands, replies, strict=True):
        if not isinstance(reply, RedisError) or not never_ran(command, reply, follows_master=follows_master):
            return None
        first = first or reply
    return first


def spends_connection(refusal: RedisError) -> bool:
    """Whether, after such a refusal, nothing more is to be asked over that connection: its server is not the one."""
    return verdict_of(refusal) is not Verdict.WAIT


def outcome_unknown(
    commands: Sequence[Command], where: object, problem: object, *, tried_again: bool = False
) -> CommandOutcomeUnknown:
    """The error that names the commands (never their arguments), the server, and what is known.

    `tried_again`: by `retry_writes` it was to be sent once more, and no reply came of that either.
    """
    whose = "its reply" if len(commands) == 1 else "its last reply"
    return CommandOutcomeUnknown(
        f"{name_of(commands)} was sent to {where} and {whose} never came ({problem});"
        f" it may have run or not, and {'nothing came of trying again' if tried_again else 'was not sent again'}"
    )


def name_of(commands: Sequence[Command]) -> str:
    """Commands by their names, for messages."""
    if len(commands) == 1:
        return commands[0].name
    kind = "transaction" if _is_transaction(commands) else "pipeline"
    names = [command.name for command in commands if command.name not in _AROUND]
    more = ", ..." if len(names) > _MOST_NAMES else ""
    return f"a {kind} of {len(names)} commands ({', '.join(names[:_MOST_NAMES])}{more})"


def _is_transaction(commands: Sequence[Command]) -> bool:
    return any(command.name == "MULTI" for command in commands)
