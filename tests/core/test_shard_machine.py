"""Sharded subscriptions against a model of a cluster: whatever comes in whatever order, in the end what is wanted is
held by the owners alone, no message comes twice, and none is missing without a gap.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.core._shard_model import CHANNELS, SLOTS, Cluster, Wire
from trio_sentinel_scan import Gap, SubscriptionLost
from trio_sentinel_scan._core.mailbox import Mailbox
from trio_sentinel_scan._core.messages import SubscriberOptions
from trio_sentinel_scan._core.shard_node import ShardNode
from trio_sentinel_scan._core.shard_parts import ShardTicket
from trio_sentinel_scan._core.shard_plan import ShardPlan
from trio_sentinel_scan._core.slots import slot_of

some_names = st.lists(st.sampled_from(CHANNELS), min_size=1, unique=True)
a_slot = st.sampled_from(SLOTS)
a_node = st.sampled_from("ABCD")
a_master = st.sampled_from("ABC")
GAP = "gap"


class Sharding(RuleBasedStateMachine):
    """Each rule moves one thing on: the caller, a node, a connection, a message, the map."""

    @initialize()
    def begin(self) -> None:
        self.cluster = Cluster()
        self.map = self.cluster.map(self.cluster.truth)
        options = SubscriberOptions(True, 100_000, "block", 5.0)
        self.plan = ShardPlan(
            options, Mailbox(100_000, "block"), self.map, failover_timeout=math.inf, jitter=lambda: 1.0
        )
        self.now = 0.0
        self.numbers = 0
        self.tickets: list[ShardTicket] = []
        # Of each channel since it was promised last: what was published, as (number, by whom), and what was received.
        self.published: dict[bytes, list[tuple[int, str]]] = {}
        self.received: dict[bytes, list[tuple[int, str] | str]] = {}
        self.once: set[int] = set()

    # ---- the caller ----------------------------------------------------------------------------------------------

    @rule(names=some_names)
    def subscribe(self, names: list[bytes]) -> None:
        self.tickets.append(self.plan.subscribe(dict.fromkeys(names), self.now))
        self.follow()

    @rule(names=st.none() | some_names)
    def unsubscribe(self, names: list[bytes] | None) -> None:
        self.tickets.append(self.plan.unsubscribe(names))
        self.follow()

    @rule()
    def ping(self) -> None:
        self.tickets.append(self.plan.ping())
        self.follow()

    @rule()
    def abandon(self) -> None:
        if self.tickets and not self.tickets[-1].settled:
            self.plan.abandon(self.tickets[-1])

    @rule(names=st.sets(st.sampled_from(CHANNELS), max_size=1))
    def forbid(self, names: set[bytes]) -> None:
        self.cluster.forbidden = names

    # ---- the cluster ---------------------------------------------------------------------------------------------

    @rule(slot=a_slot, to=st.none() | a_master)
    def move_slot(self, slot: int, to: str | None) -> None:
        """It has another owner, or none; those who are concerned do not know yet, but for the new one."""
        truth = self.cluster.truth
        if to is not None:
            to = next(name for name in "ABCD" if truth.shard(name) == truth.shard(to) and name not in truth.master)
        truth.owner[slot] = to
        if to is not None:
            self.cluster.nodes[to].view.owner[slot] = to

    @rule()
    def fail_over(self) -> None:
        """The replica of the first shard becomes its master, and the master its replica."""
        truth = self.cluster.truth
        ((new, old),) = truth.master.items()
        truth.master = {old: new}
        truth.owner = {slot: new if owner == old else owner for slot, owner in truth.owner.items()}
        self.cluster.nodes[new].learn(truth)

    @rule(name=a_node)
    def learn(self, name: str) -> None:
        self.cluster.nodes[name].learn(self.cluster.truth)

    @rule(name=a_node)
    def refresh(self, name: str) -> None:
        """The map is asked for, and this node's view is the answer."""
        self.map = self.cluster.map(self.cluster.nodes[name].view, self.map.version + 1)
        self.plan.map_changed(self.map)
        self.follow()

    @rule()
    def map_was_asked_for(self) -> None:
        """Whatever it said."""
        self.plan.wants_map = False
        self.plan.map_was_asked_for()
        self.follow()

    @rule()
    def tick(self) -> None:
        self.now += 1
        self.plan.tick(self.now)
        self.follow()

    # ---- the connections -----------------------------------------------------------------------------------------

    @rule(name=a_node)
    def connect(self, name: str) -> None:
        node = self.cluster.nodes[name]
        shard_node = self.plan.nodes.get(node.address)
        if shard_node is not None and not shard_node.is_connected:
            self.now += 1
            node.wires[shard_node] = Wire()
            shard_node.connected(node.identity, self.now)
            self.follow()

    @rule(name=a_node, restart=st.booleans())
    def lose(self, name: str, restart: bool) -> None:
        """A connection, or an attempt to have one."""
        node = self.cluster.nodes[name]
        if restart:
            node.restart()
        shard_node = self.plan.nodes.get(node.address)
        if shard_node is not None:
            self.now += 1
            node.wires.pop(shard_node, None)
            shard_node.lost("lost", self.now, self.now)
            self.follow()

    @rule(name=a_node)
    def serve(self, name: str) -> None:
        node = self.cluster.nodes[name]
        for wire in node.wires.values():
            if wire.sent:
                self.cluster.serve(node, wire)

    @rule(name=a_node)
    def take(self, name: str) -> None:
        """The plan is given the next thing that has come from there."""
        node = self.cluster.nodes[name]
        for shard_node, wire in tuple(node.wires.items()):
            if wire.coming:
                self.now += 1
                reply = wire.coming.popleft()
                self.note_answer(wire, reply)
                shard_node.take(reply, self.now)
                self.follow()

    @rule(name=a_node, channel=st.sampled_from(CHANNELS))
    def publish(self, name: str, channel: bytes) -> None:
        node = self.cluster.nodes[name]
        self.numbers += 1
        was_taken = self.cluster.publish(node, channel, b"%d %s" % (self.numbers, name.encode()))
        if was_taken and channel in self.published:
            self.published[channel].append((self.numbers, name))

    @rule()
    def flow(self) -> None:
        """Everything that is on its way arrives."""
        for _ in range(1000):
            if not self.step():
                return
        raise AssertionError("it goes in circles")

    @rule()
    def rest(self) -> None:
        """Whoever is to be connected is, and everything that is on its way arrives."""
        for name in "ABCD":
            self.connect(name)
        self.flow()

    @rule(channel=st.sampled_from(CHANNELS))
    def publish_and_rest(self, channel: bytes) -> None:
        """At all who take themselves for the owner."""
        for name in "ABCD":
            self.publish(name, channel)
        self.rest()

    @rule(name=a_node)
    def learn_and_rest(self, name: str) -> None:
        self.learn(name)
        self.rest()

    @rule(slot=a_slot, to=a_master)
    def move_slot_and_tell(self, slot: int, to: str) -> None:
        self.move_slot(slot, to)
        for name in "ABCD":
            self.learn(name)

    # ---- inside --------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        for name, node in self.cluster.nodes.items():
            for wire in tuple(node.wires.values()):
                if wire.sent or wire.coming:
                    (self.take if wire.coming else self.serve)(name)
                    return True
        return False

    def follow(self) -> None:
        """What whoever drives the plan does."""
        while self.plan.redirections:
            slot, address = self.plan.redirections.pop(0)
            found = self.cluster.at[address]
            self.map = self.map.moved(slot, self.map.at(address) or type(self.map.masters[0])(found.name, address))
            self.plan.map_changed(self.map)
        for node in self.cluster.nodes.values():
            for shard_node in [one for one in node.wires if self.plan.nodes.get(node.address) is not one]:
                assert not shard_node.held
                del node.wires[shard_node]
            for shard_node, wire in node.wires.items():
                self.send(shard_node, wire)
        self.drain()
        wanted = self.plan.wanted()
        for name in CHANNELS:
            if name not in wanted:
                self.published.pop(name, None)
                self.received.pop(name, None)
            elif self.plan._wanted[name].is_promised and name not in self.published:
                self.published[name], self.received[name] = [], []

    def send(self, shard_node: ShardNode, wire: Wire) -> None:
        for command, *names in shard_node.commands():
            about = {name for name in names if isinstance(name, bytes)}
            assert len(about) == len(names)
            if about:
                assert len({slot_of(name) for name in about}) == 1
                for _, busy in wire.unanswered:
                    assert not busy & about, "two commands about one channel at one node"
            wire.unanswered.append((str(command), about))
            wire.sent.append((command, *names))

    def note_answer(self, wire: Wire, reply: Any) -> None:
        """A SSUBSCRIBE is over with its last confirmation, or with an error; all else with a PONG."""
        command, about = wire.unanswered[0] if wire.unanswered else ("", set[bytes]())
        if reply == b"PONG":
            while wire.unanswered.popleft()[0] != "PING":
                pass
        elif isinstance(reply, list) and reply[0] == b"ssubscribe":
            assert command == "SSUBSCRIBE"
            about.discard(reply[1])
            if not about:
                wire.unanswered.popleft()
        elif not isinstance(reply, list) and command == "SSUBSCRIBE":
            wire.unanswered.popleft()

    def drain(self) -> None:
        """What was received, and what it must be."""
        mailbox = self.plan.mailbox
        for item in [mailbox.take() for _ in range(len(mailbox))]:
            if isinstance(item, Gap):
                assert item.began <= item.ended
                assert item.channels
                for name in item.channels:
                    if name in self.received:
                        self.received[name].append(GAP)
            elif isinstance(item, list):
                number, who = item[2].split()
                assert int(number) not in self.once, "a message came twice"
                self.once.add(int(number))
                if item[1] in self.received:
                    self.received[item[1]].append((int(number), who.decode()))
            else:
                assert isinstance(item, SubscriptionLost)

    # ---- what holds ----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_missing_without_a_gap(self) -> None:
        """Of two messages from one node with no gap in between, the second is what was published next there."""
        for channel, items in self.received.items():
            for who in "ABCD":
                mine = [number for number, name in self.published[channel] if name == who]
                at = 0
                for item in items:
                    if item == GAP:
                        at = -1
                    elif item[1] == who and item[0] in mine:
                        place = mine.index(int(item[0]))
                        assert at in {-1, place}, "a message is missing, and no gap says so"
                        at = place + 1

    @invariant()
    def the_books_are_right(self) -> None:
        plan = self.plan
        for node in plan.nodes.values():
            assert node.is_connected or not (node.held or node.busy or node.regained or node.answer_is_due)
            assert node.wants_connection
        for name in plan.wanted():
            if name not in plan._unsettled:
                assert [node for node in plan.nodes.values() if node.has(name)] == [plan._wanted[name].node]

    def teardown(self) -> None:
        """Left alone, in a cluster at rest, it comes to rest: held is wanted, by the owners alone."""
        self.cluster.forbidden = set()
        for slot, owner in self.cluster.truth.owner.items():
            if owner is None:
                self.move_slot(slot, "B")
        for name in "ABCD":
            self.learn(name)
        for _ in range(10):
            self.refresh("A")
            for name in "ABCD":
                self.connect(name)
            self.flow()
            self.tick()
        owners = {channel: str(self.cluster.truth.owner[slot_of(channel)]) for channel in CHANNELS}
        wanted = {channel: [self.cluster.nodes[owners[channel]].address] for channel in self.plan.wanted()}
        assert self.plan.held() == wanted
        assert self.plan.is_settled
        assert {address for (address,) in wanted.values()} == set(self.plan.nodes), "a connection that nobody needs"
        assert all(ticket.settled for ticket in self.tickets)
        for channel in CHANNELS:
            self.publish(owners[channel], channel)
        self.flow()
        for channel in wanted:
            assert self.received[channel][-1] == self.published[channel][-1]
        self.nothing_is_missing_without_a_gap()


Sharding.TestCase.settings = settings(deadline=None, max_examples=300, stateful_step_count=50)
TestSharding = pytest.mark.slow(Sharding.TestCase)
