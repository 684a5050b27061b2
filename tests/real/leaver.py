"""A process of its own that scans a part of a keyspace, and is gone: `python -m tests.real.leaver URL SHARE`.

It writes each key as hexadecimal digits on a line of its own, then the checkpoint of the last page, and ends itself
without closing anything.
"""

from __future__ import annotations

import os
import signal
import sys

import trio

from trio_sentinel_scan import connect


async def leave(url: str, share: float) -> None:
    """Scan so much of it, and end."""
    async with connect(url) as client, client.open_scan(count=50, prefetch=0) as pages:
        async for page in pages:
            assert page.position is not None
            lines = [key.hex() for key in page]
            if page.position >= share:
                lines.append(page.checkpoint)
            sys.stdout.write("\n".join([*lines, ""]))
            if page.position >= share:
                break
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    trio.run(leave, sys.argv[1], float(sys.argv[2]))
