"""Which of several answers about the slots counts, and what redirections do to it."""

from __future__ import annotations

from trio_sentinel_scan._core.cluster_map import ClusterNode, Shard
from trio_sentinel_scan._core.cluster_views import ClusterViews, MapAnswer
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.slots import ALL_SLOTS, set_of

SEED, A, B, C = (Address("10.0.0.1", port) for port in (7000, 7001, 7002, 7003))
LOW, HIGH = set_of([(0, 8191)]), set_of([(8192, 16383)])


def answer(*owners: Address, epoch: int = 3, is_ok: bool = True) -> MapAnswer:
    parts = (ALL_SLOTS,) if len(owners) == 1 else (LOW, HIGH)
    shards = tuple(
        Shard(ClusterNode(str(owner.port), owner), slots) for owner, slots in zip(owners, parts, strict=True)
    )
    return MapAnswer(shards, epoch, is_ok)


def test_the_seeds_are_asked_first() -> None:
    views = ClusterViews([SEED, B])
    assert views.candidates() == [SEED, B]
    assert views.map is None
    assert not views.moved(5, A)


def test_an_answer_makes_the_map() -> None:
    views = ClusterViews([SEED])
    views.failed(SEED, "is not there")
    assert views.problems == {SEED: "is not there"}
    assert views.is_enough(answer(A, B))
    assert views.answered([(A, answer(A, B))])
    assert views.map is not None
    assert (views.map.version, views.epoch, views.problems) == (1, 3, {})
    assert views.candidates() == [A, B, SEED]
    assert not views.answered([(B, answer(A, B, epoch=4))])
    assert (views.map.version, views.epoch) == (1, 4)
    assert views.candidates() == [B, A, SEED]


def test_without_an_answer_everything_stays() -> None:
    views = ClusterViews([SEED])
    assert not views.answered([])
    assert not views.contradicted
    views.answered([(A, answer(A, B))])
    views.moved(5, B)
    assert not views.answered([])
    assert views.contradicted


def test_an_old_answer_or_one_of_a_node_that_is_cut_off_is_not_enough() -> None:
    views = ClusterViews([SEED])
    views.answered([(A, answer(A, B, epoch=5))])
    assert not views.is_enough(answer(A, A, epoch=4))
    assert not views.is_enough(answer(A, A, epoch=6, is_ok=False))
    late, cut_off, new = answer(C, A, epoch=4), answer(C, C, epoch=9, is_ok=False), answer(A, C, epoch=6)
    assert views.answered([(A, late), (B, cut_off), (C, new)])
    assert views.map is not None
    assert views.map.masters[1].address == C


def test_if_none_is_enough_the_latest_counts() -> None:
    """The cluster may have been made anew."""
    views = ClusterViews([SEED])
    views.answered([(A, answer(A, B, epoch=5))])
    assert views.answered([(A, answer(C, A, epoch=1)), (C, answer(C, B, epoch=2))])
    assert views.epoch == 2
    assert views.map is not None
    assert views.map.masters[1].address == B


def test_a_redirection_counts_at_once_and_until_the_next_answer() -> None:
    views = ClusterViews([SEED])
    views.answered([(A, answer(A, B))])
    assert views.moved(5, B)
    assert not views.moved(5, B)
    assert views.map is not None
    owner = views.map.owner(5)
    assert owner is not None
    # The node as the map knows it.
    assert (owner.address, owner.node_id) == (B, "7002")
    assert views.candidates()[0] == B
    assert views.answered([(A, answer(A, B))])
    assert views.contradicted
    owner = views.map.owner(5)
    assert owner is not None
    assert owner.address == A
    assert views.candidates()[0] == A


def test_an_answer_that_confirms_a_redirection_contradicts_nothing() -> None:
    views = ClusterViews([SEED])
    views.answered([(A, answer(A, B))])
    assert views.moved(5, C)
    assert views.moved(6, C)
    assert views.answered([(C, answer(C, B, epoch=4))])
    assert not views.contradicted
    assert views.moved(9000, C)
    assert views.answered([(C, MapAnswer((), 5, is_ok=True))])
    assert views.contradicted
