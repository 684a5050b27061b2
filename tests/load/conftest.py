"""The fake world."""

from __future__ import annotations

from tests.trio.conftest import network as network
