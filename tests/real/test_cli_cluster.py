"""`scan` and `count` on a cluster: all of it, one node, without some slots; and while a master dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.commandline import HANG, cli, running
from tests.real.scenes import until
from tests.real.test_cli_failures import check_failed
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan.testing import LocalCluster

if TYPE_CHECKING:
    from pathlib import Path

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = [
    pytest.mark.trio,
    pytest.mark.slow,
]

# More than fits into the pipe and all that waits for it: the scan has to wait for its reader.
KEYS = 60_000


def names_in(folder: Path) -> list[str]:
    """What is there."""
    return [path.name for path in folder.iterdir()]


async def test_all_of_it(each_server_binary: ServerBinary) -> None:
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster:
        keys = await cluster.fill(3_000)
        ended = await cli("scan", "--dedupe", "-u", cluster.url)
        assert (ended.status, len(ended.keys), set(ended.keys)) == (0, 3_000, keys)
        assert ended.err.startswith("complete: 3,000 keys in ")
        assert ended.err.count("3 of 3 masters agree") == 3
        ended = await cli("count", "-u", cluster.url, "--max-nodes-at-once", "1")
        assert (ended.status, ended.out) == (0, b"3000\n")
        assert ended.err.startswith("complete: 3,000 keys in ")
        ended = await cli("count", "--pattern", "key:1?", "--certify", "role", "-u", cluster.url)
        assert (ended.status, ended.out) == (0, b"10\n")
        assert (await cli("scan", "-q", "-u", cluster.url)).err == ""


async def test_a_password_and_replicas(server_binary: ServerBinary) -> None:
    """The password by the environment; and every node is one to begin with."""
    async with LocalCluster(password="sesame", binary=server_binary) as cluster:
        keys = await cluster.fill(500)
        host, port = cluster.nodes[-1].address
        env = {"REDISCLI_AUTH": "sesame", "TRIO_SENTINEL_SCAN_URL": f"redis+cluster://{host}:{port}"}
        ended = await cli("scan", "--replica", env=env)
        assert (ended.status, set(ended.keys)) == (0, keys)
        check_failed(await cli("scan", "-u", f"redis+cluster://{host}:{port}"), 1, "password")


async def test_one_node(server_binary: ServerBinary) -> None:
    """By its id, or its address; not one that nobody knows."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        await cluster.fill(500)
        node = cluster.nodes[1]
        for name in (await node.node_id(), f"{node.host}:{node.port}"):
            ended = await cli("scan", "--node", name, "-u", cluster.url)
            assert (ended.status, set(ended.keys)) == (0, await node.keys())
        check_failed(await cli("scan", "--node", "127.0.0.1:1", "-u", cluster.url), 2, "--node: ")


async def test_slots_that_no_node_has(server_binary: ServerBinary) -> None:
    """An error that says what would help; and which slots they are."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        await cluster.fill(500)
        await cluster.uncover(range(5, 10))
        arguments = ("count", "--failover-timeout", "1", "-u", cluster.url)
        ended = await cli(*arguments)
        check_failed(ended, 1, "slots 5-9", "--allow-uncovered would do without them")
        assert ended.out == b""
        assert ended.err.startswith("incomplete: ")
        ended = await cli(*arguments, "--allow-uncovered")
        assert ended.status == 0
        assert "\nleft out: slots 5-9, which no node has\n" in ended.err


@pytest.mark.parametrize("option", [(), ("--dedupe",)], ids=["plain", "dedupe"])
async def test_killed_and_run_again(server_binary: ServerBinary, tmp_path: Path, option: tuple[str, ...]) -> None:
    """What the checkpoint covers was written before it; the rest comes from the second run. Then the file is gone."""
    file = tmp_path / "here"
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        keys = await cluster.fill(KEYS)
        arguments = ("scan", *option, "--checkpoint", str(file), "-u", cluster.url)
        async with running(*arguments, "--count", "100") as run:
            await run.read(1)
            with trio.fail_after(HANG):
                await until(file.exists)
            await run.read(200_000)
            run.process.kill()
            first = await run.end()
        # A line that was cut is no key.
        before = set(first.out.split(b"\n")[:-1])
        assert before < keys
        text = file.read_bytes()
        check_failed(await cli(*arguments, "--pattern", "k*"), 2, "--checkpoint: ", "match was not the same")
        node = cluster.nodes[0]
        url = f"redis://{node.host}:{node.port}"
        check_failed(await cli(*arguments[:-1], url), 2, "--checkpoint: ", "a scan of a cluster")
        assert file.read_bytes() == text
        second = await cli(*arguments)
        assert second.status == 0, second.err
        assert before | set(second.keys) == keys
        assert f"going on from the checkpoint in {file}" in second.err
        assert names_in(tmp_path) == []


async def test_a_master_dies_while_nobody_reads(server_binary: ServerBinary) -> None:
    """Its slots are scanned again at the one that was its replica, and nothing is missing."""
    async with LocalCluster(binary=server_binary) as cluster:
        keys = await cluster.fill(KEYS, b"a key with a name that is longer than it needs to be:")
        async with running("scan", "--progress", "-u", cluster.url) as run:
            # Until its first page is written: before, there is nothing to be done again.
            while not any(slot_of(line) <= 5460 for line in run.out.split(b"\n")[:-1]):
                await run.read(len(run.out) + 1)
            old = await cluster.kill(cluster.nodes[0])
            await cluster.wait_for_new_master(old)
            ended = await run.end()
        assert ended.status == 0
        assert set(ended.keys) == keys
        assert "; scanning slots 0-5460 again, so keys of theirs may come again" in ended.err
        assert "\nslots were scanned again " in ended.err
