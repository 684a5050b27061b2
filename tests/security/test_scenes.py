"""The same canaries in scenes of their own: failovers, cancellation, arguments, Pub/Sub, stores of seen keys."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.security.harvest import CHANNEL, KEY, PASSWORD, VALUE, Harvest, harvesting
from tests.security.operations import HASH, OPERATIONS, attempt, raising
from tests.security.test_nothing_private import World, kinds, opened
from tests.trio.fakes import HANG_UP, SILENCE, Error, Hold, Network, Reply, Value, on_mock_time, settled
from tests.trio.fakes.shards import ShardCluster
from tests.trio.test_telemetry import Told
from trio_sentinel_scan import (
    ClusterClient,
    CommandOutcomeUnknown,
    CompactSeen,
    ExactSeen,
    SpillingSeen,
    SubscriberOverflow,
)

pytestmark = pytest.mark.trio(run=on_mock_time)


async def made(call: Callable[[], Any]) -> object:
    """A call that may fail before there is anything to await."""
    return await call()


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
