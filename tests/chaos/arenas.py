"""Where chaos takes place: real servers, each behind a proxy, and the client that is put to the test."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio

from tests.real.cluster_scenes import keys_of_slot
from tests.real.proxy import Proxy, open_proxy
from trio_sentinel_scan import ClusterClient, SentinelClient
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan.testing import (
    CommandFailed,
    LocalCluster,
    LocalRedis,
    LocalSentinel,
    LocalServer,
    ServerBinary,
)

# With two seconds no kill is followed by a second, genuine failover.
DOWN_AFTER: Final = 2.0
# How long the servers have to become whole again. (Sentinel leaves an old master alone for ten seconds.)
PATIENCE: Final = 180.0
# The client's, for a server that is away: longer than any fault lasts, so that as a rule scans end complete. (Also on a
# machine that has other things to do.)
FAILOVER_TIMEOUT: Final = 60.0
RESPONSE_TIMEOUT: Final = 5.0
KEYS_AT_ONCE: Final = 1000
# Sets that stay, and what each of them has: enough for a table, as a small one is scanned in one go.
SETS: Final = tuple(f"set:{number}" for number in range(4))
MEMBERS: Final = frozenset(b"member:%d" % number for number in range(1_500))
# What is written to all the time: counters, registers, and keys that come and go, so that the tables grow, shrink and
# rehash while they are scanned.
COUNTERS: Final = 8
CHURN: Final = 2_000
WRITTEN: Final = frozenset(
    [
        *(b"count:%d" % number for number in range(COUNTERS)),
        *(b"register:%d" % number for number in range(COUNTERS)),
        *(b"passes:%d" % number for number in range(CHURN)),
    ]
)
# By which the client's connections are known.
CLIENT_NAME: Final = "chaos"


class Arena(ABC):
    """A deployment with its proxies, and the keys that are there all the time."""

    name: str
    # Whether keys, commands and messages are spread over slots.
    is_cluster: bool

    def __init__(self, binary: ServerBinary, proxies: dict[tuple[str, int], Proxy]) -> None:
        self.binary = binary
        self._proxies = proxies
        # Keys that are never deleted, in batches: a scan answers for those that were there when it began.
        self.batches: list[set[bytes]] = []

    @property
    @abstractmethod
    def nodes(self) -> Sequence[LocalRedis]:
        """All servers with data."""

    @property
    @abstractmethod
    def servers(self) -> Sequence[LocalServer]:
        """All servers."""

    @property
    def proxies(self) -> list[Proxy]:
        """All proxies."""
        return list(self._proxies.values())

    def proxy(self, server: LocalServer) -> Proxy:
        """The one in front of a server."""
        return self._proxies[server.address]

    @property
    def address_map(self) -> dict[tuple[str, int], tuple[str, int]]:
        """From each server's address to its proxy's."""
        return {address: proxy.address for address, proxy in self._proxies.items()}

    @abstractmethod
    def client(self) -> SentinelClient | ClusterClient:
        """The client, which reaches everything through the proxies."""

    @abstractmethod
    async def whole(self) -> None:
        """Wait until all servers are up and agree with each other."""

    @abstractmethod
    async def masters(self) -> Sequence[LocalRedis]:
        """The masters now. (All of the deployment is to be whole.)"""

    @abstractmethod
    async def fill(self, number: int, prefix: str) -> set[bytes]:
        """Write so many keys; returns when all replicas have them."""

    @abstractmethod
    async def write(self, keys: Collection[bytes]) -> None:
        """Write these; returns when all replicas have them."""

    @abstractmethod
    async def failovers(self) -> int:
        """How many there have been, by the servers' own account."""

    @abstractmethod
    async def home(self, key: str) -> LocalRedis:
        """The master that has the key, or is to have it."""

    @abstractmethod
    async def present(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of the keys that the masters have."""

    async def grow(self, number: int) -> None:
        """So many more keys that stay, and are on every server's disk: whichever is started again has them."""
        self.batches.append(await self.fill(number, f"stays:{len(self.batches)}:"))
        for node in self.nodes:
            await node.save()

    async def mend(self) -> set[bytes]:
        """Write again what the servers themselves have lost, and return it."""
        lost: set[bytes] = set()
        for name in SETS:
            home = await self.home(name)
            if await home.execute("SCARD", name) != len(MEMBERS):
                await home.execute("SADD", name, *MEMBERS)
                lost |= MEMBERS
        for batch in self.batches:
            lost |= batch - await self.present(batch)
        if lost:
            await self.write(lost)
        await trio.lowlevel.checkpoint()
        return lost

    async def identities(self) -> set[str]:
        """The processes that are masters now."""
        return {await master.run_id() for master in await self.masters()}

    def calm(self) -> None:
        """No proxy does anything to what passes."""
        for proxy in self.proxies:
            proxy.admit()
            proxy.pass_on()
            proxy.slowness = 0.0


async def _there(node: LocalRedis, keys: Sequence[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    for at in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[at : at + KEYS_AT_ONCE]
        replies = await node.pipeline([("EXISTS", key) for key in some])
        found.update(key for key, reply in zip(some, replies, strict=True) if reply)
    await trio.lowlevel.checkpoint()
    return found


class SentinelArena(Arena):
    """Three Sentinels, a master and two replicas."""

    name = "sentinel"
    is_cluster = False

    def __init__(self, binary: ServerBinary, proxies: dict[tuple[str, int], Proxy], service: LocalSentinel) -> None:
        super().__init__(binary, proxies)
        self.service = service

    @property
    def nodes(self) -> Sequence[LocalRedis]:
        return self.service.nodes

    @property
    def servers(self) -> Sequence[LocalServer]:
        return [*self.service.nodes, *self.service.sentinel_nodes]

    def client(self) -> SentinelClient:
        return SentinelClient(
            [self.proxy(node).address for node in self.service.sentinel_nodes],
            self.service.service,
            address_map=self.address_map,
            client_name=CLIENT_NAME,
            response_timeout=RESPONSE_TIMEOUT,
            failover_timeout=FAILOVER_TIMEOUT,
        )

    async def whole(self) -> None:
        await self.service.wait_until_ready()
        await self.service.wait_replicated()

    async def masters(self) -> Sequence[LocalRedis]:
        return [await self.service.master()]

    async def fill(self, number: int, prefix: str) -> set[bytes]:
        return await self.service.fill(number, prefix)

    async def write(self, keys: Collection[bytes]) -> None:
        master = await self.service.master()
        await master.pipeline([("SET", key, b"x") for key in keys])
        await self.service.wait_replicated()

    async def failovers(self) -> int:
        await trio.lowlevel.checkpoint()
        return max(node.log.count(" +switch-master ") for node in self.service.sentinel_nodes)

    async def home(self, key: str) -> LocalRedis:
        return await self.service.master()

    async def present(self, keys: Iterable[bytes]) -> set[bytes]:
        return await _there(await self.service.master(), sorted(keys))

    async def hurry(self) -> None:
        """Have the Sentinels look twice a second, for runs that are short; real ones look every ten."""
        for node in self.service.sentinel_nodes:
            # Redis 6.2 has no such command.
            with suppress(CommandFailed):
                await node.execute("SENTINEL", "DEBUG", "info-period", "500", "publish-period", "250")


class ClusterArena(Arena):
    """Three masters, each with a replica."""

    name = "cluster"
    is_cluster = True

    def __init__(self, binary: ServerBinary, proxies: dict[tuple[str, int], Proxy], cluster: LocalCluster) -> None:
        super().__init__(binary, proxies)
        self.cluster = cluster
        self.quiet_slots: list[int] = []
        for proxy in self.proxies:
            # A slot's sweep begins at its number.
            proxy.starts = range(16_384)

    @property
    def nodes(self) -> Sequence[LocalRedis]:
        return self.cluster.nodes

    @property
    def servers(self) -> Sequence[LocalServer]:
        return self.cluster.nodes

    def client(self) -> ClusterClient:
        return ClusterClient(
            [proxy.address for proxy in self.proxies],
            address_map=self.address_map,
            client_name=CLIENT_NAME,
            response_timeout=RESPONSE_TIMEOUT,
            failover_timeout=FAILOVER_TIMEOUT,
        )

    async def fill_quiet_slots(self, number: int) -> None:
        """So many slots with a hundred keys each that stay, and none that is ever written to."""
        written = {slot_of(key) for key in (*WRITTEN, *map(str.encode, SETS))}
        self.quiet_slots = [slot for slot in range(0, 16_384, 16_384 // number) if slot not in written]
        for slot in self.quiet_slots:
            self.batches.append(keys_of_slot(slot, 100, "quiet:"))
            await self.cluster.write(self.batches[-1])
        await trio.lowlevel.checkpoint()

    async def whole(self) -> None:
        await self.cluster.wait_until_ready()

    async def masters(self) -> Sequence[LocalRedis]:
        return await self.cluster.masters()

    async def fill(self, number: int, prefix: str) -> set[bytes]:
        return await self.cluster.fill(number, prefix)

    async def write(self, keys: Collection[bytes]) -> None:
        await self.cluster.write(keys)

    async def failovers(self) -> int:
        await trio.lowlevel.checkpoint()
        # What a node says that takes over its master's slots, of its own accord or when it is told to.
        return sum(node.log.count("Failover election won") for node in self.cluster.nodes)

    async def home(self, key: str) -> LocalRedis:
        return await self.cluster.owner(slot_of(key.encode()))

    async def present(self, keys: Iterable[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        owned = [(master, (await master.view()).slots) for master in await self.cluster.masters()]
        of_slot: dict[int, list[bytes]] = {}
        for key in keys:
            of_slot.setdefault(slot_of(key), []).append(key)
        for master, slots in owned:
            found |= await _there(master, sorted(key for slot in slots for key in of_slot.get(slot, ())))
        return found


@asynccontextmanager
async def open_arena(
    nursery: trio.Nursery, deployment: str, binary: ServerBinary, *, keys: int, hurried: bool
) -> AsyncGenerator[Arena]:
    """The servers, the proxies in front of them, and so many keys."""

    async def proxied(servers: Iterable[LocalServer]) -> dict[tuple[str, int], Proxy]:
        return {server.address: await open_proxy(nursery, server.address) for server in servers}

    if deployment == "sentinel":
        async with LocalSentinel(replicas=2, down_after=DOWN_AFTER, binary=binary, patience=PATIENCE) as service:
            arena = SentinelArena(binary, await proxied((*service.nodes, *service.sentinel_nodes)), service)
            if hurried:
                await arena.hurry()
            await arena.mend()
            await arena.grow(keys)
            yield arena
    else:
        async with LocalCluster(binary=binary, partitions=True, patience=PATIENCE) as cluster:
            clustered = ClusterArena(binary, await proxied(cluster.nodes), cluster)
            await clustered.mend()
            await clustered.fill_quiet_slots(8)
            await clustered.grow(keys)
            yield clustered


async def until_true(is_so: Any, seconds: float) -> bool:
    """Wait for a fact that no event tells of; False if it does not come in time."""
    with trio.move_on_after(seconds):
        while not is_so():  # noqa: ASYNC110 (what is waited for happens in another process, or in the client's inside)
            await trio.sleep(0.01)
        return True
    return False


def some_of(dice: random.Random, things: Sequence[Any], at_most: int) -> list[Any]:
    """One or more of them."""
    return dice.sample(list(things), dice.randint(1, min(at_most, len(things))))
