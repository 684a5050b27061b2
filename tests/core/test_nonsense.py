"""What `tests/fuzz` has found, each case by itself: a server's nonsense is refused as such, and nothing else fails."""

from __future__ import annotations

from zlib import compress

import pytest

from tests.fuzz.readers import sealed
from trio_sentinel_scan._core.cluster_checkpoint import parse_cluster_checkpoint
from trio_sentinel_scan._core.cluster_map import read_shards, read_slots
from trio_sentinel_scan._core.cluster_survey import read_nodes
from trio_sentinel_scan._core.cluster_work import read_redirection
from trio_sentinel_scan._core.command_keys import key_places, keys_at, read_key_places
from trio_sentinel_scan._core.cursor import version_of
from trio_sentinel_scan._core.errors import CheckpointInvalid, ProtocolError
from trio_sentinel_scan._core.handshake import read_role
from trio_sentinel_scan._core.identity import Address, Role
from trio_sentinel_scan._core.replies import as_port, printable
from trio_sentinel_scan._core.sentinel_replies import read_answer
from trio_sentinel_scan._core.verdicts import parse_error_reply

HERE = Address("10.0.0.1", 7000)
INFINITE = float("inf")
# More digits than Python makes a number of.
DIGITS = "9" * 5_000


PORTS = [INFINITE, 10**30, 0, -1, 65_536, b"", b"x", b"inf", DIGITS.encode(), None, [1]]


@pytest.mark.parametrize("port", PORTS, ids=[repr(port)[:9] for port in PORTS])
def test_a_port_that_cannot_be(port: object) -> None:
    """RESP3 has doubles, and no int can be made of some; getaddrinfo overflows; and 0 would be a Unix socket."""
    with pytest.raises(ValueError, match=r".*"):
        as_port(port)
    node = [b"id", b"a", b"port", port, b"ip", b"10.0.0.2", b"role", b"master"]
    role = [b"master", 1, [[b"10.0.0.2", port, b"0"]]]
    slots, shards = [[0, 1, [b"10.0.0.2", port, b"a"]]], [[b"slots", [0, 1], b"nodes", [node]]]
    if port == 0:  # that is how they list one whose address is not known, and it is left out
        assert read_role(role) == Role("master")
        assert read_slots(slots, HERE) == read_shards(shards, HERE, tls=False) == ()
    else:
        with pytest.raises(ProtocolError):
            read_role(role)
        with pytest.raises(ValueError, match="CLUSTER SLOTS"):
            read_slots(slots, HERE)
        if port is not None:  # (without one it is left out, too)
            with pytest.raises(ValueError, match="CLUSTER SHARDS"):
                read_shards(shards, HERE, tls=False)
    known = [b"config-epoch", b"1"]
    with pytest.raises((ValueError, TypeError)):
        read_answer(known, [b"10.0.0.2", port], known, [])


def test_a_port_that_can_be() -> None:
    assert [as_port(port) for port in (1, b"6379", "65535")] == [1, 6379, 65_535]


def test_a_replica_with_such_a_port_is_left_out() -> None:
    known = [b"config-epoch", b"1"]
    listed = [[b"ip", b"h", b"port", port] for port in (b"0", b"70000", b"6379")]
    found = read_answer(known, [b"10.0.0.2", b"1"], known, [], listed)
    assert found is not None
    assert found.replicas is not None
    assert [replica.address for replica in found.replicas] == [Address("h", 6379)]


@pytest.mark.parametrize("where", ["/run/admin.sock:0", "h:65536", "h:-1"])
def test_a_nodes_address_that_cannot_be(where: str) -> None:
    with pytest.raises(ValueError, match="CLUSTER NODES"):
        read_nodes(f"a {where}@1 myself,master - 0 0 1 connected 0-5\n", HERE, 0.0)
    assert read_nodes("a :0@0 myself,master - 0 0 1 connected 0-5\n", HERE, 0.0).myself.node.address == ("10.0.0.1", 0)


@pytest.mark.parametrize("words", ["MOVED 7 /run/admin.sock:0", "ASK 7 h:0", "MOVED 7 h:65536", "MOVED 16384 h:1"])
def test_a_redirection_to_nowhere_is_an_error_like_others(words: str) -> None:
    assert read_redirection(parse_error_reply(words), HERE) is None


@pytest.mark.parametrize(
    "places, flags", [((INFINITE, 1, 1), []), ((1, [], 1), []), ((1, 1, DIGITS), []), ((1, 1, 1), None)]
)
def test_places_of_keys_that_cannot_be(places: tuple[object, ...], flags: object) -> None:
    with pytest.raises(ProtocolError, match="COMMAND INFO"):
        read_key_places([[b"frob", 2, flags, *places]])


def test_a_version_with_too_many_digits() -> None:
    assert version_of(f"7.{DIGITS}") is None
    assert version_of("7.0.15") == (7, 0)


def test_a_number_of_keys_with_too_many_digits() -> None:
    words = ("EVAL", "return 1", DIGITS, "a", "b")
    places = key_places("EVAL", words)
    assert places is not None
    assert keys_at(places, words) == ["a", "b"]


def test_a_checkpoints_number_without_end() -> None:
    """A thousand bytes that unfold to a number of a million digits, which took minutes."""
    digests = bytes(3 * 6)
    with pytest.raises(CheckpointInvalid, match="damaged"):
        parse_cluster_checkpoint(sealed("tssc1", compress(digests + b"\0" + b"\xff" * 500_000)), None)


@pytest.mark.parametrize("text", ["plain", "naïve", "two words"])
def test_what_is_printable_stays(text: str) -> None:
    assert printable(text) == text


def test_what_is_not_printable_is_shown_as_what_it_is() -> None:
    assert printable("a\x1b[2J\r\nb\u202e\x9b\0") == r"a\x1b[2J\r\nb\u202e\x9b\x00"
    assert str(parse_error_reply("ERR no \x1b]0;x\x07")) == r"no \x1b]0;x\x07"
    assert str(Address("h\n", 1)) == r"h\n:1"
