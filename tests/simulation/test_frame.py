"""The frame around the worlds, on a toy: text, replays, shrinking, what counts as broken, the report."""

from __future__ import annotations

import itertools
import logging
import random
import subprocess
import sys
from collections.abc import Mapping

import pytest
import trio

from tests.simulation import runner
from tests.simulation.pairs import pair_of, pairs_of
from tests.simulation.playing import Account, Outcome, Violation
from tests.simulation.report import Tally
from tests.simulation.runner import SECRET, draw, run
from tests.simulation.schedule import Fault, Schedule, Value, parse
from tests.simulation.shrinking import shrink
from tests.simulation.worlds import NAMES, world_of

logger = logging.getLogger("trio_sentinel_scan.toy")


class Toy:
    """A world of tasks that run in a drawn order. Its faults do what their names say."""

    name = "toy"
    classes: tuple[str, ...] = ("harmless", "breaks", "raises", "logs", "spins", "never")
    never_together: Mapping[tuple[str, str], str] = {("breaks", "raises"): "the first of them ends it"}
    defaults: Mapping[str, Value] = {"tasks": 1}
    fault_defaults: Mapping[str, Mapping[str, Value]] = {"breaks": {"from_tasks": 4}}

    def draw(self, rng: random.Random, seed: int) -> Schedule:
        faults = [Fault("harmless", "time", round(rng.uniform(0, 5), 3)) for _ in range(rng.randrange(4))]
        return Schedule("toy", seed, {"tasks": rng.randrange(1, 9)}, tuple(faults))

    def heard(self, record: logging.LogRecord) -> None:
        pass

    async def play(self, schedule: Schedule, account: Account) -> None:
        tasks = int(schedule.settings.get("tasks", 1))

        async def work(number: int) -> None:
            for _ in range(5):
                account.trace(f"{number}")
                await trio.sleep(random.choice([0, 0, 1]))

        async with trio.open_nursery() as nursery:
            for number in range(tasks):
                nursery.start_soon(work, number)
            for fault in schedule.faults:
                await trio.sleep(fault.at)
                self._befall(fault, tasks, account)
                if fault.name == "spins":
                    for _ in itertools.count():
                        await trio.lowlevel.checkpoint()
        account.endings["complete"] += 1

    def _befall(self, fault: Fault, tasks: int, account: Account) -> None:
        account.took_effect(fault.name)
        if fault.name == "breaks" and tasks >= int(fault.args.get("from_tasks", 4)):
            raise Violation("toy", "broken")
        if fault.name == "raises":
            raise LookupError("inside")
        if fault.name == "logs":
            logger.debug("the key %s", SECRET)


def played(text: str) -> Outcome:
    return run(parse(text), Toy())


@pytest.mark.parametrize(
    "text",
    [
        "toy 1",
        "toy 2 tasks=3 share=0.25 how=reset",
        "toy 3 + kill@scan:12 how=reset + partition@time:3.5 seconds=8",
        "toy 4 tasks=3 + late@time:86400.125 x=-1 y=1e+30",
    ],
    ids=["plain", "settings", "faults", "numbers"],
)
def test_a_schedule_is_its_line_of_text(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


def test_a_seed_is_a_schedule() -> None:
    drawn = [draw(Toy(), seed) for seed in range(50)]
    assert drawn == [draw(Toy(), seed) for seed in range(50)]
    assert all(parse(str(schedule)) == schedule for schedule in drawn)


def test_a_run_repeats_exactly_and_seeds_differ() -> None:
    digests = [run(draw(Toy(), seed), Toy()).account.digest for seed in range(20)]
    assert digests == [run(draw(Toy(), seed), Toy()).account.digest for seed in range(20)]
    assert len(set(digests)) > 10


def test_a_run_leaves_the_process_as_it_was() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    before = logging.getLogger("trio_sentinel_scan").level, logging.getLogger("trio_sentinel_scan").handlers[:]
    played("toy 1 tasks=5")
    assert random.random() == expected
    assert (logging.getLogger("trio_sentinel_scan").level, logging.getLogger("trio_sentinel_scan").handlers) == before


@pytest.mark.parametrize(
    "text, kind",
    [
        ("toy 1 tasks=4 + breaks@time:1", "toy"),
        ("toy 1 tasks=3 + raises@time:1", "raised LookupError"),
        ("toy 1 tasks=3 + logs@time:1", "secret"),
        ("toy 1 tasks=3 + spins@time:1", "spin"),
        ("toy 1 tasks=3 + harmless@time:999999", "hang"),
    ],
    ids=["breaks", "raises", "logs", "spins", "hangs"],
)
def test_what_is_broken_is_seen(text: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_STEPS", 10_000)
    violation = played(text).violation
    assert violation is not None
    assert violation.kind == kind


def test_shrinking_keeps_what_it_takes() -> None:
    faults = "harmless@time:2.5 + breaks@time:3.75 from_tasks=2 + harmless@time:1"
    outcome = played(f"toy 77 tasks=30 + {faults}")
    assert str(shrink(outcome, Toy()).schedule) == "toy 77 tasks=2 + breaks@time:0.06 from_tasks=2"


def test_the_report_names_what_was_never_hit() -> None:
    tally, other = Tally(), Tally()
    for seed in range(10):
        tally.count(run(draw(Toy(), seed), Toy()))
    broken = played("toy 1 tasks=4 + logs@time:1 + breaks@time:1")
    other.count(broken)
    other.failed(broken, shrink(broken, Toy()))
    tally.add(other)
    text = tally.report([Toy()], 2.0)
    assert "11 schedules in 2 s, 5.5 a second" in text
    assert "never hit: breaks, raises, spins, never" in text
    assert "harmless+logs" in text
    assert "breaks+never" in text
    assert "breaks+raises," not in text
    assert "cannot meet: breaks+raises (the first of them ends it)" in text
    assert "--replay 'toy 1 tasks=4 + logs@time:1" in text


@pytest.mark.parametrize("name", NAMES)
def test_each_pair_that_can_be_has_its_turn(name: str) -> None:
    """And both are in the schedule, but for what follows from its settings or from another fault."""
    world = world_of(name)
    follow = {"tilt", "again", "raise", "resume"}
    seeds = range(3 * len(pairs_of(world)) // 2 + 3)
    had = [(seed, pair) for seed in seeds if (pair := pair_of(world, seed)) is not None]
    assert {pair for _, pair in had} == set(pairs_of(world))
    for seed, pair in had[::10]:
        schedule = draw(world, seed)
        assert set(pair) - follow <= {fault.name for fault in schedule.faults}
        assert parse(str(schedule)) == schedule


def test_the_command_line_says_what_is_wrong_with_a_text() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--replay", "nowhere 1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "nowhere" in done.stderr
