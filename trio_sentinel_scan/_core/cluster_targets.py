"""Nodes of a cluster as a caller names them: `node=` and redis-py's `target_nodes=`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from .cluster_map import ClusterNode
from .cluster_routes import FLAGS, Scope
from .config import checked_address
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .cluster_map import ClusterMap

__all__ = ["find_node", "find_targets"]


def find_node(value: object, known: ClusterMap, argument: str = "node") -> ClusterNode:
    """One node, given by its id, its announced address, or as a node of the map. Raises ConfigError."""
    found: ClusterNode | None
    if isinstance(value, ClusterNode):
        found = known.named(value.node_id) or known.at(value.address)
    elif isinstance(value, str) and ":" not in value:
        found = known.named(value)
    elif isinstance(value, (str, tuple)):
        found = known.at(checked_address(cast("object", value), argument))
    elif hasattr(value, "host") and hasattr(value, "port"):
        # redis-py's own nodes.
        redis_pys = cast("Any", value)
        found = known.at(checked_address((redis_pys.host, redis_pys.port), argument))
    else:
        raise ConfigError(argument, "must be a node's id, its address, or a node of client.nodes")
    if found is None:
        raise ConfigError(argument, "names no node that is in the cluster: see client.nodes")
    return found


def find_targets(value: object, known: ClusterMap) -> Scope | list[ClusterNode]:
    """`target_nodes`: one of redis-py's words for several nodes, a node, a list of nodes, or a mapping to nodes.

    Raises ConfigError.
    """
    if isinstance(value, str) and value in FLAGS:
        return FLAGS[value]
    if isinstance(value, (list, set, frozenset)):
        many = cast("Iterable[object]", value)
    elif isinstance(value, dict):
        many = cast("Mapping[object, object]", value).values()
    else:
        many = (value,)
    found = [find_node(one, known, "target_nodes") for one in many]
    if not found:
        raise ConfigError("target_nodes", "names no node at all")
    return found
