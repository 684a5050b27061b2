"""Scans of one hash, set or sorted set: on every client, over failovers, and when the key goes or changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.trio.fakes import HANG_UP, Cut, Error, Network, Reply, Service, User, Value, on_mock_time, settled
from trio_sentinel_scan import (
    CheckpointInvalid,
    ClientClosed,
    CollectionChanged,
    CollectionGone,
    ConfigError,
    ProtocolError,
    RedisClient,
    ScanError,
    ScanInterrupted,
    ScanPages,
    ScanRefused,
    ScanSummary,
    SentinelClient,
)
from trio_sentinel_scan._core.collection_plan import CollectionPlan

pytestmark = pytest.mark.trio(run=on_mock_time)

KEY = b"secret-key"
NAMES = [b"name:%d" % number for number in range(500)]
COUNT = 20

by_type = pytest.mark.parametrize("type_", ["hash", "set", "zset"])
several = pytest.mark.parametrize("segments", [1, 5, "auto"])


def value(type_: str, names: list[bytes]) -> Value:
    """A collection with these; what belongs to each is its number."""
    return Value(b"", type_, {name: name.rpartition(b":")[2] for name in names})


def put(service: Service, type_: str = "set", names: list[bytes] = NAMES) -> None:
    """Replicated, too."""
    write(service, value(type_, names))


def write(service: Service, new: Value | None) -> None:
    service.master.program.put(0, KEY, new)
    service.master.program.on_write(0, KEY, new)


def opened(client: SentinelClient | RedisClient, type_: str, **options: Any) -> Any:
    """The scan of it."""
    opens: dict[str, Any] = {"hash": client.open_hscan, "set": client.open_sscan, "zset": client.open_zscan}
    return opens[type_](KEY, **options)


async def sweep(
    client: SentinelClient | RedisClient, type_: str = "set", **options: Any
) -> tuple[list[Any], ScanSummary]:
    """A whole scan: the items of its last epoch, and its account."""
    async with opened(client, type_, **options) as pages:
        found = [page async for page in pages]
        return [item for page in found for item in page if page.epoch == pages.summary.epoch], pages.summary


async def half(pages: ScanPages[Any]) -> list[Any]:
    """Items up to about a half."""
    found: list[Any] = []
    async for page in pages:
        found += page
        if len(found) > len(NAMES) // 2:
            break
    return found


# ---- each type -------------------------------------------------------------------------------------------------


@by_type
@several
@pytest.mark.parametrize("number", [0, 1, 16, 100, 500])
async def test_every_item_comes(
    service: Service, client: SentinelClient, type_: str, segments: Any, number: int
) -> None:
    """One that is kept as a list comes in one reply, and once."""
    if number:
        put(service, type_, NAMES[:number])
    items, summary = await sweep(client, type_, segments=segments, count=COUNT)
    names = NAMES[:number]
    expected: dict[str, list[Any]] = {
        "hash": [(name, name[5:]) for name in names],
        "set": names,
        "zset": [(name, float(name[5:])) for name in names],
    }
    assert sorted(set(items)) == sorted(expected[type_])
    assert summary.complete
    assert (summary.keys, summary.collection_size) == (len(items), number)
    assert summary.position == 1.0
    if number <= 16:
        assert (summary.scans, len(items), summary.segments) == (1, number, 1)
    else:
        assert summary.segments == (32 if segments == "auto" else segments)


async def test_what_is_sent(service: Service, client: SentinelClient) -> None:
    """The size with the connection and with the certificate, which is one round trip with all that it rests on."""
    put(service, "hash")
    await sweep(client, "hash", match="name:1*", count=100)
    sent = [words for _, words in service.master.log]
    assert next(words[0] for words in sent if words[0] in {b"HLEN", b"HSCAN"}) == b"HLEN"
    assert sent[-4:] == [[b"ROLE"], [b"INFO", b"server"], [b"HELLO"], [b"HLEN", KEY]]
    assert service.master.commands("HSCAN")[0] == [
        *[b"HSCAN", KEY, b"0", b"MATCH", b"name:1*", b"COUNT"],
        service.master.commands("HSCAN")[0][-1],
    ]
    assert not service.master.commands("SCAN")


async def test_fields_alone(service: Service, client: SentinelClient) -> None:
    for server in service.servers:
        server.program.version = "7.4.2"
    put(service, "hash")
    items, _ = await sweep(client, "hash", no_values=True)
    assert set(items) == set(NAMES)
    assert all(words[3] == b"NOVALUES" for words in service.master.commands("HSCAN"))


async def test_a_server_without_novalues_is_not_sent_it(service: Service, client: SentinelClient) -> None:
    put(service, "hash")
    with pytest.raises(ScanRefused, match=r"Redis 7\.4 and Valkey 8\.0"):
        await sweep(client, "hash", no_values=True)
    assert not service.master.commands("HSCAN")


async def test_another_product_is_tried(service: Service) -> None:
    put(service, "hash")
    service.master.program.more_info = {"garnet_version": "1"}
    async with RedisClient(service.master.address) as client:
        with pytest.raises(ScanRefused, match=r"refuses HSCAN.*Redis 7\.4 and Valkey 8\.0"):
            await sweep(client, "hash", no_values=True)
    assert len(service.master.commands("HSCAN")) == 1


async def test_decoded(service: Service) -> None:
    """Items are text, where the client's replies are; scores are numbers all the same."""
    put(service, "zset")
    async with RedisClient(service.master.address, decode_responses=True) as client:
        items, summary = await sweep(client, "zset")
    assert set(items) == {(name.decode(), float(name[5:])) for name in NAMES}
    assert summary.complete


