"""Segments on one connection: replies in parts, refusals among them, restarts half way, pages, rests, fall-back."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import (
    COUNT,
    HANG_UP,
    KEYS,
    Cut,
    DataServer,
    Error,
    Network,
    Reply,
    Service,
    on_mock_time,
    settled,
    sweep,
)
from trio_sentinel_scan import RedisClient, ScanInterrupted, SentinelClient
from trio_sentinel_scan._core.cursor import rev64

pytestmark = pytest.mark.trio(run=on_mock_time)

several = pytest.mark.parametrize("segments", [2, 5, 16])


def rises(pages: list[Any]) -> bool:
    """Whether the positions within each epoch strictly rise."""
    for _, of_epoch in itertools.groupby(pages, key=lambda page: page.epoch):
        positions = [page.position for page in of_epoch if page.position is not None]
        if positions != sorted(set(positions)):
            return False
    return True


# ---- how many ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", ["auto", 1, 2, 3, 8, 64, pytest.param(1024, marks=pytest.mark.full)])
@pytest.mark.parametrize("keys", [0, 1, 5, 2000])
@pytest.mark.parametrize("count", [None, 10])
async def test_every_key_comes_in_any_number_of_segments(
    network: Network, segments: Any, keys: int, count: int | None
) -> None:
    service = Service(network, keys=keys)
    async with SentinelClient(service.addresses, "mymaster") as client:
        swept = await sweep(client, segments=segments, count=count)
    assert swept.keys == service.keys()
    assert swept.summary.complete
    assert swept.summary.position == 1.0
    expected = segments if segments != "auto" else 64 if count else 16
    assert swept.summary.segments == expected
    assert rises(swept.pages)


async def test_a_server_that_says_what_it_is_not_is_scanned_in_one_chain(service: Service) -> None:
    """Another product: there is no telling where a segment would begin."""
    service.master.program.more_info = {"dragonfly_version": "df-1.30"}
    async with RedisClient(service.master.address) as client:
        swept = await sweep(client, segments=16, count=COUNT)
    assert swept.keys == service.keys()
    assert swept.summary.segments == 1
    assert {page.position for page in swept.pages[:-1]} == {None}


async def test_replies_of_one_read_are_one_page(service: Service, client: SentinelClient) -> None:
    """A hand-over for each of them would cost more than the server's work."""
    swept = await sweep(client, segments=16, count=COUNT)
    assert len(swept.pages) < swept.summary.scans / 2
    assert swept.summary.scans == len(service.master.commands("SCAN"))


# ---- page_size --------------------------------------------------------------------------------------------------


@several
@pytest.mark.parametrize("page_size", [1, 7, 100, 10_000])
async def test_pages_are_no_larger_than_was_asked_for(
    service: Service, client: SentinelClient, segments: int, page_size: int
) -> None:
    """And positions strictly rise through the parts of one read."""
    swept = await sweep(client, segments=segments, count=50, page_size=page_size)
    assert swept.keys == service.keys()
    assert max(map(len, swept.pages)) <= page_size
    assert sum(map(len, swept.pages)) == swept.summary.keys
    assert rises(swept.pages)
    # The last replies of all may bring no keys, and so no page.
    assert swept.summary.position == 1.0
    if page_size == 1:
        assert len(swept.pages) == swept.summary.keys


async def test_parts_of_a_page_have_no_position_where_there_is_none(service: Service) -> None:
    """Only the very last one is known to be at the end."""
    service.master.program.more_info = {"garnet_version": "1"}
    async with RedisClient(service.master.address) as client:
        swept = await sweep(client, count=100_000, page_size=50)
    assert swept.keys == service.keys()
    assert [page.position for page in swept.pages] == [None] * 9 + [1.0]


async def test_parts_of_a_page_wait_for_the_consumer_and_go_down_with_their_epoch(
    service: Service, client: SentinelClient
) -> None:
    """None of an old master's goes out once the change is known, however many are in hand."""
    async with client.open_scan(count=1000, segments=1, page_size=10, prefetch=1) as pages:
        for _ in range(5):
            await pages.receive()
        await settled()
        service.fail_over()
        await settled()
        found: set[bytes] = set()
        async for page in pages:
            assert page.epoch == 1
            found.update(page)
    assert found == service.keys()
    assert pages.summary.complete


