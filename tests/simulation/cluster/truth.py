"""Which keys were there all the time, and which never were: what the oracle knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from trio_sentinel_scan._core.slots import ALL_SLOTS, slot_of

if TYPE_CHECKING:
    from .deployment import SimulatedCluster
    from .nodes import Node

__all__ = ["Truth"]


class Truth:
    """Which keys have been there all the time, and which never were: what the oracle knows."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        # Keys that were there whenever anything changed, by slot; and those that never were, though some node has them.
        self.stayed: dict[int, set[bytes]] = {}
        self.ghosts: dict[int, set[bytes]] = {}
        # If it is about what one node has, and its master, if it has one.
        self.only: Node | None = None
        # Whether a scan's first page has come: then it has found out which slots the one node has.
        self.has_begun = False
        # Of those that did not stay, why.
        self.lost: Counter[str] = Counter()
        # What is being done just now.
        self.cause = "failover"

    def begin(self, keys: Iterable[bytes], ghosts: Iterable[bytes]) -> None:
        """From now on."""
        for key in keys:
            self.stayed.setdefault(slot_of(key), set()).add(key)
        for key in ghosts:
            self.ghosts.setdefault(slot_of(key), set()).add(key)
        self.look(ALL_SLOTS)

    def begin_anew(self, only: Node | None) -> None:
        """A scan begins: of what is there now; at one node alone, or anywhere."""
        self.only = only
        self.has_begun = False
        for slot in self._cluster.hot:
            places = self._cluster.places(slot, of_one=True)
            self.stayed[slot] = {key for place in places or () for key in place if slot_of(key) == slot}
        self.lost.clear()

    def look(self, slots: int) -> None:
        """Something has changed about these slots."""
        for slot, keys in self.stayed.items():
            if slots >> slot & 1:
                places = self._cluster.places(slot, of_one=True)
                if places is None and (self.only is None or self.has_begun):
                    # Nobody has it: it is away with all its keys, and they may come back.
                    continue
                # (Of one node, a scan is of the slots that it had when the masters were first asked.)
                gone = {key for key in keys if not any(key in place for place in places or ())}
                if gone:
                    keys.difference_update(gone)
                    self.lost[self.cause] += len(gone)
                if ghosts := self.ghosts.get(slot):
                    # (What a master has been given, its replicas will have.)
                    anywhere = self._cluster.places(slot) or ()
                    ghosts -= {key for key in ghosts if any(key in place for place in anywhere)}

    @property
    def keys(self) -> set[bytes]:
        """All that stayed."""
        return {key for keys in self.stayed.values() for key in keys}
