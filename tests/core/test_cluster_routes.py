"""Where a cluster's commands go, and how several replies become one."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import CrossSlotTransactionError, RedisClusterException

from trio_sentinel_scan import CommandNotShareable, ConfigError, KeysInDifferentSlots
from trio_sentinel_scan._core.cluster_map import ClusterMap, ClusterNode, Shard
from trio_sentinel_scan._core.cluster_routes import (
    HAS_ONE_KEY,
    Scope,
    check_fit,
    common_slot,
    full_name,
    keys_of,
    put_together,
    route_of,
    scope_of,
)
from trio_sentinel_scan._core.cluster_targets import find_node, find_targets
from trio_sentinel_scan._core.command_keys import Span, Unlisted
from trio_sentinel_scan._core.commands import read_command
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.slots import slot_of


@pytest.mark.parametrize(
    "words, route",
    [
        ("GET k", slot_of(b"k")),
        ("get k", slot_of(b"k")),
        ("MGET {t}a {t}b", slot_of(b"t")),
        ("EVAL script 1 k", slot_of(b"k")),
        ("EVAL script 0", Scope.ONE_MASTER),
        ("PUBLISH c m", slot_of(b"c")),
        ("PING", Scope.ONE_MASTER),
        ("ECHO hello", Scope.ONE_MASTER),
        ("KEYS *", Scope.ONE_MASTER),
        ("INFO", Scope.ONE_MASTER),
        ("FLUSHALL", Scope.MASTERS),
        ("SCAN 0", Scope.MASTERS),
        ("SCRIPT LOAD x", Scope.MASTERS),
        ("script load x", Scope.MASTERS),
        ("SCRIPT KILL", Scope.ONE_MASTER),
        ("CLIENT LIST", Scope.ONE_MASTER),
        ("CLUSTER COUNTKEYSINSLOT 7", 7),
        ("CLUSTER COUNTKEYSINSLOT 99999", Scope.ONE_MASTER),
        ("CLUSTER COUNTKEYSINSLOT " + "9" * 5_000, Scope.ONE_MASTER),
        ("CLUSTER COUNTKEYSINSLOT", Scope.ONE_MASTER),
        ("CLUSTER SETSLOT 7 STABLE", 7),
        ("XINFO STREAM k", slot_of(b"k")),
        ("LEARNED a k", slot_of(b"k")),
        ("FROBNICATE k", None),
        ("MOVABLE k", None),
    ],
)
def test_a_route(words: str, route: Any) -> None:
    learned: Any = {"LEARNED": Span(2, 2), "MOVABLE": Unlisted.ASK_EACH_TIME}
    assert route_of(read_command(tuple(words.split())), learned) == route


def test_keys_in_several_slots() -> None:
    with pytest.raises(KeysInDifferentSlots, match=r"MGET has keys in 2 slots \(3300, 15495\)") as caught:
        route_of(read_command(("MGET", "a", b"b")), {})
    assert isinstance(caught.value, CrossSlotTransactionError)
    assert isinstance(caught.value, RedisClusterException)
    assert caught.value.slots == (3300, 15495)
    with pytest.raises(KeysInDifferentSlots, match=r"in 9 slots \(.*, \.\.\.\)"):
        common_slot([b"%d" % number for number in range(9)], "this")


def test_what_a_cluster_cannot_do() -> None:
    for words in (("SELECT", 1), ("move", "k", 1), (b"SWAPDB", 0, 1)):
        with pytest.raises(CommandNotShareable, match="database 0 only"):
            check_fit(words)
    check_fit(("GET", "k"))
    check_fit(())


def test_names() -> None:
    assert full_name(read_command(("script", "load", "x"))) == "SCRIPT LOAD"
    assert full_name(read_command(("SCRIPT",))) == "SCRIPT"
    assert full_name(read_command(("GET", "load"))) == "GET"
    assert scope_of("SCRIPT LOAD") is Scope.MASTERS
    assert scope_of("GET") is None
    assert "GET" in HAS_ONE_KEY
    assert not {"MOVE", "MGET"} & HAS_ONE_KEY
    assert keys_of(read_command(("MGET", "a", b"b")), {}) == {b"a", b"b"}
    # Of what is not known which words are keys, any may be.
    assert keys_of(read_command(("FROBNICATE", "a", 5)), {}) == {b"a", b"5"}
    assert keys_of(read_command(("FROBNICATE", "a", 5)), {"FROBNICATE": Span(2, 2)}) == {b"5"}
    asks: dict[str, Any] = {"FROBNICATE": Unlisted.ASK_EACH_TIME}
    assert keys_of(read_command(("FROBNICATE", "a", 5)), asks) == {b"a", b"5"}


@pytest.mark.parametrize(
    "name, results, found",
    [
        ("DBSIZE", {"a": 1, "b": 2}, 3),
        ("DBSIZE", {"a": 1}, 1),
        ("KEYS", {"a": [b"x"], "b": [b"y"]}, [b"x", b"y"]),
        ("PING", {"a": True, "b": False}, False),
        ("PING", {"a": True}, True),
        ("SCRIPT LOAD", {"a": "sha", "b": "sha"}, "sha"),
        ("SCRIPT EXISTS", {"a": [True, True], "b": [True, False]}, [True, False]),
        ("SCAN", {"a": (7, [b"x"]), "b": (0, [b"y"])}, ({"a": 7, "b": 0}, [b"x", b"y"])),
        ("FLUSHALL", {"a": True, "b": True}, {"a": True, "b": True}),
        ("FLUSHALL", {"a": True}, True),
        ("INFO", {"a": {"x": 1}}, {"x": 1}),
    ],
)
def test_one_result_of_several(name: str, results: dict[str, Any], found: Any) -> None:
    together = put_together(name, results)
    assert (sorted(together) if name == "KEYS" else together) == found


# ---- nodes as a caller names them --------------------------------------------------------------------------------

MASTER, REPLICA = (ClusterNode(str(n) * 40, Address("10.0.0.1", 7000 + n)) for n in (1, 2))
MAP = ClusterMap((Shard(MASTER, 1, (REPLICA,)),), 1)


class RedisPysNode:
    host, port = "10.0.0.1", 7002


@pytest.mark.parametrize(
    "value",
    ["2" * 40, "10.0.0.1:7002", ("10.0.0.1", 7002), Address("10.0.0.1", 7002), REPLICA, RedisPysNode()],
    ids=["id", "text", "pair", "address", "node", "redis-py's"],
)
def test_a_node(value: object) -> None:
    assert find_node(value, MAP) == REPLICA
    assert find_targets(value, MAP) == [REPLICA]
    assert find_targets([value, MASTER], MAP) == [REPLICA, MASTER]
    assert find_targets({"any": value}, MAP) == [REPLICA]


def test_a_node_that_a_redirection_named_is_known_by_its_address() -> None:
    assert find_node(ClusterNode("", MASTER.address), MAP) == MASTER
    # And one that has moved, by its id.
    assert find_node(ClusterNode(MASTER.node_id, Address("10.0.0.9", 1)), MAP) == MASTER


@pytest.mark.parametrize(
    "value, scope",
    [
        ("primaries", Scope.MASTERS),
        ("replicas", Scope.REPLICAS),
        ("all", Scope.ALL),
        ("random", Scope.ONE_MASTER),
        ("default-node", Scope.ONE_MASTER),
    ],
)
def test_redis_pys_words(value: str, scope: Scope) -> None:
    assert find_targets(value, MAP) is scope


@pytest.mark.parametrize("value", ["3" * 40, "10.0.0.1:7003", ("10.0.0.1", 7003), "everybody"])
def test_a_node_that_is_not_there(value: object) -> None:
    with pytest.raises(ConfigError, match="node: names no node that is in the cluster"):
        find_node(value, MAP)
    with pytest.raises(ConfigError, match="target_nodes: names no node"):
        find_targets(value, MAP)


def test_what_is_no_node() -> None:
    with pytest.raises(ConfigError, match="node: must be"):
        find_node(7, MAP)
    with pytest.raises(ConfigError, match="no node at all"):
        find_targets([], MAP)
