"""A subscriber and a watcher of the topology while chaos goes on, and whether they were told all that they should."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Collection
from typing import Any, Final

import trio
from redis.exceptions import RedisError

from tests.chaos.arenas import FAILOVER_TIMEOUT, Arena, SentinelArena, until_true
from tests.chaos.report import Account
from trio_sentinel_scan import (
    CommandOutcomeUnknown,
    EventsMissed,
    Gap,
    MasterChange,
    Message,
    SentinelScanError,
    ServerUnavailable,
    SubscriptionLost,
    TopologyEvent,
)

# How long a subscriber may take to receive again, once all is well.
PATIENCE: Final = 120.0
_PAUSE: Final = 0.005
# Seconds before and after a gap in which nothing is expected of a sharded channel: when a master that lives on is
# replaced by its replica, the two do not always pass on what is published at the other, or do so late.
_HANDING_OVER: Final = 1.0


class Channel:
    """Numbers, published one after the other, and what was received of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.published = 0
        # Numbers whose PUBLISH was answered. Of the others nothing is expected.
        self.sent: list[int] = []
        # When each was published, and when there were gaps: from, and to.
        self.sent_at: dict[int, float] = {}
        self.gaps: list[tuple[float, float]] = []
        # Since the last check. None: the subscription was given up, and begun anew.
        self.heard: list[int | Gap | None] = []
        self.last = 0

    def is_beside_a_gap(self, number: int) -> bool:
        """Whether it was published while a master may have been handing over."""
        at = self.sent_at.get(number, 0.0)
        return any(began - _HANDING_OVER < at < ended + _HANDING_OVER for began, ended in self.gaps)


