"""Who has which slot: what a node says, and what redirections make of it."""

from __future__ import annotations

from typing import Any

import pytest

from trio_sentinel_scan._core.cluster_map import ClusterMap, ClusterNode, Shard, read_shards, read_slots
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.slots import ALL_SLOTS, SLOTS, set_of

ASKED = Address("10.0.0.9", 7009)


def node(number: int) -> ClusterNode:
    return ClusterNode(f"{number}" * 40, Address(f"10.0.0.{number}", 7000))


FIRST, SECOND, THIRD, FOURTH = (node(number) for number in (1, 2, 3, 4))
LOW, HIGH = set_of([(0, 8191)]), set_of([(8192, SLOTS - 1)])
MAP = ClusterMap((Shard(FIRST, LOW, (THIRD,)), Shard(SECOND, HIGH)), 1)


def entry(slots: list[int], *nodes: Any) -> list[Any]:
    return [b"slots", slots, b"nodes", list(nodes)]


def told(number: int, *, role: bytes = b"master", **fields: Any) -> list[Any]:
    """One node of CLUSTER SHARDS; fields are given by name, None leaves one out."""
    told: dict[bytes, Any] = {
        b"id": b"%d" % number * 40,
        b"port": 7000,
        b"ip": b"10.0.0.%d" % number,
        b"endpoint": b"10.0.0.%d" % number,
        b"role": role,
        b"replication-offset": 72156,
        b"health": b"online",
    }
    for name, value in fields.items():
        told[name.replace("_", "-").encode()] = value
    return [item for name, value in told.items() if value != "left out" for item in (name, value)]


def test_a_map() -> None:
    assert MAP.owner(0) == FIRST
    assert MAP.owner(SLOTS - 1) == SECOND
    assert MAP.shard_of(0) == MAP.shards[0]
    assert MAP.masters == (FIRST, SECOND)
    assert MAP.nodes == (FIRST, SECOND, THIRD)
    assert MAP.uncovered == 0
    assert MAP.at(THIRD.address) == THIRD
    assert MAP.at(FOURTH.address) is None
    assert MAP.named(SECOND.node_id) == SECOND
    assert MAP.named("nobody") is None
    assert MAP.ownership() == {FIRST.address: LOW, SECOND.address: HIGH}
    assert str(FIRST) == "10.0.0.1:7000 (node 11111111)"
    assert str(ClusterNode("", FIRST.address)) == "10.0.0.1:7000 (node unknown)"


def test_slots_without_an_owner() -> None:
    found = ClusterMap((Shard(FIRST, set_of([(0, 9), (20, 29)])),))
    assert found.owner(10) is None
    assert found.shard_of(10) is None
    assert found.owner(29) == FIRST
    assert found.uncovered == ALL_SLOTS & ~set_of([(0, 9), (20, 29)])
    assert ClusterMap(()).uncovered == ALL_SLOTS


def test_maps_that_say_the_same() -> None:
    assert MAP.is_same(ClusterMap(tuple(reversed(MAP.shards)), 7))
    assert not MAP.is_same(ClusterMap(MAP.shards[:1], 1))


def test_a_redirection_moves_one_slot() -> None:
    found = MAP.moved(5, SECOND)
    assert (found.owner(4), found.owner(5), found.owner(6)) == (FIRST, SECOND, FIRST)
    assert found.version == 2
    assert found.shards[0].replicas == (THIRD,)
    assert MAP.owner(5) == FIRST
    assert found.moved(5, SECOND) is found


def test_a_redirection_to_a_node_that_nobody_knew() -> None:
    stranger = ClusterNode("", FOURTH.address)
    found = MAP.moved(5, stranger)
    assert found.owner(5) == stranger
    assert found.masters == (FIRST, SECOND, stranger)


def test_a_redirection_takes_a_masters_last_slot() -> None:
    found = ClusterMap((Shard(FIRST, 1), Shard(SECOND, 2)), 1).moved(0, SECOND)
    assert found.masters == (SECOND,)
    assert ClusterMap((Shard(FIRST, 1),), 1).moved(1, SECOND).owner(1) == SECOND


@pytest.mark.parametrize("as_maps", [False, True], ids=["RESP2", "RESP3"])
def test_cluster_shards_is_read(as_maps: bool) -> None:
    def shaped(flat: list[Any]) -> Any:
        return dict(zip(flat[::2], flat[1::2], strict=True)) if as_maps else flat

    replica = told(3, role=b"replica")
    reply = [
        shaped(entry([0, 99, 200, 299], shaped(replica), shaped(told(1)))),
        shaped(entry([100, 199], shaped(told(2)))),
        shaped(entry([], shaped(told(4)))),
    ]
    assert read_shards(reply, ASKED, tls=False) == (
        Shard(FIRST, set_of([(0, 99), (200, 299)]), (THIRD,)),
        Shard(SECOND, set_of([(100, 199)])),
    )


