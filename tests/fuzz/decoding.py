"""The decoder against one that is plain to see through: the same replies, however the bytes are cut, or a refusal.

The other one reads from the beginning each time, and knows no more than the protocol's text says.
"""

from __future__ import annotations

import tracemalloc
from random import Random
from typing import Any, Final, NamedTuple

from redis.exceptions import RedisError

from tests.core._resp import Error, SetOf, Simple, encode
from tests.fuzz.readers import Property
from tests.fuzz.values import mutated_bytes, word
from trio_sentinel_scan._core import wire
from trio_sentinel_scan._core.errors import ProtocolError
from trio_sentinel_scan._core.wire import NOT_YET, Decoder, Push

__all__ = ["PROPERTIES", "Broken", "read_plainly"]


# ---- the plain one -----------------------------------------------------------------------------------------------


class Broken(Exception):
    """It is no RESP."""


class Absurd(Broken):
    """It announces more than there can be."""


class More(Exception):
    """It goes on."""


def read_plainly(data: bytes) -> tuple[list[Any], type[Broken] | None]:
    """Every whole reply at the beginning, and in what way what stands behind them is broken (or else may go on)."""
    found: list[Any] = []
    at = 0
    while at < len(data):
        try:
            value, at = _value(data, at, 0)
        except More:
            return found, None
        except Broken as error:
            return found, type(error)
        found.append(value)
    return found, None


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n", at)
    if end < 0:
        raise More
    return data[at:end], end + 2


def _number(text: bytes) -> int:
    digits = text[1:] if text[:1] in {b"-", b"+"} else text
    if not digits.isdigit():
        raise Broken
    return int(text)


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:  # noqa: PLR0912 (one branch for each type)
    if at >= len(data):
        raise More
    if depth > wire.MAX_DEPTH:
        raise Broken
    kind = data[at : at + 1]
    text, after = _line(data, at + 1)
    match kind:
        case b"+" | b"(":
            return text, after
        case b"-":
            return ("error",), after
        case b":":
            return _number(text), after
        case b"_":
            return None, after
        case b"#":
            return text == b"t", after
        case b",":
            return ("double",), after
        case b"$" | b"=":
            size = _number(text)
            if size == -1:
                return None, after
            if size < 0 or size > wire.MAX_BULK:
                raise Absurd
            if len(data) < after + size + 2:
                raise More
            whole = data[after : after + size]
            return (whole[4:] if kind == b"=" else whole), after + size + 2
        case b"*" | b"~" | b">" | b"%":
            size = _number(text)
            if size == -1:
                return None, after
            if size < 0 or size > wire.MAX_ELEMENTS:
                raise Absurd
            items: list[Any] = []
            for _ in range(size * 2 if kind == b"%" else size):
                item, after = _value(data, after, depth + 1)
                items.append(item)
            return items, after
        case _:
            raise Broken


def plain(reply: Any) -> Any:
    """A reply of the decoder's, as the plain one has it."""
    match reply:
        case RedisError():
            return ("error",)
        case float():
            return ("double",)
        case dict():
            return [plain(item) for pair in reply.items() for item in pair]
        case list():
            return [plain(item) for item in reply]
        case _:
            return reply


# ---- what is read ------------------------------------------------------------------------------------------------


def _honest(rng: Random, depth: int = 4) -> Any:
    kind = rng.randrange(12)
    if depth and kind > 7:
        items = [_honest(rng, depth - 1) for _ in range(rng.randrange(5))]
        return items if kind < 11 else SetOf(tuple(items))
    return [
        word(rng)[:200],
        rng.getrandbits(63),
        -rng.getrandbits(63),
        None,
        rng.random(),
        Simple(b"OK"),
        Error("ERR no"),
        rng.random() < 0.5,
        b"",
        b"\r\n" * 3,
        rng.randbytes(rng.randrange(40)),
        [],
    ][kind]


class Fed(NamedTuple):
    """Bytes, and where they are cut."""

    data: bytes
    cuts: tuple[int, ...]


def _cut(rng: Random, data: bytes) -> Fed:
    if rng.random() < 0.3:
        return Fed(data, tuple(range(1, len(data))))
    return Fed(data, tuple(sorted(rng.randint(0, len(data)) for _ in range(rng.randrange(6)))))


