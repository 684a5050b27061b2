"""Seen keys on disk against a model in memory, in any order of marks, commits, rollbacks, crashes and reopenings."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.core._store_model import ModelStore
from trio_sentinel_scan import SpillingSeen

KEYS = [b"", b"\0", *(b"key:%d" % number for number in range(30))]
PAGES = st.lists(st.sampled_from(KEYS), max_size=12)


class SpillingMachine(RuleBasedStateMachine):
    """One store, whose process may die."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.files = 0
        self.model = ModelStore()
        # Every number that there ever was.
        self.numbers = [0]

    @initialize()
    def open(self) -> None:
        self.seen = SpillingSeen(self.path)
        self.name = self.seen.name

    @property
    def path(self) -> Path:
        return self.folder / f"{self.files}.db"

    @rule(page=PAGES)
    def hand_out(self, page: list[bytes]) -> None:
        """As a scan does."""
        fresh = self.seen.unseen(page)
        assert fresh == self.model.unseen(page)
        self.mark(fresh)

    @rule(page=PAGES)
    def mark(self, page: list[bytes]) -> None:
        """Keys that were marked before keep their number."""
        self.seen.mark(page)
        self.model.mark(page)
        self.numbers.append(self.model.number)

    @rule()
    def commit(self) -> None:
        self.seen.commit()
        self.model.commit()

    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """To where it has been, or to what it has no more."""
        number = data.draw(st.sampled_from(self.numbers) | st.integers(-1, 40))
        if number in self.model.known:
            self.seen.rollback(number)
            self.model.rollback(number)
        else:
            with pytest.raises(ValueError, match="never was"):
                self.seen.rollback(number)

    @rule()
    def reopen(self) -> None:
        self.seen.close()
        self.model.commit()
        self.seen = SpillingSeen(self.path)

    @rule()
    def crash(self) -> None:
        """The file as it is now is all that is left."""
        old = self.path
        self.files += 1
        for suffix in ("", "-wal"):
            if Path(f"{old}{suffix}").exists():
                shutil.copy(f"{old}{suffix}", f"{self.path}{suffix}")
        self.seen.close()
        self.seen = SpillingSeen(self.path)
        self.model.crash()

    @precondition(lambda self: self.model.number > 3)
    @rule()
    def clear(self) -> None:
        self.seen.clear()
        self.model.clear()
        assert self.seen.name != self.name
        self.name = self.seen.name
        self.numbers = [0]

    @invariant()
    def it_is_what_the_model_is(self) -> None:
        if not hasattr(self, "seen"):
            return
        assert self.seen.number == self.model.number
        assert self.seen.name == self.name
        assert len(self.seen) == len(self.model.marked)
        assert self.seen.unseen(KEYS) == self.model.unseen(KEYS)

    def teardown(self) -> None:
        if hasattr(self, "seen"):
            self.seen.close()
        shutil.rmtree(self.folder)


TestSpilling: Any = SpillingMachine.TestCase
TestSpilling.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
