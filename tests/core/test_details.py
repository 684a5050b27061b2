"""Details of keys: the argument, what is asked, what comes of it, and the pages that wait for it."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import InvalidResponse

from tests.core._scan_model import (
    A,
    keys_named,
    questions_in,
    scan_options,
)
from trio_sentinel_scan._core import details as details_module
from trio_sentinel_scan._core.details import KeyDetails, WaitingRoom, checked_details
from trio_sentinel_scan._core.errors import ConfigError
from trio_sentinel_scan._core.identity import Role, ServerIdentity
from trio_sentinel_scan._core.scan_replies import read_scan_replies
from trio_sentinel_scan._core.summary import ScanPage
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import encode_command

KEYS = keys_named(60)
ALL = KeyDetails._fields
SERVER = ServerIdentity("a" * 40, A)
LOADING = parse_error_reply("LOADING Redis is loading")
NO_LFU = parse_error_reply("ERR An LFU maxmemory policy is not selected, access frequency not tracked.")
NOPERM = parse_error_reply("NOPERM No permissions to access a key")


def a_room(*names: str, encoding: str = "utf-8", errors: str = "strict") -> WaitingRoom:
    wanted = checked_details(names, encoding=encoding, encoding_errors=errors, decodes=False)
    assert wanted is not None
    return WaitingRoom(wanted)


def a_page(*keys: Any) -> ScanPage[Any]:
    return ScanPage(list(keys), 0, SERVER, None)


def ask(room: WaitingRoom) -> list[tuple[str, bytes]]:
    """Send what is to be asked."""
    questions = room.questions()
    assert questions is not None
    room.sent()
    found = questions_in(questions.data)
    assert len(found) == questions.replies
    return found


def details_of(pages: list[ScanPage[Any]]) -> list[dict[Any, KeyDetails]]:
    return [dict(page.details) for page in pages]


# ---- the argument ----------------------------------------------------------------------------------------------


def test_names_are_taken_in_the_order_of_the_details() -> None:
    """From anything that has them in it."""
    for value in (["freq", "type"], ("type", "freq"), {"freq", "type"}, iter(["type", "freq"])):
        wanted = scan_options(with_=value).with_
        assert wanted is not None
        assert wanted.names == ("type", "freq")
    nothings: list[Any] = [(), [], iter(())]
    for nothing in nothings:
        assert scan_options(with_=nothing).with_ is None


@pytest.mark.parametrize(
    "value",
    ["type", "", b"type", None, 1, True, ["types"], ["TYPE"], [b"type"], [1], [None], [["type"]], ["type", "type"]],
    ids=repr,
)
def test_a_bad_name_is_refused(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        scan_options(with_=value)
    assert caught.value.argument == "with_"


@pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace"])
def test_keys_that_cannot_be_written_back_cannot_be_asked_about(errors: str) -> None:
    """Another key would be asked about. Without decoding there is nothing to write back."""
    with pytest.raises(ConfigError, match="no way back") as caught:
        scan_options(with_=["ttl"], encoding_errors=errors, decodes=True)
    assert caught.value.argument == "with_"
    assert scan_options(with_=["ttl"], encoding_errors=errors).with_ is not None
    assert scan_options(encoding_errors=errors, decodes=True).with_ is None


@pytest.mark.parametrize("size, bound", [(None, 1000), (10, 10), (1000, 1000), (5000, 1000)])
def test_pages_with_details_are_bounded(size: int | None, bound: int) -> None:
    assert scan_options(with_=["ttl"], page_size=size).page_size == bound
    assert scan_options(page_size=size).page_size == size


# ---- what is asked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"", b"k", b"\r\n*", b"x" * 1000])
def test_questions_are_encoded_as_any_command(key: bytes) -> None:
    """By a shorter way."""
    room = a_room(*ALL)
    room.add([a_page(key, b"other")])
    questions = room.questions()
    assert questions is not None
    assert questions.replies == 10
    commands = [("TYPE",), ("TTL",), ("MEMORY", "USAGE"), ("OBJECT", "IDLETIME"), ("OBJECT", "FREQ")]
    assert questions.data == b"".join(encode_command(*words, name) for name in (key, b"other") for words in commands)


@pytest.mark.parametrize("encoding, errors", [("utf-8", "strict"), ("latin-1", "strict"), ("utf-8", "surrogateescape")])
def test_keys_that_are_text_are_asked_about_by_their_bytes(encoding: str, errors: str) -> None:
    data = b"\xff" if errors == "surrogateescape" else "größe".encode(encoding)
    room = a_room("type", encoding=encoding, errors=errors)
    key = data.decode(encoding, errors)
    room.add([a_page(key)])
    assert ask(room) == [("type", data)]
    room.received(["string"])
    assert details_of(room.take_ready()) == [{key: KeyDetails("string")}]


def test_what_is_looked_at_is_not_sent() -> None:
    room = a_room("ttl")
    assert room.questions() is None
    room.add([a_page(b"a")])
    assert room.questions() == room.questions()
    assert ask(room) == [("ttl", b"a")]
    assert room.questions() is None


def test_not_too_many_keys_are_asked_about_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is not divided, and one that is too large by itself goes by itself."""
    monkeypatch.setattr(details_module, "MOST_KEYS", 3)
    room = a_room("ttl")
    room.add([a_page(b"a", b"b"), a_page(b"c"), a_page(b"d"), a_page(b"e", b"f", b"g", b"h"), a_page(b"i")])
    found = []
    while room.questions() is not None:
        found.append(b"".join(key for _, key in ask(room)))
    assert found == [b"abc", b"d", b"efgh", b"i"]


