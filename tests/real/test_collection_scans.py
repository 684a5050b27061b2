"""Scans of one hash, set or sorted set on real servers: segments, changes on the way, restarts, keys that go."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from tests.real.scenes import (
    HANG,
    Account,
    drain,
    identity_of,
    open_booth,
    open_stage,
)
from trio_sentinel_scan import CollectionChanged, CollectionGone, RedisClient, ScanRefused, SentinelClient
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from trio_sentinel_scan import ScanPages
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

by_type = pytest.mark.parametrize("type_", ["hash", "set", "zset"])
# Where it takes long: a hash comes in pairs, as a sorted set does.
by_kind = pytest.mark.parametrize("type_", [pytest.param("hash", marks=pytest.mark.full), "set", "zset"])
segmented = pytest.mark.parametrize("segments", [1, 16])

KEY: Final = b"collection"
# One script for many items: a command for each would take the tests' time.
_FILL: Final = """
for number = ARGV[2], ARGV[3] do
    local name = 'name:' .. number
    if ARGV[1] == 'hash' then redis.call('HSET', KEYS[1], name, number)
    elseif ARGV[1] == 'set' then redis.call('SADD', KEYS[1], name)
    else redis.call('ZADD', KEYS[1], number, name) end
end
"""
_MOST: Final = 20_000


async def fill(server: LocalRedis, type_: str, number: int, *, begin: int = 0, key: bytes = KEY) -> set[Any]:
    """Put items into a collection; what is to come of them."""
    for at in range(begin, begin + number, _MOST):
        last = min(at + _MOST, begin + number) - 1
        await server.execute("EVAL", _FILL, 1, key, type_, at, last)
    return expected(type_, range(begin, begin + number))


def expected(type_: str, numbers: Any) -> set[Any]:
    """The items of these numbers."""
    if type_ == "hash":
        return {(b"name:%d" % number, b"%d" % number) for number in numbers}
    if type_ == "zset":
        return {(b"name:%d" % number, float(number)) for number in numbers}
    return {b"name:%d" % number for number in numbers}


def names_of(items: list[Any]) -> list[Any]:
    """Their members and fields."""
    return [item[0] if isinstance(item, tuple) else item for item in items]


def opened(client: RedisClient | SentinelClient, type_: str, key: bytes = KEY, **options: Any) -> Any:
    """The scan of a collection."""
    opens: dict[str, Any] = {"hash": client.open_hscan, "set": client.open_sscan, "zset": client.open_zscan}
    return opens[type_](key, **options)


async def take_half(pages: ScanPages[Any], account: Account[Any], share: float = 0.5) -> None:
    """Up to so much of the pass."""
    while not account.pages or (account.pages[-1].position or 0) < share:
        await account.take(pages)


SLOW: Final[dict[str, Any]] = {"count": 10, "page_size": 50, "prefetch": 0}


# ---- completeness ----------------------------------------------------------------------------------------------


@by_type
async def test_on_every_server(each_server_binary: ServerBinary, type_: str) -> None:
    """By itself, in one chain, and in three segments; hardly an item twice."""
    with trio.fail_after(HANG):
        async with LocalRedis(binary=each_server_binary) as server, RedisClient(server.address) as client:
            items = await fill(server, type_, 20_000)
            for segments in ("auto", 1, 3):
                async with opened(client, type_, segments=segments) as pages:
                    account: Account[Any] = await drain(pages)
                account.check_complete(pages.summary, items, epoch=0)
                assert set(account.keys()) == items
                assert pages.summary.keys <= 1.01 * len(items)
                assert pages.summary.segments == (16 if segments == "auto" else segments)
                assert pages.summary.collection_size == 20_000


async def test_in_cluster_mode(each_server_binary: ServerBinary) -> None:
    """There a keyspace's cursor may have the slot in it; a collection's never has."""
    with trio.fail_after(HANG):
        async with LocalRedis(binary=each_server_binary, config={"cluster-enabled": "yes"}) as server:
            slots = 16_384
            for at in range(0, slots, 1024):
                await server.execute("CLUSTER", "ADDSLOTS", *range(at, at + 1024))
            while "cluster_state:ok" not in str(await server.execute("CLUSTER", "INFO")):  # noqa: ASYNC110 (no event tells of it)
                await trio.sleep(0.01)
            items = await fill(server, "hash", 20_000)
            async with RedisClient(server.address) as client, opened(client, "hash") as pages:
                account: Account[Any] = await drain(pages)
    account.check_complete(pages.summary, items, epoch=0)
    assert pages.summary.segments == 16
    assert pages.summary.keys <= 1.01 * len(items)


@pytest.mark.parametrize("type_", ["hash", "zset"])
@pytest.mark.parametrize("segments", ["auto", 1, 64])
async def test_a_small_one_comes_in_one_reply(each_server_binary: ServerBinary, type_: str, segments: Any) -> None:
    """It is kept as a list, which a server gives as a whole for any cursor; so it is not divided."""
    with trio.fail_after(HANG):
        async with LocalRedis(binary=each_server_binary) as server, RedisClient(server.address) as client:
            items = await fill(server, type_, 100)
            async with opened(client, type_, segments=segments) as pages:
                account: Account[Any] = await drain(pages)
    account.check_complete(pages.summary, items, epoch=0)
    assert sorted(account.keys()) == sorted(items)
    assert (pages.summary.scans, pages.summary.segments) == (1, 1)


async def test_a_list_of_any_size(server_binary: ServerBinary) -> None:
    """So is a set of numbers. How many items it may have is the server's configuration."""
    config = {"set-max-intset-entries": "100000"}
    with trio.fail_after(HANG):
        async with LocalRedis(binary=server_binary, config=config) as server, RedisClient(server.address) as client:
            await client.sadd("numbers", *range(50_000))
            async with client.open_sscan("numbers", segments=16) as pages:
                account: Account[Any] = await drain(pages)
    assert sorted(account.keys(), key=int) == [b"%d" % number for number in range(50_000)]
    assert pages.summary.scans == 1


