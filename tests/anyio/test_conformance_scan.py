"""The scan, on every back end: each key that was there all the time is handed out, whatever happens to the servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.anyio.editions import Edition
from tests.anyio.in_thread import Servers
from tests.anyio.scenes import SLOWLY, depose, service, take
from tests.real.scenes import Account, identity_of, until
from trio_sentinel_scan import ScanInterrupted, SpillingSeen
from trio_sentinel_scan.testing import LocalRedis

full = pytest.mark.full

KEYS = 2_000


# ---- masters that change -----------------------------------------------------------------------------------------


async def test_the_master_is_killed(edition: Edition, servers: Servers) -> None:
    """SIGKILL in mid-scan: it begins again at the next master, with cursor 0 and another epoch."""
    async with servers(service()) as local:
        keys = await local.fill(KEYS)
        before = await identity_of(await local.master())
        account: Account[bytes] = Account()
        async with (
            edition.package.SentinelClient(local.sentinels, local.service) as client,
            client.open_scan(**SLOWLY) as pages,
        ):
            await account.take(pages, 5)
            await local.kill()
            new = await depose(local)
            await account.take_the_rest(pages)
            assert await client.dbsize() == KEYS
        account.check_complete(pages.summary, keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert account.epochs == [0, 1]
        assert len(account.keys(0)) < KEYS
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.basis, certificate.role, certificate.config_epoch) == ("sentinels", "master", 1)


async def test_the_master_hangs(edition: Edition, servers: Servers) -> None:
    """SIGSTOP: no timeout ends a wait here, the Sentinels' word alone gets the scan away; each key comes once."""
    async with servers(service()) as local:
        keys = await local.fill(KEYS)
        before = await identity_of(await local.master())
        account: Account[bytes] = Account()
        patient: dict[str, Any] = {"response_timeout": None, "failover_timeout": None}
        async with (
            edition.package.connect(local.url, **patient) as client,
            client.open_scan(**SLOWLY) as pages,
            anyio.create_task_group() as task_group,
        ):
            await account.take(pages, 5)
            await local.pause()
            task_group.start_soon(account.take_the_rest, pages)
            await depose(local)
        new = await local.master()
        account.check_complete(pages.summary, keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert account.epochs == [0, 1]


@full
async def test_a_replica_is_scanned_and_dies(edition: Edition, servers: Servers) -> None:
    """The Sentinels notice by themselves; the scan begins again at the other one, and the master serves no SCAN."""
    async with servers(service(replicas=2)) as local:
        keys = await local.fill(KEYS)
        account: Account[bytes] = Account()
        async with (
            edition.package.SentinelClient(local.sentinels, local.service) as client,
            client.open_scan(**SLOWLY, read_from="replica") as pages,
        ):
            await account.take(pages, 5)
            address = account.pages[-1].server.address
            (scanned,) = [node for node in local.nodes if node.address == address]
            await scanned.kill()
            await account.take_the_rest(pages)
            assert "cmdstat_scan" not in await (await local.master()).info("commandstats")
        account.check_complete(pages.summary, keys, epoch=1)
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.basis, certificate.role) == ("replica", "slave")


async def test_a_replica_is_scanned(edition: Edition, servers: Servers) -> None:
    async with servers(service()) as local:
        keys = await local.fill(KEYS)
        account: Account[bytes] = Account()
        async with (
            edition.package.SentinelClient(local.sentinels, local.service) as client,
            client.open_scan(read_from="replica") as pages,
        ):
            await account.take_the_rest(pages)
        (replica,) = await local.replicas()
        account.check_complete(pages.summary, keys, epoch=0)
        assert pages.summary.server == await identity_of(replica)
        assert "cmdstat_scan" not in await (await local.master()).info("commandstats")


# ---- one server --------------------------------------------------------------------------------------------------


async def test_a_restart_on_the_same_port(edition: Edition, servers: Servers) -> None:
    """Another process with the same keys, in another order: noticed by its run_id."""
    async with servers(LocalRedis()) as server:
        keys = await server.fill(KEYS)
        before = await identity_of(server)
        account: Account[bytes] = Account()
        async with edition.package.RedisClient(server.address) as client, client.open_scan(**SLOWLY) as pages:
            await account.take(pages, 8)
            await server.restart()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys, epoch=1)
        account.check_server_restart(pages.summary, before, await identity_of(server))
        assert account.epochs == [0, 1]


async def test_a_connection_is_lost_again_and_again(edition: Edition, servers: Servers) -> None:
    """The process is the same: its cursor goes on, in the same epoch, and nothing comes twice."""
    async with servers(LocalRedis()) as server:
        keys = await server.fill(KEYS)
        account: Account[bytes] = Account()
        async with edition.package.RedisClient(server.address) as client, client.open_scan(**SLOWLY) as pages:
            for _ in range(3):
                await account.take(pages, 3)
                await server.execute("CLIENT", "KILL", "TYPE", "normal")
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys, epoch=0)
        account.check_without_duplicates()
        assert pages.summary.reconnects == 3


