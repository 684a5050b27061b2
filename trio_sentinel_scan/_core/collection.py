"""One hash, set or sorted set: what it is scanned with, what its replies hold, and whether it is there.

Two things set it apart from the keyspace. A key that is not there answers as one whose scan has come to its end, so its
size is asked for, too: when a pass is bound to a server, and with the certificate. And a small one is kept as a list,
which a server gives as a whole whatever cursor it is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from redis import exceptions as redis_errors

from .cursor import is_foreign, version_of
from .errors import ProtocolError
from .identity import Role
from .scan_replies import read_scan_replies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .identity import Address
    from .scan_replies import ScanReply
    from .wire import Argument, Reply

__all__ = ["Collection", "CollectionType", "KeyFound", "knows_novalues", "read_size"]

CollectionType: TypeAlias = Literal["hash", "set", "zset"]

# By type: the command that scans it, the one that tells its size, and its name in sentences.
_COMMANDS: Final = {
    "hash": ("HSCAN", "HLEN", "hash"),
    "set": ("SSCAN", "SCARD", "set"),
    "zset": ("ZSCAN", "ZCARD", "sorted set"),
}


@dataclass(frozen=True, slots=True)
class Collection:
    """What `open_hscan`, `open_sscan` or `open_zscan` is to scan."""

    type_: CollectionType
    key: bytes = field(repr=False)
    # Of a hash: the fields alone.
    no_values: bool = False

    @property
    def command(self) -> str:
        """What scans it."""
        return _COMMANDS[self.type_][0]

    @property
    def size_command(self) -> str:
        """What tells its size: 0 where there is no such key, and an error where that holds something else."""
        return _COMMANDS[self.type_][1]

    @property
    def name(self) -> str:
        """The type in words."""
        return _COMMANDS[self.type_][2]

    @property
    def size_request(self) -> tuple[Argument, ...]:
        """The command to be sent for its size."""
        return (self.size_command, self.key)

    @property
    def scope(self) -> tuple[bytes, ...]:
        """What tells a checkpoint of it from one of something else."""
        return (self.command.encode(), self.key)

    @property
    def has_pairs(self) -> bool:
        """Whether an item is a name and what belongs to it."""
        return self.type_ == "zset" or (self.type_ == "hash" and not self.no_values)

    def read_replies(self, replies: Sequence[Reply], address: Address) -> list[ScanReply]:
        """As `read_scan_replies`, with items in place of keys. Raises ProtocolError."""
        found = read_scan_replies(replies, address)
        if not self.has_pairs:
            return found
        try:
            return [
                # (A Role is a tuple, too.)
                (reply[0], self._pairs(reply[1])) if isinstance(reply, tuple) and not isinstance(reply, Role) else reply
                for reply in found
            ]
        except (TypeError, ValueError):
            raise ProtocolError(f"{address} answered {self.command} with something else than pairs") from None

    def _pairs(self, flat: list[Any]) -> list[Any]:
        words = iter(flat)
        return list(zip(words, map(float, words) if self.type_ == "zset" else words, strict=True))


class KeyFound(NamedTuple):
    """What a server says on a new connection: the collection's size, or an error reply; and whether it has NOVALUES."""

    size: int | redis_errors.RedisError
    # None where it does not tell what it is.
    knows_novalues: bool | None = None


def read_size(reply: Reply, address: Address) -> int | redis_errors.RedisError:
    """The reply to a collection's `size_request`: a size, or an error reply. Raises ProtocolError."""
    if isinstance(reply, redis_errors.RedisError) or (isinstance(reply, int) and reply >= 0):
        return reply
    raise ProtocolError(f"{address} answered with something else than the size of a collection")


def knows_novalues(server_info: Mapping[str, str]) -> bool | None:
    """Whether HSCAN takes NOVALUES on the server that describes itself so (INFO server): Redis 7.4, Valkey 8.0.

    None for other products, which count their versions in their own way, and for servers that do not tell.
    """
    valkey = server_info.get("valkey_version")
    version = version_of(valkey or server_info.get("redis_version") or "")
    if version is None or is_foreign(server_info):
        return None
    return version >= ((8, 0) if valkey else (7, 4))
