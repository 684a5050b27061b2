"""The same canaries in scenes of their own: logging in, failovers, cancellation, Pub/Sub, checkpoints, arguments."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from redis.credentials import CredentialProvider

from tests.security.harvest import CHANNEL, KEY, PASSWORD, SENTINEL_PASSWORD, VALUE, Harvest, harvesting
from tests.security.operations import HASH, OPERATIONS, attempt
from tests.security.test_nothing_private import World, kinds, opened
from tests.trio.fakes import HANG_UP, SILENCE, Error, Hold, Network, Reply, User, Value, on_mock_time, settled
from tests.trio.fakes.shards import ShardCluster
from tests.trio.test_telemetry import Told
from trio_sentinel_scan import (
    AuthenticationFailed,
    ClusterClient,
    CommandOutcomeUnknown,
    CompactSeen,
    ExactSeen,
    MasterNotFound,
    RedisClient,
    ServerIdentity,
    SpillingSeen,
    SubscriberOverflow,
    connect,
)
from trio_sentinel_scan._core import command_fate
from trio_sentinel_scan._core.commands import Command
from trio_sentinel_scan._core.config import Credentials
from trio_sentinel_scan._core.urls import parse_url

pytestmark = pytest.mark.trio(run=on_mock_time)


async def raising(kind: type[BaseException], harvest: Harvest, work: Callable[[], Any]) -> BaseException:
    """What it raises, gathered."""
    with pytest.raises(kind) as caught:
        await work()
    harvest.error(caught.value)
    harvest.living()
    return caught.value


async def made(call: Callable[[], Any]) -> object:
    """A call that may fail before there is anything to await."""
    return await call()


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


# ---- logging in --------------------------------------------------------------------------------------------------


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


# ---- commands in trouble -----------------------------------------------------------------------------------------


async def test_failovers_and_outcomes_that_are_not_known(network: Network, told: Told) -> None:
    world = World(network, "sentinel")
    service = world.service
    assert service is not None
    with harvesting(told) as harvest:
        async with opened(world, harvest) as client:
            service.master.tap("SET", instead=HANG_UP)
            await raising(CommandOutcomeUnknown, harvest, lambda: client.set(KEY, VALUE))
            service.master.tap("EXEC", instead=HANG_UP)
            await raising(CommandOutcomeUnknown, harvest, lambda: client.pipeline().set(KEY, VALUE).get(KEY).execute())
            service.master.tap("SET", before=service.fail_over)
            await raising(CommandOutcomeUnknown, harvest, lambda: client.set(KEY, VALUE))
            for server in service.servers:
                server.kill()
            await raising(Exception, harvest, lambda: client.set(KEY, VALUE))
            await raising(Exception, harvest, lambda: client.pipeline().set(KEY, VALUE).execute())
    harvest.check()


@kinds
async def test_cancelled_in_the_middle(network: Network, told: Told, kind: str) -> None:
    """Everything that waits, seen while it waits, and cancelled."""
    world = World(network, kind)
    with harvesting(told) as harvest:
        for operation in OPERATIONS.values():
            async with opened(world, harvest) as client:
                world.tap(operation.command, instead=Hold(trio.Event()))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(operation.work, client, harvest)
                    nursery.start_soon(client.set, KEY, VALUE)
                    await settled()
                    harvest.living()
                    nursery.cancel_scope.cancel()
                world.untap()
    harvest.check()


@kinds
async def test_too_many_and_too_late(network: Network, told: Told, kind: str) -> None:
    world = World(network, kind)
    with harvesting(told) as harvest:
        async with opened(world, harvest, max_waiting=2) as client:
            world.tap("SET", instead=SILENCE, times=9)
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(attempt, lambda: client.set(KEY, VALUE), harvest)
        await raising(Exception, harvest, lambda: client.set(KEY, VALUE))
        await raising(Exception, harvest, lambda: client.pipeline().set(KEY, VALUE).execute())
    harvest.check()


@kinds
async def test_values_that_are_no_text(network: Network, told: Told, kind: str) -> None:
    """A UnicodeDecodeError is Python's own, and keeps what it could not decode in `object`, and so in its repr; no text
    of it has more than one byte."""
    world = World(network, kind)
    for host in world.hosts:
        host.program.put(0, KEY, Value(VALUE + b"\xff"))
        host.program.put(0, KEY + b"\xff", Value(VALUE))
        host.program.put(0, HASH, Value(VALUE, "hash", {KEY + b"\xff%d" % n: VALUE for n in range(40)}))
    with harvesting(told) as harvest:
        async with opened(world, harvest, decode_responses=True) as client:
            for operation in OPERATIONS.values():
                await attempt(partial(operation.work, client, harvest), harvest)
    assert harvest.errors
    harvest.check()


@kinds
async def test_arguments_that_cannot_be(network: Network, told: Told, kind: str) -> None:
    """Secrets where they do not belong; what is refused is not repeated."""
    key, value = KEY.decode(), VALUE.decode()
    world = World(network, kind)
    with harvesting(told) as harvest:
        async with opened(world, harvest) as client:
            calls: list[Callable[[], Any]] = [
                lambda: client.open_scan(match=7, type_=key).__aenter__(),
                lambda: client.open_scan(match=key, type_=key).__aenter__(),
                lambda: client.open_scan(match=key, count=value).__aenter__(),
                lambda: client.open_scan(match=key, cursor=value).__aenter__(),
                lambda: client.open_scan(match=key, resume=value).__aenter__(),
                lambda: client.open_scan(match=key, dedupe=value).__aenter__(),
                lambda: client.open_scan(match=key, with_=(value,)).__aenter__(),
                lambda: client.open_scan(match=key, extra_args=("MATCH", value)).__aenter__(),
                lambda: client.open_hscan([key], match=key).__aenter__(),
                lambda: client.execute_command("SELECT", key),
                lambda: client.execute_command("SUBSCRIBE", key),
                lambda: client.execute_command(f"SELECT {key}"),
                lambda: client.execute_command("CLIENT", "REPLY", key),
                lambda: client.execute_command("BLPOP", key, value),
                lambda: client.execute_command("NOSUCH", key, value),
                lambda: client.set(key, {"a": value}),
                lambda: client.set([key], value),
                lambda: client.set(key, json.JSONDecoder()),
                lambda: client.mset({key: value, "another": object()}),
                lambda: client.pipeline().execute_command("SELECT", "0").set(key, value).execute(),
                lambda: client.pipeline().execute_command("BLPOP", key, 1).execute(),
                lambda: client.sinterstore(key, [value, "x"]),
                lambda: client.pubsub(on_full=value).__aenter__(),
                lambda: client.pubsub(buffer=value).__aenter__(),
            ]
            for call in calls:
                await attempt(partial(made, call), harvest)
        for arguments in (
            {"password": PASSWORD.encode()},
            {"password": [PASSWORD]},
            {"username": 7},
            {"client_name": PASSWORD + " "},
            {"response_timeout": PASSWORD},
        ):
            with pytest.raises(ValueError) as caught:
                world.client(**arguments)
            harvest.error(caught.value)
    assert harvest.errors > 20
    harvest.check()


# ---- Pub/Sub -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_full", ["drop_oldest", "raise"])
async def test_messages(network: Network, told: Told, on_full: Any) -> None:
    """Waiting, dropped, given out, and lost with their connection."""
    world = World(network, "sentinel")
    service = world.service
    assert service is not None
    with harvesting(told) as harvest:
        async with opened(world, harvest) as client, client.pubsub(buffer=3, on_full=on_full) as subscriber:
            await subscriber.subscribe(CHANNEL)
            await subscriber.psubscribe(CHANNEL + b"*")
            service.master.program.publish(CHANNEL, *[VALUE] * 9)
            await settled()
            harvest.living()
            if on_full == "raise":
                await raising(SubscriberOverflow, harvest, lambda: drained(subscriber, harvest))
            else:
                await drained(subscriber, harvest)
                service.fail_over()
                await settled()
                service.master.program.publish(CHANNEL, VALUE)
                await drained(subscriber, harvest)
    harvest.check()


async def drained(subscriber: Any, harvest: Harvest) -> None:
    """What there is of messages within a while."""
    with trio.move_on_after(5):
        while True:
            harvest.add("a message", repr(await subscriber.receive()))
            harvest.living()


async def test_sharded_channels(network: Network, told: Told) -> None:
    cluster = ShardCluster(network)
    with harvesting(told) as harvest:
        async with ClusterClient(cluster.addresses, failover_timeout=3) as client, client.pubsub() as subscriber:
            await subscriber.ssubscribe(CHANNEL)
            cluster.publish(CHANNEL, VALUE)
            await drained(subscriber, harvest)
            home = cluster.of(CHANNEL)
            home.tap("SSUBSCRIBE", times=2, instead=Reply(Error(f"LOADING {CHANNEL.decode()}")))
            home.drop_clients()
            await drained(subscriber, harvest)
            cluster.move(CHANNEL, None)
            with pytest.raises(Exception, match="") as caught:
                await drained(subscriber, harvest)
            harvest.error(caught.value)
            harvest.add("a map", repr(client.map))
            await attempt(lambda: subscriber.ssubscribe(CHANNEL + b"2"), harvest)
    harvest.check()


# ---- seen keys and checkpoints -----------------------------------------------------------------------------------


async def test_stores_of_seen_keys(network: Network, told: Told, tmp_path: Path) -> None:
    world = World(network, "redis")
    with harvesting(told) as harvest, SpillingSeen(tmp_path / "seen") as spilling:
        async with opened(world, harvest) as client:
            for store in (ExactSeen(), CompactSeen(expected_keys=1000), spilling):
                async with client.open_scan(match=KEY + b"*", dedupe=store, count=5) as pages:
                    async for page in pages:
                        harvest.add("a page", repr(page))
                        harvest.add("a checkpoint", page.checkpoint)
                        harvest.living()
                    harvest.add("the scan's", repr(pages))
                harvest.add("a store", repr(store))
        # It is the one thing that has the keys on disk, and for nobody else's eyes.
        files = list(tmp_path.iterdir())  # noqa: ASYNC240 (files of a test, at once there)
        assert KEY in b"".join(file.read_bytes() for file in files)
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    harvest.check()


# ---- the harness itself ------------------------------------------------------------------------------------------


def unguarded_repr(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Command, "__repr__", lambda command: f"Command{command.args}")
    return "a living Command"


def unguarded_error(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(command_fate, "name_of", lambda commands: str(commands[0].args))
    return "CommandOutcomeUnknown's text"


def unguarded_log(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(ServerIdentity, "__str__", lambda server: f"{server.address} for {PASSWORD}")
    return "log trio_sentinel_scan.connection"


def unguarded_client(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Credentials, "__repr__", lambda credentials: f"Credentials({credentials.password})")
    return "a living Endpoint"


def unguarded_span(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(
        "trio_sentinel_scan._core.telemetry.operation_name",
        lambda args: " ".join(word.decode() if isinstance(word, bytes) else str(word) for word in args),
    )
    return "OpenTelemetry"


GUARDS = [unguarded_repr, unguarded_error, unguarded_log, unguarded_client, unguarded_span]


@pytest.mark.parametrize("unguard", GUARDS)
async def test_a_leak_is_found(
    network: Network, told: Told, monkeypatch: pytest.MonkeyPatch, unguard: Callable[[pytest.MonkeyPatch], str]
) -> None:
    """Each guard switched off: what it kept in is found, where it comes out."""
    world = World(network, "sentinel")
    where = unguard(monkeypatch)
    with harvesting(told) as harvest:
        async with opened(world, harvest) as client:
            world.tap("SET", instead=HANG_UP)
            await attempt(lambda: client.set(KEY, VALUE), harvest)
    assert any(leak.startswith(where) for leak in harvest.leaks())
