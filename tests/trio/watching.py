"""A monitor of Sentinels, watched by a test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

import trio
import trio.testing

from tests.trio.fakes import (
    Host,
    Sentinel,
    Service,
    settled,
)
from trio_sentinel_scan import Address
from trio_sentinel_scan._core.config import AddressMap, Credentials, Endpoint
from trio_sentinel_scan._trio.nurseries import open_service_nursery
from trio_sentinel_scan._trio.sentinel import SentinelMonitor


@asynccontextmanager
async def watching(
    service: Service,
    *,
    name: str | None = None,
    addresses: Iterable[tuple[str, int]] | None = None,
    credentials: Credentials | None = None,
    address_map: AddressMap | None = None,
    response_timeout: float = 5,
) -> AsyncGenerator[SentinelMonitor]:
    monitor = SentinelMonitor(
        name or service.name,
        [Address(*address) for address in addresses or service.addresses],
        endpoint=Endpoint(credentials or Credentials()),
        data_endpoint=Endpoint(),
        address_map=address_map,
        response_timeout=response_timeout,
    )
    async with open_service_nursery() as nursery:
        monitor.start(nursery)
        yield monitor


async def until(condition: Callable[[], bool], *, within: float) -> float:
    """Seconds until the condition holds."""
    started = trio.current_time()
    await settled()
    while not condition():
        assert trio.current_time() - started < within, "it did not come about in time"
        await trio.sleep(0.01)
        await settled()
    return trio.current_time() - started


def names(monitor: SentinelMonitor) -> tuple[str, int, int | None]:
    """The master that the monitor has in view, and under which epoch."""
    target = monitor.target
    assert target is not None
    return target.address.host, target.address.port, target.config_epoch


def askings(host: Host[Sentinel]) -> int:
    """How often a Sentinel was asked."""
    return len(host.commands("SENTINEL", "SENTINELS"))
