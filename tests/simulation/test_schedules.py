"""A slice of what `nox -s simulate` does for as long as it is told: the same seeds each time, in shards.

And every schedule that once broke a promise, with what it found.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.many import play_seeds
from tests.simulation.playing import Outcome
from tests.simulation.runner import run
from tests.simulation.schedule import parse
from tests.simulation.worlds import world_of

# (World, how many schedules of it each shard plays): 40 shards of them, which makes 2,080.
SLICE = {"service": 40, "cluster": 12}
SHARDS = 40
# `regressions.txt`: a line of comment for each schedule, and the schedule.
REGRESSIONS = [
    line
    for line in (Path(__file__).parent / "regressions.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def fail(outcome: Outcome) -> None:
    """A promise was broken: the test fails with the line that replays it."""
    replays = f"python -m tests.simulation --replay '{outcome.schedule}' --shrink"
    pytest.fail(f"{outcome.violation}\n\n{replays}", pytrace=False)


@pytest.mark.parametrize("world_name", sorted(SLICE))
def test_a_few_schedules(world_name: str) -> None:
    """For the desk."""
    tally = play_seeds(world_name, range(900_000, 900_020), fail)
    assert tally.counts["keys checked"] > 200


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("world_name", sorted(SLICE))
def test_schedules(world_name: str, shard: int) -> None:
    """No promise is broken, and the shard was worth its time: most scans come to their end, and faults take effect."""
    tally = play_seeds(world_name, range(shard * 1000, shard * 1000 + SLICE[world_name]), fail)
    assert tally.counts["keys checked"] > 20 * tally.schedules
    assert len(tally.hit) > 5


@pytest.mark.parametrize("number", range(len(REGRESSIONS)))
def test_what_once_broke_a_promise(number: int) -> None:
    """Each of these found something that was then mended."""
    schedule = parse(REGRESSIONS[number])
    outcome = run(schedule, world_of(schedule.world))
    if outcome.violation is not None:
        fail(outcome)


def test_schedules_repeat_in_another_process() -> None:
    """With another seed of Python's hashes, other addresses in memory, at another time."""
    program = (
        "from tests.simulation.runner import draw, run\n"
        "from tests.simulation.worlds import world_of\n"
        "for seed in range(700_000, 700_006):\n"
        "    for name in ('service', 'cluster'):\n"
        "        world = world_of(name)\n"
        "        print(run(draw(world, seed), world).account.digest)\n"
    )

    def digests(hash_seed: str) -> list[str]:
        env = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
        return done.stdout.split()

    first = digests("1")
    assert first == digests("2")
    assert len(set(first)) == 12


def test_a_run_that_is_ended_leaves_no_process() -> None:
    """What it has started has its standard output open: the end of that is the end of them all."""
    words = [sys.executable, "-m", "tests.simulation", "--processes", "2", "--minutes", "9", "--world", "cluster"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run_by_hand:
        assert run_by_hand.stdout is not None
        assert run_by_hand.stderr is not None
        while run_by_hand.stderr.read(1) not in {b"\r", b""}:
            pass
        assert run_by_hand.poll() is None
        run_by_hand.terminate()
        assert run_by_hand.stdout.read() == b""
    assert run_by_hand.returncode == -signal.SIGTERM
