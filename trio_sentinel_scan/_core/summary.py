"""What a scan tells of itself: its pages, and the account of how it went."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .checkpoint import Mark
    from .details import KeyDetails
    from .identity import ServerIdentity

__all__ = ["Certificate", "Restart", "ScanPage", "ScanSummary", "pages_of"]

KeyT_co = TypeVar("KeyT_co", covariant=True)

_no_details = cast("Callable[[], dict[Any, KeyDetails]]", dict)


@dataclass(frozen=True, slots=True, eq=False)
class ScanPage(Generic[KeyT_co]):
    """Some keys, as one read of the server brought them. Never empty; iterating it gives its keys.

    Of a scan of one hash, set or sorted set, `keys` are the items: (field, value), member, or (member, score).

    Without `dedupe` a key may come more than once within an epoch, and surely does when a later epoch begins again at
    cursor 0.
    """

    # `bytes`, or `str` with ``decode_responses=True``; a collection's items may be pairs.
    keys: Sequence[KeyT_co]
    # The pass that it belongs to: 0, then one more with each restart.
    epoch: int
    # The process that answered; the same for all of an epoch, except with `hash_seed_shared`.
    server: ServerIdentity
    # How much of the hash space this pass has covered with this page, 0.0 to 1.0; None where cursors are opaque. It
    # rises all through an epoch; it may go back a little where a replica, or its link to its master, is lost for a
    # while, and with `hash_seed_shared` where the server changes.
    position: float | None
    # Where the pass stands with it; None in a page that no scan has made.
    mark: Mark | None = field(default=None, repr=False)
    # What `with_` asked for, for each of its keys; empty without.
    details: Mapping[KeyT_co, KeyDetails] = field(default_factory=_no_details, repr=False)

    @property
    def node(self) -> str | None:
        """Of a cluster's scan: the id of the node that it came from. None elsewhere."""
        return None if self.mark is None or self.mark.facts.lane is None else self.mark.facts.lane.node_id

    @property
    def checkpoint(self) -> str:
        """A text that a later scan can go on from (`resume`), behind this page and all that were handed out before it.

        With 64 segments about 850 characters; no key, pattern or password can be read from it. With a `dedupe` that
        outlives the process, what it has marked is committed first.
        """
        if self.mark is None:
            msg = "no scan has made this page, so there is nothing to go on from"
            raise ValueError(msg)
        return self.mark.text()

    def only(self, keys: Sequence[Any]) -> ScanPage[KeyT_co]:
        """This page with no more than these of its keys."""
        details = self.details and {key: self.details[key] for key in keys}
        return replace(self, keys=keys, details=details)

    def __iter__(self) -> Iterator[KeyT_co]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        position = "unknown" if self.position is None else f"{self.position:.3f}"
        return f"<ScanPage of {len(self.keys)} keys, epoch {self.epoch}, position {position}, {self.server}>"


def pages_of(
    keys: list[Any],
    size: int | None,
    epoch: int,
    server: ServerIdentity,
    before_and_after: tuple[tuple[float | None, Mark], tuple[float | None, Mark]],
) -> list[ScanPage[Any]]:
    """Pages of at most `size` keys (None for no bound), from the first of the two positions to the second.

    The pass stands at the second mark once the last of these pages is handed out, and at the first until then. Each
    page's mark is its own.
    """
    (before, old_mark), (after, new_mark) = before_and_after
    if size is None or len(keys) <= size:
        return [ScanPage(keys, epoch, server, after, new_mark)]
    pages: list[ScanPage[Any]] = []
    for start in range(0, len(keys), size):
        position = after
        if after is not None and start + size < len(keys):
            position = None if before is None else before + (after - before) * (start + size) / len(keys)
        mark = new_mark if start + size >= len(keys) else replace(old_mark)
        pages.append(ScanPage(keys[start : start + size], epoch, server, position, mark))
    return pages


