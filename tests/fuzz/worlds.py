"""Clients, whole, on fake servers that answer nonsense: a typed error within its time, and nothing left open.

A try is one client of one kind, one thing that is done with it, and what servers answer to one kind of command while it
is done (or while it is connecting): a reply of other types than there should be, or bytes that are broken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final, NamedTuple

import pytest
import trio
from redis.exceptions import RedisError, ResponseError

from tests.fuzz.decoding import Absurd, read_plainly
from tests.fuzz.readers import HELLO, INFO, KNOWN, MASTER, NODES, PEERS, REPLICAS, SHARDS, SLOTS, Property
from tests.fuzz.values import any_reply, mutated, mutated_bytes, mutated_text
from tests.trio.fakes import Cut, FakeCluster, Host, Network, Raw, Reply, Service, Value, encode, on_mock_time, settled
from tests.trio.fakes.resp import ABSURD, Error, Push, Simple
from trio_sentinel_scan import ClusterClient, ProtocolError, RedisClient, SentinelClient

__all__ = ["PROPERTIES"]

KEYS: Final = 60
# What a command's honest reply looks like, to be spoilt. Others get anything.
HONEST: Final[dict[str, Any]] = {
    "HELLO": HELLO,
    "ROLE": MASTER,
    "INFO": INFO,
    "SCAN": [b"17", [b"a", b"b"]],
    "HSCAN": [b"17", [b"a", b"1"]],
    "HGETALL": {b"name": b"x"},
    "ZRANGE": [[b"a", b"1.5"]],
    "XREAD": {b"key:1": [[b"1-1", [b"name", b"x"]]]},
    "TIME": [b"1700000000", b"5"],
    "DBSIZE": 7,
    "CLIENT LIST": b"id=3 addr=10.0.0.9:1 name= age=5 db=0 cmd=client",
    "ZSCORE": b"1.5",
    "MGET": [b"a", None],
    "EXEC": [b"OK", b"1"],
    "SUBSCRIBE": Push([b"subscribe", b"c", 1]),
    "CLUSTER SHARDS": SHARDS,
    "CLUSTER NODES": NODES.encode(),
    "CLUSTER SLOTS": SLOTS,
    "SENTINEL MASTER": KNOWN,
    "SENTINEL SENTINELS": PEERS,
    "SENTINEL REPLICAS": REPLICAS,
    "SENTINEL GET-MASTER-ADDR-BY-NAME": [b"10.0.0.1", b"6379"],
    "SENTINEL MYID": b"a" * 40,
    "CONFIG": {b"hash-seed": b"x"},
    "HLEN": 7,
    "TYPE": Simple("string"),
    "TTL": -1,
}


class Deed(NamedTuple):
    """What is done with a client, and the commands that it takes."""

    do: Callable[[Any], Awaitable[object]]
    commands: tuple[str, ...]


async def _scan(client: Any) -> None:
    async with client.open_scan(count=10, max_restarts=2) as pages:
        async for _ in pages:
            pass


async def _scan_with_details(client: Any) -> None:
    async with client.open_scan(count=10, max_restarts=2, with_=("type", "ttl"), dedupe=True) as pages:
        async for _ in pages:
            pass


async def _scan_hash(client: Any) -> None:
    async with client.open_hscan("hash", count=10, max_restarts=2) as pages:
        async for _ in pages:
            pass


async def _subscribe(client: Any) -> None:
    async with client.pubsub(buffer=5) as subscriber:
        with trio.move_on_after(10):
            await subscriber.subscribe("c", "d")
            await subscriber.psubscribe("e*")
            await subscriber.ping()
            await subscriber.unsubscribe("d")
            while True:
                await subscriber.receive()


async def _many(client: Any) -> None:
    """At once, so that a reply that is too many would be another's."""
    async with trio.open_nursery() as nursery:
        for number in range(4):

            @nursery.start_soon
            async def get(number: int = number) -> None:
                with contextlib.suppress(RedisError):
                    await client.get(f"key:{number}")

        with contextlib.suppress(RedisError):
            await client.mget("{a}1", "{a}2")


