"""A collection's scan: a key that was never there, one that goes, one that becomes something else, dedupe, resume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis import exceptions as redis_errors

from tests.core._scan_model import A, B, Driver, Process, World, is_complete, keys_named, reasons
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.certificate import Evidence, Undecided
from trio_sentinel_scan._core.collection import KeyFound
from trio_sentinel_scan._core.collection_options import checked_collection_options
from trio_sentinel_scan._core.collection_plan import CollectionPlan
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.errors import (
    AuthenticationFailed,
    CollectionChanged,
    CollectionGone,
    ScanError,
    ScanInterrupted,
    ScanNotCertified,
    ScanRefused,
    ServerUnavailable,
)
from trio_sentinel_scan._core.identity import Address, Role
from trio_sentinel_scan._core.scan_replies import ScanReply
from trio_sentinel_scan._core.scan_states import State
from trio_sentinel_scan._core.seen_keys import ExactSeen
from trio_sentinel_scan._core.verdicts import parse_error_reply

KEYS = keys_named(60)
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class CollectionDriver(Driver):
    """The world's keys are the members of one set, or the fields of one hash, on each of its nodes."""

    def __init__(
        self, world: World, *, type_: Any = "set", no_values: bool = False, failover_timeout: float = 10.0, **more: Any
    ) -> None:
        super().__init__(world, failover_timeout=failover_timeout)
        # What becomes of the key, at a node: an error reply, or None where it is gone.
        self.instead: dict[Address, str | None] = {}
        self.knows_novalues: bool | None = True
        # How often each node was asked for the size.
        self.sizes_asked = 0
        self.pairs = type_ != "set" and not no_values
        given = {"match": None, "count": 5, "segments": 1, **more}
        self.options = checked_collection_options(type_, b"key", no_values=no_values, **given, has_sentinels=True)
        self.plan = CollectionPlan(self.options, failover_timeout=failover_timeout, now=self.now, jitter=lambda: 0.5)

    def size_at(self, process: Process) -> Any:
        self.sizes_asked += 1
        if process.address not in self.instead:
            return len(process.table.hashes)
        instead = self.instead[process.address]
        return 0 if instead is None else parse_error_reply(instead)

    def _connect(self, target: steps.Target) -> steps.Outcome | None:
        outcome = super()._connect(target)
        if isinstance(outcome, steps.Connected):
            assert self.link is not None
            key = KeyFound(self.size_at(self.link.process), self.knows_novalues)
            return replace(outcome, key=key)
        return outcome

    def _scan(self, link: Any) -> ScanReply:
        reply = super()._scan(link)
        address = link.process.address
        if not isinstance(reply, (Role, redis_errors.RedisError)) and address in self.instead:
            instead = self.instead[address]
            return (0, []) if instead is None else parse_error_reply(instead)
        if self.pairs and isinstance(reply, tuple) and not isinstance(reply, Role):
            return reply[0], [(key, b"v%d" % self.plan.epoch) for key in reply[1]]
        return reply

    def _evidence(self, process: Process, step: steps.Certify) -> Evidence | Undecided:
        evidence = super()._evidence(process, step)
        assert isinstance(evidence, Evidence)
        return Evidence(
            run_id=evidence.run_id,
            role=evidence.role,
            votes=evidence.votes,
            config_epoch=evidence.config_epoch,
            size=self.size_at(process),
        )

    def half_way(self) -> None:
        """Half of it is handed out, and a reply is awaited."""
        while sum(map(len, self.pages)) < len(KEYS) // 2:
            self.go_to(steps.HandOver)
            self.take_all()
        self.go_to(steps.Receive)
        # What is under way is answered as things are now.
        self.finish()


def failure(driver: Driver, kind: type[Exception]) -> ScanError:
    """The scan's failure, which is of this very kind."""
    assert driver.plan.state is State.FAILED
    error = driver.plan.error
    assert type(error) is kind
    assert isinstance(error, ScanError)
    assert error.summary is not None
    assert not error.summary.complete
    return error


