"""Where a scan stands, for checkpoints, and which keys count as seen: what a pass writes down on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .checkpoint import Mark, PassFacts
from .errors import CheckpointInvalid
from .progress import Progress
from .scan_options import check_seen_keys
from .seen_keys import durable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .checkpoint import Checkpoint
    from .scan_options import ScanOptions
    from .seen_keys import DurableSeenKeys

__all__ = ["Marks", "take_back"]


def take_back(store: DurableSeenKeys | None, resume: Checkpoint) -> None:
    """Have the filter of seen keys where it was then. Raises CheckpointInvalid."""
    if resume.seen is None or store is None:
        return
    try:
        store.rollback(resume.seen.number)
    except ValueError as error:
        raise CheckpointInvalid(
            "is a checkpoint of what the store given as dedupe does not have: it was rolled back to an earlier one"
            " since then, or the file is an older copy"
        ) from error


class Marks:
    """The marks of one scan's pages. A page's mark tells where its pass stands once the page is handed out."""

    def __init__(self, options: ScanOptions, epoch: int) -> None:
        """The filter of seen keys is taken back to the checkpoint that is gone on from. Raises ConfigError."""
        self._scope = options.scope
        # The filter, if checkpoints are to tell how far it was.
        self._durable = durable(options.dedupe)
        check_seen_keys(options.dedupe, options.resume)
        # What the marks of the present pass have in common.
        self._facts = PassFacts(options.scope, epoch)
        cursors: Sequence[int | None] = ()
        if options.resume is not None:
            self._restore(options.resume)
            cursors = options.resume.cursors
        # The mark that stands for all that was committed.
        self.latest: Mark = self._to_begin(cursors)
        self._progress = Progress[Mark](self.latest, once=options.dedupe is not None)

    def _restore(self, resume: Checkpoint) -> None:
        """Until a server has been found, the scan stands where the checkpoint does."""
        self._facts = PassFacts(
            self._scope,
            resume.epoch,
            resume.server,
            resume.role,
            resume.config_epoch,
            resume.form,
            resume.seed_check,
            resume.heirs,
        )
        take_back(self._durable, resume)

    # ---- the pass -----------------------------------------------------------------------------------------------

    def cleared(self, epoch: int) -> None:
        """The pass is void; another one, `epoch`, is to begin."""
        self._facts = PassFacts(self._scope, epoch)
        self.latest = self._to_begin(())
        self._progress.begin(self.latest)

    def bound(self, facts: PassFacts, cursors: Sequence[int | None], *, moves: bool = False) -> None:
        """A pass has begun, at these cursors; or, if it `moves`, it goes on elsewhere.

        The progress stays then: pages that were not done with are not behind the consumer yet.
        """
        self._facts = facts
        self.latest = self._to_begin(cursors)
        if not moves:
            self._progress.begin(self.latest)

    def committed(self, cursors: Sequence[int | None]) -> tuple[Mark, Mark]:
        """The pass has come to these cursors. Returns the marks before and after that."""
        before, self.latest = self.latest, self._of(cursors)
        return before, self.latest

    def came_on(self, cursors: Sequence[int | None]) -> None:
        """The pass has come to these cursors without a page, so there is nothing between the latest one and them."""
        self.latest.cursors = cursors

    def _of(self, cursors: Sequence[int | None]) -> Mark:
        return Mark(self._facts, cursors, self._durable)

    def _to_begin(self, cursors: Sequence[int | None]) -> Mark:
        """Where the pass stands before its first page; what was seen by then counts."""
        mark = self._of(cursors)
        if mark.seen is not None:
            mark.seen_number = mark.seen.number
        return mark

    # ---- the consumers ------------------------------------------------------------------------------------------

    def seen(self, mark: Mark) -> None:
        """The keys of this mark's page have just been marked as seen."""
        if self._durable is not None:
            mark.seen_number = self._durable.number

    def handed_out(self, mark: Mark, *, is_done: bool = False) -> None:
        """A consumer has this mark's page now; or it held nothing to hand out, and is done with."""
        self._progress.handed_out(mark, is_done=is_done)

    def done_with(self, mark: Mark) -> None:
        """The page's consumer asks for the next one."""
        self._progress.done_with(mark)

    @property
    def checkpoint(self) -> str:
        """A checkpoint that includes all pages whose consumers have done with them."""
        return self._progress.mark.text()
