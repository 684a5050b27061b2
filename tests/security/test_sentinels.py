"""A Sentinel that names an attacker's address: what that meets, and what it gets all the same, as SECURITY.md says."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio

from tests.security.harvest import KEY, PASSWORD, VALUE
from tests.trio.fakes import DataServer, Host, Network, Service, User, Value, on_mock_time
from trio_sentinel_scan import Address, MasterNotFound, ScanNotCertified, SentinelClient, ServerConnectionError
from trio_sentinel_scan._core.cluster_work import read_redirection
from trio_sentinel_scan._core.sentinel_replies import read_answer
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._trio import connection as connection_module

pytestmark = pytest.mark.trio(run=on_mock_time)

ATTACKER = ("10.66.6.6", 6379)


class Stage:
    """A service that wants a password, and an attacker's server that takes any."""

    def __init__(self, network: Network, *, role: str = "master") -> None:
        self.network = network
        self.service = Service(network, keys=50)
        for server in self.service.servers:
            server.program.users = {"default": User(PASSWORD)}
        self.attacker: Host[DataServer] = network.add(DataServer(ATTACKER, Random(6)))
        self.attacker.program.put(0, b"false", Value(b"false"))
        if role != "master":
            self.attacker.program.master = self.service.master.address

    def lie(self, number: int) -> None:
        """So many Sentinels name the attacker, under a later epoch."""
        for sentinel in self.service.sentinels[:number]:
            sentinel.program.switch(self.service.name, ATTACKER, 10**6)

    def client(self, **options: Any) -> SentinelClient:
        options = {"password": PASSWORD, "failover_timeout": 20, **options}
        return SentinelClient(self.service.addresses, self.service.name, **options)

    def heard(self, *words: str) -> list[list[bytes]]:
        """Commands that reached the attacker."""
        return self.attacker.commands(*words)


async def test_who_says_to_be_no_master_gets_no_command(network: Network) -> None:
    """ROLE is asked on each connection, before anything else goes over it. It has been sent the password by then."""
    stage = Stage(network, role="slave")
    async with stage.client() as client:
        await client.set(KEY, VALUE)
        stage.lie(1)
        await trio.sleep(1)
        with trio.fail_after(60):
            await client.set(KEY, VALUE)
            async with client.open_scan() as pages:
                found = {key for page in [page async for page in pages] for key in page}
            assert found == stage.service.keys()
    assert stage.heard("HELLO")
    assert not stage.heard("SET")
    assert not stage.heard("SCAN")


async def test_the_first_word_may_be_a_lie(network: Network) -> None:
    stage = Stage(network, role="slave")
    stage.lie(3)
    with pytest.raises(MasterNotFound):
        async with stage.client():
            pytest.fail("it says that it is no master")
    assert not stage.heard("SET")


async def test_without_tls_the_password_goes_where_the_sentinels_say(network: Network) -> None:
    """One of them is enough, under an epoch later than all: so failovers are followed. This is what TLS is for."""
    stage = Stage(network)
    async with stage.client() as client:
        stage.lie(1)
        await trio.sleep(1)
        with trio.move_on_after(10):
            await client.set(KEY, VALUE)
    assert any(PASSWORD.encode() in words for words in stage.heard("HELLO"))


async def all_of(pages: Any) -> None:
    async for _ in pages:
        pass


async def test_no_scan_is_complete_on_one_liars_word(network: Network) -> None:
    """The certificate wants a majority: a scan of the attacker's server ends with the error that says so."""
    stage = Stage(network)
    async with stage.client() as client:
        stage.lie(1)
        await trio.sleep(1)
        async with client.open_scan(count=10) as pages:
            with trio.fail_after(200), pytest.raises(ScanNotCertified):
                await all_of(pages)
    assert stage.heard("SCAN")
    assert not pages.summary.complete


async def test_with_tls_only_the_certificate_is_asked_for(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is refused before a word was said: `test_tls.py` has that on sockets, for each certificate."""
    stage = Stage(network)
    context = object()
    asked: list[tuple[object, Address | None]] = []

    async def open_stream(dial: Address, *, announced: Address | None = None, ssl: object = None) -> Any:
        # As the real one: the name that is checked is the one that was announced, and the attacker has no such paper.
        assert ssl is context or dial.port == 26379
        if (dial.host, dial.port) == ATTACKER:
            asked.append((ssl, announced))
            await trio.lowlevel.checkpoint()
            raise ServerConnectionError(f"{dial} refused TLS, or is not who it should be: CERTIFICATE_VERIFY_FAILED")
        return await network.open_stream(dial, announced=announced)

    monkeypatch.setattr(connection_module, "open_stream", open_stream)
    client = stage.client()
    object.__setattr__(client._settings.endpoint, "ssl", context)
    async with client:
        stage.lie(1)
        await trio.sleep(1)
        with trio.move_on_after(10):
            await client.set(KEY, VALUE)
    # It was gone to, and asked for a certificate of the very name that the Sentinel had given.
    assert asked
    assert all(ssl is context and announced in {None, ATTACKER} for ssl, announced in asked)
    assert stage.attacker.log == []


# ---- this machine's own sockets ----------------------------------------------------------------------------------


SHOWN = [b"ip", b"/run/admin.sock", b"port", b"0", b"config-epoch", b"3"]


async def test_no_server_sends_us_to_a_unix_socket() -> None:
    """In an `Address` the port 0 stands for one: where a server names it, that is nonsense, and not an address."""
    with pytest.raises(ValueError, match="port"):
        read_answer(SHOWN, [b"/run/admin.sock", b"0"], SHOWN, [])
    for words in ("MOVED 7 /run/admin.sock:0", "ASK 7 /run/admin.sock:0", "MOVED 7 h:65536", "MOVED 16384 h:1"):
        assert read_redirection(parse_error_reply(words), Address("10.0.0.1", 1)) is None
    await trio.lowlevel.checkpoint()
