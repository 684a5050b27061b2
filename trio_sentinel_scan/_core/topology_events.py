"""What happens to a service: the Sentinels' answers compared with what was known, one event for each change.

Several Sentinels tell of the same change, at different times, and none of them is alone to be believed about servers.
So an event is not a message that was passed on: the topology as it has been weighed is compared with what it was.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from .identity import Address
from .replies import printable
from .topology import SentinelRecord, Topology
from .topology_state import MasterState, ReplicaState, SentinelState, TopologyState

__all__ = [
    "Chronicle",
    "EventBuffer",
    "EventsMissed",
    "MasterChange",
    "ReplicaAdd",
    "ReplicaRemove",
    "SentinelAdd",
    "SentinelRemove",
    "ServerReboot",
    "TopologyEvent",
]

# Seconds for which a process that we have met ourselves is the newest that a Sentinel can know of: it asks each
# server every ten seconds, and its answer to us may be a second old.
FIRST_HAND_HOLDS: Final = 12.0
# How many former processes at one address are remembered, so that a late word about one is known for what it is.
REMEMBERED: Final = 8


@dataclass(frozen=True, slots=True)
class MasterChange:
    """Another master: the Sentinels have switched over, and the client follows.

    `old` and `new` are the same where the client learns only afterwards that there was another master in between.
    """

    old: Address
    new: Address
    old_config_epoch: int
    # That of the new master.
    config_epoch: int
    # Seconds on the clock of the event loop (`trio.current_time()` or `anyio.current_time()`), when the client learned
    # of it.
    time: float

    def __str__(self) -> str:
        return f"the master is {self.new} (config epoch {self.config_epoch}), it was {self.old}"


@dataclass(frozen=True, slots=True)
class ReplicaAdd:
    """A replica is there: new, or back, or a master before."""

    address: Address
    run_id: str | None
    # The config epoch of the master at that time; and the time, as in `MasterChange`.
    config_epoch: int
    time: float

    def __str__(self) -> str:
        return f"the replica {self.address} is there"


@dataclass(frozen=True, slots=True)
class ReplicaRemove:
    """A replica is not there any more.

    `reason`: "down", a majority of the Sentinels cannot reach it; "promoted", it is the master now; "unlisted", the
    Sentinels list it no more.
    """

    address: Address
    reason: Literal["down", "promoted", "unlisted"]
    config_epoch: int
    time: float

    def __str__(self) -> str:
        return f"the replica {self.address} is gone ({self.reason})"


@dataclass(frozen=True, slots=True)
class SentinelAdd:
    """A Sentinel has joined the service's Sentinels."""

    address: Address
    sentinel_id: str
    time: float

    def __str__(self) -> str:
        return f"the Sentinel {self.address} has joined"


@dataclass(frozen=True, slots=True)
class SentinelRemove:
    """A Sentinel was taken away: it does not answer, and a majority does not list it. (One that is down stays.)"""

    address: Address
    sentinel_id: str
    time: float

    def __str__(self) -> str:
        return f"the Sentinel {self.address} was taken away"


@dataclass(frozen=True, slots=True)
class ServerReboot:
    """Another process answers at the address of the master or of a replica. Cursors of the old one mean nothing."""

    address: Address
    role: Literal["master", "replica"]
    old_run_id: str
    new_run_id: str
    config_epoch: int
    time: float

    def __str__(self) -> str:
        return (
            f"the {self.role} {self.address} was restarted:"
            f" run_id {printable(self.old_run_id[:8])} is {printable(self.new_run_id[:8])} now"
        )


@dataclass(frozen=True, slots=True)
class EventsMissed:
    """The reader was too slow: `count` events were dropped, and `state` is what they have led to."""

    count: int
    state: TopologyState

    def __str__(self) -> str:
        return f"{self.count} events were missed; the master is {self.state.master}"


TopologyEvent: TypeAlias = MasterChange | ReplicaAdd | ReplicaRemove | SentinelAdd | SentinelRemove | ServerReboot


