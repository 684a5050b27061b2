"""Restarts upon restarts: back to the first node, more than `max_restarts`, and `on_failover="raise"`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.proxy import is_page, names
from tests.real.scenes import Account, consuming, identity_of, open_booth, open_stage
from trio_sentinel_scan import Address, ScanInterrupted, ScanRestartsExhausted

if TYPE_CHECKING:
    import trio

    from tests.real.scenes import Booth

pytestmark = pytest.mark.trio

KEYS = 2_000


@pytest.mark.slow
async def test_two_failovers_back_to_the_first_node(nursery: trio.Nursery) -> None:
    """The first node's process is the same when it is master again. Its cursor would be; its pass is not."""
    async with (
        open_stage(nursery, keys=KEYS, failover_timeout=1.0) as stage,
        stage.client(failover_timeout=60.0) as client,
    ):
        first, second = stage.service.nodes
        ids = [await identity_of(first), await identity_of(second)]
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 5)
            assert await stage.service.failover() is second
            await account.take(pages, 5)
            assert account.epochs == [0, 1]
            # The Sentinels would do so ten seconds later.
            await first.execute("REPLICAOF", *second.address)
            await stage.service.wait_replicated()
            await second.kill()
            await account.take_the_rest(pages)
        assert await stage.service.master() is first
        account.check_complete(pages.summary, stage.keys, epoch=2)
        account.check_master_change(pages.summary, ids[1], ids[0])
        assert [restart.old_server for restart in pages.summary.restarts] == ids
        assert account.epochs == [0, 1, 2]
        assert len(account.keys(0)) < KEYS
        assert len(account.keys(1)) < KEYS


async def test_more_master_changes_than_max_restarts(nursery: trio.Nursery) -> None:
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, max_restarts=0, segments=1) as pages:
            await account.take(pages, 5)
            await stage.depose(kill=True)
            with pytest.raises(ScanRestartsExhausted, match=r"MASTER_CHANGE.*max_restarts=0") as caught:
                await account.take_the_rest(pages)
            # It is said again to whoever asks again, and the client is well.
            with pytest.raises(ScanRestartsExhausted):
                await pages.receive()
            assert await client.dbsize() == KEYS
        account.check_summary(pages.summary)
        assert not pages.summary.complete
        assert pages.summary.certificate is None
        assert caught.value.summary is not None
        assert caught.value.summary.keys == len(account.keys()) < KEYS


async def _restart_after_each_page(booth: Booth, account: Account[bytes], max_restarts: int) -> None:
    async with (
        booth.client() as client,
        client.open_scan(count=100, prefetch=0, max_restarts=max_restarts, segments=1) as pages,
    ):
        for epoch in range(3):
            await account.take(pages)
            await booth.server.restart()
            # What the process before had answered may still be in hand; it goes out as that epoch's.
            while account.epochs[-1] == epoch:
                await account.take(pages)
        await account.take_the_rest(pages)
    account.check_complete(pages.summary, booth.keys, epoch=3)


async def test_as_many_restarts_as_max_restarts(nursery: trio.Nursery) -> None:
    async with open_booth(nursery, keys=KEYS) as booth:
        account: Account[bytes] = Account()
        await _restart_after_each_page(booth, account, max_restarts=3)
        assert account.epochs == [0, 1, 2, 3]


async def test_one_restart_more_than_max_restarts(nursery: trio.Nursery) -> None:
    async with open_booth(nursery, keys=KEYS) as booth:
        account: Account[bytes] = Account()
        with pytest.raises(ScanRestartsExhausted, match="max_restarts=2") as caught:
            await _restart_after_each_page(booth, account, max_restarts=2)
        assert account.epochs == [0, 1, 2]
        assert caught.value.summary is not None
        assert not caught.value.summary.complete
        assert caught.value.summary.epoch == 2


async def test_new_connections_that_bring_nothing_count_too(nursery: trio.Nursery) -> None:
    """The server takes connections and breaks each at the first SCAN: that does not go on for ever."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, max_restarts=4, segments=1) as pages:
            await account.take(pages, 5)

            async def break_each_scan() -> None:
                while True:
                    stop = booth.proxy.stop_request(names("SCAN"))
                    await stop.reached.wait()
                    stop.link.reset()

            nursery.start_soon(break_each_scan)
            booth.proxy.reset_all()
            with pytest.raises(ScanRestartsExhausted, match="new connections in a row") as caught:
                await account.take_the_rest(pages)
        account.check_summary(pages.summary)
        assert caught.value.summary is not None
        assert caught.value.summary.epoch == 0
        assert len(account.keys()) < KEYS
        account.check_without_duplicates()


@pytest.mark.parametrize("pages_before", [0, 5])
async def test_on_failover_raise(nursery: trio.Nursery, pages_before: int) -> None:
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        stop = stage.proxy(stage.first).stop_reply(is_page, skip=pages_before)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, on_failover="raise", segments=1) as pages:
            await account.take(pages, pages_before)
            await stop.reached.wait()
            _, new = await stage.depose(kill=True)
            with pytest.raises(ScanInterrupted, match="MASTER_CHANGE") as caught:
                await account.take_the_rest(pages)
        error = caught.value
        assert error.reason.startswith("MASTER_CHANGE")
        assert error.epoch == 0
        assert error.old_server == before
        # Nobody has been there yet, so it is known by its address alone.
        assert error.new_server is not None
        assert error.new_server.address == Address(*new.address)
        assert error.keys == len(account.keys())
        account.check_summary(pages.summary)
        assert error.summary is not None
        assert not error.summary.complete
        assert error.summary.restarts == ()


@pytest.mark.parametrize("pages_before", [0, 5])
async def test_on_failover_raise_for_a_restart_at_the_same_port(nursery: trio.Nursery, pages_before: int) -> None:
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        stop = stage.proxy(stage.first).stop_request(names("SCAN"), skip=pages_before)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, on_failover="raise", segments=1) as pages:
            await account.take(pages, pages_before)
            await stop.reached.wait()
            await stage.first.restart()
            with pytest.raises(ScanInterrupted, match="another process") as caught:
                await account.take_the_rest(pages)
        error = caught.value
        assert error.epoch == 0
        assert error.old_server == before
        assert error.new_server == await identity_of(stage.first)
        assert error.keys == len(account.keys())
        account.check_summary(pages.summary)


async def test_on_failover_raise_and_nothing_happens(nursery: trio.Nursery) -> None:
    """A lost connection to the same process is nothing to raise for."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        stop = stage.proxy(stage.first).stop_reply(is_page)
        async with (
            client.open_scan(count=100, on_failover="raise", max_restarts=1, segments=1) as pages,
            consuming(pages, account),
        ):
            await stop.reached.wait()
            stop.link.reset()
        account.check_complete(pages.summary, stage.keys, epoch=0)
        account.check_without_duplicates()
