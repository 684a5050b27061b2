"""What a cluster's `open_scan` was asked for: checked once, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .config import checked_address
from .errors import CheckpointInvalid, ConfigError
from .lanes import Decoding
from .scan_options import ScanOptions, checked_scan_options

if TYPE_CHECKING:
    from .cluster_map import ClusterMap
    from .config import ClientSettings

__all__ = ["ClusterScanOptions", "checked_cluster_scan"]


@dataclass(frozen=True, slots=True)
class ClusterScanOptions:
    """The checked arguments of one scan of a cluster."""

    # What it has in common with all others.
    scan: ScanOptions
    max_nodes_at_once: int
    # The id of the one node to scan; None for all masters.
    node: str | None = None
    allow_uncovered: bool = False
    # Whether a majority of the masters must name a slot's owner, or its own word will do.
    by_majority: bool = True
    decoding: Decoding | None = None


def checked_cluster_scan(
    known: ClusterMap,
    settings: ClientSettings,
    *,
    node: object,
    max_nodes_at_once: object,
    allow_uncovered: object,
    certify: object,
    extra_args: object,
    hash_seed_shared: object,
    **arguments: Any,
) -> ClusterScanOptions:
    """Check the arguments of a cluster's `open_scan`; a ConfigError names the one at fault."""
    if (
        isinstance(max_nodes_at_once, bool)
        or not isinstance(max_nodes_at_once, int)
        or not 1 <= max_nodes_at_once < 1 << 31
    ):
        raise ConfigError("max_nodes_at_once", "must be a whole number from 1")
    if not isinstance(allow_uncovered, bool):
        raise ConfigError("allow_uncovered", "must be True or False")
    if certify not in ("masters", "sentinels", "role"):
        raise ConfigError("certify", 'must be "masters" or "role"')
    if extra_args not in ((), [], None):
        raise ConfigError("extra_args", "are for a proxy in front of the nodes, and here each node is asked itself")
    if hash_seed_shared is not False:
        raise ConfigError(
            "hash_seed_shared",
            "must be False: nodes have different slots, so no cursor of one of them is any good at another, whatever"
            " their hash seed",
        )
    name = _checked_node(node, known)
    scan = checked_scan_options(
        of_cluster=True,
        node=name,
        certify="role" if certify == "role" else "sentinels",
        has_sentinels=True,
        encoding=settings.encoding,
        encoding_errors=settings.encoding_errors,
        decodes=settings.decode_responses,
        **arguments,
    )
    if scan.cursor:
        raise ConfigError("cursor", "must be 0: a cursor means something only to the one process that issued it")
    resume = None if scan.resume is None else scan.resume.cluster
    if resume is not None and not resume.by_majority and certify != "role":
        raise CheckpointInvalid(
            'is a checkpoint of a scan with certify="role", and no majority was asked: say that again'
        )
    if name is not None and scan.read_from == "replica":
        raise ConfigError("read_from", "cannot go with node, which says which node is read: name a replica there")
    return ClusterScanOptions(
        scan,
        max_nodes_at_once,
        name,
        allow_uncovered,
        certify != "role",
        Decoding(settings.encoding, settings.encoding_errors) if settings.decode_responses else None,
    )


def _checked_node(node: object, known: ClusterMap) -> str | None:
    if node is None:
        return None
    found = known.named(node) if isinstance(node, str) else None
    if found is None:
        found = known.at(checked_address(node, "node"))
    if found is None or not found.node_id:
        raise ConfigError(
            "node", "is neither the id nor the address of a node that has slots, nor of a replica of one: see the map"
        )
    return found.node_id
