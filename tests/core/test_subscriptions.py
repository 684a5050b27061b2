"""What a subscriber wants and holds: what is sent, what answers mean, and when a gap is due."""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions as redis_errors

from trio_sentinel_scan import (
    Address,
    Gap,
    ProtocolError,
    ServerConnectionError,
    ServerIdentity,
    SubscriberOverflow,
    SubscriptionLost,
)
from trio_sentinel_scan._core.messages import Confirmation, OnFull, SubscriberOptions
from trio_sentinel_scan._core.subscriptions import NAMES_PER_COMMAND, Kind, Subscriptions, Ticket
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import Push

OLD = ServerIdentity("a" * 40, Address("10.0.0.1", 6379))
NEW = ServerIdentity("b" * 40, Address("10.0.0.2", 6379))
CHANNEL, PATTERN = Kind.CHANNEL, Kind.PATTERN
NOPERM = parse_error_reply("NOPERM No permissions to access a channel")


class Plan(Subscriptions):
    """One whose clock stands still unless the test says otherwise, with a server that confirms what it is asked."""

    def __init__(self, *, ignore: bool = True, buffer: int = 100, on_full: OnFull = "block") -> None:
        options = SubscriberOptions(ignore, buffer, on_full, 5.0)
        super().__init__(options, failover_timeout=60.0, jitter=lambda: 1.0)

    def want(self, *names: bytes, kind: Kind = CHANNEL, handler: Any = None) -> Ticket:
        return self.subscribe(kind, dict.fromkeys(names, handler))

    def connect(self, server: ServerIdentity = OLD, now: float = 0.0, *, confirm: bool = True) -> None:
        self.connected(server, now)
        if confirm:
            self.confirm(now)

    def confirm(self, now: float = 0.0) -> None:
        """Answer everything that was sent, and what is sent because of it."""
        while commands := self.commands():
            for command, *names in commands:
                if command == "PING":
                    self.take(b"PONG", now)
                for name in names:
                    self.take([str(command).lower().encode(), name, 1], now)

    def publish(self, channel: bytes, data: bytes = b"x", now: float = 0.0, *, pattern: bytes | None = None) -> None:
        self.take([b"message", channel, data] if pattern is None else [b"pmessage", pattern, channel, data], now)

    @property
    def held(self) -> dict[Kind, set[bytes]]:
        return self._held

    def received(self) -> list[Any]:
        """Everything that waits, with the data in place of messages."""
        items = [self.mailbox.take() for _ in range(len(self.mailbox))]
        return [item[-1] if isinstance(item, list) else item for item in items]


def connected(*names: bytes, **options: Any) -> Plan:
    plan = Plan(**options)
    if names:
        plan.want(*names)
    plan.connect()
    plan.received()
    return plan


# ---- calls ------------------------------------------------------------------------------------------------------


def test_a_connection_is_wanted_as_soon_as_anything_is() -> None:
    plan = Plan()
    assert not plan.wants_connection
    plan.want(b"a", kind=PATTERN)
    assert plan.wants_connection


def test_a_subscription_is_settled_when_each_name_is_confirmed() -> None:
    plan = connected()
    ticket = plan.want(b"a", b"b")
    assert plan.has_commands
    assert plan.commands() == [("SUBSCRIBE", b"a", b"b")]
    assert not plan.has_commands
    plan.take([b"subscribe", b"a", 1], 0.0)
    assert not ticket.settled
    assert plan.must_read
    plan.take([b"subscribe", b"b", 2], 0.0)
    assert ticket.settled
    assert ticket.error is None
    assert not plan.must_read
    assert plan.held[CHANNEL] == {b"a", b"b"}


def test_patterns_and_channels_of_one_name_are_two_things() -> None:
    plan = connected()
    plan.want(b"a")
    plan.want(b"a", kind=PATTERN)
    plan.confirm()
    plan.unsubscribe(CHANNEL, [b"a"])
    assert plan.commands() == [("UNSUBSCRIBE", b"a")]
    assert plan.wanted(CHANNEL) == {}
    assert plan.wanted(PATTERN) == {b"a": None}
    plan.publish(b"a", b"by pattern", pattern=b"a")
    assert plan.received() == [b"by pattern"]


def test_a_call_without_a_connection_waits_for_one() -> None:
    plan = Plan()
    ticket = plan.want(b"a")
    assert plan.commands() == []
    plan.connect(confirm=False)
    assert plan.commands() == [("SUBSCRIBE", b"a")]
    assert not ticket.settled


