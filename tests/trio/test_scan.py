"""A scan, from the consumer's side: every key, each page once, and what the loop may do."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import (
    COUNT,
    KEYS,
    Hold,
    Network,
    Service,
    on_mock_time,
    settled,
    sweep,
    tasks_below,
)
from trio_sentinel_scan import (
    ClientClosed,
    ExactSeen,
    RedisClient,
    ScanPages,
    SentinelClient,
)
from trio_sentinel_scan._core import sweep as sweep_module

pytestmark = pytest.mark.trio(run=on_mock_time)

# ---- what there is to scan --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [0, 1, 2, 5, 1000])
async def test_every_key_comes(network: Network, keys: int) -> None:
    service = Service(network, keys=keys)
    async with SentinelClient(service.addresses, "mymaster") as client:
        swept = await sweep(client)
    assert swept.keys == service.keys()
    assert len(swept.keys) == keys
    assert all(len(page) > 0 for page in swept.pages)
    assert swept.summary.complete


async def test_keys_are_any_bytes(network: Network) -> None:
    service = Service(network)
    service.write([b"", b"\r\n", b"$-1\r\n", b"\xff\xfe", b"*", bytes(range(256)), b"x" * 100_000])
    async with RedisClient(service.master.address) as client:
        assert (await sweep(client)).keys == service.keys()
        assert (await sweep(client, match=b"\xff*")).keys == {b"\xff\xfe"}


@pytest.mark.parametrize("slice_", [1, 2, 7, 4096])
async def test_replies_in_slices(network: Network, slice_: int) -> None:
    service = Service(network, keys=100)
    for host in service.hosts:
        host.slice = slice_
    async with SentinelClient(service.addresses, "mymaster") as client:
        assert (await sweep(client, count=10)).keys == service.keys()


async def test_what_is_asked_for_reaches_the_server(service: Service, client: SentinelClient) -> None:
    service.write([b"user:1"])
    swept = await sweep(client, match="user:*", count=50, type_="string")
    assert swept.keys == {b"user:1"}
    last = service.master.commands("SCAN")[-1]
    assert last[0] == b"SCAN"
    assert last[2:] == [b"MATCH", b"user:*", b"TYPE", b"string", b"COUNT", last[-1]]
    assert max(int(words[-1]) for words in service.master.commands("SCAN")) <= 50
    assert (await sweep(client, type_="hash")).keys == set()
    service.master.log.clear()
    swept = await sweep(client, count=50, segments=1)
    assert swept.summary.segments == 1
    assert service.master.commands("SCAN")[0] == [b"SCAN", b"0", b"COUNT", b"50"]
    assert {words[-1] for words in service.master.commands("SCAN")} == {b"50"}


async def test_it_may_begin_in_the_middle(service: Service, client: SentinelClient) -> None:
    cursor = b""
    async with client.open_scan(count=COUNT) as pages:
        async for _ in pages:
            cursor = service.master.commands("SCAN")[-1][1]
            if cursor != b"0":
                break
    swept = await sweep(client, cursor=int(cursor), count=COUNT)
    assert 0 < len(swept.keys) < KEYS
    assert swept.summary.complete


async def test_keys_that_stay_come_though_the_table_grows_and_shrinks(network: Network) -> None:
    service = Service(network, keys=300)
    stay = service.keys()
    async with RedisClient(service.master.address) as client:
        async with client.open_scan(count=5) as pages:
            found: set[bytes] = set()
            step = 0
            async for page in pages:
                found.update(page)
                step += 1
                if step < 30:
                    service.write(f"new:{step}:{number}".encode() for number in range(100))
                elif step < 60:
                    await client.delete(*[f"new:{step - 30}:{number}" for number in range(100)])
        assert found >= stay


# ---- pages and the account --------------------------------------------------------------------------------------


async def test_pages_tell_where_they_come_from(service: Service, client: SentinelClient) -> None:
    swept = await sweep(client, count=COUNT)
    run_id = service.master.program.run_id
    positions = [page.position for page in swept.pages if page.position is not None]
    assert positions == sorted(set(positions))
    assert positions[-1] == 1.0
    assert {(page.epoch, page.server.run_id) for page in swept.pages} == {(0, run_id)}
    page = swept.pages[0]
    assert repr(page) == (
        f"<ScanPage of {len(page)} keys, epoch 0, position {page.position:.3f}, 10.0.0.1:6379 (run_id {run_id[:8]})>"
    )


async def test_the_account_of_a_scan(service: Service, client: SentinelClient) -> None:
    async with client.open_scan(count=COUNT) as pages:
        assert repr(pages) == "<ScanPages of <ScanPlan LOCATING, epoch 0, not bound>>"
        assert not pages.summary.complete
        page = await pages.receive()
        assert pages.summary.keys == pages.summary.keys_this_epoch == len(page)
        assert repr(pages).startswith("<ScanPages of <ScanPlan SCANNING, epoch 0, 10.0.0.1:6379 (run_id ")
        await trio.sleep(10)
        async for _ in pages:
            pass
    summary = pages.summary
    assert summary.complete
    assert (summary.keys, summary.epoch, summary.restarts, summary.reconnects) == (KEYS, 0, (), 0)
    assert summary.scans == len(service.master.commands("SCAN"))
    assert summary.elapsed == 10
    assert summary.keys_per_second == KEYS / 10
    assert str(summary.certificate) == (
        f"10.0.0.1:6379 (run_id {service.master.program.run_id[:8]}) says master,"
        " 3 of 3 Sentinels agree (config epoch 0)"
    ) or str(summary.certificate).endswith("2 of 3 Sentinels agree (config epoch 0)")
    await trio.sleep(10)
    assert pages.summary == summary  # the clock of a scan stops with it


async def test_the_consumer_sees_the_end_once_and_again(service: Service, client: SentinelClient) -> None:
    async with client.open_scan() as pages:
        async for _ in pages:
            pass
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await pages.receive()
    with pytest.raises(trio.ClosedResourceError):
        await pages.receive()


# ---- what the loop may do ---------------------------------------------------------------------------------------


async def test_the_loop_may_run_any_command(service: Service, client: SentinelClient) -> None:
    values: list[Any] = []
    async with client.open_scan(count=COUNT) as pages:
        async for page in pages:
            values += await client.mget(list(page))
            await client.set("last", page.keys[-1])
    assert set(values) >= {b"value of " + key for key in service.keys() - {b"last"}}


async def test_several_scans_at_once_have_a_connection_each(service: Service, client: SentinelClient) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(5):

            @nursery.start_soon
            async def _scan() -> None:
                assert (await sweep(client, count=COUNT)).keys == service.keys()

    assert len(service.master.wires) == 1 + 5
    assert len(service.master.open_wires) == 1


async def test_the_loop_may_break(service: Service, client: SentinelClient, network: Network) -> None:
    """State that remains: no task of the scan's, no connection of its own, and nobody to tell of changes."""
    listeners = len(client._source.on_change)
    tasks = len(tasks_below(trio.lowlevel.current_task()))
    async with client.open_scan(count=COUNT) as pages:
        async for _ in pages:
            break
        await settled()
        scans = len(service.master.commands("SCAN"))
    await settled()
    assert len(service.master.commands("SCAN")) == scans
    assert len(service.master.open_wires) == 1
    assert len(client._source.on_change) == listeners
    assert len(tasks_below(trio.lowlevel.current_task())) == tasks
    assert not pages.summary.complete


