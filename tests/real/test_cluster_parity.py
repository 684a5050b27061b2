"""redis-py's commands, called on our client of a cluster and on redis-py's own: the results are alike."""

# pyright: reportUnknownMemberType=false
# (redis-py's commands have **kwargs that are not annotated.)

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

import pytest
import redis.asyncio
import trio

from tests.real import parity
from tests.real.cluster_scenes import open_client
from tests.real.parity import Call, in_any_order, kind
from tests.real.test_command_parity import outcome
from trio_sentinel_scan.testing import LocalCluster, ServerBinary

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]

c = parity.c

# What is about one node, or about the connection, or about databases: redis-py draws lots, or differs by itself.
_ONE_NODE: Final = frozenset({"keys", "randomkey", "scan", "move", "swapdb", "debug_object", "dbsize"})
# Keys of any names are in any slots: errors in both, each in its own words.
_OF_A_KEY: Final[list[Call]] = [
    call
    for calls in (
        *(parity.STRINGS, parity.KEYS, parity.LISTS, parity.HASHES, parity.SETS),
        *(parity.SORTED_SETS, parity.STREAMS, parity.GEO_BITS_AND_COUNTS),
    )
    for call in calls
    if call.name not in _ONE_NODE
]
_OF_A_CLUSTER: Final[list[Call]] = [
    c("mset_nonatomic", {"ma": 1, "mb": 2, "mc": 3}),
    c("mget_nonatomic", "ma", "mb", "none", "mc"),
    c("delete", "ma", "mb", "none"),
    c("exists", "mc", "mc", "none"),
    c("touch", "mc", "none"),
    c("unlink", "mc", "none"),
    c("mset", {"{t}a": 1, "{t}b": 2}),
    c("mget", "{t}a", "{t}b"),
    c("keyslot", "{t}a"),
    c("keys", "{t}*", look=in_any_order, target_nodes="primaries"),
    c("dbsize", target_nodes="primaries", look=kind),
    c("ping"),
    c("ping", target_nodes="all"),
    c("script_load", parity.LUA),
    c("script_exists", "0" * 40),
    c("script_flush"),
    c("eval", parity.LUA, 1, "{t}a", "v"),
    c("cluster_keyslot", "{t}a"),
    c("cluster_countkeysinslot", 100),
    c("cluster_get_keys_in_slot", 100, 1),
    c("cluster_info", look=lambda r: sorted(r)[:3]),
    c("config_get", "maxmemory", look=kind),
    c("publish", "channel", "message"),
    c("pubsub_channels"),
    c("pubsub_numpat"),
    c("spublish", "channel", "message"),
    c("flushall", look=lambda r: sorted(r.items())),
    c("get", "{t}a"),
]


# What is different, by name and arguments, and why.
DIFFERENT: Final = {
    ("mget", "([],)"): "nothing needs to be asked; redis-py's cluster client says that a key is missing",
    ("stralgo", "('LCS', 'x', 'y')"): "it has no keys, on Redis 6.2; redis-py's cluster client misses one",
}


def alike(result: Any) -> Any:
    """Errors by their kind: words, and what each calls them, are each client's own."""
    if isinstance(result, tuple) and len(result) == 2 and str(result[0]).endswith(("Error", "Exception", "Slots")):
        return "an error"
    return result


@pytest.mark.slow
@pytest.mark.trio
@pytest.mark.parametrize(
    "decode", [pytest.param(False, id="bytes"), pytest.param(True, id="text", marks=pytest.mark.full)]
)
async def test_results_are_redis_pys(server_binary: ServerBinary, decode: bool) -> None:
    calls = [replace(call, options=dict(call.options)) for call in (*_OF_A_KEY, *_OF_A_CLUSTER)]
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        async with open_client(cluster, decode_responses=decode) as client:
            mine = [await outcome(client, call) for call in calls]
            await client.flushall()
        host, port = cluster.nodes[0].address

        async def theirs() -> list[Any]:
            options: dict[str, Any] = {"decode_responses": decode}
            async with redis.asyncio.RedisCluster(host=host, port=port, **options) as other:
                return [await outcome(other, call) for call in calls]

        redis_pys = await trio.to_thread.run_sync(lambda: asyncio.run(theirs()))
    different = [
        (call.name, call.args, one, other)
        for call, one, other in zip(calls, mine, redis_pys, strict=True)
        if repr(alike(one)) != repr(alike(other)) and (call.name, repr(call.args)) not in DIFFERENT
    ]
    assert not different, "\n".join(map(repr, different))
