"""RESP, by hiredis: commands to bytes, bytes to replies, and the bounds that hiredis does not set.

hiredis refuses broken framing, negative lengths and (from 3.5 on) nesting past a thousand levels. It believes an
announced length, though, and a list is allocated at its announced size. So the headers that open a reply are looked at
before hiredis gets them, whenever it is known that a reply opens here; what hides deeper is bounded by
`response_timeout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, cast

import hiredis

from .errors import ProtocolError
from .verdicts import parse_error_reply

__all__ = ["NOT_YET", "Argument", "Decoder", "Push", "Reply", "encode_command", "encode_commands"]

Argument: TypeAlias = bytes | memoryview | str | int | float
# Whatever a server can say: bytes, str, int, float, bool, None, lists, dicts, sets, and error replies as exceptions.
Reply: TypeAlias = Any
Push = hiredis.PushNotification
# hiredis's own annotation knows only commands of one word.
_pack: Callable[[tuple[Argument, ...]], bytes] = cast("Any", hiredis).pack_command


class _NotYet:
    def __repr__(self) -> str:
        return "NOT_YET"


# What `Decoder.next_reply` returns while the next reply is not whole. (None and False are replies.)
NOT_YET: Final = _NotYet()

# The server's own default for proto-max-bulk-len, and more elements than any reply of a keyspace that fits in memory.
MAX_BULK: Final = 512 * 1024 * 1024
MAX_ELEMENTS: Final = 1 << 27
MAX_DEPTH: Final = 64
# How many headers of an opening reply are looked at: enough for any chain that is not itself too deep.
_MAX_HEADERS: Final = 2 * MAX_DEPTH
# And after how many strings and numbers it is enough: lists open at once, or behind a cursor, as in SCAN's reply. To go
# through all of its keys would cost more than hiredis does.
_MAX_SCALARS: Final = 3
# How many bytes of a reply are looked at, over as many reads as they take to come.
_OPENING: Final = 1024
_AGGREGATES: Final = frozenset(b"*%~>|")
_MAPS: Final = frozenset(b"%|")
_BULK: Final = ord("$")
_BULKS: Final = frozenset(b"$=!")


def encode_command(*args: Argument) -> bytes:
    """One command as RESP. Strings are UTF-8; floats are written as `repr` does. Raises TypeError on other types."""
    return _pack(args)


def encode_commands(commands: Iterable[tuple[Argument, ...]]) -> bytes:
    """Several commands as one run of bytes, to be written together."""
    return b"".join([_pack(command) for command in commands])


def check_opening(data: bytes) -> None:
    """Look at the headers that open a reply; raise ProtocolError for one that no honest server sends.

    Only what is in `data` is looked at, down the first elements: an opening is a few dozen bytes, so this costs next
    to nothing however large the reply is.
    """
    at = 0
    # How many elements are still to come of each aggregate that is open, the outermost first.
    to_come: list[int] = []
    scalars = 0
    for _ in range(_MAX_HEADERS):
        end = data.find(b"\r\n", at, at + 32)
        if end < 0:
            return
        kind, digits = data[at], data[at + 1 : end]
        at = end + 2
        size = int(digits) if digits.isdigit() else 0
        if kind in _AGGREGATES and size:
            if size > MAX_ELEMENTS:
                raise ProtocolError(f"a reply announces {size} elements")
            to_come.append(2 * size if kind in _MAPS else size)
            if len(to_come) > MAX_DEPTH:
                raise ProtocolError(f"a reply nests deeper than {MAX_DEPTH} levels")
            continue
        if kind in _BULKS and digits.isdigit():
            if size > MAX_BULK:
                raise ProtocolError(f"a reply announces a string of {size} bytes")
            at += size + 2
        scalars += kind not in _AGGREGATES
        if scalars == _MAX_SCALARS:
            return
        # An element is whole, and with it each aggregate whose last one it was.
        while to_come and to_come[-1] == 1:
            to_come.pop()
        if to_come:
            to_come[-1] -= 1


def _is_one_string(data: bytes) -> bool:
    """Whether this is exactly one reply, and a string: what most reads bring, and there is nothing to look for."""
    end = data.find(b"\r\n", 0, 16)
    length = data[1:end]
    return end > 0 and data[0] == _BULK and length.isdigit() and len(data) == end + 4 + int(length)


class Decoder:
    """Bytes in, replies out, in order. After a ProtocolError it is of no further use, nor is its connection."""

    __slots__ = ("_opening", "_reader")

    def __init__(self, encoding: str | None = None, encoding_errors: str = "strict") -> None:
        """`encoding` turns strings in replies into `str`; `None` leaves all of them `bytes`."""
        # What has come of a reply that has only begun; None once enough of it was looked at.
        self._opening: bytes | None = None
        self._reader = hiredis.Reader(
            protocolError=ProtocolError,
            replyError=parse_error_reply,
            encoding=encoding,
            errors=encoding_errors,
            notEnoughData=NOT_YET,
        )

    def feed(self, data: bytes, *, opening: bool = False) -> None:
        """Take bytes as they came. `opening` tells that a reply begins at the first of them."""
        if opening:
            self._opening = None if _is_one_string(data) else b""
        if self._opening is not None:
            # A header may come in pieces.
            begun = self._opening + data
            check_opening(begun)
            self._opening = begun if len(begun) < _OPENING else None
        self._reader.feed(data)

    @property
    def is_between_replies(self) -> bool:
        """Whether a reply begins at the next byte, or an element of one that has come up to there."""
        return not self._reader.has_data()

    def next_reply(self, *, decode: bool = True) -> Reply:
        """The next whole reply, or `NOT_YET`. An error reply is *returned*, as an exception of redis-py's.

        ``decode=False`` leaves this reply's strings `bytes` whatever the encoding.
        Raises ProtocolError on what is not RESP, and UnicodeDecodeError where the encoding does not fit.
        """
        try:
            return self._reader.gets() if decode else self._reader.gets(False)
        except (ProtocolError, UnicodeDecodeError):
            raise
        except Exception as error:  # noqa: BLE001 (see below)
            # Whatever else hiredis or redis-py's error classes trip over: a map with a list for a key, a MOVED
            # without an address, a length that memory cannot hold.
            msg = f"a reply cannot be understood ({type(error).__name__})"
            raise ProtocolError(msg) from None
