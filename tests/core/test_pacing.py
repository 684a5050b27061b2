"""COUNT and rests: what bounds a round, how it adapts, and what a share of the server's time comes to."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_sentinel_scan._core.pacing import FIRST_COUNT, MAX_COUNT, ROUND_KEYS, ROUND_SECONDS, Pacing

NETWORK = 0.0001


def settled(pacing: Pacing, *, segments: int, cost: float, keys_per_count: float = 1.0, rounds: int = 60) -> int:
    """The COUNT of each SCAN after some rounds over a network, on a server that a unit of COUNT costs so much."""
    pacing.replied(1, 1, NETWORK)
    for _ in range(rounds):
        asked = segments * pacing.count(segments)
        pacing.replied(asked, int(asked * keys_per_count), NETWORK + cost * asked)
    return pacing.count(segments)


@pytest.mark.parametrize("segments", [1, 16])
def test_a_fixed_count_stays(segments: int) -> None:
    assert Pacing(7, 1.0).count(segments) == 7
    assert settled(Pacing(7, 1.0), segments=segments, cost=1.0) == 7


def test_an_adaptive_count_begins_small_and_doubles() -> None:
    pacing = Pacing(None, 1.0)
    counts = [pacing.count(1)]
    for _ in range(6):
        pacing.replied(pacing.count(1), pacing.count(1), NETWORK)
        counts.append(pacing.count(1))
    assert counts == [FIRST_COUNT * 2**number for number in range(7)]


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


def test_a_rare_match_lets_the_count_grow() -> None:
    """What is bounded is the server's time, not the keys."""
    pacing = Pacing(None, 1.0)
    assert settled(pacing, segments=1, cost=1e-7, keys_per_count=0.0) == pytest.approx(ROUND_SECONDS / 1e-7, rel=0.1)
    assert settled(Pacing(None, 1.0), segments=1, cost=0.0, keys_per_count=0.0) == MAX_COUNT


def test_a_round_that_was_held_up_changes_little() -> None:
    """One in many says something about the network, or about us."""
    pacing = Pacing(None, 1.0)
    count = settled(pacing, segments=1, cost=1e-6)
    pacing.replied(count, count, 3.0)
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
    pacing = Pacing(100, duty)
    pacing.replied(1, 1, NETWORK)
    rests = [pacing.replied(100, 100, NETWORK + 0.002) for _ in range(40)]
    assert rests[-1] == pytest.approx(0.002 * (1 - duty) / duty)
    assert 0.002 / (0.002 + rests[-1]) == pytest.approx(duty)


def test_the_network_is_not_the_servers_time() -> None:
    """A slow line with a quick server at its end needs no rest."""
    pacing = Pacing(100, 0.1)
    assert [pacing.replied(100, 100, 0.25) for _ in range(20)] == [0.0] * 20


@given(st.lists(st.tuples(st.integers(1, 100_000), st.integers(0, 100_000), st.floats(0, 100)), max_size=40), st.data())
def test_whatever_it_sees_a_count_is_one_and_a_rest_has_an_end(
    rounds: list[tuple[int, int, float]], data: st.DataObject
) -> None:
    pacing = Pacing(None, data.draw(st.floats(0.01, 1.0)))
    for asked, keys, seconds in rounds:
        assert 0 <= pacing.replied(asked, keys, seconds) < float("inf")
        if data.draw(st.booleans()):
            pacing.shrink()
        assert FIRST_COUNT <= pacing.count(data.draw(st.integers(1, 1024))) <= MAX_COUNT
