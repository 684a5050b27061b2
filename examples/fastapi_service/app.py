"""An HTTP service in front of a Redis or Valkey service: list its keys, read one, hear of its failovers.

See README.md beside this file for how to run it and what it answers.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, TypedDict
from urllib.parse import unquote_to_bytes

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from redis.exceptions import ResponseError

from trio_sentinel_scan.anyio import (
    ClusterClient,
    ConfigError,
    EventsMissed,
    RedisClient,
    ScanRefused,
    SentinelClient,
    SentinelScanError,
    TopologyEvent,
    TopologyState,
    TopologyUnavailable,
    connect,
)

from .streaming import HeldResponse, ServiceStopping, Streams, Write

# Seconds that whoever reads one key waits for a server. In a failover the client would go on waiting for much longer.
PATIENCE: Final = 2.0
# Seconds after which a client may ask again.
RETRY_AFTER: Final = 1
# Seconds of silence after which an event stream says that it is still there.
HEARTBEAT: Final = 15.0


class State(TypedDict):
    """What requests find in `request.state`."""

    client: RedisClient | SentinelClient | ClusterClient
    streams: Streams


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[State]:  # noqa: ARG001 (FastAPI's)
    """One client for the whole application, open from its start to its end.

    A client has a task group, and so its block must be entered and left in one and the same task. It is here: uvicorn
    runs the whole lifespan, startup and shutdown, in a task of its own, and stays in this generator from the one to the
    other. It would not be if a startup handler called `client.__aenter__()` and somebody else `__aexit__()`, nor in
    a fixture of a test framework that runs setup and teardown in two tasks.
    """
    streams = Streams()
    # wait_ready: the service may start before its servers do.
    async with connect(os.environ["REDIS_URL"], wait_ready=True) as client:
        with streams.stopped_by_signals():
            yield {"client": client, "streams": streams}


app = FastAPI(title="Keys", lifespan=lifespan)


@app.get("/keys")
async def list_keys(request: Request, match: str | None = None) -> Response:  # noqa: ASYNC124 (FastAPI would call it in a thread)
    """Every key that matches, a line of JSON each; the last line says whether that was all."""
    client = request.state.client

    async def body(write: Write) -> None:
        async with client.open_scan(match=match) as pages:
            epoch = 0
            async for page in pages:
                lines: list[bytes] = []
                if page.epoch != epoch:
                    # Said, and not hidden by dedupe=True: that would remember every key, for every request.
                    epoch = page.epoch
                    lines.append(line(restart=epoch))
                lines += [line(**named(key)) for key in page]
                # A client that reads slowly holds up the scan here, and nothing piles up.
                await write(b"".join(lines))
        summary = pages.summary
        await write(line(complete=summary.complete, keys=summary.keys, restarts=len(summary.restarts)))

    return HeldResponse(
        body,
        media_type="application/x-ndjson",
        last_words=lambda error: line(complete=False, error=type(error).__name__),
        streams=request.state.streams,
    )


@app.get("/keys/{name:path}")
async def read_key(request: Request, name: str) -> Response:  # noqa: ARG001 (for the documentation)
    """The value of one key that holds a string, as it is."""
    # `name` was decoded as UTF-8, which a key need not be.
    key = unquote_to_bytes(request.scope["raw_path"].partition(b"/keys/")[2])
    try:
        with anyio.fail_after(PATIENCE):
            value = await request.state.client.get(key)
    except TimeoutError:
        return again_later("no server has answered in time")
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return JSONResponse({"error": "the key holds no string"}, status_code=409)
    if value is None:
        return JSONResponse({"error": "there is no such key"}, status_code=404)
    return Response(value, media_type="application/octet-stream")


@app.get("/topology")
async def follow_topology(request: Request) -> Response:  # noqa: ASYNC124 (FastAPI would call it in a thread)
    """What happens to the service from now on, as server-sent events."""
    client = request.state.client

    async def body(write: Write) -> None:
        async with client.open_topology() as events:
            await write(sent_event("state", described(events.state)))
            while True:
                event: TopologyEvent | EventsMissed | None = None
                # A receive that is cancelled loses nothing.
                with anyio.move_on_after(HEARTBEAT):
                    event = await events.receive()
                if event is None:
                    # A comment, which keeps what is in between from closing an idle connection.
                    await write(b":\n\n")
                elif isinstance(event, EventsMissed):
                    await write(sent_event("EventsMissed", {"count": event.count, **described(event.state)}))
                else:
                    await write(sent_event(type(event).__name__, facts(event)))

    if not isinstance(client, SentinelClient):
        raise TopologyUnavailable("there are no Sentinels to tell of a topology")
    return HeldResponse(
        body,
        media_type="text/event-stream",
        last_words=lambda error: sent_event("end", {"error": type(error).__name__}),
        streams=request.state.streams,
    )


# ---- what has gone wrong -----------------------------------------------------------------------------------------


@app.exception_handler(ServiceStopping)
@app.exception_handler(SentinelScanError)
async def unavailable(request: Request, error: Exception) -> Response:  # noqa: ARG001, ASYNC124 (FastAPI's)
    """Most of it passes: a failover, a server that restarts, this service that is being stopped."""
    match error:
        case ConfigError() | ScanRefused():
            return JSONResponse({"error": type(error).__name__}, status_code=400)
        case TopologyUnavailable():
            return JSONResponse({"error": type(error).__name__}, status_code=501)
        case _:
            return again_later(type(error).__name__)


def again_later(error: str) -> Response:
    """It may be otherwise in a moment."""
    return JSONResponse({"error": error}, status_code=503, headers={"retry-after": str(RETRY_AFTER)})


# ---- words -------------------------------------------------------------------------------------------------------


def line(**said: Any) -> bytes:
    """One line of JSON."""
    return json.dumps(said).encode() + b"\n"


def named(key: bytes) -> dict[str, str]:
    """A key in JSON: as text, or, where it is no UTF-8, in base64 under another name, so that neither is mistaken."""
    try:
        return {"key": key.decode()}
    except UnicodeDecodeError:
        return {"key_base64": base64.b64encode(key).decode()}


def sent_event(name: str, said: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(said)}\n\n".encode()


def facts(event: TopologyEvent) -> dict[str, Any]:
    """An event's fields. Not its time, which is on this process's own clock."""
    fields = {name: getattr(event, name) for name in event.__slots__ if name != "time"}
    return {name: said if isinstance(said, int | str | None) else str(said) for name, said in fields.items()}


def described(state: TopologyState) -> dict[str, Any]:
    """The service as it is."""
    return {
        "master": str(state.master.address),
        "config_epoch": state.master.config_epoch,
        "replicas": [str(replica.address) for replica in state.replicas],
        "sentinels": [str(sentinel.address) for sentinel in state.sentinels],
    }
