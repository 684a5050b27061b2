"""The options of `scan` and `count`, and where their values go."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from ._scan import ScanOptions
from ._settings import PASSWORD_VARIABLE, ServerOptions
from ._tls import TlsOptions

DEFAULT_URL: Final = "redis://127.0.0.1:6379"
URL_VARIABLE: Final = "TRIO_SENTINEL_SCAN_URL"

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])
_OptionsT = TypeVar("_OptionsT", ServerOptions, TlsOptions, ScanOptions)


def _stack(*options: Callable[[_CommandT], _CommandT]) -> Callable[[_CommandT], _CommandT]:
    def add(command: _CommandT) -> _CommandT:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _refuse_password(context: click.Context, parameter: click.Parameter, value: object) -> None:  # noqa: ARG001
    if value is not None:
        raise click.UsageError(
            "a password on the command line can be read by every user of this machine:"
            f" give it by {PASSWORD_VARIABLE} or --askpass",
            context,
        )


def _segments(context: click.Context, parameter: click.Parameter, value: str) -> int | str:  # noqa: ARG001
    # What else is no number of segments, open_scan says.
    return int(value) if value.isascii() and value.isdecimal() else value


def _several(context: click.Context, parameter: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG001
    # Which names there are, and that each comes once, open_scan says.
    return tuple(name.strip() for names in value for name in names.split(","))


def _dedupe(verb: str) -> Callable[[_CommandT], _CommandT]:
    return click.option(
        "--dedupe",
        is_flag=False,
        flag_value="exact",
        type=click.Choice(["exact", "compact", "disk"]),
        help=f"{verb} each key once. exact (as without a value) remembers keys in memory, disk in a temporary file;"
        " compact takes little memory, and may lose a key.",
    )


_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_directory = click.Path(exists=True, file_okay=False, path_type=Path)

server_options = _stack(
    click.option(
        "-u",
        "--url",
        envvar=URL_VARIABLE,
        default=DEFAULT_URL,
        show_default=True,
        metavar="URL",
        help="redis://, rediss://, unix://, redis+sentinel://HOST[:PORT],HOST[:PORT].../SERVICE[/DB]"
        " or redis+cluster://HOST[:PORT],HOST[:PORT]...",
    ),
    click.option("-n", "--db", type=int, metavar="NUMBER", help="The database.  [default: the URL's, or 0]"),
    click.option("--user", metavar="NAME", help="The ACL user of the data nodes."),
    click.option("--askpass", is_flag=True, help="Ask for the data nodes' password."),
    click.option("-a", "--pass", hidden=True, expose_value=False, callback=_refuse_password),
    click.option("--no-auth-warning", is_flag=True, help="Do not warn of a password in --url."),
    click.option("--response-timeout", type=float, metavar="SECONDS", help="For each reply.  [default: 5]"),
    click.option(
        "--failover-timeout",
        type=float,
        metavar="SECONDS",
        help="For a master, or the server, to be there again.  [default: 60]",
    ),
    click.option("--tls", is_flag=True, help="Use TLS, as rediss:// and its like do."),
    click.option("--cacert", type=_file, metavar="FILE", help="The certificates to trust instead of the system's."),
    click.option("--cacertdir", type=_directory, metavar="DIR", help="A directory of such certificates."),
    click.option("--cert", type=_file, metavar="FILE", help="Our own certificate."),
    click.option("--key", type=_file, metavar="FILE", help="Its private key, if that is in another file."),
    click.option("--sni", metavar="NAME", help="The name that all servers' certificates are for."),
    click.option("--insecure", is_flag=True, help="Trust any certificate."),
)

scan_options = _stack(
    click.option("--pattern", metavar="GLOB", help="Only keys that match, as 'user:*'."),
    click.option(
        "--count", type=click.IntRange(min=1), metavar="NUMBER", help="How many keys the server looks at for each SCAN."
    ),
    click.option("--type", "type_", metavar="TYPE", help="Only keys of this type: string, list, set, zset, hash, ..."),
    click.option(
        "--on-failover",
        type=click.Choice(["restart", "raise"]),
        default="restart",
        show_default=True,
        help="When another server takes the place of the one being scanned: start over, or fail.",
    ),
    click.option(
        "--segments",
        type=click.UNPROCESSED,
        callback=_segments,
        default="auto",
        show_default=True,
        metavar="NUMBER",
        help="How many parts of the keyspace to scan at once; count scans one, but for --dedupe.",
    ),
    click.option(
        "--duty",
        type=click.FloatRange(min=0, min_open=True, max=1),
        default=1.0,
        show_default=True,
        metavar="SHARE",
        help="The share of the server's time to take.",
    ),
    click.option(
        "--max-restarts",
        type=click.IntRange(min=0),
        default=10,
        show_default=True,
        metavar="NUMBER",
        help="How many times to start over.",
    ),
    click.option(
        "--certify",
        type=click.Choice(["sentinels", "role"]),
        default="sentinels",
        show_default=True,
        help="Whose word makes a scan complete: that of a majority of the Sentinels (of a cluster's masters), or the"
        " server's own.",
    ),
    click.option("--replica", is_flag=True, help="Scan a replica, and leave the master alone."),
    click.option(
        "--fallback",
        type=click.Choice(["master"]),
        help="With --replica: scan the master while there is no replica to scan.  [default: fail]",
    ),
    click.option("--node", metavar="ID|HOST:PORT", help="Of a cluster: scan this node alone."),
    click.option(
        "--allow-uncovered",
        is_flag=True,
        help="Of a cluster: do without slots that no node has, and tell which.  [default: fail]",
    ),
    click.option(
        "--max-nodes-at-once",
        type=click.IntRange(min=1),
        metavar="NUMBER",
        help="Of a cluster: how many nodes to scan at once.",
    ),
)

counting_options = _stack(_dedupe("Count"))

keeping_options = _stack(
    click.option(
        "--with",
        "with_",
        multiple=True,
        callback=_several,
        metavar="NAME[,NAME]...",
        help="What to write of each key beside its name: type, ttl, memory, idle, freq.",
    ),
    _dedupe("Write"),
    click.option(
        "--checkpoint",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Keep in FILE how far the keys are written, and go on from there if it is there;"
        " with --dedupe, what was written in FILE.seen.",
    ),
)

report_options = _stack(
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    click.option(
        "--progress/--no-progress",
        default=None,
        help="A bar on the terminal, or a line every 2 seconds elsewhere.  [default: the bar]",
    ),
    click.option(
        "-v", "--verbose", count=True, help="Tell what the Sentinels or a cluster's nodes say; -vv: all that they say."
    ),
)


def pick(kind: type[_OptionsT], words: dict[str, Any]) -> _OptionsT:
    """The options that `kind` has a field for, as one thing; they are taken out of `words`."""
    named = {field.name: words.pop(field.name) for field in fields(kind) if field.name in words}
    if isinstance(named.get("pattern"), str):
        # The bytes that the user typed, whatever the locale made of them.
        named["pattern"] = os.fsencode(named["pattern"])
    return kind(**named)
