"""What a failure looks like: one line, no traceback, no password, and a status that says what kind it was."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.commandline import PROGRAM, Ended, cli, environment, running
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel, make_test_certificates

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

# Nobody listens there: the port is that of TCP's own multiplexer, unused since ever.
NOBODY = "127.0.0.1:1"


def check_failed(ended: Ended, status: int, *words: str) -> None:
    """It failed as it should: `words` are in the one line (or paragraph) of the error."""
    assert ended.status == status
    assert "Traceback" not in ended.err
    problem = ended.err[ended.err.index("trio-sentinel-scan: error: ") :]
    assert problem.endswith("\n")
    assert all(line.startswith("  ") for line in problem.splitlines()[1:])
    for word in words:
        assert word in problem


# ---- what only a server can refuse ---------------------------------------------------------------------------------


async def test_a_type_that_no_server_knows(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        check_failed(await cli("scan", "--type", "strings", "-u", server.url), 2, "--type: no server knows this type")


@pytest.mark.smoke
async def test_no_server() -> None:
    ended = await cli("scan", "-u", f"redis://{NOBODY}")
    check_failed(ended, 1, f"{NOBODY} cannot be reached: Connection refused")
    ended = await cli("count", "-u", f"redis+sentinel://{NOBODY}/mymaster")
    check_failed(ended, 1, "no Sentinel of service 'mymaster' answers", f"\n  {NOBODY}: ")
    assert ended.out == b""


async def test_a_service_that_the_sentinels_do_not_know(server_binary: ServerBinary) -> None:
    async with LocalSentinel(replicas=0, sentinels=1, binary=server_binary) as service:
        [(host, port)] = service.sentinels
        check_failed(await cli("scan", "-u", f"redis+sentinel://{host}:{port}/other"), 1, "'other'")


async def test_passwords(server_binary: ServerBinary) -> None:
    async with LocalRedis(password="sesame", acl={"bob": "on >builder ~* +@all"}, binary=server_binary) as server:
        keys = await server.fill(10)
        url = f"redis://{server.host}:{server.port}"
        check_failed(await cli("scan", "-u", url), 1, "wants a password and was given none")
        ended = await cli("scan", "-u", url, env={"REDISCLI_AUTH": "wrong-one"})
        check_failed(ended, 1, "refused the username or password")
        assert "wrong-one" not in ended.err
        ended = await cli("scan", "-u", url, env={"REDISCLI_AUTH": "sesame"})
        assert (ended.status, set(ended.keys)) == (0, keys)
        assert "warning" not in ended.err
        ended = await cli("scan", "-u", url, "--user", "bob", env={"REDISCLI_AUTH": "builder"})
        assert (ended.status, set(ended.keys)) == (0, keys)
        ended = await cli("scan", "-u", server.url)
        assert ended.status == 0
        assert ended.err.startswith("warning: a password in --url can be read by every user of this machine\n")
        assert "warning" not in (await cli("scan", "-u", server.url, "--no-auth-warning")).err
        assert "warning" not in (await cli("scan", env={"TRIO_SENTINEL_SCAN_URL": server.url})).err


async def test_the_sentinels_password(server_binary: ServerBinary) -> None:
    async with LocalSentinel(
        replicas=0, sentinels=1, password="data", sentinel_password="watch", binary=server_binary
    ) as service:
        keys = await service.fill(10)
        [(host, port)] = service.sentinels
        url, data = f"redis+sentinel://{host}:{port}/mymaster", {"REDISCLI_AUTH": "data"}
        ended = await cli("scan", "-u", url, env={**data, "REDISCLI_SENTINEL_AUTH": "watch"})
        assert (ended.status, set(ended.keys)) == (0, keys)
        ended = await cli("scan", "-u", url, env={**data, "REDISCLI_SENTINEL_AUTH": "wrong-one"})
        check_failed(ended, 1)
        assert "wrong-one" not in ended.err


async def test_a_user_who_may_not_scan(server_binary: ServerBinary) -> None:
    async with LocalRedis(acl={"bob": "on >builder ~* +@all -scan"}, binary=server_binary) as server:
        ended = await cli("scan", "-u", f"redis://bob:builder@{server.host}:{server.port}")
        check_failed(ended, 1, "refuses SCAN")
        assert "incomplete: 0 keys" in ended.err
        ended = await cli("count", "-u", f"redis://bob:builder@{server.host}:{server.port}")
        assert (ended.status, ended.out) == (1, b"")


async def test_a_database_that_is_not_there(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        check_failed(await cli("scan", "-u", server.url, "--db", "999"), 2, "--db: ", "999")


# ---- TLS ---------------------------------------------------------------------------------------------------------


async def test_tls(tls_server_binary: ServerBinary, tmp_path: Path) -> None:
    certificates = make_test_certificates(tmp_path, "redis.example")
    ca = str(certificates.ca)
    async with LocalRedis(binary=tls_server_binary, tls=certificates) as server:
        keys = await server.fill(10)
        plain = f"redis://127.0.0.1:{server.port}"
        for arguments in (
            ["-u", server.url, "--cacert", ca],
            [
                "-u",
                plain,
                "--tls",
                "--cacert",
                ca,
                "--cert",
                str(certificates.certificate),
                "--key",
                str(certificates.key),
            ],
            ["-u", plain, "--tls", "--cacert", ca, "--sni", "redis.example"],
            ["-u", plain, "--tls", "--insecure"],
        ):
            ended = await cli("scan", *arguments)
            assert (ended.status, set(ended.keys)) == (0, keys), ended.err
        check_failed(await cli("scan", "-u", server.url), 1, "CERTIFICATE_VERIFY_FAILED")
        check_failed(
            await cli("scan", "-u", server.url, "--cacert", ca, "--sni", "other.example"),
            1,
            "CERTIFICATE_VERIFY_FAILED",
        )


async def test_tls_with_sentinels(tls_server_binary: ServerBinary, tmp_path: Path) -> None:
    certificates = make_test_certificates(tmp_path)
    async with LocalSentinel(replicas=0, sentinels=1, binary=tls_server_binary, tls=certificates) as service:
        keys = await service.fill(10)
        [(host, port)] = service.sentinels
        ended = await cli(
            "scan", "-u", f"redis+sentinel://{host}:{port}/mymaster", "--tls", "--cacert", str(certificates.ca)
        )
        assert (ended.status, set(ended.keys)) == (0, keys), ended.err


# ---- stdout --------------------------------------------------------------------------------------------------------


async def in_a_shell(script: str, *arguments: str) -> Ended:
    """Run a script in which "$@" is the program with these arguments."""
    ended = await trio.run_process(
        ["/bin/sh", "-c", script, "sh", *PROGRAM, *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=environment(),
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr.decode())


async def test_the_reader_goes_away(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        await server.fill(50_000)
        ended = await in_a_shell('{ "$@"; echo "status $?" >&2; } | head -n 2', "scan", "-u", server.url)
        assert len(ended.keys) == 2
        assert ended.err == "status 141\n"
        ended = await in_a_shell('{ "$@"; echo "status $?" >&2; } | true', "count", "-u", server.url)
        assert "status 141\n" in ended.err
        assert "Traceback" not in ended.err
        assert "error" not in ended.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, which is Linux's full disk")
async def test_the_disk_is_full(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        await server.fill(10)
        for verb in ("scan", "count"):
            ended = await in_a_shell('"$@" > /dev/full', verb, "-u", server.url)
            check_failed(ended, 1, "cannot write to standard output: No space left on device")


async def test_no_stdout(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        await server.fill(10)
        for arguments in (["scan", "-u", server.url], ["count", "-u", server.url], ["demo"]):
            check_failed(await in_a_shell('"$@" >&-', *arguments), 1, "there is no standard output: it is closed")


async def test_no_stderr(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(10)
        ended = await in_a_shell('"$@" 2>&-', "scan", "-u", server.url)
        assert (ended.status, set(ended.keys)) == (0, keys)
        ended = await in_a_shell('"$@" 2>&1 >/dev/null | true; exit 0', "scan", "-v", "-u", server.url)
        assert ended.err == ""


# ---- signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_although_nobody_reads(server_binary: ServerBinary, signum: signal.Signals) -> None:
    async with LocalRedis(binary=server_binary) as server:
        await server.fill(50_000)
        async with running("scan", "-u", server.url) as run:
            await run.until_quiet()
            run.process.send_signal(signum)
            with trio.fail_after(10):
                await run.process.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
        # By the signal itself: so that a shell ends its loop as well.
        assert run.process.returncode == -signum
        assert run.err.startswith("incomplete: ")
        assert "Traceback" not in run.err


async def test_nohup_means_it(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(50_000)
        script = 'trap "" HUP; exec "$@"'
        process = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", script, "sh", *PROGRAM, "scan", "-q", "-u", server.url],
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        async with process.stdout as stdout:
            out = bytes(await stdout.receive_some(1000))
            process.send_signal(signal.SIGHUP)
            async for some in stdout:
                out += some
        assert await process.wait() == 0
        assert set(out.splitlines()) == keys
