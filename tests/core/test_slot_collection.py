"""A collection's scan in a cluster: who has had its key's slot all the time, and what a redirection means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core._cluster_model import Cluster
from tests.core._scan_model import World, is_complete, reasons
from tests.core.test_collection_plan import KEYS, CollectionDriver
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.certificate import Evidence, Refuted, Undecided
from trio_sentinel_scan._core.cluster_standing import Standing
from trio_sentinel_scan._core.cluster_survey import Survey
from trio_sentinel_scan._core.collection_options import checked_cluster_collection
from trio_sentinel_scan._core.errors import ConfigError, ScanRefused, ServerUnavailable
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.slot_collection import SlotCollectionPlan, judge_slot
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan._core.verdicts import parse_error_reply

SLOT = slot_of(b"key")


def without(survey: Survey, *node_ids: str) -> Survey:
    """The same, but that these could not be asked."""
    return replace(survey, accounts={name: said for name, said in survey.accounts.items() if name not in node_ids})


def test_an_owner_with_the_epoch_that_it_had() -> None:
    cluster = Cluster(keys=0)
    owner = cluster.owner(SLOT)
    other = next(node for node in cluster.masters if node is not owner)
    before = Standing(cluster.survey())
    epoch = before.epoch(owner.node_id)
    assert judge_slot(SLOT, owner.node_id, epoch, before) is None
    # It is on its way: the key is there still, or else the node says ASK.
    cluster.begin_move(SLOT, other)
    assert judge_slot(SLOT, owner.node_id, epoch, Standing(cluster.survey())) is None
    cluster.give(1 << SLOT, other)
    assert judge_slot(SLOT, owner.node_id, epoch, Standing(cluster.survey())) == Refuted(
        "another master has the key's slot"
    )
    cluster.give(1 << SLOT, owner)
    found = judge_slot(SLOT, owner.node_id, epoch, Standing(cluster.survey()))
    assert isinstance(found, Refuted)
    assert "may have gone and come back" in found.reason


def test_an_owner_of_whom_too_little_is_known() -> None:
    cluster = Cluster(keys=0)
    owner = cluster.owner(SLOT)
    others = [node.node_id for node in cluster.masters if node is not owner]
    survey = cluster.survey()
    epoch = Standing(survey).epoch(owner.node_id)
    for missing, words in (([owner.node_id], "could not be asked"), (others, "no majority")):
        found = judge_slot(SLOT, owner.node_id, epoch, Standing(without(survey, *missing)))
        assert isinstance(found, Undecided)
        assert words in found.reason
    cluster.nodes[cluster.nodes.index(owner)].slots &= ~(1 << SLOT)
    found = judge_slot(SLOT, owner.node_id, epoch, Standing(cluster.survey()))
    assert found == Refuted("the key's slot has gone to another node")


class SlotDriver(CollectionDriver):
    """The world's master has the slot."""

    def __init__(self, world: World, **more: Any) -> None:
        super().__init__(world, **more)
        self.options, _ = checked_cluster_collection("set", b"key", match=None, count=5, segments=1)
        self.plan = SlotCollectionPlan(self.options, failover_timeout=10.0, now=self.now, jitter=lambda: 0.5)
        self.standing: Standing | None = None
        self.node_id = ""

    def _evidence(self, process: Any, step: steps.Certify) -> Evidence | Undecided:
        evidence = super()._evidence(process, step)
        assert isinstance(evidence, Evidence)
        return replace(evidence, standing=self.standing, node_id=self.node_id)


def test_by_the_servers_own_word() -> None:
    driver = SlotDriver(World(KEYS))
    driver.run()
    is_complete(driver)
    certificate = driver.plan.certificate
    assert certificate is not None
    assert (certificate.basis, certificate.slots, certificate.masters_known) == ("cluster", 1, 0)
    assert "no other master was asked" in str(certificate)


@pytest.mark.parametrize("text", [f"MOVED {SLOT} 10.0.0.9:7000", f"ASK {SLOT} 10.0.0.9:7000"])
def test_a_redirection_is_no_refusal(text: str) -> None:
    """In mid-pass, and on a new connection; for a while, or for ever."""
    driver = SlotDriver(World(KEYS))
    driver.half_way()
    address = driver.world.master.address
    driver.instead[address] = text
    driver.go_to(steps.Rest)
    assert driver.plan.state is State.BACKING_OFF
    driver.go_to(steps.Connect)
    del driver.instead[address]
    driver.run()
    is_complete(driver)
    assert reasons(driver) == []
    driver = SlotDriver(World(KEYS))
    driver.half_way()
    driver.instead[address] = text
    driver.run()
    assert isinstance(driver.plan.error, ServerUnavailable)
    assert "another node's, or on its way" in str(driver.plan.error)
    driver = SlotDriver(World(KEYS))
    driver.instead[address] = "NOPERM no"
    driver.run()
    assert driver.plan.state is State.FAILED


def test_arguments() -> None:
    options: dict[str, Any] = {"match": None, "count": None}
    assert checked_cluster_collection("set", b"key", **options)[1]
    assert not checked_cluster_collection("set", b"key", certify="role", **options)[1]
    with pytest.raises(ConfigError, match="masters"):
        checked_cluster_collection("set", b"key", certify="nobody", **options)
    with pytest.raises(ConfigError, match="resume"):
        checked_cluster_collection("set", b"key", certify="role", resume="x", **options)


def judged(driver: SlotDriver, **changes: Any) -> Any:
    """What the plan makes of this evidence, with the rest as it should be."""
    step = driver.plan.next_step(driver.now)
    assert isinstance(step, steps.Certify)
    evidence = driver._evidence(driver.world.master, step)
    assert isinstance(evidence, Evidence)
    return driver.plan._judge(replace(evidence, **changes))


def test_by_the_word_of_the_masters() -> None:
    cluster = Cluster(keys=0)
    owner = cluster.owner(SLOT)
    standing = Standing(cluster.survey())
    driver = SlotDriver(World(KEYS))
    driver.go_to(steps.Certify)
    assert driver.plan._target is not None
    epoch = standing.epoch(owner.node_id)
    driver.plan._target = replace(driver.plan._target, config_epoch=epoch)
    held = judged(driver, standing=standing, node_id=owner.node_id)
    assert held.certificate.nodes[0].masters_agreeing == held.certificate.masters_known == 3
    assert not driver.plan.suspects_failover
    driver.plan._target = replace(driver.plan._target, config_epoch=-1)
    assert isinstance(judged(driver, standing=standing, node_id=owner.node_id), Refuted)
    assert driver.plan.suspects_failover
    assert isinstance(judged(driver, size=parse_error_reply(f"ASK {SLOT} 10.0.0.9:7000")), Undecided)
    assert isinstance(judged(driver, run_id="another"), Refuted)


def test_other_refusals_are_refusals() -> None:
    driver = SlotDriver(World(KEYS))
    driver.half_way()
    driver.instead[driver.world.master.address] = "NOPERM no"
    driver.run()
    assert isinstance(driver.plan.error, ScanRefused)
