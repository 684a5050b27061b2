"""Pages and the account of a scan, as users see them."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from trio_sentinel_scan._core.identity import Address, ServerIdentity
from trio_sentinel_scan._core.summary import Certificate, Restart, ScanPage, ScanSummary

SERVER = ServerIdentity("0123456789abcdef", Address("10.0.0.1", 6379))


def test_a_page_is_its_keys() -> None:
    """In order, as often as one likes."""
    page = ScanPage([b"a", b"b"], 0, SERVER, 0.5)
    assert list(page) == list(page) == [b"a", b"b"]
    assert len(page) == 2


@pytest.mark.parametrize("position, text", [(0.5, "0.500"), (None, "unknown")])
def test_a_page_shows_no_key(position: float | None, text: str) -> None:
    """Its repr gets into logs."""
    page = ScanPage([b"secret"], 3, SERVER, position)
    assert repr(page) == f"<ScanPage of 1 keys, epoch 3, position {text}, 10.0.0.1:6379 (run_id 01234567)>"


def test_a_page_that_no_scan_has_made_has_no_checkpoint() -> None:
    """There is nothing to go on from."""
    with pytest.raises(ValueError, match="no scan"):
        _ = ScanPage([b"a"], 0, SERVER, None).checkpoint


def test_pages_are_compared_by_what_they_are_not_by_what_they_hold() -> None:
    """Two pages with the same keys are two pages."""
    assert ScanPage([b"a"], 0, SERVER, None) != ScanPage([b"a"], 0, SERVER, None)


@pytest.mark.parametrize(
    "basis, role, text",
    [
        ("sentinels", "master", "10.0.0.1:6379 (run_id 01234567) says master, 2 of 3 Sentinels agree (config epoch 7)"),
        ("role", "master", '10.0.0.1:6379 (run_id 01234567) says master; no Sentinel was asked (certify="role")'),
        ("server", "slave", "10.0.0.1:6379 (run_id 01234567) says slave; there are no Sentinels to ask"),
        ("server", "", "10.0.0.1:6379 (run_id 01234567) does not tell its role; there are no Sentinels to ask"),
    ],
)
def test_a_certificate_says_in_words_what_it_rests_on(basis: str, role: str, text: str) -> None:
    """For people to read."""
    certificate = Certificate(
        basis=basis,
        server=SERVER,
        role=role,
        replicas=2,
        config_epoch=7,
        sentinels_known=3,
        sentinels_agreeing=2,
    )
    assert str(certificate) == text


def summary(**changes: Any) -> ScanSummary:
    return ScanSummary(
        **{
            "complete": True,
            "epoch": 1,
            "keys": 100,
            "pages": 10,
            "keys_this_epoch": 60,
            "scans": 11,
            "reconnects": 0,
            "duplicates_dropped": 0,
            "position": 1.0,
            "server": SERVER,
            "segments": 16,
            "certificate": None,
            "elapsed": 2.0,
            "restarts": (Restart(1, "why", 0.5, SERVER),),
            **changes,
        }
    )


@pytest.mark.parametrize("elapsed, rate", [(2.0, 50.0), (0.0, 0.0)])
def test_a_rate_is_keys_by_time(elapsed: float, rate: float) -> None:
    """Before any time has gone by there is none."""
    assert summary(elapsed=elapsed).keys_per_second == rate


def test_a_summary_is_a_value() -> None:
    """It can be compared, kept, changed into another, and sent to another process."""
    there = pickle.loads(pickle.dumps(summary()))
    assert there == summary()
    assert dataclasses.replace(there, keys=1).keys == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        there.keys = 1
    assert summary(restarts=()).restarts == ()
