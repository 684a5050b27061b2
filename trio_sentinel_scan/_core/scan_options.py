"""What `open_scan` was asked for: checked once, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, cast

from .checkpoint import STORE_NAME, Checkpoint, Scope, parse_checkpoint
from .cluster_checkpoint import parse_cluster_checkpoint
from .compact_seen import CompactSeen
from .cursor import parse_cursor
from .details import MOST_KEYS, Wanted, checked_details
from .errors import CheckpointInvalid, ConfigError, SeenKeysUnavailable
from .other_products import checked_extra_args
from .seen_keys import ExactSeen, SeenKeys, durable
from .segments import MAX_SEGMENTS

if TYPE_CHECKING:
    from .certificate import Basis
    from .collection import Collection
    from .lanes import Lane

__all__ = ["ScanOptions", "check_seen_keys", "checked_scan_options"]

_BUILTIN_TYPES: Final = frozenset({"string", "list", "set", "zset", "hash", "stream", "vectorset"})
# A module's type name is always nine characters of this set (the server encodes it so in RDB files).
_MODULE_TYPE_LENGTH: Final = 9
_MODULE_TYPE_CHARS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """The checked arguments of one scan."""

    match: bytes | None = field(repr=False)
    # None: it adapts.
    count: int | None
    type_: str | None
    cursor: int
    on_failover: Literal["restart", "raise"]
    max_restarts: int
    prefetch: int
    basis: Basis
    # None: as many as go well with the server and the COUNT.
    segments: int | None = None
    # The share of the server's time to take.
    duty: float = 1.0
    # The most keys in a page; None: what a read brings.
    page_size: int | None = None
    # Which keys were handed out before; None: nobody asks.
    dedupe: SeenKeys | None = None
    # Whether replicas are scanned, and the master if there is none.
    read_from: Literal["master", "replica"] = "master"
    falls_back: bool = False
    # What is scanned, and where to go on.
    scope: Scope = field(default=Scope(0, None, None), repr=False)
    resume: Checkpoint | None = field(default=None, repr=False)
    # Words at the end of each SCAN, for a proxy.
    extra_args: tuple[bytes, ...] = field(default=(), repr=False)
    # By the caller's word all nodes have one hash seed, so that a cursor is good at each of them.
    hash_seed_shared: bool = False
    # What is asked about each key; None: nothing.
    with_: Wanted | None = None
    # The one hash, set or sorted set to scan; None: the keyspace.
    collection: Collection | None = None
    # Which slots of which node, in a cluster's scan; None elsewhere.
    lane: Lane | None = None

    @property
    def command(self) -> str:
        """What is sent."""
        return "SCAN" if self.collection is None else self.collection.command


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
    segments: object = "auto",
    duty: object = 1.0,
    page_size: object = None,
    dedupe: object = False,
    resume: object = None,
    extra_args: object = (),
    hash_seed_shared: object = False,
    with_: object = (),
    collection: Collection | None = None,
    read_from: object = "master",
    fallback: object = None,
    has_sentinels: bool,
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
    decodes: bool = False,
    db: int = 0,
    of_cluster: bool = False,
    node: str | None = None,
) -> ScanOptions:
    """Check the arguments of `open_scan`; a ConfigError names the one at fault.

    `of_cluster`: the checkpoint is that of a cluster's scan, of all nodes or of one (`node`).
    """
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
    position = parse_cursor(cursor)
    basis: Basis = "server"
    if has_sentinels:
        basis = "role" if certify == "role" else "sentinels"
    words = checked_extra_args(extra_args, encoding=encoding, has_sentinels=has_sentinels)
    if words:
        basis = "proxy"
    found_type = None if type_ is None else _checked_type(type_)
    other = () if collection is None else collection.scope
    if words:
        other = (*other, b"extra_args", *words)
    if node is not None:
        other = (*other, b"node", node.encode())
    scope = Scope(db, match, found_type, other)
    seen = _checked_dedupe(dedupe)
    parse = parse_cluster_checkpoint if of_cluster else parse_checkpoint
    checkpoint = None if resume is None else parse(resume, scope)
    if position and checkpoint is not None:
        raise ConfigError("cursor", "a scan that is resumed has its cursors from the checkpoint: cursor must be 0")
    check_seen_keys(seen, checkpoint)
    size = None if page_size is None else _whole_number(page_size, "page_size", at_least=1)
    wanted = checked_details(with_, encoding=encoding, encoding_errors=encoding_errors, decodes=decodes)
    if wanted is not None:
        size = min(size or MOST_KEYS, MOST_KEYS)
    reads_replica = _checked_read_from(read_from, fallback, position, has_sentinels=has_sentinels)
    return ScanOptions(
        match=match,
        count=None if count is None else _whole_number(count, "count", at_least=1),
        type_=found_type,
        cursor=position,
        on_failover=on_failover,
        max_restarts=_whole_number(max_restarts, "max_restarts", at_least=0),
        prefetch=_whole_number(prefetch, "prefetch", at_least=0),
        basis=basis,
        segments=_checked_segments(segments, position, is_proxy=bool(words)),
        duty=_checked_share(duty, "duty"),
        page_size=size,
        dedupe=seen,
        read_from="replica" if reads_replica else "master",
        falls_back=fallback is not None,
        scope=scope,
        resume=checkpoint,
        extra_args=words,
        hash_seed_shared=_checked_hash_seed_shared(hash_seed_shared, is_proxy=bool(words), reads_replica=reads_replica),
        with_=wanted,
        collection=collection,
    )


def _whole_number(value: object, argument: str, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value < 1 << 31:
        raise ConfigError(argument, f"must be a whole number from {at_least}")
    return value


def _checked_segments(value: object, cursor: int, *, is_proxy: bool) -> int | None:
    if isinstance(value, str) and value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SEGMENTS:
        raise ConfigError("segments", f'must be "auto" or a whole number from 1 to {MAX_SEGMENTS}')
    if cursor and value > 1:
        raise ConfigError("segments", "a scan that begins at a cursor of its own is one chain: segments must be 1")
    if is_proxy and value > 1:
        raise ConfigError(
            "segments",
            "with extra_args the other side is taken to be a proxy, whose cursors are of its own making: nobody else"
            " knows where a segment would begin, so segments must be 1",
        )
    return value


def _checked_hash_seed_shared(value: object, *, is_proxy: bool, reads_replica: bool) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("hash_seed_shared", "must be True or False")
    if value and is_proxy:
        raise ConfigError(
            "hash_seed_shared",
            "cannot go with extra_args: the cursors of a proxy are of its own making, whatever its nodes' hash seed",
        )
    if value and reads_replica:
        raise ConfigError(
            "hash_seed_shared",
            'cannot go with read_from="replica": what vouches for a pass that moves is a master\'s list of replicas,'
            " and a replica that is left has none",
        )
    return value


def _checked_read_from(read_from: object, fallback: object, cursor: int, *, has_sentinels: bool) -> bool:
    """Whether replicas are to be scanned."""
    if read_from not in ("master", "replica"):
        raise ConfigError("read_from", 'must be "master" or "replica"')
    if fallback not in (None, "master"):
        raise ConfigError("fallback", 'must be None or "master"')
    if read_from == "master":
        if fallback is not None:
            raise ConfigError("fallback", 'is for scans with read_from="replica": there is nothing to fall back from')
        return False
    if not has_sentinels:
        raise ConfigError(
            "read_from",
            'with "replica", Sentinels must tell which replicas there are, and a RedisClient has none: it scans the'
            " server that it was given, which may be a replica",
        )
    if cursor:
        raise ConfigError(
            "cursor",
            'must be 0 with read_from="replica": the scan picks the replica, and a cursor means something only to the'
            " process that issued it; a checkpoint (resume) knows which one that is",
        )
    return True


def _checked_dedupe(value: object) -> SeenKeys | None:
    if isinstance(value, bool):
        return ExactSeen() if value else None
    if isinstance(value, type) or not isinstance(value, SeenKeys):
        raise ConfigError("dedupe", "must be True, False, or a filter with the methods unseen and mark (SeenKeys)")
    return value


def check_seen_keys(seen: SeenKeys | None, checkpoint: Checkpoint | None) -> None:
    """Keys that count as seen and were not handed out would be lost without a word: that is made sure of here.

    A filter's own state is looked at, so this is to be asked again when the scan begins.
    """
    store = durable(seen)
    if store is not None:
        name = cast("object", store.name)
        if not isinstance(name, bytes) or len(name) != STORE_NAME:
            raise ConfigError("dedupe", "its name must be eight bytes: checkpoints have room for that")
        try:
            # It may be closed.
            store.unseen([])
        except SeenKeysUnavailable as error:
            raise ConfigError("dedupe", str(error)) from error
        if checkpoint is None:
            if store.number:
                raise ConfigError(
                    "dedupe",
                    "has the seen keys of another scan, which this one would leave out: resume that one from its"
                    " checkpoint, or clear() the store",
                )
        elif checkpoint.seen is None or checkpoint.seen.name != store.name:
            raise CheckpointInvalid("is not a checkpoint of the scan whose seen keys are in the store given as dedupe")
    elif seen is not None and checkpoint is not None:
        raise ConfigError(
            "dedupe",
            "with resume, the seen keys must be those of the checkpoint: in memory they are not, or are later ones,"
            " whose pages are to come again; use SpillingSeen",
        )
    elif isinstance(seen, (ExactSeen, CompactSeen)) and len(seen):
        raise ConfigError(
            "dedupe", "has the seen keys of another scan, which this one would leave out: give each scan its own"
        )


def _checked_share(value: object, argument: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ConfigError(argument, "must be a number above 0 and up to 1")
    return float(value)


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
