"""A cluster's scan is made of lanes: each is one sweep of one node's process, for a set of slots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .slots import SlotSet

__all__ = ["Decoding", "Lane"]


class Decoding(NamedTuple):
    """How keys become text. Until it is known which slot they are in, they are bytes."""

    encoding: str
    errors: str


@dataclass(frozen=True, slots=True)
class Lane:
    """What one lane is to bring. Never changes: slots that are swept again are swept in another lane."""

    # Grows by one with each lane of a scan.
    number: int
    # The names of the node that is swept, and of the slots' owner: the same, its master, or who gives them to it.
    node_id: str
    owner_id: str
    # No key of another slot is delivered.
    slots: SlotSet = field(repr=False)  # (a number of five thousand digits: more than Python writes)
    # The highest of its slots' epochs.
    epoch: int
    # How many segments its slots are divided into, or more, where cursors carry the slot. The division follows from it.
    parts: int = 1
    # Slots that the node does not have, so that a sweep may as well come by them: it is not to have a chain of cursors
    # for each of its slots where every second one is another node's.
    passes: SlotSet = field(default=0, repr=False)
    # The slots that are divided, where that is known before: of a lane that was resumed, whose cursors are those of
    # another division. Empty: what follows from `slots` and `passes`.
    swept: SlotSet = field(default=0, repr=False)
    # Whether it brings what the slots' owner has handed on to this node, to which they are on their way.
    covers: bool = False
    # Whether the node's cursors were seen to be of another kind than it said.
    distrusts_format: bool = False
    # None: keys stay bytes.
    decoding: Decoding | None = None

    def decoded(self, keys: list[bytes]) -> list[bytes] | list[str]:
        """The keys as users have them. Raises UnicodeDecodeError."""
        if self.decoding is None:
            return keys
        encoding, errors = self.decoding
        return [key.decode(encoding, errors) for key in keys]
