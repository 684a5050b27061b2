"""Sentinels at odds with the truth: stale, of another mind, reset, cut off, or talking of something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.scenes import (
    HANG,
    Account,
    consuming,
    drain,
    identity_of,
    open_stage,
    until,
    until_followed,
    until_in,
    until_master,
)
from trio_sentinel_scan import (
    SentinelClient,
)
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._trio import sentinel as sentinel_module
from trio_sentinel_scan._trio.sentinel import SentinelMonitor
from trio_sentinel_scan.testing import CommandFailed, LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from tests.real.scenes import Stage
    from trio_sentinel_scan._core.scan_steps import Target
    from trio_sentinel_scan._core.topology import Votes

pytestmark = pytest.mark.trio

KEYS = 2_000


async def test_one_was_stopped_and_is_stale(nursery: trio.Nursery) -> None:
    """It sleeps through the failover, and wakes up with the old master on its lips."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        sleeper = stage.service.sentinel_nodes[2]
        # What it had said before it fell asleep arrives when all is over.
        stale = stage.proxy(sleeper).stop_reply(lambda data: b"config-epoch" in data)
        await stale.reached.wait()
        await sleeper.pause()
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            _, new = await stage.depose(kill=True)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.sentinels_agreeing, certificate.sentinels_known) == (2, 3)
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            again: Account[bytes] = Account()
            await again.take(pages, 3)
            stale.release()
            await sleeper.resume()
            name = "{}:{}".format(*stage.proxy(sleeper).address)
            await until(lambda: client._monitor.describe()[name].startswith("names"))
            await again.take_the_rest(pages)
        again.check_complete(pages.summary, stage.keys, epoch=0)
        assert pages.summary.server == await identity_of(new)


async def test_one_names_the_master_of_an_old_epoch(nursery: trio.Nursery) -> None:
    """It is of another mind, for good, and it is asked first: it cannot talk anybody into the old master."""
    async with (
        open_stage(nursery, keys=KEYS) as stage,
        LocalSentinel(replicas=0, sentinels=1, service=stage.service.service) as strange,
    ):
        old = await stage.service.pause()
        await stage.order_failover()
        new = await stage.service.wait_for_new_master(old)
        (stranger,) = strange.sentinel_nodes
        # The old master hangs, so it cannot tell the stranger that it was replaced.
        await stranger.execute("SENTINEL", "REMOVE", "mymaster")
        await stranger.execute("SENTINEL", "MONITOR", "mymaster", *old.address, 1)
        async with SentinelClient([*strange.sentinels, *stage.service.sentinels], "mymaster") as client:
            async with client.open_scan(count=100, segments=1) as pages:
                account = await drain(pages)
            account.check_complete(pages.summary, stage.keys, epoch=0)
            assert await stranger.master_address() == old.address
        assert pages.summary.server == await identity_of(new)
        certificate = pages.summary.certificate
        assert certificate is not None
        # The third may not have heard yet of the failover; the stranger is not among those that are counted.
        assert certificate.sentinels_agreeing >= 2
        assert certificate.sentinels_known == 3
        assert certificate.config_epoch == 1


async def monitor_anew(stage: Stage, address: tuple[str, int]) -> None:
    for sentinel in stage.service.sentinel_nodes:
        await sentinel.execute("SENTINEL", "REMOVE", "mymaster")
    for sentinel in stage.service.sentinel_nodes:
        await sentinel.execute("SENTINEL", "MONITOR", "mymaster", *address, 2)


async def test_all_are_reset_to_the_same_master(nursery: trio.Nursery) -> None:
    """After REMOVE and MONITOR epochs begin again at 0: nothing has changed, and nothing begins again."""
    async with open_stage(nursery, keys=KEYS) as stage:
        _, new = await stage.depose(kill=True)
        async with stage.client() as client:
            account: Account[bytes] = Account()
            async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
                await account.take(pages, 3)
                await monitor_anew(stage, new.address)
                await account.take_the_rest(pages)
            account.check_complete(pages.summary, stage.keys, epoch=0)
            assert pages.summary.server == await identity_of(new)
            certificate = pages.summary.certificate
            assert certificate is not None
            assert certificate.sentinels_agreeing >= 2
            view = client._monitor.topology.view
            assert view is not None
            assert view.config_epoch == 0


