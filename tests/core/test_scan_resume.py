"""A scan that is left in the middle and resumed from its checkpoint, by a plan that knows nothing else of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.core._scan_model import A, B, Driver, World, cursors_asked, failure, keys_named, reasons, scan_options
from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.errors import CheckpointInvalid, ConfigError, ScanInterrupted, ScanRestartsExhausted
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.seen_keys import ExactSeen, SeenKeys

KEYS = keys_named(120)


def left_after(world: World, pages: int, **options: Any) -> Driver:
    """A scan that has handed out so many pages and then came to a sudden end."""
    driver = Driver(world, **options)
    while len(driver.pages) < pages and not driver.ended:
        driver.step()
        if driver.take() is not None:
            # The consumer has done with all before it.
            for page in driver.pages[:-1]:
                driver.plan.done_with(page)
    return driver


def keys_of(driver: Driver, pages: slice = slice(None)) -> set[bytes]:
    return {key for page in driver.pages[pages] for key in page}


class Durable(ExactSeen):
    """Seen keys that outlive a scan, in memory: a list of what was marked each time."""

    name = b"a store."

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[list[bytes]] = []

    @property
    def number(self) -> int:
        return len(self.marks)

    def mark(self, keys: Any) -> None:
        super().mark(keys)
        self.marks.append(list(keys))

    def commit(self) -> None: ...

    def rollback(self, number: int) -> None:
        del self.marks[number:]
        self._seen = {key for marked in self.marks for key in marked}


@pytest.mark.parametrize("segments", [1, 4])
@pytest.mark.parametrize("page_size", [None, 2])
@pytest.mark.parametrize("pages", [1, 2, 7, 11])
def test_it_goes_on_behind_the_page(segments: int, page_size: int | None, pages: int) -> None:
    """In the same epoch at the same process; nothing is lost, and what is behind it is not scanned again."""
    world = World(KEYS)
    options: dict[str, Any] = {"segments": segments, "page_size": page_size}
    first = left_after(world, pages, **options)
    checkpoint = first.pages[-1].checkpoint
    second = Driver(world, **options, resume=checkpoint)
    summary = second.run()
    assert summary.complete
    assert (summary.epoch, summary.restarts) == (0, ())
    assert keys_of(first) | keys_of(second) == set(KEYS)
    assert second.misused() == 0
    # Of one chain and whole reads, nothing at all. Where segments meet, what the neighbours' first pages had is not
    # known any more; and of a read that was cut into pages, the cursors are those before it.
    again = keys_of(first) & keys_of(second)
    if segments == 1:
        assert len(again) <= (0 if page_size is None else 5)
        assert page_size is not None or 0 not in cursors_asked(second.log)
    assert len(again) <= 40


def test_the_page_that_was_worked_on_comes_again() -> None:
    """`pages.checkpoint` is of the page before it."""
    world = World(KEYS)
    first = left_after(world, 6)
    second = Driver(world, resume=first.plan.checkpoint)
    second.run()
    assert set(first.pages[-1]) <= keys_of(second)
    assert keys_of(first, slice(-1)) & keys_of(second) == set()
    assert keys_of(first) | keys_of(second) == set(KEYS)


def test_before_the_first_page_it_is_where_it_began() -> None:
    """A plan that was resumed and has found no server yet stands where it was resumed from; a new one at the start."""
    world = World(KEYS)
    fresh = Driver(world).plan.checkpoint
    second = Driver(world, resume=fresh)
    assert second.run().complete
    assert keys_of(second) == set(KEYS)
    checkpoint = left_after(world, 6).pages[-1].checkpoint
    assert Driver(world, resume=checkpoint).plan.checkpoint == checkpoint


def test_of_a_scan_that_is_complete() -> None:
    """Nothing is left but the certificate."""
    world = World(KEYS)
    first = Driver(world)
    first.run()
    second = Driver(world, resume=first.pages[-1].checkpoint)
    assert second.run().complete
    assert second.pages == []
    assert cursors_asked(second.log) == []


@pytest.mark.parametrize("keys", [0, 1, 3])
@pytest.mark.parametrize("segments", [1, 4])
def test_what_brings_no_page_counts(keys: int, segments: int) -> None:
    """Most SCANs find nothing, as with a rare MATCH: the pass comes on all the same, behind its latest page."""
    world = World(KEYS[:keys])
    first = Driver(world, segments=segments, count=1)
    first.run()
    assert len(cursors_asked(first.log)) > len(first.pages)
    for page in first.pages:
        first.plan.done_with(page)
    for checkpoint in {first.plan.checkpoint, *(page.checkpoint for page in first.pages[-1:])}:
        second = Driver(world, segments=segments, count=1, resume=checkpoint)
        assert second.run().complete
        assert cursors_asked(second.log) == []


def test_what_brings_no_page_counts_where_segments_meet() -> None:
    """What the last replies bring was in the neighbours' first pages: it comes no more, now or in a scan that goes on.

    (A pass that is gone on with does not know any more what they had.)
    """
    for count in range(1, 20):
        world = World(KEYS)
        first = Driver(world, segments=7, count=count, page_size=None)
        first.run()
        second = Driver(world, segments=7, count=count, resume=first.pages[-1].checkpoint)
        assert second.run().complete
        assert second.pages == []


def test_at_another_process_it_begins_again() -> None:
    """A new epoch at cursor 0, whether it was restarted at its address or is the new master."""
    for fails_over in (False, True):
        world = World(KEYS)
        first = left_after(world, 6)
        if fails_over:
            world.fail_over(B, kill=True)
        else:
            world.restart()
        world.known = world.named
        second = Driver(world, resume=first.pages[-1].checkpoint)
        summary = second.run()
        assert summary.complete
        assert summary.epoch == 1
        assert summary.restarts[0].old_server == first.pages[-1].server
        assert "checkpoint is of another process" in reasons(second)[0]
        assert keys_of(second) == set(KEYS)
        assert second.misused() == 0


def test_a_server_that_does_not_tell_its_run_id_is_another_one() -> None:
    """As on a reconnect."""
    world = World(KEYS, tell_run_id=False)
    first = left_after(world, 6)
    second = Driver(world, resume=first.pages[-1].checkpoint)
    assert second.run().epoch == 1
    assert keys_of(second) == set(KEYS)


def test_the_same_process_that_was_a_replica_in_between() -> None:
    """It may have been given another master's data: the pass is void."""
    world = World(KEYS)
    first = left_after(world, 6)
    world.fail_over(B)
    world.demote_old_masters()
    world.fail_over(A)
    world.known = world.named
    second = Driver(world, resume=first.pages[-1].checkpoint)
    assert second.run().complete
    assert "another one in between" in reasons(second)[0]
    assert keys_of(second) == set(KEYS)