# ---- duty -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duty", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("segments", [1, 2])
async def test_a_duty_leaves_the_server_its_time(service: Service, duty: float, segments: int) -> None:
    """Each SCAN takes the server 10 ms; the scan takes as long as its share of the time allows.

    Rounds are of one SCAN: a real server answers the SCANs of a round all at once, this one each by itself.
    """
    async with RedisClient(service.master.address) as client:
        await sweep(client, count=COUNT, segments=segments)
        service.master.log.clear()

        def one_scan(seconds: float) -> None:
            service.master.delay = seconds

        # The first SCAN shows how quick the network is.
        service.master.tap("SCAN", skip=0, after=lambda: one_scan(0.01))
        begun = trio.current_time()
        swept = await sweep(client, count=COUNT, segments=segments, duty=duty)
    taken = trio.current_time() - begun
    assert swept.keys == service.keys()
    work = 0.01 * len(service.master.commands("SCAN"))
    # The first rounds are sent before anything is known of what they cost.
    assert (work - 0.02 * segments) / taken < duty * 1.2 + 0.01
    if duty == 1.0:
        # (The last SCANs of the last segment have nothing to overlap with.)
        assert taken < work * 1.25


async def test_a_rest_ends_with_the_pass(service: Service, client: SentinelClient) -> None:
    """Another master is scanned at once."""
    old = service.master
    old.delay = 0.0
    old.tap("SCAN", after=lambda: setattr(old, "delay", 1.0))
    async with client.open_scan(count=COUNT, segments=1, duty=0.001) as pages:
        for _ in range(2):
            await pages.receive()
        await settled()
        begun = trio.current_time()
        service.fail_over()
        await settled()
        page = await pages.receive()
        assert page.epoch == 1
        assert trio.current_time() == begun


async def test_a_rest_ends_with_the_scan(service: Service) -> None:
    """Leaving the block does not wait for it."""
    service.master.tap("SCAN", after=lambda: setattr(service.master, "delay", 1.0))
    async with RedisClient(service.master.address) as client:
        async with client.open_scan(count=COUNT, segments=1, duty=0.001) as pages:
            for _ in range(2):
                await pages.receive()
            await settled()
            begun = trio.current_time()
        assert trio.current_time() == begun
        service.master.delay = 0.0


# ---- refusals among replies --------------------------------------------------------------------------------------


@several
@pytest.mark.parametrize("error", ["LOADING Redis is loading", "BUSY Redis is busy"])
@pytest.mark.parametrize("times", [1, 3, 40])
async def test_patience_asked_for_by_some_of_the_replies(
    service: Service, client: SentinelClient, segments: int, error: str, times: int
) -> None:
    """Those SCANs are sent again, on the same connection; what the others brought stays."""
    service.master.tap("SCAN", skip=segments + 1, times=times, instead=Reply(Error(error)))
    swept = await sweep(client, count=5, segments=segments)
    assert swept.keys == service.keys()
    assert (swept.summary.epoch, swept.summary.reconnects) == (0, 0)
    assert swept.summary.keys < KEYS * 1.2
    assert len(service.master.wires) == 2


@pytest.mark.parametrize("every", [2, 3])
async def test_a_server_that_refuses_every_other_scan_is_scanned_all_the_same(
    service: Service, client: SentinelClient, every: int
) -> None:
    """It makes progress, so `failover_timeout` never begins to count for long."""
    for number in range(0, 400, every):
        service.master.tap("SCAN", skip=number, instead=Reply(Error("LOADING x")))
    swept = await sweep(client, count=5, segments=8)
    assert swept.keys == service.keys()
    assert swept.summary.reconnects == 0


# ---- connections that die ---------------------------------------------------------------------------------------


@several
@pytest.mark.parametrize("instead", [HANG_UP, Cut(1), Cut(30)])
@pytest.mark.parametrize("skip", [0, 1, 3, 7, 20])
async def test_the_connection_dies_with_a_part_of_a_round_in(
    service: Service, client: SentinelClient, segments: int, instead: Any, skip: int
) -> None:
    """What came whole is kept, and only the rest is asked for again: on the same process, in the same epoch."""
    service.master.tap("SCAN", skip=skip, instead=instead)
    swept = await sweep(client, count=5, segments=segments)
    assert swept.keys == service.keys()
    assert (swept.summary.epoch, swept.summary.reconnects) == (0, 1)
    assert swept.summary.keys < KEYS * 1.2
    assert rises(swept.pages)


@pytest.mark.parametrize("slice_", [1, 7, 100, 1000])
async def test_replies_that_come_in_slices_and_a_connection_that_dies(network: Network, slice_: int) -> None:
    service = Service(network, keys=200)
    for host in service.hosts:
        host.slice = slice_
    service.master.tap("SCAN", skip=11, instead=Cut(20))
    async with SentinelClient(service.addresses, "mymaster") as client:
        swept = await sweep(client, count=5, segments=6)
    assert swept.keys == service.keys()
    assert swept.summary.reconnects == 1
    assert rises(swept.pages)


