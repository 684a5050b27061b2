"""What is judged of a scan: each page, the end, and each error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.simulation.playing import Account, Violation
from tests.simulation.runner import SECRET
from tests.simulation.schedule import Value as Setting
from trio_sentinel_scan import (
    ScanInterrupted,
    ScanNotCertified,
    ScanRestartsExhausted,
    SentinelClient,
    ServerUnavailable,
)
from trio_sentinel_scan._core.errors import NoReplicaAvailable

from .deployment import Deployment

__all__ = ["Judge"]


class Judge:
    """The oracle's part of a consumer."""

    def __init__(self, world: Deployment, settings: Mapping[str, Setting], account: Account) -> None:
        self.world = world
        self.settings = settings
        self.account = account
        # Where the present scan goes on from.
        self._checkpoint: str | None = None
        # What the consumers have done with: by epoch; and each key as often as it was handed out.
        self._done: dict[int, set[Any]] = {}
        self._times: Counter[Any] = Counter()
        # The oracle's tick at which each pass began.
        self._began: dict[int, int] = {}
        self._epoch = -1
        # When the present scan was opened.
        self._opened_at = 0.0
        # Of each consumer, for they may be woken in another order than their pages came: the position it has come to.
        self._positions: dict[Any, tuple[int, float]] = {}
        self._taken = self._taken_here = 0
        self._is_hash = settings["kind"] == "hscan"
        self._served_before = self._received = 0
        self._stopped_once = False

    def _judge_page(self, client: SentinelClient, pages: Any, page: Any) -> None:
        account = self.account
        self._taken += 1
        account.counts["pages"] += 1
        account.counts["keys"] += len(page.keys)
        account.trace(f"page {page.epoch} {len(page.keys)} {page.position} {page.server}")
        if not page.keys:
            account.breaks("page", "an empty page")
        if page.epoch < self._epoch:
            account.breaks("epoch", f"a page of epoch {page.epoch} after one of {self._epoch}")
        self._epoch = max(self._epoch, page.epoch)
        if page.position is not None:
            goes_back = self.settings["read_from"] == "replica" or self.settings["hash_seed"]
            before = self._positions.get(pages, (-1, 0.0))
            if before[0] == page.epoch and page.position <= before[1] and not goes_back:
                account.breaks("position", f"{page.position} after {before[1]} within epoch {page.epoch}")
            self._positions[pages] = page.epoch, page.position
        if self.settings["read_from"] == "master" and not self.settings["hash_seed"]:
            named = client._source.target.address
            if page.server.address != named:
                account.breaks(
                    "superseded", f"a page of {page.server.address}, though {named} is known to be the master"
                )
        if self._is_hash:
            return
        strange = [key for key in page.keys if key not in self.world.ledger.ever]
        if strange:
            account.breaks("strange", f"{len(strange)} keys that never were anywhere")
        if self.settings["match"] and any(not key.startswith(b"key:") for key in page.keys):
            account.breaks("strange", "keys that do not match")
        self._received += len(page.keys)
        waiting = self.world.served - self._served_before - self._received
        account.peak("keys that wait", waiting)
        count, segments = int(self.settings["count"]), self.settings["segments"]
        if (
            count
            and isinstance(segments, int)
            and not (self.world.befallen or self.settings["match"] or self._stopped_once)
        ):
            # Two rounds are on their way, and are one page at most; so are those that wait, and the one in hand. (Each
            # SCAN may bring a bucket more than it was asked for.)
            most = (int(self.settings["prefetch"]) + 3) * 2 * segments * (count + 8)
            if self.settings["dedupe"] == "no" and waiting > most:
                account.breaks("memory", f"{waiting} keys have been read that nobody has taken: more than {most}")

    def _judge(self, client: SentinelClient, summary: Any, problems: list[BaseException]) -> str:
        account = self.account
        account.peak("restarts of one scan", len(summary.restarts) if summary is not None else 0)
        if problems:
            for error in problems:
                self._judge_error(summary, error)
            if summary is not None and summary.complete:
                raise Violation("end", f"complete, and yet {problems[0]!r}")
            name = type(problems[0]).__name__
            account.trace(f"ended: {problems[0]}")
            return name
        if summary is None or not summary.complete:
            raise Violation("end", "the iteration ended, and is not complete")
        self._judge_complete(summary)
        return "complete"

    def _judge_error(self, summary: Any, error: BaseException) -> None:
        shown = f"{error!r} {error}"
        cause: BaseException | None = error
        while cause is not None:
            shown += f" {cause}"
            cause = cause.__cause__ or cause.__context__
        if SECRET in shown:
            raise Violation("secret", f"an error tells what nobody is to know: {shown}")
        if isinstance(error, ScanInterrupted) and self.settings["on_failover"] != "raise":
            raise Violation("error", f"{error!r}, though it was to begin again")
        if isinstance(error, ScanRestartsExhausted) and len(summary.restarts) > int(self.settings["max_restarts"]):
            raise Violation("budget", f"{len(summary.restarts)} restarts")
        if isinstance(error, NoReplicaAvailable) and self.settings["read_from"] != "replica":
            raise Violation("error", repr(error))
        if not isinstance(error, (ServerUnavailable, ScanNotCertified)):
            return

    def _judge_complete(self, summary: Any) -> None:
        world, account = self.world, self.account
        epoch = summary.epoch
        tick = self._began.get(epoch)
        if tick is None:
            raise Violation("epoch", f"complete in epoch {epoch}, which never began")
        if len(summary.restarts) > int(self.settings["max_restarts"]):
            raise Violation("budget", f"{len(summary.restarts)} restarts")
        certificate = summary.certificate
        node = world.node_at((certificate.server.address.host, certificate.server.address.port))
        assert node is not None
        if summary.restarts:
            account.counts["scans complete after a restart"] += 1
        dedupes = self.settings["dedupe"] != "no"
        if dedupes and (twice := [key for key, times in self._times.items() if times > 1]):
            raise Violation("twice", f"{len(twice)} keys came twice, and were to come once")
        found = set(self._times) if dedupes else self._done.get(epoch, set())
        if self._is_hash:
            self._judge_hash(found, tick)
            return
        owed = node.program.since_before(tick) if node.program.run_id == certificate.server.run_id else set()
        if certificate.basis == "replica" and node.program.run_id == certificate.server.run_id:
            owed |= node.program.owes_as_a_replica(tick)
        if summary.moves or (self._checkpoint is not None and self.settings["hash_seed"]):
            # The last server has only seen the last part of it.
            account.counts["scans complete after a move"] += 1
            owed = set()
        # (The server's own word alone may be that of a master that has been replaced; but one it must be.)
        if certificate.basis == "sentinels" or (certificate.basis == "role" and not node.is_master):
            owed |= world.ledger.since_before(tick)
        if self.settings["match"]:
            owed = {key for key in owed if key.startswith(b"key:")}
        account.counts["keys checked"] += len(owed)
        lost = owed - found
        if lost:
            raise Violation("lost", f"{len(lost)} of {len(owed)} keys, in epoch {epoch} on {certificate.server}")
        # (The Sentinels are asked in two seconds at most; what they say is on its way for a little longer.)
        # It may have been complete for a while: its consumers were busy.
        ended = self._opened_at + summary.elapsed
        if certificate.basis == "sentinels" and not world.had_majority(node.address, ended - 3.0):
            raise Violation("certificate", f"no majority has named {certificate.server}")

    def _judge_hash(self, found: set[Any], tick: int) -> None:
        key = f"hash:{SECRET}".encode()
        if self.world.ledger.since.get(key, tick) >= tick:
            return
        owed = {(f"field:{SECRET}:{n}".encode(), b"%d" % n) for n in range(int(self.settings["hash"]))}
        self.account.counts["keys checked"] += len(owed)
        if lost := owed - found:
            raise Violation("lost", f"{len(lost)} of {len(owed)} items of a hash")
