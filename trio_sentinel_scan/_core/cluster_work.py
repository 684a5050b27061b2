"""Commands on their way to a cluster's nodes, one after the other: what became of each, and what comes next.

A redirection (MOVED, ASK) is the server's word that it did not run the command; so are TRYAGAIN and CLUSTERDOWN. What
was refused so is sent again, a write too. What became of commands whose connection was lost is decided as for any
server: `command_fate`.

Commands with a key in common keep their order. One that did not run is not sent again once a later one of them has
run, or may have.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from redis.exceptions import AskError, ExecAbortError, MovedError, RedisError

from .blocking import block_time, with_block_time
from .command_fate import goes_again, name_of, outcome_unknown, refused_unrun
from .commands import HAS_A_BODY, Command
from .errors import CommandOutcomeUnknown, ProtocolError, RedirectionLoop, SentinelScanError, ServerConnectionError
from .identity import Address
from .in_flight import Written
from .replies import as_port
from .slots import SLOTS
from .verdicts import Verdict, error_code, verdict_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .wire import Reply

__all__ = [
    "ASKING",
    "AT_ONCE",
    "MOST_REDIRECTIONS",
    "ClusterWork",
    "Next",
    "Outcome",
    "Redirection",
    "Unit",
    "read_redirection",
    "redirection_loop",
]

ASKING: Final = Command("ASKING", ("ASKING",))
# Redirections of one command that are followed at once; ...
AT_ONCE: Final = 4
# ... then with a pause before each, until there were so many: the nodes have had seconds to come to agree.
MOST_REDIRECTIONS: Final = 50
# How many of the nodes a message names.
_MOST_NAMED: Final = 4

# What a server answers before it begins with a command, and never from within a script.
_BEFORE_IT_BEGINS: Final = {
    "TRYAGAIN": ("Multiple keys request during rehashing of slot",),
    "CLUSTERDOWN": ("Hash slot not served", "The cluster is down"),
}


class Redirection(NamedTuple):
    """Where a command is to be sent instead."""

    slot: int
    address: Address
    # ASK: this command only, and behind ASKING. Else MOVED: from now on.
    is_ask: bool
    error: AskError


def read_redirection(error: RedisError, answered_by: Address) -> Redirection | None:
    """What an error reply says of another node; None if it is about something else."""
    if not isinstance(error, AskError):
        return None
    # (redis-py reads it, and leaves it empty where the server does not say: then it means the host that was asked.)
    details: Any = error
    host = str(details.host)
    host = answered_by.host if host in {"", "?"} else host.strip("[]")
    slot = int(details.slot_id)
    try:
        address = Address(host, as_port(details.port))
    except ValueError:
        return None
    return Redirection(slot, address, not isinstance(error, MovedError), error) if 0 <= slot < SLOTS else None


class Next(enum.Enum):
    """What is to be done."""

    DONE = "there is an outcome for everything"
    AT_ONCE = "send what is pending, now"
    LATER = "send what is pending, after a pause"


@dataclass(frozen=True, slots=True)
class Unit:
    """What is sent together, and runs or does not run as one: a command, or a transaction from MULTI to EXEC."""

    commands: tuple[Command, ...]
    # The slot of its keys; None for one that goes to a node, whose word is final then.
    slot: int | None
    # Whether strings in the replies are decoded: in all, or in each.
    decode: bool | tuple[bool, ...] = True
    # By which its order is kept.
    keys: frozenset[bytes] = field(default=frozenset(), repr=False)
    # Whether the server must have been given scripts before.
    runs_scripts: bool = False

    @property
    def is_transaction(self) -> bool:
        """Whether it has an EXEC."""
        return len(self.commands) > 1


class Outcome(NamedTuple):
    """The replies to a unit's commands, errors among them, and the protocol that they came in."""

    replies: list[Reply]
    protocol: int

    def __repr__(self) -> str:
        return f"<Outcome of {len(self.replies)} replies>"


_Place: TypeAlias = "tuple[Address, bool]"


