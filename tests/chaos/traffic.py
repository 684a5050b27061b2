"""Commands while chaos goes on, and whether what the servers hold in the end is what the replies allow."""

from __future__ import annotations

import random
import traceback
from typing import Any, Final

import trio
from redis.exceptions import RedisError

from tests.chaos.arenas import CHURN, COUNTERS
from tests.chaos.report import Account
from trio_sentinel_scan import CommandOutcomeUnknown, SentinelScanError

_CHURN_AT_ONCE: Final = 500
_PAUSE: Final = 0.01


class Counter:
    """One task with a counter and a register that nobody else writes."""

    def __init__(self, number: int) -> None:
        self.counter = f"count:{number}"
        self.register = f"register:{number}"
        self.turns = 0
        # Since the last check: increments that were answered, and those of which nobody knows.
        self.acknowledged = 0
        self.unknown = 0
        self.began_at = 0
        # The register's value as it was last known, and what it may hold instead.
        self.value = ""
        self.possible: set[str] = set()
        # All that was ever written to it: replication may bring any of it back, and nothing else.
        self.written: set[str] = {""}


class Traffic:
    """Tasks that count, write and read, and one that has keys come and go, on one client."""

    def __init__(self, client: Any, account: Account, dice: random.Random) -> None:
        self._client = client
        self._account = account
        self._dice = dice
        self.counters = [Counter(number) for number in range(COUNTERS)]
        # Set while the tasks may begin a turn; a check wants them to stand still.
        self._open = trio.Event()
        self._open.set()
        self._busy = 0
        self._idle = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for counter in self.counters:
                nursery.start_soon(self._go_on, counter)
            nursery.start_soon(self._churn)

    async def _go_on(self, counter: Counter) -> None:
        while True:
            await self._begin()
            try:
                await self._turn(counter)
            finally:
                self._end()
            await trio.sleep(_PAUSE)

    async def _begin(self) -> None:
        await trio.lowlevel.checkpoint()
        # A check may have begun while this task was on its way here: between the look and the count nothing is awaited.
        while not self._open.is_set():
            await self._open.wait()
        self._busy += 1

    def _end(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._idle.set()

    async def _turn(self, counter: Counter) -> None:
        counter.turns += 1
        outcome, _ = await self._call(self._client.incr, counter.counter)
        counter.acknowledged += outcome == "acknowledged"
        counter.unknown += outcome == "outcome unknown"
        value = f"{counter.register}:{counter.turns}"
        counter.written.add(value)
        outcome, _ = await self._call(self._client.set, counter.register, value)
        if outcome == "acknowledged":
            # An earlier one of unknown fate may still come after it, from the socket of a server that was paused.
            counter.value = value
        elif outcome == "outcome unknown":
            counter.possible.add(value)
        outcome, reply = await self._call(self._client.get, counter.register)
        if outcome == "acknowledged" and (text := (reply or b"").decode()) not in counter.written:
            self._account.found("a reply reached another caller", f"{text!r} for {counter.register}")

    async def _call(self, command: Any, *args: Any) -> tuple[str, Any]:
        """What came of a command; nothing but a reply or an error of a known type may."""
        outcome: str
        reply = None
        try:
            reply = await command(*args)
            outcome = "acknowledged"
        except CommandOutcomeUnknown:
            outcome = "outcome unknown"
        except SentinelScanError as error:
            # Known not to have run.
            outcome = type(error).__name__
        except RedisError as error:
            # A server's own refusal: which one, is looked at in the report.
            outcome = f"refused: {str(error).partition(' ')[0]}"
        except Exception:  # noqa: BLE001 (whatever it is, it is not to be)
            outcome = "untyped error"
            self._account.found("a command ended in an error of no type of ours", traceback.format_exc())
        self._account.commands[outcome] += 1
        return outcome, reply

    async def _churn(self) -> None:
        while True:
            for doomed in (False, True):
                for at in range(0, CHURN, _CHURN_AT_ONCE):
                    await self._begin()
                    try:
                        pipeline = self._client.pipeline(transaction=False)
                        for number in range(at, at + _CHURN_AT_ONCE):
                            if doomed:
                                pipeline.delete(f"passes:{number}")
                            else:
                                pipeline.set(f"passes:{number}", "x")
                        await self._call(pipeline.execute)
                    finally:
                        self._end()
                    await trio.sleep(self._dice.choice([_PAUSE, 0.1]))

    async def begin(self) -> None:
        """Where the counters are now; all is well."""
        for counter in self.counters:
            counter.began_at = int(await self._client.get(counter.counter) or 0)
            counter.acknowledged = counter.unknown = 0

    async def check(self, *, may_lose: bool) -> None:
        """The servers are whole again: compare, while all tasks stand still. They go on afterwards.

        `may_lose`: a master was replaced by one that need not have had everything: replication is asynchronous.
        """
        self._open = trio.Event()
        while self._busy:
            self._idle = trio.Event()
            await self._idle.wait()
        for counter in self.counters:
            counted = int(await self._client.get(counter.counter) or 0) - counter.began_at
            if counted > counter.acknowledged + counter.unknown:
                self._account.found(
                    "an increment ran twice",
                    f"{counted} counted, {counter.acknowledged} acknowledged, {counter.unknown} unknown",
                )
            lost = max(0, counter.acknowledged - counted)
            held = (await self._client.get(counter.register) or b"").decode()
            expected = held in {counter.value, *counter.possible}
            if may_lose:
                self._account.commands["increments that replication lost"] += lost
                expected = expected or held in counter.written
            elif lost:
                self._account.found("an acknowledged increment is lost", f"{lost} of {counter.acknowledged}")
            if not expected:
                self._account.found("a register holds what it cannot", f"{held!r}, not {counter.value!r}")
            counter.value, counter.possible = held, set()
        await self.begin()
        self._open.set()
