"""redis-py's commands, called on our client and on redis-py's own, on the same server: the results are alike."""

# pyright: reportUnknownMemberType=false
# (redis-py's commands have **kwargs that are not annotated.)

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio
import trio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncCoreCommands

from tests.real.parity import CALLS, NEWER, NOT_CALLED, ON_A_LEASE, Call
from trio_sentinel_scan import RedisClient
from trio_sentinel_scan.testing import LocalRedis, ServerBinary

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SETTINGS = [
    pytest.param(protocol, decode, id=f"protocol {protocol}, {'text' if decode else 'bytes'}")
    for protocol in (None, 2, 3)
    for decode in (False, True)
]


async def outcome(client: Any, call: Call) -> Any:
    """What a call came to, as far as it is to be the same."""
    try:
        result = getattr(client, call.name)(*call.args, **call.options)
        result = await result if hasattr(result, "__await__") else result
    except Exception as error:  # noqa: BLE001 (the error is the outcome)
        # Ours leaves out what redis-py shows of the arguments.
        return type(error).__name__, str(error).partition(", with args")[0]
    return call.look(result)


async def ours(server: LocalRedis, protocol: Any, *, decode: bool) -> list[Any]:
    async with RedisClient(server.address, protocol=protocol, decode_responses=decode) as client:
        outcomes = [await outcome(client, call) for call in CALLS]
        async with client.dedicated() as lease:
            return outcomes + [await outcome(lease, call) for call in ON_A_LEASE]


def theirs(server: LocalRedis, protocol: Any, *, decode: bool) -> list[Any]:
    host, port = server.address

    async def run() -> list[Any]:
        options: dict[str, Any] = {} if protocol is None else {"protocol": protocol}
        # It takes a refused password for a lost connection, and tries for seconds.
        options["retry"] = Retry(NoBackoff(), 0)
        client: Any = redis.asyncio.Redis(host=host, port=port, decode_responses=decode, **options)
        async with client, client.client() as single:
            outcomes = [await outcome(client, call) for call in CALLS]
            return outcomes + [await outcome(single, call) for call in ON_A_LEASE]

    return asyncio.run(run())


@pytest.mark.trio
@pytest.mark.parametrize("protocol, decode", SETTINGS)
async def test_results_are_redis_pys(each_server_binary: ServerBinary, protocol: int | None, decode: bool) -> None:
    async with LocalRedis(binary=each_server_binary.path) as server:
        mine = await ours(server, protocol, decode=decode)
        await server.execute("FLUSHALL")
        for command in ("CONFIG RESETSTAT", "SCRIPT FLUSH", "ACL LOG RESET"):
            await server.execute(*command.split())
        redis_pys = await trio.to_thread.run_sync(lambda: theirs(server, protocol, decode=decode))
    different = [
        (call.name, call.args, one, other)
        for call, one, other in zip([*CALLS, *ON_A_LEASE], mine, redis_pys, strict=True)
        if repr(one) != repr(other)
    ]
    assert different == []


def test_every_command_is_called_or_has_a_reason_why_not() -> None:
    """One that a new redis-py brings is in neither list, and fails here."""
    names = {
        name
        for name in dir(AsyncCoreCommands)
        if not name.startswith("_") and callable(getattr(AsyncCoreCommands, name))
    }
    called = {call.name for call in (*CALLS, *ON_A_LEASE)}
    assert called | set(NOT_CALLED) >= names
    # (Older releases of redis-py do not have those that are new.)
    assert {NOT_CALLED.get(name, "") for name in (called | set(NOT_CALLED)) - names} <= {NEWER}
    assert not called & set(NOT_CALLED)


@pytest.mark.trio
async def test_the_builder_of_bitfield() -> None:
    """The one method that is no command by itself."""
    async with LocalRedis() as server, RedisClient(server.address) as client:
        some: Any = client
        assert await some.bitfield("bits").set("u8", 0, 5).incrby("u8", 0, 2).get("u8", 0).execute() == [0, 7, 7]
