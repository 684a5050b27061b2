"""python -m benchmarks scan|latency|failover|memory|commands|pubsub|cluster-scan|cluster-commands|cluster-pubsub"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from trio_sentinel_scan.testing import HarnessError

from . import cluster_commands, cluster_pubsub, cluster_scan, commands, failover, latency, memory, pubsub, scan
from .peers import EDITIONS, KINDS, CannotBegin, of_editions
from .report import Report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if getattr(given, "edition", None):
        given.peers = of_editions(given.peers, given.edition)
    hidden = {"verb", "json", "svg", "binary"} | ({"keys"} if getattr(given, "sizes", None) else set())
    if getattr(given, "dedupe", False):
        hidden.add("peers")
    shown = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in vars(given).items()
        if name not in hidden and value not in (None, False)
    }
    report = Report(given.verb, shown)
    status = 0
    try:
        trio.run(_work(given, report))
    except (CannotBegin, HarnessError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        report.note("interrupted: what was finished until then is what there is")
        status = 130
    report.finish(given.json, given.svg)
    return status


def _work(given: argparse.Namespace, report: Report) -> Callable[[], Awaitable[None]]:
    common = {"repeat": given.repeat, "wait_for_quiet": given.wait_for_quiet, "binary": given.binary}
    match given.verb:
        case "scan":
            return partial(
                scan.scan,
                report,
                peers=given.peers,
                sizes=given.sizes or [given.keys],
                counts=_counts(given),
                rare_match=given.match,
                delay=given.delay,
                duty=given.duty,
                **common,
            )
        case "cluster-scan":
            return partial(
                cluster_scan.cluster_scan, report, peers=given.peers, keys=given.keys, count=given.count, **common
            )
        case "failover":
            return partial(failover.failover, report, keys=given.keys, count=given.count, hang=given.hang, **common)
        case "commands":
            return partial(commands.commands, report, peers=given.peers, tasks=given.tasks, calls=given.calls, **common)
        case "cluster-commands":
            work = cluster_commands.cluster_commands
            return partial(work, report, peers=given.peers, tasks=given.tasks, calls=given.calls, **common)
        case "pubsub":
            return partial(pubsub.pubsub, report, peers=given.peers, messages=given.messages, **common)
        case "cluster-pubsub":
            return partial(cluster_pubsub.cluster_pubsub, report, channels=given.channels, **common)
        case _:
            verb = latency.latency if given.verb == "latency" else partial(memory.memory, dedupe=given.dedupe)
            return partial(verb, report, peers=given.peers, keys=given.keys, count=given.count, **common)


def _counts(given: argparse.Namespace) -> list[int | None]:
    """What is meant where nothing was said."""
    if given.count is not None:
        return list(given.count)
    if given.match or given.duty is not None:
        return [None]
    if given.delay is not None:
        # At 10, a million keys are 100,000 times there and back.
        return [1000]
    return [10, 100, 1000, None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Starts servers of its own, runs ours and the peers in turns, and prints medians (least..most).",
    )
    verbs = parser.add_subparsers(
        dest="verb",
        required=True,
        metavar="scan|latency|failover|memory|commands|pubsub|cluster-scan|cluster-commands|cluster-pubsub",
    )

    verb = _add(verbs, "scan", "keys per second, CPU time per key, how busy the server is", repeat=5, keys=1_000_000)
    _add_peers(verb, scan.DEFAULT_PEERS)
    verb.add_argument("--count", type=_counts_of, metavar="N,N", help="COUNTs, or 'default' (10,100,1000,default)")
    verb.add_argument("--sizes", type=_numbers, metavar="N,N", help="numbers of keys, such as 1e5,1e6,1e7")
    verb.add_argument("--match", action="store_true", help="with a MATCH that one key in 10,000 fulfils")
    verb.add_argument("--delay", type=float, metavar="MS", help="also through a proxy that delays, each way")
    verb.add_argument("--duty", type=float, metavar="SHARE", help="also ours with this duty=")

    verb = _add(verbs, "latency", "another client's GETs during a scan", repeat=5, keys=1_000_000)
    _add_peers(verb, latency.DEFAULT_PEERS)
    verb.add_argument("--count", type=int, metavar="N", help="COUNT for all (default: ours its own, others 1000)")

    verb = _add(verbs, "failover", "from the change of masters to the next page", repeat=20, keys=100_000)
    verb.add_argument("--count", type=int, metavar="N", help="COUNT (default: our own)")
    verb.add_argument("--hang", action="store_true", help="masters that hang, under GETs, instead of scans")

    verb = _add(verbs, "memory", "growth of the client over a scan", repeat=3, keys=5_000_000)
    _add_peers(verb, memory.DEFAULT_PEERS)
    verb.add_argument("--dedupe", action="store_true", help="ours with each kind of dedupe, instead of the peers")
    verb.add_argument("--count", type=int, metavar="N", help="COUNT for all (default: ours its own, others 1000)")

    verb = _add(verbs, "commands", "GETs by several tasks on one client", repeat=5, keys=None)
    _add_peers(verb, commands.DEFAULT_PEERS)
    verb.add_argument("--tasks", type=_numbers, default=list(commands.DEFAULT_TASKS), metavar="N,N")
    verb.add_argument("--calls", type=int, default=commands.CALLS, metavar="N", help="in all (%(default)s)")

    verb = _add(verbs, "cluster-commands", "GETs over a cluster's masters, by several tasks", repeat=5, keys=None)
    _add_peers(verb, cluster_commands.DEFAULT_PEERS, has_editions=False)
    verb.add_argument("--tasks", type=_numbers, default=list(cluster_commands.DEFAULT_TASKS), metavar="N,N")
    verb.add_argument("--calls", type=int, default=cluster_commands.CALLS, metavar="N", help="in all (%(default)s)")

    verb = _add(verbs, "pubsub", "messages to one subscriber", repeat=5, keys=None)
    _add_peers(verb, pubsub.DEFAULT_PEERS)
    verb.add_argument("--messages", type=_positive, default=pubsub.MESSAGES, metavar="N", help="default: %(default)s")

    verb = _add(verbs, "cluster-scan", "keys per second over three masters", repeat=5, keys=1_000_000)
    _add_peers(verb, cluster_scan.DEFAULT_PEERS, has_editions=False)
    verb.add_argument("--count", type=int, metavar="N", help="COUNT for all (default: each at its own)")

    verb = _add(
        verbs, "cluster-pubsub", "from a slot's having an owner to its channels' next messages", repeat=5, keys=None
    )
    verb.add_argument("--channels", type=_positive, default=cluster_pubsub.CHANNELS, metavar="N", help="%(default)s")
    return parser


def _add(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str, *, repeat: int, keys: int | None
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=what, description=what)
    verb.add_argument("--repeat", type=_positive, default=repeat, metavar="N", help="rounds (default: %(default)s)")
    if keys is not None:
        verb.add_argument("--keys", type=_positive, default=keys, metavar="N", help="default: %(default)s")
    verb.add_argument("--json", type=Path, metavar="FILE", help="write everything, each single run too")
    verb.add_argument("--svg", type=Path, metavar="DIR", help="write plots")
    verb.add_argument(
        "--wait-for-quiet",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="before each run, wait at most so long until other processes leave the machine alone",
    )
    verb.add_argument("--binary", type=Path, metavar="FILE", help="the server program")
    return verb


def _add_peers(verb: argparse.ArgumentParser, default: Sequence[str], *, has_editions: bool = True) -> None:
    verb.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        default=list(default),
        metavar="A,B",
        help=f"of {', '.join(KINDS)}; ours:NAME=VALUE+NAME=VALUE gives arguments to open_scan"
        f" (default: {','.join(default)})",
    )
    if has_editions:
        verb.add_argument(
            "--edition",
            type=_editions,
            metavar="A,B",
            help=f"which of our editions stand for ours among the peers: {', '.join(EDITIONS)} (default: trio)",
        )


def _editions(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in EDITIONS:
            raise argparse.ArgumentTypeError(f"there is no edition {name!r}; there are {', '.join(EDITIONS)}")
    return names


def _positive(text: str) -> int:
    """1e6 and 1000000 alike."""
    value = int(float(text))
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _numbers(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _counts_of(text: str) -> list[int | None]:
    return [None if part == "default" else _positive(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
