"""A great many at once, on fakes: scans, subscribers, commands; slow ones beside quick ones; and clocks that jump."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.trio.fakes import SERVICE, SILENCE, Network, Service, on_mock_time, settled
from trio_sentinel_scan import Gap, Message, SentinelClient, ServerUnavailable

pytestmark = pytest.mark.trio(run=on_mock_time)

KEYS = 100
DAY = 24 * 3600.0


@pytest.fixture
def service(network: Network) -> Service:
    return Service(network, keys=KEYS)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(service.addresses, SERVICE) as client:
        yield client


def some_or(many: int, some: int) -> pytest.MarkDecorator:
    """By default fewer than in the full run."""
    marks = [pytest.mark.full, pytest.mark.slow]
    return pytest.mark.parametrize("number", [some, pytest.param(many, marks=marks)])


async def keys_of(client: SentinelClient, **options: Any) -> set[bytes]:
    """A whole scan."""
    arguments: dict[str, Any] = {"count": 20, "segments": 1, **options}
    async with client.open_scan(**arguments) as pages:
        return {key for page in [page async for page in pages] for key in page}


@some_or(1_000, 150)
async def test_scans_at_once(network: Network, service: Service, client: SentinelClient, number: int) -> None:
    """Each has a connection of its own, all that it is owed, and no part in another's failure."""
    found: list[set[bytes]] = []

    async def scan() -> None:
        found.append(await keys_of(client))

    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(scan)
        await settled()
        open_at_once = len(service.master.open_wires)
    assert len(found) == number
    assert all(keys == service.keys() for keys in found)
    assert open_at_once <= number + 2
    # The commands' connection, and no more.
    await settled()
    assert len(service.master.open_wires) == 1


async def test_scans_at_once_through_a_failover(service: Service, client: SentinelClient) -> None:
    found: list[set[bytes]] = []

    async def scan() -> None:
        found.append(await keys_of(client, prefetch=0, count=5))

    service.master.tap("SCAN", skip=200, before=service.fail_over)
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(scan)
    assert len(found) == 60
    assert all(keys == service.keys() for keys in found)


@some_or(500, 100)
async def test_subscribers(service: Service, client: SentinelClient, number: int) -> None:
    """Each gets every message, in order, and after a failover one Gap and every message again."""
    done = 0
    subscribed = 0

    async def follow() -> None:
        nonlocal done, subscribed
        async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
            await subscriber.subscribe("news")
            subscribed += 1
            items = [await subscriber.receive() for _ in range(21)]
        data = [item.data for item in items if isinstance(item, Message)]
        assert data == [b"%d" % n for n in range(10)] * 2
        assert isinstance(items[10], Gap)
        done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(follow)
        while subscribed < number:
            await settled()
        service.master.program.publish(b"news", *(b"%d" % n for n in range(10)))
        await settled()
        service.fail_over()
        # (All of them are back well before that.)
        await trio.sleep(10)
        service.master.program.publish(b"news", *(b"%d" % n for n in range(10)))
    assert done == number


async def test_commands_of_ten_thousand_tasks(network: Network, service: Service, client: SentinelClient) -> None:
    """Each its own reply, over one connection; and as many through a failover."""
    wires = len(service.master.wires)
    right = 0

    async def ask(number: int) -> None:
        nonlocal right
        key = b"key:%d" % (number % KEYS)
        is_right = await client.get(key) == b"value of " + key
        right += is_right

    async with trio.open_nursery() as nursery:
        for number in range(10_000):
            nursery.start_soon(ask, number)
    assert right == 10_000
    assert len(service.master.wires) == wires
    service.master.tap("GET", skip=50, before=service.fail_over)
    async with trio.open_nursery() as nursery:
        for number in range(2_000):
            nursery.start_soon(ask, number)
    assert right == 12_000


# ---- slow beside quick -------------------------------------------------------------------------------------------


