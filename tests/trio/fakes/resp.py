"""Replies as a server writes them, in either protocol."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["ABSURD", "Error", "Many", "Push", "Simple", "encode"]


class Simple(str):
    """A status: ``+OK``."""

    __slots__ = ()


class Error(str):
    """An error reply: ``-ERR ...``."""

    __slots__ = ()


class Push(list[Any]):
    """Something that the server says by itself; RESP2 has no other form for it than a list."""


class Many(list[Any]):
    """Several replies to one command, one after the other."""

    __slots__ = ()


def encode(value: Any, protocol: int = 2) -> bytes:
    """One reply as bytes."""
    match value:
        case Simple():
            return b"+%b\r\n" % value.encode()
        case Error():
            return b"-%b\r\n" % value.encode()
        case None:
            return b"_\r\n" if protocol == 3 else b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case str():
            return encode(value.encode(), protocol)
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case dict() if protocol == 3:
            return b"%%%d\r\n" % len(value) + b"".join(encode(item, 3) for pair in value.items() for item in pair)
        case dict():
            return encode([item for pair in value.items() for item in pair], protocol)
        case Many():
            return b"".join(encode(item, protocol) for item in value)
        case Push() if protocol == 3:
            return b">%d\r\n" % len(value) + b"".join(encode(item, 3) for item in value)
        case _:
            return b"*%d\r\n" % len(value) + b"".join(encode(item, protocol) for item in value)


# What no server says, and no client must believe.
ABSURD: Final = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "not a type": b"?1\r\n",
    "zeroes": b"\0" * 100,
    "negative string": b"$-5\r\n",
    "negative list": b"*-2\r\n",
    "length in letters": b"$abc\r\n",
    "long string": b"$536870913\r\n",
    "very long string": b"$99999999999999999999\r\n",
    "long list": b"*134217729\r\n",
    "long map": b"%134217729\r\n",
    "long set": b"~134217729\r\n",
    "long push": b">134217729\r\n",
    "long list within": b"*2\r\n$1\r\n0\r\n*134217729\r\n",
    "too deep": b"*1\r\n" * 65,
    "much too deep": b"*1\r\n" * 100_000,
    "too deep in maps": b"%1\r\n" * 65,
    "a map with a list for a key": b"%1\r\n*0\r\n+x\r\n",
}
