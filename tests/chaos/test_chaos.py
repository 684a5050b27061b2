"""A minute of chaos, and five of them in the full run; and that chaos would see what it is there for."""

from __future__ import annotations

import faulthandler
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.chaos import running
from tests.chaos.arenas import SentinelArena
from tests.chaos.report import Account
from tests.chaos.scanning import Haul, Scanners
from tests.chaos.traffic import Traffic
from trio_sentinel_scan import Address, Certificate, ScanPage, ScanSummary, ServerIdentity
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan.testing import LocalSentinel, ServerBinary

pytestmark = [pytest.mark.real, pytest.mark.slow]

SERVER = ServerIdentity("a" * 40, Address("127.0.0.1", 1))
RESTART = "restart a master on the same port"


async def run(deployment: str, binary: ServerBinary, **options: Any) -> Account:
    """With more time than other tests have (`faulthandler_timeout`): on a slow machine the last round takes its own."""
    faulthandler.cancel_dump_traceback_later()
    with trio.fail_after(900):
        account = await running.run(deployment, binary, **options)
        if account.trouble and not account.findings:
            # Servers that a machine lets starve show nothing of the client. Once they may.
            account = await running.run(deployment, binary, **options)
        return account


def check(account: Account) -> None:
    """Every promise was kept, and there was something to keep."""
    told = "\n".join(account.lines())
    assert not account.findings, told
    assert not account.trouble, told
    assert account.rounds, told
    assert account.faults.total() >= account.rounds, told
    assert account.keys_checked, told
    assert account.commands["acknowledged"], told


@pytest.mark.parametrize("deployment", ["sentinel", "cluster"])
@pytest.mark.trio
async def test_a_minute(server_binary: ServerBinary, deployment: str) -> None:
    """Half of one each, and another schedule each time: what fails has its seed in its message."""
    seed = f"{random.SystemRandom().getrandbits(32):08x}"
    check(await run(deployment, server_binary, seconds=25, seed=seed, keys=3_000, hurried=True))


@pytest.mark.full
@pytest.mark.parametrize("deployment", ["sentinel", "cluster"])
@pytest.mark.trio
async def test_five_minutes(each_server_binary: ServerBinary, deployment: str) -> None:
    """On each server, and with Sentinels that take their time."""
    seed = f"{random.SystemRandom().getrandbits(32):08x}"
    check(await run(deployment, each_server_binary, seconds=150, seed=seed))


