"""What OpenTelemetry is told of: names, codes and classes; never a key, a value or a password."""

from __future__ import annotations

import pytest
from redis import exceptions as redis_errors

from trio_sentinel_scan._core.errors import ServerUnavailable
from trio_sentinel_scan._core.identity import Address, ServerIdentity
from trio_sentinel_scan._core.summary import Restart, ScanSummary
from trio_sentinel_scan._core.telemetry import (
    failure_attributes,
    operation_name,
    peer_attributes,
    pool_attributes,
    restart_attributes,
    scan_attributes,
    server_attributes,
)
from trio_sentinel_scan._core.verdicts import parse_error_reply

TCP, UNIX = Address("10.0.0.1", 6380), Address("/run/redis.sock", 0)


@pytest.mark.parametrize(
    "args, name",
    [
        (("GET", "key"), "GET"),
        (("get", b"key"), "GET"),
        (("get key",), "GET"),
        (("JSON.GET", "key"), "JSON.GET"),
        (("GEORADIUS_RO", "key"), "GEORADIUS_RO"),
        (("CLIENT LIST",), "CLIENT LIST"),
        (("CLIENT", "LIST"), "CLIENT LIST"),
        (("OBJECT ENCODING", "key"), "OBJECT ENCODING"),
        (("MEMORY", b"usage", b"key"), "MEMORY USAGE"),
        (("CONFIG",), "CONFIG"),
        (("COMMAND", 7), "COMMAND"),
        (("SET", "CLIENT", "LIST"), "SET"),
        (("my secret key!",), "MY"),
        (("k\u00e9y",), "_OTHER"),
        (("user:1:name",), "_OTHER"),
        (("x" * 41,), "_OTHER"),
        ((b"",), "_OTHER"),
        ((), "_OTHER"),
    ],
)
def test_of_a_command_its_name_is_told(args: tuple[object, ...], name: str) -> None:
    assert operation_name(args) == name


def test_which_server_and_which_database() -> None:
    assert server_attributes(TCP, 3) == {
        "db.system.name": "redis",
        "db.namespace": "3",
        "server.address": "10.0.0.1",
        "server.port": 6380,
    }
    assert "server.port" not in server_attributes(UNIX, 0)
    assert peer_attributes(TCP) == {"network.peer.address": "10.0.0.1", "network.peer.port": 6380}
    assert peer_attributes(UNIX) == {"network.peer.address": "/run/redis.sock", "network.transport": "unix"}
    assert pool_attributes(TCP, 3)["db.client.connection.pool.name"] == "10.0.0.1:6380/3"


def test_of_an_error_its_code_or_its_class_is_told() -> None:
    wrong_type = parse_error_reply("WRONGTYPE Operation against a key holding hunter2")
    assert failure_attributes(wrong_type) == {"error.type": "WRONGTYPE", "db.response.status_code": "WRONGTYPE"}
    assert failure_attributes(redis_errors.ResponseError("hunter2"))["error.type"] == "ERR"
    unavailable = failure_attributes(ServerUnavailable("hunter2"))
    assert unavailable == {"error.type": f"{ServerUnavailable.__module__}.ServerUnavailable"}
    assert failure_attributes(KeyError("hunter2")) == {"error.type": "builtins.KeyError"}


def test_a_restart() -> None:
    old, new = ServerIdentity("a" * 40, TCP), ServerIdentity("b" * 40, TCP)
    said = restart_attributes(Restart(1, "MASTER_CHANGE", 0.5, old, new))
    assert said == {
        "trio_sentinel_scan.scan.epoch": 1,
        "trio_sentinel_scan.scan.reason": "MASTER_CHANGE",
        "trio_sentinel_scan.scan.old_server": str(old),
        "trio_sentinel_scan.scan.new_server": str(new),
    }
    assert len(restart_attributes(Restart(1, "MASTER_CHANGE", 0.5, None))) == 2
    assert restart_attributes(Restart(1, "gone", 0.5, None, node="c" * 40))["trio_sentinel_scan.scan.node"] == "c" * 40


def test_a_scan() -> None:
    summary = ScanSummary(
        complete=True,
        epoch=2,
        keys=70,
        pages=8,
        keys_this_epoch=50,
        scans=9,
        reconnects=0,
        duplicates_dropped=0,
        position=1.0,
        server=None,
        segments=1,
        certificate=None,
        elapsed=1.0,
    )
    said = scan_attributes(summary)
    assert (said["trio_sentinel_scan.scan.complete"], said["trio_sentinel_scan.scan.epoch"]) == (True, 2)
    assert (said["db.response.returned_rows"], said["trio_sentinel_scan.scan.pages"]) == (70, 8)
