"""What servers and Sentinels say may be made for the terminal of whoever reads the log: it gets there as plain text.

(Keys on a terminal: `tests/real/test_cli_terminal.py` and `tests/core/test_cli_formats.py`.)
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import pytest
import trio

from tests.real.commandline import cli, cli_at_terminal
from tests.security.harvest import Harvest, harvesting
from tests.security.operations import OPERATIONS, attempt
from tests.security.socket_server import socket_server
from tests.security.test_nothing_private import World, each
from tests.trio.fakes import Error, Network, Reply, Service, on_mock_time, settled
from trio_sentinel_scan import ClusterClient, RedisClient, SentinelClient
from trio_sentinel_scan._core import identity, verdicts

on_fakes = pytest.mark.trio(run=on_mock_time)

# Sets a terminal's title, goes back over the line, and looks like a line of its own.
EVIL: Final = "\x1b]0;title\x07\r\x9b2K\nINFO forged \u202e"


def acting(harvest: Harvest) -> list[str]:
    """What came out with something in it that a terminal, or a reader of lines, would act on.

    Lines of ours have newlines in them on purpose; what stands behind one of those is not the server's.
    """
    spoken = [(where, text) for where, text in harvest.found if where.startswith("log ") or where.endswith("'s text")]
    return [
        f"{where}: {text!r}"
        for where, text in spoken
        if not text.replace("\n", "").isprintable() or "\nINFO forged" in text
    ]


async def everything(harvest: Harvest, client: Any) -> None:
    """In, all that can be asked, and out."""

    async def inside() -> None:
        async with client:
            for operation in OPERATIONS.values():
                await attempt(partial(operation.work, client, harvest), harvest)

    await attempt(inside, harvest)


CODES = ["ERR", "NOPERM", "LOADING", "NOAUTH", "READONLY", "MOVED 7", "DENIED", ""]


@on_fakes
@each({code: code for code in CODES})
async def test_an_error_reply(network: Network, kind: str, failure: str) -> None:
    world = World(network, kind)
    words = EVIL.replace("\n", " ").replace("\r", " ")
    with harvesting(objects=False) as harvest:
        for command in ("GET", "SET", "SCAN", "SUBSCRIBE", "ROLE", "HELLO"):
            world.tap(command, instead=Reply(Error(f"{failure} {words}")), times=9)
            await everything(harvest, world.client())
            world.untap()
    # (Those who are asked to wait do so.)
    assert harvest.errors or failure == "LOADING"
    assert acting(harvest) == []


@on_fakes
async def test_names_and_addresses(network: Network) -> None:
    """Of a process, of a role, of replicas, of other Sentinels; in events; and of the master itself."""
    service = Service(network, keys=50)
    program = service.master.program
    program.run_id = EVIL + program.run_id
    program.replicas = [(EVIL, 6379)]
    service.sentinels[0].program.announced = (f"a{EVIL}", 26379)
    service.sentinels[1].program.views[service.servers[1].address] = {"runid": EVIL, "ip": EVIL, "flags": EVIL}
    with harvesting(objects=False) as harvest:
        async with SentinelClient(service.addresses[1:], service.name) as client, client.open_topology() as events:
            harvest.add("an event's text", str(events.state))
            async with client.open_scan(count=5, segments=1) as pages:
                await pages.receive()
                for sentinel in service.sentinels:
                    sentinel.program.publish("+switch-master", f"mymaster {EVIL} 1 2 3")
                    sentinel.program.publish("+reboot", f"master mymaster {EVIL}")
                await trio.sleep(11)
                program.restart()
                program.run_id = EVIL + program.run_id
                service.master.drop_clients()
                async for _ in pages:
                    pass
            service.tell()
            service.config_epoch += 1
            for sentinel in service.sentinels:
                sentinel.program.switch(service.name, (f"b{EVIL}", 6379), service.config_epoch)
            await trio.sleep(2)
            await attempt(client.ping, harvest)
        for event in ("ROLE", "HELLO"):
            service.master.tap(event, instead=Reply([EVIL, 1, []]), times=9)
        await everything(harvest, RedisClient(service.master.address))
    # It came through all of that, in another form.
    assert any("x1b]0;title" in text for where, text in harvest.found if where.startswith("log "))
    assert acting(harvest) == []


@on_fakes
async def test_nodes_of_a_cluster(network: Network) -> None:
    world = World(network, "cluster")
    cluster = world.hosts[0].program.cluster
    shards = cluster.shards()
    shards[2][3][0][5] = EVIL.encode()
    shards[2][3][0][1] = EVIL.encode()
    with harvesting(objects=False) as harvest:
        client = ClusterClient(cluster.addresses, failover_timeout=3, password="Qzpasswordzq", username="app")
        harvest.add("a map's text", repr(client))
        await everything(harvest, client)
        await settled()
    assert acting(harvest) == []


@on_fakes
async def test_without_the_guard_it_comes_out(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "printable", lambda text: text)
    monkeypatch.setattr(identity, "printable", lambda text: text)
    service = Service(network)
    service.master.program.run_id = EVIL
    with harvesting(objects=False) as harvest:
        await everything(harvest, SentinelClient(service.addresses, service.name))
    assert acting(harvest)


# ---- the command line -------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_the_command_line_shows_it_as_text() -> None:
    """A server's words on stderr, at a terminal and elsewhere, and in its log (-vv)."""
    async with socket_server(keys=10) as (server, (host, port)):
        server.instead[b"SCAN"] = Error(EVIL.replace("\n", " ").replace("\r", " "))
        server.program.run_id = EVIL
        arguments = ("scan", "-vv", "--no-progress", "-u", f"redis://{host}:{port}")
        seen = await cli_at_terminal(*arguments, shows="err")
        ended = await cli(*arguments)
    assert seen.status not in {0, None}
    assert "x1b]0;title" in seen.screen
    for text in (seen.screen.replace("\r\n", "\n"), ended.err):
        assert text.replace("\n", "").isprintable()
        assert "\nINFO forged" not in text
