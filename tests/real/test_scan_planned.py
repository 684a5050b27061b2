"""A planned failover: the old master is well, and goes on answering as a master for some ten seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.scenes import Account, identity_of, open_booth, open_stage, until_followed
from trio_sentinel_scan import RedisClient, ServerUnavailable
from trio_sentinel_scan.testing import LocalRedis

if TYPE_CHECKING:
    import trio

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

KEYS = 2_000


async def test_none_of_the_old_masters_pages_after_the_change(
    nursery: trio.Nursery, each_server_binary: ServerBinary
) -> None:
    async with open_stage(nursery, keys=KEYS, binary=each_server_binary) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        old_proxy = stage.proxy(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=3, segments=1) as pages:
            await account.take(pages, 5)
            new = await stage.service.failover()
            await until_followed(client, new)
            asked_of_the_old_one = len(old_proxy.scans)
            assert await stage.first.role() == "master"
            await account.take(pages)
            assert account.pages[-1].epoch == 1
            assert account.pages[-1].server == await identity_of(new)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert len(account.keys(0)) < KEYS
        assert len(old_proxy.scans) == asked_of_the_old_one
        # It would have answered. What is more, it has not even the connection any more.
        assert await stage.first.role() == "master"
        assert old_proxy.links == []
        assert stage.switches() == 1


async def test_the_new_masters_keys_are_what_counts(nursery: trio.Nursery) -> None:
    """What was written to the new master before its pass began is delivered; the old one's own is not."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            new_proxy = stage.proxy(stage.service.nodes[1])
            new_proxy.swallow()
            new = await stage.service.failover()
            late = await new.fill(100, "late:")
            lost = await stage.first.fill(100, "lost:")
            new_proxy.pass_on()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys | late, epoch=1)
        assert not lost & set(account.keys())


async def test_with_replicas_that_follow(nursery: trio.Nursery) -> None:
    """Two replicas: one is promoted, the other one turns to it. Both lose their connections for it.

    (And here the addresses are mapped by a function.)
    """
    async with (
        open_stage(nursery, keys=KEYS, replicas=2) as stage,
        stage.client(address_map=lambda address: stage.address_map.get(address, address)) as client,
    ):
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 5)
            new = await stage.service.failover()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))


async def test_a_master_that_is_demoted_by_hand(nursery: trio.Nursery) -> None:
    """No event tells of it and no connection ends. The certificate finds out, if nothing does before.

    (The ROLE that rides along is mostly too late for a scan this short; Valkey's own word, REDIRECT, is not.)
    """
    async with open_stage(nursery, keys=KEYS) as stage, stage.client(failover_timeout=1.0) as client:
        first, second = stage.service.nodes
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            await second.execute("REPLICAOF", "NO", "ONE")
            await first.execute("REPLICAOF", *second.address)
            with pytest.raises(ServerUnavailable, match="its role is slave"):
                await account.take_the_rest(pages)
        account.check_summary(pages.summary)
        assert not pages.summary.complete
        (restart,) = pages.summary.restarts
        assert "the server's role is slave" in restart.reason or "REDIRECT" in restart.reason
        # A ROLE that rides along may be in time after all, on a machine that is busy.
        assert "no certificate" not in restart.reason or set(account.keys(0)) == stage.keys


async def test_a_replica_that_is_promoted(nursery: trio.Nursery) -> None:
    """A client of one server, which was a replica: the keys are the same, and what they are worth is not."""
    async with open_booth(nursery, keys=KEYS) as booth:
        async with LocalRedis(replica_of=booth.server.address) as replica:
            await replica.wait_until_ready()
            async with RedisClient(replica.address) as client:
                while (await client.info("replication"))["master_link_status"] != "up":
                    pass
                account: Account[bytes] = Account()
                async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
                    await account.take(pages, 3)
                    await client.execute_command("REPLICAOF", "NO", "ONE")
                    await account.take_the_rest(pages)
        account.check_complete(pages.summary, booth.keys, epoch=1)
        # By the ROLE that rides along, or by the certificate's.
        assert pages.summary.restarts[0].reason.endswith("the server's role is master, it was slave")
        certificate = pages.summary.certificate
        assert certificate is not None
        assert certificate.role == "master"
