"""Each key once: over restarts, over pages that are cut, and over processes when the seen keys are kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.core._scan_model import A, B, Driver, World, failure, keys_named, scan_options
from tests.core._store_model import ModelStore
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.checkpoint import Mark, Scope, parse_checkpoint
from trio_sentinel_scan._core.compact_seen import CompactSeen
from trio_sentinel_scan._core.errors import CheckpointInvalid, ConfigError, ScanError, SeenKeysUnavailable
from trio_sentinel_scan._core.progress import Progress
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.seen_keys import DurableSeenKeys, ExactSeen, SeenKeys, durable, lent_to_a_scan
from trio_sentinel_scan._core.summary import ScanPage

KEYS = keys_named(60)

kinds = pytest.mark.parametrize("kind", [ExactSeen, CompactSeen, ModelStore])


def count(driver: Driver) -> Counter[bytes]:
    """How often each key was handed out, over all epochs."""
    return sum(driver.handed.values(), Counter[bytes]())


def some(driver: Driver, keys: int) -> None:
    """Go on until so many keys more were handed out; the consumer is still at the last page."""
    before = count(driver).total()
    while count(driver).total() < before + keys:
        if driver.pages:
            driver.plan.done_with(driver.pages[-1])
        if driver.take() is None:
            driver.step()


def restart(driver: Driver, how: str) -> None:
    """Another process, with the same keys."""
    if driver.pending is not None and not driver.is_waiting:
        driver.finish()
    if how == "fail over":
        driver.world.fail_over(B if driver.world.named.address == A else A, kill=True)
        driver.hear()
    else:
        driver.world.restart()
        if driver.link is not None:
            driver.link.alive = False


# ---- within a scan ----------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("how", ["fail over", "restart"])
@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("page_size", [None, 2])
def test_exactly_once_over_three_restarts(kind: Any, how: str, segments: int, page_size: int | None) -> None:
    world = World(KEYS)
    driver = Driver(world, dedupe=kind(), segments=segments, page_size=page_size)
    for _ in range(3):
        some(driver, 12)
        restart(driver, how)
    summary = driver.run()
    assert driver.complete
    assert summary.epoch == 3
    assert count(driver) == Counter(KEYS)
    assert summary.keys == len(KEYS)
    assert summary.duplicates_dropped >= 36
    assert all(len(page) > 0 for page in driver.pages)


def test_true_is_an_exact_filter() -> None:
    driver = Driver(World(KEYS), dedupe=True)
    assert repr(driver.options.dedupe) == "<ExactSeen of 0 keys>"
    some(driver, 30)
    restart(driver, "restart")
    driver.run()
    assert driver.complete
    assert count(driver) == Counter(KEYS)
    assert repr(driver.options.dedupe) == "<ExactSeen of 60 keys>"
    assert Driver(World(), dedupe=False).options.dedupe is None


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_keys_marked_before_the_filter_of_epochs_would_be_lost(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    """The guard: what was not handed out was never seen."""
    take = ScanPlan.take

    def take_and_mark_first(plan: ScanPlan, page: ScanPage[Any], now: float) -> ScanPage[Any] | None:
        if not plan._is_current(page):
            assert plan.options.dedupe is not None
            plan.options.dedupe.mark(page.keys)
        return take(plan, page, now)

    if not guarded:
        monkeypatch.setattr(ScanPlan, "take", take_and_mark_first)
    driver = Driver(World(KEYS), dedupe=True, prefetch=20)
    some(driver, 10)
    driver.go_to(steps.AwaitTaken, taking=False)
    restart(driver, "fail over")
    driver.run()
    assert driver.complete
    assert (count(driver) == Counter(KEYS)) is guarded


# ---- filters that fail ------------------------------------------------------------------------------------------


class Failing:
    """A filter of the caller's own."""

    def __init__(self, error: Exception, *, at: str) -> None:
        self.error, self.at, self.kept = error, at, ExactSeen()

    def unseen(self, keys: Any) -> list[Any]:
        if self.at == "unseen":
            raise self.error
        return self.kept.unseen(keys)

    def mark(self, keys: Any) -> None:
        if len(self.kept) >= 20:
            raise self.error
        self.kept.mark(keys)


@pytest.mark.parametrize("at", ["unseen", "mark"])
def test_a_filter_that_raises_ends_the_scan(at: str) -> None:
    """The page is not handed out; what the error says may be anything, and stays in its `__cause__`."""
    error = KeyError("user:secret")
    seen = Failing(error, at=at)
    driver = Driver(World(KEYS), dedupe=seen)
    driver.run()
    ended = failure(driver)
    assert type(ended) is ScanError
    assert ended.__cause__ is error
    assert "KeyError" in str(ended)
    assert "secret" not in str(ended)
    assert ended.summary is not None
    assert ended.summary.keys == count(driver).total() == len(seen.kept) < len(KEYS)


def test_what_our_own_errors_say_is_said() -> None:
    driver = Driver(World(KEYS), dedupe=Failing(SeenKeysUnavailable("the disk is full"), at="mark"))
    driver.run()
    assert "SeenKeysUnavailable: the disk is full" in str(failure(driver))