async def _results(client: Any) -> None:
    """What redis-py's callbacks unpack, convert and put together."""
    works: list[Callable[[], Awaitable[object]]] = [
        lambda: client.execute_command("INFO"),
        lambda: client.hgetall("hash"),
        lambda: client.zrange("key:1", 0, -1, withscores=True),
        lambda: client.xread({"key:1": "0"}),
        client.time,
        client.dbsize,
        lambda: client.mget(["key:1"]),
        client.client_list,
        lambda: client.pipeline(transaction=False).hgetall("hash").zscore("key:1", "a").execute(),
    ]
    for work in works:
        # (What is lost, or never comes, is so for the others, too.)
        with contextlib.suppress(ProtocolError, ResponseError):
            await work()


async def _iterated(client: Any) -> None:
    """For some steps only: as in redis-py, a server whose cursors go in a circle is followed for ever."""

    async def everything(items: Any) -> None:
        async with contextlib.aclosing(items):
            with contextlib.suppress(RedisError):
                async for _ in items:
                    pass

    for items in (client.scan_iter(count=40), client.hscan_iter("hash")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(everything, items)
            for _ in range(300):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def _leased(client: Any) -> None:
    async with client.dedicated() as lease:
        await lease.execute_command("HELLO", 3)
        await lease.get("key:1")


DEEDS: Final = (
    Deed(lambda client: client.get("key:1"), ("GET",)),
    Deed(lambda client: client.execute_command("GET", "key:1"), ("GET",)),
    Deed(_many, ("GET", "MGET")),
    Deed(lambda client: client.pipeline().set("n", 1).get("n").execute(), ("MULTI", "SET", "GET", "EXEC")),
    Deed(lambda client: client.pipeline(transaction=False).set("n", 1).get("n").execute(), ("SET", "GET")),
    Deed(lambda client: client.blpop(["key:1"], timeout=1), ("BLPOP",)),
    Deed(lambda client: client.register_script("return 1")(keys=["key:1"]), ("EVALSHA", "SCRIPT LOAD")),
    Deed(_leased, ("GET", "HELLO")),
    Deed(_results, ("INFO", "HGETALL", "ZRANGE", "XREAD", "TIME", "DBSIZE", "MGET", "CLIENT LIST", "ZSCORE")),
    Deed(_iterated, ("SCAN", "HSCAN")),
    Deed(_scan, ("SCAN", "ROLE", "INFO", "HELLO")),
    Deed(_scan_with_details, ("SCAN", "TYPE", "TTL", "ROLE")),
    Deed(_scan_hash, ("HSCAN", "HLEN", "ROLE")),
    Deed(_subscribe, ("SUBSCRIBE", "PSUBSCRIBE", "UNSUBSCRIBE", "PING")),
)
CONNECTING: Final = ("HELLO", "ROLE", "INFO", "CLIENT")
OF_SENTINELS: Final = (*(name for name in HONEST if name.startswith("SENTINEL ")), "SUBSCRIBE", "AUTH")
OF_CLUSTERS: Final = ("CLUSTER SHARDS", "CLUSTER NODES", "CLUSTER INFO", "CLUSTER MYID")


class Try(NamedTuple):
    """All that one try is made of."""

    kind: str
    deed: int
    # What is spoilt, from the beginning or once it is connected; how often; and with what.
    command: str
    early: bool
    times: float
    instead: Any
    # Options of the client.
    protocol: int | None
    decodes: bool
    # How many bytes a read brings at most.
    slice: int | None


def draw(rng: Random) -> Try:
    kind = rng.choice(["redis", "sentinel", "cluster"])
    deed = rng.randrange(len(DEEDS))
    commands = DEEDS[deed].commands
    if rng.random() < 0.4:
        commands = CONNECTING + {"redis": (), "sentinel": OF_SENTINELS, "cluster": OF_CLUSTERS}[kind]
    command = rng.choice(commands)
    honest = HONEST.get(command, b"OK")
    how = rng.random()
    if how < 0.5:
        if isinstance(honest, bytes):
            value: Any = mutated_text(honest.decode())(rng).encode() if rng.random() < 0.6 else any_reply(rng)
        else:
            value = mutated(honest)(rng)
        instead: Any = Reply(sendable(value))
    elif how < 0.8:
        instead = Raw(mutated_bytes(encode(honest, 3), encode(honest, 2))(rng))
    elif how < 0.9:
        instead = Raw(rng.choice(list(ABSURD.values())))
    else:
        instead = Cut(rng.randrange(20))
    return Try(
        kind,
        deed,
        command,
        rng.random() < 0.4,
        rng.choice([1, 2, float("inf")]),
        instead,
        rng.choice([None, 2, 3]),
        rng.random() < 0.3,
        rng.choice([None, None, 1, 7]),
    )


def sendable(value: Any) -> Any:
    """As the fakes' encoder wants it."""
    match value:
        case RedisError():
            return Error(str(value).replace("\r", " ").replace("\n", " ").encode("ascii", "replace").decode())
        case Push():
            return Push([sendable(item) for item in value])
        case list():
            return [sendable(item) for item in value]
        case dict():
            return {sendable(name): sendable(item) for name, item in value.items()}
        case float():
            return Simple(str(value))
        case _:
            return value


def holds(tried: Try) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                network = Network(nursery, monkeypatch)
                with trio.fail_after(3_000):
                    await _try(network, tried)
                nursery.cancel_scope.cancel()
            assert network.open_client_ends == []

        on_mock_time(main)


async def _try(network: Network, tried: Try) -> None:
    hosts: list[Host[Any]]
    options: dict[str, Any] = {"response_timeout": 2, "failover_timeout": 5, "protocol": tried.protocol}
    if tried.decodes:
        options |= {"decode_responses": True, "encoding_errors": "replace"}
    client: Any
    if tried.kind == "cluster":
        cluster = FakeCluster(network)
        hosts = list(cluster.hosts)
        client = ClusterClient(cluster.addresses, **options)
    else:
        service = Service(network)
        hosts = service.hosts
        if tried.kind == "redis":
            client = RedisClient(service.master.address, **options)
        else:
            client = SentinelClient(service.addresses, service.name, **options)
    for host in hosts:
        host.slice = tried.slice
        if hasattr(host.program, "put"):
            for number in range(KEYS):
                host.program.put(0, b"key:%d" % number, Value(b"value"))
            host.program.put(0, b"hash", Value(b"", "hash", {b"name:%d" % n: b"x" for n in range(40)}))

    def spoil() -> None:
        for host in hosts:
            host.tap(tried.command, instead=tried.instead, times=tried.times)

    if tried.early:
        spoil()
    try:
        async with client:
            if not tried.early:
                spoil()
            try:
                await DEEDS[tried.deed].do(client)
            finally:
                with trio.CancelScope(shield=True):
                    await settled()
                if tried.slice is None and tried.command not in OF_CLUSTERS:
                    _check_left(hosts)
    except RedisError:
        # Typed: ours, or a server's word by redis-py's classes.
        pass


def _check_left(hosts: list[Host[Any]]) -> None:
    """A connection is left over which something came that is no RESP: what would follow means nothing.

    (What comes to one at rest, later than the reply, is seen when that is used again; so it is where nodes are asked.)
    """
    for host in hosts:
        for wire in host.open_wires:
            assert read_plainly(wire.raw)[1] in {None, Absurd}, f"{host.address} still has {wire.raw[:200]!r}"


PROPERTIES: Final = {"clients": Property(draw, holds, costs=8)}
