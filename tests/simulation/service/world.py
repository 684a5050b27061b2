"""One schedule of a service, played: the client under test is the real one, from `SentinelClient` up."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final

import pytest
import trio

from tests.simulation.pairs import pair_of
from tests.simulation.playing import Account, Violation
from tests.simulation.runner import SECRET
from tests.simulation.schedule import Schedule, Value
from trio_sentinel_scan import SentinelClient, SentinelScanError, connect

from . import drawing
from .deployment import PASSWORD, Deployment
from .fault_classes import CLASSES, default_args
from .faults import Faults
from .reader import Reader
from .traffic import Callers, Churn, Listener

__all__ = ["ServiceWorld"]

# Simulated seconds after which everything has been mended, in the schedules that ask for one more scan.
RECOVERY: Final = 60.0


class ServiceWorld:
    """A master, its replicas and their Sentinels, and a client that scans."""

    name = "service"
    classes: tuple[str, ...] = (*CLASSES, "tilt", "again", "raise", "resume")
    never_together: Mapping[tuple[str, str], str] = drawing.NEVER_TOGETHER
    defaults: Mapping[str, Value] = drawing.DEFAULTS
    fault_defaults: Mapping[str, Mapping[str, Value]] = default_args()

    def __init__(self) -> None:
        self._reader: Reader | None = None

    def draw(self, rng: Random, seed: int) -> Schedule:
        return drawing.draw(self.name, rng, seed, pair_of(self, seed))

    def heard(self, record: logging.LogRecord) -> None:
        if self._reader is not None:
            self._reader.heard(record)

    async def play(self, schedule: Schedule, account: Account) -> None:
        settings = {**self.defaults, **schedule.settings}
        with pytest.MonkeyPatch.context() as patch:
            async with trio.open_nursery() as nursery:
                world = Deployment(nursery, patch, settings, schedule.seed, account)
                await self._play(world, settings, schedule, account)
                left = world.network.open_client_ends
                nursery.cancel_scope.cancel()
        if account.broken is not None:
            raise account.broken
        if left:
            raise Violation("left open", f"streams to {', '.join(left)}")

    async def _play(
        self, world: Deployment, settings: Mapping[str, Value], schedule: Schedule, account: Account
    ) -> None:
        reader = self._reader = Reader(world, settings, account)
        faults = Faults(world, reader, schedule.faults)
        Churn(world, float(settings["churn"]))
        callers = Callers(world, account, tasks=int(settings["callers"]), retries_writes=bool(settings["retry_writes"]))
        listener = Listener(world, account) if settings["listener"] else None
        try:
            how = await reader.read(lambda: self._client(world, settings, callers, listener))
        except SentinelScanError as error:
            # The client could not be opened.
            if SECRET in f"{error} {error!r}":
                raise Violation("secret", f"an error tells what nobody is to know: {error}") from None
            how = f"not opened: {type(error).__name__}"
        callers.judge()
        account.endings[f"scan: {how}"] += 1
        if not how.endswith("complete") and not world.befallen and settings["max_restarts"] == 10:
            raise Violation("for nothing", f"{how}, and nothing had befallen it")
        del faults
        if settings["recovers"]:
            await self._recover(world, settings, account)

    async def _recover(self, world: Deployment, settings: Mapping[str, Value], account: Account) -> None:
        """When all is mended, a scan is complete."""
        world.on_trigger = lambda name, machine, session: None
        await trio.sleep(RECOVERY)
        for node in world.nodes:
            if not node.machine.up:
                node.start("all", 0.0)
        await trio.sleep(RECOVERY)
        plain = {**settings, "on_failover": "restart", "max_restarts": 10, "stops": 0, "kind": "scan", "think": 0.0}
        reader = self._reader = Reader(world, plain, account)
        how = await reader.read(lambda: self._client(world, settings, None, None))
        account.endings[f"scan when all was mended: {how}"] += 1
        if how != "complete":
            raise Violation("no recovery", f"a scan when all was mended ended in {how}")

    @asynccontextmanager
    async def _client(
        self, world: Deployment, settings: Mapping[str, Value], callers: Callers | None, listener: Listener | None
    ) -> AsyncGenerator[SentinelClient]:
        password: Any = PASSWORD if settings["password"] else None
        login = f":{PASSWORD}@" if password else ""
        members = ",".join(f"{actor.address[0]}:{actor.address[1]}" for actor in world.actors)
        client = connect(
            f"redis+sentinel://{login}{members}/{world.service}",
            sentinel_password=password,
            response_timeout=float(settings["response_timeout"]),
            failover_timeout=float(settings["failover_timeout"]),
            retry_writes=bool(settings["retry_writes"]),
            protocol=int(settings["protocol"]) or None,
        )
        assert isinstance(client, SentinelClient)
        async with client, trio.open_nursery() as nursery:
            if callers is not None:
                callers.start(nursery, client)
            if listener is not None:
                nursery.start_soon(listener.listen, client)
            yield client
            if callers is not None:
                callers.stop()
            nursery.cancel_scope.cancel()