_PUSHES: Final = [
    b">2\r\n+pub\r\n:1\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n",
    b">2\r\n$10\r\ninvalidate\r\n_\r\n",
]


def draw_honest(rng: Random) -> Fed:
    values = [_honest(rng) for _ in range(rng.randint(1, 4))]
    parts: list[bytes] = []
    pushed = rng.choice([0.0, 0.3, 1.0])
    for value in values:
        while rng.random() < pushed * 0.7:
            parts.append(rng.choice(_PUSHES))
        parts.append(encode(value, resp3=rng.random() < 0.5))
    if rng.random() < pushed:
        parts.append(rng.choice(_PUSHES))
    return _cut(rng, b"".join(parts))


LENGTHS: Final = [
    b"2147483648",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-2",
    b"-1",
    b"007",
    b"+3",
    b"0x10",
    b" 3",
    b"1e3",
]


def draw_dishonest(rng: Random) -> Fed:
    data = draw_honest(rng).data
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.5:
            data = mutated_bytes(data)(rng)
        else:
            # A length that cannot be, where there may be one.
            at = rng.randint(0, len(data))
            data = (
                data[:at] + rng.choice([b"*", b"$", b"%", b"~", b">", b"="]) + rng.choice(LENGTHS) + b"\r\n" + data[at:]
            )
    return _cut(rng, data)


def decode(fed: Fed) -> tuple[list[Any], bool]:
    """Every reply that comes of them, and whether there was a refusal then."""
    decoder = Decoder()
    found: list[Any] = []
    data, opening = fed.data, True
    for first, last in zip((0, *fed.cuts), (*fed.cuts, len(data)), strict=True):
        try:
            if first < last:
                decoder.feed(data[first:last], opening=opening)
                opening = False
            while (reply := decoder.next_reply()) is not NOT_YET:
                found.append(list(reply) if isinstance(reply, Push) else reply)
        except ProtocolError:
            return found, True
    return found, False


def honest(fed: Fed) -> None:
    """All of them, and nothing else."""
    found, refused = decode(fed)
    expected, broken = read_plainly(fed.data)
    assert not refused
    assert not broken
    assert list(map(plain, found)) == expected


def dishonest(fed: Fed) -> None:
    """A refusal, or what the plain one reads, as far as both go."""
    found, refused = decode(fed)
    expected, broken = read_plainly(fed.data)
    if not (refused or broken):
        assert len(found) == len(expected)
    # (A refusal may come sooner: hiredis reads a whole buffer's lines. And later: what goes on may be wrong yet.)
    common = min(len(found), len(expected))
    assert list(map(plain, found[:common])) == expected[:common]
    # (A length that is deep within a reply is believed until the time is up: `announced` has those that open one.)
    assert refused or broken in {None, Absurd}


def draw_opening(rng: Random) -> Fed:
    """A reply that announces more than there can be, where it opens, or behind a cursor."""
    kind = rng.choice([b"*", b"~", b">", b"%", b"|", b"$", b"="])
    least = wire.MAX_BULK if kind in {b"$", b"="} else wire.MAX_ELEMENTS
    around = rng.choice(
        [b"", b"*2\r\n$2\r\n17\r\n", b"*1\r\n", b"*3\r\n:1\r\n+OK\r\n", b"*1\r\n" * 30, b"%1\r\n+a\r\n"]
    )
    size = rng.choice([least + 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64, 10**30, 10**25 + 7])
    data = around + kind + b"%d\r\n" % size + rng.randbytes(rng.randrange(40))
    return _cut(rng, data)


def announced(fed: Fed) -> None:
    """It is refused, whatever it is cut into, and no memory was spent on it."""
    tracemalloc.start()
    try:
        found, refused = decode(fed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found, refused) == ([], True)
    assert peak < 1_000_000


PROPERTIES: Final = {
    "honest_bytes": Property(draw_honest, honest),
    "dishonest_bytes": Property(draw_dishonest, dishonest, costs=3),
    "announced_lengths": Property(draw_opening, announced, costs=2),
}
