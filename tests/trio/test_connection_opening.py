"""Opening a connection: what the handshake makes of a server, and that nothing stays open when it fails."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from redis.credentials import CredentialProvider

from tests.trio.fakes import (
    ABSURD,
    HANG_UP,
    SILENCE,
    DataServer,
    Error,
    Host,
    Network,
    Raw,
    Reply,
    Sentinel,
    Service,
    User,
    on_mock_time,
)
from trio_sentinel_scan import (
    Address,
    AuthenticationFailed,
    ConfigError,
    ProtocolError,
    ResponseTimeout,
    RoleMismatch,
    ServerConnectionError,
)
from trio_sentinel_scan._core.config import Credentials, Endpoint
from trio_sentinel_scan._trio.connection import Connection, open_connection, open_sentinel_connection

pytestmark = pytest.mark.trio(run=on_mock_time)

HERE = Address("10.0.0.1", 6379)


# ---- the handshake ----------------------------------------------------------------------------------------------


@pytest.fixture
def host(network: Network) -> Host[DataServer]:
    return Service(network, keys=1, sentinels=0).master


async def connected(host: Host[Any], credentials: Credentials | None = None, **options: Any) -> Connection:
    endpoint = Endpoint(credentials or Credentials(), None, options.pop("db", 0), options.pop("client_name", None))
    return await open_connection(Address(*host.address), endpoint, response_timeout=5, **options)


async def test_one_round_trip_tells_who_answers(host: Host[DataServer], network: Network) -> None:
    host.delay = 0.25
    connection = await connected(host, client_name="us", db=3)
    greeting = connection.greeting
    assert greeting is not None
    assert greeting.identity.run_id == host.program.run_id
    assert greeting.role.kind == "master"
    assert greeting.role.replicas == {Address("10.0.0.2", 6379), Address("10.0.0.3", 6379)}
    assert greeting.protocol == 3
    assert len(host.commands()) == 6
    assert len({bytes(command[0]) for command in host.commands("HELLO")}) == 1
    assert connection.usable
    await connection.aclose()


async def test_a_server_without_hello_is_greeted_in_resp2(host: Host[DataServer]) -> None:
    host.program.knows_hello = False
    host.program.users["default"].password = "secret"
    connection = await connected(host, Credentials(None, "secret"), client_name="us", db=1)
    assert connection.greeting is not None
    assert connection.greeting.protocol == 2
    assert connection.greeting.role.kind == "master"
    assert [words[0] for words in host.commands("AUTH") + host.commands("SELECT")] == [b"AUTH", b"SELECT", b"SELECT"]
    await connection.aclose()


async def test_resp2_by_choice_and_resp3_by_force(host: Host[DataServer]) -> None:
    connection = await connected(host, protocol=2)
    assert connection.greeting is not None
    assert connection.greeting.protocol == 2
    assert host.commands("HELLO") == []
    await connection.aclose()
    host.program.knows_hello = False
    with pytest.raises(ServerConnectionError, match="does not speak RESP3, which protocol=3 asks for"):
        await connected(host, protocol=3)


@pytest.mark.parametrize("hello", [True, False], ids=["resp3", "resp2"])
async def test_an_acl_user(host: Host[DataServer], hello: bool) -> None:
    host.program.knows_hello = hello
    host.program.users = {"default": User("no entry"), "scanner": User("secret")}
    connection = await connected(host, Credentials("scanner", "secret"))
    await connection.aclose()
    for credentials in (Credentials("scanner", "wrong"), Credentials("nobody", "secret"), Credentials(None, "secret")):
        with pytest.raises(
            AuthenticationFailed, match=r"10\.0\.0\.1:6379 refused the username or password: "
        ) as caught:
            await connected(host, credentials)
        assert "secret" not in str(caught.value)
    with pytest.raises(AuthenticationFailed, match="wants a password and was given none"):
        await connected(host)


class Provider(CredentialProvider):
    """redis-py's way to have credentials from somewhere."""

    def get_credentials(self) -> tuple[str, str]:
        return "scanner", "secret"


