"""Which of several answers about a cluster's slots counts, and when to ask again: decided here, asked elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .cluster_map import ClusterMap, ClusterNode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .cluster_map import Shard
    from .identity import Address

__all__ = ["ClusterViews", "MapAnswer"]


@dataclass(frozen=True, slots=True)
class MapAnswer:
    """What one node said of the slots."""

    shards: tuple[Shard, ...]
    # CLUSTER INFO's cluster_current_epoch: it rises whenever a slot or a shard has another owner.
    epoch: int
    # Whether the node serves its slots (cluster_state); one that is cut off from the majority does not.
    is_ok: bool


class ClusterViews:
    """A client's map of its cluster."""

    def __init__(self, seeds: Sequence[Address]) -> None:
        self.seeds: tuple[Address, ...] = tuple(seeds)
        # None until a node has told.
        self.map: ClusterMap | None = None
        # The epoch of the answer that the map rests on. It does not go back as long as anybody knows a later one.
        self.epoch: int = -1
        # Redirections that the map did not know of, and that no answer has confirmed yet.
        self._told: dict[int, Address] = {}
        # Whether the last answer says something else than the redirections that had come by then.
        self.contradicted: bool = False
        # Who answered last.
        self._source: Address | None = None
        # Each node that was asked and did not answer, and why.
        self.problems: dict[Address, str] = {}

    def candidates(self) -> list[Address]:
        """Whom to ask, in this order: who was named just now, who answered last, who is known, who was given."""
        found: list[Address] = list(reversed(self._told.values()))
        if self._source is not None:
            found.append(self._source)
        if self.map is not None:
            found += (node.address for node in self.map.nodes)
        return list(dict.fromkeys([*found, *self.seeds]))

    def is_enough(self, answer: MapAnswer) -> bool:
        """Whether nobody else need be asked."""
        return answer.is_ok and answer.epoch >= self.epoch

    def answered(self, answers: Iterable[tuple[Address, MapAnswer]]) -> bool:
        """The last round's answers. True if the map says something else than before.

        If none of them is enough, all nodes that answer were asked; the latest epoch counts then, lower than before
        or not: the cluster may have been made anew.
        """
        best = max(answers, key=lambda pair: (self.is_enough(pair[1]), pair[1].is_ok, pair[1].epoch), default=None)
        if best is None:
            self.contradicted = bool(self._told)
            return False
        self._source, answer = best
        self.problems.clear()
        self.epoch = answer.epoch
        old = self.map
        new = ClusterMap(answer.shards, 1 if old is None else old.version + 1)
        # What nobody confirms was wrong, or has been overtaken; or the answer was given before.
        owners = ((new.owner(slot), address) for slot, address in self._told.items())
        self.contradicted = any(owner is None or owner.address != address for owner, address in owners)
        self._told.clear()
        if old is not None and new.is_same(old):
            return False
        self.map = new
        return True

    def failed(self, address: Address, problem: str) -> None:
        """A node that was asked did not answer."""
        self.problems[address] = problem

    def moved(self, slot: int, address: Address) -> bool:
        """A node has redirected a command (MOVED). True if the map did not know of it: it is to be asked for anew."""
        if self.map is None:
            return False
        node = self.map.at(address) or ClusterNode("", address)
        new = self.map.moved(slot, node)
        if new is self.map:
            return False
        self.map = new
        self._told[slot] = address
        return True
