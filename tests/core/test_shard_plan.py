"""Sharded subscriptions: what is sent to which node, what answers and events mean, and when a gap is due."""

from __future__ import annotations

import math
from typing import Any

import pytest
from redis import exceptions as redis_errors

from tests.core._shard_model import Cluster
from trio_sentinel_scan import (
    Address,
    Gap,
    ProtocolError,
    ServerConnectionError,
    ServerIdentity,
    ServerUnavailable,
    SubscriberOverflow,
    SubscriptionLost,
)
from trio_sentinel_scan._core.cluster_map import ClusterMap, Shard
from trio_sentinel_scan._core.mailbox import Handled, Mailbox
from trio_sentinel_scan._core.messages import Confirmation, OnFull, SubscriberOptions
from trio_sentinel_scan._core.shard_node import NAMES_PER_COMMAND, ShardNode
from trio_sentinel_scan._core.shard_parts import ShardTicket
from trio_sentinel_scan._core.shard_plan import MOST_DOUBTS, MOST_REDIRECTS, ShardPlan
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import Push

# By the model's truth: slot 5649 ({3}...) is of C, and so on; see `owner_of`.
A1, A2, B1, C1 = b"{2}a", b"{2}b", b"{3}a", b"{1}a"
NOPERM = "NOPERM No permissions to access a channel"


class Scene:
    """A plan, and nodes that do what the test says."""

    def __init__(self, *, ignore: bool = True, failover_timeout: float = math.inf, on_full: OnFull = "block") -> None:
        self.cluster = Cluster()
        # A has A1's slot, B has B1's, C has C1's; D is A's replica.
        self.truth = self.cluster.truth
        self.truth.owner = {slot_of(A1): "A", slot_of(B1): "B", slot_of(C1): "C"}
        options = SubscriberOptions(ignore, 100 if on_full == "block" else 1, on_full, 5.0)
        self.plan = ShardPlan(
            options,
            Mailbox(options.buffer, on_full),
            self.map(),
            failover_timeout=failover_timeout,
            jitter=lambda: 1.0,
        )

    def map(self) -> ClusterMap:
        return self.cluster.map(self.truth)

    def owned(self, **owners: str | None) -> None:
        """Slots have other owners, by the map."""
        for name, channel in (("a", A1), ("b", B1), ("c", C1)):
            if name in owners:
                self.truth.owner[slot_of(channel)] = owners[name]
        self.plan.map_changed(self.map())

    def asked(self) -> None:
        """The map was asked for, and is as it was."""
        assert self.plan.wants_map
        self.plan.wants_map = False
        self.plan.map_was_asked_for()

    def want(self, *names: bytes, now: float = 0.0, handler: Any = None) -> ShardTicket:
        return self.plan.subscribe(dict.fromkeys(names, handler), now)

    def address(self, name: str) -> Address:
        return self.cluster.nodes[name].address

    def node(self, name: str) -> ShardNode:
        return self.plan.nodes[self.address(name)]

    def identity(self, name: str) -> ServerIdentity:
        return self.cluster.nodes[name].identity

    def connect(self, *names: str, now: float = 0.0) -> None:
        for name in names:
            self.node(name).connected(self.identity(name), now)

    def answer(self, name: str, now: float = 0.0) -> list[tuple[Any, ...]]:
        """Confirm all that was sent there; returns what that was."""
        node = self.node(name)
        seen: list[tuple[Any, ...]] = []
        while commands := node.commands():
            seen += commands
            for command, *names in commands:
                if command == "PING":
                    node.take(b"PONG", now)
                for channel in names:
                    node.take([str(command).lower().encode(), channel, 1], now)
        return seen

    def refuse(self, name: str, error: str, now: float = 0.0) -> None:
        self.node(name).take(parse_error_reply(error), now)

    def held(self, *names: bytes, now: float = 0.0) -> Scene:
        """With these subscribed to, and their owners connected."""
        self.want(*names, now=now)
        for name in "ABC":
            if self.address(name) in self.plan.nodes:
                self.connect(name, now=now)
                self.answer(name, now)
        self.received()
        return self

    def publish(self, name: str, channel: bytes, data: bytes = b"x", now: float = 0.0) -> None:
        self.node(name).take([b"smessage", channel, data], now)

    def received(self) -> list[Any]:
        """Everything that waits, with the data in place of messages, and the channels in place of gaps."""
        items = [self.plan.mailbox.take() for _ in range(len(self.plan.mailbox))]
        return [
            item[-1] if isinstance(item, list) else item.channels if isinstance(item, Gap) else item for item in items
        ]

    def gap(self) -> Gap:
        """The one thing that waits."""
        assert len(self.plan.mailbox) == 1
        item = self.plan.mailbox.take()
        assert isinstance(item, Gap)
        return item

    def where(self, channel: bytes) -> str:
        """Who holds it."""
        return "".join(self.cluster.at[address].name for address in self.plan.held().get(channel, ()))


# ---- subscribing --------------------------------------------------------------------------------------------------


