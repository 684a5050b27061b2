"""A checkpoint's text: what it carries, what it does not, and every text that is refused."""

from __future__ import annotations

import base64
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, strategies as st

from trio_sentinel_scan._core.checkpoint import Checkpoint, Mark, PassFacts, Scope, SeenNumber, parse_checkpoint
from trio_sentinel_scan._core.cursor import MAX_CURSOR, CursorFormat
from trio_sentinel_scan._core.errors import CheckpointInvalid, ConfigError
from trio_sentinel_scan._core.identity import Address, ServerIdentity

SCOPE = Scope(3, b"user:*", "hash", (b"SCAN", b"node"))
RUN_ID = "0123456789abcdef" * 2 + "01234567"
SERVER = ServerIdentity(RUN_ID, Address("10.0.0.1", 6379))


def text(scope: Scope = SCOPE, **changes: Any) -> str:
    """The text of a checkpoint in mid-scan."""
    facts: dict[str, Any] = {
        "epoch": 2,
        "server": SERVER,
        "role": "master",
        "config_epoch": 7,
        "form": CursorFormat.REVERSED,
    }
    return Mark(PassFacts(scope, **(facts | changes)), [1, None, MAX_CURSOR]).text()


class Store:
    """A store of seen keys that outlives its process, for all that a checkpoint can tell."""

    name = b"8 bytes!"
    number = 99

    def __init__(self) -> None:
        self.commits = 0

    def unseen(self, keys: Any) -> list[Any]:
        return list(keys)

    def mark(self, keys: Any) -> None: ...

    def commit(self) -> None:
        self.commits += 1

    def rollback(self, number: int) -> None: ...


numbers = st.integers(min_value=0, max_value=2**31)
addresses = st.builds(Address, st.text(max_size=60), st.integers(0, 65535))
servers = st.builds(ServerIdentity, st.none() | st.text(min_size=1, max_size=60), addresses)


@given(
    epoch=numbers,
    role=st.sampled_from(["", "master", "slave"]),
    config_epoch=st.none() | numbers,
    form=st.sampled_from(CursorFormat),
    server=servers,
    cursors=st.lists(st.none() | st.integers(0, MAX_CURSOR), min_size=1, max_size=100),
)
def test_what_is_written_is_read(
    *,
    epoch: int,
    role: str,
    config_epoch: int | None,
    form: CursorFormat,
    server: ServerIdentity,
    cursors: list[int | None],
) -> None:
    """Whatever is in it."""
    mark = Mark(PassFacts(SCOPE, epoch, server, role, config_epoch, form), cursors)
    found = parse_checkpoint(mark.text(), SCOPE)
    assert found.server is not None
    assert (found.server.run_id, found.server.address) == (server.run_id, server.address)
    assert found._replace(server=None) == Checkpoint(epoch, None, role, config_epoch, form, tuple(cursors), None)


def test_a_checkpoint_before_the_first_page_has_no_server() -> None:
    """It is a beginning."""
    found = parse_checkpoint(Mark(PassFacts(SCOPE, 4)).text(), SCOPE)
    assert found == Checkpoint(4, None, "", None, CursorFormat.UNKNOWN, (), None)


def test_the_seen_keys_are_committed_before_there_is_a_text() -> None:
    """And it names their store."""
    store = Store()
    mark = Mark(PassFacts(SCOPE, 0), seen=store, seen_number=12)
    assert store.commits == 0
    assert parse_checkpoint(mark.text(), SCOPE).seen == SeenNumber(b"8 bytes!", 12)
    assert store.commits == 1


def test_it_is_small_and_tells_nothing() -> None:
    """Even with 64 segments; what is scanned is in it as digests only."""
    facts = PassFacts(SCOPE, 2, SERVER, "master", 7, CursorFormat.REVERSED)
    found = Mark(facts, [MAX_CURSOR - number for number in range(64)], Store(), 5).text()
    assert len(found) < 900
    assert found.isascii()
    assert found.isprintable()
    decoded = base64.urlsafe_b64decode(found.partition(".")[2] + "==")
    for secret in (b"user", b"hash", b"node"):
        assert secret not in decoded


