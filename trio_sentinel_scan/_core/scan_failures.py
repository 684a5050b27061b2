"""The errors that a scan ends with, in words: what happened, to which server, what is known, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    AuthenticationFailed,
    ConfigError,
    HashSeedMismatch,
    NoReplicaAvailable,
    ProtocolError,
    ScanError,
    ScanNotCertified,
    ScanRestartsExhausted,
    ScanStuck,
    ServerUnavailable,
)
from .scan_steps import Lost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .certificate import Basis
    from .errors import SentinelScanError
    from .identity import Address, ServerIdentity
    from .scan_patience import Patience
    from .summary import ScanSummary

__all__ = [
    "lost_by",
    "no_more_connections",
    "no_more_moves",
    "no_more_restarts",
    "no_replica",
    "no_server",
    "not_certified",
    "seeds_differ",
    "stuck",
]


def lost_by(error: SentinelScanError | UnicodeDecodeError, summary: ScanSummary) -> Lost:
    """What it means for the scan that a step has failed so: trying again cannot mend all of it."""
    if isinstance(error, UnicodeDecodeError):
        failure = ScanError(
            "a key cannot be decoded with the client's encoding: scan with decode_responses=False,"
            ' or with encoding_errors="surrogateescape"',
            summary,
        )
        return Lost("a key cannot be decoded", failure)
    if isinstance(error, (AuthenticationFailed, ConfigError, ProtocolError)):
        return Lost(str(error), error)
    return Lost(str(error))


def no_more_connections(
    patience: Patience, address: Address, max_restarts: int, summary: ScanSummary
) -> ScanRestartsExhausted:
    """One connection after the other to the same process has brought nothing."""
    return ScanRestartsExhausted(
        f"{patience.fruitless} new connections in a row to {address} brought no reply"
        f" (max_restarts={max_restarts}; the last problem: {patience.problem})",
        summary,
    )


def no_more_restarts(reason: str, max_restarts: int, summary: ScanSummary) -> ScanRestartsExhausted:
    """The pass is void, and it was the last one."""
    return ScanRestartsExhausted(
        f"the pass of epoch {summary.epoch} is void ({reason}), and max_restarts={max_restarts} allows no other one",
        summary,
    )


def no_more_moves(reason: str, max_restarts: int, summary: ScanSummary) -> ScanRestartsExhausted:
    """The pass goes from server to server, and none of them brings a reply."""
    return ScanRestartsExhausted(
        f"more than {max_restarts} changes of server in a row brought no reply"
        f" (max_restarts={max_restarts}; the last one: {reason})",
        summary,
    )


def seeds_differ(contradiction: str, summary: ScanSummary) -> HashSeedMismatch:
    """The caller's word on the hash seed cannot be."""
    return HashSeedMismatch(
        f"{contradiction}, and hash_seed_shared=True says that all nodes have the same: give them one hash-seed (it is"
        " read when a server starts), or scan without hash_seed_shared",
        summary,
    )


def stuck(summary: ScanSummary) -> ScanStuck:
    """The cursors go in a circle."""
    return ScanStuck(
        f"the cursors of {summary.server} come round again after {summary.scans} replies: this pass would never end",
        summary,
    )


def not_certified(
    patience: Patience, server: ServerIdentity | None, basis: Basis, summary: ScanSummary
) -> ScanNotCertified:
    """All is there, and nobody vouches for it."""
    hint = '; certify="role" would accept the server\'s own word' if basis == "sentinels" else ""
    return ScanNotCertified(
        f"{server} was swept to its end, but that could not be certified within {_seconds(patience)}:"
        f" {patience.problem}{hint}",
        summary,
    )


def no_server(patience: Patience) -> ServerUnavailable:
    """None to scan on, for as long as was allowed."""
    return ServerUnavailable(f"no server to scan on for {_seconds(patience)}; the last problem: {patience.problem}")


def no_replica(patience: Patience, replicas: Mapping[str, str]) -> NoReplicaAvailable:
    """None that is up, linked to its master and in sync, for as long as was allowed."""
    lines = "".join(f"\n  {address}: {problem.removeprefix(f'{address} ')}" for address, problem in replicas.items())
    said = lines or " the Sentinels list none"
    return NoReplicaAvailable(
        f'no replica to scan on for {_seconds(patience)}; fallback="master" would scan the master then:{said}',
        dict(replicas),
    )


def _seconds(patience: Patience) -> str:
    return f"{patience.failover_timeout:g} s (failover_timeout)"
