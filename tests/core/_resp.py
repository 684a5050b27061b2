"""RESP written the slow and obvious way, to hold hiredis and our bounds against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Simple:
    """A simple string: no line break in it."""

    text: bytes


@dataclass(frozen=True)
class Error:
    """An error reply."""

    text: str


@dataclass(frozen=True)
class SetOf:
    """A set, in the order in which the server happens to have it."""

    items: tuple[Any, ...]


def encode(value: Any, *, resp3: bool) -> bytes:
    """`value` as a server would send it."""
    match value:
        case None:
            return b"_\r\n" if resp3 else b"$-1\r\n"
        case bool():
            return (b"#t\r\n" if value else b"#f\r\n") if resp3 else b":%d\r\n" % value
        case int():
            return b":%d\r\n" % value
        case float():
            text = repr(value).encode()
            return b",%b\r\n" % text if resp3 else b"$%d\r\n%b\r\n" % (len(text), text)
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case Simple(text):
            return b"+%b\r\n" % text
        case Error(text):
            return b"-%b\r\n" % text.encode()
        case list():
            return b"*%d\r\n" % len(value) + b"".join(encode(item, resp3=resp3) for item in value)
        case SetOf(items):
            sign = b"~" if resp3 else b"*"
            return b"%b%d\r\n" % (sign, len(items)) + b"".join(encode(item, resp3=resp3) for item in items)
        case dict():
            head = b"%%%d\r\n" % len(value) if resp3 else b"*%d\r\n" % (2 * len(value))
            return head + b"".join(encode(item, resp3=resp3) for pair in value.items() for item in pair)
    raise TypeError(value)


def decoded(value: Any, *, resp3: bool) -> Any:
    """What a client should make of it: strings as bytes, error replies as ("error", text without its code)."""
    match value:
        case bool():
            return value if resp3 else int(value)
        case float():
            return value if resp3 else repr(value).encode()
        case Simple(text):
            return text
        case Error(text):
            return ("error", text)
        case list():
            return [decoded(item, resp3=resp3) for item in value]
        case SetOf(items):
            return [decoded(item, resp3=resp3) for item in items]
        case dict():
            if resp3:
                return {decoded(name, resp3=resp3): decoded(item, resp3=resp3) for name, item in value.items()}
            return [decoded(item, resp3=resp3) for pair in value.items() for item in pair]
        case _:
            return value
