"""Commands that a server keeps waiting: on connections of their own, ended by a change of masters, never run twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from redis.exceptions import ResponseError

from tests.trio.fakes import HANG_UP, SILENCE, Error, Hold, Network, Reply, Service, on_mock_time, settled
from trio_sentinel_scan import ClientClosed, CommandOutcomeUnknown, RedisClient, SentinelClient, ServerUnavailable

pytestmark = pytest.mark.trio(run=on_mock_time)

POPPED = (b"q", b"popped")
NO_MASTER = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"


@pytest.fixture
def service(network: Network) -> Service:
    return Service(network, keys=10)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(service.addresses, "mymaster", max_connections=2) as client:
        yield client


async def test_others_go_on_while_one_waits(service: Service, client: SentinelClient) -> None:
    """It waits as long as it was told to, which is longer than `response_timeout`; then its connection is kept."""
    release = trio.Event()
    service.master.tap("BLPOP", instead=Hold(release))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _pop() -> None:
            assert await client.blpop("q", timeout=0) == POPPED

        await trio.sleep(120)
        assert await client.get("key:1") == b"value of key:1"
        release.set()
    assert await client.blpop("q", timeout=1) == POPPED
    assert len(service.master.wires) == 2


async def test_a_server_that_does_not_keep_the_time_is_given_up(service: Service, client: SentinelClient) -> None:
    """After the command's own time and `response_timeout`."""
    service.master.tap("BLPOP", instead=SILENCE)
    with pytest.raises(CommandOutcomeUnknown, match="BLPOP"):
        await client.blpop("q", timeout=7)
    assert trio.current_time() == 12
    assert len(service.master.open_wires) == 1


async def test_a_cancelled_wait_ends_at_the_server_too(service: Service, client: SentinelClient) -> None:
    """State that remains: its connection is closed, so nothing is popped for nobody; its place is free."""
    service.master.tap("BLPOP", times=3, instead=SILENCE)
    for _ in range(3):
        with trio.move_on_after(1) as scope:
            await client.blpop("q", timeout=0)
        assert scope.cancelled_caught
        assert len(service.master.open_wires) == 1
    assert await client.blpop("q", timeout=0) == POPPED


async def test_waits_take_their_turns(service: Service, client: SentinelClient) -> None:
    service.master.tap("BLPOP", times=4, instead=SILENCE)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(client.blpop, "q", 0)
        await trio.sleep(1)
        assert len(service.master.open_wires) == 3
        assert await client.get("key:1") == b"value of key:1"
        nursery.cancel_scope.cancel()


# ---- another master ---------------------------------------------------------------------------------------------


async def test_a_pop_under_way_is_in_doubt_when_its_master_is_left(service: Service, client: SentinelClient) -> None:
    """It may have popped at the very end."""
    service.master.tap("BLPOP", instead=SILENCE)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _pop() -> None:
            with pytest.raises(CommandOutcomeUnknown, match=r"BLPOP was sent to 10\.0\.0\.1:6379 .*MASTER_CHANGE"):
                await client.blpop("q", timeout=0)

        await trio.sleep(10)
        service.fail_over(hang=True)
    assert trio.current_time() == 10
    assert service.master.commands("BLPOP") == []


async def test_a_pop_that_the_server_ended_goes_on_at_the_next_master(service: Service, client: SentinelClient) -> None:
    """The server's word that nothing was popped; it waits for the rest of its time there."""
    old = service.master
    await client.blpop("q", timeout=1)  # which makes the connection
    old.tap("BLPOP", instead=Reply(Error(NO_MASTER)))
    old.delay = 10
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _pop() -> None:
            assert await client.blpop("q", timeout=60) == POPPED

        await trio.sleep(10.01)
        # Its own word, before any Sentinel's.
        old.program.master = service.servers[1].address
        await trio.sleep(5)
        service.fail_over(kill=False)
    (again,) = service.master.commands("BLPOP")
    assert again[1] == b"q"
    assert 40 < float(again[2]) <= 50.1
    assert len(old.commands("BLPOP")) == 2


