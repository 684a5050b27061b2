"""--dedupe: what remembers the keys that were written; and that beside a checkpoint it belongs to the file."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Literal, TypeAlias

from .._core.cluster_checkpoint import parse_any_checkpoint
from .._core.compact_seen import CompactSeen
from .._core.errors import ConfigError, SeenKeysUnavailable
from .._core.seen_keys import SeenKeys
from .._spilling import SpillingSeen
from ._checkpoint import CheckpointFile

Dedupe: TypeAlias = Literal["exact", "compact", "disk"]


@contextlib.contextmanager
def open_seen_keys(
    dedupe: Dedupe | None, kept: CheckpointFile | None, resume: str | None
) -> Generator[bool | SeenKeys, None, None]:
    """What `open_scan` wants as `dedupe`, for as long as the block lasts.

    With a checkpoint's file, it is a store beside that (`seen_path`), whatever was said: only so does the next run know
    what was written. The store is of use as long as the file is there, and goes when the block is left without it.
    Raises ConfigError, which `resume` can be a reason for, too.
    """
    if kept is not None:
        _check_fit(dedupe, kept, resume)
    if dedupe is None:
        yield False
    elif kept is None and dedupe == "exact":
        yield True
    elif kept is None and dedupe == "compact":
        yield CompactSeen()
    else:
        store = _opened(kept)
        try:
            if resume is None:
                # What a run has left that was killed before its first checkpoint.
                store.clear()
            yield store
        finally:
            # Whatever is lost here is marked later than the last checkpoint: the next run would take it back.
            with contextlib.suppress(SeenKeysUnavailable):
                store.close()
            if kept is not None:
                kept.remove_seen_if_alone()


def _check_fit(dedupe: Dedupe | None, kept: CheckpointFile, resume: str | None) -> None:
    """A file with a store, and one without, are for different runs: keys would come twice, or not at all."""
    if dedupe == "compact":
        raise ConfigError(
            "dedupe",
            "compact is in memory alone, and the run that goes on from a checkpoint must know what this one has"
            " written: with --checkpoint, say --dedupe disk",
        )
    if resume is None:
        return
    has_store = parse_any_checkpoint(resume).seen is not None
    if dedupe is None and has_store:
        raise ConfigError(
            "checkpoint",
            f"{kept.path} is of a scan with --dedupe, which knows what was written: say --dedupe again, or remove the"
            " file to begin anew",
        )
    if dedupe is not None and not has_store:
        raise ConfigError(
            "checkpoint",
            f"{kept.path} is of a scan without --dedupe, and nobody knows what that has written: leave --dedupe out,"
            " or remove the file to begin anew",
        )
    if has_store and not kept.seen_path.exists():
        raise ConfigError(
            "checkpoint",
            f"{kept.seen_path} is not there, which has the keys that were written up to the checkpoint in {kept.path}:"
            " put it back, or remove the file to begin anew",
        )


def _opened(kept: CheckpointFile | None) -> SpillingSeen:
    try:
        return SpillingSeen(None if kept is None else kept.seen_path)
    except ConfigError as error:
        if error.argument != "path":
            raise
        where = "the temporary file" if kept is None else str(kept.seen_path)
        problem = str(error).partition(": ")[2]
        raise ConfigError("dedupe", f"{where} {problem}") from error