@pytest.mark.parametrize("dedupe", ["exact", "spilling"])
async def test_each_key_comes_once(edition: Edition, servers: Servers, dedupe: str, tmp_path: Path) -> None:
    """Through a restart; with the keys that were seen in memory, and on disk, which is written by a thread."""
    async with servers(LocalRedis()) as server:
        keys = await server.fill(KEYS)
        found: list[bytes] = []
        with SpillingSeen(tmp_path / "seen") as on_disk:
            seen = True if dedupe == "exact" else on_disk
            async with (
                edition.package.RedisClient(server.address) as client,
                client.open_scan(**SLOWLY, dedupe=seen) as pages,
            ):
                for _ in range(8):
                    found += (await pages.receive()).keys
                await server.restart()
                await take(pages, found)
        assert sorted(found) == sorted(keys)
        assert pages.summary.complete
        assert pages.summary.epoch == 1
        assert pages.summary.duplicates_dropped > 0


async def test_a_checkpoint_goes_on_in_another_client(edition: Edition, servers: Servers, tmp_path: Path) -> None:
    """With the keys that were seen on disk each comes once over both scans."""
    async with servers(LocalRedis()) as server:
        keys = await server.fill(KEYS)
        found: list[bytes] = []
        with SpillingSeen(tmp_path / "seen") as seen:
            async with (
                edition.package.RedisClient(server.address) as client,
                client.open_scan(count=100, prefetch=0, dedupe=seen) as pages,
            ):
                page = await pages.receive()
                while len(found := [*found, *page.keys]) < KEYS // 2:
                    page = await pages.receive()
                # It is written together with what was seen, while that is open.
                checkpoint = page.checkpoint
        with SpillingSeen(tmp_path / "seen") as seen:
            async with (
                edition.package.connect(server.url) as client,
                client.open_scan(count=100, dedupe=seen, resume=checkpoint) as pages,
            ):
                await take(pages, found)
        assert sorted(found) == sorted(keys)
        assert pages.summary.complete
        assert pages.summary.epoch == 0


async def test_several_consumers(edition: Edition, servers: Servers) -> None:
    """Each page goes to one of them, and the end comes to all; the server restarts meanwhile."""
    async with servers(LocalRedis()) as server:
        keys = await server.fill(KEYS)
        shares: list[list[bytes]] = [[], [], []]
        restarted = anyio.Event()

        async def consume(own: Any, share: list[bytes]) -> None:
            async with own:
                async for page in own:
                    share += page.keys
                    if len(share) > KEYS // 10:
                        await restarted.wait()

        async with edition.package.RedisClient(server.address) as client, client.open_scan(**SLOWLY) as pages:
            async with anyio.create_task_group() as task_group:
                for share in shares:
                    task_group.start_soon(consume, pages.clone(), share)
                await until(lambda: all(len(share) > KEYS // 10 for share in shares))
                await server.restart()
                restarted.set()
            assert pages.summary.complete
        found = [key for share in shares for key in share]
        assert set(found) == keys
        assert len(found) == pages.summary.keys
        assert pages.summary.epoch == 1


async def test_it_may_be_forbidden_to_begin_again(edition: Edition, servers: Servers) -> None:
    """And what ended a scan is said again to whoever asks again."""
    async with servers(LocalRedis()) as server:
        await server.fill(KEYS)
        async with (
            edition.package.RedisClient(server.address) as client,
            client.open_scan(**SLOWLY, on_failover="raise") as pages,
        ):
            await pages.receive()
            await server.restart()
            for _ in range(2):
                with pytest.raises(ScanInterrupted) as caught:
                    await take(pages, [])
                assert not isinstance(caught.value, ExceptionGroup)
            assert not pages.summary.complete


async def test_what_is_left_in_the_middle_leaves_nothing(edition: Edition, servers: Servers) -> None:
    """By break, by an error of the body's, which comes out as it is, and by a cancellation."""
    async with servers(LocalRedis()) as server:
        await server.fill(KEYS)
        async with edition.package.RedisClient(server.address) as client:
            async with client.open_scan(count=10) as pages:
                async for _ in pages:
                    break
            with pytest.raises(KeyError, match="mine"):  # noqa: PT012 (the block is what is tested)
                async with client.open_scan(count=10) as pages:
                    await pages.receive()
                    raise KeyError("mine")
            with anyio.CancelScope() as scope:
                async with client.open_scan(count=10) as pages:
                    await pages.receive()
                    scope.cancel()
                    await pages.receive()
            assert scope.cancelled_caught
            with pytest.raises(edition.closed):
                await pages.receive()
            assert await client.dbsize() == KEYS


async def test_details_collections_and_iterators(edition: Edition, servers: Servers) -> None:
    async with servers(LocalRedis()) as server, edition.package.RedisClient(server.address) as client:
        names = {b"%d" % number for number in range(KEYS)}
        await client.hset("h", mapping=dict.fromkeys(names, b"v"))
        await client.sadd("s", *names)
        async with client.open_scan(with_=("type", "ttl")) as pages:
            details = {key: found.type async for page in pages for key, found in page.details.items()}
        assert details == {b"h": "hash", b"s": "set"}
        assert {name async for name in client.sscan_iter("s")} == names
        assert {key async for key in client.scan_iter()} == {b"h", b"s"}
        members: set[bytes] = set()
        async with client.open_sscan("s", count=100) as of_set:
            async for page in of_set:
                members.update(page)
        assert members == names
