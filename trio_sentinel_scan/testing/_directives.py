"""The servers' configuration files: what every one of them says, and how it is written down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from ._binary import ServerBinary
from ._certificates import Certificates
from ._ports import HOST

Config: TypeAlias = Mapping[str, str | int | Sequence[str]]
"""Directives to add, or to override: ``{"maxmemory": "100mb"}``. The value is the rest of the line as in
``redis.conf``; a sequence gives one line for each item."""

Directive: TypeAlias = tuple[str, str]


def quoted(text: str | Path) -> str:
    """Write any text as one word of a configuration file."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def render(directives: Iterable[Directive]) -> str:
    """Write a configuration file. Of a directive that occurs twice, servers believe the last."""
    return "".join(f"{name} {value}\n" for name, value in directives)


def from_user(config: Config | None) -> Iterator[Directive]:
    """Write down what the user wants besides."""
    for name, value in (config or {}).items():
        values = (str(value),) if isinstance(value, str | int) else tuple(value)
        for one in values:
            yield name, one or '""'


def of_any_process(directory: Path, port: int, tls: Certificates | None) -> Iterator[Directive]:
    """What servers and Sentinels have in common: where they live and where they listen."""
    yield "daemonize", "no"
    yield "bind", HOST
    # Otherwise a server without a password would be reachable from nowhere else; it is bound to loopback anyhow.
    yield "protected-mode", "no"
    yield "dir", quoted(directory)
    yield "logfile", '""'  # standard output, which goes to a file: so what comes before the log is in it too
    yield "tcp-backlog", "128"
    if tls is None:
        yield "port", str(port)
    else:
        yield "port", "0"
        yield "tls-port", str(port)
        yield "tls-cert-file", quoted(tls.certificate)
        yield "tls-key-file", quoted(tls.key)
        yield "tls-ca-cert-file", quoted(tls.ca)
        yield "tls-auth-clients", "no"
        yield "tls-replication", "yes"  # also makes Sentinels use TLS for all their connections


def of_data_node(
    binary: ServerBinary,
    *,
    username: str | None,
    password: str | None,
    acl: Mapping[str, str],
    replica_of: tuple[str, int] | None,
) -> Iterator[Directive]:
    """What a server of data needs to be quick, quiet and able to follow another one."""
    yield "save", '""'  # nothing is written to disk behind the test's back
    yield "appendonly", "no"
    yield "dbfilename", "dump.rdb"
    yield "loglevel", "notice"
    # With the default of five seconds each new replica would wait for others to come along.
    yield "repl-diskless-sync-delay", "0"
    # Read the first copy straight from the socket. By way of a file, Valkey 9 takes a second to notice its end.
    yield "repl-diskless-load", "on-empty-db"
    # Enough for replicas to catch up with a fill() after a pause, instead of starting anew.
    yield "repl-backlog-size", "64mb"
    if binary.product == "valkey" or binary.version_info >= (7,):
        yield "enable-debug-command", "yes"
        # A stop() would otherwise wait ten seconds for replicas that are paused.
        yield "shutdown-timeout", "0"
    yield from users(username, password, acl)
    if password is not None:
        # A master too: it is to be a replica after the next failover.
        yield "masterauth", quoted(password)
        if username is not None:
            yield "masteruser", quoted(username)
    if replica_of is not None:
        yield "replicaof", f"{replica_of[0]} {replica_of[1]}"


def users(username: str | None, password: str | None, acl: Mapping[str, str]) -> Iterator[Directive]:
    """Who may log in: the one user who may do everything, and whoever else the test wants."""
    if password is not None:
        if username is None:
            yield "requirepass", quoted(password)
        else:
            yield "user", f"{username} on {quoted('>' + password)} ~* &* +@all"
            if "default" not in acl:
                yield "user", "default off"
    for name, rules in acl.items():
        yield "user", f"{name} {rules}"