def test_each_channel_goes_to_its_slots_owner_in_one_command_for_each_slot() -> None:
    scene = Scene()
    ticket = scene.want(A1, B1, A2)
    assert set(scene.plan.nodes) == {scene.address("A"), scene.address("B")}
    assert not scene.node("A").has_commands
    assert not scene.plan.is_settled
    scene.connect("A")
    assert scene.node("A").must_read
    assert scene.answer("A") == [("SSUBSCRIBE", A1, A2)]
    assert not ticket.settled
    scene.connect("B")
    assert scene.answer("B") == [("SSUBSCRIBE", B1)]
    assert ticket.settled
    assert ticket.error is None
    assert scene.plan.is_settled
    assert not scene.node("A").must_read
    assert scene.plan.wanted() == {A1: None, B1: None, A2: None}


def test_each_call_has_commands_of_its_own() -> None:
    scene = Scene()
    scene.want(A1)
    scene.want(A2)
    scene.connect("A")
    assert scene.answer("A") == [("SSUBSCRIBE", A1), ("SSUBSCRIBE", A2)]


def test_many_names_are_several_commands() -> None:
    names = [b"{2}%d" % number for number in range(NAMES_PER_COMMAND + 1)]
    scene = Scene()
    scene.want(*names)
    scene.connect("A")
    assert [len(command) - 1 for command in scene.answer("A")] == [NAMES_PER_COMMAND, 1]
    scene.plan.unsubscribe()
    assert (
        [len(command) - 1 for command in scene.answer("A")] == [NAMES_PER_COMMAND, 1, 0] if scene.plan.nodes else True
    )


def test_what_is_held_is_not_asked_for_again() -> None:
    """The handler is the new one's, and a call that asks for the same is told so at once."""
    scene = Scene(ignore=False).held(A1)
    ticket = scene.want(A1, handler=print)
    assert ticket.settled
    assert not scene.node("A").has_commands
    assert scene.plan.wanted() == {A1: print}
    scene.publish("A", A1)
    confirmation, message = scene.received()
    assert confirmation == Confirmation("ssubscribe", A1, 1)
    assert isinstance(message, Handled)


def test_one_under_way_serves_two_calls() -> None:
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    second = scene.want(A1)
    assert scene.answer("A") == [("SSUBSCRIBE", A1)]
    assert second.settled


def test_confirmations_where_they_are_wanted() -> None:
    """They count the sharded channels of all nodes."""
    scene = Scene(ignore=False)
    scene.want(A1, B1)
    scene.connect("A", "B")
    scene.answer("A")
    scene.answer("B")
    scene.plan.unsubscribe([A1])
    scene.answer("A")
    assert scene.received() == [
        Confirmation("ssubscribe", A1, 1),
        Confirmation("ssubscribe", B1, 2),
        Confirmation("sunsubscribe", A1, 1),
    ]


# ---- unsubscribing ------------------------------------------------------------------------------------------------


def test_unsubscribing_is_done_where_it_is_held() -> None:
    """And the connection that is empty then is not wanted any more."""
    scene = Scene().held(A1, B1)
    ticket = scene.plan.unsubscribe([A1])
    node = scene.node("A")
    assert node.commands() == [("SUNSUBSCRIBE", A1), ("PING",)]
    node.take([b"sunsubscribe", A1, 0], 0.0)
    assert not ticket.settled
    node.take([b"pong", b""], 0.0)
    assert ticket.settled
    assert set(scene.plan.nodes) == {scene.address("B")}
    scene.publish("B", B1)
    assert scene.received() == [b"x"]


def test_messages_of_what_is_not_wanted_are_dropped() -> None:
    scene = Scene().held(A1)
    scene.plan.unsubscribe()
    scene.publish("A", A1)
    assert scene.received() == []


def test_what_nobody_holds_is_let_go_at_once() -> None:
    """Calls that waited for it are settled; nobody will answer them."""
    scene = Scene()
    waiting = scene.want(A1)
    assert scene.plan.unsubscribe([A1, C1]).settled
    assert waiting.settled
    assert not scene.plan.nodes
    assert scene.plan.unsubscribe().settled


def test_one_that_is_subscribed_to_meanwhile_is_let_go_when_that_is_confirmed() -> None:
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    ticket = scene.plan.unsubscribe()
    assert not ticket.settled
    node = scene.node("A")
    assert node.commands() == [("SSUBSCRIBE", A1)]
    node.take([b"ssubscribe", A1, 1], 0.0)
    assert scene.answer("A") == [("SUNSUBSCRIBE", A1), ("PING",)]
    assert ticket.settled


@pytest.mark.parametrize("error", ["CLUSTERDOWN The cluster is down", NOPERM])
def test_one_that_is_refused_meanwhile_is_not_held(error: str) -> None:
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    ticket = scene.plan.unsubscribe()
    scene.refuse("A", error)
    assert ticket.settled
    assert not scene.plan.nodes
    assert scene.received() == []


def test_wanted_again_before_it_was_let_go() -> None:
    """It is asked for again when the node has let it go; there is no gap, for nothing was promised."""
    scene = Scene().held(A1)
    leaving = scene.plan.unsubscribe()
    again = scene.want(A1)
    assert leaving.settled
    assert not again.settled
    assert scene.answer("A") == [("SUNSUBSCRIBE", A1), ("PING",), ("SSUBSCRIBE", A1)]
    assert again.settled
    assert scene.received() == []


