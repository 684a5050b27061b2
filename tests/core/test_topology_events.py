"""What happens to a service: one event for each change, whoever tells of it, and none for what is no change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from trio_sentinel_scan._core import topology_events
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.sentinel_replies import Answer, MasterView, Peer
from trio_sentinel_scan._core.topology import Topology
from trio_sentinel_scan._core.topology_events import (
    FIRST_HAND_HOLDS,
    REMEMBERED,
    Chronicle,
    EventBuffer,
    EventsMissed,
    MasterChange,
    ReplicaAdd,
    ReplicaRemove,
    SentinelAdd,
    SentinelRemove,
    ServerReboot,
    TopologyEvent,
)
from trio_sentinel_scan._core.topology_state import MasterState, ReplicaState, SentinelState, TopologyState

S1, S2, S3, S4, S5 = (Address(f"10.0.1.{number}", 26379) for number in range(1, 6))
A, B, C, D = (Address(f"10.0.0.{number}", 6379) for number in range(1, 5))
ID = {sentinel: f"{number}" * 40 for number, sentinel in enumerate((S1, S2, S3, S4, S5), 1)}
# The process that runs at each address at first.
RUN = {address: f"run{number}" for number, address in enumerate((A, B, C, D))}
GROUP = (S1, S2, S3)


def replica(address: Address, *flags: str, **fields: Any) -> ReplicaState:
    """As a Sentinel lists one that is well, but for what is given."""
    state = ReplicaState(address, RUN[address], frozenset({"slave", *flags}), "slave", "ok", 7, 100)
    return replace(state, **fields)


class Told:
    """A topology and its chronicle, told things as the driver tells them."""

    def __init__(self, *, group: tuple[Address, ...] = GROUP) -> None:
        self.topology = Topology("mymaster", group)
        self.chronicle = Chronicle()
        self.group = group
        self.now = 100.0

    def hear(
        self,
        sentinel: Address,
        master: Address = A,
        *replicas: ReplicaState,
        epoch: int = 1,
        run_id: str | None = None,
        peers: Iterable[Address] | None = None,
        tells: bool = True,
    ) -> list[TopologyEvent]:
        """This Sentinel answers, and lists these replicas (or does not tell any)."""
        self.topology.connected(sentinel, ID[sentinel])
        others = [other for other in self.group if other != sentinel] if peers is None else list(peers)
        answer = Answer(
            MasterView(master, epoch),
            tuple(Peer(other, ID[other]) for other in others),
            replicas if tells else None,
            RUN[master] if run_id is None else run_id or None,
        )
        self.topology.answered(sentinel, answer, self.now)
        return self.observe()

    def hear_all(self, master: Address = A, *replicas: ReplicaState, **said: Any) -> list[TopologyEvent]:
        """All of them say the same."""
        return [event for sentinel in self.group for event in self.hear(sentinel, master, *replicas, **said)]

    def lose(self, *sentinels: Address) -> list[TopologyEvent]:
        """These Sentinels cannot be asked."""
        events: list[TopologyEvent] = []
        for sentinel in sentinels:
            self.topology.failed(sentinel, "refused", self.now)
            events += self.observe()
        return events

    def observe(self) -> list[TopologyEvent]:
        return self.chronicle.observe(self.topology, self.now)

    @property
    def state(self) -> TopologyState:
        state = self.chronicle.state
        assert state is not None
        return state

    @property
    def replicas(self) -> list[Address]:
        return [known.address for known in self.state.replicas]


@pytest.fixture
def told() -> Told:
    """A master at A, replicas at B and C, three Sentinels that agree."""
    told = Told()
    assert told.hear_all(A, replica(B), replica(C)) == []
    return told


# ---- how it is found -------------------------------------------------------------------------------------------


def test_before_the_first_view_there_is_nothing() -> None:
    told = Told()
    assert told.observe() == []
    assert told.chronicle.state is None
    assert told.chronicle.master is None


def test_how_the_service_is_found_is_no_event(told: Told) -> None:
    assert told.state == TopologyState(
        MasterState(A, 1, RUN[A]),
        (replica(B), replica(C)),
        tuple(SentinelState(sentinel, ID[sentinel], answers=True) for sentinel in GROUP),
    )
    assert told.chronicle.master == MasterState(A, 1, RUN[A])


def test_what_is_told_again_is_no_event(told: Told) -> None:
    for _ in range(3):
        assert told.hear_all(A, replica(C), replica(B)) == []


# ---- the master ------------------------------------------------------------------------------------------------


def test_a_change_of_masters_is_told_once(told: Told) -> None:
    """By the first that names the new one; the others, and what they list meanwhile, are no more news."""
    told.now += 5
    assert told.hear(S2, B, replica(C), epoch=2) == [
        MasterChange(A, B, 1, 2, told.now),
        ReplicaRemove(B, "promoted", 2, told.now),
    ]
    assert told.hear(S3, A, replica(B), replica(C), epoch=1) == []
    unheard = [replica(C, run_id=None), replica(A, run_id=None)]
    assert told.hear(S1, B, *unheard, epoch=2) == told.hear(S3, B, *unheard, epoch=2) == []
    assert told.state.master == MasterState(B, 2, RUN[B])
    assert told.replicas == [C]


def test_the_same_master_under_a_higher_epoch_was_another_ones_in_between(told: Told) -> None:
    assert told.hear(S1, A, replica(B), replica(C), epoch=3) == [MasterChange(A, A, 1, 3, told.now)]


def test_epochs_that_start_again_are_no_change(told: Told) -> None:
    assert told.hear_all(A, replica(B), replica(C), epoch=0) == []
    assert told.state.master.config_epoch == 0


def test_a_sentinel_that_was_cut_off_makes_no_event(told: Told) -> None:
    told.hear_all(B, replica(C), epoch=2)
    assert told.hear(S1, A, replica(B), replica(C, "s_down"), epoch=1) == []
    assert told.state.master.address == B
    assert told.replicas == [C]


# ---- replicas --------------------------------------------------------------------------------------------------


def test_a_replica_that_most_take_to_be_down_is_gone(told: Told) -> None:
    """One Sentinel alone may have lost its own connection."""
    down = replica(B, "s_down", "disconnected")
    assert told.hear(S1, A, down, replica(C)) == []
    assert told.hear(S2, A, down, replica(C)) == [ReplicaRemove(B, "down", 1, told.now)]
    assert told.hear(S3, A, down, replica(C)) == []
    assert told.replicas == [C]


def test_it_is_there_again_when_most_hear_from_it(told: Told) -> None:
    told.hear_all(A, replica(B, "s_down"), replica(C))
    assert told.hear(S1, A, replica(B), replica(C)) == []
    assert told.hear(S2, A, replica(B), replica(C)) == [ReplicaAdd(B, RUN[B], 1, told.now)]
    assert told.hear(S3, A, replica(B), replica(C)) == []


def test_one_that_flutters_at_a_single_sentinel_makes_no_event(told: Told) -> None:
    for flags in (["s_down"], [], ["disconnected"], ["s_down"], []):
        assert told.hear(S1, A, replica(B, *flags), replica(C)) == []


def test_when_nobody_knows_it_stays_as_it_was(told: Told) -> None:
    """All have lost it and none has waited long enough yet."""
    assert told.hear_all(A, replica(B, "disconnected"), replica(C)) == []
    assert told.replicas == [B, C]


def test_a_minority_that_is_left_does_not_take_it_back(told: Told) -> None:
    """Two of three said down; one of them dies, and it is one against one."""
    told.hear(S1, A, replica(B, "s_down"), replica(C))
    told.hear(S2, A, replica(B, "s_down"), replica(C))
    assert told.lose(S1) == []
    assert told.hear(S3, A, replica(B), replica(C)) == []
    assert told.replicas == [C]


def test_a_new_replica_is_told_by_the_first_that_has_heard_from_it(told: Told) -> None:
    listed = [replica(B), replica(C)]
    assert told.hear(S1, A, *listed, replica(D, run_id=None)) == []
    assert told.hear(S1, A, *listed, replica(D)) == [ReplicaAdd(D, RUN[D], 1, told.now)]
    assert told.hear(S2, A, *listed, replica(D)) == []
    assert told.hear(S3, A, *listed) == []
    assert told.replicas == [B, C, D]


@pytest.mark.parametrize(
    "fields", [{"run_id": None}, {"role_reported": "master"}, {"announced": False}, {"flags": {"disconnected"}}]
)
def test_what_is_no_replica_yet_is_not_told(told: Told, fields: dict[str, Any]) -> None:
    """A dead old master is listed and was never heard from; a demoted one says master until it is told."""
    assert told.hear_all(A, replica(B), replica(C), replace(replica(D), **fields)) == []
    assert told.replicas == [B, C]


def test_without_that_guard_a_dead_master_would_be_told_as_a_replica(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To come and go with each failover."""
    monkeypatch.setattr(ReplicaState, "is_up", property(lambda state: not state.is_down))
    assert told.hear(S1, A, replica(B), replica(C), replica(D, run_id=None)) != []


