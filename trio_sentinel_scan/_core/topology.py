"""What the Sentinels say, weighed into one view of who the master is.

A Sentinel's word is a pair: the master's address and the config epoch under which it was elected. Of two pairs the
one with the higher epoch is the newer, whoever says it, so a change is followed on a single Sentinel's word. An epoch
that is *not* higher never changes the view by itself: a Sentinel that was cut off would say just that. Only a
majority does, after `SENTINEL REMOVE` and `MONITOR` have made epochs start again at 0, and only when it has stayed so
for a while, the server named says itself that it is a master, and either no live Sentinel still holds to the view or
the view's own server says that it is none.

Only the service's own Sentinels count: those that were there when the first view was found, and those that one of them
lists. Another deployment's, which may have got one of their addresses, moves nothing and has no vote.

Pure: answers, failures and the time come in, changes and questions come out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .errors import MasterNotFound, NoSentinelReachable, ServiceUnknown
from .identity import Address
from .sentinel_records import Effect, SentinelRecord, Votes, ids_of, largest_circle
from .sentinel_replies import Answer, MasterView, Peer

__all__ = ["Effect", "SentinelRecord", "Topology", "Votes"]

# How long a majority must go on naming an older epoch than ours before it can be believed: followers of a failover
# hear of it from the leader within two seconds (the hello period), and until then they honestly name the old master.
REGRESSION_HOLD: Final = 4.0
# How long the first choice waits for slower Sentinels that may know a newer epoch.
FIRST_CHOICE_GRACE: Final = 0.5


class Topology:
    """One service as its Sentinels describe it. Every method is synchronous and leaves a whole state behind."""

    def __init__(self, service: str, sentinels: Iterable[Address]) -> None:
        self.service: str = service
        self.records: dict[Address, SentinelRecord] = {
            address: SentinelRecord(address, configured=True) for address in sentinels
        }
        # Invariant: config_epoch never goes down except through `_adopt` with `reset=True`.
        self.view: MasterView | None = None
        # How often the view has moved to another (address, epoch); grows by one each time.
        self.version: int = 0
        self._first_answer_at: float | None = None
        # Since when a majority has named this older pair.
        self._regression: tuple[MasterView, float] | None = None
        # When a Sentinel last held to the view, and whether that was long ago when a role was last asked for.
        self._loyal_at = float("-inf")
        self._unopposed = False
        # Epochs started again: until a majority stands behind a new epoch, a Sentinel's *first* word proves nothing.
        self._after_reset = False
        # The ids of the service's own Sentinels. None until the first view was found: until then everybody counts.
        self._roster: set[str] | None = None

    # ---- what comes in ------------------------------------------------------------------------------------------

    def connected(self, sentinel: Address, sentinel_id: str | None) -> list[Address]:
        """A Sentinel told its own id. Returns the addresses to stop watching, being the same Sentinel twice."""
        record = self.records.get(sentinel)
        if record is None or sentinel_id is None:
            return []
        record.sentinel_id = sentinel_id
        twins = [other for other in self.records.values() if other.sentinel_id == sentinel_id]
        # A configured address is kept before a learned one: it is what the user can reach for certain.
        twins.sort(key=lambda twin: (not twin.configured, twin is not record))
        redundant = [twin.address for twin in twins[1:]]
        for address in redundant:
            del self.records[address]
        return redundant

    def answered(self, sentinel: Address, answer: Answer, now: float, *, asked_at: float | None = None) -> Effect:
        """A Sentinel answered what it was asked at the time `asked_at` (just now, if not given)."""
        effect = Effect()
        record = self.records.get(sentinel)
        if record is None:
            return effect
        before = record.said
        record.live = record.tried = True
        record.refused = False
        record.asked_at = record.heard_at = now if asked_at is None else asked_at
        record.peers = frozenset(peer.sentinel_id for peer in answer.peers)
        record.replicas, record.master_run_id = answer.replicas, answer.run_id
        self._enrol()
        if self._counts(record):
            self._learn(answer.peers, effect)
        if answer.master is None:
            record.said = None
            record.status = f"does not know the service {self.service!r}"
        else:
            record.said = answer.master
            record.status = f"names {answer.master.address} (config epoch {answer.master.config_epoch})"
            if self._first_answer_at is None:
                self._first_answer_at = now
        if self._counts(record):
            self._weigh(record, before, now, effect)
        else:
            record.status += ", but no Sentinel of this service lists it"
        return effect

    def failed(self, sentinel: Address, problem: str, now: float, *, refused: bool = False) -> Effect:
        """A Sentinel could not be asked; `problem` says why in words, `refused` whether it is the password."""
        effect = Effect()
        record = self.records.get(sentinel)
        if record is not None:
            record.live = False
            record.tried = True
            record.refused = refused
            record.heard_at = now
            record.status = problem
            self._forget_if_gone(record, effect)
            if self.view is None:
                self._choose_first(now, effect)
        return effect

    def waited(self, now: float) -> Effect:
        """Time went by: the first choice need not wait for everybody for ever."""
        effect = Effect()
        if self.view is None:
            self._choose_first(now, effect)
        return effect

    def role_confirmed(self, candidate: MasterView, *, is_master: bool, view_is_master: bool = True) -> Effect:
        """The server asked for by `Effect.confirm` told its role, and so did the view's own."""
        effect = Effect()
        since = self._regression if self._regression is not None and self._regression[0] == candidate else None
        contradicted = view_is_master and not (self._unopposed and not self._has_loyal())
        if since is not None and is_master and not contradicted and self._has_majority(candidate):
            self._adopt(candidate, since[1], effect, reset=True)
        else:
            self._regression = None
        return effect

    # ---- what can be asked --------------------------------------------------------------------------------------

    @property
    def everyone_tried(self) -> bool:
        """Whether each known Sentinel has answered or failed at least once."""
        return all(record.tried for record in self.records.values())

    @property
    def is_refused(self) -> bool:
        """Whether some Sentinel refuses the username or password, and none answers: waiting will not mend it."""
        records = self.records.values()
        return any(record.refused for record in records) and not any(record.live for record in records)

    def counting(self) -> list[SentinelRecord]:
        """The records of the service's own Sentinels."""
        return [record for record in self.records.values() if self._counts(record)]

    def members(self) -> dict[str, SentinelRecord]:
        """The service's Sentinels by their ids: those that answer, and those that were not taken off the lists."""
        return {
            record.sentinel_id: record
            for record in self.counting()
            if record.sentinel_id is not None and (record.live or not self._is_off_the_lists(record.sentinel_id))
        }

    def electorate(self) -> list[SentinelRecord | str]:
        """The Sentinels that count for a majority, each once.

        Those whose id is known, from themselves or from a peer's list. A configured address that never answered and
        that no peer lists under any id counts only as long as no peer's list is known at all: it may be another name
        of one that is counted already, or long gone.
        """
        by_id: dict[str, SentinelRecord | str] = {}
        nameless: list[SentinelRecord] = []
        listed: set[str] = set()
        for record in self.records.values():
            if not self._counts(record):
                continue
            if record.sentinel_id is not None:
                by_id[record.sentinel_id] = record
            elif record.live:
                nameless.append(record)
            if record.live:
                listed |= record.peers
        for sentinel_id in listed:
            by_id.setdefault(sentinel_id, sentinel_id)
        members: list[SentinelRecord | str] = []
        for record in nameless:
            # It is among those that its peers list, under an id that it does not list itself.
            its_own = [i for i in by_id if i not in record.peers]
            unmet = next((i for i in its_own if isinstance(at := by_id[i], str) or not at.live), None)
            if unmet is not None:
                by_id[unmet] = record
            elif not its_own:
                members.append(record)
        members += by_id.values()
        if not listed:
            members += [r for r in self.records.values() if r.sentinel_id is None and not r.live]
        return members

    def votes(self, view: MasterView, *, since: float = float("-inf")) -> Votes:
        """How the Sentinels stand to `view`, counting only answers to what was asked since then."""
        electorate = self.electorate()
        agreeing = dissenting = 0
        for member in electorate:
            if isinstance(member, str) or not member.live or member.asked_at < since or member.said is None:
                continue
            if member.said.address != view.address:
                dissenting += 1
            elif member.said.config_epoch <= view.config_epoch:
                agreeing += 1
        return Votes(len(electorate), agreeing, dissenting)

    def heard_everyone(self, since: float) -> bool:
        """Whether each Sentinel that is watched has answered what was asked since then, or failed."""
        return all(record.heard_at >= since for record in self.records.values())

    def describe(self) -> dict[str, str]:
        """Each Sentinel's address and what came of asking it."""
        return {str(record.address): record.status for record in self.records.values()}

    def no_master_error(self) -> MasterNotFound:
        """Why no master is known, as one error with one line per Sentinel."""
        lines = "".join(f"\n  {address}: {status}" for address, status in self.describe().items())
        states = self.records.values()
        if not any(record.live for record in states):
            return NoSentinelReachable(
                f"no Sentinel of service {self.service!r} answers; check their addresses, the network"
                f" and sentinel_username/sentinel_password:{lines}",
                self.describe(),
            )
        if all(record.said is None for record in states):
            return ServiceUnknown(
                f"no Sentinel knows a service named {self.service!r}; check its spelling against"
                f" 'sentinel monitor' in their configuration:{lines}",
                self.describe(),
            )
        return MasterNotFound(f"the Sentinels of service {self.service!r} led to no master:{lines}", self.describe())

    # ---- weighing -----------------------------------------------------------------------------------------------

    def _weigh(self, record: SentinelRecord, before: MasterView | None, now: float, effect: Effect) -> None:
        said, view = record.said, self.view
        if view is None:
            self._choose_first(now, effect)
            return
        if said == view:
            self._loyal_at = now
        if said is None or said == view:
            self._settle_regression()
            return
        if said.config_epoch > view.config_epoch:
            news = not self._after_reset or (before is not None and before != said) or self._has_majority(said)
            if news:
                self._adopt(said, now, effect)
            return
        # An epoch that is not higher: the word of a laggard, or epochs have started again.
        if not self._has_majority(said):
            self._settle_regression()
        elif said.address == view.address:
            if not self._has_loyal():
                self._adopt(said, now, effect, reset=True)
        elif self._regression is None or self._regression[0] != said:
            self._regression = (said, now)
        elif now - self._regression[1] >= REGRESSION_HOLD:
            self._unopposed = now - self._loyal_at >= REGRESSION_HOLD
            effect.confirm = said

    def _choose_first(self, now: float, effect: Effect) -> None:
        # The word of one that has failed since counts, too: an older one that comes later is no better for that.
        speakers = largest_circle([record for record in self.records.values() if record.said is not None])
        named = [record.said for record in speakers if record.said is not None]
        if not named:
            return
        # The newest epoch, and of equals what more Sentinels say.
        best = max(named, key=lambda view: (view.config_epoch, named.count(view)))
        waited = self._first_answer_at is not None and now - self._first_answer_at >= FIRST_CHOICE_GRACE
        if self._has_majority(best) or self.everyone_tried or waited:
            self._roster = ids_of(speakers)
            self._adopt(best, now, effect)

    def _adopt(self, view: MasterView, now: float, effect: Effect, *, reset: bool = False) -> None:
        moved = self.view is None or self.view.address != view.address
        higher = self.view is not None and view.config_epoch > self.view.config_epoch
        self.view = view
        self._loyal_at = now
        self._regression = None
        self._after_reset = reset or (self._after_reset and not self._has_majority(view))
        if reset:
            # One that is away may come back with another word of the old count: that would be no news.
            for record in self.records.values():
                record.said = record.said if record.live else None
        # The same address under a higher epoch was another master's in between; under a reset one it was not.
        if moved or (higher and not reset):
            self.version += 1
            effect.changed = True

    def _has_majority(self, view: MasterView) -> bool:
        electorate = self.electorate()
        saying = sum(1 for m in electorate if not isinstance(m, str) and m.live and m.said == view)
        return 2 * saying > len(electorate)

    def _has_loyal(self) -> bool:
        return any(r.live and r.said == self.view and self._counts(r) for r in self.records.values())

    def _settle_regression(self) -> None:
        if self._regression is not None and not self._has_majority(self._regression[0]):
            self._regression = None

    # ---- who the Sentinels are ----------------------------------------------------------------------------------

    def _counts(self, record: SentinelRecord) -> bool:
        return self._roster is None or record.sentinel_id is None or record.sentinel_id in self._roster

    def _enrol(self) -> None:
        """The Sentinels of the service list each other: whom one of them lists is one of them."""
        if self._roster is None:
            return
        live = [record for record in self.records.values() if record.live and record.sentinel_id is not None]
        members = [record for record in live if record.sentinel_id in self._roster]
        if members:
            self._roster |= ids_of(members)
            return
        # None of them is left. They may all have come back with new ids (their configuration was not kept).
        circle = largest_circle(live)
        configured = sum(1 for record in self.records.values() if record.configured)
        if 2 * sum(1 for record in circle if record.configured) > configured:
            self._roster = ids_of(circle)

    def _learn(self, peers: Iterable[Peer], effect: Effect) -> None:
        known_ids = {other.sentinel_id for other in self.records.values()}
        for peer in peers:
            there = self.records.get(peer.address)
            if there is not None:
                if there.sentinel_id is None:
                    there.sentinel_id = peer.sentinel_id
            elif peer.sentinel_id not in known_ids:
                self.records[peer.address] = SentinelRecord(
                    peer.address, configured=False, sentinel_id=peer.sentinel_id
                )
                effect.new_sentinels.append(peer.address)

    def _forget_if_gone(self, record: SentinelRecord, effect: Effect) -> None:
        """A learned Sentinel that fails, and that most of all Sentinels list no more, has been taken away.

        Most of all, and not of those in reach: a minority that was reset must not become all that there is.
        """
        if not record.configured and record.sentinel_id is not None and self._is_off_the_lists(record.sentinel_id):
            del self.records[record.address]
            effect.redundant.append(record.address)

    def _is_off_the_lists(self, sentinel_id: str) -> bool:
        electorate = self.electorate()
        without = [m for m in electorate if not isinstance(m, str) and m.live and sentinel_id not in m.peers]
        return 2 * len(without) > len(electorate)
