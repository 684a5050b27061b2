"""What `open_hscan`, `open_sscan` and `open_zscan` were asked for: checked once, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from .collection import Collection
from .errors import ConfigError
from .scan_options import checked_scan_options
from .seen_keys import SeenKeys

if TYPE_CHECKING:
    from .collection import CollectionType
    from .scan_options import ScanOptions

__all__ = ["CollectionScanOptions", "checked_cluster_collection", "checked_collection_options"]


class CollectionScanOptions(TypedDict, total=False):
    """The keyword arguments that scans of all collections have, as in `open_scan`."""

    cursor: int | str
    on_failover: Literal["restart", "raise"]
    max_restarts: int
    prefetch: int
    # ("masters" in a cluster.)
    certify: Literal["sentinels", "masters", "role"]
    segments: int | Literal["auto"]
    duty: float
    page_size: int | None
    dedupe: bool | SeenKeys
    resume: str | None


def checked_collection_options(
    type_: CollectionType,
    key: object,
    *,
    match: object,
    count: object,
    no_values: object = False,
    cursor: object = 0,
    on_failover: object = "restart",
    max_restarts: object = 10,
    prefetch: object = 2,
    certify: object = "sentinels",
    segments: object = "auto",
    duty: object = 1.0,
    page_size: object = None,
    dedupe: object = False,
    resume: object = None,
    has_sentinels: bool,
    encoding: str = "utf-8",
    db: int = 0,
) -> ScanOptions:
    """Check the arguments; a ConfigError names the one at fault."""
    if not isinstance(no_values, bool):
        raise ConfigError("no_values", "must be True or False")
    return checked_scan_options(
        match=match,
        count=count,
        type_=None,
        cursor=cursor,
        on_failover=on_failover,
        max_restarts=max_restarts,
        prefetch=prefetch,
        certify=certify,
        segments=segments,
        duty=duty,
        page_size=page_size,
        dedupe=dedupe,
        resume=resume,
        collection=Collection(type_, _checked_key(key, encoding), no_values=no_values),
        has_sentinels=has_sentinels,
        encoding=encoding,
        db=db,
    )


def checked_cluster_collection(
    type_: CollectionType, key: object, *, certify: object = "masters", resume: object = None, **arguments: Any
) -> tuple[ScanOptions, bool]:
    """The same in a cluster; and whether the masters are to be asked who has the key's slot."""
    if certify not in ("masters", "sentinels", "role"):
        raise ConfigError("certify", 'must be "masters" or "role"')
    if resume is not None and certify == "role":
        raise ConfigError("resume", 'needs certify="masters": without them, whose the slot was meanwhile is not known')
    options = checked_collection_options(
        type_, key, certify="role", resume=resume, has_sentinels=True, db=0, **arguments
    )
    return options, certify != "role"


def _checked_key(key: object, encoding: str) -> bytes:
    if isinstance(key, str):
        try:
            return key.encode(encoding, "surrogateescape")
        except UnicodeEncodeError:
            raise ConfigError("key", f"cannot be written in the client's encoding, {encoding}") from None
    if isinstance(key, (bytes, memoryview)):
        return bytes(cast("bytes | memoryview[int]", key))
    raise ConfigError("key", f"must be str, bytes or memoryview, not {type(key).__name__}")
