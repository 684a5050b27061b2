"""Rounds of chaos: faults, then waiting until all is whole again, then the checks."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import trio

from tests import _leaks
from tests.chaos import faults
from tests.chaos.arenas import PATIENCE, Arena, open_arena
from tests.chaos.faults import Fault
from tests.chaos.listening import Listening, Watcher
from tests.chaos.report import Account
from tests.chaos.scanning import AT_ONCE, KINDS, Scanners
from tests.chaos.traffic import Traffic
from tests.real.scenes import clients_tasks
from trio_sentinel_scan.testing import CommandFailed, HarnessError, ServerBinary, ServerNotRunning

Say = Callable[[str], None]


class Run:
    """Chaos on one deployment, for so long."""

    def __init__(
        self, arena: Arena, account: Account, dice: random.Random, say: Say, only: Sequence[str] | None = None
    ) -> None:
        self._arena = arena
        self._account = account
        self._dice = dice
        self._say = say
        # The faults that there may be, by name; None for all.
        self._only = only
        self._ordered: list[Fault] = []

    async def rounds(self, seconds: float) -> None:
        """As many as begin within that time."""
        ends_at = trio.current_time() + seconds
        async with self._arena.client() as client, trio.open_nursery() as nursery:
            self._scanners = Scanners(self._arena, client, self._account, self._dice)
            self._traffic = Traffic(client, self._account, self._dice)
            self._listening = Listening(self._arena, client, self._account)
            self._watcher = Watcher(self._arena, client, self._account)
            await self._traffic.begin()
            for _ in range(AT_ONCE):
                nursery.start_soon(self._scanners.run)
            for part in (self._traffic, self._listening, self._watcher):
                nursery.start_soon(part.run)
            while trio.current_time() < ends_at:
                await self._round(ends_at)
            nursery.cancel_scope.cancel(reason="the time is up")
        await trio.lowlevel.checkpoint()

    def _next_fault(self) -> Fault:
        """Each once, in an order by lot, before any comes again."""
        if not self._ordered:
            possible = [
                one for one in faults.of_the_servers(self._arena) if self._only is None or one.name in self._only
            ]
            self._ordered = self._dice.sample(possible, len(possible))
        return self._ordered.pop()

    async def _round(self, ends_at: float) -> None:
        self._account.rounds += 1
        known = len(self._account.findings)
        main = self._next_fault()
        beside = [] if self._only else self._dice.sample(faults.OF_THE_NETWORK, self._dice.randint(0, 2))
        self._account.befalling = ", ".join(one.name for one in (main, *beside))
        self._say(f"round {self._account.rounds}: {self._account.befalling}")
        masters, failovers = await self._arena.identities(), await self._arena.failovers()
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            for fault in (main, *beside):
                self._account.faults[fault.name] += 1
                nursery.start_soon(self._befall, fault)
        self._arena.calm()
        await self._arena.whole()
        whole = time.monotonic()
        replaced = await self._arena.identities() != masters
        self._account.failovers += await self._arena.failovers() - failovers
        may_lose = main.loses or (replaced and not main.replaces)
        hands_over = (replaced or main.replaces) and not main.kills
        await self._check(may_lose=may_lose, hands_over=hands_over, outage=whole - began)
        for finding in self._account.findings[known:]:
            self._say(f"  {finding.what}: {finding.details}")
        if trio.current_time() < ends_at:
            # The next faults meet keys that these have not seen.
            await self._arena.grow(100)
        self._say(
            f"  whole after {whole - began:.1f} s, checked after {time.monotonic() - whole:.1f} s;"
            f" {self._scanners.finished} scans, {len(self._account.findings)} findings"
        )

    async def _befall(self, fault: Fault) -> None:
        await trio.sleep(self._dice.uniform(0.0, 1.0))
        try:
            await fault.befall(self._arena, self._dice)
        except (CommandFailed, ServerNotRunning) as error:
            # A server refused, or was not there: the client's doing it is not.
            self._account.faults[f"{fault.name} (in part)"] += 1
            self._say(f"  {fault.name}: {error}")

    async def _check(self, *, may_lose: bool, hands_over: bool, outage: float) -> None:
        """All is well: every history so far, and one more scan."""
        lost = await self._arena.mend()
        self._account.lost_by_servers += len(lost)
        if lost:
            # (Each of them was on every server, and on its disk. So how that came about is worth knowing.)
            self._say(f"  the servers themselves have lost {len(lost)} keys; they are written again")
            for server in self._arena.servers:
                tail = "\n".join(f"    | {line}" for line in server.log.splitlines()[-60:])
                self._say(f"    the end of the log of {server!r}:\n{tail}")
        self._scanners.settle(lost)
        try:
            await self._traffic.check(may_lose=may_lose)
            await self._watcher.check()
            await self._listening.check(hands_over=hands_over, outage=outage)
            await self._scanners.scan(self._dice.choice(list(KINDS)), must_complete=True)
        except Exception:  # noqa: BLE001 (whatever it is, there is no excuse for it any more)
            self._account.found("something failed while all was well", traceback.format_exc())
        self._scanners.settle(set())
        foreign = [cursor for proxy in self._arena.proxies for cursor in proxy.foreign_cursors]
        if foreign:
            self._account.found("cursors were sent to processes that had not issued them", foreign)
            for proxy in self._arena.proxies:
                proxy.foreign_cursors.clear()


async def run(
    deployment: str,
    binary: ServerBinary,
    *,
    seconds: float,
    seed: str,
    keys: int = 5_000,
    hurried: bool = False,
    only: Sequence[str] | None = None,
    say: Say = lambda line: None,
    accounts: list[Account] | None = None,
) -> Account:
    """Chaos on one deployment. Its account is among `accounts` from the beginning, for whoever interrupts it."""
    account = Account(deployment, f"{binary.product} {binary.version}", seed)
    if accounts is not None:
        accounts.append(account)
    tasks, sockets, children = clients_tasks(), _leaks.open_sockets(), _leaks.child_processes()
    began = time.monotonic()
    try:
        async with (
            trio.open_nursery() as nursery,
            open_arena(nursery, deployment, binary, keys=keys, hurried=hurried) as arena,
        ):
            try:
                await Run(arena, account, random.Random(seed), say, only).rounds(seconds)
                await _nothing_left(arena, account, tasks)
            except* HarnessError as errors:
                account.trouble = "; ".join(map(str, _leaves(errors)))
            nursery.cancel_scope.cancel(reason="the run is over")
    finally:
        account.seconds = time.monotonic() - began
    left = _leaks.children_left(children)
    if left:
        account.found("processes are left", left)
    if open_still := _leaks.open_sockets() - sockets:
        account.found("sockets are left", open_still)
    return account


def _leaves(group: BaseExceptionGroup[HarnessError]) -> Iterator[HarnessError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _nothing_left(arena: Arena, account: Account, tasks: Sequence[str]) -> None:
    """Nothing of the client is left: it has closed what it had opened, and its tasks have ended."""
    if clients_tasks() != tasks:
        account.found("tasks of the client's are left", clients_tasks())
    with trio.move_on_after(PATIENCE) as waiting:
        for proxy in arena.proxies:
            await proxy.wait_until_deserted()
    if waiting.cancelled_caught:
        account.found("connections of the client's are left", [proxy.links for proxy in arena.proxies])
