"""What befalls Sentinels, the network, single connections, and the consumer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from tests.simulation.schedule import Value as Setting
from tests.trio.fakes import Error, Push

from .actors import Actor
from .fault_tools import each_of, seconds_of
from .machines import CUT, STUCK, Raw
from .servers import Node

if TYPE_CHECKING:
    from tests.trio.fakes.network import Ending

    from .faults import Faults, Fire

__all__ = ["NETWORK_FAULTS"]


def _split(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The master and the client on one side, the others on the other."""
    world = f.world
    old = world.master
    others: list[Node | Actor] = [*world.actors, *(node for node in world.nodes if node is not old)]
    for other in others:
        world.cut(old, other)
    if args.get("client", "both") == "old":
        for actor in world.actors:
            actor.machine.cut_off_client()

    def heal() -> None:
        for other in others:
            world.heal(old, other)
        for actor in world.actors:
            actor.machine.heal_client()

    f.later(seconds_of(args), heal)
    return True


def _blind(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The Sentinels do not reach the master, which replicas and clients reach: it is replaced, and does not know it."""
    world = f.world
    old = world.master
    for actor in world.actors:
        world.cut(old, actor)
    if args.get("client", "both") == "old":
        for actor in world.actors:
            actor.machine.cut_off_client()

    def heal() -> None:
        for actor in world.actors:
            world.heal(old, actor)
            actor.machine.heal_client()

    f.later(seconds_of(args), heal)
    return True


def _deaf(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The client is cut off from Sentinels, and from nothing else."""
    actors = f.actors(args)
    for actor in actors:
        actor.machine.cut_off_client()
    f.later(seconds_of(args), lambda: each_of(actors, lambda actor: actor.machine.heal_client()))
    return True


def _black_hole(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The client is cut off from a server that all others reach."""
    node = f.node(args, machine)
    node.machine.cut_off_client()
    f.later(seconds_of(args), node.machine.heal_client)
    return True


def _sentinel_stop(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    actors = [actor for actor in f.actors(args) if actor.machine.runs]
    for actor in actors:
        actor.machine.hang()
    f.later(
        seconds_of(args), lambda: each_of(actors, lambda actor: actor.machine.resume() if actor.machine.up else None)
    )
    return bool(actors)


def _sentinel_kill(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    actors = [actor for actor in f.actors(args) if actor.machine.up]
    for actor in actors:
        actor.machine.kill()
    f.later(seconds_of(args), lambda: each_of(actors, lambda actor: None if actor.machine.up else actor.start()))
    return bool(actors)


def _stale(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """A Sentinel is cut off from everybody but the client: what it says gets old."""
    world = f.world
    actor = f.actors(args)[0]
    others: list[Node | Actor] = [*world.nodes, *(other for other in world.actors if other is not actor)]
    for other in others:
        world.cut(actor, other)
    f.later(seconds_of(args), lambda: each_of(others, lambda other: world.heal(actor, other)))
    return True


def _lying(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """A Sentinel names a replica as the master, under the epoch that it has."""
    actor = f.actors(args)[0]
    known = actor.monitored
    lie = next((place for place in sorted(actor.replicas)), None)
    if lie is None or actor.failover is not None:
        return False
    truth = known.master
    known.master = known.shown = lie
    f.world.knows_changed()

    def over() -> None:
        if known.master == lie and actor.master.address == truth:
            known.master, known.shown = truth, None
            f.world.knows_changed()

    f.later(seconds_of(args), over)
    return True


def _forgets(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """A Sentinel does not know the service."""
    actor = f.actors(args)[0]
    services = actor.program.services
    known = services.get(f.world.service)
    if known is None:
        return False
    program = actor.program
    before = program._answer_of_its_own

    def answer(*words: str) -> Any:
        if words[0] == "MYID":
            return before(*words)
        return None if words[0].startswith("GET") else Error("ERR No such master with that name")

    program._answer_of_its_own = answer  # type: ignore[method-assign]  # taken back below
    f.later(seconds_of(args), lambda: program.__dict__.pop("_answer_of_its_own", None))
    return True


def _noise(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """Events that say nothing new, of another service, in the wrong order, or make no sense."""
    rng, name = f.rng, f.world.service
    for actor in f.world.actors:
        for _ in range(4):
            host = f"10.0.0.{rng.randrange(1, 5)}"
            actor.say(
                rng.choice(["+switch-master", "+switch-master", "+reboot", "+sdown", "+slave", "-monitor"]),
                rng.choice(
                    [
                        f"{name} 10.0.0.1 6379 {host} 6379",
                        f"{name} {host} 6379 10.0.0.1 6379",
                        f"other 10.0.0.1 6379 {host} 6379",
                        f"{name} garbage",
                        "",
                        f"slave {host}:6379 {host} 6379 @ {name} 10.0.0.1 6379",
                        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
                    ]
                ),
            )
    return True


def _slow(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """Everything that it says takes its time."""
    node = f.node(args, machine)
    before = node.machine.latency
    node.machine.latency = 0.2

    def over() -> None:
        node.machine.latency = before

    f.later(seconds_of(args), over)
    return True


def _slices(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """What comes from there comes in small pieces, on connections that are there and on new ones."""
    target = f.node(args, machine).machine
    target.slice = int(args.get("size", 1))
    for wire in target.open_wires:
        wire.client_end.slice = target.slice

    def over() -> None:
        target.slice = None
        for wire in target.open_wires:
            wire.client_end.slice = None

    f.later(seconds_of(args), over)
    return True


def _full(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """No more connections are taken; the one that is there is dropped."""
    target = f.node(args, machine).machine
    target.turns_away = b"-ERR max number of clients reached\r\n"
    target.drop_clients()

    def over() -> None:
        target.turns_away = None

    f.later(seconds_of(args), over)
    return True


def _client_kill(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    f.node(args, machine).machine.drop_clients(cast("Ending", args.get("how", "end")))
    return True


def _drops(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The connection is dropped again and again, each time after a while."""
    target = f.node(args, machine).machine
    left = int(args.get("times", 5))

    def again(left: int) -> None:
        target.drop_clients("reset")
        if left > 1:
            f.later(seconds_of(args) / 10, lambda: again(left - 1))

    again(left)
    return True


def _cut(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The reply breaks off in the middle."""
    return CUT if machine is not None and session is not None else False


def _stuck(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """Half open: the connection is there, and nothing comes any more."""
    return STUCK if machine is not None and session is not None else False


def _garbage(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    if f.reader.is_iteration:
        # What makes no sense of a command's reply is redis-py's to say.
        return False
    choices = [b"HTTP/1.1 400\r\n\r\n", b"$-5\r\n", b"*2\r\n:1\r\n$3\r\nabc\r\n", b"\0\0\0", b"+OK\r\n", b"*0\r\n"]
    return (
        Raw(choices[int(args.get("which", 0)) % len(choices)]) if machine is not None and session is not None else False
    )


def _pushes(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The server says something by itself, in between."""
    if session is None or session.protocol != 3:
        return False
    session.push(Push([b"invalidate", [b"x"]]))
    return True


def _pause(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The consumer is busy for minutes."""
    f.reader.pause += float(args.get("seconds", 60.0)) * 10
    return True


def _jump(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The clock jumps: a machine that slept, a day later."""
    clock: Any = trio.lowlevel.current_clock()
    seconds = float(args.get("hours", 24)) * 3600
    clock.jump(seconds)
    f.world.jumped += seconds
    return True


NETWORK_FAULTS: Final[dict[str, Fire]] = {
    "split": _split,
    "blind": _blind,
    "deaf": _deaf,
    "black-hole": _black_hole,
    "sentinel-stop": _sentinel_stop,
    "sentinel-kill": _sentinel_kill,
    "stale-sentinel": _stale,
    "lying-sentinel": _lying,
    "forgetful-sentinel": _forgets,
    "noise": _noise,
    "slow": _slow,
    "slices": _slices,
    "maxclients": _full,
    "client-kill": _client_kill,
    "drops": _drops,
    "cut": _cut,
    "stuck": _stuck,
    "garbage": _garbage,
    "push": _pushes,
    "pause": _pause,
    "clock-jump": _jump,
}
