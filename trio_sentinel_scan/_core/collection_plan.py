"""What the scan of one hash, set or sorted set decides beyond what any scan does: whether its key is there.

A key that is not there answers with no items and cursor 0, as one whose scan has come to its end. So its size is asked
for with each new connection, and again with the certificate, in one round trip with all else that this rests on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from redis import exceptions as redis_errors

from .certificate import Evidence, Held, Judgement, Undecided
from .cursor import CursorFormat
from .errors import AuthenticationFailed, CollectionChanged, CollectionGone, ScanRefused
from .scan_plan import ScanPlan
from .scan_states import FINAL
from .segments import Segments
from .verdicts import Verdict, error_code, verdict_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from . import scan_steps as steps
    from .checkpoint import Checkpoint
    from .collection import Collection, KeyFound
    from .scan_options import ScanOptions
    from .seen_keys import SeenKeys
    from .summary import ScanSummary

__all__ = ["CollectionPlan"]

_PASSING: Final = frozenset({Verdict.WAIT, Verdict.RECONNECT, Verdict.LOOK_AGAIN})
_SINCE: Final = "there is NOVALUES from Redis 7.4 and Valkey 8.0 on: scan with no_values=False"


class CollectionPlan(ScanPlan):
    """One collection's scan. Its pages hold items: members, fields, or pairs of a field or member and its value."""

    def __init__(
        self, options: ScanOptions, *, failover_timeout: float, now: float, jitter: Callable[[], float]
    ) -> None:
        """As of any scan; `options` have a collection."""
        assert options.collection is not None
        super().__init__(options, failover_timeout=failover_timeout, now=now, jitter=jitter)
        self._collection: Collection = options.collection
        # Whether this scan, or the one that it goes on from, has seen the key. Never taken back: what was there and is
        # not is no empty collection, be it deleted, expired, or lost with a master.
        self._was_there = options.resume is not None and _has_begun(options.resume)
        # How many items there were when the present pass began; None until it has.
        self._size: int | None = None
        # What the evidence for the certificate says of that.
        self._size_now: int | redis_errors.RedisError | None = None

    def summary(self, now: float) -> ScanSummary:
        """The account up to now."""
        return replace(super().summary(now), collection_size=self._size)

    # ---- the guards: each has a test that takes it away ----------------------------------------------------------

    def _is_gone(self, size: int) -> bool:
        # What was handed out was there.
        return size == 0 and (self._was_there or self._account.keys > 0)

    # ---- what it means -------------------------------------------------------------------------------------------

    def _bind(self, found: steps.Connected, now: float) -> None:
        key, before = found.key, self._sweep
        if key is not None and not found.unfit and (code := _passing(key.size)):
            found = replace(found, unfit=f"{found.server} answers {code}")
        super()._bind(found, now)
        if found.unfit or self.state in FINAL:
            return
        assert key is not None
        if (error := self._fault(key, now)) is not None:
            self._fail(error, now)
            return
        assert isinstance(key.size, int)
        self._was_there = self._was_there or key.size > 0
        if self._sweep is not before:
            self._size = key.size

    def _came_on_without_a_page(self) -> None:
        # A checkpoint that has begun says that the key was there (`_has_begun`).
        if self._was_there:
            super()._came_on_without_a_page()

    def _fault(self, key: KeyFound, now: float) -> Exception | None:
        """Why the scan cannot be on the server that it has just been bound to."""
        if self._collection.no_values and key.knows_novalues is False:
            return ScanRefused(f"{self._server} has no NOVALUES: {_SINCE}", self.summary(now))
        return self._size_fault(key.size, now)

    def _size_fault(self, size: int | redis_errors.RedisError, now: float) -> Exception | None:
        name = self._collection.name
        if not isinstance(size, int):
            return self._refusal(size, self._collection.size_command, now)
        if self._is_gone(size):
            return CollectionGone(
                f"the {name} that was scanned is not there any more on {self._server}: it was deleted, has expired, or"
                f" was lost with another master ({self._account.keys} items were handed out)",
                self.summary(now),
            )
        return None

    def _refused(self, error: redis_errors.RedisError, now: float, *, had_cursor: bool) -> None:
        if error_code(error) == "WRONGTYPE" or (self._collection.no_values and "syntax error" in str(error).lower()):
            self._fail(self._refusal(error, self._collection.command, now), now)
        else:
            super()._refused(error, now, had_cursor=had_cursor)

    def _refusal(self, error: redis_errors.RedisError, command: str, now: float) -> Exception:
        name = self._collection.name
        if error_code(error) == "WRONGTYPE":
            if self._was_there:
                return CollectionChanged(
                    f"the key that was scanned holds no {name} any more on {self._server}"
                    f" ({self._account.keys} items were handed out)",
                    self.summary(now),
                )
            return ScanRefused(f"{self._server} refuses {command}: the key holds no {name}", self.summary(now))
        if verdict_of(error) is Verdict.UNAUTHENTICATED:
            return AuthenticationFailed(f"{self._server} refuses {command}: {error}")
        problem = f"{self._server} refuses {command}: {error}"
        if command == self._collection.size_command:
            problem += f" (without it, a {name} that is gone could not be told from one that was scanned to its end)"
        else:
            problem += f" ({_SINCE})"
        return ScanRefused(problem, self.summary(now))

    def _judge(self, evidence: Evidence) -> Judgement:
        judgement = super()._judge(evidence)
        size = self._size_now = evidence.size
        if isinstance(judgement, Held) and (code := _passing(size)):
            return Undecided(f"the server answers {code}")
        return judgement

    def _judged(self, judgement: Judgement, now: float) -> None:
        if isinstance(judgement, Held):
            assert self._size_now is not None
            if (error := self._size_fault(self._size_now, now)) is not None:
                self._fail(error, now)
                return
        super()._judged(judgement, now)

    # ---- how it differs ------------------------------------------------------------------------------------------

    def _format_at(self, found: steps.Connected) -> CursorFormat:
        # A collection has one table, whatever the keyspace has.
        form = super()._format_at(found)
        return CursorFormat.REVERSED if form is CursorFormat.SLOTS else form

    def _mark_unseen(self, seen: SeenKeys, keys: Sequence[Any]) -> list[Any]:
        # A value or score may change; the field or member is what is handed out once.
        if not self._collection.has_pairs:
            return super()._mark_unseen(seen, keys)
        unseen = set(super()._mark_unseen(seen, [name for name, _ in keys]))
        found: list[Any] = []
        for pair in keys:
            if pair[0] in unseen:
                unseen.remove(pair[0])
                found.append(pair)
        return found

    def _clear_pass(self) -> None:
        super()._clear_pass()
        self._size = None


def _has_begun(resume: Checkpoint) -> bool:
    """Whether the scan that the checkpoint is of had handed something out."""
    return bool(resume.cursors) and list(resume.cursors) != Segments(resume.form, len(resume.cursors)).cursors


def _passing(size: object) -> str:
    """The code of an error reply that another try, or another server, may mend; "" if there is none."""
    return error_code(size) if isinstance(size, redis_errors.RedisError) and verdict_of(size) in _PASSING else ""
