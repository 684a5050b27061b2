"""Print what is published on some channels, and say when something may have been missed.

python examples/follow_channels.py redis+sentinel://127.0.0.1:26379/mymaster "news.*" "weather.*"
"""

from __future__ import annotations

import sys

import trio

from trio_sentinel_scan import Gap, Message, connect


async def main(url: str, patterns: list[str]) -> None:
    """Receive until it is interrupted."""
    async with connect(url, decode_responses=True) as client, client.pubsub() as subscriber:
        await subscriber.psubscribe(*patterns)
        async for item in subscriber:
            match item:
                case Message(channel=channel, data=data):
                    print(f"{channel}: {data}", flush=True)
                case Gap(cause=cause, began=began, ended=ended):
                    print(f"-- {ended - began:.1f} s may be missing: {cause}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2:])
