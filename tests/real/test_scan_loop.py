"""What the consumer's loop does to the scan, and what becomes of the page in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.proxy import is_page, names
from tests.real.scenes import Account, clients_tasks, drain, open_booth, open_stage, scans_tasks, until, until_in
from trio_sentinel_scan import RedisClient, ScanPage, ScanPages
from trio_sentinel_scan._core.scan_states import State

if TYPE_CHECKING:
    from tests.real.proxy import Stop
    from tests.real.scenes import Booth

pytestmark = pytest.mark.trio

KEYS = 2_000


async def until_scan_is_gone(booth: Booth) -> None:
    """The scan's connection is closed: what is left is the one that commands share."""
    await until(lambda: len(booth.proxy.links) <= 1)


async def test_the_loop_reads_each_pages_values(nursery: trio.Nursery) -> None:
    async with open_booth(nursery) as booth, booth.client() as client:
        booth.keys = await booth.server.fill(KEYS, value=b"value")
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages:
            async for page in pages:
                account.note(page)
                assert await client.mget(page.keys) == [b"value"] * len(page)
        account.check_complete(pages.summary, booth.keys, epoch=0)
        account.check_without_duplicates()


async def test_the_loop_writes_and_deletes(nursery: trio.Nursery) -> None:
    """Keys that come and go while the table grows and shrinks: those that stay are all delivered."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        stayed = {key for key in booth.keys if not key.endswith(b"7")}
        gone = booth.keys - stayed
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            async for page in pages:
                account.note(page)
                number = len(account.pages)
                if number % 2:
                    await client.mset({f"new:{number}:{i}": "x" for i in range(300)})
                elif gone:
                    await client.delete(*[gone.pop() for _ in range(min(50, len(gone)))])
                    await client.delete(*[f"new:{number - 1}:{i}" for i in range(300)])
        account.check_complete(pages.summary, stayed, epoch=0)


@pytest.mark.parametrize("prefetch", [0, 2])
async def test_a_slow_loop_holds_the_scan_back(nursery: trio.Nursery, prefetch: int) -> None:
    """Pages wait in the channel, one in hand, one reply on its way; then nothing more is asked of the server."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=50, prefetch=prefetch, segments=1) as pages:
            await account.take(pages)
            # This page, those that wait, the one in hand, and the one that was asked for meanwhile.
            allowed = 1 + prefetch + 1 + 1
            await until(lambda: len(booth.proxy.scans) == allowed)
            for _ in range(100):
                await client.ping()
            assert len(booth.proxy.scans) == allowed
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, booth.keys, epoch=0)
        account.check_without_duplicates()


async def test_a_server_that_hangs_up_on_a_slow_loop(nursery: trio.Nursery) -> None:
    """The server's idle timeout closes the scan's connection; the page in hand and the cursor are not lost."""
    async with open_booth(nursery, keys=KEYS, config={"timeout": 1}) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            (link,) = [link for link in booth.proxy.links if link.scans]
            await link.gone.wait()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, booth.keys, epoch=0)
        account.check_without_duplicates()
        assert pages.summary.reconnects == 1


