"""What the conformance tests see of what is left behind; and each edition on the other's loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import trio_sentinel_scan
import trio_sentinel_scan.anyio
from tests.anyio.editions import EDITIONS, Edition
from trio_sentinel_scan import WrongEventLoop

ASYNCIO = EDITIONS["anyio-asyncio"]


async def test_the_package_is_the_editions_own(edition: Edition) -> None:
    await anyio.lowlevel.checkpoint()
    expected = trio_sentinel_scan.anyio if edition.backend else trio_sentinel_scan
    assert edition.package.SentinelClient is expected.SentinelClient


def test_a_task_that_is_left_is_seen() -> None:
    left: list[Any] = []

    async def leave() -> None:
        left.append(asyncio.create_task(asyncio.sleep(1000)))
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="tasks running"):
        ASYNCIO.run(leave)


@pytest.mark.parametrize("name", ["trio", "anyio-asyncio"])
def test_a_socket_that_is_left_is_seen(name: str) -> None:
    left: list[socket.socket] = []

    async def leave() -> None:
        await anyio.lowlevel.checkpoint()
        left.append(socket.socket())

    try:
        with pytest.raises(AssertionError, match="sockets open"):
            EDITIONS[name].run(leave)
    finally:
        for one in left:
            one.close()


def test_an_error_that_nobody_sees_is_seen() -> None:
    async def fail() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="nobody has seen"):
        ASYNCIO.run(fail)


def test_the_trio_edition_on_asyncio_names_the_other_one() -> None:
    async def enter() -> None:
        for client in (
            trio_sentinel_scan.RedisClient(("127.0.0.1", 1)),
            trio_sentinel_scan.SentinelClient([("127.0.0.1", 1)], "mymaster"),
            trio_sentinel_scan.ClusterClient([("127.0.0.1", 1)]),
        ):
            with pytest.raises(WrongEventLoop, match=r"trio_sentinel_scan\.anyio"):
                async with client:
                    pass

    ASYNCIO.run(enter)
