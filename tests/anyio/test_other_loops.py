"""A client works in the loop that entered its block; in every other it raises WrongEventLoop, and sends nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio
from anyio.from_thread import BlockingPortal
from redis.exceptions import WatchError

import trio_sentinel_scan
import trio_sentinel_scan.anyio
from tests.anyio.editions import EDITIONS, Edition
from tests.anyio.in_thread import Servers
from trio_sentinel_scan import WrongEventLoop
from trio_sentinel_scan.testing import LocalCluster, LocalRedis, LocalSentinel

full = pytest.mark.full

Use = Callable[[], Awaitable[object]]


async def refused(use: Use) -> None:
    """In another loop: it raises at once. (Where it waits, it would wait for what never comes: so for no second.)"""
    with anyio.fail_after(20), pytest.raises(WrongEventLoop, match="another event loop, or thread"):
        await use()


async def refused_in_threads(use: Use) -> None:
    """Another thread has a loop of its own, of either kind."""
    await anyio.to_thread.run_sync(trio.run, refused, use)
    await anyio.to_thread.run_sync(lambda: asyncio.run(refused(use)))


async def enter(block: Any) -> None:
    async with block:
        pytest.fail("it was entered")


async def first_of(iterator: Any) -> None:
    async for _ in iterator:
        return


async def run_pipeline(owner: Any) -> None:
    pipe = owner.pipeline().incr("count")
    try:
        await pipe.execute()
    except WrongEventLoop:
        assert len(pipe) == 1
        raise


async def watch(client: Any) -> None:
    async with client.pipeline() as pipe:
        await pipe.watch("count")


def uses_of(client: Any) -> dict[str, Use]:
    """What every client has."""
    return {
        "command": lambda: client.incr("count"),
        "blocking": lambda: client.blpop("none", timeout=1),
        "pipeline": lambda: run_pipeline(client),
        "watch": lambda: watch(client),
        "transaction": lambda: client.transaction(lambda pipe: pipe.incr("count"), "count"),
        "lock": lambda: client.lock("lock").acquire(),
        "lock for a while": lambda: client.lock("lock", blocking_timeout=2).acquire(),
        "script": lambda: client.register_script("return redis.call('INCR', KEYS[1])")(keys=["count"]),
        "scan_iter": lambda: first_of(client.scan_iter()),
        "open_scan": lambda: enter(client.open_scan()),
        "open_hscan": lambda: enter(client.open_hscan("hash")),
        "pubsub": lambda: enter(client.pubsub()),
    }


async def check_uses(client: Any, uses: dict[str, Use]) -> None:
    await client.set("count", 0)
    sent = client.statistics().sent
    for use in uses.values():
        await refused_in_threads(use)
    assert client.statistics().sent == sent
    # It goes on where it belongs.
    assert await client.get("count") == b"0"


async def test_a_clients_commands_and_blocks(edition: Edition, servers: Servers) -> None:
    async with servers(LocalRedis()) as server, edition.package.RedisClient(server.address) as client:
        await check_uses(client, {**uses_of(client), "dedicated": lambda: enter(client.dedicated())})


async def test_a_clients_of_a_service(edition: Edition, servers: Servers) -> None:
    async with (
        servers(LocalSentinel(replicas=0, sentinels=1)) as local,
        edition.package.SentinelClient(local.sentinels, local.service) as client,
        client.open_topology() as events,
    ):
        await check_uses(
            client,
            {
                "command": lambda: client.incr("count"),
                "sentinels": client.sentinel_masters,
                "open_topology": lambda: enter(client.open_topology()),
                "receive": events.receive,
            },
        )
        # What only looks may look from anywhere.
        assert await anyio.to_thread.run_sync(lambda: client.master) == client.master


@pytest.mark.slow
async def test_a_clusters_client(edition: Edition, servers: Servers) -> None:
    async with servers(LocalCluster(replicas=0)) as cluster, edition.package.ClusterClient(cluster.addresses) as client:
        await check_uses(
            client,
            {
                **uses_of(client),
                "several nodes": client.dbsize,
                "dedicated": lambda: enter(client.dedicated(key="count")),
            },
        )


async def test_what_a_client_has_opened(edition: Edition, servers: Servers) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(servers(LocalRedis()))
        client = await stack.enter_async_context(edition.package.RedisClient(server.address))
        await client.mset({f"key:{number}": number for number in range(500)})
        lease = await stack.enter_async_context(client.dedicated())
        pages = await stack.enter_async_context(client.open_scan(count=10, segments=1))
        subscriber = await stack.enter_async_context(client.pubsub())
        await subscriber.subscribe("news")
        pipe = await stack.enter_async_context(client.pipeline())
        await pipe.watch("key:1")
        clone = await anyio.to_thread.run_sync(pages.clone)
        await stack.enter_async_context(clone)
        for use in (
            lambda: lease.incr("key:1"),
            lambda: run_pipeline(lease),
            pages.receive,
            clone.receive,
            lambda: subscriber.subscribe("other"),
            subscriber.ping,
            subscriber.receive,
            lambda: subscriber.get_message(timeout=1),
            lambda: pipe.get("key:1"),
            pipe.execute,
            pipe.reset,
        ):
            await refused_in_threads(use)
        # All of it is as it was.
        await clone.aclose()
        assert len({key async for page in pages for key in page}) == 500
        assert await lease.incr("key:1") == 2
        assert list(subscriber.channels) == [b"news"]
        pipe.multi()
        pipe.set("key:1", "mine")
        with pytest.raises(WatchError):
            await pipe.execute()


# ---- another loop in the same thread -----------------------------------------------------------------------------


@contextmanager
def local_redis(portal: BlockingPortal) -> Iterator[Any]:
    with portal.wrap_async_context_manager(LocalRedis()) as server:
        yield server


def test_two_loops_that_take_turns(harness_thread: BlockingPortal) -> None:
    """As in tests that have a loop each, and a client for all of them."""
    with local_redis(harness_thread) as server:
        client = trio_sentinel_scan.anyio.RedisClient(server.address)
        loop = asyncio.new_event_loop()
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with client:
                entered.set()
                await leave.wait()
                assert await client.get("count") is None

        holder = loop.create_task(hold())
        loop.run_until_complete(entered.wait())
        for use in uses_of(client).values():
            asyncio.run(refused(use))
            trio.run(refused, use)
        leave.set()
        loop.run_until_complete(holder)
        loop.close()
        # It may be opened again, in another one.
        asyncio.run(_enter_and_ask(client))


async def _enter_and_ask(client: Any) -> None:
    async with client:
        assert await client.incr("count") == 1
        assert await client.blpop("none", timeout=0.01) is None
        await client.delete("count")


@pytest.mark.parametrize("make", ["RedisClient", pytest.param("ClusterClient", marks=pytest.mark.slow)])
def test_one_after_the_other(harness_thread: BlockingPortal, make: str) -> None:
    """A client is made in one loop, and opened in others, of either kind: nothing of it is the first one's."""
    harness: Any = LocalRedis() if make == "RedisClient" else LocalCluster(replicas=0)
    with harness_thread.wrap_async_context_manager(harness) as servers:
        where = servers.address if make == "RedisClient" else servers.addresses

        async def made() -> Any:
            await asyncio.sleep(0)
            return getattr(trio_sentinel_scan.anyio, make)(where)

        client = asyncio.run(made())
        trio.run(_enter_and_ask, client)
        asyncio.run(_enter_and_ask(client))
        trio.run(_enter_and_ask, client)


