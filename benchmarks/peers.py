"""Who is compared, whether it is there, and how its worker is started."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from trio_sentinel_scan import RedisClient, __version__

from .machine import package_version
from .runs import python_worker

What = Literal["scan", "get", "pubsub"]
Task = dict[str, Any]

_EVERYTHING: Final[tuple[What, ...]] = ("scan", "get", "pubsub")
_ALL_BUT_PUBSUB: Final[tuple[What, ...]] = ("scan", "get")

OURS: Final = "ours"
# The editions of ours, and the peers that they are: the AnyIO edition on each loop that it runs on is one.
EDITIONS: Final[Mapping[str, str]] = {
    "trio": OURS,
    "anyio-asyncio": "ours-asyncio",
    "anyio-uvloop": "ours-uvloop",
    "anyio-trio": "ours-anyio-trio",
}
# What ratios are ratios to.
REFERENCE: Final = "c-loop"
# Where ours is to be seen at its own defaults, others are not held to their COUNT 10: who wants speed asks for more.
OTHERS_COUNT: Final = 1000

_WORKERS: Final = Path(__file__).parent / "workers"


class CannotBegin(Exception):
    """What was asked for cannot be; the message says why."""


class Absent(Exception):
    """A peer, or an option of ours, that is not there; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One who takes part."""

    # As it was asked for: the name, and the options of ours after a colon.
    name: str
    version: str
    # From the task to the command that starts its worker.
    command: Callable[[Task], list[str]]
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.name.partition(":")[0] in EDITIONS.values()


@dataclass(frozen=True, slots=True)
class _Kind:
    """A peer that there might be."""

    find: Callable[[], tuple[str, Callable[[Task], list[str]]]]
    does: tuple[What, ...] = _EVERYTHING


def find_peers(names: Sequence[str], what: What, note: Callable[[str], None]) -> list[Peer]:
    """Those of them that are there; `note` is told of the others. Raises CannotBegin for a name that nobody has."""
    found = []
    for name in names:
        kind_name, _, options = name.partition(":")
        kind = KINDS.get(kind_name)
        if kind is None or (options and kind_name not in EDITIONS.values()):
            raise CannotBegin(f"there is no peer {name!r}; there are {', '.join(KINDS)}")
        if what not in kind.does:
            continue
        try:
            given = _checked_options(options)
            version, command = kind.find()
        except Absent as absent:
            note(f"left out: {name}: {absent}")
        else:
            found.append(Peer(name, version, command, given))
    return found


# Not an argument of `open_scan`: whether our consumer goes through a page's keys one by one, or takes their number.
TOUCH: Final = "touch"


def can_scan_with(argument: str) -> bool:
    """Whether `open_scan` has this argument, in this state of the project."""
    return argument in inspect.signature(RedisClient.open_scan).parameters


def compiled(source: str) -> Path:
    """A C program of this folder's, compiled unless that was done before. Raises Absent."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Absent("there is no C compiler")
    path = _WORKERS / source
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    program = _cache() / f"{path.stem}-{digest}"
    if not program.exists():
        libraries = ["-lhiredis"] if "hiredis.h" in path.read_text() else []
        # Built beside and then moved: nobody starts it half written.
        fresh = program.with_suffix(f".{os.getpid()}")
        command = [compiler, "-std=c11", "-O2", "-o", str(fresh), str(path), *libraries]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            why = next((line for line in done.stderr.splitlines() if "error" in line), "it cannot be compiled")
            raise Absent(f"{why.strip()} (libhiredis with its headers is needed)" if libraries else why.strip())
        fresh.rename(program)
    return program


