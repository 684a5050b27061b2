"""`scan --with`: what is known of each key, in each format; and `--replica`."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.real.commandline import cli, cli_at_terminal
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

PAIRS: Final[list[tuple[str | bytes | int, ...]]] = [
    ("SET", "plain", "x"),
    ("SET", b"tab\there", "x"),
    ("SET", b"\xff\x1b[2J", "x"),
    ("HSET", "hash", "f", "v"),
    ("SET", "brief", "x", "EX", 100_000),
]
TYPES = {b"plain": "string", b"tab\there": "string", b"\xff\x1b[2J": "string", b"hash": "hash", b"brief": "string"}


@pytest.mark.parametrize("form, end", [("text", b"\n"), ("null", b"\0")])
@pytest.mark.parametrize("option", [["--with", "ttl, type,freq"], ["--with", "ttl", "--with", "type,freq"]])
async def test_columns(server_binary: ServerBinary, form: str, end: bytes, option: list[str]) -> None:
    """In the order asked. (Without an LFU policy the server does not say how often a key is used.)"""
    async with LocalRedis(binary=server_binary) as server:
        await server.pipeline(PAIRS)
        ended = await cli("scan", *option, "--format", form, "-u", server.url)
    assert ended.status == 0, ended.err
    # From the right: a key may have tabs.
    rows = [line.rsplit(b"\t", 3) for line in ended.out.removesuffix(end).split(end)]
    assert {key: kind.decode() for key, _, kind, _ in rows} == TYPES
    assert {freq for *_, freq in rows} == {b"-"}
    ttls = {key: int(ttl) for key, ttl, *_ in rows}
    assert 0 < ttls.pop(b"brief") <= 100_000
    assert set(ttls.values()) == {-1}


async def test_objects(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        await server.pipeline(PAIRS)
        ended = await cli("scan", "--with", "type,memory,idle,freq", "--format", "json", "--dedupe", "-u", server.url)
    assert ended.status == 0, ended.err
    found = {}
    for line in ended.out.decode("ascii").splitlines():
        value = json.loads(line)
        assert list(value) == ["key", "type", "memory", "idle", "freq"]
        key = value["key"]
        found[base64.b64decode(key["base64"]) if isinstance(key, dict) else key.encode()] = value
    assert {key: value["type"] for key, value in found.items()} == TYPES
    assert all(value["memory"] > 0 and value["idle"] >= 0 and value["freq"] is None for value in found.values())


async def test_at_a_terminal_keys_are_escaped(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        await server.pipeline(PAIRS[:4])
        seen = await cli_at_terminal("scan", "--with", "type,ttl", "-u", server.url, shows="out")
    assert seen.status == 0
    # (The terminal driver has left the tabs as they are.)
    assert {line.expandtabs(1) for line in seen.screen.split("\r\n") if line} == {
        "plain string -1",
        r"tab\there string -1",
        r"\xff\x1b[2J string -1",
        "hash hash -1",
    }


@pytest.mark.parametrize(
    "names, problem", [("size", "there are type,"), ("", "there are"), ("ttl,ttl", "more than once")]
)
async def test_wrong_names(server_binary: ServerBinary, names: str, problem: str) -> None:
    async with LocalRedis(binary=server_binary) as server:
        ended = await cli("scan", "--with", names, "-u", server.url)
    assert (ended.status, ended.out) == (2, b"")
    assert ended.err.startswith("trio-sentinel-scan: error: --with: ")
    assert problem in ended.err


# ---- --replica --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["scan", "count"])
async def test_a_replica_is_scanned(server_binary: ServerBinary, verb: str) -> None:
    async with LocalSentinel(replicas=1, binary=server_binary) as service:
        keys = await service.fill(1_000)
        await service.wait_replicated()
        ended = await cli(verb, "--replica", "-u", service.url)
        assert ended.status == 0, ended.err
        assert set(ended.keys) == (keys if verb == "scan" else {b"1000"})
        (replica,) = await service.replicas()
        assert f"127.0.0.1:{replica.port} (run_id " in ended.err
        assert "says slave" in ended.err


async def test_no_replica(server_binary: ServerBinary) -> None:
    async with LocalSentinel(replicas=1, binary=server_binary) as service:
        keys = await service.fill(1_000)
        await service.wait_replicated()
        (replica,) = await service.replicas()
        await replica.kill()
        arguments = ("--replica", "--failover-timeout", "1", "-u", service.url)
        for verb in ("scan", "count"):
            ended = await cli(verb, *arguments)
            assert (ended.status, ended.out) == (1, b"")
            assert "--fallback master would scan the master then" in ended.err
            assert "Traceback" not in ended.err
        ended = await cli("scan", *arguments, "--fallback", "master")
        assert ended.status == 0, ended.err
        assert set(ended.keys) == keys
        assert "says master" in ended.err


async def test_where_it_means_nothing(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        ended = await cli("scan", "--replica", "-u", server.url)
        assert (ended.status, ended.out) == (2, b"")
        assert ended.err == (
            "trio-sentinel-scan: error: --replica: Sentinels must tell which replicas there are, and this URL names"
            " none: without --replica, the server that it names is scanned, which may be a replica\n"
        )
        ended = await cli("scan", "--fallback", "master", "-u", server.url)
        assert (ended.status, ended.out) == (2, b"")
        assert "--fallback: is for scans with --replica: there is nothing to fall back from" in ended.err
