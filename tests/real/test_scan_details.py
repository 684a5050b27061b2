"""Pages with details of their keys: what servers say, and that no page is lost while it waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.real.proxy import names
from tests.real.scenes import HANG, Account, consuming, open_booth, open_stage, until_followed
from trio_sentinel_scan import KeyDetails, RedisClient
from trio_sentinel_scan.testing import LocalRedis

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

ALL: Any = KeyDetails._fields
KEYS = 2_000


def details_in(account: Account[Any]) -> dict[Any, KeyDetails]:
    """Of all pages; each has those of its keys, and no other's."""
    for page in account.pages:
        assert set(page.details) == set(page.keys)
    return {key: details for page in account.pages for key, details in page.details.items()}


async def fill_with_everything(client: RedisClient) -> None:
    """Keys of each type, small and large, with and without an end to their lives."""
    for number in range(50):
        await client.set(f"string:{number}", b"x" * number * 40, ex=1_000_000 + number if number % 2 else None)
        await client.rpush(f"list:{number}", *range(1 + number))
        await client.sadd(f"set:{number}", *range(1 + number))
        await client.zadd(f"zset:{number}", {f"member {n}": n for n in range(1 + number * 5)})
        await client.hset(f"hash:{number}", mapping={f"field {n}": n for n in range(1 + number * 5)})
        await client.xadd(f"stream:{number}", {"field": number})
    await client.set(b"\xff\r\n*", "x")
    await client.set(b"", "x")


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lfu"])
@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_details_are_what_redis_pys_commands_say(
    each_server_binary: ServerBinary, policy: str, decode: bool, protocol: Any
) -> None:
    """Key by key, whatever the policy, in bytes and in text."""
    options: dict[str, Any] = {"decode_responses": decode, "encoding_errors": "surrogateescape", "protocol": protocol}
    async with (
        # A counter that decays, each minute by one, would be another when it is asked for the second time.
        LocalRedis(binary=each_server_binary, config={"maxmemory-policy": policy, "lfu-decay-time": 0}) as server,
        RedisClient(server.address, **options) as client,
    ):
        await fill_with_everything(client)
        account: Account[Any] = Account()
        async with client.open_scan(count=20, with_=ALL) as pages:
            await account.take_the_rest(pages)
        found = details_in(account)
        assert len(found) == 302
        for key, details in found.items():
            type_ = await client.type(key)
            assert details.type == (type_ if isinstance(type_, str) else type_.decode())
            ttl = await client.ttl(key)
            assert details.ttl is not None
            assert 0 <= details.ttl - ttl <= 60
            assert details.memory == await client.memory_usage(key)
            if policy == "noeviction":
                assert details.freq is None
                idle = await client.object("IDLETIME", key)
                assert details.idle is not None
                # The clock that it goes by may have moved meanwhile.
                assert 0 <= idle - details.idle <= 60
            else:
                assert details.idle is None
                assert details.freq == await client.object("FREQ", key)


async def test_keys_do_not_look_used_for_it(each_server_binary: ServerBinary) -> None:
    """With this configuration each use shows. (A GET stands for whatever would count as one.)"""
    config: dict[str, Any] = {"maxmemory-policy": "allkeys-lfu", "lfu-log-factor": 0, "lfu-decay-time": 0}
    async with LocalRedis(binary=each_server_binary, config=config) as server, RedisClient(server.address) as client:
        await server.fill(100)
        before = [await client.object("FREQ", f"key:{number}") for number in range(100)]
        for _ in range(3):
            async with client.open_scan(count=10, with_=ALL) as pages:
                async for _page in pages:
                    pass
        assert [await client.object("FREQ", f"key:{number}") for number in range(100)] == before
        await client.get("key:7")
        assert await client.object("FREQ", "key:7") > before[7]


async def test_keys_that_are_deleted_between_scan_and_the_details(
    nursery: trio.Nursery, each_server_binary: ServerBinary
) -> None:
    """SCAN has brought them, and they are told of as gone."""
    async with open_booth(nursery, keys=100, binary=each_server_binary) as booth, booth.client() as client:
        stop = booth.proxy.stop_request(names("TYPE"))
        account: Account[bytes] = Account()
        async with client.open_scan(count=1000, segments=1, with_=ALL) as pages, consuming(pages, account):
            await stop.reached.wait()
            await booth.server.execute("DEL", *sorted(booth.keys)[:40])
            stop.release()
        gone = set(sorted(booth.keys)[:40])
        account.check_complete(pages.summary, booth.keys, epoch=0)
        for key, details in details_in(account).items():
            assert (details == KeyDetails("none", -2)) is (key in gone)


