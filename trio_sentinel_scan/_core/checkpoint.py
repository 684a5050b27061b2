"""Checkpoints: where a scan stands, as a small text that another process can go on from.

It has the cursors and the identity of the process that issued them, so it is worth something for as long as that
process lives. What is scanned is in it as digests: no key, no pattern, no password can be read from it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from .cursor import CursorFormat
from .errors import CheckpointInvalid
from .identity import Address, ServerIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .cluster_checkpoint import ClusterCheckpoint, ClusterMark
    from .lanes import Lane
    from .seen_keys import DurableSeenKeys

__all__ = [
    "STORE_NAME",
    "Checkpoint",
    "Mark",
    "PassFacts",
    "Scope",
    "SeenNumber",
    "check_scope",
    "heir",
    "parse_checkpoint",
    "sealed",
    "unsealed",
]

_FAMILY: Final = "tss"
_VERSION: Final = 1
# The families of texts, and what they are of.
_KINDS: Final = {_FAMILY: "one server", "tssc": "a cluster"}
_FORMATS: Final = (CursorFormat.UNKNOWN, CursorFormat.REVERSED, CursorFormat.SLOTS)
_ROLES: Final = ("", "master", "slave")
_DIGEST: Final = 6
_HEIR: Final = 4
# The length of a store's name.
STORE_NAME: Final = 8


class SeenNumber(NamedTuple):
    """Which store of seen keys a checkpoint belongs to, and how far that was."""

    name: bytes
    number: int


class Scope(NamedTuple):
    """What is scanned. A checkpoint of one scope is of no use to another."""

    db: int
    match: bytes | None
    type_: str | None
    # A collection's command and key, and words added to the command.
    other: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        # A pattern and a key are the caller's.
        return f"<Scope in database {self.db}>"

    def digests(self) -> dict[str, bytes]:
        """Each part, by the name of the argument that it came from, as a digest."""
        return {
            "match": _digest(b"match", () if self.match is None else (self.match,)),
            "type_": _digest(b"type", () if self.type_ is None else (self.type_.lower().encode(),)),
            "what is scanned": _digest(b"other", self.other),
        }


_ANY: Final = Scope(0, None, None)


@dataclass(frozen=True, slots=True)
class PassFacts:
    """What stays the same all through a pass, as far as a checkpoint is concerned."""

    scope: Scope
    epoch: int
    # The process that has issued the cursors; None if there are none yet.
    server: ServerIdentity | None = None
    # What it said of itself then: "master" or "slave"; "" where it would not say.
    role: str = ""
    config_epoch: int | None = None
    form: CursorFormat = CursorFormat.UNKNOWN
    # With a hash seed that all nodes share: enough of digests of the server's release and, if it was told, of the seed
    # to notice others. b"": nobody has said that they share one.
    seed_check: bytes = b""
    # With such a seed: who can go on with the pass, as digests of their addresses (`heir`).
    heirs: frozenset[bytes] = frozenset()
    # The part of a cluster's scan that it is.
    lane: Lane | None = None


@dataclass(slots=True)
class Mark:
    """Where a pass stands when a page, and all before it, have been handed out."""

    facts: PassFacts
    # One for each segment: where its chain goes on, or None where it has come to its end. Empty: nothing is swept.
    cursors: Sequence[int | None] = ()
    # The store of seen keys, and its number once the page has been handed out.
    seen: DurableSeenKeys | None = None
    seen_number: int = 0
    # What the store was called then: one that was cleared since has another name, and gives its numbers anew.
    seen_name: bytes = field(default=b"", init=False)
    # Of a lane: where the whole scan of the cluster stands. None until the page is handed out.
    whole: ClusterMark | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.seen is not None:
            self.seen_name = self.seen.name

    def text(self) -> str:
        """The checkpoint as a text. The seen keys that it counts on are committed first."""
        if self.whole is not None:
            return self.whole.text()
        seen = None
        if self.seen is not None:
            self.seen.commit()
            seen = SeenNumber(self.seen_name, self.seen_number)
        return _encode(self.facts, self.cursors, seen)


class Checkpoint(NamedTuple):
    """A checkpoint's text, read and checked."""

    epoch: int
    # None where nothing had been swept yet.
    server: ServerIdentity | None
    role: str
    config_epoch: int | None
    form: CursorFormat
    cursors: tuple[int | None, ...]
    seen: SeenNumber | None
    seed_check: bytes = b""
    heirs: frozenset[bytes] = frozenset()
    # Of a cluster's scan: where that stands. None of what is before it says anything then, but for `seen`.
    cluster: ClusterCheckpoint | None = None


def heir(address: Address) -> bytes:
    """A server that may go on with a pass, as it is in a checkpoint."""
    return _digest(b"heir", (str(address).encode("utf-8", "surrogateescape"),))[:_HEIR]


def _digest(label: bytes, parts: Sequence[bytes]) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST, person=label)
    for part in parts:
        digest.update(struct.pack(">I", len(part)) + part)
    return digest.digest()


# ---- the text --------------------------------------------------------------------------------------------------
#
# "tss1." and base64url of: database, epoch, config epoch plus one (0 for none), format, the digests; whether there is
# a server and, if so, its run_id, host, port and role; whether there are seen keys and, if so, the store's name and
# number; what is known of a shared hash seed (a length, and two bytes for the release and two for the seed); how many
# heirs there are, and they; the number of segments, a bit for each that has ended, and eight bytes for each cursor of
# the others; a CRC of it all.


