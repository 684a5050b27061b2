"""What a Sentinel lists of its replicas and tells of the master's process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.sentinel_replies import Answer, read_answer
from trio_sentinel_scan._core.topology_state import ReplicaState
from trio_sentinel_scan._core.verdicts import parse_error_reply

ADDRESS = [b"10.0.0.1", b"6379"]
# As a Redis 7.0 Sentinel gives it, without what nobody looks at.
REPLICA = {
    "name": "10.0.0.2:6379",
    "ip": "10.0.0.2",
    "port": "6379",
    "runid": "abc",
    "flags": "slave",
    "role-reported": "slave",
    "master-link-status": "ok",
    "slave-priority": "100",
    "slave-repl-offset": "14844",
    "replica-announced": "1",
}


def flat(fields: dict[str, str]) -> list[bytes]:
    """As RESP2 has it."""
    return [word.encode() for pair in fields.items() for word in pair]


def mapped(fields: dict[str, str]) -> dict[bytes, bytes]:
    """As RESP3 has it."""
    return {name.encode(): value.encode() for name, value in fields.items()}


def read(replicas: object, **shown: str) -> Answer:
    master = flat({"ip": "10.0.0.1", "port": "6379", "runid": "xyz", "config-epoch": "3", **shown})
    answer = read_answer(master, ADDRESS, master, [], replicas)
    assert answer is not None
    return answer


def listed(replicas: object) -> list[ReplicaState]:
    return list(read(replicas).replicas or ())


@pytest.mark.parametrize("shape", [flat, mapped])
def test_a_list_of_replicas(shape: Callable[[dict[str, str]], Any]) -> None:
    other = {**REPLICA, "ip": "10.0.0.3", "flags": "slave,s_down,disconnected", "runid": "", "replica-announced": "0"}
    one, two = listed([shape(REPLICA), shape(other)])
    assert one == ReplicaState(
        Address("10.0.0.2", 6379), "abc", frozenset({"slave"}), "slave", "ok", 14844, 100, announced=True
    )
    assert (two.run_id, two.is_down, two.is_up, two.announced) == (None, True, False, False)
    assert two.flags == {"slave", "s_down", "disconnected"}


def test_fields_that_an_older_server_does_not_have() -> None:
    [replica] = listed([flat({"ip": "10.0.0.2", "port": "6379", "runid": "abc"})])
    assert (replica.announced, replica.offset, replica.priority, replica.link_status) == (True, None, None, "")
    assert replica.flags == frozenset()


@pytest.mark.parametrize("entry", [[], 7, None, flat({"ip": "10.0.0.2"}), flat({**REPLICA, "port": "x"}), [b"ip"]])
def test_an_entry_that_makes_no_sense_is_left_out(entry: object) -> None:
    """The others count, and so does what the Sentinel says of the master."""
    answer = read([entry, flat(REPLICA)])
    assert [replica.run_id for replica in answer.replicas or ()] == ["abc"]
    assert answer.master is not None


@pytest.mark.parametrize("reply", [None, parse_error_reply("NOPERM no permissions"), b"?", 7])
def test_a_sentinel_that_does_not_list_replicas(reply: object) -> None:
    """Which is not to say that there are none."""
    assert read(reply).replicas is None
    assert read([]).replicas == ()


def test_the_masters_process_is_that_of_the_address_that_is_named() -> None:
    """In mid-failover the leader shows the old master beside the new one's address."""
    assert read([]).run_id == "xyz"
    assert read([], runid="").run_id is None
    assert read([], ip="10.0.0.9").run_id is None
    assert read([], port="7777").run_id is None


def test_another_sentinel_without_an_address_is_left_out() -> None:
    """Two that announce one address: the one that is taken for wrong is listed with port 0."""
    master = flat({"ip": "10.0.0.1", "port": "6379", "config-epoch": "3"})
    peers = [flat({"ip": "10.0.1.2", "port": port, "runid": f"id {port}"}) for port in ("0", "26379")]
    answer = read_answer(master, ADDRESS, master, peers, [])
    assert answer is not None
    assert [peer.address for peer in answer.peers] == [Address("10.0.1.2", 26379)]
