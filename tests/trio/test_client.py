"""The clients: redis-py's commands, what stands in the way of connecting, and what happens at the end of the block."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing
from redis import exceptions as redis_errors
from redis.credentials import CredentialProvider

from tests.trio.fakes import SERVICE, Error, Network, Reply, Service, User, on_mock_time, settled, sweep, tasks_below
from trio_sentinel_scan import (
    AuthenticationFailed,
    ClientClosed,
    CommandNotShareable,
    ConfigError,
    MasterNotFound,
    NoSentinelReachable,
    RedisClient,
    ResponseTimeout,
    SentinelClient,
    ServerConnectionError,
    ServiceUnknown,
    connect,
)

pytestmark = pytest.mark.trio(run=on_mock_time)


# ---- commands ---------------------------------------------------------------------------------------------------


async def test_commands_are_redis_pys(network: Network) -> None:
    service = Service(network, keys=3)
    async with RedisClient(service.master.address) as client:
        assert await client.get("key:1") == b"value of key:1"
        assert await client.mget(["key:1", b"key:2", "none"]) == [b"value of key:1", b"value of key:2", None]
        assert await client.set("k", 1) is True
        assert await client.incr("k", 2) == 3
        assert await client.delete("k", "none") == 1
        assert await client.dbsize() == 3
        assert await client.ping() is True
        info = await client.info("server")
        assert info["run_id"] == service.master.program.run_id
        assert await client.execute_command("GET", "key:2") == b"value of key:2"
        assert service.master.program.run_id.encode() in await client.execute_command("info server")
        encoder: Any = client.get_encoder()  # redis-py does not annotate its methods
        assert encoder.encode("é") == "é".encode()
        assert client.get_connection_kwargs() == {"decode_responses": False, "protocol": None}


async def test_replies_are_decoded_on_request(network: Network) -> None:
    service = Service(network, keys=3)
    async with RedisClient(service.master.address, decode_responses=True) as client:
        assert await client.get("key:1") == "value of key:1"
        assert await client.execute_command("GET", "key:1", NEVER_DECODE=True) == b"value of key:1"
        assert (await sweep(client)).keys == {"key:0", "key:1", "key:2"}


async def test_an_empty_response_may_stand_for_an_error(network: Network) -> None:
    """As redis-py has it for the commands of which that is true."""
    service = Service(network)
    service.master.tap("GET", times=2, instead=Reply(Error("ERR no")))
    async with RedisClient(service.master.address) as client:
        assert await client.execute_command("GET", "k", EMPTY_RESPONSE=[]) == []
        with pytest.raises(redis_errors.ResponseError):
            await client.get("k")


async def test_a_callback_may_be_async(network: Network) -> None:
    service = Service(network, keys=1)

    async def later(reply: bytes, **options: Any) -> int:
        await trio.sleep(1)
        return len(reply)

    async with RedisClient(service.master.address) as client:
        client._callbacks["GET"] = later
        assert await client.execute_command("GET", "key:0") == len(b"value of key:0")


@pytest.mark.parametrize(
    "command", [("SELECT", 1), ("SUBSCRIBE", "k"), ("CLIENT REPLY", "OFF"), ("client", "tracking")]
)
async def test_what_would_change_the_shared_connection_is_refused(network: Network, command: tuple[Any, ...]) -> None:
    service = Service(network)
    async with RedisClient(service.master.address) as client:
        sent = len(service.master.log)
        with pytest.raises(CommandNotShareable):
            await client.execute_command(*command)
        assert len(service.master.log) == sent


# ---- opening and closing ----------------------------------------------------------------------------------------


async def test_outside_of_its_block_a_client_is_closed(network: Network) -> None:
    service = Service(network)
    client = RedisClient(service.master.address)
    for _ in range(2):
        with pytest.raises(ClientClosed):
            await client.ping()
        with pytest.raises(ClientClosed):
            client.open_scan()
        async with client:
            await client.ping()


async def test_nor_is_it_entered_while_it_connects(network: Network) -> None:
    """Two blocks' tasks would be each other's."""
    service = Service(network)
    network.connect_delay = 1.0
    client = SentinelClient(service.addresses, "mymaster")

    async def be_in_it() -> None:
        async with client:
            await client.ping()
            await trio.sleep(10)
            await client.ping()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_in_it)
        await settled()
        with pytest.raises(ClientClosed, match="is open already"):
            await client.__aenter__()
    # And one that could not be entered can be, later.
    service.master.vanish()
    with pytest.raises(MasterNotFound):
        await client.__aenter__()
    service.master.resume()
    await be_in_it()


async def test_one_client_is_one_block_at_a_time(network: Network) -> None:
    service = Service(network)
    async with RedisClient(service.master.address) as client:
        with pytest.raises(ClientClosed, match="is open already"):
            async with client:
                pass
        await client.ping()


async def test_a_service_can_be_opened_again(network: Network) -> None:
    """With eyes and ears: it follows the master as the first time."""
    service = Service(network, keys=10)
    client = SentinelClient(service.addresses, SERVICE)
    async with client:
        await client.ping()
    service.fail_over()
    async with client:
        assert (await sweep(client)).keys == service.keys()
        service.fail_over()
        await settled()
        await client.set("k", "v")
        assert service.keys() == {*(f"key:{number}".encode() for number in range(10)), b"k"}
    assert tasks_below(trio.lowlevel.current_task()) == []
    assert client._source.on_change == set()


async def test_options_of_a_scan_are_checked_before_anything_is_sent(network: Network) -> None:
    service = Service(network)
    async with RedisClient(service.master.address) as client:
        sent = len(service.master.log)
        with pytest.raises(ConfigError) as caught:
            client.open_scan(count=0)
        assert caught.value.argument == "count"
        assert len(service.master.log) == sent


@pytest.mark.parametrize("error", [ValueError("the body's"), KeyboardInterrupt(), ExceptionGroup("", [ValueError()])])
async def test_the_bodys_exception_leaves_as_itself(network: Network, error: BaseException) -> None:
    """State that remains: no task and no open connection."""
    service = Service(network)
    with pytest.raises(type(error)) as caught:
        async with SentinelClient(service.addresses, SERVICE):
            raise error
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)
    assert tasks_below(trio.lowlevel.current_task()) == []
    assert network.open_client_ends == []


# ---- what stands in the way -------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there(network: Network) -> None:
    service = Service(network)
    service.master.kill()
    with pytest.raises(ServerConnectionError, match=r"10\.0\.0\.1:6379 cannot be reached: Connection refused"):
        async with RedisClient(service.master.address):
            pass


async def test_a_server_that_hangs(network: Network) -> None:
    service = Service(network)
    service.master.hang()
    with pytest.raises(ResponseTimeout):
        async with RedisClient(service.master.address, response_timeout=7):
            pass
    assert trio.current_time() == 7


async def test_a_service_that_nobody_knows(network: Network) -> None:
    service = Service(network)
    with pytest.raises(ServiceUnknown):
        async with SentinelClient(service.addresses, "another"):
            pass
    for host in service.sentinels:
        host.kill()
    with pytest.raises(NoSentinelReachable):
        async with SentinelClient(service.addresses, SERVICE):
            pass


@pytest.mark.parametrize("trouble", ["kill", "hang", "vanish"])
async def test_a_master_in_trouble_is_given_a_few_seconds(network: Network, trouble: str) -> None:
    service = Service(network)
    getattr(service.master, trouble)()
    with pytest.raises(MasterNotFound, match=r"cannot be used: 10\.0\.0\.1:6379 ") as caught:
        async with SentinelClient(service.addresses, SERVICE):
            pass
    assert 3 <= trio.current_time() <= 3.2
    assert str(caught.value).count("names 10.0.0.1:6379 (config epoch 0)") == 3
    assert caught.value.sentinels["10.0.1.1:26379"] == "names 10.0.0.1:6379 (config epoch 0)"


@pytest.mark.parametrize("trouble", ["kill", "hang", "vanish"])
async def test_a_failover_in_the_first_seconds_is_followed(network: Network, trouble: str) -> None:
    service = Service(network, keys=10)
    getattr(service.master, trouble)()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _elect() -> None:
            await service.elect(detect=0.5, tell=0.5)

        async with SentinelClient(service.addresses, SERVICE) as client:
            assert trio.current_time() < 1.5
            assert (await sweep(client)).keys == service.keys()


async def test_a_password_that_is_wrong(network: Network) -> None:
    service = Service(network)
    for server in service.servers:
        server.program.users["default"] = User("secret")
    for password in ("hunter2", None):
        with pytest.raises(AuthenticationFailed) as caught:
            async with SentinelClient(service.addresses, SERVICE, password=password):
                pass
        assert "hunter2" not in str(caught.value)
    assert trio.current_time() == 0
    async with SentinelClient(service.addresses, SERVICE, password="secret") as client:
        await client.ping()


class Failing(CredentialProvider):
    """One that has no credentials to give."""

    def get_credentials(self) -> tuple[str, str]:
        raise KeyError("hunter2")


@pytest.mark.trio(run=trio.run)  # a provider is asked in a thread, and threads know no other clock
async def test_a_provider_of_credentials_that_fails(network: Network) -> None:
    """One error of ours, with its own as the cause; not a group, however many Sentinels it was asked for."""
    service = Service(network)
    with pytest.raises(AuthenticationFailed, match="provider raised KeyError") as caught:
        async with RedisClient(service.master.address, credential_provider=Failing()):
            pass
    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(NoSentinelReachable, match="provider raised KeyError"):
        async with SentinelClient(service.addresses, SERVICE, sentinel_credential_provider=Failing()):
            pass


# ---- by URL -----------------------------------------------------------------------------------------------------


async def test_a_client_by_url(network: Network) -> None:
    service = Service(network, keys=3)
    service.write([b"other"], db=1)
    client = connect("redis+sentinel://10.0.1.1,10.0.1.2/mymaster/1")
    assert isinstance(client, SentinelClient)
    async with client:
        assert (await sweep(client)).keys == {b"other"}
    client = connect("redis://10.0.0.1/0?decode_responses=true", db=1, decode_responses=False)
    assert isinstance(client, RedisClient)
    async with client:  # what the URL says wins
        assert (await sweep(client)).keys == {"key:0", "key:1", "key:2"}


# ---- what is shown ----------------------------------------------------------------------------------------------


async def test_reprs(network: Network) -> None:
    service = Service(network)
    one = RedisClient(service.master.address, username="user", password="hunter2")
    assert repr(one) == "<RedisClient of 10.0.0.1:6379, not open>"
    client = SentinelClient(service.addresses, SERVICE, password="hunter2", sentinel_password="hunter2")
    assert repr(client) == "<SentinelClient of 'mymaster', not open>"
    for program in (service.servers[0].program,):
        program.users["default"] = User("hunter2")
    for host in service.sentinels:
        host.program.password = "hunter2"
    async with client:
        assert repr(client) == "<SentinelClient of 'mymaster', master 10.0.0.1:6379>"
    assert repr(client) == "<SentinelClient of 'mymaster', master 10.0.0.1:6379, not open>"


async def test_no_secret_is_shown(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """No password, key or value in a repr, a message or a log record, through good times and bad."""
    caplog.set_level(logging.DEBUG)
    service = Service(network)
    service.write([b"hunter2:key"])
    for server in service.servers:
        server.program.users = {"default": User("no entry"), "hunter": User("hunter2")}
    for host in service.sentinels:
        host.program.password = "hunter2"
    options: Any = {"username": "hunter", "password": "hunter2", "sentinel_password": "hunter2", "failover_timeout": 5}
    shown: list[str] = []
    async with SentinelClient(service.addresses, SERVICE, **options) as client:
        shown += [repr(client), repr(client._source), repr(client._settings), repr(client._monitor._endpoint)]
        await client.set("hunter2:key", "hunter2:value")
        service.master.tap(
            "NOSUCH", instead=Reply(Error("ERR unknown command 'NOSUCH', with args beginning with: 'hunter2'"))
        )
        for command in (("NOSUCH", "hunter2"), ("SELECT", "hunter2"), ("GET", "hunter2")):
            service.master.program.users["hunter"].forbidden = frozenset({"GET"})
            with pytest.raises(redis_errors.RedisError) as caught:
                await client.execute_command(*command)
            shown.append(repr(caught.value))
        service.master.program.users["hunter"].forbidden = frozenset()
        async with client.open_scan() as pages:
            async for page in pages:
                shown += [repr(page), repr(pages), repr(pages._scan.plan)]
            shown.append(repr(pages.summary))
        service.fail_over()
        await client.ping()
        service.master.tap("INCRBY", before=service.master.kill)
        with pytest.raises(redis_errors.RedisError) as caught:
            await client.incr("hunter2:key")
        shown.append(repr(caught.value))
        with pytest.raises(redis_errors.RedisError) as caught:
            await client.get("hunter2:key")
        shown.append(repr(caught.value))
        with pytest.raises(redis_errors.RedisError) as caught:
            await sweep(client, match="hunter2:*")
        shown.append(repr(caught.value))
    for wrong in ({"password": "hunter2x"}, {"sentinel_password": "hunter2x"}, {"username": None}):
        service.master.up = True
        with pytest.raises(redis_errors.RedisError) as caught:
            async with SentinelClient(service.addresses, SERVICE, **{**options, **wrong}):
                pytest.fail("a password that is wrong in one place")
        shown += [repr(caught.value), repr(caught.value.__cause__)]
    assert len(shown) > 15
    assert [text for text in shown if "hunter2" in text] == []
    assert caplog.records
    assert [record.getMessage() for record in caplog.records if "hunter2" in record.getMessage()] == []