@pytest.mark.parametrize("prefetch", [0, 1, 2, 7])
async def test_a_slow_loop_holds_the_server_back(service: Service, client: SentinelClient, prefetch: int) -> None:
    """Memory is bounded: the page in the loop, those that wait, the one being handed over, the one being fetched."""
    async with client.open_scan(count=COUNT, prefetch=prefetch, segments=1) as pages:
        await pages.receive()
        await trio.sleep(3600 / 60)
        assert len(service.master.commands("SCAN")) == 1 + prefetch + 2
        statistics = pages._receive_channel.statistics()
        assert statistics.current_buffer_used == statistics.max_buffer_size == prefetch


async def test_a_slow_loop_is_no_absent_server(network: Network) -> None:
    """Neither timeout runs while the consumer takes its time; not even with a connection that has died meanwhile."""
    service = Service(network, keys=100)
    async with SentinelClient(service.addresses, "mymaster", response_timeout=1, failover_timeout=5) as client:
        found: set[bytes] = set()
        async with client.open_scan(count=COUNT) as pages:
            async for page in pages:
                found.update(page)
                await trio.sleep(30)
                service.master.drop_clients()
        assert found == service.keys()
        assert pages.summary.epoch == 0


async def test_the_first_page_can_wait_too(network: Network) -> None:
    service = Service(network, keys=100)
    async with (
        SentinelClient(service.addresses, "mymaster", failover_timeout=5) as client,
        client.open_scan(count=COUNT) as pages,
    ):
        await trio.sleep(60)
        service.master.drop_clients()
        assert {key async for page in pages for key in page} == service.keys()


async def test_a_clone_is_a_second_consumer(service: Service, client: SentinelClient) -> None:
    """Each page goes to one of them; all of them together have every key."""
    found: list[list[bytes]] = [[], [], []]
    async with client.open_scan(count=COUNT) as pages:

        async def consume(number: int) -> None:
            async with pages.clone() as mine:
                async for page in mine:
                    found[number] += page
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(consume, number)
    assert sorted(found[0] + found[1] + found[2]) == sorted(service.keys())
    assert all(found)
    assert pages.summary.complete


async def test_when_every_end_is_closed_the_scan_stops(service: Service, client: SentinelClient) -> None:
    """State that remains: nothing more is asked, and the scan's connection is closed, though the block goes on."""
    async with client.open_scan(count=COUNT) as pages:
        second = pages.clone()
        await pages.receive()
        await pages.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await pages.receive()
        await second.receive()
        await second.aclose()
        await settled()
        assert len(service.master.open_wires) == 1
        scans = len(service.master.commands("SCAN"))
        await trio.sleep(10)
        assert len(service.master.commands("SCAN")) == scans
        assert not pages.summary.complete


