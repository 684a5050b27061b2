"""A few of the scenes of `tests/security` on a real server, which has words of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.scenes import HANG
from tests.security.harvest import CHANNEL, KEY, PASSWORD, VALUE, harvesting
from tests.security.operations import HASH, OPERATIONS, attempt
from trio_sentinel_scan import AuthenticationFailed, RedisClient
from trio_sentinel_scan.testing import LocalRedis

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

# As they are sent: what they do to each operation.
STEPS: list[tuple[str, list[tuple[bytes | str, ...]]]] = [
    ("as it is", []),
    ("of another type", [("DEL", KEY, HASH), ("RPUSH", KEY, VALUE), ("RPUSH", HASH, VALUE)]),
    ("out of memory", [("CONFIG", "SET", "maxmemory", "1")]),
    ("not permitted", [("ACL", "SETUSER", "default", "resetkeys", "resetchannels", "~other", "-scan")]),
]


async def test_operations_that_a_server_refuses(server_binary: ServerBinary) -> None:
    """Wrong types, no memory, no permission; scripts that fail; commands that do not exist; no password."""
    with trio.fail_after(HANG), harvesting() as harvest:
        async with LocalRedis(binary=server_binary, password=PASSWORD) as server:
            await server.execute("SET", KEY, VALUE)
            await server.execute("HSET", HASH, KEY, VALUE)
            address = server.address
            client = RedisClient(address, password="not " + PASSWORD[1:])
            with pytest.raises(AuthenticationFailed) as caught:
                await client.__aenter__()
            harvest.error(caught.value)
            async with RedisClient(address, password=PASSWORD, response_timeout=120) as client:
                for _, commands in STEPS:
                    for command in commands:
                        await server.execute(*command)
                    for operation in OPERATIONS.values():
                        await attempt(partial(operation.work, client, harvest), harvest)
                for words in (
                    ("NOSUCHCOMMAND", KEY, VALUE),
                    ("EVAL", "return redis.call('NOSUCH', KEYS[1], ARGV[1])", "1", KEY, VALUE),
                    ("XREADGROUP", "GROUP", CHANNEL, VALUE, "STREAMS", KEY, ">"),
                ):
                    # The server's words are the caller's: it has asked. No log has them.
                    await attempt(partial(client.execute_command, *words), harvest, servers_words=True)
    assert harvest.errors > 10
    harvest.check()
