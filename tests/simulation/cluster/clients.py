"""What is done with the client under test, and what is owed for it: a scan, commands, a subscriber."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_sentinel_scan import (
    ClusterClient,
    CommandOutcomeUnknown,
    Gap,
    Message,
    NoReplicaAvailable,
    RedirectionLoop,
    ScanInterrupted,
    ScanNotCertified,
    ScanRestartsExhausted,
    ServerUnavailable,
    SlotsNotCovered,
    SubscriptionLost,
)
from trio_sentinel_scan._core.slots import ALL_SLOTS, SLOTS, slot_of

from ..runner import SECRET
from .keys import key_in

if TYPE_CHECKING:
    from trio_sentinel_scan import ScanPage, ScanSummary

    from ..playing import Account
    from ..schedule import Value
    from .deployment import SimulatedCluster
    from .faults import Faults

__all__ = ["Commands", "ScanUnderTest", "Subscription"]

# What a scan of a cluster may end with, in place of its end.
_DOCUMENTED: Final = (
    NoReplicaAvailable,
    ScanInterrupted,
    ScanNotCertified,
    ScanRestartsExhausted,
    ServerUnavailable,
    SlotsNotCovered,
)


class Died(Exception):
    """The process that scans is gone."""


class ScanUnderTest:
    """One scan: in one process, or in several that go on from each other's checkpoints."""

    def __init__(
        self, cluster: SimulatedCluster, faults: Faults, settings: Mapping[str, Value], account: Account
    ) -> None:
        self._cluster = cluster
        self._faults = faults
        self._settings = settings
        self._account = account
        self.is_under_way = False
        # Nothing more comes of it.
        self.is_over = False
        # What was handed out, and was not forgotten with the process that had it in hand.
        self.delivered: set[bytes] = set()
        self.pages = 0
        # The highest epoch of a page with keys of a slot.
        self._epochs: dict[int, int] = {}
        self._errors: list[Exception] = []
        self._checkpoint: str | None = None
        self.node: Any = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `open_scan`."""
        given = self._settings
        options: dict[str, Any] = {
            "count": given["count"],
            "prefetch": given["prefetch"],
            "segments": given["segments"] or "auto",
            "dedupe": bool(given["dedupe"]),
            "max_nodes_at_once": max(1, int(given["nodes"])),
            "allow_uncovered": bool(given["uncovered"]),
            "certify": given["certify"],
            "read_from": given["read_from"],
            "on_failover": given["on_failover"],
            "max_restarts": given["max_restarts"],
            "resume": self._checkpoint,
        }
        if given["page_size"]:
            options["page_size"] = given["page_size"]
        if self.node is not None:
            options["node"] = self.node.node_id
        return options

    async def run(self, client: ClusterClient, *, dies_after: int = 0) -> bool:
        """To its end, or to the end of the process. False if that comes first."""
        self._epochs.clear()
        self._errors.clear()
        handed_out: Counter[bytes] = Counter()
        self.is_under_way = True
        try:
            async with client.open_scan(**self.options) as pages:
                if self._settings["clone"] and not dies_after:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._consume, pages.clone(), handed_out, 0)
                        nursery.start_soon(self._consume, pages.clone(), handed_out, 0)
                else:
                    await self._consume(pages, handed_out, dies_after)
                if self._errors:
                    self._check_error(self._errors[0])
                else:
                    self._judge(pages.summary, handed_out)
        except Died:
            self._account.endings["died, and resumed"] += 1
            return False
        finally:
            self.is_under_way = False
        return True

    async def _consume(self, pages: Any, handed_out: Counter[bytes], dies_after: int) -> None:
        slow = float(self._settings["slow"])
        number = 0
        in_hand: ScanPage[Any] | None = None
        try:
            async with pages:
                async for page in pages:
                    if in_hand is not None:
                        self.delivered.update(in_hand)
                    in_hand = page
                    number += 1
                    self._take(page, handed_out)
                    if dies_after and number >= dies_after:
                        # In the midst of this page: it is to come again.
                        self._checkpoint = pages.checkpoint()
                        raise Died
                    self._faults.happened("page")
                    if slow:
                        await trio.sleep(slow)
        except _DOCUMENTED as error:
            self._errors.append(error)
        if in_hand is not None:
            self.delivered.update(in_hand)

    def _take(self, page: ScanPage[Any], handed_out: Counter[bytes]) -> None:
        account = self._account
        self.pages += 1
        self._cluster.truth.has_begun = True
        account.trace(f"{trio.current_time():.4f} page of {len(page.keys)}, epoch {page.epoch}, {page.position}")
        if not page.keys:
            account.breaks("empty page", "a page without keys was handed out")
        if page.position is None or not 0 <= page.position <= 1:
            account.breaks("position", f"{page.position}")
        for key in page.keys:
            slot = slot_of(key)
            if page.epoch < self._epochs.get(slot, 0):
                account.breaks("epoch", f"a page of epoch {page.epoch} came after one of epoch {self._epochs[slot]}")
            self._epochs[slot] = page.epoch
            if key in self._cluster.truth.ghosts.get(slot, ()):
                account.breaks("ghost", f"a key of slot {slot}, which its node never had, was handed out")
        handed_out.update(page.keys)
        if self._settings["dedupe"] and any(handed_out[key] > 1 for key in page.keys):
            account.breaks("twice", "a key was handed out twice though it was to come once")

    # ---- what it owes ----------------------------------------------------------------------------------------------

    def _judge(self, summary: ScanSummary, handed_out: Counter[bytes]) -> None:
        """It has come to its end: that means complete."""
        account = self._account
        account.endings["complete"] += 1
        account.trace(f"{trio.current_time():.4f} complete: {summary.keys} keys, {len(summary.restarts)} restarts")
        if not summary.complete:
            account.breaks("summary", "the iteration has ended, and the summary says that the scan is not complete")
        if summary.keys != handed_out.total():
            account.breaks("summary", f"{summary.keys} keys, and {handed_out.total()} were handed out")
        self._count_restarts(summary)
        certified = 0 if summary.certificate is None else summary.certificate.slots or 0
        left_out = sum(last - first + 1 for first, last in summary.uncovered_slots)
        if self._checkpoint is None and self.node is None and certified + left_out != SLOTS:
            account.breaks("certificate", f"it is of {certified} slots, and {left_out} were left out")
        if summary.uncovered_slots and not self._settings["uncovered"]:
            account.breaks("left out", "slots without an owner were left out, and were not to be")
        if summary.slots_let_go and self.node is None:
            account.breaks("left out", "slots were let go, though all nodes were to be scanned")
        truth = self._cluster.truth
        truth.look(ALL_SLOTS)
        kept = {
            key
            for slot, keys in truth.stayed.items()
            if not any(a <= slot <= b for a, b in (*summary.uncovered_slots, *summary.slots_let_go))
            for key in keys
        }
        account.counts["keys checked"] += len(kept)
        missing = self._beyond_the_limits(kept - self.delivered)
        if missing:
            slots = sorted({slot_of(key) for key in missing})
            account.breaks("lost", f"{len(missing)} of {len(kept)} keys were not handed out, of the slots {slots}")

    def _beyond_the_limits(self, missing: set[bytes]) -> set[bytes]:
        """Of keys that were not handed out, those that no documented limit explains. The others are counted by name."""
        cluster = self._cluster
        limits = {
            "keys of migrations cancelled between two looks": cluster.unseen_moves,
            "keys of slots that were back before their node had heard of a later epoch": cluster.back_at_once,
            "keys moved back by hand while their slot's flags stayed": cluster.moved_back,
        }
        if self._settings["certify"] == "role":
            own_word = self._limits_of_own_word(missing)
            limits['certify="role": keys that a deposed master, or one that is away, has'] = own_word
        for name, keys in limits.items():
            if found := missing & keys:
                self._account.counts[f"limit: {name}"] += len(found)
                missing = missing - found
        return missing

    def _limits_of_own_word(self, missing: set[bytes]) -> set[bytes]:
        """Keys that cannot be known of where each node's own word will do: other masters need not be asked.

        What a deposed master never had, and what a slot's target has that is away, unless the owner tells of it.
        """
        if self._faults.limits & {"isolated", "snapshot"}:
            return missing
        found: set[bytes] = set()
        for key in missing:
            slot = slot_of(key)
            owner = self._cluster.owner(slot)
            if owner is not None and key not in owner.data.get(0, {}) and slot not in owner.migrating:
                found.add(key)
        return found

    def _check_error(self, error: BaseException) -> None:
        account = self._account
        account.endings[type(error).__name__] += 1
        account.trace(f"{trio.current_time():.4f} {type(error).__name__}: {error}")
        if SECRET in f"{error} {error!r} {error.__cause__} {error.__context__}":
            account.breaks("secret", f"an error tells what nobody is to know: {error}")
        if isinstance(error, ScanInterrupted) and self._settings["on_failover"] != "raise" and self.node is None:
            account.breaks("interrupted", f"though it was to begin again: {error}")
        if isinstance(error, SlotsNotCovered) and self._settings["uncovered"]:
            account.breaks("uncovered", f"though it was to do without: {error}")
        if isinstance(error, (ScanInterrupted, ScanRestartsExhausted, ScanNotCertified)):
            assert error.summary is not None
            self._count_restarts(error.summary)
            if error.summary.complete:
                account.breaks("summary", "the scan has failed, and the summary says that it is complete")

    def _count_restarts(self, summary: ScanSummary) -> None:
        self._account.counts["restarts"] += len(summary.restarts)
        self._account.counts["SCANs"] += summary.scans
        self._account.counts["reconnects"] += summary.reconnects
        of_slot: Counter[int] = Counter()
        for restart in summary.restarts:
            for first, last in restart.slots:
                of_slot.update(slot for slot in self._cluster.hot if first <= slot <= last)
        if of_slot and max(of_slot.values()) > int(self._settings["max_restarts"]):
            self._account.breaks("budget", f"a slot was swept again {max(of_slot.values())} times")


class Commands:
    """Tasks that count: each INCRBY is done once, or raises, or may have been done."""

    def __init__(self, cluster: SimulatedCluster, account: Account, rng: Random) -> None:
        self._cluster = cluster
        self._account = account
        self._rng = rng
        self._keys = [key_in(slot, b"%b counter " % SECRET.encode()) for slot in cluster.hot]
        self.done: Counter[bytes] = Counter()
        self.unknown: Counter[bytes] = Counter()

    async def run(self, client: ClusterClient, number: int, is_over: Callable[[], bool]) -> None:
        """Until then, or until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                nursery.start_soon(self._count, client, is_over)

    async def _count(self, client: ClusterClient, is_over: Callable[[], bool]) -> None:
        while not is_over():
            await trio.sleep(self._rng.uniform(0.01, 0.3))
            key = self._rng.choice(self._keys)
            # Until there is an answer, and for good if this is cancelled, it may have been done.
            self.unknown[key] += 1
            try:
                if self._rng.random() < 0.2:
                    await client.mget(key, key)
                    self.unknown[key] -= 1
                    continue
                value = await client.incrby(key, 1)
            except CommandOutcomeUnknown:
                self._account.endings["command: outcome unknown"] += 1
                continue
            except (ServerUnavailable, RedirectionLoop) as error:
                self.unknown[key] -= 1
                self._account.endings[f"command: {type(error).__name__}"] += 1
                continue
            self.unknown[key] -= 1
            self.done[key] += 1
            self._account.counts["commands done"] += 1
            if value > self.done[key] + self.unknown[key]:
                self._account.breaks("run twice", f"a counter is {value} after {self.done[key]} of its commands")

    def judge(self, *, may_be_lost: bool) -> None:
        """What the counters are in the end."""
        for key in self._keys:
            places = self._cluster.places(slot_of(key))
            if places is None:
                continue
            value = max(int(place[key].data) if key in place else 0 for place in places)
            most = self.done[key] + self.unknown[key]
            if value > most:
                self._account.breaks("run twice", f"a counter is {value}, and {most} commands may have run")
            if value < self.done[key] and not may_be_lost and slot_of(key) not in self._cluster.torn:
                self._account.breaks("not run", f"a counter is {value}, and {self.done[key]} commands were answered")