@pytest.mark.trio(run=trio.run)  # the provider is asked in a thread, and threads know no other clock
async def test_a_provider_of_credentials(host: Host[DataServer]) -> None:
    host.program.users = {"default": User("no entry"), "scanner": User("secret")}
    connection = await connected(host, Credentials(provider=Provider()))
    assert connection.usable
    await connection.aclose()


async def test_a_database_that_is_not_there(host: Host[DataServer]) -> None:
    with pytest.raises(ConfigError, match=r"^db: 10\.0\.0\.1:6379 refuses to select database 99: ") as caught:
        await connected(host, db=99)
    assert caught.value.argument == "db"


async def test_a_user_without_role_and_info(host: Host[DataServer]) -> None:
    host.program.users["default"].forbidden = frozenset({"ROLE", "INFO", "CLIENT"})
    connection = await connected(host)
    assert connection.greeting is not None
    assert connection.greeting.identity.run_id is None
    assert connection.greeting.role.kind == "master"  # by HELLO
    await connection.aclose()


async def test_a_server_that_turns_connections_away(host: Host[DataServer]) -> None:
    """What it says unasked is not taken for its answer to the password."""
    host.turns_away = b"-ERR max number of clients reached\r\n"
    for credentials in (Credentials(), Credentials(None, "secret")):
        with pytest.raises(ServerConnectionError, match=r"^10\.0\.0\.1:6379 turns connections away: max number"):
            await connected(host, credentials)


async def test_protected_mode(host: Host[DataServer]) -> None:
    host.turns_away = b"-DENIED Redis is running in protected mode because ...\r\n"
    with pytest.raises(ServerConnectionError, match="turns connections away: DENIED"):
        await connected(host)


async def test_a_server_that_is_not_ready(host: Host[DataServer]) -> None:
    host.tap("INFO", instead=Reply(Error("BUSY Redis is busy running a script")))
    with pytest.raises(ServerConnectionError, match="is not ready: BUSY"):
        await connected(host)


async def test_loading_is_seen_later_and_does_not_end_the_handshake(host: Host[DataServer]) -> None:
    host.program.loading = True
    connection = await connected(host)
    await connection.aclose()


async def test_a_sentinel_is_no_data_node(network: Network) -> None:
    sentinel = Service(network, sentinels=1).sentinels[0]
    with pytest.raises(RoleMismatch, match=r"10\.0\.1\.1:26379 is a Sentinel, not a data node"):
        await connected(sentinel)


SHAPES = {
    "ROLE is a number": ("ROLE", 7),
    "ROLE is empty": ("ROLE", []),
    "ROLE names a role of its own": ("ROLE", ["quorum"]),
    "INFO is a list": ("INFO", [1, 2]),
    "INFO is empty": ("INFO", ""),
    "INFO has no lines": ("INFO", "run_id"),
    "HELLO is a list": ("HELLO", [1]),
    "HELLO is a status": ("HELLO", "OK"),
}


@pytest.mark.parametrize("command, reply", SHAPES.values(), ids=SHAPES.keys())
async def test_replies_of_other_shapes_say_nothing(host: Host[DataServer], command: str, reply: Any) -> None:
    """Nothing is made of them, and nothing of them is an error of ours."""
    host.tap(command, instead=Reply(reply))
    connection = await connected(host)
    assert connection.usable
    await connection.aclose()


BROKEN_SHAPES = {
    "a replica without a port": ["master", 1, [["10.0.0.2"]]],
    "a replica with a port in letters": ["master", 1, [["10.0.0.2", "port", "1"]]],
    "a replica that is a number": ["master", 1, [7]],
}


@pytest.mark.parametrize("reply", BROKEN_SHAPES.values(), ids=BROKEN_SHAPES.keys())
async def test_a_role_that_makes_no_sense_is_a_protocol_error(host: Host[DataServer], reply: Any) -> None:
    host.tap("ROLE", instead=Reply(reply))
    with pytest.raises(ProtocolError):
        await connected(host)


@pytest.mark.parametrize("data", ABSURD.values(), ids=ABSURD.keys())
async def test_garbage_in_the_handshake(host: Host[DataServer], data: bytes) -> None:
    """State that remains: no open connection (the network checks that)."""
    host.tap("HELLO", instead=Raw(data))
    with pytest.raises(ProtocolError):
        await connected(host)


