"""`demo --cluster`: a story with a beginning, a death, a move and an end, and a status that means what it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.commandline import cli, cli_at_terminal
from tests.real.test_cli_demo import Lines
from trio_sentinel_scan.cli._cluster_demo import _MOVED, _Demo
from trio_sentinel_scan.cli._cluster_naive import NaiveClusterScan
from trio_sentinel_scan.cli._comparison import DemoFailed
from trio_sentinel_scan.cli._tidings import Tidings, nodes_tidings
from trio_sentinel_scan.testing import LocalCluster
from trio_sentinel_scan.testing._cluster_node import slot_of

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.slow]


async def test_the_default_run(each_server_binary: ServerBinary) -> None:
    ended = await cli("demo", "--cluster", env={"TRIO_SENTINEL_SCAN_SERVER": str(each_server_binary.path)})
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.decode().splitlines()
    assert lines[-1] == "200,000 of 200,000 keys delivered"
    # (How many ranges of slots are scanned again, and why, is as it comes.)
    assert all(line.isprintable() and (len(line) <= 80 or "s  slots" in line) for line in lines)
    # The story, in its order.
    told = "\n".join(lines)
    for words in (
        r"starting a cluster of three masters",
        r"200,000 keys are written",
        r"two scans begin: ours, and redis-py, node by node, with retries",
        r"SIGKILL for the master at port \d+",
        r"\+\d\.\d\d s  1,000 slots have moved from port \d+ to port \d+",
        r"\+\d\.\d\d s  the masters agree that it is down \(FAIL\)",
        r"\+\d\.\d\d s  its replica is elected, and has its slots now \(won\)",
        r"complete: all slots, as a majority of the masters has them",
        r"redis-py, node by node, kept its old cursor, and ended without an error",
        r"[\d,]+ of 200,000 keys delivered, [\d,]+ lost",
        r"trio-sentinel-scan scanned the slots concerned again:",
    ):
        found = re.search(words, told)
        assert found, f"{words!r} is not told, or not in its place:\n{ended.out.decode()}"
        told = told[found.end() :]
    # Those that have moved, by themselves or with the rest of their node.
    again = [(int(first), int(last)) for first, last in re.findall(r"s  slots [^:]*?(\d+)-(\d+): ", ended.out.decode())]
    assert any(first <= 15_384 and last == 16_383 for first, last in again), again
    lost = re.search(r"([\d,]+) lost", ended.out.decode())
    assert lost is not None
    # The keys of the slots that have moved: 1,000 of 16,384.
    assert int(lost[1].replace(",", "")) > 11_000


async def test_at_a_terminal(server_binary: ServerBinary) -> None:
    env = {"TRIO_SENTINEL_SCAN_SERVER": str(server_binary.path)}
    arguments = ("demo", "--cluster", "--keys", "5000", "--seconds-per-page", "0.005")
    seen = await cli_at_terminal(*arguments, env=env, columns=80)
    assert seen.status == 0
    shown = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", seen.screen)
    assert re.search(r"trio-sentinel-scan +━+.*a master is dead, \d\.\d s", shown)
    assert re.search(r"redis-py, by nodes +━+", shown)
    assert shown.rstrip().splitlines()[-1] == "5,000 of 5,000 keys delivered"


async def test_what_the_other_scan_loses(each_server_binary: ServerBinary) -> None:
    """All keys of slots that move from a node that it has not come to yet to one that it has left."""
    async with LocalCluster(binary=each_server_binary) as cluster:
        keys = await cluster.fill(5_000)
        naive = NaiveClusterScan(cluster.addresses, keys=5_000, count=50, seconds_per_page=0)
        tidings = Tidings(cluster.nodes, nodes_tidings)
        tidings.news()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(naive.run)
            await naive.half_way.wait()
            await cluster.kill(cluster.nodes[1])
            await cluster.migrate_slots(_MOVED, cluster.nodes[0])
            naive.go_on()
            await cluster.wait_for_new_master(cluster.nodes[1])
            await naive.ended.wait()
        assert naive.story == "kept its old cursor, and ended without an error"
        moved = {key for key in keys if slot_of(key) in _MOVED}
        assert len(moved) > 250
        assert not moved & naive.delivered
        # The first node, which it had left, and what has stayed of the third.
        stayed = [*range(5_461), *range(10_923, _MOVED[0])]
        assert {key for key in keys if slot_of(key) in stayed} <= naive.delivered
        told = [tiding.text for tiding in tidings.news()]
        # (Each node writes down what it hears, some of it within the same millisecond.)
        assert sorted(told) == [
            "its replica is elected, and has its slots now (won)",
            "its replica stands for election (vote)",
            "the masters agree that it is down (FAIL)",
        ]


async def test_the_other_scan_is_cancelled_where_it_waits(server_binary: ServerBinary) -> None:
    """Half way, for the master's death; and for a new master, which never comes."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        await cluster.fill(300)
        for kill in (False, True):
            naive = NaiveClusterScan(cluster.addresses, keys=300, count=10, seconds_per_page=0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(naive.run)
                await naive.half_way.wait()
                if kill:
                    await cluster.kill(cluster.nodes[1])
                    naive.go_on()
                await trio.sleep(0.2)
                nursery.cancel_scope.cancel()
            assert not naive.ended.is_set()
            assert naive.story == "has not ended yet"


async def test_it_fails_if_anything_is_missing(server_binary: ServerBinary) -> None:
    written = {b"1", b"2", b"3", b"4"}
    async with LocalCluster(1, 0, binary=server_binary) as cluster:
        stage = Lines()
        demo = _Demo(stage, cluster, written, 0)
        demo._complete, demo._restarts_told, demo._delivered = True, 1, {b"1", b"2", b"3"}
        with pytest.raises(DemoFailed, match="1 keys are missing"):
            demo.conclude()
        assert "redis-py, node by node, has not ended yet:" in stage.lines
        demo._delivered = written
        demo.conclude()
        assert stage.lines[-1] == "4 of 4 keys delivered"
