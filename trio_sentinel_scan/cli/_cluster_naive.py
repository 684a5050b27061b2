# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (redis-py's commands: their **kwargs are not annotated)
"""What the demo of a cluster compares with: node by node, each with its cursor, as applications do it today."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import trio
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    ConnectionError,  # noqa: A004 (redis-py's, not Python's)
    RedisClusterException,
    TimeoutError,  # noqa: A004 (redis-py's, not Python's)
)

from ._naive import PATIENCE, RETRY_PERIOD, Naive

_SLOTS = 16_384


class NaiveClusterScan(Naive):
    """SCAN by redis-py's cluster client, of one master after the other, told to try again when a connection fails.

    When a master is dead it waits for the one that has its slots then, and goes on there with the dead one's cursor.
    Of slots that move meanwhile it knows nothing: from a node that it has not scanned yet to one that it has, their
    keys are lost.
    """

    _WAY: ClassVar = "kept its old cursor"

    def __init__(self, nodes: Sequence[tuple[str, int]], *, keys: int, count: int, seconds_per_page: float) -> None:
        super().__init__(keys=keys, count=count, seconds_per_page=seconds_per_page)
        self._nodes = nodes

    def _scan(self) -> None:
        # Any: redis-py's cluster client is annotated only in part.
        nodes = [cast("Any", ClusterNode)(host, port) for host, port in self._nodes]
        client: Any = cast("Any", RedisCluster)(startup_nodes=nodes, socket_timeout=PATIENCE)
        with contextlib.closing(client):
            # Each shard by its first slot, whoever has that by then.
            firsts: dict[str, int] = {}
            for slot in range(_SLOTS):
                firsts.setdefault(client.nodes_manager.get_node_from_slot(slot).name, slot)
            for slot in firsts.values():
                self._scan_shard(client, slot)

    def _scan_shard(self, client: Any, slot: int) -> None:
        cursor = None
        while cursor != 0:
            try:
                node = client.nodes_manager.get_node_from_slot(slot)
                cursors, keys = client.scan(cursor=cursor or 0, count=self._count, target_nodes=node)
            except (ConnectionError, TimeoutError, RedisClusterException):
                trio.from_thread.check_cancelled()
                time.sleep(RETRY_PERIOD)
                with contextlib.suppress(ConnectionError, TimeoutError, RedisClusterException):
                    client.nodes_manager.initialize()
                continue
            cursor = cursors[node.name]
            for key in keys:
                self._take(key)
