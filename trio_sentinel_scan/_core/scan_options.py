"""What `open_scan` was asked for: checked once, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from .cursor import parse_cursor
from .errors import ConfigError

if TYPE_CHECKING:
    from .certificate import Basis
    from .wire import Argument

__all__ = ["DEFAULT_COUNT", "ScanOptions", "checked_scan_options"]

# One SCAN of this size keeps a server from its other clients for about half a millisecond.
DEFAULT_COUNT: Final = 1000

_BUILTIN_TYPES: Final = frozenset({"string", "list", "set", "zset", "hash", "stream", "vectorset"})
# A module's type name is always nine characters of this set (the server encodes it so in RDB files).
_MODULE_TYPE_LENGTH: Final = 9
_MODULE_TYPE_CHARS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """The checked arguments of one scan."""

    match: bytes | None = field(repr=False)
    count: int
    type_: str | None
    cursor: int
    on_failover: Literal["restart", "raise"]
    max_restarts: int
    prefetch: int
    basis: Basis

    def scan_command(self, cursor: int) -> tuple[Argument, ...]:
        """The SCAN that goes on at `cursor`."""
        command: list[Argument] = [b"SCAN", cursor]
        if self.match is not None:
            command += (b"MATCH", self.match)
        command += (b"COUNT", self.count)
        if self.type_ is not None:
            command += (b"TYPE", self.type_)
        return tuple(command)


def checked_scan_options(
    *,
    match: object,
    count: object,
    type_: object,
    cursor: object,
    on_failover: object,
    max_restarts: object,
    prefetch: object,
    certify: object,
    has_sentinels: bool,
    encoding: str = "utf-8",
) -> ScanOptions:
    """Check the arguments of `open_scan`; a ConfigError names the one at fault."""
    if isinstance(match, str):
        try:
            match = match.encode(encoding, "surrogateescape")
        except UnicodeEncodeError:
            raise ConfigError("match", f"cannot be written in the client's encoding, {encoding}") from None
    elif match is not None and not isinstance(match, bytes):
        raise ConfigError("match", f"must be a glob-style pattern as str or bytes, not {type(match).__name__}")
    if on_failover not in ("restart", "raise"):
        raise ConfigError("on_failover", 'must be "restart" or "raise"')
    if certify not in ("sentinels", "role"):
        raise ConfigError("certify", 'must be "sentinels" or "role"')
    basis: Basis = "server"
    if has_sentinels:
        basis = "role" if certify == "role" else "sentinels"
    return ScanOptions(
        match=match,
        count=DEFAULT_COUNT if count is None else _whole_number(count, "count", at_least=1),
        type_=None if type_ is None else _checked_type(type_),
        cursor=parse_cursor(cursor),
        on_failover=on_failover,
        max_restarts=_whole_number(max_restarts, "max_restarts", at_least=0),
        prefetch=_whole_number(prefetch, "prefetch", at_least=0),
        basis=basis,
    )


def _whole_number(value: object, argument: str, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value < 1 << 31:
        raise ConfigError(argument, f"must be a whole number from {at_least}")
    return value


def _checked_type(value: object) -> str:
    # Older servers answer an unknown type with an empty result and no error, which looks like an empty keyspace.
    if not isinstance(value, str):
        raise ConfigError("type_", f"must be str, not {type(value).__name__}")
    looks_like_a_module = len(value) == _MODULE_TYPE_LENGTH and _MODULE_TYPE_CHARS.issuperset(value)
    if value.lower() not in _BUILTIN_TYPES and not looks_like_a_module:
        raise ConfigError(
            "type_",
            "no server knows this type; there are " + ", ".join(sorted(_BUILTIN_TYPES)) + " and those of modules",
        )
    return value
