"""What is under way on a shared connection: replies in order, what was written of each request, and who reads."""

from __future__ import annotations

import math

import pytest

from trio_sentinel_scan._core.errors import ProtocolError, ServerConnectionError
from trio_sentinel_scan._core.in_flight import InFlight, Request, Written
from trio_sentinel_scan._core.wire import Decoder

LOST = ServerConnectionError("lost")


class Sleeper:
    """A caller that waits."""

    def wake(self) -> None:
        raise NotImplementedError


def in_flight(encoding: str | None = None) -> InFlight:
    return InFlight(Decoder(encoding))


def asked(
    flights: InFlight, data: bytes = b"GET", replies: int = 1, *, since: float = 0.0, send: bool = True
) -> Request:
    """A request, sent unless told otherwise."""
    request = Request(data, replies, decode=True, since=since)
    flights.add(request)
    if send:
        flights.wrote(len(flights.take_unsent()))
    return request


# ---- replies ----------------------------------------------------------------------------------------------------


def test_replies_belong_to_the_requests_in_order() -> None:
    flights = in_flight()
    requests = [asked(flights) for _ in range(3)]
    assert flights.received(b"+a\r\n+b\r\n", 1.0) == requests[:2]
    assert [request.replies for request in requests] == [[b"a"], [b"b"], []]
    assert [request.done for request in requests] == [True, True, False]
    assert list(flights.queue) == requests[2:]


@pytest.mark.parametrize("cut", range(1, 15))
def test_a_reply_may_come_in_pieces(cut: int) -> None:
    flights = in_flight()
    first, second = asked(flights), asked(flights)
    data = b"$5\r\nhello\r\n:7\r\n"
    done = flights.received(data[:cut], 1.0) + flights.received(data[cut:], 1.0)
    assert done == [first, second]
    assert (first.replies, second.replies) == ([b"hello"], [7])


def test_a_batch_is_done_with_its_last_reply() -> None:
    flights = in_flight()
    batch, other = asked(flights, replies=3), asked(flights)
    assert flights.received(b"+OK\r\n-ERR no\r\n", 1.0) == []
    assert flights.received(b":1\r\n+x\r\n", 1.0) == [batch, other]
    assert [str(reply) for reply in batch.replies] == ["b'OK'", "no", "1"]


def test_each_reply_of_a_batch_is_decoded_or_not() -> None:
    flights = in_flight("utf-8")
    batch = Request(b"...", 2, [False, True], 0.0)
    flights.add(batch)
    flights.received(b"+a\r\n+b\r\n", 1.0)
    assert batch.replies == [b"a", "b"]


def test_what_cannot_be_decoded_is_its_own_callers_business() -> None:
    flights = in_flight("utf-8")
    first, second = asked(flights), asked(flights)
    assert flights.received(b"$1\r\n\xff\r\n+b\r\n", 1.0) == [first, second]
    assert isinstance(first.replies[0], UnicodeDecodeError)
    assert second.replies == ["b"]
    assert flights.broken is None


def test_pushes_answer_nobody() -> None:
    flights = in_flight()
    push = b">2\r\n+invalidate\r\n*0\r\n"
    assert flights.received(push, 1.0) == []
    request = asked(flights)
    assert flights.received(push + b"+a\r\n" + push, 1.0) == [request]
    assert request.replies == [b"a"]
    assert flights.broken is None


def test_a_reply_that_nobody_asked_for_is_not_taken_for_the_next_one() -> None:
    """Everything behind it would be shifted by one, and reach the wrong caller."""
    flights = in_flight()
    request = asked(flights)
    assert flights.received(b"+a\r\n-ERR what a server says unasked\r\n", 1.0) == [request]
    assert isinstance(flights.broken, ProtocolError)


def test_those_in_front_of_what_breaks_the_protocol_have_their_replies() -> None:
    """Else they would wait for ever: nobody would wake them."""
    flights = in_flight()
    first, second, third = (asked(flights) for _ in range(3))
    assert flights.received(b"+a\r\n?what\r\n", 1.0) == [first]
    assert flights.broken is not None
    assert flights.fail(flights.broken) == [second, third]
    assert isinstance(second.failure, ProtocolError)
    assert type(third.failure) is ServerConnectionError