def test_the_same_process_in_another_role() -> None:
    """Without Sentinels there are no config epochs; a server that became a replica has another one's data."""
    world = World(KEYS)
    first = left_after(world, 6, has_sentinels=False)
    world.master.role = "slave"
    second = Driver(world, resume=first.pages[-1].checkpoint, has_sentinels=False)
    assert second.run().complete
    assert reasons(second) == ["since the checkpoint, the server's role is slave, it was master"]
    assert keys_of(second) == set(KEYS)


def test_raise_means_raise() -> None:
    """`on_failover="raise"` begins nothing again; before there was anything, nothing is interrupted."""
    world = World(KEYS)
    first = left_after(world, 6)
    world.restart()
    second = Driver(world, resume=first.pages[-1].checkpoint, on_failover="raise")
    second.run()
    error = failure(second)
    assert isinstance(error, ScanInterrupted)
    assert error.epoch == 0
    assert error.old_server == first.pages[-1].server
    third = Driver(world, resume=Driver(world).plan.checkpoint, on_failover="raise")
    assert third.run().complete


def test_the_budget_of_restarts_is_the_resumed_scans_own() -> None:
    """Epochs go on counting; how many there may be does not depend on how many there were."""
    world = World(KEYS)
    first = Driver(world)
    while not first.pages or first.pages[-1].epoch < 2:
        first.step()
        if first.take() is not None and first.plan.epoch < 2:
            world.restart()
    epoch = first.plan.epoch
    second = Driver(world, resume=first.pages[-1].checkpoint, max_restarts=1)
    second.step()
    world.restart()
    summary = second.run()
    assert summary.complete
    assert summary.epoch == epoch + 1
    world.restart()
    third = Driver(world, resume=first.pages[-1].checkpoint, max_restarts=0)
    third.run()
    assert isinstance(failure(third), ScanRestartsExhausted)


