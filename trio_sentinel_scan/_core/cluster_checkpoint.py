"""Checkpoints of a cluster's scan: which slots are done, and where each lane under way stands.

A lane is gone on with only where nothing has happened: its node's process answers still, and the slots are its owner's,
at the owner's config epoch before the lane's first SCAN, and on their way neither then nor now. What the text does not
say, or what has changed since, is swept from its start. So a text can be too old, and never wrong.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from .checkpoint import STORE_NAME, Checkpoint, SeenNumber, check_scope, parse_checkpoint, sealed, unsealed
from .cursor import CursorFormat
from .errors import CheckpointInvalid
from .identity import Address, ServerIdentity
from .lane_segments import parts_of, swept_in
from .lanes import Lane
from .segments import MAX_SEGMENTS
from .slots import NO_SLOTS, SLOTS, SlotSet, ranges_of, set_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .checkpoint import Scope
    from .lanes import Decoding
    from .seen_keys import DurableSeenKeys

__all__ = ["FAMILY", "ClusterCheckpoint", "ClusterMark", "LaneMark", "parse_any_checkpoint", "parse_cluster_checkpoint"]

FAMILY: Final = "tssc"
_FORMATS: Final = (CursorFormat.UNKNOWN, CursorFormat.REVERSED, CursorFormat.SLOTS)
_ROLES: Final = ("", "master", "slave")
_BY_MAJORITY, _KNOWS_WANTED, _HAS_SEEN = 1, 2, 4
# The most bytes that a text may unfold to: one with a chain of cursors for every slot has less.
_MOST: Final = 1 << 20
# The most bytes of a number: cursors are the largest, with one more than 64 bits.
_NUMBER: Final = 10


class LaneMark(NamedTuple):
    """Where one lane stands."""

    lane: Lane
    # Those of its slots to go on with: not judged yet, and not on their way before its first SCAN.
    slots: SlotSet
    # The owner's config epoch before its first SCAN.
    owner_epoch: int
    # The process that has issued the cursors, and what it said of itself.
    server: ServerIdentity
    role: str
    form: CursorFormat
    # One for each segment; None where that has come to its end.
    cursors: Sequence[int | None]

    def lane_for(self, number: int, slots: SlotSet, decoding: Decoding | None) -> Lane:
        """The lane that goes on, for these of its slots. The cursors are those of the division that there was."""
        lane = self.lane
        return replace(lane, number=number, slots=slots, swept=swept_in(lane), decoding=decoding)

    def __repr__(self) -> str:
        return f"<LaneMark of {self.lane} at {self.server}>"

    def resumed(self) -> Checkpoint:
        """What the lane's plan is to go on from."""
        return Checkpoint(
            self.lane.epoch, self.server, self.role, self.owner_epoch, self.form, tuple(self.cursors), None
        )


class ClusterCheckpoint(NamedTuple):
    """Where a cluster's scan stands."""

    # Whether a majority has named the owners of what is done.
    by_majority: bool
    # Clean or covered.
    done: SlotSet
    # Of one node alone: the slots that it had in the beginning and has not let go, and those that it has. None: they
    # were not known yet, or all are wanted.
    wanted: SlotSet | None
    let_go: SlotSet
    # The numbers of slots' next sweeps, other than 0.
    epochs: tuple[tuple[int, SlotSet], ...]
    lanes: tuple[LaneMark, ...]

    def __repr__(self) -> str:
        # A set of slots is a number of five thousand digits: more than Python writes.
        return f"<ClusterCheckpoint with {self.done.bit_count()} slots done and {len(self.lanes)} lanes>"


@dataclass(slots=True, eq=False)
class ClusterMark:
    """Where a cluster's scan stands when a page, and all before it, have been handed out. Never changes."""

    scope: Scope
    stand: ClusterCheckpoint
    seen: DurableSeenKeys | None = None
    # The store's number then; and what it was called.
    seen_number: int = field(default=0, init=False)
    seen_name: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        if self.seen is not None:
            self.seen_number, self.seen_name = self.seen.number, self.seen.name

    def text(self) -> str:
        """The checkpoint as a text. The seen keys that it counts on are committed first."""
        seen = None
        if self.seen is not None:
            self.seen.commit()
            seen = SeenNumber(self.seen_name, self.seen_number)
        return _encode(self.scope, self.stand, seen)


# ---- the text --------------------------------------------------------------------------------------------------
#
# "tssc1." and base64url of a CRC and, compressed: the digests of what is scanned; flags; the store of seen keys, if
# there is one; the slots that are done; what one node has of them, if that is known; epochs; and the lanes. Numbers
# are of seven bits a byte, the lowest first; sets of slots are ranges, each told by the gap before it and its length.


def _encode(scope: Scope, stand: ClusterCheckpoint, seen: SeenNumber | None) -> str:
    flags = _BY_MAJORITY if stand.by_majority else 0
    if stand.wanted is not None:
        flags |= _KNOWS_WANTED
    parts = [*scope.digests().values(), bytes([flags | (_HAS_SEEN if seen is not None else 0)])]
    if seen is not None:
        parts += [seen.name, struct.pack(">Q", seen.number)]
    parts.append(_set(stand.done))
    if stand.wanted is not None:
        parts += [_set(stand.wanted), _set(stand.let_go)]
    parts.append(_number(len(stand.epochs)))
    for epoch, slots in stand.epochs:
        parts += [_number(epoch), _set(slots)]
    lanes = [lane for lane in stand.lanes if _can_go_on(lane)]
    parts.append(_number(len(lanes)))
    for lane in lanes:
        parts += _lane(lane)
    return sealed(FAMILY, zlib.compress(b"".join(parts), 9))


