"""What the conformance tests share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio

from trio_sentinel_scan import CommandOutcomeUnknown, ScanPage
from trio_sentinel_scan.testing import CommandFailed, LocalSentinel, ServerNotRunning

# One page after the other, each when it is asked for: what is done between two pages is done in mid-scan.
SLOWLY: Final[dict[str, Any]] = {"count": 100, "prefetch": 0, "segments": 1}


def service(**options: Any) -> LocalSentinel:
    """A service whose Sentinels make one failover of one death."""
    return LocalSentinel(**{"replicas": 1, "down_after": 2.0, **options})


async def depose(service: Any) -> Any:
    """Have the Sentinels replace a master that has died or hangs; returns the new one.

    They are told, and so do not have to notice it themselves.
    """
    (old,) = [node for node in service.nodes if not node.running or node.paused]
    while not await _began(service):  # noqa: ASYNC110 (another process's mind)
        await anyio.sleep(0.05)
    return await service.wait_for_new_master(old)


async def _began(service: Any) -> bool:
    for sentinel in service.sentinel_nodes:
        with suppress(CommandFailed, ServerNotRunning):
            await sentinel.begin_failover()
            return True
    return False


class Tally:
    """Numbers that were pushed, by many tasks: which of them were answered, and which may be there or not."""

    def __init__(self, push: Callable[[int], Any]) -> None:
        self.answered: list[int] = []
        self.unknown: list[int] = []
        self._push = push
        self._next = 0
        self._stopped = False

    async def turns(self, count: int) -> None:
        """Until so many more were answered."""
        goal = len(self.answered) + count
        while len(self.answered) < goal:  # noqa: ASYNC110 (it is tasks of all kinds that count)
            await anyio.sleep(0.005)

    async def _work(self) -> None:
        while not self._stopped:
            self._next = number = self._next + 1
            try:
                await self._push(number)
                self.answered.append(number)
            except CommandOutcomeUnknown:
                self.unknown.append(number)

    @asynccontextmanager
    async def running(self, tasks: int = 10) -> AsyncGenerator[None]:
        """Push while the block runs."""
        async with anyio.create_task_group() as task_group:
            for _ in range(tasks):
                task_group.start_soon(self._work)
            await self.turns(3 * tasks)
            yield
            await self.turns(3 * tasks)
            self._stopped = True

    def check(self, found: list[int], *, may_lose: bool = False) -> None:
        """What is there in the end: nothing twice, nothing that was not pushed, and what was answered."""
        assert len(found) == len(set(found)), "one ran twice"
        assert set(found) <= {*self.answered, *self.unknown}
        assert may_lose or set(self.answered) <= set(found), "one that was answered is not there"


async def take(pages: Any, into: list[bytes]) -> None:
    """Receive to the end."""
    page: ScanPage[bytes]
    async for page in pages:
        into += page.keys
