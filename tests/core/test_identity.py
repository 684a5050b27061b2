"""Addresses, roles, and when two servers are one and the same process."""

from __future__ import annotations

import pytest

from trio_sentinel_scan._core.identity import Address, Role, ServerIdentity

HERE = Address("10.0.0.1", 6379)
THERE = Address("10.0.0.2", 6379)


@pytest.mark.parametrize(
    "address, text, is_unix",
    [
        (HERE, "10.0.0.1:6379", False),
        (Address("redis.example", 1), "redis.example:1", False),
        (Address("::1", 6379), "[::1]:6379", False),
        (Address("/run/redis.sock", 0), "/run/redis.sock", True),
    ],
)
def test_an_address_is_written_as_users_write_it(address: Address, text: str, is_unix: bool) -> None:
    """IPv6 gets its brackets; a Unix socket is its path."""
    assert str(address) == text
    assert address.is_unix is is_unix


@pytest.mark.parametrize(
    "role, synced",
    [
        (Role("slave", link="connected"), True),
        (Role("slave", link="sync"), False),
        (Role("slave"), False),
        (Role("master", link="connected"), False),
    ],
)
def test_a_replica_is_synced_only_while_its_link_is_connected(role: Role, synced: bool) -> None:
    """Any other link state answers SCAN with an empty result and no error."""
    assert role.is_synced_replica is synced


def test_the_process_is_the_run_id_and_nothing_else() -> None:
    """Another address of the same process is the same process; another run_id at the same address is not."""
    process = ServerIdentity("a" * 40, HERE)
    assert process.is_same_process(ServerIdentity("a" * 40, THERE))
    assert process == ServerIdentity("a" * 40, THERE)
    assert hash(process) == hash(ServerIdentity("a" * 40, THERE))
    assert not process.is_same_process(ServerIdentity("b" * 40, HERE))
    assert process != ServerIdentity("b" * 40, HERE)
    assert not process.is_same_process(None)


def test_a_process_that_does_not_tell_its_run_id_is_like_no_other() -> None:
    """Two connections to what may be one process, or two, are two."""
    one, other = ServerIdentity(None, HERE), ServerIdentity(None, HERE)
    assert not one.is_same_process(other)
    assert not one.is_same_process(one)
    assert one != other
    assert len({one, other}) == 2
    known = ServerIdentity("a" * 40, HERE)
    assert not one.is_same_process(known)
    assert not known.is_same_process(one)


def test_an_identity_equals_itself_and_nothing_of_another_kind() -> None:
    """Comparing never raises, and an object is always found in what holds it."""
    unknown, other = ServerIdentity(None, HERE), ServerIdentity(None, HERE)
    assert [unknown, other].index(other) == 1
    assert ServerIdentity("a", HERE) != ("a", HERE)


def test_an_identity_is_told_in_few_words() -> None:
    """The address and enough of the run_id to tell two apart."""
    assert str(ServerIdentity("0123456789abcdef", HERE)) == "10.0.0.1:6379 (run_id 01234567)"
    assert str(ServerIdentity(None, HERE)) == "10.0.0.1:6379 (run_id unknown)"
