"""A failover at the end of a pass: cursor 0 has come, or is coming, and still that is not the end of the scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.proxy import is_last_page, names
from tests.real.scenes import Account, consuming, identity_of, open_stage, until_followed, until_in, until_master
from trio_sentinel_scan._core.scan_states import State

if TYPE_CHECKING:
    import trio

pytestmark = pytest.mark.trio

KEYS = 2_000


async def test_cursor_0_comes_from_the_dead_master(nursery: trio.Nursery) -> None:
    """Nobody knows of its death yet, so its last page is handed out. It cannot be certified."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        stop = stage.proxy(stage.first).stop_reply(is_last_page)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages, consuming(pages, account):
            await stop.reached.wait()
            await stage.first.kill()
            stop.release()
            await until_in(pages, State.BACKING_OFF)
            assert account.pages[-1].position == 1.0
            assert set(account.keys()) == stage.keys
            await stage.order_failover()
        new = await stage.service.master()
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert account.epochs == [0, 1]
        assert len(account.keys()) == 2 * KEYS


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "planned"])
async def test_cursor_0_comes_after_the_news(nursery: trio.Nursery, kill: bool) -> None:
    """The reply waited on the way while the master was replaced: nobody wants it any more."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        stop = stage.proxy(stage.first).stop_reply(is_last_page)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages, consuming(pages, account):
            await stop.reached.wait()
            _, new = await stage.depose(kill=kill)
            await until_followed(client, new)
            stop.release()
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert account.epochs == [0, 1]
        assert len(account.keys(0)) < KEYS


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "planned"])
async def test_while_pages_wait_in_the_channel(nursery: trio.Nursery, kill: bool) -> None:
    """The pass was swept, and all but one of its pages wait: none of them is handed out after the news."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=1000, segments=1) as pages:
            await account.take(pages)
            await until_in(pages, State.DRAINING)
            in_hand = len(account.keys())
            _, new = await stage.depose(kill=kill)
            await until_followed(client, new)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert len(account.keys(0)) == in_hand
        assert len(stage.proxy(stage.first).scans) > 10


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "planned"])
async def test_after_the_last_page_was_taken(nursery: trio.Nursery, kill: bool) -> None:
    """Everything was handed out, and the certificate is being asked for."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages:
            await account.take(pages)
            # (Only the certificate asks that. ROLE also rides along, where a scan takes long.)
            asked = stage.proxy(stage.first).stop_request(names("INFO"))
            async with consuming(pages, account):
                await asked.reached.wait()
                assert set(account.keys()) == stage.keys
                _, new = await stage.depose(kill=kill)
                asked.release()
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert len(account.keys()) == 2 * KEYS


async def test_between_the_promotion_and_the_news(nursery: trio.Nursery) -> None:
    """For about a second after a planned failover both are masters, and no Sentinel says so yet.

    A pass that ends in that second is not complete. The scan waits for the news; it does not sweep the old master over
    and over.
    """
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        (replica,) = stage.service.nodes[1:]
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=1000, segments=1) as pages:
            await account.take(pages)
            await until_in(pages, State.DRAINING)
            await stage.order_failover()
            await until_master(replica)
            async with consuming(pages, account):
                await until_in(pages, State.HESITATING)
                await stage.service.wait_for_new_master(stage.first)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(replica))
        # The old master was swept once.
        assert account.epochs == [0, 1]
        assert len(account.keys()) == 2 * KEYS
