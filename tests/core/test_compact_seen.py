"""The filter that takes a few bytes for a key: what it never does, how often it errs, and how it grows."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from rbloom import Bloom

from trio_sentinel_scan._core import compact_seen
from trio_sentinel_scan._core.compact_seen import CompactSeen
from trio_sentinel_scan._core.errors import ConfigError
from trio_sentinel_scan._core.scan_options import check_seen_keys

KEYS = st.binary(max_size=6) | st.text(max_size=4)


def filled(seen: CompactSeen, number: int) -> CompactSeen:
    """So many keys, in pages."""
    keys = (b"key:%d" % one for one in range(number))
    while page := list(itertools.islice(keys, 997)):
        seen.mark(page)
    return seen


def errors_of(seen: CompactSeen, number: int) -> int:
    """How many of so many new keys it takes for seen."""
    return number - len(seen.unseen([b"new:%d" % one for one in range(number)]))


@given(st.lists(st.lists(KEYS, max_size=8), max_size=8))
@settings(max_examples=60)
def test_a_marked_key_is_never_new_again(pages: list[list[Any]]) -> None:
    """And at this rate no new one is taken for it, a str and its bytes included."""
    seen, model = CompactSeen(1), set[Any]()
    for page in pages:
        expected = [key for key in dict.fromkeys(page) if key not in model]
        assert seen.unseen(page) == expected
        seen.mark(expected)
        model.update(expected)
        assert len(seen) == len(model)
        assert seen.unseen([*page, *model]) == []


def test_keys_may_be_marked_that_were_not_asked_about() -> None:
    seen = CompactSeen(1)
    assert seen.unseen([b"a"]) == [b"a"]
    seen.mark([b"b", "\udc80"])
    assert seen.unseen([b"a", b"b", "\udc80", "\udc81"]) == [b"a", "\udc81"]


def test_asking_marks_nothing() -> None:
    seen = CompactSeen(1)
    assert [seen.unseen([b"a", b"a"]) for _ in range(2)] == [[b"a"], [b"a"]]
    assert len(seen) == 0


@pytest.mark.parametrize("number", [4_000, 50_000])
def test_the_error_rate_is_kept_when_full_and_beyond(number: int) -> None:
    """However many keys there are: twelve times as many as expected are too many for one filter, or for two."""
    rate, tries = 0.01, 20_000
    seen = filled(CompactSeen(4_000, rate), number)
    assert len(seen) == number
    errors = errors_of(seen, tries)
    # Six deviations: such a filter fails this once in a thousand million runs.
    assert errors <= tries * rate + 6 * math.sqrt(tries * rate)
    # The test would notice, and the formula of the docstring is the truth: half of it by a first filter that is full.
    if number == 4_000:
        expected = tries * 2.0 ** -(math.ceil(-math.log2(rate)) + 1)
        assert abs(errors - expected) <= 6 * math.sqrt(expected)
    else:
        assert errors > tries * rate / 4


def test_filters_with_the_same_rate_would_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard: each filter of the chain errs half as often as the one before it."""
    grow = CompactSeen._grow

    def grow_as_before(self: CompactSeen) -> None:
        grow(self)
        self._functions -= 1
        self._capacity //= 2

    monkeypatch.setattr(CompactSeen, "_grow", grow_as_before)
    assert errors_of(filled(CompactSeen(4_000, 0.01), 50_000), 20_000) > 20_000 * 0.01 * 2


def test_it_takes_what_the_formula_says() -> None:
    seen = CompactSeen(100_000)
    assert seen.size == pytest.approx(100_000 * 31 / math.log(2) / 8, rel=0.01)
    assert repr(filled(seen, 10)) == f"<CompactSeen of 10 keys in {seen.size} bytes>"
    before = seen.size
    filled(seen, 100_000)
    assert seen.size == pytest.approx(before * (1 + 2 * 32 / 31), rel=0.01)