def test_one_that_nobody_lists_is_gone(told: Told) -> None:
    assert told.hear(S1, A, replica(B)) == told.hear(S2, A, replica(B)) == []
    assert told.hear(S3, A, replica(B)) == [ReplicaRemove(C, "unlisted", 1, told.now)]


def test_sentinels_that_do_not_list_replicas_say_nothing_of_them(told: Told) -> None:
    assert told.hear_all(tells=False) == []
    assert told.lose(*GROUP) == []
    assert told.replicas == [B, C]


def test_a_replicas_link_and_offset_are_state_and_no_event(told: Told) -> None:
    """Of several words, that of the Sentinel which has seen it come furthest."""
    unlinked = replica(B, link_status="err", offset=None)
    assert told.hear_all(A, unlinked, replica(C)) == []
    assert told.state.replicas[0] == unlinked
    assert (unlinked.is_up, unlinked.is_linked, unlinked.is_down) == (True, False, False)
    assert told.hear(S1, A, replica(B, offset=9), replica(C)) == []
    assert told.state.replicas[0] == replica(B, offset=9)
    assert told.state.replicas[0].is_linked


def test_a_master_that_comes_back_as_a_replica(told: Told) -> None:
    """It is told when it has said so itself, with its new process, and no reboot beside it."""
    told.hear_all(B, replica(C), replica(A, run_id=None), epoch=2)
    assert told.hear(S1, B, replica(C), replica(A, run_id="new")) == [ReplicaAdd(A, "new", 2, told.now)]
    assert told.hear(S2, B, replica(C), replica(A, run_id="new")) == []