def test_reset() -> None:
    scene = Scene().held(A1)
    ticket = scene.want(B1)
    scene.plan.reset()
    assert ticket.settled
    assert not scene.plan.nodes
    assert scene.plan.wanted() == {}
    assert scene.plan.is_settled


def test_the_end_is_told_to_all_calls() -> None:
    scene = Scene().held(A1)
    ticket = scene.want(B1)
    error = ServerConnectionError("over")
    scene.node("A").fail(error)
    scene.plan.fail(ServerConnectionError("later"))
    assert ticket.error is error
    assert scene.node("A").error is error


# ---- refusals -----------------------------------------------------------------------------------------------------


def test_a_refusal_is_the_calls_own() -> None:
    """Of a call that is refused nothing stays, wherever it has got it; all else does."""
    scene = Scene().held(B1)
    ticket = scene.want(B1, C1, A1)
    scene.connect("C", "A")
    scene.answer("C")
    scene.refuse("A", NOPERM)
    assert isinstance(ticket.error, redis_errors.NoPermissionError)
    assert set(scene.plan.wanted()) == {B1}
    assert scene.answer("C") == [("SUNSUBSCRIBE", C1), ("PING",)]
    assert set(scene.plan.nodes) == {scene.address("B")}
    assert scene.received() == []


def test_what_two_calls_want_is_refused_to_one_alone() -> None:
    scene = Scene()
    first = scene.want(A1, A2)
    scene.connect("A")
    second = scene.want(A2)
    scene.node("A").commands()
    scene.refuse("A", NOPERM)
    assert first.error is not None
    assert set(scene.plan.wanted()) == {A2}
    assert scene.answer("A") == [("SSUBSCRIBE", A2)]
    assert second.settled
    assert second.error is None


def test_a_command_of_a_call_that_has_failed_already_is_the_next_calls() -> None:
    scene = Scene()
    first = scene.want(A1, B1)
    scene.connect("A", "B")
    second = scene.want(A1)
    scene.refuse("B", NOPERM)
    assert first.error is not None
    assert not second.settled
    scene.refuse("A", NOPERM)
    assert second.error is not None
    assert scene.plan.wanted() == {}
    assert scene.received() == []


def test_a_refusal_that_nobody_hears_is_told_to_who_receives() -> None:
    scene = Scene()
    ticket = scene.want(A1, B1)
    scene.plan.abandon(ticket)
    scene.connect("A", "B")
    scene.answer("B")
    scene.refuse("A", NOPERM)
    (lost,) = scene.received()
    assert isinstance(lost, SubscriptionLost)
    assert set(lost.shard_channels) == {A1, B1}
    assert (lost.channels, lost.patterns) == ((), ())
    assert isinstance(lost.__cause__, redis_errors.NoPermissionError)
    assert "{2}" not in str(lost)


def test_what_was_held_and_is_refused_is_asked_for_one_by_one() -> None:
    scene = Scene().held(A1, A2)
    scene.node("A").lost("lost", 1.0, 1.0)
    scene.connect("A")
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1, A2)]
    scene.refuse("A", NOPERM)
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1), ("SSUBSCRIBE", A2)]
    scene.refuse("A", NOPERM)
    scene.node("A").take([b"ssubscribe", A2, 1], 2.0)
    lost, gap = scene.received()
    assert isinstance(lost, SubscriptionLost)
    assert lost.shard_channels == (A1,)
    assert gap == (A2,)
    assert list(scene.plan.wanted()) == [A2]


def test_a_call_for_one_that_is_refused_just_then_is_told() -> None:
    scene = Scene().held(A1)
    scene.node("A").lost("lost", 1.0, 1.0)
    scene.connect("A")
    ticket = scene.want(A1)
    scene.refuse("A", NOPERM)
    assert ticket.error is not None
    assert scene.plan.wanted() == {}
    (lost,) = scene.received()
    assert isinstance(lost, SubscriptionLost)


def test_what_was_refused_and_is_not_wanted_any_more_is_no_loss() -> None:
    scene = Scene().held(A1)
    scene.node("A").lost("lost", 1.0, 1.0)
    scene.connect("A")
    scene.plan.unsubscribe()
    scene.refuse("A", NOPERM)
    assert scene.received() == []


def test_a_server_without_sharded_pubsub_is_a_clear_error() -> None:
    scene = Scene()
    ticket = scene.want(A1)
    scene.connect("A")
    scene.refuse("A", "ERR unknown command 'SSUBSCRIBE', with args beginning with: '{2}a' ")
    assert isinstance(ticket.error, redis_errors.ResponseError)
    assert "no sharded Pub/Sub" in str(ticket.error)
    assert "{2}a" not in str(ticket.error)


def test_a_server_that_hangs_up_is_left() -> None:
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    with pytest.raises(ServerConnectionError):
        scene.refuse("A", "NOAUTH Authentication required.")


# ---- slots that move ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["", "?", "10.0.0.1"])
def test_a_redirection_is_passed_on_and_followed(host: str) -> None:
    scene = Scene()
    ticket = scene.want(A1)
    scene.connect("A")
    scene.refuse("A", f"MOVED {slot_of(A1)} {host}:{scene.address('B').port}")
    # (No host means the one that has answered.)
    assert scene.plan.redirections == [(slot_of(A1), scene.address("B"))]
    assert scene.plan.wants_map
    scene.node("A").commands()
    assert not scene.node("A").has_commands
    scene.owned(a="B")
    assert set(scene.plan.nodes) == {scene.address("B")}
    scene.connect("B")
    scene.answer("B")
    assert ticket.settled


