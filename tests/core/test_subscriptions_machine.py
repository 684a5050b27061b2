"""A subscriber against a model of a server: whatever happens in whatever order, nothing is missing without a gap."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_sentinel_scan import Address, Gap, ServerIdentity, SubscriptionLost
from trio_sentinel_scan._core.messages import SubscriberOptions
from trio_sentinel_scan._core.subscriptions import Kind, Subscriptions, Ticket
from trio_sentinel_scan._core.verdicts import parse_error_reply

NAMES = (b"a", b"b", b"c")
names = st.lists(st.sampled_from(NAMES), min_size=1, unique=True)
kinds = st.sampled_from(Kind)


class Subscribing(RuleBasedStateMachine):
    """`self.sent` is on its way to the server, `self.coming` on its way back; each rule moves one thing on."""

    @initialize()
    def begin(self) -> None:
        options = SubscriberOptions(True, 10_000, "block", 5.0)
        self.plan = Subscriptions(options, failover_timeout=60.0, jitter=lambda: 1.0)
        self.sent: deque[tuple[Any, ...]] = deque()
        self.coming: deque[Any] = deque()
        self.held: set[tuple[str, bytes]] = set()
        self.forbidden: set[bytes] = set()
        self.now = 0.0
        self.servers = 0
        self.published = 0
        # Of each name, by kind: messages that are owed, unless a gap comes first.
        self.owed: dict[tuple[Kind, bytes], deque[bytes]] = {}
        # Names that the server confirmed to the plan; from then on everything is owed.
        self.promised: set[tuple[Kind, bytes]] = set()
        # Names that were held when a connection was lost, and how many gaps had been told by then.
        self.gap_due: set[tuple[Kind, bytes]] = set()
        self.gaps_before = 0
        self.tickets: list[tuple[Ticket, tuple[bytes, ...]]] = []

    # ---- the caller ----------------------------------------------------------------------------------------------

    @rule(kind=kinds, which=names)
    def subscribe(self, kind: Kind, which: list[bytes]) -> None:
        self.tickets.append((self.plan.subscribe(kind, dict.fromkeys(which)), tuple(which)))

    @rule(kind=kinds, which=st.none() | names)
    def unsubscribe(self, kind: Kind, which: list[bytes] | None) -> None:
        gone = self.plan.wanted(kind) if which is None else which
        self.plan.unsubscribe(kind, which)
        for name in gone:
            # What is on its way is not owed any more; what was taken in is.
            self.promised.discard((kind, name))
            self.gap_due.discard((kind, name))
            self.owed.pop((kind, name), None)

    @rule()
    def abandon_the_last(self) -> None:
        if self.tickets and not self.tickets[-1][0].settled:
            self.plan.abandon(self.tickets[-1][0])

    @rule()
    def ping(self) -> None:
        self.plan.ping()

    # ---- the network ---------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.plan.is_connected and self.plan.wants_connection)
    @rule()
    def connect(self) -> None:
        self.now += 1
        self.servers += 1
        self.plan.connected(ServerIdentity(f"{self.servers:040x}", Address("10.0.0.1", 6379)), self.now)

    @rule()
    def lose(self) -> None:
        """The connection, or an attempt to have one."""
        self.now += 1
        self.plan.lost("lost", self.now, self.now)
        self.sent.clear()
        self.coming.clear()
        self.held.clear()
        if self.promised:
            self.gap_due |= self.promised
            self.gaps_before = self.plan.gaps
        self.promised.clear()
        # What was on its way is lost, and the next gap says so.
        self.owed.clear()

    @rule()
    def send(self) -> None:
        self.sent.extend(self.plan.commands())

    @precondition(lambda self: self.sent)
    @rule()
    def serve(self) -> None:
        """The server runs one command."""
        command, *words = self.sent.popleft()
        if command == "PING":
            self.coming.append(b"PONG")
            return
        kind = "P" if command.startswith("P") else ""
        if "UN" not in command and self.forbidden & set(words):
            self.coming.append(parse_error_reply("NOPERM No permissions to access a channel"))
            return
        for name in words:
            (self.held.discard if "UN" in command else self.held.add)((kind, name))
            self.coming.append([command.lower().encode(), name, len(self.held)])

    @precondition(lambda self: self.coming)
    @rule()
    def take(self) -> None:
        """The plan is given the next thing that came."""
        self.now += 1
        reply = self.coming.popleft()
        wanted = {kind: set(self.plan.wanted(kind)) for kind in Kind}
        self.plan.take(reply, self.now)
        if isinstance(reply, list) and reply[0] in (b"subscribe", b"psubscribe"):
            kind = Kind.PATTERN if reply[0].startswith(b"p") else Kind.CHANNEL
            if reply[1] in wanted[kind]:
                self.promised.add((kind, reply[1]))
        if isinstance(reply, list) and reply[0] in (b"message", b"pmessage"):
            kind = Kind.PATTERN if reply[0] == b"pmessage" else Kind.CHANNEL
            waiting = self.owed.get((kind, reply[1]))
            if (kind, reply[1]) in self.gap_due and reply[1] in wanted[kind]:
                assert self.plan.gaps > self.gaps_before
            if waiting and waiting[0] == reply[-1]:
                waiting.popleft()
                assert any(isinstance(item, list) and item[-1] == reply[-1] for item in self.plan.mailbox._items)

    @rule()
    def flow(self) -> None:
        """Everything that is on its way arrives."""
        self.send()
        while self.sent or self.coming:
            if self.sent:
                self.serve()
            else:
                self.take()
                self.send()

    @rule(name=st.sampled_from(NAMES))
    def publish(self, name: bytes) -> None:
        self.published += 1
        data = b"%d" % self.published
        for kind in Kind:
            if (kind.value, name) in self.held:
                head = [b"pmessage", name, name] if kind is Kind.PATTERN else [b"message", name]
                self.coming.append([*head, data])
            if (kind, name) in self.promised:
                self.owed.setdefault((kind, name), deque()).append(data)

    @rule(which=st.sets(st.sampled_from(NAMES)))
    def forbid(self, which: set[bytes]) -> None:
        self.forbidden = which

    # ---- the one who receives ------------------------------------------------------------------------------------

    @rule()
    def receive(self) -> None:
        for item in [self.plan.mailbox.take() for _ in range(len(self.plan.mailbox))]:
            assert isinstance(item, (list, Gap, SubscriptionLost))
            if isinstance(item, Gap):
                assert item.old_server != item.new_server
                assert item.began <= item.ended

    # ---- what holds ----------------------------------------------------------------------------------------------

    @invariant()
    def whatever_is_promised_and_published_is_on_its_way(self) -> None:
        for (kind, name), messages in self.owed.items():
            assert (kind.value, name) in self.held or not messages
            coming = [item[-1] for item in self.coming if isinstance(item, list) and item[1:2] == [name]]
            assert set(messages) <= set(coming)

    @invariant()
    def what_is_settled_says_the_truth(self) -> None:
        """With no answer due, wanted is held, by the plan and by the server, and no call waits."""
        plan = self.plan
        if plan.is_connected and not plan.answer_is_due:
            wanted = {(kind.value, name) for kind in Kind for name in plan.wanted(kind)}
            assert wanted == self.held
            assert all(ticket.settled or ticket.abandoned for ticket, _ in self.tickets)

    @invariant()
    def who_holds_again_what_was_lost_was_told_of_a_gap(self) -> None:
        if self.plan.is_connected and not self.plan.answer_is_due:
            assert not self.gap_due & self.promised or self.plan.gaps > self.gaps_before
            self.gap_due.clear()

    @invariant()
    def each_interruption_is_told_once(self) -> None:
        gaps = [item for item in self.plan.mailbox._items if isinstance(item, Gap)]
        assert len({gap.old_server for gap in gaps}) == len(gaps)
        assert self.plan.gaps <= self.servers

    def teardown(self) -> None:
        """Left alone, it comes to rest with everything settled."""
        self.forbidden = set()
        for _ in range(1000):
            if not self.plan.is_connected and self.plan.wants_connection:
                self.connect()
            self.send()
            if self.sent:
                self.serve()
            elif self.coming:
                self.take()
            else:
                break
        assert not self.plan.answer_is_due
        assert all(ticket.settled or ticket.abandoned for ticket, _ in self.tickets)


Subscribing.TestCase.settings = settings(deadline=None, max_examples=300, stateful_step_count=40)
TestSubscribing = Subscribing.TestCase
