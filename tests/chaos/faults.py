"""What befalls the servers, and what befalls the network between them and the client.

Of the servers' faults there is one at a time, and all is whole again before the next one: two at once may take away
what nobody can bring back. The network's come beside it, several at once.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import trio

from tests.chaos.arenas import CLIENT_NAME, DOWN_AFTER, PATIENCE, Arena, ClusterArena, SentinelArena, some_of
from tests.real.cluster_scenes import can_move_atomically
from trio_sentinel_scan.testing import CommandFailed, LocalClusterNode, LocalRedis, LocalServer, ServerNotRunning

Befall = Callable[[Any, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One kind of fault. `loses`: what was answered just before it may be gone, by the servers' own doing."""

    name: str
    befall: Befall
    loses: bool = False
    # Whether another process is the master afterwards though nothing may be lost.
    replaces: bool = False
    # Whether a master that is replaced was killed: what others passed on last may come from their successor as well.
    kills: bool = False
    possible: Callable[[Any], bool] = lambda arena: True


async def _master(arena: Arena, dice: random.Random) -> LocalRedis:
    """One of the masters."""
    return dice.choice(list(await arena.masters()))


async def _replica(arena: Arena, dice: random.Random) -> LocalRedis:
    """One of the replicas."""
    masters = await arena.masters()
    return dice.choice([node for node in arena.nodes if node not in masters])


async def _until_replaced(arena: Arena, old: LocalRedis) -> None:
    if isinstance(arena, SentinelArena):
        await arena.service.wait_for_new_master(old)
    elif isinstance(arena, ClusterArena):
        assert isinstance(old, LocalClusterNode)
        await arena.cluster.wait_for_new_master(old)


# ---- the servers' -----------------------------------------------------------------------------------------------


async def kill_master(arena: Arena, dice: random.Random) -> None:
    """SIGKILL; it comes back once another one has its place."""
    old = await _master(arena, dice)
    await old.kill()
    await _until_replaced(arena, old)
    await trio.sleep(dice.choice([0.0, 0.5]))
    # (Were it there before, it would be the master still, of what was on its disk.)
    await old.start()


async def pause_master(arena: Arena, dice: random.Random) -> None:
    """SIGSTOP until another one has its place, and then SIGCONT: it goes on as the master that it thinks it is."""
    old = await _master(arena, dice)
    await old.pause()
    try:
        await _until_replaced(arena, old)
        await trio.sleep(dice.choice([0.0, 0.5]))
    finally:
        await old.resume()  # noqa: ASYNC102 (cancelled, all servers are being ended)


async def blink(arena: Arena, dice: random.Random) -> None:
    """A server stands still for less than it takes to be called dead."""
    node = dice.choice([await _master(arena, dice), *arena.nodes])
    await node.pause()
    try:
        await trio.sleep(dice.uniform(0.1, 0.5) * DOWN_AFTER)
    finally:
        await node.resume()  # noqa: ASYNC102 (cancelled, all servers are being ended)


async def client_pause(arena: Arena, dice: random.Random) -> None:
    """CLIENT PAUSE: a master holds back all commands for a moment, and runs them then."""
    node = await _master(arena, dice)
    await node.execute("CLIENT", "PAUSE", round(1000 * dice.uniform(0.1, 0.5) * DOWN_AFTER))


async def restart_master(arena: Arena, dice: random.Random) -> None:
    """On the same port, with its data: another process, of which nobody tells."""
    await (await _master(arena, dice)).restart()


async def kill_replica(arena: Arena, dice: random.Random) -> None:
    """SIGKILL, and again on the same port."""
    replica = await _replica(arena, dice)
    await replica.kill()
    await trio.sleep(dice.choice([0.0, 0.3, 3.0]))
    await replica.start()


async def planned(arena: Arena, dice: random.Random) -> None:
    """SENTINEL FAILOVER, or CLUSTER FAILOVER."""
    if isinstance(arena, SentinelArena):
        await arena.service.failover()
    elif isinstance(arena, ClusterArena):
        await arena.cluster.failover(dice.choice(await arena.cluster.masters()))


async def failover_command(arena: SentinelArena, dice: random.Random) -> None:
    """FAILOVER, behind the Sentinels' backs, and back again before they put a master in the place of the one."""
    old = await arena.service.master()
    new = dice.choice([node for node in arena.nodes if node is not old])
    for source, target in ((old, new), (new, old)):
        with suppress(CommandFailed, ServerNotRunning):
            await source.execute("FAILOVER", "TO", *target.address, "TIMEOUT", 5000)
            with trio.move_on_after(6):
                while await _role(target) != "master":  # noqa: ASYNC110 (it happens in another process)
                    await trio.sleep(0.01)
        await trio.sleep(dice.choice([0.2, 1.0]))