@pytest.mark.parametrize("slot", [slot_of(A1) + 1, 99_999])
def test_a_redirection_of_another_slot_says_nothing(slot: int) -> None:
    """Nor does it break the map, in which there is no such slot."""
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    scene.refuse("A", f"MOVED {slot} 10.0.0.1:{scene.address('B').port}")
    assert scene.plan.redirections == []
    assert scene.plan.wants_map


def test_brackets_of_an_address_are_not_part_of_it() -> None:
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    scene.refuse("A", f"MOVED {slot_of(A1)} [::1]:7000")
    assert scene.plan.redirections == [(slot_of(A1), Address("::1", 7000))]


def test_redirections_in_circles_are_followed_a_few_times() -> None:
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    there = ""
    for number in range(MOST_REDIRECTS + 1):
        here, there = "AB" if number % 2 == 0 else "BA"
        scene.refuse(here, f"MOVED {slot_of(A1)} 10.0.0.1:{scene.address(there).port}")
        scene.owned(a=there)
        scene.connect(there)
    assert not scene.node(there).must_read
    scene.plan.tick(1.0)
    assert scene.node(there).must_read


@pytest.mark.parametrize("error", ["CLUSTERDOWN Hash slot not served", "ASK 9842 10.0.0.1:7001", "MASTERDOWN Link"])
def test_a_node_that_cannot_now_is_asked_again_later(error: str) -> None:
    scene = Scene()
    ticket = scene.want(A1, B1)
    scene.connect("A", "B")
    scene.answer("B")
    assert scene.where(B1) == "B"
    scene.node("A").commands()
    scene.refuse("A", error)
    assert scene.plan.wants_map
    scene.plan.map_changed(scene.map())
    assert not scene.node("A").has_commands
    scene.plan.tick(1.0)
    scene.answer("A")
    assert ticket.settled
    assert scene.plan.is_settled


def test_a_slot_without_an_owner_waits_and_its_siblings_go_on() -> None:
    """The map is asked for at each tick: nobody tells of an owner by himself."""
    scene = Scene()
    scene.owned(a=None)
    ticket = scene.want(A1, B1)
    assert set(scene.plan.nodes) == {scene.address("B")}
    scene.connect("B")
    scene.answer("B")
    assert scene.where(B1) == "B"
    scene.plan.wants_map = False
    scene.plan.tick(1.0)
    assert scene.plan.wants_map
    scene.owned(a="A")
    scene.connect("A")
    scene.answer("A")
    assert ticket.settled


def test_no_map_is_asked_for_while_answers_are_on_their_way() -> None:
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    scene.plan.tick(1.0)
    assert not scene.plan.wants_map


def test_what_a_node_has_ended_it_is_asked_for_once_the_map_was() -> None:
    """Whoever told of the map may not have heard of the move, and it has."""
    scene = Scene().held(A1, A2)
    scene.node("A").take([b"sunsubscribe", A1, 1], 5.0)
    assert scene.plan.wants_map
    scene.asked()
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1)]
    scene.refuse("A", f"MOVED {slot_of(A1)} 10.0.0.1:{scene.address('B').port}", now=6.0)
    scene.node("A").take([b"sunsubscribe", A2, 0], 6.0)
    scene.asked()
    scene.owned(a="B")
    scene.refuse("A", f"MOVED {slot_of(A1)} 10.0.0.1:{scene.address('B').port}", now=6.0)
    scene.connect("B", now=7.0)
    assert scene.received() == []
    scene.answer("B", now=8.0)
    gap = scene.gap()
    assert set(gap.channels) == {A1, A2}
    assert "does not own the slot" in gap.cause
    assert (gap.old_server, gap.new_server) == (scene.identity("A"), scene.identity("B"))
    assert (gap.began, gap.ended, gap.dropped) == (5.0, 8.0, 0)
    assert scene.plan.gaps == 1
    assert repr(A1) not in repr(gap)


@pytest.mark.parametrize("late", ["map", "nothing"])
def test_who_has_ended_it_is_not_asked_before_the_map_is(late: str) -> None:
    """A master that has become a replica would take it, and its successor may pass the same messages on once more."""
    scene = Scene().held(A1, A2, C1)
    scene.node("A").take([b"sunsubscribe", A1, 1], 5.0)
    scene.node("A").take([b"sunsubscribe", A2, 0], 5.0)
    # (Whatever else happens. And somebody's asking may have been over just now.)
    scene.want(b"{2}c")
    scene.plan.map_was_asked_for()
    assert scene.node("A").commands() == [("SSUBSCRIBE", b"{2}c")]
    if late == "map":
        # Nobody could tell of the map for a while.
        scene.plan.tick(5.0)  # (One that was due just then.)
        assert not scene.node("A").has_commands
        scene.plan.tick(5.5)
        assert scene.node("A").commands() == [("SSUBSCRIBE", A1, A2)]
        return
    fail_over(scene)
    scene.asked()
    assert not scene.node("A").has_commands
    scene.connect("D", now=7.0)
    assert ("SSUBSCRIBE", A1, A2) in scene.answer("D", now=7.0)
    assert set(scene.gap().channels) == {A1, A2}


