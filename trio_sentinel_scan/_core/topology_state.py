"""A service at one moment, as its Sentinels describe it: the master, its replicas, and the Sentinels themselves."""

from __future__ import annotations

from dataclasses import dataclass

from .identity import Address, ServerIdentity

__all__ = ["MasterState", "ReplicaState", "SentinelState", "TopologyState"]

# Flags under which a Sentinel cannot tell how a replica is: it has lost its connection to it, and waits.
_OUT_OF_TOUCH = frozenset({"disconnected"})
_DOWN = frozenset({"s_down", "o_down"})


@dataclass(frozen=True, slots=True)
class MasterState:
    """The master that a client follows."""

    # As the Sentinels announce it, which need not be where it is dialled (`address_map`).
    address: Address
    # The config epoch under which it became the master.
    config_epoch: int
    # The process there, by a connection's handshake or by the Sentinels; None until one of them has told.
    run_id: str | None = None

    @property
    def identity(self) -> ServerIdentity:
        """The process and its address, as `ScanPage.server` has them."""
        return ServerIdentity(self.run_id, self.address)

    def __str__(self) -> str:
        return f"{self.identity}, config epoch {self.config_epoch}"


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica as a Sentinel lists it. A Sentinel looks every ten seconds, so this may be as old."""

    # As the Sentinels announce it.
    address: Address
    # None until the Sentinel has heard from it.
    run_id: str | None
    # Sentinel's own words: "slave", "s_down", "disconnected", ...
    flags: frozenset[str] = frozenset()
    # What it says that it is: "slave", or "master" while a demoted master has not been told yet.
    role_reported: str = "slave"
    # "ok" while it is linked to its master, "err" while it is not.
    link_status: str = ""
    # How far it has followed its master, in bytes of the replication stream; None where that is not told.
    offset: int | None = None
    # The lower, the sooner it is promoted; 0 is never.
    priority: int | None = None
    # Whether it is meant for clients (replica-announced).
    announced: bool = True

    @property
    def is_down(self) -> bool:
        """Whether the Sentinel takes it to be down."""
        return bool(self.flags & _DOWN)

    @property
    def is_up(self) -> bool:
        """Whether the Sentinel has heard from it, in its role of a replica. Neither up nor down: it does not know."""
        return self.run_id is not None and self.role_reported == "slave" and not self.flags & (_DOWN | _OUT_OF_TOUCH)

    @property
    def is_linked(self) -> bool:
        """Whether it follows its master: one that does not may have an old data set, or none at all."""
        return self.is_up and self.link_status == "ok"


@dataclass(frozen=True, slots=True)
class SentinelState:
    """One of the service's Sentinels."""

    address: Address
    # Its own id, which it keeps across restarts.
    sentinel_id: str
    # Whether it answered this client when it was asked last.
    answers: bool


@dataclass(frozen=True, slots=True)
class TopologyState:
    """A whole service. What it consists of changes by events; a replica's offset and link do not make one."""

    master: MasterState
    # Those that are there, by address; one that is down is not.
    replicas: tuple[ReplicaState, ...]
    # All that count for a majority and are known by name, whether or not they answer.
    sentinels: tuple[SentinelState, ...]