def test_filters_have_the_hash_functions_that_were_meant() -> None:
    """rbloom rounds their number down; what it saves of a filter begins with it."""
    made: list[Any] = []

    def make(capacity: int, rate: float) -> Any:
        made.append(Bloom(capacity, rate, operator.index))
        return Bloom(capacity, rate)

    for rate in (0.1, 2.0**-7, 2.0**-30, 1e-9, 1e-12):
        seen = CompactSeen(1, rate)
        seen._make = make
        filled(seen, 10_000)
        assert len(made) == 3
        for number, each in enumerate(made, 1):
            functions = int.from_bytes(each.save_bytes()[:8], "little")
            assert functions == math.ceil(-math.log2(rate)) + 1 + number
        made.clear()


def test_no_filter_has_a_power_of_two_of_bits() -> None:
    """A part of the hash would have no say."""
    per_key = 31.01 / math.log(2)
    around = range(int(2**17 / per_key) - 4, int(2**17 / per_key) + 4)
    sizes = {CompactSeen(capacity).size * 8 for capacity in around}
    assert 2**17 not in sizes
    assert min(sizes) < 2**17 < max(sizes)


@pytest.mark.parametrize("seed", ["0", "1"])
def test_each_has_a_salt_of_its_own(seed: str) -> None:
    """Whatever Python's own hashes are salted with: who knows that cannot tell which keys fall together."""
    code = (
        "from trio_sentinel_scan import CompactSeen\n"
        "seen = CompactSeen(1)\n"
        "print(*[hash(seen._salted(key)) for key in (b'key', 'key', 'k\\udc80y')], hash(b'key'))"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=True, cwd=root, env=environment)
    (*one, plain), (*other, same) = (run([sys.executable, "-c", code]).stdout.split() for _ in range(2))
    assert plain == same
    assert len({*one, *other}) == 6


@pytest.mark.parametrize(
    "arguments, at_fault",
    [
        *[({"expected_keys": value}, "expected_keys") for value in (0, -1, True, 1e6, "many", None, 1 << 41)],
        *[({"error_rate": value}, "error_rate") for value in (0, 0.2, 1, True, "low", None, 1e-13, math.nan)],
    ],
)
def test_bad_input(arguments: dict[str, Any], at_fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CompactSeen(**arguments)
    assert caught.value.argument == at_fault


def no_memory(size: int) -> bytes:
    raise MemoryError(size)


def test_too_big_for_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """rbloom itself would end the process."""
    seen = filled(CompactSeen(1), 1024)
    monkeypatch.setattr(compact_seen, "bytes", no_memory, raising=False)
    with pytest.raises(ConfigError, match="too much for this machine: a filter for 5000 keys takes") as caught:
        CompactSeen(5000)
    assert caught.value.argument == "expected_keys"
    with pytest.raises(MemoryError, match="2048 keys"):
        seen.mark([b"one too many"])


def test_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rbloom", None)
    with pytest.raises(ConfigError, match=r'pip install "trio-sentinel-scan\[compact\]"') as caught:
        CompactSeen()
    assert caught.value.argument == "dedupe"


@pytest.mark.parametrize("hashes", [{"width": 32, "algorithm": "siphash13"}, {"width": 64, "algorithm": "fnv"}])
def test_on_a_python_with_poor_hashes(monkeypatch: pytest.MonkeyPatch, hashes: dict[str, Any]) -> None:
    """The error rate would not be what it is said to be."""
    monkeypatch.setattr(sys, "hash_info", SimpleNamespace(**hashes))
    with pytest.raises(ConfigError, match="64 bits") as caught:
        CompactSeen()
    assert caught.value.argument == "dedupe"


def test_one_that_has_keys_is_not_for_another_scan() -> None:
    """They would be missing from it."""
    seen = CompactSeen(1)
    check_seen_keys(seen, None)
    with pytest.raises(ConfigError, match="seen keys of another scan"):
        check_seen_keys(filled(seen, 1), None)
