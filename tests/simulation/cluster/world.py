"""The world "cluster": a schedule drawn by lot, and played."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from random import Random
from types import MappingProxyType
from typing import Any, Final

import pytest
import trio

from tests.trio.fakes.network import Network
from trio_sentinel_scan import ClusterClient, ClusterNotFound

from ..pairs import pair_of
from ..playing import Account
from ..schedule import Schedule, Value
from .bus import Timing
from .clients import Commands, ScanUnderTest, Subscription
from .deployment import FLAVOURS, SimulatedCluster
from .faults import Faults, draw_fault, draw_pair
from .scripts import ARGUMENTS

__all__ = ["ClusterWorld"]

# Simulated seconds after which a scan must have come to an end of some kind, whatever happens.
_PATIENCE: Final = 600.0
# Commands in one simulated second that all nodes together may get; more is going round in circles.
_MOST_COMMANDS: Final = 6_000
# Seconds that it takes until everything has settled, when nothing befalls the nodes any more.
_QUIET: Final = 20.0

_DEFAULTS: Final[Mapping[str, Value]] = MappingProxyType(
    {
        # The servers.
        "flavour": "redis7",
        "masters": 3,
        "replicas": 0,
        "hot": 8,
        "keys": 80,
        "tagged": 0,
        "latency": 0.002,
        "lag": 0.0,
        "spread": 0.05,
        "node_timeout": 2.0,
        "sync": 0.3,
        # The client, and its scan.
        "failover_timeout": 20.0,
        "response_timeout": 3.0,
        "at_once": 0,
        "count": 10,
        "prefetch": 2,
        "segments": 1,
        "page_size": 0,
        "dedupe": 0,
        "nodes": 8,
        "node": 0,
        "uncovered": 0,
        "certify": "masters",
        "read_from": "master",
        "on_failover": "restart",
        "max_restarts": 10,
        "clone": 0,
        "slow": 0.0,
        "dies": 0,
        "away": 0.0,
        "again": 0,
        # Seconds from the beginning of the faults to that of the scan.
        "wait": 0.0,
        # What goes on beside it.
        "commands": 0,
        "subscriber": 0,
    }
)


class ClusterWorld:
    """A cluster under faults, and one client of it."""

    name: str = "cluster"
    classes: tuple[str, ...] = tuple(ARGUMENTS)
    # (None: what could get in each other's way takes different slots and nodes.)
    never_together: Mapping[tuple[str, str], str] = MappingProxyType({})
    defaults: Mapping[str, Value] = _DEFAULTS
    fault_defaults: Mapping[str, Mapping[str, Value]] = {
        name: {argument: values[0] for argument, values in arguments.items()} for name, arguments in ARGUMENTS.items()
    }

    def draw(self, rng: Random, seed: int) -> Schedule:
        """A schedule by lot."""
        settings: dict[str, Value] = {
            "flavour": rng.choice(sorted(FLAVOURS)),
            "masters": rng.choice((3, 3, 3, 4)),
            "replicas": rng.choice((0, 1, 1, 2)),
            "hot": rng.choice((6, 8, 12)),
            "keys": rng.choice((50, 80, 150)),
            "tagged": rng.choice((0, 1)),
            "latency": rng.choice((0.001, 0.005, 0.02)),
            "lag": rng.choice((0.0, 0.0, 0.05, 0.5)),
            "spread": rng.choice((0.01, 0.2, 1.0)),
            "failover_timeout": rng.choice((6.0, 20.0)),
            "at_once": rng.choice((0, 1)),
            "count": rng.choice((3, 5, 10, 30)),
            "prefetch": rng.choice((0, 1, 2, 5)),
            "segments": rng.choice((0, 1, 1, 2, 4)),
            "nodes": rng.choice((1, 1, 2, 8)),
        }
        some = {
            "dedupe": 1,
            "clone": 1,
            "page_size": rng.choice((1, 7)),
            "slow": rng.choice((0.01, 0.2)),
            "commands": rng.choice((1, 3)),
            "subscriber": 1,
            "wait": rng.choice((1.0, 6.0)),
        }
        settings |= {name: value for name, value in some.items() if rng.random() < 0.2}
        kinds: tuple[dict[str, Value], ...] = (
            {},
            {},
            {},
            {},
            {"node": rng.randint(1, 4)},
            {"uncovered": 1},
            {"certify": "role"},
            {"read_from": "replica", "lag": 0.0, "replicas": rng.choice((1, 2))},
            {"on_failover": "raise"},
            {"max_restarts": rng.choice((1, 3))},
            {"dies": rng.randint(1, 8), "away": rng.choice((0.0, 1.0, 8.0)), "dedupe": 0, "clone": 0},
            {"dies": rng.randint(1, 8), "away": rng.choice((0.0, 1.0, 8.0)), "dedupe": 0, "clone": 0},
            {"again": rng.randint(1, 5)},
        )
        settings |= rng.choice(kinds)
        pair = pair_of(self, seed)
        if pair is None:
            # Many schedules from a part of the classes: so that those often meet which belong together.
            names = self.classes if rng.random() < 0.5 else tuple(rng.sample(self.classes, 5))
            faults = tuple(draw_fault(rng, names) for _ in range(rng.choice((1, 2, 2, 3, 4, 6))))
        else:
            self._suit(rng, settings, pair)
            more = (draw_fault(rng, self.classes) for _ in range(rng.choice((0, 1, 2))))
            faults = (*draw_pair(rng, pair), *more)
        return Schedule(self.name, seed, {name: settings[name] for name in _DEFAULTS if name in settings}, faults)

    def _suit(self, rng: Random, settings: dict[str, Value], pair: tuple[str, str]) -> None:
        """What both classes take to befall a scan: one that lasts, and goes on after one of them."""
        for name in ("on_failover", "max_restarts", "wait"):
            settings.pop(name, None)
        settings.setdefault("slow", rng.choice((0.01, 0.05, 0.2)))
        if "planned" in pair:
            settings["replicas"] = max(1, int(settings["replicas"]))

    def heard(self, record: logging.LogRecord) -> None:
        """What the package logs tells nothing here that is not known otherwise."""

    async def play(self, schedule: Schedule, account: Account) -> None:
        """Set up, let happen, judge. Raises Violation."""
        await _Play(schedule, account).run()


class _Play:
    """One schedule being played."""

    def __init__(self, schedule: Schedule, account: Account) -> None:
        self._schedule = schedule
        self._settings: dict[str, Any] = {**_DEFAULTS, **schedule.settings}
        self._account = account
        self._rng = Random(f"cluster {schedule.seed}")

    async def run(self) -> None:
        """The whole of it."""
        settings = self._settings
        with pytest.MonkeyPatch.context() as patch:
            async with trio.open_nursery() as nursery:
                network = Network(nursery, patch)
                network.at_once = bool(settings["at_once"])
                cluster = self._make_cluster(network)
                await self._play_in(cluster, nursery)
                nursery.cancel_scope.cancel()
            self._judge_end(network, cluster)

    def _make_cluster(self, network: Network) -> SimulatedCluster:
        settings = self._settings
        cluster = SimulatedCluster(
            network,
            self._rng,
            flavour=FLAVOURS[settings["flavour"]],
            timing=Timing(
                node_timeout=settings["node_timeout"],
                lag=settings["lag"],
                sync=settings["sync"],
                spread=settings["spread"],
            ),
            masters=max(1, settings["masters"]),
            replicas=settings["replicas"],
            hot=max(1, settings["hot"]),
            keys=settings["keys"],
            tagged=bool(settings["tagged"]),
        )
        cluster.latency = settings["latency"]
        for host in cluster.bus.hosts.values():
            host.latency = cluster.latency
        network.connect_delay = cluster.latency
        return cluster

    async def _play_in(self, cluster: SimulatedCluster, nursery: trio.Nursery) -> None:
        settings, account = self._settings, self._account
        faults = Faults(cluster, self._schedule.faults, account)
        scan = ScanUnderTest(cluster, faults, settings, account)
        faults.matters = lambda: scan.is_under_way
        cluster.bus.on_failover = lambda node: account.counts.update(["failovers"])
        nursery.start_soon(cluster.bus.run)
        commands = Commands(cluster, account, self._rng) if settings["commands"] else None
        subscription = None
        async with self._client(cluster) as client, trio.open_nursery() as beside:
            if settings["subscriber"] and cluster.flavour.knows_shards:
                subscription = Subscription(cluster, account, self._rng)
                subscribed = trio.Event()
                beside.start_soon(subscription.run, client, subscribed, lambda: scan.is_over)
                await subscribed.wait()
            if commands is not None:
                beside.start_soon(commands.run, client, settings["commands"], lambda: scan.is_over)
            if settings["node"]:
                nodes = cluster.bus.nodes
                scan.node = nodes[(settings["node"] - 1) % len(nodes)]
            nursery.start_soon(faults.run)
            if settings["wait"]:
                await trio.sleep(settings["wait"])
            cluster.truth.begin_anew(scan.node)
            await self._scan(scan, client, cluster)
            if subscription is not None:
                await self._quiet(faults)
                await subscription.judge()
            beside.cancel_scope.cancel()
        if commands is not None:
            commands.judge(may_be_lost=faults.may_lose_writes or bool(settings["lag"]))

    def _client(self, cluster: SimulatedCluster) -> ClusterClient:
        return ClusterClient(
            [node.address for node in cluster.bus.nodes],
            failover_timeout=self._settings["failover_timeout"],
            response_timeout=self._settings["response_timeout"],
        )

    async def _scan(self, scan: ScanUnderTest, client: ClusterClient, cluster: SimulatedCluster) -> None:
        settings, begun = self._settings, trio.current_time()
        with trio.move_on_after(_PATIENCE) as patience:
            if settings["again"]:
                # Cancelled somewhere, and begun anew.
                with trio.move_on_after(settings["again"] * settings["latency"] * 7):
                    await scan.run(client)
                scan.delivered.clear()
            over = await scan.run(client, dies_after=settings["dies"])
            if not over:
                await trio.sleep(settings["away"])
                await self._go_on(scan, cluster)
        scan.is_over = True
        if patience.cancelled_caught:
            self._account.breaks("late", f"a scan has not ended after {trio.current_time() - begun:.0f} s")
        self._account.peak("seconds of a scan", trio.current_time() - begun)

    async def _go_on(self, scan: ScanUnderTest, cluster: SimulatedCluster) -> None:
        """Another process, with the checkpoint of the one that died."""
        async with AsyncExitStack() as stack:
            try:
                another = await stack.enter_async_context(self._client(cluster))
            except ClusterNotFound:
                # Each node was down, or hidden, when it was asked: it would be begun again.
                if not self._account.hits:
                    self._account.breaks("not found", "though nothing has befallen the nodes")
                self._account.endings["ClusterNotFound, on resuming"] += 1
                return
            await scan.run(another)

    async def _quiet(self, faults: Faults) -> None:
        faults.is_over = True
        while faults.under_way:  # noqa: ASYNC110 (on a clock that jumps, with nobody to tell)
            await trio.sleep(1)
        await trio.sleep(_QUIET)

    def _judge_end(self, network: Network, cluster: SimulatedCluster) -> None:
        account = self._account
        if network.open_client_ends:
            account.breaks("left open", f"connections to {network.open_client_ends}")
        commands: Counter[int] = Counter()
        for host in network.hosts.values():
            commands.update(int(when) for when, _ in host.log)
            account.counts["commands"] += len(host.log)
        busiest = max(commands.values(), default=0)
        account.peak("commands in one second", busiest)
        if busiest > _MOST_COMMANDS:
            account.breaks("spin", f"{busiest} commands in one second")
        for cause, number in cluster.truth.lost.items():
            account.counts[f"keys that the servers lost: {cause}"] += number
