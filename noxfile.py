# /// script
# dependencies = ["nox"]
# ///
"""Everything that can be checked about this project. `nox` runs the default sessions, `nox --list` names them all.

No session needs more than a Python of 3.11 or later. What a test needs beyond that, a server with TLS for one, it
looks for, and skips with its reason where it is not there.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox
from nox.project import dependency_groups, load_toml

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "typing", "tests", "package", "minimums"]

HERE = Path(__file__).parent
PACKAGE = "trio_sentinel_scan"
PYPROJECT = load_toml(HERE / "pyproject.toml")
TESTS = dependency_groups(PYPROJECT, "tests")
# Servers of more versions, in wheels.
SERVERS = dependency_groups(PYPROJECT, "servers")

# Two at a time where tests calculate: CI's machine has two cores. Four where most of them wait for servers to notice
# each other's death. A file's tests keep their order; a server that finds its port taken is given another one.
TWO_AT_A_TIME = ("-n", "2", "--dist", "loadfile")
FOUR_AT_A_TIME = ("-n", "4", "--dist", "loadfile")
# For long ones that have nothing in common: two that calculate, and one that waits.
WHOEVER_IS_FREE = ("-n", "3", "--dist", "worksteal")

# What is quick in tests/core and tests/trio, and of tests/real the few that show that all of it connects.
QUICK = "not full and (smoke or not (real or slow))"

# The folders of tests that attack the whole at random, for long, or in great numbers.
ATTACKS = ("chaos", "fuzz", "load", "security", "simulation")

# The tests of those modules of the core, and of the command line's, that stand on hiredis, redis-py, click or an extra.
USES_OTHERS = ("cli_settings", "cli_use", "commands", "command_keys", "compact_seen", "exports", "telemetry", "wire")


def python_files(*folders: str) -> list[str]:
    """The Python files under these folders, for tools that take no folder."""
    return sorted(str(path.relative_to(HERE)) for folder in folders for path in (HERE / folder).rglob("*.py"))


def async_files(*folders: str) -> list[str]:
    """Those of them with anything asynchronous in them: the others take such a linter minutes, and tell it nothing.

    Nor does what is generated tell more than its source.
    """
    texts = {path: (HERE / path).read_text(encoding="utf-8") for path in python_files(*folders)}
    return [path for path, text in texts.items() if "async " in text and not text.startswith("# Generated from ")]


def existing(*paths: str) -> list[str]:
    """Those of these paths that are there, for tools to which one that is not is an error."""
    return [path for path in paths if (HERE / path).exists()]


def in_halves(session: nox.Session, command: list[str], files: list[str]) -> None:
    """The command with these files, twice at once: CI's machine has two cores."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(session.run, *command, *half) for half in (files[::2], files[1::2])]:
            done.result()