# ---- Trio as another loop's guest --------------------------------------------------------------------------------


async def as_guest(main: Callable[[], Awaitable[object]]) -> None:
    """On asyncio: have it host Trio until that has ended."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        run_sync_soon_not_threadsafe=loop.call_soon,
        done_callback=done.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    (await done).unwrap()


@pytest.mark.parametrize("package", [trio_sentinel_scan, trio_sentinel_scan.anyio], ids=["trio", "anyio"])
def test_a_guests_client(harness_thread: BlockingPortal, package: Any) -> None:
    """It works in Trio's tasks, and not in the host's, though they share a thread."""
    with local_redis(harness_thread) as server:

        async def main() -> None:
            client = package.RedisClient(server.address)
            tasks = []

            async def guest() -> None:
                async with client, client.open_scan() as pages:
                    assert await client.incr("count") == 1
                    assert await client.blpop("none", timeout=0.01) is None
                    done = trio.Event()

                    async def host() -> None:
                        for use in [*uses_of(client).values(), pages.receive]:
                            await refused(use)
                        done.set()

                    tasks.append(asyncio.get_running_loop().create_task(host()))
                    await done.wait()
                    assert [key async for page in pages for key in page] == [b"count"]

            await as_guest(guest)
            await asyncio.gather(*tasks)

        asyncio.run(main())


def test_a_hosts_client(harness_thread: BlockingPortal) -> None:
    with local_redis(harness_thread) as server:

        async def main() -> None:
            async with trio_sentinel_scan.anyio.RedisClient(server.address) as client:

                async def guest() -> None:
                    for use in uses_of(client).values():
                        await refused(use)

                await as_guest(guest)
                assert await client.get("count") is None

        asyncio.run(main())


# ---- what is right -----------------------------------------------------------------------------------------------


async def test_threads_that_have_the_clients_own_loop_do_it(edition: Edition, servers: Servers) -> None:
    async with servers(LocalRedis()) as server, edition.package.RedisClient(server.address) as client:
        await client.set("count", 0)
        if edition.backend is None:
            in_the_loop: Any = trio.from_thread.run
            assert await trio.to_thread.run_sync(in_the_loop, client.incr, "count") == 1
        else:
            in_the_loop = anyio.from_thread.run
            assert await anyio.to_thread.run_sync(in_the_loop, client.incr, "count") == 1
            if edition.backend == "asyncio":
                loop = asyncio.get_running_loop()
                # (The coroutine is made in that thread, and runs in this one.)
                answer = await anyio.to_thread.run_sync(
                    lambda: asyncio.run_coroutine_threadsafe(client.incr("count"), loop).result()
                )
                assert answer == 2

            def scan() -> list[Any]:
                with portal.wrap_async_context_manager(client.open_scan()) as pages:
                    return list(portal.call(pages.receive))

            async with BlockingPortal() as portal:
                assert await anyio.to_thread.run_sync(scan) == [b"count"]


def test_clients_in_many_threads(harness_thread: BlockingPortal) -> None:
    """Each has its own, and its own loop."""
    with local_redis(harness_thread) as server:
        clients = [EDITIONS[name].package.RedisClient(server.address) for name in ("trio", "anyio-asyncio")]
        threads = [
            threading.Thread(target=trio.run, args=(_ask, clients[0])),
            threading.Thread(target=lambda: asyncio.run(_ask(clients[1]))),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert trio.run(_total, server.address) == 20


async def _ask(client: Any) -> None:
    async with client:
        for _ in range(10):
            await client.incr("count")


async def _total(address: Any) -> int:
    async with trio_sentinel_scan.RedisClient(address) as client:
        return int(await client.get("count") or 0)


# ---- the guard, switched off -------------------------------------------------------------------------------------


@pytest.mark.parametrize("guard", [True, False], ids=["guard", "no guard"])
def test_without_it_a_command_runs_and_nobody_hears_of_it(
    harness_thread: BlockingPortal, monkeypatch: pytest.MonkeyPatch, guard: bool
) -> None:
    with local_redis(harness_thread) as server:
        client = trio_sentinel_scan.anyio.RedisClient(server.address)
        loop = asyncio.new_event_loop()
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with client:
                entered.set()
                await leave.wait()

        holder = loop.create_task(hold())
        loop.run_until_complete(entered.wait())
        if not guard:
            monkeypatch.setattr(trio_sentinel_scan.anyio.RedisClient, "_check_use", lambda _: None)

        async def elsewhere() -> None:
            # Its reply comes to a loop that stands still.
            with anyio.move_on_after(0.5):
                await client.incr("count")

        if guard:
            with pytest.raises(WrongEventLoop):
                asyncio.run(elsewhere())
        else:
            asyncio.run(elsewhere())
        leave.set()
        loop.run_until_complete(holder)
        loop.close()
        assert trio.run(_total, server.address) == (0 if guard else 1)
