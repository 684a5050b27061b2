"""A number for each slot, as sets of slots that have the same: what a cluster's scan counts for each of them."""

from __future__ import annotations

from .slots import ALL_SLOTS, NO_SLOTS, SlotSet

__all__ = ["SlotNumbers"]


class SlotNumbers:
    """All slots begin with 0."""

    def __init__(self) -> None:
        # The slots by their number. Invariant: each slot is in one of them.
        self._by_number: dict[int, SlotSet] = {0: ALL_SLOTS}

    def highest(self, slots: SlotSet) -> int:
        """The highest number that any of these slots has; 0 for no slots."""
        return max((number for number, those in self._by_number.items() if those & slots), default=0)

    @property
    def numbers(self) -> tuple[tuple[int, SlotSet], ...]:
        """The slots by their number, but for 0."""
        return tuple((number, slots) for number, slots in self._by_number.items() if number)

    def set(self, slots: SlotSet, number: int) -> None:
        """These slots have this number now."""
        for other in list(self._by_number):
            self._by_number[other] &= ~slots
            if self._by_number[other] == NO_SLOTS:
                del self._by_number[other]
        self._by_number[number] = self._by_number.get(number, NO_SLOTS) | slots

    def add_one(self, slots: SlotSet) -> None:
        """Each of these slots has one more now."""
        # What has a number is looked up first: a slot is not to be counted twice.
        for number, those in list(self._by_number.items()):
            if some := those & slots:
                self.set(some, number + 1)
