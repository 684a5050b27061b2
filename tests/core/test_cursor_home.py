from __future__ import annotations

import pytest

from trio_sentinel_scan import ScanInterrupted
from trio_sentinel_scan._core.cluster_map import ClusterMap, ClusterNode, Shard
from trio_sentinel_scan._core.commands import Command, read_command
from trio_sentinel_scan._core.cursor_home import CursorHome, CursorLedger, SameOwners, has_cursor
from trio_sentinel_scan._core.identity import Address, ServerIdentity
from trio_sentinel_scan._core.slots import ALL_SLOTS, set_of

OLD = ServerIdentity("1" * 40, Address("10.0.0.1", 6379))
NEW = ServerIdentity("2" * 40, Address("10.0.0.2", 6379))


def scan(cursor: int, name: str = "SCAN", *key: str) -> Command:
    return read_command((name, *key, cursor, "COUNT", 10))


def test_a_cursor_goes_on_at_the_process_that_issued_it() -> None:
    """Over a new connection, too."""
    ledger = CursorLedger()
    ledger.check(scan(0), OLD, home=None)
    ledger.answered(scan(0), [b"17", [b"k"]], OLD, None)
    ledger.check(scan(17), OLD, home=None)
    ledger.check(scan(17), ServerIdentity(OLD.run_id, OLD.address), home=None)


def test_a_cursor_from_elsewhere_is_the_callers_own_business_until_the_process_has_changed() -> None:
    """It may come from another client of the same server."""
    CursorLedger().check(scan(99), OLD, home=None)


def test_no_cursor_of_an_old_process_reaches_the_new_one() -> None:
    """It would be answered, and keys would be missing."""
    ledger = CursorLedger()
    ledger.check(scan(0), OLD, home=None)
    ledger.answered(scan(0), [b"17", []], OLD, None)
    with pytest.raises(ScanInterrupted, match="another server process"):
        ledger.check(scan(17), NEW, home=None)
    # What the new one issues is good there.
    ledger.check(scan(0), NEW, home=None)
    ledger.answered(scan(0), [b"5", []], NEW, None)
    ledger.check(scan(5), NEW, home=None)
    with pytest.raises(ScanInterrupted):
        ledger.check(scan(5, "HSCAN", "h"), NEW, home=None)


def test_an_iteration_stays_at_its_process() -> None:
    """Whatever other iterations do, and whichever cursors happen to be alike."""
    ledger, mine, other = CursorLedger(), CursorHome(), CursorHome()
    ledger.check(scan(0), OLD, home=mine)
    ledger.answered(scan(0), [b"17", [b"a", b"b"]], OLD, mine)
    ledger.check(scan(0), NEW, home=other)
    ledger.answered(scan(0), [b"17", []], NEW, other)
    ledger.check(scan(17), NEW, home=other)
    with pytest.raises(ScanInterrupted) as caught:
        ledger.check(scan(17), NEW, home=mine)
    assert (caught.value.old_server, caught.value.new_server, caught.value.keys) == (OLD, NEW, 2)


def test_a_process_that_does_not_tell_who_it_is_is_another_one_on_each_connection() -> None:
    """And the same one on the same connection."""
    ledger, home = CursorLedger(), CursorHome()
    first, second = ServerIdentity(None, OLD.address), ServerIdentity(None, OLD.address)
    ledger.check(scan(0), first, home=home)
    ledger.check(scan(3), first, home=home)
    with pytest.raises(ScanInterrupted):
        ledger.check(scan(3), second, home=home)


def test_other_commands_and_odd_replies_are_none_of_its_business() -> None:
    """Nor is a command that is cut short: the server will say so."""
    ledger = CursorLedger()
    for command in (read_command(("GET", "k")), read_command(("HSCAN", "h")), scan(0)):
        ledger.check(command, OLD, home=None)
        ledger.answered(command, b"value", OLD, None)
    ledger.answered(read_command(("SSCAN", memoryview(b"s"), 0)), [b"1", []], OLD, None)


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound, a cursor may be refused that would have been good; never the other way round."""
    monkeypatch.setattr("trio_sentinel_scan._core.cursor_home._MOST", 2)
    ledger = CursorLedger()
    ledger.check(scan(0), OLD, home=None)
    ledger.check(scan(0), NEW, home=None)
    for cursor in (b"1", b"2", b"3"):
        ledger.answered(scan(0), [cursor, []], NEW, None)
    ledger.check(scan(3), NEW, home=None)
    with pytest.raises(ScanInterrupted):
        ledger.check(scan(1), NEW, home=None)


def test_a_late_answer_of_a_process_that_was_left_is_no_cursor_of_the_present_one() -> None:
    """Many are in flight: one may be read after another connection was made, and used."""
    ledger = CursorLedger()
    ledger.check(scan(0), OLD, home=None)
    ledger.check(scan(0), NEW, home=None)
    ledger.answered(scan(0), [b"17", []], OLD, None)
    with pytest.raises(ScanInterrupted):
        ledger.check(scan(17), NEW, home=None)


def test_an_iteration_may_begin_twice() -> None:
    """Its first command was lost with the server, and nothing had been handed out."""
    ledger, home = CursorLedger(), CursorHome()
    ledger.check(scan(0), OLD, home=home)
    ledger.check(scan(0), NEW, home=home)
    ledger.answered(scan(0), [b"17", []], NEW, home)
    ledger.check(scan(17), NEW, home=home)


@pytest.mark.parametrize(
    "name, has", [("SCAN", True), ("HSCAN", True), ("SSCAN", True), ("ZSCAN", True), ("GET", False)]
)
def test_which_commands_have_a_cursor(name: str, has: bool) -> None:
    """They are looked at before they are sent; the others need not be."""
    assert has_cursor(Command(name, (name,))) is has


# ---- an iteration over a cluster's masters -----------------------------------------------------------------------

LOW = set_of([(0, 8000)])
HIGH = ALL_SLOTS & ~LOW
FIRST, SECOND, THIRD = (ClusterNode(str(i) * 40, Address(f"10.0.0.{i}", 6379)) for i in (1, 2, 3))
BEGUN = ClusterMap((Shard(FIRST, LOW), Shard(SECOND, HIGH)), 1)
# Of the same owners, with a replica more.
SAME = ClusterMap((Shard(FIRST, LOW, (THIRD,)), Shard(SECOND, HIGH)), 2)
MOVED = ClusterMap((Shard(FIRST, LOW | set_of([(9000, 9000)])), Shard(SECOND, HIGH & ~set_of([(9000, 9000)]))), 3)


def test_owners_that_stay_are_no_reason_to_stop() -> None:
    owners = SameOwners(BEGUN)
    for known in (BEGUN, SAME, BEGUN):
        owners.check_key(known)
    owners.check_end(SAME, answered=True)


def test_keys_may_pass_by_an_iteration_when_slots_get_another_owner() -> None:
    owners = SameOwners(BEGUN)
    owners.check_key(BEGUN)
    with pytest.raises(ScanInterrupted, match="another owner meanwhile") as caught:
        owners.check_key(MOVED)
    assert caught.value.keys == 1
    with pytest.raises(ScanInterrupted, match="another owner meanwhile"):
        owners.check_end(MOVED, answered=True)


def test_an_iteration_does_not_end_where_nobody_tells_of_the_owners() -> None:
    """The map may be an old one."""
    owners = SameOwners(BEGUN)
    owners.check_key(BEGUN)
    with pytest.raises(ScanInterrupted, match="no node could tell") as caught:
        owners.check_end(BEGUN, answered=False)
    assert caught.value.keys == 1
