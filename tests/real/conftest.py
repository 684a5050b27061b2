"""What the tests on real servers share."""

from __future__ import annotations

import pytest

# Their assertions are to tell as much as a test's own.
pytest.register_assert_rewrite("tests.real.scenes")
