from __future__ import annotations

from pathlib import Path

TYPING = Path(__file__).parents[1] / "typing"


def test_both_editions_have_the_same_types_checked() -> None:
    """What is said of the one is said of the other: the two files differ by their first line and the module's name."""
    api, twin = ((TYPING / name).read_text(encoding="utf-8").splitlines()[1:] for name in ("api.py", "anyio_api.py"))
    assert twin == [line.replace("trio_sentinel_scan", "trio_sentinel_scan.anyio") for line in api]
