"""The master hangs (SIGSTOP): nothing ends, nothing answers. The Sentinels' word gets the scan away, no timeout does.

In these tests no timeout ends a wait (`response_timeout` and `failover_timeout` are None), but for the last ones, where
there are no Sentinels and timeouts are all there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.proxy import names
from tests.real.scenes import Account, consuming, identity_of, open_booth, open_stage, until_in
from trio_sentinel_scan import ServerUnavailable
from trio_sentinel_scan._core import scan_patience
from trio_sentinel_scan._core.scan_states import State

if TYPE_CHECKING:
    import trio

pytestmark = pytest.mark.trio

KEYS = 2_000
AN_HOUR = 3600.0


async def test_in_a_scan(nursery: trio.Nursery) -> None:
    """Nobody is told: the Sentinels notice by themselves."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client(failover_timeout=None) as client:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 5)
            await stage.service.pause()
            await account.take_the_rest(pages)
        new = await stage.service.master()
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert account.epochs == [0, 1]
        assert len(account.keys(0)) < KEYS
        assert stage.first.paused
        assert stage.switches() == 1


async def test_in_the_handshake(nursery: trio.Nursery) -> None:
    """The kernel takes the connection, and the process never says a word on it."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client(failover_timeout=None) as client:
        await stage.service.pause()
        proxy = stage.proxy(stage.first)
        greeted = proxy.stop_request(names("HELLO"))
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages, consuming(pages, account):
            await greeted.reached.wait()
            greeted.release()
            await stage.order_failover()
        new = await stage.service.master()
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, None, await identity_of(new))
        assert proxy.scans == []
        assert account.epochs == [1]


async def test_in_the_back_off(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost, and the next attempt is an hour away: the news does not wait for it."""
    monkeypatch.setattr(scan_patience, "BACK_OFF", (AN_HOUR,))
    async with open_stage(nursery, keys=KEYS) as stage, stage.client(failover_timeout=None) as client:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 5)
            await stage.service.pause()
            stage.proxy(stage.first).reset_all()
            async with consuming(pages, account):
                await until_in(pages, State.BACKING_OFF)
                await stage.order_failover()
        new = await stage.service.master()
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert pages.summary.reconnects == 0


async def test_in_the_certificate(nursery: trio.Nursery) -> None:
    """Every key was handed out, and the last question is not answered: that is not the end."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client(failover_timeout=None) as client:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages:
            await account.take(pages)
            # (Only the certificate asks that. ROLE also rides along, where a scan takes long.)
            asked = stage.proxy(stage.first).stop_request(names("INFO"))
            async with consuming(pages, account):
                await asked.reached.wait()
                assert set(account.keys(0)) == stage.keys
                await stage.service.pause()
                asked.release()
                await stage.order_failover()
        new = await stage.service.master()
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))
        assert account.epochs == [0, 1]
        assert len(account.keys()) == 2 * KEYS


async def test_without_sentinels_the_timeouts_end_it(nursery: trio.Nursery) -> None:
    async with (
        open_booth(nursery, keys=KEYS) as booth,
        booth.client(response_timeout=0.2, failover_timeout=1.0) as client,
    ):
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 5)
            await booth.server.pause()
            with pytest.raises(ServerUnavailable, match=r"failover_timeout.*response_timeout") as caught:
                await account.take_the_rest(pages)
            assert not isinstance(caught.value, ExceptionGroup)
            assert not pages.summary.complete
            assert pages.summary.certificate is None
            # What ended it is said again to whoever asks again.
            with pytest.raises(ServerUnavailable):
                await pages.receive()
        account.check_summary(pages.summary)
        assert len(account.keys()) < KEYS
        await booth.server.resume()


async def test_without_sentinels_a_server_that_wakes_in_time_is_scanned_on(nursery: trio.Nursery) -> None:
    """The hung connection is given up, and the cursor goes on at the same process on a new one."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client(response_timeout=0.2) as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 5)
            (link,) = [link for link in booth.proxy.links if link.scans]
            await booth.server.pause()
            async with consuming(pages, account):
                await link.gone.wait()
                await booth.server.resume()
        account.check_complete(pages.summary, booth.keys, epoch=0)
        account.check_without_duplicates()
        assert pages.summary.reconnects >= 1
        assert pages.summary.certificate is not None
        assert pages.summary.certificate.basis == "server"
