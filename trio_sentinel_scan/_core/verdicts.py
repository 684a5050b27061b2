"""What an error reply means for the one who asked: a table, and nothing but the table decides.

The codes and texts are those of Redis 6.2 to 8, Valkey 8 and 9 and the proxies that speak for them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, cast

from redis import exceptions as redis_errors
from redis._parsers import BaseParser

from .replies import printable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Verdict", "error_code", "parse_error_reply", "verdict_of"]


class Verdict(enum.Enum):
    """What is to be done about an error reply."""

    WAIT = "the server will be able to answer soon: back off on the same connection; a cursor stays good"
    RECONNECT = "the server drops this connection: back off and connect again; a cursor stays good at the same process"
    LOOK_AGAIN = "this server is not the one to ask (any more): look up the master again"
    RESTART = "the server does not know this cursor: begin again at cursor 0"
    REFUSED = "asking again cannot help"
    UNAUTHENTICATED = "the password is wrong, missing or not enough: never ask again by oneself"


# First word of the reply -> verdict.
_BY_CODE: Final = {
    "LOADING": Verdict.WAIT,
    "BUSY": Verdict.WAIT,
    "TRYAGAIN": Verdict.WAIT,
    "CLUSTERDOWN": Verdict.WAIT,
    # A replica without its master and replica-serve-stale-data no: for a while, or until another master is named.
    "MASTERDOWN": Verdict.LOOK_AGAIN,
    "READONLY": Verdict.LOOK_AGAIN,
    "REDIRECT": Verdict.LOOK_AGAIN,
    "UNBLOCKED": Verdict.LOOK_AGAIN,
    "NOAUTH": Verdict.UNAUTHENTICATED,
    "WRONGPASS": Verdict.UNAUTHENTICATED,
    "NOPERM": Verdict.REFUSED,
    "DENIED": Verdict.REFUSED,
}

# Replies whose first word is the catch-all ERR -> verdict, by how the text goes on.
_BY_TEXT: Final = (
    ("max number of clients", Verdict.RECONNECT),
    ("invalid cursor", Verdict.RESTART),
    ("invalid password", Verdict.UNAUTHENTICATED),
    ("operation not permitted", Verdict.UNAUTHENTICATED),
)

# redis-py does not annotate it.
_parse = cast("Callable[[str], redis_errors.RedisError]", cast("Any", BaseParser).parse_error)


def parse_error_reply(text: str) -> redis_errors.RedisError:
    """An error reply as the exception that redis-py's users expect, by redis-py's own mapping.

    An unknown command's reply repeats its arguments, which may be keys: that part is cut off. What else it repeats may
    be made for whoever reads it at a terminal, and is made harmless.
    """
    text = printable(text.partition(", with args beginning with:")[0])
    try:
        return _parse(text)
    except ValueError:
        # A redirection that leads nowhere: a script may answer with any text.
        return redis_errors.ResponseError(text)


def error_code(error: redis_errors.RedisError) -> str:
    """The code of an error reply ("LOADING", "NOPERM", ...), "ERR" where the server gave none."""
    if error.status_code:
        return error.status_code
    word = str(error).partition(" ")[0]
    # A script's own text may begin with anything, a key for instance.
    return word if word.isupper() and word.replace("_", "").isalnum() else "ERR"


def verdict_of(error: redis_errors.RedisError) -> Verdict:
    """What is to be done about an error reply (as made by `parse_error_reply`)."""
    if (verdict := _BY_CODE.get(error_code(error))) is not None:
        return verdict
    text = str(error).removeprefix("ERR ").lower()
    for start, by_text in _BY_TEXT:
        if text.startswith(start):
            return by_text
    return Verdict.REFUSED
