"""What the Sentinels say, weighed: whom the client believes, and who cannot talk it into anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trio_sentinel_scan._core import topology as core
from trio_sentinel_scan._core.errors import MasterNotFound, NoSentinelReachable, ServiceUnknown
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.sentinel_replies import (
    CHANNELS,
    Answer,
    Hint,
    MasterView,
    Peer,
    read_answer,
    read_event,
)
from trio_sentinel_scan._core.topology import Effect, Topology, Votes
from trio_sentinel_scan._core.verdicts import parse_error_reply

S1, S2, S3, S4, S5 = (Address(f"10.0.1.{number}", 26379) for number in range(1, 6))
A, B, C = (Address(f"10.0.0.{number}", 6379) for number in range(1, 4))
ID = {sentinel: f"{number}" * 40 for number, sentinel in enumerate((S1, S2, S3, S4, S5), 1)}


def peers_of(sentinel: Address, sentinels: tuple[Address, ...]) -> tuple[Peer, ...]:
    """How one Sentinel lists the others."""
    return tuple(Peer(other, ID[other]) for other in sentinels if other != sentinel)


class Client:
    """A topology that is told things, as the driver tells it."""

    def __init__(self, *configured: Address, group: tuple[Address, ...] = (S1, S2, S3)) -> None:
        self.topology = Topology("mymaster", configured or group)
        self.group = group
        self.now = 0.0

    def hear(self, sentinel: Address, address: Address | None, epoch: int = 0, *, after: float = 0.0) -> Effect:
        """This Sentinel answers: with a master, or that it knows none."""
        self.now += after
        self.topology.connected(sentinel, ID[sentinel])
        master = None if address is None else MasterView(address, epoch)
        peers = peers_of(sentinel, self.group) if master else ()
        return self.topology.answered(sentinel, Answer(master, peers), self.now)

    def hear_all(self, address: Address | None, epoch: int = 0, *, after: float = 0.0) -> None:
        """All of them say the same."""
        self.now += after
        for sentinel in self.group:
            self.hear(sentinel, address, epoch)

    def lose(self, sentinel: Address, problem: str = "refused") -> Effect:
        """This Sentinel cannot be asked."""
        return self.topology.failed(sentinel, problem, self.now)

    @property
    def view(self) -> MasterView | None:
        return self.topology.view

    @property
    def version(self) -> int:
        return self.topology.version


# ---- the first choice ------------------------------------------------------------------------------------------


def test_a_majority_is_believed_at_once() -> None:
    """The third Sentinel need not be waited for."""
    client = Client()
    assert not client.hear(S1, A, 1).changed
    assert client.hear(S2, A, 1).changed
    assert client.view == MasterView(A, 1)
    assert client.version == 1


def test_the_newest_epoch_wins_the_first_choice() -> None:
    """In mid-failover the leader alone is right; it is not outvoted by those that have not heard."""
    client = Client()
    client.hear(S1, A, 1)
    client.hear(S3, B, 2)
    client.hear(S2, A, 1)
    assert client.view == MasterView(B, 2)


def test_of_equal_epochs_the_more_frequent_word_wins() -> None:
    """After a reset all epochs are alike."""
    client = Client(group=(S1, S2, S3, S4, S5))
    client.hear(S1, A)
    client.hear(S2, B)
    client.hear(S3, B)
    client.lose(S4)
    client.lose(S5)
    assert client.view == MasterView(B, 0)


def test_the_first_choice_waits_for_slower_sentinels_but_not_for_ever() -> None:
    """One that answers late may know a newer epoch; one that hangs must not keep us."""
    client = Client()
    client.hear(S1, A, 1)
    assert not client.topology.waited(core.FIRST_CHOICE_GRACE - 0.1).changed
    assert client.topology.waited(core.FIRST_CHOICE_GRACE).changed
    assert client.view == MasterView(A, 1)
    assert not client.topology.waited(core.FIRST_CHOICE_GRACE + 1).changed


def test_the_first_choice_is_made_when_everyone_was_tried() -> None:
    """One of three that answers is better than none, when the others are known to fail."""
    client = Client()
    client.lose(S1)
    client.hear(S2, A, 1)
    assert client.view is None
    assert not client.topology.everyone_tried
    assert client.lose(S3).changed
    assert client.topology.everyone_tried
    assert client.view == MasterView(A, 1)


def test_a_word_outlives_its_sentinel_in_the_first_choice() -> None:
    """One that told of the newest epoch and failed is not outdone by one that was cut off."""
    client = Client()
    client.hear(S1, B, 2)
    client.lose(S1)
    client.lose(S2)
    assert client.hear(S3, A, 1).changed
    assert client.view == MasterView(B, 2)


def test_a_sentinel_that_knows_no_master_chooses_none() -> None:
    """However long one waits."""
    client = Client()
    client.hear_all(None)
    assert not client.topology.waited(1000.0).changed
    assert client.view is None


# ---- following -------------------------------------------------------------------------------------------------


def test_a_higher_epoch_is_followed_on_a_single_word() -> None:
    """Each change is one change, however many Sentinels tell of it."""
    client = Client()
    client.hear_all(A, 1)
    assert client.hear(S2, B, 2).changed
    assert client.view == MasterView(B, 2)
    assert client.version == 2
    assert not client.hear(S1, B, 2).changed
    assert not client.hear(S3, B, 2).changed
    assert client.version == 2


def test_the_same_master_under_a_higher_epoch_is_a_change() -> None:
    """Another one was master in between, and nobody told us."""
    client = Client()
    client.hear_all(A, 1)
    assert client.hear(S1, A, 3).changed
    assert client.version == 2


@pytest.mark.parametrize("epoch", [0, 1, 4, 5])
def test_a_stale_sentinel_cannot_talk_the_view_back(epoch: int) -> None:
    """However often it says an epoch that is not higher, and however long nobody else is heard."""
    client = Client()
    client.hear_all(B, 5)
    client.lose(S1)
    client.lose(S2)
    for _ in range(20):
        effect = client.hear(S3, A, epoch, after=1.0)
        assert effect == Effect()
    assert client.view == MasterView(B, 5)


def test_the_view_stays_while_followers_of_a_planned_failover_lag() -> None:
    """The leader names B; two followers honestly name A for seconds, and A says ROLE master: the view stays at B."""
    client = Client()
    client.hear_all(A, 1)
    assert client.hear(S1, B, 2).changed
    for _ in range(8):
        client.hear(S1, B, 2, after=0.5)
        for follower in (S2, S3):
            assert client.hear(follower, A, 1) == Effect()
        candidate = MasterView(A, 1)
        assert client.topology.role_confirmed(candidate, is_master=True) == Effect()
    assert client.view == MasterView(B, 2)
    client.hear_all(B, 2)
    assert client.version == 2


def test_the_view_stays_when_the_leader_is_lost_for_less_than_the_followers_lag() -> None:
    """Two seconds of a silent leader and a majority for the old master are no reset; nor is a leader that flaps."""
    client = Client()
    client.hear_all(A, 1)
    client.hear(S1, B, 2)
    for _ in range(3):
        client.lose(S1)
        for _ in range(7):
            for follower in (S2, S3):
                candidate = client.hear(follower, A, 1, after=0.25).confirm
                if candidate is not None:
                    # The old master says for seconds that it is one; so does the new one, and it has a Sentinel's word.
                    assert client.topology.role_confirmed(candidate, is_master=True) == Effect()
        assert client.hear(S1, B, 2) == Effect()
    assert client.view == MasterView(B, 2)


def test_a_majority_that_holds_out_is_believed_when_the_server_confirms() -> None:
    """The leader died with its failover: the others never heard of it, and undo it."""
    client = Client()
    client.hear_all(A, 1)
    client.hear(S1, B, 2)
    client.lose(S1)
    assert client.hear(S2, A, 1).confirm is None
    assert client.hear(S3, A, 1, after=core.REGRESSION_HOLD - 0.1).confirm is None
    assert client.hear(S3, A, 1, after=0.1).confirm == MasterView(A, 1)
    assert client.view == MasterView(B, 2)
    assert client.topology.role_confirmed(MasterView(A, 1), is_master=True).changed
    assert client.view == MasterView(A, 1)
    assert client.version == 3


def test_a_majority_is_not_believed_against_the_servers_own_word() -> None:
    """And is held to its word all over again before the server is asked again."""
    client = Client()
    client.hear_all(B, 2)
    client.lose(S1)
    client.hear(S2, A, 1)
    client.hear(S3, A, 1)
    assert client.hear(S2, A, 1, after=core.REGRESSION_HOLD).confirm == MasterView(A, 1)
    assert client.topology.role_confirmed(MasterView(A, 1), is_master=False) == Effect()
    assert client.view == MasterView(B, 2)
    assert client.hear(S3, A, 1).confirm is None
    assert client.hear(S3, A, 1, after=core.REGRESSION_HOLD).confirm == MasterView(A, 1)


def test_a_confirmation_that_comes_too_late_moves_nothing() -> None:
    """A live Sentinel that holds to the view, or another majority, has taken its ground away."""
    client = Client()
    client.hear_all(B, 2)
    client.lose(S1)
    for after in (0.0, core.REGRESSION_HOLD):
        client.hear(S2, A, 1, after=after)
        client.hear(S3, A, 1)
    client.hear(S1, B, 2)
    assert client.topology.role_confirmed(MasterView(A, 1), is_master=True) == Effect()
    assert client.view == MasterView(B, 2)


def test_a_confirmation_without_a_question_moves_nothing() -> None:
    """Nobody asked for this server."""
    client = Client()
    client.hear_all(B, 2)
    assert client.topology.role_confirmed(MasterView(A, 1), is_master=True) == Effect()
    assert client.view == MasterView(B, 2)


def test_the_hold_begins_again_when_the_majority_names_another() -> None:
    """Four seconds of one word, not of any."""
    client = Client()
    client.hear_all(B, 5)
    for sentinel in client.group:
        client.hear(sentinel, A, 0)
    client.now += core.REGRESSION_HOLD - 1
    for sentinel in client.group:
        client.hear(sentinel, C, 0)
    assert client.hear(S1, C, 0, after=1.5).confirm is None
    assert client.hear(S1, C, 0, after=core.REGRESSION_HOLD).confirm == MasterView(C, 0)


def test_the_hold_ends_when_the_majority_does() -> None:
    """A Sentinel that forgets the service, or names the view again, takes its vote back."""
    client = Client()
    client.hear_all(B, 5)
    client.lose(S1)
    client.hear(S2, A, 0)
    client.hear(S3, A, 0)
    client.hear(S3, None)
    assert client.hear(S2, A, 0, after=core.REGRESSION_HOLD).confirm is None
    client.hear(S3, A, 0)
    assert client.hear(S2, A, 0, after=1.0).confirm is None


# ---- REMOVE and MONITOR ----------------------------------------------------------------------------------------


def reset(client: Client, address: Address, *, confirmed: bool = True) -> None:
    """SENTINEL REMOVE and MONITOR at one Sentinel after the other; the client asks each every second."""
    for sentinel in client.group:
        client.hear(sentinel, None, after=0.1)
        client.hear(sentinel, address, 0, after=0.1)
    for _ in range(6):
        client.now += 1.0
        for sentinel in client.group:
            effect = client.hear(sentinel, address, 0)
            if effect.confirm is not None:
                client.topology.role_confirmed(effect.confirm, is_master=confirmed)


def test_a_reset_with_the_same_master_changes_nothing_but_the_epoch() -> None:
    """Epochs start again at 0; what scans that master goes on."""
    client = Client()
    client.hear_all(A, 7)
    reset(client, A)
    assert client.view == MasterView(A, 0)
    assert client.version == 1
    # A scan that is bound to the master of before is still confirmed.
    assert client.topology.votes(MasterView(A, 7)) == Votes(3, 3, 0)
    assert client.hear(S2, B, 1).changed
    assert client.view == MasterView(B, 1)


@pytest.mark.parametrize("before", [0, 7])
def test_a_reset_with_another_master_is_followed_when_it_confirms(before: int) -> None:
    """Also where there never was a failover, and both have epoch 0."""
    client = Client()
    client.hear_all(A, before)
    reset(client, C)
    assert client.view == MasterView(C, 0)
    assert client.version == 2


def test_a_reset_that_the_server_does_not_confirm_is_not_followed() -> None:
    """It says that it is a replica."""
    client = Client()
    client.hear_all(A, 7)
    reset(client, C, confirmed=False)
    assert client.view == MasterView(A, 7)


def test_a_reset_waits_for_the_last_sentinel_that_holds_to_the_view() -> None:
    """As long as a live one does, the others may be those that were cut off."""
    client = Client()
    client.hear_all(A, 7)
    for _ in range(10):
        client.now += 1.0
        client.hear(S3, A, 7)
        for sentinel in (S1, S2):
            assert client.hear(sentinel, C, 0) == Effect()
            assert client.hear(sentinel, A, 0) == Effect()
    assert client.view == MasterView(A, 7)


@pytest.mark.parametrize("heard_before", ["never", "the same word", "an older word"])
def test_after_a_reset_a_stale_sentinel_cannot_talk_the_view_into_the_old_master(heard_before: str) -> None:
    """Its epoch is of the old count: higher, and worth nothing, whether or not it was heard before it was cut off."""
    client = Client(group=(S1, S2, S3, S4))
    if heard_before != "never":
        client.hear(S4, A, 7 if heard_before == "the same word" else 6)
        client.lose(S4)
    client.group = (S1, S2, S3)
    client.hear_all(A, 7)
    reset(client, C)
    assert client.view == MasterView(C, 0)
    for _ in range(10):
        assert not client.hear(S4, A, 7, after=1.0).changed
        client.lose(S4)
    assert client.view == MasterView(C, 0)


def test_after_a_reset_a_failover_is_followed_on_a_single_word() -> None:
    """Of a Sentinel that said something else before: that is news."""
    client = Client()
    client.hear_all(A, 7)
    reset(client, C)
    assert client.hear(S2, B, 8).changed
    assert client.view == MasterView(B, 8)


def test_after_a_reset_a_majority_needs_no_history() -> None:
    """Sentinels that were all replaced are believed together, though each speaks for the first time."""
    client = Client(S1, group=(S1,))
    client.hear_all(A, 7)
    reset(client, C)
    client.group = (S2, S3, S4)
    client.lose(S1)
    client.topology.records.update(
        {s: core.SentinelRecord(s, configured=True, sentinel_id=ID[s]) for s in client.group}
    )
    assert not client.hear(S2, B, 3).changed
    assert not client.hear(S3, B, 3).changed
    assert client.hear(S4, B, 3).changed
    assert client.view == MasterView(B, 3)


def test_distrust_ends_when_a_majority_stands_behind_a_new_epoch() -> None:
    """Then a Sentinel's first word counts again."""
    client = Client(group=(S1, S2, S3))
    client.hear_all(A, 7)
    reset(client, C)
    client.hear(S1, None)
    client.lose(S2)
    client.hear(S3, B, 8)
    assert client.view == MasterView(B, 8)
    # S1 says B for the first time since it forgot the service: no news, until it makes a majority for a newer epoch.
    client.hear(S1, B, 8)
    client.hear(S3, C, 9)
    client.hear(S1, C, 9)
    assert client.view == MasterView(C, 9)
    client.hear(S1, B, 10)
    client.hear(S3, B, 10)
    assert client.view == MasterView(B, 10)


