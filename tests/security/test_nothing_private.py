"""No password, key or value in a log record, a repr, an error and what hangs on it, a span or a metric: by canaries.

Each operation meets each failure on each kind of client; see `harvest.py` for what is looked at.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.security.harvest import KEY, PASSWORD, SENTINEL_PASSWORD, VALUE, Harvest, harvesting
from tests.security.operations import FAILURES, HASH, OPERATIONS, SERVERS_WORDS, attempt
from tests.trio.fakes import FakeCluster, Host, Network, Service, User, Value, on_mock_time
from tests.trio.test_telemetry import Told
from trio_sentinel_scan import ClusterClient, RedisClient, SentinelClient

pytestmark = pytest.mark.trio(run=on_mock_time)

SETTINGS: dict[str, Any] = {"response_timeout": 1, "failover_timeout": 3, "username": "app", "password": PASSWORD}


class World:
    """Servers that want the password and have the key, and what can befall them."""

    def __init__(self, network: Network, kind: str) -> None:
        self.kind = kind
        self.service: Service | None = None
        self.hosts: list[Host[Any]]
        if kind == "cluster":
            self.hosts = list(FakeCluster(network).hosts)
        else:
            self.service = Service(network)
            self.hosts = list(self.service.servers)
            for sentinel in self.service.sentinels:
                sentinel.program.password = SENTINEL_PASSWORD
        for host in self.hosts:
            host.program.users = {"default": User(forbidden=frozenset({"GET"})), "app": User(PASSWORD)}
            host.program.put(0, KEY, Value(VALUE))
            host.program.put(0, HASH, Value(VALUE, "hash", {KEY + b"%d" % n: VALUE for n in range(40)}))
            for number in range(30):
                host.program.put(0, KEY + b":%d" % number, Value(VALUE))

    def client(self, **options: Any) -> Any:
        """A client of theirs."""
        options = {**SETTINGS, **options}
        if self.kind == "cluster":
            return ClusterClient([host.address for host in self.hosts], **options)
        assert self.service is not None
        if self.kind == "redis":
            return RedisClient(self.service.master.address, **options)
        return SentinelClient(self.service.addresses, self.service.name, sentinel_password=SENTINEL_PASSWORD, **options)

    def tap(self, command: str, **what: Any) -> None:
        """As a host's, on each data server."""
        for host in self.hosts:
            host.tap(command, **what)

    @property
    def was_tapped(self) -> bool:
        """Whether what was to befall them has."""
        return any(tap.times < 3 for host in self.hosts for tap in host._taps)

    def untap(self) -> None:
        for host in self.hosts:
            host.untap()


@asynccontextmanager
async def opened(world: World, harvest: Harvest, **options: Any) -> AsyncGenerator[Any]:
    """A client, looked at before, within and after."""
    client = world.client(**options)
    harvest.add("a client", repr(client))
    async with client:
        harvest.add("a client", repr(client))
        yield client
    harvest.add("a client", repr(client))
    harvest.living()


KINDS = ("redis", "sentinel", "cluster")
kinds = pytest.mark.parametrize("kind", KINDS)


def each(failures: dict[str, Any]) -> Callable[[Any], Any]:
    """Each failure on one kind of client by default, and on all of them for `nox -s full`."""
    return pytest.mark.parametrize(
        "kind, failure",
        [
            pytest.param(kind, failure, id=f"{kind}-{name}", marks=[pytest.mark.full] * (number % len(KINDS) != which))
            for number, (name, failure) in enumerate(failures.items())
            for which, kind in enumerate(KINDS)
        ],
    )


async def try_all(world: World, harvest: Harvest, failure: Any, *, servers_words: bool) -> None:
    for name, operation in OPERATIONS.items():
        async with opened(world, harvest) as client:
            world.tap(operation.command, instead=failure, times=3)
            await attempt(partial(operation.work, client, harvest), harvest, servers_words=servers_words)
            assert world.was_tapped, f"{name} has not met it"
            world.untap()


@each(FAILURES)
async def test_whatever_a_server_does(network: Network, told: Told, kind: str, failure: Any) -> None:
    world = World(network, kind)
    with harvesting(told) as harvest:
        await try_all(world, harvest, failure, servers_words=False)
    harvest.check()


@each(SERVERS_WORDS)
async def test_whatever_a_server_says(network: Network, told: Told, kind: str, failure: Any) -> None:
    world = World(network, kind)
    with harvesting(told) as harvest:
        await try_all(world, harvest, failure, servers_words=True)
    harvest.check()
