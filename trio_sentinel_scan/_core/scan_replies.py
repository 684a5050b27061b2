"""Reading the replies that a scan gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis import exceptions as redis_errors

from .cursor import parse_cursor
from .errors import ConfigError, ProtocolError
from .handshake import read_role, read_run_id
from .identity import Role
from .replies import as_fields, as_list
from .scan_steps import Refused, Replied
from .verdicts import Verdict, error_code, verdict_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .identity import Address
    from .wire import Argument, Reply

__all__ = ["STANDING", "read_scan_reply", "read_standing"]

# What is asked for a certificate, on the scan's own connection. HELLO tells a role where ROLE is forbidden.
STANDING: tuple[tuple[Argument, ...], ...] = (("ROLE",), ("INFO", "server"), ("HELLO",))


def read_scan_reply(reply: Reply, address: Address) -> Replied | Refused:
    """A reply to SCAN. Raises ProtocolError if it is none."""
    if isinstance(reply, redis_errors.RedisError):
        return Refused(reply)
    pair = as_list(reply)
    # One key stands for all: looking at each would cost a fifth of the time that a page takes.
    if (
        pair is not None
        and len(pair) == 2
        and (keys := as_list(pair[1])) is not None
        and (not keys or isinstance(keys[0], (bytes, str)))
    ):
        try:
            return Replied(parse_cursor(pair[0]), keys)
        except ConfigError:
            pass
    raise ProtocolError(f"{address} answered SCAN with something else than a cursor and a list of keys")


def read_standing(replies: Sequence[Reply], before: Role) -> tuple[str | None, Role] | str:
    """The run_id and role in the replies to `STANDING`; or, as text, why the server does not tell now.

    Where it may tell neither ROLE nor HELLO's role, its role is taken to be what it was.
    """
    role_reply, info_reply, hello_reply = replies
    for reply in (role_reply, info_reply):
        if isinstance(reply, redis_errors.RedisError) and verdict_of(reply) is Verdict.WAIT:
            return f"the server answers {error_code(reply)}"
    hello_role = "" if isinstance(hello_reply, Exception) else as_fields(hello_reply).get("role", "")
    return read_run_id(info_reply), read_role(role_reply, hello_role=hello_role or before.kind)
