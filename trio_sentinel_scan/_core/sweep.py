"""One pass over one server process: what to ask it, what its replies bring, and when every segment has ended.

A sweep knows neither epochs nor budgets; it is thrown away whole when its pass becomes void.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis import exceptions as redis_errors

from .certificate import changed_role, lost_link
from .cursor import CursorFormat
from .details import WaitingRoom
from .identity import Role
from .lane_segments import lane_segments
from .pacing import Pacing
from .scan_replies import ROLE_REQUEST, ScanEncoder
from .segments import Ask, Segments, auto_segments
from .verdicts import Verdict, verdict_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .certificate import Basis
    from .details import Questions
    from .identity import ServerIdentity
    from .scan_options import ScanOptions
    from .scan_replies import ScanReply

__all__ = ["Round", "Sweep", "Yield"]


class Round(NamedTuple):
    """Commands to be sent together: their bytes, and how many replies they will have."""

    data: bytes
    replies: int

    def __repr__(self) -> str:
        return f"<Round of {self.replies} commands>"


class Yield(NamedTuple):
    """What some replies came to."""

    # Committed: the sweep has moved on behind them.
    keys: list[Any]
    # Whether it has moved on at all; some pages are empty.
    came_on: bool = False
    # The first error reply that is more than a request for patience, and whether its SCAN was to go on at a cursor.
    error: redis_errors.RedisError | None = None
    had_cursor: bool = False
    # A request for patience.
    wait: redis_errors.RedisError | None = None
    # A cursor that cannot follow: the format is not the one it was taken for, or the chain goes in a circle.
    out_of_order: bool = False
    # What the server said of itself in between, if it may not be scanned like that; nothing else counts then.
    unfit: Role | None = None
    # A master has fewer replicas than before: one may have been promoted.
    lost_replicas: bool = False
    # Whether it will not be asked for once more if the connection is lost now.
    settled: bool = False

    def __repr__(self) -> str:
        return f"<Yield of {len(self.keys)} keys>"


# Stands for a ROLE in the order of what was asked.
_ROLE: Final[Ask] = (-1, 0, 0)
# And this for a question about a key.
_DETAIL: Final[Ask] = (-2, 0, 0)
# What cannot answer a SCAN.
_NO_SCAN: Final = (Role, bytes, str, int, NoneType)
# Seconds from one ROLE to the next.
ROLE_PERIOD: Final = 0.25
# How many rounds of nothing but questions about keys are on their way at once.
_ROUNDS: Final = 2


@dataclass(slots=True)
class _Sent:
    """A round on its way."""

    at: float
    # Replies that have not come yet.
    left: int
    # The sum of the COUNTs of those that the server did, or has yet to do.
    count: int
    keys: int = 0
    # Whether the first byte of its SCANs' replies has come.
    begun: bool = False
    # Questions about keys, which come before its SCANs, and how many of them were answered.
    questions: int = 0
    told: int = 0
    # Whether its SCANs had to wait for such questions, so that the time they took is not known.
    was_behind: bool = False


class Sweep:
    """The segments of one pass, the rounds on their way, and the pace."""

    def __init__(
        self,
        options: ScanOptions,
        server: ServerIdentity,
        role: Role,
        form: CursorFormat,
        *,
        cursor: int = 0,
        cursors: Sequence[int | None] = (),
    ) -> None:
        """A pass from its beginning, from `cursor` in one chain, or from where `cursors` has its segments."""
        # Replies to SCANs so far, empty ones and errors included.
        self.scans = 0
        # The process that issues all cursors in here. Never changes: another process is another sweep.
        self.server = server
        # What it said of itself when the pass was bound to it.
        self.role = role
        self.format = form
        self._basis: Basis = options.basis
        # Whether the pass may go on at another process, where the cursors are to be beyond doubt.
        self._may_move = options.hash_seed_shared
        number = auto_segments(form, options.count) if options.segments is None else options.segments
        # Where the chains of cursors stand. Invariant: they move on together with the keys of the replies that moved
        # them.
        collection = options.collection
        self._segments_at: Callable[..., Segments] = (
            partial(
                Segments,
                form,
                may_be_small=collection is not None,
                has_pairs=collection is not None and collection.has_pairs,
            )
            if options.lane is None
            else partial(lane_segments, options.lane, form)
        )
        self._segments = self._segments_at(number, cursor=cursor, cursors=cursors)
        self._pacing = Pacing(options.count, options.duty)
        self._encode = ScanEncoder(options).encode
        # SCANs to be sent next, and those that were sent, in the order of their replies.
        self._to_ask: list[Ask] = []
        self._on_their_way: deque[Ask] = deque()
        self._rounds: deque[_Sent] = deque()
        # Nothing was received since the last round was sent.
        self._just_sent = False
        # No reply has come since a connection was lost that brought none of those that were on their way.
        self._lost_in_vain = False
        # A reply asked for patience: nothing more is asked until it was granted.
        self.told_to_wait = False
        # When to ask for the role again (None: it was told just now), whether that is part of what is sent next, and
        # how many are on their way. Who does not tell it is not asked.
        self._role_due: float | None = None if role.kind else math.inf
        self._asks_role = False
        # Whether what is read is beyond doubt only when a ROLE has vouched for it: in a pass that may move, and on a
        # replica. That may lose all it has, go on answering, and have it back: its synchronisation has failed.
        self._needs_vouching = self._may_move or role.kind == "slave"
        # What was not vouched for when the connection is lost is read once more: by the next one, the replica may have
        # had its data back. (A master that is one still has been one, or somebody else's promotion is heard of.)
        self._rereads = role.kind == "slave"
        # Whether anything has come since a ROLE was told last: one that vouches for nothing new is no progress.
        self._is_ahead = False
        # Whether this connection has brought anything that will not be asked for once more.
        self._has_settled = False
        # Such a pass has one in each round.
        self._role_period = 0.0 if self._needs_vouching else ROLE_PERIOD
        self._roles_on_their_way = 0
        # A master's replicas, as it listed them last.
        self._replicas = role.replicas
        # The cursors that a ROLE has vouched for: when all before them was read, this was the master still, and had
        # every replica that it has had. None where there is no ROLE to go by.
        self._vouched: Sequence[int | None] | None = self._segments.cursors if role.kind else None
        self._replicas_then = role.replicas
        # Pages that wait for what is asked about their keys; None if nothing is. What is to be asked next, and whether
        # there were such questions with the last SCANs.
        self.details: WaitingRoom | None = None if options.with_ is None else WaitingRoom(options.with_)
        self._questions: Questions | None = None
        self._questions_rode = False
        # Not to ask before this time: the share of the server's time that was asked for is used up.
        self.rests_until = -math.inf

    @property
    def swept(self) -> bool:
        """Whether every segment has come to its end, no page waits for its details, and nothing is on its way.

        The reply to a ROLE that rode along would be taken for an answer to what is asked next, the certificate.
        """
        return self._segments.swept and not self._on_their_way and (self.details is None or self.details.is_empty)

    @property
    def position(self) -> float | None:
        """How much of the hash space is covered, 0.0 to 1.0; None where cursors are opaque."""
        return self._segments.position

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return self._segments.number

    @property
    def cursors(self) -> Sequence[int | None]:
        """Where each segment goes on; None where it has come to its end."""
        return self._segments.cursors

    @property
    def can_move(self) -> bool:
        """Whether another process, with the keys in the same order, can go on with this pass."""
        return self._may_move and self._vouched is not None

    @property
    def standing(self) -> Sequence[int | None]:
        """The cursors to go on from later: where vouching is needed, those that were vouched for."""
        return self._vouched if self._needs_vouching and self._vouched is not None else self.cursors

    def go_back(self) -> None:
        """What the server said since a ROLE last vouched for it may be a deposed master's, or that of a replica without
        its data: it is asked for once more, there or elsewhere.
        """
        self.connection_lost()
        self._read_again()

    def _read_again(self) -> None:
        self._segments = self._segments_at(self._segments.number, cursors=self.standing)

    @property
    def is_waiting_for_replies(self) -> bool:
        """Whether any SCAN is on its way."""
        return bool(self._on_their_way)

    def next_round(self, now: float, *, page_in_hand: bool) -> Round | None:
        """The SCANs to send now, if any, and what goes with them; the same until they are reported as `sent`.

        There are at least two, each a part of the segments: while the server works on one, its last one's pages are
        on their way through us. When two fall due at once, the second lets the page in hand go first, so that the
        server does not find the two together, and make one of them.
        """
        if not self._to_ask and self._questions is None:
            rounds = self._pacing.rounds(self._segments.number)
            if self.told_to_wait or (self._just_sent and page_in_hand):
                return None
            if (
                now >= self.rests_until
                and len(self._rounds) < rounds
                and (self.details is None or not self.details.is_full)
            ):
                scans = self._pacing.scans(-(-self._segments.number // rounds))
                self._to_ask = self._segments.due(self._pacing.count(scans), scans)
            if self.details is not None and self._questions_may_go(self.details):
                self._questions = self.details.questions()
            if not self._to_ask and self._questions is None:
                return None
            if self._role_due is None:
                self._role_due = now + self._role_period
            self._asks_role = now >= self._role_due
        encode = self._encode
        parts = [encode(cursor, count) for _, cursor, count in self._to_ask]
        if self._asks_role:
            parts.append(ROLE_REQUEST)
        if self._questions is not None:
            # The page that waits for them comes before those that the SCANs will bring.
            return Round(b"".join((self._questions.data, *parts)), self._questions.replies + len(parts))
        return Round(b"".join(parts), len(parts))

    def _questions_may_go(self, room: WaitingRoom) -> bool:
        if self._to_ask:
            # Every other round is of SCANs alone, to show what they cost.
            return not self._questions_rode
        # By themselves only where they do not get between the SCANs.
        return not self._rounds or ((room.is_full or self._segments.swept) and len(self._rounds) < _ROUNDS)

    def sent(self, now: float) -> None:
        """The last round has been sent."""
        questions = 0 if self.details is None else self._questions_sent(self.details)
        if self._asks_role:
            self._to_ask.append(_ROLE)
            self._roles_on_their_way += 1
            self._role_due = now + self._role_period
        self._on_their_way.extend(self._to_ask)
        this = _Sent(now, questions + len(self._to_ask), sum([count for _, _, count in self._to_ask]))
        if questions or (self._rounds and self._rounds[-1].count == 0):
            this.questions, this.was_behind = questions, True
        self._rounds.append(this)
        self._to_ask = []
        self._just_sent = True

    def connection_lost(self) -> None:
        """No reply that is still on its way will come: ask again from what was committed; of a replica, from what was
        vouched for.
        """
        brought = self._has_settled if self._is_provisional else any(this.begun or this.told for this in self._rounds)
        self._has_settled = False
        if self._on_their_way and not brought:
            if self._lost_in_vain:
                # Twice in a row: it may be more at once than the connection is allowed to hold.
                self._pacing.shrink()
            self._lost_in_vain = True
        self._to_ask = []
        self._on_their_way.clear()
        self._rounds.clear()
        self._roles_on_their_way = 0
        self._is_ahead = False
        self._segments.forget_asked()
        if self._rereads:
            self._read_again()
        if self.details is not None:
            self.details.connection_lost()
            self._questions, self._questions_rode = None, False
        self.told_to_wait = False

    def received(self, replies: Sequence[ScanReply], now: float, *, waited: bool = True) -> Yield:
        """Replies have come, in the order of what was asked; `waited` tells that they came just now.

        Their lists of keys are used up.
        """
        if self._roles_on_their_way and (unfit := self._unfit_role(replies)) is not None:
            return Yield([], unfit=unfit)
        brought: list[list[Any]] = []
        self._just_sent = False
        self._lost_in_vain = self._lost_in_vain and self._is_provisional
        self._note_first_bytes(replies, now, waited=waited)
        wait: redis_errors.RedisError | None = None
        came_on = lost_replicas = vouched = False
        place = 0
        while place < len(replies):
            # One round after the other, so that each is charged with what it brought itself.
            this = self._rounds[0]
            if this.told < this.questions:
                some = replies[place : place + this.questions - this.told]
                told, trouble = self._told(this, some, now, waited=waited)
                came_on = came_on or told > 0
                place += len(some)
                if trouble is not None:
                    if verdict_of(trouble) is not Verdict.WAIT:
                        return Yield(_joined(brought), error=trouble, wait=wait)
                    wait = trouble
                    self.told_to_wait = True
            before, dropped = len(brought), self._segments.dropped
            of_this = replies[place : place + this.left]
            for reply in of_this:
                ask = self._on_their_way.popleft()
                if ask is _ROLE:
                    lost_replicas = self._note_role(reply) or lost_replicas
                    vouched = self._catches_up(reply) or vouched
                    continue
                self.scans += 1
                if isinstance(reply, _NO_SCAN):
                    return Yield(
                        _joined(brought), error=redis_errors.InvalidResponse("replies out of order"), wait=wait
                    )
                if isinstance(reply, redis_errors.RedisError):
                    if verdict_of(reply) is not Verdict.WAIT:
                        return Yield(_joined(brought), error=reply, had_cursor=ask[1] != 0, wait=wait)
                    wait = reply
                    self.told_to_wait = True
                    self._segments.take_back(ask)
                    # It cost the server nothing.
                    this.count -= ask[2]
                    continue
                keys = self._commit(ask, *reply)
                if keys is None:
                    return Yield(_joined(brought), wait=wait, out_of_order=True)
                came_on = self._is_ahead = True
                if keys:
                    brought.append(keys)
            this.keys += sum(map(len, brought[before:])) + self._segments.dropped - dropped
            this.left -= len(of_this)
            place += len(of_this)
            if this.left == 0:
                self._rounds.popleft()
                if this.count:
                    rest = self._pacing.replied(this.count, this.keys)
                    self.rests_until = max(self.rests_until, now) + rest
        settled = self._settles(came_on=came_on, vouched=vouched)
        return Yield(_joined(brought), came_on, wait=wait, lost_replicas=lost_replicas, settled=settled)

    def _settles(self, *, came_on: bool, vouched: bool) -> bool:
        settled = vouched if self._is_provisional else came_on
        self._has_settled = self._has_settled or settled
        self._lost_in_vain = self._lost_in_vain and not settled
        return settled

    @property
    def _is_provisional(self) -> bool:
        """Whether what comes counts only when a ROLE behind it has vouched for it."""
        return self._rereads and self._vouched is not None

    def _note_first_bytes(self, replies: Sequence[ScanReply], now: float, *, waited: bool) -> None:
        first: _Sent | None = None
        place = count = 0
        for this in self._rounds:
            if place >= len(replies):
                break
            scans_at = place + this.questions - this.told
            if this.was_behind and not this.begun:
                waited = False
            if not this.begun and scans_at < len(replies):
                this.begun = True
                first = first or this
                count += this.count
                # What was refused says nothing of what a SCAN costs.
                waited = waited and not isinstance(replies[scans_at], redis_errors.RedisError)
            place += this.left
        if first is not None:
            self._pacing.first_byte(first.at, count, now, waited=waited)

    def _questions_sent(self, room: WaitingRoom) -> int:
        questions = 0
        if self._questions is not None:
            room.sent()
            questions = self._questions.replies
            self._on_their_way.extend([_DETAIL] * questions)
            self._questions = None
        if self._to_ask:
            self._questions_rode = questions > 0
        return questions

    def _told(
        self, this: _Sent, replies: Sequence[ScanReply], now: float, *, waited: bool
    ) -> tuple[int, redis_errors.RedisError | None]:
        """Some of the questions of this round were answered: how many pages are ready for it, and what is wrong."""
        assert self.details is not None
        for _ in replies:
            self._on_their_way.popleft()
        this.told += len(replies)
        this.left -= len(replies)
        if this.told == this.questions:
            rest = self._pacing.told(this.at, this.questions, now, waited=waited)
            self.rests_until = max(self.rests_until, now) + rest
        told, trouble = self.details.received(replies)
        self._is_ahead = self._is_ahead or told > 0
        return told, trouble

    def _unfit_role(self, replies: Sequence[ScanReply]) -> Role | None:
        """The guard: a server that has left its role may give keys that are not the service's any more."""
        for ask, reply in zip(self._on_their_way, replies, strict=False):
            if ask is _ROLE and isinstance(reply, Role) and (self.changed_role(reply) or lost_link(reply)):
                return reply
        return None

    def changed_role(self, role: Role) -> str:
        """How `role` differs from the role that the pass was bound to, in words; "" if it does not."""
        return changed_role(self._basis, self.role, role)

    def _catches_up(self, reply: ScanReply) -> bool:
        """Whether anything has come since the last ROLE. (A server that is loading tells its role all the same.)"""
        if not isinstance(reply, Role):
            return False
        was_ahead, self._is_ahead = self._is_ahead, False
        return was_ahead

    def _note_role(self, reply: ScanReply) -> bool:
        self._roles_on_their_way -= 1
        if isinstance(reply, Role):
            lost = not self._replicas <= reply.replicas
            self._replicas = reply.replicas
            if self._needs_vouching and self._replicas_then <= reply.replicas:
                self._replicas_then = reply.replicas
                self._vouched = self._segments.cursors
            return lost
        if not (isinstance(reply, redis_errors.RedisError) and verdict_of(reply) is Verdict.WAIT):
            # It is not told.
            self._role_due = math.inf
            self._vouched = None
        return False

    def _commit(self, ask: Ask, cursor: int, keys: list[Any]) -> list[Any] | None:
        # Cursor and keys together: whatever fails from here on, neither is lost nor repeated.
        return self._segments.advance(ask, cursor, keys)


def _joined(lists: list[list[Any]]) -> list[Any]:
    # On to the first one, which nobody else has: a third of what a new list would cost.
    joined = lists[0] if lists else []
    for keys in lists[1:]:
        joined += keys
    return joined
