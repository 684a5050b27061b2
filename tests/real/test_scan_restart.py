"""The same address, and another process or the same one: what counts is the process, by its run_id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.proxy import is_last_page, is_page, names
from tests.real.scenes import Account, consuming, identity_of, open_booth, open_stage, until_in
from trio_sentinel_scan._core.scan_states import State

if TYPE_CHECKING:
    import trio

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

KEYS = 2_000


async def test_of_a_master_with_its_data(nursery: trio.Nursery, each_server_binary: ServerBinary) -> None:
    """The Sentinels notice nothing: no +switch-master, the same address, the same config epoch."""
    async with open_stage(nursery, keys=KEYS, binary=each_server_binary) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 8)
            await stage.service.restart()
            await account.take_the_rest(pages)
        after = await identity_of(stage.first)
        assert after != before
        assert stage.switches() == 0
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_server_restart(pages.summary, before, after)
        assert account.epochs == [0, 1]
        assert len(account.keys(0)) < KEYS
        assert pages.summary.reconnects == 0
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.basis, certificate.config_epoch) == ("sentinels", 0)


async def test_before_the_first_reply(nursery: trio.Nursery) -> None:
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        stop = booth.proxy.stop_request(names("SCAN"))
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages, consuming(pages, account):
            await stop.reached.wait()
            await booth.server.restart()
        account.check_complete(pages.summary, booth.keys, epoch=1)
        assert account.epochs == [1]


async def test_with_the_last_reply_on_its_way(nursery: trio.Nursery) -> None:
    """The dead process's last page comes, and is taken: the certificate is asked of its successor, and refused."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        stop = booth.proxy.stop_reply(is_last_page)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages, consuming(pages, account):
            await stop.reached.wait()
            await booth.server.restart()
            stop.release()
        account.check_complete(pages.summary, booth.keys, epoch=1)
        assert account.epochs == [0, 1]
        assert len(account.keys()) == 2 * KEYS


async def test_after_the_last_page_was_taken(nursery: trio.Nursery) -> None:
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages:
            await account.take(pages)
            # (Only the certificate asks that. ROLE also rides along, where a scan takes long.)
            asked = booth.proxy.stop_request(names("INFO"))
            async with consuming(pages, account):
                await asked.reached.wait()
                await booth.server.restart()
        account.check_complete(pages.summary, booth.keys, epoch=1)
        assert len(account.keys()) == 2 * KEYS


async def test_while_pages_wait_in_the_channel(nursery: trio.Nursery) -> None:
    """The pages are genuine, and nobody knows of the restart before the certificate is asked for."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=1000, segments=1) as pages:
            await account.take(pages)
            await until_in(pages, State.DRAINING)
            await booth.server.restart()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, booth.keys, epoch=1)
        assert account.epochs == [0, 1]


async def test_of_a_server_that_loads_for_a_while(nursery: trio.Nursery) -> None:
    """While it loads it answers, with -LOADING: the new pass waits on its connection, and counts no failure."""
    # While it loads, it looks after its clients every two megabytes.
    slow = {"key-load-delay": 200, "rdbcompression": "no"}
    async with open_booth(nursery, config=slow) as booth, booth.client() as client:
        booth.keys = await booth.server.fill(5_000, value=b"x" * 2_000)
        loading = booth.proxy.stop_reply(lambda data: data.startswith(b"-LOADING"))
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 5)
            nursery.start_soon(booth.server.restart)
            async with consuming(pages, account):
                await loading.reached.wait()
                await booth.server.wait_until_ready()
                loading.release()
        account.check_complete(pages.summary, booth.keys, epoch=1)


@pytest.mark.parametrize("how", ["client_kill", "reset"])
async def test_a_lost_connection_to_the_same_process_goes_on(nursery: trio.Nursery, how: str) -> None:
    """The cursor goes on where it was: no new epoch, and no key comes twice."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            for _ in range(3):
                await account.take(pages, 3)
                if how == "client_kill":
                    await stage.first.execute("CLIENT", "KILL", "TYPE", "normal")
                else:
                    stage.proxy(stage.first).reset_all()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=0)
        account.check_without_duplicates()
        assert pages.summary.restarts == ()
        assert pages.summary.reconnects == 3


async def test_a_connection_lost_with_the_last_reply_on_its_way(nursery: trio.Nursery) -> None:
    """The reply is lost, the cursor before it is not: it is asked for again, at the same process."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        stop = booth.proxy.stop_reply(is_last_page)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages, consuming(pages, account):
            await stop.reached.wait()
            stop.link.reset()
        account.check_complete(pages.summary, booth.keys, epoch=0)
        account.check_without_duplicates()
        assert pages.summary.reconnects == 1


async def test_a_connection_lost_before_the_certificate(nursery: trio.Nursery) -> None:
    """The pass was swept, and its process is the same on a new connection: only the certificate is asked for again."""
    async with open_booth(nursery, keys=KEYS) as booth, booth.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages:
            await account.take(pages)
            asked = booth.proxy.stop_request(names("INFO"))
            async with consuming(pages, account):
                await asked.reached.wait()
                scans = len(booth.proxy.scans)
                asked.link.reset()
        account.check_complete(pages.summary, booth.keys, epoch=0)
        account.check_without_duplicates()
        assert pages.summary.reconnects == 1
        assert len(booth.proxy.scans) == scans


async def test_a_connection_that_dies_between_a_reply_and_the_next_scan(nursery: trio.Nursery) -> None:
    """The reply's page is in hand, and nothing can be sent any more: the page is handed out, the cursor goes on."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        stop = stage.proxy(stage.first).stop_reply(is_page, skip=4)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, segments=1) as pages, consuming(pages, account):
            await stop.reached.wait()
            await stop.release_and_reset()
        account.check_complete(pages.summary, stage.keys, epoch=0)
        account.check_without_duplicates()
        assert pages.summary.reconnects == 1
        # The page was not asked for again.
        scans = stage.proxy(stage.first).scans
        assert len(scans) == len(set(scans))
