"""Every property there is, and one try of one of them."""

from __future__ import annotations

import warnings
from random import Random

from tests.fuzz import decoding, readers, worlds
from tests.fuzz.readers import Property

__all__ = ["PROPERTIES", "try_one"]

PROPERTIES: dict[str, Property] = {**decoding.PROPERTIES, **readers.PROPERTIES, **worlds.PROPERTIES}


def try_one(name: str, seed: int) -> None:
    """What this seed draws. A failure tells what to call to see it again."""
    draw, holds, _ = PROPERTIES[name]
    value = draw(Random(seed))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            holds(value)
    except BaseException as error:
        error.add_note(f"tests.fuzz.all.try_one({name!r}, {seed}), of {repr(value)[:2000]}")
        raise
