"""Who has which slot, who is to have it, and slots that nobody is to have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import trio

from ._cluster_node import SLOTS, LocalClusterNode, slot_of

Owners = Mapping[int, LocalClusterNode]


async def owners_by(masters: Sequence[LocalClusterNode]) -> Owners:
    """Who has which slot, by these masters' own word."""
    await trio.lowlevel.checkpoint()
    return {slot: node for node in masters for slot in (await node.view()).slots}


def slots_by_owner(owners: Owners, slots: Iterable[int]) -> dict[LocalClusterNode, list[int]]:
    """Which of these slots each has.

    Raises:
        ValueError: nobody has one of them.

    """
    shares: dict[LocalClusterNode, list[int]] = {}
    for slot in sorted(set(slots)):
        shares.setdefault(_owner(owners, slot), []).append(slot)
    return shares


def keys_by_owner(owners: Owners, keys: Iterable[bytes]) -> dict[LocalClusterNode, list[bytes]]:
    """Which of these keys are each one's.

    Raises:
        ValueError: nobody has the slot of one of them.

    """
    shares: dict[LocalClusterNode, list[bytes]] = {}
    for key in keys:
        shares.setdefault(_owner(owners, slot_of(key)), []).append(key)
    return shares


def even_share(owners: Owners, node: LocalClusterNode) -> list[int]:
    """The slots that the others have beyond an even share, their last ones, up to what `node` lacks of it."""
    share = SLOTS // len({*owners.values(), node})
    held = slots_by_owner(owners, owners)
    lacking = share - len(held.pop(node, []))
    return [slot for slots in held.values() for slot in slots[share:]][: max(0, lacking)]


async def find_fault_in_forgetting(
    masters: Sequence[LocalClusterNode], nodes: Sequence[LocalClusterNode], slots: Collection[int]
) -> str | None:
    """Tell all who think that somebody has one of these slots that nobody has; say who thought so.

    The masters first: what they still claim, the others would take down again.
    """
    await trio.lowlevel.checkpoint()
    fault: str | None = None
    for node in [*masters, *(node for node in nodes if node not in masters)]:
        held = sorted(slot for view in (await node.views()).values() for slot in view.slots.intersection(slots))
        if held:
            fault = f"{node!r} had not forgotten yet who has {len(held)} of the slots"
            await node.give_up_slots(held)
    return fault


def _owner(owners: Owners, slot: int) -> LocalClusterNode:
    if slot not in owners:
        raise ValueError(f"slot {slot} has no owner")
    return owners[slot]