# ---- who the Sentinels are -------------------------------------------------------------------------------------


def test_new_sentinels_are_learned_from_their_peers() -> None:
    """Each once, and counted from then on."""
    client = Client(S1)
    assert client.hear(S1, A, 1).new_sentinels == [S2, S3]
    assert client.hear(S1, A, 1).new_sentinels == []
    assert set(client.topology.records) == {S1, S2, S3}
    assert len(client.topology.electorate()) == 3
    assert client.topology.votes(MasterView(A, 1)) == Votes(3, 1, 0)


def test_a_hostname_and_a_learned_address_are_one_sentinel() -> None:
    """By its own id: the configured name stays, the learned address goes, whichever was connected first."""
    name = Address("sentinel-1.example", 26379)
    for order in ([name, S1], [S1, name]):
        topology = Topology("mymaster", [name, S2])
        topology.connected(S2, ID[S2])
        effect = topology.answered(S2, Answer(MasterView(A, 1), peers_of(S2, (S1, S2))), 0.0)
        assert effect.new_sentinels == [S1]
        dropped = [address for sentinel in order for address in topology.connected(sentinel, ID[S1])]
        assert dropped == [S1]
        assert set(topology.records) == {name, S2}
        assert len(topology.electorate()) == 2
        # Later lists have nothing new.
        assert topology.answered(S2, Answer(MasterView(A, 1), peers_of(S2, (S1, S2))), 1.0).new_sentinels == []


