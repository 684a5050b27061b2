"""RESP in and out: whole replies however they are cut, and a protocol error for whatever is none."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from redis import exceptions as redis_errors

from tests.core._resp import Error, SetOf, Simple, decoded, encode
from trio_sentinel_scan._core import wire
from trio_sentinel_scan._core.errors import ProtocolError
from trio_sentinel_scan._core.verdicts import error_code
from trio_sentinel_scan._core.wire import NOT_YET, Argument, Decoder, Push, encode_command, encode_commands


def plain(reply: Any) -> Any:
    """A reply with its errors as pairs, so that replies can be compared."""
    match reply:
        case redis_errors.RedisError():
            # redis-py cuts off the codes that it knows.
            return ("error", f"{error_code(reply)} {str(reply).removeprefix(error_code(reply)).lstrip()}")
        case list():
            return [plain(item) for item in reply]
        case dict():
            return {name: plain(item) for name, item in reply.items()}
        case _:
            return reply


def read_all(data: bytes, *, size: int | None = None, opening: bool = True) -> list[Any]:
    """Every whole reply in `data`, fed in pieces of `size` bytes, as a connection would."""
    decoder = Decoder()
    found = []
    size = size or len(data) or 1
    for start in range(0, len(data), size):
        decoder.feed(data[start : start + size], opening=opening and start == 0)
        while (reply := decoder.next_reply()) is not NOT_YET:
            found.append(reply)
    return found


# ---- honest replies --------------------------------------------------------------------------------------------

SCAN_PAGE = [b"17179869184", [b"", b"user:1", b"\r\n", b"\xff\x00", b"$5\r\nhello\r\n"]]
HELLO = {b"server": b"valkey", b"proto": 3, b"modules": [], b"role": b"master"}
REPLIES = [
    SCAN_PAGE,
    [b"0", []],
    HELLO,
    [None, True, 1.5, -1, Simple(b"OK"), [], {}, SetOf((b"a", 1))],
    [b"1", Error("NOPERM no"), [Error("WRONGTYPE bad"), b"2"]],
    Error("LOADING Redis is loading the dataset in memory"),
    Simple(b""),
    b"",
]


@pytest.mark.parametrize("resp3", [False, True], ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("value", REPLIES, ids=range(len(REPLIES)))
def test_a_reply_is_whole_or_not_yet_wherever_it_is_cut(value: Any, resp3: bool) -> None:
    """Every prefix is NOT_YET, never a shorter reply; with the rest it is the reply, and what follows is untouched."""
    data = encode(value, resp3=resp3)
    for cut in range(len(data)):
        decoder = Decoder()
        if cut:
            decoder.feed(data[:cut], opening=True)
            assert decoder.next_reply() is NOT_YET
        decoder.feed(data[cut:] + b":7\r\n", opening=cut == 0)
        assert plain(decoder.next_reply()) == decoded(value, resp3=resp3)
        assert decoder.next_reply() == 7
        assert decoder.next_reply() is NOT_YET


SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=40),
    st.builds(Simple, st.binary(max_size=40).map(lambda text: text.replace(b"\r", b"").replace(b"\n", b""))),
    st.builds(Error, st.sampled_from(["ERR no", "NOPERM not you", "LOADING soon", "WRONGTYPE a list", "BUSY script"])),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.builds(SetOf, st.lists(inner, max_size=4).map(tuple)),
        st.dictionaries(st.binary(max_size=8), inner, max_size=4),
    ),
    max_leaves=40,
)


@settings(max_examples=150)
@given(st.lists(VALUES, min_size=1, max_size=5), st.booleans(), st.integers(1, 64))
def test_any_replies_come_out_as_a_plain_encoder_put_them_in(values: list[Any], resp3: bool, size: int) -> None:
    """However deep, however many, in reads of whatever size: the bounds refuse nothing that is honest."""
    data = b"".join(encode(value, resp3=resp3) for value in values)
    assert [plain(reply) for reply in read_all(data, size=size)] == [decoded(value, resp3=resp3) for value in values]


@pytest.mark.parametrize(
    "data, count",
    [
        (b"*200\r\n" + b"*0\r\n" * 200, 1),
        (b"*100\r\n" + b"*-1\r\n" * 100, 1),
        (b"*100\r\n" + b"*1\r\n:1\r\n" * 100, 1),
        (b"*2\r\n$1\r\n0\r\n*0\r\n" * 100, 100),
        (b"%0\r\n" * 100, 100),
        (b"%70\r\n" + b"+a\r\n%1\r\n+b\r\n+c\r\n" * 70, 1),
        ((b"*1\r\n" * 40 + b"*0\r\n") * 3, 3),
    ],
    ids=[
        "empty lists",
        "null lists",
        "short lists",
        "empty SCANs",
        "empty maps",
        "maps in a map",
        "one after the other",
    ],
)
def test_replies_beside_each_other_are_not_taken_for_nested_ones(data: bytes, count: int) -> None:
    """A hundred empty lists are wide, not deep; so are a hundred pipelined replies."""
    assert len(read_all(data)) == count
    assert len(read_all(data, size=1)) == count


def test_an_error_inside_a_reply_is_an_item_of_it() -> None:
    """Error replies are returned, not raised, wherever they stand."""
    (reply,) = read_all(b"*2\r\n:1\r\n*1\r\n-NOPERM no\r\n")
    assert reply[0] == 1
    assert isinstance(reply[1][0], redis_errors.NoPermissionError)


def test_an_error_that_is_not_utf8_is_still_an_error_reply() -> None:
    """Servers repeat a command's bytes in some errors."""
    (reply,) = read_all(b"-ERR bad \xff\xfe\r\n")
    assert isinstance(reply, redis_errors.ResponseError)


