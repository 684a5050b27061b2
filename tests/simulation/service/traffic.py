"""What goes on beside a scan: other people's writes, commands on the same client, a subscriber; each is checked."""

from __future__ import annotations

import math
from random import Random
from typing import Any, Final

import trio
from redis.exceptions import RedisError

from tests.simulation.playing import Account
from tests.simulation.runner import SECRET
from tests.trio.fakes import Value
from trio_sentinel_scan import CommandOutcomeUnknown, Gap, SentinelClient, SentinelScanError

from .deployment import Deployment, key_of
from .servers import CHANNEL

__all__ = ["Callers", "Churn", "Listener"]

# Simulated seconds between two messages.
PUBLISHED_EVERY: Final = 0.5
# Of one task, however long the scan takes.
MOST_CALLS: Final = 120


class Churn:
    """Other people's writes: keys come and go, on whichever server is the master for who writes them."""

    def __init__(self, world: Deployment, per_second: float) -> None:
        self._world = world
        self._rng = Random(f"churn {world.rng.random()}")
        self._per_second = per_second
        self._number = 100_000
        if per_second:
            world.agenda.after(0.0, self._write)

    def _write(self) -> None:
        world, rng = self._world, self._rng
        world.agenda.after(rng.uniform(0, 2) / self._per_second, self._write)
        node = world.master
        if rng.random() < 0.2:
            # Somebody who has not heard of the change.
            node = next((n for n in world.nodes if n.is_master and n.usable), node)
        if not node.usable or node.program.loading or not node.is_master:
            return
        data = node.program.data.get(0, {})
        what = rng.random()
        if what < 0.5 or len(data) < 10:
            self._number += 1
            node.write(key_of(self._number), Value(b"value of " + key_of(self._number)))
        else:
            key = next(iter(data)) if rng.random() < 0.2 else list(data)[rng.randrange(len(data))]
            if key.startswith(b"hash:"):
                return
            if what < 0.9:
                node.write(key, None)
            else:
                node.write(key, data[key])


class Callers:
    """Tasks that call INCR and GET on the client. Every INCR has a key of its own, so that one that ran twice shows."""

    def __init__(self, world: Deployment, account: Account, *, tasks: int, retries_writes: bool) -> None:
        self._world = world
        self._account = account
        self._tasks = tasks
        self._retries_writes = retries_writes
        self._stopped = False
        self._numbers = 0
        # What became of each: "done", "unknown", or "not run".
        self._fates: dict[bytes, str] = {}

    def start(self, nursery: trio.Nursery, client: SentinelClient) -> None:
        """Begin; they end when told to, each after what it waits for."""
        self._stopped = False
        for number in range(self._tasks):
            nursery.start_soon(self._call, client, Random(f"caller {number} {self._numbers}"))

    def stop(self) -> None:
        self._stopped = True

    async def _call(self, client: SentinelClient, rng: Random) -> None:
        commands: Any = client
        for _ in range(MOST_CALLS):
            if self._stopped:
                return
            await trio.sleep(rng.uniform(0, 0.5))
            self._numbers += 1
            key = f"counter:{SECRET}:{self._numbers}".encode()
            # (Cancelled, nothing is known of it.)
            self._fates[key] = "unknown"
            try:
                reply = await commands.incrby(key, 1)
            except CommandOutcomeUnknown:
                self._account.endings["INCRBY: outcome unknown"] += 1
            except (SentinelScanError, RedisError) as error:
                self._fates[key] = "not run"
                self._ended("INCRBY", error)
            else:
                self._fates[key] = "done"
                self._account.endings["INCRBY: done"] += 1
                if reply != 1 and not self._retries_writes:
                    self._account.breaks("write" if reply == 2 else "reply", f"INCRBY of a new key answers {reply!r}")
            number = rng.randrange(int(self._world.settings["keys"]) + 1)
            # Some callers have no time: their replies come when they have gone.
            patience = rng.uniform(0, 0.03) if rng.random() < 0.3 else math.inf
            value: Any = None
            try:
                with trio.move_on_after(patience):
                    value = await commands.get(key_of(number))
            except (SentinelScanError, RedisError) as error:
                self._ended("GET", error)
            else:
                if value not in {None, b"value of " + key_of(number)}:
                    self._account.breaks("reply", "a GET got another's reply")

    def _ended(self, name: str, error: BaseException) -> None:
        self._account.endings[f"{name}: {type(error).__name__}"] += 1
        if SECRET in f"{error} {error!r}":
            self._account.breaks("secret", f"an error tells what nobody is to know: {error}")

    def judge(self) -> None:
        """What ran is what was said to have run."""
        ran: dict[bytes, int] = {}
        for node in self._world.nodes:
            for key in node.program.ran:
                ran[key] = ran.get(key, 0) + 1
        for key, fate in self._fates.items():
            times = ran.get(key, 0)
            least = 1 if fate == "done" else 0
            most = 0 if fate == "not run" else math.inf if self._retries_writes else 1
            if not least <= times <= most:
                self._account.breaks("write", f"an INCRBY whose outcome was {fate!r} ran {times} times")
        self._account.counts["writes checked"] += len(self._fates)


class Listener:
    """A subscriber on the client: what it does not get, a gap must tell."""

    def __init__(self, world: Deployment, account: Account) -> None:
        self._world = world
        self._account = account
        self._published = 0
        # A limit: a subscriber on a server that was made a replica by hand, which kills no connection and which no
        # Sentinel tells, hears what its new master sends on; if that breaks off, it cannot know.
        self._excused: set[int] = set()
        world.agenda.after(PUBLISHED_EVERY, self._publish)

    def _publish(self) -> None:
        self._world.agenda.after(PUBLISHED_EVERY, self._publish)
        node = self._world.master
        if node.usable and node.is_master and not node.program.loading:
            self._published += 1
            if any(other.program.has_subscribers for other in self._world.nodes if not other.is_master):
                self._excused.add(self._published)
            node.publish(b"%d" % self._published)

    async def listen(self, client: SentinelClient) -> None:
        """Until it is cancelled or the subscription ends."""
        last: int | None = None
        gap = False
        try:
            async with client.pubsub() as subscriber:
                await subscriber.subscribe(CHANNEL)
                async for item in subscriber:
                    if isinstance(item, Gap):
                        gap = True
                        self._account.counts["gaps told"] += 1
                    elif item.type == "message":
                        number = int(item.data)
                        self._account.counts["messages"] += 1
                        if last is not None and number <= last:
                            self._account.breaks("message", f"number {number} after {last}")
                        elif last is not None and not gap and number != last + 1:
                            if set(range(last + 1, number)) - self._excused:
                                self._account.breaks("gap", f"number {number} after {last}, and no gap was told")
                            self._account.counts["limit: messages lost on a server demoted by hand"] += 1
                        last, gap = number, False
        except (SentinelScanError, RedisError) as error:
            self._account.endings[f"subscriber: {type(error).__name__}"] += 1
