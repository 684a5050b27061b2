from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the docs are not part of the wheel")


def test_the_state_diagram_in_the_docs_is_drawn_from_the_present_table() -> None:
    """`python docs/state_diagram.py` would change nothing."""
    script = runpy.run_path(str(DOCS / "state_diagram.py"))
    page = (DOCS / "scan.md").read_text(encoding="utf-8")
    assert script["redrawn"](page) == page
