"""Which of the pages that were handed out have been done with: what a checkpoint may include."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from .checkpoint import Mark
    from .cluster_checkpoint import ClusterMark

__all__ = ["Progress"]

MarkT = TypeVar("MarkT", "Mark", "ClusterMark")


class Progress(Generic[MarkT]):
    """The pages of the present pass that somebody is still working on, by their marks, in the order of hand-out.

    A consumer has done with a page when it asks for the next one. With several consumers a later page may be done
    with earlier; a checkpoint includes it only when all before it are, too.
    """

    def __init__(self, start: MarkT, *, once: bool = False) -> None:
        """`once`: a key that was handed out does not come again in a later pass."""
        # Everything up to it was done with. Invariant: of the present pass, unless keys come only once and somebody
        # still works on a page of an earlier one.
        self.mark: MarkT = start
        self._once = once
        # Invariant: the first is not done with, and no two that are stand side by side: as long as there are consumers.
        self._handed: list[tuple[MarkT, bool]] = []

    def begin(self, start: MarkT) -> None:
        """Another pass begins. The pages of the one before count no more: it brings their keys again.

        It does not if keys come only once. Then a checkpoint of the new pass would be one without the pages that
        somebody still works on, and a crash in the middle of one would lose the rest of it.
        """
        if self._once:
            self.handed_out(start, is_done=True)
        else:
            self.mark = start
            self._handed.clear()

    def handed_out(self, mark: MarkT, *, is_done: bool = False) -> None:
        """A consumer has this page now; or it held nothing to hand out, and is done with."""
        self._handed.append((mark, is_done))
        if is_done:
            self._tidy()

    def done_with(self, mark: MarkT) -> None:
        """The page's consumer has asked for the next one. Pages of an earlier pass are not known any more."""
        for index, (handed, _) in enumerate(self._handed):
            if handed is mark:
                self._handed[index] = (mark, True)
                self._tidy()
                return

    def _tidy(self) -> None:
        kept: list[tuple[MarkT, bool]] = []
        for mark, is_done in self._handed:
            if is_done and not kept:
                self.mark = mark
            elif is_done and kept[-1][1]:
                kept[-1] = (mark, True)
            else:
                kept.append((mark, is_done))
        self._handed = kept