def test_a_change_of_masters_before_a_server_was_found() -> None:
    """It voids the pass that was to be resumed."""
    world = World(KEYS)
    first = left_after(world, 6)
    second = Driver(world, resume=first.pages[-1].checkpoint)
    second.step()
    world.fail_over(B)
    assert second.hear()
    assert second.run().epoch == 1
    assert keys_of(second) == set(KEYS)
    # Nothing of the old process is in a checkpoint that was made in between.
    assert second.misused() == 0


def test_cursors_of_an_unknown_kind_are_good_on_their_own_connection_only() -> None:
    """As on a reconnect: what a product that is not known calls its run_id may outlive its cursors."""
    world = World(KEYS, form=CursorFormat.UNKNOWN)
    first = left_after(world, 6)
    second = Driver(world, resume=first.pages[-1].checkpoint)
    assert second.run().epoch == 1
    assert keys_of(second) == set(KEYS)
    assert second.misused() == 0


def test_a_format_that_was_not_trusted() -> None:
    """It is found out once more, and then it is one chain again."""
    world = World(KEYS, honest=False)
    first = Driver(world, segments=4)
    while first.plan.epoch == 0 or not first.pages or first.pages[-1].epoch == 0:
        first.step()
        first.take()
    second = Driver(world, segments=4, resume=first.pages[-1].checkpoint)
    summary = second.run()
    assert summary.complete
    assert (summary.epoch, summary.segments) == (3, 1)
    assert keys_of(second) == set(KEYS)


@settings(max_examples=150)
@given(
    data=st.data(),
    segments=st.sampled_from([1, 2, 5, 16]),
    page_size=st.sampled_from([None, 1, 3]),
    count=st.sampled_from([1, 5, 20]),
    durable=st.booleans(),
)
def test_again_and_again_nothing_is_lost(
    data: st.DataObject, segments: int, page_size: int | None, count: int, durable: bool
) -> None:
    """Any number of scans, each left anywhere and resumed from any page of it, over a table that changes.

    With seen keys that are rolled back to the checkpoint, each key counts once.
    """
    world = World(KEYS)
    store = Durable() if durable else False
    options: dict[str, Any] = {"segments": segments, "page_size": page_size, "count": count, "dedupe": store}
    counted: list[bytes] = []
    checkpoint: str | None = None
    for _ in range(4):
        driver = Driver(world, **options, resume=checkpoint)
        for _ in range(data.draw(st.integers(0, 40))):
            if driver.ended:
                break
            driver.step()
            driver.take_all()
            if data.draw(st.integers(0, 9)) == 0:
                world.master.table.resize(data.draw(st.integers(3, 7)))
        # The crash: what came behind the checkpoint is forgotten by the consumer, too.
        keep = data.draw(st.integers(0, len(driver.pages)))
        if keep:
            checkpoint = driver.pages[keep - 1].checkpoint
            counted += [key for page in driver.pages[:keep] for key in page]
        elif checkpoint is None:
            checkpoint = Driver(world, **{**options, "dedupe": False}).plan.checkpoint if not durable else None
            if isinstance(store, Durable):
                store.rollback(0)
    last = Driver(world, **options, resume=checkpoint)
    assert last.run().complete
    counted += [key for page in last.pages for key in page]
    assert set(counted) == set(KEYS)
    if durable:
        assert len(counted) == len(KEYS)
    assert last.misused() == 0