@pytest.mark.trio
async def test_without_the_identity_rule(server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard of the scan's is off, and chaos finds it."""
    monkeypatch.setattr(ScanPlan, "_is_same_process", lambda plan, server: True)
    found: set[str] = set()
    for seed in range(5):
        account = await run(
            "sentinel", server_binary, seconds=8, seed=str(seed), keys=3_000, hurried=True, only=[RESTART]
        )
        found |= {finding.what for finding in account.findings}
        if found:
            break
    assert "cursors were sent to processes that had not issued them" in found


class Ignored:
    """A pipeline of which nothing is kept."""

    def set(self, *_command: str) -> None: ...

    def delete(self, *_command: str) -> None: ...

    async def execute(self) -> None:
        await trio.lowlevel.checkpoint()


class Kept:
    """A client whose server is a dictionary, and each of whose commands takes a moment before and after."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    async def get(self, key: str) -> bytes | None:
        await trio.lowlevel.checkpoint()
        value = self._kept.get(key)
        await trio.lowlevel.checkpoint()
        return None if value is None else value.encode()

    async def set(self, key: str, value: str) -> None:
        await trio.lowlevel.checkpoint()
        self._kept[key] = value
        await trio.lowlevel.checkpoint()

    async def incr(self, key: str) -> None:
        await self.set(key, str(int(self._kept.get(key, "0")) + 1))

    def pipeline(self, *, transaction: bool) -> Ignored:
        assert not transaction
        return Ignored()


@pytest.mark.usefixtures("autojump_clock")
@pytest.mark.trio
async def test_all_tasks_stand_still_while_they_are_checked() -> None:
    """Else a check takes what a task has just written for what was lost."""
    account, dice = Account("none", "none", "none"), random.Random(1)
    traffic = Traffic(Kept(), account, dice)
    await traffic.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(traffic.run)
        for _ in range(300):
            # As long as the tasks' own pause, so that the check begins in the midst of their beginning.
            await trio.sleep(0.01)
            for _ in range(dice.randint(0, 8)):
                await trio.lowlevel.checkpoint()
            await traffic.check(may_lose=False)
        nursery.cancel_scope.cancel(reason="it was seen often enough")
    assert not account.findings, account.findings
    assert account.commands["acknowledged"] > 1_000


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.trio
async def test_interrupted(server_binary: ServerBinary, tmp_path: Path, signum: signal.Signals) -> None:
    """It tells what there was until then, and nothing is left of it."""
    report = tmp_path / "report.json"
    asked = ["--minutes=9", "--seed=x", "--keys=1000", f"--server={server_binary.path}", f"--json={report}"]

    def interrupt() -> tuple[int, str, str]:
        command = [sys.executable, "-m", "tests.chaos", *asked]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("round 1"):
                    break
            process.send_signal(signum)
            told, rest = process.communicate(timeout=60)
        return process.returncode, told, rest

    status, told, rest = await trio.to_thread.run_sync(interrupt)
    assert status == 128 + signum, told + rest
    assert f"interrupted by {signum.name}" in rest
    assert "seed x-sentinel: 1 rounds" in told
    (account,) = json.loads(report.read_text())
    assert (account["deployment"], account["rounds"], account["findings"]) == ("sentinel", 1, [])


# ---- what it looks for, it would see ----------------------------------------------------------------------------


def scanners(account: Account, keys: set[bytes]) -> Scanners:
    """Scans of a service that has these keys, and is not there."""
    arena = SentinelArena(ServerBinary(Path(), "redis", "7.0", tls=False), {}, LocalSentinel())
    arena.batches.append(keys)
    return Scanners(arena, None, account, random.Random(0))


def summary(*, complete: bool = True) -> ScanSummary:
    """Of a scan of one epoch."""
    certificate = Certificate("sentinels", SERVER, "master", 1)
    return ScanSummary(complete, 0, 1, 1, 1, 1, 0, 0, 1.0, SERVER, 1, certificate, 1.0)


@pytest.mark.parametrize("lost_by_servers", [False, True])
def test_a_key_that_is_lost_is_found(*, lost_by_servers: bool) -> None:
    """Unless no server has it any more."""
    account, haul = Account("", "", ""), Haul()
    scans = scanners(account, {b"a", b"b"})
    haul.take(ScanPage([b"a"], 0, SERVER, 1.0), in_order=True)
    scans.judge("plain", haul, summary(), [{b"a", b"b"}])
    scans.settle({b"b"} if lost_by_servers else set())
    assert [finding.what for finding in account.findings] == ["a scan (plain) lost keys"] * (not lost_by_servers)


@pytest.mark.parametrize("begun", ["before", "afterwards"])
def test_a_key_that_was_written_again_is_new_to_a_scan_that_was_under_way(begun: str) -> None:
    """It went by when the servers had lost it; of one that begins later it is expected."""
    account, haul = Account("", "", ""), Haul()
    scans = scanners(account, {b"a", b"b"})
    haul.take(ScanPage([b"a"], 0, SERVER, 1.0), in_order=True)
    mended = scans.mended
    scans.settle({b"b"})
    if begun == "afterwards":
        mended = scans.mended
    scans.judge("plain", haul, summary(), [{b"a", b"b"}], scans.written_again(mended))
    scans.settle(set())
    assert len(account.findings) == (begun == "afterwards")


def test_what_is_wrong_with_pages_is_found() -> None:
    haul = Haul()
    for epoch, position in ((1, 0.5), (1, 0.5), (0, 0.6)):
        haul.take(ScanPage([b"a"], epoch, SERVER, position), in_order=True)
    other = ServerIdentity("b" * 40, Address("127.0.0.1", 1))
    haul.take(ScanPage([b"a"], 0, other, 0.7), in_order=True)
    assert haul.wrong == [
        "the position went from 0.5 to 0.5",
        "a page of epoch 0 came after one of epoch 1",
        "epoch 0 has pages of two processes",
    ]
    scanners(Account("", "", ""), set()).judge("deduped", haul, summary(complete=False), [])
    assert haul.wrong[3:] == [
        "it ended, and its summary does not call it complete",
        "1 keys came twice, in spite of dedupe",
    ]


class Books:
    """A server that holds these counters, whoever asks."""

    def __init__(self, counted: int, register: str) -> None:
        self.counted = counted
        self.register = register

    async def get(self, key: str) -> bytes:
        return str(self.counted if key.startswith("count") else self.register).encode()


@pytest.mark.parametrize(
    "counted, register, may_lose, found",
    [
        (5, "b", False, set()),
        (6, "c", False, set()),
        (7, "b", False, {"an increment ran twice"}),
        (7, "b", True, {"an increment ran twice"}),
        (4, "b", False, {"an acknowledged increment is lost"}),
        (4, "a", True, set()),
        (5, "a", False, {"a register holds what it cannot"}),
        (5, "z", True, {"a register holds what it cannot"}),
    ],
)
@pytest.mark.trio
async def test_what_commands_did_not_do_is_found(counted: int, register: str, may_lose: bool, found: set[str]) -> None:
    """Five increments were acknowledged and one is unknown; "a" was written, then "b", and "c" perhaps."""
    account = Account("", "", "")
    traffic = Traffic(Books(counted, register), account, random.Random(0))
    del traffic.counters[1:]
    (counter,) = traffic.counters
    counter.acknowledged, counter.unknown = 5, 1
    counter.written, counter.value, counter.possible = {"", "a", "b", "c"}, "b", {"c"}
    await traffic.check(may_lose=may_lose)
    assert {finding.what for finding in account.findings} == found
