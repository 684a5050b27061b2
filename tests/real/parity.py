"""The calls of `test_command_parity`: redis-py's methods with arguments, in an order in which they make sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["CALLS", "NOT_CALLED", "Call"]


def the_same(result: Any) -> Any:
    """Compare all of it."""
    return result


def kind(result: Any) -> Any:
    """What it is made of, where the values differ from moment to moment or from connection to connection."""
    if isinstance(result, dict):
        return {key: type(value).__name__ for key, value in result.items() if key not in COMES_AND_GOES}
    if isinstance(result, (list, tuple)):
        return type(result).__name__, sorted({str(kind(item)) for item in result})
    return type(result).__name__


def in_any_order(result: Any) -> Any:
    """The same things."""
    return sorted(result, key=repr) if isinstance(result, (list, tuple, set)) else result


def size(result: Any) -> Any:
    """How many, and of what type."""
    return type(result).__name__, len(result)


# Fields of INFO and its like that are there or not as the server's day goes.
COMES_AND_GOES: Final = frozenset({"db0", "db1", "cmdstat_client|setinfo", "errorstat_ERR"})


@dataclass(frozen=True)
class Call:
    """One call, and what of its result is to be the same."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    look: Callable[[Any], Any] = the_same


def c(name: str, *args: Any, look: Callable[[Any], Any] = the_same, **options: Any) -> Call:
    return Call(name, args, options, look)


LUA: Final = "return {KEYS[1], ARGV[1], 1}"
SHA: Final = "3f2ab1a9ad1fa1f8e8d7e0a3a40e4b2f3a4e6f6b"
LIBRARY: Final = (
    "#!lua name=mine\n"
    "redis.register_function{function_name='f', callback=function(k, a) return a[1] end, flags={'no-writes'}}"
)