def test_however_lately_we_have_met_what_it_was(told: Told) -> None:
    """It was the master, and we were connected to it a moment ago: that says nothing of the process that is back."""
    told.chronicle.met(A, RUN[A], told.now)
    told.now += 3
    told.hear_all(B, replica(C), replica(A, run_id=None), epoch=2)
    told.now += 1
    assert told.hear(S1, B, replica(C), replica(A, run_id="new")) == [ReplicaAdd(A, "new", 2, told.now)]
    assert told.hear(S2, B, replica(C), replica(A, run_id="new")) == []
    assert told.state.replicas[0].run_id == "new"


# ---- Sentinels -------------------------------------------------------------------------------------------------


def test_a_sentinel_that_joins_is_told_once(told: Told) -> None:
    told.group = (*GROUP, S4)
    listed = [replica(B), replica(C)]
    assert told.hear(S1, A, *listed) == [SentinelAdd(S4, ID[S4], told.now)]
    assert told.hear(S2, A, *listed) == told.hear(S4, A, *listed) == []
    assert [sentinel.address for sentinel in told.state.sentinels] == [S1, S2, S3, S4]


def test_a_sentinel_that_is_down_is_still_one(told: Told) -> None:
    """It goes on counting for a majority."""
    assert told.lose(S3) == []
    assert told.state.sentinels[2] == SentinelState(S3, ID[S3], answers=False)
    assert told.lose(S1, S2) == []
    assert len(told.state.sentinels) == 3


def test_a_sentinel_that_is_down_and_off_the_lists_was_taken_away(told: Told) -> None:
    told.lose(S3)
    assert told.hear(S1, A, replica(B), replica(C), peers=[S2]) == []
    assert told.hear(S2, A, replica(B), replica(C), peers=[S1]) == [SentinelRemove(S3, ID[S3], told.now)]
    assert [sentinel.address for sentinel in told.state.sentinels] == [S1, S2]


def test_off_the_lists_alone_is_not_enough(told: Told) -> None:
    """After SENTINEL RESET the lists are empty for two seconds, and all of them are there."""
    assert told.hear_all(A, replica(B), replica(C), peers=[]) == []