async def test_a_slow_consumer_stalls_nobody(service: Service, client: SentinelClient) -> None:
    """A scan and a subscriber that nobody reads for minutes, and a lease that nobody gives back: all else goes on."""
    began = trio.current_time()
    async with (
        client.open_scan(count=10, segments=1, prefetch=2) as slow,
        client.pubsub(buffer=5) as subscriber,
        client.dedicated() as lease,
    ):
        found = set(await slow.receive())
        await subscriber.subscribe("news")
        service.master.program.publish(b"news", *[b"x"] * 1_000)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(keys_of, client)
            for number in range(500):
                nursery.start_soon(client.get, f"key:{number}")
        # Nobody had to wait for as much as one time-out.
        assert trio.current_time() - began < 1
        # What was fetched for those who do not read is bounded: the scan has stopped asking.
        scans = len(service.master.commands("SCAN"))
        await trio.sleep(120)
        assert len(service.master.commands("SCAN")) == scans
        # And they go on where they were.
        async for page in slow:
            found |= set(page)
        assert found == service.keys()
        assert await lease.get("key:1") == b"value of key:1"
        received = 0
        with trio.move_on_after(60):
            while received < 1_000:
                received += isinstance(await subscriber.receive(), Message)
        assert received == 1_000


async def test_a_slow_server_stalls_only_those_who_ask_it(network: Network) -> None:
    """Two clients in one process: the one's server hangs, the other's is as quick as ever."""
    hung, well = Service(network, keys=KEYS), Service(network, keys=KEYS, subnet=1, name="other")
    async with (
        SentinelClient(hung.addresses, SERVICE, failover_timeout=None) as waiting,
        SentinelClient(well.addresses, "other") as client,
        trio.open_nursery() as nursery,
    ):
        hung.master.hang()
        for _ in range(100):
            nursery.start_soon(waiting.get, "key:1")
        began = trio.current_time()
        assert await keys_of(client) == well.keys()
        assert trio.current_time() - began < 1
        nursery.cancel_scope.cancel()


# ---- clocks that jump --------------------------------------------------------------------------------------------


def for_days(function: Any, *, clock: object = None, **options: Any) -> Any:
    """Like `on_mock_time`, which takes a test that lasts so long for one that hangs."""
    return trio.run(function, clock=trio.testing.MockClock(autojump_threshold=0), **options)


in_days = pytest.mark.trio(run=for_days)


def jumped(service: Service) -> None:
    """A day goes by at once, as for a machine that was asleep."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(DAY)


@in_days
@pytest.mark.parametrize("at", ["SCAN", "ROLE", "INFO"])
async def test_a_day_goes_by_in_mid_scan(service: Service, client: SentinelClient, at: str) -> None:
    """While a reply is on its way, or is asked for: every deadline has passed, and no key is missing."""
    service.master.tap(at, skip=2, times=3, before=lambda: jumped(service))
    assert await keys_of(client, count=10, max_restarts=20) == service.keys()


@in_days
async def test_a_day_goes_by_at_rest(service: Service, client: SentinelClient) -> None:
    """Between two commands, two pages, two messages."""
    async with client.open_scan(count=10, segments=1, prefetch=0) as pages, client.pubsub() as subscriber:
        await subscriber.subscribe("news")
        found = set(await pages.receive())
        for _ in range(5):
            jumped(service)
            await trio.lowlevel.checkpoint()
            assert await client.get("key:1") == b"value of key:1"
            found |= set(await pages.receive())
        async for page in pages:
            found |= set(page)
        assert found == service.keys()
        assert pages.summary.complete
        await trio.sleep(5)
        service.master.program.publish(b"news", b"x")
        while not isinstance(await subscriber.receive(), Message):
            pass


@in_days
async def test_a_day_goes_by_in_mid_failover(service: Service, client: SentinelClient) -> None:
    """Those who wait for the next master have waited too long, and say so; those who come then are served."""
    service.master.kill()
    outcomes: list[object] = []

    async def ask() -> None:
        try:
            outcomes.append(await client.get("key:1"))
        except Exception as error:  # noqa: BLE001 (whatever it is)
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
        await settled()
        jumped(service)
        await trio.sleep(0.1)
        await service.elect()
    assert len(outcomes) == 10
    assert all(isinstance(outcome, ServerUnavailable) for outcome in outcomes), outcomes
    await ask()
    assert outcomes[-1] == b"value of key:1"


@in_days
async def test_a_silent_server_after_a_day(service: Service, client: SentinelClient) -> None:
    """The one that waited has waited too long: it is told so, and the next one is served."""
    service.master.tap("GET", instead=SILENCE)

    async def ask() -> None:
        with pytest.raises(ServerUnavailable):
            await client.get("key:1")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await settled()
        jumped(service)
    assert await client.get("key:2") == b"value of key:2"