def test_pushes_can_be_told_from_replies() -> None:
    """A push may come in any place between two replies."""
    push, reply = read_all(b">3\r\n+message\r\n+channel\r\n+text\r\n*1\r\n+OK\r\n")
    assert isinstance(push, Push)
    assert not isinstance(reply, Push)


def test_strings_are_decoded_where_that_is_asked_for() -> None:
    """With an encoding strings become str, but not those of a reply that asks for bytes."""
    decoder = Decoder("utf-8")
    decoder.feed("*2\r\n$2\r\nü\r\n+OK\r\n$2\r\nü\r\n".encode())
    assert decoder.next_reply() == ["ü", "OK"]
    assert decoder.next_reply(decode=False) == "ü".encode()


@pytest.mark.parametrize("errors, expected", [("replace", "\ufffd"), ("surrogateescape", "\udcff")])
def test_what_does_not_fit_the_encoding_follows_the_error_handler(errors: str, expected: str) -> None:
    """The handler is Python's, by its name."""
    decoder = Decoder("utf-8", errors)
    decoder.feed(b"$1\r\n\xff\r\n")
    assert decoder.next_reply() == expected


def test_what_does_not_fit_the_encoding_at_all_is_a_decode_error() -> None:
    """It is no breach of the protocol: the key is there, and only the client's encoding is wrong for it."""
    decoder = Decoder("utf-8")
    decoder.feed(b"$1\r\n\xff\r\n")
    with pytest.raises(UnicodeDecodeError):
        decoder.next_reply()


def test_where_a_reply_begins_is_known() -> None:
    decoder = Decoder()
    assert decoder.is_between_replies
    decoder.feed(b"+OK\r\n+A")
    assert [decoder.next_reply(), decoder.next_reply()] == [b"OK", NOT_YET]
    assert not decoder.is_between_replies
    decoder.feed(b"\r\n")
    assert decoder.next_reply() == b"A"
    assert decoder.is_between_replies


def test_not_yet_is_no_reply() -> None:
    """None, False and 0 are replies; NOT_YET says what it is."""
    assert read_all(b"_\r\n#f\r\n:0\r\n$-1\r\n") == [None, False, 0, None]
    assert repr(NOT_YET) == "NOT_YET"


# ---- dishonest ones --------------------------------------------------------------------------------------------

ABSURD = [
    b"*%d\r\n" % (wire.MAX_ELEMENTS + 1),
    b"%%%d\r\n" % (wire.MAX_ELEMENTS + 1),
    b"~%d\r\n" % (wire.MAX_ELEMENTS + 1),
    b">%d\r\n" % (wire.MAX_ELEMENTS + 1),
    b"|%d\r\n" % (wire.MAX_ELEMENTS + 1),
    b"*9223372036854775807\r\n",
    b"$%d\r\n" % (wire.MAX_BULK + 1),
    b"=%d\r\n" % (wire.MAX_BULK + 1),
    b"*2\r\n$1\r\n0\r\n*%d\r\n" % (wire.MAX_ELEMENTS + 1),
    b"*2\r\n$1\r\n0\r\n*1\r\n$%d\r\n" % (wire.MAX_BULK + 1),
    b"*1\r\n" * (wire.MAX_DEPTH + 1),
    b"*2\r\n*0\r\n" * (wire.MAX_DEPTH // 2) + b"~1\r\n" * (wire.MAX_DEPTH // 2) + b"*1\r\n",
]


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("data", ABSURD, ids=[repr(data[:24]) for data in ABSURD])
def test_absurd_lengths_are_refused_before_anything_is_allocated(data: bytes, size: int | None) -> None:
    """In one read or byte by byte: the header that announces it is a protocol error."""
    with pytest.raises(ProtocolError, match=r"announces|nests deeper"):
        read_all(data, size=size)


def test_lengths_at_the_bounds_are_believed() -> None:
    """The bounds are the server's own and the keyspace's: what lies within them may be honest."""
    assert read_all(b"$%d\r\n" % wire.MAX_BULK) == []
    assert read_all(b"*1\r\n" * wire.MAX_DEPTH) == []
    wire.check_opening(b"*%d\r\n" % wire.MAX_ELEMENTS)


BROKEN = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b"*-2\r\n",
    b"$-2\r\n",
    b"*?\r\n",
    b"$?\r\n",
    b"*x\r\n",
    b":one\r\n",
    b"#x\r\n",
    b",x\r\n",
    b"*+1\r\n",
    b"*01\r\n:1\r\n",
    b"*99999999999999999999\r\n",
    b"%-3\r\n",
    b"%1\r\n*1\r\n:1\r\n:2\r\n",
    b"%1\r\n%0\r\n:2\r\n",
]