def _checked_options(text: str) -> dict[str, object]:
    """``segments=8+duty=0.5`` as a dictionary. Raises Absent for what `open_scan` does not have."""
    options: dict[str, object] = {}
    for part in filter(None, text.split("+")):
        name, _, value = part.partition("=")
        if name != TOUCH and not can_scan_with(name):
            raise Absent(f"open_scan has no argument {name}= (yet)")
        try:
            options[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            options[name] = value
    return options


def _cache() -> Path:
    """Where what is compiled and installed on the spot is kept: never in the source tree."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "trio-sentinel-scan-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _in_python(module: str, *distributions: str, on: str = "", does: tuple[What, ...] = _EVERYTHING) -> _Kind:
    def find() -> tuple[str, Callable[[Task], list[str]]]:
        versions = []
        for name in distributions:
            version = package_version(name)
            if version is None:
                raise Absent(f"{name} is not installed")
            versions.append(f"{name} {version}")
        return ", ".join(versions), lambda task: python_worker(module, task | {"on": on})

    return _Kind(find, does)


def _ours(edition: str, *distributions: str) -> _Kind:
    def find() -> tuple[str, Callable[[Task], list[str]]]:
        versions = [f"trio-sentinel-scan {__version__}"]
        for name in distributions:
            version = package_version(name)
            if version is None:
                raise Absent(f"{name} is not installed")
            versions.append(f"{name} {version}")
        return ", ".join(versions), lambda task: python_worker("ours", task | {"edition": edition})

    return _Kind(find)


def of_editions(peers: Sequence[str], editions: Sequence[str]) -> list[str]:
    """Peers, with the editions of ours that are asked for in the place of ours."""
    ours = [EDITIONS[edition] for edition in editions]
    return [
        name
        for peer in peers
        for name in ([peer.replace(OURS, one, 1) for one in ours] if peer.partition(":")[0] == OURS else [peer])
    ]


def _find_node_redis() -> tuple[str, Callable[[Task], list[str]]]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Absent("there is no node, or no npm")
    folder = _cache() / "node"
    manifest = folder / "node_modules" / "redis" / "package.json"
    if not manifest.exists():
        folder.mkdir(exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n')
        command = [npm, "install", "--no-audit", "--no-fund", "redis"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Absent("npm could not install redis")
    engine = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    version = json.loads(manifest.read_text())["version"]
    script = str(_WORKERS / "node_redis.mjs")
    return f"redis (npm) {version}, node {engine}", lambda task: [node, script, str(folder), json.dumps(task)]


def _find_c_loop() -> tuple[str, Callable[[Task], list[str]]]:
    program = str(compiled("c_loop.c"))

    def command(task: Task) -> list[str]:
        count, match = task.get("count") or 0, task.get("match") or ""
        return [program, task["host"], str(task["port"]), str(count), match, str(task.get("at_least", 0))]

    version = subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip()
    return f"C, {version}", command


KINDS: Final[Mapping[str, _Kind]] = {
    OURS: _ours("trio"),
    EDITIONS["anyio-asyncio"]: _ours("anyio-asyncio", "anyio"),
    EDITIONS["anyio-uvloop"]: _ours("anyio-uvloop", "anyio", "uvloop"),
    EDITIONS["anyio-trio"]: _ours("anyio-trio", "anyio"),
    "redis-py": _in_python("redis_py", "redis", "hiredis", on="threads"),
    "redis-asyncio": _in_python("redis_py", "redis", "hiredis", on="asyncio"),
    "redis-uvloop": _in_python("redis_py", "redis", "hiredis", "uvloop", on="uvloop"),
    "coredis-trio": _in_python("coredis_anyio", "coredis", "trio", on="trio"),
    "coredis-asyncio": _in_python("coredis_anyio", "coredis", on="asyncio"),
    "glide-asyncio": _in_python("valkey_glide", "valkey-glide", on="asyncio", does=_ALL_BUT_PUBSUB),
    "glide-trio": _in_python("valkey_glide", "valkey-glide", "trio", on="trio", does=_ALL_BUT_PUBSUB),
    "node-redis": _Kind(_find_node_redis, does=_ALL_BUT_PUBSUB),
    REFERENCE: _Kind(_find_c_loop, does=("scan",)),
}
