"""COUNT and rests: what bounds a round, how it adapts, and what a share of the server's time comes to."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_sentinel_scan._core.pacing import (
    FIRST_COUNT,
    MAX_COUNT,
    QUICK_ROUND_SECONDS,
    ROUND_KEYS,
    ROUND_SCANS,
    ROUND_SECONDS,
    Pacing,
)

NETWORK = 0.0001


class Line:
    """A server at the end of a network, and what its replies' times say to a `Pacing`. One round after the other."""

    def __init__(self, pacing: Pacing, *, cost: float = 0.0, keys_per_count: float = 1.0) -> None:
        self.pacing = pacing
        self.cost = cost
        self.keys_per_count = keys_per_count
        self.now = 0.0
        self.round(1, NETWORK)

    def round(self, asked: int, seconds: float | None = None, *, waited: bool = True) -> float:
        """A round there and back, in the time that the server takes or in `seconds`; the rest after it."""
        sent = self.now
        self.now += NETWORK + self.cost * asked if seconds is None else seconds
        self.pacing.first_byte(sent, asked, self.now, waited=waited)
        return self.pacing.replied(asked, int(asked * self.keys_per_count))


def settled(pacing: Pacing, *, segments: int, cost: float, keys_per_count: float = 1.0, rounds: int = 60) -> int:
    """The COUNT of each SCAN after some rounds over a network, on a server that a unit of COUNT costs so much."""
    line = Line(pacing, cost=cost, keys_per_count=keys_per_count)
    for _ in range(rounds):
        line.round(segments * pacing.count(segments))
    return pacing.count(segments)


@pytest.mark.parametrize("segments", [1, 16])
def test_a_fixed_count_stays(segments: int) -> None:
    assert Pacing(7, 1.0).count(segments) == 7
    assert settled(Pacing(7, 1.0), segments=segments, cost=1.0) == 7


def test_an_adaptive_count_begins_small_and_doubles() -> None:
    pacing = Pacing(None, 1.0)
    counts = [pacing.count(1)]
    line = Line(Pacing(None, 1.0))
    line.pacing = pacing
    for _ in range(6):
        line.round(pacing.count(1))
        counts.append(pacing.count(1))
    assert counts == [min(FIRST_COUNT * 2**number, ROUND_KEYS) for number in range(7)]


@pytest.mark.parametrize("segments", [1, 4, 16])
def test_a_round_brings_no_more_keys_than_a_single_scan_may(segments: int) -> None:
    """However quick the server is."""
    count = settled(Pacing(None, 1.0), segments=segments, cost=0.0)
    assert segments * count == pytest.approx(ROUND_KEYS, rel=0.05)


@pytest.mark.parametrize("segments", [1, 4, 16])
@pytest.mark.parametrize("cost", [2e-6, 5e-6])
def test_a_round_takes_no_more_time_than_a_single_scan_may(segments: int, cost: float) -> None:
    """Where keys are costly (large ones, a loaded server), fewer are asked for."""
    count = settled(Pacing(None, 1.0), segments=segments, cost=cost)
    assert count == FIRST_COUNT or segments * count * cost == pytest.approx(ROUND_SECONDS, rel=0.1)


@pytest.mark.parametrize("network, rounds", [(0.0, 2), (QUICK_ROUND_SECONDS * 0.9, 2), (QUICK_ROUND_SECONDS * 5, 7)])
def test_the_longer_the_way_the_more_rounds_are_on_it(network: float, rounds: int) -> None:
    """One more for each that would have come and gone meanwhile."""
    for pacing in (Pacing(None, 1.0), Pacing(ROUND_KEYS, 1.0)):
        assert pacing.rounds(16) == 2
        pacing.first_byte(0.0, 10, network, waited=True)
        assert pacing.rounds(16) == rounds


def test_small_counts_go_together_however_long_the_way_is() -> None:
    """A page of each would cost more than the server's work."""
    pacing = Pacing(10, 1.0)
    pacing.first_byte(0.0, 10, 1.0, waited=True)
    assert pacing.rounds(64) == 2
    pacing = Pacing(100, 1.0)
    pacing.first_byte(0.0, 10, 1.0, waited=True)
    assert pacing.rounds(16) == 16 * 100 // ROUND_KEYS


