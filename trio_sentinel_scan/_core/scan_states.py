"""The states of a scan and the moves between them: the table, the whole table, and nothing but the table.

Rules:

1. Everything that moves a scan from one state to another is in `TRANSITIONS`. A pair that is not there is an error in
   this package (`IllegalMove`), and nothing changes.
2. This file knows no cursors, keys, servers or budgets. `scan_plan` decides *which* event something that happened
   is; the table decides where it leads.

A pass is swept when each of its chains of cursors has come to its end; it is certified only when the consumer has
taken its last page. `COMPLETE` is reached through `HELD` alone, and nothing leads out of `COMPLETE` or `FAILED`: a
change of masters that comes after the certificate changes nothing.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["TRANSITIONS", "Event", "IllegalMove", "State", "move"]


class State(enum.Enum):
    """Where a scan is."""

    LOCATING = "no server to go to: waiting for one to be named"
    CONNECTING = "a server is named: connecting to it, up to its role and identity"
    SCANNING = "bound to a process: SCANs are under way or due"
    RESTING = "the server asked for patience: waiting on its connection"
    BACKING_OFF = "the connection is gone: waiting before looking for a server again"
    DRAINING = "swept: waiting until the consumer has taken the pass's last page"
    CERTIFYING = "swept and taken: asking whether this was the server whose keys count"
    HESITATING = "too few Sentinels answered: waiting before asking them again"
    COMPLETE = "certified: the end of the iteration"
    FAILED = "ended with an error"


class Event(enum.Enum):
    """What can happen to a scan."""

    LOCATED = "a server was named"
    BOUND = "its process answered, in its role: the pass is on it, or goes on on it"
    BOUND_SWEPT = "the same, and this pass had been swept on it already"
    REPLIED = "whole replies, with cursors to go on from"
    SWEPT = "whole replies, and the pass's last one among them"
    TAKEN = "the consumer has taken every page of the pass"
    HELD = "the certificate stands"
    UNDECIDED = "no majority was in reach"
    TOLD_TO_WAIT = "the server asked for patience"
    RESTED = "the wait is over"
    LOST = "the connection failed, or could not be made, or the server is not the one wanted"
    VOIDED = "the pass is void, its server is left: another begins elsewhere"
    LEFT = "the server is left, and the pass is to go on elsewhere"
    VOIDED_HERE = "another process answers: the pass is void, another begins on the new connection"
    GIVEN_UP = "a budget is spent, or the error is final"


_ALWAYS: Final = {Event.VOIDED: State.LOCATING, Event.LEFT: State.LOCATING, Event.GIVEN_UP: State.FAILED}
_CONNECTED: Final = {Event.LOST: State.BACKING_OFF, **_ALWAYS}

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.LOCATING: {Event.LOCATED: State.CONNECTING, Event.LOST: State.BACKING_OFF, **_ALWAYS},
    State.CONNECTING: {
        Event.BOUND: State.SCANNING,
        Event.BOUND_SWEPT: State.DRAINING,
        Event.VOIDED_HERE: State.SCANNING,
        **_CONNECTED,
    },
    State.SCANNING: {
        Event.REPLIED: State.SCANNING,
        Event.SWEPT: State.DRAINING,
        Event.TOLD_TO_WAIT: State.RESTING,
        **_CONNECTED,
    },
    State.RESTING: {Event.RESTED: State.SCANNING, **_CONNECTED},
    State.BACKING_OFF: {Event.RESTED: State.LOCATING, **_ALWAYS},
    State.DRAINING: {Event.TAKEN: State.CERTIFYING, **_CONNECTED},
    State.CERTIFYING: {
        Event.HELD: State.COMPLETE,
        Event.UNDECIDED: State.HESITATING,
        **_CONNECTED,
    },
    State.HESITATING: {Event.RESTED: State.CERTIFYING, **_CONNECTED},
    State.COMPLETE: {},
    State.FAILED: {},
}

FINAL: Final = frozenset({State.COMPLETE, State.FAILED})


class IllegalMove(AssertionError):
    """An event that its state does not know: an error in this package. Nothing has changed."""


def move(state: State, event: Event) -> State:
    """Where `event` leads from `state`."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        msg = f"a scan in state {state.name} knows no event {event.name}"
        raise IllegalMove(msg) from None