def test_unsubscribing_from_all() -> None:
    plan = connected(b"a", b"b")
    ticket = plan.unsubscribe(CHANNEL)
    assert plan.commands() == [("UNSUBSCRIBE", b"a", b"b")]
    plan.take([b"unsubscribe", b"a", 1], 0.0)
    plan.take([b"unsubscribe", b"b", 0], 0.0)
    assert ticket.settled
    assert plan.held[CHANNEL] == set()
    assert not plan.wants_connection


def test_unsubscribing_from_nothing_asks_nothing() -> None:
    plan = connected()
    assert plan.unsubscribe(CHANNEL).settled
    assert plan.commands() == []


def test_unsubscribing_without_a_connection_needs_none() -> None:
    plan = Plan()
    waiting, other = plan.want(b"a"), plan.want(b"b")
    assert plan.unsubscribe(CHANNEL, [b"a"]).settled
    # Nobody will ask for it any more, so there is nothing to wait for.
    assert waiting.settled
    assert not other.settled
    plan.connect(confirm=False)
    assert plan.commands() == [("SUBSCRIBE", b"b")]


def test_what_was_asked_last_is_what_counts() -> None:
    plan = connected()
    plan.want(b"a")
    plan.unsubscribe(CHANNEL, [b"a"])
    plan.want(b"a")
    plan.confirm()
    assert plan.held[CHANNEL] == set(plan.wanted(CHANNEL)) == {b"a"}


def test_a_handler_goes_with_its_messages() -> None:
    plan = connected()
    plan.want(b"a", handler=print)
    plan.confirm()
    plan.publish(b"a")
    item = plan.mailbox.take()
    assert not isinstance(item, list)
    assert getattr(item, "handler", None) is print


def test_a_message_of_what_is_not_wanted_any_more_is_dropped() -> None:
    """From the call on; what had come before is handed out."""
    plan = connected(b"a")
    plan.publish(b"a", b"before")
    plan.unsubscribe(CHANNEL, [b"a"])
    plan.publish(b"a", b"after")
    assert plan.received() == [b"before"]


def test_confirmations_of_calls_are_shown_unless_ignored() -> None:
    plan = connected(ignore=False)
    plan.want(b"a")
    plan.take([b"subscribe", b"a", 7], 0.0)
    assert plan.received() == [Confirmation("subscribe", b"a", 7)]
    plan.lost("closed", 1.0, 1.0)
    plan.connect()
    assert not any(isinstance(item, Confirmation) for item in plan.received())


# ---- pings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [b"PONG", [b"pong", b""], Push([b"pong", b""])])
def test_each_form_of_pong(answer: Any) -> None:
    plan = connected(b"a")
    ticket = plan.ping()
    assert plan.commands() == [("PING",)]
    assert plan.answer_is_due
    plan.take(answer, 0.0)
    assert ticket.settled
    assert not plan.answer_is_due


def test_a_ping_whose_connection_is_lost_is_sent_again() -> None:
    plan = connected()
    ticket = plan.ping()
    plan.lost("closed", 0.0, 0.0)
    assert plan.wants_connection
    plan.connect()
    assert ticket.settled


def test_a_ping_that_nobody_waits_for_is_not() -> None:
    plan = connected()
    plan.abandon(plan.ping())
    plan.lost("closed", 0.0, 0.0)
    assert not plan.wants_connection


def test_an_error_is_an_answer_too() -> None:
    """BUSY, LOADING: whoever says so is alive. A caller is told, a check of ours is content."""
    plan = connected(b"a")
    plan.check_health()
    plan.take(parse_error_reply("BUSY Redis is busy running a script"), 0.0)
    assert not plan.answer_is_due
    ticket = plan.ping()
    plan.take(parse_error_reply("NOPERM no permissions to run the 'ping' command"), 0.0)
    assert isinstance(ticket.error, redis_errors.NoPermissionError)


def test_a_check_of_ours_keeps_nobody_reading() -> None:
    plan = connected(b"a")
    plan.check_health()
    assert plan.answer_is_due
    assert not plan.must_read


# ---- another connection ------------------------------------------------------------------------------------------


