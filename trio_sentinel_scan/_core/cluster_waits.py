"""Since when which slots have been waited for, and what for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .slots import NO_SLOTS, SlotSet

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SlotWaits"]


class SlotWaits:
    """The slots that nothing can be done about for now."""

    def __init__(self) -> None:
        # Invariant: each slot is in at most one of them, and none is empty.
        self._since: list[tuple[float, SlotSet]] = []
        # Why, as of the latest survey; each slot that waits is in at least one.
        self._reasons: Mapping[str, SlotSet] = {}

    def update(self, reasons: Mapping[str, SlotSet], now: float) -> None:
        """Those that wait now, by what they wait for. The others do not wait any more."""
        waiting = NO_SLOTS
        for slots in reasons.values():
            waiting |= slots
        self._reasons = reasons
        known = NO_SLOTS
        kept: list[tuple[float, SlotSet]] = []
        for since, slots in self._since:
            known |= slots
            if still := slots & waiting:
                kept.append((since, still))
        if new := waiting & ~known:
            kept.append((now, new))
        self._since = kept

    def began(self, slots: SlotSet, since: float) -> None:
        """If these slots are found to wait, they have done so since then."""
        self._since = [(then, left) for then, those in self._since if (left := those & ~slots)]
        if slots:
            self._since.append((since, slots))

    @property
    def waiting(self) -> SlotSet:
        """All of them."""
        found = NO_SLOTS
        for _, slots in self._since:
            found |= slots
        return found

    def overdue(self, now: float, patience: float) -> SlotSet:
        """Those that have waited for so long."""
        found = NO_SLOTS
        for since, slots in self._since:
            if now - since >= patience:
                found |= slots
        return found

    def reason(self, slots: SlotSet) -> str:
        """Why these slots wait, or some of them."""
        return next((reason for reason, those in self._reasons.items() if those & slots), "")

    def because(self, reason: str) -> SlotSet:
        """Those that wait for this."""
        return self._reasons.get(reason, NO_SLOTS)
