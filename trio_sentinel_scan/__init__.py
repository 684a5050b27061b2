# General layout:
#
# _core/    decides: tables and state machines, without Trio, sockets or a clock.
# _trio/    does: one thin driver per thing that touches the network. What you import from here lives there.
# testing/  real servers on loopback for tests, ours and yours: trio_sentinel_scan.testing.
# cli/      the command line and the demo.
#
# Everything public is here or in trio_sentinel_scan.testing; whatever has an underscore in its path may change.
"""Iterate a Redis or Valkey keyspace on Trio without losing a key, while masters fail over and servers restart."""

from __future__ import annotations

from ._core.errors import (
    AuthenticationFailed as AuthenticationFailed,
    ClientClosed as ClientClosed,
    CommandNotShareable as CommandNotShareable,
    CommandOutcomeUnknown as CommandOutcomeUnknown,
    ConfigError as ConfigError,
    MasterNotFound as MasterNotFound,
    NoSentinelReachable as NoSentinelReachable,
    ProtocolError as ProtocolError,
    ResponseTimeout as ResponseTimeout,
    RoleMismatch as RoleMismatch,
    ScanError as ScanError,
    ScanInterrupted as ScanInterrupted,
    ScanNotCertified as ScanNotCertified,
    ScanRefused as ScanRefused,
    ScanRestartsExhausted as ScanRestartsExhausted,
    ScanStuck as ScanStuck,
    SentinelScanError as SentinelScanError,
    ServerConnectionError as ServerConnectionError,
    ServerUnavailable as ServerUnavailable,
    ServiceUnknown as ServiceUnknown,
    SubscriberOverflow as SubscriberOverflow,
    SubscriptionLost as SubscriptionLost,
)
from ._core.identity import Address as Address, ServerIdentity as ServerIdentity
from ._core.messages import Gap as Gap, Message as Message
from ._core.summary import (
    Certificate as Certificate,
    Restart as Restart,
    ScanPage as ScanPage,
    ScanSummary as ScanSummary,
)
from ._trio.client import RedisClient as RedisClient, SentinelClient as SentinelClient, connect as connect
from ._trio.pubsub import Subscriber as Subscriber
from ._trio.scan import ScanPages as ScanPages
from ._version import __version__ as __version__


def _show_public_paths() -> None:
    """Tracebacks, reprs and pickles show where a thing is to be imported from, not where it is written down."""
    for name, thing in list(globals().items()):
        if not name.startswith("_") and getattr(thing, "__module__", "").startswith(__name__ + "._"):
            thing.__module__ = __name__


_show_public_paths()