def test_who_has_ended_it_is_not_asked_for_an_old_maps_sake() -> None:
    """A redirection named the new one, which has not taken it yet; then somebody tells of an old map."""
    scene = Scene()
    scene.owned(c="A")
    scene.held(A1, C1)
    scene.owned(a="B")
    scene.node("A").take([b"sunsubscribe", A1, 0], 5.0)
    scene.owned(a="A")
    assert not scene.node("A").has_commands
    scene.asked()
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1)]


def test_who_has_ended_it_may_get_it_back_when_another_has_had_it() -> None:
    scene = Scene().held(A1)
    scene.node("A").take([b"sunsubscribe", A1, 0], 5.0)
    scene.owned(a="B")
    scene.connect("B")
    scene.answer("B")
    scene.owned(a="A")
    # That may be an old map.
    assert scene.where(A1) == "B"
    scene.asked()
    scene.connect("A")
    scene.answer("A")
    scene.answer("B")
    assert scene.where(A1) == "A"


def test_what_ends_after_a_reset_is_nobodys() -> None:
    scene = Scene().held(A1)
    node = scene.node("A")
    scene.plan.reset()
    node.take([b"sunsubscribe", A1, 0], 1.0)
    assert scene.received() == []
    assert not node.has_commands


def test_who_has_ended_it_is_asked_over_a_new_connection() -> None:
    scene = Scene().held(A1)
    scene.node("A").take([b"sunsubscribe", A1, 0], 5.0)
    scene.node("A").lost("lost", 5.0, 5.0)
    scene.connect("A")
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1)]


def test_a_map_that_names_who_has_ended_it_is_doubted_for_a_while() -> None:
    """A master that has become a replica takes the subscription again."""
    scene = Scene().held(A1, A2)
    scene.node("A").take([b"sunsubscribe", A1, 1], 1.0)
    scene.node("A").take([b"sunsubscribe", A2, 0], 1.0)
    scene.asked()
    scene.answer("A")
    assert not scene.plan.is_settled
    for number in range(MOST_DOUBTS):
        assert not scene.plan.is_settled
        scene.plan.wants_map = False
        scene.plan.tick(float(number))
        assert scene.plan.wants_map
        scene.plan.map_changed(scene.map())
    assert scene.plan.is_settled
    scene.node("A").take([b"sunsubscribe", A1, 1], 9.0)
    scene.asked()
    scene.answer("A")
    assert not scene.plan.is_settled
    fail_over(scene)
    scene.connect("D")
    for name in "AD":
        scene.answer(name)
    assert scene.where(A1) == scene.where(A2) == "D"
    assert scene.plan.is_settled


def test_in_another_shard_the_new_owner_is_asked_before_the_old_one_lets_go() -> None:
    """Messages of both are handed out, and none of them comes twice: each is published in one shard."""
    scene = Scene().held(A1)
    scene.publish("A", A1, b"before", now=1.0)
    scene.owned(a="B")
    assert not scene.node("A").has_commands
    scene.connect("B", now=2.0)
    assert not scene.node("A").has_commands
    scene.publish("A", A1, b"still", now=2.0)
    scene.answer("B", now=3.0)
    assert scene.where(A1) == "AB"
    scene.publish("A", A1, b"late", now=3.0)
    scene.publish("B", A1, b"new", now=4.0)
    assert scene.answer("A") == [("SUNSUBSCRIBE", A1), ("PING",)]
    assert scene.where(A1) == "B"
    assert scene.received() == [b"before", b"still", (A1,), b"late", b"new"]
    assert set(scene.plan.nodes) == {scene.address("B")}


def fail_over(scene: Scene) -> None:
    """The replica is the master; the old master is its replica, and holds the channel (it was asked again too soon)."""
    scene.truth.master = {"A": "D"}
    scene.owned(a="D")


def test_in_one_shard_the_old_one_lets_go_first() -> None:
    """Both pass on the same messages."""
    scene = Scene().held(A1)
    fail_over(scene)
    scene.connect("D")
    assert not scene.node("D").has_commands
    assert scene.answer("A", now=1.0) == [("SUNSUBSCRIBE", A1), ("PING",)]
    assert scene.answer("D", now=2.0) == [("SSUBSCRIBE", A1)]
    gap = scene.gap()
    assert "has let go of it" in gap.cause
    assert (gap.old_server, gap.new_server) == (scene.identity("A"), scene.identity("D"))
    assert (gap.began, gap.ended) == (1.0, 2.0)


def test_guard_without_the_order_within_a_shard_a_message_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShardPlan, "_may_repeat", lambda *_: False)
    scene = Scene().held(A1)
    fail_over(scene)
    scene.connect("D")
    scene.answer("D")
    scene.received()
    # What the new master passes on to its replica has come from there before the old one has let go.
    scene.publish("A", A1, b"once")
    scene.publish("D", A1, b"once")
    assert scene.received() == [b"once", b"once"]


