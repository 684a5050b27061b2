"""Cursors as commands, and redis-py's iterators: they obey the one rule too, and raise where it would be broken."""

from __future__ import annotations

import gc
from contextlib import aclosing
from typing import Any

import pytest
import trio

from tests.trio.fakes import COUNT, FakeCluster, Network, Reply, Service, Value, on_mock_time, settled
from trio_sentinel_scan import ClientClosed, ClusterClient, RedisClient, ScanInterrupted, SentinelClient

pytestmark = pytest.mark.trio(run=on_mock_time)


async def test_scan_iter_is_redis_pys(service: Service, client: SentinelClient) -> None:
    service.write([b"user:1"])
    assert {key async for key in client.scan_iter(count=COUNT)} == service.keys()
    assert [key async for key in client.scan_iter(match="user:*", _type="string")] == [b"user:1"]
    assert service.master.commands("SCAN")[-1][2:] == [b"MATCH", b"user:*", b"TYPE", b"string"]


async def test_the_other_iterators_are_redis_pys(network: Network) -> None:
    service = Service(network)
    server = service.master
    async with RedisClient(server.address, protocol=2) as client:
        server.tap("HSCAN", instead=Reply(["7", ["a", "1"]]))
        server.tap("HSCAN", instead=Reply(["0", ["b", "2"]]))
        assert [item async for item in client.hscan_iter("h")] == [(b"a", b"1"), (b"b", b"2")]
        server.tap("HSCAN", instead=Reply(["0", ["a", "b"]]))
        assert [field async for field in client.hscan_iter("h", match="*", count=9, no_values=True)] == [b"a", b"b"]
        server.tap("SSCAN", instead=Reply(["0", ["a", "b"]]))
        assert [member async for member in client.sscan_iter("s", match="*", count=9)] == [b"a", b"b"]
        server.tap("ZSCAN", times=2, instead=Reply(["0", ["a", "1.5"]]))
        assert [pair async for pair in client.zscan_iter("z", match="*", count=9)] == [(b"a", 1.5)]
        assert [pair async for pair in client.zscan_iter("z", score_cast_func=bytes)] == [(b"a", b"1.5")]
    assert [words for _, words in server.log if words[0].endswith(b"SCAN")] == [
        [b"HSCAN", b"h", b"0"],
        [b"HSCAN", b"h", b"7"],
        [b"HSCAN", b"h", b"0", b"MATCH", b"*", b"COUNT", b"9", b"NOVALUES"],
        [b"SSCAN", b"s", b"0", b"MATCH", b"*", b"COUNT", b"9"],
        [b"ZSCAN", b"z", b"0", b"MATCH", b"*", b"COUNT", b"9"],
        [b"ZSCAN", b"z", b"0"],
    ]


@pytest.mark.parametrize("kind", ["one server", "a cluster"])
async def test_an_iterator_that_is_left_early_is_closed_to_its_core(network: Network, kind: str) -> None:
    """Nothing is left to the garbage collector, which Trio warns of (and warnings are errors here)."""
    service, cluster = Service(network), FakeCluster(network)
    items = {b"%d" % n: b"1" for n in range(9)}
    for host in (service.master, *cluster.hosts):
        for key, type_ in ((b"h", "hash"), (b"s", "set"), (b"z", "zset")):
            host.program.put(0, key, Value(b"", type_, items))
    client: Any = RedisClient(service.master.address) if kind == "one server" else ClusterClient(cluster.addresses)
    async with client:
        for left_early in (client.scan_iter(), client.hscan_iter("h"), client.sscan_iter("s"), client.zscan_iter("z")):
            async with aclosing(left_early) as some:
                async for _ in some:
                    break
            gc.collect()


async def iterate(service: Service, client: Any, change: Any) -> set[bytes]:
    """All that scan_iter gives when something happens half way."""
    found: set[bytes] = set()
    async for key in client.scan_iter(count=COUNT):
        if len(found) < len(service.keys()) // 2 <= len(found | {key}):
            change()
            await settled()
        found.add(key)
    return found


async def test_a_lost_connection_does_not_stop_an_iterator(service: Service, client: SentinelClient) -> None:
    """The process is the same, and the cursor good."""
    assert await iterate(service, client, service.master.drop_clients) == service.keys()
    assert len(service.master.wires) == 2


async def test_another_process_does(service: Service, client: SentinelClient) -> None:
    with pytest.raises(ScanInterrupted, match="a cursor of another server process") as caught:
        await iterate(service, client, service.master.restart)
    assert caught.value.old_server is not None
    assert caught.value.new_server is not None
    assert caught.value.old_server.run_id != caught.value.new_server.run_id == service.master.program.run_id
    assert 0 < caught.value.keys < len(service.keys())
    assert len(service.master.commands("SCAN", "0")) == 1


async def test_another_master_does(service: Service, client: SentinelClient) -> None:
    """No command with the old cursor reaches it."""
    with pytest.raises(ScanInterrupted):
        await iterate(service, client, service.fail_over)
    assert service.master.commands("SCAN") == []


async def test_a_process_that_does_not_tell_who_it_is_does(network: Network) -> None:
    service = Service(network, keys=100)
    service.master.program.users["default"].forbidden = frozenset({"INFO"})
    async with RedisClient(service.master.address) as client:
        with pytest.raises(ScanInterrupted):
            await iterate(service, client, service.master.drop_clients)


async def test_a_cursor_of_the_callers_own(service: Service, client: SentinelClient) -> None:
    cursor, _ = await client.scan(count=COUNT)
    cursor, _ = await client.scan(cursor, count=COUNT)
    service.fail_over()
    await settled()
    with pytest.raises(ScanInterrupted):
        await client.scan(cursor, count=COUNT)
    cursor, keys = await client.scan(0, count=COUNT)
    assert keys
    cursor, keys = await client.scan(cursor, count=COUNT)
    assert keys


async def test_a_command_that_waits_when_the_client_is_closed(network: Network) -> None:
    """State that remains: nothing; the command's task is told, and opens no connection after its client is gone."""
    service = Service(network)
    outcome: list[BaseException] = []

    async def work(client: SentinelClient) -> None:
        try:
            await client.get("key:1")
        except ClientClosed as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery:
        async with SentinelClient(service.addresses, "mymaster") as client:
            service.master.kill()
            nursery.start_soon(work, client)  # noqa: ASYNC111 (that is what is tested)
            await trio.sleep(5)
        service.master.start()
    assert len(outcome) == 1
    assert network.open_client_ends == []


async def test_a_command_that_connects_when_the_client_is_closed(network: Network) -> None:
    """The same, with a connection in the making: what comes of it is closed at once."""
    service = Service(network)
    outcome: list[BaseException] = []

    async def work(client: SentinelClient) -> None:
        try:
            await client.get("key:1")
        except ClientClosed as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery, SentinelClient(service.addresses, "mymaster") as client:
        service.master.drop_clients("pipe")
        service.master.delay = 1
        nursery.start_soon(work, client)  # noqa: ASYNC111 (that is what is tested)
        await trio.sleep(0.5)
    assert len(outcome) == 1
    assert network.open_client_ends == []
