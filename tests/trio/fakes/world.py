"""A service put together: data servers that replicate, Sentinels that watch them, and what can befall them.

Everything here happens at once, in one synchronous step; what takes its time in nature (`elect`) says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

import trio

from .data_server import DataServer, Value
from .network import Host, Network
from .sentinel import Monitored, Sentinel

if TYPE_CHECKING:
    from trio_sentinel_scan import RedisClient, ScanPage, ScanSummary, SentinelClient

__all__ = ["COUNT", "KEYS", "SERVICE", "Service", "Swept", "sweep"]

SERVICE: Final = "mymaster"
# A keyspace, and a COUNT with which a pass over it takes some two dozen pages.
KEYS: Final = 500
COUNT: Final = 20


class Service:
    """One service. The first data server is its master."""

    def __init__(
        self,
        network: Network,
        *,
        keys: int = 0,
        replicas: int = 2,
        sentinels: int = 3,
        name: str = SERVICE,
        seed: int = 0,
        subnet: int = 0,
    ) -> None:
        self.network = network
        self.name = name
        self.config_epoch = 0
        self._rng = rng = Random(seed)
        self.servers = [
            network.add(DataServer((f"10.{subnet}.0.{number}", 6379), rng)) for number in range(1, replicas + 2)
        ]
        self.master = self.servers[0]
        self.sentinels = [
            network.add(Sentinel((f"10.{subnet}.1.{number}", 26379), f"{rng.getrandbits(160):040x}"))
            for number in range(1, sentinels + 1)
        ]
        for host in self.sentinels:
            host.program.services[name] = Monitored(self.master.address, 0)
            host.program.peers = [other.program for other in self.sentinels if other is not host]
            host.program.servers = [server.program for server in self.servers]
        for server in self.servers:
            server.program.on_write = self._replicator(server.program)
        for server in self.replicas:
            server.program.master = self.master.address
        self.master.program.replicas = [server.address for server in self.replicas]
        self.write(f"key:{number}".encode() for number in range(keys))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The Sentinels, as a client is told of them."""
        return [host.address for host in self.sentinels]

    @property
    def hosts(self) -> list[Host[Any]]:
        """The data servers and the Sentinels."""
        return [*self.servers, *self.sentinels]

    @property
    def replicas(self) -> list[Host[DataServer]]:
        """The data servers that are not the master."""
        return [server for server in self.servers if server is not self.master]

    def keys(self, db: int = 0) -> set[bytes]:
        """The keys of the master: what a scan owes its caller."""
        return set(self.master.program.data.get(db, ()))

    # ---- data ----------------------------------------------------------------------------------------------------

    def write(self, keys: Iterable[bytes], db: int = 0) -> None:
        """Put keys into the master; its replicas get them too."""
        for key in keys:
            self.master.program.put(db, key, Value(b"value of " + key))
            self.master.program.on_write(db, key, Value(b"value of " + key))

    def _replicator(self, origin: DataServer) -> Any:
        def replicate(db: int, key: bytes, value: Value | None) -> None:
            for server in self.servers:
                program = server.program
                if server.up and program.master == origin.address and program.link == "connected":
                    program.put(db, key, value)

        return replicate

    # ---- who is the master ---------------------------------------------------------------------------------------

    def promote(self, host: Host[DataServer]) -> None:
        """It becomes the master, by its own word. Its clients are dropped; nobody is told.

        The other replicas follow it, so the old master's ROLE lists none any more; else that goes on as it was.
        """
        old = self.master
        self.master = host
        old.program.replicas = []
        host.program.master = None
        others = [server for server in self.servers if server not in (host, old) and server.up]
        host.program.replicas = [server.address for server in others]
        for server in others:
            server.program.master = host.address
        host.drop_clients()

    def demote(self, host: Host[DataServer], *, drop: bool = True) -> None:
        """It becomes a replica of the master: emptied, filled again, and its clients dropped."""
        program = host.program
        program.master, program.link, program.replicas = self.master.address, "connected", []
        program.copy_from(self.master.program)
        self.master.program.replicas = [*self.master.program.replicas, host.address]
        if drop:
            host.drop_clients()

    def tell(self, *sentinels: Host[Sentinel], quietly: bool = False) -> None:
        """These Sentinels (all, if none is given) come to know the present master under the present epoch."""
        for host in sentinels or self.sentinels:
            host.program.switch(self.name, self.master.address, self.config_epoch, quietly=quietly)

    def fail_over(
        self, to: Host[DataServer] | None = None, *, kill: bool = True, hang: bool = False, tell: bool = True
    ) -> Host[DataServer]:
        """Another master, at once: the old one is killed, hangs, or goes on answering as a master. Returns the old."""
        old = self.master
        if hang:
            old.hang()
        elif kill:
            old.kill()
        self.config_epoch += 1
        self.promote(to or next(server for server in self.replicas if server.up))
        if tell:
            self.tell()
        return old

    def bring_back(self, host: Host[DataServer]) -> None:
        """A killed server comes back, as a replica of the present master."""
        host.start()
        self.demote(host)

    def remove_and_monitor(self, master: Host[DataServer]) -> None:
        """SENTINEL REMOVE and MONITOR on all Sentinels: config epochs start again at 0."""
        self.config_epoch = 0
        for host in self.sentinels:
            host.program.services.pop(self.name, None)
            host.program.publish("-monitor", f"master {self.name} 0.0.0.0 1")
            host.program.services[self.name] = Monitored(master.address, 0)
            host.program.publish("+monitor", f"master {self.name} {master.address[0]} {master.address[1]} quorum 2")

    async def elect(self, *, detect: float = 1.0, tell: float = 0.9, old_master_stays: float = 10.0) -> None:
        """A failover as three Sentinels make it, with their delays: the first of them leads, the others follow.

        The promotion comes first; the leader knows of it when INFO tells it, the followers by its hello, and the
        leader's own +switch-master comes last. An old master that is alive is demoted after all that.
        """
        old = self.master
        leader, *followers = self.sentinels
        await trio.sleep(detect)
        self.config_epoch += 1
        self.promote(next(server for server in self.replicas if server.up))
        known = leader.program.services[self.name]
        await trio.sleep(tell)
        # From here on the leader names the new address, shows the old one, under the new epoch.
        known.shown, known.master, known.config_epoch = known.master, self.master.address, self.config_epoch
        leader.program.publish("+promoted-slave", self._details())
        await trio.sleep(0.1)
        self.tell(*followers)
        await trio.sleep(1.0)
        known.master = old.address
        self.tell(leader)
        leader.program.publish("+failover-end", self._details())
        if old.up:
            await trio.sleep(old_master_stays)
            self.demote(old)

    def _details(self) -> str:
        host, port = self.master.address
        return f"slave {host}:{port} {host} {port} @ {self.name} {host} {port}"


@dataclass
class Swept:
    """A scan that came to its end."""

    pages: list[ScanPage[Any]]
    summary: ScanSummary

    @property
    def keys(self) -> set[Any]:
        """Every key that was handed out, by whatever epoch."""
        return {key for page in self.pages for key in page}

    @property
    def by_epoch(self) -> dict[int, set[Any]]:
        """The keys that each epoch handed out."""
        found: dict[int, set[Any]] = defaultdict(set)
        for page in self.pages:
            found[page.epoch].update(page)
        return dict(found)

    @property
    def last_epoch(self) -> set[Any]:
        """The keys of the final pass."""
        return self.by_epoch.get(self.summary.epoch, set())


async def sweep(client: SentinelClient | RedisClient, **options: Any) -> Swept:
    """A whole scan."""
    async with client.open_scan(**options) as pages:
        found = [page async for page in pages]
        return Swept(found, pages.summary)
