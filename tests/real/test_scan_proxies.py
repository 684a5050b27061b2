"""A scan through a proxy over real servers, whose SCAN covers all of them, or one that is named at its end."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.global_scan import GlobalScan, open_global_scan
from tests.real.scenes import HANG
from trio_sentinel_scan import RedisClient, ScanPages
from trio_sentinel_scan.testing import LocalRedis

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.trio

NODES = 3
KEYS = 2_000


@asynccontextmanager
async def open_proxy() -> AsyncGenerator[tuple[GlobalScan, list[set[bytes]]]]:
    """The proxy, and the keys of each node behind it."""
    with trio.fail_after(HANG):
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(LocalRedis()) for _ in range(NODES)]
            keys = [await node.fill(KEYS, f"of {index}:") for index, node in enumerate(nodes)]
            yield await stack.enter_async_context(open_global_scan(nodes)), keys


async def collect(pages: ScanPages[bytes], found: dict[int, set[bytes]], limit: int | None = None) -> None:
    """Keys by epoch, until there are so many, or to the end."""
    async for page in pages:
        found.setdefault(page.epoch, set()).update(page)
        if limit is not None and sum(map(len, found.values())) >= limit:
            return


async def test_one_node_by_its_id() -> None:
    async with open_proxy() as (proxy, keys), RedisClient(proxy.address) as client:
        for index in range(NODES):
            found: dict[int, set[bytes]] = {}
            async with client.open_scan(count=100, extra_args=(f"node-{index}",)) as pages:
                await collect(pages, found)
            assert found == {0: keys[index]}
            assert pages.summary.segments == 1
            assert pages.summary.complete


async def test_all_nodes() -> None:
    """It passes for a Redis until its cursors are seen; and then for nothing at all."""
    async with open_proxy() as (proxy, keys), RedisClient(proxy.address) as client:
        found: dict[int, set[bytes]] = {}
        async with client.open_scan(count=100) as pages:
            await collect(pages, found)
        assert found[1] == set().union(*keys)
        assert (pages.summary.epoch, pages.summary.segments, pages.summary.complete) == (1, 1, True)


async def test_a_lost_connection_is_a_new_epoch() -> None:
    """The node's process is the same; nothing tells that it is."""
    async with open_proxy() as (proxy, keys), RedisClient(proxy.address) as client:
        found: dict[int, set[bytes]] = {}
        async with client.open_scan(count=10, prefetch=0, extra_args=("node-1",)) as pages:
            await collect(pages, found, KEYS // 2)
            await proxy.drop_clients()
            await collect(pages, found)
        assert found[1] == keys[1]
        assert (pages.summary.epoch, pages.summary.reconnects) == (1, 0)


async def test_a_node_less() -> None:
    """Its keys went to the others first; the cursor is refused, and the scan begins again."""
    async with open_proxy() as (proxy, keys), RedisClient(proxy.address) as client:
        found: dict[int, set[bytes]] = {}
        async with client.open_scan(count=10, prefetch=0) as pages:
            while pages.summary.epoch == 0 or len(found.get(1, ())) < 2.5 * KEYS:
                page = await pages.receive()
                found.setdefault(page.epoch, set()).update(page)
            await proxy.nodes[0].fill(KEYS, "of 2:")
            proxy.nodes.pop()
            await collect(pages, found)
        assert found[2] == set().union(*keys)
        assert pages.summary.restarts[-1].reason == "the server does not know its cursor"


async def test_a_node_that_is_restarted_behind_it() -> None:
    """Nobody in front of the proxy can see that: `docs/guarantees.md` says so."""
    async with open_proxy() as (proxy, keys), RedisClient(proxy.address) as client:
        found: dict[int, set[bytes]] = {}
        async with client.open_scan(count=10, prefetch=0, extra_args=("node-1",)) as pages:
            await collect(pages, found, KEYS // 2)
            await proxy.nodes[1].restart()
            await collect(pages, found)
        assert pages.summary.complete
        assert pages.summary.epoch == 0
        assert 0.1 < len(keys[1] - found[0]) / KEYS < 0.4