async def test_binary_members_cannot_be_decoded(service: Service) -> None:
    put(service, "set", [b"\xff", b"fine"])
    async with RedisClient(service.master.address, decode_responses=True) as client:
        with pytest.raises(ScanError, match="decode_responses=False"):
            await sweep(client)
    async with RedisClient(service.master.address) as client:
        assert set((await sweep(client))[0]) == {b"\xff", b"fine"}


# ---- restarts --------------------------------------------------------------------------------------------------


@by_type
@several
async def test_a_failover_half_way(service: Service, client: SentinelClient, type_: str, segments: Any) -> None:
    """A new epoch, from the beginning; what was scanned before does not count."""
    put(service, type_)
    async with opened(client, type_, segments=segments, count=10, page_size=10, prefetch=0) as pages:
        await half(pages)
        service.fail_over()
        items = [item async for page in pages if page.epoch == 1 for item in page]
    names = items if type_ == "set" else [name for name, _ in items]
    assert set(names) == set(NAMES)
    assert pages.summary.complete
    assert pages.summary.epoch == 1
    assert pages.summary.collection_size == 500


@several
async def test_another_process_at_the_same_address(service: Service, client: SentinelClient, segments: Any) -> None:
    """No Sentinel says a word."""
    put(service)
    service.master.tap("SSCAN", skip=8, before=service.master.restart)
    items, summary = await sweep(client, segments=segments, count=10)
    assert set(items) == set(NAMES)
    assert summary.epoch == 1
    assert "another process" in summary.restarts[0].reason


@pytest.mark.parametrize("instead", [HANG_UP, Cut(1), Cut(10), Cut(100)])
@pytest.mark.parametrize("skip", [0, 1, 4])
async def test_a_reply_that_does_not_come_whole_is_asked_for_again(
    service: Service, client: SentinelClient, instead: Any, skip: int
) -> None:
    """The first one, which tells whether there is anything to divide, or a later one."""
    put(service, "hash")
    service.master.tap("HSCAN", skip=skip, instead=instead)
    items, summary = await sweep(client, "hash", count=COUNT, segments=3)
    assert {field for field, _ in items} == set(NAMES)
    assert (summary.epoch, summary.reconnects) == (0, 1)


@by_type
async def test_each_item_once_over_a_restart(service: Service, client: SentinelClient, type_: str) -> None:
    """By its name: what belongs to it has changed meanwhile."""
    put(service, type_)
    async with opened(client, type_, count=10, page_size=10, prefetch=0, dedupe=True) as pages:
        found = await half(pages)
        write(service, Value(b"", type_, dict.fromkeys(NAMES, b"7")))
        service.fail_over()
        async for page in pages:
            found += page
    names = found if type_ == "set" else [name for name, _ in found]
    assert sorted(names) == sorted(NAMES)
    assert pages.summary.duplicates_dropped > 200
    assert pages.summary.keys == 500


async def test_to_raise_instead(service: Service, client: SentinelClient) -> None:
    put(service)
    async with opened(client, "set", count=10, page_size=10, prefetch=0, on_failover="raise") as pages:
        await half(pages)
        service.fail_over()
        with pytest.raises(ScanInterrupted):
            await half(pages)


async def test_growing_and_shrinking(service: Service, client: SentinelClient) -> None:
    """Nothing that is there all the time is lost; a list that becomes a table on the way has come already."""
    put(service)
    stay = NAMES[:100]
    async with opened(client, "set", count=10, page_size=10, prefetch=0, segments=3) as pages:
        found = [item for _ in range(5) for item in await pages.receive()]
        put(service, "set", NAMES + [b"more:%d" % number for number in range(3000)])
        found += [item for _ in range(5) for item in await pages.receive()]
        put(service, "set", stay)
        async for page in pages:
            found += page
    assert set(stay) <= set(found)
    assert pages.summary.complete


