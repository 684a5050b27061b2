"""Cancellation at every checkpoint: a scenario is run once to count its steps, and then once more for each of them.

Each test's docstring says what state must remain. What is common to all of them: no task is left, every stream is
closed, nothing but the cancellation has come out, and a new client in the same world does all that is asked of it.
"""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.trio.fakes import CancelAtStep, Error, Network, Reply, Service, on_mock_time, settled, sweep, tasks_below
from trio_sentinel_scan import (
    CommandOutcomeUnknown,
    Gap,
    MasterChange,
    RedisClient,
    ReplicaRemove,
    ScanInterrupted,
    SentinelClient,
)

pytestmark = pytest.mark.trio(run=on_mock_time)

COUNT = 10

Scenario = Callable[[Service], Awaitable[None]]


# ---- scenarios --------------------------------------------------------------------------------------------------


async def failover_in_mid_scan(service: Service) -> None:
    """Open a client, scan, run commands in the loop, see the master change, certify, leave."""
    async with SentinelClient(service.addresses, "mymaster") as client:
        async with client.open_scan(count=COUNT, prefetch=1) as pages:
            number = 0
            async for page in pages:
                number += 1
                await client.mget(list(page))
                if number == 2:
                    service.fail_over()
                if number == 3:
                    await client.set("written", "by the loop")
        assert pages.summary.complete
        assert pages.summary.epoch == 1


async def trouble_in_mid_scan(service: Service) -> None:
    """One server: its connection is lost, it asks for patience, it is restarted, and it is asked for its role."""
    server = service.master
    server.tap("SCAN", skip=1, after=server.drop_clients)
    server.tap("SCAN", skip=3, times=2, instead=Reply(Error("LOADING Redis is loading the dataset in memory")))
    server.tap("SCAN", skip=4, before=server.restart)
    async with RedisClient(server.address) as client:
        swept = await sweep(client, count=COUNT, prefetch=0)
        assert swept.summary.complete
        assert (swept.summary.epoch, swept.summary.reconnects) == (1, 1)


async def slow_servers(service: Service) -> None:
    """Every connection, reply and page takes its time, and half of the Sentinels are no good."""
    for host in service.hosts:
        host.delay = 0.1
    service.network.connect_delay = 0.1
    service.sentinels[0].hang()
    async with SentinelClient(service.addresses, "mymaster") as client:
        async with client.open_scan(count=COUNT) as pages:
            async for _ in pages:
                await trio.sleep(0.05)
        assert pages.summary.complete


async def two_consumers(service: Service) -> None:
    """Two tasks of the body's, each with a clone, each running commands."""
    async with (
        SentinelClient(service.addresses, "mymaster") as client,
        client.open_scan(count=COUNT) as pages,
        trio.open_nursery() as nursery,
    ):

        async def consume() -> None:
            async with pages.clone() as mine:
                async for page in mine:
                    await client.mget(list(page))

        nursery.start_soon(consume)
        nursery.start_soon(consume)


async def a_scan_that_fails(service: Service) -> None:
    """The failure is raised, caught by the body, and left behind."""
    async with (
        SentinelClient(service.addresses, "mymaster") as client,
        client.open_scan(count=COUNT, on_failover="raise") as pages,
    ):
        await pages.receive()
        service.fail_over()
        await trio.sleep(1)
        with pytest.raises(ScanInterrupted):
            await pages.receive()
        await client.ping()


async def servers_that_come_up_later(service: Service) -> None:
    """A client that waits for them, and a reader of what happens then."""
    for host in service.hosts:
        host.vanish()

    async def bring_up() -> None:
        await trio.sleep(3)
        for host in service.hosts:
            host.resume()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bring_up)
        async with (
            SentinelClient(service.addresses, "mymaster", wait_ready=True) as client,
            client.open_topology() as events,
        ):
            service.fail_over()
            assert isinstance(await events.receive(), MasterChange)
            assert isinstance(await events.receive(), ReplicaRemove)
            await client.ping()


async def use_all_of(client: SentinelClient, service: Service) -> None:
    """A lease whose state is changed, a blocking command, a pipeline, a watched transaction, a lock, and a failover."""
    async with client.dedicated() as lease:
        await lease.select(3)
        await lease.set("k", "v")
    await client.blpop("q", timeout=1)
    service.fail_over()
    async with client.pipeline() as pipe:
        await pipe.get("k").set("k", "v").execute()
        await pipe.watch("k")
        await pipe.get("k")
        pipe.multi()
        await pipe.set("k", "w").execute()
    async with client.lock("lock"):
        await client.ping()


