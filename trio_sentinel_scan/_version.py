"""The version: the one place that it is written down in."""

from __future__ import annotations

__version__ = "0.1.0"
