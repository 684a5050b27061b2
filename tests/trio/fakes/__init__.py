# A world without sockets, processes or real time, for tests and for simulations:
#
# table.py, resp.py                a hash table as SCAN sees it; replies as bytes
# data_server.py, sentinel.py      what the two programs answer: plain calls, no event loop
# network.py                       memory streams between a client and a program: hanging, cutting, slicing, killing
# scan_proxy.py                    several data servers behind one address, with a SCAN over all of them
# world.py                         one Sentinel service put together from these, and what can befall it
# cluster.py                       data servers that share the slots, send commands to each other, and disagree
# running.py                       trio.run on a clock that jumps; cancelling a task at its n-th step
"""Fake servers and Sentinels over memory streams."""

from __future__ import annotations

from .cluster import ClusterServer as ClusterServer, FakeCluster as FakeCluster
from .data_server import DataServer as DataServer, User as User, Value as Value
from .network import (
    HANG_UP as HANG_UP,
    SILENCE as SILENCE,
    Cut as Cut,
    Hold as Hold,
    Host as Host,
    Network as Network,
    Raw as Raw,
    Reply as Reply,
)
from .resp import ABSURD as ABSURD, Error as Error, Push as Push, Simple as Simple, encode as encode
from .running import (
    CancelAtStep as CancelAtStep,
    on_mock_time as on_mock_time,
    settled as settled,
    tasks_below as tasks_below,
)
from .scan_proxy import ScanProxy as ScanProxy
from .sentinel import Sentinel as Sentinel
from .table import Table as Table
from .world import COUNT as COUNT, KEYS as KEYS, SERVICE as SERVICE, Service as Service, Swept as Swept, sweep as sweep
