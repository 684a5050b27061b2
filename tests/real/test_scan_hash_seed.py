"""`hash_seed_shared`: nodes with one hash-seed, and without; failovers and restarts in mid-scan."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.real.scenes import DOWN_AFTER, HANG, identity_of, until_followed
from trio_sentinel_scan import HashSeedMismatch, RedisClient, ScanPages, SentinelClient
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan.testing import CommandFailed, LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

KEYS = 20_000
SEED = "one-seed-for-all"
SHARED: dict[str, Any] = {"hash_seed_shared": True, "prefetch": 0}
ONE_CHAIN: dict[str, Any] = {**SHARED, "segments": 1, "count": 100}


@asynccontextmanager
async def open_service(binary: ServerBinary) -> AsyncGenerator[LocalSentinel]:
    """A service whose nodes have one hash-seed."""
    config = {"hash-seed": SEED}
    with trio.fail_after(HANG):
        async with LocalSentinel(replicas=2, down_after=DOWN_AFTER, binary=binary, config=config) as local:
            yield local


@asynccontextmanager
async def open_server(binary: ServerBinary, seed: str | None = SEED, **options: Any) -> AsyncGenerator[LocalRedis]:
    """One server with this hash-seed, or none."""
    config = {} if seed is None else {"hash-seed": seed}
    with trio.fail_after(HANG):
        async with LocalRedis(binary=binary, config=config, **options) as server:
            yield server


async def restart_with_another_seed(server: LocalRedis, seed: str) -> None:
    """Its data stays."""
    configuration = server.log_path.parent / "server.conf"
    configuration.write_text(configuration.read_text().replace(SEED, seed))
    await server.restart()


async def half(pages: ScanPages[bytes]) -> list[bytes]:
    """What comes until half of the hash space is covered, or more."""
    found: list[bytes] = []
    while len(found) < KEYS // 2:
        found += await pages.receive()
    return found


async def rest(pages: ScanPages[bytes]) -> list[bytes]:
    """What comes until the end."""
    return [key async for page in pages for key in page]


async def order_failover(local: LocalSentinel, *how: str) -> None:
    """Of a master that may be well."""
    while True:
        for node in local.sentinel_nodes:
            with suppress(CommandFailed):
                await node.execute("SENTINEL", "FAILOVER", local.service, *how)
                return
        await trio.sleep(0.05)


# ---- one seed ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "planned", "coordinated"])
@pytest.mark.parametrize("options", [SHARED, ONE_CHAIN], ids=["segments", "one chain"])
async def test_a_failover(hash_seed_binary: ServerBinary, how: str, options: dict[str, Any]) -> None:
    """The epoch survives, the new master goes on, and nothing is lost."""
    async with open_service(hash_seed_binary) as local:
        keys = await local.fill(KEYS)
        await local.wait_replicated()
        old = await local.master()
        async with (
            SentinelClient(local.sentinels, local.service) as client,
            client.open_scan(on_failover="raise", **options) as pages,
        ):
            found = await half(pages)
            if how == "kill":
                await old.kill()
            await order_failover(local, *(["COORDINATED"] if how == "coordinated" else []))
            new = await local.wait_for_new_master(old)
            await until_followed(client, new)
            found += await rest(pages)
            summary = pages.summary
        assert set(found) == keys
        # It went on where it was: what came twice is a round or two.
        assert len(found) < KEYS * 1.2
        assert (summary.complete, summary.epoch, summary.restarts) == (True, 0, ())
        assert summary.moves >= 1
        assert summary.server == await identity_of(new)
        assert summary.certificate is not None
        assert summary.certificate.server == summary.server


@pytest.mark.parametrize("options", [SHARED, ONE_CHAIN], ids=["segments", "one chain"])
async def test_a_restart_at_the_same_address(hash_seed_binary: ServerBinary, options: dict[str, Any]) -> None:
    """Another process, with its data and its seed."""
    async with open_server(hash_seed_binary) as server:
        keys = await server.fill(KEYS)
        async with RedisClient(server.address) as client:
            async with client.open_scan(**options) as pages:
                found = await half(pages)
                await server.restart()
                found += await rest(pages)
            assert set(found) == keys
            assert len(found) < KEYS * 1.1
            assert (pages.summary.epoch, pages.summary.moves) == (0, 1)

            # Without the argument, it is a new epoch: nothing is guessed.
            async with client.open_scan(prefetch=0) as pages:
                await half(pages)
                await server.restart()
                await rest(pages)
            assert (pages.summary.epoch, pages.summary.moves) == (1, 0)


@pytest.mark.parametrize("role", [False, True], ids=["no CONFIG", "no CONFIG, no ROLE"])
async def test_a_user_who_may_not_ask(hash_seed_binary: ServerBinary, role: bool) -> None:
    """The caller's word counts; but without ROLE nobody can tell what of the old process is beyond doubt."""
    acl = {"scanner": "on >secret ~* &* +@all -config" + " -role -hello" * role}
    async with open_server(hash_seed_binary, acl=acl) as server:
        keys = await server.fill(KEYS)
        async with (
            RedisClient(server.address, username="scanner", password="secret", protocol=2) as client,
            client.open_scan(**ONE_CHAIN) as pages,
        ):
            found = await half(pages)
            await server.restart()
            found += await rest(pages)
        assert set(found) == keys
        assert (pages.summary.epoch, pages.summary.moves) == ((1, 0) if role else (0, 1))