def _encode(facts: PassFacts, cursors: Sequence[int | None], seen: SeenNumber | None) -> str:
    config_epoch = 0 if facts.config_epoch is None else facts.config_epoch + 1
    server = facts.server
    parts = [struct.pack(">IIQB", facts.scope.db, facts.epoch, config_epoch, _FORMATS.index(facts.form))]
    parts += facts.scope.digests().values()
    parts.append(bytes([server is not None]))
    if server is not None:
        parts += [_short(server.run_id or ""), _short(server.address.host)]
        parts.append(struct.pack(">HB", server.address.port, _ROLES.index(facts.role)))
    parts.append(bytes([seen is not None]))
    if seen is not None:
        parts += [seen.name, struct.pack(">Q", seen.number)]
    parts.append(bytes([len(facts.seed_check)]) + facts.seed_check)
    parts.append(struct.pack(">H", len(facts.heirs)) + b"".join(sorted(facts.heirs)))
    ended = sum(1 << index for index, cursor in enumerate(cursors) if cursor is None)
    parts.append(struct.pack(">H", len(cursors)) + ended.to_bytes(-(-len(cursors) // 8), "big"))
    parts += [struct.pack(">Q", cursor) for cursor in cursors if cursor is not None]
    body = b"".join(parts)
    return sealed(_FAMILY, body)


def sealed(family: str, body: bytes) -> str:
    """A text of this family, with a check sum."""
    return f"{family}{_VERSION}.{_letters(body + struct.pack('>I', crc32(body)))}"


def _letters(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _short(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack(">H", len(data)) + data


def parse_checkpoint(text: object, scope: Scope | None) -> Checkpoint:
    """Read a checkpoint's text. Raises CheckpointInvalid, and says why: damaged, foreign, of a later version, or of
    another scan than `scope` (None: any).
    """
    body = unsealed(_FAMILY, text)
    try:
        return _decode(_Reader(body), scope)
    except (struct.error, ValueError, IndexError) as error:
        if isinstance(error, CheckpointInvalid):
            raise
        raise CheckpointInvalid("is a damaged checkpoint") from None


def unsealed(family: str, text: object) -> bytes:
    """What is in a text of this family. Raises CheckpointInvalid."""
    if not isinstance(text, str):
        raise CheckpointInvalid(f"must be a checkpoint's text (page.checkpoint), not {type(text).__name__}")
    head, dot, rest = text.strip().partition(".")
    found = head.rstrip("0123456789")
    version = head.removeprefix(found)
    if not dot or found not in _KINDS or not version:
        raise CheckpointInvalid("is not a checkpoint of a scan of this package")
    if found != family:
        raise CheckpointInvalid(f"is a checkpoint of a scan of {_KINDS[found]}, and this client is of {_KINDS[family]}")
    if version != str(_VERSION):
        raise CheckpointInvalid(
            f"is a checkpoint of version {version[:9]}, and this package reads version {_VERSION}: it was written by"
            " another release"
        )
    try:
        data = base64.b64decode(rest + "=" * (-len(rest) % 4), altchars=b"-_", validate=True)
        body, check = data[:-4], data[-4:]
        # (Not every bit of the last letter counts.)
        if struct.pack(">I", crc32(body)) != check or _letters(data) != rest:
            raise CheckpointInvalid("is a damaged checkpoint: its check sum is wrong")
    except (binascii.Error, struct.error, ValueError) as error:
        if isinstance(error, CheckpointInvalid):
            raise
        raise CheckpointInvalid("is a damaged checkpoint") from None
    return body


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise IndexError(size)
        self._at += size
        return found

    def number(self, form: str) -> int:
        (found,) = struct.unpack(">" + form, self.take(struct.calcsize(form)))
        return int(found)

    def short(self) -> str:
        return self.take(self.number("H")).decode("utf-8", "surrogateescape")

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._data)


def check_scope(take: Callable[[int], bytes], scope: Scope | None) -> None:
    """Read the digests of a scope, and raise CheckpointInvalid if they are not this one's (None: any)."""
    for argument, digest in (scope or _ANY).digests().items():
        if take(_DIGEST) != digest and scope is not None:
            raise CheckpointInvalid(f"is a checkpoint of another scan: {argument} was not the same")


def _decode(reader: _Reader, scope: Scope | None) -> Checkpoint:
    db, epoch, config_epoch, form = (reader.number(size) for size in "IIQB")
    if scope is not None and db != scope.db:
        raise CheckpointInvalid(f"is a checkpoint of database {db}, and this client's is {scope.db}")
    check_scope(reader.take, scope)
    server, role = None, ""
    if reader.take(1) != b"\0":
        run_id, host, port = reader.short(), reader.short(), reader.number("H")
        server, role = ServerIdentity(run_id or None, Address(host, port)), _ROLES[reader.number("B")]
    seen = SeenNumber(reader.take(STORE_NAME), reader.number("Q")) if reader.take(1) != b"\0" else None
    seed_check = reader.take(reader.number("B"))
    heirs = frozenset(reader.take(_HEIR) for _ in range(reader.number("H")))
    number = reader.number("H")
    ended = int.from_bytes(reader.take(-(-number // 8)), "big")
    cursors = tuple(None if ended >> index & 1 else reader.number("Q") for index in range(number))
    if not reader.is_empty or (server is None) != (number == 0):
        raise CheckpointInvalid("is a damaged checkpoint")
    known_epoch = config_epoch - 1 if config_epoch else None
    return Checkpoint(epoch, server, role, known_epoch, _FORMATS[form], cursors, seen, seed_check, heirs)
