"""The demo: on its own, whatever the terminal, with nothing left behind, and a status that means what it says."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest
import redis.exceptions
import trio

from tests.real.commandline import cli, cli_at_terminal, running
from trio_sentinel_scan.cli._demo import DemoFailed, _Demo
from trio_sentinel_scan.cli._naive import NaiveScan
from trio_sentinel_scan.cli._stage import Stage
from trio_sentinel_scan.testing import LocalSentinel

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio


@pytest.mark.slow
@pytest.mark.smoke
async def test_the_default_run(server_binary: ServerBinary) -> None:
    began = trio.current_time()
    ended = await cli("demo", env={"TRIO_SENTINEL_SCAN_SERVER": str(server_binary.path)})
    took = trio.current_time() - began
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.decode().splitlines()
    assert lines[-1] == "200,000 of 200,000 keys delivered"
    assert took < 30
    assert all(line.isprintable() and len(line) <= 80 for line in lines)
    # The story, in its order.
    told = "\n".join(lines)
    for words in (
        r"starting a master, two replicas and three Sentinels",
        r"200,000 keys are written",
        r"SIGKILL for the master, 127\.0\.0\.1:\d+",
        r"\+\d\.\d\d s  .*\(\+sdown\)",
        r"\+\d\.\d\d s  .*\(\+odown\)",
        r"\+\d\.\d\d s  heard: MASTER_CHANGE 127\.0\.0\.1:\d+ -> 127\.0\.0\.1:\d+",
        r"\+\d\.\d\d s  the first page of epoch 1, \d+ ms later",
        r"complete: 127\.0\.0\.1:\d+ is the master, [23] of 3 Sentinels agree",
        r"redis-py's scan_iter took its old cursor there, and ended without an error",
        r"[\d,]+ of 200,000 keys delivered, [\d,]+ lost",
    ):
        found = re.search(words, told)
        assert found, f"{words!r} is not told, or not in its place:\n{ended.out.decode()}"
        told = told[found.end() :]
    lost = re.search(r"([\d,]+) lost", ended.out.decode())
    assert lost is not None
    # A quarter: what the one server had in its second half and the other in its first.
    assert 30_000 < int(lost[1].replace(",", "")) < 70_000


@pytest.mark.slow
async def test_at_a_terminal(server_binary: ServerBinary) -> None:
    env = {"TRIO_SENTINEL_SCAN_SERVER": str(server_binary.path)}
    seen = await cli_at_terminal("demo", "--keys", "5000", "--seconds-per-page", "0.005", env=env, columns=80)
    assert seen.status == 0
    shown = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", seen.screen)
    assert re.search(r"trio-sentinel-scan +━+.*the master is dead, \d\.\d s", shown)
    assert re.search(r"trio-sentinel-scan +━+.*epoch 1, from the beginning", shown)
    assert re.search(r"redis-py scan_iter +━+", shown)
    assert shown.rstrip().splitlines()[-1] == "5,000 of 5,000 keys delivered"
    # The cursor is back.
    assert seen.screen.rindex("\x1b[?25h") > seen.screen.rindex("━")


async def test_ctrl_c_leaves_nothing_behind(server_binary: ServerBinary) -> None:
    """(The processes are looked for by the fixture that every test has.)"""
    env = {"TRIO_SENTINEL_SCAN_SERVER": str(server_binary.path)}
    async with running("demo", "--keys", "5000", env=env) as run:
        await run.read(300)
        run.process.send_signal(signal.SIGINT)
        ended = await run.end()
    assert ended.status == -signal.SIGINT
    assert ended.err == ""


async def test_the_reader_goes_away(server_binary: ServerBinary) -> None:
    env = {"TRIO_SENTINEL_SCAN_SERVER": str(server_binary.path)}
    async with running("demo", "--keys", "5000", env=env) as run:
        assert run.process.stdout is not None
        await run.read(1)
        await run.process.stdout.aclose()
        await run.process.wait()
    assert run.process.returncode == -signal.SIGPIPE
    assert run.err == ""


async def test_no_server_program() -> None:
    ended = await cli("demo", env={"TRIO_SENTINEL_SCAN_SERVER": "/no/such/server"})
    assert ended.status == 1
    assert ended.err.startswith("trio-sentinel-scan: error: the environment variable TRIO_SENTINEL_SCAN_SERVER names")


# ---- when it does not go well ------------------------------------------------------------------------------------


class Lines(Stage):
    """A stage that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def _print(self, text: str, style: str) -> None:
        self.lines.append(text)


async def test_it_fails_if_anything_is_missing(server_binary: ServerBinary) -> None:
    written = {b"1", b"2", b"3", b"4"}
    async with LocalSentinel(replicas=0, sentinels=1, binary=server_binary) as service:
        for complete, restarts, delivered, problem in (
            (True, 1, written - {b"4"}, "1 keys are missing, 0 are none of those written, and there were 1 restarts"),
            (True, 1, written | {b"5"}, "0 keys are missing, 1 are none of those"),
            (True, 0, written, "there were 0 restarts"),
            (False, 1, written, "0 keys are missing"),
        ):
            stage = Lines()
            demo = _Demo(stage, service, written, 0)
            demo._complete, demo._restarts_told, demo._delivered = complete, restarts, delivered
            with pytest.raises(DemoFailed, match=problem):
                demo.conclude()
            assert "redis-py's scan_iter has not ended yet:" in stage.lines
            assert stage.lines[-1] == f"{len(delivered & written)} of 4 keys delivered"


class Failing(NaiveScan):
    """One whose client raises."""

    def _scan(self) -> None:
        raise redis.exceptions.ConnectionError


async def test_the_other_scan_may_fail_for_all_we_care() -> None:
    naive = Failing([("127.0.0.1", 1)], "mymaster", keys=10, count=10, seconds_per_page=0)
    await naive.run()
    assert naive.story == "raised ConnectionError"
    assert naive.half_way.is_set()
    assert naive.ended.is_set()


async def test_the_other_scan_is_cancelled_where_it_waits(server_binary: ServerBinary) -> None:
    """Half way, for the master's death; and for a new master, which never comes."""
    async with LocalSentinel(replicas=0, sentinels=1, binary=server_binary) as service:
        await service.fill(100)
        for kill in (False, True):
            naive = NaiveScan(service.sentinels, "mymaster", keys=100, count=10, seconds_per_page=0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(naive.run)
                await naive.half_way.wait()
                if kill:
                    await service.kill()
                    naive.go_on()
                await trio.sleep(0.2)
                nursery.cancel_scope.cancel()
            assert not naive.ended.is_set()
            assert naive.story == "has not ended yet"
