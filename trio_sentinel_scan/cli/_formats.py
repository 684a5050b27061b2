"""Keys as they go to stdout, and any text as it may go to a terminal."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

from .._core.summary import ScanPage

Format: TypeAlias = Literal["text", "json", "null"]
Encode: TypeAlias = Callable[[ScanPage[bytes]], bytes]

# The letters that C, Python and redis-cli have for them; everything else is \xHH.
_LETTERS: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}

# As ASCII: neither a newline, nor DEL, nor anything else that a terminal could act on is left in it.
_json_string: Final = json.JSONEncoder(ensure_ascii=True).encode


def encoder(form: Format, *, columns: Sequence[str] = (), terminal: bool = False, ascii_only: bool = False) -> Encode:
    """The function that turns a page into what is written.

    - "text": one key per line. "null": each key with a NUL behind it. Both are the keys' own bytes, unless the
      output is a `terminal`: then what a terminal would act on, or cannot show, is escaped as in `shown`.
    - "json": one JSON value per line, all ASCII. A key that is UTF-8 is a string; any other is an object,
      ``{"base64": "..."}``, so that each can be told from the other and turned back into its bytes.

    `columns` are the details of each key that are written with it, in this order: behind a tab each, with ``-`` for
    what is not known; in JSON as an object, ``{"key": ..., "type": ..., "ttl": ...}``, with null for it.
    """
    if form == "json":
        return _json_objects(columns) if columns else lambda page: _json_lines(page.keys)
    end = b"\n" if form == "text" else b"\0"

    def as_shown(text: bytes) -> bytes:
        return shown(text, ascii_only=ascii_only).encode()

    if columns:
        write = as_shown if terminal else bytes
        return lambda page: b"".join(
            [
                b"\t".join([write(key), *(write(_column(value)) for value in row)]) + end
                for key, row in _rows(page, columns)
            ]
        )
    if terminal:
        return lambda page: b"".join([as_shown(key) + end for key in page.keys])
    return lambda page: end.join([*page.keys, b""])


def shown(key: bytes, *, ascii_only: bool = False) -> str:
    r"""A key for a reader's eyes: what is printable as it is, all else as ``\xHH`` for each byte, or ``\n`` and such.

    Not printable are control characters (C0, DEL and C1), what is no UTF-8, and what is invisible or changes the
    direction of writing. `ascii_only` is for a terminal that would read UTF-8's bytes as something else.
    """
    # The bytes that are no UTF-8 become lone surrogates, which are not printable and give the bytes back.
    text = key.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text and not (ascii_only and not text.isascii()):
        return text
    return "".join(
        character
        if character.isprintable() and character != "\\" and not (ascii_only and not character.isascii())
        else _LETTERS.get(character) or _as_bytes(character)
        for character in text
    )


def harmless(text: str) -> str:
    """A message for the terminal. Part of it may be a server's own words."""
    return "\n".join(
        "".join(c if c.isprintable() else _LETTERS.get(c) or _as_bytes(c) for c in line) for line in text.split("\n")
    )


def _as_bytes(character: str) -> str:
    # "surrogatepass" for the lone surrogate that no byte of ours stands behind.
    low = ord(character) - 0xDC00
    raw = bytes([low]) if 0x80 <= low <= 0xFF else character.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in raw)


def _json_lines(keys: Sequence[bytes]) -> bytes:
    try:
        lines = list(map(_json_string, [key.decode() for key in keys]))
    except UnicodeDecodeError:
        lines = [_json_string(_json_value(key)) for key in keys]
    return "\n".join([*lines, ""]).encode("ascii")


def _json_objects(columns: Sequence[str]) -> Encode:
    def encode(page: ScanPage[bytes]) -> bytes:
        lines = [
            _json_string({"key": _json_value(key), **dict(zip(columns, row, strict=True))})
            for key, row in _rows(page, columns)
        ]
        return "\n".join([*lines, ""]).encode("ascii")

    return encode


def _json_value(key: bytes) -> str | dict[str, str]:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(key).decode("ascii")}


def _rows(page: ScanPage[bytes], columns: Sequence[str]) -> Iterator[tuple[bytes, list[Any]]]:
    """Each key, and what `columns` name of its details."""
    for key in page.keys:
        details = page.details[key]
        yield key, [getattr(details, column) for column in columns]


def _column(value: str | int | None) -> bytes:
    return b"-" if value is None else str(value).encode()
