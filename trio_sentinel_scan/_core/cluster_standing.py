"""What the masters of a cluster say of its slots, put together: who has which, and which are on their way.

A slot has an owner here if that node says so itself and a majority of the masters does, at no later config epoch: one
that was cut off and replaced goes on calling itself the owner, and answers SCAN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .slots import ALL_SLOTS, NO_SLOTS, SlotSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .cluster_survey import NodeAccount, Survey

__all__ = ["Move", "Standing", "Word"]


class Move(NamedTuple):
    """A flag that a node has set for a slot."""

    # The node whose flag it is.
    node_id: str
    # Whether it takes the slot in (importing), or gives it away (migrating).
    takes: bool
    # The node at the other end, as this one names it.
    other: str


class Word(NamedTuple):
    """All that is said of a slot on its way. As long as this stays the same, its keys only go from owner to target."""

    owner: str | None
    # The owner's config epoch, which rises if the slot goes away and comes back.
    epoch: int
    moves: frozenset[Move]

    def targets(self, masters: Iterable[str]) -> set[str]:
        """The nodes, besides the owner, where keys of the slot may be. They need not be among the `masters`."""
        found: set[str] = set()
        for node_id, takes, other in self.moves:
            if not takes:
                found |= {node_id, other}
            elif node_id != self.owner:
                # Where it takes them from may be the owner under its old name: a master that was replaced.
                found.add(node_id)
            elif other in masters:
                found.add(other)
        return found - {self.owner}


class Standing:
    """One survey, read."""

    def __init__(self, survey: Survey, *, by_majority: bool = True) -> None:
        """Without `by_majority`, a node's own word will do; where several claim a slot, that of the latest epoch."""
        self._asks_others = by_majority
        # Those that call themselves masters.
        self.masters: dict[str, NodeAccount] = {
            node_id: account for node_id, account in survey.accounts.items() if account.myself.is_master
        }
        # Masters that somebody holds to be up, and that could not be asked: nobody knows what they have flagged.
        self.missing: set[str] = {
            node_id
            for account in self.masters.values()
            for node_id, line in account.lines.items()
            if line.is_master and node_id not in survey.accounts
        }
        # Those who have a vote: the masters with slots, up or not.
        self.voters: set[str] = {
            node_id
            for account in self.masters.values()
            for node_id, line in account.lines.items()
            if "master" in line.flags and line.slots
        }
        self.claimed: SlotSet = NO_SLOTS
        for account in self.masters.values():
            self.claimed |= account.myself.slots
        # What is said of masters that could not be asked: slots that have an owner, whatever it would say.
        self.unasked: SlotSet = NO_SLOTS if self.masters else ALL_SLOTS
        for account in self.masters.values():
            for node_id, line in account.lines.items():
                if line.is_master and node_id not in survey.accounts:
                    self.unasked |= line.slots
        # Why one of them could not be asked.
        self.silence: str = next(iter(survey.silent.values()), "")
        owned = self._by_majority() if by_majority else self._by_epoch()
        # Who has which slots.
        self.owned: dict[str, SlotSet] = {node_id: slots for node_id, slots in owned.items() if slots}
        self._outdated = {node_id for node_id in self.masters if by_majority and self._is_contradicted(node_id)}
        # For each slot that anybody has flagged.
        self.words: dict[int, Word] = self._read_words()
        self.flagged: SlotSet = NO_SLOTS
        for slot in self.words:
            self.flagged |= 1 << slot

    def own(self, node_id: str) -> SlotSet:
        """The slots that the node has."""
        return self.owned.get(node_id, NO_SLOTS)

    def own_word(self, node_id: str) -> SlotSet | None:
        """The slots that the node says it has; None if it could not be asked."""
        account = self.masters.get(node_id)
        return None if account is None else account.myself.slots

    def knows(self, node_id: str, master_id: str) -> bool:
        """Whether the node could be asked, or its master, that names it."""
        master = self.masters.get(master_id)
        return node_id in self.masters or (master is not None and node_id in master.lines)

    def epoch(self, node_id: str) -> int | None:
        """Its config epoch; None if it could not be asked."""
        account = self.masters.get(node_id)
        return None if account is None else account.myself.config_epoch

    def is_outdated(self, node_id: str) -> bool:
        """Whether some master contradicts what a node says of itself, and no majority bears it out.

        Those who give it slots at a later config epoch than its own contradict it: what answers in its name is, say, a
        machine that was started from an older image of it. (Of a node without slots an epoch says nothing: of a replica
        all others keep its master's, also when it has been reset and has none itself.)
        """
        return node_id in self._outdated

    @property
    def has_outdated(self) -> bool:
        """Whether any of the masters is."""
        return any(map(self.is_outdated, self.masters))

    def stirred_since(self, words: Mapping[int, Word], slots: SlotSet) -> SlotSet:
        """Those of these slots that have set out, or come to rest, since `words` was all that was said of them.

        Only what the nodes concerned say counts: of one that could not be asked nothing has changed.
        """
        found = NO_SLOTS
        for slot in {*words, *self.words}:
            if slots >> slot & 1:
                before, now = _moves_in(words, slot), _moves_in(self.words, slot)
                if now - before or any(move.node_id in self.masters for move in before - now):
                    found |= 1 << slot
        return found

    @property
    def needed(self) -> int:
        """How many make a majority."""
        return len(self.voters) // 2 + 1

    def agreeing(self, node_id: str, slots: SlotSet) -> int:
        """How many masters, itself included, name the node the owner of all these slots."""
        return sum(not slots & ~said for said in self._said_of(node_id))

    def why_unsound(self, node_id: str) -> str:
        """Why a node's slots cannot be vouched for now, whatever it says; "" if they can."""
        if not self._asks_others:
            return ""
        if self.missing:
            return f"{len(self.missing)} of the masters could not be asked which slots are on their way to them"
        if self.has_outdated:
            return "of one of the masters others know a later config epoch than it does itself, and perhaps other flags"
        account = self.masters[node_id]
        seen = NO_SLOTS
        for line in account.lines.values():
            if line.is_master:
                seen |= line.slots
        # For a node that misses the owner of any slot, the cluster is not "ok": it need not be cut off for that.
        if account.state not in {"", "ok"} and seen == ALL_SLOTS:
            return f"the node says that the cluster's state is {account.state!r}"
        return ""

    def _is_contradicted(self, node_id: str) -> bool:
        epoch = self.masters[node_id].myself.config_epoch
        lines = [account.lines.get(node_id) for name, account in self.masters.items() if name in self.voters]
        contradicting = sum(line is not None and bool(line.slots) and line.config_epoch > epoch for line in lines)
        return contradicting > 0 and len(lines) - contradicting < self.needed

    def _by_majority(self) -> dict[str, SlotSet]:
        owned: dict[str, SlotSet] = {}
        for node_id in self.masters:
            # In [n], the slots that at least so many name it the owner of.
            named_by = [ALL_SLOTS] + [NO_SLOTS] * self.needed
            for said in self._said_of(node_id):
                for number in range(self.needed, 0, -1):
                    named_by[number] |= named_by[number - 1] & said
            owned[node_id] = self.masters[node_id].myself.slots & named_by[-1]
        return owned

    def _said_of(self, node_id: str) -> list[SlotSet]:
        """The slots that each voter says it has, at no later epoch than its own."""
        epoch = self.masters[node_id].myself.config_epoch
        lines = [account.lines.get(node_id) for name, account in self.masters.items() if name in self.voters]
        return [line.slots if line is not None and line.config_epoch <= epoch else NO_SLOTS for line in lines]

    def _by_epoch(self) -> dict[str, SlotSet]:
        owned: dict[str, SlotSet] = {}
        taken = NO_SLOTS
        for account in sorted(self.masters.values(), key=lambda one: one.myself.config_epoch, reverse=True):
            owned[account.node_id] = account.myself.slots & ~taken
            taken |= account.myself.slots
        return owned

    def _read_words(self) -> dict[int, Word]:
        moves: dict[int, set[Move]] = {}
        for node_id, account in self.masters.items():
            for takes, flags in ((False, account.migrating), (True, account.importing)):
                for slot, other in flags.items():
                    moves.setdefault(slot, set()).add(Move(node_id, takes, other))
        words: dict[int, Word] = {}
        for slot, of_slot in moves.items():
            owner = next((node_id for node_id, slots in self.owned.items() if slots >> slot & 1), None)
            words[slot] = Word(owner, -1 if owner is None else self.epoch(owner) or 0, frozenset(of_slot))
        return words


def _moves_in(words: Mapping[int, Word], slot: int) -> frozenset[Move]:
    word = words.get(slot)
    return frozenset() if word is None else word.moves