def test_line_breaks_around_it_do_no_harm() -> None:
    """It may have come from a file."""
    assert parse_checkpoint(f" {text()}\n", SCOPE).epoch == 2


def test_a_types_case_does_not_count() -> None:
    """As to a server."""
    assert parse_checkpoint(text(SCOPE._replace(type_="HASH")), SCOPE).epoch == 2


@pytest.mark.parametrize("at", range(0, len(text()), 3))
def test_a_damaged_one_is_refused(at: int) -> None:
    """Wherever the damage is."""
    whole = text()
    for damaged in (whole[:at], whole[:at] + ("A" if whole[at] != "A" else "B") + whole[at + 1 :], whole[:at] + "é"):
        with pytest.raises(CheckpointInvalid):
            parse_checkpoint(damaged, SCOPE)


def body_of(checkpoint: str) -> bytes:
    return base64.urlsafe_b64decode(checkpoint.partition(".")[2] + "==")[:-4]


@pytest.mark.parametrize(
    "body",
    [
        body_of(text()) + b"\0",
        body_of(text())[:-3],
        body_of(Mark(PassFacts(SCOPE, 2, SERVER)).text()),
        body_of(Mark(PassFacts(SCOPE, 2), [5]).text()),
    ],
    ids=["too-long", "too-short", "no-cursors", "no-server"],
)
def test_what_is_whole_by_its_check_sum_may_still_make_no_sense(body: bytes) -> None:
    """Then it was not written by us."""
    encoded = base64.urlsafe_b64encode(body + crc32(body).to_bytes(4, "big")).decode().rstrip("=")
    with pytest.raises(CheckpointInvalid, match="damaged"):
        parse_checkpoint(f"tss1.{encoded}", SCOPE)


@pytest.mark.parametrize(
    "wrong, problem",
    [
        ("", "not a checkpoint"),
        ("17592186044416", "not a checkpoint"),
        ("tss.AAAA", "not a checkpoint"),
        ("tssx.AAAA", "not a checkpoint"),
        ("tss2.AAAA", "version 2"),
        ("tss999999999999.AAAA", "version 999999999,"),
        ("tss1.", "damaged"),
        ("tss1.AAAAAAAA", "damaged"),
        ("tss1.not base64!", "damaged"),
        (b"tss1.AAAA", "not bytes"),
        (7, "not int"),
    ],
)
def test_what_is_none_is_refused(wrong: object, problem: str) -> None:
    """With the reason: what it is instead."""
    with pytest.raises(CheckpointInvalid, match=problem) as caught:
        parse_checkpoint(wrong, SCOPE)
    assert isinstance(caught.value, ConfigError)
    assert caught.value.argument == "resume"


@pytest.mark.parametrize(
    "other, problem",
    [
        (SCOPE._replace(db=4), "database 4, and this client's is 3"),
        (SCOPE._replace(match=None), "match was not the same"),
        (SCOPE._replace(match=b"user:"), "match was not the same"),
        (SCOPE._replace(type_=None), "type_ was not the same"),
        (SCOPE._replace(type_="set"), "type_ was not the same"),
        (SCOPE._replace(other=(b"SCANn", b"ode")), "what is scanned was not the same"),
    ],
)
def test_another_scans_is_refused(other: Scope, problem: str) -> None:
    """Its cursors would be taken for those of a pass that has looked at other keys."""
    with pytest.raises(CheckpointInvalid, match=problem):
        parse_checkpoint(text(other), SCOPE)


def test_of_any_scan() -> None:
    other = Scope(7, b"user:*", "hash", (b"HSCAN", b"key"))
    assert parse_checkpoint(text(other), None) == parse_checkpoint(text(other), other)
    with pytest.raises(CheckpointInvalid, match="damaged"):
        parse_checkpoint(text(other)[:-9], None)
