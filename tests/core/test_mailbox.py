"""The buffer of a subscriber: order, bound, and what gives way."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_sentinel_scan import Address, ConfigError, Gap, Message, ServerIdentity, SubscriberOverflow
from trio_sentinel_scan._core.mailbox import Handled, Item, Mailbox
from trio_sentinel_scan._core.messages import Confirmation, OnFull, SubscriberOptions, checked_subscriber_options

SERVER = ServerIdentity("a" * 40, Address("10.0.0.1", 6379))
GAP = Gap("the connection was lost", SERVER, SERVER, 1.0, 2.0)
CONFIRMED = Confirmation("subscribe", b"c", 1)


def message(number: int) -> list[Any]:
    return [b"message", b"c", b"%d" % number]


def put(mailbox: Mailbox, *numbers: int) -> None:
    for number in numbers:
        mailbox.put_message(message(number), None, float(number), SERVER)


def drain(mailbox: Mailbox) -> list[Item | int]:
    """Everything, with numbers in place of messages."""
    found: list[Item | int] = []
    while len(mailbox):
        item = mailbox.take()
        found.append(int(item[2]) if isinstance(item, list) else item)
    return found


def dropped(first: int, last: int, number: int, on_full: str) -> Gap:
    return Gap(f'the buffer was full (on_full="{on_full}")', SERVER, SERVER, first, last, number)


def test_items_come_out_as_they_came_in() -> None:
    mailbox = Mailbox(10, "block")
    put(mailbox, 1)
    mailbox.put(CONFIRMED)
    put(mailbox, 2)
    mailbox.put(GAP)
    handled = Handled(message(3), print)
    mailbox.put_message(handled.reply, handled.handler, 3.0)
    assert drain(mailbox) == [1, CONFIRMED, 2, GAP, handled]
    assert len(mailbox) == 0


def test_block_says_when_to_stop_and_when_to_go_on() -> None:
    """It goes on only at half: not back and forth for each message."""
    mailbox = Mailbox(4, "block")
    put(mailbox, 1, 2, 3)
    assert not mailbox.must_wait
    put(mailbox, 4)
    assert mailbox.must_wait
    mailbox.take()
    assert not mailbox.has_room_again
    mailbox.take()
    assert mailbox.has_room_again


def test_block_drops_nothing_when_reading_has_to_go_on() -> None:
    mailbox = Mailbox(1, "block")
    put(mailbox, 1, 2, 3)
    assert drain(mailbox) == [1, 2, 3]


@pytest.mark.parametrize("on_full", ["drop_oldest", "drop_newest", "raise"])
def test_only_block_makes_the_reader_wait(on_full: OnFull) -> None:
    mailbox = Mailbox(1, on_full)
    put(mailbox, 1)
    assert not mailbox.must_wait


def test_the_oldest_give_way_and_are_counted_where_they_were() -> None:
    mailbox = Mailbox(2, "drop_oldest")
    put(mailbox, 1, 2, 3, 4)
    assert drain(mailbox) == [dropped(3, 4, 2, "drop_oldest"), 3, 4]


def test_the_newest_give_way_and_are_counted_where_they_would_be() -> None:
    mailbox = Mailbox(2, "drop_newest")
    put(mailbox, 1, 2, 3, 4)
    mailbox.take()
    put(mailbox, 5, 6)
    assert drain(mailbox) == [2, dropped(3, 4, 2, "drop_newest"), 5, dropped(6, 6, 1, "drop_newest")]


def test_only_messages_give_way_and_a_gap_keeps_its_place() -> None:
    mailbox = Mailbox(2, "drop_oldest")
    put(mailbox, 1)
    mailbox.put(GAP)
    put(mailbox, 2, 3, 4, 5)
    assert drain(mailbox) == [dropped(3, 3, 1, "drop_oldest"), GAP, dropped(4, 5, 2, "drop_oldest"), 4, 5]


def test_raise_keeps_what_was_there() -> None:
    mailbox = Mailbox(2, "raise")
    put(mailbox, 1, 2)
    with pytest.raises(SubscriberOverflow, match=r"^2 messages were waiting"):
        put(mailbox, 3)
    assert drain(mailbox) == [1, 2]


def test_the_bound_is_on_messages_alone() -> None:
    """A subscription to many channels, confirmed before anybody receives, drops no message."""
    mailbox = Mailbox(2, "drop_newest")
    for _ in range(10):
        mailbox.put(CONFIRMED)
    put(mailbox, 1, 2)
    assert [item for item in drain(mailbox) if item != CONFIRMED] == [1, 2]


def test_clear_forgets_everything() -> None:
    mailbox = Mailbox(1, "drop_oldest")
    put(mailbox, 1, 2)
    mailbox.clear()
    assert len(mailbox) == 0
    put(mailbox, 3)
    assert drain(mailbox) == [3]


@given(
    st.integers(1, 4),
    st.sampled_from(["drop_oldest", "drop_newest"]),
    st.lists(st.sampled_from(["message", "gap", "take"])),
)
def test_nothing_is_lost_uncounted(size: int, on_full: OnFull, steps: list[str]) -> None:
    """Messages handed out and messages counted as dropped are all that there were; each gap is handed out, in order."""
    mailbox = Mailbox(size, on_full)
    taken: list[Item] = []
    sent, gaps = 0, deque[float]()
    for step in steps:
        match step:
            case "message":
                sent += 1
                put(mailbox, sent)
            case "gap":
                gaps.append(sent)
                mailbox.put(Gap("lost", SERVER, SERVER, sent, sent))
            case _ if len(mailbox):
                taken.append(mailbox.take())
        assert sum(isinstance(item, list) for item in mailbox._items) == mailbox._messages <= size
    while len(mailbox):
        taken.append(mailbox.take())
    accounted = 0
    for item in taken:
        if isinstance(item, list):
            accounted += 1
            assert item == message(accounted)
        elif isinstance(item, Gap) and item.dropped:
            assert item.began <= item.ended
            if on_full == "drop_newest":
                assert (item.began, item.ended) == (accounted + 1, accounted + item.dropped)
            accounted += item.dropped
        else:
            assert isinstance(item, Gap)
            assert item.began == accounted == gaps.popleft()
    assert accounted == sent
    assert not gaps


# ---- arguments and reprs -----------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "ignore_subscribe_messages": False,
    "buffer": 10,
    "on_full": "block",
    "health_check_interval": None,
}


def test_arguments_are_taken() -> None:
    assert checked_subscriber_options(**OPTIONS) == SubscriberOptions(False, 10, "block", float("inf"))
    assert checked_subscriber_options(**OPTIONS | {"health_check_interval": 3}).health_check_interval == 3.0


@pytest.mark.parametrize(
    "argument, value",
    [
        ("buffer", 0),
        ("buffer", True),
        ("buffer", 1.5),
        ("on_full", "drop"),
        ("health_check_interval", 0),
        ("health_check_interval", "5"),
    ],
)
def test_arguments_that_cannot_be(argument: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_subscriber_options(**OPTIONS | {argument: value})
    assert caught.value.argument == argument


def test_a_message_does_not_show_what_is_in_it() -> None:
    shown = repr(Message("pmessage", b"secret:1", b"secret:*", b"secret"))
    assert "secret" not in shown
    assert "pmessage" in shown