async def connections_of_their_own(service: Service) -> None:
    """All of that, by a client that there is only one other connection for."""
    async with SentinelClient(service.addresses, "mymaster", max_connections=1) as client:
        await use_all_of(client, service)


async def a_subscriber(service: Service) -> None:
    """Subscribe, receive, see the connection lost and the master change, receive on, unsubscribe."""
    async with SentinelClient(service.addresses, "mymaster") as client, client.pubsub(buffer=2) as subscriber:
        await subscriber.subscribe("a", "b")
        await subscriber.psubscribe("p.*")
        service.master.program.publish(b"a", b"1", b"2", b"3", b"4")
        for _ in range(4):
            await subscriber.receive()
        service.master.drop_clients()
        assert isinstance(await subscriber.receive(), Gap)
        service.fail_over(kill=False)
        assert isinstance(await subscriber.receive(), Gap)
        await subscriber.unsubscribe("a")
        service.master.program.publish(b"b", b"5")
        assert await subscriber.get_message(ignore_subscribe_messages=True, timeout=1) is None
        await subscriber.receive()
        await subscriber.ping()
        await subscriber.reset()


SCENARIOS = [
    connections_of_their_own,
    failover_in_mid_scan,
    trouble_in_mid_scan,
    slow_servers,
    two_consumers,
    a_scan_that_fails,
    servers_that_come_up_later,
    a_subscriber,
]


# ---- the machinery ----------------------------------------------------------------------------------------------


def make_service(network: Network) -> Service:
    """The world as each run finds it."""
    network.hosts.clear()
    network.connect_delay = 0
    return Service(network, keys=60)


def is_below(task: trio.lowlevel.Task, ancestor: trio.lowlevel.Task) -> bool:
    """Whether `task` is `ancestor`, or was started by it, directly or not."""
    found: trio.lowlevel.Task | None = task
    while found is not None and found is not ancestor:
        found = found.parent_nursery.parent_task if found.parent_nursery is not None else None
    return found is not None


async def steps_of(
    scenario: Scenario, service: Service, step: int | None, when: str, *, whole_client: bool = False
) -> tuple[int, bool]:
    """Run a scenario and cancel it at a step. Returns how many steps it took, and whether it was cancelled."""
    me = trio.lowlevel.current_task()
    scope = trio.CancelScope()
    instrument = CancelAtStep(
        scope, step, when, concerns=lambda task: is_below(task, me) if whole_client else task is me
    )
    with scope:
        trio.lowlevel.add_instrument(instrument)
        try:
            await scenario(service)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return instrument.steps, scope.cancelled_caught


def nothing_is_left(network: Network) -> None:
    """No task, no open stream."""
    assert tasks_below(trio.lowlevel.current_task()) == []
    assert network.open_client_ends == []


async def another_client_completes(service: Service) -> None:
    """In the world as it was left: all keys of its master, a command, and the master followed once more."""
    for host in service.hosts:
        host.untap()
        host.resume()
        host.delay = 0
    async with SentinelClient(service.addresses, "mymaster") as client:
        swept = await sweep(client, count=COUNT)
        assert swept.last_epoch == service.keys()
        await client.set("k", "v")
        assert await client.get("k") == b"v"


# Which of the steps of a scenario are tried: twelve, evenly spread; or all of them, in four parts.
sampled = pytest.mark.parametrize(
    "part",
    [None, *(pytest.param(part, marks=pytest.mark.full) for part in range(4))],
    ids=["some", *(f"all-{part + 1}-of-4" for part in range(4))],
)