def _can_go_on(lane: LaneMark) -> bool:
    """Whether there is anything that it would be of use for, and a process that could be known again."""
    return lane.slots != NO_SLOTS and lane.server.run_id is not None and len(lane.cursors) > 0


def _lane(this: LaneMark) -> list[bytes]:
    lane, server = this.lane, this.server
    return [
        _name(lane.node_id),
        _name("" if lane.owner_id == lane.node_id else lane.owner_id),
        _set(this.slots),
        _set(swept_in(lane) if this.form is CursorFormat.SLOTS else NO_SLOTS),
        _number(lane.parts),
        _number(lane.epoch),
        _number(this.owner_epoch),
        _name(server.run_id or ""),
        _name(server.address.host),
        _number(server.address.port),
        bytes([_ROLES.index(this.role), _FORMATS.index(this.form)]),
        _number(len(this.cursors)),
        *[_number(0 if cursor is None else cursor + 1) for cursor in this.cursors],
    ]


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _set(slots: SlotSet) -> bytes:
    ranges = list(ranges_of(slots))
    found, at = [_number(len(ranges))], 0
    for first, last in ranges:
        found += [_number(first - at), _number(last - first)]
        at = last + 1
    return b"".join(found)


def _name(text: str) -> bytes:
    """Most are hexadecimal, and take half the room as bytes."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if data and data.hex() == text:
        return _number(len(data) << 1 | 1) + data
    data = text.encode("utf-8", "surrogateescape")
    return _number(len(data) << 1) + data


def parse_cluster_checkpoint(text: object, scope: Scope | None) -> Checkpoint:
    """Read the checkpoint of a cluster's scan. Raises CheckpointInvalid, and says why, as `parse_checkpoint` does."""
    data = unsealed(FAMILY, text)
    try:
        unfolded = zlib.decompressobj()
        body = unfolded.decompress(data, _MOST)
        if not unfolded.eof or unfolded.unused_data:
            raise CheckpointInvalid("is a damaged checkpoint")
        return _decode(_Reader(body), scope)
    except (zlib.error, struct.error, ValueError, IndexError) as error:
        if isinstance(error, CheckpointInvalid):
            raise
        raise CheckpointInvalid("is a damaged checkpoint") from None


def parse_any_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint of any scan, whatever its kind."""
    if text.strip().startswith(FAMILY):
        return parse_cluster_checkpoint(text, None)
    return parse_checkpoint(text, None)


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

    def number(self) -> int:
        found = 0
        for shift in range(0, 7 * _NUMBER, 7):
            (byte,) = self.take(1)
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
        # One of a million digits would take minutes.
        raise IndexError(found)

    def set(self) -> SlotSet:
        ranges: list[tuple[int, int]] = []
        at = 0
        for _ in range(self.number()):
            first = at + self.number()
            at = first + self.number() + 1
            if at > SLOTS:
                raise IndexError(at)
            ranges.append((first, at - 1))
        return set_of(ranges)

    def name(self) -> str:
        length = self.number()
        data = self.take(length >> 1)
        return data.hex() if length & 1 else data.decode("utf-8", "surrogateescape")

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._data)


def _decode(reader: _Reader, scope: Scope | None) -> Checkpoint:
    check_scope(reader.take, scope)
    (flags,) = reader.take(1)
    seen = None
    if flags & _HAS_SEEN:
        name, (number,) = reader.take(STORE_NAME), struct.unpack(">Q", reader.take(8))
        seen = SeenNumber(name, number)
    done = reader.set()
    wanted, let_go = (reader.set(), reader.set()) if flags & _KNOWS_WANTED else (None, NO_SLOTS)
    epochs = tuple((reader.number(), reader.set()) for _ in range(reader.number()))
    lanes = tuple(_decode_lane(reader) for _ in range(reader.number()))
    taken = done
    for lane in lanes:
        # Each slot is in one place.
        if lane.slots & taken or not lane.slots:
            raise CheckpointInvalid("is a damaged checkpoint")
        taken |= lane.slots
    if not reader.is_empty:
        raise CheckpointInvalid("is a damaged checkpoint")
    stand = ClusterCheckpoint(bool(flags & _BY_MAJORITY), done, wanted, let_go, epochs, lanes)
    return Checkpoint(0, None, "", None, CursorFormat.UNKNOWN, (), seen, cluster=stand)


def _decode_lane(reader: _Reader) -> LaneMark:
    node_id = reader.name()
    owner_id = reader.name() or node_id
    slots, swept = reader.set(), reader.set()
    parts, epoch, owner_epoch = reader.number(), reader.number(), reader.number()
    run_id, host, port = reader.name(), reader.name(), reader.number()
    role, form = reader.take(2)
    cursors = [cursor - 1 if cursor else None for cursor in [reader.number() for _ in range(reader.number())]]
    # The number of its node's lane is given when it begins.
    lane = Lane(0, node_id, owner_id, slots, epoch, parts, swept=swept)
    found = LaneMark(
        lane, slots, owner_epoch, ServerIdentity(run_id, Address(host, port)), _ROLES[role], _FORMATS[form], cursors
    )
    _check_lane(found)
    return found


def _check_lane(this: LaneMark) -> None:
    """A text that was made by this release is like that; one that is not must do no harm."""
    lane = this.lane
    if not 1 <= lane.parts <= MAX_SEGMENTS:
        raise CheckpointInvalid("is a damaged checkpoint")
    if this.form is CursorFormat.SLOTS:
        fits = not this.slots & ~lane.swept and len(this.cursors) == len(parts_of(lane.swept, lane.parts))
    else:
        fits = 0 < len(this.cursors) <= MAX_SEGMENTS
    if not fits or any(cursor is not None and cursor >> 64 for cursor in this.cursors):
        raise CheckpointInvalid("is a damaged checkpoint")
