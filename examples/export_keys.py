"""Export a service's keys and values, each once, though the master may change in the middle of it.

    python examples/export_keys.py redis+sentinel://10.0.0.1,10.0.0.2/mymaster > export.ndjson

A restart begins again at cursor 0, and keys come again. So the export is collected in a file that is emptied when a
later epoch begins, and that is written out only once the scan is complete.
"""

from __future__ import annotations

import json
import sys
import tempfile

import trio

from trio_sentinel_scan import connect


async def export(url: str) -> None:
    """Write every string key of the service at `url`, with its value, to standard output."""
    async with connect(url) as client:
        with tempfile.TemporaryFile("w+") as collected:
            epoch = 0
            async with client.open_scan(type_="string") as pages:
                async for page in pages:
                    if page.epoch != epoch:
                        epoch = page.epoch
                        collected.seek(0)
                        collected.truncate()
                    values = await client.mget(list(page))
                    for key, value in zip(page, values, strict=True):
                        if isinstance(value, bytes):
                            collected.write(json.dumps([key.decode("latin-1"), value.decode("latin-1")]) + "\n")
            # Only a complete scan comes here; anything else has raised.
            collected.seek(0)
            sys.stdout.writelines(collected)
            print(pages.summary.certificate, file=sys.stderr)


if __name__ == "__main__":
    trio.run(export, sys.argv[1])