async def test_a_wait_that_somebody_called_off_is_over(service: Service, client: SentinelClient) -> None:
    """CLIENT UNBLOCK ... ERROR is meant for this very command."""
    said = "UNBLOCKED client unblocked via CLIENT UNBLOCK"
    service.master.tap("BLPOP", instead=Reply(Error(said)))
    with pytest.raises(ResponseError, match="CLIENT UNBLOCK"):
        await client.blpop("q", timeout=0)
    assert len(service.master.commands("BLPOP")) == 1


@pytest.mark.parametrize("start, again", [("5-1", True), ("$", False)])
async def test_a_stream_is_waited_for_again_where_nothing_can_be_missed(
    service: Service, client: SentinelClient, start: str, again: bool
) -> None:
    """From "$" it would begin behind what came in between."""
    service.master.tap("XREAD", instead=HANG_UP)
    service.master.tap("XREAD", instead=Reply(None))
    reading: Any = client.xread({"s": start}, block=10_000)
    if again:
        assert not await reading
    else:
        with pytest.raises(CommandOutcomeUnknown):
            await reading
    assert len(service.master.commands("XREAD")) == 1 + again


async def test_patience_is_for_a_server_that_is_away_not_for_one_that_waits(service: Service) -> None:
    """Minutes of waiting do not count as minutes without a server."""
    async with SentinelClient(service.addresses, "mymaster", failover_timeout=5) as client:
        old, popped = service.master, trio.Event()

        await client.blpop("q", timeout=1)  # which makes the connection
        old.tap("BLPOP", instead=Reply(Error(NO_MASTER)))
        old.delay = 180
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _pop() -> None:
                assert await client.blpop("q", timeout=0) == POPPED
                popped.set()

            await trio.sleep(182)
            service.fail_over(kill=False)
        assert popped.is_set()


async def test_to_wait_for_ones_turn_is_not_to_wait_for_a_server(service: Service) -> None:
    """Otherwise the first trouble after a long queue would be the last one."""
    service.master.tap("XREAD", instead=HANG_UP)
    service.master.tap("XREAD", instead=Reply(None))
    async with (
        SentinelClient(service.addresses, "mymaster", max_connections=1, failover_timeout=5) as client,
        trio.open_nursery() as nursery,
    ):
        taken = trio.Event()

        @nursery.start_soon
        async def _hold() -> None:
            async with client.dedicated():
                taken.set()
                await trio.sleep(20)

        await taken.wait()
        assert not await client.xread({"s": "0"}, block=1)
    assert len(service.master.commands("XREAD")) == 2


async def test_it_ends_when_there_is_no_server_at_all(network: Network) -> None:
    service = Service(network)
    async with RedisClient(service.master.address, failover_timeout=5) as client:
        service.master.kill()
        with pytest.raises(ServerUnavailable):
            await client.blpop("q", timeout=0)
        assert trio.current_time() == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("error", ["LOADING Redis is loading the dataset in memory", "BUSY Redis is busy"])
async def test_a_server_that_asks_for_patience_gets_it_and_no_more(network: Network, error: str) -> None:
    service = Service(network)
    async with RedisClient(service.master.address, failover_timeout=5) as client:
        service.master.tap("BLPOP", times=3, instead=Reply(Error(error)))
        assert await client.blpop("q", timeout=1) == POPPED
        service.master.tap("BLPOP", times=10_000, instead=Reply(Error(error)))
        with pytest.raises(ServerUnavailable, match="BLPOP"):
            await client.blpop("q", timeout=1)
        assert trio.current_time() < 6


async def test_a_wait_ends_with_its_client(network: Network) -> None:
    """What was under way is in doubt, what had not begun is not."""
    service = Service(network)
    service.master.tap("BLPOP", times=10, instead=SILENCE)
    ended: list[type[BaseException]] = []

    async def pop(client: RedisClient) -> None:
        try:
            await client.blpop("q", timeout=0)
        except Exception as error:  # noqa: BLE001 (which one is the question)
            ended.append(type(error))

    async with trio.open_nursery() as nursery, RedisClient(service.master.address, max_connections=1) as client:
        nursery.start_soon(pop, client)  # noqa: ASYNC111 (the client's end is the question)
        await settled()
        nursery.start_soon(pop, client)  # noqa: ASYNC111 (the client's end is the question)
        await settled()
    assert sorted(ended, key=str) == sorted([ClientClosed, CommandOutcomeUnknown], key=str)
