"""Where servers come from: one address, or a service."""

from __future__ import annotations

from typing import Literal

import pytest
import trio

from tests.trio.fakes import Network, Service, on_mock_time, settled
from trio_sentinel_scan import Address, MasterNotFound, RedisClient, SentinelClient, ServerConnectionError
from trio_sentinel_scan._core.scan_steps import Target

PROTOCOLS: tuple[Literal[2, 3] | None, ...] = (None, 2, 3)

pytestmark = pytest.mark.trio(run=on_mock_time)


async def test_one_server_is_its_own_master_and_there_is_nobody_to_ask(network: Network) -> None:
    service = Service(network)
    async with RedisClient(service.master.address) as client:
        source = client._source
        assert source.target == Target(Address("10.0.0.1", 6379))
        assert not source.wants_master
        assert await source.vote(source.target) is None
        assert await source.ask_role(Address("10.0.0.2", 6379)) is None
        assert source.describe_sentinels() == {}


async def test_a_service_is_what_its_sentinels_say(network: Network) -> None:
    service = Service(network)
    async with SentinelClient(service.addresses, "mymaster") as client:
        source = client._source
        assert source.wants_master
        service.fail_over()
        await client.ping()
        assert source.target == Target(Address("10.0.0.2", 6379), 1, version=2)
        votes = await source.vote(source.target)
        assert votes is not None
        assert votes.is_majority
        role = await source.ask_role(Address("10.0.0.3", 6379))
        assert role is not None
        assert role.kind == "slave"
        assert set(source.describe_sentinels()) == {"10.0.1.1:26379", "10.0.1.2:26379", "10.0.1.3:26379"}


async def test_the_settings_reach_the_server(network: Network) -> None:
    service = Service(network)
    service.write([b"k"], db=3)
    service.write([b"\xff"], db=3)
    for protocol in PROTOCOLS:
        async with RedisClient(
            service.master.address,
            db=3,
            client_name="us",
            decode_responses=True,
            encoding="latin-1",
            protocol=protocol,
        ) as client:
            assert await client.get("k") == "value of k"
            assert await client.get("ÿ") == "value of ÿ"
            connection = await client._source.connect(client._source.target)
            assert connection.greeting is not None
            assert connection.greeting.protocol == (protocol or 3)
            await connection.aclose()


async def test_the_announced_address_is_mapped_to_the_one_to_dial(network: Network) -> None:
    service = Service(network)
    for host in service.sentinels:
        host.program.services["mymaster"].master = ("master.internal", 6379)
    address_map = {("master.internal", 6379): service.master.address}
    async with SentinelClient(service.addresses, "mymaster", address_map=address_map) as client:
        await client.ping()
        assert client._source.target.address == Address("master.internal", 6379)
        assert repr(client) == "<SentinelClient of 'mymaster', master master.internal:6379>"
    assert (Address("10.0.0.1", 6379), Address("master.internal", 6379)) in network.dialled


async def test_addresses_that_cannot_be_reached_and_are_not_mapped(network: Network) -> None:
    service = Service(network)
    for host in service.sentinels:
        host.program.services["mymaster"].master = ("master.internal", 6379)
    with pytest.raises(MasterNotFound, match="see address_map"):
        async with SentinelClient(service.addresses, "mymaster"):
            pass


async def test_a_master_that_takes_no_connection_makes_the_sentinels_be_asked(network: Network) -> None:
    """At once, and not at the next poll: it may have been replaced, and the event may have got lost."""
    service = Service(network)
    async with SentinelClient(service.addresses, "mymaster") as client:
        await trio.sleep(0.5)
        service.master.kill()
        service.config_epoch += 1
        service.promote(service.replicas[0])
        service.tell(quietly=True)
        with pytest.raises(ServerConnectionError):
            await client._source.connect(client._source.target)
        await settled()
        assert client._source.target.address == Address("10.0.0.2", 6379)
        assert trio.current_time() == 0.5
