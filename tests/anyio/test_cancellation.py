"""Native cancellation of the AnyIO edition's clients, on asyncio and uvloop, against real servers.

Each operation is cancelled at each of its waits: while it waits, and in the tick in which what it waited for has come.
Common to all: no task is left, no socket, no reply that is taken for another's; and a cancellation that was asked for
comes out, whatever it found under way.
"""

# pyright: reportUnknownMemberType=false
# (redis-py's commands have **kwargs that are not annotated.)

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import anyio
import anyio.lowlevel
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests import _leaks
from tests.anyio.loops import WHENS, How, When, cancelled_at, nothing_is_left, run
from trio_sentinel_scan.anyio import (
    Address,
    ClusterClient,
    Message,
    RedisClient,
    ScanPage,
    SentinelAdd,
    SentinelClient,
)
from trio_sentinel_scan.testing import LocalCluster, LocalRedis, LocalSentinel

KEYS: Final = 300

Client = RedisClient | SentinelClient
Operation = Callable[[Client], Awaitable[None]]


@pytest.fixture(scope="module")
def harness() -> Iterator[BlockingPortal]:
    """The thread in which Trio runs, for the servers."""
    with start_blocking_portal("trio") as portal:
        yield portal


@pytest.fixture(scope="module")
def address(harness: BlockingPortal) -> Iterator[Address]:
    """A server with keys in it."""
    with harness.wrap_async_context_manager(LocalRedis()) as server:
        harness.call(server.fill, KEYS)
        yield Address(*server.address)


# `task.cancel()` everywhere; its kin, and uvloop, where what is different might show.
ways = pytest.mark.parametrize(
    "loop, how",
    [
        ("asyncio", "task.cancel"),
        ("uvloop", "task.cancel"),
        ("asyncio", "scope"),
        ("asyncio", "asyncio.timeout"),
        ("asyncio", "group"),
    ],
)
whens = pytest.mark.parametrize("when", WHENS)
# Which of the waits are tried: one in so many, or all of them.
sampled = pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.full)], ids=["some", "all"])


async def at_each_wait(
    every: int,
    when: When,
    how: How,
    work: Callable[[], Any],
    check: Callable[[], Awaitable[object]],
) -> None:
    """Do the work, cancelled at one wait and then at another, until it is not any more; check after each."""
    waits, _ = await cancelled_at(None, when, work)
    await check()
    cancellations, step, stopped = 0, 1, True
    # (Its number of waits is not always the same: it goes on behind the number that it took by itself.)
    while stopped or step <= waits:
        _, stopped = await cancelled_at(step, when, work, how)
        cancellations += stopped
        await check()
        step += every
    assert cancellations


# ---- the whole of a client -------------------------------------------------------------------------------------


async def use(client: Client) -> None:
    """A little of everything."""
    for operation in OPERATIONS:
        await operation(client)


async def command(client: Client) -> None:
    await client.incr("counter")
    assert await client.echo("a word") == b"a word"


async def many_commands(client: Client) -> None:
    async def ask(word: str) -> None:
        assert await client.echo(word) == word.encode()

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(ask(f"word {number}"))


async def pipeline(client: Client) -> None:
    async with client.pipeline(transaction=False) as pipe:
        pipe.echo("one")
        pipe.echo("two")
        assert await pipe.execute() == [b"one", b"two"]


async def transaction(client: Client) -> None:
    async with client.pipeline() as pipe:
        await pipe.watch("counter")
        pipe.multi()
        pipe.echo("one")
        pipe.incr("transactions")
        assert (await pipe.execute())[0] == b"one"


async def blocking_pop(client: Client) -> None:
    await client.rpush("list", "item")
    assert await cast("Any", client.blpop(["list"], timeout=5)) is not None
    await client.delete("list")


async def lease(client: Client) -> None:
    async with client.dedicated() as lease:
        await lease.select(5)
        assert await lease.echo("mine") == b"mine"
    async with client.dedicated() as lease:
        assert await lease.echo("clean") == b"clean"


async def lock(client: Client) -> None:
    async with client.lock("lock", timeout=60, blocking=False):
        assert await client.echo("locked") == b"locked"


