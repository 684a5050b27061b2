"""Real Redis and Valkey servers on loopback, to test with.

``LocalRedis`` is one server, ``LocalSentinel`` a master with its replicas and Sentinels, ``LocalCluster`` a cluster.
They are async context managers over real processes, that kill, pause, restart and fail over on demand, and leave
nothing behind::

    from trio_sentinel_scan.testing import LocalSentinel

    async with LocalSentinel() as sentinel:
        keys = await sentinel.fill(10_000)
        async with trio_sentinel_scan.connect(sentinel.url) as client:
            ...
            await sentinel.kill()  # the master; a replica will take over

They need Trio, a POSIX system and a server program (see ``find_server_binary``), and share no code with the client.
"""

# Names are imported "as" themselves, which tells type checkers that they are exported.
from __future__ import annotations

from ._binary import ServerBinary as ServerBinary, find_server_binary as find_server_binary
from ._certificates import (
    Certificates as Certificates,
    make_test_certificates as make_test_certificates,
)
from ._cluster import LocalCluster as LocalCluster
from ._cluster_node import LocalClusterNode as LocalClusterNode, NodeView as NodeView
from ._directives import Config as Config
from ._errors import (
    CommandFailed as CommandFailed,
    HarnessError as HarnessError,
    ServerBinaryNotFound as ServerBinaryNotFound,
    ServerNotRunning as ServerNotRunning,
    ServerStartFailed as ServerStartFailed,
    ServerUnresponsive as ServerUnresponsive,
    TlsUnavailable as TlsUnavailable,
)
from ._migration import SlotMigration as SlotMigration
from ._redis import LocalRedis as LocalRedis
from ._sentinel import LocalSentinel as LocalSentinel
from ._sentinel_node import LocalSentinelNode as LocalSentinelNode
from ._server import LocalServer as LocalServer
from ._wire import Argument as Argument, Reply as Reply


def _show_public_path() -> None:
    # In tracebacks, reprs and pickles: where a thing is to be imported from, not where it happens to be written down.
    for name, thing in globals().items():
        if not name.startswith("_") and getattr(thing, "__module__", "").startswith(__name__ + "._"):
            thing.__module__ = __name__


_show_public_path()
