"""``python -m tests.fuzz --minutes n``: nonsense that nobody has seen before, for so long; ends at the first failure.

Each property has the same share of the time. What failed is told with the seed that draws it again.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import SystemRandom

from tests.fuzz.all import PROPERTIES, try_one


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("names", nargs="*", choices=[[], *PROPERTIES], help="of the properties; all without any")
    words = parser.parse_args()
    names = words.names or list(PROPERTIES)
    rng = SystemRandom()
    for name in names:
        ends = time.monotonic() + words.minutes * 60 / len(names)
        tries = 0
        while time.monotonic() < ends:
            try_one(name, rng.getrandbits(48))
            tries += 1
        sys.stdout.write(f"{name}: {tries:,} tries, and nothing found\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
