"""What CLUSTER NODES says, read: owners, flags, epochs, slots on their way; and what cannot be read."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from trio_sentinel_scan import Address, ClusterNotFound, ConfigError
from trio_sentinel_scan._core.cluster_survey import NodeLine, read_nodes
from trio_sentinel_scan._core.config import checked_address_map
from trio_sentinel_scan._core.slots import set_of

ASKED = Address("10.0.0.1", 7000)
ME, SECOND, REPLICA = "a" * 40, "b" * 40, "c" * 40

WHOLE = (
    f"{SECOND} 10.0.0.2:7001@17001,second.example master - 0 1700000000000 2 connected 5461 5470-5472\n"
    f"{REPLICA} [::1]:7002@17002 slave,fail? {ME} 0 1700000000000 3 connected\n"
    f"{ME} :7000@17000,,shard-id=x myself,master - 0 1700000000000 3 connected 0-5460"
    f" [93->-{SECOND}] [5461-<-{SECOND}]\n"
)


def test_owners_flags_and_slots_on_their_way() -> None:
    account = read_nodes(WHOLE, ASKED, 1.5, state="ok")
    assert (account.node_id, account.asked_at, account.state) == (ME, 1.5, "ok")
    assert account.migrating == {93: SECOND}
    assert account.importing == {5461: SECOND}
    myself = account.myself
    assert (myself.config_epoch, myself.slots, myself.master_id) == (3, set_of([(0, 5460)]), None)
    # A node that has not heard its own address yet is where it was asked.
    assert myself.node.address == ASKED
    second = account.lines[SECOND]
    assert second.node.address == Address("10.0.0.2", 7001)
    assert second.slots == set_of([(5461, 5461), (5470, 5472)])
    replica = account.lines[REPLICA]
    assert (replica.master_id, replica.node.address) == (ME, Address("::1", 7002))
    assert (second.is_master, replica.is_master) == (True, False)


def test_a_node_without_an_address_is_where_its_name_says() -> None:
    text = WHOLE.replace("10.0.0.2:7001@17001,second", ":7001@17001,second")
    assert read_nodes(text, ASKED, 0.0).lines[SECOND].node.address == Address("second.example", 7001)


@pytest.mark.parametrize(
    "flags, is_master, is_down",
    [
        ("master", True, False),
        ("master,fail?", True, False),
        ("master,fail", False, True),
        ("master,noaddr", False, True),
        ("handshake", False, True),
        ("slave", False, False),
    ],
)
def test_who_counts_as_a_master(flags: str, is_master: bool, is_down: bool) -> None:
    """One that only some suspect does; one that a majority holds to be down, or that nobody knows yet, does not."""
    line: NodeLine = read_nodes(WHOLE.replace(" master - ", f" {flags} - "), ASKED, 0.0).lines[SECOND]
    assert (line.is_master, line.is_down) == (is_master, is_down)


@pytest.mark.parametrize(
    "text",
    [
        WHOLE.replace("myself,", ""),
        "",
        WHOLE.replace("0-5460", "0-16384"),
        WHOLE.replace("0-5460", "9-3"),
        WHOLE.replace("0-5460", "many"),
        WHOLE.replace("->-", "-?-"),
        WHOLE.replace(":7000@", ":@"),
        WHOLE.replace("2 connected", "two connected"),
        f"{ME} 10.0.0.1:7000@17000 myself,master\n",
    ],
    ids=["nobody", "nothing", "beyond", "backwards", "words", "arrow", "port", "epoch", "short"],
)
def test_what_makes_no_sense_is_a_value_error(text: str) -> None:
    """Which says nothing of what was in it."""
    with pytest.raises(ValueError, match="CLUSTER NODES") as caught:
        read_nodes(text, ASKED, 0.0)
    assert ME not in str(caught.value)


@given(st.text(alphabet="abc 0123456789:@-[]<>,\n", max_size=200))
def test_any_text_at_all_is_an_account_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        read_nodes(WHOLE + text, ASKED, 0.0)


def test_an_address_map_is_a_mapping_or_a_function() -> None:
    fits: list[Any] = [None, {}, lambda address: address]
    for fit in fits:
        assert checked_address_map(fit) is fit
    with pytest.raises(ConfigError, match="address_map"):
        checked_address_map(cast("Any", "10.0.0.1"))


def test_nobody_could_be_asked() -> None:
    """What came of asking each is there, and is the error's own."""
    told = {"10.0.0.1:7000": "refused"}
    error = ClusterNotFound("no node", told)
    told.clear()
    assert error.nodes == {"10.0.0.1:7000": "refused"}
    assert ClusterNotFound("no node").nodes == {}
