"""A channel on which numbers are published one after the other, and the check of what was received of it.

In AnyIO's words: it runs on every loop, with both editions' clients.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from tests.real.scenes import until
from trio_sentinel_scan import CommandOutcomeUnknown, Gap, Message


class Radio:
    """Numbers, published one after the other on a channel that has subscribers, and what one of them received."""

    def __init__(self, client: Any, channel: str = "radio") -> None:
        self.received: list[int | Gap] = []
        self.gaps: list[Gap] = []
        self.last = 0
        # Numbers whose PUBLISH was answered.
        self.sent: list[int] = []
        self._sending = anyio.CancelScope()
        self._silent = anyio.Event()
        self._client = client
        self._channel = channel
        self._next = 0

    async def send(self, number: int = 1) -> None:
        """Publish so many more."""
        for _ in range(number):
            self._next = this = self._next + 1
            # (Of one whose fate is unknown nothing is expected.)
            with suppress(CommandOutcomeUnknown):
                await self._client.publish(self._channel, this)
                self.sent.append(this)

    async def send_on(self) -> None:
        """Publish until the end is to be checked."""
        with self._sending:
            while True:
                await self.send()
                await anyio.sleep(0.001)
        self._silent.set()

    async def receive(self, subscriber: Any) -> None:
        """Receive until cancelled."""
        async for item in subscriber:
            if isinstance(item, Message):
                self.last = int(item.data)
                self.received.append(self.last)
            else:
                self.received.append(item)
                self.gaps.append(item)

    async def check_end(self, more: int = 200) -> None:
        """After the last gap: send some more, see all of them come, and that nothing was missing but at a gap."""
        self._sending.cancel()
        await self._silent.wait()
        await self.send(more)
        last = self.sent[-1]
        await until(lambda: self.last >= last)
        numbers = [item for item in self.received if isinstance(item, int)]
        assert numbers == sorted(set(numbers)), "a message came twice, or out of order"
        before: int | None = None
        for item in self.received:
            if isinstance(item, int) and before is not None:
                skipped = [number for number in self.sent if before < number < item]
                assert not skipped, "messages are missing, and no gap says so"
            before = item if isinstance(item, int) else None


@asynccontextmanager
async def on_air(client: Any, **options: Any) -> AsyncGenerator[tuple[Radio, Any]]:
    """Something is published and received all the time."""
    radio = Radio(client)
    async with client.pubsub(**options) as subscriber, anyio.create_task_group() as task_group:
        await subscriber.subscribe("radio")
        task_group.start_soon(radio.receive, subscriber)
        task_group.start_soon(radio.send_on)
        await until(lambda: radio.last > 20)
        yield radio, subscriber
        task_group.cancel_scope.cancel()