@pytest.mark.parametrize("what", ["request", "reply"])
async def test_a_connection_that_dies_before_the_details_came(nursery: trio.Nursery, what: str) -> None:
    """The same process is asked again: no key is lost, none comes twice, and no cursor is used twice."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        if what == "request":
            stop = booth.proxy.stop_request(names("TYPE"), skip=3)
        else:
            stop = booth.proxy.stop_reply(lambda data: b"+string\r\n" in data, skip=3)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1, with_=ALL) as pages, consuming(pages, account):
            await stop.reached.wait()
            stop.link.reset()
        account.check_complete(pages.summary, booth.keys, epoch=0)
        account.check_without_duplicates()
        assert pages.summary.reconnects == 1
        assert {details.type for details in details_in(account).values()} == {"string"}


@pytest.mark.parametrize("segments", [1, 4])
async def test_clients_that_are_killed_in_mid_scan(nursery: trio.Nursery, segments: Any) -> None:
    """Sentinel does that in each failover, to those of the replicas."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        options: dict[str, Any] = {"count": 20, "prefetch": 0, "segments": segments}
        async with client.open_scan(with_=ALL, **options) as pages:
            for _ in range(4):
                await account.take(pages, 3)
                await booth.server.execute("CLIENT", "KILL", "TYPE", "normal")
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, booth.keys, epoch=0)
        assert {details[:2] for details in details_in(account).values()} == {("string", -1)}
        assert 1 <= pages.summary.reconnects <= 4


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["planned", "killed"])
@pytest.mark.parametrize("dedupe", [False, True], ids=["again", "once"])
async def test_a_failover_in_mid_scan(nursery: trio.Nursery, kill: bool, dedupe: bool) -> None:
    """What waits goes with its pass; the next one has all keys, by the new master's word; or each key once."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=20, prefetch=0, segments=1, with_=ALL, dedupe=dedupe) as pages:
            await account.take(pages, 10)
            _, new = await stage.depose(kill=kill)
            await until_followed(client, new)
            await account.take_the_rest(pages)
        if dedupe:
            assert sorted(account.keys()) == sorted(stage.keys)
            assert pages.summary.complete
            assert pages.summary.duplicates_dropped > 0
        else:
            account.check_complete(pages.summary, stage.keys, epoch=1)
        assert account.epochs == [0, 1]
        assert {details[:2] for details in details_in(account).values()} == {("string", -1)}


async def test_exactly_once_over_restarts_at_the_same_address(
    nursery: trio.Nursery, each_server_binary: ServerBinary
) -> None:
    """Three of them, each another process with another order of the same keys."""
    async with open_booth(nursery, keys=KEYS, binary=each_server_binary) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=20, prefetch=0, dedupe=True) as pages:
            await account.take(pages, 2)
            for epoch in range(1, 4):
                await booth.server.restart()
                # (The first page may have been fetched of the old process, and is handed out.)
                while epoch < 3 and account.epochs[-1] < epoch:
                    await account.take(pages)
            await account.take_the_rest(pages)
        assert sorted(account.keys()) == sorted(booth.keys)
        assert pages.summary.complete
        assert pages.summary.epoch == 3
        assert pages.summary.keys == KEYS


async def test_what_a_user_may_not_ask_or_see(server_binary: ServerBinary) -> None:
    """A command is forbidden, and a part of the keys: there is nothing to be told of it, and the scan goes on."""
    with trio.fail_after(HANG):
        async with LocalRedis(binary=server_binary) as server:
            await server.fill(200, "mine:")
            await server.fill(200, "theirs:")
            await server.execute("ACL", "SETUSER", "reader", "on", ">secret", "~mine:*", "+@all", "-memory")
            account: Account[bytes] = Account()
            async with (
                RedisClient(server.address, username="reader", password="secret") as client,
                client.open_scan(count=50, with_=["type", "ttl", "memory"]) as pages,
            ):
                await account.take_the_rest(pages)
            found = details_in(account)
            assert len(found) == 400
            for key, details in found.items():
                assert details == (KeyDetails("string", -1) if key.startswith(b"mine:") else KeyDetails())