# ---- a filter serves one scan -----------------------------------------------------------------------------------


@kinds
def test_a_filter_that_has_keys_is_refused(kind: Any) -> None:
    """They would be missing. Also one that was empty when the scan was asked for, and is not when it begins."""
    seen = kind()
    options = scan_options(dedupe=seen)
    seen.mark([b"key"])
    with pytest.raises(ConfigError, match="another scan"):
        scan_options(dedupe=seen)
    with pytest.raises(ConfigError, match="another scan") as caught:
        ScanPlan(options, failover_timeout=1, now=0, jitter=lambda: 0.5)
    assert caught.value.argument == "dedupe"


def test_a_filter_of_the_callers_own_may_have_any() -> None:
    seen = Failing(ValueError(), at="never")
    seen.mark([b"key:0000"])
    driver = Driver(World(KEYS[:10]), dedupe=seen)
    driver.run()
    assert driver.complete
    assert count(driver) == Counter(KEYS[1:10])


def test_a_filter_is_lent_to_one_scan() -> None:
    seen, other = ExactSeen(), ExactSeen()
    with lent_to_a_scan(seen):
        with lent_to_a_scan(other), lent_to_a_scan(None), lent_to_a_scan(None):
            pass
        with pytest.raises(ConfigError, match="in use by another scan") as caught, lent_to_a_scan(seen):
            raise AssertionError
        assert caught.value.argument == "dedupe"
    with pytest.raises(KeyError), lent_to_a_scan(seen):
        raise KeyError
    with lent_to_a_scan(seen):
        pass


@pytest.mark.parametrize("dedupe", [None, 1, "exact", ExactSeen, object(), {b"key"}])
def test_what_is_no_filter(dedupe: object) -> None:
    with pytest.raises(ConfigError) as caught:
        scan_options(dedupe=dedupe)
    assert caught.value.argument == "dedupe"


@pytest.mark.parametrize("name", [b"", b"seven b", b"a whole sentence", "eight ch", None])
def test_a_store_whose_name_does_not_fit_into_a_checkpoint(name: Any) -> None:
    """Its checkpoints would be taken for damaged ones, when it is too late."""
    store = ModelStore()
    store.name = name
    with pytest.raises(ConfigError, match="eight bytes") as caught:
        scan_options(dedupe=store)
    assert caught.value.argument == "dedupe"


def test_a_store_that_is_closed_is_refused_before_anything_is_sent() -> None:
    class Closed(ModelStore):
        def unseen(self, keys: Any) -> list[Any]:
            raise SeenKeysUnavailable("the store of seen keys is closed")

    with pytest.raises(ConfigError, match=r"^dedupe: the store of seen keys is closed") as caught:
        scan_options(dedupe=Closed())
    assert caught.value.argument == "dedupe"


def test_which_filters_checkpoints_know_of() -> None:
    store = ModelStore()
    assert isinstance(store, DurableSeenKeys)
    assert durable(store) is store
    assert isinstance(ExactSeen(), SeenKeys)
    assert durable(ExactSeen()) is durable(None) is None


# ---- checkpoints ------------------------------------------------------------------------------------------------


def seen_number(text: str) -> int:
    seen = parse_checkpoint(text, Scope(0, None, None)).seen
    assert seen is not None
    return seen.number


def test_a_pages_checkpoint_has_its_own_number() -> None:
    """Also when later ones were handed out, whole or cut, and when the text is asked for long afterwards."""
    for page_size in (None, 2):
        store = ModelStore()
        driver = Driver(World(KEYS), dedupe=store, page_size=page_size)
        some(driver, 20)
        restart(driver, "restart")
        driver.run()
        assert [seen_number(page.checkpoint) for page in driver.pages] == [*range(1, len(driver.pages) + 1)]
        for number, page in enumerate(driver.pages, 1):
            assert {store.marked[key] for key in page} == {number}


def test_a_checkpoint_that_is_asked_for_when_its_store_was_cleared_is_good_no_more() -> None:
    """The store's numbers begin anew, and this one will be given again: for keys that are not before its cursors."""
    store = ModelStore()
    driver = Driver(World(KEYS), dedupe=store)
    some(driver, 20)
    store.clear()
    text = driver.pages[-1].checkpoint
    for number in range(100):
        store.mark([number])
    with pytest.raises(CheckpointInvalid, match="whose seen keys"):
        scan_options(dedupe=store, resume=text)


def test_keys_are_committed_before_there_is_a_checkpoint() -> None:
    store = ModelStore()
    driver = Driver(World(KEYS), dedupe=store)
    some(driver, 20)
    text = driver.pages[-1].checkpoint
    store.crash()
    assert store.number == seen_number(text)
    assert set(store.marked) == set(count(driver))