def test_everything_wanted_is_asked_for_again_in_few_commands() -> None:
    names = [b"%d" % number for number in range(2 * NAMES_PER_COMMAND + 1)]
    plan = connected(*names)
    plan.want(b"p.*", kind=PATTERN)
    plan.confirm()
    plan.lost("closed", 1.0, 1.0)
    plan.connect(NEW, confirm=False)
    commands = plan.commands()
    assert [(command[0], len(command) - 1) for command in commands] == [
        ("SUBSCRIBE", NAMES_PER_COMMAND),
        ("SUBSCRIBE", NAMES_PER_COMMAND),
        ("SUBSCRIBE", 1),
        ("PSUBSCRIBE", 1),
    ]
    assert {name for command in commands[:3] for name in command[1:]} == set(names)
    assert plan.must_read


def test_a_call_under_way_is_asked_for_again_by_itself() -> None:
    plan = connected(b"a")
    ticket = plan.want(b"b", b"c")
    plan.unsubscribe(CHANNEL, [b"c"])
    plan.lost("closed", 1.0, 1.0)
    plan.connect(NEW, confirm=False)
    assert plan.commands() == [("SUBSCRIBE", b"a"), ("SUBSCRIBE", b"b")]
    assert not ticket.settled
    for name in (b"a", b"b"):
        plan.take([b"subscribe", name, 1], 2.0)
    assert ticket.settled


def test_an_unsubscription_under_way_is_done_when_the_connection_is() -> None:
    plan = connected(b"a")
    ticket = plan.unsubscribe(CHANNEL, [b"a"])
    plan.lost("closed", 1.0, 1.0)
    assert ticket.settled
    assert not plan.wants_connection


def test_what_was_to_be_sent_on_the_old_connection_is_not_sent_on_the_new_one() -> None:
    plan = connected(b"a")
    plan.unsubscribe(CHANNEL, [b"a"])
    plan.lost("closed", 1.0, 1.0)
    plan.connect(NEW, confirm=False)
    assert plan.commands() == []


# ---- gaps -------------------------------------------------------------------------------------------------------


def test_a_gap_tells_of_an_interruption() -> None:
    plan = connected(b"a")
    plan.publish(b"a", b"before")
    plan.lost("10.0.0.1:6379 closed the connection", 5.0, 4.0)
    plan.connect(NEW, 6.0)
    plan.publish(b"a", b"after")
    assert plan.received() == [b"before", Gap("10.0.0.1:6379 closed the connection", OLD, NEW, 4.0, 6.0), b"after"]
    assert plan.gaps == 1


def test_it_stands_before_the_first_message_although_not_everything_is_held_yet() -> None:
    plan = connected(b"a", b"b")
    plan.lost("closed", 5.0, 4.0)
    plan.connect(NEW, confirm=False)
    plan.take([b"subscribe", b"a", 1], 6.0)
    plan.publish(b"a", now=7.0)
    plan.take([b"subscribe", b"b", 2], 8.0)
    assert plan.received() == [Gap("closed", OLD, NEW, 4.0, 7.0), b"x"]


def test_an_interruption_with_several_attempts_is_one_gap_with_its_first_cause() -> None:
    plan = connected(b"a", b"b")
    plan.lost("closed", 5.0, 4.0)
    plan.lost("cannot be reached", 6.0, 4.0)
    plan.connect(NEW, 6.5, confirm=False)
    plan.take([b"subscribe", b"a", 1], 7.0)
    plan.lost("closed again", 8.0, 7.0)
    plan.connect(NEW, 9.0)
    assert plan.received() == [Gap("closed", OLD, NEW, 4.0, 9.0)]


def test_two_interruptions_with_a_message_in_between_are_two() -> None:
    plan = connected(b"a", b"b")
    plan.lost("first", 5.0, 4.0)
    plan.connect(NEW, confirm=False)
    plan.take([b"subscribe", b"a", 1], 6.0)
    plan.publish(b"a", now=7.0)
    plan.lost("second", 8.0, 7.0)
    plan.connect(OLD, 9.0)
    assert plan.received() == [Gap("first", OLD, NEW, 4.0, 7.0), b"x", Gap("second", NEW, OLD, 7.0, 9.0)]


def test_no_gap_where_nothing_had_been_held() -> None:
    """Nobody was promised anything yet."""
    plan = Plan()
    plan.want(b"a")
    plan.lost("cannot be reached", 1.0, 0.0)
    plan.connect(confirm=False)
    plan.lost("closed", 2.0, 2.0)
    plan.connect()
    plan.publish(b"a")
    assert plan.received() == [b"x"]