# ---- what comes of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [True, False])
def test_details_are_typed(text: bool) -> None:
    """A type is text, whether or not the client decodes."""
    room = a_room(*ALL)
    room.add([a_page(b"a", b"b")])
    ask(room)
    hash_: Any = "hash" if text else b"hash"
    none: Any = "none" if text else b"none"
    replies: list[Any] = [hash_, 60, 1000, 5, 9, none, -2, None, None, None]
    assert room.received(replies) == (1, None)
    (page,) = room.take_ready()
    assert page.details == {b"a": KeyDetails("hash", 60, 1000, 5, 9), b"b": KeyDetails("none", -2)}
    assert room.is_empty


def test_replies_come_in_any_pieces_and_pages_leave_in_order() -> None:
    room = a_room("type", "ttl")
    room.add([a_page(b"a", b"b"), a_page(b"c")])
    ask(room)
    room.add([a_page(b"d")])
    ask(room)
    replies: list[Any] = [b"string", 1, b"list", 2, b"set", 3, b"zset", 4]
    left = []
    for reply in replies:
        room.received([reply])
        left.append([list(page.details) for page in room.take_ready()])
    assert left == [[], [], [], [[b"a", b"b"]], [], [[b"c"]], [], [[b"d"]]]


@pytest.mark.parametrize("error", [NOPERM, NO_LFU, parse_error_reply("MOVED 1 10.0.0.2:6379")])
def test_what_is_not_said_is_none(error: Any) -> None:
    room = a_room("ttl", "freq")
    room.add([a_page(b"a", b"b")])
    ask(room)
    assert room.received([1, error, error, 3]) == (1, None)
    assert details_of(room.take_ready()) == [{b"a": KeyDetails(ttl=1), b"b": KeyDetails(freq=3)}]


def test_what_has_nothing_to_do_with_the_key_is_not_asked_again() -> None:
    """Each refusal counts in the server's own statistics. What was asked by then is answered."""
    room = a_room("ttl", "freq")
    for page in (a_page(b"a"), a_page(b"b")):
        room.add([page])
        ask(room)
    room.received([1, NO_LFU])
    room.add([a_page(b"c")])
    assert ask(room) == [("ttl", b"c")]
    room.received([2, NO_LFU, 3])
    assert [details.ttl for page in room.take_ready() for details in page.details.values()] == [1, 2, 3]


def test_what_may_be_another_thing_for_the_next_key_is() -> None:
    room = a_room("ttl")
    room.add([a_page(b"a")])
    ask(room)
    room.received([NOPERM])
    room.add([a_page(b"b")])
    assert ask(room) == [("ttl", b"b")]


