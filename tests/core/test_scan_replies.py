"""The replies that a scan gets, in every shape, and the standing that a certificate needs."""

from __future__ import annotations

from typing import Any

import pytest
from redis import exceptions as redis_errors

from trio_sentinel_scan._core.errors import ProtocolError
from trio_sentinel_scan._core.identity import Address, Role
from trio_sentinel_scan._core.scan_replies import STANDING, read_scan_reply, read_standing
from trio_sentinel_scan._core.scan_steps import Refused, Replied
from trio_sentinel_scan._core.verdicts import parse_error_reply

ADDRESS = Address("10.0.0.1", 6379)
MASTER = Role("master", frozenset({Address("10.0.0.2", 6379)}))
ROLE = [b"master", 1, [[b"10.0.0.2", b"6379", b"1"]]]
INFO = b"# Server\r\nrun_id:abc\r\n"
NOPERM = parse_error_reply("NOPERM no")


@pytest.mark.parametrize(
    "reply, cursor, keys",
    [
        ([b"0", []], 0, []),
        ([b"17", [b"a", b""]], 17, [b"a", b""]),
        (["17", ["a"]], 17, ["a"]),
        ([17, []], 17, []),
        ([b"18446744073709551615", [b"a"]], 2**64 - 1, [b"a"]),
    ],
    ids=repr,
)
def test_a_scan_reply_is_a_cursor_and_keys(reply: object, cursor: int, keys: list[Any]) -> None:
    """In bytes or in text."""
    assert read_scan_reply(reply, ADDRESS) == Replied(cursor, keys)


def test_an_error_reply_is_an_outcome() -> None:
    """What it means is for the plan to say."""
    outcome = read_scan_reply(NOPERM, ADDRESS)
    assert isinstance(outcome, Refused)
    assert outcome.error is NOPERM


@pytest.mark.parametrize(
    "reply",
    [
        *[None, b"OK", 0, [], {}, {b"0": []}, [b"0"], [b"0", []] * 2, [[], b"0"], [b"0", None], [b"0", b"key"]],
        *[[b"-1", []], [b"x", []], [b"18446744073709551616", []], [b"9" * 9999, []], [None, []], [b"0", NOPERM]],
        *[[NOPERM, []], [b"0", {b"key": b"value"}], [b"", []], [b"0", [7]], [b"0", [None]], [b"0", [[b"key"]]]],
    ],
    ids=lambda reply: f"{reply!r:.40}",
)
def test_what_is_no_scan_reply_is_a_protocol_error(reply: object) -> None:
    """It names the server, and shows nothing of the reply."""
    with pytest.raises(ProtocolError, match=r"10\.0\.0\.1:6379 answered SCAN") as caught:
        read_scan_reply(reply, ADDRESS)
    assert "key" not in str(caught.value).removesuffix("a list of keys")


def test_the_standing_is_asked_in_one_round_trip() -> None:
    """Role and process, and HELLO for those who may not ask ROLE."""
    assert STANDING == (("ROLE",), ("INFO", "server"), ("HELLO",))


@pytest.mark.parametrize(
    "replies, standing",
    [
        ([ROLE, INFO, {b"role": b"master"}], ("abc", MASTER)),
        ([["master", 1, [["10.0.0.2", "6379", "1"]]], INFO.decode(), {"role": "master"}], ("abc", MASTER)),
        ([ROLE, NOPERM, NOPERM], (None, MASTER)),
        ([[b"slave", b"h", 1, b"connected", 0], INFO, {}], ("abc", Role("slave", link="connected"))),
        ([NOPERM, INFO, {b"role": b"replica"}], ("abc", Role("slave"))),
        ([NOPERM, INFO, [b"proto", 2, b"role", b"replica"]], ("abc", Role("slave"))),
        ([NOPERM, INFO, ["proto", 2, "role", "master"]], ("abc", Role("master"))),
        # Nothing is told: the role is taken to be what it was.
        ([NOPERM, INFO, NOPERM], ("abc", Role("master"))),
        ([NOPERM, NOPERM, {b"proto": 3}], (None, Role("master"))),
    ],
    ids=range(9),
)
def test_the_standing_is_the_process_and_its_role_now(replies: list[Any], standing: tuple[str | None, Role]) -> None:
    """As far as the server tells, in RESP2 and RESP3, decoded or not."""
    assert read_standing(replies, MASTER) == standing


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("reply", ["BUSY Redis is busy running a script", "LOADING Redis is loading"])
def test_a_server_that_cannot_tell_now_is_asked_again(reply: str, place: int) -> None:
    """That it is busy proves neither that it is the master nor that it is not."""
    replies: list[Any] = [ROLE, INFO, {b"role": b"master"}]
    replies[place] = parse_error_reply(reply)
    assert read_standing(replies, MASTER) == f"the server answers {reply.partition(' ')[0]}"


def test_only_a_wait_on_role_or_info_puts_the_standing_off() -> None:
    """HELLO's answer is a makeshift: without it there is still ROLE's."""
    busy = parse_error_reply("BUSY Redis is busy running a script")
    assert read_standing([ROLE, INFO, busy], MASTER) == ("abc", MASTER)
    assert isinstance(busy, redis_errors.RedisError)
