"""Who is not who it should be is not spoken to, and an end without TLS's farewell is no end of anything.

On sockets of this machine; `tests/real/test_scan_tls.py` has real servers, as far as those can be made to.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trustme

from tests.security.harvest import KEY, PASSWORD, VALUE, harvesting
from tests.security.socket_server import socket_server
from tests.trio.fakes import User
from trio_sentinel_scan import RedisClient, ScanRestartsExhausted, ServerConnectionError

pytestmark = pytest.mark.trio

KEYS = 200
YEAR = dt.timedelta(days=365)
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def contexts(authority: trustme.CA, certificate: trustme.LeafCert) -> Contexts:
    """The server's, with that certificate, and a client's that trusts that authority."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def good() -> Contexts:
    authority = trustme.CA()
    return contexts(authority, authority.issue_cert("127.0.0.1"))


def wrong_name() -> Contexts:
    authority = trustme.CA()
    return contexts(authority, authority.issue_cert("10.9.9.9", "elsewhere.example"))


def expired() -> Contexts:
    now = dt.datetime.now(dt.UTC)
    authority = trustme.CA()
    return contexts(authority, authority.issue_cert("127.0.0.1", not_before=now - YEAR, not_after=now - YEAR / 2))


def not_valid_yet() -> Contexts:
    now = dt.datetime.now(dt.UTC)
    authority = trustme.CA()
    return contexts(authority, authority.issue_cert("127.0.0.1", not_before=now + YEAR / 2, not_after=now + YEAR))


def self_signed() -> Contexts:
    """Signed by an authority that nobody but itself knows."""
    return good()[0], good()[1]


def by_the_system() -> Contexts:
    """ssl=True: the system's authorities."""
    return good()[0], ssl.create_default_context()


WRONG = [wrong_name, expired, not_valid_yet, self_signed, by_the_system]


@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
async def test_who_is_not_who_it_should_be_hears_nothing(make: Callable[[], Contexts]) -> None:
    """Not the password, and not a byte: and the error says that it is TLS, and why."""
    server_context, client_context = make()
    with harvesting() as harvest:
        async with socket_server(server_context) as (server, address):
            client = RedisClient(address, ssl=client_context, password=PASSWORD, response_timeout=120)
            with pytest.raises(ServerConnectionError, match=r"refused TLS, or is not who it should be: \S+") as caught:
                async with client:
                    pytest.fail("a stranger was talked to")
            harvest.error(caught.value)
            assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
            assert server.connections == 1
            assert server.heard == b""
    harvest.check()


async def test_who_is_not_checked_hears_the_password() -> None:
    """The guard switched off, as `ssl.CERT_NONE` does it: what there is to lose."""
    server_context, client_context = self_signed()
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    async with socket_server(server_context) as (server, address):
        server.program.users["default"] = User(PASSWORD)
        async with RedisClient(address, ssl=client_context, password=PASSWORD, response_timeout=120) as client:
            await client.ping()
        assert PASSWORD.encode() in server.heard


@pytest.mark.parametrize("ending", ["cut", "farewell"])
@pytest.mark.parametrize("last_words", [0, 1, 40], ids=["nothing", "a byte", "some"])
async def test_an_end_is_no_end_of_a_scan(ending: Any, last_words: int) -> None:
    """With or without a farewell, between two replies or within one: a new connection, and the whole of the rest.

    TLS's farewell would make a difference to who takes the end of a stream for the end of what there is; nobody here
    does.
    """
    server_context, client_context = good()
    async with socket_server(server_context, keys=KEYS) as (server, address):
        server.ends_after, server.ending, server.last_words = 4, ending, last_words
        async with RedisClient(address, ssl=client_context, response_timeout=120, failover_timeout=120) as client:
            async with client.open_scan(count=10, segments=1) as pages:
                found = [key for page in [page async for page in pages] for key in page]
            assert pages.summary.complete
        assert len(found) == len(set(found)) == KEYS
        assert pages.summary.reconnects > 2
        assert pages.summary.epoch == 0


async def test_a_server_that_always_ends_is_an_error() -> None:
    """Never an end of the iteration, and never an endless one."""
    server_context, client_context = good()
    async with socket_server(server_context, keys=KEYS) as (server, address):
        server.ends_after = 1
        async with (
            RedisClient(address, ssl=client_context, response_timeout=120, failover_timeout=120) as client,
            client.open_scan(count=10, segments=1, max_restarts=2) as pages,
        ):
            with pytest.raises(ScanRestartsExhausted):
                await pages.receive()
        assert not pages.summary.complete


async def test_nothing_private_is_told_of_tls() -> None:
    """Through commands and scans whose connections break."""
    server_context, client_context = good()
    with harvesting() as harvest:
        async with socket_server(server_context, keys=KEYS) as (server, address):
            server.program.users["default"] = User(PASSWORD)
            server.ends_after = 3
            async with RedisClient(address, ssl=client_context, password=PASSWORD, response_timeout=120) as client:
                await client.set(KEY, VALUE)
                async with client.open_scan(match=KEY, count=10, segments=1) as pages:
                    async for page in pages:
                        harvest.add("a page", repr(page))
                        harvest.living()
                harvest.living()
    harvest.check()