def test_two_configured_names_of_one_sentinel_are_one() -> None:
    """The one that answered stays."""
    one, other = Address("sentinel-1", 26379), Address("sentinel-1.example", 26379)
    topology = Topology("mymaster", [one, other])
    assert topology.connected(one, ID[S1]) == []
    assert topology.connected(other, ID[S1]) == [one]
    assert topology.connected(one, ID[S1]) == []


def test_a_sentinel_that_does_not_tell_its_id_is_known_by_its_peers() -> None:
    """SENTINEL MYID is newer than Sentinel; addresses that match are enough."""
    topology = Topology("mymaster", [S1, S2])
    assert topology.connected(S1, None) == []
    topology.answered(S1, Answer(MasterView(A, 1), peers_of(S1, (S1, S2))), 0.0)
    assert topology.records[S2].sentinel_id == ID[S2]
    topology.answered(S2, Answer(MasterView(A, 1), ()), 0.0)
    assert topology.votes(MasterView(A, 1)) == Votes(2, 2, 0)


def test_a_replaced_sentinel_is_known_by_its_new_id() -> None:
    """Its own word on who it is counts more than what its peers said before."""
    client = Client()
    client.hear_all(A, 1)
    client.topology.connected(S3, "9" * 40)
    assert client.topology.records[S3].sentinel_id == "9" * 40
    client.hear(S1, A, 1)
    assert client.topology.records[S3].sentinel_id == "9" * 40


