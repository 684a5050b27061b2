"""A checkpoint in a file: written when the keys that it covers are, and read when the next run begins."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import trio

from ._running import Failure

# Seconds between two checkpoints. What a crash brings again is what came in between.
_EVERY: Final = 1.0
# The largest file that is read; a checkpoint has some hundred characters, with 1,024 segments 12,000.
_MOST: Final = 65_536


class CheckpointFailed(Failure):
    """The file of the checkpoint cannot be read or written."""


class CheckpointFile:
    """One file, replaced as a whole: whoever reads it finds the old checkpoint or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    @property
    def seen_path(self) -> Path:
        """Where the keys that were written are kept beside it, for --dedupe."""
        return self._path.with_name(self._path.name + ".seen")

    def read(self) -> str | None:
        """The checkpoint; None if there is none. Raises CheckpointFailed."""
        try:
            with self._path.open("rb") as file:
                data = file.read(_MOST + 1)
        except FileNotFoundError:
            # A folder that is not there would be noticed when the first keys have been written.
            if not self._path.parent.is_dir():
                raise CheckpointFailed(f"--checkpoint: there is no folder {self._path.parent}") from None
            return None
        except OSError as error:
            raise CheckpointFailed(f"--checkpoint: cannot read {self._path}: {error.strerror or error}") from error
        # What is no checkpoint, open_scan says.
        return data[:_MOST].decode("utf-8", "replace")

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return trio.current_time() >= self._next

    async def write(self, text: str) -> None:
        """Have this in the file, come what may. Raises CheckpointFailed."""
        try:
            await trio.to_thread.run_sync(self._replace, text)
        except OSError as error:
            raise CheckpointFailed(f"--checkpoint: cannot write {self._path}: {error.strerror or error}") from error
        self._next = trio.current_time() + _EVERY

    def remove(self) -> None:
        """The scan is complete: the next run begins anew."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def remove_seen_if_alone(self) -> None:
        """The keys that were written are of no use without the file: the next run begins anew."""
        if self._path.exists():
            return
        # The second is the database's log: there after a failure, otherwise gone with its closing.
        for path in (self.seen_path, self.seen_path.with_name(self.seen_path.name + "-wal")):
            with contextlib.suppress(OSError):
                path.unlink()

    def _replace(self, text: str) -> None:
        new = self._path.with_name(f".{self._path.name}.new")
        with new.open("w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        # The name is in the folder, which is to be on the disk, too.
        with contextlib.suppress(OSError):
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