def test_when_nothing_is_left_to_ask_pages_leave_as_they_are() -> None:
    """Behind those that were asked about."""
    room = a_room("freq")
    for page in (a_page(b"a"), a_page(b"b")):
        room.add([page])
        ask(room)
    room.add([a_page(b"c")])
    room.received([NO_LFU])
    assert [page.keys for page in room.take_ready()] == [[b"a"]]
    assert room.questions() is None
    room.received([NO_LFU])
    room.add([a_page(b"d")])
    pages = room.take_ready()
    assert [page.keys for page in pages] == [[b"b"], [b"c"], [b"d"]]
    assert details_of(pages)[-1] == {b"d": KeyDetails()}
    assert room.is_empty


@pytest.mark.parametrize("reply", [(0, []), Role("master"), b"string", "7"], ids=repr)
def test_what_cannot_be_the_answer_is_nonsense(reply: Any) -> None:
    """One reply too many or too few would give every key another's details."""
    room = a_room("ttl")
    room.add([a_page(b"a")])
    ask(room)
    told, error = room.received([reply])
    assert told == 0
    assert isinstance(error, InvalidResponse)
    assert room.take_ready() == []


def test_a_request_for_patience_is_heeded_by_asking_again() -> None:
    """About that page. Those behind it, whose details have come, wait for it."""
    room = a_room("type", "ttl")
    room.add([a_page(b"a"), a_page(b"b"), a_page(b"c")])
    ask(room)
    assert room.received([b"string", LOADING, b"list", 2, LOADING, LOADING]) == (1, LOADING)
    assert room.take_ready() == []
    assert ask(room) == [("type", b"a"), ("ttl", b"a"), ("type", b"c"), ("ttl", b"c")]
    assert room.received([b"string", 1, b"set", 3]) == (2, None)
    assert [page.details[page.keys[0]].ttl for page in room.take_ready()] == [1, 2, 3]


@pytest.mark.parametrize("code", ["MASTERDOWN", "NOAUTH", "READONLY", "ERR max number of clients"])
def test_an_error_that_ends_the_connection_leaves_the_page_to_the_next_one(code: str) -> None:
    room = a_room("ttl")
    room.add([a_page(b"a"), a_page(b"b"), a_page(b"c")])
    ask(room)
    error = parse_error_reply(code)
    assert room.received([LOADING, error, 3]) == (0, error)
    room.connection_lost()
    assert ask(room) == [("ttl", b"a"), ("ttl", b"b"), ("ttl", b"c")]


def test_a_lost_connection_leaves_what_was_told() -> None:
    """What came in part is asked again as a whole."""
    room = a_room("type", "ttl")
    room.add([a_page(b"a"), a_page(b"b"), a_page(b"c")])
    ask(room)
    room.received([b"string", 1, b"list"])
    room.connection_lost()
    assert [page.keys for page in room.take_ready()] == [[b"a"]]
    assert [key for name, key in ask(room) if name == "ttl"] == [b"b", b"c"]


def test_a_room_is_full_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details_module, "MOST_WAITING", 3)
    room = a_room("ttl")
    room.add([a_page(b"a", b"b")])
    assert not room.is_full
    room.add([a_page(b"c")])
    assert room.is_full
    ask(room)
    room.received([1, 2])
    room.take_ready()
    assert not room.is_full


def test_a_page_of_some_of_its_keys_has_the_details_of_these() -> None:
    page = ScanPage([b"a", b"b"], 0, SERVER, None, None, {b"a": KeyDetails(ttl=1), b"b": KeyDetails(ttl=2)})
    assert page.only([b"b"]).details == {b"b": KeyDetails(ttl=2)}
    assert a_page(b"a", b"b").only([b"b"]).details == {}


@pytest.mark.parametrize("reply", [b"string", "string", 5, None], ids=repr)
def test_a_bare_reply_is_nonsense_where_nothing_was_asked_about_keys(reply: Any) -> None:
    assert read_scan_replies([reply, [b"0", []]], A, details=True) == [reply, (0, [])]
    with pytest.raises(Exception, match="answered SCAN"):
        read_scan_replies([reply], A)