def test_a_learned_sentinel_that_fails_and_is_listed_no_more_is_forgotten() -> None:
    """It was taken away; it would count against every majority for ever."""
    client = Client(S1, S2)
    client.hear(S1, A, 1)
    client.hear(S2, A, 1)
    client.hear(S3, A, 1)
    # While somebody lists it, it is merely away.
    assert client.lose(S3).redundant == []
    client.group = (S1, S2)
    client.hear(S1, A, 1)
    assert client.lose(S3).redundant == []
    client.hear(S2, A, 1)
    assert client.lose(S3).redundant == [S3]
    assert set(client.topology.records) == {S1, S2}
    assert client.topology.votes(MasterView(A, 1)) == Votes(2, 2, 0)


def test_a_configured_sentinel_is_never_forgotten() -> None:
    """The user named it."""
    client = Client(S1, S2, S3)
    client.hear_all(A, 1)
    client.group = (S1, S2)
    client.hear_all(A, 1)
    assert client.lose(S3).redundant == []
    assert S3 in client.topology.records


def test_nobody_is_forgotten_while_nobody_answers() -> None:
    """When all fail the fault is most likely ours."""
    client = Client(S1)
    client.hear(S1, A, 1)
    client.lose(S1)
    assert client.lose(S2).redundant == []
    assert len(client.topology.records) == 3


def test_what_an_unknown_sentinel_says_or_fails_at_is_nothing() -> None:
    """A task that was just dropped may still report."""
    client = Client(S1)
    assert client.topology.connected(S5, ID[S5]) == []
    assert client.topology.answered(S5, Answer(MasterView(B, 9), peers_of(S5, (S4, S5))), 0.0) == Effect()
    assert client.lose(S5) == Effect()
    assert set(client.topology.records) == {S1}


