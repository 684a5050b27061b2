"""The fake world, and an OpenTelemetry that keeps what it is told."""

from __future__ import annotations

from tests.trio.conftest import network as network
from tests.trio.test_telemetry import told as told