def test_guard_without_the_identity_check_keys_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint's cursors, sent to the process that took its place."""
    world = World(KEYS)
    first = left_after(world, 12)
    world.restart()
    monkeypatch.setattr(ScanPlan, "_is_same_process", lambda *_: True)
    monkeypatch.setattr(ScanPlan, "_cannot_resume", lambda *_: "")
    second = Driver(world, resume=first.pages[-1].checkpoint)
    assert second.run().complete
    assert second.misused() > 0
    assert keys_of(first) | keys_of(second) < set(KEYS)


def test_guard_without_the_rollback_keys_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was handed out behind the checkpoint counts as seen, though nobody has done with it."""
    for with_guard in (True, False):
        world, store = World(KEYS), Durable()
        first = left_after(world, 12, dedupe=store)
        checkpoint = first.pages[3].checkpoint
        if not with_guard:
            monkeypatch.setattr(Durable, "rollback", lambda *_: None)
        second = Driver(world, resume=checkpoint, dedupe=store)
        second.run()
        lost = set(KEYS) - keys_of(first, slice(4)) - keys_of(second)
        assert (not lost) is with_guard


# ---- what cannot be ------------------------------------------------------------------------------------------------


def test_a_cursor_and_a_checkpoint() -> None:
    with pytest.raises(ConfigError, match="must be 0") as caught:
        scan_options(cursor=5, resume=Driver(World(KEYS)).plan.checkpoint)
    assert caught.value.argument == "cursor"


class Own:
    """A caller's own filter."""

    def unseen(self, keys: Any) -> list[Any]:
        return list(keys)

    def mark(self, keys: Any) -> None: ...


@pytest.mark.parametrize("dedupe", [True, ExactSeen(), Own()])
def test_seen_keys_that_cannot_be_rolled_back(dedupe: object) -> None:
    """Either they are gone, or they have keys that are to come again."""
    with pytest.raises(ConfigError, match="SpillingSeen") as caught:
        scan_options(dedupe=dedupe, resume=Driver(World(KEYS)).plan.checkpoint)
    assert caught.value.argument == "dedupe"


def test_a_store_with_another_scans_keys() -> None:
    """They would be left out of this one without a word."""
    store = Durable()
    scan_options(dedupe=store)
    store.mark([b"x"])
    with pytest.raises(ConfigError, match="another scan") as caught:
        scan_options(dedupe=store)
    assert caught.value.argument == "dedupe"


def test_a_store_and_a_checkpoint_that_do_not_belong_together() -> None:
    store, other = Durable(), Durable()
    other.name = b"another!"
    of_store = Driver(World(KEYS), dedupe=store).plan.checkpoint
    for dedupe, checkpoint in ((other, of_store), (store, Driver(World(KEYS)).plan.checkpoint)):
        with pytest.raises(CheckpointInvalid, match="store"):
            scan_options(dedupe=dedupe, resume=checkpoint)
    # Without the store it goes on, and is not exactly once any more: that is the caller's to say.
    assert scan_options(resume=of_store).resume is not None


@pytest.mark.parametrize("wrong", [None, 1, "yes", ExactSeen, object()])
def test_what_is_no_filter(wrong: object) -> None:
    with pytest.raises(ConfigError, match="unseen and mark") as caught:
        scan_options(dedupe=wrong)
    assert caught.value.argument == "dedupe"
    assert isinstance(scan_options(dedupe=True).dedupe, SeenKeys)
    assert scan_options(dedupe=False).dedupe is None
