"""A slot on its way from one master to another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from ._cluster_node import LocalClusterNode
from ._errors import CommandFailed, HarnessError
from ._wire import Reply, text

_KEYS_PER_MIGRATE = 100
_MIGRATE_MILLISECONDS = 5_000
_CONVERSATIONS = 50


class SlotMigration:
    """A migration in the legacy way, to be taken as far as a test wants. Users get instances, and make none."""

    def __init__(
        self,
        slot: int,
        source: LocalClusterNode,
        target: LocalClusterNode,
        nodes: Callable[[], Sequence[LocalClusterNode]],
    ) -> None:
        self.slot = slot
        self.source = source
        self.target = target
        # Those that can answer at the time.
        self._nodes = nodes

    async def begin(self) -> None:
        """Flag the slot on both sides; the target first, so that nobody is sent to one that does not expect it."""
        await self.target.execute("CLUSTER", "SETSLOT", self.slot, "IMPORTING", await self.source.node_id())
        await self.source.execute("CLUSTER", "SETSLOT", self.slot, "MIGRATING", await self.target.node_id())

    async def move(self, at_most: int | None = None) -> int:
        """Move so many of the slot's keys, or all of them; returns how many were moved."""
        moved = 0
        while at_most is None or moved < at_most:
            wanted = _KEYS_PER_MIGRATE if at_most is None else min(_KEYS_PER_MIGRATE, at_most - moved)
            keys = await self.source.execute("CLUSTER", "GETKEYSINSLOT", self.slot, wanted)
            names = [key for key in keys if isinstance(key, bytes)] if isinstance(keys, list) else []
            if not names:
                break
            login = self.source.login_of_peers()
            await self.source.execute(
                "MIGRATE", *self.target.address, "", 0, _MIGRATE_MILLISECONDS, *login, "KEYS", *names
            )
            moved += len(names)
        await trio.lowlevel.checkpoint()
        return moved

    async def finish(self) -> None:
        """Make the target the owner, and tell all masters. What was not moved is deleted from the source by itself."""
        target_id = await self.target.node_id()
        others = [node for node in self._nodes() if node not in (self.source, self.target)]
        for node in (self.target, self.source, *others):
            # (A look at each first, which also gives the one before it a moment to tell the others.)
            if (await node.view()).is_master:
                await _tell_if_master(node, [self.slot], target_id)

    async def cancel(self) -> None:
        """Take the flags back on both sides. The keys stay where they are: those that were moved are orphans now."""
        for node in (self.source, self.target):
            await node.execute("CLUSTER", "SETSLOT", self.slot, "STABLE")


async def move_in_bulk(
    slots: Sequence[int], source: LocalClusterNode, target: LocalClusterNode, others: Sequence[LocalClusterNode]
) -> None:
    """Move slots of one owner in the legacy way, each step for all of them at once. `others`: the masters beside."""
    source_id, target_id = await source.node_id(), await target.node_id()
    await _set_slots(target, slots, "IMPORTING", source_id)
    await _set_slots(source, slots, "MIGRATING", target_id)
    login = source.login_of_peers()
    left = list(slots)
    while left:
        found = await source.pipeline([("CLUSTER", "GETKEYSINSLOT", slot, _KEYS_PER_MIGRATE) for slot in left])
        shares: dict[int, list[bytes]] = {
            slot: [key for key in keys if isinstance(key, bytes)]
            for slot, keys in zip(left, found, strict=True)
            if isinstance(keys, list) and keys
        }
        await source.pipeline(
            [
                ("MIGRATE", *target.address, "", 0, _MIGRATE_MILLISECONDS, *login, "KEYS", *share)
                for share in shares.values()
            ]
        )
        left = [*shares]
    for node in (target, source, *others):
        await _tell_if_master(node, slots, target_id)


async def _tell_if_master(node: LocalClusterNode, slots: Sequence[int], owner: str) -> None:
    """Who owns these slots now. Only a master takes that, and a node may stop being one at any time."""
    await trio.lowlevel.checkpoint()
    problem: CommandFailed | None = None
    try:
        await _set_slots(node, slots, "NODE", owner)
    except CommandFailed as error:
        problem = error
    # (Who has lost its last slot follows the one who has it now, as soon as it hears of that.)
    if problem is not None and (await node.view()).is_master:
        raise problem


async def _set_slots(node: LocalClusterNode, slots: Sequence[int], word: str, node_id: str) -> None:
    """CLUSTER SETSLOT for all of these."""
    await trio.lowlevel.checkpoint()
    errors: list[HarnessError] = []

    async def converse(some: Sequence[int]) -> None:
        try:
            await node.pipeline([("CLUSTER", "SETSLOT", slot, word, node_id) for slot in some])
        except HarnessError as error:
            errors.append(error)
            await trio.lowlevel.checkpoint()

    # Since Valkey 8 each waits until the replicas have it: let those of several connections wait together.
    async with trio.open_nursery() as nursery:
        for first in range(min(_CONVERSATIONS, len(slots))):
            nursery.start_soon(converse, slots[first::_CONVERSATIONS])
    if errors:
        raise errors[0]


async def move_atomically(
    source: LocalClusterNode, slots: range, target_id: str
) -> Callable[[], Awaitable[str | None]]:
    """Begin CLUSTER MIGRATESLOTS; what is returned says what is missing until it is done."""
    await source.execute("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slots[0], slots[-1], "NODE", target_id)

    async def find_fault() -> str | None:
        if not (await source.view()).slots & set(slots):
            return None
        migrations = await source.execute("CLUSTER", "GETSLOTMIGRATIONS")
        states = [_state_of(migration) for migration in migrations] if isinstance(migrations, list) else []
        if states and states[0] in {"failed", "cancelled"}:
            raise CommandFailed(f"the migration has {states[0]}")
        return f"the migrations are {', '.join(states) or 'not there'}"

    return find_fault


def _state_of(migration: Reply) -> str:
    if not isinstance(migration, list):
        return ""
    words = [text(word) for word in migration]
    return words[words.index("state") + 1] if "state" in words else ""
