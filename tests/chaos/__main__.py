"""Chaos on real servers: `python -m tests.chaos --minutes 30`, or `nox -s chaos -- --minutes 30`."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from pathlib import Path

import trio

from tests import _leaks
from tests.chaos import running
from tests.chaos.report import Account
from tests.conftest import server_binaries
from trio_sentinel_scan.testing import ServerBinary, find_server_binary


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for how long, all deployments together")
    parser.add_argument("--seed", help="of the schedule of faults; real processes are not replayed by it")
    parser.add_argument("--deployment", choices=["sentinel", "cluster", "all"], default="all")
    parser.add_argument("--server", type=Path, help="the server program; by default the first that is found")
    parser.add_argument("--keys", type=int, default=5_000, help="how many keys there are from the beginning")
    parser.add_argument("--hurried", action="store_true", help="have Sentinels look more often than real ones do")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")
    return parser.parse_args(words)


async def main(asked: argparse.Namespace, binary: ServerBinary, seed: str, accounts: list[Account]) -> int | None:
    """Run; returns the signal that interrupted it, if one did."""
    deployments = ["sentinel", "cluster"] if asked.deployment == "all" else [asked.deployment]
    interrupted: int | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                nonlocal interrupted
                async for signum in signals:
                    interrupted = signum
                    nursery.cancel_scope.cancel(reason="interrupted")

            nursery.start_soon(listen)
            for deployment in deployments:
                await running.run(
                    deployment,
                    binary,
                    seconds=60 * asked.minutes / len(deployments),
                    seed=f"{seed}-{deployment}",
                    keys=asked.keys,
                    hurried=asked.hurried,
                    say=say,
                    accounts=accounts,
                )
            nursery.cancel_scope.cancel(reason="all is done")
    return interrupted


def say(line: str) -> None:
    """What is going on, for whoever watches."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def run(words: list[str] | None = None) -> int:
    """The exit status: 0 if every promise was kept, 1 if not, 128 and the signal's number if it was interrupted.

    It is 2 if no more was shown because the servers did not become whole again.
    """
    asked = arguments(words)
    _leaks.adopt_orphans()
    binary = find_server_binary(asked.server) if asked.server else next(iter(server_binaries().values()))
    seed = asked.seed or f"{random.getrandbits(32):08x}"
    accounts: list[Account] = []
    say(f"seed {seed}")
    interrupted = trio.run(main, asked, binary, seed, accounts)
    for account in accounts:
        sys.stdout.write("\n".join(account.lines()) + "\n")
    if asked.json is not None:
        asked.json.write_text(json.dumps([account.as_json() for account in accounts], indent=2) + "\n")
    if interrupted is not None:
        say(f"interrupted by {signal.Signals(interrupted).name}")
        return 128 + interrupted
    if any(account.findings for account in accounts):
        return 1
    return 2 if any(account.trouble for account in accounts) else 0


if __name__ == "__main__":
    sys.exit(run())
