"""What the tests of the scan on real servers share: a stage, an account of what was handed out, and waiting."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import anyio
import trio

from tests.real.proxy import Proxy, open_proxy
from trio_sentinel_scan import (
    Address,
    RedisClient,
    Restart,
    ScanPage,
    ScanPages,
    ScanSummary,
    SentinelClient,
    ServerIdentity,
)
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan.testing import CommandFailed, LocalRedis, LocalSentinel, ServerNotRunning

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterable

    from trio_sentinel_scan.testing import LocalServer

# A guard against hanging, far from what anything takes; no test measures time.
HANG: Final = 90.0
# With two seconds no kill is followed by a second, genuine failover; with one second, some are.
DOWN_AFTER: Final = 2.0

KeyT = TypeVar("KeyT", bytes, str)


async def until(is_so: Callable[[], object]) -> None:
    """Wait for a fact that no event tells of; on any loop."""
    while not is_so():  # noqa: ASYNC110 (what is waited for happens in another process, or in the client's inside)
        await anyio.sleep(0.002)


def clients_tasks() -> list[str]:
    """The tasks that clients are running, by the names of their functions."""
    found: list[str] = []
    nurseries = [nursery for task in [trio.lowlevel.current_root_task()] if task for nursery in task.child_nurseries]
    while nurseries:
        for task in nurseries.pop().child_tasks:
            nurseries += task.child_nurseries
            if task.name.startswith("trio_sentinel_scan._trio"):
                found.append(task.name)
    return found


def scans_tasks() -> list[str]:
    """Those of them that are a scan's; a client has some of its own for as long as it is open."""
    return [name for name in clients_tasks() if name.startswith("trio_sentinel_scan._trio.scan.")]


async def identity_of(server: LocalRedis) -> ServerIdentity:
    """The process that runs there now."""
    return ServerIdentity(await server.run_id(), Address(*server.address))


async def until_master(server: LocalRedis) -> None:
    """Wait until the node says that it is a master. (A promotion breaks every connection to it, ours too.)"""
    role = None
    while role != "master":
        with suppress(ServerNotRunning):
            role = await server.role()


async def until_followed(client: SentinelClient, new: LocalRedis) -> None:
    """Wait until the client knows the new master."""
    await until(lambda: client._source.target.address == new.address)


async def until_in(pages: ScanPages[Any], state: State) -> None:
    """Wait until the scan has come to this state."""
    await until(lambda: pages._scan.plan.state is state)


@asynccontextmanager
async def consuming(pages: ScanPages[KeyT], account: Account[KeyT]) -> AsyncGenerator[None]:
    """Receive in the background to the end, which is awaited at the end of the block."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(account.take_the_rest, pages)
        yield


class Account(Generic[KeyT]):
    """What a scan has handed out, in order."""

    def __init__(self) -> None:
        self.pages: list[ScanPage[KeyT]] = []

    def note(self, page: ScanPage[KeyT]) -> None:
        """Take down one page; what must hold for each is checked here."""
        assert len(page) > 0
        if self.pages:
            before = self.pages[-1]
            assert page.epoch >= before.epoch, "a page of a superseded epoch was handed out"
            if page.epoch == before.epoch:
                assert page.server == before.server
                # Where a server does not tell what it is, there is no position but the end.
                if page.position is not None and before.position is not None:
                    assert page.position > before.position
        self.pages.append(page)

    async def take(self, pages: ScanPages[KeyT], count: int = 1) -> None:
        """Receive so many pages."""
        for _ in range(count):
            self.note(await pages.receive())

    async def take_the_rest(self, pages: ScanPages[KeyT]) -> None:
        """Receive until the end."""
        async for page in pages:
            self.note(page)

    @property
    def epochs(self) -> list[int]:
        """The epochs that pages came from, each once, in order."""
        return list(dict.fromkeys(page.epoch for page in self.pages))

    def keys(self, epoch: int | None = None) -> list[KeyT]:
        """The keys of one epoch, or of all of them, with repetitions."""
        return [key for page in self.pages if epoch in (None, page.epoch) for key in page]

    def check_complete(self, summary: ScanSummary, stayed: Collection[KeyT], *, epoch: int) -> None:
        """The scan is complete: in its last epoch, `epoch`, it has handed out every key that was there all the time.

        (And the summary says so, and agrees with what was handed out.)
        """
        assert summary.complete
        assert summary.epoch == epoch, summary.restarts
        missing = set(stayed) - set(self.keys(epoch))
        assert not missing, f"{len(missing)} of {len(stayed)} keys were lost"
        self.check_summary(summary)
        assert summary.position == 1.0
        certificate = summary.certificate
        assert certificate is not None
        assert certificate.server == summary.server
        assert summary.server is not None
        if self.pages:
            assert self.pages[-1].server.address == summary.server.address

    def check_summary(self, summary: ScanSummary) -> None:
        """The summary agrees with what was handed out."""
        assert summary.keys == len(self.keys())
        assert summary.keys_this_epoch == len(self.keys(summary.epoch))
        assert summary.pages == len(self.pages)
        assert summary.scans >= summary.pages
        assert summary.duplicates_dropped == 0
        assert [restart.epoch for restart in summary.restarts] == list(range(1, summary.epoch + 1))
        for restart in summary.restarts:
            assert restart.reason
            assert 0 <= restart.at <= summary.elapsed
        if self.pages and not summary.restarts:
            assert self.epochs == [0]

    def check_master_change(self, summary: ScanSummary, old: ServerIdentity | None, new: ServerIdentity) -> None:
        """The last restart was from `old` (None: before any process had answered) to `new`, on the Sentinels' word."""
        restart = summary.restarts[-1]
        assert restart.reason.startswith("MASTER_CHANGE")
        self._check_restart(restart, old, new)

    def check_server_restart(self, summary: ScanSummary, old: ServerIdentity, new: ServerIdentity) -> None:
        """The last restart was from one process to another at the same address, which was noticed by its run_id."""
        restart = summary.restarts[-1]
        assert "another process" in restart.reason
        self._check_restart(restart, old, new)

    def _check_restart(self, restart: Restart, old: ServerIdentity | None, new: ServerIdentity) -> None:
        assert restart.old_server == old
        assert restart.new_server == new
        assert restart.new_server is not None
        assert restart.new_server.address == new.address
        assert (restart.first_page_after is not None) == (restart.epoch in self.epochs)

    def check_without_duplicates(self) -> None:
        """No key came twice in one epoch: nothing was scanned again. (The table must not have changed meanwhile.)"""
        for epoch in self.epochs:
            keys = self.keys(epoch)
            assert len(keys) == len(set(keys))