@by_type
async def test_binary_names(each_server_binary: ServerBinary, type_: str) -> None:
    """As keys, fields, members and values; as text, where that is asked for."""
    names = [bytes([byte]) * length for byte in (0, 10, 13, 42, 255) for length in (1, 70)] + [b""]
    with trio.fail_after(HANG):
        async with LocalRedis(binary=each_server_binary) as server, RedisClient(server.address) as client:
            for key in (b"", b"\xff\r\n"):
                if type_ == "hash":
                    await client.hset(key, mapping=dict(zip(names, names, strict=True)))
                elif type_ == "set":
                    await client.sadd(key, *names)
                else:
                    await client.zadd(key, {name: len(name) for name in names})
                async with opened(client, type_, key) as pages:
                    account: Account[Any] = await drain(pages)
                found = names_of(account.keys())
                assert sorted(found) == sorted(names)
                as_text: dict[str, Any] = {"decode_responses": True, "encoding_errors": "surrogateescape"}
                async with (
                    RedisClient(server.address, **as_text) as text_client,
                    opened(text_client, type_, key) as pages,
                ):
                    account = await drain(pages)
                found = names_of(account.keys())
                assert sorted(found) == sorted(name.decode("utf-8", "surrogateescape") for name in names)


async def test_a_pattern(server_binary: ServerBinary) -> None:
    with trio.fail_after(HANG):
        async with LocalRedis(binary=server_binary) as server, RedisClient(server.address) as client:
            await fill(server, "hash", 20_000)
            async with opened(client, "hash", match="name:1??") as pages:
                account: Account[Any] = await drain(pages)
    assert set(account.keys()) == expected("hash", range(100, 200))


async def test_redis_pys_own_results(server_binary: ServerBinary) -> None:
    """Items are what `hscan_iter` and its like give."""
    with trio.fail_after(HANG):
        async with LocalRedis(binary=server_binary) as server, RedisClient(server.address) as client:
            await client.zadd("z", {"a": 1.5, "b": float("inf"), "c": -1e300, "d": 0.1})
            await client.hset("h", mapping={"a": 1, "b": ""})
            await client.sadd("s", "a", "b")
            scans = [
                (client.open_zscan("z"), client.zscan_iter("z")),
                (client.open_hscan("h"), client.hscan_iter("h")),
                (client.open_sscan("s"), client.sscan_iter("s")),
            ]
            for scan, iterator in scans:
                pages: Any
                async with scan as pages:
                    account: Account[Any] = await drain(pages)
                assert sorted(account.keys()) == sorted([item async for item in iterator])


# ---- NOVALUES --------------------------------------------------------------------------------------------------


async def test_novalues_where_there_is_that(each_server_binary: ServerBinary) -> None:
    """And its refusal where there is not, before anything is scanned."""
    known = each_server_binary.version_info >= ((8, 0) if each_server_binary.product == "valkey" else (7, 4))
    with trio.fail_after(HANG):
        async with LocalRedis(binary=each_server_binary) as server, RedisClient(server.address) as client:
            await fill(server, "hash", 2_000)
            async with client.open_hscan(KEY, no_values=True) as pages:
                if known:
                    account: Account[Any] = await drain(pages)
                    assert set(account.keys()) == expected("set", range(2_000))
                else:
                    with pytest.raises(ScanRefused, match=r"Redis 7\.4 and Valkey 8\.0"):
                        await drain(pages)
                    assert pages.summary.scans == 0


# ---- changes on the way ----------------------------------------------------------------------------------------


