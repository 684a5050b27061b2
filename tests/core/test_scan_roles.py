"""The role that rides along with the SCANs: a server that leaves its role says so nowhere else."""

from __future__ import annotations

import pytest

from tests.core._scan_model import B, Driver, World, cursors_asked, is_complete, keys_named, reasons
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.errors import ServerUnavailable
from trio_sentinel_scan._core.scan_replies import ROLE_REQUEST
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.sweep import ROLE_PERIOD, Sweep

KEYS = keys_named(200)


def under_way(world: World, *, has_sentinels: bool = True) -> Driver:
    """A scan that has handed out a page, some time ago."""
    driver = Driver(world, count=4, segments=1, has_sentinels=has_sentinels)
    driver.go_to(steps.HandOver)
    driver.now += ROLE_PERIOD
    return driver


def until_it_is_left(driver: Driver) -> int:
    """Go on to another epoch, or to the certificate; how many pages came until then."""
    before = len(driver.pages)
    while driver.plan.epoch == 0 and driver.plan.state is not State.CERTIFYING:
        driver.take_all()
        driver.step()
    return len(driver.pages) - before


@pytest.mark.parametrize("has_sentinels", [True, False])
def test_a_master_that_was_demoted_is_left_at_once(has_sentinels: bool) -> None:
    """No page of the read that tells it, and none after it. Without Sentinels the same server is scanned anew."""
    driver = under_way(World(KEYS), has_sentinels=has_sentinels)
    driver.world.master.role = "slave"
    # What was asked for before, and what came while the question was on its way.
    assert until_it_is_left(driver) <= 2
    if has_sentinels:
        driver.world.fail_over(B)
        driver.hear()
    driver.run()
    is_complete(driver)
    assert reasons(driver)[0] == "the server's role is slave, it was master"


def test_without_the_guard_it_is_scanned_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the certificate would find out."""
    monkeypatch.setattr(Sweep, "_unfit_role", lambda *_: None)
    driver = under_way(World(KEYS))
    driver.world.master.role = "slave"
    assert until_it_is_left(driver) > 20


def test_a_replica_that_was_promoted_is_another_server() -> None:
    """What it was asked for was a replica's keys; those of a master may be others."""
    world = World(KEYS)
    world.master.role = "slave"
    driver = under_way(world, has_sentinels=False)
    world.master.role = "master"
    assert until_it_is_left(driver) <= 2
    driver.run()
    is_complete(driver)
    assert reasons(driver) == ["the server's role is master, it was slave"]


def test_a_replica_whose_link_is_lost_is_waited_for() -> None:
    """Its cursors stay good: the same process has the same table, also after a full resync."""
    world = World(KEYS)
    world.master.role = "slave"
    driver = under_way(world, has_sentinels=False)
    world.master.link = "connect"
    while driver.plan.state is not State.BACKING_OFF:
        driver.take_all()
        driver.step()
    asked = cursors_asked(driver.log)[-1]
    handed_out = len(driver.pages)
    for _ in range(20):
        driver.step()
    driver.take_all()
    assert len(driver.pages) == handed_out
    world.master.link = "connected"
    driver.go_to(steps.Ask)
    assert cursors_asked(driver.log)[-1] == asked
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 0


def test_a_role_is_no_answer_to_a_scan() -> None:
    """A server that is loading tells its role, and the patience with it has an end all the same."""
    driver = under_way(World(KEYS))
    driver.batch = 1
    process, begun = driver.world.master, driver.now
    while driver.plan.error is None and driver.now < begun + 100:
        process.errors.append("LOADING Redis is loading")
        driver.now += 0.1
        driver.take_all()
        driver.step()
    assert isinstance(driver.plan.error, ServerUnavailable)
    assert 10 <= driver.now - begun < 15


def test_the_last_role_is_waited_for_before_the_certificate() -> None:
    """It may come in a read of its own, behind the last keys; and it may be bad news."""
    driver = under_way(World(KEYS))
    driver.batch = 1
    rode_along = 0
    while driver.plan.state is State.SCANNING:
        driver.now += ROLE_PERIOD
        driver.take_all()
        rode_along += isinstance(step := driver.step(), steps.Ask) and step.data.endswith(ROLE_REQUEST)
    assert rode_along > 20
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 0


def test_a_master_that_loses_a_replica_is_worth_a_question() -> None:
    """It may have been promoted, and then the Sentinels know. It is no proof: the pass goes on."""
    driver = under_way(World(KEYS))
    assert not driver.plan.suspects_failover
    driver.world.kill(B)
    while not driver.plan.suspects_failover:
        driver.take_all()
        driver.step()
    driver.plan.suspects_failover = False
    driver.run()
    is_complete(driver)
    assert driver.plan.epoch == 0
    assert not driver.plan.suspects_failover
