"""LocalSentinel: a real service that fails over on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from trio_sentinel_scan.testing import (
    LocalRedis,
    LocalSentinel,
    ServerNotRunning,
    ServerStartFailed,
    ServerUnresponsive,
    make_test_certificates,
)
from trio_sentinel_scan.testing._ports import take_port

if TYPE_CHECKING:
    from pathlib import Path

    from trio_sentinel_scan.testing import LocalSentinelNode, Reply, ServerBinary

pytestmark = pytest.mark.trio

TAKE_PORT = "trio_sentinel_scan.testing._server.take_port"


def fields(reply: Reply) -> dict[bytes, bytes]:
    """What a Sentinel says about one server."""
    assert isinstance(reply, list)
    words = [word for word in reply if isinstance(word, bytes)]
    return dict(zip(words[::2], words[1::2], strict=True))


async def knows(node: LocalSentinelNode, what: str, service: str = "mymaster") -> list[dict[bytes, bytes]]:
    reply = await node.execute("SENTINEL", what, service)
    assert isinstance(reply, list)
    return [fields(entry) for entry in reply]


@pytest.mark.smoke
async def test_it_begins_when_everybody_knows_everybody(each_server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=each_server_binary) as sentinel:
        assert sentinel.service == "mymaster"
        members = ",".join(f"127.0.0.1:{node.port}" for node in sentinel.sentinel_nodes)
        assert sentinel.url == f"redis+sentinel://{members}/mymaster/0"
        assert [node.address for node in sentinel.sentinel_nodes] == sentinel.sentinels
        assert len(sentinel.nodes) == 3
        master = await sentinel.master()
        assert master is sentinel.nodes[0]
        assert await sentinel.replicas() == sentinel.nodes[1:]
        for node in sentinel.sentinel_nodes:
            assert await node.role() == "sentinel"
            assert await node.execute("SENTINEL", "MYID") == node.myid.encode()
            assert await node.master_address() == master.address
            assert [entry[b"flags"] for entry in await knows(node, "REPLICAS")] == [b"slave"] * 2
            assert {int(entry[b"port"]) for entry in await knows(node, "REPLICAS")} == {
                replica.port for replica in sentinel.nodes[1:]
            }
            others = await knows(node, "SENTINELS")
            assert [entry[b"flags"] for entry in others] == [b"sentinel"] * 2
            assert {entry[b"runid"] for entry in others} == {
                other.myid.encode() for other in sentinel.sentinel_nodes if other is not node
            }
            settings = fields(await node.execute("SENTINEL", "MASTER", "mymaster"))
            assert settings[b"quorum"] == b"2"
            assert settings[b"down-after-milliseconds"] == b"1000"
            assert settings[b"failover-timeout"] == b"3000"
            assert settings[b"parallel-syncs"] == b"2"


async def test_other_shapes_and_settings(server_binary: ServerBinary) -> None:
    async with LocalSentinel(
        0,
        1,
        service="only",
        down_after=0.25,
        failover_timeout=0.5,
        parallel_syncs=3,
        quorum=7,
        config={"maxmemory": "123mb"},
        sentinel_config={"sentinel": ["deny-scripts-reconfig yes", "resolve-hostnames no"]},
        binary=server_binary,
    ) as sentinel:
        [node], [watching] = sentinel.nodes, sentinel.sentinel_nodes
        assert sentinel.url == f"redis+sentinel://127.0.0.1:{watching.port}/only/0"
        assert await node.execute("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"%d" % (123 << 20)]
        settings = fields(await watching.execute("SENTINEL", "MASTER", "only"))
        assert settings[b"quorum"] == b"7"
        assert settings[b"down-after-milliseconds"] == b"250"
        assert settings[b"failover-timeout"] == b"500"
        assert settings[b"parallel-syncs"] == b"3"
        assert await sentinel.replicas() == []
        assert await sentinel.fill(3) == await node.keys()


async def test_after_fill_all_replicas_have_all_keys(each_server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=each_server_binary) as sentinel:
        keys = await sentinel.fill(20_000, prefix="user:", start=5, value=b"v" * 100)
        assert b"user:5" in keys
        for node in sentinel.nodes:
            assert await node.keys() == keys


async def test_the_master_killed_a_replica_takes_over_with_all_keys(each_server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=each_server_binary) as sentinel:
        keys = await sentinel.fill(1000)
        old = await sentinel.kill()
        assert old is sentinel.nodes[0]
        assert not old.running
        new = await sentinel.wait_for_new_master(old)
        assert new in sentinel.nodes[1:]
        assert await sentinel.master() is new
        assert await new.role() == "master"
        assert await new.keys() == keys


async def test_a_planned_failover_leaves_the_old_master_running(each_server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=each_server_binary) as sentinel:
        old = await sentinel.master()
        new = await sentinel.failover()
        assert new is not old
        assert old.running
        assert await old.role() == "master"  # nobody has told it yet
        assert await sentinel.master() is new
        # The first is still under way for some, and is waited for.
        newer = await sentinel.failover()
        assert newer is not new
        assert await sentinel.master() is newer


async def test_paused_the_master_is_replaced_and_resumed_it_answers(each_server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=each_server_binary) as sentinel:
        old = await sentinel.pause()
        assert old.paused
        assert await sentinel.wait_for_new_master(old) is not old
        await sentinel.resume()
        assert not old.paused
        assert await old.role() == "master"  # and nobody has told it yet


async def test_restarted_the_master_has_its_data_and_stays_master(each_server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=each_server_binary, down_after=3) as sentinel:
        keys = await sentinel.fill(20_000)
        before = await sentinel.master()
        identity, port = await before.run_id(), before.port
        master = await sentinel.restart()
        assert master is before
        assert master.port == port
        assert await master.run_id() != identity
        assert await master.keys() == keys
        assert await sentinel.master() is master
        # Its replicas come back to it, and the Sentinels, who saw nothing, have nothing to do.
        await sentinel.wait_until_ready()
        assert await sentinel.master() is master


async def test_a_sentinel_can_be_killed_paused_and_restarted(each_server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=each_server_binary) as sentinel:
        first, second, third = sentinel.sentinel_nodes
        master = await sentinel.master()
        await first.kill()
        await second.pause()
        assert await sentinel.master() is master  # the word of the third
        await third.kill()
        assert await sentinel.master() is master  # and its own
        await second.resume()
        await first.start()
        await third.restart()
        # They remember each other, though there was no time for hellos.
        for node in (first, third):
            assert {entry[b"runid"] for entry in await knows(node, "SENTINELS")} == {
                other.myid.encode() for other in sentinel.sentinel_nodes if other is not node
            }
        assert await sentinel.master() is master


async def test_without_sentinels_nobody_fails_over(server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=server_binary, patience=30) as sentinel:
        for node in sentinel.sentinel_nodes:
            await node.kill()
        sentinel._patience = 0.5
        with pytest.raises(ServerUnresponsive, match="no Sentinel to ask"):
            await sentinel.failover()
        await sentinel.kill()
        with pytest.raises(ServerUnresponsive, match=r"(?s)had 0.5 seconds to have a master.*sentinel 3.*last wrote"):
            await sentinel.master()


async def test_one_failover_at_a_time(server_binary: ServerBinary) -> None:
    async with LocalSentinel(binary=server_binary) as sentinel:
        old = await sentinel.master()
        await sentinel.sentinel_nodes[1].execute("SENTINEL", "FAILOVER", "mymaster")
        # It is asked for a second one while the first is under way; whichever of the two it sees, it is a new master.
        new = await sentinel.failover()
        assert new is not old
        assert "SENTINEL FAILOVER" not in sentinel.sentinel_nodes[1].log.partition("+switch-master")[2]


async def test_a_failover_without_a_good_replica_is_tried_until_there_is_one(server_binary: ServerBinary) -> None:
    async with LocalSentinel(1, 1, binary=server_binary, down_after=0.3) as sentinel:
        [replica] = sentinel.nodes[1:]
        await replica.kill()
        with trio.fail_after(10):
            while True:
                [seen] = await knows(sentinel.sentinel_nodes[0], "REPLICAS")
                if b"s_down" in seen[b"flags"]:
                    break
                await trio.sleep(0.02)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica.start)
            assert await sentinel.failover() is replica


async def test_a_killed_master_that_comes_back_becomes_a_replica(each_server_binary: ServerBinary) -> None:
    # At one second, a failover is now and then followed by another.
    async with LocalSentinel(binary=each_server_binary, down_after=2) as sentinel:
        keys = await sentinel.fill(1000)
        old = await sentinel.kill()
        new = await sentinel.wait_for_new_master(old)
        if each_server_binary.product == "valkey" or each_server_binary.version_info >= (7,):
            # Sentinel's own periods make it a matter of twenty seconds and more.
            for node in sentinel.sentinel_nodes:
                await node.execute("SENTINEL", "DEBUG", "info-period", "500", "publish-period", "250")
        await old.start()
        await sentinel.wait_until_ready()
        assert await old.role() == "slave"
        await sentinel.wait_replicated()
        assert await old.keys() == keys
        # Its configuration says so from now on.
        await old.restart(save=False)
        assert await old.role() == "slave"
        await sentinel.wait_until_ready()
        assert await sentinel.master() is new


async def test_passwords_for_data_nodes_and_sentinels(each_server_binary: ServerBinary) -> None:
    async with LocalSentinel(password="data #1", sentinel_password="other/2", binary=each_server_binary) as sentinel:
        members = ",".join(f"{host}:{port}" for host, port in sentinel.sentinels)
        assert sentinel.url == (f"redis+sentinel://:data%20%231@{members}/mymaster/0?sentinel_password=other%2F2")
        keys = await sentinel.fill(10)
        old = await sentinel.kill()
        new = await sentinel.wait_for_new_master(old)
        assert await new.keys() == keys


async def test_users_and_tls_everywhere(tls_server_binary: ServerBinary, tmp_path: Path) -> None:
    async with LocalSentinel(
        username="app",
        password="secret",
        acl={"scanner": "on >other ~* +@all -info"},
        sentinel_username="watcher",
        sentinel_password="secret2",
        tls=make_test_certificates(tmp_path),
        binary=tls_server_binary,
    ) as sentinel:
        assert sentinel.url.startswith("rediss+sentinel://app:secret@127.0.0.1:")
        assert sentinel.url.endswith("/mymaster/0?sentinel_username=watcher&sentinel_password=secret2")
        keys = await sentinel.fill(10)
        assert await sentinel.nodes[1].execute("ACL", "USERS") == [b"app", b"default", b"scanner"]
        await sentinel.failover()
        assert await (await sentinel.master()).keys() == keys


async def test_a_service_that_does_not_start_says_why(server_binary: ServerBinary) -> None:
    with pytest.raises(ServerStartFailed, match="nonsense"):
        async with LocalSentinel(binary=server_binary, sentinel_config={"nonsense": "1"}):
            pytest.fail("it started")


async def test_a_service_that_does_not_come_together_says_what_is_missing(server_binary: ServerBinary) -> None:
    # The replicas cannot log in to the master.
    with pytest.raises(ServerUnresponsive, match=r"(?s)is not linked to.*last wrote"):
        async with LocalSentinel(
            binary=server_binary, password="right", config={"masterauth": "wrong"}, sentinels=1, patience=0.7
        ):
            pytest.fail("it started")


async def test_it_is_used_once_and_inside_its_block(server_binary: ServerBinary) -> None:
    sentinel = LocalSentinel(0, 1, binary=server_binary)
    with pytest.raises(ServerNotRunning):
        await sentinel.master()
    with pytest.raises(ServerNotRunning):
        _ = sentinel.url
    async with sentinel:
        with pytest.raises(RuntimeError, match="once"):
            async with sentinel:
                pytest.fail("it was entered again")
        assert await sentinel.master() is sentinel.nodes[0]
    with pytest.raises(ServerNotRunning):
        await sentinel.master()


async def test_ports_that_somebody_else_took_are_given_up(
    each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LocalRedis(binary=each_server_binary) as stranger:
        free = [take_port() for _ in range(3)]
        # Of the first four ports, the last, a Sentinel's, is the stranger's.
        offered = [stranger.port, *free]
        monkeypatch.setattr(TAKE_PORT, lambda: offered.pop() if offered else take_port())
        async with LocalSentinel(1, 2, binary=each_server_binary) as sentinel:
            ports = {node.port for node in (*sentinel.nodes, *sentinel.sentinel_nodes)}
            assert len(ports) == 4
            assert not ports & {stranger.port, *free}
        monkeypatch.setattr(TAKE_PORT, lambda: stranger.port)
        with pytest.raises(ServerStartFailed, match="taken"):
            async with LocalSentinel(0, 1, binary=each_server_binary):
                pytest.fail("it started")
