"""A scan of one replica, on real servers, through everything that befalls replicas: 20,000 keys, and none is lost."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.real.scenes import Account, Stage, identity_of, open_stage, until
from trio_sentinel_scan import NoReplicaAvailable, ScanPages
from trio_sentinel_scan._core import replicas, sweep
from trio_sentinel_scan._core.identity import Role
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._trio.replica_source import ReplicaSource
from trio_sentinel_scan.testing import CommandFailed, LocalRedis, ServerNotRunning

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

KEYS = 20_000
OPTIONS: dict[str, Any] = {"read_from": "replica", "count": 100, "prefetch": 0, "segments": 1}
# For Sentinels that are to remove nobody by themselves.
NEVER = 60.0


@pytest.fixture(autouse=True)
def role_with_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of four times a second."""
    monkeypatch.setattr(sweep, "ROLE_PERIOD", 0.0)


@asynccontextmanager
async def reading(stage: Stage, **options: Any) -> AsyncGenerator[tuple[ScanPages[Any], Account[bytes], LocalRedis]]:
    """A scan that has handed out a third of the keys; and the replica that it reads from."""
    account: Account[bytes] = Account()
    async with stage.client() as client, client.open_scan(**{**OPTIONS, **options}) as pages:
        while len(account.keys()) < KEYS // 3:
            await account.take(pages)
        server = account.pages[-1].server
        (replica,) = [node for node in stage.service.nodes if node.address == server.address]
        assert replica is not stage.first
        assert server == await identity_of(replica)
        yield pages, account, replica
    assert stage.proxy(stage.first).scans == []


def other_than(stage: Stage, replica: LocalRedis) -> LocalRedis:
    """The other of the two replicas."""
    (other,) = [node for node in stage.service.nodes[1:] if node is not replica]
    return other


async def until_info(server: LocalRedis, section: str, is_so: Callable[[dict[str, str]], bool]) -> None:
    """Wait for a fact that INFO tells."""
    while True:
        with suppress(ServerNotRunning, CommandFailed):
            if is_so(await server.info(section)):
                return
        await trio.sleep(0.01)


async def until_synced(replica: LocalRedis) -> None:
    """Wait until it has all that its master has."""
    await until_info(replica, "replication", lambda info: info.get("master_link_status") == "up")


async def never_promote(stage: Stage, node: LocalRedis) -> None:
    """Have the Sentinels know that this one is not to become a master."""
    await node.execute("CONFIG", "SET", "replica-priority", 0)
    for sentinel in stage.service.sentinel_nodes:
        with suppress(CommandFailed):
            await sentinel.execute("SENTINEL", "DEBUG", "info-period", 200)
    for sentinel in stage.service.sentinel_nodes:
        while True:
            listed = await sentinel.execute("SENTINEL", "REPLICAS", stage.service.service)
            assert isinstance(listed, list)
            fields = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in listed if isinstance(entry, list)]
            if any(f[b"port"] == b"%d" % node.port and f[b"slave-priority"] == b"0" for f in fields):
                break
            await trio.sleep(0.02)


async def keep_unsynced(stage: Stage, *replicas_: LocalRedis) -> None:
    """Restart replicas whose master lets them wait for their first copy: empty, and in the middle of a handshake."""
    await stage.first.pipeline(
        [("CONFIG", "SET", "repl-diskless-sync", "yes"), ("CONFIG", "SET", "repl-diskless-sync-delay", 1000)]
    )
    for replica in replicas_:
        await replica.kill()
        await replica.start()
        assert await replica.role() == "slave"
        assert await replica.keys() == set()


async def test_undisturbed(nursery: trio.Nursery, each_server_binary: ServerBinary) -> None:
    """The master serves the client's commands, and no SCAN. On every server that is at hand."""
    async with open_stage(nursery, keys=KEYS, binary=each_server_binary) as stage:
        async with reading(stage, segments="auto") as (pages, account, replica):
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=0)
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.basis, certificate.role, certificate.config_epoch) == ("replica", "slave", 0)
        assert certificate.server == await identity_of(replica)
        assert pages.summary.reconnects == 0


async def test_its_restart(nursery: trio.Nursery) -> None:
    """SIGKILL, and another process with another seed at the same address: a new epoch, there."""
    async with open_stage(nursery, keys=KEYS, down_after=NEVER) as stage:
        async with reading(stage) as (pages, account, replica):
            before = await identity_of(replica)
            await replica.kill()
            await replica.start()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_server_restart(pages.summary, before, await identity_of(replica))
        assert len(account.keys(0)) < KEYS