@pytest.mark.parametrize("opening", [True, False])
@pytest.mark.parametrize("data", BROKEN, ids=[repr(data[:24]) for data in BROKEN])
def test_what_is_not_resp_is_a_protocol_error(data: bytes, opening: bool) -> None:
    """Also a map with a key that Python cannot have; no other exception gets out."""
    with pytest.raises(ProtocolError):
        read_all(data, opening=opening)


@pytest.mark.parametrize("text", ["MOVED", "MOVED 1 nowhere", "ASK one two three"])
def test_a_redirection_that_leads_nowhere_is_an_error_reply_like_any_other(text: str) -> None:
    """redis-py has exceptions of its own for redirections, which cannot be made of it; a script may answer so."""
    (reply, after) = read_all(b"*1\r\n-%b\r\n:1\r\n" % text.encode())
    assert type(reply[0]) is redis_errors.ResponseError
    assert str(reply[0]) == text
    assert after == 1


def test_nesting_that_hides_from_the_opening_harms_nothing() -> None:
    """hiredis refuses it, or (before 3.5) takes it without recursion; Python gets through it either way."""
    with contextlib.suppress(ProtocolError):
        (reply,) = read_all(b"*2\r\n:1\r\n" * 20_000 + b":1\r\n", opening=False)
        assert len(reply) == 2


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_at_all_are_replies_or_a_protocol_error(data: bytes, opening: bool) -> None:
    """Nothing that a peer sends raises anything else."""
    with contextlib.suppress(ProtocolError):
        read_all(data, opening=opening)


@settings(max_examples=300)
@given(VALUES, st.booleans(), st.data())
def test_a_reply_with_a_wrong_byte_is_a_reply_or_a_protocol_error(value: Any, resp3: bool, data: st.DataObject) -> None:
    """A flipped byte makes other lengths and other types: still nothing else is raised."""
    whole = bytearray(encode(value, resp3=resp3))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from(b"*$%~>|-+:,(#_=!0129\r\n"))
    with contextlib.suppress(ProtocolError):
        read_all(bytes(whole))


def test_a_protocol_error_says_nothing_of_the_content() -> None:
    """What is in a reply may be a key or a value."""
    with pytest.raises(ProtocolError) as caught:
        read_all(b"*2\r\n$6\r\nsecret\r\n%1\r\n*1\r\n$6\r\nsecret\r\n:2\r\n")
    assert "secret" not in str(caught.value)


# ---- commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argument, written",
    [
        (b"\r\n\xff", b"\r\n\xff"),
        (memoryview(b"abc"), b"abc"),
        ("ü", "ü".encode()),
        (0, b"0"),
        (2**64 - 1, b"18446744073709551615"),
        (-1, b"-1"),
        (1.5, b"1.5"),
        ("", b""),
    ],
)
def test_an_argument_is_written_as_a_string_of_its_length(argument: Argument, written: bytes) -> None:
    """Arguments are arbitrary bytes; numbers are written in decimal."""
    assert encode_command("ECHO", argument) == encode([b"ECHO", written], resp3=False)


def test_commands_go_out_in_one_run() -> None:
    """Pipelined commands are their encodings, one behind the other."""
    commands: list[tuple[Argument, ...]] = [("GET", b"a"), (b"SCAN", 0, "COUNT", 10)]
    assert encode_commands(commands) == b"".join(encode_command(*command) for command in commands)
    assert encode_commands([]) == b""


@pytest.mark.parametrize("argument", [None, True, [], {}, object()])
def test_what_is_no_argument_is_a_type_error(argument: Any) -> None:
    """Nothing is guessed: None is not the text "None"."""
    with pytest.raises(TypeError):
        encode_command("SET", "key", argument)