async def test_a_checkpoint_after_a_restart(hash_seed_binary: ServerBinary) -> None:
    """Another client goes on from it at another process."""
    async with open_server(hash_seed_binary) as server:
        keys = await server.fill(KEYS)
        async with RedisClient(server.address) as client, client.open_scan(**ONE_CHAIN) as pages:
            page = await pages.receive()
            done = set(page)
            while len(done) < KEYS // 2:
                page = await pages.receive()
                done.update(page)
            text = page.checkpoint
        await server.restart()
        async with (
            RedisClient(server.address) as client,
            client.open_scan(resume=text, on_failover="raise", **ONE_CHAIN) as pages,
        ):
            found = await rest(pages)
        assert done | set(found) == keys
        assert len(done) + len(found) < KEYS * 1.1

        await restart_with_another_seed(server, "quite-another-one")
        async with RedisClient(server.address) as client, client.open_scan(resume=text, **ONE_CHAIN) as pages:
            with pytest.raises(HashSeedMismatch, match="than the server of the checkpoint"):
                await pages.receive()


# ---- no seed, or not one -------------------------------------------------------------------------------------------


async def test_a_server_without_one(each_server_binary: ServerBinary) -> None:
    """Redis knows none, and Valkey draws one by lot unless it is given one: either contradicts."""
    knows = each_server_binary.product == "valkey" and each_server_binary.version_info >= (9, 1)
    words = "has no hash-seed set" if knows else "knows no hash-seed"
    async with open_server(each_server_binary, None) as server, RedisClient(server.address) as client:
        async with client.open_scan(hash_seed_shared=True) as pages:
            with pytest.raises(HashSeedMismatch, match=words) as caught:
                await pages.receive()
        assert str(server.port) in str(caught.value)
        assert "or scan without hash_seed_shared" in str(caught.value)
        assert (await client.info("commandstats")).get("cmdstat_scan") is None


async def test_another_seed_in_mid_scan(hash_seed_binary: ServerBinary) -> None:
    async with open_server(hash_seed_binary) as server:
        await server.fill(KEYS)
        async with RedisClient(server.address) as client, client.open_scan(**ONE_CHAIN) as pages:
            await half(pages)
            await restart_with_another_seed(server, "quite-another-one")
            with pytest.raises(HashSeedMismatch, match="has another hash-seed") as caught:
                await rest(pages)
        assert SEED not in str(caught.value)
        assert "quite-another-one" not in str(caught.value)


async def test_without_the_servers_being_asked(hash_seed_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard, switched off: each process has drawn its own seed, and a quarter of the keys is lost silently."""
    monkeypatch.setattr(ScanPlan, "_contradiction", lambda plan, found: "")
    async with open_server(hash_seed_binary, None) as server:
        keys = await server.fill(KEYS)
        async with RedisClient(server.address) as client, client.open_scan(**ONE_CHAIN) as pages:
            found = await half(pages)
            await server.restart()
            found += await rest(pages)
        assert pages.summary.complete
        assert pages.summary.epoch == 0
        assert 0.15 < len(keys - set(found)) / KEYS < 0.35