def test_two_addresses_of_one_sentinel_are_one() -> None:
    """No event, whichever is heard of first and whichever is kept."""
    told = Told(group=(S1, S2))
    elsewhere = Address("192.168.0.1", 26379)
    topology, chronicle = told.topology, told.chronicle
    topology.connected(S2, ID[S2])
    answer = Answer(MasterView(A, 1), (Peer(elsewhere, ID[S1]),), (), RUN[A])
    topology.answered(S2, answer, told.now)
    topology.waited(told.now + 1)
    assert told.observe() == []
    assert [sentinel.address for sentinel in told.state.sentinels] == [S2, elsewhere]
    topology.connected(S1, ID[S1])
    assert chronicle.observe(topology, told.now) == []
    assert [sentinel.address for sentinel in told.state.sentinels] == [S1, S2]


# ---- other processes -------------------------------------------------------------------------------------------


def test_a_reboot_is_told_by_the_first_that_sees_another_process(told: Told) -> None:
    listed = [replica(B), replica(C)]
    reboot = ServerReboot(A, "master", RUN[A], "new", 1, told.now)
    assert told.hear(S2, A, *listed, run_id="new") == [reboot]
    assert told.hear(S1, A, *listed) == told.hear(S2, A, *listed, run_id="new") == []
    assert told.hear(S1, A, *listed, run_id="new") == told.hear(S3, A, *listed, run_id="new") == []
    assert told.state.master.run_id == "new"


def test_so_is_a_replicas(told: Told) -> None:
    reboot = ServerReboot(B, "replica", RUN[B], "new", 1, told.now)
    assert told.hear(S1, A, replica(B, run_id="new"), replica(C)) == [reboot]


def test_a_sentinel_that_forgets_the_process_for_a_while_has_not_forgotten(told: Told) -> None:
    """After each change of masters all of them have; then they look again."""
    told.hear(S1, A, replica(B), replica(C), run_id="")
    assert told.hear(S1, A, replica(B), replica(C)) == []
    told.hear(S1, A, replica(B), replica(C), run_id="")
    assert len(told.hear(S1, A, replica(B), replica(C), run_id="new")) == 1


def test_two_sentinels_that_differ_prove_nothing() -> None:
    """One of them has not looked lately; nobody knows which."""
    told = Told()
    assert told.hear(S1, A) == told.hear(S2, A) == told.hear(S3, A, run_id="other") == []
    assert told.state.master.run_id == RUN[A]


def test_a_late_word_does_not_bring_an_old_process_back(told: Told) -> None:
    told.hear_all(A, replica(B), replica(C), run_id="new")
    assert told.hear(S1, A, replica(B), replica(C)) == []
    assert told.state.master.run_id == "new"
    assert told.chronicle.met(A, RUN[A], told.now) == []
    assert told.state.master.run_id == "new"


def test_one_process_after_another(told: Told) -> None:
    """More than are remembered: memory is bounded, and each is told."""
    for number in range(3 * REMEMBERED):
        [event] = told.hear(S1, A, replica(B), replica(C), run_id=f"process {number}")
        assert isinstance(event, ServerReboot)
    assert len(told.chronicle._former[A]) == REMEMBERED


def test_a_process_that_we_have_met_is_told_at_once(told: Told) -> None:
    """A Sentinel takes ten seconds; what it then says is no news."""
    assert told.chronicle.met(A, "new", told.now) == [ServerReboot(A, "master", RUN[A], "new", 1, told.now)]
    assert told.state.master == MasterState(A, 1, "new")
    assert told.chronicle.met(A, "new", told.now) == []
    assert told.hear_all(A, replica(B), replica(C)) == []
    told.now += 10
    assert told.hear_all(A, replica(B), replica(C), run_id="new") == []


def test_a_replica_that_we_have_met(told: Told) -> None:
    assert told.chronicle.met(B, "new", told.now) == [ServerReboot(B, "replica", RUN[B], "new", 1, told.now)]
    assert told.state.master.run_id == RUN[A]


def test_a_process_in_between_that_a_sentinel_has_seen_is_older_than_the_one_we_met(told: Told) -> None:
    """Two reboots in a row: the Sentinel looked between them, and tells only now."""
    told.chronicle.met(A, "third", told.now)
    told.now += 1
    assert told.hear(S1, A, replica(B), replica(C), run_id="second") == []
    told.now += 9
    assert told.hear(S1, A, replica(B), replica(C), run_id="third") == []
    assert told.state.master.run_id == "third"


def test_without_that_guard_an_old_process_would_be_told_as_the_newest(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology_events, "FIRST_HAND_HOLDS", 0.0)
    told.chronicle.met(A, "third", told.now)
    told.now += 1
    told.hear(S1, A, replica(B), replica(C), run_id="second")
    assert told.state.master.run_id == "second"


