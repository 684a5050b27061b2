"""The replies that a scan gets, in every shape, and the standing that a certificate needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis import exceptions as redis_errors

from trio_sentinel_scan._core.errors import ProtocolError
from trio_sentinel_scan._core.identity import Address, Role
from trio_sentinel_scan._core.scan_options import ScanOptions
from trio_sentinel_scan._core.scan_replies import STANDING, ScanEncoder, read_scan_replies, read_standing
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import encode_command

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
        ([b"9999999999999999999", [b"a"]], 10**19 - 1, [b"a"]),
    ],
    ids=repr,
)
def test_a_scan_reply_is_a_cursor_and_keys(reply: object, cursor: int, keys: list[Any]) -> None:
    """In bytes or in text."""
    assert read_scan_replies([reply], ADDRESS) == [(cursor, keys)]


def test_an_error_reply_is_an_outcome() -> None:
    """What it means is for the plan to say."""
    assert read_scan_replies([NOPERM], ADDRESS) == [NOPERM]


def test_a_role_may_stand_between_them() -> None:
    """As bytes or decoded, a master's or a replica's."""
    replies = [[b"master", 5, []], [b"0", []], ["slave", "10.0.0.1", 6379, "sync", 7]]
    assert read_scan_replies(replies, ADDRESS) == [Role("master"), (0, []), Role("slave", link="sync")]


def test_replies_stay_in_their_order() -> None:
    """Which SCAN each one answers is told by that alone."""
    assert read_scan_replies([[b"3", [b"a"]], NOPERM, [b"0", []]], ADDRESS) == [(3, [b"a"]), NOPERM, (0, [])]
    assert read_scan_replies([], ADDRESS) == []


@pytest.mark.parametrize("place", range(3))
def test_one_bad_reply_among_good_ones_is_an_error(place: int) -> None:
    """A server that answers one SCAN with nonsense is not to be trusted with the others."""
    replies: list[Any] = [[b"3", [b"a"]], [b"0", []]]
    replies.insert(place, b"OK")
    with pytest.raises(ProtocolError):
        read_scan_replies(replies, ADDRESS)


@pytest.mark.parametrize(
    "reply",
    [
        *[None, b"OK", 0, [], {}, {b"0": []}, [b"0"], [b"0", []] * 2, [[], b"0"], [b"0", None], [b"0", b"key"]],
        *[[b"-1", []], [b"x", []], [b"18446744073709551616", []], [b"9" * 9999, []], [None, []], [b"0", NOPERM]],
        *[[NOPERM, []], [b"0", {b"key": b"value"}], [b"", []], ["\N{SUPERSCRIPT TWO}", []], [True, []]],
    ],
    ids=lambda reply: f"{reply!r:.40}",
)
def test_what_is_no_scan_reply_is_a_protocol_error(reply: object) -> None:
    """It names the server, and shows nothing of the reply."""
    with pytest.raises(ProtocolError, match=r"10\.0\.0\.1:6379 answered SCAN") as caught:
        read_scan_replies([reply], ADDRESS)
    assert "key" not in str(caught.value).removesuffix("a list of keys")


OPTIONS = ScanOptions(
    match=None,
    count=None,
    type_=None,
    cursor=0,
    on_failover="restart",
    max_restarts=10,
    prefetch=2,
    basis="server",
)


@pytest.mark.parametrize("cursor", [0, 7, 2**64 - 1])
@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize("match", [None, b"", b"a*\r\n"])
@pytest.mark.parametrize("type_", [None, "zset"])
def test_a_scan_is_encoded_as_any_command(cursor: int, count: int, match: bytes | None, type_: str | None) -> None:
    """By a shorter way. A COUNT is always said: the server's own is too small for a scan of everything."""
    words: list[Any] = ["SCAN", cursor]
    words += [] if match is None else ["MATCH", match]
    words += [] if type_ is None else ["TYPE", type_]
    encoder = ScanEncoder(replace(OPTIONS, match=match, type_=type_))
    for _ in range(2):
        assert encoder.encode(cursor, count) == encode_command(*words, "COUNT", count)


def test_an_encoder_does_not_grow_with_the_counts_it_has_seen() -> None:
    """Whatever they are, what it remembers is bounded."""
    encoder = ScanEncoder(OPTIONS)
    for count in range(1, 5000):
        assert encoder.encode(3, count) == encode_command("SCAN", 3, "COUNT", count)
    assert len(encoder._tails) <= 1001


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