@nox.session
def lint(session: nox.Session) -> None:
    """Style, import contracts, spelling, and what Trio's own linter has to say."""
    session.install("-e.", *dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("python", ".ci/anyio_edition.py", "--check")
    # 900: no async generator. 910 and 911: each async function has a checkpoint on every way through it. The package
    # promises that to its users; an example owes nobody a checkpoint.
    checkpoints = "--enable=ASYNC,ASYNC900,ASYNC910,ASYNC911"
    # (It takes its time: two halves, on two cores.)
    in_halves(session, ["flake8-async", checkpoints], async_files(PACKAGE))
    in_halves(session, ["flake8-async"], ["noxfile.py", *async_files("benchmarks", "examples")])
    session.run("lint-imports", "--no-cache")
    session.run("codespell")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session
def lint_tests(session: nox.Session) -> None:
    """What Trio's own linter has to say of the tests, which takes it minutes; `full` asks for it."""
    session.install(*dependency_groups(PYPROJECT, "lint"))
    in_halves(session, ["flake8-async"], async_files("tests"))


@nox.session
def anyio(session: nox.Session) -> None:
    """Write trio_sentinel_scan/anyio/ anew from trio_sentinel_scan/_trio/, its source."""
    session.install("-e.", *dependency_groups(PYPROJECT, "lint"))
    session.run("python", ".ci/anyio_edition.py")


@nox.session
def typing(session: nox.Session) -> None:
    """mypy and pyright, both strict, and whether every public name has a complete type."""
    session.install("-e.[demo]", *TESTS, *dependency_groups(PYPROJECT, "typing"))
    session.run("mypy", *existing(PACKAGE, "tests", "benchmarks", "examples"), ".ci/anyio_edition.py")
    quiet = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # it would ask the network for a newer pyright each time
    session.run("pyright", env=quiet)
    # --ignoreexternal: a good part of redis-py's commands, which the clients inherit, is not annotated in full.
    session.run("pyright", "--verifytypes", PACKAGE, "--ignoreexternal", env=quiet)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, real servers included, and their coverage; arguments go to pytest, and then coverage is not asked."""
    session.install("-e.[demo]", *TESTS, *SERVERS)
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.run("coverage", "erase")
    # What the core decides is shown by its own tests alone: no server may pass over one of its lines by chance.
    core = "--data-file=.coverage-core"  # a dash: ".coverage.core" would be taken for a part of the second measurement
    session.run("coverage", "run", core, "-m", "pytest", *TWO_AT_A_TIME, "tests/core")
    session.run("coverage", "combine", "--quiet", core)
    session.run("coverage", "report", core, f"--include={PACKAGE}/_core/*", "--fail-under=100")
    # What attacks the whole comes without: to be measured would take it as long again, and it goes where the rest went.
    attacks = [f"tests/{name}" for name in ATTACKS]
    session.run("pytest", *WHOEVER_IS_FREE, *attacks)
    left_out = [f"--ignore={folder}" for folder in ("tests/core", *attacks)]
    session.run("coverage", "run", "-m", "pytest", *FOUR_AT_A_TIME, *left_out)
    session.run("coverage", "combine", "--quiet", ".", ".coverage-core")
    session.run("coverage", "report", f"--omit={PACKAGE}/_core/*", "--fail-under=95")


@nox.session(reuse_venv=False)
def package(session: nox.Session) -> None:
    """Build the wheel from the sdist, install it away from the source, and run the smoke tests against it."""
    session.install("build")
    with tempfile.TemporaryDirectory(prefix="trio-sentinel-scan-") as name:
        away = Path(name)
        session.run("python", "-m", "build", "--outdir", name, str(HERE), silent=True)
        [wheel] = away.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
        strange = {name for name in names if not name.startswith((f"{PACKAGE}/", f"{PACKAGE}-"))}
        assert not strange, f"the wheel would install {strange}"
        assert f"{PACKAGE}/py.typed" in names, "type checkers would take the package for untyped"
        session.install(f"trio-sentinel-scan[demo] @ {wheel.as_uri()}", *TESTS)
        shutil.copy(HERE / "pyproject.toml", away)  # pytest's configuration
        shutil.copytree(HERE / "tests", away / "tests")
        with session.chdir(away):
            where = session.run("python", "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)", silent=True)
            assert str(where).startswith(session.virtualenv.location), f"imported from {where}"
            session.run("trio-sentinel-scan", "--help", silent=True)
            session.run("python", "-m", PACKAGE, "--help", silent=True)
            # What a wheel could lack shows in these: all that is imported, and real servers.
            session.run("pytest", "tests/core/test_exports.py")
            session.run("pytest", *FOUR_AT_A_TIME, "-m", "smoke", "tests/real", *session.posargs)


@nox.session
def minimums(session: nox.Session) -> None:
    """The quick tests with the oldest release of each dependency that pyproject.toml admits."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["demo"] + extras["otel"] + extras["compact"]
    assert all(">=" in requirement for requirement in wanted), "each dependency has a floor, and this session takes it"
    session.install("-e.[demo]", *TESTS, *(requirement.replace(">=", "==") for requirement in wanted))
    # What takes minutes and is shown with the newest releases: cancellation at each step, and what only calculates; of
    # the core the modules that use what others wrote.
    core = [f"tests/core/test_{name}.py" for name in USES_OTHERS]
    quick = [*core, "tests/trio", "tests/anyio", "tests/real", "--ignore=tests/trio/test_cancellation.py"]
    session.run("pytest", *FOUR_AT_A_TIME, *quick, "-m", QUICK, *session.posargs)


@nox.session
def full(session: nox.Session) -> None:
    """Every test there is, those marked `full` included, and those of tests/real on each server that there is."""
    session.install("-e.[demo]", *TESTS, *SERVERS)
    # Some of them take half an hour, and are not to be taken for tests that hang.
    patient = ("-o", "faulthandler_timeout=3600")
    session.run("pytest", *FOUR_AT_A_TIME, *patient, "-m", "", *session.posargs)
    if session.posargs:
        return
    session.notify("lint_tests")
    # What asks for `each_server_binary` has run on all of them by now; the rest has on the first one alone.
    programs = session.run("python", "-m", "tests.servers", silent=True)
    for program in str(programs).split()[1:]:
        here = {"TRIO_SENTINEL_SCAN_SERVER": program}
        session.run("pytest", *FOUR_AT_A_TIME, *patient, "-m", "", "tests/real", env=here)


@nox.session
def chaos(session: nox.Session) -> None:
    """Faults at random on real servers, every history checked: `-- --minutes 30`, `-- --help` for the rest."""
    session.install("-e.[demo]", *TESTS, *SERVERS)
    session.run("python", "-m", "tests.chaos", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Nonsense to everything that reads what others write: `nox -s fuzz -- --minutes 30`."""
    session.install("-e.", *TESTS)
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def simulate(session: nox.Session) -> None:
    """The simulation, for as long as told: `-- --minutes 30`. Not part of the default run, which plays a slice."""
    session.install("-e.[demo]", *TESTS)
    session.run("python", "-m", "tests.simulation", "--processes", "2", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks: figures to read, nothing that passes or fails. Arguments go to `python -m benchmarks`."""
    session.install("-e.[demo]", *dependency_groups(PYPROJECT, "bench"))
    session.run("python", "-m", "benchmarks", *(session.posargs or ("scan",)))