def test_a_node_of_no_known_shard_is_taken_to_be_of_the_same() -> None:
    """A master that has just lost its slots is in nobody's map."""
    scene = Scene().held(A1)
    scene.truth.master = {"A": "D"}
    scene.owned(a="D")
    shards = [Shard(shard.master, shard.slots) for shard in scene.map().shards]
    scene.plan.map_changed(ClusterMap(tuple(shards)))
    scene.connect("D")
    assert scene.answer("A") == [("SUNSUBSCRIBE", A1), ("PING",)]
    assert scene.answer("D") == [("SSUBSCRIBE", A1)]


def test_nodes_that_were_one_shard_may_be_so_again() -> None:
    """A master that hands over is one by itself for a moment, by the map, and the new one's replica by the next."""
    scene = Scene().held(A1)
    before = scene.map()
    scene.truth.master = {"A": "D"}
    scene.owned(a="D")
    alone = Shard(next(shard.master for shard in before.shards if shard.master.address == scene.address("A")), 0)
    shards = [Shard(shard.master, shard.slots) for shard in scene.map().shards]
    for _ in range(2):
        scene.plan.map_changed(ClusterMap((*shards, alone)))
    scene.connect("D")
    assert not scene.node("D").has_commands
    assert scene.answer("A") == [("SUNSUBSCRIBE", A1), ("PING",)]
    assert scene.answer("D") == [("SSUBSCRIBE", A1)]


def test_nothing_is_let_go_before_the_new_owner_is_in_reach() -> None:
    scene = Scene().held(A1)
    fail_over(scene)
    assert not scene.node("A").has_commands
    scene.owned(a=None)
    assert scene.where(A1) == "A"
    assert not scene.node("A").has_commands
    assert not scene.plan.is_settled


def test_two_that_are_to_let_go() -> None:
    """What one that was left ends by itself is no interruption while the owner holds it."""
    scene = Scene().held(A1)
    scene.owned(a="B")
    scene.connect("B")
    scene.answer("B")
    scene.received()
    scene.node("A").commands()
    scene.node("A").take([b"sunsubscribe", A1, 0], 1.0)
    scene.refuse("A", f"MOVED {slot_of(A1)} 10.0.0.1:7001")
    scene.node("A").take(b"PONG", 1.0)
    assert scene.received() == []
    assert scene.where(A1) == "B"
    assert scene.plan.is_settled


def test_an_owner_that_drops_it_while_another_holds_it_still() -> None:
    """What is published at the owner is missed from then on."""
    scene = Scene().held(A1)
    scene.owned(a="B")
    scene.connect("B")
    scene.answer("B")
    scene.received()
    scene.node("B").take([b"sunsubscribe", A1, 0], 1.0)
    scene.asked()
    scene.answer("B", now=2.0)
    assert scene.received() == [(A1,)]


def test_a_move_on_before_the_gap_was_told() -> None:
    """The gap is told once, from its beginning."""
    scene = Scene().held(A1, C1)
    scene.node("A").take([b"sunsubscribe", A1, 0], 1.0)
    scene.asked()
    scene.refuse("A", f"MOVED {slot_of(A1)} 10.0.0.1:{scene.address('B').port}")
    scene.want(B1)
    scene.owned(a="B")
    scene.connect("B", now=2.0)
    assert scene.node("B").commands() == [("SSUBSCRIBE", B1), ("SSUBSCRIBE", A1)]
    scene.node("B").take([b"ssubscribe", B1, 1], 3.0)
    scene.want(b"{3}b")
    scene.node("B").take([b"ssubscribe", A1, 1], 3.0)
    assert scene.received() == []
    scene.owned(a="C")
    scene.answer("C", now=4.0)
    gap = scene.gap()
    assert gap.channels == (A1,)
    assert gap.old_server == scene.identity("A")
    assert (gap.began, gap.ended) == (1.0, 4.0)
    scene.answer("B")
    assert scene.received() == []
    assert scene.where(A1) == "C"


def test_a_change_of_the_map_asks_only_where_something_has_changed() -> None:
    scene = Scene().held(A1, B1)
    scene.owned(c="A")
    assert not scene.node("A").has_commands
    assert scene.plan.is_settled


# ---- connections that are lost ------------------------------------------------------------------------------------


def test_a_lost_connection_is_one_gap_for_all_its_channels() -> None:
    scene = Scene().held(A1, A2, B1)
    scene.node("A").lost("127.0.0.1 closed the connection", 3.0, 2.0)
    assert scene.plan.wants_map
    scene.cluster.nodes["A"].restart()
    scene.connect("A", now=4.0)
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1, A2)]
    scene.node("A").take([b"ssubscribe", A1, 1], 5.0)
    assert scene.received() == []
    scene.node("A").take([b"ssubscribe", A2, 2], 5.0)
    gap = scene.gap()
    assert set(gap.channels) == {A1, A2}
    assert gap.cause == "127.0.0.1 closed the connection"
    assert gap.old_server != gap.new_server == scene.identity("A")
    assert (gap.began, gap.ended) == (2.0, 5.0)
    assert scene.plan.is_settled


def test_a_message_that_comes_before_all_is_regained_has_the_gap_before_it() -> None:
    scene = Scene().held(A1, A2)
    scene.node("A").lost("lost", 3.0, 2.0)
    scene.connect("A")
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1, A2)]
    scene.node("A").take([b"ssubscribe", A1, 1], 5.0)
    scene.publish("A", A1)
    scene.node("A").take([b"ssubscribe", A2, 2], 5.0)
    assert scene.received() == [(A1,), b"x", (A2,)]


