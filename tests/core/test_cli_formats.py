"""How the command line writes keys: none is lost in any format, and no terminal gets anything to act on."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given, strategies as st

from trio_sentinel_scan import Address, KeyDetails, ScanPage, ServerIdentity
from trio_sentinel_scan.cli._formats import Format, encoder, harmless, shown

SERVER = ServerIdentity("0" * 40, Address("10.0.0.1", 6379))

PAGE = st.lists(st.binary(max_size=20) | st.text(max_size=10).map(lambda text: text.encode("utf-8", "surrogatepass")))


def page_of(keys: list[bytes], *details: KeyDetails) -> ScanPage[bytes]:
    """A page with these keys, and what is known of each."""
    return ScanPage(keys, 0, SERVER, None, details=dict(zip(keys, details, strict=False)))


def key_of(text: str) -> bytes:
    """The key that is shown as `text`."""
    letters = {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\"}
    parts = re.findall(r"\\x([0-9a-f]{2})|\\(.)|([^\\]+)", text)
    return b"".join(
        bytes.fromhex(code) if code else letters[letter] if letter else plain.encode() for code, letter, plain in parts
    )


@given(PAGE)
def test_null_has_a_nul_behind_each_key(keys: list[bytes]) -> None:
    assert encoder("null")(page_of(keys)) == b"".join(key + b"\0" for key in keys)


@given(PAGE)
def test_text_has_each_key_as_it_is(keys: list[bytes]) -> None:
    assert encoder("text")(page_of(keys)) == b"".join(key + b"\n" for key in keys)


@given(PAGE)
def test_json_gives_every_key_back(keys: list[bytes]) -> None:
    lines = encoder("json")(page_of(keys)).decode("ascii").split("\n")
    assert lines.pop() == ""
    found = [json.loads(line) for line in lines]
    assert [value.encode() if isinstance(value, str) else base64.b64decode(value["base64"]) for value in found] == keys


def test_json_of_a_key_that_is_no_utf8_is_an_object() -> None:
    assert encoder("json")(page_of(["é".encode(), b"\xff"])) == b'"\\u00e9"\n{"base64": "/w=="}\n'


@pytest.mark.parametrize("form, end", [("text", b"\n"), ("null", b"\0")])
@pytest.mark.parametrize("ascii_only", [False, True])
@given(keys=PAGE)
def test_nothing_reaches_a_terminal_that_it_would_act_on(
    form: Format, end: bytes, ascii_only: bool, keys: list[bytes]
) -> None:
    written = encoder(form, terminal=True, ascii_only=ascii_only)(page_of(keys))
    shown_keys = written.split(end)
    assert shown_keys.pop() == b""
    assert all(text.decode().isprintable() for text in shown_keys)
    assert not ascii_only or written.isascii()
    assert [key_of(text.decode()) for text in shown_keys] == keys


@given(PAGE)
def test_json_may_go_to_a_terminal(keys: list[bytes]) -> None:
    assert encoder("json", terminal=True)(page_of(keys)).decode("ascii").replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "key, text",
    [
        (b"user:1", "user:1"),
        ("café ✓".encode(), "café ✓"),
        (b"", ""),
        (b"a b", "a b"),
        (b"a\nb\r\t", r"a\nb\r\t"),
        (rb"C:\new", r"C:\\new"),
        (b"\x1b[31mred\x07", r"\x1b[31mred\x07"),
        (b"\x7f\x00", r"\x7f\x00"),
        ("\x9b31m".encode(), r"\xc2\x9b31m"),  # CSI as one character of C1
        (b"\x9b31m", r"\x9b31m"),
        ("\u202eabc\u2028".encode(), r"\xe2\x80\xaeabc\xe2\x80\xa8"),  # direction, line separator
        ("\ud800".encode("utf-8", "surrogatepass"), r"\xed\xa0\x80"),
        (b"caf\xe9", r"caf\xe9"),
    ],
)
def test_shown(key: bytes, text: str) -> None:
    assert shown(key) == text


def test_shown_where_the_terminal_does_not_read_utf8() -> None:
    assert shown("café".encode(), ascii_only=True) == r"caf\xc3\xa9"


def test_a_message_keeps_its_lines_and_loses_what_a_terminal_would_act_on() -> None:
    assert (
        harmless("first\n  -ERR \x1b]0;x\x07\ttab \ud800 C:\\")
        == "first\n  -ERR \\x1b]0;x\\x07\\ttab \\xed\\xa0\\x80 C:\\"
    )


# ---- with details -----------------------------------------------------------------------------------------------

DETAILS = st.builds(
    KeyDetails,
    type=st.sampled_from(["string", "hash", "none", "TSDB-TYPE", None]),
    ttl=st.integers(-2) | st.none(),
    memory=st.integers(0) | st.none(),
)
ROWS = st.lists(st.tuples(st.binary(max_size=20), DETAILS), unique_by=lambda row: row[0])
COLUMNS = ("ttl", "type", "idle")


def columns_of(details: KeyDetails) -> list[str]:
    """As they are to be written."""
    return ["-" if value is None else str(value) for value in (details.ttl, details.type, details.idle)]


@pytest.mark.parametrize("form, end", [("text", b"\n"), ("null", b"\0")])
@given(rows=ROWS)
def test_columns_stand_behind_each_key_in_the_order_asked(
    form: Format, end: bytes, rows: list[tuple[bytes, KeyDetails]]
) -> None:
    page = page_of([key for key, _ in rows], *(details for _, details in rows))
    expected = [b"\t".join([key, *map(str.encode, columns_of(details))]) + end for key, details in rows]
    assert encoder(form, columns=COLUMNS)(page) == b"".join(expected)


@pytest.mark.parametrize("form, end", [("text", "\n"), ("null", "\0")])
@given(rows=ROWS)
def test_with_columns_too_no_key_acts_on_a_terminal(
    form: Format, end: str, rows: list[tuple[bytes, KeyDetails]]
) -> None:
    page = page_of([key for key, _ in rows], *(details for _, details in rows))
    lines = encoder(form, columns=COLUMNS, terminal=True)(page).decode().split(end)
    assert lines.pop() == ""
    for line, (key, details) in zip(lines, rows, strict=True):
        name, *columns = line.split("\t")
        assert key_of(name) == key
        assert name.isprintable()
        assert columns == columns_of(details)


def test_a_type_cannot_act_on_a_terminal_either() -> None:
    page = page_of([b"k"], KeyDetails(type="\x1b[2J"))
    assert encoder("text", columns=["type"], terminal=True)(page) == b"k\t\\x1b[2J\n"


@given(rows=ROWS)
def test_json_with_columns_is_an_object(rows: list[tuple[bytes, KeyDetails]]) -> None:
    page = page_of([key for key, _ in rows], *(details for _, details in rows))
    lines = encoder("json", columns=COLUMNS)(page).decode("ascii").split("\n")
    assert lines.pop() == ""
    for line, (key, details) in zip(lines, rows, strict=True):
        found = json.loads(line)
        assert list(found) == ["key", *COLUMNS]
        assert [found[name] for name in COLUMNS] == [details.ttl, details.type, details.idle]
        name = found["key"]
        assert (name.encode() if isinstance(name, str) else base64.b64decode(name["base64"])) == key


def test_json_with_columns_as_it_is_documented() -> None:
    page = page_of([b"a", b"\xff"], KeyDetails("string", -1), KeyDetails("hash"))
    assert encoder("json", columns=["type", "ttl"])(page) == (
        b'{"key": "a", "type": "string", "ttl": -1}\n{"key": {"base64": "/w=="}, "type": "hash", "ttl": null}\n'
    )
