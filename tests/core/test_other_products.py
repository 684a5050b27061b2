"""Proxies and other products: words at the end of SCAN, and what of a server's word a cursor may rest on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core._scan_model import A, Driver, World, failure, is_complete, keys_named, kinds, reasons, scan_options
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.errors import CheckpointInvalid, ConfigError, ScanInterrupted
from trio_sentinel_scan._core.identity import Role, ServerIdentity
from trio_sentinel_scan._core.other_products import as_believed
from trio_sentinel_scan._core.scan_replies import ROLE_REQUEST, ScanEncoder
from trio_sentinel_scan._core.wire import encode_command

KEYS = keys_named(60)
NODE = ("node-1",)


def options(**changes: Any) -> Any:
    """The options of a scan through a proxy."""
    return scan_options(**{"has_sentinels": False, "extra_args": NODE, **changes})


# ---- the argument -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [("a", b"\xff"), ["a", b"\xff"], ("a", "\udcff")])
def test_the_words_come_last(given: Any) -> None:
    """Behind COUNT, as they were given."""
    found = options(extra_args=given, match="user:*", type_="hash")
    assert found.extra_args == (b"a", b"\xff")
    command = ("SCAN", 9, "MATCH", "user:*", "TYPE", "hash", "COUNT", 7, "a", b"\xff")
    encoder = ScanEncoder(found)
    assert encoder.encode(9, 7) == encode_command(*command) == encoder.encode(9, 7)
    assert ScanEncoder(options()).encode(0, 1) == encode_command("SCAN", 0, "COUNT", 1, "node-1")


@pytest.mark.parametrize(
    "value, problem",
    [
        ("node-1", "must be a tuple or list"),
        (b"node-2", "must be a tuple or list"),
        (None, "must be a tuple or list"),
        ({"node-1"}, "must be a tuple or list"),
        ((1,), "str or bytes, not int"),
        ((None,), "str or bytes, not NoneType"),
        ((("node-1",),), "str or bytes, not tuple"),
        (("",), "empty word"),
        ((b"",), "empty word"),
        (("match", "a*"), "MATCH has an argument of its own, match"),
        ((b"Count", b"5"), "COUNT has an argument of its own, count"),
        (("TYPE", "hash"), "TYPE has an argument of its own, type_"),
    ],
)
def test_other_values_are_refused(value: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        options(extra_args=value)
    assert caught.value.argument == "extra_args"
    assert "a*" not in str(caught.value)


def test_a_word_that_the_encoding_cannot_write_is_refused() -> None:
    with pytest.raises(ConfigError, match="ascii") as caught:
        options(extra_args=("größe",), encoding="ascii")
    assert caught.value.argument == "extra_args"
    assert "gr" not in str(caught.value)


@pytest.mark.parametrize(
    "others, argument, reason",
    [
        ({"segments": 2}, "segments", "whose cursors are of its own making"),
        ({"hash_seed_shared": True}, "hash_seed_shared", "cannot go with extra_args"),
        ({"has_sentinels": True}, "extra_args", "Sentinels name a server, not a proxy: use RedisClient"),
    ],
)
def test_what_makes_no_sense_through_a_proxy_is_refused(others: Any, argument: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        options(**others)
    assert caught.value.argument == argument


def test_what_goes_with_a_proxy() -> None:
    """One chain, whether or not it is asked for; and a cursor of the caller's."""
    assert options(segments="auto").segments is None
    assert options(segments=1, cursor=5).cursor == 5
    assert options().basis == "proxy"
    assert options(extra_args=()).basis == "server"
    assert options(extra_args=(), has_sentinels=True).basis == "sentinels"


def test_the_words_are_part_of_what_is_scanned() -> None:
    """A checkpoint of one node is of no use to another. They cannot be read from it."""
    driver = Driver(World(KEYS), has_sentinels=False, extra_args=NODE)
    driver.go_to(steps.HandOver)
    text = driver.plan.checkpoint
    assert options(resume=text).resume is not None
    for other in ((), ("node-2",), ("node-1", "x")):
        with pytest.raises(CheckpointInvalid, match="what is scanned was not the same"):
            options(resume=text, extra_args=other)


