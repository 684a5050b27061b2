"""What an operator reads: changes of masters and restarts at INFO, all else at DEBUG; no key, value or password."""

from __future__ import annotations

import logging

import pytest

from tests.trio.fakes import COUNT, SERVICE, Service, on_mock_time, settled
from trio_sentinel_scan import RedisClient, SentinelClient

pytestmark = pytest.mark.trio(run=on_mock_time)


AGAIN = "scan: the scan begins again at cursor 0, epoch 1:"


def read(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """The lines so far, by logger, of this level or above."""
    found = [record for record in caplog.records if record.levelno >= level and record.name.startswith("trio_sentinel")]
    return [f"{record.name.partition('.')[2]}: {record.getMessage()}" for record in found]


async def test_a_failover_in_mid_scan(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_sentinel_scan")
    old = service.master
    async with SentinelClient(service.addresses, SERVICE) as client:
        async with client.open_scan(match="key:*", count=COUNT, segments=1) as pages:
            await pages.receive()
            old.kill()
            await service.elect(detect=1.0, tell=0.9)
            await client.ping()
            async for _ in pages:
                pass
        keys = pages.summary.keys
    at_old = f"10.0.0.1:6379 (run_id {old.program.run_id[:8]})"
    at_new = f"10.0.0.2:6379 (run_id {service.master.program.run_id[:8]})"
    assert read(caplog, logging.INFO) == [
        "sentinel: service mymaster: the master is 10.0.0.1:6379 (config epoch 0)",
        "sentinel: service mymaster: the master is 10.0.0.2:6379 (config epoch 1)",
        f"{AGAIN} MASTER_CHANGE 10.0.0.1:6379 -> 10.0.0.2:6379 (it was on {at_old})",
    ]
    everything = read(caplog, logging.DEBUG)
    assert "sentinel: Sentinel 10.0.1.1:26379: listening to it" in everything
    assert any(line.startswith("sentinel: Sentinel 10.0.1.2:26379: +switch-master mymaster ") for line in everything)
    for server, times in ((at_old, 2), (at_new, 2)):  # the commands' and the scan's
        assert everything.count(f"connection: opened a connection to {server}") == times
        assert everything.count(f"connection: closed a connection to {server}") == times
    [end] = [line for line in everything if "is complete" in line]
    assert end.startswith(f"scan: the scan is complete after {keys} keys in ")
    assert end.endswith("s, epoch 1")
    assert not [line for line in everything if "key:" in line]


async def test_a_restart_of_the_server_in_mid_scan(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_sentinel_scan")
    async with RedisClient(service.master.address) as client, client.open_scan(count=COUNT, segments=1) as pages:
        old = client.server
        await pages.receive()
        service.master.restart()
        async for _ in pages:
            pass
    assert read(caplog, logging.INFO) == [
        f"{AGAIN} another process answers at this address: the server was restarted (it was on {old})"
    ]


async def test_a_scan_that_fails(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """The error says why, to whom it is raised; the log says of which kind it was."""
    caplog.set_level(logging.DEBUG, "trio_sentinel_scan.scan")
    async with SentinelClient(service.addresses, SERVICE) as client:
        async with client.open_scan(count=COUNT, on_failover="raise"):
            service.fail_over()
            await settled()
        async with client.open_scan(count=COUNT):
            pass
    first, second = read(caplog, logging.DEBUG)
    assert first.startswith("scan: the scan ended early after 0 keys in ")
    assert first.endswith("(ScanInterrupted)")
    assert second.endswith("epoch 0")