class Chronicle:
    """The service as its events have told of it so far. Every method is synchronous and leaves a whole state behind."""

    def __init__(self) -> None:
        # None until there was a first view: everything until then is how the service was found, and no event.
        self._master: MasterState | None = None
        # The topology's version that `_master` is of.
        self._version = 0
        # Invariant: the master's address is never among them.
        self._replicas: dict[Address, ReplicaState] = {}
        self._sentinels: dict[str, SentinelState] = {}
        # The newest process known at each address.
        self._run_ids: dict[Address, str] = {}
        # Processes that were known at each address before, or are; and when one was last met, not told of.
        self._former: dict[Address, deque[str]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._met_at: dict[Address, float] = {}
        # What each Sentinel (by id or else address) said last of each server's process, as far as it was weighed.
        self._words: dict[tuple[object, Address], str] = {}

    @property
    def state(self) -> TopologyState | None:
        """The service as it is now; None before the first view."""
        if self._master is None:
            return None
        replicas = sorted(self._replicas.values(), key=lambda replica: replica.address)
        sentinels = sorted(self._sentinels.values(), key=lambda sentinel: sentinel.address)
        return TopologyState(self._master, tuple(replicas), tuple(sentinels))

    @property
    def master(self) -> MasterState | None:
        """The master as it is now; None before the first view."""
        return self._master

    def observe(self, topology: Topology, now: float) -> list[TopologyEvent]:
        """The topology may have changed: what has happened."""
        view = topology.view
        if view is None:
            return []
        is_first = self._master is None
        events: list[TopologyEvent] = []
        speakers = [
            record
            for record in topology.counting()
            if record.live and record.said is not None and record.said.address == view.address
        ]
        events += self._compare_master(topology, now)
        events += self._compare_processes(speakers, now)
        events += self._compare_replicas(speakers, now)
        self._forget_processes(topology)
        events += self._compare_sentinels(topology, now)
        self._master = MasterState(view.address, view.config_epoch, self._run_ids.get(view.address))
        return [] if is_first else events

    def met(self, address: Address, run_id: str | None, now: float) -> list[TopologyEvent]:
        """A connection of ours has found this process there, which is newer than any Sentinel's word."""
        if run_id is None or run_id in self._former[address]:
            # An older connection's handshake, told of late, must not bring an old process back.
            if run_id is not None and run_id == self._run_ids.get(address):
                self._met_at[address] = now
            return []
        self._met_at[address] = now
        events = self._replace_process(address, run_id, now)
        if self._master is not None and self._master.address == address:
            self._master = MasterState(address, self._master.config_epoch, run_id)
        return events

    # ---- what is compared ---------------------------------------------------------------------------------------

    def _compare_master(self, topology: Topology, now: float) -> list[TopologyEvent]:
        view, before = topology.view, self._master
        assert view is not None
        events: list[TopologyEvent] = []
        if before is not None and topology.version != self._version:
            change = MasterChange(before.address, view.address, before.config_epoch, view.config_epoch, now)
            events.append(change)
        self._version = topology.version
        self._master = MasterState(view.address, view.config_epoch, self._run_ids.get(view.address))
        if self._replicas.pop(view.address, None) is not None:
            events.append(ReplicaRemove(view.address, "promoted", view.config_epoch, now))
        return events

    def _compare_replicas(self, speakers: list[SentinelRecord], now: float) -> list[TopologyEvent]:
        assert self._master is not None
        epoch = self._master.config_epoch
        lists = [record.replicas for record in speakers if record.replicas is not None]
        if not lists:
            return []
        said: dict[Address, list[ReplicaState]] = {address: [] for address in self._replicas}
        for replica in (replica for replicas in lists for replica in replicas):
            if replica.announced and replica.address != self._master.address:
                said.setdefault(replica.address, []).append(replica)
        events: list[TopologyEvent] = []
        for address, words in said.items():
            up = [word for word in words if word.is_up]
            down = sum(1 for word in words if word.is_down)
            if address not in self._replicas:
                # A Sentinel that has only heard of it says nothing yet; after each change of masters all are such.
                if len(up) > down:
                    events.append(ReplicaAdd(address, self._run_ids.get(address), epoch, now))
                    self._replicas[address] = _newest(up)
            elif 2 * down > len(lists):
                events.append(ReplicaRemove(address, "down", epoch, now))
                del self._replicas[address]
            elif not words:
                events.append(ReplicaRemove(address, "unlisted", epoch, now))
                del self._replicas[address]
            elif up:
                self._replicas[address] = _newest(up)
        return events

    def _compare_sentinels(self, topology: Topology, now: float) -> list[TopologyEvent]:
        members = topology.members()
        events: list[TopologyEvent] = []
        for sentinel_id in [known for known in self._sentinels if known not in members]:
            gone = self._sentinels.pop(sentinel_id)
            events.append(SentinelRemove(gone.address, sentinel_id, now))
        for sentinel_id, record in members.items():
            if sentinel_id not in self._sentinels:
                events.append(SentinelAdd(record.address, sentinel_id, now))
            self._sentinels[sentinel_id] = SentinelState(record.address, sentinel_id, record.live)
        return events

    def _compare_processes(self, speakers: list[SentinelRecord], now: float) -> list[TopologyEvent]:
        """Another process is news where one and the same Sentinel had named another one there before.

        Two that differ prove nothing: one of them has not looked lately.
        """
        assert self._master is not None
        events: list[TopologyEvent] = []
        words: dict[tuple[object, Address], str] = {}
        for record in speakers:
            told = {replica.address: replica.run_id for replica in record.replicas or ()}
            told[self._master.address] = record.master_run_id
            for address, run_id in told.items():
                key = (record.sentinel_id or record.address, address)
                before = self._words.get(key)
                if run_id is None or run_id == before:
                    if before is not None:
                        words[key] = before
                elif before is not None and self._has_just_met(address, now):
                    # Perhaps of before we met it: weighed when it can be told.
                    words[key] = before
                else:
                    words[key] = run_id
                    is_news = before is not None or address not in self._run_ids or not self._is_there(address)
                    if is_news and run_id not in self._former[address]:
                        events += self._replace_process(address, run_id, now)
        # Kept for as long as the Sentinel is silent; forgotten when it lists the server no more.
        speaking = {record.sentinel_id or record.address for record in speakers}
        self._words = {key: word for key, word in self._words.items() if key[0] not in speaking} | words
        return events

    def _forget_processes(self, topology: Topology) -> None:
        """What nobody speaks of any more takes no room."""
        sentinels = {record.sentinel_id or record.address for record in topology.counting()}
        self._words = {key: word for key, word in self._words.items() if key[0] in sentinels}
        spoken_of = {address for _, address in self._words}
        for address in [a for a in self._former if a not in spoken_of and not self._is_there(a)]:
            del self._former[address]
            self._run_ids.pop(address, None)
            self._met_at.pop(address, None)

    def _replace_process(self, address: Address, run_id: str, now: float) -> list[TopologyEvent]:
        old = self._run_ids.get(address)
        self._run_ids[address] = run_id
        self._former[address].append(run_id)
        if old is None or self._master is None or not self._is_there(address):
            # One that was away comes back: that is told as such.
            return []
        role: Literal["master", "replica"] = "master" if address == self._master.address else "replica"
        return [ServerReboot(address, role, old, run_id, self._master.config_epoch, now)]

    def _has_just_met(self, address: Address, now: float) -> bool:
        # One that is not there any more was met before it went.
        met_at = self._met_at.get(address)
        return met_at is not None and self._is_there(address) and now < met_at + FIRST_HAND_HOLDS

    def _is_there(self, address: Address) -> bool:
        return address in self._replicas or (self._master is not None and self._master.address == address)


def _newest(words: list[ReplicaState]) -> ReplicaState:
    """What several Sentinels say of one replica: the word of the one that has seen it come furthest."""
    return max(words, key=lambda word: (word.is_linked, word.offset or 0))


class EventBuffer:
    """Events that wait for one reader. When there are too many, it is told how many, and what they have led to."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Invariant: at most `_limit`, and empty while `_missed` is not 0.
        self._events: deque[TopologyEvent] = deque()
        self._missed = 0

    def put(self, events: Iterable[TopologyEvent]) -> None:
        """These have happened."""
        for event in events:
            if self._missed or len(self._events) >= self._limit:
                # The state that the reader is given is the newest: events before that are no news then.
                self._missed += len(self._events) + 1
                self._events.clear()
            else:
                self._events.append(event)

    def take(self, state: Callable[[], TopologyState]) -> TopologyEvent | EventsMissed | None:
        """The next item for the reader; None if there is none. `state` gives the service as it is now."""
        if self._missed:
            missed, self._missed = self._missed, 0
            return EventsMissed(missed, state())
        return self._events.popleft() if self._events else None
