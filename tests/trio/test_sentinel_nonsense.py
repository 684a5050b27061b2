"""A Sentinel that makes no sense is as good as none: it harms neither the others nor the client."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import (
    SILENCE,
    Cut,
    Error,
    Network,
    Push,
    Raw,
    Reply,
    Service,
    on_mock_time,
    settled,
)
from tests.trio.watching import names, until, watching
from trio_sentinel_scan import Address
from trio_sentinel_scan._trio import connection, streams

pytestmark = pytest.mark.trio(run=on_mock_time)


NONSENSE: dict[str, Any] = {
    "no RESP": ("SENTINEL MASTER", Raw(b"?\r\n")),
    "an absurd length": ("SENTINEL MASTER", Raw(b"*999999999\r\n")),
    "too deep": ("SENTINEL SENTINELS", Raw(b"*1\r\n" * 1000)),
    "cut off": ("SENTINEL MASTER", Cut(20)),
    "a number": ("SENTINEL MASTER", Reply(7)),
    "a list of odd length": ("SENTINEL MASTER", Reply(["name"])),
    "no epoch": ("SENTINEL MASTER", Reply(["name", "mymaster"])),
    "an epoch in letters": ("SENTINEL MASTER", Reply(["config-epoch", "x"])),
    "an address that is a number": ("SENTINEL GET-MASTER-ADDR-BY-NAME", Reply(7)),
    "an address of three": ("SENTINEL GET-MASTER-ADDR-BY-NAME", Reply(["a", "1", "2"])),
    "a port in letters": ("SENTINEL GET-MASTER-ADDR-BY-NAME", Reply(["a", "x"])),
    "a peer with a port in letters": ("SENTINEL SENTINELS", Reply([["ip", "a", "port", "x", "runid", "r"]])),
    "an error": ("SENTINEL MASTER", Reply(Error("NOPERM this user has no permissions"))),
    "silence": ("SENTINEL MASTER", SILENCE),
    "silence at once": ("SUBSCRIBE", SILENCE),
}


@pytest.mark.parametrize("command, instead", NONSENSE.values(), ids=NONSENSE.keys())
async def test_a_sentinel_that_makes_no_sense_is_as_good_as_none(network: Network, command: str, instead: Any) -> None:
    """It is tried again and again, and the others are heard; when it comes to its senses it counts again."""
    service = Service(network)
    host = service.sentinels[0]
    host.tap(command, times=float("inf"), instead=instead)
    async with watching(service) as monitor:
        await monitor.first_target()
        await trio.sleep(10)
        assert "names" not in monitor.describe()["10.0.1.1:26379"]
        assert 3 < len(host.wires) < 60
        service.fail_over()
        assert await until(lambda: names(monitor) == ("10.0.0.2", 6379, 1), within=1) == 0
        host.untap()
        await until(lambda: "names" in monitor.describe()["10.0.1.1:26379"], within=5)


EVENTS: dict[str, Any] = {
    "of numbers": [b"message", 1, 2],
    "of nothing": [b"message", None, None],
    "of lists": [b"message", [1], [2]],
    "with an empty payload": [b"message", b"+switch-master", b""],
    "with a short payload": [b"message", b"+switch-master", b"mymaster"],
    "with another payload": [b"message", b"+promoted-slave", b"@"],
    "of no known kind": [b"pmessage", b"*", b"+switch-master", b"x"],
    "that is a number": 7,
    "that is a push": Push([b"message", b"+switch-master", b"\xff\xfe"]),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS.keys())
async def test_an_event_that_makes_no_sense_does_no_harm(network: Network, event: Any) -> None:
    service = Service(network)
    async with watching(service) as monitor:
        await monitor.first_target()
        await settled()
        for session in service.sentinels[0].program._sessions:
            if session.channels:
                session.push(event)
        await trio.sleep(3)
        service.fail_over()
        assert await until(lambda: names(monitor) == ("10.0.0.2", 6379, 1), within=1) == 0


@pytest.mark.parametrize("sentinel_id", [7, None, [], Error("ERR unknown subcommand 'MYID'")])
async def test_a_sentinel_without_an_id_counts_all_the_same(network: Network, sentinel_id: Any) -> None:
    service = Service(network)
    service.sentinels[0].tap("SENTINEL MYID", times=float("inf"), instead=Reply(sentinel_id))
    async with watching(service) as monitor:
        target = await monitor.first_target()
        await settled()
        assert (await monitor.vote(target)).known == 3


@pytest.mark.parametrize("host", ["..", "a" * 70])
async def test_a_peer_whose_name_no_host_can_have(network: Network, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """It is one that cannot be reached, and no more than that."""
    service = Service(network)
    service.sentinels[1].program.announced = (host, 26379)

    async def open_stream(dial: Address, **options: Any) -> Any:
        return await (streams.open_stream if dial.host == host else network.open_stream)(dial, **options)

    monkeypatch.setattr(connection, "open_stream", open_stream)
    async with watching(service, addresses=service.addresses[:1]) as monitor:
        await monitor.first_target()
        await settled()
        # (In whose words depends on the release of Python.)
        assert re.search("cannot be reached: .*label (empty or )?too long", monitor.describe()[f"{host}:26379"])
        service.fail_over()
        assert await until(lambda: names(monitor) == ("10.0.0.2", 6379, 1), within=1) == 0
