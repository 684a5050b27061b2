"""At a terminal: nothing in a key reaches it, a bar shows how far the scan is, and a password is asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.real.commandline import cli_at_terminal
from trio_sentinel_scan.testing import LocalRedis

if TYPE_CHECKING:
    from trio_sentinel_scan.testing import ServerBinary

pytestmark = pytest.mark.trio

# What moves a cursor, wipes a line, sets a colour, hides the cursor.
CONTROL = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")


async def test_a_key_cannot_act_on_the_terminal(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        keys = [b"plain", b"\x1b]0;title\x07", b"two\nlines", b"\xc2\x9b31m", b"\xff", "naïve".encode(), b"back\\slash"]
        await server.pipeline([("SET", key, "x") for key in keys])
        seen = await cli_at_terminal("scan", "-u", server.url, shows="out", env={"PYTHONIOENCODING": "utf-8"})
        assert seen.status == 0
        assert sorted(seen.screen.split("\r\n")) == sorted(
            ["", "plain", r"\x1b]0;title\x07", r"two\nlines", r"\xc2\x9b31m", r"\xff", "naïve", r"back\\slash"]
        )
        assert seen.piped.startswith(b"complete: 7 keys")
        seen = await cli_at_terminal("scan", "-u", server.url, shows="out", env={"PYTHONIOENCODING": "latin-1"})
        assert r"na\xc3\xafve" in seen.screen
        seen = await cli_at_terminal("scan", "-u", server.url, "--format", "null", shows="out")
        assert "\x1b" not in seen.screen
        seen = await cli_at_terminal("scan", "-u", server.url, "--format", "json", shows="out")
        assert "\x1b" not in seen.screen
        assert r'"two\nlines"' in seen.screen


async def test_a_bar(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        keys = await server.fill(20_000)
        seen = await cli_at_terminal("scan", "-v", "-u", server.url, "--count", "20", "--segments", "1", shows="err")
        assert seen.status == 0
        assert set(seen.piped.splitlines()) == keys
        shown = CONTROL.sub("", seen.screen)
        assert re.search(r"epoch 0 +━+.* \d+% +[\d,]+ keys, [\d,]+/s, 127\.0\.0\.1:\d+", shown)
        # It is gone in the end, and the cursor is back.
        assert seen.screen.rindex("\x1b[?25h") > seen.screen.rindex("━")
        assert shown.splitlines()[-1].startswith("complete: 20,000 keys")
        assert "\x1b[2K" in seen.screen


@pytest.mark.parametrize(
    "arguments, env, said",
    [
        (["-q"], {}, ""),
        (["--no-progress"], {}, "complete: "),
        ([], {"TERM": "dumb"}, "complete: "),
    ],
    ids=["quiet", "no_progress", "dumb"],
)
async def test_no_bar(server_binary: ServerBinary, arguments: list[str], env: dict[str, str], said: str) -> None:
    async with LocalRedis(binary=server_binary) as server:
        await server.fill(1_000)
        seen = await cli_at_terminal("count", "-u", server.url, *arguments, shows="err", env=env)
        assert (seen.status, seen.piped) == (0, b"1000\n")
        assert "\x1b" not in seen.screen
        assert seen.screen.startswith(said)
        assert bool(said) or seen.screen == ""


async def test_keys_and_bar_do_not_share_a_terminal(server_binary: ServerBinary) -> None:
    async with LocalRedis(binary=server_binary) as server:
        await server.fill(100)
        seen = await cli_at_terminal("scan", "--segments", "1", "-u", server.url, shows="both")
        assert seen.status == 0
        assert "━" not in seen.screen
        assert "\x1b" not in seen.screen
        assert len(seen.screen.splitlines()) == 101


@pytest.mark.parametrize("typed, status", [("sesame", 0), ("open", 1)])
async def test_a_password_is_asked_for(server_binary: ServerBinary, typed: str, status: int) -> None:
    async with LocalRedis(password="sesame", binary=server_binary) as server:
        keys = await server.fill(10)
        seen = await cli_at_terminal(
            "scan",
            "--no-progress",
            "-u",
            f"redis://127.0.0.1:{server.port}",
            "--askpass",
            shows="err",
            types=("Password: ", f"{typed}\n"),
        )
        assert seen.status == status
        assert set(seen.piped.splitlines()) == (keys if status == 0 else set())
        assert typed not in seen.screen
