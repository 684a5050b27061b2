"""The table of a scan's moves, as a whole: what can be reached, what ends, and what cannot happen."""

from __future__ import annotations

import itertools

import pytest

from trio_sentinel_scan._core.scan_states import FINAL, TRANSITIONS, Event, IllegalMove, State, move

LEGAL = [(state, event) for state, moves in TRANSITIONS.items() for event in moves]
ILLEGAL = [pair for pair in itertools.product(State, Event) if pair not in LEGAL]


def reachable(start: State) -> set[State]:
    """Every state that some way leads to from `start`."""
    found = {start}
    while more := {move(state, event) for state, event in LEGAL if state in found} - found:
        found |= more
    return found


def test_the_table_has_every_state_and_uses_every_event() -> None:
    """Nothing is forgotten, and nothing is there for nothing."""
    assert set(TRANSITIONS) == set(State)
    assert {event for _, event in LEGAL} == set(Event)


def test_every_state_can_be_reached_from_the_first() -> None:
    """A scan begins by locating a server."""
    assert reachable(State.LOCATING) == set(State)


@pytest.mark.parametrize("state", [state for state in State if state not in FINAL])
def test_a_scan_can_fail_void_and_complete_from_wherever_it_is(state: State) -> None:
    """In one move to FAILED or to a new beginning; in some to COMPLETE."""
    assert move(state, Event.GIVEN_UP) is State.FAILED
    assert move(state, Event.VOIDED) is State.LOCATING
    assert State.COMPLETE in reachable(state)


def test_only_a_certificate_completes() -> None:
    """The end of the iteration is reached in one way."""
    ways = [(state, event) for state, event in LEGAL if move(state, event) is State.COMPLETE]
    assert ways == [(State.CERTIFYING, Event.HELD)]


def test_only_giving_up_fails() -> None:
    """Every failure has its error."""
    assert {event for state, event in LEGAL if move(state, event) is State.FAILED} == {Event.GIVEN_UP}


def test_certifying_is_reached_only_when_everything_was_taken_or_after_hesitating() -> None:
    """A certificate that was given earlier would cover keys that nobody received."""
    ways = {(state, event) for state, event in LEGAL if move(state, event) is State.CERTIFYING}
    assert ways == {(State.DRAINING, Event.TAKEN), (State.HESITATING, Event.RESTED)}


def test_nothing_leads_out_of_an_end() -> None:
    """A change of masters that comes after the certificate changes nothing."""
    assert set(FINAL) == {State.COMPLETE, State.FAILED}
    assert all(TRANSITIONS[state] == {} for state in FINAL)


@pytest.mark.parametrize("state, event", ILLEGAL, ids=[f"{state.name}-{event.name}" for state, event in ILLEGAL])
def test_a_move_that_is_not_in_the_table_is_an_error(state: State, event: Event) -> None:
    """It names the state and the event, and nothing changes."""
    before = {state: dict(moves) for state, moves in TRANSITIONS.items()}
    with pytest.raises(IllegalMove, match=rf"{state.name}.*{event.name}"):
        move(state, event)
    assert before == TRANSITIONS
