"""Whose doing it is that a callback has raised: the server's, or the caller's."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from trio_sentinel_scan._core.commands import Command
from trio_sentinel_scan._core.errors import ProtocolError
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.results import NONSENSE, At, RedisPysCallbacks, checked_page, unreadable


def scores(reply: Any, **options: Any) -> list[Any]:
    """As redis-py's."""
    return [options.get("score_cast_func", float)(score) for score in reply]


def plain(reply: Any) -> int:
    return int(reply[0])


OURS: dict[str, Callable[..., Any]] = {"ZRANGE": scores, "TIME": plain, "INCRBYFLOAT": float}


def may_not_be(name: str, callback: Any, reply: Any, **options: Any) -> bool:
    """What is said of it once it has raised, which it must."""
    with pytest.raises(NONSENSE):
        callback(reply, **options)
    return RedisPysCallbacks({}, OURS).may_not_be(name, callback, reply, options)


@pytest.mark.parametrize("reply", [7, None, b"", [], {}, [b"x"], [b"9" * 5_000]], ids=lambda reply: repr(reply)[:9])
def test_a_reply_that_redis_pys_callback_trips_over(reply: Any) -> None:
    assert may_not_be("TIME", plain, reply)


def test_what_is_built_in_is_redis_pys_too() -> None:
    assert may_not_be("INCRBYFLOAT", float, b"x")


def test_a_users_callback_is_none_of_the_servers_doing() -> None:
    """Also where it is one that redis-py has for another command."""
    assert not may_not_be("TIME", lambda reply: int(reply[0:]), b"x")
    assert not may_not_be("TIME", float, b"x")
    assert not may_not_be("GET", float, b"x")


def test_a_function_among_the_options_is_the_callers() -> None:
    """Unless the reply is nonsense without it, too."""

    def strict(score: bytes) -> float:
        raise ValueError(score)

    assert not may_not_be("ZRANGE", scores, [b"1"], score_cast_func=strict)
    assert not may_not_be("ZRANGE", scores, [b"1.5"], score_cast_func=int)
    assert not may_not_be("ZRANGE", scores, [b"1.5"], score_cast_func=None)
    assert may_not_be("ZRANGE", scores, 7, score_cast_func=strict)
    assert may_not_be("ZRANGE", scores, [b"x"], score_cast_func=float)
    assert may_not_be("ZRANGE", scores, [b"x"], withscores=True)


@pytest.mark.parametrize("name, callback", [("TIME", plain), ("INCRBYFLOAT", float)])
def test_an_option_that_it_does_not_take_is_the_callers(name: str, callback: Any) -> None:
    assert not may_not_be(name, callback, b"1", nosuch=1)


def test_callbacks_that_are_added() -> None:
    known = RedisPysCallbacks(OURS)
    other = lambda reply: int(reply[1])  # noqa: E731 (so redis-py writes them)
    assert not known.has("JSON.CLEAR", other)
    known.add({"JSON.CLEAR": other, "TIME": other})
    assert known.has("JSON.CLEAR", other)
    assert known.may_not_be("TIME", other, b"xy", {})
    assert not known.has("TIME", plain)
    assert OURS["TIME"] is plain


def test_the_error_names_the_command_and_the_server() -> None:
    where = At(Address("10.0.0.1", 6379)).whereabouts(Command("HGETALL", ("HGETALL", "Qzkeyzq")))
    error = unreadable("HGETALL", where)
    assert isinstance(error, ProtocolError)
    assert str(error).startswith("10.0.0.1:6379 answered HGETALL with what redis-py's callback for it cannot read")
    assert "Qzkeyzq" not in "".join(traceback.format_exception(error))


PAGES: list[Any] = [b"OK", 7, None, [], [b"0"], [b"0", [], []], [b"0", b"ab"], [b"0", None], [b"0", 75], {b"0": []}]


@pytest.mark.parametrize("reply", PAGES, ids=repr)
def test_what_is_no_page(reply: Any) -> None:
    """Of `+OK` redis-py makes the cursor 79 and the keys 75."""
    with pytest.raises(ValueError, match="no page"):
        checked_page(lambda reply, **_: reply)(reply)


@pytest.mark.parametrize("found", [[], [b"a", b"b"], {b"a": b"b"}], ids=repr)
def test_what_is_a_page(found: Any) -> None:
    parse = checked_page(lambda reply, **options: (reply, options))
    assert parse([b"0", found], no_values=True) == ([b"0", found], {"no_values": True})
