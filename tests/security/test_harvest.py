"""What is private is found where it comes out: each guard that keeps it in, switched off."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.security.harvest import KEY, PASSWORD, VALUE, harvesting
from tests.security.operations import attempt
from tests.security.test_nothing_private import World, opened
from tests.trio.fakes import HANG_UP, Network, on_mock_time
from tests.trio.test_telemetry import Told
from trio_sentinel_scan import ServerIdentity
from trio_sentinel_scan._core import command_fate
from trio_sentinel_scan._core.commands import Command
from trio_sentinel_scan._core.config import Credentials

pytestmark = pytest.mark.trio(run=on_mock_time)


def unguarded_repr(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Command, "__repr__", lambda command: f"Command{command.args}")
    return "a living Command"


def unguarded_error(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(command_fate, "name_of", lambda commands: str(commands[0].args))
    return "CommandOutcomeUnknown's text"


def unguarded_log(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(ServerIdentity, "__str__", lambda server: f"{server.address} for {PASSWORD}")
    return "log trio_sentinel_scan.connection"


def unguarded_client(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Credentials, "__repr__", lambda credentials: f"Credentials({credentials.password})")
    return "a living Endpoint"


def unguarded_span(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(
        "trio_sentinel_scan._core.telemetry.operation_name",
        lambda args: " ".join(word.decode() if isinstance(word, bytes) else str(word) for word in args),
    )
    return "OpenTelemetry"


GUARDS = [unguarded_repr, unguarded_error, unguarded_log, unguarded_client, unguarded_span]


@pytest.mark.parametrize("unguard", GUARDS)
async def test_a_leak_is_found(
    network: Network, told: Told, monkeypatch: pytest.MonkeyPatch, unguard: Callable[[pytest.MonkeyPatch], str]
) -> None:
    """Each guard switched off: what it kept in is found, where it comes out."""
    world = World(network, "sentinel")
    where = unguard(monkeypatch)
    with harvesting(told) as harvest:
        async with opened(world, harvest) as client:
            world.tap("SET", instead=HANG_UP)
            await attempt(lambda: client.set(KEY, VALUE), harvest)
    assert any(leak.startswith(where) for leak in harvest.leaks())