@pytest.mark.slow
async def test_all_are_reset_to_another_master(nursery: trio.Nursery) -> None:
    """The roles were changed by hand, and the Sentinels told so: a majority and the server's own role decide."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        first, second = stage.service.nodes
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            for sentinel in stage.service.sentinel_nodes:
                await sentinel.execute("SENTINEL", "REMOVE", "mymaster")
            await second.execute("REPLICAOF", "NO", "ONE")
            await first.execute("REPLICAOF", *second.address)
            for sentinel in stage.service.sentinel_nodes:
                await sentinel.execute("SENTINEL", "MONITOR", "mymaster", *second.address, 2)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=pages.summary.epoch)
        assert pages.summary.server == await identity_of(second)
        assert 1 <= pages.summary.epoch <= 2


async def test_another_service_of_the_same_sentinels(nursery: trio.Nursery) -> None:
    """Its failover is no concern of ours, though its events come by the same channels."""
    async with (
        open_stage(nursery, keys=KEYS) as stage,
        LocalRedis() as other,
        LocalRedis(replica_of=other.address) as replica,
        stage.client() as client,
    ):
        for sentinel in stage.service.sentinel_nodes:
            await sentinel.execute("SENTINEL", "MONITOR", "mymaster2", *other.address, 2)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            while True:
                try:
                    await stage.service.sentinel_nodes[0].execute("SENTINEL", "FAILOVER", "mymaster2")
                    break
                except CommandFailed:
                    await trio.sleep(0.05)
            await until(stage.switches)
            await until_master(replica)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=0)
        account.check_without_duplicates()


async def test_what_was_asked_before_the_certificate_proves_nothing(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of before the failover are on their way for long, and come in the very moment of the certificate."""
    vote = SentinelMonitor.vote
    asked = trio.Event()

    async def noted_vote(monitor: SentinelMonitor, target: Target) -> Votes:
        asked.set()
        return await vote(monitor, target)

    monkeypatch.setattr(SentinelMonitor, "vote", noted_vote)
    # Otherwise the client would give up these answers after two seconds, and ask again.
    monkeypatch.setattr(sentinel_module, "PATIENCE", HANG)
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        stops = [proxy.stop_reply(lambda data: b"config-epoch" in data) for proxy in stage.sentinel_proxies]
        for stop in stops:
            await stop.reached.wait()
        _, new = await stage.depose()
        late = await new.fill(100, "late:")
        account: Account[bytes] = Account()
        # The pass begins when the promoted replica has left the old master: nothing but the votes can tell.
        async with client.open_scan(count=100, segments=1) as pages, consuming(pages, account):
            await asked.wait()
            assert pages.summary.server == await identity_of(stage.first)
            assert set(account.keys()) == stage.keys
            for stop in stops:
                stop.release()
        account.check_complete(pages.summary, stage.keys | late, epoch=1)
        account.check_master_change(pages.summary, await identity_of(stage.first), await identity_of(new))


async def test_silent_sentinels_do_not_make_the_old_master_the_master(nursery: trio.Nursery) -> None:
    """The client is cut off from the Sentinels only, and they replace the master: its pass is not certified."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            for proxy in stage.sentinel_proxies:
                proxy.swallow()
            _, new = await stage.depose()
            late = await new.fill(100, "late:")

            async def heal() -> None:
                await until_in(pages, State.HESITATING)
                assert set(account.keys()) == stage.keys
                for proxy in stage.sentinel_proxies:
                    proxy.pass_on()

            nursery.start_soon(heal)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys | late, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        await until_followed(client, new)
