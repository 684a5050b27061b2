"""examples/fastapi_service in a uvicorn of its own: through a failover, with clients that go away, and told to end."""

from __future__ import annotations

import base64
import json
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.real.serving import EXAMPLES, KEYS, PREFIX, connections, serving, streaming, until_left
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from tests.real.serving import Service

pytestmark = [
    pytest.mark.trio,
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not in the wheel"),
]

each_loop = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
# What has little to do with the loop.
asyncio_by_default = pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.full)])

EXAMPLE = "fastapi_service"
WATCHED = "tests.real.watched_service:app"
ODD = b"odd:\xff\x00"


def key_of(line: dict[str, Any]) -> bytes | None:
    """The key that a line of the list has; None if it has another thing to say."""
    if "key_base64" in line:
        return base64.b64decode(line["key_base64"])
    return line["key"].encode() if "key" in line else None


@asyncio_by_default
async def test_one_key(loop: str) -> None:
    """There, not there, not a string, in bytes that are no text; and while its server is away."""
    async with LocalRedis() as server, serving(EXAMPLE, server.url, "--loop", loop) as service:
        await server.execute("SET", ODD, b"\x00\xfe")
        await server.execute("SET", "a/b", "value")
        await server.execute("SADD", "a set", "member")
        get = service.get
        assert (await get("/keys/odd:%FF%00")).body == b"\x00\xfe"
        assert (await get("/keys/a/b")).body == b"value"
        assert (await get("/keys/none")).status == 404
        assert (await get("/keys/a%20set")).status == 409
        assert (await get("/topology")).status == 501
        await server.execute("SAVE")
        await server.kill()
        answer = await get("/keys/a/b")
        assert (answer.status, answer.headers[b"retry-after"]) == (503, b"1")
        await server.restart()
        while (answer := await get("/keys/a/b")).status == 503:
            pass
        assert answer.body == b"value"
        assert await service.ended() == -signal.SIGTERM
    assert "Traceback" not in service.log


@pytest.mark.slow
@each_loop
async def test_a_failover_in_mid_stream(loop: str) -> None:
    """The list says so and has every key; the event stream names both masters; one key can be read again."""
    async with LocalSentinel(down_after=2.0) as sentinel:
        keys = await sentinel.fill(KEYS, PREFIX)
        await (await sentinel.master()).execute("SET", ODD, "v")
        await sentinel.wait_replicated()
        async with serving(EXAMPLE, sentinel.url, "--loop", loop) as service:
            followed: list[bytes] = []
            async with trio.open_nursery() as nursery:
                listening = trio.Event()
                nursery.start_soon(follow, service, followed, listening)
                await listening.wait()
                async with streaming(service, "/keys") as lines:
                    assert key_of(json.loads(await anext(lines))) is not None
                    old = await sentinel.kill()
                    passes: list[list[bytes]] = [[]]
                    last: dict[str, Any] = {}
                    async for line in lines:
                        last = json.loads(line)
                        if "restart" in last:
                            passes.append([])
                            assert last == {"restart": len(passes) - 1}
                        elif (key := key_of(last)) is not None:
                            passes[-1].append(key)
            assert len(passes) > 1
            assert set(passes[-1]) == {*keys, ODD}
            # What was read before the kill: one line.
            handed_out = sum(map(len, passes)) + 1
            assert last == {"complete": True, "keys": handed_out, "restarts": len(passes) - 1}
            new = await sentinel.wait_for_new_master(old)
            assert followed[0].startswith(b'event: state\ndata: {"master": "%b"' % address_of(old))
            assert b'"old": "%b", "new": "%b"' % (address_of(old), address_of(new)) in followed[-1]
            while (answer := await service.get("/keys/odd:%FF%00")).status == 503:
                assert answer.headers[b"retry-after"] == b"1"
            assert answer.body == b"v"
            assert await service.ended() == -signal.SIGTERM
        assert "Traceback" not in service.log


def address_of(server: LocalRedis) -> bytes:
    """As the service writes it."""
    return "{}:{}".format(*server.address).encode()


async def follow(service: Service, events: list[bytes], listening: trio.Event) -> None:
    """Collect events, up to another master."""
    async with streaming(service, "/topology", b"\n\n") as said:
        assert said.headers[b"content-type"].startswith(b"text/event-stream")
        events.append(await anext(said))
        listening.set()
        while not events[-1].startswith(b"event: MasterChange"):
            events.append(await anext(said))


@each_loop
@pytest.mark.parametrize("path", ["/keys", "/topology"])
async def test_a_client_that_disconnects_in_mid_stream(loop: str, path: str) -> None:
    """Nothing is left of its scan: no task, and no connection to the server."""
    async with LocalSentinel(replicas=0, sentinels=1) as sentinel:
        await sentinel.fill(KEYS, PREFIX)
        master = await sentinel.master()
        async with serving(EXAMPLE, sentinel.url, "--loop", loop, app=WATCHED) as service:
            before = await at_rest(service)
            held = await connections(master)
            for _ in range(3):
                async with streaming(service, path) as lines:
                    # In mid-stream: the rest of the keys is more than all buffers hold.
                    await anext(lines)
                    assert len(await tasks(service)) > len(before)
                    assert (len(await connections(master) - held) == 1) == (path == "/keys")
            await until_left(master, held)
            while await tasks(service) != before:
                pass
            assert await service.ended() == -signal.SIGTERM
        assert "Traceback" not in service.log


@asyncio_by_default
async def test_why_it_is_not_done_by_a_generator(loop: str) -> None:
    """The same with StreamingResponse around an async generator: its scan is left late, and in another task."""
    async with LocalRedis() as server:
        await server.fill(KEYS, PREFIX)
        patience = ("--timeout-graceful-shutdown", "1")
        async with (
            serving(EXAMPLE, server.url, "--loop", loop, *patience, app=WATCHED) as service,
            streaming(service, "/careless", b"key:") as keys,
        ):
            # The answer is cancelled in the middle of sending to a client that does not read.
            await anext(keys)
            service.process.send_signal(signal.SIGTERM)
            await service.process.wait()
        assert re.search("Attempted to exit (a )?cancel scope", service.log)


async def tasks(service: Service) -> list[str]:
    """What runs in the service."""
    found: list[str] = json.loads((await service.get("/tasks")).body)
    return found


async def at_rest(service: Service) -> list[str]:
    """The same, once a command has been served."""
    assert (await service.get("/keys/none")).status == 404
    return await tasks(service)


@each_loop
@pytest.mark.parametrize("reads", [True, False], ids=["reads on", "reads no more"])
async def test_told_to_end_in_mid_stream(loop: str, reads: bool) -> None:
    """It ends by the signal, and says so in its streams, where anybody still reads them."""
    async with LocalSentinel(replicas=0, sentinels=1) as sentinel:
        await sentinel.fill(KEYS, PREFIX)
        async with (
            serving(EXAMPLE, sentinel.url, "--loop", loop) as service,
            streaming(service, "/keys") as lines,
            streaming(service, "/topology", b"\n\n") as events,
        ):
            await anext(lines)
            assert (await anext(events)).startswith(b"event: state")
            service.process.send_signal(signal.SIGTERM)
            if reads:
                last = [line async for line in lines][-1]
                assert json.loads(last) == {"complete": False, "error": "ServiceStopping"}
                assert [event async for event in events] == [b'event: end\ndata: {"error": "ServiceStopping"}']
            assert await service.process.wait() == -signal.SIGTERM
        assert "Traceback" not in service.log
        assert "Application shutdown complete" in service.log