async def drain(pages: ScanPages[KeyT]) -> Account[KeyT]:
    """Receive to the end what a scan brings."""
    account: Account[KeyT] = Account()
    await account.take_the_rest(pages)
    return account


class Stage:
    """A real service with a proxy in front of each of its processes, and the keys that are there all the time."""

    def __init__(self, service: LocalSentinel, proxies: dict[tuple[str, int], Proxy]) -> None:
        self.service = service
        self.keys: set[bytes] = set()
        self._proxies = proxies

    def proxy(self, server: LocalServer) -> Proxy:
        """The proxy in front of a node or a Sentinel."""
        return self._proxies[server.address]

    @property
    def first(self) -> LocalRedis:
        """The node that began as the master."""
        return self.service.nodes[0]

    @property
    def address_map(self) -> dict[tuple[str, int], tuple[str, int]]:
        """From each server's address to its proxy's."""
        return {address: proxy.address for address, proxy in self._proxies.items()}

    @property
    def sentinel_proxies(self) -> list[Proxy]:
        """Those in front of the Sentinels."""
        return [self._proxies[address] for address in self.service.sentinels]

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncGenerator[SentinelClient]:
        """A client that reaches everything through the proxies. Nothing of it is left afterwards, or this fails.

        Without options its patience with replies has no end, so that nothing but what is tested ends a wait.
        """
        defaults = {"response_timeout": None, "failover_timeout": 30.0, "address_map": self.address_map}
        sentinels = [proxy.address for proxy in self.sentinel_proxies]
        for proxy in self._proxies.values():
            await proxy.wait_until_deserted()
        tasks = clients_tasks()
        async with SentinelClient(sentinels, self.service.service, **(defaults | options)) as client:
            yield client
        # It has closed what it had opened, or this waits in vain.
        for proxy in self._proxies.values():
            await proxy.wait_until_deserted()
        assert clients_tasks() == tasks
        assert not self.foreign_cursors

    @property
    def foreign_cursors(self) -> list[int]:
        """Cursors that were sent to a process which had not issued them."""
        return [cursor for proxy in self._proxies.values() for cursor in proxy.foreign_cursors]

    async def depose(self, *, kill: bool = False) -> tuple[LocalRedis, LocalRedis]:
        """Have the Sentinels replace the master, which may die first; returns it and the new one.

        They are told, and so do not have to notice the death themselves.
        """
        old = await self.service.master()
        if kill:
            await old.kill()
        await self.order_failover()
        return old, await self.service.wait_for_new_master(old)

    async def order_failover(self) -> None:
        """Ask the Sentinels for a failover until one of them begins it."""
        while True:
            for sentinel in self.service.sentinel_nodes:
                with suppress(CommandFailed, ServerNotRunning):
                    await sentinel.begin_failover()
                    return
            await trio.sleep(0.05)

    def switches(self) -> int:
        """How many changes of masters the Sentinels have made, by their own account."""
        return max(node.log.count(" +switch-master ") for node in self.service.sentinel_nodes)


@asynccontextmanager
async def open_stage(
    nursery: trio.Nursery, *, keys: int = 0, replicas: int = 1, **service: Any
) -> AsyncGenerator[Stage]:
    """A service with proxies, and so many keys in it."""
    with trio.fail_after(HANG):
        async with LocalSentinel(replicas=replicas, **{"down_after": DOWN_AFTER, **service}) as local:
            servers: Iterable[LocalServer] = (*local.nodes, *local.sentinel_nodes)
            stage = Stage(local, {server.address: await open_proxy(nursery, server.address) for server in servers})
            stage.keys = await local.fill(keys)
            yield stage


class Booth:
    """One server with a proxy in front of it, and a key set."""

    def __init__(self, server: LocalRedis, proxy: Proxy) -> None:
        self.server = server
        self.proxy = proxy
        self.keys: set[bytes] = set()

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncGenerator[RedisClient]:
        """A client that reaches the server through the proxy. Nothing of it is left afterwards, or this fails."""
        await self.proxy.wait_until_deserted()
        tasks = clients_tasks()
        async with RedisClient(self.proxy.address, **{"failover_timeout": 30.0, **options}) as client:
            yield client
        await self.proxy.wait_until_deserted()
        assert clients_tasks() == tasks
        assert not self.proxy.foreign_cursors


@asynccontextmanager
async def open_booth(nursery: trio.Nursery, *, keys: int = 0, **server: Any) -> AsyncGenerator[Booth]:
    """A server with a proxy, and so many keys in it."""
    with trio.fail_after(HANG):
        async with LocalRedis(**server) as local:
            booth = Booth(local, await open_proxy(nursery, local.address))
            booth.keys = await local.fill(keys)
            yield booth