@pytest.mark.parametrize(
    "fields, tls, address",
    [
        ({"endpoint": b"node.example"}, False, Address("node.example", 7000)),
        ({"endpoint": None}, False, Address("10.0.0.9", 7000)),
        ({"endpoint": b"?"}, False, Address("10.0.0.1", 7000)),
        ({"endpoint": b""}, False, Address("10.0.0.1", 7000)),
        ({"endpoint": b"?", "ip": b""}, False, Address("10.0.0.9", 7000)),
        ({"endpoint": b"?", "ip": None}, False, Address("10.0.0.9", 7000)),
        ({"tls_port": 7443}, True, Address("10.0.0.1", 7443)),
        ({"tls_port": 7443}, False, Address("10.0.0.1", 7000)),
        ({}, True, Address("10.0.0.1", 7000)),
        ({"health": "left out"}, False, Address("10.0.0.1", 7000)),
        ({"health": b"loading"}, False, Address("10.0.0.1", 7000)),
    ],
)
def test_where_a_node_is(fields: dict[str, Any], tls: bool, address: Address) -> None:
    (shard,) = read_shards([entry([0, 9], told(1, **fields))], ASKED, tls=tls)
    assert shard.master.address == address


@pytest.mark.parametrize(
    "nodes",
    [
        [told(1, health=b"fail")],
        [told(1, port="left out")],
        [told(1, port=0)],
        [told(3, role=b"replica")],
        [],
    ],
    ids=["down", "without a port", "with none that can be", "a replica only", "nobody"],
)
def test_slots_whose_master_is_gone_have_no_owner(nodes: list[Any]) -> None:
    assert read_shards([entry([0, 9], *nodes)], ASKED, tls=False) == ()


def test_lists_that_name_the_same_master_are_one_shard() -> None:
    """A node that was reset is in an empty list of its own for a while."""
    replica = told(3, role=b"replica")
    reply = [entry([0, 9], told(1)), entry([20, 29], told(1), replica), entry([10, 10], told(1), replica)]
    assert read_shards(reply, ASKED, tls=False) == (Shard(FIRST, set_of([(0, 10), (20, 29)]), (THIRD,)),)


def test_cluster_slots_is_read() -> None:
    def by(number: int, *more: Any) -> list[Any]:
        return [b"10.0.0.%d" % number, 7000, b"%d" % number * 40, *more]

    reply = [
        [0, 99, by(1, []), by(3, [])],
        [200, 299, by(1, []), by(3, []), [b"", 0, b"5" * 40, []]],
        [100, 199, [b"", 7000]],
        [300, 300, [None, 7000, b"2" * 40, [b"ip", b"10.0.0.2"]]],
        [301, 301, [b"?", 7001, b"4" * 40, [b"ip", b"10.0.0.4"]]],
    ]
    assert read_slots(reply, ASKED) == (
        Shard(FIRST, set_of([(0, 99), (200, 299)]), (THIRD,)),
        Shard(ClusterNode("", Address("10.0.0.9", 7000)), set_of([(100, 199)])),
        Shard(ClusterNode("2" * 40, Address("10.0.0.9", 7000)), set_of([(300, 300)])),
        Shard(ClusterNode("4" * 40, Address("10.0.0.4", 7001)), set_of([(301, 301)])),
    )


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"OK",
        [None],
        [[b"slots", [0]]],
        [[b"slots", [0, SLOTS], b"nodes", []]],
        [[b"slots", [b"x", 1], b"nodes", []]],
        [[b"nodes", []]],
        [entry([0, 1], [b"id", b"1", b"port", 7000])],
    ],
)
def test_nonsense_is_said_to_be_nonsense(reply: Any) -> None:
    with pytest.raises(ValueError, match="CLUSTER SHARDS makes no sense"):
        read_shards(reply, ASKED, tls=False)


@pytest.mark.parametrize("reply", [None, [[0]], [[0, SLOTS, [b"", 1]]], [[0, 1, [b""]]], [[0, 1, b"node"]]])
def test_nonsense_in_the_older_form(reply: Any) -> None:
    with pytest.raises(ValueError, match="CLUSTER SLOTS makes no sense"):
        read_slots(reply, ASKED)


def test_who_is_the_master_of_what_was_a_shard() -> None:
    shard = MAP.shards[0]
    both = ClusterMap((Shard(FIRST, HIGH), Shard(SECOND, LOW)), 2)
    assert both.successor(shard) == FIRST
    assert ClusterMap((Shard(THIRD, LOW, (FIRST,)), Shard(SECOND, HIGH)), 2).successor(shard) == THIRD
    # A replica that was not known then.
    assert ClusterMap((Shard(SECOND, LOW), Shard(FOURTH, HIGH, (FIRST,))), 2).successor(shard) == FOURTH
    assert ClusterMap((Shard(SECOND, ALL_SLOTS, (FOURTH,)),), 2).successor(shard) == SECOND
    assert ClusterMap((Shard(SECOND, HIGH),), 2).successor(shard) is None
