"""What only shows where two things meet that a scan can do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core._scan_model import A, B, C, Driver, World, is_complete, keys_named
from tests.core._tables import Table
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.checkpoint import parse_checkpoint
from trio_sentinel_scan._core.details import KeyDetails
from trio_sentinel_scan._core.hash_seed import HashSeed

KEYS = keys_named(60)


# ---- details and lost connections --------------------------------------------------------------------------------


def test_a_connection_lost_when_nothing_is_left_to_be_asked_about() -> None:
    """The server has said that it does not know the like; what else was asked goes without, once the scan goes on."""
    driver = Driver(World(KEYS), count=100, page_size=20, with_=["freq"])
    driver.world.master.keeps_to_itself.add("freq")
    driver.go_to(steps.Receive)
    driver.finish()
    # The first page's replies come, and no more: the other questions are on their way.
    driver.batch = 20
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    driver.report(steps.Lost("connection closed"))
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (0, 1)
    assert all(set(page.details.values()) == {KeyDetails()} for page in driver.pages)


# ---- moves and redirections --------------------------------------------------------------------------------------


def test_a_redirect_is_a_reason_to_move_where_a_pass_may() -> None:
    """It tells what ROLE would have told."""
    driver = Driver(World(KEYS, hash_seed=b"one"), hash_seed_shared=True, on_failover="raise")
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    driver.finish()
    driver.world.master.errors.append("REDIRECT 10.0.0.99:6379")
    driver.world.fail_over(B)
    driver.batch = 1
    while driver.world.processes[0].errors:
        driver.take_all()
        driver.step()
    assert driver.plan.suspects_failover
    driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.moves) == (0, 1)


# ---- moves and checkpoints ---------------------------------------------------------------------------------------


def stop_half_way(world: World, **options: Any) -> tuple[str, set[bytes]]:
    """A checkpoint, and the keys that are behind it."""
    driver = Driver(world, **options)
    while sum(map(len, driver.pages)) < len(KEYS) // 2:
        driver.go_to(steps.HandOver)
        driver.take_all()
    for page in driver.pages:
        driver.plan.done_with(page)
    return driver.plan.checkpoint, {key for page in driver.pages for key in page.keys}


def go_on(world: World, text: str, *, guarded: bool = True) -> Driver:
    driver = Driver(world, hash_seed_shared=True, resume=text)
    if not guarded:
        # The guard, taken away; and the one behind it, for a checkpoint without a shared seed names nobody else.
        driver.plan._has_no_claim = lambda resume, found: ""  # type: ignore[method-assign]  # as said
    driver.run()
    assert driver.complete
    return driver


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("change", ["no shared seed then", "another release"])
def test_a_checkpoint_from_where_keys_have_another_order(change: str, guarded: bool) -> None:
    """It was made before the nodes were given their seed, or before an upgrade: its cursors are good nowhere else."""
    if change == "another release":
        world = World(KEYS, hash_seed=b"one")
        text, done = stop_half_way(world, hash_seed_shared=True)
        # It has the same seed, and hashes in another way.
        later = World(KEYS, hash_seed=b"two")
        for process in later.processes:
            process.told_seed = HashSeed(b"one", release="valkey 9.2")
    else:
        text, done = stop_half_way(World(KEYS))
        later = World(KEYS, hash_seed=b"one")
    for number, process in enumerate(later.processes):
        process.run_id = f"{100 + number:040x}"
    driver = go_on(later, text, guarded=guarded)
    kept = set(driver.handed[driver.plan.epoch]) | (done if driver.plan.epoch == 0 else set())
    assert (kept == set(KEYS)) is guarded
    assert driver.plan.epoch == guarded
    if guarded:
        assert "without hash_seed_shared" in driver.plan.summary(driver.now).restarts[0].reason


def test_a_checkpoint_without_a_shared_seed_is_good_at_its_own_process() -> None:
    """Whatever is said of the seed now."""
    world = World(KEYS, hash_seed=b"one")
    text, done = stop_half_way(world)
    driver = go_on(world, text)
    assert driver.plan.epoch == 0
    assert done | set(driver.handed[0]) == set(KEYS)
    assert done & set(driver.handed[0]) == set()


def test_a_scan_that_asks_nobody_passes_nothing_on_of_a_seed() -> None:
    """It was resumed from a checkpoint that knew of one, and is on another process now, of which nothing is known."""
    world = World(KEYS, hash_seed=b"one")
    text, _ = stop_half_way(world, hash_seed_shared=True)
    other = World(KEYS)
    other.processes[0].run_id = "f" * 40
    driver = Driver(other, resume=text)
    driver.run()
    assert driver.plan.epoch == 1
    assert parse_checkpoint(driver.pages[-1].checkpoint, driver.options.scope).seed_check == b""


# ---- replicas and what was read before their link was seen to be lost --------------------------------------------


@pytest.mark.parametrize("segments", [1, 4])
@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize("options", [{"read_from": "replica"}, {"has_sentinels": False}], ids=["replica", "single"])
def test_a_replica_that_has_lost_its_data_for_a_moment(options: dict[str, Any], batch: int, segments: int) -> None:
    """It answers every SCAN with nothing and the end, as one does whose full resynchronisation has failed half way;
    when it is in sync again, what it said meanwhile does not count.
    """
    world = World(KEYS)
    world.removed.add(C)
    process = world.nodes[B if "read_from" in options else A]
    assert process is not None
    process.role = "slave"
    driver = Driver(world, segments=segments, **options)
    driver.go_to(steps.HandOver)
    driver.go_to(steps.HandOver)
    driver.batch = batch
    whole = process.table
    process.link = "handshake"
    process.table = Table((), seed=whole.seed, bits=2)
    for _ in range(40):
        driver.take_all()
        driver.step()
    process.table, process.link = whole, "connected"
    driver.run()
    assert driver.complete
    assert driver.plan.epoch == 0
    assert driver.missed() == set()
    assert driver.misused() == 0
