"""Who answers: addresses, and the identity of a server *process*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .replies import printable

__all__ = ["Address", "Role", "ServerIdentity"]


class Address(NamedTuple):
    """Where a server is reached: a host and a TCP port, or a Unix socket's path with port 0."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """Whether `host` is the path of a Unix socket."""
        return self.port == 0

    def __str__(self) -> str:
        # (A Sentinel, or a node of a cluster, may announce anything.)
        host = printable(self.host)
        if self.is_unix:
            return host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Role(NamedTuple):
    """What a server says of itself (ROLE), as far as a scan cares.

    `kind` is "master", "slave" or "sentinel", or "" where the server would not say. `replicas` are a master's
    replicas as it lists them; `link` is a replica's state of its link to its master ("connected" once it is synced).
    """

    kind: str
    replicas: frozenset[Address] = frozenset()
    link: str = ""

    @property
    def is_synced_replica(self) -> bool:
        """Whether this is a replica whose data set is its master's, and not still on the way."""
        return self.kind == "slave" and self.link == "connected"


@dataclass(frozen=True, slots=True, eq=False)
class ServerIdentity:
    """The process that answers: the `run_id` it drew when it started, and the address that it was reached at.

    Two identities are equal only if both have a `run_id` and it is the same. A process whose `run_id` cannot be read
    (INFO forbidden, a product without one) differs from every other, the next connection to it included: nothing
    could tell them apart, and a cursor that goes to the wrong one loses keys without an error.
    """

    run_id: str | None
    address: Address

    def is_same_process(self, other: ServerIdentity | None) -> bool:
        """Whether `other` is provably this very process, so that a cursor of the one is good at the other."""
        return other is not None and self.run_id is not None and self.run_id == other.run_id

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, ServerIdentity) and self.is_same_process(other))

    def __hash__(self) -> int:
        return hash(self.run_id)

    def __str__(self) -> str:
        return f"{self.address} (run_id {printable(self.run_id[:8]) if self.run_id else 'unknown'})"
