"""Sentinels that act: they ping and ask, agree that a master is down, elect a leader, and fail over, in their own time.

Written from what Sentinels do, in their periods: PING every second, INFO every ten (every one while a failover is
under way or a link is down), a hello every two; a leader learns of the promotion by INFO, followers by its hello, and
its own +switch-master comes when the other replicas have followed.
"""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from tests.trio.fakes.sentinel import Monitored

from .leading import INFO_PERIOD, PING_PERIOD, Failover, Leader
from .machines import Machine
from .sentinels import Instance, Place, SimSentinel

if TYPE_CHECKING:
    from .deployment import Deployment
    from .servers import Node

__all__ = ["Actor"]

HELLO_PERIOD: Final = 2.0
# How often it looks at everything, when something is going on and when nothing is.
BUSY_TICK: Final = 0.1
QUIET_TICK: Final = 0.5
# A pause between two looks that is longer than this was a stopped process or a clock that jumped.
TILT_TRIGGER: Final = 2.0
TILT_PERIOD: Final = 30.0


class Actor(Leader):
    """One Sentinel as a process."""

    def __init__(self, machine: Machine[SimSentinel], world: Deployment) -> None:
        self.machine = machine
        self.program = machine.program
        self.program.actor = self
        self.world = world
        self.rng: Random = world.rng
        now = trio.current_time()
        self.master = self._known(world.nodes[0], now)
        self.replicas: dict[Place, Instance] = {n.address: self._known(n, now) for n in world.nodes[1:]}
        self.program.services[world.service] = Monitored(self.master.address, 0)
        self.epoch = 0
        self.voted_for, self.voted_epoch = "", 0
        self.o_down = False
        self.failover: Failover | None = None
        self._not_before = 0.0
        self.tilt_until = 0.0
        self._ticked = now
        self._pinged = now - self.rng.uniform(0, PING_PERIOD)
        self._greeted = now - self.rng.uniform(0, HELLO_PERIOD)
        for instance in (self.master, *self.replicas.values()):
            instance.info_at = now - self.rng.uniform(0, INFO_PERIOD)
        self._life = 0
        self._tick_later(self.rng.uniform(0, BUSY_TICK))

    @property
    def myid(self) -> str:
        return self.program.myid

    @property
    def usable(self) -> bool:
        """Whether others get answers from it."""
        return self.machine.runs

    @property
    def monitored(self) -> Monitored:
        return self.program.services[self.world.service]

    @property
    def config_epoch(self) -> int:
        return self.monitored.config_epoch

    @property
    def address(self) -> Place:
        return self.machine.address

    def _known(self, node: Node, now: float) -> Instance:
        """An instance as it is when all has been well for a while."""
        program = node.program
        role = "master" if program.master is None else "slave"
        instance = Instance(node.address, program.run_id, role, now, program.master, now, last_ok=now)
        instance.link_ok = program.link == "connected"
        instance.offset = node.offset
        return instance

    def say(self, channel: str, payload: str) -> None:
        """An event."""
        if self.machine.runs:
            self.program.publish(channel, payload)

    def _of(self, kind: str, instance: Instance) -> str:
        host, port = instance.address
        mhost, mport = self.master.address
        name = f"{host}:{port}"
        return f"{kind} {name} {host} {port} @ {self.world.service} {mhost} {mport}"

    def _of_master(self) -> str:
        return f"master {self.world.service} {self.master.address[0]} {self.master.address[1]}"

    # ---- time ----------------------------------------------------------------------------------------------------

    def _tick_later(self, seconds: float) -> None:
        # (Only the last one asked for counts.)
        self._life += 1
        life = self._life
        # On a grid, as all of them: each moment at which something happens costs time to play.
        when = math.ceil((trio.current_time() + seconds) / BUSY_TICK - 1e-6) * BUSY_TICK
        self.world.agenda.at(when, lambda: self._tick(life))

    def _tick(self, life: int) -> None:
        if life != self._life or not self.machine.up:
            return
        now = trio.current_time()
        if self.machine.hung:
            self._tick_later(BUSY_TICK * 2)
            return
        if now - self._ticked > TILT_TRIGGER:
            self.tilt_until = now + TILT_PERIOD
            self.world.account.took_effect("tilt")
            self.say("+tilt", "#tilt mode entered")
        self._ticked = now
        instances = [self.master, *self.replicas.values()]
        if now - self._pinged >= PING_PERIOD:
            self._pinged = now
            for instance in instances:
                if self._node(instance) is not None:
                    instance.last_ok = now
        period = 1.0 if self.o_down or self.failover is not None else INFO_PERIOD
        for instance in instances:
            wanted = period if instance is self.master or (instance.link_ok and not instance.told) else 1.0
            if now - instance.info_at >= wanted and (node := self._node(instance)) is not None:
                self._informed(instance, node, now)
        if now - self._greeted >= HELLO_PERIOD:
            self.greet()
        for instance in [self.master, *self.replicas.values()]:
            self._judge(instance, now)
        if now >= self.tilt_until:
            self._act(now)
        quiet = (
            self.failover is None
            and not self.o_down
            and all(i.down_since is not None or now - i.last_ok < 1.5 for i in [self.master, *self.replicas.values()])
        )
        self._tick_later(QUIET_TICK if quiet and self.master.down_since is None else BUSY_TICK)

    def _node(self, instance: Instance) -> Node | None:
        """The server, if it answers this Sentinel."""
        node: Node | None = self.world.node_at(instance.address)
        return node if node is not None and node.usable and self.world.reach(self, node) else None

    # ---- what it hears -------------------------------------------------------------------------------------------

    def _informed(self, instance: Instance, node: Node, now: float) -> None:
        program = node.program
        instance.info_at = now
        if instance.run_id != program.run_id:
            if instance.run_id:
                kind = "master" if instance is self.master else "slave"
                self.say("+reboot", self._of_master() if kind == "master" else self._of(kind, instance))
            instance.run_id = program.run_id
        role = "master" if program.master is None else "slave"
        if role != instance.role:
            instance.role, instance.role_since = role, now
        if program.master != instance.follows:
            instance.follows, instance.follows_since = program.master, now
        instance.link_ok = role == "slave" and program.link == "connected"
        instance.link_down_for = 0.0 if node.link_down_since is None else now - node.link_down_since
        instance.offset = node.offset
        if instance is self.master:
            if role == "master":
                for follower in node.followers:
                    if follower.address not in self.replicas and follower.address != self.master.address:
                        self.replicas[follower.address] = Instance(follower.address, last_ok=now, role_since=now)
                        self.say("+slave", self._of("slave", self.replicas[follower.address]))
            return
        if now < self.tilt_until:
            return
        self._informed_of_replica(instance, node, now)

    def _informed_of_replica(self, instance: Instance, node: Node, now: float) -> None:
        failover = self.failover
        if instance.role == "master":
            if failover is not None and failover.chosen is instance and failover.state == "wait promotion":
                self.monitored.config_epoch = failover.epoch
                self.monitored.shown, self.monitored.master = self.master.address, instance.address
                failover.state, failover.since = "reconfigure", now
                self.say("+promoted-slave", self._of("slave", instance))
                self.say("+failover-state-reconf-slaves", self._of_master())
                if failover.coordinated:
                    node.machine.drop_clients()
                    old = self._node(self.master)
                    if old is not None:
                        old.machine.drop_clients()
                self.world.knows_changed()
                self.greet()
            elif failover is None and self._looks_sane(now) and now - instance.role_since > 4 * HELLO_PERIOD:
                node.machine.drop_clients()
                node.follow(self.master.address)
                self.world.demoted(node)
                self.say("+convert-to-slave", self._of("slave", instance))
            return
        if failover is not None and instance.told == "sent" and failover.chosen is not None:
            if instance.follows == failover.chosen.address and instance.link_ok:
                instance.told = "done"
                self.say("+slave-reconf-done", self._of("slave", instance))
        elif (
            failover is None
            and instance.follows != self.master.address
            and self._looks_sane(now)
            and now - instance.follows_since > self.world.failover_timeout
        ):
            node.machine.drop_clients()
            node.follow(self.master.address)
            self.say("+fix-slave-config", self._of("slave", instance))

    def _looks_sane(self, now: float) -> bool:
        master = self.master
        return (
            master.role == "master"
            and master.down_since is None
            and not self.o_down
            and now - master.info_at < 2 * INFO_PERIOD
            and self._node(master) is not None
        )

    def hello(self, epoch: int, master: Place, config_epoch: int) -> None:
        """Another Sentinel's hello."""
        self.epoch = max(self.epoch, epoch)
        if config_epoch > self.config_epoch:
            self.monitored.config_epoch = config_epoch
            if master != self.monitored.master:
                self.say("+config-update-from", f"sentinel x 0.0.0.0 0 @ {self.world.service} 0.0.0.0 0")
                self.switch(master)

    def greet(self) -> None:
        """Its own, over every server that it reaches."""
        self._greeted = trio.current_time()
        said = self.epoch, self.monitored.master, self.config_epoch
        hears = [
            other
            for other in self.world.actors
            if other is not self
            and other.usable
            and any(
                (node := self._node(instance)) is not None and self.world.reach(other, node)
                for instance in (self.master, *self.replicas.values())
            )
        ]
        for other in hears:
            other.hello(*said)

    def switch(self, master: Place) -> None:
        """Another master, from now on."""
        now = trio.current_time()
        old = self.master
        self.failover = None
        self.o_down = False
        known = {old.address: old, **self.replicas}
        self.master = Instance(master, last_ok=now, role_since=now)
        self.replicas = {
            address: Instance(address, last_ok=now, role_since=now) for address in known if address != master
        }
        self.monitored.master, self.monitored.shown = master, None
        (host, port), (new_host, new_port) = old.address, master
        self.say("+switch-master", f"{self.world.service} {host} {port} {new_host} {new_port}")
        for instance in self.replicas.values():
            self.say("+slave", self._of("slave", instance))
        self.world.switched(self)

    # ---- what it does --------------------------------------------------------------------------------------------

    def _judge(self, instance: Instance, now: float) -> None:
        down = now - instance.last_ok > self.world.down_after or (
            instance is self.master
            and instance.role == "slave"
            and now - instance.role_since > self.world.down_after + 2 * INFO_PERIOD
        )
        of = self._of_master() if instance is self.master else self._of("slave", instance)
        if down and instance.down_since is None:
            instance.down_since = now
            self.say("+sdown", of)
        elif not down and instance.down_since is not None:
            instance.down_since = None
            self.say("-sdown", of)

    def thinks_down(self, master: Place) -> bool:
        """SENTINEL IS-MASTER-DOWN-BY-ADDR."""
        is_tilted = trio.current_time() < self.tilt_until
        return not is_tilted and self.master.address == master and self.master.down_since is not None

    def _peers(self) -> list[Actor]:
        return [
            other for other in self.world.actors if other is not self and other.usable and self.world.reach(self, other)
        ]

    def _act(self, now: float) -> None:
        if self.master.down_since is not None:
            agree = 1 + sum(other.thinks_down(self.master.address) for other in self._peers())
            self.o_down = agree >= self.world.quorum
        else:
            self.o_down = False
        if self.failover is None and self.o_down and now >= self._not_before:
            self.start_failover(forced=False)
        if self.failover is not None:
            self._lead(self.failover, now)

    # ---- the process ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Another process with the same configuration, which has who the master is, and under which epoch."""
        now = trio.current_time()
        self.failover = None
        self.o_down = False
        self.tilt_until = 0.0
        # (In mid-failover, what it would have called the master by then is in its configuration.)
        address = self.monitored.master
        known = {self.master.address, *self.replicas} - {address}
        self.monitored.shown = None
        self.master = Instance(address, last_ok=now, role_since=now)
        self.replicas = {place: Instance(place, last_ok=now, role_since=now) for place in sorted(known)}
        self._ticked = now
        self.machine.up = True
        self.machine.resume()
        self.program.restart()
        self._tick_later(BUSY_TICK)