class ClusterWork:
    """Units that are for one node to begin with; each goes its own way where the nodes send it."""

    def __init__(self, units: Sequence[Unit], *, retry_writes: bool, loads: Sequence[Command] = ()) -> None:
        """`loads` give scripts to the server; they go along, in front, wherever scripts are run."""
        self.units: list[Unit] = list(units)
        self._loads: tuple[Command, ...] = tuple(loads)
        # What the last of these were answered.
        self.load_replies: list[Reply] = []
        self._retry_writes = retry_writes
        # Of each unit. Invariant: None exactly for those in `pending`.
        self.outcomes: list[Outcome | Exception | None] = [None] * len(self.units)
        # By number, in order. (As a set that keeps it: there may be many.)
        self.pending: dict[int, None] = dict.fromkeys(range(len(self.units)))
        # What was given to a connection last, by number: the first of those that are pending, and others that go to the
        # same node.
        self._sent: list[int] = []
        # Where a redirection has sent a unit, and whether by ASK. It holds for one try.
        self._places: dict[int, _Place] = {}
        # What is to be said of a write that was sent again by `retry_writes` if nothing comes of that either.
        self._doubts: dict[int, CommandOutcomeUnknown] = {}
        # Tries that a connection has taken; and the nodes that have redirected since something else was answered.
        self.tries: int = 0
        self._redirected_by: list[Address] = []
        # Why the last try was not the last one.
        self.problem: Exception | None = None
        # What the last answers say beside: how many were redirections; slots that have another owner, and whether to
        # ask for the map; whether the connection is of no more use.
        self.redirections: int = 0
        self.moved: list[Redirection] = []
        self.map_is_doubtful: bool = False
        self.spends_connection: bool = False

    # ---- what is sent --------------------------------------------------------------------------------------------

    def destination(self, where: Callable[[int | None], Address | None]) -> Address | None:
        """Where the next ones go; `where` says who has a slot (or who is asked without one). None: nobody has it."""
        number = next(iter(self.pending))
        place = self._places.get(number)
        return where(self.units[number].slot) if place is None else place[0]

    def next_units(self, where: Callable[[int | None], Address | None]) -> list[int]:
        """What is to be sent now: the first of what is pending, and what goes to the same node and overtakes nobody."""
        aim = self.destination(where)
        self._sent = []
        left: set[bytes] = set()
        for number in self.pending:
            unit, place = self.units[number], self._places.get(number)
            if (where(unit.slot) if place is None else place[0]) == aim and left.isdisjoint(unit.keys):
                self._sent.append(number)
            else:
                left |= unit.keys
        return self._sent

    def commands(self) -> list[Command]:
        """`next_units` as they are sent: behind ASKING, each, if it was ASK that sent them there."""
        found: list[Command] = list(self._loads) if self._sends_loads else []
        for number in self._sent:
            if self._asks(number):
                found.append(ASKING)
            found += self.units[number].commands
        return found

    def decode(self) -> list[bool]:
        """Whether strings are decoded, for each of `commands`."""
        found: list[bool] = [True] * len(self._loads) if self._sends_loads else []
        for number in self._sent:
            unit = self.units[number]
            found += [True] * self._asks(number)
            found += [unit.decode] * len(unit.commands) if isinstance(unit.decode, bool) else unit.decode
        return found

    @property
    def _sends_loads(self) -> bool:
        return bool(self._loads) and any(self.units[number].runs_scripts for number in self._sent)

    def forget_places(self) -> None:
        """Where the next ones were redirected to there is nobody: the map is to say where they go."""
        self._places.clear()

    @property
    def slot(self) -> int | None:
        """The slot of the first one that is pending."""
        return self.units[next(iter(self.pending))].slot

    def describe(self) -> str:
        """What is pending, by its names."""
        return name_of(self.pending_commands())

    def pending_commands(self) -> list[Command]:
        """All commands that are pending."""
        return [command for number in self.pending for command in self.units[number].commands]

    def _asks(self, number: int) -> bool:
        return self._places.get(number, (None, False))[1]

    # ---- what comes of it ----------------------------------------------------------------------------------------

    def refuse(self, number: int, error: Exception) -> None:
        """One of `next_units` is not to be sent at all."""
        self._sent.remove(number)
        self._end(number, error)

    def give_up(self, error: Exception) -> None:
        """Nothing more is tried: this is why, unless a write that is pending may have run in an earlier try."""
        for number in tuple(self.pending):
            self._end(number, self._doubts.get(number, error))

    def waited(self, seconds: float) -> None:
        """So long a server kept the commands waiting: what goes again waits for what is left of its own time."""
        for number in self.pending:
            unit = self.units[number]
            commands = tuple(with_block_time(command, block_time(command) - seconds) for command in unit.commands)
            self.units[number] = replace(unit, commands=commands)

    def took(
        self,
        replies: Sequence[Reply],
        protocol: int,
        at: Address,
        failure: SentinelScanError | None = None,
        written: Written = Written.ALL,
    ) -> Next:
        """What was sent has been answered by the node at this address, or its connection has failed on the way."""
        self.redirections, self.moved = 0, []
        self.map_is_doubtful, self.spends_connection = failure is not None, False
        self.tries += 1
        rest: list[Reply] = list(replies)
        if self._sends_loads:
            self.load_replies, rest = rest[: len(self._loads)], rest[len(self._loads) :]
        # What did not run, or may run twice, and why that is known: to be sent again.
        again: dict[int, Exception] = {}
        for number in tuple(self._sent):
            unit, asked = self.units[number], self._asks(number)
            self._places.pop(number, None)
            length = len(unit.commands) + asked
            part, rest = rest[:length], rest[length:]
            if len(part) < length:
                assert failure is not None
                if self._is_lost(number, failure, written, at):
                    again[number] = failure
                elif isinstance(failure, ProtocolError):
                    # What broke the protocol was the reply to this one; the others were only behind it.
                    failure = ServerConnectionError(str(failure))
                continue
            answers = part[asked:]
            if (redirection := self._redirection(unit, answers, at)) is not None:
                self.redirections += 1
                self._places[number] = (redirection.address, redirection.is_ask)
                if not redirection.is_ask:
                    self.moved.append(redirection)
                again[number] = redirection.error
            elif (refusal := self._refusal(unit, answers)) is not None:
                again[number] = refusal
            else:
                self._end(number, Outcome(answers, protocol))
        self._end_overtaken(again)
        redirected = self.redirections > 0
        if redirected:
            self._redirected_by.append(at)
        elif failure is None:
            self._redirected_by.clear()
        return self._what_next(at_once=redirected or (failure is not None and self.tries == 1))

    def _what_next(self, *, at_once: bool) -> Next:
        if not self.pending:
            return Next.DONE
        redirections = len(self._redirected_by)
        if redirections >= MOST_REDIRECTIONS:
            self.give_up(redirection_loop(self.describe(), self.slot, self._redirected_by))
            return Next.DONE
        return Next.AT_ONCE if at_once and redirections <= AT_ONCE else Next.LATER

    def _end(self, number: int, outcome: Outcome | Exception) -> None:
        del self.pending[number]
        self._places.pop(number, None)
        self.outcomes[number] = outcome

    def _is_lost(self, number: int, failure: SentinelScanError, written: Written, at: Address) -> bool:
        """Its replies will not come. True if it goes again."""
        unit = self.units[number]
        if isinstance(failure, ProtocolError):
            self._end(number, failure)
            return False
        if written is Written.PART and number != self._sent[-1]:
            # Only of the last one it is known that its end was not written.
            written = Written.ALL
        if goes_again(unit.commands, written, retry_writes=self._retry_writes):
            if not goes_again(unit.commands, written, retry_writes=False):
                doubt = outcome_unknown(unit.commands, at, failure, tried_again=True)
                self._doubts.setdefault(number, doubt)
            return True
        self._end(number, outcome_unknown(unit.commands, at, failure))
        return False

    def _redirection(self, unit: Unit, replies: Sequence[Reply], at: Address) -> Redirection | None:
        """Where the unit is to be sent instead. That it names the unit's slot tells it from a script's own words."""
        if unit.slot is None:
            return None
        error = _refusal_of(unit, replies)
        found = None if error is None else read_redirection(error, at)
        return found if found is not None and found.slot == unit.slot else None

    def _refusal(self, unit: Unit, replies: Sequence[Reply]) -> RedisError | None:
        """What proves that the unit did not run, if another try may help."""
        error = _refusal_of(unit, replies)
        if error is None:
            return None
        follows = unit.slot is not None
        if not _is_before_it_begins(error) and refused_unrun(unit.commands, replies, follows_master=follows) is None:
            return None
        self.map_is_doubtful = True
        self.spends_connection = self.spends_connection or verdict_of(error) is Verdict.RECONNECT
        return error

    def _end_overtaken(self, again: Mapping[int, Exception]) -> None:
        """Those that are to go again, but that a later one with a key in common has overtaken: it ran, or may have."""
        ran: set[bytes] = set()
        for number in reversed(self._sent):
            problem = again.get(number)
            if problem is not None:
                self.problem = problem
                if not ran.isdisjoint(self.units[number].keys):
                    self._end(number, self._doubts.get(number, problem))
            elif isinstance(self.outcomes[number], (Outcome, CommandOutcomeUnknown)):
                ran |= self.units[number].keys