@dataclass(slots=True)
class Restart:
    """A pass that became void, and what came after it."""

    # The pass that began with it.
    epoch: int
    reason: str
    # Seconds since the scan began.
    at: float
    # The process whose pass became void; None if none had answered yet.
    old_server: ServerIdentity | None
    # The process that the new pass runs on; None until one has answered.
    new_server: ServerIdentity | None = None
    # Seconds from the restart to the new pass's first page; None until it was handed out.
    first_page_after: float | None = None
    # Of a cluster's scan: the id of the node whose pass it was, and the slots that are swept again, as ranges.
    node: str | None = None
    slots: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """What entitles a pass to be called complete. It was drawn up after the pass's last page had been taken."""

    # "sentinels": the server's own word and a majority of the Sentinels; "role": the server's own word, by the
    # caller's choice; "server": there are no Sentinels to ask; "replica": it is a replica, in sync with its master;
    # "proxy": nobody to ask at all (`extra_args`); "cluster": each node's own word and a majority of the masters, or,
    # by the caller's choice, each node's own word.
    basis: str
    server: ServerIdentity
    # What the server said it was: "master" or "slave"; "" where it would not say.
    role: str
    # How many replicas it had then.
    replicas: int
    config_epoch: int | None = None
    # How many Sentinels count, and how many of them named this very master at no higher epoch.
    sentinels_known: int = 0
    sentinels_agreeing: int = 0
    # Of a cluster: how many slots it is about, and the certificate of each process; `server` is the first one's. In
    # those: the node's id, how many masters have a vote, and how many of them named it the owner (0: nobody was asked).
    slots: int = 0
    nodes: tuple[Certificate, ...] = ()
    node: str | None = None
    masters_known: int = 0
    masters_agreeing: int = 0

    def __str__(self) -> str:
        if self.nodes:
            return f"{self.slots} slots: " + "; ".join(map(str, self.nodes))
        if self.basis == "proxy":
            return f"{self.server} is taken to be a proxy (extra_args), so there is nobody to ask"
        said = f"{self.server} says {self.role}" if self.role else f"{self.server} does not tell its role"
        if self.basis == "sentinels":
            return (
                f"{said}, {self.sentinels_agreeing} of {self.sentinels_known} Sentinels agree"
                f" (config epoch {self.config_epoch})"
            )
        if self.basis == "cluster":
            agree = (
                f"{self.masters_agreeing} of {self.masters_known} masters agree (config epoch {self.config_epoch})"
                if self.masters_known
                else 'no other master was asked (certify="role")'
            )
            return f"{said} and has {self.slots} of them, {agree}"
        if self.basis == "role":
            return f'{said}; no Sentinel was asked (certify="role")'
        if self.basis == "replica":
            return f"{said}, and its link to its master is connected (config epoch {self.config_epoch})"
        return f"{said}; there are no Sentinels to ask"


@dataclass(frozen=True, slots=True)
class ScanSummary:
    """The account of a scan up to the moment when it was asked for. Durations are in seconds."""

    # True if, and only if, the scan is complete: a certificate was held after the last page had been taken.
    complete: bool
    # The pass under way, or the last one.
    epoch: int
    # Handed out, over all epochs.
    keys: int
    pages: int
    # Handed out by the present epoch alone.
    keys_this_epoch: int
    # SCAN replies, over all epochs; empty ones count.
    scans: int
    # New connections to the very process that the pass was on.
    reconnects: int
    # Keys held back as seen before; always 0 without dedupe.
    duplicates_dropped: int
    # How much of the hash space the present pass has covered; None where cursors are opaque.
    position: float | None
    # The process that the pass runs on; None while there is none.
    server: ServerIdentity | None
    # How many segments the pass is scanned in; 0 while there is none.
    segments: int
    certificate: Certificate | None
    elapsed: float
    restarts: tuple[Restart, ...] = field(default=())
    # Changes to another process that a pass went on through; always 0 without `hash_seed_shared`.
    moves: int = 0
    # Of a cluster's scan: slots without an owner that were left out (`allow_uncovered`), and slots that have left the
    # one node that was scanned (`node`), as ranges. Both are empty of any other scan.
    uncovered_slots: tuple[tuple[int, int], ...] = ()
    slots_let_go: tuple[tuple[int, int], ...] = ()
    # Of a scan of one hash, set or sorted set: how many items it had when the present pass began, and 0 where there
    # was no such key. None of other scans, and until a server has told.
    collection_size: int | None = None

    @property
    def keys_per_second(self) -> float:
        """Keys handed out per second since the scan began."""
        return self.keys / self.elapsed if self.elapsed > 0 else 0.0
