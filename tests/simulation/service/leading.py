"""How a Sentinel leads a failover: the election, the promotion, and what comes after it, in their own time."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from .sentinels import Instance, Place, SimSentinel

if TYPE_CHECKING:
    from .actors import Actor
    from .deployment import Deployment
    from .machines import Machine
    from .servers import Node

__all__ = ["Failover", "Leader"]

PING_PERIOD: Final = 1.0
INFO_PERIOD: Final = 10.0
ELECTION_TIMEOUT: Final = 10.0


@dataclass
class Failover:
    """One that this Sentinel leads, or wants to."""

    epoch: int
    state: str
    since: float
    forced: bool
    coordinated: bool = False
    chosen: Instance | None = None
    votes: set[str] = field(default_factory=set[str])


class Leader:
    """One Sentinel's part in failovers; what else it does is its actor's."""

    machine: Machine[SimSentinel]
    world: Deployment
    rng: Random
    master: Instance
    replicas: dict[Place, Instance]
    epoch: int
    voted_for: str
    voted_epoch: int
    failover: Failover | None
    _not_before: float

    def say(self, channel: str, payload: str) -> None:
        raise NotImplementedError

    def _of(self, kind: str, instance: Instance) -> str:
        raise NotImplementedError

    def _of_master(self) -> str:
        raise NotImplementedError

    def _node(self, instance: Instance) -> Node | None:
        raise NotImplementedError

    def _tick_later(self, seconds: float) -> None:
        raise NotImplementedError

    def switch(self, master: Place) -> None:
        raise NotImplementedError

    def _peers(self) -> list[Actor]:
        raise NotImplementedError

    @property
    def myid(self) -> str:
        raise NotImplementedError

    def start_failover(self, *, forced: bool, coordinated: bool = False) -> None:
        """It wants to lead one."""
        now = trio.current_time()
        self.epoch += 1
        wait = 0.0 if forced else self.rng.uniform(0, 1)
        self.failover = Failover(self.epoch, "start", now + wait, forced, coordinated)
        self._not_before = now + 2 * self.world.failover_timeout + self.rng.uniform(0, 1)
        self.say("+try-failover", self._of_master())
        self._tick_later(0)

    def vote(self, epoch: int, candidate: Leader) -> tuple[str, int]:
        """Whom it votes for in this epoch."""
        self.epoch = max(self.epoch, epoch)
        if self.voted_epoch < epoch and self.epoch <= epoch:
            self.voted_for, self.voted_epoch = candidate.myid, epoch
            if candidate is not self:
                self._not_before = trio.current_time() + 2 * self.world.failover_timeout + self.rng.uniform(0, 1)
        return self.voted_for, self.voted_epoch

    def _lead(self, failover: Failover, now: float) -> None:
        if failover.state == "start":
            if now < failover.since and not failover.forced:
                return
            if not failover.forced:
                for voter in [self, *self._peers()]:
                    if voter.vote(failover.epoch, self) == (self.myid, failover.epoch):
                        failover.votes.add(voter.myid)
                needed = max(self.world.quorum, len(self.world.actors) // 2 + 1)
                if len(failover.votes) < needed:
                    if now - failover.since > min(ELECTION_TIMEOUT, self.world.failover_timeout):
                        self._abort("-failover-abort-not-elected")
                    return
            self.say("+elected-leader", self._of_master())
            failover.state, failover.since = "select", now
        if failover.state == "select":
            failover.chosen = self._choose(now)
            if failover.chosen is None:
                self._abort("-failover-abort-no-good-slave")
                return
            self.say("+selected-slave", self._of("slave", failover.chosen))
            failover.state, failover.since = "promote", now
        if failover.state == "promote":
            assert failover.chosen is not None
            node = self._node(failover.chosen)
            if node is not None:
                self._promote(failover, node)
                failover.state, failover.since = "wait promotion", now
                failover.chosen.info_at = now
            elif now - failover.since > self.world.failover_timeout:
                self._abort("-failover-abort-slave-timeout")
        elif failover.state == "wait promotion":
            if now - failover.since > self.world.failover_timeout:
                self._abort("-failover-abort-slave-timeout")
        elif failover.state == "reconfigure":
            self._reconfigure(failover, now)

    def _promote(self, failover: Failover, node: Node) -> None:
        old = self._node(self.master)
        if failover.coordinated and old is not None:
            self.world.hand_over(old, node)
            return
        node.machine.drop_clients()
        node.promote()

    def _choose(self, now: float) -> Instance | None:
        longest = self.world.down_after * 10
        if self.master.down_since is not None:
            longest += now - self.master.down_since
        fit = [
            i
            for i in self.replicas.values()
            if i.down_since is None
            and i.role
            and now - i.last_ok < 5 * PING_PERIOD
            and now - i.info_at < (5 * PING_PERIOD if self.master.down_since is not None else 3 * INFO_PERIOD)
            and i.link_down_for <= longest
        ]
        return min(fit, key=lambda i: (-i.offset, i.run_id), default=None)

    def _reconfigure(self, failover: Failover, now: float) -> None:
        chosen = failover.chosen
        assert chosen is not None
        others = [i for i in self.replicas.values() if i is not chosen]
        late = now - failover.since > self.world.failover_timeout
        if not any(i.told == "sent" for i in others) or late:
            for instance in others:
                if instance.told or instance.down_since is not None:
                    continue
                if (node := self._node(instance)) is not None:
                    instance.told = "sent"
                    instance.info_at = now
                    node.machine.drop_clients()
                    node.follow(chosen.address)
                    self.say("+slave-reconf-sent", self._of("slave", instance))
                    if not late:
                        break
        if late or all(i.told == "done" or i.down_since is not None for i in others):
            self.say("+failover-end-for-timeout" if late else "+failover-end", self._of_master())
            self.switch(chosen.address)

    def _abort(self, why: str) -> None:
        self.failover = None
        self.say(why, self._of_master())
