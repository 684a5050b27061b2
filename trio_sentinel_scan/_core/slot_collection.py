"""The scan of one hash, set or sorted set in a cluster: it is where its key's slot is, and follows that.

A slot has one owner from before the first reply to the certificate, or the pass is void: the owner's config epoch
rises whenever a slot comes to it, so one that has the slot and the epoch that it had has had the slot all the time. A
key on its way between two nodes is at one of them, and the one that does not have it says so (ASK), and nothing else:
that is waited for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from redis.exceptions import AskError

from .certificate import Evidence, Held, Judgement, Refuted, Undecided
from .collection_plan import CollectionPlan
from .slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import exceptions as redis_errors

    from . import scan_steps as steps
    from .cluster_standing import Standing
    from .scan_options import ScanOptions

__all__ = ["SlotCollectionPlan", "judge_slot"]

_ELSEWHERE: Final = "says that the key's slot is another node's, or on its way to one"


class SlotCollectionPlan(CollectionPlan):
    """One collection's scan in a cluster."""

    def __init__(
        self, options: ScanOptions, *, failover_timeout: float, now: float, jitter: Callable[[], float]
    ) -> None:
        """As of any collection's scan; `options` have the basis "role": what masters say comes with the evidence."""
        super().__init__(options, failover_timeout=failover_timeout, now=now, jitter=jitter)
        self.slot: int = slot_of(self._collection.key)

    def _bind(self, found: steps.Connected, now: float) -> None:
        if found.key is not None and not found.unfit and isinstance(found.key.size, AskError):
            found = replace(found, unfit=f"{found.server} {_ELSEWHERE}")
        super()._bind(found, now)

    def _refused(self, error: redis_errors.RedisError, now: float, *, had_cursor: bool) -> None:
        if isinstance(error, AskError):
            self._lost(f"{self._server} {_ELSEWHERE}", None, now)
        else:
            super()._refused(error, now, had_cursor=had_cursor)

    def _judge(self, evidence: Evidence) -> Judgement:
        judgement = super()._judge(evidence)
        if not isinstance(judgement, Held):
            return judgement
        if isinstance(evidence.size, AskError):
            return Undecided(f"the server {_ELSEWHERE}")
        certificate = replace(judgement.certificate, basis="cluster", slots=1)
        if evidence.standing is not None:
            assert self._target is not None
            node_id = evidence.node_id
            doubt = self._doubt(node_id, self._target.config_epoch, evidence.standing)
            if doubt is not None:
                self._suspect_failover()
                return doubt
            certificate = replace(
                certificate,
                node=node_id,
                masters_known=len(evidence.standing.voters),
                masters_agreeing=evidence.standing.agreeing(node_id, 1 << self.slot),
            )
        return Held(replace(certificate, nodes=(certificate,)))

    # ---- the guard: there is a test that takes it away -------------------------------------------------------------

    def _doubt(self, node_id: str, epoch: int | None, now: Standing) -> Refuted | Undecided | None:
        return judge_slot(self.slot, node_id, epoch, now)


def judge_slot(slot: int, node_id: str, epoch: int | None, now: Standing) -> Refuted | Undecided | None:
    """Why the node, which had the slot at this config epoch, has not had it all the time; None if it has."""
    bit = 1 << slot
    if any(slots & bit for other, slots in now.owned.items() if other != node_id):
        return Refuted("another master has the key's slot")
    claimed = now.own_word(node_id)
    if claimed is None:
        return Undecided("the master of the key's slot could not be asked, and nobody else has it")
    if not claimed & bit:
        return Refuted("the key's slot has gone to another node")
    if now.epoch(node_id) != epoch:
        return Refuted("the node's config epoch has changed: the key's slot may have gone and come back")
    if not now.own(node_id) & bit:
        return Undecided("no majority of the masters names the node the owner of the key's slot")
    return None