async def test_another_collection_in_its_place(service: Service, client: SentinelClient) -> None:
    """RENAME over it, say. Where an item lies depends on the process alone, so what both have is not lost."""
    put(service)
    async with opened(client, "set", count=10, page_size=10, prefetch=0, segments=3) as pages:
        found = await half(pages)
        put(service, "set", NAMES[100:] + [b"more:%d" % number for number in range(700)])
        async for page in pages:
            found += page
    assert set(NAMES[100:]) <= set(found)


async def test_a_list_in_its_place(service: Service, client: SentinelClient) -> None:
    """A list answers every segment with all that it has."""
    put(service)
    async with opened(client, "set", count=10, page_size=10, prefetch=0, segments=3) as pages:
        found = await half(pages)
        put(service, "set", NAMES[:10])
        async for page in pages:
            found += page
    assert set(NAMES[:10]) <= set(found)
    assert pages.summary.complete


# ---- the key goes, or changes ----------------------------------------------------------------------------------


async def test_a_key_that_is_not_there_is_empty(service: Service, client: SentinelClient) -> None:
    items, summary = await sweep(client, "hash")
    assert (items, summary.complete, summary.collection_size) == ([], True, 0)


@by_type
@several
async def test_a_key_that_goes_in_mid_scan(service: Service, client: SentinelClient, type_: str, segments: Any) -> None:
    put(service, type_)
    async with opened(client, type_, segments=segments, count=10, page_size=10, prefetch=0) as pages:
        await half(pages)
        write(service, None)
        with pytest.raises(CollectionGone, match="is not there any more") as caught:
            async for _ in pages:
                pass
    assert caught.value.summary is not None
    assert not caught.value.summary.complete
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
async def test_without_the_guard_a_key_that_went_looks_complete(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """On the next master: it had not been replicated. The old one has it to this day."""
    put(service)
    if not guarded:
        monkeypatch.setattr(CollectionPlan, "_is_gone", lambda plan, size: False)
    found: list[Any] = []
    for server in service.replicas:
        server.program.put(0, KEY, None)
    async with opened(client, "set", count=10, page_size=10, prefetch=0) as pages:
        await half(pages)
        service.fail_over()
        try:
            async for page in pages:
                found += page if page.epoch else ()
        except CollectionGone:
            assert guarded
        else:
            assert not guarded
    assert found == []
    assert pages.summary.complete is not guarded


async def test_a_key_that_goes_before_the_certificate(service: Service, client: SentinelClient) -> None:
    """The last page was taken, and was no last page perhaps."""
    put(service)
    service.master.tap("SCARD", skip=1, before=lambda: write(service, None))
    with pytest.raises(CollectionGone):
        await sweep(client)


@several
async def test_a_key_that_becomes_something_else(service: Service, client: SentinelClient, segments: Any) -> None:
    put(service)
    async with opened(client, "set", segments=segments, count=10, page_size=10, prefetch=0) as pages:
        await half(pages)
        write(service, Value(b"a string"))
        with pytest.raises(CollectionChanged, match="holds no set any more"):
            async for _ in pages:
                pass


@by_type
async def test_a_key_of_another_type(service: Service, client: SentinelClient, type_: str) -> None:
    write(service, Value(b"a string"))
    with pytest.raises(ScanRefused, match="the key holds no"):
        await sweep(client, type_)
    assert not service.master.commands(f"{type_[0].upper()}SCAN")


# ---- refusals and nonsense -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["HLEN", "HSCAN"])
async def test_what_the_user_may_not_do(service: Service, command: str) -> None:
    put(service, "hash")
    service.master.program.users["default"] = User(forbidden=frozenset({command}))
    async with RedisClient(service.master.address) as client:
        with pytest.raises(ScanRefused, match=f"refuses {command}"):
            await sweep(client, "hash")


@pytest.mark.parametrize(
    "command, skip, instead",
    [
        ("HLEN", 0, Reply(b"many")),
        ("HLEN", 1, Reply([])),
        ("HSCAN", 0, Reply([b"0", [b"a field", b"and its value", b"and another"]])),
        ("HSCAN", 2, Reply(b"OK")),
    ],
)
async def test_nonsense(service: Service, client: SentinelClient, command: str, skip: int, instead: Any) -> None:
    put(service, "hash")
    service.master.tap(command, skip=skip, instead=instead)
    with pytest.raises(ProtocolError) as caught:
        await sweep(client, "hash", count=COUNT)
    assert "field" not in str(caught.value)


async def test_a_server_that_is_loading(service: Service, client: SentinelClient) -> None:
    """It does not tell yet; it is asked again, on another connection."""
    put(service)
    service.master.program.loading = True
    async with opened(client, "set") as pages, trio.open_nursery() as nursery:

        async def finish_loading() -> None:
            await trio.sleep(5)
            service.master.program.loading = False

        nursery.start_soon(finish_loading)
        assert {member async for page in pages for member in page} == set(NAMES)
    assert pages.summary.complete


async def test_a_server_that_is_busy_when_the_certificate_is_due(service: Service, client: SentinelClient) -> None:
    put(service)
    service.master.tap("SCARD", skip=1, times=3, instead=Reply(Error("BUSY Redis is busy running a script")))
    items, summary = await sweep(client)
    assert set(items) == set(NAMES)
    assert len(service.master.commands("SCARD")) == 5
    assert summary.complete


# ---- checkpoints -----------------------------------------------------------------------------------------------


async def test_a_scan_goes_on_from_a_checkpoint(service: Service, client: SentinelClient) -> None:
    put(service, "zset")
    async with opened(client, "zset", count=10, segments=3, page_size=10) as pages:
        first = await half(pages)
        text = pages.checkpoint()
    rest, summary = await sweep(client, "zset", count=10, resume=text)
    assert {member for member, _ in first + rest} == set(NAMES)
    assert (summary.epoch, summary.segments) == (0, 3)
    assert len(rest) < 300
    with pytest.raises(CheckpointInvalid):
        client.open_zscan(KEY + b"2", resume=text)
    with pytest.raises(CheckpointInvalid):
        client.open_sscan(KEY, resume=text)
    with pytest.raises(CheckpointInvalid):
        client.open_scan(resume=text)


async def test_a_checkpoint_of_a_process_that_is_gone(service: Service, client: SentinelClient) -> None:
    put(service)
    async with opened(client, "set", count=10, page_size=10) as pages:
        await half(pages)
        text = pages.checkpoint()
    service.master.restart()
    items, summary = await sweep(client, resume=text)
    assert set(items) == set(NAMES)
    assert summary.epoch == 1
    write(service, None)
    with pytest.raises(CollectionGone):
        await sweep(client, resume=text)


# ---- arguments -------------------------------------------------------------------------------------------------


@by_type
async def test_bad_arguments_before_anything_is_sent(  # noqa: ASYNC124 (its fixtures are async)
    service: Service, client: SentinelClient, type_: str
) -> None:
    before = len(service.master.log)
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("match", lambda: opened(client, type_, match=1)),
        ("count", lambda: opened(client, type_, count=0)),
        ("segments", lambda: opened(client, type_, segments=0)),
        ("cursor", lambda: opened(client, type_, cursor="x")),
        ("resume", lambda: opened(client, type_, resume="x")),
        ("dedupe", lambda: opened(client, type_, dedupe=1)),
        ("page_size", lambda: opened(client, type_, page_size=0)),
        ("duty", lambda: opened(client, type_, duty=0)),
        ("certify", lambda: opened(client, type_, certify="nobody")),
        ("on_failover", lambda: opened(client, type_, on_failover="ignore")),
        ("max_restarts", lambda: opened(client, type_, max_restarts=-1)),
        ("prefetch", lambda: opened(client, type_, prefetch=-1)),
    ]
    for argument, call in calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.argument == argument
    untyped: Any = client
    # What only a scan of the keyspace has.
    for other in ("type_", "with_", "extra_args", "hash_seed_shared", "read_from", "fallback"):
        with pytest.raises(TypeError, match=other):
            opened(untyped, type_, **{other: None})
    assert len(service.master.log) == before


