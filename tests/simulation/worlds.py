"""The worlds by their names."""

from __future__ import annotations

from collections.abc import Callable

from .playing import World

__all__ = ["NAMES", "world_of"]


def _service() -> World:
    from .service import ServiceWorld

    return ServiceWorld()


def _cluster() -> World:
    from .cluster.world import ClusterWorld

    return ClusterWorld()


_WORLDS: dict[str, Callable[[], World]] = {"service": _service, "cluster": _cluster}

NAMES: tuple[str, ...] = tuple(_WORLDS)


def world_of(name: str) -> World:
    """The world of this name; made anew, for a run may leave something of itself in it."""
    return _WORLDS[name]()
