"""Who the Sentinels are: the others are learned, two names of one are one, they go and come."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.trio.fakes import (
    Network,
    Service,
    on_mock_time,
    settled,
)
from tests.trio.watching import names, until, watching
from trio_sentinel_scan import Address
from trio_sentinel_scan._trio.sentinel import PATIENCE, POLL_PERIOD, RETRY_PERIOD

pytestmark = pytest.mark.trio(run=on_mock_time)


async def test_the_others_are_learned(network: Network) -> None:
    service = Service(network)
    async with watching(service, addresses=service.addresses[:1]) as monitor:
        await monitor.first_target()
        await settled()
        assert set(monitor.describe()) == {"10.0.1.1:26379", "10.0.1.2:26379", "10.0.1.3:26379"}
        service.sentinels[0].kill()
        service.fail_over(tell=False)
        service.tell(service.sentinels[2])
        assert await until(lambda: names(monitor) == ("10.0.0.2", 6379, 1), within=1) == 0


async def test_a_new_sentinel_is_learned_later(network: Network) -> None:
    service = Service(network)
    newcomer = service.sentinels[2].program
    for host in service.sentinels[:2]:
        host.program.peers.remove(newcomer)
    async with watching(service, addresses=service.addresses[:2]) as monitor:
        await monitor.first_target()
        await settled()
        assert len(monitor.describe()) == 2
        service.sentinels[0].program.peers.append(newcomer)
        service.sentinels[0].program.publish("+sentinel", "sentinel abc 10.0.1.3 26379 @ mymaster 10.0.0.1 6379")
        await settled()
        assert len(monitor.describe()) == 3


async def test_two_addresses_of_one_sentinel_are_one(network: Network) -> None:
    """It has one voice and one pair of connections."""
    service = Service(network)
    network.hosts["sentinel.example", 26379] = service.sentinels[0]
    addresses = [("sentinel.example", 26379), *service.addresses]
    async with watching(service, addresses=addresses) as monitor:
        target = await monitor.first_target()
        await settled()
        assert len(monitor.describe()) == 3
        assert (await monitor.vote(target)).known == 3
        assert len(service.sentinels[0].open_wires) == 2


async def test_the_configured_address_is_kept_before_a_learned_one(network: Network) -> None:
    service = Service(network)
    network.hosts["sentinel.example", 26379] = service.sentinels[0]
    service.sentinels[0].delay = 0.01  # so that its peers are asked, and name it, first
    addresses = [("sentinel.example", 26379), *service.addresses[1:]]
    async with watching(service, addresses=addresses) as monitor:
        await monitor.first_target()
        await trio.sleep(1)
        assert set(monitor.describe()) == {"sentinel.example:26379", "10.0.1.2:26379", "10.0.1.3:26379"}
        assert len(service.sentinels[0].open_wires) == 2


async def test_a_sentinel_that_was_taken_away_is_forgotten(network: Network) -> None:
    service = Service(network)
    gone = service.sentinels[2]
    async with watching(service, addresses=service.addresses[:1]) as monitor:
        await monitor.first_target()
        await settled()
        gone.kill()
        for host in service.sentinels[:2]:
            host.program.peers.remove(gone.program)
        await trio.sleep(3)
        assert set(monitor.describe()) == {"10.0.1.1:26379", "10.0.1.2:26379"}
        attempts = len(network.dialled)
        await trio.sleep(30)
        assert len(network.dialled) == attempts


async def test_a_sentinel_goes_and_comes(network: Network) -> None:
    service = Service(network)
    host = service.sentinels[0]
    async with watching(service) as monitor:
        await monitor.first_target()
        await settled()
        host.kill()
        await settled()
        assert monitor.describe()["10.0.1.1:26379"] == "closed the connection"
        await trio.sleep(RETRY_PERIOD)
        await settled()
        assert monitor.describe()["10.0.1.1:26379"] == "cannot be reached: Connection refused"
        host.start()
        await trio.sleep(RETRY_PERIOD)
        await settled()
        assert monitor.describe()["10.0.1.1:26379"] == "names 10.0.0.1:6379 (config epoch 0)"
        service.fail_over(tell=False)
        service.tell(host)
        assert await until(lambda: names(monitor) == ("10.0.0.2", 6379, 1), within=1) == 0  # it is heard again


async def test_a_sentinel_that_hangs_later_is_noticed_and_tried_again(network: Network) -> None:
    service = Service(network)
    host = service.sentinels[0]
    async with watching(service) as monitor:
        await monitor.first_target()
        await settled()
        host.hang()
        await trio.sleep(POLL_PERIOD + PATIENCE)
        await settled()
        assert monitor.describe()["10.0.1.1:26379"] == "did not answer within 2 s (response_timeout)"
        host.resume()
        await until(lambda: "names" in monitor.describe()["10.0.1.1:26379"], within=5)


async def test_addresses_that_cannot_be_reached_are_mapped(network: Network) -> None:
    """Those that were announced; those that were configured are taken as they are."""
    service = Service(network)
    for host in service.sentinels:
        host.program.announced = ("172.17.0.9", int(host.address[0][-1]))
    inside = {("172.17.0.9", number): address for number, address in enumerate(service.addresses, start=1)}
    addresses = service.addresses[:1]
    async with watching(service, addresses=addresses, address_map={**inside, addresses[0]: ("0.0.0.0", 1)}) as monitor:
        await monitor.first_target()
        await settled()
        assert set(monitor.describe()) == {"10.0.1.1:26379", "172.17.0.9:2", "172.17.0.9:3"}
        assert set(monitor.describe().values()) == {"names 10.0.0.1:6379 (config epoch 0)"}
        assert monitor.dial_address(Address("172.17.0.9", 2)) == Address("10.0.1.2", 26379)


async def test_an_address_map_that_fails_makes_an_unreachable_sentinel(network: Network) -> None:
    def fail(address: tuple[str, int]) -> tuple[str, int]:
        raise KeyError(address)

    service = Service(network)
    async with watching(service, addresses=service.addresses[:1], address_map=fail) as monitor:
        await monitor.first_target()
        await settled()
        assert "address_map" in monitor.describe()["10.0.1.2:26379"]