# ---- it is there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", [1, 3, "auto"])
@pytest.mark.parametrize("type_", ["set", "hash", "zset"])
def test_each_item_comes_and_the_scan_ends(segments: Any, type_: str) -> None:
    driver = CollectionDriver(World(KEYS), type_=type_, segments=segments)
    summary = driver.run()
    assert driver.complete
    names = [item[0] if driver.pairs else item for page in driver.pages for item in page]
    assert set(names) == set(KEYS)
    assert summary.keys == len(names)
    assert summary.collection_size == len(KEYS)
    # Once with the connection, once with the certificate.
    assert driver.sizes_asked == 2


def test_the_size_is_that_of_the_present_pass() -> None:
    driver = CollectionDriver(World(KEYS))
    assert driver.plan.summary(driver.now).collection_size is None
    driver.half_way()
    assert driver.plan.summary(driver.now).collection_size == 60
    driver.world.write(b"one more")
    driver.world.fail_over(B)
    driver.hear()
    assert driver.plan.summary(driver.now).collection_size is None
    assert driver.run().collection_size == 61
    is_complete(driver)


def test_a_new_connection_to_the_same_process_does_not_change_it() -> None:
    driver = CollectionDriver(World(KEYS))
    driver.half_way()
    driver.world.write(b"one more")
    driver.go_to(steps.Receive)
    driver.report(steps.Lost("connection closed"))
    summary = driver.run()
    assert (summary.collection_size, summary.reconnects) == (60, 1)
    is_complete(driver)


def test_a_table_per_slot_is_the_keyspaces_business() -> None:
    """A collection has one table, whose cursors have no slot in them."""
    driver = CollectionDriver(World(KEYS, form=CursorFormat.SLOTS), segments=3)
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.segments) == (0, 3)
    opaque = CollectionDriver(World(KEYS, form=CursorFormat.UNKNOWN), segments=3)
    assert opaque.run().segments == 1
    is_complete(opaque)


# ---- it is not there -------------------------------------------------------------------------------------------


def test_what_was_never_there_is_empty() -> None:
    """As for redis-py. The summary tells."""
    driver = CollectionDriver(World())
    summary = driver.run()
    is_complete(driver)
    assert (summary.keys, summary.pages, summary.collection_size) == (0, 0, 0)


def test_what_was_not_there_may_come() -> None:
    """It is handed out as far as it is met."""
    driver = CollectionDriver(World(KEYS))
    driver.instead = {A: None}
    driver.go_to(steps.Receive)
    driver.instead = {}
    driver.report(steps.Lost("connection closed"))
    assert driver.run().keys == 60
    is_complete(driver)