def test_lost_again_before_the_gap_was_told() -> None:
    scene = Scene().held(A1, A2)
    scene.node("A").lost("first", 3.0, 2.0)
    scene.connect("A")
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1, A2)]
    scene.node("A").take([b"ssubscribe", A1, 1], 5.0)
    scene.node("A").lost("second", 6.0, 5.0)
    scene.connect("A", now=7.0)
    scene.answer("A", now=8.0)
    gap = scene.gap()
    assert (gap.cause, gap.began, gap.ended) == ("first", 2.0, 8.0)


def test_ended_again_before_the_gap_was_told() -> None:
    scene = Scene().held(A1, A2)
    scene.node("A").lost("first", 3.0, 2.0)
    scene.connect("A")
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1, A2)]
    scene.node("A").take([b"ssubscribe", A1, 1], 5.0)
    scene.node("A").take([b"sunsubscribe", A1, 0], 6.0)
    scene.asked()
    scene.node("A").take([b"ssubscribe", A2, 1], 7.0)
    scene.answer("A", now=8.0)
    assert [set(item) for item in scene.received()] in ([{A1, A2}], [{A2}, {A1}])


def test_no_gap_for_what_is_not_wanted_any_more() -> None:
    scene = Scene().held(A1, A2)
    scene.node("A").lost("lost", 3.0, 2.0)
    scene.connect("A")
    assert scene.node("A").commands() == [("SSUBSCRIBE", A1, A2)]
    scene.node("A").take([b"ssubscribe", A1, 1], 5.0)
    scene.plan.unsubscribe([A1])
    scene.node("A").take([b"ssubscribe", A2, 2], 5.0)
    assert scene.received() == [(A2,)]


def test_a_lost_connection_settles_who_unsubscribes() -> None:
    scene = Scene().held(A1)
    ticket = scene.plan.unsubscribe()
    node = scene.node("A")
    node.lost("lost", 1.0, 1.0)
    assert ticket.settled
    assert not scene.plan.nodes
    assert not node.wants_connection


def test_a_new_connection_is_asked_whatever_the_last_one_said() -> None:
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    scene.refuse("A", "LOADING Redis is loading the dataset in memory")
    scene.node("A").lost("lost", 1.0, 1.0)
    scene.connect("A")
    assert scene.answer("A") == [("SSUBSCRIBE", A1)]


def test_an_attempt_that_fails_is_a_problem_that_is_told() -> None:
    scene = Scene(failover_timeout=10.0)
    ticket = scene.want(A1)
    scene.node("A").lost("nobody is there", 1.0, 0.0)
    assert scene.node("A").reconnecting.pause(1.0, wanted=True) == 0.0
    scene.plan.tick(10.0)
    assert isinstance(ticket.error, ServerUnavailable)
    assert "nobody is there" in str(ticket.error)


def test_a_call_is_settled_once_each_of_its_channels_was_confirmed() -> None:
    """Though one of them was lost again meanwhile."""
    scene = Scene(ignore=False)
    ticket = scene.want(A1, B1)
    scene.connect("A")
    scene.answer("A")
    scene.node("A").lost("lost", 1.0, 1.0)
    scene.connect("A", "B")
    scene.answer("A")
    assert not ticket.settled
    scene.answer("B")
    assert ticket.settled
    assert [item.name for item in scene.received() if isinstance(item, Confirmation)] == [A1, B1]


# ---- giving up ----------------------------------------------------------------------------------------------------


def test_what_nobody_takes_within_the_time_is_given_up_and_all_else_goes_on() -> None:
    scene = Scene(failover_timeout=10.0).held(B1, C1)
    scene.owned(a=None, c=None)
    scene.node("C").take([b"sunsubscribe", C1, 0], 1.0)
    ticket = scene.want(A1, A2, now=2.0)
    scene.plan.tick(10.0)
    assert not ticket.settled
    scene.plan.tick(11.0)
    (lost,) = scene.received()
    assert isinstance(lost, SubscriptionLost)
    assert lost.shard_channels == (C1,)
    assert isinstance(lost.__cause__, ServerUnavailable)
    scene.plan.tick(12.0)
    assert isinstance(ticket.error, ServerUnavailable)
    assert f"slot {slot_of(A1)} has no owner" in str(ticket.error)
    assert set(scene.plan.wanted()) == {B1}
    assert scene.plan.is_settled
    assert scene.plan.error is None
    assert scene.received() == []


def test_what_nobody_takes_and_nobody_waits_for() -> None:
    scene = Scene(failover_timeout=10.0)
    scene.owned(a=None)
    scene.plan.abandon(scene.want(A1))
    scene.plan.tick(10.0)
    (lost,) = scene.received()
    assert isinstance(lost, SubscriptionLost)
    assert lost.shard_channels == (A1,)


def test_what_another_node_holds_still_is_not_given_up() -> None:
    scene = Scene(failover_timeout=10.0).held(A1)
    scene.owned(a="B")
    scene.plan.tick(1000.0)
    assert set(scene.plan.wanted()) == {A1}


# ---- letting go ---------------------------------------------------------------------------------------------------


