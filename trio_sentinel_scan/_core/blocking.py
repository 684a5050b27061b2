"""Commands that may keep their connection waiting: for how long, by their own argument."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from .replies import as_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .commands import Command

__all__ = ["block_option_at", "block_time", "block_times", "with_block_time"]

# Command -> which argument says how long (negative: counted from the end), and how many of its unit make a second.
_TIMEOUT_AT: Final = {
    "BLMOVE": (-1, 1),
    "BLMOVEM": (5, 1),
    "BLMPOP": (1, 1),
    "BLPOP": (-1, 1),
    "BRPOP": (-1, 1),
    "BRPOPLPUSH": (-1, 1),
    "BZMPOP": (1, 1),
    "BZPOPMAX": (-1, 1),
    "BZPOPMIN": (-1, 1),
    "WAIT": (2, 1000),
    "WAITAOF": (3, 1000),
}
_READS_STREAMS: Final = frozenset({"XREAD", "XREADGROUP"})


def block_time(command: Command) -> float:
    """For how many seconds a server may keep this command waiting before it is due to answer; `math.inf` for ever."""
    place = _timeout_place(command)
    if place is None:
        return 0.0
    at, per_second = place
    try:
        given = float(as_text(command.args[at]))
    except (IndexError, ValueError):
        # Nothing to wait for: the server will say what is wrong with it.
        return 0.0
    if math.isnan(given) or given < 0:
        return 0.0
    return given / per_second if given else math.inf


def block_option_at(args: Sequence[object]) -> int | None:
    """Where BLOCK stands among the options of XREAD and XREADGROUP; None if it does not."""
    at = 1
    while at < len(args):
        word = as_text(args[at]).upper()
        if word == "BLOCK":
            return at
        if word == "STREAMS":
            # Behind it there are keys, which may be called anything ...
            return None
        # ... and so may a group and its consumer.
        at += 3 if word == "GROUP" else 1
    return None


def block_times(commands: Sequence[Command], *, in_multi: bool) -> list[float]:
    """`block_time` of commands that are sent one behind the other; within a transaction nothing is kept waiting."""
    times: list[float] = []
    for command in commands:
        if command.name in {"MULTI", "EXEC", "DISCARD"}:
            in_multi = command.name == "MULTI"
        times.append(0.0 if in_multi else block_time(command))
    return times


def with_block_time(command: Command, seconds: float) -> Command:
    """The same command, to be kept waiting for so long: what is left of its time after it waited at a server."""
    place = _timeout_place(command)
    if place is None or math.isinf(seconds):
        return command
    at, per_second = place
    # 0 would be for ever, and XREAD takes whole milliseconds only.
    left = max(seconds, 0.001) * per_second
    words = list(command.args)
    words[at] = b"%d" % math.ceil(left) if per_second == 1000 else b"%.3f" % left
    return replace(command, args=tuple(words))


def _timeout_place(command: Command) -> tuple[int, int] | None:
    if command.name in _READS_STREAMS:
        at = block_option_at(command.args)
        return None if at is None else (at + 1, 1000)
    return _TIMEOUT_AT.get(command.name)
