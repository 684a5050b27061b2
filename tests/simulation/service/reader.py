"""The consumer of scans: it takes pages as a schedule says, and judges each one, and the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Final, cast

import trio
from redis.exceptions import RedisError

from tests.simulation.playing import Account, Violation
from tests.simulation.runner import SECRET
from tests.simulation.schedule import Value as Setting
from trio_sentinel_scan import (
    SentinelClient,
    SentinelScanError,
)
from trio_sentinel_scan._core.identity import Address

from .deployment import Deployment
from .judging import Judge

__all__ = ["Reader", "Store"]

# Simulated seconds beyond all budgets within which a scan has ended.
SLACK: Final = 30.0
# Simulated seconds within which a scan has left a server that it knows to be none of its business any more.
PROMPT: Final = 0.25


class BodyFailed(Exception):
    """What the body of a scan's block raises, in some schedules."""


class Store:
    """A filter that outlives the client, as SpillingSeen does, without its files."""

    name = b"8 bytes."

    def __init__(self) -> None:
        self._marked: list[Any] = []
        self._seen: set[Any] = set()
        self._committed = 0

    @property
    def number(self) -> int:
        return len(self._marked)

    def unseen(self, keys: Sequence[Any]) -> list[Any]:
        return [key for key in dict.fromkeys(keys) if key not in self._seen]

    def mark(self, keys: Iterable[Any]) -> None:
        keys = list(keys)
        self._marked += keys
        self._seen.update(keys)

    def commit(self) -> None:
        self._committed = len(self._marked)

    def rollback(self, number: int) -> None:
        self._seen.difference_update(self._marked[number:])
        del self._marked[number:]

    def crash(self) -> None:
        """The process died: what was not committed is gone."""
        self.rollback(min(self._committed, len(self._marked)))


