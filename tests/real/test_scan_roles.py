"""A master that is made a replica by hand, in mid-scan: nothing is published, and the next ROLE tells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import pytest
import trio

from tests.real.scenes import Account, Stage, identity_of, open_booth, open_stage, until, until_master
from trio_sentinel_scan import RedisClient
from trio_sentinel_scan._core import sweep
from trio_sentinel_scan.testing import LocalRedis

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

KEYS = 20_000


async def until_synced(replica: LocalRedis) -> None:
    """Wait until it has all that its master has."""
    while True:
        if (await replica.info("replication")).get("master_link_status") == "up":
            return
        await trio.sleep(0.01)


@pytest.mark.parametrize("way", ["FAILOVER", "REPLICAOF"])
@pytest.mark.parametrize("segments", [1, "auto"])
async def test_the_server_of_a_client_without_sentinels(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, way: str, segments: int | Literal["auto"]
) -> None:
    """It is another one's image from now on: what it had as a master counts no more."""
    # With each round, instead of four times a second.
    monkeypatch.setattr(sweep, "ROLE_PERIOD", 0.0)
    async with open_booth(nursery, keys=KEYS) as booth, LocalRedis(replica_of=booth.server.address) as other:
        await until_synced(other)
        server = await identity_of(booth.server)
        async with RedisClient(booth.server.address) as client:
            account: Account[bytes] = Account()
            async with client.open_scan(count=100, prefetch=0, segments=segments) as pages:
                await account.take(pages, 3)
                if way == "FAILOVER":
                    await booth.server.execute("FAILOVER")
                    await until_master(other)
                else:
                    await other.execute("REPLICAOF", "NO", "ONE")
                    await booth.server.execute("REPLICAOF", *other.address)
                handed_out = pages.summary.pages
                await account.take_the_rest(pages)
            account.check_complete(pages.summary, booth.keys, epoch=1)
        (restart,) = pages.summary.restarts
        assert restart.reason == "the server's role is slave, it was master"
        assert restart.old_server == server
        # What was on its way already, and nothing else, came from the demoted one.
        assert sum(page.epoch == 0 for page in account.pages) <= handed_out + 3
        assert pages.summary.certificate is not None
        assert pages.summary.certificate.role == "slave"


async def demote_by_hand(stage: Stage, way: str) -> LocalRedis:
    """Exchange master and replica behind the Sentinels' backs; returns the new master."""
    first, second = stage.service.nodes
    if way == "FAILOVER":
        await first.execute("FAILOVER")
        await until_master(second)
    else:
        await second.execute("REPLICAOF", "NO", "ONE")
        await first.execute("REPLICAOF", *second.address)
    return second


@pytest.mark.parametrize("way", ["FAILOVER", "REPLICAOF"])
@pytest.mark.parametrize("told", ["by ROLE", "by anything"])
async def test_the_master_of_a_service(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, each_server_binary: ServerBinary, way: str, told: str
) -> None:
    """It is left at once, long before the Sentinels notice; when they do, the new master is scanned."""
    # With each round, instead of four times a second; or never, where the server itself tells (REDIRECT).
    redirects = each_server_binary.product == "valkey" and told == "by anything"
    monkeypatch.setattr(sweep, "ROLE_PERIOD", math.inf if redirects else 0.0)
    async with open_stage(nursery, keys=KEYS, binary=each_server_binary) as stage:
        await stage.service.wait_until_ready()
        first = stage.first
        before = await identity_of(first)
        proxy = stage.proxy(first)
        account: Account[bytes] = Account()
        async with stage.client() as client, client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            new = await demote_by_hand(stage, way)
            handed_out = pages.summary.pages
            async with trio.open_nursery() as scanning:
                scanning.start_soon(account.take_the_rest, pages)
                await until(lambda: pages.summary.epoch)
                asked = len(proxy.scans)
                # It goes on answering, to whoever asks.
                assert await first.role() == "slave"
                await stage.order_failover()
                assert await stage.service.wait_for_new_master(first) is new
        # Once by its own word, and once more because the Sentinels have named another.
        account.check_complete(pages.summary, stage.keys, epoch=2)
        account.check_master_change(pages.summary, None, await identity_of(new))
        left = pages.summary.restarts[0]
        assert left.old_server == before
        assert left.reason in {
            "the server's role is slave, it was master",
            "the server is no master any more: it answers REDIRECT",
        }
        if redirects:
            assert "REDIRECT" in left.reason
        # What was on its way already, and nothing else, came from the demoted one.
        assert sum(page.epoch == 0 for page in account.pages) <= handed_out + 3
        assert len(proxy.scans) == asked


async def test_commands_are_redirected(nursery: trio.Nursery, each_server_binary: ServerBinary) -> None:
    """On Valkey, one that only reads does not read what the demoted master has: it waits for the new one."""
    async with open_stage(nursery, keys=1, binary=each_server_binary) as stage, stage.client() as client:
        await stage.service.wait_until_ready()
        await client.set("answer", "of the old master")
        new = await demote_by_hand(stage, "REPLICAOF")
        # (Where it is followed, it would be the same; so what is there now is written past the replication.)
        await stage.first.execute("REPLICAOF", "127.0.0.1", 1)
        await new.execute("SET", "answer", "of the new master")
        if each_server_binary.product != "valkey":
            assert await client.get("answer") == b"of the old master"
            return
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await client.get("answer"))

        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await stage.order_failover()
        assert answers == [b"of the new master"]