class Listening:
    """A subscriber of plain channels behind Sentinels, of sharded ones in a cluster."""

    def __init__(self, arena: Arena, client: Any, account: Account) -> None:
        self._client = client
        self._account = account
        self._sharded = arena.is_cluster
        # (A cluster passes plain messages on over its bus, from which any may be lost without a word.)
        self.is_possible = not arena.is_cluster or arena.binary.version_info >= (7,)
        names = [f"radio:{number}" for number in range(6)] if self._sharded else ["radio"]
        self._channels = {name: Channel(name) for name in names}
        # Why subscriptions were given up since the last check.
        self._reasons: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        if not self.is_possible:
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            for channel in self._channels.values():
                nursery.start_soon(self._publish, channel)
            nursery.start_soon(self._follow)

    async def _follow(self) -> None:
        while True:
            try:
                async with self._client.pubsub() as subscriber:
                    await (subscriber.ssubscribe if self._sharded else subscriber.subscribe)(*self._channels)
                    await self._receive(subscriber)
            except ServerUnavailable as error:
                # As with what is sharded, but that the whole subscriber has come to its end.
                self._given_up(self._channels, error)
                await trio.sleep(0.1)
            except Exception:  # noqa: BLE001 (whatever it is: a subscriber survives)
                self._account.found("a subscriber ended", traceback.format_exc())
                return

    async def _receive(self, subscriber: Any) -> None:
        while True:
            try:
                self._take(await subscriber.receive())
            except SubscriptionLost as error:
                # No node took it within `failover_timeout`. That is told, and so may be begun anew.
                names = {name.decode() for name in error.shard_channels}
                self._given_up(names, error)
                await self._begin_anew(subscriber, names)

    def _given_up(self, names: Collection[str], why: Exception) -> None:
        self._account.messages["subscriptions given up"] += 1
        self._reasons.append(str(why))
        for name in names:
            self._channels[name].heard.append(None)

    async def _begin_anew(self, subscriber: Any, names: Collection[str]) -> None:
        while True:
            try:
                await subscriber.ssubscribe(*names)
            except (SentinelScanError, RedisError):
                await trio.sleep(0.1)
            else:
                return

    def _take(self, item: Message | Gap) -> None:
        if isinstance(item, Message):
            self._account.messages["received"] += 1
            channel = self._channels[item.channel.decode()]
            channel.last = int(item.data)
            channel.heard.append(channel.last)
            return
        self._account.messages["gaps told"] += 1
        named = {name.decode() for name in item.channels}
        for channel in self._channels.values():
            if not named or channel.name in named:
                channel.heard.append(item)
                channel.gaps.append((item.began, item.ended))

    async def _publish(self, channel: Channel) -> None:
        publish = self._client.spublish if self._sharded else self._client.publish
        while True:
            channel.published = this = channel.published + 1
            channel.sent_at[this] = trio.current_time()
            try:
                await publish(channel.name, this)
            except CommandOutcomeUnknown:
                self._account.messages["of unknown fate"] += 1
            except SentinelScanError:
                self._account.messages["not published"] += 1
            except Exception:  # noqa: BLE001 (whatever it is, it is not to be)
                self._account.found("a PUBLISH ended in an error of no type of ours", traceback.format_exc())
            else:
                self._account.messages["published"] += 1
                channel.sent.append(this)
            await trio.sleep(_PAUSE)

    async def check(self, *, hands_over: bool, outage: float) -> None:
        """All is well again: each channel receives, and nothing was missing but at a gap.

        `hands_over`: a master that lives on may have been replaced by its replica since the last check; `outage`: for
        how many seconds there may have been no server to subscribe to.
        """
        if not self.is_possible:
            await trio.lowlevel.checkpoint()
            return
        reasons, self._reasons = self._reasons, []
        if reasons and outage < FAILOVER_TIMEOUT:
            self._account.found("a subscription was given up too soon", f"{outage:.1f} seconds, {reasons}")
        for channel in self._channels.values():
            since = channel.published
            if not await until_true(lambda channel=channel, since=since: channel.last > since, PATIENCE):
                self._account.found("a channel does not receive again", f"{PATIENCE} seconds after all was well")
                continue
            self._check_order(channel, is_loose=hands_over and self._sharded)

    def _check_order(self, channel: Channel, *, is_loose: bool) -> None:
        heard, channel.heard = channel.heard, []
        if is_loose:
            beside = [item for item in heard if isinstance(item, int) and channel.is_beside_a_gap(item)]
            self._account.messages["twice beside a failover"] += len(beside) - len(set(beside))
            heard = [item for item in heard if not (isinstance(item, int) and channel.is_beside_a_gap(item))]
        numbers = [item for item in heard if isinstance(item, int)]
        so_far = [0, *itertools.accumulate(numbers, max)]
        if disordered := [at for at, number in enumerate(numbers) if number <= so_far[at]]:
            at = disordered[0]
            known = "answered" if numbers[at] in channel.sent else "of unknown fate"
            around = heard[max(0, heard.index(numbers[at - 1]) - 3) :][:10]
            self._account.found(
                "a message came twice, or out of order",
                f"{channel.name}: {numbers[at]} ({known}), in {list(map(str, around))}",
            )
        sent, channel.sent = channel.sent, []
        before: int | None = None
        for item in heard:
            if isinstance(item, int) and before is not None:
                skipped = [number for number in sent if before < number < item]
                if is_loose:
                    skipped = [number for number in skipped if not channel.is_beside_a_gap(number)]
                if skipped:
                    self._account.found("messages are missing, and no gap says so", f"{len(skipped)} before {item}")
            before = item if isinstance(item, int) else None
        # What comes next is to follow on this.
        channel.heard = heard[-1:]
        channel.sent = [number for number in sent if number > channel.last]
        channel.sent_at = {number: at for number, at in channel.sent_at.items() if number >= channel.last}
        channel.gaps = channel.gaps[-1:]


class Watcher:
    """A reader of the topology's events; there are none of a cluster."""

    def __init__(self, arena: Arena, client: Any, account: Account) -> None:
        self._arena = arena
        self._client = client
        self._account = account
        self._epoch = 0
        self._state: Any = None

    async def run(self) -> None:
        """Until cancelled."""
        if not isinstance(self._arena, SentinelArena):
            await trio.sleep_forever()
        async with self._client.open_topology() as events:
            self._state = lambda: events.state
            async for event in events:
                self._take(event)

    def _take(self, event: TopologyEvent | EventsMissed) -> None:
        if not isinstance(event, MasterChange):
            return
        self._account.master_changes_told += 1
        if event.config_epoch < self._epoch:
            self._account.found("a config epoch went back", f"from {self._epoch} to {event.config_epoch}")
        self._epoch = event.config_epoch

    async def check(self) -> None:
        """All is well again: it comes to know the master that there is."""
        if not isinstance(self._arena, SentinelArena):
            await trio.lowlevel.checkpoint()
            return
        (master,) = await self._arena.masters()
        if not await until_true(lambda: self._state().master.address == master.address, PATIENCE):
            self._account.found("the topology names another master", f"{PATIENCE} seconds after all was well")
