"""What a checkpoint may include while several consumers work on pages: nothing that somebody is still working on."""

from __future__ import annotations

from hypothesis import given, strategies as st

from trio_sentinel_scan._core.checkpoint import Mark, PassFacts, Scope
from trio_sentinel_scan._core.progress import Progress

FACTS = PassFacts(Scope(0, None, None), 0)


def a_mark() -> Mark:
    return Mark(FACTS)


def test_a_page_counts_when_the_next_one_is_asked_for() -> None:
    """Not when it is handed out."""
    start, first, second = a_mark(), a_mark(), a_mark()
    progress = Progress(start)
    progress.handed_out(first)
    assert progress.mark is start
    progress.done_with(first)
    assert progress.mark is first
    progress.handed_out(second)
    assert progress.mark is first


def test_a_page_with_nothing_to_hand_out_counts_at_once() -> None:
    """Unless somebody works on one before it."""
    start, first, empty, second = a_mark(), a_mark(), a_mark(), a_mark()
    progress = Progress(start)
    progress.handed_out(empty, is_done=True)
    assert progress.mark is empty
    progress.handed_out(first)
    progress.handed_out(second, is_done=True)
    assert progress.mark is empty
    progress.done_with(first)
    assert progress.mark is second


def test_another_pass_forgets_the_pages_of_the_one_before() -> None:
    """Whoever still works on one of them changes nothing by having done with it."""
    start, old, again = a_mark(), a_mark(), a_mark()
    progress = Progress(start)
    progress.handed_out(old)
    progress.begin(again)
    progress.done_with(old)
    assert progress.mark is again


@given(st.lists(st.integers(0, 5), max_size=60))
def test_the_checkpoint_is_the_last_page_before_any_that_is_worked_on(schedule: list[int]) -> None:
    """Five consumers, each of which has one page; 0 is a page with nothing in it. Memory is bounded by their number."""
    start = a_mark()
    progress = Progress(start)
    marks: list[Mark] = []
    working: dict[int, Mark] = {}
    for consumer in schedule:
        mark = a_mark()
        if consumer in working:
            progress.done_with(working.pop(consumer))
        marks.append(mark)
        progress.handed_out(mark, is_done=consumer == 0)
        if consumer:
            working[consumer] = mark
        expected = start
        for handed in marks:
            if any(handed is mine for mine in working.values()):
                break
            expected = handed
        assert progress.mark is expected
        assert len(progress._handed) <= 2 * len(working)