async def test_client_kill_with_a_page_in_hand(nursery: trio.Nursery) -> None:
    """The page waits for the consumer when the connection dies: it is handed out, and the cursor goes on."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            for _ in range(4):
                await account.take(pages)
                await until(lambda: pages._receive_channel.statistics().tasks_waiting_send)
                await booth.server.execute("CLIENT", "KILL", "TYPE", "normal")
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, booth.keys, epoch=0)
        account.check_without_duplicates()
        assert 1 <= pages.summary.reconnects <= 4


async def test_the_loop_breaks(nursery: trio.Nursery) -> None:
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages:
            assert "trio_sentinel_scan._trio.scan.Scan.produce" in scans_tasks()
            async for page in pages:
                account.note(page)
                if len(account.pages) == 3:
                    break
        assert scans_tasks() == []
        await until_scan_is_gone(booth)
        account.check_summary(pages.summary)
        assert not pages.summary.complete
        assert pages.summary.certificate is None
        assert await client.dbsize() == KEYS
        # And another scan may follow, or run inside of another one.
        async with client.open_scan(count=500, segments=1) as outer:
            async for _ in outer:
                async with client.open_scan(count=500, segments=1) as inner:
                    (await drain(inner)).check_complete(inner.summary, booth.keys, epoch=0)
            assert outer.summary.complete


async def test_the_loop_raises(nursery: trio.Nursery) -> None:
    """Its exception leaves as itself: the very object, in no group, through the scan's block and the client's."""
    error = ValueError("the loop's own")
    scans: list[ScanPages[bytes]] = []
    async with open_booth(nursery, keys=KEYS) as booth:
        with pytest.raises(ValueError, match="the loop's own") as caught:  # noqa: PT012 (the loop is what raises)
            async with RedisClient(booth.proxy.address) as client, client.open_scan(count=100, segments=1) as pages:
                scans.append(pages)
                async for _ in pages:
                    raise error
        assert caught.value is error
        assert error.__cause__ is None
        assert error.__context__ is None
        await booth.proxy.wait_until_deserted()
        assert clients_tasks() == []
        assert not scans[0].summary.complete


async def test_the_loop_raises_in_the_middle_of_a_failover(nursery: trio.Nursery) -> None:
    error = ValueError("the loop's own")
    scans: list[ScanPages[bytes]] = []
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        stop = stage.proxy(stage.first).stop_reply(is_page, skip=1)
        with pytest.raises(ValueError, match="the loop's own") as caught:  # noqa: PT012 (the loop is what raises)
            async with client.open_scan(count=100, segments=1) as pages:
                scans.append(pages)
                async for _ in pages:
                    await stop.reached.wait()
                    await stage.first.kill()
                    raise error
        assert caught.value is error
        assert scans_tasks() == []
        assert not scans[0].summary.complete


@pytest.mark.parametrize("where", ["in_the_loop", "in_the_handshake", "in_a_scan", "in_the_certificate"])
async def test_the_scan_is_cancelled(nursery: trio.Nursery, where: str) -> None:
    """At each place where it waits: the block is left, and nothing stays open."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        word = {"in_the_handshake": "HELLO", "in_a_scan": "SCAN", "in_the_certificate": "ROLE"}.get(where)
        scans: list[ScanPages[bytes]] = []
        with trio.CancelScope() as scope:
            if word in ("HELLO", "SCAN"):
                nursery.start_soon(_cancel_at, booth.proxy.stop_request(names(word)), scope)
            async with client.open_scan(count=100, segments=1) as pages:
                scans.append(pages)
                await pages.receive()
                if word is None:
                    scope.cancel(reason="the test")
                elif word == "ROLE":  # The handshake has one as well, and is over now.
                    nursery.start_soon(_cancel_at, booth.proxy.stop_request(names(word)), scope)
                await drain(pages)
        assert scope.cancelled_caught
        assert scans_tasks() == []
        await until_scan_is_gone(booth)
        assert not scans[0].summary.complete
        with pytest.raises(trio.ClosedResourceError):
            await scans[0].receive()
        # The client is as good as ever.
        async with client.open_scan(count=1000, segments=1) as again:
            (await drain(again)).check_complete(again.summary, booth.keys, epoch=0)


async def _cancel_at(stop: Stop, scope: trio.CancelScope) -> None:
    await stop.reached.wait()
    scope.cancel(reason="the test")


async def test_two_consumers(nursery: trio.Nursery) -> None:
    """Each page goes to one of them; together they have everything, and both see the end."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        taken: list[list[ScanPage[bytes]]] = [[], []]

        async def consume(mine: list[ScanPage[bytes]], pages: ScanPages[bytes]) -> None:
            async with pages:
                async for page in pages:
                    mine.append(page)
                    await client.ping()

        async with client.open_scan(count=50, segments=1) as pages:
            async with trio.open_nursery() as consumers:
                consumers.start_soon(consume, taken[0], pages.clone())
                consumers.start_soon(consume, taken[1], pages.clone())
                await pages.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await pages.receive()
        account: Account[bytes] = Account()
        for page in sorted(taken[0] + taken[1], key=lambda page: page.position or 0.0):
            account.note(page)
        account.check_complete(pages.summary, stage.keys, epoch=0)
        account.check_without_duplicates()
        assert all(taken)


async def test_two_consumers_and_a_failover(nursery: trio.Nursery) -> None:
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        taken: list[ScanPage[bytes]] = []
        deposed = trio.Event()

        async def consume(pages: ScanPages[bytes]) -> None:
            epoch = 0
            async with pages:
                async for page in pages:
                    assert page.epoch >= epoch
                    epoch = page.epoch
                    taken.append(page)
                    await deposed.wait()

        async with client.open_scan(count=50, prefetch=3, segments=1) as pages, trio.open_nursery() as consumers:
            consumers.start_soon(consume, pages.clone())
            consumers.start_soon(consume, pages.clone())
            await pages.aclose()
            await until(lambda: len(taken) == 2)
            await stage.depose(kill=True)
            deposed.set()
        account: Account[bytes] = Account()
        for page in sorted(taken, key=lambda page: (page.epoch, page.position)):
            account.note(page)
        account.check_complete(pages.summary, stage.keys, epoch=1)


async def test_every_consumer_leaves(nursery: trio.Nursery) -> None:
    """The last one closes its end: the scan stops by itself, inside of its block."""
    async with (
        open_booth(nursery, keys=KEYS) as booth,
        booth.client() as client,
        client.open_scan(count=50, segments=1) as pages,
    ):
        await pages.receive()
        other = pages.clone()
        await pages.aclose()
        await other.receive()
        await other.aclose()
        await until_scan_is_gone(booth)
        assert not pages.summary.complete


@pytest.mark.parametrize("prefetch", [0, 1, 10_000])
async def test_prefetch(nursery: trio.Nursery, prefetch: int) -> None:
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=10, prefetch=prefetch, segments=1) as pages:
            await account.take(pages)
            if prefetch > KEYS:
                await until_in(pages, State.DRAINING)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, booth.keys, epoch=0)
        account.check_without_duplicates()
