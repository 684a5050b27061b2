"""What can befall a service: each class of faults, as a function of the world. It says whether it took effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import trio

from tests.simulation.runner import SECRET
from tests.simulation.schedule import Fault, Value as Setting
from tests.trio.fakes import Error, Push, Value
from tests.trio.fakes.data_server import Session, User

from .deployment import Deployment, key_of
from .machines import CUT, STUCK, Machine, Raw
from .reader import Reader
from .sentinels import Actor
from .servers import Node, SimServer

if TYPE_CHECKING:
    from tests.trio.fakes.network import Ending

__all__ = ["CLASSES", "TRIGGERS", "Faults", "default_args", "draw_args"]

# When a fault can come: at a time, or at the n-th time that this happens.
TRIGGERS: Final = (
    "time",
    # A SCAN comes; is answered (the reply is on its way); comes with cursor 0; is answered with cursor 0.
    "scan",
    "scanned",
    "first",
    "last",
    # The consumer takes a page; the certificate is drawn up.
    "taken",
    "certificate",
    # A server is promoted; a Sentinel says +switch-master; the client connects to a data server.
    "promotion",
    "switch",
    "connect",
)

T = TypeVar("T")
Fire = Callable[["Faults", Mapping[str, Setting], "Machine[Any] | None", "Session | None"], object]


def _seconds(args: Mapping[str, Setting]) -> float:
    return float(args.get("seconds", 5.0))


def _each(things: Sequence[T], call: Callable[[T], object]) -> None:
    for thing in things:
        call(thing)


class Faults:
    """The faults of one schedule, waiting for their moments."""

    def __init__(self, world: Deployment, reader: Reader, faults: tuple[Fault, ...]) -> None:
        self.world = world
        self.reader = reader
        self.rng = Random(f"faults {world.rng.random()}")
        self._waiting: dict[str, list[list[Any]]] = {}
        self._firing = False
        for fault in faults:
            if fault.trigger == "time":
                world.agenda.at(trio.current_time() + fault.at, lambda fault=fault: self._fire(fault, None, None))  # type: ignore[misc]  # mypy knows no defaults of lambdas
            else:
                self._waiting.setdefault(fault.trigger, []).append([int(fault.at), fault])
        world.on_trigger = self.happened

    def happened(self, trigger: str, machine: Machine[Any] | None, session: Session | None) -> object:
        """One more of these; what is to come in place of a reply, if anything."""
        instead: object = None
        for entry in self._waiting.get(trigger, ()):
            entry[0] -= 1
            # (What a fault brings about may be a trigger, but not while it is at it.)
            if entry[0] == 0:
                instead = self._fire(entry[1], machine, session) or instead
        return instead

    def _fire(self, fault: Fault, machine: Machine[Any] | None, session: Session | None) -> object:
        done = CLASSES[fault.name](self, fault.args, machine, session)
        self.world.befallen = True
        if done is not None and done is not False and self.reader.active:
            self.world.account.took_effect(fault.name)
            self.world.account.trace(f"{trio.current_time():.6f} {fault.name}")
        return None if done is True or done is False else done

    # ---- whom ------------------------------------------------------------------------------------------------------

    def node(self, args: Mapping[str, Setting], machine: Machine[Any] | None) -> Node:
        """Whom it befalls: the master, the server of the moment, or one of the replicas."""
        on = args.get("on", "master")
        if on == "here" and machine is not None and isinstance(machine.program, SimServer):
            node = machine.program.node
            assert node is not None
            return node
        if on == "replica":
            replicas = [node for node in self.world.nodes if not node.is_master and node.machine.up]
            if replicas:
                return replicas[int(args.get("which", 0)) % len(replicas)]
        return self.world.master

    def actors(self, args: Mapping[str, Setting]) -> list[Actor]:
        """Some of the Sentinels: "all", or the n-th."""
        which = args.get("which", 0)
        actors = self.world.actors
        return list(actors) if which == "all" else [actors[int(which) % len(actors)]]

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self.world.agenda.after(seconds, call)

    def kill(self, node: Node, how: str = "end") -> bool:
        if not node.machine.up:
            return False
        node.machine.kill(cast("Ending", how))
        node.died()
        return True

    def start(self, node: Node, args: Mapping[str, Setting]) -> None:
        if not node.machine.up:
            node.start(str(args.get("keeps", "all")), float(args.get("loading", 0.0)))

    def fail_over(self, *, coordinated: bool = False) -> bool:
        """SENTINEL FAILOVER."""
        for actor in self.world.actors:
            if actor.usable and actor.failover is None and actor.replicas:
                actor.start_failover(forced=True, coordinated=coordinated)
                return True
        return False


# ---- the classes ---------------------------------------------------------------------------------------------------


def _kill(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    node = f.node(args, machine)
    done = f.kill(node, str(args.get("how", "end")))
    if done and float(args.get("back", 0)):
        f.later(float(args["back"]), lambda: f.start(node, args))
    return done


def _restart(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    node = f.node(args, machine)
    if not f.kill(node, str(args.get("how", "end"))):
        return False
    f.start(node, args)
    return True


def _restart_with(keeps: str) -> Fire:
    def restart(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
        return _restart(f, {**args, "keeps": keeps}, machine, session)

    return restart


def _loading(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    return _restart(f, {**args, "loading": _seconds(args)}, machine, session)


def _stop(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    node = f.node(args, machine)
    if not node.machine.runs:
        return False
    node.machine.hang()
    if node.is_master:
        f.later(60.0, lambda: _each(f.world.nodes, Node.check_link))
    f.later(_seconds(args), node.machine.resume)
    return True


def _planned(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    return f.fail_over()


def _coordinated(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    return f.fail_over(coordinated=True)


def _replica_to_promote(f: Faults, old: Node) -> Node | None:
    fit = [
        n
        for n in f.world.nodes
        if not n.is_master and n.usable and n.program.link == "connected" and n in old.followers
    ]
    return fit[0] if fit else None


def _handover(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    old = f.world.master
    new = _replica_to_promote(f, old)
    if new is None or not old.usable:
        return False
    f.world.hand_over(old, new)
    return True


def _twice(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """There and back: by hand on the servers, which the Sentinels find out later."""
    old = f.world.master
    new = _replica_to_promote(f, old)
    if new is None or not old.usable:
        return False
    f.world.hand_over(old, new)

    def back() -> None:
        if old.program.link == "connected" and not old.is_master and new.is_master and old in new.followers:
            f.world.hand_over(new, old)

    f.later(_seconds(args), back)
    return True


def _storm(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The master is restarted again and again."""
    left = int(args.get("times", 6))

    def again(left: int) -> None:
        node = f.world.master
        if f.kill(node):
            f.start(node, args)
        if left > 1:
            f.later(_seconds(args), lambda: again(left - 1))

    again(left)
    return True


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

    f.later(_seconds(args), heal)
    return True