def spread(steps: int, part: int | None) -> range:
    """The steps to try."""
    return range(1, steps + 1, -(-steps // 12)) if part is None else range(1 + part, steps + 1, 4)


# ---- at every step of the consumer's task -----------------------------------------------------------------------


@sampled
@pytest.mark.parametrize("when", ["waiting", "waking"])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_consumer_cancelled_at_each_of_its_steps(
    network: Network, scenario: Scenario, when: str, part: int | None
) -> None:
    """State that remains: nothing of the client's, wherever its owner was: opening, receiving, in a command, leaving.

    The world is as far as the scenario had got; whatever was written is there or is not, and nothing is in between.
    """
    steps, cancelled = await steps_of(scenario, make_service(network), None, when)
    assert not cancelled
    assert steps > 10
    cancellations = 0
    for step in spread(steps, part):
        service = make_service(network)
        _, cancelled = await steps_of(scenario, service, step, when)
        cancellations += cancelled
        nothing_is_left(network)
        await another_client_completes(service)
        nothing_is_left(network)
    # (The last steps can be too late: nothing is left to be cancelled.)
    assert cancellations > (5 if part is None else 3)


@sampled
@pytest.mark.parametrize("when", ["waiting", "waking"])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_client_cancelled_at_each_step_of_all_its_tasks(
    network: Network, scenario: Scenario, when: str, part: int | None
) -> None:
    """State that remains: nothing, wherever the Sentinels' tasks, the listener and the producer were."""
    steps, _ = await steps_of(scenario, make_service(network), None, when, whole_client=True)
    cancellations = 0
    for step in spread(steps, part):
        service = make_service(network)
        _, cancelled = await steps_of(scenario, service, step, when, whole_client=True)
        cancellations += cancelled
        nothing_is_left(network)
        await another_client_completes(service)
        nothing_is_left(network)
    assert cancellations > (5 if part is None else 3)


# ---- a part of it cancelled, and the rest goes on ---------------------------------------------------------------


@sampled
@pytest.mark.parametrize("when", ["waiting", "waking"])
async def test_a_scan_cancelled_at_each_step_leaves_the_client_whole(
    network: Network, when: str, part: int | None
) -> None:
    """State that remains: the client, with its tasks for the Sentinels and one connection at most to a data server.

    No task of the scan's, no callback of its, no connection of its; another scan of the same client completes.
    """

    async def scan(service: Service, client: SentinelClient) -> None:
        async with client.open_scan(count=COUNT, prefetch=1) as pages:
            number = 0
            async for page in pages:
                number += 1
                await client.mget(list(page))
                if number == 2:
                    service.fail_over()

    async def run(step: int | None) -> int:
        service = make_service(network)
        async with SentinelClient(service.addresses, "mymaster") as client:
            await settled()
            tasks = len(tasks_below(trio.lowlevel.current_task()))
            listeners = len(client._source.on_change)
            steps, _ = await steps_of(lambda service: scan(service, client), service, step, when)
            await settled()
            # (Fewer while the shared connection, which has two, is closed: it is opened when a command needs it.)
            assert len(tasks_below(trio.lowlevel.current_task())) <= tasks
            assert len(client._source.on_change) == listeners
            open_ends = [wire for server in service.servers for wire in server.wires if not wire.client_end.closed]
            assert len(open_ends) <= 1
            assert (await sweep(client, count=COUNT)).last_epoch == service.keys()
            await client.set("k", "v")
            assert await client.get("k") == b"v"
            assert len(tasks_below(trio.lowlevel.current_task())) == tasks
        nothing_is_left(network)
        return steps

    for step in spread(await run(None), part):
        await run(step)


@sampled
@pytest.mark.parametrize("when", ["waiting", "waking"])
async def test_leases_and_their_like_cancelled_at_each_step_leave_the_client_whole(
    network: Network, when: str, part: int | None
) -> None:
    """State that remains: the client with its one place, free; a connection in it that is clean, or none."""

    async def run(step: int | None) -> int:
        service = make_service(network)
        async with SentinelClient(service.addresses, "mymaster", max_connections=1) as client:
            steps, _ = await steps_of(lambda service: use_all_of(client, service), service, step, when)
            assert client._pool._out == set()
            with trio.fail_after(10):
                async with client.dedicated() as lease:
                    assert await lease.get("key:1") == b"value of key:1"
                await use_all_of(client, service)
        nothing_is_left(network)
        return steps

    for step in spread(await run(None), part):
        await run(step)


@pytest.mark.parametrize("when", ["waiting", "waking"])
@pytest.mark.parametrize("trouble", ["none", "connection lost", "restarted", "asked for patience"])
async def test_a_command_cancelled_at_each_step(network: Network, when: str, trouble: str) -> None:
    """State that remains: the counter was counted up, or it was not; the next command gets its own reply."""

    async def run(step: int | None) -> tuple[int, bool]:
        service = make_service(network)
        async with SentinelClient(service.addresses, "mymaster") as client:
            await settled()
            match trouble:
                case "connection lost":
                    service.master.drop_clients("pipe")
                case "restarted":
                    service.fail_over()
                    await settled()
                case "asked for patience":
                    service.master.tap("INCRBY", times=2, instead=Reply(Error("LOADING Redis is loading")))

            async def count_up(service: Service) -> None:
                with contextlib.suppress(CommandOutcomeUnknown):
                    await client.incr("counter")

            steps, cancelled = await steps_of(count_up, service, step, when)
            await settled()
            counter = await client.get("counter")
            if trouble != "asked for patience":  # (where the fake counts although it refuses)
                assert counter in ((None, b"1") if cancelled or trouble == "connection lost" else (b"1",))
            assert await client.get("key:7") == b"value of key:7"
            open_ends = [wire for server in service.servers for wire in server.wires if not wire.client_end.closed]
            assert len(open_ends) == 1
        nothing_is_left(network)
        return steps, cancelled

    steps, _ = await run(None)
    assert any([(await run(step))[1] for step in range(1, steps + 1)])


@pytest.mark.parametrize("when", ["waiting", "waking"])
async def test_a_receive_cancelled_at_each_step_loses_no_page(network: Network, when: str) -> None:
    """State that remains: the scan, undisturbed; the page that the receive did not bring comes with the next one."""

    async def run(nth: int, step: int | None) -> tuple[int, bool]:
        service = make_service(network)
        service.master.delay = 0.01  # so that there is something to wait for
        found: list[bytes] = []
        async with SentinelClient(service.addresses, "mymaster") as client:
            async with client.open_scan(count=COUNT, prefetch=0) as pages:
                for _ in range(nth):
                    found += await pages.receive()

                async def receive(service: Service) -> None:
                    found.extend(await pages.receive())

                steps, cancelled = await steps_of(receive, service, step, when)
                async for page in pages:
                    found += page
            assert pages.summary.complete
        assert sorted(found) == sorted(service.keys())
        nothing_is_left(network)
        return steps, cancelled

    for nth in range(4):
        steps, _ = await run(nth, None)
        for step in range(1, steps + 1):
            await run(nth, step)


# ---- what comes with a cancellation -----------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_deadline_at_any_time(network: Network, scenario: Scenario) -> None:
    """`move_on_after` around everything, as users have it. State that remains: nothing."""
    service = make_service(network)
    started = trio.current_time()
    await scenario(service)
    took = trio.current_time() - started
    for tenth in range(11):
        service = make_service(network)
        with trio.move_on_after(took * tenth / 10):
            await scenario(service)
        nothing_is_left(network)
        await another_client_completes(service)


@pytest.mark.parametrize("error", [ValueError("the body's"), KeyboardInterrupt("the body's")])
async def test_an_exception_of_the_bodys_at_any_page_comes_before_a_cancellation(
    network: Network, error: BaseException
) -> None:
    """Raised in a scope that is cancelled already: it is the exception that leaves. State that remains: nothing."""
    for fatal_page in range(1, 7):
        service = make_service(network)
        with trio.CancelScope() as scope, pytest.raises(type(error)) as caught:
            async with (
                SentinelClient(service.addresses, "mymaster") as client,
                client.open_scan(count=COUNT, prefetch=1) as pages,
            ):
                number = 0
                async for _ in pages:
                    number += 1
                    if number == 3:
                        service.fail_over()
                    if number == fatal_page:
                        scope.cancel()
                        raise error
        assert caught.value is error
        assert error.__context__ is None
        nothing_is_left(network)


async def test_nothing_hangs_when_the_world_does(network: Network) -> None:
    """Every server and Sentinel stops at once, in the middle of everything. State that remains: nothing."""
    service = make_service(network)
    with trio.move_on_after(100) as scope:
        async with (
            SentinelClient(service.addresses, "mymaster", response_timeout=None, failover_timeout=None) as client,
            client.open_scan(count=COUNT) as pages,
            trio.open_nursery() as nursery,
        ):
            await pages.receive()
            for host in service.hosts:
                host.vanish()
            for _ in range(10):
                nursery.start_soon(client.get, "key:1")
            async for _ in pages:
                pass
    assert scope.cancelled_caught
    nothing_is_left(network)
