"""A workload of numbered commands by many tasks on one client, and the check of its history.

Each task has a counter and a list of its own. Its counter begins at a number of its own, so that a reply that was
another task's shows; what it pushes is numbered, so that a write that ran twice shows. In AnyIO's words: it runs on
every loop, with both editions' clients.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio

from trio_sentinel_scan import CommandOutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

TASKS: Final = 50
_APART: Final = 1_000_000


class Caller:
    """One task: what it has asked for, and what came of it."""

    def __init__(self, number: int, *, may_repeat: bool) -> None:
        # How often one try may have run at most, for all that we know.
        self.runs = 20 if may_repeat else 1
        self.base = number * _APART
        self.counter = f"counter:{number}"
        self.list = f"list:{number}"
        self.tries = 0
        self.counted = 0
        self.count_unknown = 0
        self.pushed: list[str] = []
        self.push_unknown: list[str] = []
        # The last number that it knows to have been its counter's.
        self.last = self.base

    async def turn(self, client: Any, *, may_lose: bool) -> None:
        """One INCR, one LPUSH, one GET; a reply that cannot be this task's fails."""
        self.tries += 1
        try:
            number = await client.incr(self.counter)
            self.counted += 1
            self._look(number, may_lose=may_lose, grown=True)
        except CommandOutcomeUnknown:
            self.count_unknown += 1
        value = f"{self.list}:{self.tries}"
        try:
            length = await client.lpush(self.list, value)
            self.pushed.append(value)
            assert 0 < length <= self.tries * self.runs, "a reply reached another caller"
        except CommandOutcomeUnknown:
            self.push_unknown.append(value)
        self._look(int(await client.get(self.counter) or self.base), may_lose=may_lose, grown=False)

    def _look(self, number: int, *, may_lose: bool, grown: bool) -> None:
        most = self.tries * self.runs
        if may_lose:
            # A failover may have lost what was answered; where nothing is left, INCR begins at 1.
            assert self.base <= number <= self.base + most or number <= most, "another caller's reply"
        else:
            assert self.last + grown <= number <= self.base + most
            self.last = number


class Workload:
    """All of them."""

    def __init__(self, client: Any, *, may_lose: bool, retries_writes: bool = False) -> None:
        self.callers = [Caller(number, may_repeat=retries_writes) for number in range(TASKS)]
        self._client = client
        self._may_lose = may_lose
        self._retries_writes = retries_writes
        self._stopped = False

    async def set_up(self) -> None:
        """Where the counters begin."""
        for caller in self.callers:
            await self._client.set(caller.counter, caller.base)

    async def turns(self, count: int) -> None:
        """Wait until each task has been round so many times more."""
        wanted = [caller.tries + count for caller in self.callers]
        while any(caller.tries < tries for caller, tries in zip(self.callers, wanted, strict=True)):  # noqa: ASYNC110
            await anyio.sleep(0.005)

    async def _call(self, caller: Caller) -> None:
        while not self._stopped:
            await caller.turn(self._client, may_lose=self._may_lose)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run while the block does; every command ends, and by nothing but its reply or CommandOutcomeUnknown."""
        async with anyio.create_task_group() as task_group:
            for caller in self.callers:
                task_group.start_soon(self._call, caller)
            await self.turns(3)
            yield
            await self.turns(3)
            self._stopped = True

    @property
    def unknown(self) -> int:
        """How many commands ended in CommandOutcomeUnknown."""
        return sum(caller.count_unknown + len(caller.push_unknown) for caller in self.callers)

    async def check(self) -> None:
        """What the server holds in the end is what the history allows."""
        for caller in self.callers:
            values = [value.decode() for value in await self._client.lrange(caller.list, 0, -1)]
            number = int(await self._client.get(caller.counter) or 0)
            assert set(values) <= {*caller.pushed, *caller.push_unknown}
            if not self._retries_writes:
                assert max(Counter(values).values(), default=1) == 1, "a write ran twice"
            if not self._may_lose:
                assert set(caller.pushed) <= set(values), "a write that was answered is not there"
                assert caller.counted <= number - caller.base
                if not self._retries_writes:
                    assert number - caller.base <= caller.counted + caller.count_unknown
        statistics = self._client.statistics()
        assert statistics.in_flight == statistics.waiting == 0
        assert statistics.outcome_unknown == self.unknown
