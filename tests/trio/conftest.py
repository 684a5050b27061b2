"""The fake world, for all tests of the drivers."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import trio

from tests.trio.fakes import KEYS, SERVICE, Network, Service
from trio_sentinel_scan import SentinelClient


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Network]:
    """A network of memory streams in place of sockets; at its end every stream of the client's must be closed."""
    async with trio.open_nursery() as nursery:
        network = Network(nursery, monkeypatch)
        yield network
        nursery.cancel_scope.cancel()
    assert network.open_client_ends == []


@pytest.fixture
def service(network: Network) -> Service:
    """A master, two replicas, three Sentinels, and some keys."""
    return Service(network, keys=KEYS)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    """A client of that service."""
    async with SentinelClient(service.addresses, SERVICE) as client:
        yield client