async def test_keys_and_values_that_cannot_be(client: SentinelClient) -> None:  # noqa: ASYNC124 (its fixtures are async)
    scans: list[Any] = [client.open_hscan, client.open_sscan, client.open_zscan]
    for scan in scans:
        for key in (None, 5, bytearray(b"k"), ["k"]):
            with pytest.raises(ConfigError) as caught:
                scan(key)
            assert caught.value.argument == "key"
    with pytest.raises(ConfigError) as caught:
        scans[0]("k", no_values=1)
    assert caught.value.argument == "no_values"


async def test_a_client_that_is_not_open(service: Service) -> None:  # noqa: ASYNC124 (its fixtures are async)
    client = RedisClient(service.master.address)
    for type_ in ("hash", "set", "zset"):
        with pytest.raises(ClientClosed):
            opened(client, type_)


# ---- what is told ----------------------------------------------------------------------------------------------


async def test_neither_key_nor_items_are_told(
    network: Network, service: Service, client: SentinelClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    put(service, "hash")
    async with opened(client, "hash", count=10, page_size=10, prefetch=0, match="name:*") as pages:
        page = await pages.receive()
        await settled()
        said = [repr(page), repr(pages), repr(pages.summary), page.checkpoint, repr(pages._scan.plan)]
        service.fail_over()
        async for _ in pages:
            pass
    said.append(repr(pages.summary))
    assert not any("secret" in text or "name:" in text for text in (*said, caplog.text))