@pytest.mark.parametrize("segments", [1, 3])
def test_what_goes_in_mid_scan_is_gone(segments: Any) -> None:
    """It answers as one that has come to its end. What was handed out was there; it is not everything."""
    driver = CollectionDriver(World(KEYS), segments=segments)
    driver.half_way()
    driver.instead = {A: None}
    driver.run()
    error = failure(driver, CollectionGone)
    handed = sum(map(len, driver.pages))
    assert 0 < handed < 60
    assert f"({handed} items were handed out)" in str(error)
    assert "10.0.0.1:6379" in str(error)
    assert "b'key'" not in str(error)
    assert error.summary is not None
    assert error.summary.keys == handed
    # Every page was taken before that was said.
    assert driver.plan.all_taken


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_without_the_guard_it_would_end_as_if_it_were_complete(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """A replica was promoted that had lost the key, say: all items but those handed out are missing."""
    if not guarded:
        monkeypatch.setattr(CollectionPlan, "_is_gone", lambda plan, size: False)
    driver = CollectionDriver(World(KEYS))
    driver.half_way()
    driver.instead = {A: None}
    driver.run()
    assert driver.complete is not guarded
    assert bool(driver.missed())
    assert isinstance(driver.plan.error, CollectionGone) is guarded


def test_what_goes_before_the_certificate_is_gone() -> None:
    """Whether everything had come by then, nobody can say: the last reply may have been its absence."""
    driver = CollectionDriver(World(KEYS))
    driver.go_to(steps.AwaitTaken)
    driver.instead = {A: None}
    driver.run()
    failure(driver, CollectionGone)


def test_what_is_gone_is_noticed_by_a_new_connection() -> None:
    driver = CollectionDriver(World(KEYS))
    driver.half_way()
    driver.go_to(steps.Receive)
    driver.instead = {A: None}
    driver.report(steps.Lost("connection closed"))
    scans = driver.plan.summary(driver.now).scans
    driver.run()
    failure(driver, CollectionGone)
    assert driver.plan.summary(driver.now).scans == scans


def test_what_another_master_does_not_have_is_gone() -> None:
    """It is no empty collection: this scan has seen it."""
    driver = CollectionDriver(World(KEYS))
    driver.half_way()
    driver.instead = {B: None}
    driver.world.fail_over(B)
    driver.hear()
    driver.run()
    error = failure(driver, CollectionGone)
    assert "10.0.0.2:6379" in str(error)
    assert error.summary is not None
    assert (error.summary.epoch, error.summary.collection_size) == (1, None)


def test_what_was_met_counts_though_it_was_not_there_at_first() -> None:
    driver = CollectionDriver(World(KEYS))
    driver.instead = {A: None}
    driver.go_to(steps.Ask)
    driver.instead = {}
    driver.go_to(steps.HandOver)
    driver.take_all()
    driver.instead = {A: None}
    driver.run()
    failure(driver, CollectionGone)


def test_a_deposed_masters_word_is_not_taken_for_it() -> None:
    """The Sentinels name another one: there it is."""
    driver = CollectionDriver(World(KEYS))
    driver.half_way()
    driver.instead = {A: None}
    driver.world.fail_over(B)
    step = driver.go_to(steps.Certify)
    assert isinstance(step, steps.Certify)
    driver.finish()
    assert driver.plan.state is State.HESITATING
    driver.hear()
    assert driver.run().epoch == 1
    is_complete(driver)


def test_to_raise_comes_before_all_that() -> None:
    """Who wants to hear of each failover hears of it, not of what the next master has."""
    driver = CollectionDriver(World(KEYS), on_failover="raise")
    driver.half_way()
    driver.go_to(steps.Receive)
    driver.world.restart()
    driver.instead = {A: None}
    driver.report(steps.Lost("connection closed"))
    driver.run()
    failure(driver, ScanInterrupted)


# ---- it is something else --------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_, name", [("set", "set"), ("hash", "hash"), ("zset", "sorted set")])
def test_a_key_of_another_type_is_refused(type_: str, name: str) -> None:
    """Before anything is scanned."""
    driver = CollectionDriver(World(KEYS), type_=type_)
    driver.instead = {A: WRONGTYPE}
    driver.run()
    error = failure(driver, ScanRefused)
    assert f"the key holds no {name}" in str(error)
    assert isinstance(error, redis_errors.ResponseError)
    assert driver.plan.summary(driver.now).scans == 0


@pytest.mark.parametrize("segments", [1, 3])
def test_a_key_that_becomes_something_else_in_mid_scan(segments: int) -> None:
    driver = CollectionDriver(World(KEYS), segments=segments)
    driver.half_way()
    driver.instead = {A: WRONGTYPE}
    driver.run()
    error = failure(driver, CollectionChanged)
    assert "holds no set any more on 10.0.0.1:6379" in str(error)
    assert "items were handed out" in str(error)


def test_one_that_becomes_something_else_after_the_last_page() -> None:
    driver = CollectionDriver(World(KEYS))
    driver.go_to(steps.AwaitTaken)
    driver.instead = {A: WRONGTYPE}
    driver.run()
    failure(driver, CollectionChanged)


def test_one_that_another_master_has_as_something_else() -> None:
    driver = CollectionDriver(World(KEYS))
    driver.half_way()
    driver.instead = {B: WRONGTYPE}
    driver.world.fail_over(B)
    driver.hear()
    driver.run()
    failure(driver, CollectionChanged)


def test_one_that_becomes_something_else_between_its_size_and_its_first_reply() -> None:
    driver = CollectionDriver(World())
    driver.go_to(steps.Ask)
    driver.instead = {A: WRONGTYPE}
    driver.finish()
    driver.run()
    assert "SSCAN: the key holds no set" in str(failure(driver, ScanRefused))


# ---- who does not tell, and who cannot tell now ----------------------------------------------------------------


def test_a_size_that_may_not_be_asked_for_is_a_refusal() -> None:
    """Without it there is no telling a key that is gone from the end."""
    driver = CollectionDriver(World(KEYS))
    driver.instead = {A: "NOPERM User reader has no permissions to run the 'scard' command"}
    driver.run()
    error = failure(driver, ScanRefused)
    assert "refuses SCARD: " in str(error)
    assert "scanned to its end" in str(error)


def test_a_refusal_of_the_scan_itself_names_its_command() -> None:
    driver = CollectionDriver(World(KEYS), type_="zset")
    driver.world.master.errors.append("NOPERM no")
    driver.run()
    assert "refuses ZSCAN: " in str(failure(driver, ScanRefused))


def test_a_missing_password_is_no_matter_of_the_key() -> None:
    driver = CollectionDriver(World(KEYS))
    driver.instead = {A: "NOAUTH Authentication required."}
    driver.run()
    assert type(driver.plan.error) is AuthenticationFailed
    assert "SCARD" in str(driver.plan.error)


@pytest.mark.parametrize("reply", ["LOADING Redis is loading", "MASTERDOWN no", "ERR max number of clients reached"])
def test_a_server_that_cannot_tell_now_is_asked_again(reply: str) -> None:
    driver = CollectionDriver(World(KEYS))
    driver.instead = {A: reply}
    for _ in range(3):
        driver.go_to(steps.Connect)
        driver.finish()
        assert driver.plan.state is State.BACKING_OFF
    driver.instead = {}
    driver.run()
    is_complete(driver)


def test_but_not_for_ever() -> None:
    driver = CollectionDriver(World(KEYS), failover_timeout=3.0)
    driver.instead = {A: "LOADING Redis is loading"}
    driver.run()
    assert type(driver.plan.error) is ServerUnavailable
    assert "answers LOADING" in str(driver.plan.error)


def test_a_certificate_waits_for_it_too() -> None:
    driver = CollectionDriver(World(KEYS))
    driver.go_to(steps.AwaitTaken)
    driver.instead = {A: "BUSY a script"}
    driver.go_to(steps.Certify)
    driver.finish()
    assert driver.plan.state is State.HESITATING
    driver.instead = {}
    driver.run()
    is_complete(driver)


def test_a_certificate_does_not_wait_for_ever() -> None:
    driver = CollectionDriver(World(KEYS), failover_timeout=3.0)
    driver.go_to(steps.AwaitTaken)
    driver.instead = {A: "BUSY a script"}
    driver.run()
    assert "answers BUSY" in str(failure(driver, ScanNotCertified))


def test_a_server_in_the_wrong_role_is_not_asked_what_it_has() -> None:
    driver = CollectionDriver(World(KEYS))
    driver.world.master.role = "slave"
    driver.instead = {A: WRONGTYPE}
    driver.go_to(steps.Connect)
    driver.finish()
    assert driver.plan.state is State.BACKING_OFF


# ---- NOVALUES --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, None])
def test_fields_alone(known: bool | None) -> None:
    driver = CollectionDriver(World(KEYS), type_="hash", no_values=True)
    driver.knows_novalues = known
    driver.run()
    is_complete(driver)
    assert all(b"NOVALUES" in step.data for step in driver.log if isinstance(step, steps.Ask))


def test_a_server_that_is_known_to_have_no_novalues_is_not_sent_it() -> None:
    driver = CollectionDriver(World(KEYS), type_="hash", no_values=True)
    driver.knows_novalues = False
    driver.run()
    assert "Redis 7.4 and Valkey 8.0" in str(failure(driver, ScanRefused))
    assert not any(isinstance(step, steps.Ask) for step in driver.log)
    plain = CollectionDriver(World(KEYS), type_="hash")
    plain.knows_novalues = False
    plain.run()
    assert plain.complete


def test_one_that_does_not_tell_may_refuse_it() -> None:
    driver = CollectionDriver(World(KEYS), type_="hash", no_values=True)
    driver.knows_novalues = None
    driver.world.master.errors.append("ERR syntax error")
    driver.run()
    error = failure(driver, ScanRefused)
    assert "refuses HSCAN" in str(error)
    assert "Redis 7.4 and Valkey 8.0" in str(error)


def test_the_next_master_may_be_older() -> None:
    driver = CollectionDriver(World(KEYS), type_="hash", no_values=True)
    driver.half_way()
    driver.knows_novalues = False
    driver.world.fail_over(B)
    driver.hear()
    driver.run()
    assert "10.0.0.2:6379" in str(failure(driver, ScanRefused))


# ---- dedupe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", ["set", "hash"])
def test_each_name_is_handed_out_once_over_restarts(type_: str) -> None:
    """A hash's values are others in the next epoch; what counts is the field."""
    seen = ExactSeen()
    driver = CollectionDriver(World(KEYS), type_=type_, dedupe=seen)
    driver.half_way()
    driver.world.fail_over(B)
    driver.hear()
    summary = driver.run()
    assert driver.complete
    items = [item for page in driver.pages for item in page]
    names = [item[0] for item in items] if type_ == "hash" else items
    assert sorted(names) == sorted(KEYS)
    assert len(seen) == 60
    assert summary.epoch == 1
    assert summary.duplicates_dropped > 0
    assert reasons(driver)
    if type_ == "hash":
        assert {str(item[1]) for item in items} == {"b'v0'", "b'v1'"}


def test_a_name_that_comes_twice_in_a_page_is_handed_out_once() -> None:
    """With what came with it first."""
    driver = CollectionDriver(World(KEYS), type_="hash", dedupe=True)
    driver.go_to(steps.Receive)
    driver.report(steps.Answered([(0, [(b"f", b"1"), (b"g", b"2"), (b"f", b"3")])]))
    driver.go_to(steps.Certify)
    (page,) = driver.pages
    assert list[Any](page.keys) == [(b"f", b"1"), (b"g", b"2")]


# ---- resume ----------------------------------------------------------------------------------------------------


def test_a_scan_goes_on_from_a_checkpoint() -> None:
    first = CollectionDriver(World(KEYS), segments=3)
    first.half_way()
    text = first.pages[-1].checkpoint
    second = CollectionDriver(first.world, resume=text, segments=3)
    summary = second.run()
    assert second.complete
    assert (summary.epoch, summary.segments) == (0, 3)
    assert {key for driver in (first, second) for page in driver.pages for key in page} == set(KEYS)
    assert summary.keys < 60


@pytest.mark.parametrize("restarted", [False, True])
def test_what_the_checkpoints_scan_had_seen_is_gone_not_empty(restarted: bool) -> None:
    """Another process, which has not seen it itself."""
    first = CollectionDriver(World(KEYS))
    first.half_way()
    text = first.pages[-1].checkpoint
    if restarted:
        first.world.restart()
    second = CollectionDriver(first.world, resume=text)
    second.instead = {A: None}
    second.run()
    failure(second, CollectionGone)


def test_a_checkpoint_of_before_the_first_page_says_nothing_of_the_key() -> None:
    first = CollectionDriver(World())
    first.run()
    for text in (first.plan.checkpoint, CollectionDriver(World()).plan.checkpoint):
        second = CollectionDriver(first.world, resume=text)
        assert second.run().collection_size == 0
        assert second.complete
