"""A process of its own that scans with seen keys on disk, and is killed: `python -m tests.real.keeper URL FILE SHARE`.

A fourth argument is the checkpoint to go on from. It writes a line of JSON for each page: its keys as hexadecimal
digits, and its checkpoint, which is null from half of SHARE on. At SHARE it ends itself, without closing anything; at 1
it scans to the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import trio

from trio_sentinel_scan import SpillingSeen, connect


async def scan_and_die(url: str, file: str, share: float, checkpoint: str | None) -> None:
    """Scan so much of it, and end."""
    with SpillingSeen(file) as seen:
        async with (
            connect(url) as client,
            client.open_scan(count=50, prefetch=0, segments=4, page_size=30, dedupe=seen, resume=checkpoint) as pages,
        ):
            async for page in pages:
                assert page.position is not None
                kept = page.checkpoint if page.position < share / 2 or share == 1 else None
                sys.stdout.write(json.dumps([[key.hex() for key in page], kept]) + "\n")
                if page.position >= share < 1:
                    sys.stdout.flush()
                    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    trio.run(scan_and_die, sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
