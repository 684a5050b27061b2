"""Counts of what a client's shared connections have done: what an operator asks when commands were slow or failed."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["ClientStatistics", "Counters"]


@dataclass(slots=True)
class Counters:
    """The counts as they grow. Each starts at 0 with the client and never shrinks."""

    sent: int = 0
    replied: int = 0
    sent_again: int = 0
    cancelled: int = 0
    outcome_unknown: int = 0
    unavailable: int = 0
    turned_away: int = 0
    connections: int = 0
    first_connections: int = 0
    redirected: int = 0

    def snapshot(self, *, in_flight: int, waiting: int) -> ClientStatistics:
        """What they are now."""
        grown = {field.name: getattr(self, field.name) for field in fields(self)}
        return ClientStatistics(**grown, in_flight=in_flight, waiting=waiting)


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What became of the commands on a client's shared connection (one for each node), since the client was made.

    A batch (a pipeline) counts as one.

    - `sent`: commands given to a connection, each time.
    - `replied`: those whose reply came, an error reply or not, to a caller that was still there.
    - `sent_again`: those that were sent once more, because they had not run, or only read, or by `retry_writes`.
    - `cancelled`: those whose caller was cancelled after they were given to a connection.
    - `outcome_unknown`: those that ended in `CommandOutcomeUnknown`.
    - `unavailable`: those that ended in `ServerUnavailable`.
    - `turned_away`: those that ended in `TooManyCommandsWaiting`.
    - `connections`: connections made; the first one counts.
    - `first_connections`: those of them that were the first: one, or with a cluster one for each node.
    - `reconnects`: those that were made after the first.
    - `redirected`: commands that a cluster's node sent to another one (MOVED, ASK), each time.
    - `in_flight`: commands whose reply is awaited now, those without a caller too.
    - `waiting`: commands that wait for a server now.
    """

    sent: int
    replied: int
    sent_again: int
    cancelled: int
    outcome_unknown: int
    unavailable: int
    turned_away: int
    connections: int
    first_connections: int
    redirected: int
    in_flight: int
    waiting: int

    @property
    def reconnects(self) -> int:
        """Connections made after the first."""
        return self.connections - self.first_connections