@pytest.mark.parametrize("page_size", [None, 2])
@pytest.mark.parametrize("restarted", [False, True])
def test_later_pages_come_again_and_earlier_ones_do_not(page_size: int | None, restarted: bool) -> None:
    """From each page's checkpoint, taken when the scan had gone on; at the same process, and at another."""
    for at in range(2, 11):
        world, store = World(KEYS), ModelStore()
        first = Driver(world, dedupe=store, page_size=page_size)
        some(first, 30)
        text = first.pages[min(at, len(first.pages)) - 1].checkpoint
        store.crash()
        if restarted:
            world.restart()
        second = Driver(world, dedupe=store, page_size=page_size, resume=text)
        second.run()
        assert second.complete
        kept = Counter(key for page in first.pages[: min(at, len(first.pages))] for key in page)
        assert kept + count(second) == Counter(KEYS)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_exactly_once_through_crashes_and_restarts(data: st.DataObject) -> None:
    """Whatever checkpoint of this line of processes is resumed: what was handed out up to it, and then, is each key."""
    world, store = World(KEYS), ModelStore()
    options: dict[str, Any] = {
        "page_size": data.draw(st.sampled_from([None, 1, 3])),
        "segments": data.draw(st.sampled_from([1, 3, 8])),
    }
    line: list[tuple[str | None, list[bytes]]] = [(None, [])]
    for _ in range(data.draw(st.integers(0, 3))):
        driver = Driver(world, dedupe=store, resume=line[-1][0], **options)
        handed = line[-1][1]
        for _ in range(data.draw(st.integers(1, 3))):
            if count(driver).total() + len(handed) > 45:
                break
            some(driver, data.draw(st.integers(1, 10)))
            if data.draw(st.booleans()):
                restart(driver, data.draw(st.sampled_from(["fail over", "restart"])))
        for page in driver.pages:
            handed = [*handed, *page]
            line.append((page.checkpoint, handed))
        # The consumer may have kept any of them, and it loses what it did after that one.
        del line[data.draw(st.integers(1, len(line))) :]
        if line[-1][0] is None:
            store.clear()
        store.crash()
    text, handed = line[-1]
    driver = Driver(world, dedupe=store, resume=text, **options)
    driver.run()
    assert driver.complete
    assert Counter(handed) + count(driver) == Counter(KEYS)


@kinds
@pytest.mark.parametrize("how", ["fail over", "restart"])
def test_a_page_that_was_worked_on_through_a_restart_comes_again(kind: Any, how: str) -> None:
    """`pages.checkpoint()` leaves it out, though the next pass goes past its keys: they are not handed out again."""
    world, store = World(KEYS), kind()
    first = Driver(world, dedupe=store)
    some(first, 30)
    at_work = first.pages[-1]
    restart(first, how)
    for _ in range(200):
        # Others, who have done with what they take.
        if (page := first.take()) is not None:
            first.plan.done_with(page)
        if not first.ended and not first.is_waiting:
            first.step()
    text = first.plan.checkpoint
    if kind is ModelStore:
        store.crash()
    second = Driver(world, resume=text, dedupe=store if kind is ModelStore else False)
    second.run()
    assert second.complete
    assert set(at_work) <= set(count(second))
    first.plan.done_with(at_work)
    assert first.plan.checkpoint != text


def test_without_that_its_keys_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard, switched off: what a scan without `dedupe` does."""
    init = Progress.__init__

    def init_as_without(self: Progress[Any], start: Mark, *, once: bool) -> None:
        assert once
        init(self, start)

    monkeypatch.setattr(Progress, "__init__", init_as_without)
    with pytest.raises(AssertionError):
        test_a_page_that_was_worked_on_through_a_restart_comes_again(ModelStore, "restart")


def test_a_checkpoint_that_the_store_was_rolled_back_behind() -> None:
    """Its numbers are of another line of events: refused, typed, before anything is asked of a server."""
    world, store = World(KEYS), ModelStore()
    first = Driver(world, dedupe=store)
    some(first, 30)
    early, late = first.pages[1].checkpoint, first.pages[-1].checkpoint
    second = Driver(world, dedupe=store, resume=early)
    some(second, 30)
    assert store.number > seen_number(late)
    with pytest.raises(CheckpointInvalid, match="rolled back") as caught:
        Driver(world, dedupe=store, resume=late)
    assert caught.value.argument == "resume"
    assert isinstance(caught.value.__cause__, ValueError)


def test_checkpoints_and_filters_that_do_not_belong_together() -> None:
    world, store = World(KEYS), ModelStore()
    first = Driver(world, dedupe=store)
    some(first, 30)
    text = first.pages[-1].checkpoint
    for other in (ExactSeen(), CompactSeen(), True):
        with pytest.raises(ConfigError, match="SpillingSeen") as caught:
            scan_options(dedupe=other, resume=text)
        assert caught.value.argument == "dedupe"
    with pytest.raises(CheckpointInvalid, match="whose seen keys"):
        scan_options(dedupe=ModelStore(), resume=text)
    plain = Driver(world)
    some(plain, 10)
    with pytest.raises(CheckpointInvalid, match="whose seen keys"):
        scan_options(dedupe=store, resume=plain.pages[-1].checkpoint)
    # Without the store, keys come again: as in any scan.
    again = Driver(world, resume=text)
    again.run()
    assert again.complete
