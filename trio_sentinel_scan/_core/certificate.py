"""The check that entitles a pass to be called complete: evidence in, judgement out.

It is drawn up after the consumer has taken the pass's last page. Until then a change of masters voids the pass, and
pages that wait would be filtered out: a certificate given earlier would cover keys that nobody received.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from .summary import Certificate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.exceptions import RedisError

    from .cluster_standing import Standing
    from .identity import Address, Role, ServerIdentity
    from .topology import Votes

__all__ = [
    "Basis",
    "Evidence",
    "Held",
    "Judgement",
    "Refuted",
    "Undecided",
    "changed_role",
    "judge",
    "lost_link",
]

Basis: TypeAlias = Literal["sentinels", "role", "server", "replica", "proxy"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found when the pass's last page had been taken."""

    # Read on the scan's own connection, now.
    run_id: str | None
    role: Role
    # Former replicas of this master that say of themselves that they are masters.
    promoted: tuple[Address, ...] = ()
    votes: Votes | None = None
    config_epoch: int | None = None
    # Each Sentinel and what came of asking it, for people to read.
    sentinels: Mapping[str, str] = field(default_factory=dict[str, str])
    # Of a collection's scan: how many items it has now, or the error reply to that question.
    size: int | RedisError | None = None
    # Of a collection's scan in a cluster: what the masters say, and the name of the node that was scanned.
    standing: Standing | None = None
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """The pass is complete."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Refuted:
    """The server was not, or is no more, the one whose keys count: the pass is void."""

    reason: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """Neither way is proved: too few Sentinels could be asked, or another master is in the making."""

    reason: str


Judgement: TypeAlias = Held | Refuted | Undecided


def changed_role(basis: Basis, before: Role, now: Role) -> str:
    """How a server's role differs from what it was when the pass was bound to it, in words; "" if it does not."""
    # A role that was not told then was a master's, where nothing else will do.
    was = before.kind or ("" if basis == "server" else "master")
    if was and now.kind not in {was, before.kind}:
        return f"the server's role is {now.kind or 'not known'}, it was {was}"
    return ""


def lost_link(role: Role) -> str:
    """Why a replica is not its master's image, in words; "" if it is, or is no replica."""
    if role.kind == "slave" and not role.is_synced_replica:
        return f"the replica's link to its master is {role.link!r}, not 'connected'"
    return ""


def judge(basis: Basis, server: ServerIdentity, role_before: Role, evidence: Evidence) -> Judgement:
    """Weigh the evidence on a pass over `server`, which had said `role_before` when the pass was bound to it."""
    if basis == "proxy":
        # Whatever was asked for was answered by any of the nodes behind it.
        return Held(Certificate(basis=basis, server=server, role="", replicas=0))
    # On one and the same connection the process is the same, whether or not it tells its run_id.
    if evidence.run_id is not None and server.run_id is not None and evidence.run_id != server.run_id:
        return Refuted("another process answers at the address")
    fault = changed_role(basis, role_before, evidence.role) or lost_link(evidence.role)
    if fault:
        return Refuted(fault)
    # What follows is not mended by another pass over the same server, and until the view moves (which voids this one)
    # there is no other server to go to. So the pass is kept, and asked about again.
    if evidence.promoted:
        return Undecided("replicas of it have become masters: " + ", ".join(map(str, evidence.promoted)))
    votes = evidence.votes
    if basis == "sentinels":
        if votes is None:
            return Undecided("no Sentinel was asked")
        if not votes.is_majority:
            said = "; ".join(f"{address} {status}" for address, status in evidence.sentinels.items())
            return Undecided(
                f"{votes.agreeing} of {votes.known} Sentinels confirm the master, {votes.dissenting} name another one,"
                f" and a majority is needed ({said})"
            )
    return Held(
        Certificate(
            basis=basis,
            server=server,
            role=evidence.role.kind,
            replicas=len(evidence.role.replicas),
            config_epoch=evidence.config_epoch,
            sentinels_known=votes.known if votes is not None else 0,
            sentinels_agreeing=votes.agreeing if votes is not None else 0,
        )
    )
