# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (redis-py's commands: their **kwargs are not annotated)
"""What the demo compares with: a scan as applications write it today, at the same servers and at the same moment."""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final, cast

import trio
from redis import Redis
from redis.exceptions import ConnectionError, RedisError, TimeoutError  # noqa: A004 (redis-py's, not Python's)
from redis.sentinel import Sentinel

# Seconds: between two attempts to reach a master, and for each of them.
RETRY_PERIOD: Final = 0.1
PATIENCE: Final = 1.0

_NO_ERROR: Final = "ended without an error"


class Naive(ABC):
    """A scan in a thread that waits half way until a master is dead, and then goes on with what it has."""

    # How it did that, as the end of a sentence.
    _WAY: ClassVar[str]

    def __init__(self, *, keys: int, count: int, seconds_per_page: float) -> None:
        self._half = keys // 2
        self._count = count
        self._seconds_per_page = seconds_per_page
        self._master_is_dead = threading.Event()
        self._number = 0
        # What it was given.
        self.delivered: set[bytes] = set()
        # How it ended; empty while it runs.
        self.end = ""
        # Set when it is half way, or has ended.
        self.half_way = trio.Event()
        self.ended = trio.Event()

    @property
    def story(self) -> str:
        """How it went, as the end of a sentence that begins with what it is."""
        if self.end == _NO_ERROR:
            return f"{self._WAY}, and {self.end}"
        return self.end or "has not ended yet"

    def go_on(self) -> None:
        """The master is dead."""
        self._master_is_dead.set()

    async def run(self) -> None:
        """Scan, in a thread. Nothing that goes wrong there is raised: it is how it `end`s."""
        await trio.lowlevel.checkpoint()
        try:
            await trio.to_thread.run_sync(self._scan)
            self.end = _NO_ERROR
        except RedisError as error:
            self.end = f"raised {type(error).__name__}"
        self.half_way.set()
        self.ended.set()

    @abstractmethod
    def _scan(self) -> None:
        """Scan, and `_take` each key."""

    def _take(self, key: bytes) -> None:
        """Another key."""
        self.delivered.add(key)
        self._number += 1
        if self._number == self._half:
            trio.from_thread.run_sync(self.half_way.set)
            while not self._master_is_dead.wait(RETRY_PERIOD):
                trio.from_thread.check_cancelled()
        if self._number % self._count == 0:
            trio.from_thread.check_cancelled()
            time.sleep(self._seconds_per_page)


class NaiveScan(Naive):
    """redis-py's ``scan_iter`` on a master that its Sentinels name, told to try again when a connection fails.

    Half way it waits until the master is dead. Then its next SCAN fails, is tried again until the Sentinels name
    another master, and goes there with the cursor of the dead one, which means something else there.
    """

    _WAY: ClassVar = "took its old cursor there"

    def __init__(
        self, sentinels: Sequence[tuple[str, int]], service: str, *, keys: int, count: int, seconds_per_page: float
    ) -> None:
        super().__init__(keys=keys, count=count, seconds_per_page=seconds_per_page)
        self._sentinels = sentinels
        self._service = service

    def _scan(self) -> None:
        settings: dict[str, Any] = {"socket_timeout": PATIENCE}
        # Any: redis-py's Sentinel is not annotated.
        sentinel: Any = cast("Any", Sentinel)(list(self._sentinels), sentinel_kwargs=settings, **settings)
        with contextlib.ExitStack() as clients:
            for server in sentinel.sentinels:
                clients.callback(server.close)
            client = clients.enter_context(sentinel.master_for(self._service, redis_class=_Patient))
            for key in client.scan_iter(count=self._count):
                self._take(cast("bytes", key))


class _Patient(Redis):
    """A client that sends a command again until it is answered.

    (redis-py has retries of its own; whether they ask the Sentinels again depends on its version.)
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command."""
        while True:
            try:
                return super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # nor is this
            except (ConnectionError, TimeoutError):
                trio.from_thread.check_cancelled()
                time.sleep(RETRY_PERIOD)
