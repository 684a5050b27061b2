"""What a server may send, honest and otherwise: values of replies, and replies with one thing in them that is wrong.

Drawn by a plain generator of random numbers: Hypothesis takes a hundred times as long for what is drawn here, and what
fails is small anyway. The number of the seed is what a failure is told by.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any, Final, TypeAlias

from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import Push

__all__ = [
    "WORDS",
    "Draw",
    "any_reply",
    "any_text",
    "anything",
    "mutated",
    "mutated_bytes",
    "mutated_text",
    "one_of",
    "word",
]

Draw: TypeAlias = Callable[[Random], Any]

WORDS: Final = [
    *b"""master slave sentinel replica name ip port runid flags config-epoch role slots nodes id endpoint health fail
    online connected 0 1 -1 6379 65536 16383 16384 99999999999999999999 18446744073709551615 9223372036854775808 inf nan
    1e400 message pmessage subscribe unsubscribe psubscribe ssubscribe sunsubscribe smessage pong PONG OK QUEUED
    mymaster proto mode cluster run_id:x redis_version:7.0 127.0.0.1 ::1 [::1] ? : @ , - -> [1->-a] [1-<-a] tls-port
    hostname hash-seed +switch-master +sdown +reboot readonly movablekeys""".split(),
    *(b"", b" ", b"\n", b"\r\n", b"\0", b"\xff\xfe", b"9" * 5_000, b"x" * 300, "\u0661".encode(), b"a" * 40),
]
CODES: Final = [
    "ERR",
    "LOADING",
    "BUSY",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "READONLY",
    "REDIRECT",
    "UNBLOCKED",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "DENIED",
    "MOVED",
    "ASK",
    "NOSCRIPT",
    "EXECABORT",
    "CROSSSLOT",
    "WRONGTYPE",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "x",
]
SAYINGS: Final = [
    *(
        "",
        "7 10.0.0.1:7000",
        "7 :7000",
        "99999 h:1",
        "x y",
        "7 h:99999999999",
        "7",
        "-1 a:b:c",
        "invalid cursor",
        "7 h:inf",
    ),
    *("max number of clients reached", "invalid password", "unknown command 'x', with args beginning with: 'y'"),
]
NUMBERS: Final = [0, 1, -1, 2, 6379, 65536, 2**31, 2**63 - 1, -(2**63), 10**30, True, False]
FLOATS: Final = [0.0, 1.5, float("inf"), float("-inf"), float("nan"), 1e300]
PIECES: Final = [
    "",
    " ",
    "\n",
    "\t",
    "-",
    ",",
    ":",
    "@",
    "[",
    "]",
    "->-",
    "-<-",
    "\0",
    "\u2028",
    "9" * 30,
    "9" * 5_000,
    "myself",
    "x",
    "%",
    "/",
    "?",
    "#",
]


def word(rng: Random) -> bytes:
    """Something that stands in replies, or does not."""
    return rng.choice(WORDS) if rng.random() < 0.9 else rng.randbytes(rng.randrange(12))


def any_text(rng: Random) -> str:
    """Some characters, from anywhere."""
    most = rng.choice([0x7F, 0xFF, 0xFFFF])
    text = "".join(chr(rng.randrange(most)) for _ in range(rng.randrange(20)))
    return text.encode("utf-8", "replace").decode()


def _error(rng: Random) -> Any:
    said = rng.choice(SAYINGS) if rng.random() < 0.8 else any_text(rng)
    return parse_error_reply(f"{rng.choice(CODES)} {said}".strip())


def _scalar(rng: Random) -> Any:
    kind = rng.randrange(10)
    if kind < 5:
        return word(rng)
    return [None, rng.choice(NUMBERS), rng.getrandbits(64) - 2**63, rng.choice(FLOATS), _error(rng)][kind - 5]


def any_reply(rng: Random, depth: int = 3) -> Any:
    """Whatever hiredis can make of bytes."""
    kind = rng.randrange(8)
    if depth == 0 or kind < 4:
        return _scalar(rng)
    items = [any_reply(rng, depth - 1) for _ in range(rng.randrange(5))]
    if kind < 6:
        return items
    return Push(items or [b"x"]) if kind == 6 else {word(rng): item for item in items}


def anything(rng: Random) -> Any:
    """Not even of a reply's types."""
    kind = rng.randrange(4)
    return any_reply(rng) if kind < 2 else any_text(rng) if kind == 2 else object()


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a reply, the whole of it included."""
    found = [at]
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += _places(item, (*at, number))
    elif isinstance(value, dict):
        for name, item in value.items():
            found += _places(item, (*at, name))
    return found


def mutated(*honest: Any) -> Draw:
    """One of these replies, with something else in some of its places; now and then something else altogether."""

    def draw(rng: Random) -> Any:
        if rng.random() < 0.1:
            return any_reply(rng)
        value = copy.deepcopy(rng.choice(honest))
        for _ in range(rng.randrange(4)):
            *way, last = rng.choice(_places(value)) or [None]
            if last is None:
                continue
            within = value
            for step in way:
                within = within[step]
            how = rng.randrange(5)
            if how < 3:
                within[last] = any_reply(rng)
            elif how == 3:
                del within[last]
            elif isinstance(within, list):
                within.append(within[last])
        return value

    return draw


def mutated_text(*honest: str) -> Draw:
    """One of these texts with pieces taken out, put in, doubled or exchanged."""

    def draw(rng: Random) -> str:
        text = rng.choice(honest)
        for _ in range(rng.randrange(6)):
            first = rng.randint(0, len(text))
            last = rng.randint(first, min(len(text), first + 12))
            new = rng.choice(PIECES) if rng.random() < 0.7 else any_text(rng)
            middle = rng.choice(["", text[first:last] + new, text[first:last] * 2, new])
            text = text[:first] + middle + text[last:]
        return text

    return draw


def mutated_bytes(*honest: bytes) -> Draw:
    """The same with bytes."""

    def draw(rng: Random) -> bytes:
        data = bytearray(rng.choice(honest))
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(data))
            how = rng.randrange(3)
            if how == 0 and at < len(data):
                data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            elif how == 1:
                del data[at : at + rng.randint(1, 8)]
            else:
                data[at:at] = rng.choice([rng.randbytes(4), b"\xff" * 20, b"\0" * 20])
        return bytes(data)

    return draw


def one_of(*draws: Draw) -> Draw:
    """What one of them draws."""
    return lambda rng: rng.choice(draws)(rng)