async def _role(node: LocalRedis) -> str | None:
    with suppress(CommandFailed, ServerNotRunning):
        return await node.role()
    await trio.lowlevel.checkpoint()
    return None


async def sentinels_down(arena: SentinelArena, dice: random.Random) -> None:
    """Some of the Sentinels are killed or stand still, now and then all of them."""
    some: list[LocalServer] = some_of(dice, arena.service.sentinel_nodes, 3)
    dead = dice.random() < 0.5
    for node in some:
        await (node.kill() if dead else node.pause())
    try:
        await trio.sleep(dice.uniform(0.2, 4.0))
    finally:
        for node in some:
            await (node.start() if dead else node.resume())  # noqa: ASYNC102 (cancelled, all servers are being ended)


async def _two_masters(arena: ClusterArena, dice: random.Random) -> tuple[LocalClusterNode, LocalClusterNode]:
    source, target = dice.sample(await arena.cluster.masters(), 2)
    return source, target


async def reshard(arena: ClusterArena, dice: random.Random) -> None:
    """Many slots at once to another master, in the legacy way."""
    source, target = await _two_masters(arena, dice)
    slots = sorted((await source.view()).slots)
    begin = dice.randrange(len(slots))
    await arena.cluster.migrate_slots(slots[begin : begin + dice.choice([10, 100, 500])], to=target)


async def migrate_by_steps(arena: ClusterArena, dice: random.Random) -> None:
    """One slot after the other, each for a while half on the one side and half on the other."""
    source, target = await _two_masters(arena, dice)
    slots = sorted((await source.view()).slots)
    for slot in dice.sample(slots, min(8, len(slots))):
        migration = await arena.cluster.begin_migration(slot, target)
        await migration.move(1)
        await trio.sleep(dice.choice([0.0, 0.1, 0.5, 2.0]))
        await migration.move()
        await migration.finish()


async def fail_over_half_way(arena: ClusterArena, dice: random.Random) -> None:
    """CLUSTER FAILOVER of a slot's source, half of whose keys are at the target.

    Whoever asks the new owner for a key that has moved hears that there is none; so it is a slot that nobody writes to.
    """
    cluster = arena.cluster
    slot = dice.choice(arena.quiet_slots)
    source = await cluster.owner(slot)
    target = dice.choice([node for node in await cluster.masters() if node is not source])
    await (await cluster.begin_migration(slot, target)).move(50)
    await trio.sleep(dice.choice([0.0, 0.5]))
    (new,) = await cluster.replicas(source)
    await _take_over(new, target)
    await trio.sleep(dice.choice([0.0, 1.0, 3.0]))
    # One that takes a slot in does not believe others about it: to it the slot has no owner now, and all is down.
    await target.execute("CLUSTER", "SETSLOT", slot, "NODE", await new.node_id())
    await cluster.wait_until_ready()
    migration = await cluster.begin_migration(slot, target)
    await migration.move()
    await migration.finish()


async def _take_over(replica: LocalClusterNode, witness: LocalClusterNode) -> None:
    """CLUSTER FAILOVER, again where it came to nothing in five seconds, until another node knows of it."""
    replica_id = await replica.node_id()
    ask_again_at = 0.0
    with trio.move_on_after(PATIENCE):
        while not (view := (await witness.views()).get(replica_id)) or not view.is_master:
            if trio.current_time() >= ask_again_at:
                with suppress(CommandFailed):
                    await replica.execute("CLUSTER", "FAILOVER")
                ask_again_at = trio.current_time() + 6
            await trio.sleep(0.01)
        return
    raise CommandFailed("a replica does not take over")


async def kill_beside_a_move(arena: ClusterArena, dice: random.Random) -> None:
    """Slots move from one master to another, and a third one is killed. (It hears of the move when it is back.)"""
    source, target, third = dice.sample(await arena.cluster.masters(), 3)
    slots = dice.sample(sorted((await source.view()).slots), 8)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_move_all, arena, slots, target)
        await third.kill()
        await arena.cluster.wait_for_new_master(third)
    await third.start()


async def _move_all(arena: ClusterArena, slots: Sequence[int], target: LocalClusterNode) -> None:
    for slot in slots:
        # The last step, which tells all masters, meets one that is not there.
        with suppress(CommandFailed, ServerNotRunning):
            await arena.cluster.migrate_slot(slot, target)


async def migrate_atomically(arena: ClusterArena, dice: random.Random) -> None:
    """A range of slots, by MIGRATESLOTS."""
    source, target = await _two_masters(arena, dice)
    slots = sorted((await source.view()).slots)
    first = dice.choice(slots)
    last = first
    while last + 1 in set(slots) and last - first < 500:
        last += 1
    await arena.cluster.migrate_slots_atomically(range(first, last + 1), target)