def _deaf(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The client is cut off from Sentinels, and from nothing else."""
    actors = f.actors(args)
    for actor in actors:
        actor.machine.cut_off_client()
    f.later(_seconds(args), lambda: _each(actors, lambda actor: actor.machine.heal_client()))
    return True


def _black_hole(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The client is cut off from a server that all others reach."""
    node = f.node(args, machine)
    node.machine.cut_off_client()
    f.later(_seconds(args), node.machine.heal_client)
    return True


def _sentinel_stop(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    actors = [actor for actor in f.actors(args) if actor.machine.runs]
    for actor in actors:
        actor.machine.hang()
    f.later(_seconds(args), lambda: _each(actors, lambda actor: actor.machine.resume() if actor.machine.up else None))
    return bool(actors)


def _sentinel_kill(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    actors = [actor for actor in f.actors(args) if actor.machine.up]
    for actor in actors:
        actor.machine.kill()
    f.later(_seconds(args), lambda: _each(actors, lambda actor: None if actor.machine.up else actor.start()))
    return bool(actors)


def _stale(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """A Sentinel is cut off from everybody but the client: what it says gets old."""
    world = f.world
    actor = f.actors(args)[0]
    others: list[Node | Actor] = [*world.nodes, *(other for other in world.actors if other is not actor)]
    for other in others:
        world.cut(actor, other)
    f.later(_seconds(args), lambda: _each(others, lambda other: world.heal(actor, other)))
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

    f.later(_seconds(args), over)
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
    f.later(_seconds(args), lambda: program.__dict__.pop("_answer_of_its_own", None))
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


def _resync(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """A replica has to be filled anew."""
    node = f.node({**args, "on": "replica"}, machine)
    master = f.world.node_at(node.program.master)
    if node.is_master or not node.machine.up or master is None:
        return False
    node.replid = "lost"
    node._lose_link(master)
    return True


def _follow(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """A replica is pointed to another one, by hand."""
    node = f.node({**args, "on": "replica"}, machine)
    other = next(
        (n for n in f.world.nodes if n is not node and not n.is_master and n.program.master != node.address), None
    )
    if node.is_master or other is None or node.followers:
        return False
    node.follow(other.address)
    return True


def _busy(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    node = f.node(args, machine)
    node.program.busy = True

    def over() -> None:
        node.program.busy = False

    f.later(_seconds(args), over)
    return True


def _slow(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """Everything that it says takes its time."""
    node = f.node(args, machine)
    before = node.machine.latency
    node.machine.latency = 0.2

    def over() -> None:
        node.machine.latency = before

    f.later(_seconds(args), over)
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

    f.later(_seconds(args), over)
    return True


def _forbid(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The administrator takes a command away."""
    node = f.node(args, machine)
    users = node.program.users
    before = users["default"]
    users["default"] = User(before.password, frozenset({str(args.get("command", "SCAN"))}))

    def over() -> None:
        users["default"] = before

    f.later(_seconds(args), over)
    return True


def _password(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The password is changed: connections that are there stay logged in, new ones are refused."""
    users = f.node(args, machine).program.users
    before = users["default"]
    users["default"] = User(f"{SECRET}-another")

    def over() -> None:
        users["default"] = before

    f.later(_seconds(args), over)
    return True


def _full(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """No more connections are taken; the one that is there is dropped."""
    target = f.node(args, machine).machine
    target.turns_away = b"-ERR max number of clients reached\r\n"
    target.drop_clients()

    def over() -> None:
        target.turns_away = None

    f.later(_seconds(args), over)
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
            f.later(_seconds(args) / 10, lambda: again(left - 1))

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


def _grow(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """Many new keys: the table grows under the scan."""
    node = f.world.master
    if not node.usable or not node.is_master:
        return False
    for number in range(200_000, 200_000 + int(args.get("keys", 150))):
        node.write(key_of(number), Value(b"value of " + key_of(number)))
    return True


def _shrink(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """Most keys go, at once, as when they expire: the table shrinks."""
    node = f.world.master
    if not node.usable or not node.is_master:
        return False
    keys = list(node.program.data.get(0, {}))
    for key in keys[len(keys) // 10 :]:
        if not key.startswith(b"hash:"):
            node.write(key, None)
    return True


def _flush(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """FLUSHALL."""
    node = f.world.master
    if not node.usable or not node.is_master:
        return False
    for key in list(node.program.data.get(0, {})):
        node.write(key, None)
    return True


def _odd_cursor(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """Cursors as no Redis has them: in a circle, or falling."""
    if f.reader.is_iteration:
        # It goes where it is told to, as redis-py's does.
        return False
    program = f.node(args, machine).program
    kind = str(args.get("kind", "circle"))

    def odd(before: int, after: int) -> int:
        if kind == "circle":
            return 1 << 63 if before != 1 << 63 else (1 << 62) | (1 << 63)
        # Half of the way that it had come.
        return (before << 1) % (1 << 64) or after

    program.odd_cursors = odd

    def over() -> None:
        program.odd_cursors = None

    f.later(_seconds(args), over)
    return True


def _jump(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The clock jumps: a machine that slept, a day later."""
    clock: Any = trio.lowlevel.current_clock()
    seconds = float(args.get("hours", 24)) * 3600
    clock.jump(seconds)
    f.world.jumped += seconds
    return True


CLASSES: Final[dict[str, Fire]] = {
    "kill": _kill,
    "restart": _restart,
    "restart-saved": _restart_with("saved"),
    "restart-empty": _restart_with("none"),
    "loading": _loading,
    "stop": _stop,
    "planned": _planned,
    "coordinated": _coordinated,
    "handover": _handover,
    "back-and-forth": _twice,
    "storm": _storm,
    "split": _split,
    "deaf": _deaf,
    "black-hole": _black_hole,
    "sentinel-stop": _sentinel_stop,
    "sentinel-kill": _sentinel_kill,
    "stale-sentinel": _stale,
    "lying-sentinel": _lying,
    "forgetful-sentinel": _forgets,
    "noise": _noise,
    "resync": _resync,
    "follow": _follow,
    "busy": _busy,
    "slow": _slow,
    "slices": _slices,
    "forbidden": _forbid,
    "password": _password,
    "maxclients": _full,
    "client-kill": _client_kill,
    "drops": _drops,
    "cut": _cut,
    "stuck": _stuck,
    "garbage": _garbage,
    "push": _pushes,
    "pause": _pause,
    "grow": _grow,
    "shrink": _shrink,
    "flush": _flush,
    "odd-cursor": _odd_cursor,
    "clock-jump": _jump,
}

_IN_PLACE: Final = frozenset({"cut", "stuck", "garbage", "push"})


def default_args() -> dict[str, dict[str, Setting]]:
    """The plainest arguments."""
    return {
        name: {"seconds": 5.0, "on": "master", "how": "end", "which": 0, "times": 1, "keys": 10} for name in CLASSES
    }


def _one_of(rng: Random, *values: Setting) -> Setting:
    return rng.choice(values)


def draw_args(name: str, rng: Random) -> dict[str, Setting]:
    """Arguments by lot."""
    args: dict[str, Setting] = {}
    if name in {"kill", "client-kill", "restart"}:
        args["how"] = rng.choice(["end", "pipe", "reset"])
    if name in {"kill", "restart", "stop", "loading", "black-hole", "busy", "slow", "slices", "client-kill", "drops"}:
        args["on"] = rng.choice(["master", "master", "here", "replica"])
        args["which"] = rng.randrange(2)
    if name == "kill":
        args["back"] = rng.choice([0, round(rng.uniform(0.01, 3), 2), round(rng.uniform(3, 15), 1)])
        args["keeps"] = rng.choice(["all", "all", "saved", "none"])
    if name in {"sentinel-stop", "sentinel-kill", "deaf"}:
        args["which"] = _one_of(rng, 0, 1, 2, "all")
    if name in {"stale-sentinel", "lying-sentinel", "forgetful-sentinel", "garbage", "resync", "follow"}:
        args["which"] = rng.randrange(6)
    if name == "split":
        args["client"] = rng.choice(["both", "old"])
    if name == "slices":
        args["size"] = rng.choice([1, 1, 2, 7, 100])
    if name == "odd-cursor":
        args["kind"] = rng.choice(["circle", "falling"])
    if name == "forbidden":
        args["command"] = rng.choice(["SCAN", "ROLE", "INFO"])
    if name == "grow":
        args["keys"] = rng.choice([20, 150, 400])
    if name == "storm":
        args["times"] = rng.choice([3, 8, 15])
        args["seconds"] = round(rng.choice([rng.uniform(0.01, 0.2), rng.uniform(0.2, 2)]), 2)
    elif name not in _IN_PLACE | {
        "noise",
        "grow",
        "shrink",
        "flush",
        "clock-jump",
        "planned",
        "coordinated",
        "handover",
        "restart",
    }:
        args["seconds"] = round(rng.choice([rng.uniform(0.05, 1.5), rng.uniform(1, 8), rng.uniform(5, 25)]), 2)
    return args