def test_an_absurd_length_is_refused_when_a_reply_is_known_to_open() -> None:
    flights = in_flight()
    asked(flights)
    flights.received(b"*999999999\r\n", 1.0)
    assert flights.broken is not None


# ---- what was written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, first, second",
    [
        (0, Written.NOTHING, Written.NOTHING),
        (1, Written.PART, Written.NOTHING),
        (3, Written.ALL, Written.NOTHING),
        (4, Written.ALL, Written.PART),
        (6, Written.ALL, Written.ALL),
    ],
)
def test_how_much_of_each_was_written(size: int, first: Written, second: Written) -> None:
    """A server runs no command that it has only a part of."""
    flights = in_flight()
    requests = [asked(flights, data, send=False) for data in (b"abc", b"def")]
    assert flights.take_unsent() == b"abcdef"
    flights.wrote(size)
    assert [flights.written(request) for request in requests] == [first, second]


def test_what_waits_to_be_sent_was_not_written() -> None:
    flights = in_flight()
    asked(flights)
    waiting = asked(flights, send=False)
    assert flights.written(waiting) is Written.NOTHING


def test_a_request_may_be_given_out_at_once() -> None:
    flights = in_flight()
    asked(flights, b"abc")
    request = Request(b"de", 1, decode=True, since=0.0)
    assert flights.add_given(request) == b"de"
    assert flights.written(request) is Written.NOTHING
    flights.wrote(1)
    assert flights.written(request) is Written.PART
    assert not flights.unsent
    lone = in_flight()
    assert lone.add_given(Request(b"de", 1, decode=True, since=0.0)) == b"de"
    lone.received(b"*999999999\r\n", 1.0)
    assert lone.broken is not None


# ---- callers that go --------------------------------------------------------------------------------------------


def test_the_reply_of_a_caller_that_went_is_dropped_in_order() -> None:
    flights = in_flight()
    gone, batch, stays = asked(flights), asked(flights, replies=2), asked(flights)
    flights.abandon(gone)
    flights.abandon(batch)
    assert flights.received(b"+a\r\n+b\r\n+c\r\n+d\r\n", 1.0) == [stays]
    assert stays.replies == [b"d"]
    assert batch.replies == [None, None]  # nothing of it is kept
    flights.abandon(stays)  # done: there is nothing to be dropped
    assert not stays.abandoned


def test_a_request_that_is_not_on_its_way_yet_is_withdrawn() -> None:
    flights = in_flight()
    first, second, third = (asked(flights, data, send=False) for data in (b"a", b"b", b"c"))
    flights.abandon(second)
    assert flights.take_unsent() == b"ac"
    assert list(flights.queue) == [first, third]


# ---- the end ----------------------------------------------------------------------------------------------------


def test_all_that_is_under_way_is_lost_with_the_connection() -> None:
    flights = in_flight()
    first, second = asked(flights), asked(flights, send=False)
    assert flights.fail(LOST) == [first, second]
    assert [request.failure for request in (first, second)] == [LOST, LOST]
    assert first.done
    assert not flights.queue
    assert flights.fail(LOST) == []


# ---- time -------------------------------------------------------------------------------------------------------


def test_the_server_has_its_time_for_each_reply() -> None:
    """A request behind a slow one is not late for that: its own time begins when the one before it is answered."""
    flights = in_flight()
    assert flights.due(5) == math.inf
    asked(flights, since=10.0)
    asked(flights, since=11.0)
    assert flights.due(5) == 15.0
    flights.received(b"+a\r\n", 14.0)
    assert flights.due(5) == 19.0
    flights.received(b"+b\r\n", 18.0)
    assert flights.due(5) == math.inf
    asked(flights, since=100.0)
    assert flights.due(5) == 105.0


def test_bytes_that_are_no_reply_buy_no_time() -> None:
    """A server that trickles is noticed as well."""
    flights = in_flight()
    asked(flights, since=10.0)
    flights.received(b"$100\r\nabc", 14.0)
    assert flights.due(5) == 15.0


# ---- who reads --------------------------------------------------------------------------------------------------


def test_the_oldest_that_sleeps_reads_next() -> None:
    flights = in_flight()
    requests = [asked(flights) for _ in range(4)]
    assert flights.next_reader() is None
    for request in requests[1:]:
        request.waiter = Sleeper()
    flights.abandon(requests[1])
    assert flights.next_reader() is requests[2]
