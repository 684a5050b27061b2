"""examples/fastapi_service with two more endpoints: which tasks run in it, and a scan as it must not be streamed."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# From the folder that uvicorn is told of (--app-dir).
app: FastAPI = import_module("fastapi_service.app").app


@app.get("/tasks")
async def tasks() -> list[str]:  # noqa: ASYNC124 (FastAPI would call it in a thread)
    """The names of the coroutines that run as tasks."""
    return sorted(str(getattr(task.get_coro(), "__qualname__", task)) for task in asyncio.all_tasks())


@app.get("/careless")
async def careless(request: Request) -> StreamingResponse:  # noqa: ASYNC124 (FastAPI would call it in a thread)
    """A scan held by an async generator."""

    async def lines() -> AsyncGenerator[bytes]:
        async with request.state.client.open_scan() as pages:
            async for page in pages:
                yield b"".join(page)  # noqa: ASYNC119 (this is what is shown to go wrong)

    return StreamingResponse(lines())