def redirection_loop(what: str, slot: int | None, redirected_by: Sequence[object]) -> RedirectionLoop:
    """The error of `what` was sent in circles by these nodes."""
    nodes = tuple(map(str, redirected_by))
    some = ", ".join(dict.fromkeys(nodes[-_MOST_NAMED:]))
    slot = -1 if slot is None else slot
    return RedirectionLoop(
        f"{what} was redirected {len(nodes)} times in a row, lastly by {some}: the nodes do not agree on who has slot"
        f" {slot}; it did not run",
        slot,
        nodes,
    )


def _refusal_of(unit: Unit, replies: Sequence[Reply]) -> RedisError | None:
    """The error that tells why a unit did not run, if it did not."""
    if not unit.is_transaction:
        reply = replies[0]
        if not isinstance(reply, RedisError):
            return None
        if unit.commands[0].name in HAS_A_BODY and not (isinstance(reply, AskError) or _is_before_it_begins(reply)):
            return None
        return reply
    last = replies[-1]
    if isinstance(last, ExecAbortError):
        # What was refused when it was queued.
        return next((reply for reply in replies[:-1] if isinstance(reply, RedisError)), None)
    # EXEC itself, before it begins: its body's errors are in its reply.
    return last if isinstance(last, RedisError) and (isinstance(last, AskError) or _is_before_it_begins(last)) else None


def _is_before_it_begins(error: RedisError) -> bool:
    texts = _BEFORE_IT_BEGINS.get(error_code(error))
    return texts is not None and str(error).removeprefix(error_code(error)).lstrip().startswith(texts)
