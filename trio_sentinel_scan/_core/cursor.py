"""SCAN's cursors: what they look like, how far one has come, and how to notice one that goes in a circle.

A cursor is an opaque unsigned 64-bit number that belongs to the process that issued it. In the two formats known here
its reversed bits are a position in the hash space, whatever the size of the table, and positions strictly rise within
a pass. Where the format is not known there is no position, and only a repeated cursor can be noticed.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CircleDetector",
    "CursorFormat",
    "cursor_format_of",
    "is_foreign",
    "parse_cursor",
    "position_of",
    "rev64",
    "version_of",
]

MAX_CURSOR: Final = (1 << 64) - 1
_REVERSED_BYTES: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_SLOT_BITS: Final = 14
SLOTS: Final = 1 << _SLOT_BITS
# What Redis and Valkey themselves put into INFO server under such a name.
_OWN_VERSION_FIELDS: Final = frozenset({"redis_version", "valkey_version", "gcc_version"})


class CursorFormat(enum.Enum):
    """How a server writes its cursors."""

    REVERSED = "one reversed counter for the whole table"
    SLOTS = "the hash slot in the low 14 bits, a reversed counter above them"
    UNKNOWN = "something else: no position, no order"


def rev64(number: int) -> int:
    """The 64 bits of `number` in reverse order."""
    return int.from_bytes(number.to_bytes(8, "little").translate(_REVERSED_BYTES), "big")


def position_of(cursor: int, form: CursorFormat) -> float | None:
    """How much of the hash space a chain that stands at `cursor` has covered, 0.0 to 1.0; None in an unknown format.

    Cursor 0 means "at the start" here; that a reply's 0 means "at the end" is for the caller to know.
    """
    if form is CursorFormat.REVERSED:
        return rev64(cursor) / 2**64
    if form is CursorFormat.SLOTS:
        return ((cursor & (SLOTS - 1)) + rev64(cursor >> _SLOT_BITS) / 2**64) / SLOTS
    return None


def sort_key(cursor: int, form: CursorFormat) -> int:
    """A number that strictly rises along a chain of cursors in a known format (a float would lose its low bits)."""
    if form is CursorFormat.REVERSED:
        return rev64(cursor)
    return (cursor & (SLOTS - 1)) << 64 | rev64(cursor >> _SLOT_BITS)


def cursor_format_of(server_info: Mapping[str, str] | None, mode: str | None) -> CursorFormat:
    """The format of the server that describes itself so (INFO server; the mode by HELLO): known products only.

    Redis up to 7.2 reverses one counter in every mode; Redis from 7.4 and Valkey from 8.0 on keep a table per slot
    in cluster mode. Redis's relatives name themselves in INFO by a version field of their own.
    """
    if not server_info:
        return CursorFormat.UNKNOWN
    version = version_of(server_info.get("valkey_version") or server_info.get("redis_version") or "")
    if version is None or is_foreign(server_info):
        return CursorFormat.UNKNOWN
    if (server_info.get("redis_mode") or server_info.get("server_mode") or mode) != "cluster":
        return CursorFormat.REVERSED
    per_slot = version >= ((8, 0) if "valkey_version" in server_info else (7, 4))
    return CursorFormat.SLOTS if per_slot else CursorFormat.REVERSED


def is_foreign(server_info: Mapping[str, str]) -> bool:
    """Whether the server that describes itself so is another product than Redis and Valkey."""
    return any(field.endswith("_version") and field not in _OWN_VERSION_FIELDS for field in server_info)


def version_of(text: str) -> tuple[int, int] | None:
    """The first two numbers of a version; None if it does not begin with two."""
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0]
    # (What has thousands of digits is no version, and int() refuses it with an error of its own.)
    return (int(major), int(minor)) if all(part.isdecimal() and len(part) < 10 for part in (major, minor)) else None


def parse_cursor(value: object, argument: str = "cursor") -> int:
    """A caller's cursor as a number: an int, or its decimal digits. Raises ConfigError for anything else.

    Servers differ in what they take (some wrap -1, some accept "+5"), so none of it is left to them.
    """
    if isinstance(value, bytes) and value.isascii():
        value = value.decode("ascii")
    # No more digits than 2**64 has: int() refuses thousands of them with an error of its own.
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_CURSOR:
        raise ConfigError(argument, "must be a cursor as SCAN returned it: a whole number from 0 to 2**64 - 1")
    return value


class CircleDetector:
    """Brent's algorithm: notices in constant memory that a chain of cursors has come round.

    It needs at most three times as many steps as the chain has different cursors.
    """

    __slots__ = ("_landmark", "_lap", "_steps")

    def __init__(self) -> None:
        self._landmark: int | None = None
        # Invariant: _steps < _lap; the landmark moves up whenever a lap is full, and laps double.
        self._lap: int = 1
        self._steps: int = 0

    def comes_round(self, cursor: int) -> bool:
        """Take the chain's next cursor; True if it has been there before."""
        if cursor == self._landmark:
            return True
        self._steps += 1
        if self._steps == self._lap:
            self._landmark = cursor
            self._lap *= 2
            self._steps = 0
        return False