def test_the_electorate_counts_each_sentinel_once() -> None:
    """Those that tell their id, those that are listed, and those that answer without a name."""
    client = Client(S1, S2)
    # Nobody is known: what was configured counts.
    assert len(client.topology.electorate()) == 2
    client.topology.answered(S1, Answer(MasterView(A, 1), ()), 0.0)
    assert len(client.topology.electorate()) == 2
    # A list is known: the configured address that never answered may be another name of one on it.
    client.topology.answered(S1, Answer(MasterView(A, 1), peers_of(S1, (S1, S3, S4))), 0.0)
    assert len(client.topology.electorate()) == 3
    # One that is listed and cannot be watched counts by its id.
    del client.topology.records[S4]
    assert len(client.topology.electorate()) == 3
    # A list is no list when the one who gave it is gone.
    client.lose(S1)
    assert len(client.topology.electorate()) == 3
    assert client.topology.votes(MasterView(A, 1)) == Votes(3, 0, 0)


# ---- votes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "votes, majority",
    [
        (Votes(3, 2, 1), True),
        (Votes(3, 1, 0), False),
        (Votes(4, 2, 0), False),
        (Votes(1, 1, 0), True),
        (Votes(0, 0, 0), False),
    ],
)
def test_a_majority_is_more_than_half_of_those_known(votes: Votes, majority: bool) -> None:
    """Not of those that answered."""
    assert votes.is_majority is majority


def test_votes_are_the_latest_words_of_live_sentinels() -> None:
    """At no higher epoch; another address dissents; a higher epoch of the same address does neither."""
    client = Client(group=(S1, S2, S3, S4, S5))
    client.hear(S1, A, 3)
    client.hear(S2, A, 2)
    client.hear(S3, A, 4)
    client.hear(S4, B, 2)
    client.hear(S5, None)
    assert client.topology.votes(MasterView(A, 3)) == Votes(5, 2, 1)
    client.lose(S1)
    assert client.topology.votes(MasterView(A, 3)) == Votes(5, 1, 1)


def test_an_answer_vouches_for_nothing_later_than_its_question() -> None:
    """A certificate asks anew, and counts only what was asked since."""
    client = Client()
    client.hear_all(A, 1)
    topology = client.topology
    topology.answered(S1, Answer(MasterView(A, 1), ()), 11.0, asked_at=9.0)
    topology.answered(S2, Answer(MasterView(A, 1), ()), 11.0, asked_at=10.0)
    topology.answered(S3, Answer(MasterView(A, 1), ()), 11.0)
    assert topology.votes(MasterView(A, 1), since=10.0) == Votes(3, 2, 0)
    assert not topology.heard_everyone(10.0)
    topology.failed(S1, "refused", 12.0)
    assert topology.heard_everyone(10.0)
    assert not topology.heard_everyone(10.5)


# ---- what went wrong, in words ---------------------------------------------------------------------------------


def test_no_sentinel_that_answers_is_one_error_with_a_line_for_each() -> None:
    """A matter of addresses, network or passwords."""
    client = Client()
    client.lose(S1, "refused the connection")
    client.lose(S2, "refused the username or password")
    error = client.topology.no_master_error()
    assert type(error) is NoSentinelReachable
    assert error.sentinels == {
        "10.0.1.1:26379": "refused the connection",
        "10.0.1.2:26379": "refused the username or password",
        "10.0.1.3:26379": "not asked yet",
    }
    for sentinel, status in error.sentinels.items():
        assert f"\n  {sentinel}: {status}" in str(error)


def test_sentinels_that_do_not_know_the_service_are_another_error() -> None:
    """A matter of spelling."""
    client = Client()
    client.hear(S1, None)
    client.lose(S2)
    error = client.topology.no_master_error()
    assert type(error) is ServiceUnknown
    assert "does not know the service 'mymaster'" in error.sentinels["10.0.1.1:26379"]


def test_a_password_that_all_refuse_is_nothing_to_wait_for() -> None:
    """One that answers all the same gives hope; one that is away beside it gives none."""
    client = Client()
    client.lose(S2)
    client.lose(S3)
    assert not client.topology.is_refused
    client.topology.failed(S1, "refused the username or password", 0.0, refused=True)
    assert client.topology.is_refused
    client.hear(S2, None)
    assert not client.topology.is_refused
    client.lose(S2)
    client.lose(S1)
    assert not client.topology.is_refused


def test_sentinels_that_name_a_master_which_is_none_are_a_third() -> None:
    """What each said is in it."""
    client = Client()
    client.hear_all(A, 4)
    error = client.topology.no_master_error()
    assert type(error) is MasterNotFound
    assert error.sentinels["10.0.1.3:26379"] == "names 10.0.0.1:6379 (config epoch 4)"


# ---- what a Sentinel sends -------------------------------------------------------------------------------------


