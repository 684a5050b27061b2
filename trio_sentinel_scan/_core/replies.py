"""Replies as typed values: RESP2 and RESP3 say the same things in different shapes, and bytes may be text already."""

from __future__ import annotations

from typing import Any, TypeGuard

__all__ = ["as_fields", "as_list", "as_port", "as_text", "is_list", "printable"]


def as_text(value: object) -> str:
    """A string of a reply as `str`, whether or not the connection decodes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def as_port(value: object) -> int:
    """A port of TCP that a server names. Raises ValueError.

    Not 0: that stands for a Unix socket in an `Address`, and no server has to send us to one of this machine's.
    """
    # (By way of text: of a RESP3 double there may be no int at all.)
    port = int(as_text(value))
    if not 0 < port < 65536:
        raise ValueError("a port that cannot be")
    return port


def printable(text: str) -> str:
    r"""What a server says, as it may stand in a log or in a message: one line, and nothing that a terminal acts on.

    What is not printable becomes ``\x1b`` and the like.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_list(reply: object) -> list[Any] | None:
    """A reply that is a list, as one; None if it is something else."""
    return reply if is_list(reply) else None


def as_fields(reply: object) -> dict[str, str]:
    """Names and values, as a map (RESP3) or a flat list (RESP2), in text; empty if the reply is neither."""
    if _is_map(reply):
        return {as_text(name): as_text(value) for name, value in reply.items()}
    flat = as_list(reply) or []
    return {as_text(name): as_text(value) for name, value in zip(flat[::2], flat[1::2], strict=False)}


def is_list(reply: object) -> TypeGuard[list[Any]]:
    """Whether a reply is a list."""
    return isinstance(reply, list)


def _is_map(reply: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(reply, dict)
