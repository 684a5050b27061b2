"""For how long a server may keep a command waiting, and what is left of it for another server."""

from __future__ import annotations

import math

import pytest

from trio_sentinel_scan._core.blocking import block_time, block_times, with_block_time
from trio_sentinel_scan._core.commands import BLOCKING, read_command


@pytest.mark.parametrize(
    "words, seconds",
    [
        ("BLPOP a b 5", 5.0),
        ("BRPOP a 0.5", 0.5),
        ("BLPOP a 0", math.inf),
        ("BLMOVE a b LEFT RIGHT 2", 2.0),
        ("BRPOPLPUSH a b 3", 3.0),
        ("BLMPOP 1.5 2 a b LEFT", 1.5),
        ("BZMPOP 0 1 a MIN", math.inf),
        ("BZPOPMIN a 4", 4.0),
        ("BZPOPMAX a 4", 4.0),
        ("XREAD COUNT 1 BLOCK 250 STREAMS a 0", 0.25),
        ("XREADGROUP GROUP g c BLOCK 0 STREAMS a >", math.inf),
        ("XREADGROUP GROUP streams block BLOCK 250 STREAMS a >", 0.25),
        ("XREAD STREAMS BLOCK 0", 0.0),
        ("XREAD COUNT 1", 0.0),
        ("XREAD BLOCK", 0.0),
        ("WAIT 1 500", 0.5),
        ("WAITAOF 1 1 0", math.inf),
        ("GET a", 0.0),
        ("BLPOP a soon", 0.0),
        ("BLPOP a -1", 0.0),
        ("BLPOP a nan", 0.0),
        ("WAIT 1", 0.0),
    ],
)
def test_how_long_it_may_take(words: str, seconds: float) -> None:
    """By its own argument, in its own unit. What makes no sense is answered at once, with an error."""
    command = read_command(tuple(word.encode() for word in words.split()), leased=True)
    assert block_time(command) == seconds


def test_every_blocking_command_has_a_time() -> None:
    """One that had none would be given up after `response_timeout`, in the middle of its wait."""
    for name in BLOCKING:
        command = read_command((name, "0", "0", "0", "0", "0"))
        assert block_time(command) == math.inf


@pytest.mark.parametrize(
    "names, in_multi, times",
    [
        ("BLPOP GET", False, [5.0, 0.0]),
        ("BLPOP MULTI BLPOP EXEC BLPOP", False, [5.0, 0.0, 0.0, 0.0, 5.0]),
        ("BLPOP DISCARD BLPOP", True, [0.0, 0.0, 5.0]),
    ],
)
def test_within_a_transaction_nothing_waits(names: str, in_multi: bool, times: list[float]) -> None:
    commands = [read_command((name, "a", "5"), leased=True) for name in names.split()]
    assert block_times(commands, in_multi=in_multi) == times


@pytest.mark.parametrize(
    "words, left, then",
    [
        ("BLPOP a 5", 2.25, "BLPOP a 2.250"),
        ("BLMPOP 5 1 a LEFT", 2.25, "BLMPOP 2.250 1 a LEFT"),
        ("XREAD BLOCK 5000 STREAMS a 0", 2.25, "XREAD BLOCK 2250 STREAMS a 0"),
        ("XREAD BLOCK 5000 STREAMS a 0", 0.0001, "XREAD BLOCK 1 STREAMS a 0"),
        ("BLPOP a 5", 0.0, "BLPOP a 0.001"),
        ("BLPOP a 5", -1.0, "BLPOP a 0.001"),
        ("BLPOP a 0", math.inf, "BLPOP a 0"),
        ("GET a", 0.0, "GET a"),
    ],
)
def test_what_is_left_of_it(words: str, left: float, then: str) -> None:
    """It never becomes 0, which would be for ever."""
    command = read_command(tuple(word.encode() for word in words.split()))
    after = with_block_time(command, left)
    assert after.args == (then.split(maxsplit=1)[0], *(word.encode() for word in then.split()[1:]))
    assert after.place is command.place