async def test_its_restart_without_the_identity_rule(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run_id may not be read, so nothing else stands between the scan and the loss."""
    monkeypatch.setattr(ScanPlan, "_is_same_process", lambda *_: True)
    acl = {"scanner": "on >secret ~* &* +@all -info"}
    async with open_stage(nursery, keys=KEYS, acl=acl, down_after=NEVER) as stage:
        account: Account[bytes] = Account()
        (replica,) = stage.service.nodes[1:]
        proxy = stage.proxy(replica)
        # There is one chain of cursors, and half way it may stand where a segment could begin.
        proxy.starts = [0]
        async with (
            stage.client(username="scanner", password="secret") as client,
            client.open_scan(**OPTIONS) as pages,
        ):
            while len(account.keys()) < KEYS // 2:
                await account.take(pages)
            await replica.kill()
            await replica.start()
            await until_synced(replica)
            await account.take_the_rest(pages)
            assert proxy.foreign_cursors
            proxy.foreign_cursors.clear()
        assert pages.summary.complete
        assert pages.summary.epoch == 0
        assert stage.keys - set(account.keys()), "half way, a quarter of the keys is lost"


async def test_its_death(nursery: trio.Nursery) -> None:
    """Nobody answers there any more: after some seconds, or when the Sentinels say so, the other one is scanned."""
    async with open_stage(nursery, keys=KEYS, replicas=2) as stage:
        async with reading(stage) as (pages, account, replica):
            await replica.kill()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        assert pages.summary.server == await identity_of(other_than(stage, replica))


@pytest.mark.parametrize("segments", [1, 8])
async def test_a_failover_that_re_points_it(
    nursery: trio.Nursery, each_server_binary: ServerBinary, segments: int
) -> None:
    """Sentinel kills its clients and makes it follow another master: the same process, and the cursors go on."""
    async with open_stage(nursery, keys=KEYS, replicas=2, binary=each_server_binary) as stage:
        async with reading(stage, segments=segments) as (pages, account, replica):
            before = await identity_of(replica)
            await never_promote(stage, replica)
            _, new = await stage.depose(kill=True)
            assert new is other_than(stage, replica)
            # Its connection is gone once it follows the new one.
            await until_info(replica, "replication", lambda info: info["master_port"] == str(new.port))
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=0)
        # What no ROLE had vouched for when the connection was lost is read once more: of each segment the round under
        # way, and the one whose ROLE was.
        asked = Counter(stage.proxy(replica).scans)
        assert asked.total() - len(asked) <= 2 * segments * pages.summary.reconnects
        assert pages.summary.reconnects >= 1
        assert pages.summary.server == before == await identity_of(replica)
        assert stage.proxy(new).scans == []
        certificate = pages.summary.certificate
        assert certificate is not None
        assert certificate.config_epoch == 1


async def test_a_forced_full_resync(nursery: trio.Nursery, each_server_binary: ServerBinary) -> None:
    """It throws its data away and loads its master's anew, in the same process: the cursors stay good."""
    async with open_stage(nursery, keys=KEYS, down_after=NEVER, binary=each_server_binary) as stage:
        async with reading(stage) as (pages, account, replica):
            before = int((await stage.first.info("stats"))["sync_full"])
            await stage.first.execute("DEBUG", "CHANGE-REPL-ID")
            await stage.first.execute("CLIENT", "KILL", "TYPE", "replica")
            await until_info(stage.first, "stats", lambda info: int(info["sync_full"]) > before)
            await until_synced(replica)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=0)
        assert pages.summary.server == await identity_of(replica)