@pytest.mark.parametrize("command", ["HELLO", "ROLE", "CLIENT"])
async def test_a_handshake_that_is_cut_off(host: Host[DataServer], command: str) -> None:
    """State that remains: no open connection."""
    host.tap(command, instead=HANG_UP)
    with pytest.raises(ServerConnectionError, match=r"^10\.0\.0\.1:6379 closed the connection$"):
        await connected(host)


@pytest.mark.parametrize("command", ["HELLO", "ROLE", "CLIENT"])
async def test_a_handshake_that_hangs(host: Host[DataServer], command: str) -> None:
    """State that remains: no open connection."""
    host.tap(command, instead=SILENCE)
    with pytest.raises(ResponseTimeout):
        await connected(host)
    assert trio.current_time() == 5


async def test_a_connection_that_does_not_come_about(host: Host[DataServer]) -> None:
    host.vanish()
    with pytest.raises(ResponseTimeout, match=r"took no connection within 5 s \(response_timeout\)"):
        await connected(host)
    assert trio.current_time() == 5


@pytest.mark.parametrize("command", ["HELLO", "ROLE", "CLIENT"])
async def test_a_cancelled_handshake_closes(host: Host[DataServer], command: str) -> None:
    """State that remains: no open connection."""
    host.tap(command, instead=SILENCE)
    with trio.move_on_after(1) as scope:
        await connected(host)
    assert scope.cancelled_caught


async def test_messages_name_the_announced_address(network: Network, host: Host[DataServer]) -> None:
    host.program.users["default"].password = "secret"
    with pytest.raises(AuthenticationFailed, match=r"^db\.example:6379 wants a password"):
        await open_connection(Address("db.example", 6379), Endpoint(), dial=HERE)
    assert network.dialled == [(HERE, Address("db.example", 6379))]


# ---- Sentinels --------------------------------------------------------------------------------------------------


@pytest.fixture
def sentinel(network: Network) -> Host[Sentinel]:
    return Service(network, sentinels=1).sentinels[0]


async def sentinel_connection(host: Host[Sentinel], credentials: Credentials | None = None) -> Connection:
    address = Address(*host.address)
    endpoint = Endpoint(credentials or Credentials())
    return await open_sentinel_connection(address, endpoint, dial=address, response_timeout=2)


async def test_a_sentinel_without_a_password_is_told_nothing(sentinel: Host[Sentinel]) -> None:
    connection = await sentinel_connection(sentinel)
    assert sentinel.commands() == []
    assert await connection.request(("SENTINEL", "MYID")) == [sentinel.program.myid.encode()]
    await connection.aclose()


@pytest.mark.parametrize("credentials", [Credentials(None, "secret"), Credentials("user", "secret")])
async def test_a_sentinel_with_a_password(sentinel: Host[Sentinel], credentials: Credentials) -> None:
    sentinel.program.password = "secret"
    connection = await sentinel_connection(sentinel, credentials)
    assert len(sentinel.commands("AUTH")) == 1
    await connection.aclose()


async def test_a_sentinel_refuses_a_password(sentinel: Host[Sentinel]) -> None:
    sentinel.program.password = "another"
    with pytest.raises(
        AuthenticationFailed, match="refused the username or password: invalid username-password pair"
    ) as caught:
        await sentinel_connection(sentinel, Credentials(None, "secret"))
    assert "secret" not in str(caught.value)


async def test_a_sentinel_that_turns_connections_away(sentinel: Host[Sentinel]) -> None:
    """What it says unasked is not taken for its answer to the password."""
    sentinel.turns_away = b"-ERR max number of clients reached\r\n"
    with pytest.raises(ServerConnectionError, match=r"^turns connections away: max number of clients"):
        await sentinel_connection(sentinel, Credentials(None, "secret"))


async def test_a_sentinel_that_hangs_in_the_login(sentinel: Host[Sentinel]) -> None:
    """State that remains: no open connection."""
    sentinel.hang()
    with pytest.raises(ResponseTimeout):
        await sentinel_connection(sentinel, Credentials(None, "secret"))
    assert trio.current_time() == 2