# Every channel that is subscribed to, in each form that Sentinel gives it.
EVENTS = [
    ("+switch-master", "mymaster 10.0.0.1 6379 10.0.0.2 6379"),
    ("+switch-master", "mymaster redis-1.example 6379 redis-2.example 6379"),
    ("+promoted-slave", "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379"),
    ("+config-update-from", "sentinel 0123abcd 10.0.1.1 26379 @ mymaster 10.0.0.1 6379"),
    ("+failover-end", "master mymaster 10.0.0.1 6379"),
    ("+failover-end-for-timeout", "master mymaster 10.0.0.1 6379"),
    ("+convert-to-slave", "slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379"),
    ("+reboot", "master mymaster 10.0.0.1 6379"),
    ("+reboot", "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379"),
    ("+monitor", "master mymaster 10.0.0.1 6379 quorum 2"),
    ("-monitor", "master mymaster 10.0.0.1 6379"),
    ("+reset-master", "master mymaster 10.0.0.1 6379"),
    ("+sentinel", "sentinel 0123abcd 10.0.1.2 26379 @ mymaster 10.0.0.1 6379"),
    ("-dup-sentinel", "master mymaster 10.0.0.1 6379 #duplicate of 10.0.1.2:26379 or 0123abcd"),
    ("+sentinel-address-switch", "master mymaster 10.0.0.1 6379 ip 10.0.1.4 port 26379 for 0123abcd"),
    ("+slave", "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379"),
    ("+sdown", "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379"),
    ("+sdown", "master mymaster 10.0.0.1 6379"),
    ("-sdown", "sentinel 0123abcd 10.0.1.2 26379 @ mymaster 10.0.0.1 6379"),
]


@pytest.mark.parametrize("channel, payload", EVENTS)
def test_an_event_of_our_service_is_a_hint(channel: str, payload: str) -> None:
    """Of another service it is none, even of one whose name begins or ends alike."""
    assert read_event(channel.encode(), payload.encode(), "mymaster") == Hint(channel, payload)
    assert read_event(channel.encode(), payload.encode(), "master") is None
    assert read_event(channel.encode(), payload.replace("mymaster", "mymaster2").encode(), "mymaster") is None


def test_every_channel_is_tried() -> None:
    """A channel that is added is added to the events above."""
    assert {channel for channel, _ in EVENTS} == set(CHANNELS)


@pytest.mark.parametrize(
    "channel, payload",
    [
        (b"+switch-master", b""),
        (b"+switch-master", b"mymaster"),
        (b"+switch-master", b"mymaster 10.0.0.1 6379 10.0.0.2"),
        (b"+switch-master", b"mymaster 10.0.0.1 6379 10.0.0.2 6379 more"),
        (b"+switch-master", b"other 10.0.0.1 6379 10.0.0.2 6379"),
        (b"+switch-master", b"\xff\xfe\x00"),
        (b"+reboot", b""),
        (b"+reboot", b"master"),
        (b"+reboot", b"slave x y z @"),
        (b"+reboot", b"@"),
        (b"+tilt", b"#tilt mode entered"),
        (b"mymaster", b"mymaster mymaster mymaster"),
        (b"\xff", b"\xff"),
    ],
    ids=repr,
)
def test_garbage_is_no_event(channel: bytes, payload: bytes) -> None:
    """It is not even a reason to look."""
    assert read_event(channel, payload, "mymaster") is None


def fields(epoch: object = 3, **more: object) -> dict[bytes, bytes]:
    """What SENTINEL MASTER says, in RESP3."""
    found = {"name": "mymaster", "ip": "10.0.0.9", "port": 1, "config-epoch": epoch, "quorum": 2, **more}
    return {name.encode(): str(value).encode() for name, value in found.items()}


def flat(mapping: dict[bytes, bytes]) -> list[bytes]:
    """The same in RESP2."""
    return [item for pair in mapping.items() for item in pair]


def sentinel_fields(address: Address) -> dict[bytes, bytes]:
    return {b"ip": address.host.encode(), b"port": str(address.port).encode(), b"runid": ID[address].encode()}


ADDRESS = [b"10.0.0.1", b"6379"]


@pytest.mark.parametrize("shape", [dict, flat], ids=["RESP3", "RESP2"])
def test_an_answer_is_a_pair_and_the_peers(shape: Any) -> None:
    """The address by get-master-addr-by-name: SENTINEL MASTER's own is the wrong one for a second in mid-failover."""
    answer = read_answer(shape(fields()), ADDRESS, shape(fields()), [shape(sentinel_fields(s)) for s in (S2, S3)])
    assert answer == Answer(MasterView(A, 3), (Peer(S2, ID[S2]), Peer(S3, ID[S3])))


def test_an_epoch_that_moves_meanwhile_is_no_answer() -> None:
    """The address between belongs to neither epoch for certain: ask again."""
    assert read_answer(fields(3), ADDRESS, fields(4), []) is None


UNKNOWN = parse_error_reply("ERR No such master with that name")


@pytest.mark.parametrize("address", [None, UNKNOWN])
def test_a_service_that_is_not_known_is_an_answer_too(address: object) -> None:
    """Whatever the other replies are."""
    for other in (UNKNOWN, fields()):
        assert read_answer(other, address, other, other) == Answer(None, ())