class Reader(Judge):
    """One scan after the other, until one has come to its end."""

    def __init__(self, world: Deployment, settings: Mapping[str, Setting], account: Account) -> None:
        super().__init__(world, settings, account)
        self.active = False
        # How many consumers wait for a page, and since when all of them do.
        self._waiting, self._all_wait_since = 0, 0.0
        # Seconds for which the next consumer that takes a page is to be busy.
        self.pause = 0.0
        self._pages: Any = None
        self._store = Store() if settings["dedupe"] == "store" else None
        self._stops_left = int(settings["stops"])
        self.is_iteration = settings["kind"] == "scan_iter"
        self._consumers = int(settings["consumers"])
        self._busy = 0.0
        # The client's view, by its log; a new client knows nothing.
        self._config_epoch = -1

    # ---- what the package logs -------------------------------------------------------------------------------------

    def heard(self, record: logging.LogRecord) -> None:
        if record.name == "trio_sentinel_scan.scan" and record.msg.startswith("the scan begins again"):
            assert isinstance(record.args, tuple)
            epoch, reason = cast("tuple[int, str]", record.args[:2])
            self._began[epoch] = self.world.ledger.now()
            self.account.counts["restarts"] += 1
            if str(reason).startswith("MASTER_CHANGE"):
                self._must_leave()
        elif record.name == "trio_sentinel_scan.sentinel" and "the master is" in record.msg:
            self.account.counts["changes of masters known"] += 1
            assert isinstance(record.args, tuple)
            self._judge_view(*cast("tuple[Address, int]", record.args[1:3]))
            self._must_notice()

    def _judge_view(self, address: Address, config_epoch: int) -> None:
        """Config epochs do not go back, unless a majority says so."""
        now_named = [actor.monitored.master for actor in self.world.actors]
        has_majority = 2 * now_named.count((address.host, address.port)) > len(now_named)
        if config_epoch <= self._config_epoch and not has_majority:
            self.account.breaks("regression", f"{address} of config epoch {config_epoch} after {self._config_epoch}")
        self._config_epoch = config_epoch

    def _must_leave(self) -> None:
        """The abort scope: whoever waits on a server that is not the master any more stops waiting."""
        wires = [
            wire
            for node in self.world.nodes
            for wire in node.machine.open_wires
            if id(node.machine.sessions.get(id(wire))) in self.world.by_session
        ]
        since = trio.current_time()

        def look() -> None:
            if not (self.active and self._waiting == self._consumers and self._all_wait_since <= since):
                return
            if any(not wire.client_end.closed for wire in wires):
                self.account.breaks("late", "the old master is still waited for after the change was known")

        self.world.agenda.after(PROMPT + 2 * float(self.settings["latency"]), look)

    def _must_notice(self) -> None:
        pages = self._pages

        def look() -> None:
            if self._pages is not pages or pages is None or self.settings["read_from"] == "replica":
                return
            plan = pages._scan.plan
            if plan._target is None or plan.state.name in {"COMPLETE", "FAILED"} or plan._is_closed:
                return
            if plan._target.version != pages._scan._source.view.version:
                self.account.breaks("late", "a scan does not know of a change that its client knows of")

        self.world.agenda.after(PROMPT, look)

    # ---- scans -----------------------------------------------------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        s = self.settings
        options: dict[str, Any] = {
            "count": int(s["count"]) or None,
            "segments": s["segments"],
            "prefetch": int(s["prefetch"]),
            "page_size": int(s["page_size"]) or None,
            "on_failover": s["on_failover"],
            "max_restarts": int(s["max_restarts"]),
            "certify": s["certify"],
            "duty": float(s["duty"]),
            "dedupe": self._store if self._store is not None else s["dedupe"] == "memory",
        }
        if s["match"]:
            options["match"] = "key:*"
        if self._is_hash:
            return options
        if s["hash_seed"]:
            options["hash_seed_shared"] = True
        if s["read_from"] == "replica":
            options["read_from"] = "replica"
            options["fallback"] = "master" if s["fallback"] else None
        return options

    def _open(self, client: SentinelClient) -> AbstractAsyncContextManager[Any]:
        options = self._options()
        if self._checkpoint is not None:
            options["resume"] = self._checkpoint
        if self._is_hash:
            return client.open_hscan(f"hash:{SECRET}", **options)
        return client.open_scan(**options)

    @property
    def limit(self) -> float:
        """Simulated seconds that one scan may take at the very most, while nobody is busy."""
        s = self.settings
        each = float(s["failover_timeout"]) + 3 * float(s["response_timeout"]) + 10.0
        return (int(s["max_restarts"]) + 2) * each * 2 + SLACK

    async def read(self, open_client: Callable[[], AbstractAsyncContextManager[SentinelClient]]) -> str:
        """Scan until a scan has ended by itself; returns how."""
        while True:
            self._config_epoch = -1
            async with open_client() as client:
                while True:
                    if self.is_iteration:
                        return await self._iterate(client)
                    how = await self._scan(client)
                    if how != "stopped":
                        return how
                    if self.settings["stop_how"] == "resume":
                        break
            if self._store is not None:
                self._store.crash()

    async def _iterate(self, client: SentinelClient) -> str:
        """redis-py's `scan_iter`: over one process, or it raises. It has no certificate, and looks at no role."""
        world = self.world
        tick, found = world.ledger.now(), set[Any]()
        world.scanned.clear()
        demotions = {node: node.demotions for node in world.nodes}
        match = "key:*" if self.settings["match"] else None
        self.active = True
        try:
            with trio.fail_after(self.limit + 100 * float(self.settings["think"])):
                async with aclosing(
                    cast("Any", client).scan_iter(match=match, count=int(self.settings["count"]) or None)
                ) as keys:
                    async for key in keys:
                        if key not in found:
                            await trio.sleep(float(self.settings["think"]) / 10)
                        found.add(key)
        except trio.TooSlowError:
            if self.world.jumped:
                return "scan_iter: given up, the clock has jumped"
            raise Violation("never ends", "scan_iter") from None
        except (SentinelScanError, RedisError) as error:
            if SECRET in f"{error} {error!r}":
                raise Violation("secret", f"an error tells what nobody is to know: {error}") from None
            return f"scan_iter: {type(error).__name__}"
        finally:
            self.active = False
        processes = set(world.scanned)
        if len(processes) > 1:
            raise Violation("cursor", f"scan_iter went over {len(processes)} processes, and did not say so")
        ((address, run_id),) = processes
        node = world.node_at(address)
        assert node is not None
        if node.program.run_id == run_id and node.is_master and node.demotions == demotions[node]:
            owed = {key for key in node.program.since_before(tick) if match is None or key.startswith(b"key:")}
            self.account.counts["keys checked"] += len(owed)
            if lost := owed - found:
                raise Violation("lost", f"{len(lost)} of {len(owed)} keys by scan_iter")
        return "scan_iter: complete"

    async def _scan(self, client: SentinelClient) -> str:
        if self._checkpoint is None:
            self._done.clear()
            self._times.clear()
            self._began = {0: self.world.ledger.now()}
            self._epoch = -1
        self._positions.clear()
        self._taken_here = 0
        self._waiting = 0
        self._busy = 0.0
        problems: list[BaseException] = []
        began = self._opened_at = trio.current_time()
        summary: Any = None
        stopped = False
        body = BodyFailed()
        try:
            with trio.CancelScope() as scope:
                async with self._open(client) as pages:
                    self._pages = pages
                    self.active = True
                    self._served_before, self._received = self.world.served, 0
                    self._watch(scope, began)
                    try:
                        await self._consume(client, pages, problems, scope)
                    finally:
                        self.active = False
                        summary = pages.summary
                    if self.stopping and self.settings["stop_how"] == "raise":
                        raise body
        except BodyFailed as error:
            if error is not body:
                raise Violation("body", "another exception than the body's own came out") from None
        except SentinelScanError as error:
            problems.append(error)
        finally:
            self._pages = None
        if self.account.broken is not None:
            raise self.account.broken
        stopped = self.stopping
        if stopped:
            self.stopping = False
            self._stopped_once = True
            self.account.took_effect(str(self.settings["stop_how"]))
            return "stopped"
        return self._judge(client, summary, problems)

    stopping = False

    def _watch(self, scope: trio.CancelScope, began: float) -> None:
        """A scan that does not end within its budgets has broken its promise."""
        pages, jumped = self._pages, self.world.jumped

        def look() -> None:
            if self._pages is not pages or not self.active:
                return
            late = trio.current_time() - began - self._busy - (self.world.jumped - jumped) - self.limit
            if late >= 0:
                self.account.breaks("never ends", f"the scan goes on after {trio.current_time() - began:.0f} s")
                scope.cancel(reason="too late")
            else:
                self.world.agenda.after(1 - late, look)

        self.world.agenda.after(self.limit, look)

    async def _consume(
        self, client: SentinelClient, pages: Any, problems: list[BaseException], scope: trio.CancelScope
    ) -> None:
        if self._consumers == 1:
            await self._take_all(client, pages, problems, scope)
            return
        async with trio.open_nursery() as nursery:
            for _ in range(self._consumers):
                nursery.start_soon(self._take_from_clone, client, pages.clone(), problems, scope)

    async def _take_from_clone(
        self, client: SentinelClient, pages: Any, problems: list[BaseException], scope: trio.CancelScope
    ) -> None:
        async with pages:
            await self._take_all(client, pages, problems, scope)

    async def _take_all(
        self, client: SentinelClient, pages: Any, problems: list[BaseException], scope: trio.CancelScope
    ) -> None:
        while not self.stopping:
            self._wait(1)
            try:
                page = await pages.receive()
            except trio.EndOfChannel:
                return
            except SentinelScanError as error:
                problems.append(error)
                return
            finally:
                self._wait(-1)
            self._judge_page(client, pages, page)
            self.world.on_trigger("taken", None, None)
            busy, self.pause = self.pause + float(self.settings["think"]), 0.0
            if self._stops_now():
                self.stopping = True
                how = self.settings["stop_how"]
                if how == "resume":
                    # In mid-page: this one is not done with.
                    self._checkpoint = pages.checkpoint()
                if how != "raise":
                    scope.cancel(reason="the consumer has had enough")
                    await trio.sleep_forever()
                return
            if self.settings["asks"] and self.settings["kind"] == "scan":
                await self._ask(client, page.keys[0])
            if busy:
                self._busy += busy
                await trio.sleep(busy)
            self._done.setdefault(page.epoch, set()).update(page)
            self._times.update(page.keys)

    async def _ask(self, client: SentinelClient, key: Any) -> None:
        """A command in the midst of a page. The time that it takes is the consumer's own."""
        begun = trio.current_time()
        try:
            value: Any = await cast("Any", client).get(key)
        except (SentinelScanError, RedisError) as error:
            self.account.endings[f"GET in the loop: {type(error).__name__}"] += 1
        else:
            if key.startswith((b"key:", b"other:")) and value not in {None, b"value of " + key}:
                self.account.breaks("reply", "a GET in the loop got another's reply")
        self._busy += trio.current_time() - begun

    def _stops_now(self) -> bool:
        self._taken_here += 1
        if self._stops_left and self._taken_here == int(self.settings["stop_after"]):
            self._stops_left -= 1
            return True
        return False

    def _wait(self, change: int) -> None:
        self._waiting += change
        if self._waiting == self._consumers:
            self._all_wait_since = trio.current_time()
