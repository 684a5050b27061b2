"""A whole reply that its command cannot have: a typed error without a word of it, and the connection goes on."""

# pyright: reportUnknownMemberType=false
# (redis-py's commands have **kwargs that are not annotated.)

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.commands.search.query import Query
from redis.exceptions import InvalidResponse

from tests.security.harvest import KEY, VALUE, harvesting
from tests.trio.fakes import Error, FakeCluster, Network, Reply, Service, on_mock_time
from trio_sentinel_scan import ClusterClient, ProtocolError, RedisClient, SentinelClient
from trio_sentinel_scan._core import results
from trio_sentinel_scan._trio import command_set

pytestmark = pytest.mark.trio(run=on_mock_time)


async def everything(pages: Any) -> list[Any]:
    return [item async for item in pages]


async def leased(client: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """On a connection of its own."""
    async with client.dedicated(**({"key": KEY} if isinstance(client, ClusterClient) else {})) as lease:
        return await work(lease)


async def watched(client: Any) -> Any:
    """At once, on the connection that watches."""
    async with client.pipeline() as pipe:
        await pipe.watch(KEY)
        return await pipe.xrange(KEY)


async def transacted(client: Any, **options: Any) -> Any:
    return await client.pipeline(transaction=True).xrange(KEY).execute(**options)


# What is done, the command that is answered with nonsense, and with which.
CALLS: dict[str, tuple[Callable[[Any], Awaitable[Any]], str, Any]] = {
    "a stream of a number": (lambda c: c.xrange(KEY), "XRANGE", 7),
    "info of a list": (lambda c: c.execute_command("INFO"), "INFO", [VALUE]),
    "a float that is none": (lambda c: c.incrbyfloat(KEY, 1.0), "INCRBYFLOAT", VALUE),
    "scores": (lambda c: c.zrange(KEY, 0, -1, withscores=True), "ZRANGE", [KEY, VALUE]),
    "scores for a function": (
        lambda c: c.zrange(KEY, 0, -1, withscores=True, score_cast_func=str),
        "ZRANGE",
        7,
    ),
    "a stream": (lambda c: c.xrange(KEY), "XRANGE", [VALUE]),
    "a place": (lambda c: c.geopos(KEY, VALUE), "GEOPOS", [[VALUE, KEY]]),
    "own words": (lambda c: c.execute_command("xrange", KEY, "-", "+"), "XRANGE", 7),
    "a blocking one": (lambda c: c.bzpopmin([KEY], 1), "BZPOPMIN", [KEY, KEY, VALUE]),
    "scan": (lambda c: c.hscan(KEY), "HSCAN", "OK"),
    "hscan_iter of OK": (lambda c: everything(c.hscan_iter(KEY)), "HSCAN", "OK"),
    "hscan_iter of two bytes": (lambda c: everything(c.hscan_iter(KEY)), "HSCAN", b"ab"),
    "sscan_iter of three": (lambda c: everything(c.sscan_iter(KEY)), "SSCAN", [b"0", [KEY], [VALUE]]),
    "zscan_iter of no scores": (lambda c: everything(c.zscan_iter(KEY)), "ZSCAN", [b"0", [KEY, VALUE]]),
    "sscan_iter of no cursor": (lambda c: everything(c.sscan_iter(KEY)), "SSCAN", [VALUE, [KEY]]),
    "a lease": (lambda c: leased(c, lambda lease: lease.xrange(KEY)), "XRANGE", 7),
    "a lease's hscan_iter": (lambda c: leased(c, lambda lease: everything(lease.hscan_iter(KEY))), "HSCAN", "OK"),
    "a pipeline": (lambda c: c.pipeline(transaction=False).xrange(KEY).execute(), "XRANGE", 7),
    "a lease's pipeline": (
        lambda c: leased(c, lambda lease: lease.pipeline(transaction=False).xrange(KEY).execute()),
        "XRANGE",
        7,
    ),
    "a transaction": (transacted, "EXEC", [7]),
    "what is watched": (watched, "XRANGE", 7),
    "a module's": (lambda c: c.json().get(KEY), "JSON.GET", VALUE),
    "a module's time": (lambda c: c.ts().get(KEY), "TS.GET", [VALUE, VALUE]),
}


@asynccontextmanager
async def on(network: Network, kind: str) -> AsyncGenerator[tuple[Any, list[Any]]]:
    """A client, and its servers."""
    if kind == "cluster":
        cluster = FakeCluster(network)
        async with ClusterClient(cluster.addresses, failover_timeout=3) as client:
            yield client, [*cluster.hosts]
        return
    service = Service(network)
    made = RedisClient(service.master.address) if kind == "redis" else SentinelClient(service.addresses, service.name)
    async with made as client:
        yield client, [service.master]


async def refused(work: Awaitable[Any]) -> ProtocolError:
    """The error that it raises, which has nothing private in it, nor on it."""
    with harvesting(objects=False) as harvest:
        with pytest.raises(InvalidResponse) as caught:
            await work
        harvest.error(caught.value)
    harvest.check()
    assert isinstance(caught.value, ProtocolError)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    return caught.value


@pytest.mark.parametrize("kind", ["redis", "sentinel", "cluster"])
@pytest.mark.parametrize("work, command, reply", CALLS.values(), ids=CALLS.keys())
async def test_a_reply_that_cannot_be(
    network: Network, kind: str, work: Callable[[Any], Awaitable[Any]], command: str, reply: Any
) -> None:
    """It says which command and which server; the connections are as good as before."""
    async with on(network, kind) as (client, hosts):
        await client.set(KEY, VALUE)
        if kind == "cluster":
            # (What the fakes have no table for is asked first.)
            for host in hosts:
                places = [[command.lower().encode(), 2, [], 1, 1, 1]]
                host.tap("COMMAND", instead=Reply(places), times=9)
        for host in hosts:
            host.tap(command, instead=Reply(reply), times=9)
        error = await refused(work(client))
        named = "XRANGE" if command == "EXEC" else command
        assert f"answered {named} with what redis-py's callback for it cannot read" in str(error)
        # (Without keys it is any of them: which one, only who has sent it knows.)
        assert str(error).count("10.0.0.") == (0 if kind == "cluster" and command == "INFO" else 1)
        opened = [len(host.wires) for host in hosts]
        assert await client.get(KEY) == VALUE
        assert [len(host.wires) for host in hosts] == opened


async def test_the_shared_connection_stays(network: Network) -> None:
    async with on(network, "redis") as (client, (host,)):
        host.tap("XRANGE", instead=Reply(7))
        before = len(host.wires)
        await refused(client.xrange(KEY))
        assert await client.ping()
        assert len(host.wires) == before


@pytest.mark.parametrize("kind", ["redis", "cluster"])
@pytest.mark.parametrize("transaction", [False, True], ids=["plain", "transaction"])
async def test_in_a_pipeline_it_is_one_commands_error(network: Network, kind: str, *, transaction: bool) -> None:
    async with on(network, kind) as (client, hosts):
        for host in hosts:
            host.tap("EXEC", instead=Reply([b"OK", 7, VALUE]), times=9)
            host.tap("XRANGE", instead=Reply(Error("WRONGTYPE no") if transaction else 7), times=9)
        for raises in (False, True):
            pipe = client.pipeline(transaction=transaction).set(KEY, VALUE).xrange(KEY).get(KEY)
            if transaction:
                for host in hosts:
                    host.untap()
                    host.tap("EXEC", instead=Reply([b"OK", 7, VALUE]))
            if raises:
                error = await refused(pipe.execute())
                assert str(error).startswith("Command # 2 (XRANGE) of pipeline caused error: ")
            else:
                done, error, value = await pipe.execute(raise_on_error=False)
                assert (done, value) == (True, VALUE)
                assert isinstance(error, ProtocolError)


# ---- what is the caller's ----------------------------------------------------------------------------------------


class Mine(ValueError):
    """A caller's own."""


def raising(error: Exception) -> Callable[..., Any]:
    def callback(*_: Any, **__: Any) -> Any:
        raise error

    return callback


OWN = [Mine("mine"), TypeError("mine"), KeyError("mine"), ProtocolError("mine")]


@pytest.mark.parametrize("error", OWN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_a_users_callback_raises_what_it_raises(network: Network, kind: str, error: Exception) -> None:
    """By itself, in a pipeline whatever was said of errors there, and on a lease."""
    async with on(network, kind) as (client, _):
        client.set_response_callback("GET", raising(error))
        for work in (
            lambda: client.get(KEY),
            lambda: leased(client, lambda lease: lease.get(KEY)),
            lambda: client.pipeline(transaction=False).get(KEY).execute(),
            lambda: client.pipeline(transaction=False).get(KEY).execute(raise_on_error=False),
        ):
            with pytest.raises(type(error)) as caught:
                await work()
            assert caught.value is error
            assert str(error.args[0]) == "mine"


@pytest.mark.parametrize("how", ["set_response_callback", "response_callbacks"])
async def test_one_that_redis_py_has_for_another_command_is_the_users_too(network: Network, how: str) -> None:
    async with on(network, "redis") as (client, (host,)):
        if how == "set_response_callback":
            client.set_response_callback("xrange", float)
        else:
            client.response_callbacks["XRANGE"] = float
        host.tap("XRANGE", instead=Reply(b"x"))
        with pytest.raises(ValueError, match="could not convert") as caught:
            await client.xrange(KEY)
        assert not isinstance(caught.value, ProtocolError)


async def test_a_function_among_the_arguments_raises_what_it_raises(network: Network) -> None:
    error = Mine("mine")
    async with on(network, "redis") as (client, (host,)):
        host.tap("ZRANGE", instead=Reply([[b"a", b"1"]]), times=9)
        host.tap("JSON.GET", instead=Reply(b"[1]"), times=9)
        with pytest.raises(Mine) as caught:
            await client.zrange(KEY, 0, -1, withscores=True, score_cast_func=raising(error))
        assert caught.value is error
        decoder: Any = type("Decoder", (), {"decode": raising(error)})()
        with pytest.raises(Mine) as caught:
            await client.json(decoder=decoder).get(KEY)
        assert caught.value is error
        with pytest.raises(TypeError, match="nosuch"):
            await client.execute_command("PING", nosuch=1)


# ---- what redis-py makes of results ------------------------------------------------------------------------------


TOGETHER: dict[str, tuple[Callable[[Any], Awaitable[Any]], str, Any]] = {
    "a sum": (lambda c: c.dbsize(), "DBSIZE", VALUE),
    "a union": (lambda c: c.keys(), "KEYS", [[VALUE]]),
    "a short reply, and a KeyError of the key": (lambda c: c.mget_nonatomic(KEY, "a", "b"), "MGET", []),
    "no list": (lambda c: c.mget_nonatomic(KEY, "a", "b"), "MGET", 7),
    "a count that is none": (lambda c: c.delete(KEY, "a", "b"), "DEL", VALUE),
}


@pytest.mark.parametrize("work, command, reply", TOGETHER.values(), ids=TOGETHER.keys())
async def test_results_of_several_nodes(
    network: Network, work: Callable[[Any], Awaitable[Any]], command: str, reply: Any
) -> None:
    async with on(network, "cluster") as (client, hosts):
        for host in hosts:
            host.tap(command, instead=Reply(reply), times=9)
        assert f"one of the nodes answered {command}" in str(await refused(work(client)))
        if reply != []:
            client.set_response_callback(command, lambda *_, **__: 7 if command != "DEL" else VALUE)
            if command == "DBSIZE":
                assert await work(client) == 7
                return
            with pytest.raises((TypeError, ValueError)) as caught:
                await work(client)
            assert not isinstance(caught.value, ProtocolError)


async def test_a_search(network: Network) -> None:
    async with on(network, "redis") as (client, (host,)):
        host.tap("FT.SEARCH", instead=Reply(7), times=9)
        host.tap("FT.INFO", instead=Reply(VALUE), times=9)
        assert "answered FT.SEARCH" in str(await refused(client.ft("i").search(Query("hello"))))
        client.set_response_callback("FT.SEARCH", lambda reply, **_: 8)
        with pytest.raises(AttributeError, match="'int' object"):
            await client.ft("i").search(Query("hello"))


async def test_a_named_node_is_named(network: Network) -> None:
    async with on(network, "cluster") as (client, hosts):
        for host in hosts:
            host.tap("INFO", instead=Reply([VALUE]), times=9)
        node = client.get_primaries()[2]
        assert str(node.address) in str(await refused(client.execute_command("INFO", node=node)))
        pipe = client.pipeline()
        pipe.execute_command("INFO", node=node)
        assert f": {node.address} answered INFO" in str(await refused(pipe.execute()))


async def test_a_sentinels_reply(network: Network) -> None:
    service = Service(network)
    async with SentinelClient(service.addresses, service.name) as client:
        for sentinel in service.sentinels:
            sentinel.tap("SENTINEL MASTERS", instead=Reply([7]), times=9)
        error = await refused(client.sentinel_masters())
        assert "one of the Sentinels answered SENTINEL MASTERS" in str(error)


# ---- without the guards ------------------------------------------------------------------------------------------


async def test_without_the_guard_it_is_redis_pys_error(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the value in it."""
    monkeypatch.setattr(results.RedisPysCallbacks, "may_not_be", lambda *_: False)
    async with on(network, "redis") as (client, (host,)):
        host.tap("INCRBYFLOAT", instead=Reply(VALUE))
        with pytest.raises(ValueError, match=VALUE.decode()):
            await client.incrbyfloat(KEY, 1.0)


async def test_without_the_guard_ok_is_a_page(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_set, "checked_page", lambda parse: parse)
    async with on(network, "redis") as (client, (host,)):
        host.tap("SCAN", instead=Reply("OK"))
        assert await client.scan() == (79, 75)
