"""What a user's type checker must be able to say about the public names. Checked by mypy and pyright, never run."""

from __future__ import annotations

import trio_sentinel_scan

version: str = trio_sentinel_scan.__version__