def test_a_service_that_comes_or_goes_meanwhile_is_no_answer() -> None:
    """REMOVE and MONITOR take a moment: ask again."""
    assert read_answer(UNKNOWN, ADDRESS, fields(), []) is None
    assert read_answer(fields(), ADDRESS, UNKNOWN, []) is None


def test_peers_that_say_nothing_of_themselves_are_left_out() -> None:
    """A Sentinel that was just heard of has no id yet; a list that is an error has no peers."""
    nameless = {**sentinel_fields(S2), b"runid": b""}
    nowhere = {**sentinel_fields(S2), b"ip": b""}
    assert read_answer(fields(), ADDRESS, fields(), [nameless, nowhere, {}, 7, [b"ip"]]) == Answer(MasterView(A, 3), ())
    assert read_answer(fields(), ADDRESS, fields(), UNKNOWN) == Answer(MasterView(A, 3), ())


@pytest.mark.parametrize(
    "before, address, sentinels",
    [
        (fields("x"), ADDRESS, []),
        ({}, ADDRESS, []),
        (None, ADDRESS, []),
        (7, ADDRESS, []),
        ([b"config-epoch"], ADDRESS, []),
        (fields(), [], []),
        (fields(), [b"10.0.0.1"], []),
        (fields(), b"10.0.0.1", []),
        (fields(), [b"10.0.0.1", b"port"], []),
        (fields(), ADDRESS, [{b"ip": b"10.0.0.1", b"runid": b"x"}]),
        (fields(), ADDRESS, [{b"ip": b"10.0.0.1", b"runid": b"x", b"port": b"y"}]),
    ],
    ids=range(11),
)
def test_an_answer_that_makes_no_sense_is_told_from_one_that_does(
    before: object, address: object, sentinels: object
) -> None:
    """The Sentinel is at fault, and nothing is believed of it."""
    with pytest.raises((ValueError, KeyError)):
        read_answer(before, address, before, sentinels)


# ---- any order of events ---------------------------------------------------------------------------------------


def has_a_view(machine: Sentinels) -> bool:
    """Whether the first choice was made."""
    return machine.client.view is not None


class Sentinels(RuleBasedStateMachine):
    """Five Sentinels that fail over, lag, fall silent and are cut off; the client hears them in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.client = Client(group=(S1, S2, S3, S4, S5))
        self.words = dict.fromkeys(self.client.group, MasterView(A, 1))
        self.newest = MasterView(A, 1)
        self.cut_off: set[Address] = set()
        self.heard: set[MasterView] = set()
        self.failed_over_at = 0.0

    def in_touch(self) -> list[Address]:
        return [sentinel for sentinel in self.client.group if sentinel not in self.cut_off]

    @rule(leader=st.integers(0, 4), address=st.sampled_from([A, B, C]), planned=st.booleans())
    def fail_over(self, leader: int, address: Address, planned: bool) -> None:
        """A majority elects a leader; it knows the new master first. The others have heard of the last one by then."""
        self.catch_up()
        self.newest = MasterView(address, self.newest.config_epoch + 1)
        self.words[self.in_touch()[leader % len(self.in_touch())]] = self.newest
        self.failed_over_at = self.client.now

    @rule()
    def catch_up(self) -> None:
        """Hellos reach everybody who is not cut off."""
        for sentinel in self.in_touch():
            self.words[sentinel] = self.newest

    @rule(sentinel=st.sampled_from([S4, S5]), cut=st.booleans())
    def partition(self, sentinel: Address, cut: bool) -> None:
        """A minority is cut off from the others, though not from us, or comes back."""
        (self.cut_off.add if cut else self.cut_off.discard)(sentinel)

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 30.0]))
    def wait(self, seconds: float) -> None:
        """Hellos take two seconds at most."""
        if self.client.now + seconds > self.failed_over_at + 2.0:
            self.catch_up()
            for sentinel in self.in_touch():
                self.ask(sentinel)
        self.client.now += seconds

    @rule(sentinel=st.sampled_from([S1, S2, S3, S4, S5]))
    def ask(self, sentinel: Address) -> None:
        """The client hears one Sentinel."""
        word = self.words[sentinel]
        effect = self.client.hear(sentinel, word.address, word.config_epoch)
        self.heard.add(word)
        assert effect.confirm is None, "epochs never went back, so there is nothing to confirm"

    @rule(sentinel=st.sampled_from([S1, S2, S3, S4, S5]))
    def fail(self, sentinel: Address) -> None:
        """The client cannot reach one."""
        self.client.lose(sentinel)

    @rule(address=st.sampled_from([A, B, C]), epoch=st.integers(0, 3))
    def confirm_what_nobody_asked_for(self, address: Address, epoch: int) -> None:
        """Old masters go on saying that they are masters."""
        self.client.topology.role_confirmed(MasterView(address, epoch), is_master=True)

    @precondition(has_a_view)
    @invariant()
    def the_view_is_the_newest_that_was_heard(self) -> None:
        """It follows at once, it never goes back, and nobody made it up."""
        assert self.client.view == max(self.heard, key=lambda word: word.config_epoch)


TestSentinels = Sentinels.TestCase
TestSentinels.settings = settings(max_examples=60, stateful_step_count=40)


# ---- whose Sentinels they are ----------------------------------------------------------------------------------


def stranger(client: Client, at: Address, *friends: str) -> None:
    """Another deployment's Sentinel, which watches a service of the same name, answers at one of our addresses."""
    client.topology.connected(at, "f" * 40)
    peers = tuple(Peer(Address(f"10.9.9.{i}", 26379), friend * 40) for i, friend in enumerate(friends))
    client.topology.answered(at, Answer(MasterView(C, 99), peers), client.now)


