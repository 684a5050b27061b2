"""Some hundreds of each kind of nonsense in every run, always the same ones; thousands, others each time, in the full.

``python -m tests.fuzz --minutes n`` (``nox -s fuzz -- --minutes n``) goes on for as long as it is told.
"""

from __future__ import annotations

from random import SystemRandom

import pytest

from tests.fuzz.all import PROPERTIES, try_one

SOME = 400
MANY = 20_000
# Each of them in less time than a test that hangs is given.
PARTS = 4


@pytest.mark.parametrize("name", PROPERTIES)
def test_nonsense(name: str) -> None:
    for seed in range(SOME // PROPERTIES[name].costs):
        try_one(name, seed)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", PROPERTIES)
def test_much_nonsense(name: str, part: int) -> None:
    for _ in range(MANY // PROPERTIES[name].costs // PARTS):
        try_one(name, SystemRandom().getrandbits(48))
