# Generated from __init__.py by `nox -s anyio`: change that file, never this one.
"""Iterate a Redis or Valkey keyspace on AnyIO without losing a key, while masters fail over and servers restart."""

from __future__ import annotations

from .._core.cluster_map import ClusterMap as ClusterMap, ClusterNode as ClusterNode, Shard as Shard
from .._core.compact_seen import CompactSeen as CompactSeen
from .._core.details import KeyDetails as KeyDetails
from .._core.errors import (
    AuthenticationFailed as AuthenticationFailed,
    CheckpointInvalid as CheckpointInvalid,
    ClientClosed as ClientClosed,
    ClusterNotFound as ClusterNotFound,
    CollectionChanged as CollectionChanged,
    CollectionGone as CollectionGone,
    CommandNotShareable as CommandNotShareable,
    CommandOutcomeUnknown as CommandOutcomeUnknown,
    ConfigError as ConfigError,
    HashSeedMismatch as HashSeedMismatch,
    KeysInDifferentSlots as KeysInDifferentSlots,
    LeaseLost as LeaseLost,
    MasterNotFound as MasterNotFound,
    NoReplicaAvailable as NoReplicaAvailable,
    NoSentinelReachable as NoSentinelReachable,
    ProtocolError as ProtocolError,
    RedirectionLoop as RedirectionLoop,
    ResponseTimeout as ResponseTimeout,
    RoleMismatch as RoleMismatch,
    ScanError as ScanError,
    ScanInterrupted as ScanInterrupted,
    ScanNotCertified as ScanNotCertified,
    ScanRefused as ScanRefused,
    ScanRestartsExhausted as ScanRestartsExhausted,
    ScanStuck as ScanStuck,
    SeenKeysUnavailable as SeenKeysUnavailable,
    SentinelScanError as SentinelScanError,
    ServerConnectionError as ServerConnectionError,
    ServerUnavailable as ServerUnavailable,
    ServiceUnknown as ServiceUnknown,
    SlotsNotCovered as SlotsNotCovered,
    SubscriberOverflow as SubscriberOverflow,
    SubscriptionLost as SubscriptionLost,
    TooManyCommandsWaiting as TooManyCommandsWaiting,
    TopologyUnavailable as TopologyUnavailable,
    WrongEventLoop as WrongEventLoop,
)
from .._core.identity import Address as Address, ServerIdentity as ServerIdentity
from .._core.messages import Gap as Gap, Message as Message
from .._core.seen_keys import DurableSeenKeys as DurableSeenKeys, ExactSeen as ExactSeen, SeenKeys as SeenKeys
from .._core.statistics import ClientStatistics as ClientStatistics
from .._core.summary import (
    Certificate as Certificate,
    Restart as Restart,
    ScanPage as ScanPage,
    ScanSummary as ScanSummary,
)
from .._core.topology_events import (
    EventsMissed as EventsMissed,
    MasterChange as MasterChange,
    ReplicaAdd as ReplicaAdd,
    ReplicaRemove as ReplicaRemove,
    SentinelAdd as SentinelAdd,
    SentinelRemove as SentinelRemove,
    ServerReboot as ServerReboot,
    TopologyEvent as TopologyEvent,
)
from .._core.topology_state import (
    MasterState as MasterState,
    ReplicaState as ReplicaState,
    SentinelState as SentinelState,
    TopologyState as TopologyState,
)
from .._spilling import SpillingSeen as SpillingSeen
from .._version import __version__ as __version__
from .client import RedisClient as RedisClient, SentinelClient as SentinelClient, connect as connect
from .cluster import ClusterClient as ClusterClient
from .cluster_pipeline import ClusterPipeline as ClusterPipeline
from .cluster_pubsub import ClusterSubscriber as ClusterSubscriber
from .lease import Lease as Lease
from .lock import Lock as Lock
from .pipeline import Pipeline as Pipeline
from .pubsub import Subscriber as Subscriber
from .scan import ScanPages as ScanPages
from .topology import TopologyEvents as TopologyEvents


def _show_public_paths() -> None:
    """Tracebacks, reprs and pickles show where a thing is to be imported from, not where it is written down."""
    for name, thing in list(globals().items()):
        if not name.startswith("_") and getattr(thing, "__module__", "").startswith(__name__ + "."):
            thing.__module__ = __name__


_show_public_paths()
