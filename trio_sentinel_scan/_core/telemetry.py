"""What is told to OpenTelemetry, and under which names: its database conventions, and our own for what they lack.

Nothing here is a key, a value or a password: of a command only its name, of an error only its code or its class.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from redis import exceptions as redis_errors

from .replies import as_text
from .verdicts import error_code

if TYPE_CHECKING:
    from .identity import Address
    from .summary import Restart, ScanSummary

__all__ = [
    "Attributes",
    "failure_attributes",
    "operation_name",
    "peer_attributes",
    "pool_attributes",
    "restart_attributes",
    "scan_attributes",
    "server_attributes",
]

Attributes: TypeAlias = dict[str, str | int | float | bool]

# Instruments; the first two are the conventions'.
OPERATION_DURATION: Final = "db.client.operation.duration"
CONNECTION_COUNT: Final = "db.client.connection.count"
SCAN_RESTARTS: Final = "trio_sentinel_scan.scan.restarts"
TOPOLOGY_EVENTS: Final = "trio_sentinel_scan.topology.events"
# In seconds, as the conventions have them for a database's operations.
DURATION_BOUNDARIES: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)

# A span event.
RESTART: Final = "trio_sentinel_scan.scan.restart"
TOPOLOGY_EVENT: Final = "trio_sentinel_scan.topology.event"

# Commands of two words; of all others the second may be a key.
_CONTAINERS: Final = frozenset(
    """
    ACL CLIENT CLUSTER COMMAND CONFIG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT SENTINEL SLOWLOG XGROUP XINFO
    """.split()  # noqa: SIM905 (a table to be read)
)
_NAME: Final = re.compile(r"[A-Z][A-Z0-9_.-]{0,39}")


def operation_name(args: tuple[object, ...]) -> str:
    """A command's name from its words: "GET", "CLIENT LIST"; "_OTHER" for what cannot be a command's name."""
    words = as_text(args[0]).upper().split() if args else []
    if not words or not _NAME.fullmatch(words[0]):
        return "_OTHER"
    name = words[0]
    if name in _CONTAINERS:
        following = [*words[1:], *(as_text(word).upper() for word in args[1:2])]
        if following and _NAME.fullmatch(following[0]):
            return f"{name} {following[0]}"
    return name


def server_attributes(address: Address, db: int) -> Attributes:
    """Which server, and which of its databases."""
    found: Attributes = {"db.system.name": "redis", "db.namespace": str(db), "server.address": address.host}
    if not address.is_unix:
        found["server.port"] = address.port
    return found


def peer_attributes(address: Address) -> Attributes:
    """Which server was talked to last, where it may have become another one on the way."""
    if address.is_unix:
        return {"network.peer.address": address.host, "network.transport": "unix"}
    return {"network.peer.address": address.host, "network.peer.port": address.port}


def pool_attributes(address: Address, db: int) -> Attributes:
    """Which connections are counted together."""
    return {"db.client.connection.pool.name": f"{address}/{db}", "db.client.connection.state": "used"}


def failure_attributes(error: BaseException) -> Attributes:
    """What went wrong: the code of an error reply, or the class of anything else. Its text is not told."""
    if isinstance(error, redis_errors.ResponseError):
        code = error_code(error)
        return {"error.type": code, "db.response.status_code": code}
    kind = type(error)
    return {"error.type": f"{kind.__module__}.{kind.__qualname__}"}


def restart_attributes(restart: Restart) -> Attributes:
    """A scan that begins again."""
    found: Attributes = {
        "trio_sentinel_scan.scan.epoch": restart.epoch,
        "trio_sentinel_scan.scan.reason": restart.reason,
    }
    if restart.old_server is not None:
        found["trio_sentinel_scan.scan.old_server"] = str(restart.old_server)
    if restart.new_server is not None:
        found["trio_sentinel_scan.scan.new_server"] = str(restart.new_server)
    if restart.node is not None:
        found["trio_sentinel_scan.scan.node"] = restart.node
    return found


def scan_attributes(summary: ScanSummary) -> Attributes:
    """A scan at its end."""
    return {
        "trio_sentinel_scan.scan.complete": summary.complete,
        "trio_sentinel_scan.scan.epoch": summary.epoch,
        "trio_sentinel_scan.scan.pages": summary.pages,
        "trio_sentinel_scan.scan.commands": summary.scans,
        "db.response.returned_rows": summary.keys,
    }
