"""redis-py's namespaces of modules: what they send, and what they make of a reply. (No server here has a module.)"""

# pyright: reportUnknownMemberType=false
# (redis-py's commands have **kwargs that are not annotated.)

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.commands.search.query import Query

from tests.trio.fakes import Network, Reply, Service, on_mock_time
from trio_sentinel_scan import ConfigError, RedisClient

pytestmark = pytest.mark.trio(run=on_mock_time)

CALLS: list[tuple[Callable[[Any], Awaitable[Any]], str, Any, Any]] = [
    (lambda c: c.json().set("k", "$", {}), "JSON.SET k $ {}", "OK", True),
    (lambda c: c.json().get("k"), "JSON.GET k .", b'{"a": 1}', {"a": 1}),
    (lambda c: c.ts().add("t", 5, 1.5), "TS.ADD t 5 1.5", 5, 5),
    (lambda c: c.bf().add("b", "x"), "BF.ADD b x", 1, 1),
    (lambda c: c.cf().exists("f", "x"), "CF.EXISTS f x", 1, 1),
    (lambda c: c.cms().incrby("m", ["x"], [2]), "CMS.INCRBY m x 2", [2], [2]),
    (lambda c: c.topk().add("k", "x"), "TOPK.ADD k x", [None], [None]),
    (lambda c: c.tdigest().rank("d", 2), "TDIGEST.RANK d 2", [1], [1]),
    (lambda c: c.vset().vcard("v"), "VCARD v", 3, 3),
    (lambda c: c.ft("i").dropindex(), "FT.DROPINDEX i", b"OK", b"OK"),
]


@pytest.mark.parametrize("protocol", [None, 2, 3])
@pytest.mark.parametrize("case", CALLS, ids=[sent.split()[0] for _, sent, _, _ in CALLS])
async def test_a_module_command(network: Network, case: Any, protocol: Any) -> None:
    call, sent, said, result = case
    service = Service(network)
    service.master.tap(sent.split(maxsplit=1)[0], instead=Reply(said))
    async with RedisClient(service.master.address, protocol=protocol) as client:
        assert await call(client) == result
        (words,) = service.master.commands(sent.split(maxsplit=1)[0])
        assert words == sent.encode().split()


async def test_the_protocol_of_the_client_decides(network: Network) -> None:
    """redis-py's modules ask only a client of redis-py's own class for it; here they must be told all the same."""
    results: list[Any] = []
    for protocol in (2, 3):
        service = Service(network)
        service.master.tap("JSON.TYPE", instead=Reply([[b"object"]] if protocol == 3 else [b"object"]))
        async with RedisClient(service.master.address, protocol=protocol) as client:
            results.append(await client.json().type("k", "$"))
    assert results == [[b"object"], [[b"object"]]]


async def test_a_search(network: Network) -> None:
    service = Service(network)
    found = [1, b"doc:1", [b"title", b"hello"]]
    service.master.tap("FT.SEARCH", instead=Reply(found))
    async with RedisClient(service.master.address, protocol=2) as client:
        result: Any = await client.ft("i").search(Query("hello"))
    assert (result.total, result.docs[0].id, result.docs[0].title) == (1, "doc:1", "hello")


async def test_in_a_pipeline_it_is_buffered(network: Network) -> None:
    service = Service(network)
    service.master.tap("JSON.SET", instead=Reply("OK"))
    service.master.tap("JSON.GET", instead=Reply(b"[1]"))
    async with RedisClient(service.master.address) as client, client.pipeline(transaction=False) as pipe:
        pipe.json().set("k", "$", [1])
        pipe.json().get("k")
        assert await pipe.execute() == [True, [1]]
        namespaces: list[Any] = [client.json(), client.ft(), client.ts()]
        for namespace in namespaces:
            with pytest.raises(ConfigError, match=r"client\.pipeline\(\)"):
                namespace.pipeline()


async def test_a_module_that_redis_py_does_not_know(network: Network) -> None:
    service = Service(network)
    service.master.tap("FOO.BAR", instead=Reply(b"7"))
    async with RedisClient(service.master.address) as client:
        anything: Any = client
        anything.set_response_callback("foo.bar", lambda reply, **_: int(reply))
        anything.load_external_module("bar", lambda: client.execute_command("FOO.BAR"))
        assert await anything.bar() == 7
        assert "FOO.BAR" in client.response_callbacks
