"""A cluster of nodes with real hash tables whose slots move, and a driver that carries a cluster's scan out on it.

No clock and no network. Every step is whole; between two of them anything may happen to the cluster.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.core._scan_model import asked_in
from tests.core._tables import SlotTables, Table
from trio_sentinel_scan._core import cluster_steps, scan_steps
from trio_sentinel_scan._core.certificate import Evidence
from trio_sentinel_scan._core.cluster_map import ClusterMap, ClusterNode, Shard
from trio_sentinel_scan._core.cluster_options import ClusterScanOptions, checked_cluster_scan
from trio_sentinel_scan._core.cluster_plan import ClusterPlan
from trio_sentinel_scan._core.cluster_survey import NodeAccount, NodeLine, Survey
from trio_sentinel_scan._core.config import ClientSettings, checked_credentials, checked_settings
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.handshake import unfit_for_scanning
from trio_sentinel_scan._core.identity import Address, Role, ServerIdentity
from trio_sentinel_scan._core.lane_plan import LanePlan, lane_options
from trio_sentinel_scan._core.scan_replies import ScanReply
from trio_sentinel_scan._core.scan_states import FINAL, State
from trio_sentinel_scan._core.slots import NO_SLOTS, SLOTS, SlotSet, set_of, slot_of, slots_in
from trio_sentinel_scan._core.summary import ScanPage, ScanSummary

# The slots that have keys: the first, the middle and the last of each of three masters.
HOT: Final = (0, 2_700, 5_460, 5_461, 8_000, 10_921, 10_922, 13_000, 16_383)
MANY: Final = 100_000
_TAGS: Final[dict[int, bytes]] = {}
for _word in map(str, range(MANY)):
    _TAGS.setdefault(slot_of(_word.encode()), _word.encode())


def keys_of(slot: int, number: int) -> set[bytes]:
    """So many keys of one slot."""
    return {b"k{%b}%d" % (_TAGS[slot], at) for at in range(number)}


@dataclass(eq=False)
class Node:
    """One node: what it says of itself, and what it has."""

    number: int
    slots: SlotSet = NO_SLOTS
    epoch: int = 0
    # The config epoch that others know of it, if it is a later one: then this is an older image of it.
    known_epoch: int | None = None
    master: Node | None = None
    keys: set[bytes] = field(default_factory=set[bytes])
    migrating: dict[int, str] = field(default_factory=dict[int, str])
    importing: dict[int, str] = field(default_factory=dict[int, str])
    state: str = "ok"
    flags: frozenset[str] = frozenset()
    is_up: bool = True
    runs: int = 0
    # What it last heard of the others; None while it hears them.
    cut_off_with: dict[str, NodeLine] | None = None
    link: str = "connected"
    # Whether its cursors are what they look like.
    honest: bool = True
    port: int = 7000

    @property
    def node_id(self) -> str:
        return f"{self.number:040x}"

    @property
    def address(self) -> Address:
        return Address(f"10.0.0.{self.number}", self.port)

    @property
    def identity(self) -> ServerIdentity:
        return ServerIdentity(f"{self.number:020x}{self.runs:020x}", self.address)

    @property
    def role(self) -> Role:
        return Role("master") if self.master is None else Role("slave", link=self.link)

    def line(self) -> NodeLine:
        flags = {"slave" if self.master is not None else "master", *self.flags} | (
            {"fail"} if not self.is_up else set()
        )
        master_id = None if self.master is None else self.master.node_id
        return NodeLine(ClusterNode(self.node_id, self.address), frozenset(flags), master_id, self.epoch, self.slots)

    def scan(self, cursor: int, count: int, form: CursorFormat) -> tuple[int, list[bytes]]:
        """Answer a SCAN, in an order of this process's own."""
        seed = self.identity.run_id
        assert seed is not None
        if form is CursorFormat.SLOTS:
            by_slot: dict[int, list[bytes]] = {}
            for key in self.keys:
                by_slot.setdefault(slot_of(key), []).append(key)
            tables = {slot: Table(keys, seed=seed.encode(), bits=3) for slot, keys in by_slot.items()}
            if cursor % SLOTS not in tables:
                # A table that is gone has nothing to go on in.
                cursor %= SLOTS
            return SlotTables(tables).scan(cursor, count) if tables else (0, [])
        following, keys = Table(self.keys, seed=seed.encode(), bits=5).scan(cursor, count)
        return (following if self.honest else following and 1 << 63 | 1), keys


