"""Each key once per scan: what counts as seen, when, and what becomes of pages that hold nothing new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from tests.core._scan_model import B, C, Driver, World, failure, is_complete, keys_named, scan_options
from trio_sentinel_scan._core import scan_plan, scan_steps as steps
from trio_sentinel_scan._core.details import KeyDetails
from trio_sentinel_scan._core.errors import ConfigError, ScanError
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.seen_keys import ExactSeen, SeenKeys
from trio_sentinel_scan._core.summary import pages_of

KEYS = keys_named(60)

several = pytest.mark.parametrize("segments", [1, 3, 8])


def all_keys(driver: Driver) -> list[bytes]:
    """Whatever was handed out, over all epochs."""
    return [key for page in driver.pages for key in page]


# ---- the exact one ---------------------------------------------------------------------------------------------


def test_what_was_never_marked_is_unseen_each_once_in_order() -> None:
    seen = ExactSeen()
    assert seen.unseen([b"b", b"a", b"b"]) == [b"b", b"a"]
    # Only what is handed out counts.
    assert seen.unseen([b"b"]) == [b"b"]
    seen.mark([b"b", b"c"])
    seen.mark([b"b"])
    assert seen.unseen([b"c", b"a", b"b"]) == [b"a"]
    assert seen.unseen([]) == []
    assert len(seen) == 2


def test_it_shows_no_key() -> None:
    seen = ExactSeen()
    seen.mark([b"secret"])
    assert repr(seen) == "<ExactSeen of 1 keys>"


# ---- the argument ----------------------------------------------------------------------------------------------


class OwnFilter:
    """Not of this package."""

    def __init__(self) -> None:
        self.marked: list[Any] = []

    def unseen(self, keys: Sequence[Any]) -> list[Any]:
        return [key for key in dict.fromkeys(keys) if key not in self.marked]

    def mark(self, keys: Iterable[Any]) -> None:
        self.marked += keys


class NoFilter:
    """It is asked, and not told."""

    def unseen(self, keys: Sequence[Any]) -> list[Any]:
        return list(keys)


def name_of(value: object) -> str:
    """A test's name: the same in each process, which an object's address is not."""
    return type(value).__name__ if " at 0x" in repr(value) else repr(value)


def test_what_dedupe_may_be() -> None:
    assert scan_options().dedupe is None
    assert scan_options(dedupe=False).dedupe is None
    first, second = scan_options(dedupe=True).dedupe, scan_options(dedupe=True).dedupe
    assert isinstance(first, ExactSeen)
    assert first is not second
    own = OwnFilter()
    assert isinstance(own, SeenKeys)
    assert scan_options(dedupe=own).dedupe is own


@pytest.mark.parametrize(
    "value", [None, 0, 1, "exact", "", b"", (), {1}, ExactSeen, OwnFilter, NoFilter(), object()], ids=name_of
)
def test_what_it_may_not_be(value: object) -> None:
    """A class is no filter: that is what calling it gives."""
    with pytest.raises(ConfigError) as caught:
        scan_options(dedupe=value)
    assert caught.value.argument == "dedupe"


@pytest.mark.parametrize("dedupe", [True, OwnFilter()], ids=["exact", "own"])
def test_a_scan_that_is_resumed_needs_a_filter_that_was_kept_with_its_checkpoint(dedupe: Any) -> None:
    """One in memory has seen nothing, or more than the checkpoint includes."""
    driver = Driver(World(KEYS))
    driver.go_to(steps.HandOver)
    driver.take_all()
    text = driver.pages[0].checkpoint
    with pytest.raises(ConfigError, match="must be those of the checkpoint") as caught:
        scan_options(dedupe=dedupe, resume=text)
    assert caught.value.argument == "dedupe"


# ---- a scan ----------------------------------------------------------------------------------------------------


@several
@pytest.mark.parametrize("dedupe", [True, OwnFilter], ids=["exact", "own"])
@pytest.mark.parametrize("with_", [(), KeyDetails._fields], ids=["plain", "details"])
def test_each_key_comes_once_over_restarts(segments: int, dedupe: Any, with_: Any) -> None:
    """Two failovers and a restart at the same address, each in mid-scan."""
    dedupe = dedupe() if dedupe is OwnFilter else dedupe
    driver = Driver(World(KEYS), segments=segments, dedupe=dedupe, with_=with_, count=3)
    for trouble in (B, C, None):
        for _ in range(3):
            driver.go_to(steps.HandOver)
            driver.take_all()
        if trouble is None:
            driver.world.restart()
        else:
            driver.world.fail_over(trouble, kill=True)
            driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert summary.epoch == 3
    assert sorted(all_keys(driver)) == KEYS
    assert summary.keys == len(KEYS)
    assert summary.duplicates_dropped > 0
    assert all(set(page.details) == (set(page.keys) if with_ else set()) for page in driver.pages)


def test_without_it_they_come_again() -> None:
    driver = Driver(World(KEYS))
    for _ in range(3):
        driver.go_to(steps.HandOver)
        driver.take_all()
    driver.world.restart()
    driver.run()
    is_complete(driver)
    assert len(all_keys(driver)) > len(KEYS)
    assert driver.plan.summary(driver.now).duplicates_dropped == 0


@several
@pytest.mark.parametrize("prefetch", [0, 1, 100])
def test_pages_that_hold_nothing_new_are_not_handed_out_and_the_end_comes(segments: int, prefetch: int) -> None:
    """Everything was handed out when the master was replaced: another whole pass brings not a page."""
    driver = Driver(World(KEYS), segments=segments, prefetch=prefetch, dedupe=True)
    driver.go_to(steps.Certify)
    once = len(driver.pages)
    driver.world.fail_over(B)
    driver.hear()
    summary = driver.run()
    is_complete(driver)
    assert (summary.epoch, summary.keys_this_epoch, summary.duplicates_dropped) == (1, 0, len(KEYS))
    assert len(driver.pages) == once


def test_a_key_that_is_twice_in_a_page_comes_once() -> None:
    driver = Driver(World(KEYS), dedupe=True)
    step = driver.go_to(steps.HandOver)
    driver.sending = None
    (page,) = driver.channel
    twice = driver.plan.take(page.only([*page.keys, *page.keys]), driver.now)
    assert twice is not None
    assert list(twice) == list(step.page.keys)
    assert driver.plan.summary(driver.now).duplicates_dropped == len(page)


def test_a_key_that_is_new_in_the_last_pass_comes_too() -> None:
    driver = Driver(World(KEYS), dedupe=True)
    driver.go_to(steps.Certify)
    driver.world.fail_over(B)
    driver.world.write(b"new")
    driver.hear()
    driver.run()
    is_complete(driver)
    assert all_keys(driver)[-1] == b"new"
    assert sorted(all_keys(driver)) == [*KEYS, b"new"]


# ---- the guard -------------------------------------------------------------------------------------------------


class EarlyFilter:
    """One that is told of keys before they are handed out."""

    def __init__(self) -> None:
        self._seen = ExactSeen()
        self._fresh: dict[int, list[Any]] = {}

    def comes(self, keys: Sequence[Any]) -> None:
        """These keys were fetched, or enter the channel."""
        self._fresh[id(keys)] = fresh = self._seen.unseen(keys)
        self._seen.mark(fresh)

    def unseen(self, keys: Sequence[Any]) -> list[Any]:
        return self._fresh[id(keys)]

    def mark(self, keys: Iterable[Any]) -> None:
        pass


@several
@pytest.mark.parametrize("told", ["fetched", "entering", "taken"])
def test_keys_that_are_marked_before_the_epoch_filter_are_lost(
    monkeypatch: pytest.MonkeyPatch, told: str, segments: int
) -> None:
    """The guard: keys are marked in the step that hands their page out. Any earlier, a page that is dropped because
    another master is known takes keys with it that count as seen.
    """
    early = EarlyFilter()
    handing_over = ScanPlan.handing_over

    def fetched(*args: Any) -> Any:
        pages = pages_of(*args)
        for page in pages:
            early.comes(page.keys)
        return pages

    def entering(plan: ScanPlan, step: steps.HandOver) -> bool:
        early.comes(step.page.keys)
        return handing_over(plan, step)

    if told == "fetched":
        monkeypatch.setattr(scan_plan, "pages_of", fetched)
    elif told == "entering":
        monkeypatch.setattr(ScanPlan, "handing_over", entering)
    driver = Driver(World(KEYS), segments=segments, prefetch=100, dedupe=True if told == "taken" else early)
    driver.go_to(steps.HandOver)
    driver.take_all()
    driver.go_to(steps.AwaitTaken, taking=False)
    # Keys wait in the channel that nobody has.
    assert driver.channel
    driver.world.fail_over(B)
    driver.hear()
    driver.run()
    assert driver.complete
    assert bool(driver.missed()) is (told != "taken")


# ---- a filter that fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["unseen", "mark"])
def test_a_filter_that_raises_ends_the_scan(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Its error is the cause, and its words, which may have keys in them, are not in the message."""

    def fail(_: Any) -> list[Any]:
        raise OSError("no space left for key:0001")

    own = OwnFilter()
    monkeypatch.setattr(own, method, fail)
    driver = Driver(World(KEYS), dedupe=own)
    driver.run()
    error = failure(driver)
    assert type(error) is ScanError
    assert "OSError" in str(error)
    assert "key:" not in str(error)
    assert isinstance(error.__cause__, OSError)
    assert error.summary is not None
    assert error.summary.keys == 0
    assert driver.pages == []
