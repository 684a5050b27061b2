"""Where a cluster's commands go: to the slot of their keys; without keys, where redis-py's tables send them."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from redis.cluster import AbstractRedisCluster

from .command_keys import ONE_KEY, Unlisted, as_key, as_keys, has_subcommand, key_places, keys_at
from .errors import CommandNotShareable, KeysInDifferentSlots
from .replies import as_text
from .slots import SLOTS, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .command_keys import KeyPlaces
    from .commands import Command
    from .wire import Argument

__all__ = [
    "FLAGS",
    "HAS_ONE_KEY",
    "Route",
    "Scope",
    "common_slot",
    "different_slots",
    "full_name",
    "keys_of",
    "put_together",
    "route_of",
    "scope_of",
]


class Scope(enum.Enum):
    """Nodes that a command without keys is for."""

    ONE_MASTER = "any master"
    MASTERS = "all masters that have slots"
    REPLICAS = "all replicas"
    ALL = "all nodes"


# A slot, or nodes.
Route: TypeAlias = "int | Scope"

_redis_py = cast("Any", AbstractRedisCluster)
# redis-py's words for them, as its `target_nodes` takes them.
FLAGS: Final[dict[str, Scope]] = {
    _redis_py.PRIMARIES: Scope.MASTERS,
    _redis_py.REPLICAS: Scope.REPLICAS,
    _redis_py.ALL_NODES: Scope.ALL,
    _redis_py.RANDOM: Scope.ONE_MASTER,
    _redis_py.DEFAULT_NODE: Scope.ONE_MASTER,
}
_BY_NAME: Final[dict[str, Scope]] = {
    name: FLAGS[flag] for name, flag in _redis_py.COMMAND_FLAGS.items() if flag in FLAGS
}
# Their third word is a slot.
_BY_SLOT: Final = frozenset(name for name, flag in _redis_py.COMMAND_FLAGS.items() if flag not in FLAGS)
# How the replies of several nodes become one result.
_TOGETHER: Final[Mapping[str, Callable[..., Any]]] = _redis_py.RESULT_CALLBACKS

# What makes sense only where there are several databases.
_UNFIT: Final = frozenset({"MOVE", "SELECT", "SWAPDB"})

# Commands whose place is told by their second word, their only key, at once: nearly all calls are of one of them.
HAS_ONE_KEY: Final = ONE_KEY - frozenset(_BY_NAME) - _UNFIT

# How many slots a message names.
_MOST_NAMED: Final = 5


def full_name(command: Command) -> str:
    """A command's name with its subcommand, as redis-py's tables have it."""
    if has_subcommand(command.name) and len(command.args) > 1:
        return f"{command.name} {as_text(command.args[1]).upper()}"
    return command.name


def check_fit(words: tuple[Any, ...]) -> None:
    """Raise CommandNotShareable for what a cluster cannot do; the words are as a caller gives them."""
    name = as_text(words[0]).partition(" ")[0].upper() if words else ""
    if name in _UNFIT:
        raise CommandNotShareable(f"{name} is about other databases, and a cluster has database 0 only")


def scope_of(name: str) -> Scope | None:
    """Where redis-py sends a command of this full name whatever its arguments; None: by its keys."""
    return _BY_NAME.get(name)


def route_of(command: Command, learned: Mapping[str, KeyPlaces]) -> Route | None:
    """Where a command goes; None if where its keys are is neither known nor `learned`, or takes a question each time.

    Raises KeysInDifferentSlots.
    """
    name = full_name(command)
    if (scope := _BY_NAME.get(name)) is not None:
        return scope
    if name in _BY_SLOT:
        return _given_slot(command)
    places = key_places(command.name, command.args) or learned.get(name)
    if places is None or places is Unlisted.ASK_EACH_TIME:
        return None
    keys = keys_at(places, command.args)
    return common_slot(keys, command.name) if keys else Scope.ONE_MASTER


def common_slot(keys: Iterable[Argument], what: str) -> int:
    """The one slot of all these keys, of which there is one at least. Raises KeysInDifferentSlots."""
    slots = {slot_of(as_key(key)) for key in keys}
    if len(slots) > 1:
        raise different_slots(what, slots)
    return slots.pop()


def different_slots(what: str, slots: Iterable[int]) -> KeysInDifferentSlots:
    """The error of `what` has keys in all these slots."""
    some = tuple(sorted(slots))
    named = ", ".join(map(str, some[:_MOST_NAMED])) + (", ..." if len(some) > _MOST_NAMED else "")
    return KeysInDifferentSlots(
        f"{what} has keys in {len(some)} slots ({named}), and must have them in one: a common hash tag, as in"
        " {user:1}:name and {user:1}:mail, sees to that",
        some,
    )


def keys_of(command: Command, learned: Mapping[str, KeyPlaces]) -> frozenset[bytes]:
    """The keys of a command by table, or as `learned`. Where only a server can tell them: all its words, they are among
    these.
    """
    places = key_places(command.name, command.args) or learned.get(full_name(command))
    if places is None or places is Unlisted.ASK_EACH_TIME:
        return as_keys(command.args[1:])
    return as_keys(keys_at(places, command.args))


def _given_slot(command: Command) -> Route:
    text = as_text(command.args[2]) if len(command.args) > 2 else ""
    slot = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else SLOTS
    # (What is wrong with it, a server will say.)
    return slot if slot < SLOTS else Scope.ONE_MASTER


def put_together(name: str, results: Mapping[str, Any]) -> Any:
    """One result from those of several nodes, by their addresses: by redis-py's rule for the command.

    Where it has none, it is the only one's, or all of them.
    """
    together = _TOGETHER.get(name)
    if together is not None:
        return together(name, dict(results))
    return next(iter(results.values())) if len(results) == 1 else dict(results)
