"""The check that entitles a pass to be called complete: every judgement there is."""

from __future__ import annotations

from typing import Any

import pytest

from trio_sentinel_scan._core.certificate import Basis, Evidence, Held, Refuted, Undecided, judge
from trio_sentinel_scan._core.identity import Address, Role, ServerIdentity
from trio_sentinel_scan._core.summary import Certificate
from trio_sentinel_scan._core.topology import Votes

HERE = Address("10.0.0.1", 6379)
SERVER = ServerIdentity("a" * 40, HERE)
REPLICAS = frozenset({Address("10.0.0.2", 6379), Address("10.0.0.3", 6379)})
MASTER = Role("master", REPLICAS)
SYNCED = Role("slave", link="connected")
BASES: list[Basis] = ["sentinels", "role", "server"]


def evidence(**changes: Any) -> Evidence:
    """All is well, but for these changes."""
    found: dict[str, Any] = {
        "run_id": SERVER.run_id,
        "role": MASTER,
        "votes": Votes(known=3, agreeing=3, dissenting=0),
        "config_epoch": 7,
        "sentinels": {"s1": "names it", "s2": "is silent"},
    }
    return Evidence(**{**found, **changes})


def test_a_certificate_says_what_it_rests_on() -> None:
    """The server, its role, its replicas, and how many Sentinels agree."""
    assert judge("sentinels", SERVER, MASTER, evidence()) == Held(
        Certificate(
            basis="sentinels",
            server=SERVER,
            role="master",
            replicas=2,
            config_epoch=7,
            sentinels_known=3,
            sentinels_agreeing=3,
        )
    )


@pytest.mark.parametrize("basis", ["role", "server"])
def test_without_sentinels_the_servers_own_word_is_enough(basis: Basis) -> None:
    """By the caller's choice, or because there are none."""
    judgement = judge(basis, SERVER, MASTER, evidence(votes=None, config_epoch=None))
    assert isinstance(judgement, Held)
    assert judgement.certificate.basis == basis
    assert judgement.certificate.sentinels_known == 0


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(
    "before, changes, reason",
    [
        (MASTER, {"run_id": "b" * 40}, "another process"),
        (MASTER, {"role": Role("slave", link="connected")}, "role is slave, it was master"),
        (MASTER, {"role": Role("")}, "role is not known, it was master"),
        (SYNCED, {"role": MASTER}, "role is master, it was slave"),
        (SYNCED, {"role": Role("slave", link="sync")}, "'sync', not 'connected'"),
        (SYNCED, {"role": Role("slave", link="")}, "'', not 'connected'"),
    ],
)
def test_a_server_that_is_another_or_in_another_role_refutes_the_pass(
    basis: Basis, before: Role, changes: dict[str, Any], reason: str
) -> None:
    """Whatever anybody else says: its keys may not be those that count."""
    judgement = judge(basis, SERVER, before, evidence(**changes))
    assert isinstance(judgement, Refuted)
    assert reason in judgement.reason


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(
    "server, changes, before",
    [
        # On one connection the process is the same, whether or not it tells its run_id.
        (SERVER, {"run_id": None}, MASTER),
        (ServerIdentity(None, HERE), {}, MASTER),
        (ServerIdentity(None, HERE), {"run_id": None}, MASTER),
        # Replicas that are merely away say nothing; new ones say nothing.
        (SERVER, {"role": Role("master")}, MASTER),
        (SERVER, {}, Role("master")),
        (SERVER, {"role": SYNCED}, SYNCED),
        (SERVER, {"role": Role("")}, Role("")),
        (SERVER, {}, Role("")),
    ],
    ids=range(8),
)
def test_what_is_not_told_refutes_nothing(
    basis: Basis, server: ServerIdentity, changes: dict[str, Any], before: Role
) -> None:
    """Nor does the loss of a replica."""
    assert isinstance(judge(basis, server, before, evidence(**changes)), Held)


@pytest.mark.parametrize("basis", BASES)
def test_a_replica_that_has_become_a_master_leaves_it_open(basis: Basis) -> None:
    """A failover is under way. Another pass over the same server would not see it any more; the view will move."""
    judgement = judge(basis, SERVER, MASTER, evidence(promoted=(Address("10.0.0.2", 6379),)))
    assert isinstance(judgement, Undecided)
    assert "10.0.0.2:6379" in judgement.reason


@pytest.mark.parametrize(
    "votes, held",
    [
        (Votes(known=3, agreeing=2, dissenting=0), True),
        (Votes(known=3, agreeing=2, dissenting=1), True),
        (Votes(known=1, agreeing=1, dissenting=0), True),
        (Votes(known=5, agreeing=3, dissenting=2), True),
        (Votes(known=3, agreeing=1, dissenting=0), False),
        (Votes(known=3, agreeing=0, dissenting=0), False),
        (Votes(known=2, agreeing=1, dissenting=0), False),
        (Votes(known=4, agreeing=2, dissenting=0), False),
        (Votes(known=0, agreeing=0, dissenting=0), False),
        (Votes(known=3, agreeing=1, dissenting=2), False),
        (Votes(known=3, agreeing=0, dissenting=3), False),
    ],
)
def test_more_than_half_of_the_sentinels_must_agree(votes: Votes, held: bool) -> None:
    """Half is not enough. A majority for another master moves the view, and that is what voids the pass."""
    judgement = judge("sentinels", SERVER, MASTER, evidence(votes=votes))
    assert isinstance(judgement, Held if held else Undecided)
    if isinstance(judgement, Undecided):
        for part in (f"{votes.agreeing} of {votes.known}", f"{votes.dissenting} name another", "s2 is silent"):
            assert part in judgement.reason


@pytest.mark.parametrize("basis", BASES)
def test_a_role_that_is_told_at_last_must_be_a_masters_where_only_a_master_will_do(basis: Basis) -> None:
    """The server may tell in HELLO what it would not tell in ROLE; a single server may be a replica."""
    judgement = judge(basis, SERVER, Role(""), evidence(role=SYNCED))
    assert isinstance(judgement, Held if basis == "server" else Refuted)


def test_sentinels_that_were_not_asked_decide_nothing() -> None:
    """Nobody's silence is consent."""
    assert judge("sentinels", SERVER, MASTER, evidence(votes=None)) == Undecided("no Sentinel was asked")


@pytest.mark.parametrize("basis", ["role", "server"])
def test_votes_are_shown_but_not_weighed_where_nobody_asked_for_them(basis: Basis) -> None:
    """The caller's choice stands."""
    judgement = judge(basis, SERVER, MASTER, evidence(votes=Votes(known=3, agreeing=1, dissenting=2)))
    assert isinstance(judgement, Held)
    assert (judgement.certificate.sentinels_known, judgement.certificate.sentinels_agreeing) == (3, 1)
