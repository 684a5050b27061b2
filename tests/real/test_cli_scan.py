"""`scan` and `count` on a quiet server: what they write, and what they are told to."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from tests.real.commandline import cli
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from pathlib import Path

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

AWKWARD = [b"", b"\r\n", b"a\nb", b"a\0b", b"caf\xc3\xa9", b"\xff\xfe", b"\x1b[31m", b'"quoted"', b"back\\slash"]


@pytest.mark.smoke
async def test_text(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(5_000)
        ended = await cli("scan", "--segments", "1", "--url", server.url)
    assert ended.status == 0
    assert sorted(ended.keys) == sorted(keys)
    assert ended.err.startswith("complete: 5,000 keys in ")


@pytest.mark.smoke
async def test_a_service(server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=server_binary) as service:
        keys = await service.fill(1_000)
        ended = await cli("scan", "--segments", "1", env={"TRIO_SENTINEL_SCAN_URL": service.url})
        assert ended.status == 0
        assert set(ended.keys) == keys
        assert "Sentinels agree" in ended.err
        ended = await cli("scan", "--segments", "1", "--certify", "role", "-u", service.url)
        assert ended.status == 0
        assert "no Sentinel was asked" in ended.err


async def test_an_empty_database() -> None:
    async with LocalRedis() as server:
        for form in ("text", "json", "null"):
            ended = await cli("scan", "-u", server.url, "--format", form)
            assert (ended.status, ended.out) == (0, b"")
        assert (await cli("count", "-u", server.url)).out == b"0\n"


async def test_null_separates_keys_of_any_bytes() -> None:
    async with LocalRedis() as server:
        await server.pipeline([("SET", key, "x") for key in AWKWARD])
        ended = await cli("scan", "-u", server.url, "--format", "null")
    assert ended.status == 0
    assert ended.out.endswith(b"\0")
    # The NUL in a key is one that this format cannot tell from the end of a key; the others are all there.
    assert sorted(ended.out.removesuffix(b"\0").split(b"\0")) == sorted(
        part for key in AWKWARD for part in key.split(b"\0")
    )


async def test_json_tells_keys_of_any_bytes_apart() -> None:
    async with LocalRedis() as server:
        await server.pipeline([("SET", key, "x") for key in AWKWARD])
        ended = await cli("scan", "-u", server.url, "--format", "json")
    values = [json.loads(line) for line in ended.out.decode("ascii").splitlines()]
    keys = [base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode() for value in values]
    assert ended.status == 0
    assert sorted(keys) == sorted(AWKWARD)


async def test_which_keys() -> None:
    async with LocalRedis() as server:
        await server.pipeline(
            [
                *(("SET", f"user:{number}", "x") for number in range(50)),
                *(("LPUSH", f"list:{number}", "x") for number in range(20)),
                ("SET", b"\xff:1", "x"),
            ]
        )
        ended = await cli("scan", "-u", server.url, "--pattern", "user:1?", "--count", "7")
        assert ended.status == 0
        assert sorted(ended.keys) == [b"user:%d" % number for number in range(10, 20)]
        ended = await cli("scan", "-u", server.url, "--type", "list")
        assert len(ended.keys) == 20
        ended = await cli("count", "-u", server.url, "--type", "string", "--pattern", "*:1*")
        assert (ended.status, ended.out) == (0, b"12\n")
        # An argument is bytes, whatever the locale makes of them.
        ended = await cli("scan", "-u", server.url, "--pattern", "\udcff*")
        assert ended.out == b"\xff:1\n"


async def test_which_database() -> None:
    async with LocalRedis() as server:
        await server.pipeline([("SELECT", 3), ("SET", "three", "x")])
        assert (await cli("scan", "-u", server.url)).out == b""
        assert (await cli("scan", "-u", server.url, "-n", "3")).out == b"three\n"


@pytest.mark.smoke
async def test_count(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        await server.fill(2_345)
        ended = await cli("count", "-u", server.url)
        once = await cli("count", "--dedupe", "-u", server.url)
    assert (ended.status, ended.out) == (0, b"2345\n")
    assert ended.err.startswith("complete: 2,345 keys")
    assert (once.status, once.out) == (0, b"2345\n")


async def test_what_is_said_beside(server_binary: ServerBinary) -> None:
    async with LocalSentinel(replicas=1, sentinels=1, binary=server_binary) as service:
        await service.fill(100)
        assert (await cli("scan", "-q", "-u", service.url)).err == ""
        told = (await cli("count", "-v", "-u", service.url)).err
        assert " INFO trio_sentinel_scan.sentinel: service mymaster: the master is" in told
        assert "DEBUG" not in told
        assert "DEBUG" in (await cli("count", "-vv", "-u", service.url)).err


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    async with LocalRedis(config={"unixsocket": str(path)}) as server:
        keys = await server.fill(100)
        ended = await cli("scan", "-u", f"unix://{path}")
    assert ended.status == 0
    assert set(ended.keys) == keys
