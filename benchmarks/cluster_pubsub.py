"""`cluster-pubsub`: sharded channels whose slots move: from the owner's being there to each channel's next message."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import trio

from trio_sentinel_scan import ClusterClient, ClusterSubscriber, Gap, __version__
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan.testing import CommandFailed, LocalCluster, ServerNotRunning
from trio_sentinel_scan.testing._cluster_node import LocalClusterNode

from .report import Report
from .runs import wait_for_quiet as quiet

CHANNELS: Final = 200
# Seconds from one message of a channel to the next, and from one question to the other.
_STEP: Final = 0.005
# Seconds after which a channel is held to be silent for ever.
_PATIENCE: Final = 60.0
_ATOMIC_SLOTS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that befell a cluster."""

    kind: str
    # Seconds from the slot's having its owner to the next message, of each channel concerned.
    seconds: list[float]
    gaps: int


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is to happen, to which channels, and who may be the owner of this slot of theirs then."""

    kind: str
    names: list[bytes]
    slot: int
    candidates: list[LocalClusterNode]
    happen: Callable[[], Awaitable[None]]


@dataclass
class _Ear:
    """The one that receives all of them."""

    subscriber: ClusterSubscriber
    # When each channel has heard something of the present event first.
    heard: dict[bytes, float] = field(default_factory=dict[bytes, float])
    event: int = 0
    gaps: int = 0

    async def listen(self) -> None:
        async for item in self.subscriber:
            if isinstance(item, Gap):
                self.gaps += 1
            elif int(item.data) == self.event:
                self.heard.setdefault(item.channel, trio.current_time())


async def cluster_pubsub(
    report: Report, *, repeat: int, wait_for_quiet: float, channels: int, binary: Path | None
) -> None:
    names = [f"channel:{number}".encode() for number in range(channels)]
    found: list[Event] = []
    config = {"cluster-require-full-coverage": "no"}
    async with LocalCluster(binary=binary, config=config, patience=120) as cluster:
        server = cluster.nodes[0].binary
        report.versions |= {
            "server": f"{server.product} {server.version}, 3 masters with a replica each, node timeout 2 s",
            "ours": f"trio-sentinel-scan {__version__}",
        }
        report.head()
        async with (
            ClusterClient(cluster.addresses) as client,
            client.pubsub() as subscriber,
            trio.open_nursery() as nursery,
        ):
            await subscriber.ssubscribe(*names)
            ear = _Ear(subscriber)
            nursery.start_soon(ear.listen)
            scenes = [_move, _fail_over, _kill, _uncover]
            if server.product == "valkey" and server.version_info >= (9,):
                scenes.insert(1, _move_atomically)
            for at in range(1, repeat + 1):
                for scene in scenes:
                    await cluster.wait_until_ready()
                    await quiet(wait_for_quiet)
                    event = await scene(cluster, ear, names)
                    found.append(event)
                    report.progress(
                        f"  {at} of {repeat}, {event.kind}: {len(event.seconds)} channels,"
                        f" {max(event.seconds):.3f} s at most"
                    )
            nursery.cancel_scope.cancel()
    _show(report, found)


# ---- what befalls it ----------------------------------------------------------------------------------------------


async def _move(cluster: LocalCluster, ear: _Ear, names: list[bytes]) -> Event:
    slot = slot_of(names[0])
    old = await cluster.owner(slot)
    new = await _another(cluster, old)
    return await _observe(
        ear,
        _Scene("a slot moves step by step", _of(names, {slot}), slot, [new], lambda: cluster.migrate_slot(slot, new)),
    )


async def _move_atomically(cluster: LocalCluster, ear: _Ear, names: list[bytes]) -> Event:
    old = await cluster.owner(slot_of(names[-1]))
    owned = sorted((await old.view()).slots)
    first = next(at for at in owned if set(range(at, at + _ATOMIC_SLOTS)) <= set(owned))
    slots = range(first, first + _ATOMIC_SLOTS)
    new = await _another(cluster, old)
    return await _observe(
        ear,
        _Scene(
            "2,000 slots move at once",
            _of(names, slots),
            first,
            [new],
            lambda: cluster.migrate_slots_atomically(slots, new),
        ),
    )


async def _fail_over(cluster: LocalCluster, ear: _Ear, names: list[bytes]) -> Event:
    old, owned = await _owner_of_most(cluster, names)
    replicas = await cluster.replicas(old)

    async def fail_over() -> None:
        await cluster.failover(old)

    return await _observe(ear, _Scene("a planned failover", _of(names, owned), min(owned), replicas, fail_over))


async def _kill(cluster: LocalCluster, ear: _Ear, names: list[bytes]) -> Event:
    old, owned = await _owner_of_most(cluster, names)
    replicas = await cluster.replicas(old)

    async def kill() -> None:
        await cluster.kill(old)

    event = await _observe(ear, _Scene("SIGKILL of an owner", _of(names, owned), min(owned), replicas, kill))
    await old.start()
    return event


async def _uncover(cluster: LocalCluster, ear: _Ear, names: list[bytes]) -> Event:
    slot = slot_of(names[0])
    old = await cluster.owner(slot)
    for node in await cluster.masters():
        if node is not old:
            await node.execute("CLUSTER", "DELSLOTS", slot)
    await old.execute("CLUSTER", "DELSLOTS", slot)
    # Long enough that nothing is on its way any more.
    await trio.sleep(3)

    async def cover() -> None:
        await old.execute("CLUSTER", "ADDSLOTS", slot)

    return await _observe(ear, _Scene("a slot without an owner for 3 s", _of(names, {slot}), slot, [old], cover))


# ---- what is seen of it -------------------------------------------------------------------------------------------


async def _observe(ear: _Ear, scene: _Scene) -> Event:
    """Let it happen, and see when each of the channels receives what its new owner publishes."""
    gaps = ear.gaps
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.happen)
        owner: LocalClusterNode | None = None
        while owner is None:
            for node in scene.candidates:
                with suppress(CommandFailed, ServerNotRunning):
                    view = await node.view()
                    if view.is_master and scene.slot in view.slots:
                        owner = node
            await trio.sleep(_STEP)
        began = trio.current_time()
        ear.event += 1
        ear.heard.clear()
        with trio.fail_after(_PATIENCE):
            while any(name not in ear.heard for name in scene.names):
                with suppress(CommandFailed, ServerNotRunning):
                    await owner.pipeline([("SPUBLISH", name, ear.event) for name in scene.names])
                await trio.sleep(_STEP)
    return Event(scene.kind, [ear.heard[name] - began for name in scene.names], ear.gaps - gaps)


async def _another(cluster: LocalCluster, node: LocalClusterNode) -> LocalClusterNode:
    return next(other for other in await cluster.masters() if other is not node)


async def _owner_of_most(cluster: LocalCluster, names: list[bytes]) -> tuple[LocalClusterNode, frozenset[int]]:
    views = [(node, (await node.view()).slots) for node in await cluster.masters()]
    return max(views, key=lambda pair: len(_of(names, pair[1])))


def _of(names: list[bytes], slots: Iterable[int]) -> list[bytes]:
    wanted = set(slots)
    return [name for name in names if slot_of(name) in wanted]


def _show(report: Report, found: list[Event]) -> None:
    rows: list[list[str]] = []
    for kind in dict.fromkeys(event.kind for event in found):
        events = [event for event in found if event.kind == kind]
        seconds = [value for event in events for value in event.seconds]
        gaps = sum(event.gaps for event in events)
        rows.append(
            [
                kind,
                str(len(events)),
                str(len(seconds)),
                *(f"{value:.3f}" for value in (statistics.median(seconds), min(seconds), max(seconds))),
                str(gaps),
            ]
        )
    report.table(
        "seconds from the owner's being there to each channel's next message",
        ["", "events", "channels", "median", "least", "most", "gaps"],
        rows,
        [asdict(event) for event in found],
    )
