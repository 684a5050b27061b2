"""The servers' word on a hash seed that they are to share: what they tell, what contradicts, and what is not shown."""

from __future__ import annotations

from typing import Any

import pytest

from trio_sentinel_scan._core.errors import ConfigError, HashSeedMismatch, ScanError, ServerConnectionError
from trio_sentinel_scan._core.hash_seed import HashSeed, SharedSeed, read_hash_seed
from trio_sentinel_scan._core.identity import Address, ServerIdentity
from trio_sentinel_scan._core.scan_options import checked_scan_options
from trio_sentinel_scan._core.verdicts import parse_error_reply

A, B = (ServerIdentity(letter * 40, Address(f"10.0.0.{number}", 6379)) for number, letter in ((1, "a"), (2, "b")))
VALKEY = {"redis_version": "7.2.4", "valkey_version": "9.1.2"}


def told(reply: Any, info: dict[str, str] | None = None) -> HashSeed:
    """What a server told with this reply."""
    return read_hash_seed(reply, VALKEY if info is None else info, A.address)


def seed(text: bytes) -> HashSeed:
    return told([b"hash-seed", text])


@pytest.mark.parametrize("reply", [[b"hash-seed", b"secret"], {b"hash-seed": b"secret"}, ["hash-seed", "secret"]])
def test_a_seed_is_read_in_either_protocol_and_kept_as_a_digest(reply: Any) -> None:
    """It is not to be read from anything of ours."""
    found = told(reply)
    assert found == seed(b"secret")
    assert found != seed(b"another")
    assert (found.fault, found.release) == ("", "valkey 9.1")
    assert found.digest is not None
    assert "secret" not in repr(found)
    assert found.digest.hex() not in repr(found)
    assert repr(found.digest) not in repr(found)


def test_a_seed_may_be_any_bytes() -> None:
    assert seed(b"\xff\xfe").digest != seed(b"ab").digest


@pytest.mark.parametrize(
    "reply, fault",
    [
        ([], "knows no hash-seed (Valkey does, from 9.1 on)"),
        ({}, "knows no hash-seed (Valkey does, from 9.1 on)"),
        ([b"hash-seed", b""], "has no hash-seed set, so its process has drawn one by lot"),
    ],
)
def test_a_server_without_a_seed_contradicts(reply: Any, fault: str) -> None:
    found = told(reply)
    assert (found.digest, found.fault) == (None, fault)
    assert SharedSeed(b"").contradiction(A, found) == f"{A} {fault}"


@pytest.mark.parametrize(
    "error",
    ["NOPERM User u has no permissions to run the 'config|get' command", "ERR unknown command 'CONFIG'", "ERR no"],
)
def test_a_server_that_may_not_be_asked_has_told_nothing(error: str) -> None:
    """The caller's word counts."""
    assert told(parse_error_reply(error)) == HashSeed(None, release="valkey 9.1")


@pytest.mark.parametrize("error", ["BUSY Redis is busy", "LOADING", "ERR max number of clients reached"])
def test_a_server_that_may_tell_later_is_asked_later(error: str) -> None:
    with pytest.raises(ServerConnectionError, match=r"10\.0\.0\.1:6379 is not ready"):
        told(parse_error_reply(error))


@pytest.mark.parametrize(
    "info, release",
    [
        ({}, ""),
        ({"redis_version": "8.0.1"}, "redis 8.0"),
        (VALKEY, "valkey 9.1"),
        ({"valkey_version": "255.255.255"}, "valkey 255.255"),
    ],
)
def test_the_release_is_read_where_it_is_told(info: dict[str, str], release: str) -> None:
    assert told([b"hash-seed", b"x"], info).release == release


def test_one_seed_is_no_contradiction_and_another_one_is() -> None:
    """Who tells nothing in between contradicts nobody."""
    seeds = SharedSeed(b"")
    assert seeds.check == b""
    for found in (HashSeed(None), seed(b"one"), HashSeed(None), seed(b"one")):
        assert seeds.contradiction(A, found) == ""
    assert seeds.contradiction(B, seed(b"two")) == f"{B} has another hash-seed than {A}"
    assert seeds.contradiction(B, seed(b"one")) == ""


def test_a_checkpoint_has_enough_of_it_to_notice_another_one() -> None:
    """And no more."""
    seeds = SharedSeed(b"")
    seeds.release = "valkey 9.1"
    seeds.contradiction(A, seed(b"one"))
    assert len(seeds.check) == 4
    later = SharedSeed(seeds.check)
    assert later.check == b""
    later.release = "valkey 9.1"
    assert later.check == seeds.check
    assert later.contradiction(B, HashSeed(None)) == ""
    assert later.contradiction(B, seed(b"two")) == f"{B} has another hash-seed than the server of the checkpoint"
    assert later.contradiction(B, seed(b"one")) == ""
    assert later.check == seeds.check


def test_a_checkpoint_tells_whether_its_seed_was_shared_and_of_which_release_its_server_was() -> None:
    """Even where no seed is told."""
    seeds = SharedSeed(b"")
    assert not seeds.is_as_in_checkpoint(seed(b"one"))
    seeds.release = "valkey 9.1"
    assert len(seeds.check) == 2
    later = SharedSeed(seeds.check)
    assert later.is_as_in_checkpoint(seed(b"one"))
    assert later.is_as_in_checkpoint(HashSeed(None, release="valkey 9.1"))
    assert not later.is_as_in_checkpoint(HashSeed(None, release="valkey 9.2"))
    assert not later.is_as_in_checkpoint(None)


def test_a_mismatch_is_a_scans_failure() -> None:
    assert issubclass(HashSeedMismatch, ScanError)


@pytest.mark.parametrize("value", [None, 1, "yes", b"seed"])
def test_the_argument_is_true_or_false(value: object) -> None:
    """The seed itself is nobody's business."""
    with pytest.raises(ConfigError, match="must be True or False") as caught:
        checked_scan_options(
            match=None,
            count=None,
            type_=None,
            cursor=0,
            on_failover="restart",
            max_restarts=1,
            prefetch=1,
            certify="role",
            hash_seed_shared=value,
            has_sentinels=False,
        )
    assert caught.value.argument == "hash_seed_shared"
