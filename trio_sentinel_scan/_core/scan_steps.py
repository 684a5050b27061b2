"""The vocabulary between a scan's decisions and its driver: steps to take, and what can come of them.

Each step carries the generation of the plan that gave it out, so that a report on one that was overtaken by a change
of masters is known for what it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from .certificate import Evidence, Undecided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .certificate import Basis
    from .collection import KeyFound
    from .cursor import CursorFormat
    from .hash_seed import HashSeed
    from .identity import Address, Role, ServerIdentity
    from .scan_replies import ScanReply
    from .summary import ScanPage
    from .topology_state import TopologyState

__all__ = [
    "Answered",
    "Ask",
    "Asked",
    "AwaitTaken",
    "Certify",
    "Connect",
    "Connected",
    "Finish",
    "HandOver",
    "Locate",
    "Located",
    "Lost",
    "Outcome",
    "Receive",
    "Rest",
    "Rested",
    "Step",
    "Taken",
    "Target",
]


@dataclass(frozen=True, slots=True)
class Target:
    """A server to scan: its address as it is announced, and what of the Sentinels' view it rests on."""

    address: Address
    config_epoch: int | None = None
    # Grows with each change of the view, so that of two targets the newer is known. (A scan of replicas compares the
    # views themselves.)
    version: int = 0
    # Whether it is to be a replica, in sync with its master.
    is_replica: bool = False


# ---- steps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Locate:
    """Wait until a server is named, at most until the time `until`. -> Located, Lost"""

    generation: int
    until: float


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect to `target`, at most until the time `until`. -> Connected, Lost"""

    generation: int
    until: float
    target: Target


@dataclass(frozen=True, slots=True)
class Ask:
    """Send these bytes, which so many replies will answer, without waiting for them. -> Asked, Lost"""

    generation: int
    # With a pattern in it.
    data: bytes = field(repr=False)
    replies: int


@dataclass(frozen=True, slots=True)
class Receive:
    """Read what has come of the replies to what was asked, at least one. -> Answered, Lost"""

    generation: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """Put this page into the channel, outside of any abort scope."""

    generation: int
    page: ScanPage[Any]


@dataclass(frozen=True, slots=True)
class Rest:
    """Wait. -> Rested"""

    generation: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AwaitTaken:
    """Wait until the consumer has taken every page of the pass. -> Taken"""

    generation: int


@dataclass(frozen=True, slots=True)
class Certify:
    """Gather the evidence for the certificate. -> Evidence, Undecided, Lost"""

    generation: int
    basis: Basis
    target: Target
    # What the server said of itself when the pass was bound to it.
    role_before: Role


@dataclass(frozen=True, slots=True)
class Finish:
    """The scan has ended: close the channel."""

    generation: int


Step: TypeAlias = Locate | Connect | Ask | Receive | HandOver | Rest | AwaitTaken | Certify | Finish


# ---- outcomes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Located:
    """A server is named; or, for a scan of replicas, this is the service to choose one from."""

    target: Target | TopologyState


@dataclass(frozen=True, slots=True)
class Connected:
    """A server answers; `unfit` says why it may not be scanned, if so."""

    server: ServerIdentity
    role: Role
    cursor_format: CursorFormat
    unfit: str = ""
    # What it told of its hash seed, if it was asked.
    hash_seed: HashSeed | None = None
    # Of a collection's scan: what it says of the key.
    key: KeyFound | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The command is on its way."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Replies to SCAN, in the order of what was asked."""

    # With keys in them.
    replies: Sequence[ScanReply] = field(repr=False)
    # Whether they came just now; if not, they may have come long ago, while the driver did something else.
    waited: bool = True


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is of no more use; `final` is an error that trying again cannot mend."""

    problem: str
    final: Exception | None = None


@dataclass(frozen=True, slots=True)
class Rested:
    """The wait is over."""


@dataclass(frozen=True, slots=True)
class Taken:
    """No page waits any more."""


Outcome: TypeAlias = Located | Connected | Asked | Answered | Lost | Rested | Taken | Evidence | Undecided
