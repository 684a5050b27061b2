"""What a Sentinel sends, as typed values: its answers to one asking, and its events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from .identity import Address
from .replies import as_fields, as_list, as_port, as_text, printable
from .topology_state import ReplicaState

__all__ = ["CHANNELS", "Answer", "Hint", "MasterView", "Peer", "read_answer", "read_event"]


class MasterView(NamedTuple):
    """Who the master is (as the Sentinels announce it), and the config epoch under which it became that."""

    address: Address
    config_epoch: int


class Peer(NamedTuple):
    """One Sentinel as another one lists it."""

    address: Address
    sentinel_id: str


class Answer(NamedTuple):
    """One Sentinel's reply to one asking: `master` is None where it does not know the service."""

    master: MasterView | None
    peers: tuple[Peer, ...]
    # The replicas that it lists under that master; None where it does not tell (it may be forbidden to).
    replicas: tuple[ReplicaState, ...] | None = None
    # The master's process, as far as it knows: it hears of another one up to ten seconds later.
    run_id: str | None = None


# ---- answers ---------------------------------------------------------------------------------------------------


def read_answer(
    before: object, address: object, after: object, sentinels: object, replicas: object = None
) -> Answer | None:
    """The replies to MASTER, GET-MASTER-ADDR-BY-NAME, MASTER, SENTINELS, REPLICAS, asked in this order in one go.

    None if the epoch moved between the first and the third: the address between them belongs to neither for
    certain, and the Sentinel must be asked again. (MASTER's own address is not used: in mid-failover the leader
    shows the old one there under the new epoch.) Raises ValueError or KeyError on a reply that makes no
    sense; of a list, what makes none is left out.
    """
    if address is None or isinstance(address, Exception):
        return Answer(None, ())
    if isinstance(before, Exception) or isinstance(after, Exception):
        # The service vanished between two of the commands.
        return None
    shown = as_fields(after)
    epoch = int(shown["config-epoch"])
    if int(as_fields(before)["config-epoch"]) != epoch:
        return None
    pair = as_list(address)
    if pair is None or len(pair) != 2:
        raise ValueError("an address that is not a pair")
    peers: list[Peer] = []
    for entry in as_list(sentinels) or []:
        fields = as_fields(entry)
        # (Port 0: one whose address has turned out to be another's.)
        if fields.get("runid") and fields.get("ip") and fields.get("port") != "0":
            peers.append(Peer(Address(fields["ip"], as_port(fields["port"])), fields["runid"]))
    master = Address(as_text(pair[0]), as_port(pair[1]))
    # The fields are the old master's for as long as its address is shown.
    is_shown = (shown.get("ip"), shown.get("port")) == (master.host, str(master.port))
    return Answer(
        MasterView(master, epoch),
        tuple(peers),
        _read_replicas(replicas),
        (shown.get("runid") or None) if is_shown else None,
    )


def _read_replicas(reply: object) -> tuple[ReplicaState, ...] | None:
    entries = as_list(reply)
    if entries is None:
        return None
    found = (_read_replica(as_fields(entry)) for entry in entries)
    return tuple(replica for replica in found if replica is not None)


def _read_replica(fields: Mapping[str, str]) -> ReplicaState | None:
    port = _number(fields.get("port"))
    if not fields.get("ip") or port is None or not 0 < port < 65536:
        return None
    return ReplicaState(
        address=Address(fields["ip"], port),
        run_id=fields.get("runid") or None,
        flags=frozenset(filter(None, fields.get("flags", "").split(","))),
        role_reported=fields.get("role-reported", ""),
        link_status=fields.get("master-link-status", ""),
        offset=_number(fields.get("slave-repl-offset")),
        priority=_number(fields.get("slave-priority")),
        # Older servers do not have the field, nor the setting.
        announced=fields.get("replica-announced", "1") != "0",
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


# ---- events ----------------------------------------------------------------------------------------------------


class Hint(NamedTuple):
    """A message of a Sentinel that makes it worth asking what is the case now."""

    channel: str
    text: str


# Channels that tell of a change, or that one may be near; none of them is believed, each makes us look.
CHANNELS: Final = (
    "+switch-master",
    "+promoted-slave",
    "+config-update-from",
    "+failover-end",
    "+failover-end-for-timeout",
    "+convert-to-slave",
    "+reboot",
    "+monitor",
    "-monitor",
    "+reset-master",
    "+sentinel",
    "-dup-sentinel",
    "+sentinel-address-switch",
    "+slave",
    "+sdown",
    "-sdown",
)


def read_event(channel: bytes, payload: bytes, service: str) -> Hint | None:
    """A Pub/Sub message of a Sentinel as a hint, or None if it speaks of another service or makes no sense."""
    name = channel.decode("utf-8", "replace")
    words = payload.decode("utf-8", "replace").split(" ")
    if name not in CHANNELS:
        return None
    if name == "+switch-master":
        mine = len(words) == 5 and words[0] == service
    elif "@" in words:
        at = words.index("@")
        mine = len(words) > at + 1 and words[at + 1] == service
    else:
        mine = len(words) > 1 and words[1] == service
    return Hint(name, printable(" ".join(words))) if mine else None