@by_kind
@segmented
async def test_it_grows_fivefold(server_binary: ServerBinary, type_: str, segments: int) -> None:
    with trio.fail_after(HANG):
        async with LocalRedis(binary=server_binary) as server, RedisClient(server.address) as client:
            items = await fill(server, type_, 5_000)
            account: Account[Any] = Account()
            async with opened(client, type_, segments=segments, **SLOW) as pages:
                for step in range(8):
                    await take_half(pages, account, step / 10)
                    await fill(server, type_, 2_500, begin=5_000 + 2_500 * step)
                await account.take_the_rest(pages)
    account.check_complete(pages.summary, items, epoch=0)


@by_kind
@segmented
async def test_it_shrinks_to_a_twentieth(server_binary: ServerBinary, type_: str, segments: int) -> None:
    with trio.fail_after(HANG):
        async with LocalRedis(binary=server_binary) as server, RedisClient(server.address) as client:
            await fill(server, type_, 40_000)
            numbers = list(range(40_000))
            random.Random(segments).shuffle(numbers)
            stay, go = numbers[:2_000], numbers[2_000:]
            remove = {"hash": "HDEL", "set": "SREM", "zset": "ZREM"}[type_]
            account: Account[Any] = Account()
            async with opened(client, type_, segments=segments, **SLOW) as pages:
                for step in range(19):
                    await take_half(pages, account, step / 40)
                    for at in range(step * 2_000, (step + 1) * 2_000, 500):
                        await client.execute_command(remove, KEY, *[f"name:{number}" for number in go[at : at + 500]])
                await account.take_the_rest(pages)
    account.check_complete(pages.summary, expected(type_, stay), epoch=0)


@by_kind
@segmented
async def test_another_one_is_renamed_over_it(each_server_binary: ServerBinary, type_: str, segments: int) -> None:
    """Where an item lies depends on the process alone: what both have comes."""
    with trio.fail_after(HANG):
        async with LocalRedis(binary=each_server_binary) as server, RedisClient(server.address) as client:
            await fill(server, type_, 20_000)
            await fill(server, type_, 15_000, begin=10_000, key=b"other")
            account: Account[Any] = Account()
            async with opened(client, type_, segments=segments, **SLOW) as pages:
                await take_half(pages, account)
                await client.rename("other", KEY)
                await account.take_the_rest(pages)
    account.check_complete(pages.summary, expected(type_, range(10_000, 20_000)), epoch=0)


# ---- the key goes, or changes ----------------------------------------------------------------------------------


@by_type
@pytest.mark.parametrize("how", ["DEL", "UNLINK", "expiry"])
async def test_it_goes(each_server_binary: ServerBinary, type_: str, how: str) -> None:
    """What it answers then looks like the end."""
    with trio.fail_after(HANG):
        async with LocalRedis(binary=each_server_binary) as server, RedisClient(server.address) as client:
            await fill(server, type_, 20_000)
            account: Account[Any] = Account()
            async with opened(client, type_, **SLOW) as pages:
                await take_half(pages, account)
                if how == "expiry":
                    await client.pexpire(KEY, 1)
                    while await client.exists(KEY):  # noqa: ASYNC110 (as above)
                        await trio.sleep(0.002)
                else:
                    await client.execute_command(how, KEY)
                with pytest.raises(CollectionGone) as caught:
                    await account.take_the_rest(pages)
    account.check_summary(pages.summary)
    assert not pages.summary.complete
    assert 0 < pages.summary.keys < 20_000
    assert caught.value.summary == pages.summary


@by_type
async def test_it_becomes_something_else(each_server_binary: ServerBinary, type_: str) -> None:
    with trio.fail_after(HANG):
        async with LocalRedis(binary=each_server_binary) as server, RedisClient(server.address) as client:
            await fill(server, type_, 20_000)
            account: Account[Any] = Account()
            async with opened(client, type_, **SLOW) as pages:
                await take_half(pages, account)
                await client.set(KEY, "a string")
                with pytest.raises(CollectionChanged):
                    await account.take_the_rest(pages)
            async with opened(client, type_) as pages:
                with pytest.raises(ScanRefused, match="the key holds no"):
                    await drain(pages)


@by_type
async def test_it_was_never_there(each_server_binary: ServerBinary, type_: str) -> None:
    with trio.fail_after(HANG):
        async with (
            LocalRedis(binary=each_server_binary) as server,
            RedisClient(server.address) as client,
            opened(client, type_) as pages,
        ):
            account: Account[Any] = await drain(pages)
    account.check_complete(pages.summary, set(), epoch=0)
    assert pages.summary.collection_size == 0


# ---- restarts --------------------------------------------------------------------------------------------------