class Subscription:
    """A subscriber to sharded channels: what is published comes once, in order, or a Gap says that it may not have."""

    def __init__(self, cluster: SimulatedCluster, account: Account, rng: Random) -> None:
        self._cluster = cluster
        self._account = account
        self._rng = rng
        self.channels = [key_in(slot, b"%b channel " % SECRET.encode()) for slot in cluster.hot]
        self._published: Counter[bytes] = Counter()
        self._heard: dict[bytes, int] = {}
        self._gaps: set[bytes] = set()
        self._is_lost: set[bytes] = set()

    async def run(self, client: ClusterClient, started: trio.Event, is_over: Callable[[], bool]) -> None:
        """Until cancelled; nothing is published any more when all else is over."""
        async with client.pubsub() as subscriber, trio.open_nursery() as nursery:
            await subscriber.ssubscribe(*self.channels)
            started.set()
            nursery.start_soon(self._publish, is_over)
            while True:
                try:
                    item = await subscriber.receive()
                except SubscriptionLost as error:
                    self._is_lost.update(error.shard_channels)
                    self._account.endings["subscription lost"] += 1
                    continue
                if isinstance(item, Gap):
                    self._account.counts["gaps"] += 1
                    self._gaps.update(item.channels)
                elif isinstance(item, Message):
                    self._received(item.channel, int(item.data))

    def _received(self, channel: bytes, number: int) -> None:
        self._account.counts["messages"] += 1
        last = self._heard.get(channel, 0)
        if number <= last:
            self._account.breaks("message twice", f"number {number} came after {last}")
        if number > last + 1 and channel not in self._gaps:
            self._account.breaks("no gap told", f"number {number} came after {last}")
        self._gaps.discard(channel)
        self._heard[channel] = number

    async def _publish(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            await trio.sleep(self._rng.uniform(0.02, 0.2))
            self._say(self._rng.choice(self.channels))

    def _say(self, channel: bytes) -> None:
        """SPUBLISH, at who has the slot: it passes it on to all of its shard."""
        owner = self._cluster.owner(slot_of(channel))
        if owner is None or not self._cluster.can_write(owner) or not owner.is_ok:
            return
        self._published[channel] += 1
        data = b"%d" % self._published[channel]
        for node in (owner, *self._cluster.bus.replicas(owner.node_id)):
            if self._cluster.bus.is_alive(node.node_id):
                node.spublish(channel, data)

    async def judge(self) -> None:
        """All has been quiet for a while: what is wanted is held, once, where it belongs, and messages come."""
        for channel in self.channels:
            self._say(channel)
        await trio.sleep(1)
        for channel in self.channels:
            owner = self._cluster.owner(slot_of(channel))
            if owner is None or channel in self._is_lost or not self._cluster.can_write(owner) or not owner.is_ok:
                continue
            if self._heard.get(channel, 0) != self._published[channel]:
                self._account.breaks("not heard", "a message did not come, after all was quiet")
            holders = [node for node in self._cluster.bus.nodes for name in node.holds() if name == channel]
            if len(holders) != 1 or holders[0].node_id not in {
                owner.node_id,
                *(node.node_id for node in self._cluster.bus.replicas(owner.node_id)),
            }:
                self._account.breaks("not held", f"a channel is held at {len(holders)} nodes, after all was quiet")