STRINGS: Final = [
    c("set", "s", "value"),
    c("set", "s", "other", nx=True),
    c("set", "t", 5, ex=100, get=True),
    c("get", "s"),
    c("get", "none"),
    c("append", "s", "more"),
    c("strlen", "s"),
    c("getrange", "s", 0, 3),
    c("substr", "s", 0, 3),
    c("setrange", "s", 2, "XX"),
    c("getset", "s", "value"),
    c("getdel", "s"),
    c("getex", "t", px=5000),
    c("mset", {"a": 1, "b": "caf\u00e9", "c": b"3"}),
    c("msetnx", {"a": 1, "z": 2}),
    c("mget", "a", "b", "none"),
    c("mget", []),
    c("incr", "a"),
    c("incrby", "a", 5),
    c("incrbyfloat", "a", 0.5),
    c("decr", "c"),
    c("decrby", "c", 2),
    c("setex", "e", 100, "v"),
    c("psetex", "e", 100_000, "v"),
    c("setnx", "e", "v"),
    c("lcs", "b", "b", len=True),
    c("lcs", "b", "b", idx=True, withmatchlen=True),
    c("stralgo", "LCS", "x", "y", specific_argument="strings"),
]
KEYS: Final = [
    c("exists", "a", "b", "none"),
    c("touch", "a", "none"),
    c("type", "a"),
    c("expire", "b", 100),
    c("ttl", "b", look=kind),
    c("pexpire", "b", 100_000, nx=True),
    c("pttl", "b", look=kind),
    c("expireat", "b", 4_000_000_000),
    c("expiretime", "b"),
    c("pexpireat", "b", 4_000_000_000_000),
    c("pexpiretime", "b"),
    c("persist", "b"),
    c("rename", "b", "bb"),
    c("renamenx", "bb", "a"),
    c("copy", "bb", "b"),
    c("dump", "a"),
    c("restore", "restored", 0, b"\x00\xc0\t\n\x00\xc7E\x00O'{\x0c\x8c"),
    c("restore", "broken", 0, b"nothing"),
    c("keys", "*", look=in_any_order),
    c("randomkey", look=kind),
    c("move", "restored", 1),
    c("swapdb", 1, 2),
    c("object", "ENCODING", "a"),
    c("object", "REFCOUNT", "c", look=kind),
    c("object", "IDLETIME", "a", look=kind),
    c("object", "FREQ", "a"),
    c("memory_usage", "a", look=kind),
    c("debug_object", "a", look=kind),
    c("unlink", "b"),
    c("delete", "bb", "none"),
    c("sort", "numbers"),
    c("scan", 0, match="*", count=1000, look=lambda r: (r[0], sorted(r[1]))),
    c("dbsize"),
]
HASHES: Final = [
    c("hset", "h", mapping={"f": 1, "g": "2", "h": 3.5}),
    c("hset", "h", "i", "4"),
    c("hsetnx", "h", "f", 2),
    c("hget", "h", "f"),
    c("hget", "h", "none"),
    c("hmget", "h", "f", "none"),
    c("hmget", "h", ["f", "g"]),
    c("hgetall", "h"),
    c("hgetall", "none"),
    c("hkeys", "h"),
    c("hvals", "h"),
    c("hlen", "h"),
    c("hexists", "h", "f"),
    c("hstrlen", "h", "f"),
    c("hincrby", "h", "f", 5),
    c("hincrbyfloat", "h", "h", 0.25),
    c("hrandfield", "h", 10, withvalues=True),
    c("hrandfield", "h", look=kind),
    c("hscan", "h"),
    c("hscan", "h", match="f*", count=100),
    c("hscan", "h", no_values=True),
    c("hdel", "h", "f", "none"),
    c("hset", "s", "f", "v"),
    c("hmset", "h2", {"a": 1}),
    c("hexpire", "h", 100, "g"),
    c("hexpireat", "h", 4_000_000_000, "g"),
    c("hpexpire", "h", 100_000, "g"),
    c("hpexpireat", "h", 4_000_000_000_000, "g"),
    c("hexpiretime", "h", "g"),
    c("hpexpiretime", "h", "g"),
    c("httl", "h", "g", look=kind),
    c("hpttl", "h", "g", look=kind),
    c("hpersist", "h", "g"),
    c("hgetex", "h", "g"),
    c("hsetex", "h", "g", "v"),
    c("hgetdel", "h", "g"),
]
LISTS: Final = [
    c("rpush", "l", 1, 2, 3, 2),
    c("lpush", "l", "zero"),
    c("rpushx", "l", 4),
    c("lpushx", "none", 4),
    c("lrange", "l", 0, -1),
    c("lindex", "l", 1),
    c("lindex", "l", 100),
    c("linsert", "l", "BEFORE", 2, "between"),
    c("llen", "l"),
    c("lpos", "l", 2),
    c("lpos", "l", 2, count=0),
    c("lset", "l", 0, "first"),
    c("lset", "l", 100, "never"),
    c("lrem", "l", 1, 2),
    c("ltrim", "l", 0, 3),
    c("lmove", "l", "m", "LEFT", "RIGHT"),
    c("rpoplpush", "l", "m"),
    c("lpop", "l"),
    c("rpop", "l", 2),
    c("lpop", "none"),
    c("lmpop", 2, "l", "m", direction="LEFT", count=1),
    c("lmpop", 1, "none", direction="LEFT"),
    c("rpush", "numbers", 3, 1, 2),
    c("sort", "numbers", desc=True),
    c("sort", "numbers", store="sorted"),
    c("sort_ro", "numbers", alpha=True),
    c("blpop", ["none", "numbers"], 1),
    c("brpop", "numbers", 1),
    c("brpop", "none", 0.01),
    c("blmove", "numbers", "m", 1),
    c("brpoplpush", "m", "l", 1),
    c("blmpop", 1, 1, "m", direction="LEFT"),
    c("blmpop", 0.01, 1, "none", direction="LEFT"),
    c("incr", "l"),
]
SETS: Final = [
    c("sadd", "x", "a", "b", "c"),
    c("sadd", "y", "b", "c", "d"),
    c("scard", "x"),
    c("sismember", "x", "a"),
    c("smismember", "x", ["a", "z"]),
    c("smembers", "x"),
    c("sdiff", "x", "y"),
    c("sdiffstore", "d", "x", "y"),
    c("sinter", "x", "y"),
    c("sintercard", 2, ["x", "y"], limit=1),
    c("sinterstore", "d", "x", "y"),
    c("sunion", "x", "y"),
    c("sunionstore", "d", "x", "y"),
    c("smove", "x", "y", "a"),
    c("srandmember", "x", look=kind),
    c("srandmember", "x", 10, look=in_any_order),
    c("sscan", "y", look=lambda r: (r[0], sorted(r[1]))),
    c("srem", "y", "b", "none"),
    c("spop", "one"),
    c("spop", "x", 10, look=in_any_order),
]
SORTED_SETS: Final = [
    c("zadd", "z", {"a": 1, "b": 2.5, "c": 3}),
    c("zadd", "z", {"a": 5}, xx=True, ch=True),
    c("zadd", "z", {"a": 1}, incr=True),
    c("zadd", "w", {"a": 1, "b": 2, "c": float("inf")}),
    c("zcard", "z"),
    c("zcount", "z", "-inf", "+inf"),
    c("zincrby", "z", 1.5, "b"),
    c("zscore", "z", "b"),
    c("zscore", "z", "none"),
    c("zmscore", "z", ["a", "none"]),
    c("zrank", "z", "b"),
    c("zrank", "z", "none"),
    c("zrank", "z", "b", withscore=True),
    c("zrevrank", "z", "b"),
    c("zrange", "z", 0, -1),
    c("zrange", "z", 0, -1, withscores=True),
    c("zrange", "z", 0, -1, desc=True, withscores=True, score_cast_func=int),
    c("zrevrange", "z", 0, -1, withscores=True),
    c("zrangebyscore", "z", 0, 5, withscores=True),
    c("zrevrangebyscore", "z", 5, 0),
    c("zrangebylex", "w", "-", "+"),
    c("zrevrangebylex", "w", "+", "-"),
    c("zlexcount", "w", "-", "+"),
    c("zrangestore", "stored", "z", 0, -1),
    c("zdiff", ["z", "stored"], withscores=True),
    c("zdiffstore", "d", ["z", "w"]),
    c("zinter", ["z", "w"], withscores=True),
    c("zintercard", 2, ["z", "w"]),
    c("zinterstore", "d", {"z": 2, "w": 1}, aggregate="MAX"),
    c("zunion", ["z", "w"], withscores=True),
    c("zunionstore", "d", ["z", "w"]),
    c("zrandmember", "z", look=kind),
    c("zrandmember", "z", 10, withscores=True, look=in_any_order),
    c("zscan", "z"),
    c("zmpop", 1, ["z"], min=True),
    c("zmpop", 1, ["none"], min=True),
    c("zpopmax", "z"),
    c("zpopmin", "w", 2),
    c("bzpopmax", "w", 1),
    c("bzpopmin", "none", 0.01),
    c("bzpopmin", "d", 1),
    c("bzmpop", 1, 1, ["d"], min=True),
    c("bzmpop", 0.01, 1, ["none"], min=True),
    c("zrem", "stored", "a"),
    c("zremrangebylex", "stored", "-", "+"),
    c("zremrangebyrank", "stored", 0, -1),
    c("zremrangebyscore", "stored", 0, 10),
]
STREAMS: Final = [
    c("xadd", "x1", {"f": "v"}, id="1-1"),
    c("xadd", "x1", {"f": "w", "g": 2}, id="2-1"),
    c("xadd", "x1", {"f": "w"}, id="1-1"),
    c("xadd", "x2", {"f": "x"}, id="5-1", maxlen=10, approximate=False),
    c("xlen", "x1"),
    c("xrange", "x1"),
    c("xrevrange", "x1", count=1),
    c("xread", {"x1": "0"}, count=1),
    c("xread", {"x1": "0", "x2": "0"}),
    c("xread", {"x1": "1-1"}, block=1000),
    c("xread", {"x1": "$"}, block=10),
    c("xread", {"none": "0"}),
    c("xgroup_create", "x1", "g", id="0"),
    c("xgroup_create", "x1", "g", id="0"),
    c("xgroup_createconsumer", "x1", "g", "me"),
    c("xreadgroup", "g", "me", {"x1": ">"}),
    c("xreadgroup", "g", "me", {"x1": ">"}, block=10),
    c("xpending", "x1", "g"),
    c("xpending_range", "x1", "g", "-", "+", 10, look=kind),
    c("xinfo_stream", "x1", look=kind),
    c("xinfo_stream", "x1", full=True, look=kind),
    c("xinfo_groups", "x1"),
    c("xinfo_consumers", "x1", "g", look=kind),
    c("xclaim", "x1", "g", "you", 0, ["1-1"]),
    c("xclaim", "x1", "g", "you", 0, ["1-1"], justid=True),
    c("xautoclaim", "x1", "g", "me", 0),
    c("xack", "x1", "g", "1-1", "9-9"),
    c("xgroup_setid", "x1", "g", "0"),
    c("xgroup_delconsumer", "x1", "g", "you"),
    c("xgroup_destroy", "x1", "g"),
    c("xdel", "x1", "1-1"),
    c("xtrim", "x1", maxlen=0, approximate=False),
    c("xack", "s", "g", "1-1"),
]
GEO_BITS_AND_COUNTS: Final = [
    c("geoadd", "geo", (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")),
    c("geodist", "geo", "Palermo", "Catania", unit="km"),
    c("geodist", "geo", "Palermo", "none"),
    c("geohash", "geo", "Palermo", "none"),
    c("geopos", "geo", "Palermo", "none"),
    c("georadius", "geo", 15, 37, 200, unit="km", withdist=True, withcoord=True, withhash=True),
    c("georadiusbymember", "geo", "Palermo", 500, unit="km"),
    c("geosearch", "geo", longitude=15, latitude=37, radius=200, unit="km", withdist=True, withcoord=True, sort="ASC"),
    c("geosearch", "geo", member="Palermo", radius=500, unit="km", sort="ASC"),
    c("geosearchstore", "near", "geo", longitude=15, latitude=37, radius=200, unit="km"),
    c("setbit", "bits", 7, 1),
    c("setbit", "bits", 100, 1),
    c("getbit", "bits", 7),
    c("bitcount", "bits"),
    c("bitcount", "bits", 0, 1),
    c("bitpos", "bits", 1),
    c("bitop", "NOT", "stib", "bits"),
    c("bitfield_ro", "bits", "u8", 0),
    c("pfadd", "hll", "a", "b", "c"),
    c("pfadd", "hll", "a"),
    c("pfcount", "hll"),
    c("pfmerge", "both", "hll"),
]
SCRIPTS: Final = [
    c("eval", LUA, 1, "k", "v"),
    c("eval", "return redis.error_reply('MINE no')", 0),
    c("eval_ro", "return {false, true, 3.9, {ok='fine'}}", 0),
    c("script_load", LUA),
    c("script_exists", SHA, "0" * 40),
    c("evalsha", "0" * 40, 0),
    c("evalsha_ro", "0" * 40, 0),
    c("script_kill"),
    c("script_flush", "SYNC"),
    c("function_load", LIBRARY),
    c("function_load", LIBRARY),
    c("function_list", look=kind),
    c("function_list", library="mine", withcode=True),
    c("fcall", "f", 0, "x"),
    c("fcall_ro", "f", 0, "x"),
    c("function_stats", look=kind),
    c("function_dump", look=kind),
    c("function_restore", b"nothing"),
    c("function_kill"),
    c("function_delete", "mine"),
    c("function_flush", "SYNC"),
]
SERVER: Final = [
    c("ping"),
    c("echo", "hello"),
    c("time", look=kind),
    c("role", look=kind),
    c("lastsave", look=kind),
    c("lolwut", look=kind),
    c("info", look=kind),
    c("info", "server", look=kind),
    c("info", "keyspace", "clients", look=kind),
    c("acl_whoami"),
    c("acl_cat"),
    c("acl_cat", "string", look=in_any_order),
    c("acl_genpass", look=kind),
    c("acl_setuser", "alice", enabled=True, passwords=["+secret"], categories=["+@read"], keys=["k:*"]),
    c("acl_getuser", "alice"),
    c("acl_getuser", "nobody"),
    c("acl_users", look=in_any_order),
    c("acl_list", look=in_any_order),
    c("acl_dryrun", "alice", "GET", "k:1"),
    c("acl_dryrun", "alice", "SET", "k:1", "v"),
    c("acl_log", look=kind),
    c("acl_log_reset"),
    c("acl_help", look=kind),
    c("acl_load"),
    c("acl_save"),
    c("acl_deluser", "alice", "nobody"),
    c("config_get", "maxmemory*"),
    c("config_get", "none"),
    c("config_set", "slowlog-log-slower-than", 0),
    c("config_set", "none", 1),
    c("config_resetstat"),
    c("slowlog_get", 2, look=kind),
    c("slowlog_len", look=kind),
    c("slowlog_reset"),
    c("config_set", "slowlog-log-slower-than", 10000),
    c("client_id", look=kind),
    c("client_info", look=kind),
    c("client_list", look=kind),
    c("client_list", _type="normal", look=kind),
    c("client_getname"),
    c("client_getredir"),
    c("client_trackinginfo"),
    c("client_kill", "127.0.0.1:1"),
    c("client_kill_filter", _id="999999"),
    c("client_unblock", 999999),
    c("client_pause", 1, all=False),
    c("client_unpause"),
    c("command_count"),
    c("command_getkeys", "MSET", "a", 1, "b", 2),
    c("command_getkeysandflags", "MSET", "a", 1, "b", 2),
    c("command_list", module="none"),
    c("command_list", category="string", look=in_any_order),
    c("command", look=lambda r: {name: of["arity"] for name, of in r.items()}),
    c("command_docs", "GET"),
    c("command_info"),
    c("latency_histogram", "GET"),
    c("latency_history", "command"),
    c("latency_latest"),
    c("latency_reset"),
    c("latency_doctor"),
    c("latency_graph"),
    c("memory_stats", look=lambda r: type(r).__name__),
    c("memory_malloc_stats", look=kind),
    c("memory_purge"),
    c("memory_doctor"),
    c("memory_help"),
    c("module_list"),
    c("module_load", "/none"),
    c("module_loadex", "/none"),
    c("module_unload", "none"),
    c("publish", "channel", "message"),
    c("spublish", "channel", "message"),
    c("pubsub_channels"),
    c("pubsub_numpat"),
    c("pubsub_numsub", "a", "b"),
    c("pubsub_shardchannels"),
    c("pubsub_shardnumsub", "a"),
    c("cluster", "INFO"),
    c("replicaof", "NO", "ONE"),
    c("slaveof"),
    c("failover"),
    c("migrate", "127.0.0.1", 1, "none", 0, 10),
    c("execute_command", "OBJECT", "HELP", look=kind),
    c("execute_command", "CONFIG GET", "save", look=kind),
    c("execute_command", "NONSENSE", "argument"),
    c("flushdb"),
    c("flushall", asynchronous=False),
]
# Asked for on a connection of the caller's own, which in redis-py is a client with a single connection.
ON_A_LEASE: Final = [
    c("client_setname", "me"),
    c("client_getname"),
    c("client_setinfo", "LIB-NAME", "mine"),
    c("client_no_evict", "ON"),
    c("client_no_touch", "ON"),
    c("client_tracking_on"),
    c("client_trackinginfo"),
    c("client_tracking_off"),
    c("client_tracking", on=False),
    c("client_reply", "ON"),
    c("set", "leased", 1),
    c("wait", 0, 10),
    c("waitaof", 0, 0, 10),
    c("select", 1),
    c("dbsize"),
    c("watch", "leased"),
    c("unwatch"),
    c("auth", "wrong"),
    c("readonly"),
    c("readwrite"),
    c("hello"),
    c("reset"),
]
for_all = [STRINGS, LISTS, KEYS, HASHES, SETS, SORTED_SETS, STREAMS, GEO_BITS_AND_COUNTS, SCRIPTS, SERVER]
CALLS: Final = [call for calls in for_all for call in calls]

NEWER: Final = "no server of this machine has it"
NOT_CALLED: Final = {
    **dict.fromkeys(
        """
        arcount ardel ardelrange arget argetrange argrep arinfo arinsert arlastitems arlen armget armset arnext arop
        arring arscan arseek arset blmovem delex digest digest_local himport_discard_all_internal
        himport_discard_internal himport_prepare_internal himport_set hotkeys_get hotkeys_reset hotkeys_start
        hotkeys_stop increx lmovem msetex sdiffcard sunioncard xackdel xcfgset xdelex xnack
        """.split(),  # noqa: SIM905 (as a list it would be 40 lines)
        NEWER,
    ),
    **dict.fromkeys(
        ["scan_iter", "hscan_iter", "sscan_iter", "zscan_iter"], "ours; see test_commands and test_client_iterators"
    ),
    **dict.fromkeys(["bgrewriteaof", "bgsave", "save", "config_rewrite"], "it writes files of the server's"),
    **dict.fromkeys(["shutdown", "debug_segfault", "quit"], "nothing would be left to compare with"),
    **dict.fromkeys(["psync", "sync"], "they begin a replication stream"),
    "bitfield": "it is a builder, not a command; see test_the_builder_of_bitfield",
    "register_script": "it sends nothing; see test_pipelines",
    "script_debug": "redis-py does not implement it",
}
