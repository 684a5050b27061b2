"""Pages with details of their keys, and each key once, from the consumer's side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import trio

from tests.trio.fakes import COUNT, KEYS, Network, Service, on_mock_time, settled, sweep
from tests.trio.fakes.data_server import Value
from trio_sentinel_scan import ConfigError, KeyDetails, RedisClient, ScanError, SentinelClient

pytestmark = pytest.mark.trio(run=on_mock_time)

ALL = KeyDetails._fields


def details_in(swept: Any) -> dict[Any, KeyDetails]:
    """Of all pages."""
    return {key: details for page in swept.pages for key, details in page.details.items()}


def fetched(service: Service) -> None:
    """Some keys of several kinds."""
    service.master.program.put(0, b"hash", Value(b"", "hash", ttl=90))
    service.master.program.put(0, b"gr\xc3\xb6\xc3\x9fe", Value(b"12345"))


@pytest.mark.parametrize("lfu", [False, True])
@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_each_key_comes_with_its_details(network: Network, lfu: bool, decode: bool, protocol: Any) -> None:
    """As text where the client decodes; a type is always text."""
    service = Service(network, keys=100)
    fetched(service)
    service.master.program.lfu = lfu
    async with SentinelClient(service.addresses, "mymaster", decode_responses=decode, protocol=protocol) as client:
        swept = await sweep(client, count=COUNT, segments=1, with_=ALL)
    found = details_in(swept)
    idle, freq = (None, 7) if lfu else (7, None)
    grosse: Any = "größe" if decode else "größe".encode()
    hash_: Any = "hash" if decode else b"hash"
    assert found[hash_] == KeyDetails("hash", 90, 54, idle, freq)
    assert found[grosse] == KeyDetails("string", -1, 62, idle, freq)
    assert len(found) == 102
    assert all(set(page.details) == set(page.keys) for page in swept.pages)
    # What this policy does not tell was asked about the first pages at most.
    refused = [words for words in service.master.commands("OBJECT") if (words[1] == b"FREQ") is not lfu]
    assert 0 < len(refused) < 100


async def test_without_it_nothing_is_asked(service: Service, client: SentinelClient) -> None:
    swept = await sweep(client)
    assert details_in(swept) == {}
    assert not any(service.master.commands(name) for name in ("TYPE", "TTL", "MEMORY", "OBJECT"))


async def test_what_the_user_may_not_ask_is_none(service: Service, client: SentinelClient) -> None:
    service.master.program.users["default"].forbidden = frozenset({"MEMORY"})
    found = details_in(await sweep(client, with_=["memory", "ttl"]))
    assert set(found.values()) == {KeyDetails(ttl=-1)}
    assert len(found) == KEYS


@pytest.mark.parametrize("slice_", [1, 7, 4096])
async def test_replies_in_slices(network: Network, slice_: int) -> None:
    service = Service(network, keys=60)
    service.master.slice = slice_
    async with SentinelClient(service.addresses, "mymaster") as client:
        found = details_in(await sweep(client, count=10, with_=ALL))
    assert set(found) == service.keys()


@pytest.mark.parametrize("prefetch", [0, 2])
async def test_a_connection_that_dies_before_the_details_came(
    service: Service, client: SentinelClient, prefetch: int
) -> None:
    """The page was committed. It is asked about again, on the same process, and not scanned again."""
    service.master.tap("TTL", skip=KEYS // 3, before=service.master.drop_clients)
    swept = await sweep(client, count=COUNT, with_=["ttl"], prefetch=prefetch, segments=1)
    assert swept.summary.epoch == 0
    assert swept.summary.reconnects == 1
    assert set(details_in(swept)) == service.keys()
    assert sum(len(page) for page in swept.pages) == KEYS


@pytest.mark.parametrize("how", ["restart", "fail over"])
async def test_another_process_before_the_details_came(service: Service, client: SentinelClient, how: str) -> None:
    """The page goes with its pass."""

    def change() -> None:
        if how == "restart":
            service.master.restart()
        else:
            service.fail_over()

    service.master.tap("TTL", skip=KEYS // 3, before=change)
    swept = await sweep(client, count=COUNT, with_=["ttl"])
    assert swept.summary.epoch == 1
    assert swept.last_epoch == service.keys()
    assert all(set(page.details) == set(page.keys) for page in swept.pages)


async def test_a_key_that_goes_in_between(service: Service, client: SentinelClient) -> None:
    def delete() -> None:
        for key in sorted(service.keys()):
            service.master.program.put(0, key, None)

    service.master.tap("TYPE", before=delete)
    swept = await sweep(client, with_=ALL)
    assert KeyDetails("none", -2) in details_in(swept).values()
    assert swept.summary.complete


async def test_a_slow_consumer_does_not_let_pages_pile_up(service: Service, client: SentinelClient) -> None:
    """I5: with nobody to take them, the server is asked for no more than a few."""
    async with client.open_scan(count=5, with_=["ttl"], prefetch=0, segments=1) as pages:
        await pages.receive()
        await settled()
        await trio.sleep(100)
        assert len(service.master.commands("SCAN")) < 8
        assert len(service.master.commands("TTL")) < 80


async def test_a_server_that_loads_in_between(service: Service, client: SentinelClient) -> None:
    async def load() -> None:
        await trio.sleep(0.5)
        service.master.program.loading = False

    def begin() -> None:
        service.master.program.loading = True

    service.master.tap("TTL", skip=KEYS // 3, before=begin)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        swept = await sweep(client, count=COUNT, with_=["ttl"])
    assert set(details_in(swept)) == service.keys()
    assert (swept.summary.epoch, swept.summary.reconnects) == (0, 0)


async def test_bad_names_are_refused_before_anything_is_sent(service: Service, client: SentinelClient) -> None:
    opened: Any = client.open_scan
    for value in ("type", ["size"], None, ["ttl", "ttl"]):
        with pytest.raises(ConfigError, match="with_"):
            opened(with_=value)
    assert service.master.commands("SCAN") == []
    async with RedisClient(service.master.address, decode_responses=True, encoding_errors="replace") as other:
        with pytest.raises(ConfigError, match="no way back"):
            other.open_scan(with_=["ttl"])


# ---- each key once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_", [(), ALL], ids=["plain", "details"])
async def test_each_key_once_over_a_failover_and_a_restart(
    service: Service, client: SentinelClient, with_: Sequence[Any]
) -> None:
    found: list[bytes] = []
    async with client.open_scan(count=COUNT, dedupe=True, with_=with_) as pages:
        async for page in pages:
            found += page
            assert set(page.details) == (set(page) if with_ else set())
            if len(found) > KEYS // 3 and pages.summary.epoch == 0:
                service.fail_over()
            elif len(found) > KEYS // 2 and pages.summary.epoch == 1:
                service.master.restart()
    assert sorted(found) == sorted(service.keys())
    assert pages.summary.epoch == 2
    assert pages.summary.keys == KEYS
    assert pages.summary.duplicates_dropped > 0


async def test_a_pass_that_brings_nothing_new_ends_the_iteration(service: Service, client: SentinelClient) -> None:
    async with client.open_scan(count=COUNT, dedupe=True, prefetch=100) as pages:
        found: list[bytes] = []
        while len(found) < KEYS:
            found += await pages.receive()
        service.fail_over()
        with pytest.raises(trio.EndOfChannel):
            await pages.receive()
    assert sorted(found) == sorted(service.keys())
    assert pages.summary.complete
    assert (pages.summary.epoch, pages.summary.keys_this_epoch, pages.summary.duplicates_dropped) == (1, 0, KEYS)


async def test_a_filter_that_raises_ends_the_scan(service: Service, client: SentinelClient) -> None:
    class Broken:
        def unseen(self, keys: Sequence[Any]) -> list[Any]:
            raise MemoryError("key:1")

        def mark(self, keys: Iterable[Any]) -> None: ...

    async with client.open_scan(dedupe=Broken()) as pages:
        with pytest.raises(ScanError, match="MemoryError") as caught:
            await pages.receive()
        with pytest.raises(ScanError, match="MemoryError"):
            await pages.receive()
    assert isinstance(caught.value.__cause__, MemoryError)
    assert not pages.summary.complete