# ---- what is believed -------------------------------------------------------------------------------------------


def found(form: CursorFormat = CursorFormat.REVERSED) -> steps.Connected:
    return steps.Connected(ServerIdentity("a" * 40, A), Role("slave", link="sync"), form, "not in sync")


def test_a_proxy_has_neither_process_nor_role() -> None:
    """Whatever some node said."""
    believed = as_believed(found(), "proxy", format_distrusted=False)
    assert (believed.server.run_id, believed.server.address) == (None, A)
    assert (believed.role, believed.cursor_format, believed.unfit) == (Role(""), CursorFormat.UNKNOWN, "")


@pytest.mark.parametrize(
    "form, distrusted", [(CursorFormat.UNKNOWN, False), (CursorFormat.REVERSED, True), (CursorFormat.SLOTS, True)]
)
def test_a_run_id_counts_where_cursors_are_understood(form: CursorFormat, distrusted: bool) -> None:
    """Another product may keep it over a restart, which its cursors do not survive. Its role it may tell."""
    believed = as_believed(found(form), "server", format_distrusted=distrusted)
    assert (believed.server.run_id, believed.server.address) == (None, A)
    assert (believed.role, believed.unfit) == (found().role, found().unfit)


def test_redis_and_valkey_are_believed() -> None:
    server = found()
    assert as_believed(server, "server", format_distrusted=False) is server


# ---- a scan -----------------------------------------------------------------------------------------------------


def proxied(world: World, **options: Any) -> Driver:
    """A scan through a proxy."""
    return Driver(world, **{"has_sentinels": False, "extra_args": NODE, **options})


def test_a_scan_through_a_proxy() -> None:
    """One chain, no positions, no ROLE; complete on nobody's word."""
    world = World(KEYS)
    world.master.role, world.master.link = "slave", "sync"
    driver = proxied(world, segments="auto")
    driver.now += 1.0
    summary = driver.run()
    assert driver.complete
    assert driver.missed() == set()
    assert summary.segments == 1
    assert {page.position for page in driver.pages[:-1]} == {None}
    assert not any(ROLE_REQUEST in step.data for step in driver.log if isinstance(step, steps.Ask))
    assert summary.certificate is not None
    assert str(summary.certificate) == (
        "10.0.0.1:6379 (run_id unknown) is taken to be a proxy (extra_args), so there is nobody to ask"
    )


@pytest.mark.parametrize("case", ["a proxy", "another product"])
def test_each_new_connection_is_a_new_epoch(case: str) -> None:
    """Though INFO tells of the same process as before."""
    driver = proxied(World(KEYS)) if case == "a proxy" else Driver(World(KEYS, form=CursorFormat.UNKNOWN))
    driver.go_to(steps.HandOver)
    driver.go_to(steps.Receive)
    driver.time_out()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.reconnects) == (1, 0)
    assert reasons(driver) == ["a new connection, and the server does not tell which process it is"]


def test_info_of_another_node_is_no_reason_against_the_certificate() -> None:
    """A proxy that was not declared: once its cursors have shown that they are none of Redis's, it is not asked who."""
    world = World(KEYS, honest=False)
    driver = Driver(world, has_sentinels=False)
    step = driver.go_to(steps.Certify)
    world.master.run_id = "f" * 40
    driver.pending = (step, driver._evidence(world.master, step))
    summary = driver.run()
    assert driver.complete
    assert summary.epoch == 1


def test_a_checkpoint_through_a_proxy_begins_again() -> None:
    """Or raises. (It has its use: with seen keys on disk, the new pass leaves out what was handed out.)"""
    world = World(KEYS)
    first = proxied(world)
    first.go_to(steps.HandOver)
    first.take_all()
    text = first.plan.checkpoint
    driver = proxied(world, resume=text)
    driver.run()
    assert reasons(driver) == ["the server does not tell whether it is the process that the checkpoint was made at"]
    assert driver.missed() == set()
    driver = proxied(world, resume=text, on_failover="raise")
    driver.run()
    assert isinstance(failure(driver), ScanInterrupted)
    assert "Ask" not in kinds(driver.log)
