"""TLS on both sides, each with a context of its own; and whoever is not who it should be is not talked to."""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.proxy import open_proxy
from tests.real.scenes import HANG, Account, clients_tasks, drain, identity_of
from trio_sentinel_scan import (
    MasterNotFound,
    NoSentinelReachable,
    RedisClient,
    ResponseTimeout,
    SentinelClient,
    ServerConnectionError,
    connect,
)
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel, make_test_certificates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from trio_sentinel_scan.testing import Certificates, ServerBinary

pytestmark = pytest.mark.trio

KEYS = 2_000


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_test_certificates(tmp_path_factory.mktemp("certificates"), "data.example")


@pytest.fixture(scope="module")
def service(tls_server_binary: ServerBinary, certificates: Certificates) -> Iterator[LocalSentinel]:
    """One service for all tests in here that leave it whole."""
    local = LocalSentinel(replicas=1, binary=tls_server_binary, tls=certificates)
    trio.run(local.__aenter__)
    yield local
    trio.run(local.__aexit__, None, None, None)


@pytest.fixture
async def keys(service: LocalSentinel) -> AsyncIterator[set[bytes]]:
    with trio.fail_after(HANG):
        yield await service.nodes[0].fill(KEYS)


def strangers_context(tmp_path: Path) -> ssl.SSLContext:
    """Trusts somebody, but not the authority behind the servers' certificate."""
    return make_test_certificates(tmp_path).client_context()


async def test_both_sides(service: LocalSentinel, certificates: Certificates, keys: set[bytes]) -> None:
    data, sentinels = certificates.client_context(), certificates.client_context()
    async with SentinelClient(service.sentinels, service.service, ssl=data, sentinel_ssl=sentinels) as client:
        async with client.open_scan(count=100, segments=1) as pages:
            account: Account[bytes] = Account()
            async for page in pages:
                account.note(page)
                assert await client.mget(page.keys) == [b"x"] * len(page)
        account.check_complete(pages.summary, keys, epoch=0)
        account.check_without_duplicates()


async def test_by_url(service: LocalSentinel, certificates: Certificates, keys: set[bytes]) -> None:
    context = certificates.client_context()
    node = service.nodes[0]
    for client in (
        connect(service.url, ssl=context, sentinel_ssl=context),
        connect(node.url, ssl=context),
        connect(f"valkeys://localhost:{node.port}/0", ssl=context),
    ):
        async with client, client.open_scan(count=1000, segments=1) as pages:
            (await drain(pages)).check_complete(pages.summary, keys, epoch=0)


async def test_an_authority_that_is_not_trusted(
    service: LocalSentinel, certificates: Certificates, tmp_path: Path
) -> None:
    """The system's certificates do not know it, and neither does a stranger's context: said on either side."""
    good, bad = certificates.client_context(), strangers_context(tmp_path)
    node = service.nodes[0]
    for context in (bad, True):
        with pytest.raises(ServerConnectionError, match=r"(?i)tls.*certificate.verify.failed"):
            async with RedisClient(node.address, ssl=context):
                pytest.fail("a stranger was talked to")
        with pytest.raises(NoSentinelReachable, match=r"(?i)tls") as caught:
            async with SentinelClient(service.sentinels, service.service, ssl=good, sentinel_ssl=context):
                pytest.fail("a stranger was talked to")
        assert len(caught.value.sentinels) == 3
    with pytest.raises(MasterNotFound, match=r"(?i)tls"):
        async with SentinelClient(service.sentinels, service.service, ssl=bad, sentinel_ssl=good, failover_timeout=0.5):
            pytest.fail("a stranger was talked to")
    assert clients_tasks() == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of this machine")
async def test_the_wrong_host_name(
    nursery: trio.Nursery, service: LocalSentinel, certificates: Certificates, keys: set[bytes]
) -> None:
    """The certificate is good for 127.0.0.1 and data.example, and not for 127.0.0.2."""
    context = certificates.client_context()
    node = service.nodes[0]
    elsewhere = await open_proxy(nursery, node.address, host="127.0.0.2")
    with pytest.raises(ServerConnectionError, match=r"(?i)tls"):
        async with RedisClient(elsewhere.address, ssl=context):
            pytest.fail("it was not the host that was asked for")
    # What counts is the name that is announced, wherever it is dialled: the Sentinels announce 127.0.0.1.
    async with (
        SentinelClient(
            service.sentinels,
            service.service,
            ssl=context,
            sentinel_ssl=context,
            address_map={node.address: elsewhere.address},
        ) as client,
        client.open_scan(count=1000, segments=1) as pages,
    ):
        (await drain(pages)).check_complete(pages.summary, keys, epoch=0)
    assert elsewhere.connections >= 2


async def test_plain_where_tls_is_spoken_and_the_other_way_round(
    service: LocalSentinel, certificates: Certificates, tls_server_binary: ServerBinary
) -> None:
    context = certificates.client_context()
    with pytest.raises(ServerConnectionError):
        async with RedisClient(service.nodes[0].address):
            pytest.fail("it speaks TLS")
    with pytest.raises(NoSentinelReachable):
        async with SentinelClient(service.sentinels, service.service):
            pytest.fail("they speak TLS")
    async with LocalRedis(binary=tls_server_binary) as plain:
        # It takes the greeting for the beginning of a command, and waits for the rest.
        with pytest.raises(ResponseTimeout):
            async with RedisClient(plain.address, ssl=context, response_timeout=0.2):
                pytest.fail("it speaks no TLS")


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_connection_that_is_cut(
    nursery: trio.Nursery, service: LocalSentinel, certificates: Certificates, keys: set[bytes], how: str
) -> None:
    """An end without TLS's farewell is no end of the scan: a new connection, the same process, the same cursor."""
    node = service.nodes[0]
    proxy = await open_proxy(nursery, node.address)
    async with RedisClient(proxy.address, ssl=certificates.client_context()) as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            if how == "reset":
                proxy.reset_all()
            else:
                await node.execute("CLIENT", "KILL", "TYPE", "normal")
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys, epoch=0)
        account.check_without_duplicates()
        assert pages.summary.reconnects == 1
    await proxy.wait_until_deserted()


async def test_through_a_failover(tls_server_binary: ServerBinary, certificates: Certificates) -> None:
    context = certificates.client_context()
    with trio.fail_after(HANG):
        async with LocalSentinel(replicas=1, binary=tls_server_binary, tls=certificates, down_after=2.0) as service:
            keys = await service.fill(KEYS)
            before = await identity_of(service.nodes[0])
            account: Account[bytes] = Account()
            async with (
                connect(service.url, ssl=context, sentinel_ssl=context) as client,
                client.open_scan(count=100, prefetch=0, segments=1) as pages,
            ):
                await account.take(pages, 3)
                await service.kill()
                await service.sentinel_nodes[0].begin_failover()
                await account.take_the_rest(pages)
            new = await service.master()
            account.check_complete(pages.summary, keys, epoch=1)
            account.check_master_change(pages.summary, before, await identity_of(new))
