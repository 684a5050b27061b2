"""Which replica a scan reads from, and what ends its use: by the Sentinels' view, and by what came of trying it.

The Sentinels' word is up to ten seconds old, so it only nominates. The replica's own ROLE decides, on each connection
and while the scan runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .scan_steps import Target

if TYPE_CHECKING:
    from collections.abc import Collection

    from .identity import Address
    from .topology_state import ReplicaState, TopologyState

__all__ = ["ATTEMPTS", "ReplicaSearch", "choose", "why_unusable", "why_void"]

# Failures in a row after which a replica is left for another one. By `scan_patience.BACK_OFF` they take three to five
# seconds: one that is pointed to another master loses its connections, and has its link again a second or two later.
ATTEMPTS: Final = 9


def why_unusable(replica: ReplicaState) -> str:
    """Why the Sentinels' view speaks against scanning this replica, in words; "" if nothing does."""
    if not replica.announced:
        return "is not meant for clients (replica-announced no)"
    if replica.is_down:
        return "is down, as the Sentinels see it"
    if not replica.is_up:
        return "is not heard from by the Sentinels as a replica"
    if not replica.is_linked:
        return "is not linked to its master, as the Sentinels see it"
    return ""


def choose(state: TopologyState, *, prefer: Address | None = None, avoid: Collection[Address] = ()) -> Address | None:
    """The replica to scan: `prefer` if it will do, else the one that has come furthest; None if there is none."""
    usable = [r for r in state.replicas if r.address not in avoid and not why_unusable(r)]
    if not usable:
        return None
    return max(usable, key=lambda r: (r.address == prefer, r.offset or 0)).address


def why_void(state: TopologyState, target: Target) -> str:
    """Why a pass on `target` does not count any more, by what the Sentinels say now, in words; "" if it does.

    A master that another one has replaced does not touch a replica's pass, as long as the replica stays one.
    """
    master = state.master
    if not target.is_replica:
        # (Config epochs that start again do not make another master of this one.)
        moved = master.address != target.address or master.config_epoch > (target.config_epoch or 0)
        return f"MASTER_CHANGE {target.address} -> {master.address}" if moved else ""
    if master.address == target.address:
        return f"the replica {target.address} was promoted: it is the master now"
    if all(replica.address != target.address for replica in state.replicas):
        return f"REPLICA_REMOVE: the replica {target.address} is down or not listed any more, as the Sentinels see it"
    return ""


class ReplicaSearch:
    """Where one scan looks for a replica, and what came of it so far."""

    def __init__(self, *, falls_back: bool, resume_at: Address | None = None) -> None:
        # Whether the master may be scanned when there is no replica.
        self._falls_back = falls_back
        # The Sentinels' view that was last looked at; None until the first time.
        self.state: TopologyState | None = None
        # Where a checkpoint's cursors are good: it is tried as long as one that a pass is bound to.
        self._resume_at = resume_at
        # The replica of the last pass: taken again, if nothing speaks against it.
        self._prefer: Address | None = None
        # Tried in vain in this round of all that there are; given up after many tries, or at its own word.
        self._tried: set[Address] = set()
        self._given_up: set[Address] = set()
        # What came of each that was tried and failed.
        self._problems: dict[Address, str] = {}

    def next_target(self, state: TopologyState, failures: int) -> Target | None:
        """Where a new pass is to begin; None if there is nothing for now. `failures`: how many there were in a row."""
        listed = {replica.address for replica in state.replicas}
        if self._resume_at is not None and self._resume_at in listed and failures < ATTEMPTS:
            return _replica_target(state, self._resume_at)
        self._resume_at = None
        address = choose(state, prefer=self._prefer, avoid=self._tried | self._given_up)
        if address is not None:
            return _replica_target(state, address)
        self._tried.clear()
        # One that has not been given up may be in sync in a moment: so long the master is left in peace.
        if self._falls_back and (failures >= ATTEMPTS or listed <= self._given_up):
            return Target(state.master.address, state.master.config_epoch)
        if not self._falls_back:
            self._given_up.clear()
        return None

    def is_to_be_left(self, state: TopologyState, address: Address, failures: int) -> bool:
        """Whether a pass on this replica has been waited for long enough, and there is somewhere else to go.

        Without that, leaving it would only throw away what the pass has covered.
        """
        if failures < ATTEMPTS and address not in self._given_up:
            return False
        return self._falls_back or choose(state, avoid={address}) is not None

    def failed(self, address: Address, problem: str, *, give_up: bool = False) -> None:
        """It was tried in vain; with `give_up` it is not to be tried again as long as there is any other."""
        self._tried.add(address)
        self._problems[address] = problem
        if give_up:
            self._given_up.add(address)

    def bound(self, address: Address) -> None:
        """A pass has begun there."""
        self._prefer = address
        self._resume_at = None
        self._tried.clear()
        self._given_up.clear()

    def answered(self, address: Address) -> None:
        """It answers (again): whatever was held against it is past."""
        self._given_up.discard(address)
        self._problems.pop(address, None)

    def describe(self) -> dict[str, str]:
        """Each replica's address, and why it could not be scanned."""
        found: dict[str, str] = {}
        for replica in self.state.replicas if self.state is not None else ():
            said = self._problems.get(replica.address)
            found[str(replica.address)] = said or why_unusable(replica) or "was not tried"
        return found


def _replica_target(state: TopologyState, address: Address) -> Target:
    return Target(address, state.master.config_epoch, is_replica=True)