async def isolate(arena: ClusterArena, dice: random.Random) -> None:
    """A master is cut off from all other nodes, but not from the client, until its replica has its place."""
    old = dice.choice(await arena.cluster.masters())
    await arena.cluster.isolate(old)
    try:
        await arena.cluster.wait_for_new_master(old)
        await trio.sleep(dice.choice([0.0, 1.0]))
    finally:
        await arena.cluster.rejoin(old)  # noqa: ASYNC102 (cancelled, all servers are being ended)


# ---- the network's ----------------------------------------------------------------------------------------------


async def client_kill(arena: Arena, dice: random.Random) -> None:
    """The servers close connections of the client's."""
    for _ in range(dice.randint(1, 5)):
        for node in arena.nodes:
            if node.running and not node.paused:
                with suppress(CommandFailed, ServerNotRunning):
                    await _kill_clients(node)
        await trio.sleep(dice.uniform(0.0, 0.3))


async def _kill_clients(node: LocalRedis) -> None:
    """Not those of this program, which has questions of its own."""
    listed = await node.execute("CLIENT", "LIST")
    assert isinstance(listed, bytes)
    for line in listed.decode().splitlines():
        client = {name: value for name, _, value in (word.partition("=") for word in line.split())}
        if client.get("name") == CLIENT_NAME:
            with suppress(CommandFailed):  # It may be gone.
                await node.execute("CLIENT", "KILL", "ID", client["id"])
    await trio.lowlevel.checkpoint()


async def cut(arena: Arena, dice: random.Random) -> None:
    """Connections are broken (RST)."""
    for _ in range(dice.randint(1, 5)):
        for proxy in some_of(dice, arena.proxies, 4):
            proxy.reset_all()
        await trio.sleep(dice.uniform(0.0, 0.3))


async def refuse(arena: Arena, dice: random.Random) -> None:
    """Some servers refuse every connection of the client's."""
    proxies = some_of(dice, arena.proxies, len(arena.proxies))
    for proxy in proxies:
        proxy.refuse()
    await trio.sleep(dice.uniform(0.1, 3.0))
    for proxy in proxies:
        proxy.admit()


async def black_hole(arena: Arena, dice: random.Random) -> None:
    """Nothing passes between the client and some servers, and no connection ends."""
    proxies = some_of(dice, arena.proxies, len(arena.proxies))
    for proxy in proxies:
        proxy.swallow()
    await trio.sleep(dice.uniform(0.1, 5.0))
    for proxy in proxies:
        proxy.pass_on()


async def slow(arena: Arena, dice: random.Random) -> None:
    """Everything takes its time."""
    proxies = some_of(dice, arena.proxies, len(arena.proxies))
    for proxy in proxies:
        proxy.slowness = dice.choice([0.005, 0.02, 0.1])
    await trio.sleep(dice.uniform(0.5, 3.0))
    for proxy in proxies:
        proxy.slowness = 0.0


def _keeps_migrations(arena: ClusterArena) -> bool:
    return arena.binary.product == "valkey" and arena.binary.version_info >= (8,)


def _can_migrate_atomically(arena: ClusterArena) -> bool:
    return can_move_atomically(arena.cluster)


EVERYWHERE: Final = (
    Fault("kill a master", kill_master, loses=True, kills=True),
    Fault("pause a master until it is replaced", pause_master, loses=True),
    Fault("pause for a moment", blink),
    Fault("CLIENT PAUSE", client_pause),
    Fault("restart a master on the same port", restart_master, loses=True, kills=True),
    Fault("kill and start a replica", kill_replica),
)
WITH_SENTINELS: Final = (
    *EVERYWHERE,
    Fault("SENTINEL FAILOVER", planned, loses=True),
    Fault("FAILOVER and back", failover_command),
    Fault("Sentinels down", sentinels_down),
)
IN_A_CLUSTER: Final = (
    *EVERYWHERE,
    Fault("CLUSTER FAILOVER", planned, replaces=True),
    Fault("many slots move", reshard),
    Fault("slots move step by step", migrate_by_steps),
    Fault(
        "the source of a slot fails over half way",
        fail_over_half_way,
        replaces=True,
        # Others forget that it moves, and may not become whole again by what this does.
        possible=_keeps_migrations,
    ),
    Fault("slots move while another master is killed", kill_beside_a_move, loses=True, kills=True),
    Fault("slots move atomically", migrate_atomically, possible=_can_migrate_atomically),
    Fault("a master cut off from the others", isolate, loses=True),
)
OF_THE_NETWORK: Final = (
    Fault("CLIENT KILL", client_kill),
    Fault("connections reset", cut),
    Fault("connections refused", refuse),
    Fault("black hole", black_hole),
    Fault("slow network", slow),
)


def of_the_servers(arena: Arena) -> Sequence[Fault]:
    """Those that there are of this deployment, on this version."""
    faults = IN_A_CLUSTER if arena.is_cluster else WITH_SENTINELS
    return [fault for fault in faults if fault.possible(arena)]
