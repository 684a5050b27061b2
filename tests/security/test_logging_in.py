"""The same canaries on the way in: passwords in arguments, in URLs and by providers, refused and taken back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from redis.credentials import CredentialProvider

from tests.security.harvest import CHANNEL, KEY, PASSWORD, SENTINEL_PASSWORD, VALUE, harvesting
from tests.security.operations import OPERATIONS, attempt, raising
from tests.security.test_nothing_private import World, kinds, opened
from tests.trio.fakes import Network, User, on_mock_time
from tests.trio.test_telemetry import Told
from trio_sentinel_scan import (
    AuthenticationFailed,
    MasterNotFound,
    RedisClient,
    connect,
)
from trio_sentinel_scan._core.urls import parse_url

pytestmark = pytest.mark.trio(run=on_mock_time)


async def entered(client: Any) -> None:
    """In and out."""
    async with client:
        pass


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps would do so while a provider's thread works."""

    async def run_sync(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


class Provider(CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return "app", PASSWORD


class LostProvider(CredentialProvider):
    """Its own words are nobody else's business."""

    def get_credentials(self) -> tuple[str, str]:
        raise OSError(f"the vault has {VALUE.decode()}")


@kinds
@pytest.mark.usefixtures("no_threads")
async def test_a_password_that_is_refused(network: Network, told: Told, kind: str) -> None:
    """Given as an argument, in the URL, or by a provider; to the data nodes, and to the Sentinels."""
    world = World(network, kind)
    for host in world.hosts:
        host.program.users["app"] = User("another")
    ways: list[dict[str, Any]] = [
        {},
        {"username": None, "password": None, "credential_provider": Provider()},
        {"protocol": 2},
        {"wait_ready": True},
    ]
    with harvesting(told) as harvest:
        for way in ways:
            client = world.client(**way)
            harvest.add("a client", repr(client))
            await raising(AuthenticationFailed, harvest, partial(entered, client))
        if kind == "sentinel":
            assert world.service is not None
            for sentinel in world.service.sentinels:
                sentinel.program.password = "another"
            await raising(MasterNotFound, harvest, lambda: entered(world.client()))
    harvest.check()


@kinds
async def test_a_password_in_the_url(network: Network, told: Told, kind: str) -> None:
    world = World(network, kind)
    members = ",".join(f"10.0.0.1:{7000 + number}" for number in range(3))
    sentinels = "10.0.1.1,10.0.1.2"
    url = {
        "redis": f"redis://app:{PASSWORD}@10.0.0.1/0",
        "sentinel": f"redis+sentinel://app:{PASSWORD}@{sentinels}/mymaster?sentinel_password={SENTINEL_PASSWORD}",
        "cluster": f"redis+cluster://app:{PASSWORD}@{members}",
    }[kind]
    with harvesting(told) as harvest:
        harvest.add("a parsed URL", repr(parse_url(url)))
        async with connect(url) as client:
            harvest.add("a client", repr(client))
            await client.set(KEY, VALUE)
            harvest.living()
        for wrong in (url + "x/y", url.replace("://", ":/"), url + "&?db=q", url.replace("10.0", "[10.0")):
            try:
                connect(wrong)
            except ValueError as error:
                harvest.error(error)
        for host in world.hosts:
            host.program.users["app"] = User("another")
        await raising(AuthenticationFailed, harvest, lambda: entered(connect(url)))
    harvest.check()


@pytest.mark.usefixtures("no_threads")
async def test_a_provider_that_raises(network: Network, told: Told) -> None:
    """What it raised hangs on the error for who wants to see it, as `__cause__`; no message or log has its words."""
    service = World(network, "redis").service
    assert service is not None
    with harvesting(told) as harvest:
        client = RedisClient(service.master.address, credential_provider=LostProvider())
        with pytest.raises(AuthenticationFailed) as caught:
            await entered(client)
        assert isinstance(caught.value.__cause__, OSError)
        caught.value.__cause__ = caught.value.__context__ = None
        harvest.error(caught.value)
        harvest.living()
    harvest.check()


@kinds
async def test_a_password_that_is_taken_back(network: Network, told: Told, kind: str) -> None:
    """While everything is open."""
    world = World(network, kind)
    with harvesting(told) as harvest:
        async with opened(world, harvest) as client, client.pubsub() as subscriber:
            await subscriber.subscribe(CHANNEL)
            await client.set(KEY, VALUE)
            for host in world.hosts:
                host.program.users["app"] = User("another")
                host.drop_clients()
            for operation in OPERATIONS.values():
                await attempt(partial(operation.work, client, harvest), harvest)
            await attempt(subscriber.receive, harvest)
    assert harvest.errors > 10
    harvest.check()
