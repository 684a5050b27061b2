"""Commands for the Sentinels themselves: one of them answers."""

# pyright: reportUnknownMemberType=false
# (redis-py's commands have **kwargs that are not annotated.)

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from redis.exceptions import ResponseError

from tests.trio.fakes import HANG_UP, Network, Reply, Service, on_mock_time
from trio_sentinel_scan import CommandOutcomeUnknown, NoSentinelReachable, RedisClient, SentinelClient

pytestmark = pytest.mark.trio(run=on_mock_time)


@pytest.fixture
def service(network: Network) -> Service:
    return Service(network)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(service.addresses, "mymaster") as client:
        yield client


async def test_a_sentinel_answers(service: Service, client: SentinelClient) -> None:
    state = await client.sentinel_master("mymaster", return_responses=True)
    assert isinstance(state, dict)
    assert (state["ip"], state["port"]) == ("10.0.0.1", 6379)
    assert service.master.commands("SENTINEL") == []


async def test_another_one_answers_if_the_first_does_not(service: Service, client: SentinelClient) -> None:
    service.sentinels[0].kill()
    service.sentinels[1].tap("SENTINEL MASTER", instead=HANG_UP)
    assert await client.sentinel_master("mymaster", return_responses=True)


async def test_its_error_is_raised(client: SentinelClient) -> None:
    with pytest.raises(ResponseError, match="No such master"):
        await client.sentinel_master("other")


async def test_an_order_is_given_to_one_only(service: Service, client: SentinelClient) -> None:
    """Two Sentinels that were both told to fail over would do it twice."""
    service.sentinels[0].tap("SENTINEL FAILOVER", instead=HANG_UP)
    with pytest.raises(CommandOutcomeUnknown, match=r"^SENTINEL was sent to Sentinel 10\.0\.1\.1:26379"):
        await client.sentinel_failover("mymaster")
    assert sum(len(host.commands("SENTINEL", "FAILOVER")) for host in service.sentinels) == 1
    service.sentinels[0].tap("SENTINEL FAILOVER", instead=Reply("OK"))
    assert await client.sentinel_failover("mymaster") is True


async def test_without_sentinels_nobody_answers(service: Service, client: SentinelClient) -> None:
    for host in service.sentinels:
        host.kill()
    with pytest.raises(NoSentinelReachable, match=r"10\.0\.1\.3:26379"):
        await client.sentinel_masters()
    async with RedisClient(service.master.address) as plain:
        with pytest.raises(ResponseError, match="unknown command"):
            await plain.execute_command("SENTINEL MASTERS")
