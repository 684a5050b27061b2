"""Nothing happens: empty and large databases, every kind of key, each option, each way to connect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio

from tests.real.scenes import HANG, Account, drain
from trio_sentinel_scan import (
    RedisClient,
    ScanError,
    SentinelClient,
    ServerConnectionError,
    ServerUnavailable,
    connect,
)
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio


@pytest.fixture(scope="module")
def service(server_binary: ServerBinary) -> Iterator[LocalSentinel]:
    """One service for all tests in here: none of them does it any harm."""
    local = LocalSentinel(replicas=1, binary=server_binary)
    trio.run(local.__aenter__)
    yield local
    trio.run(local.__aexit__, None, None, None)


@pytest.fixture
async def client(service: LocalSentinel) -> AsyncIterator[SentinelClient]:
    """A client of the service, which is empty."""
    with trio.fail_after(HANG):
        await (await service.master()).execute("FLUSHALL")
        async with SentinelClient(service.sentinels, service.service) as client:
            yield client


async def test_an_empty_database(client: SentinelClient) -> None:
    async with client.open_scan() as pages:
        account = await drain(pages)
        with pytest.raises(trio.EndOfChannel):
            await pages.receive()
    account.check_complete(pages.summary, [], epoch=0)
    assert account.pages == []
    assert pages.summary.scans == pages.summary.segments == 16
    certificate = pages.summary.certificate
    assert certificate is not None
    assert (certificate.basis, certificate.role, certificate.replicas) == ("sentinels", "master", 1)
    assert (certificate.sentinels_known, certificate.config_epoch) == (3, 0)
    assert certificate.sentinels_agreeing >= 2


async def test_one_key(client: SentinelClient) -> None:
    await client.set("only", "one")
    async with client.open_scan() as pages:
        account = await drain(pages)
    account.check_complete(pages.summary, [b"only"], epoch=0)
    assert account.keys() == [b"only"]


@pytest.mark.smoke
async def test_200_000_keys(client: SentinelClient, service: LocalSentinel) -> None:
    keys = await service.nodes[0].fill(200_000)
    async with client.open_scan() as pages:
        account = await drain(pages)
    account.check_complete(pages.summary, keys, epoch=0)
    # A segment's last page runs into its neighbour, by next to nothing.
    assert pages.summary.keys < 1.01 * len(keys)
    assert pages.summary.keys_per_second > 0
    positions = [page.position for page in account.pages]
    assert positions == sorted(positions, key=lambda position: position or 0.0)


async def test_match_count_and_type(client: SentinelClient, service: LocalSentinel) -> None:
    await service.nodes[0].fill(1_000, "user:")
    await service.nodes[0].fill(1_000, "other:")
    for number in range(100):
        await client.rpush(f"list:{number}", "x")
        await client.hset(f"user:hash:{number}", "field", "x")
    users = {b"user:%d" % number for number in range(1_000)}
    hashes = {b"user:hash:%d" % number for number in range(100)}
    lists = {b"list:%d" % number for number in range(100)}

    async def found(**options: Any) -> set[bytes]:
        async with client.open_scan(**options) as pages:
            account = await drain(pages)
        account.check_complete(pages.summary, [], epoch=0)
        return set(account.keys())

    assert await found(match="user:*") == users | hashes
    assert await found(match=b"user:*") == users | hashes
    assert await found(match="user:[0-4]") == {b"user:%d" % number for number in range(5)}
    assert await found(match="nobody:*") == set()
    assert await found(type_="list") == lists
    assert await found(type_="HASH") == hashes
    assert await found(type_="zset") == set()
    assert await found(match="user:*", type_="string", count=7) == users
    async with client.open_scan(count=10) as many:
        await drain(many)
    async with client.open_scan(count=100_000, segments=1) as few:
        await drain(few)
    assert few.summary.scans == 1
    assert many.summary.scans > 100


async def test_keys_are_any_bytes(client: SentinelClient) -> None:
    keys = [b"", b"\r\n", b"a\r\nb", b"\xff\xfe", b"\x00", b" ", b"*", b"\\", "ключ".encode(), b"x" * 100_000]
    keys += [bytes([byte]) for byte in range(256)]
    for key in keys:
        await client.set(key, "x")
    async with client.open_scan(count=10) as pages:
        account = await drain(pages)
    account.check_complete(pages.summary, keys, epoch=0)
    assert set(account.keys()) == set(keys)
    async with client.open_scan(match=b"\xff*") as pages:
        assert set((await drain(pages)).keys()) == {b"\xff", b"\xff\xfe"}


async def test_decode_responses(client: SentinelClient, service: LocalSentinel) -> None:
    keys = {key.decode() for key in await service.nodes[0].fill(1_000, "ключ:".encode())}
    async with SentinelClient(service.sentinels, service.service, decode_responses=True) as texts:
        async with texts.open_scan(count=100) as pages:
            account: Account[str] = Account()
            async for page in pages:
                account.note(page)
                assert await texts.mget(page.keys) == ["x"] * len(page)
        account.check_complete(pages.summary, keys, epoch=0)
        async with texts.open_scan(match="ключ:1*") as pages:
            assert set((await drain(pages)).keys()) == {key for key in keys if key.startswith("ключ:1")}


async def test_a_key_that_cannot_be_decoded(client: SentinelClient, service: LocalSentinel) -> None:
    await client.set(b"\xff", "x")
    async with SentinelClient(service.sentinels, service.service, decode_responses=True) as texts:
        async with texts.open_scan() as pages:
            with pytest.raises(ScanError, match="decode_responses=False"):
                await pages.receive()
        assert not pages.summary.complete
    async with (
        SentinelClient(
            service.sentinels, service.service, decode_responses=True, encoding_errors="surrogateescape"
        ) as texts,
        texts.open_scan() as pages,
    ):
        assert (await drain(pages)).keys() == ["\udcff"]


async def test_database_numbers(client: SentinelClient, service: LocalSentinel) -> None:
    await client.set("in 0", "x")
    for db in (3, 15):
        async with SentinelClient(service.sentinels, service.service, db=db) as other:
            await other.set(f"in {db}", "x")
            async with other.open_scan() as pages:
                assert (await drain(pages)).keys() == [f"in {db}".encode()]
        async with connect(service.url.removesuffix("/0") + f"/{db}") as by_url, by_url.open_scan() as pages:
            assert (await drain(pages)).keys() == [f"in {db}".encode()]
    async with client.open_scan() as pages:
        assert (await drain(pages)).keys() == [b"in 0"]


async def test_a_cursor_of_ones_own(client: SentinelClient, service: LocalSentinel) -> None:
    """The scan goes on where another one has left off, at the same process."""
    master = service.nodes[0]
    keys = await master.fill(1_000)
    reply = await master.execute("SCAN", 0, "COUNT", 300)
    assert isinstance(reply, list)
    cursor, first = reply
    assert isinstance(cursor, bytes)
    assert isinstance(first, list)
    for given in (int(cursor), cursor.decode()):
        async with client.open_scan(cursor=given, count=100) as pages:
            account = await drain(pages)
        account.check_complete(pages.summary, keys.difference(first), epoch=0)
        assert len(account.keys()) < len(keys)


async def test_keys_that_stay_while_the_table_changes(client: SentinelClient, service: LocalSentinel) -> None:
    """It grows tenfold and shrinks again, all during one pass."""
    master = service.nodes[0]
    keys = await master.fill(3_000)
    account: Account[bytes] = Account()
    async with client.open_scan(count=50, prefetch=0, segments=1) as pages:
        await account.take(pages, 10)
        extra = await master.fill(30_000, "extra:")
        await account.take(pages, 10)
        for at in range(0, len(extra), 5_000):
            await master.execute("DEL", *sorted(extra)[at : at + 5_000])
        await account.take_the_rest(pages)
    account.check_complete(pages.summary, keys, epoch=0)


async def test_a_replica(client: SentinelClient, service: LocalSentinel) -> None:
    """Whoever connects to a replica may scan it: its own word is then what the certificate rests on."""
    keys = await service.fill(1_000)
    replica = service.nodes[1]
    async with RedisClient(replica.address) as direct, direct.open_scan(count=100) as pages:
        account = await drain(pages)
    account.check_complete(pages.summary, keys, epoch=0)
    certificate = pages.summary.certificate
    assert certificate is not None
    assert (certificate.basis, certificate.role, certificate.sentinels_known) == ("server", "slave", 0)


async def test_a_replica_that_is_not_in_sync(server_binary: ServerBinary) -> None:
    """It would answer SCAN with an empty result, and no error."""
    async with LocalRedis(binary=server_binary) as gone:
        address = gone.address
    async with (
        LocalRedis(binary=server_binary, replica_of=address) as replica,
        RedisClient(replica.address, failover_timeout=0.5) as client,
    ):
        async with client.open_scan() as pages:
            with pytest.raises(ServerUnavailable, match="not in sync"):
                await pages.receive()
        assert not pages.summary.complete
        assert await client.role()


async def test_one_server(server_binary: ServerBinary, tmp_path: Path) -> None:
    """By its address, as text or as a pair, by URL, and by its Unix socket."""
    path = str(tmp_path / "redis.sock")
    async with LocalRedis(binary=server_binary, config={"unixsocket": path}) as server:
        keys = await server.fill(1_000)
        host, port = server.address
        clients = [
            RedisClient(server.address),
            RedisClient(f"{host}:{port}"),
            RedisClient(path),
            connect(server.url),
            connect(f"redis://localhost:{port}/0?response_timeout=3"),
            connect(f"valkey://{host}:{port}"),
            connect(f"unix://{path}?db=0"),
            connect(f"unix://{path}", client_name="by-its-path"),
        ]
        for client in clients:
            async with client, client.open_scan(count=100, segments=1) as pages:
                account = await drain(pages)
            account.check_complete(pages.summary, keys, epoch=0)
            account.check_without_duplicates()
            certificate = pages.summary.certificate
            assert certificate is not None
            assert (certificate.basis, certificate.role) == ("server", "master")
        async with connect(f"unix://{path}?db=2") as other, other.open_scan() as pages:
            assert (await drain(pages)).keys() == []


async def test_a_service_by_url(client: SentinelClient, service: LocalSentinel) -> None:
    keys = await service.nodes[0].fill(1_000)
    members = ",".join(f"{host}:{port}" for host, port in service.sentinels)
    for url in (service.url, f"valkey+sentinel://{members}/{service.service}", f"{service.url}?protocol=2"):
        async with connect(url) as by_url:
            assert isinstance(by_url, SentinelClient)
            async with by_url.open_scan() as pages:
                (await drain(pages)).check_complete(pages.summary, keys, epoch=0)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_protocols(client: SentinelClient, service: LocalSentinel, protocol: Literal[2, 3]) -> None:
    keys = await service.nodes[0].fill(1_000)
    async with (
        SentinelClient(service.sentinels, service.service, protocol=protocol) as other,
        other.open_scan(count=100) as pages,
    ):
        (await drain(pages)).check_complete(pages.summary, keys, epoch=0)


async def test_nobody_listens(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as gone:
        address = gone.address
    with pytest.raises(ServerConnectionError, match="cannot be reached"):
        async with RedisClient(address):
            pytest.fail("there is nobody")


async def test_on_every_server(each_server_binary: ServerBinary) -> None:
    """One server of each kind that is at hand: every key once, and positions to tell how far it has come."""
    async with LocalRedis(binary=each_server_binary) as server:
        keys = await server.fill(20_000)
        async with RedisClient(server.address) as client, client.open_scan(count=100) as pages:
            account = await drain(pages)
        account.check_complete(pages.summary, keys, epoch=0)
        # A segment's last page runs into its neighbour, by next to nothing.
        assert pages.summary.keys < 1.01 * len(keys)
        assert all(page.position is not None for page in account.pages)
        async with RedisClient(server.address) as client, client.open_scan(count=100, segments=1) as pages:
            account = await drain(pages)
        account.check_complete(pages.summary, keys, epoch=0)
        account.check_without_duplicates()
