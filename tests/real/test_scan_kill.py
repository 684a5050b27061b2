"""The master dies (SIGKILL): the scan begins again on the next one, and ends only when it is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.proxy import is_page, names
from tests.real.scenes import Account, identity_of, open_stage

if TYPE_CHECKING:
    import trio

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

KEYS = 2_000


@pytest.mark.smoke
async def test_between_pages(nursery: trio.Nursery, each_server_binary: ServerBinary) -> None:
    """Nobody is told: the Sentinels notice by themselves. On every server that is at hand.

    (So it is up to them how they go about it: an election may need a second epoch, and where a machine lets them starve
    they may replace the new master as well. Each pass has one of their changes for its reason, and no more.)
    """
    async with open_stage(nursery, keys=KEYS, replicas=2, binary=each_server_binary) as stage:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with stage.client() as client, client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 5)
            old = await stage.service.kill()
            assert old is stage.first
            await account.take_the_rest(pages)
        new = await stage.service.master()
        switches, epoch = stage.switches(), pages.summary.epoch
        assert 1 <= epoch <= switches
        account.check_complete(pages.summary, stage.keys, epoch=epoch)
        assert pages.summary.restarts[0].old_server == before
        if switches == 1:
            account.check_master_change(pages.summary, before, await identity_of(new))
        assert account.epochs[0] == 0
        assert account.epochs[-1] == epoch
        assert len(account.keys(0)) < KEYS
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.basis, certificate.role) == ("sentinels", "master")
        assert certificate.config_epoch is not None
        assert certificate.config_epoch >= epoch
        assert certificate.sentinels_known == 3
        assert certificate.sentinels_agreeing >= 2


@pytest.mark.parametrize("answered", [False, True], ids=["scan_not_executed", "reply_on_its_way"])
async def test_while_a_scan_is_in_flight(nursery: trio.Nursery, answered: bool) -> None:
    """In the one case the client sees the connection end, in the other it waits for a reply that never comes."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        proxy = stage.proxy(stage.first)
        stop = proxy.stop_reply(is_page, skip=5) if answered else proxy.stop_request(names("SCAN"), skip=5)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages:
            await account.take(pages, 3)
            await stop.reached.wait()
            old, new = await stage.depose(kill=True)
            assert old is stage.first
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert account.epochs == [0, 1]
        assert len(account.keys(0)) < KEYS


async def test_commands_in_the_loop_all_the_way_through(nursery: trio.Nursery) -> None:
    """The loop reads each page's values with the same client, while the master dies and the next one takes over."""
    async with open_stage(nursery) as stage:
        stage.keys = await stage.service.fill(KEYS, value=b"value")
        account: Account[bytes] = Account()
        async with stage.client() as client, client.open_scan(count=100, segments=1) as pages:
            async for page in pages:
                account.note(page)
                if len(account.pages) == 3:
                    await stage.service.kill()
                values = await client.mget(page.keys)
                assert values == [b"value"] * len(page)
        new = await stage.service.master()
        account.check_complete(pages.summary, stage.keys, epoch=1)
        assert pages.summary.server == await identity_of(new)


async def test_commands_follow_the_master_as_the_scan_does(nursery: trio.Nursery) -> None:
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages)
            _, new = await stage.depose(kill=True)
            await account.take_the_rest(pages)
            assert await client.set("written", "after") is True
            assert await client.dbsize() == KEYS + 1
            assert (await client.info("server"))["run_id"] == await new.run_id()
        account.check_complete(pages.summary, stage.keys, epoch=1)