@pytest.mark.parametrize("again", [False, True])
def test_no_gap_for_what_is_not_wanted_any_more(again: bool) -> None:
    plan = connected(b"a")
    plan.lost("closed", 1.0, 1.0)
    plan.unsubscribe(CHANNEL)
    plan.want(b"b")
    if again:
        plan.connect(NEW, confirm=False)
        plan.lost("closed", 2.0, 2.0)
    plan.connect(NEW)
    plan.publish(b"b")
    assert plan.received() == [b"x"]


def test_no_gap_if_it_is_not_wanted_any_more_while_it_is_asked_for() -> None:
    plan = connected(b"a")
    plan.lost("closed", 1.0, 1.0)
    plan.connect(NEW, confirm=False)
    plan.unsubscribe(CHANNEL)
    plan.confirm()
    assert plan.received() == []


# ---- refusals ---------------------------------------------------------------------------------------------------


def test_a_refused_call_has_subscribed_to_nothing_and_the_rest_goes_on() -> None:
    plan = connected(b"a")
    ticket = plan.want(b"b", b"secret")
    plan.take(NOPERM, 0.0)
    assert ticket.error is NOPERM
    assert plan.wanted(CHANNEL) == {b"a": None}
    plan.publish(b"a")
    assert plan.received() == [b"x"]


def test_a_refusal_does_not_undo_what_is_held_or_what_another_call_wants() -> None:
    plan = connected(b"a")
    first, second = plan.want(b"a", b"b"), plan.want(b"b")
    plan.take(NOPERM, 0.0)
    plan.take([b"subscribe", b"b", 2], 0.0)
    assert first.error is NOPERM
    assert second.error is None
    assert set(plan.wanted(CHANNEL)) == plan.held[CHANNEL] == {b"a", b"b"}


def test_a_refusal_that_nobody_waits_for_is_received() -> None:
    plan = connected()
    plan.abandon(plan.want(b"secret"))
    plan.take(NOPERM, 0.0)
    (error,) = plan.received()
    assert isinstance(error, SubscriptionLost)
    assert error.channels == (b"secret",)
    assert "secret" not in str(error)
    assert plan.wanted(CHANNEL) == {}


def test_names_that_a_new_server_refuses_are_found_out_and_given_up() -> None:
    """One command has them all, so that all of them seem refused; the others are held in the end."""
    plan = connected(b"a", b"secret", b"b")
    plan.want(b"p.*", kind=PATTERN)
    plan.confirm()
    plan.lost("closed", 1.0, 1.0)
    plan.connect(NEW, confirm=False)
    plan.commands()
    plan.take(NOPERM, 2.0)
    assert plan.commands() == [("SUBSCRIBE", b"a"), ("SUBSCRIBE", b"secret"), ("SUBSCRIBE", b"b")]
    plan.take(NOPERM, 2.0)  # of the patterns, all one of them
    plan.take([b"subscribe", b"a", 1], 2.0)
    plan.take(NOPERM, 2.0)
    assert plan.received() == []
    plan.take([b"subscribe", b"b", 2], 3.0)
    error, gap = plan.received()
    assert isinstance(error, SubscriptionLost)
    assert (error.channels, error.patterns, error.__cause__) == ((b"secret",), (b"p.*",), NOPERM)
    assert "secret" not in str(error)
    assert gap == Gap("closed", OLD, NEW, 1.0, 3.0)
    assert set(plan.wanted(CHANNEL)) == plan.held[CHANNEL] == {b"a", b"b"}
    assert plan.wanted(PATTERN) == {}


def test_what_a_call_asks_for_meanwhile_is_that_calls_affair() -> None:
    plan = connected(b"a", b"b")
    plan.lost("closed", 1.0, 1.0)
    plan.connect(NEW, confirm=False)
    plan.commands()
    ticket = plan.want(b"a")
    plan.unsubscribe(CHANNEL, [b"b"])
    plan.take(NOPERM, 2.0)
    assert plan.commands() == [("SUBSCRIBE", b"a"), ("UNSUBSCRIBE", b"b")]
    plan.take(NOPERM, 2.0)
    assert ticket.error is NOPERM
    assert plan.wanted(CHANNEL) == {}


