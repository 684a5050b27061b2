"""More of the same, and bigger: whatever happens to the master, at whatever moment, on every server that is at hand.

Here the moment is left to chance, seeded, and what the scan must have gone through is read from the Sentinels' logs.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.real.scenes import Account, identity_of, open_stage

if TYPE_CHECKING:
    import trio

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.full]

KEYS = 50_000


@pytest.mark.parametrize("what", ["kill", "pause", "failover", "restart"])
async def test_200_000_keys(nursery: trio.Nursery, each_server_binary: ServerBinary, what: str) -> None:
    async with open_stage(nursery, keys=200_000, replicas=2, binary=each_server_binary) as stage:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with stage.client() as client, client.open_scan(count=1000, segments=1) as pages:
            await account.take(pages, 100)
            await getattr(stage.service, what)()
            await account.take_the_rest(pages)
        after = await identity_of(await stage.service.master())
        account.check_complete(pages.summary, stage.keys, epoch=1)
        if what == "restart":
            account.check_server_restart(pages.summary, before, after)
        else:
            account.check_master_change(pages.summary, before, after)


@pytest.mark.parametrize("seed", range(6))
async def test_at_any_moment(nursery: trio.Nursery, each_server_binary: ServerBinary, seed: int) -> None:
    """With the quick Sentinels of the harness, of which now and then one failover brings on another."""
    dice = random.Random(seed)
    async with open_stage(nursery, keys=KEYS, replicas=2, down_after=1.0, binary=each_server_binary) as stage:
        account: Account[bytes] = Account()
        count, prefetch = dice.choice([100, 300, 1_000]), dice.choice([0, 1, 2, 100])
        async with stage.client() as client, client.open_scan(count=count, prefetch=prefetch, segments=1) as pages:
            await account.take(pages, dice.randrange(KEYS // count))
            restarted = False
            match dice.choice(["kill", "pause", "failover", "restart", "break"]):
                case "kill":
                    await stage.service.kill()
                case "pause":
                    await stage.service.pause()
                case "failover":
                    await stage.service.failover()
                case "restart":
                    await stage.service.restart()
                    restarted = True
                case _:
                    stage.proxy(stage.first).reset_all()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=pages.summary.epoch)
        assert pages.summary.epoch <= stage.switches() + restarted
        master = await stage.service.master()
        if stage.switches() <= 1:
            assert pages.summary.server == await identity_of(master)


@pytest.mark.parametrize("seed", range(3))
async def test_one_after_the_other(nursery: trio.Nursery, each_server_binary: ServerBinary, seed: int) -> None:
    """A scan that loses its master three times: planned, restarted, killed."""
    dice = random.Random(seed)
    async with open_stage(nursery, keys=KEYS, replicas=2, binary=each_server_binary) as stage:
        account: Account[bytes] = Account()
        async with stage.client() as client, client.open_scan(count=200, prefetch=0, segments=1) as pages:
            await account.take(pages, dice.randrange(1, 100))
            await stage.service.failover()
            await account.take(pages, dice.randrange(1, 100))
            await stage.service.restart()
            await account.take(pages, dice.randrange(1, 100))
            await stage.depose(kill=True)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=3)
        assert pages.summary.server == await identity_of(await stage.service.master())
