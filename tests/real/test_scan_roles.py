"""A master that is made a replica by hand, in mid-scan: nothing is published, and the next ROLE tells."""

from __future__ import annotations

from typing import Literal

import pytest
import trio

from tests.real.scenes import Account, identity_of, open_booth, until_master
from trio_sentinel_scan import RedisClient
from trio_sentinel_scan._core import sweep
from trio_sentinel_scan.testing import LocalRedis

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
