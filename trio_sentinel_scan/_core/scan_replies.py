"""Reading the replies that a scan gets."""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from redis import exceptions as redis_errors

from .cursor import parse_cursor
from .errors import ConfigError, ProtocolError
from .handshake import read_role, read_run_id
from .identity import Role
from .replies import as_fields, is_list
from .verdicts import Verdict, error_code, verdict_of
from .wire import encode_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .identity import Address
    from .scan_options import ScanOptions
    from .wire import Argument, Reply

__all__ = ["ROLE_REQUEST", "STANDING", "ScanEncoder", "ScanReply", "read_scan_replies", "read_standing"]

# What is asked for a certificate, on the scan's own connection. HELLO tells a role where ROLE is forbidden.
STANDING: tuple[tuple[Argument, ...], ...] = (("ROLE",), ("INFO", "server"), ("HELLO",))

# A number of fewer digits than this is surely below 2**64.
_MANY_DIGITS: Final = 20


# What a SCAN brought, its cursor and keys (a bare tuple, for there are many); the answer to a ROLE; an error reply;
# what is said of one key, as it came.
ScanReply: TypeAlias = "tuple[int, list[Any]] | Role | redis_errors.RedisError | bytes | str | int | None"

# It rides along with the SCANs, now and then.
ROLE_REQUEST: Final = encode_command("ROLE")
# What a reply to it begins with.
_ROLES: Final = (b"master", b"slave", "master", "slave")
# What is said of one key.
_SCALARS: Final = (bytes, str, int, NoneType)


def read_scan_replies(replies: Sequence[Reply], address: Address, *, details: bool = False) -> list[ScanReply]:
    """Replies to SCANs, and to the ROLEs and (with `details`) the questions about keys between them.

    Raises ProtocolError if one is none of these.
    """
    found: list[ScanReply] = []
    for reply in replies:
        if is_list(reply) and len(reply) == 2:
            cursor, keys = reply
            # One key stands for all: looking at each would cost a fifth of the time that a page takes.
            if (
                is_list(keys)
                and (not keys or isinstance(keys[0], (bytes, str)))
                and (number := _cursor_in(cursor)) is not None
            ):
                found.append((number, keys))
                continue
        elif is_list(reply) and reply and reply[0] in _ROLES:
            found.append(read_role(reply))
            continue
        if not isinstance(reply, redis_errors.RedisError) and not (details and isinstance(reply, _SCALARS)):
            raise ProtocolError(f"{address} answered SCAN with something else than a cursor and a list of keys")
        found.append(reply)
    return found


def _cursor_in(reply: Reply) -> int | None:
    # What servers send, first: there are many.
    if isinstance(reply, bytes) and reply.isdigit() and len(reply) < _MANY_DIGITS:
        return int(reply)
    try:
        return parse_cursor(reply)
    except ConfigError:
        return None


class ScanEncoder:
    """SCAN commands as RESP. There are many in a scan, and they differ by cursor and COUNT alone."""

    def __init__(self, options: ScanOptions) -> None:
        begin: tuple[Argument, ...] = ("SCAN",)
        words: list[Argument] = []
        if options.collection is not None:
            begin = (options.collection.command, options.collection.key)
        if options.match is not None:
            words += (b"MATCH", options.match)
        if options.type_ is not None:
            words += (b"TYPE", options.type_)
        if options.collection is not None and options.collection.no_values:
            words.append(b"NOVALUES")
        # *<n>, SCAN (or HSCAN and a key, ...), <cursor>, and then what stays the same.
        self._head = b"*%d\r\n%b" % (
            len(begin) + 3 + len(words) + len(options.extra_args),
            encode_command(*begin).partition(b"\r\n")[2],
        )
        self._constant = encode_command(*words).partition(b"\r\n")[2] if words else b""
        self._end = encode_command(*options.extra_args).partition(b"\r\n")[2] if options.extra_args else b""
        self._tails: dict[int, bytes] = {}

    def encode(self, cursor: int, count: int) -> bytes:
        """The SCAN that goes on at `cursor`."""
        tail = self._tails.get(count)
        if tail is None:
            if len(self._tails) > 1000:
                self._tails.clear()
            digits = b"%d" % count
            tail = b"\r\n%b$5\r\nCOUNT\r\n$%d\r\n%b\r\n%b" % (self._constant, len(digits), digits, self._end)
            self._tails[count] = tail
        digits = b"%d" % cursor
        return b"%b$%d\r\n%b%b" % (self._head, len(digits), digits, tail)


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
