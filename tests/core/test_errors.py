"""The exceptions: what they descend from, what they carry, and what they never say."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
from redis import exceptions as redis_errors

from trio_sentinel_scan._core import errors
from trio_sentinel_scan._core.errors import (
    AuthenticationFailed,
    ConfigError,
    MasterNotFound,
    NoReplicaAvailable,
    NoSentinelReachable,
    ProtocolError,
    ResponseTimeout,
    RoleMismatch,
    ScanError,
    ScanInterrupted,
    ScanNotCertified,
    ScanRefused,
    ScanRestartsExhausted,
    ScanStuck,
    SentinelScanError,
    ServerConnectionError,
    ServerUnavailable,
    ServiceUnknown,
    TooManyCommandsWaiting,
)
from trio_sentinel_scan._core.identity import Address, ServerIdentity
from trio_sentinel_scan._core.summary import Restart, ScanSummary

OLD = ServerIdentity("a" * 40, Address("10.0.0.1", 6379))
NEW = ServerIdentity("b" * 40, Address("10.0.0.2", 6379))
SUMMARY = ScanSummary(
    complete=False,
    epoch=1,
    keys=12,
    pages=2,
    keys_this_epoch=2,
    scans=3,
    reconnects=0,
    duplicates_dropped=0,
    position=0.5,
    server=OLD,
    segments=16,
    certificate=None,
    elapsed=1.5,
    restarts=(Restart(1, "why", 0.5, OLD, NEW),),
)
INTERRUPTED = ScanInterrupted("why", epoch=3, old_server=OLD, new_server=None, keys=12, summary=SUMMARY)


def test_each_error_is_exported_and_descends_from_one_root() -> None:
    """`except SentinelScanError` catches all that is ours, `except RedisError` all that redis-py's users expect."""
    classes = {
        name: thing
        for name, thing in vars(errors).items()
        if inspect.isclass(thing) and thing.__module__ in (errors.__name__, "trio_sentinel_scan")
    }
    assert set(classes) == set(errors.__all__)
    assert all(issubclass(thing, SentinelScanError) for thing in classes.values())
    assert issubclass(SentinelScanError, redis_errors.RedisError)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (ConfigError, ValueError),
        (ServerConnectionError, redis_errors.ConnectionError),
        (ServerUnavailable, ServerConnectionError),
        (NoReplicaAvailable, ServerUnavailable),
        (RoleMismatch, ServerConnectionError),
        (MasterNotFound, redis_errors.ConnectionError),
        (NoSentinelReachable, MasterNotFound),
        (ServiceUnknown, MasterNotFound),
        (TooManyCommandsWaiting, redis_errors.ConnectionError),
        (ResponseTimeout, redis_errors.TimeoutError),
        (ProtocolError, redis_errors.InvalidResponse),
        (AuthenticationFailed, redis_errors.AuthenticationError),
        (ScanRefused, redis_errors.ResponseError),
        *[(kind, ScanError) for kind in (ScanInterrupted, ScanRestartsExhausted, ScanNotCertified, ScanStuck)],
    ],
)
def test_each_error_descends_from_its_nearest_relative(ours: type[Exception], theirs: type[Exception]) -> None:
    """Code written for redis-py's class goes on working."""
    assert issubclass(ours, theirs)


def test_a_config_error_names_its_argument() -> None:
    """The argument at fault is in the text and in an attribute."""
    error = ConfigError("count", "must be a whole number from 1")
    assert error.argument == "count"
    assert str(error) == "count: must be a whole number from 1"


def test_master_not_found_keeps_what_came_of_each_sentinel() -> None:
    """The account is a copy, and empty where there is none."""
    account = {"10.0.0.1:26379": "refused"}
    error = NoSentinelReachable("none answers", account)
    account.clear()
    assert error.sentinels == {"10.0.0.1:26379": "refused"}
    assert MasterNotFound("none").sentinels == {}


def test_an_interruption_tells_everything_it_knows() -> None:
    """Reason, epoch, both servers and the keys so far are attributes, and in the text with what to do about it."""
    error = INTERRUPTED
    assert (error.reason, error.epoch, error.old_server, error.new_server) == ("why", 3, OLD, None)
    assert (error.keys, error.summary) == (12, SUMMARY)
    for part in ("epoch 3", "why", "10.0.0.1:6379 (run_id aaaaaaaa)", "not known", "12 keys", "cursor 0", "restart"):
        assert part in str(error)
    flipped = str(ScanInterrupted("why", epoch=0, old_server=None, new_server=NEW, keys=0))
    assert "old server not known" in flipped
    assert "new server 10.0.0.2:6379" in flipped


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("count", "must be more"),
        INTERRUPTED,
        NoSentinelReachable("none", {"a": "b"}),
        ScanStuck("stuck", SUMMARY),
        ResponseTimeout("late"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "through", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"]
)
def test_errors_cross_process_borders(error: SentinelScanError, through: object) -> None:
    """A pool of processes, or a test runner on several cores, gets the same error out that was put in."""
    assert callable(through)
    there = through(error)
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert vars(there).keys() == vars(error).keys()
    assert getattr(there, "keys", None) == getattr(error, "keys", None)
    assert getattr(there, "argument", None) == getattr(error, "argument", None)
