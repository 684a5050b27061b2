"""What befalls data servers: their processes, their roles, their data, and what they allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.runner import SECRET
from tests.simulation.schedule import Value as Setting
from tests.trio.fakes import Value
from tests.trio.fakes.data_server import User

from .deployment import key_of
from .fault_tools import each_of, seconds_of
from .servers import Node

if TYPE_CHECKING:
    from .faults import Faults, Fire

__all__ = ["SERVER_FAULTS"]


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
    return _restart(f, {**args, "loading": seconds_of(args)}, machine, session)


def _stop(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    node = f.node(args, machine)
    if not node.machine.runs:
        return False
    node.machine.hang()
    if node.is_master:
        f.later(60.0, lambda: each_of(f.world.nodes, Node.check_link))
    f.later(seconds_of(args), node.machine.resume)
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

    f.later(seconds_of(args), back)
    return True


def _storm(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The master is restarted again and again."""
    left = int(args.get("times", 6))

    def again(left: int) -> None:
        node = f.world.master
        if f.kill(node):
            f.start(node, args)
        if left > 1:
            f.later(seconds_of(args), lambda: again(left - 1))

    again(left)
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


def _failed_sync(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """A replica has thrown its data away to be filled anew, and that fails: it answers, with nothing, until it is."""
    node = f.node(args, machine)
    if node.is_master:
        node = f.node({**args, "on": "replica"}, machine)
    master = f.world.node_at(node.program.master)
    if node.is_master or not node.machine.up or node.program.loading or master is None:
        return False
    node.replid = "lost"
    node._lose_link(master)
    node.program.empty()
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

    f.later(seconds_of(args), over)
    return True


def _forbid(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The administrator takes a command away."""
    node = f.node(args, machine)
    users = node.program.users
    before = users["default"]
    users["default"] = User(before.password, frozenset({str(args.get("command", "SCAN"))}))

    def over() -> None:
        users["default"] = before

    f.later(seconds_of(args), over)
    return True


def _password(f: Faults, args: Mapping[str, Setting], machine: Any, session: Any) -> object:
    """The password is changed: connections that are there stay logged in, new ones are refused."""
    users = f.node(args, machine).program.users
    before = users["default"]
    users["default"] = User(f"{SECRET}-another")

    def over() -> None:
        users["default"] = before

    f.later(seconds_of(args), over)
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
    """Cursors as no Redis has them: in a circle, falling, or of more bits than there are."""
    if f.reader.is_iteration:
        # It goes where it is told to, as redis-py's does.
        return False
    program = f.node(args, machine).program
    kind = str(args.get("kind", "circle"))

    def odd(before: int, after: int) -> int:
        if kind == "circle":
            return 1 << 63 if before != 1 << 63 else (1 << 62) | (1 << 63)
        if kind == "too large":
            return after + (1 << 64)
        # Half of the way that it had come.
        return (before << 1) % (1 << 64) or after

    program.odd_cursors = odd

    def over() -> None:
        program.odd_cursors = None

    f.later(seconds_of(args), over)
    return True


SERVER_FAULTS: Final[dict[str, Fire]] = {
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
    "resync": _resync,
    "failed-sync": _failed_sync,
    "follow": _follow,
    "busy": _busy,
    "forbidden": _forbid,
    "password": _password,
    "grow": _grow,
    "shrink": _shrink,
    "flush": _flush,
    "odd-cursor": _odd_cursor,
}