def test_refused_names_are_told_though_the_connection_is_lost_in_between() -> None:
    plan = connected(b"a", b"secret")
    plan.lost("closed", 1.0, 1.0)
    plan.connect(NEW, confirm=False)
    plan.take(NOPERM, 2.0)
    plan.take([b"subscribe", b"a", 1], 2.0)
    plan._refused.append((CHANNEL, b"secret", NOPERM))
    plan.lost("closed", 3.0, 3.0)
    assert [type(item) for item in plan.received()] == [SubscriptionLost]


def test_a_refused_unsubscription_is_told_and_its_messages_are_dropped() -> None:
    plan = connected(b"a")
    ticket = plan.unsubscribe(CHANNEL, [b"a"])
    plan.take(NOPERM, 0.0)
    assert ticket.error is NOPERM
    plan.publish(b"a")
    assert plan.received() == []


@pytest.mark.parametrize("text", ["BUSY Redis is busy running a script", "NOAUTH Authentication required."])
def test_a_server_that_cannot_subscribe_now_is_left(text: str) -> None:
    plan = connected()
    ticket = plan.want(b"a")
    with pytest.raises(ServerConnectionError, match="will not subscribe"):
        plan.take(parse_error_reply(text), 0.0)
    plan.lost("left", 0.0, 0.0)
    assert not ticket.settled
    assert set(plan.wanted(CHANNEL)) == {b"a"}


# ---- what no server says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        [],
        [[]],
        [b"message", b"a"],
        [b"message", [], b"x"],
        [b"pmessage", b"a", b"x"],
        [b"subscribe", b"a"],
        [b"subscribe", b"b", 1],
        [b"unsubscribe", b"a", 1],
        [b"punsubscribe", None, 0],
        [b"something", b"a", b"x"],
        [b"pong", b""],
        b"PONG",
        None,
        1,
    ],
)
@pytest.mark.parametrize("asked", [False, True])
def test_what_was_not_asked_for_ends_the_connection(reply: Any, asked: bool) -> None:
    plan = connected(b"a")
    if asked:
        plan.want(b"c")
    with pytest.raises(ProtocolError):
        plan.take(reply, 0.0)


def test_an_error_that_nobody_asked_for_ends_the_connection() -> None:
    with pytest.raises(ServerConnectionError, match=r"unasked: .*max number"):
        connected(b"a").take(parse_error_reply("ERR max number of clients reached"), 0.0)


def test_pushes_of_other_kinds_are_none_of_ours() -> None:
    plan = connected(b"a")
    plan.take(Push([b"invalidate", [b"key"]]), 0.0)
    assert plan.received() == []


# ---- its end ----------------------------------------------------------------------------------------------------


def test_a_failure_is_told_to_each_call_that_waits_and_stays_the_first_one() -> None:
    plan = connected()
    tickets = [plan.want(b"a"), plan.ping()]
    error = ServerConnectionError("first")
    plan.fail(error)
    plan.fail(ServerConnectionError("second"))
    assert plan.error is error
    assert [ticket.error for ticket in tickets] == [error, error]
    assert all(ticket.settled for ticket in tickets)


def test_an_answer_that_comes_after_that_changes_nothing() -> None:
    plan = connected()
    ticket = plan.want(b"a")
    error = ServerConnectionError("first")
    plan.fail(error)
    plan.take([b"subscribe", b"a", 1], 0.0)
    assert ticket.error is error


def test_an_overflow_is_raised_where_the_caller_wants_it() -> None:
    plan = connected(b"a", buffer=1, on_full="raise")
    plan.publish(b"a", b"1")
    with pytest.raises(SubscriberOverflow):
        plan.publish(b"a", b"2")
    assert plan.received() == [b"1"]


def test_reset_forgets_everything_and_owes_no_gap() -> None:
    plan = connected(b"a")
    plan.publish(b"a")
    ticket = plan.ping()
    plan.reset()
    assert ticket.settled
    assert not plan.wants_connection
    plan.lost("reset", 1.0, 1.0)
    plan.want(b"a")
    plan.connect(NEW)
    plan.publish(b"a", b"new")
    assert plan.received() == [b"new"]


def test_names_of_commands_follow_from_the_kind() -> None:
    """What the server calls them; the words of its confirmations are the same in small letters."""
    plan = connected()
    for kind in Kind:
        plan.want(b"a", kind=kind)
        plan.unsubscribe(kind)
    assert [command[0] for command in plan.commands()] == ["SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"]
