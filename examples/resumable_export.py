"""Export the names of all keys to a file: each once, through failovers, and also when this program is killed.

    python examples/resumable_export.py redis+sentinel://10.0.0.1,10.0.0.2/mymaster export

After a crash, run it again with the same arguments: it goes on from what is safe. Then the folder `export` has the file
`keys`, one JSON string a line; until the export is complete, `checkpoint` and `seen.db` are there, too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import trio

from trio_sentinel_scan import SpillingSeen, connect

# So many keys are written between two checkpoints. Each of these waits for the disk, and so does all else meanwhile.
EVERY = 10_000


class Export:
    """The file with the keys, and beside it what of it is safe: how many bytes, and the checkpoint behind them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.saved = folder / "checkpoint"
        self.store = folder / "seen.db"
        size = 0
        self.checkpoint: str | None = None
        if self.saved.exists():
            size, self.checkpoint = json.loads(self.saved.read_text())
        self.file = (folder / "keys").open("ab")
        # What was written after the checkpoint comes again.
        self.file.truncate(size)
        self.unsaved = 0

    def write(self, keys: Iterable[bytes]) -> None:
        """Write them; whether they stay is not certain yet."""
        lines = [json.dumps(key.decode("latin-1")) + "\n" for key in keys]
        self.file.write("".join(lines).encode())
        self.unsaved += len(lines)

    def save(self, checkpoint: str) -> None:
        """From now on, what was written stays. The keys first: a checkpoint without them would lose them."""
        self.sync()
        new = self.saved.with_suffix(".new")
        with new.open("w") as file:
            json.dump([os.fstat(self.file.fileno()).st_size, checkpoint], file)
            file.flush()
            os.fsync(file.fileno())
        # The old one or the new one is there, whenever somebody looks.
        new.replace(self.saved)
        self.unsaved = 0

    def sync(self) -> None:
        """Have the keys on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self) -> None:
        """The scan was complete: there is nothing to go on from."""
        self.sync()
        # In this order. A checkpoint without its store would be refused.
        self.saved.unlink(missing_ok=True)
        self.store.unlink()


async def main(url: str, folder: str) -> None:
    """Export the keys of the service, or server, at `url`."""
    export = Export(Path(folder))
    with SpillingSeen(export.store) as seen:
        if export.checkpoint is None:
            # Keys that were seen by a run that was killed before its first checkpoint.
            seen.clear()
        async with connect(url) as client, client.open_scan(dedupe=seen, resume=export.checkpoint) as pages:
            async for page in pages:
                export.write(page)
                if export.unsaved >= EVERY:
                    # The store commits what it has seen when it is asked for this text.
                    export.save(page.checkpoint)
    # Only a complete scan comes here; anything else has raised.
    export.finish()
    print(pages.summary.certificate, file=sys.stderr)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
