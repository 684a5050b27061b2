"""What a lane's sweep is worth, slot by slot: what the masters said before its first SCAN, and what they say now.

A lane that is judged was swept to its end by one process in one role, and its consumer has taken all of it.

- *Clean*: the slot was this node's at both times, and on its way at neither.
- *Half*: it was on its way at both, and all that is said of it is alike. What the owner has not given yet was swept
  there; what it has given is swept at the target, from now on. If the word still is the same then, it is *covered*.
- Anything else is swept again. So is what was seen to change in between, when the masters were asked for another
  lane's sake, though it is as before now: keys may have gone and come back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .slots import NO_SLOTS, SlotSet, set_of, slots_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .cluster_standing import Standing, Word
    from .lanes import Lane

__all__ = ["LaneJudgement", "judge_covering", "judge_owner"]


@dataclass(slots=True)
class LaneJudgement:
    """Each of the lane's slots is in exactly one of these."""

    # Every key of theirs was delivered, as far as this node is concerned.
    good: SlotSet = NO_SLOTS
    # Those on their way that were swept at their owner: what was said of them.
    half: dict[int, Word] = field(default_factory=dict[int, "Word"])
    # Those to be swept again, and why.
    again: list[tuple[SlotSet, str]] = field(default_factory=list[tuple[SlotSet, str]])
    # Those of which nothing can be said now, and why.
    undecided: SlotSet = NO_SLOTS
    reason: str = ""

    def sweep_again(self, slots: SlotSet, reason: str) -> None:
        """Some of them (if any) are to be swept again."""
        if slots:
            self.again.append((slots, reason))


def judge_owner(
    lane: Lane, slots: SlotSet, before: Standing, now: Standing, stirred: SlotSet = NO_SLOTS
) -> LaneJudgement:
    """Judge these slots of a lane over their owner, as it was before. `stirred`: see `Sweep`."""
    found = LaneJudgement()
    node_id = lane.owner_id
    claimed = now.own_word(node_id)
    if claimed is None:
        # It may be replaced, or come back; who has its slots then, their next owners say.
        moved = slots & _owned_by_others(now, node_id)
        found.sweep_again(moved, "another master has the slots now")
        found.undecided, found.reason = (
            slots & ~moved,
            "the master of the slots could not be asked, and nobody else has them",
        )
        return found
    found.sweep_again(slots & ~claimed, "the slots have gone to another node")
    slots &= claimed
    if _epoch_changed(node_id, before, now):
        found.sweep_again(slots, "the node's config epoch has changed: slots may have gone and come back")
        return found
    if _follows_another(lane, now):
        found.sweep_again(slots, "the replica has gone to another master")
        return found
    moved = slots & _owned_by_others(now, node_id)
    found.sweep_again(moved, "by the word of most masters, another one has the slots")
    slots &= ~moved
    if problem := now.why_unsound(node_id):
        found.undecided, found.reason = slots, problem
        return found
    found.undecided = slots & ~now.own(node_id)
    found.reason = "no majority of the masters names the node the owner of its slots"
    slots &= ~found.undecided
    on_their_way = slots & (before.flagged | now.flagged | stirred)
    for slot in slots_in(on_their_way & ~stirred):
        word = now.words.get(slot)
        if word is not None and _word_is_alike(before.words.get(slot), word):
            found.half[slot] = word
    changed = on_their_way & ~set_of((slot, slot) for slot in found.half)
    found.sweep_again(changed, "the slots began, or ceased, to be on their way meanwhile, or another image answered")
    found.good = slots & ~on_their_way
    return found


def judge_covering(
    lane: Lane, slots: SlotSet, words: Mapping[int, Word], now: Standing, stirred: SlotSet = NO_SLOTS
) -> LaneJudgement:
    """Judge these slots of a lane over a node that they are on their way to; `words` is what was said of them."""
    found = LaneJudgement()
    problem = now.why_unsound(lane.node_id) if lane.node_id in now.masters else ""
    if problem:
        found.undecided, found.reason = slots, problem
        return found
    for slot in slots_in(slots):
        word = now.words.get(slot)
        if _word_is_alike(words[slot], word) and not stirred >> slot & 1:
            found.good |= 1 << slot
        elif word is not None and word.owner is None:
            found.undecided |= 1 << slot
            found.reason = "no majority of the masters names an owner of slots that are on their way"
    changed = slots & ~found.good & ~found.undecided
    found.sweep_again(
        changed, "the slots have come to rest, or are on another way, meanwhile, or another image of the node answered"
    )
    return found


# ---- the guards: each has a test that takes it away and sees keys lost ---------------------------------------------


def _word_is_alike(before: Word | None, now: Word | None) -> bool:
    return before is not None and before == now


def _epoch_changed(node_id: str, before: Standing, now: Standing) -> bool:
    return before.epoch(node_id) != now.epoch(node_id)


def _follows_another(lane: Lane, now: Standing) -> bool:
    """Whether the replica that was swept is its owner's no more: nodes move to masters that have none."""
    if lane.node_id == lane.owner_id:
        return False
    line = now.masters[lane.owner_id].lines.get(lane.node_id)
    return line is None or line.master_id != lane.owner_id


def _owned_by_others(now: Standing, node_id: str) -> SlotSet:
    owned = NO_SLOTS
    for other, slots in now.owned.items():
        if other != node_id:
            owned |= slots
    return owned
