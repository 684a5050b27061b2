"""The command line before anything is sent: what it refuses, how it explains itself, and how it dies of a signal."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click
import pytest
import trio

from trio_sentinel_scan import __version__
from trio_sentinel_scan.cli import _app, _running, main
from trio_sentinel_scan.cli._output import OutputClosed


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIO_SENTINEL_SCAN_URL", "REDISCLI_AUTH", "REDISCLI_SENTINEL_AUTH"):
        monkeypatch.delenv(name, raising=False)


def status_of(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["scan", "--nonsense"], "--nonsense"),
        (["scan", "extra"], "extra"),
        (["nonsense"], "nonsense"),
        (["scan", "--count", "0"], "--count"),
        (["scan", "--max-restarts", "-1"], "--max-restarts"),
        (["scan", "--format", "xml"], "--format"),
        (["scan", "--url", "http://h"], "--url: the scheme must be one of"),
        (["scan", "--url", "redis+sentinel://h/"], "--url: the service is missing"),
        (["count", "--db", "-1"], "--db"),
        (["count", "--response-timeout", "0"], "--response-timeout"),
        (["scan", "--user", "alice"], "password: is missing"),
        (["scan", "--insecure"], "--insecure: wants --tls"),
        (["scan", "--cacert", "/no/such/file"], "--cacert"),
        (["scan", "-a", "secret"], "REDISCLI_AUTH or --askpass"),
        (["scan", "redis://:secret@h"], "redis://***@h"),
        (["scan", "--fallback", "replica"], "--fallback"),
        (["scan", "--dedupe", "most"], "--dedupe"),
        (["scan", "--dedupe", "compact", "--checkpoint", "here"], "--dedupe: compact is in memory alone"),
        (["count", "--dedupe", "twice"], "--dedupe"),
        (["scan", "--node", "10.0.0.1:6379"], "--node"),
        (["scan", "--allow-uncovered"], "--allow-uncovered"),
        (["count", "--max-nodes-at-once", "2"], "--max-nodes-at-once"),
        (["scan", "--max-nodes-at-once", "0", "-u", "redis+cluster://h"], "--max-nodes-at-once"),
        (["scan", "-n", "3", "-u", "redis+cluster://h"], "--db"),
        (["scan", "-u", "redis+cluster://h/3"], "--url"),
        (["count", "--with", "type"], "--with"),
        (["demo", "--keys", "10"], "--keys"),
    ],
)
def test_wrong_use(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("trio-sentinel-scan: error: ")
    assert err.count("\n") == 1
    assert word in err
    assert "secret" not in err


@pytest.mark.parametrize("arguments", [["--help"], ["scan", "--help"], ["count", "--help"], ["demo", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(*arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: trio-sentinel-scan")
    assert err == ""


def test_help_is_no_scan(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Exit status:" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--version") == 0
    assert capsys.readouterr().out == f"trio-sentinel-scan {__version__}\n"


# ---- signals ----------------------------------------------------------------------------------------------------


class Died(BaseException):
    """In place of the process's death."""


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []

    def die_of(signum: int) -> NoReturn:
        found.append(signum)
        raise Died

    monkeypatch.setattr(_app, "die_of", die_of)
    return found


def test_ctrl_c_at_the_prompt(deaths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> NoReturn:
        raise click.Abort

    monkeypatch.setattr(_app, "_asked_password", interrupted)
    with pytest.raises(Died):
        main(["scan", "--askpass"])
    assert deaths == [signal.SIGINT]


def test_ctrl_c_while_the_run_begins(deaths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Trio's run listens to signals, it is an exception. It has the same end."""

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(trio, "run", interrupted)
    with pytest.raises(Died):
        main(["scan"])
    assert deaths == [signal.SIGINT]


def test_a_signal_in_the_run_is_a_cancellation() -> None:
    cleaned_up = False

    async def body() -> None:
        nonlocal cleaned_up
        signal.raise_signal(signal.SIGTERM)
        try:
            await trio.sleep_forever()
        finally:
            cleaned_up = True

    with pytest.raises(_running.EndedBySignal) as caught:
        _running.run(body)
    assert caught.value.signum == signal.SIGTERM
    assert cleaned_up


def test_the_readers_end_is_ours(deaths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> NoReturn:
        raise OutputClosed

    monkeypatch.setattr(trio, "run", closed)
    with pytest.raises(Died):
        main(["scan"])
    assert deaths == [signal.SIGPIPE]


def test_the_first_process_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signal of its own can end it; then the status says what should have."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append((pid, signum)))
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(sys, "stdout", None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            _running.die_of(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert caught.value.code == 128 + signal.SIGTERM
