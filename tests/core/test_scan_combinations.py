"""What only shows where two things meet that a scan can do."""

from __future__ import annotations

from tests.core._scan_model import B, Driver, World, is_complete, keys_named
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.details import KeyDetails

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
