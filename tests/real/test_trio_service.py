"""examples/trio_service: a request, a failover in mid-stream, a client that goes away, the end."""

from __future__ import annotations

import json

import pytest

from tests.real.serving import EXAMPLES, KEYS, PREFIX, connections, serving, streaming, until_left
from trio_sentinel_scan.testing import LocalSentinel

pytestmark = [
    pytest.mark.trio,
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not in the wheel"),
]


@pytest.mark.slow
async def test_requests_and_a_failover() -> None:
    async with LocalSentinel(down_after=2.0) as sentinel:
        keys = await sentinel.fill(KEYS, PREFIX)
        master = await sentinel.master()
        await master.execute("SET", b"odd:\xff", "value")
        await master.execute("SADD", "a set", "member")
        await sentinel.wait_replicated()
        async with serving("trio_service", sentinel.url) as service:
            get = service.get
            assert (await get("/keys/odd:%FF")).body == b"value"
            assert (await get("/keys/none")).status == 404
            assert (await get("/keys/a%20set")).status == 409
            assert (await get("/nothing")).status == 404
            matching = (await get("/keys?match=odd:*")).body.splitlines()
            assert [json.loads(line) for line in matching] == [{"key": "odd:ÿ"}, {"complete": True, "restarts": 0}]

            held = await connections(master)
            async with streaming(service, "/keys") as lines:
                await anext(lines)
                assert len(await connections(master) - held) == 1
            await until_left(master, held)

            async with (
                streaming(service, "/topology", b"\n\n") as events,
                streaming(service, "/keys") as lines,
            ):
                assert (await anext(events)).startswith(b"event: state\ndata: the master is ")
                await anext(lines)
                old = await sentinel.kill()
                found: set[str] = set()
                restarts = 0
                last = {}
                async for line in lines:
                    last = json.loads(line)
                    if "restart" in last:
                        restarts = last["restart"]
                        found.clear()
                    elif "key" in last:
                        found.add(last["key"])
                assert last == {"complete": True, "restarts": restarts}
                assert restarts > 0
                assert found == {key.decode() for key in keys} | {"odd:ÿ", "a set"}
                new = await sentinel.wait_for_new_master(old)
                while not (event := await anext(events)).startswith(b"event: MasterChange"):
                    pass
                assert "the master is {}:{}".format(*new.address).encode() in event
                # The event stream has no end of its own: the service ends it.
                assert await service.ended() == 0
        assert "Traceback" not in service.log