def letting_go(*also: bytes) -> tuple[Scene, ShardNode, ShardTicket]:
    scene = Scene().held(A1, *also)
    ticket = scene.plan.unsubscribe([A1])
    scene.node("A").commands()
    return scene, scene.node("A"), ticket


def test_a_node_that_has_ended_it_by_itself_refuses_to_do_so_again() -> None:
    """The error is that of the SUNSUBSCRIBE, and nobody else's."""
    scene, node, ticket = letting_go(A2)
    other = scene.want(b"{2}c")
    node.take([b"sunsubscribe", A1, 0], 1.0)
    scene.refuse("A", f"MOVED {slot_of(A1)} 10.0.0.1:7001")
    assert not ticket.settled
    node.take(b"PONG", 1.0)
    assert ticket.settled
    assert other.error is None
    scene.answer("A")
    assert other.settled
    assert scene.plan.redirections == []


def test_a_node_that_says_so_twice() -> None:
    scene, node, ticket = letting_go(A2)
    node.take([b"sunsubscribe", A1, 0], 1.0)
    node.take([b"sunsubscribe", A1, 0], 1.0)
    node.take(b"PONG", 1.0)
    assert ticket.settled
    assert scene.where(A2) == "A"


def test_a_node_that_does_not_let_go_is_left() -> None:
    scene, node, _ = letting_go(A2)
    scene.refuse("A", "NOPERM User default has no permissions to run the 'sunsubscribe' command")
    with pytest.raises(ServerConnectionError, match="does not let go"):
        node.take(b"PONG", 1.0)


@pytest.mark.parametrize(
    "errors",
    [
        pytest.param(["NOPERM User default has no permissions to run the 'ping' command"], id="forbidden"),
        pytest.param(["MOVED 9842 10.0.0.1:7001", "BUSY Redis is busy running a script."], id="both fail"),
    ],
)
def test_a_ping_that_fails_is_an_answer(errors: list[str]) -> None:
    scene, node, ticket = letting_go(A2)
    node.take([b"sunsubscribe", A1, 0], 1.0)
    for error in errors:
        assert not ticket.settled
        scene.refuse("A", error)
    assert ticket.settled


# ---- alive or not -------------------------------------------------------------------------------------------------


def test_a_health_check() -> None:
    scene = Scene().held(A1)
    node = scene.node("A")
    assert not node.answer_is_due
    node.check_health()
    assert node.commands() == [("PING",)]
    assert node.answer_is_due
    assert not node.must_read
    node.take(b"PONG", 1.0)
    assert not node.answer_is_due
    assert node.heard == 1.0


def test_a_ping_is_answered_by_all_nodes() -> None:
    scene = Scene().held(A1, B1)
    scene.want(C1)
    ticket = scene.plan.ping()
    assert scene.node("A").must_read
    scene.answer("A")
    scene.node("B").lost("lost", 1.0, 1.0)
    scene.connect("B")
    assert ("PING",) in scene.answer("B")
    assert not ticket.settled
    # One that is not wanted any more owes nothing.
    scene.plan.unsubscribe([C1])
    assert ticket.settled
    assert ticket.error is None


def test_a_ping_that_is_refused() -> None:
    scene = Scene().held(A1)
    ticket = scene.plan.ping()
    scene.refuse("A", "NOPERM User default has no permissions to run the 'ping' command")
    assert isinstance(ticket.error, redis_errors.NoPermissionError)
    scene.node("A").commands()
    assert not scene.plan.ping().settled
    scene.plan.fail(ServerConnectionError("over"))
    scene.answer("A")
    assert Scene().plan.ping().settled


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"ssubscribe", A1, 1], id="unasked confirmation"),
        pytest.param([b"ssubscribe", A1], id="short"),
        pytest.param([b"smessage", [A1], b"x"], id="a list for a name"),
        pytest.param([b"other"], id="unasked list"),
        pytest.param(b"PONG", id="unasked pong"),
        pytest.param([b"pong", b""], id="unasked pong, RESP2"),
    ],
)
def test_nonsense(reply: Any) -> None:
    scene = Scene().held(A1)
    with pytest.raises(ProtocolError):
        scene.node("A").take(reply, 1.0)


def test_nonsense_in_place_of_a_confirmation() -> None:
    scene = Scene()
    scene.want(A1)
    scene.connect("A")
    with pytest.raises(ProtocolError):
        scene.node("A").take([b"ssubscribe", B1, 1], 0.0)
    with pytest.raises(ProtocolError):
        scene.node("A").take(b"PONG", 0.0)


def test_an_error_that_nobody_asked_for() -> None:
    scene = Scene().held(A1)
    with pytest.raises(ServerConnectionError, match="unasked"):
        scene.refuse("A", "ERR max number of clients reached")


def test_other_pushes_are_none_of_ours() -> None:
    scene = Scene().held(A1)
    scene.node("A").take(Push([b"invalidate", []]), 0.0)
    assert scene.received() == []


def test_a_full_buffer() -> None:
    scene = Scene(on_full="raise").held(A1)
    scene.publish("A", A1)
    with pytest.raises(SubscriberOverflow):
        scene.publish("A", A1)
    assert scene.node("A").mailbox is scene.plan.mailbox
