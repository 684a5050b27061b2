"""LocalRedis: one real server, and what can be done to it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests import _leaks
from trio_sentinel_scan.testing import (
    CommandFailed,
    LocalRedis,
    ServerNotRunning,
    ServerStartFailed,
    ServerUnresponsive,
    TlsUnavailable,
    make_test_certificates,
)
from trio_sentinel_scan.testing._ports import take_port

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

TAKE_PORT = "trio_sentinel_scan.testing._server.take_port"


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.smoke
async def test_it_serves_within_its_block_and_is_gone_after_it(each_server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=each_server_binary) as server:
        pid, folder = server.pid, server.log_path.parent
        assert server.running
        assert server.address == (server.host, server.port) == ("127.0.0.1", server.port)
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert str(pid) in repr(server)
        assert await server.execute("PING") == b"PONG"
        assert await server.role() == "master"
        assert (await server.info("server"))["process_id"] == str(pid)
        assert server.binary == each_server_binary
        assert "Ready to accept connections" in server.log
    assert not is_alive(pid)
    assert not server.running
    assert not folder.exists()
    with pytest.raises(ServerNotRunning):
        await server.execute("PING")
    with pytest.raises(ServerNotRunning):
        await server.start()


async def test_it_fills_fast_and_says_what_it_wrote(each_server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=each_server_binary) as server:
        first = await server.fill(50_001)
        assert first == {b"key:%d" % number for number in range(50_001)}
        assert await server.keys() == first
        second = await server.fill(3, prefix=b"\xff\r\n", start=7, value=b"value")
        assert second == {b"\xff\r\n7", b"\xff\r\n8", b"\xff\r\n9"}
        assert await server.keys() == first | second
        assert await server.execute("GET", b"\xff\r\n7") == b"value"
        assert await server.fill(0) == set()


async def test_commands_and_their_errors(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        replies = await server.pipeline([("SET", "a", 1), ("INCRBYFLOAT", "a", 0.5), ("MGET", "a", b"b")])
        assert replies == [b"OK", b"1.5", [b"1.5", None]]
        assert await server.pipeline([]) == []
        with pytest.raises(CommandFailed, match="WRONGTYPE") as caught:
            await server.pipeline([("LPUSH", "a", "x"), ("SET", "after", "the error")])
        assert caught.value.code == "WRONGTYPE"
        assert await server.execute("GET", "after") == b"the error"
        with pytest.raises(CommandFailed, match="WRONGTYPE"):  # inside the reply of a transaction
            await server.pipeline([("MULTI",), ("LPUSH", "a", "x"), ("EXEC",)])
        with pytest.raises(ServerNotRunning, match="closed by the server after 1 of 2"):
            await server.pipeline([("QUIT",), ("PING",)])


async def test_killed_and_started_it_has_its_port_but_no_unsaved_data(each_server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=each_server_binary) as server:
        await server.fill(10)
        port, pid, identity = server.port, server.pid, await server.run_id()
        await server.kill()
        assert not is_alive(pid)
        assert not server.running
        with pytest.raises(ServerNotRunning):
            await server.execute("PING")
        with pytest.raises(ServerNotRunning):
            await server.pause()
        await server.kill()
        await server.stop()
        await server.resume()
        await server.start()
        await server.start()  # it runs already
        assert server.port == port
        assert await server.run_id() != identity
        assert await server.keys() == set()


async def test_stopped_it_goes_in_order(each_server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=each_server_binary) as server:
        pid = server.pid
        await server.pause()
        await server.stop()
        assert not is_alive(pid)
        assert not server.running
        assert "SIGTERM" in server.log
        await server.start()
        assert await server.execute("PING") == b"PONG"


async def test_restarted_it_has_its_data_and_another_identity(each_server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=each_server_binary) as server:
        keys = await server.fill(20_000)
        port, identity = server.port, await server.run_id()
        await server.restart()
        assert server.port == port
        assert await server.run_id() != identity
        assert await server.keys() == keys
        await server.fill(5, prefix="later:")
        await server.restart(save=False)
        assert await server.keys() == keys


async def test_a_save_waits_for_the_one_under_way(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary, config={"rdb-key-save-delay": "1000"}) as server:
        keys = await server.fill(200)  # of which a save now takes a fifth of a second
        await server.execute("BGSAVE")
        await server.execute("CONFIG", "SET", "rdb-key-save-delay", "0")
        await server.restart()
        assert await server.keys() == keys


async def test_paused_it_hangs_and_resumed_it_answers(each_server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=each_server_binary) as server:
        await server.pause()
        assert server.paused
        assert server.running
        with trio.move_on_after(0.1) as scope:
            await server.execute("PING")
        assert scope.cancelled_caught
        await server.resume()
        assert not server.paused
        assert await server.execute("PING") == b"PONG"
        await server.pause()
        pid = server.pid
        await server.kill()
        assert not is_alive(pid)
        assert not server.paused


async def test_what_takes_too_long_says_which_server_and_quotes_its_log(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary, patience=2) as server:
        server._patience = 0.2
        await server.pause()
        with pytest.raises(ServerUnresponsive, match=f"(?s):{server.port}.*Ready to accept") as caught:
            await server.execute("PING")
        assert caught.value.__suppress_context__
        with pytest.raises(ServerUnresponsive):
            await server.wait_until_ready()


async def test_passwords_users_and_databases(each_server_binary: ServerBinary) -> None:
    secret = 'p@ss "word"/:'
    async with LocalRedis(binary=each_server_binary, password=secret, config={"databases": 3}) as server:
        assert server.url == f"redis://:p%40ss%20%22word%22%2F%3A@127.0.0.1:{server.port}/0"
        assert await server.execute("PING") == b"PONG"
        assert await server.execute("CONFIG", "GET", "databases") == [b"databases", b"3"]
        assert secret not in repr(server)
    acl = {"scanner": "on >other ~* +@all -info -role"}
    async with LocalRedis(binary=each_server_binary, username="me", password=secret, acl=acl) as server:
        assert server.url.startswith("redis://me:p%40")
        assert await server.execute("ACL", "WHOAMI") == b"me"
        assert await server.execute("ACL", "USERS") == [b"default", b"me", b"scanner"]
        with pytest.raises(CommandFailed, match="WRONGPASS"):
            await server.execute("AUTH", "default", "")


async def test_a_replica_follows(each_server_binary: ServerBinary) -> None:
    async with (
        LocalRedis(binary=each_server_binary, password="secret") as master,
        LocalRedis(binary=each_server_binary, password="secret", replica_of=master.address) as replica,
    ):
        assert await replica.role() == "slave"
        keys = await master.fill(10)
        with trio.fail_after(10):
            while await replica.keys() != keys:  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.01)


async def test_tls(tls_server_binary: ServerBinary, tmp_path: Path) -> None:
    certificates = make_test_certificates(tmp_path, "redis.example")
    async with LocalRedis(binary=tls_server_binary, tls=certificates, password="secret") as server:
        assert server.url == f"rediss://:secret@127.0.0.1:{server.port}/0"
        keys = await server.fill(10)
        await server.restart()
        assert await server.keys() == keys
        plain = await trio.open_tcp_stream(*server.address)
        async with trio.SSLStream(plain, certificates.client_context(), server_hostname="redis.example") as stream:
            await stream.do_handshake()


async def test_tls_needs_a_server_built_with_it(server_binary: ServerBinary, tmp_path: Path) -> None:
    certificates = make_test_certificates(tmp_path)
    without = type(server_binary)(server_binary.path, server_binary.product, server_binary.version, tls=False)
    with pytest.raises(TlsUnavailable, match=server_binary.version):
        async with LocalRedis(binary=without, tls=certificates):
            pytest.fail("it started")


async def test_a_server_that_does_not_start_says_why(each_server_binary: ServerBinary) -> None:
    with pytest.raises(ServerStartFailed, match="nonsense"):
        async with LocalRedis(binary=each_server_binary, config={"nonsense": "1"}):
            pytest.fail("it started")


async def test_a_server_that_cannot_be_run_says_why(server_binary: ServerBinary, tmp_path: Path) -> None:
    gone = type(server_binary)(tmp_path / "gone", "redis", "7.0.15", tls=False)
    with pytest.raises(ServerStartFailed, match="gone"):
        async with LocalRedis(binary=gone):
            pytest.fail("it started")


async def test_it_is_entered_once(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        with pytest.raises(RuntimeError, match="once"):
            async with server:
                pytest.fail("it was entered again")
        assert server.running


async def test_a_port_that_somebody_else_took_is_given_up(
    each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LocalRedis(binary=each_server_binary) as stranger:
        # The stranger answers just as ours would, and is not mistaken for it.
        offered = [stranger.port, stranger.port]
        monkeypatch.setattr(TAKE_PORT, lambda: offered.pop() if offered else take_port())
        async with LocalRedis(binary=each_server_binary) as server:
            assert server.port != stranger.port
            assert await server.run_id() != await stranger.run_id()
        monkeypatch.setattr(TAKE_PORT, lambda: stranger.port)
        with pytest.raises(ServerStartFailed, match="taken"):
            async with LocalRedis(binary=each_server_binary):
                pytest.fail("it started")


async def test_a_restart_waits_until_its_port_is_free_again(each_server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=each_server_binary) as server:
        await server.kill()
        with socket.socket() as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(server.address)
            squatter.listen()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.start)
                with trio.fail_after(10):
                    while "Address already in use" not in server.log:  # noqa: ASYNC110 - no event tells
                        await trio.sleep(0.01)
                squatter.close()
        assert await server.execute("PING") == b"PONG"


async def test_a_server_without_a_shell_has_no_guard_and_runs(
    server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_process = trio.lowlevel.open_process

    async def without_shell(command: list[str], **options: Any) -> trio.Process:
        if command[0] == "/bin/sh":
            raise FileNotFoundError("/bin/sh")
        return await open_process(command, **options)

    monkeypatch.setattr(trio.lowlevel, "open_process", without_shell)
    async with LocalRedis(binary=server_binary) as server:
        pid = server.pid
        assert await server.execute("PING") == b"PONG"
        assert len([child for child in _leaks.child_processes() if child.pid == pid]) == 1
    assert not is_alive(pid)
