"""Proxies, and products that only speak Redis's protocol: what of their word a cursor may rest on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from .cursor import CursorFormat
from .errors import ConfigError
from .identity import Role, ServerIdentity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .certificate import Basis
    from .scan_steps import Connected

__all__ = ["as_believed", "checked_extra_args"]

# What has an argument of its own.
_OWN_WORDS: Final = {b"MATCH": "match", b"COUNT": "count", b"TYPE": "type_"}


def checked_extra_args(value: object, *, encoding: str, has_sentinels: bool) -> tuple[bytes, ...]:
    """The words to append to each SCAN, as they are sent."""
    if not isinstance(value, (tuple, list)):
        raise ConfigError("extra_args", f"must be a tuple or list of words (str or bytes), not {type(value).__name__}")
    words = tuple(_checked_word(word, encoding) for word in cast("Sequence[Any]", value))
    if words and has_sentinels:
        raise ConfigError(
            "extra_args",
            "are for a proxy, and Sentinels name a server, not a proxy: use RedisClient with the proxy's address",
        )
    return words


def _checked_word(word: object, encoding: str) -> bytes:
    if isinstance(word, str):
        try:
            word = word.encode(encoding, "surrogateescape")
        except UnicodeEncodeError:
            raise ConfigError("extra_args", f"cannot be written in the client's encoding, {encoding}") from None
    if not isinstance(word, bytes):
        raise ConfigError("extra_args", f"must be words as str or bytes, not {type(word).__name__}")
    if not word:
        raise ConfigError("extra_args", "has an empty word in it")
    if (argument := _OWN_WORDS.get(word.upper())) is not None:
        raise ConfigError("extra_args", f"SCAN's {word.upper().decode()} has an argument of its own, {argument}")
    return word


def as_believed(found: Connected, basis: Basis, *, format_distrusted: bool) -> Connected:
    """What a server said of itself, less what does not tell whether a cursor is good there.

    Behind a proxy INFO and ROLE are any node's: neither a process nor a role nor the format of the cursors, which the
    proxy makes. And a `run_id` means the process, and with it the life of a cursor, in Redis and Valkey only: others
    have it for compatibility, keep it in a file over restarts, or pass on a node's. So a server whose cursors are
    not of a known format counts as one that does not tell who it is: each new connection to it is another process.
    """
    if basis == "proxy":
        nobody = ServerIdentity(None, found.server.address)
        return replace(found, server=nobody, role=Role(""), cursor_format=CursorFormat.UNKNOWN, unfit="")
    if format_distrusted or found.cursor_format is CursorFormat.UNKNOWN:
        return replace(found, server=ServerIdentity(None, found.server.address))
    return found