def test_another_deployments_sentinel_at_one_of_our_addresses_moves_nothing_and_has_no_vote() -> None:
    """Nobody of the service lists it: its higher epoch is of another count, and its friends are none of ours."""
    client = Client()
    client.hear_all(A, 1)
    before = client.version
    stranger(client, S3, "a", "b", "c", "d")
    assert (client.view, client.version) == (MasterView(A, 1), before)
    assert not any(record.address.host.startswith("10.9.9.") for record in client.topology.records.values())
    assert client.topology.votes(MasterView(C, 99)).agreeing == 0
    assert client.topology.votes(MasterView(A, 1)).is_majority
    assert "no Sentinel of this service lists it" in client.topology.describe()[str(S3)]


def test_a_stranger_alone_is_not_followed_either() -> None:
    """Not even when none of our own is left: it is one of three that were configured."""
    client = Client()
    client.hear_all(A, 1)
    client.lose(S1)
    client.lose(S2)
    stranger(client, S3, "a", "b")
    assert client.view == MasterView(A, 1)


def test_sentinels_that_all_came_back_with_new_ids_are_the_service_again() -> None:
    """Their configuration was not kept over a restart; a majority of what was configured lists each other."""
    client = Client()
    client.hear_all(A, 5)
    for sentinel in (S1, S2, S3):
        client.lose(sentinel)
    new = {S1: "a" * 40, S2: "b" * 40, S3: "c" * 40}
    for sentinel, sentinel_id in new.items():
        client.topology.connected(sentinel, sentinel_id)
        peers = tuple(Peer(other, new[other]) for other in new if other != sentinel)
        client.topology.answered(sentinel, Answer(MasterView(B, 6), peers), client.now)
    assert client.view == MasterView(B, 6)


def test_a_view_on_a_server_that_is_no_master_is_given_up_though_one_sentinel_holds_to_it() -> None:
    """A leader cut off from its peers goes on naming what they have undone."""
    client = Client()
    client.hear_all(A, 1)
    client.hear(S1, B, 2)
    candidate = None
    for _ in range(20):
        client.hear(S1, B, 2, after=0.25)
        for follower in (S2, S3):
            candidate = client.hear(follower, A, 1).confirm or candidate
    assert candidate is not None
    assert candidate == MasterView(A, 1)
    assert client.topology.role_confirmed(candidate, is_master=True, view_is_master=False).changed
    assert client.view == MasterView(A, 1)


def test_a_minority_that_was_reset_does_not_become_all_that_there_is() -> None:
    """One of three forgets its peers while we cannot reach them: they still count."""
    client = Client(S1)
    client.hear_all(A, 1)
    client.lose(S2)
    client.lose(S3)
    client.topology.answered(S1, Answer(MasterView(A, 0), ()), client.now)
    client.lose(S2)
    client.lose(S3)
    assert not client.topology.votes(MasterView(A, 1)).is_majority


def test_a_sentinel_that_does_not_tell_its_id_has_one_vote() -> None:
    """Known by a name and, from its peers' lists, by an address and an id: that is one Sentinel."""
    names = [Address(f"sentinel-{i}", 26379) for i in range(5)]
    ids = [str(i) * 40 for i in range(5)]
    topology = Topology("mymaster", names)
    for i in (0, 1):
        peers = tuple(Peer(Address(f"10.0.2.{j}", 26379), ids[j]) for j in range(5) if j != i)
        topology.answered(names[i], Answer(MasterView(A, 1), peers), 0.0)
    for name in names[2:]:
        topology.failed(name, "away", 0.0)
    assert topology.votes(MasterView(A, 1)) == Votes(5, 2, 0)


def test_a_name_whose_sentinel_is_watched_by_its_address_has_no_second_vote() -> None:
    """It tells no id, and the only one that it may have votes already."""
    name = Address("sentinel-1", 26379)
    topology = Topology("mymaster", [name, S2])
    topology.connected(S2, ID[S2])
    topology.answered(S2, Answer(MasterView(A, 1), peers_of(S2, (S1, S2))), 0.0)
    topology.connected(S1, ID[S1])
    topology.answered(S1, Answer(MasterView(A, 1), peers_of(S1, (S1, S2))), 0.0)
    topology.answered(name, Answer(MasterView(A, 1), peers_of(S1, (S1, S2))), 0.0)
    assert topology.votes(MasterView(A, 1)) == Votes(2, 2, 0)
