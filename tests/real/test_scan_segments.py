"""Segments on real servers: every key, at any number of keys and segments, while the table changes, in cluster mode."""

from __future__ import annotations

import math
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.real.scenes import HANG, Account, drain
from trio_sentinel_scan import RedisClient, SentinelClient
from trio_sentinel_scan._core.cursor import SLOTS, CursorFormat
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

NUMBERS = [1, 3, 8, 64]
segmented = pytest.mark.parametrize("segments", NUMBERS)


@pytest.fixture(scope="module")
def shared(server_binary: ServerBinary) -> Iterator[LocalRedis]:
    """One server for all tests in here that do it no harm."""
    local = LocalRedis(binary=server_binary)
    trio.run(local.__aenter__)
    yield local
    trio.run(local.__aexit__, None, None, None)


@pytest.fixture
async def server(shared: LocalRedis) -> AsyncIterator[LocalRedis]:
    """The same, empty."""
    with trio.fail_after(HANG):
        await shared.execute("FLUSHALL")
        yield shared


def is_exact(account: Account[bytes], total: int) -> bool:
    """Whether the position was the share of the keys that had come, within four sigma, all the way."""
    sigma = 0.5 / math.sqrt(total)
    seen: set[bytes] = set()
    for page in account.pages:
        seen.update(page)
        assert page.position is not None
        if abs(len(seen) / total - page.position) >= 4 * sigma + 0.002:
            return False
    return True


@asynccontextmanager
async def meddling(server: LocalRedis, *commands: tuple[Any, ...]) -> AsyncGenerator[None]:
    """A second client sends these commands, one by one, while the block runs, and the rest at its end."""
    done = trio.Event()

    async def meddle() -> None:
        async with RedisClient(server.address) as client:
            for command in commands:
                await client.execute_command(*command)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(meddle)
        yield
        await done.wait()


# ---- completeness ------------------------------------------------------------------------------------------------


