"""The server programs that the tests of this machine run on, one path a line: `python -m tests.servers`."""

from __future__ import annotations

import sys

from tests.conftest import server_binaries

if __name__ == "__main__":
    sys.stdout.writelines(f"{binary.path}\n" for binary in server_binaries().values())