async def test_leaving_the_block_under_a_consumers_feet_is_no_end(service: Service, client: SentinelClient) -> None:
    """A clone that outlives the block neither hangs nor sees an end that would mean "complete"."""
    outcome: list[BaseException] = []

    async def consume(mine: ScanPages[bytes]) -> None:
        async with mine:
            try:
                async for _ in mine:
                    pass
            except trio.ClosedResourceError as error:
                outcome.append(error)

    service.master.tap("SCAN", skip=1, instead=Hold(trio.Event()))
    async with trio.open_nursery() as nursery, client.open_scan(count=COUNT) as pages:
        nursery.start_soon(consume, pages.clone())  # noqa: ASYNC111 (that is what is tested)
        await settled()
    assert len(outcome) == 1


async def test_no_page_is_handed_out_when_the_block_was_left(client: SentinelClient) -> None:
    """Not even one that waits in the channel: its keys would count as seen by a filter that was given back by then."""
    seen = ExactSeen()
    async with client.open_scan(count=COUNT, prefetch=10, dedupe=seen) as pages:
        clone = pages.clone()
        await pages.receive()
        await settled()
    before = len(seen)
    async with clone:
        with pytest.raises(trio.ClosedResourceError):
            await clone.receive()
    assert len(seen) == before > 0


# ---- a page is delivered xor the receive is cancelled -----------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 2])
async def test_no_cancelled_receive_loses_a_page(network: Network, prefetch: int) -> None:
    """Every receive is cancelled over and over, at every moment of a page's way; each key comes exactly once."""
    service = Service(network, keys=300)
    service.master.delay = 0.01
    found: list[bytes] = []
    cancelled = 0
    async with RedisClient(service.master.address) as client:
        async with client.open_scan(count=5, prefetch=prefetch) as pages:
            with pytest.raises(trio.EndOfChannel):
                while True:
                    for patience in (0.0, 0.001, 0.005, 0.01, 0.0101, 0.02):
                        with trio.move_on_after(patience) as scope:
                            found += await pages.receive()
                        cancelled += scope.cancelled_caught
        assert pages.summary.complete
    assert cancelled > 20
    assert sorted(found) == sorted(service.keys())


async def test_a_cancellation_in_the_same_tick_as_a_page(network: Network) -> None:
    """The page is there and the cancellation too: one of the two wins, and the other has no effect."""
    service = Service(network, keys=200)
    found: list[bytes] = []
    outcomes = {True: 0, False: 0}
    async with RedisClient(service.master.address) as client, client.open_scan(count=2, prefetch=0) as pages:
        done = False
        while not done:
            release = trio.Event()
            service.master.tap("SCAN", instead=Hold(release))
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def _both(scope: Any = scope, release: Any = release, late: int = len(found) % 7) -> None:
                        await settled()
                        release.set()
                        for _ in range(late):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    try:
                        found += await pages.receive()
                    except trio.EndOfChannel:
                        done = True
                        scope.cancel()
            outcomes[scope.cancelled_caught] += 1
    assert sorted(found) == sorted(service.keys())
    assert min(outcomes.values()) > 1


async def test_a_role_that_comes_late_is_not_taken_for_the_certificates(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rode along with the last SCAN, and was true then; the certificate is to tell what is true now."""
    monkeypatch.setattr(sweep_module, "ROLE_PERIOD", 0.0)
    service = Service(network, keys=30)
    first, release = service.master, trio.Event()
    async with RedisClient(first.address) as client:
        # (The handshake of the scan's connection asks for the first.)
        first.tap("ROLE", skip=1, instead=Hold(release))
        async with client.open_scan(segments=1, count=1000) as pages:
            found = list(await pages.receive())
            await settled()
            first.program.master = service.servers[1].address
            release.set()
            found += [key async for page in pages for key in page]
    assert sorted(found) == sorted([*service.keys(), *service.keys()])
    (restart,) = pages.summary.restarts
    assert restart.reason == "no certificate: the server's role is slave, it was master"


@pytest.mark.parametrize("state", ["reading", "handing over", "waiting for a server"])
async def test_when_the_client_is_closed_its_scans_end(network: Network, state: str) -> None:
    """At once, and for that reason: the Sentinels that would confirm the master are not asked any more."""
    service = Service(network, keys=500)
    client = SentinelClient(service.addresses, "mymaster")
    async with trio.open_nursery() as nursery:
        async with client:
            opened = trio.Event()

            @nursery.start_soon
            async def _scan() -> None:
                async with client.open_scan(count=10, segments=1, prefetch=0) as pages:
                    await pages.receive()
                    if state == "waiting for a server":
                        service.master.kill()
                    elif state == "reading":
                        service.master.hang()
                        with trio.move_on_after(1):
                            while True:
                                await pages.receive()
                    await settled()
                    opened.set()
                    with pytest.raises(ClientClosed, match="its scans"), trio.fail_after(0.1):
                        while True:
                            await pages.receive()
                assert not pages.summary.complete

            await opened.wait()
        await settled()
    assert network.open_client_ends == []
    assert client._source.on_stop == set()