@pytest.mark.parametrize("kill", [True, False], ids=["killed_master", "planned"])
async def test_its_promotion(nursery: trio.Nursery, kill: bool) -> None:
    """It is the master now, and so another replica is scanned."""
    async with open_stage(nursery, keys=KEYS, replicas=2) as stage:
        async with reading(stage) as (pages, account, replica):
            other = other_than(stage, replica)
            await never_promote(stage, other)
            _, new = await stage.depose(kill=kill)
            assert new is replica
            asked = len(stage.proxy(replica).scans)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        assert pages.summary.server == await identity_of(other)
        assert len(stage.proxy(replica).scans) <= asked + 3
        (restart,) = pages.summary.restarts
        assert "promoted" in restart.reason or "the server's role is master, it was slave" in restart.reason


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
async def test_its_removal(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """It hangs, and no timeout of ours ends the wait: the Sentinels' word that it is down does."""
    if not guarded:
        monkeypatch.setattr(ScanPlan, "_why_void", lambda *_: "")
    async with open_stage(nursery, keys=KEYS, replicas=2) as stage:
        async with reading(stage) as (pages, account, replica):
            await replica.pause()
            if guarded:
                await account.take_the_rest(pages)
            else:
                # Who hears of it does nothing, and the wait goes on.
                source = pages._scan._source
                assert isinstance(source, ReplicaSource)
                await until(lambda: all(r.address != replica.address for r in source.locate().replicas))
                with trio.move_on_after(1):
                    await account.take_the_rest(pages)
            await replica.resume()
        if guarded:
            account.check_complete(pages.summary, stage.keys, epoch=1)
            assert pages.summary.server == await identity_of(other_than(stage, replica))
            assert pages.summary.restarts[0].reason.startswith("REPLICA_REMOVE")
        else:
            assert not pages.summary.complete


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
async def test_an_unsynced_replica(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, each_server_binary: ServerBinary, guarded: bool
) -> None:
    """It answers an empty scan as a success. What the Sentinels think of it is left out of account here."""
    monkeypatch.setattr(replicas, "why_unusable", lambda _: "")
    if not guarded:
        monkeypatch.setattr(Role, "is_synced_replica", property(lambda _: True))
    async with open_stage(nursery, keys=KEYS, down_after=NEVER, binary=each_server_binary) as stage:
        (replica,) = stage.service.nodes[1:]
        await keep_unsynced(stage, replica)
        account: Account[bytes] = Account()
        async with stage.client(failover_timeout=2.0) as client:
            # The Sentinels have lost their connections to it as well.
            await until(lambda: client._monitor.state.replicas)
            async with client.open_scan(**OPTIONS) as pages:
                if guarded:
                    with pytest.raises(NoReplicaAvailable, match="not in sync with its master"):
                        await account.take_the_rest(pages)
                else:
                    await account.take_the_rest(pages)
        assert account.pages == []
        assert pages.summary.complete is not guarded


@pytest.mark.slow
async def test_all_replicas_unsynced(nursery: trio.Nursery) -> None:
    """The error tells why for each of them; with a fallback the master is scanned, and certified as one."""
    async with open_stage(nursery, keys=KEYS, replicas=2, down_after=NEVER) as stage:
        await keep_unsynced(stage, *stage.service.nodes[1:])
        async with stage.client(failover_timeout=2.0) as client:
            await until(lambda: len(client._monitor.state.replicas) == 2)
            with pytest.raises(NoReplicaAvailable) as caught:
                async with client.open_scan(**OPTIONS) as pages:
                    await pages.receive()
            assert set(caught.value.replicas) == {f"127.0.0.1:{node.port}" for node in stage.service.nodes[1:]}
            assert stage.proxy(stage.first).scans == []
            account: Account[bytes] = Account()
        async with stage.client() as client, client.open_scan(**OPTIONS, fallback="master") as pages:
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=0)
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.basis, certificate.role) == ("sentinels", "master")


async def test_one_that_gets_in_sync_while_it_is_waited_for(nursery: trio.Nursery) -> None:
    async with open_stage(nursery, keys=KEYS, down_after=NEVER) as stage:
        (replica,) = stage.service.nodes[1:]
        await keep_unsynced(stage, replica)
        account: Account[bytes] = Account()
        async with (
            stage.client() as client,
            client.open_scan(**OPTIONS) as pages,
            trio.open_nursery() as scanning,
        ):
            scanning.start_soon(account.take_the_rest, pages)
            await until(lambda: stage.proxy(replica).connections)
            await stage.first.execute("CONFIG", "SET", "repl-diskless-sync-delay", 0)
        account.check_complete(pages.summary, stage.keys, epoch=0)
        assert pages.summary.server == await identity_of(replica)


async def test_a_checkpoint_through_a_failover(nursery: trio.Nursery) -> None:
    """Another client goes on where the first one stopped, at the same replica, under another master."""
    async with open_stage(nursery, keys=KEYS, replicas=2) as stage:
        async with reading(stage) as (_, first, replica):
            text = first.pages[-1].checkpoint
        await never_promote(stage, replica)
        await stage.depose(kill=True)
        await until_synced(replica)
        rest: Account[bytes] = Account()
        async with stage.client() as client, client.open_scan(**OPTIONS, resume=text) as pages:
            await rest.take_the_rest(pages)
        assert pages.summary.complete
        assert pages.summary.epoch == 0
        assert pages.summary.server == await identity_of(replica)
        assert set(first.keys()) | set(rest.keys()) >= stage.keys
        assert len(rest.keys()) < KEYS
