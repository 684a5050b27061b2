"""A failover while the cursor is 0: "at the start" must not be taken for "at the end"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.proxy import is_page
from tests.real.scenes import Account, consuming, identity_of, open_stage, until_followed

if TYPE_CHECKING:
    import trio

pytestmark = pytest.mark.trio

KEYS = 2_000


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "planned"])
async def test_before_the_first_reply(nursery: trio.Nursery, kill: bool) -> None:
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        stop = stage.proxy(stage.first).stop_reply(is_page)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages:
            await stop.reached.wait()
            _, new = await stage.depose(kill=kill)
            await until_followed(client, new)
            stop.release()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert account.epochs == [1]
        account.check_without_duplicates()


async def test_right_after_a_restart(nursery: trio.Nursery) -> None:
    """The scan has begun again on the next master, which dies before its first reply."""
    async with open_stage(nursery, keys=KEYS, replicas=2) as stage, stage.client() as client:
        first = await identity_of(stage.first)
        second_proxies = [stage.proxy(node) for node in stage.service.nodes[1:]]
        stops = [proxy.stop_reply(is_page) for proxy in second_proxies]
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            _, second = await stage.depose(kill=True)
            stop = stops[second_proxies.index(stage.proxy(second))]
            for other in stops:
                if other is not stop:
                    other.release()
            between = await identity_of(second)
            async with consuming(pages, account):
                await stop.reached.wait()
                assert pages.summary.epoch == 1
                _, third = await stage.depose(kill=True)
        account.check_complete(pages.summary, stage.keys, epoch=2)
        account.check_master_change(pages.summary, between, await identity_of(third))
        assert pages.summary.restarts[0].old_server == first
        assert pages.summary.restarts[0].new_server == between
        # Epoch 1 has not handed out a single page.
        assert account.epochs == [0, 2]
        assert pages.summary.restarts[0].first_page_after is None


async def test_before_there_is_any_connection(nursery: trio.Nursery) -> None:
    """The master dies between the client's opening and the scan's: the first pass never finds a process."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        await stage.first.kill()
        await stage.order_failover()
        async with client.open_scan(count=100, segments=1) as pages:
            account: Account[bytes] = Account()
            await account.take_the_rest(pages)
        new = await stage.service.master()
        account.check_complete(pages.summary, stage.keys, epoch=pages.summary.epoch)
        assert pages.summary.server == await identity_of(new)
        assert pages.summary.epoch <= 1