@segmented
@pytest.mark.parametrize("number", [0, 1, 5, 1_000, 20_000, pytest.param(100_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("count", [None, 10, 1_000])
async def test_every_key_comes(server: LocalRedis, number: int, segments: int, count: int | None) -> None:
    """Hardly one of them twice, and the position strictly rises (which the account checks)."""
    keys = await server.fill(number)
    async with RedisClient(server.address) as client, client.open_scan(segments=segments, count=count) as pages:
        account = await drain(pages)
    account.check_complete(pages.summary, keys, epoch=0)
    assert set(account.keys()) == keys
    assert pages.summary.segments == segments
    assert pages.summary.keys <= 1.05 * number + segments
    if number >= 20_000:
        assert is_exact(account, number)


@segmented
async def test_the_table_grows_fivefold(server: LocalRedis, segments: int) -> None:
    """A second client writes while the scan goes on, slowly enough for it."""
    keys = await server.fill(10_000)
    new = [("MSET", *[word for n in range(at, at + 500) for word in (f"new:{n}", "x")]) for at in range(0, 40_000, 500)]
    account: Account[bytes] = Account()
    async with (
        RedisClient(server.address) as client,
        meddling(server, *new),
        client.open_scan(segments=segments, count=20, page_size=100, prefetch=0) as pages,
    ):
        await account.take_the_rest(pages)
    account.check_complete(pages.summary, keys, epoch=0)


@segmented
async def test_the_table_shrinks_to_a_twentieth(server: LocalRedis, segments: int) -> None:
    keys = sorted(await server.fill(40_000))
    random.Random(segments).shuffle(keys)
    stay, go = keys[:2_000], keys[2_000:]
    deletions = [("DEL", *go[at : at + 500]) for at in range(0, len(go), 500)]
    account: Account[bytes] = Account()
    async with (
        RedisClient(server.address) as client,
        meddling(server, *deletions),
        client.open_scan(segments=segments, count=20, page_size=100, prefetch=0) as pages,
    ):
        await account.take_the_rest(pages)
    account.check_complete(pages.summary, stay, epoch=0)


@pytest.mark.full
@pytest.mark.parametrize("segments", ["auto", 1, 8, 64])
async def test_a_million_keys(server: LocalRedis, segments: Any) -> None:
    with trio.fail_after(10 * HANG):
        keys = await server.fill(1_000_000)
        async with RedisClient(server.address) as client, client.open_scan(segments=segments) as pages:
            account = await drain(pages)
        account.check_complete(pages.summary, keys, epoch=0)
        assert pages.summary.keys <= 1.01 * len(keys)
        assert is_exact(account, len(keys))
        await server.execute("FLUSHALL")


# ---- every server ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", ["auto", 3])
async def test_on_every_server(each_server_binary: ServerBinary, segments: Any) -> None:
    with trio.fail_after(HANG):
        async with LocalRedis(binary=each_server_binary) as server, RedisClient(server.address) as client:
            keys = await server.fill(20_000)
            async with client.open_scan(segments=segments) as pages:
                account = await drain(pages)
    account.check_complete(pages.summary, keys, epoch=0)
    assert pages.summary.segments == (16 if segments == "auto" else 3)
    assert pages.summary.keys <= 1.05 * len(keys)
    assert is_exact(account, len(keys))


async def test_in_cluster_mode_on_every_server(each_server_binary: ServerBinary) -> None:
    """One node with all the slots. Where the cursor carries the slot, segments are ranges of slots."""
    config = {"cluster-enabled": "yes"}
    with trio.fail_after(2 * HANG):
        async with LocalRedis(binary=each_server_binary, config=config) as server:
            if each_server_binary.version_info >= (7,):
                await server.execute("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            else:
                for at in range(0, SLOTS, 1024):
                    await server.execute("CLUSTER", "ADDSLOTS", *range(at, at + 1024))
            async with RedisClient(server.address) as client:
                while "cluster_state:ok" not in str(await server.execute("CLUSTER", "INFO")):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                keys = {b"key:%d" % number for number in range(20_000)}
                # Many more in one slot, so that its own table has some size.
                keys |= {b"{tag}%d" % number for number in range(5_000)}
                await put(server, keys)
                form = CursorFormat.REVERSED
                every: list[Any] = ["auto", *NUMBERS]
                for segments in every:
                    async with client.open_scan(segments=segments, count=100) as pages:
                        account = await drain(pages)
                        form = pages._scan.plan._bound.format
                    account.check_complete(pages.summary, keys, epoch=0)
                    assert pages.summary.segments == (32 if segments == "auto" else segments)
                    assert pages.summary.keys <= 1.05 * len(keys)
    version = each_server_binary.version_info
    per_slot = version >= ((8,) if each_server_binary.product == "valkey" else (7, 4))
    assert form is (CursorFormat.SLOTS if per_slot else CursorFormat.REVERSED)


async def put(server: LocalRedis, keys: set[bytes]) -> None:
    """MSET does not go over slots; so one by one, many on their way at once."""
    waiting = sorted(keys)

    async with RedisClient(server.address) as client, trio.open_nursery() as nursery:

        async def worker() -> None:
            while waiting:
                await client.set(waiting.pop(), b"x")

        for _ in range(200):
            nursery.start_soon(worker)


# ---- restarts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", [3, 16])
async def test_a_restart_at_the_same_address_half_way(server_binary: ServerBinary, segments: int) -> None:
    """Every segment begins again; the old process's cursors are good for nothing."""
    with trio.fail_after(HANG):
        async with LocalRedis(binary=server_binary) as server:
            keys = await server.fill(20_000)
            account: Account[bytes] = Account()
            async with (
                RedisClient(server.address, failover_timeout=30) as client,
                client.open_scan(segments=segments, count=10, page_size=50, prefetch=0) as pages,
            ):
                while not account.pages or (account.pages[-1].position or 0) < 0.5:
                    await account.take(pages)
                await server.restart()
                await account.take_the_rest(pages)
    account.check_complete(pages.summary, keys, epoch=1)
    assert set(account.keys(epoch=1)) == keys


async def test_a_failover_half_way(server_binary: ServerBinary) -> None:
    """With some segments done and others not."""
    with trio.fail_after(HANG):
        async with LocalSentinel(replicas=1, binary=server_binary, down_after=2.0) as service:
            keys = await service.fill(20_000)
            account: Account[bytes] = Account()
            async with (
                SentinelClient(service.sentinels, service.service, failover_timeout=60) as client,
                client.open_scan(segments=16, count=10, page_size=50, prefetch=0) as pages,
            ):
                while not account.pages or (account.pages[-1].position or 0) < 0.7:
                    await account.take(pages)
                await service.failover()
                await account.take_the_rest(pages)
    account.check_complete(pages.summary, keys, epoch=1)
    assert set(account.keys(epoch=1)) == keys