def test_a_reboot_soon_after_we_met_it_is_told_when_it_can_be_believed(told: Told) -> None:
    told.chronicle.met(A, RUN[A], told.now)
    told.now += 1
    assert told.hear(S1, A, replica(B), replica(C), run_id="new") == []
    told.now += FIRST_HAND_HOLDS
    [event] = told.hear(S1, A, replica(B), replica(C), run_id="new")
    assert event == ServerReboot(A, "master", RUN[A], "new", 1, told.now)


def test_a_server_that_does_not_tell_its_process(told: Told) -> None:
    """It is nobody's reboot."""
    assert told.chronicle.met(A, None, told.now) == []
    nameless = Told()
    assert nameless.hear_all(A, run_id="") == []
    assert nameless.state.master == MasterState(A, 1, None)
    assert nameless.chronicle.met(A, "new", nameless.now) == []
    assert nameless.state.master.run_id == "new"


def test_servers_that_come_and_go_leave_nothing_behind(told: Told) -> None:
    """Memory is of the service, not of its history."""
    listed = [replica(B), replica(C)]
    for number in range(100):
        address = Address(f"10.1.0.{number}", 6379)
        told.hear_all(A, *listed, ReplicaState(address, f"process {number}"))
    told.hear_all(A, *listed)
    chronicle = told.chronicle
    assert set(chronicle._former) == set(chronicle._run_ids) == {A, B, C}
    assert len(chronicle._words) == 9
    assert not chronicle._met_at
    assert told.replicas == [B, C]


def test_a_sentinel_that_is_silent_is_remembered_until_it_is_gone(told: Told) -> None:
    """What it sees when it is back is compared with what it said before."""
    told.lose(S1)
    told.hear(S2, A, replica(B), replica(C))
    assert len(told.hear(S1, A, replica(B), replica(C), run_id="new")) == 1


# ---- the reader ------------------------------------------------------------------------------------------------


def event(number: int) -> TopologyEvent:
    return ReplicaAdd(B, f"process {number}", 1, float(number))


def test_events_come_in_order(told: Told) -> None:
    buffer = EventBuffer(3)
    buffer.put([event(1), event(2)])
    buffer.put([event(3)])
    taken = [buffer.take(lambda: told.state) for _ in range(4)]
    assert taken == [event(1), event(2), event(3), None]


def test_a_slow_reader_is_told_how_many_it_missed_and_where_that_led(told: Told) -> None:
    """And nothing twice: what is in the state does not come again."""
    buffer = EventBuffer(3)
    for number in range(10):
        buffer.put([event(number)])
    told.hear_all(B, replica(C), epoch=2)
    assert buffer.take(lambda: told.state) == EventsMissed(10, told.state)
    assert buffer.take(lambda: told.state) is None
    buffer.put([event(11)])
    assert buffer.take(lambda: told.state) == event(11)


def test_a_buffer_that_overflows_at_once(told: Told) -> None:
    buffer = EventBuffer(1)
    buffer.put([event(1), event(2), event(3)])
    assert buffer.take(lambda: told.state) == EventsMissed(3, told.state)


# ---- in words --------------------------------------------------------------------------------------------------


def test_events_read_as_sentences(told: Told) -> None:
    run_id = "0123456789abcdef"
    words = {
        str(MasterChange(A, B, 1, 2, 0.0)): "the master is 10.0.0.2:6379 (config epoch 2), it was 10.0.0.1:6379",
        str(ReplicaAdd(B, None, 1, 0.0)): "the replica 10.0.0.2:6379 is there",
        str(ReplicaRemove(B, "down", 1, 0.0)): "the replica 10.0.0.2:6379 is gone (down)",
        str(SentinelAdd(S1, "1", 0.0)): "the Sentinel 10.0.1.1:26379 has joined",
        str(SentinelRemove(S1, "1", 0.0)): "the Sentinel 10.0.1.1:26379 was taken away",
        str(ServerReboot(A, "master", run_id, run_id[::-1], 1, 0.0)): (
            "the master 10.0.0.1:6379 was restarted: run_id 01234567 is fedcba98 now"
        ),
        str(EventsMissed(4, told.state)): (
            "4 events were missed; the master is 10.0.0.1:6379 (run_id run0), config epoch 1"
        ),
    }
    assert list(words) == list(words.values())