def test_a_fixed_count_is_spread_over_all_segments() -> None:
    """It was asked for as it is; ours are fewer and larger."""
    assert Pacing(100, 1.0).scans(16) == 16
    assert Pacing(None, 1.0).scans(16) == ROUND_SCANS
    assert Pacing(None, 1.0).scans(1) == 1


def test_a_rare_match_lets_the_count_grow() -> None:
    """What is bounded is the server's time, not the keys."""
    pacing = Pacing(None, 1.0)
    assert settled(pacing, segments=1, cost=1e-7, keys_per_count=0.0) == pytest.approx(ROUND_SECONDS / 1e-7, rel=0.1)
    assert settled(Pacing(None, 1.0), segments=1, cost=0.0, keys_per_count=0.0) == MAX_COUNT


def test_a_round_that_was_held_up_changes_little() -> None:
    """One in many says something about the network, or about us."""
    pacing = Pacing(None, 1.0)
    count = settled(pacing, segments=1, cost=1e-6)
    Line(pacing).round(count, 3.0)
    assert pacing.count(1) == pytest.approx(count, rel=0.1)


def test_what_was_too_much_for_the_connection_is_halved() -> None:
    """Down to 1, where the count was the caller's."""
    pacing = Pacing(None, 1.0)
    count = settled(pacing, segments=1, cost=0.0)
    pacing.shrink()
    assert pacing.count(1) == pytest.approx(count / 2, abs=1)
    fixed = Pacing(5, 1.0)
    counts = []
    for _ in range(4):
        fixed.shrink()
        counts.append(fixed.count(1))
    assert counts == [2, 1, 1, 1]


@pytest.mark.parametrize("duty", [1.0, 0.5, 0.25, 0.01])
def test_a_rest_leaves_the_server_the_other_share_of_its_time(duty: float) -> None:
    """In proportion to what the round has cost."""
    line = Line(Pacing(100, duty), cost=0.002 / 100)
    rests = [line.round(100) for _ in range(40)]
    assert rests[-1] == pytest.approx(0.002 * (1 - duty) / duty)
    assert 0.002 / (0.002 + rests[-1]) == pytest.approx(duty)


def test_the_network_is_not_the_servers_time() -> None:
    """A slow line with a quick server at its end needs no rest."""
    line = Line(Pacing(100, 0.1))
    line.pacing = Pacing(100, 0.1)
    assert [line.round(100, 0.25) for _ in range(20)] == [0.0] * 20


def test_a_round_that_had_to_queue_costs_what_it_cost_alone() -> None:
    """There is always one round before it at the server; it is not charged with that one."""
    pacing = Pacing(100, 0.5)
    cost = 0.001
    pacing.first_byte(0.0, 1, NETWORK, waited=True)
    free = sent = 1.0
    rest = 0.0
    for _ in range(20):
        # The next one is sent in the middle of this one's execution.
        free += cost
        pacing.first_byte(sent, 100, free + NETWORK / 2, waited=True)
        rest = pacing.replied(100, 100)
        sent = free - cost / 2
    assert rest == pytest.approx(cost)


def test_what_had_come_long_ago_says_nothing_of_the_server() -> None:
    """A slow consumer does not make the server slow: the rounds stay as large as they were."""
    line = Line(Pacing(None, 1.0), cost=1e-7)
    for _ in range(60):
        line.round(line.pacing.count(1), 5.0, waited=False)
    assert line.pacing.count(1) == pytest.approx(ROUND_KEYS, rel=0.1)
    assert line.round(line.pacing.count(1), 5.0, waited=False) == 0.0


@given(st.lists(st.tuples(st.integers(1, 100_000), st.integers(0, 100_000), st.floats(0, 100)), max_size=40), st.data())
def test_whatever_it_sees_a_count_is_one_and_a_rest_has_an_end(
    rounds: list[tuple[int, int, float]], data: st.DataObject
) -> None:
    pacing = Pacing(None, data.draw(st.floats(0.01, 1.0)))
    now = 0.0
    for asked, keys, seconds in rounds:
        now += seconds
        pacing.first_byte(now - data.draw(st.floats(0, now)), asked, now, waited=data.draw(st.booleans()))
        assert 0 <= pacing.replied(asked, keys) < float("inf")
        if data.draw(st.booleans()):
            pacing.shrink()
        assert FIRST_COUNT <= pacing.count(data.draw(st.integers(1, 1024))) <= MAX_COUNT