class Cluster:
    """Three masters (or so), and what happens to them."""

    def __init__(self, *, keys: int = 8, replicas: int = 0, masters: int = 3) -> None:
        self.nodes = [Node(number) for number in range(1, masters + 1)]
        for place, node in enumerate(self.nodes):
            node.slots = set_of([(SLOTS * place // masters, SLOTS * (place + 1) // masters - 1)])
            node.epoch = place + 1
        for slot in HOT:
            self.owner(slot).keys |= keys_of(slot, keys)
        # Keys that have been there from the beginning on.
        self.stayed = {key for node in self.nodes for key in node.keys}
        for _ in range(replicas):
            for master in self.nodes[:masters]:
                self.nodes.append(Node(len(self.nodes) + 1, master=master, keys=set(master.keys)))

    def owner(self, slot: int) -> Node:
        """Who has the slot, by the latest word."""
        return max((node for node in self.masters if node.slots >> slot & 1), key=lambda node: node.epoch)

    @property
    def masters(self) -> list[Node]:
        return [node for node in self.nodes if node.master is None]

    def node(self, node_id: str) -> Node:
        return next(node for node in self.nodes if node.node_id == node_id)

    def replicas(self, master: Node) -> list[Node]:
        return [node for node in self.nodes if node.master is master]

    # -- what can happen --

    def _bump(self, node: Node) -> None:
        node.epoch = max(other.epoch for other in self.nodes) + 1

    def give(self, slots: SlotSet, to: Node) -> None:
        """Slots have gone to another node, with all their keys, in no time."""
        for node in self.masters:
            if node is not to and (some := node.slots & slots):
                moved = {key for key in node.keys if some >> slot_of(key) & 1}
                node.slots &= ~some
                node.keys -= moved
                to.keys |= moved
                for slot in slots_in(some):
                    node.migrating.pop(slot, None)
                    to.importing.pop(slot, None)
        to.slots |= slots
        self._bump(to)

    def begin_move(self, slot: int, to: Node) -> None:
        source = self.owner(slot)
        source.migrating[slot] = to.node_id
        to.importing[slot] = source.node_id

    def move_keys(self, slot: int, to: Node, number: int) -> None:
        source = self.owner(slot)
        some = sorted(key for key in source.keys if slot_of(key) == slot)[:number]
        source.keys -= set(some)
        to.keys |= set(some)

    def cancel_move(self, slot: int) -> None:
        """What was moved is nobody's any more."""
        source = self.owner(slot)
        to = self.node(source.migrating.pop(slot))
        to.importing.pop(slot, None)
        self.stayed -= {key for key in to.keys if slot_of(key) == slot}

    def fail_over(self, master: Node, *, kill: bool = False) -> Node:
        """A replica takes the place of its master, and forgets its flags as Redis 7.0 does."""
        new = self.replicas(master)[0]
        new.keys = set(master.keys)
        new.slots, master.slots = master.slots, NO_SLOTS
        new.master, master.master = None, new
        master.migrating.clear()
        for other in self.replicas(master):
            other.master = new
        self._bump(new)
        master.is_up = not kill
        return new

    def restart(self, node: Node) -> None:
        """Another process, at the same address, with the same keys in another order."""
        node.runs += 1

    # -- what is said --

    def lines(self) -> dict[str, NodeLine]:
        found = {node.node_id: node.line() for node in self.nodes}
        for name, line in found.items():
            node = self.node(name)
            if node.cut_off_with:
                # It was replaced: whatever it says, the others think that it has nothing.
                found[name] = replace(line, slots=0)
            elif node.known_epoch is not None:
                found[name] = replace(line, config_epoch=node.known_epoch)
        return found

    def account(self, node: Node) -> NodeAccount:
        lines = self.lines()
        if node.cut_off_with is not None:
            lines = {**node.cut_off_with, node.node_id: node.line()}
        lines[node.node_id] = NodeLine(
            node.line().node, node.line().flags | {"myself"}, node.line().master_id, node.epoch, node.slots
        )
        return NodeAccount(node.node_id, 0.0, lines, dict(node.migrating), dict(node.importing), node.state)

    def survey(self) -> Survey:
        asked = [node for node in self.nodes if node.master is None or node.flags]
        return Survey(
            0.0,
            {node.node_id: self.account(node) for node in asked if node.is_up},
            {node.node_id: "no" for node in asked if not node.is_up},
        )

    def map(self) -> ClusterMap:
        return ClusterMap(
            tuple(
                Shard(
                    ClusterNode(node.node_id, node.address),
                    node.slots,
                    tuple(ClusterNode(one.node_id, one.address) for one in self.replicas(node)),
                )
                for node in self.masters
                if node.slots
            )
        )


def settings(**changes: Any) -> ClientSettings:
    """A client's settings."""
    arguments: dict[str, Any] = {
        "db": 0,
        "credentials": checked_credentials(None, None, None),
        "ssl": None,
        "client_name": None,
        "response_timeout": 5.0,
        "failover_timeout": 10.0,
        "decode_responses": False,
        "encoding": "utf-8",
        "encoding_errors": "strict",
        "protocol": None,
        "max_connections": 50,
    }
    return checked_settings(**{**arguments, **changes})


def cluster_options(known: ClusterMap, *, client: dict[str, Any] | None = None, **changes: Any) -> ClusterScanOptions:
    """The options of a scan of a cluster, with small pages."""
    arguments: dict[str, Any] = {
        "match": None,
        "count": 3,
        "type_": None,
        "cursor": 0,
        "node": None,
        "max_nodes_at_once": 8,
        "on_failover": "restart",
        "max_restarts": 10,
        "prefetch": 2,
        "certify": "masters",
        "segments": 2,
        "extra_args": (),
        "hash_seed_shared": False,
        "allow_uncovered": False,
    }
    return checked_cluster_scan(known, settings(**(client or {})), **{**arguments, **changes})


class LaneDriver:
    """One lane, step by step."""

    def __init__(self, driver: ClusterDriver, step: cluster_steps.Begin) -> None:
        self.driver = driver
        self.step_begun = step
        self.plan = LanePlan(
            lane_options(driver.options.scan, step.lane, step.resume),
            failover_timeout=driver.failover_timeout,
            now=driver.now,
            jitter=lambda: 0.0,
        )
        self.process: ServerIdentity | None = None
        self.owed: deque[Any] = deque()
        driver.plan.began(step.lane.number, self.plan)

    @property
    def node(self) -> Node:
        return self.driver.cluster.node(self.step_begun.lane.node_id)

    def step(self) -> None:
        """One whole step, if there is one to do now."""
        now = self.driver.now
        step = self.plan.next_step(now)
        if isinstance(step, scan_steps.Finish):
            self.driver.lane_over(self)
        elif isinstance(step, scan_steps.HandOver):
            if self.plan.handing_over(step):
                self.driver.channel.append(step.page)
        elif isinstance(step, scan_steps.AwaitTaken):
            if self.plan.all_taken:
                self.plan.report(step, scan_steps.Taken(), now)
        else:
            outcome = self._outcome_of(step)
            if isinstance(step, scan_steps.Rest):
                self.driver.now += min(step.seconds, 1.0)
            self.plan.report(step, outcome, self.driver.now)
            if self.plan.suspects_failover:
                self.plan.suspects_failover = False
                self.driver.plan.look()

    def _outcome_of(self, step: scan_steps.Step) -> scan_steps.Outcome:
        node = self.node
        begun = self.step_begun
        match step:
            case scan_steps.Locate():
                target = scan_steps.Target(begun.address, begun.config_epoch, is_replica=begun.is_replica)
                return scan_steps.Located(target)
            case scan_steps.Connect():
                if not node.is_up or node.address != begun.address:
                    self.driver.plan.look()
                    return scan_steps.Lost("connection refused")
                self.process, self.owed = node.identity, deque()
                unfit = unfit_for_scanning(
                    node.role, node.address, wants_master=not begun.is_replica, wants_replica=begun.is_replica
                )
                return scan_steps.Connected(node.identity, node.role, self.driver.form, unfit)
            case scan_steps.Rest():
                return scan_steps.Rested()
            case _ if not node.is_up or self.process != node.identity:
                return scan_steps.Lost("connection closed")
            case scan_steps.Ask(_, data, _):
                self.owed.extend(asked_in(data))
                return scan_steps.Asked()
            case scan_steps.Receive():
                return scan_steps.Answered([self._answer(self.owed.popleft())])
            case scan_steps.Certify():
                return Evidence(run_id=node.identity.run_id, role=node.role)
            case _:
                raise AssertionError(step)

    def _answer(self, owed: Any) -> ScanReply:
        if owed is None:
            return self.node.role
        return self.node.scan(owed[0], int(owed[1]), self.driver.form)


class ClusterDriver:
    """Carries out a cluster's scan, one step at a time; which lane is next is drawn by lot."""

    def __init__(
        self,
        cluster: Cluster,
        form: CursorFormat = CursorFormat.SLOTS,
        *,
        failover_timeout: float = 10.0,
        seed: int = 0,
        **changes: Any,
    ) -> None:
        self.cluster, self.form, self.failover_timeout = cluster, form, failover_timeout
        self.now = 100.0
        self.options = cluster_options(cluster.map(), **changes)
        self.plan = ClusterPlan(self.options, failover_timeout=failover_timeout, now=self.now)
        self.lanes: list[LaneDriver] = []
        self.began: list[cluster_steps.Begin] = []
        self.channel: deque[ScanPage[Any]] = deque()
        self.pages: list[ScanPage[Any]] = []
        self.random = random.Random(seed)
        self.surveys = 0
        # Whether consumers have done with a page only when a test says so.
        self.holds = False

    def lane_over(self, lane: LaneDriver) -> None:
        self.lanes.remove(lane)
        self.plan.lane_over(lane.step_begun.lane.number, self.now)

    def step(self) -> None:
        """What the plan says, or else a step of some lane; what came is taken."""
        step = self.plan.next_step(self.now)
        match step:
            case cluster_steps.TakeSurvey():
                self.surveys += 1
                self.plan.surveyed(self.cluster.survey(), self.cluster.map(), self.now)
            case cluster_steps.Begin():
                self.began.append(step)
                self.lanes.append(LaneDriver(self, step))
            case cluster_steps.Leave(number, reason):
                for lane in self.lanes:
                    if lane.step_begun.lane.number == number:
                        lane.plan.leave(reason, self.now)
            case cluster_steps.Wait(seconds):
                if self.lanes:
                    self.random.choice(self.lanes).step()
                    self.now += 0.001
                else:
                    assert seconds < 10, "nothing will ever happen"
                    self.now += seconds
            case _:
                return
        while self.channel:
            self.take(self.channel.popleft())

    def take(self, page: ScanPage[Any]) -> None:
        assert page.mark is not None
        lane = page.mark.facts.lane
        assert lane is not None
        found = None
        for driver in self.lanes:
            if driver.step_begun.lane is lane:
                found = driver.plan.take(page, self.now)
        if found is not None and (found := self.plan.take(found, lane, self.now)) is not None:
            self.pages.append(found)
            if not self.holds:
                self.plan.done_with(found)

    def run(self, *, limit: int = 20_000) -> ScanSummary:
        """To the end."""
        for _ in range(limit):
            if self.plan.state in FINAL:
                return self.plan.summary(self.now)
            self.step()
        raise AssertionError(f"no end within {limit} steps: {self.plan!r}")

    def steps_until(self, happens: Any, *, limit: int = 20_000) -> None:
        """Until a fact is there."""
        for _ in range(limit):
            if happens():
                return
            self.step()
        raise AssertionError(f"it did not happen: {self.plan!r}")

    @property
    def keys(self) -> set[Any]:
        return {key for page in self.pages for key in page}

    @property
    def missed(self) -> set[bytes]:
        return self.cluster.stayed - self.keys

    def check_complete(self) -> ScanSummary:
        assert self.plan.error is None, self.plan.error
        assert self.plan.state is State.COMPLETE
        summary = self.plan.summary(self.now)
        assert not self.missed, f"{len(self.missed)} keys were lost: {sorted(map(slot_of, self.missed))}"
        assert summary.complete
        assert summary.position == 1.0
        assert summary.keys == sum(map(len, self.pages))
        return summary