@by_kind
@pytest.mark.parametrize("dedupe", [False, True])
async def test_a_restart_at_the_same_address(
    nursery: trio.Nursery, server_binary: ServerBinary, type_: str, dedupe: bool
) -> None:
    """Another process: its cursors are its own. With dedupe, each item comes once all the same."""
    async with open_booth(nursery, binary=server_binary) as booth, booth.client() as client:
        items = await fill(booth.server, type_, 20_000)
        before = await identity_of(booth.server)
        account: Account[Any] = Account()
        async with opened(client, type_, segments=16, dedupe=dedupe, **SLOW) as pages:
            await take_half(pages, account)
            await booth.server.restart()
            await account.take_the_rest(pages)
        summary = pages.summary
        assert summary.epoch == 1
        assert summary.complete
        if dedupe:
            assert sorted(account.keys()) == sorted(items)
            assert summary.duplicates_dropped > 5_000
        else:
            account.check_complete(summary, items, epoch=1)
        # The proxy has seen every cursor, and that none was sent to a process that had not issued it.
        assert len(booth.proxy.scans) >= summary.scans
        assert "another process" in summary.restarts[0].reason
        assert (summary.restarts[0].old_server, summary.server) == (before, await identity_of(booth.server))


@by_kind
async def test_a_failover(nursery: trio.Nursery, server_binary: ServerBinary, type_: str) -> None:
    async with open_stage(nursery, binary=server_binary) as stage, stage.client() as client:
        items = await fill(stage.first, type_, 20_000)
        await stage.service.wait_replicated()
        before = await identity_of(stage.first)
        account: Account[Any] = Account()
        async with opened(client, type_, segments=16, **SLOW) as pages:
            await take_half(pages, account)
            _, new = await stage.depose(kill=True)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, items, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))


async def test_the_next_master_does_not_have_it(nursery: trio.Nursery) -> None:
    """Lost in the failover: it is gone, and no empty collection."""
    async with open_stage(nursery) as stage, stage.client() as client:
        await fill(stage.first, "hash", 20_000)
        await stage.service.wait_replicated()
        account: Account[Any] = Account()
        async with client.open_hscan(KEY, **SLOW) as pages:
            await take_half(pages, account)
            _, new = await stage.depose(kill=True)
            await new.execute("DEL", KEY)
            with pytest.raises(CollectionGone):
                await account.take_the_rest(pages)
        assert not pages.summary.complete


@pytest.mark.full
@pytest.mark.parametrize("type_", ["hash", "set", "zset"])
async def test_half_a_million_items_through_a_failover_and_a_restart(server_binary: ServerBinary, type_: str) -> None:
    """The master is killed half way, and the next one is restarted half way through its pass."""
    number = 500_000
    with trio.fail_after(4 * HANG):
        async with LocalSentinel(replicas=1, binary=server_binary, down_after=2.0) as service:
            master = await service.master()
            items = await fill(master, type_, number)
            await service.wait_replicated()
            account: Account[Any] = Account()
            async with service_client(service) as client, opened(client, type_, page_size=1000, prefetch=0) as pages:
                await take_half(pages, account)
                await service.failover()
                while account.pages[-1].epoch < 1:
                    await account.take(pages)
                await take_half(pages, account)
                await service.restart()
                await account.take_the_rest(pages)
    account.check_complete(pages.summary, items, epoch=2)
    assert account.epochs == [0, 1, 2]
    assert pages.summary.collection_size == number


def service_client(service: LocalSentinel) -> Any:
    """A client of it, with the patience that loading half a million items takes."""
    return SentinelClient(service.sentinels, service.service, failover_timeout=60)


# ---- checkpoints -----------------------------------------------------------------------------------------------


@by_kind
@segmented
async def test_it_goes_on_from_a_checkpoint(server_binary: ServerBinary, type_: str, segments: int) -> None:
    """With another client; and from the beginning where the process is another one."""
    with trio.fail_after(HANG):
        async with LocalRedis(binary=server_binary) as server:
            items = await fill(server, type_, 20_000)
            first: Account[Any] = Account()
            async with (
                RedisClient(server.address) as client,
                opened(client, type_, segments=segments, **SLOW) as pages,
            ):
                await take_half(pages, first, 0.6)
                text = first.pages[-1].checkpoint
            async with RedisClient(server.address) as client, opened(client, type_, resume=text) as pages:
                rest: Account[Any] = await drain(pages)
            assert set(first.keys()) | set(rest.keys()) == items
            assert pages.summary.complete
            assert (pages.summary.epoch, pages.summary.segments) == (0, segments)
            assert pages.summary.keys < 10_000
            await server.restart()
            async with RedisClient(server.address) as client, opened(client, type_, resume=text) as pages:
                rest = await drain(pages)
            rest.check_complete(pages.summary, items, epoch=1)