@several
@pytest.mark.parametrize("seed", range(10))
async def test_connections_that_die_again_and_again(
    service: Service, client: SentinelClient, segments: int, seed: int
) -> None:
    """Each brings something before it dies: the scan gets there, in one epoch."""
    chance = random.Random(seed)
    skip = 0
    for _ in range(12):
        skip += segments + chance.randint(1, 2 * segments)
        instead = HANG_UP if chance.random() < 0.5 else Cut(chance.randint(1, 50))
        service.master.tap("SCAN", skip=skip, instead=instead)
    swept = await sweep(client, count=2, segments=segments)
    assert swept.keys == service.keys()
    assert swept.summary.epoch == 0
    assert rises(swept.pages)


# ---- restarts ----------------------------------------------------------------------------------------------------


async def scan_until(client: Any, share: float, act: Any, **options: Any) -> tuple[list[Any], Any]:
    """A scan during which something happens when that share of the hash space is covered."""
    pages_seen = []
    happened = False
    async with client.open_scan(**options) as pages:
        async for page in pages:
            pages_seen.append(page)
            if not happened and page.position >= share:
                happened = True
                act()
                await settled()
    return pages_seen, pages.summary


@several
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("kill", [True, False])
async def test_a_failover_with_segments_half_done(
    service: Service, client: SentinelClient, segments: int, share: float, kill: bool
) -> None:
    """All of them are void, finished ones too."""
    pages, summary = await scan_until(
        client, share, lambda: service.fail_over(kill=kill), count=5, segments=segments, page_size=5, prefetch=0
    )
    assert summary.complete
    assert summary.epoch == 1
    assert {key for page in pages if page.epoch == 1 for key in page} == service.keys()
    assert rises(pages)


@several
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
async def test_a_restart_at_the_same_address_with_segments_half_done(
    service: Service, client: SentinelClient, segments: int, share: float
) -> None:
    """The new process has another order: no segment of the old one is of any use."""
    pages, summary = await scan_until(
        client, share, service.master.restart, count=5, segments=segments, page_size=5, prefetch=0
    )
    assert summary.complete
    assert summary.epoch == 1
    assert summary.restarts[0].reason == "another process answers at this address: the server was restarted"
    assert {key for page in pages if page.epoch == 1 for key in page} == service.keys()


@pytest.mark.parametrize("change", ["failover", "restart"])
async def test_a_change_when_some_segments_have_ended(service: Service, client: SentinelClient, change: str) -> None:
    """The last of three is over when the others have hardly begun."""
    old = service.master

    def act() -> None:
        if change == "failover":
            service.fail_over()
        else:
            old.restart()

    # The first SCAN is the last segment's: it is told to be over.
    old.tap("SCAN", instead=Reply(["0", []]))
    old.tap("SCAN", skip=9, before=act)
    swept = await sweep(client, count=5, segments=3)
    assert swept.summary.epoch == 1
    assert swept.last_epoch == service.keys()
    new = [words for _, words in service.master.log if words[0] == b"SCAN"]
    starts = {b"%d" % rev64(index * 2**64 // 3) for index in range(3)}
    assert starts <= {words[1] for words in new}


async def test_a_change_interrupts_where_restarts_are_forbidden(service: Service, client: SentinelClient) -> None:
    service.master.tap("SCAN", skip=20, before=service.fail_over)
    with pytest.raises(ScanInterrupted):
        await sweep(client, count=5, segments=8, on_failover="raise")


# ---- another format than it seems --------------------------------------------------------------------------------


def shuffle_cursors(program: DataServer, *, strict: bool) -> list[int]:
    """Its cursors are not what they are on other servers; `strict`: it refuses those that it has not issued."""
    issued: dict[int, int] = {0: 0}
    scan = program._do_scan
    foreign: list[int] = []

    def do_scan(session: Any, cursor: bytes, *options: bytes) -> Any:
        number = int(cursor)
        if number not in issued:
            foreign.append(number)
            if strict:
                return Error("ERR invalid cursor")
        after, keys = scan(session, b"%d" % issued.get(number, number), *options)
        shown = int(after) and (int(after) * 0x9E3779B97F4A7C15 + 1) % 2**64
        issued[shown] = int(after)
        return [str(shown), keys]

    program._do_scan = do_scan  # type: ignore[method-assign]
    return foreign


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("segments", [1, 4, 16])
async def test_a_format_that_is_not_what_it_seems_costs_a_restart(
    network: Network, segments: int, strict: bool
) -> None:
    """From then on it is one chain, of the server's own cursors."""
    service = Service(network, keys=KEYS)
    foreign = shuffle_cursors(service.master.program, strict=strict)
    async with RedisClient(service.master.address) as client:
        swept = await sweep(client, count=5, segments=segments)
    assert swept.summary.complete
    assert swept.summary.epoch == 1
    assert swept.summary.segments == 1
    assert swept.last_epoch == service.keys()
    expected = "does not know its cursor" if strict and segments > 1 else "do not rise"
    assert expected in swept.summary.restarts[0].reason
    assert bool(foreign) is (segments > 1)