async def scan(client: Client) -> None:
    found: list[bytes] = []
    async with client.open_scan(match="key:*", count=50, prefetch=1) as pages:
        async for page in pages:
            found += page
    assert len(set(found)) == KEYS


async def collection_scan(client: Client) -> None:
    await client.sadd("set", *range(20))
    found: list[bytes] = []
    async with client.open_sscan("set", count=10) as pages:
        async for page in pages:
            found += page
    assert len(set(found)) == 20
    assert len([member async for member in client.sscan_iter("set")]) == 20


async def subscriber(client: Client) -> None:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("channel")
        await client.publish("channel", "hello")
        message = await subscriber.receive()
        assert isinstance(message, Message)
        assert message.data == b"hello"
        await subscriber.unsubscribe()


OPERATIONS: Final[tuple[Operation, ...]] = (
    command,
    many_commands,
    pipeline,
    transaction,
    blocking_pop,
    lease,
    lock,
    scan,
    collection_scan,
    subscriber,
)


@ways
@whens
@sampled
def test_a_client_cancelled_at_each_of_its_waits(address: Address, loop: str, how: How, when: When, every: int) -> None:
    """State that remains: nothing of the client's, wherever it was."""

    async def whole() -> None:
        async with RedisClient(address) as client:
            await use(client)

    async def main() -> None:
        sockets = _leaks.open_sockets()

        async def check() -> None:
            await nothing_is_left()
            assert _leaks.open_sockets() <= sockets
            async with RedisClient(address) as another:
                # (A scope around the client cancels its tasks, too: then there is nobody left to give a lock back.)
                assert await another.delete("lock") == 0 or how == "scope"

        await at_each_wait(every * 2 + 1 if every > 1 else 1, when, how, whole, check)

    run(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@whens
def test_leaving_a_client_swallows_no_cancellation(address: Address, loop: str, when: When) -> None:
    """It would, if the client's own tasks were in a task group of the task that leaves it."""

    async def whole() -> None:
        async with RedisClient(address) as client:
            await client.echo("there")

    async def main() -> None:
        waits, _ = await cancelled_at(None, when, whole)
        for step in range(1, waits + 1):
            await cancelled_at(step, when, whole)

    run(loop, main)


@ways
@whens
@sampled
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_operation_cancelled_at_each_of_its_waits_leaves_the_client_whole(  # noqa: PLR0917 (each has a name)
    address: Address, loop: str, how: How, when: When, every: int, operation: Operation
) -> None:
    """State that remains: the client, its places all free, no lock held; each command gets its own reply."""

    async def main() -> None:
        async with RedisClient(address, max_connections=1) as client:
            await client.echo("there")
            tasks = len(asyncio.all_tasks())

            async def check() -> None:
                for number in range(3):
                    assert await client.echo(f"after {number}") == b"after %d" % number
                assert await client.exists("lock") == 0
                assert client._pool._out == set()
                async with client.dedicated() as lease:
                    assert await lease.echo("free") == b"free"
                await client.delete("list")
                # (The shared connection, with its two tasks, may have been closed, and is there again.)
                await nothing_is_left(tasks)

            await at_each_wait(every, when, how, lambda: operation(client), check)

    run(loop, main)


# ---- one of many -----------------------------------------------------------------------------------------------


async def ask(client: Client, word: str) -> bytes:
    return cast("bytes", await client.echo(word))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@whens
def test_whoever_reads_for_all_is_cancelled(address: Address, loop: str, when: When) -> None:
    """State that remains: the other callers, each with its own reply; whoever was read for reads on."""

    async def main() -> None:
        async with RedisClient(address) as client:
            for position in range(6):
                for step in range(1, 4):
                    others = [asyncio.create_task(ask(client, f"{number}")) for number in range(position)]
                    cancelled = asyncio.create_task(cancelled_at(step, when, partial(ask, client, "cancelled")))
                    others += [asyncio.create_task(ask(client, f"{number}")) for number in range(position, 6)]
                    assert await asyncio.gather(*others) == [b"%d" % number for number in range(6)]
                    await cancelled
            # All of them in one tick.
            for turns in range(8):
                tasks = [asyncio.create_task(ask(client, f"{number}")) for number in range(6)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in tasks[turns % 2 :: 2]:
                    task.cancel()
                found = await asyncio.gather(*tasks, return_exceptions=True)
                for number, one in enumerate(found):
                    assert isinstance(one, asyncio.CancelledError) or one == b"%d" % number
                assert not any(isinstance(one, BaseException) for one in found[1 - turns % 2 :: 2])
            assert client._shared.statistics().in_flight == 0

    run(loop, main)


# ---- what is received ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@whens
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_page_is_not_lost(address: Address, loop: str, when: When, prefetch: int) -> None:
    """State that remains: the scan; the page that a cancelled receive did not bring comes with the next one."""

    async def main() -> None:
        async with RedisClient(address) as client:
            for nth in range(3):
                for step in (1, 2, 3):
                    found: list[ScanPage[bytes]] = []
                    async with client.open_scan(match="key:*", page_size=20, prefetch=prefetch) as pages:

                        async def receive(found: list[ScanPage[bytes]] = found, pages: Any = pages) -> None:
                            found.append(await pages.receive())

                        for _ in range(nth):
                            await receive()
                        await cancelled_at(step, when, receive)
                        with suppress(anyio.EndOfStream):
                            while True:
                                await receive()
                        assert pages.summary.complete
                    each_page_once(found)

    run(loop, main)


def each_page_once(found: list[ScanPage[bytes]]) -> None:
    """(A server may bring a key twice; a page comes once.)"""
    assert len({id(page) for page in found}) == len(found)
    assert len({key for page in found for key in page}) == KEYS


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_page_is_not_lost_however_often_it_is_cancelled(address: Address, loop: str) -> None:
    """Each receive but every third one is cancelled, in another turn each time."""

    async def main() -> None:
        async with RedisClient(address) as client:
            for prefetch in (0, 1, 4):
                found: list[ScanPage[bytes]] = []
                async with client.open_scan(match="key:*", page_size=5, prefetch=prefetch) as pages:

                    async def receive(found: list[ScanPage[bytes]] = found, pages: Any = pages) -> None:
                        found.append(await pages.receive())

                    attempt, over = 0, False
                    while not over:
                        attempt += 1
                        task = asyncio.create_task(receive())
                        for _ in range(attempt % 7):
                            await asyncio.sleep(0)
                        if attempt % 3:
                            task.cancel()
                        (outcome,) = await asyncio.gather(task, return_exceptions=True)
                        over = isinstance(outcome, anyio.EndOfStream)
                    assert pages.summary.complete
                each_page_once(found)

    run(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@whens
def test_a_message_is_not_lost(address: Address, loop: str, when: When) -> None:
    async def main() -> None:
        async with RedisClient(address) as client, client.pubsub() as subscriber:
            await subscriber.subscribe("channel")
            found: list[bytes] = []
            count = 0

            async def receive() -> None:
                message = await subscriber.receive()
                assert isinstance(message, Message)
                found.append(message.data)

            async def publish(number: int) -> None:
                nonlocal count
                for _ in range(number):
                    await client.publish("channel", str(count))
                    count += 1

            for step in (1, 2, 3):
                for beforehand in (0, 1, 20):
                    await publish(beforehand)
                    receiving = asyncio.create_task(cancelled_at(step, when, receive))
                    await asyncio.sleep(0)
                    await publish(2)
                    await receiving
                    while len(found) < count:
                        await receive()
            assert found == [b"%d" % number for number in range(count)]

    run(loop, main)


@pytest.fixture(scope="module")
def service(harness: BlockingPortal) -> Iterator[LocalSentinel]:
    with harness.wrap_async_context_manager(LocalSentinel(replicas=1, sentinels=3)) as service:
        harness.call(service.fill, KEYS)
        yield service


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_topology_event_is_not_lost(service: LocalSentinel, loop: str) -> None:
    async def main() -> None:
        async with (
            SentinelClient(service.sentinels, service.service) as client,
            client.open_topology() as events,
        ):
            count = 0
            found: list[object] = []

            def happen() -> None:
                nonlocal count
                count += 1
                events.put([SentinelAdd(Address("10.0.0.1", count), str(count), 0.0)])

            async def receive() -> None:
                found.append(await events.receive())

            for when in WHENS:
                for step in (1, 2, 3):
                    for beforehand in (True, False):
                        if beforehand:
                            happen()
                        receiving = asyncio.create_task(cancelled_at(step, when, receive))
                        for _ in range(3):
                            await asyncio.sleep(0)
                        happen()
                        happen()
                        await receiving
                        while len(found) < count:
                            await receive()
            assert len(found) == count

    run(loop, main)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@whens
@sampled
def test_a_client_of_a_service_cancelled_at_each_of_its_waits(
    service: LocalSentinel, loop: str, when: When, every: int
) -> None:
    """State that remains: nothing, of the Sentinels' connections neither."""

    async def whole() -> None:
        async with SentinelClient(service.sentinels, service.service) as client:
            await command(client)
            await scan(client)
            async with client.open_topology() as events:
                assert events.state.master is not None

    async def main() -> None:
        sockets = _leaks.open_sockets()

        async def check() -> None:
            await nothing_is_left()
            assert _leaks.open_sockets() <= sockets

        await at_each_wait(every, when, "task.cancel", whole, check)

    run(loop, main)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@whens
@sampled
def test_a_client_of_a_cluster_cancelled_at_each_of_its_waits(
    cluster: LocalCluster, loop: str, when: When, every: int
) -> None:
    """State that remains: nothing; its connections are many, and the last of them is closed, too."""

    async def whole() -> None:
        async with ClusterClient(cluster.addresses) as client:
            for number in range(6):
                assert await client.get(f"key:{number}") is not None
            found: list[bytes] = []
            async with client.open_scan() as pages:
                async for page in pages:
                    found += page
            assert len(set(found)) == KEYS

    async def main() -> None:
        sockets = _leaks.open_sockets()

        async def check() -> None:
            await nothing_is_left()
            assert _leaks.open_sockets() <= sockets

        await at_each_wait(every, when, "task.cancel", whole, check)

    run(loop, main)


@pytest.fixture(scope="module")
def cluster(harness: BlockingPortal) -> Iterator[LocalCluster]:
    with harness.wrap_async_context_manager(LocalCluster()) as cluster:
        harness.call(cluster.fill, KEYS)
        yield cluster


# ---- twice over ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@sampled
def test_a_client_that_is_cancelled_again_while_it_closes(address: Address, loop: str, every: int) -> None:
    """No shield keeps a second `task.cancel()` out. State that remains: nothing all the same."""

    async def body(inside: asyncio.Event) -> None:
        async with RedisClient(address) as client, client.dedicated(), client.pubsub() as subscriber:
            await subscriber.subscribe("channel")
            await client.echo("there")
            async with client.open_scan(page_size=10) as pages:
                await pages.receive()
                inside.set()
                await asyncio.sleep(60)

    async def main() -> None:
        sockets = _leaks.open_sockets()
        for turns in range(0, 30, every):
            inside = asyncio.Event()
            task = asyncio.create_task(body(inside))
            await inside.wait()
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await nothing_is_left()
            assert _leaks.open_sockets() <= sockets

    run(loop, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@sampled
def test_a_client_cancelled_at_any_turn_of_the_loop(address: Address, loop: str, every: int) -> None:
    """The same as at each of its waits, but wherever its other tasks are."""

    async def whole() -> None:
        async with RedisClient(address) as client:
            await use(client)

    async def main() -> None:
        sockets = _leaks.open_sockets()
        turns, done = 0, False
        while not done:
            task = asyncio.create_task(whole())
            for _ in range(turns):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await nothing_is_left()
            assert _leaks.open_sockets() <= sockets
            # (There are thousands of turns, most of them of waiting for the network.)
            turns += 1 + turns * every // 30 if every > 1 else 1 + turns // 100

    run(loop, main)


# ---- in the wrong task -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_left_in_another_task_than_it_was_entered_in(address: Address, loop: str) -> None:
    """As fixtures and lifespans of some frameworks would have it. It works until then, and AnyIO's error says what is
    wrong. State that remains: nothing.
    """

    async def main() -> None:
        sockets = _leaks.open_sockets()
        client = RedisClient(address)
        one = asyncio.create_task(client.__aenter__())
        await one
        assert await client.echo("there") == b"there"
        other = asyncio.create_task(client.__aexit__(None, None, None))
        with pytest.raises(RuntimeError, match="different task"):
            await other
        await nothing_is_left()
        assert _leaks.open_sockets() <= sockets

    run(loop, main)
