"""A service of servers with real hash tables, and a driver that carries a scan's plan out on it, one step at a time.

No clock and no network: time goes by when it is told to, and what comes of a step is decided when the step begins, so
that anything may happen before it is reported.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tests.core._tables import Table, hash64
from trio_sentinel_scan._core import scan_steps as steps
from trio_sentinel_scan._core.certificate import Evidence, Undecided
from trio_sentinel_scan._core.cursor import CursorFormat, rev64
from trio_sentinel_scan._core.details import KeyDetails
from trio_sentinel_scan._core.handshake import unfit_for_scanning
from trio_sentinel_scan._core.hash_seed import HashSeed
from trio_sentinel_scan._core.identity import Address, Role, ServerIdentity
from trio_sentinel_scan._core.scan_options import ScanOptions, checked_scan_options
from trio_sentinel_scan._core.scan_plan import ScanPlan
from trio_sentinel_scan._core.scan_replies import ScanReply
from trio_sentinel_scan._core.scan_states import FINAL, State
from trio_sentinel_scan._core.summary import ScanPage, ScanSummary
from trio_sentinel_scan._core.topology import Votes
from trio_sentinel_scan._core.topology_state import MasterState, ReplicaState, TopologyState
from trio_sentinel_scan._core.verdicts import parse_error_reply

A, B, C = (Address(f"10.0.0.{number}", 6379) for number in (1, 2, 3))
SENTINELS = 3


def keys_named(count: int) -> list[bytes]:
    """Some keys."""
    return [b"key:%04d" % number for number in range(count)]


# What is asked about a key, by the name of its command.
QUESTIONS = {b"TYPE": "type", b"TTL": "ttl", b"USAGE": "memory", b"IDLETIME": "idle", b"FREQ": "freq"}
# The cursor and COUNT of a SCAN; what is asked about a key, and the key; None for a ROLE.
Owed: TypeAlias = "tuple[int, int] | tuple[str, bytes] | None"


def asked_in(data: bytes) -> list[Owed]:
    """Everything in what was sent."""
    found: list[Owed] = []
    for command in data.split(b"*")[1:]:
        words = command.split(b"\r\n")[2::2]
        if words[0] in {b"SCAN", b"HSCAN", b"SSCAN", b"ZSCAN"}:
            # A collection's key comes first.
            cursor = words[1 + (words[0] != b"SCAN")]
            found.append((int(cursor), int(words[words.index(b"COUNT") + 1])))
        else:
            found.append(None if words == [b"ROLE"] else (QUESTIONS[words[-2]], words[-1]))
    return found


def scans_in(data: bytes) -> list[tuple[int, int]]:
    """The cursor and COUNT of each SCAN in what was sent."""
    return [(owed[0], int(owed[1])) for owed in asked_in(data) if owed is not None and isinstance(owed[0], int)]


def questions_in(data: bytes) -> list[tuple[str, bytes]]:
    """What is asked about keys in what was sent."""
    return [(owed[0], bytes(owed[1])) for owed in asked_in(data) if owed is not None and isinstance(owed[0], str)]


def cursors_asked(log: Iterable[steps.Step]) -> list[int]:
    """The cursors of all SCANs that these steps sent."""
    return [cursor for step in log if isinstance(step, steps.Ask) for cursor, _ in scans_in(step.data)]


def start_cursors(segments: int) -> set[int]:
    """Where segments of a pass begin: cursors that nobody has issued, and that are good at any process."""
    return {rev64(index * 2**64 // segments) for index in range(segments)}


class Process:
    """One process at one address: its own hash seed, so that only its own cursors are any good to it."""

    def __init__(
        self,
        number: int,
        address: Address,
        keys: Iterable[bytes],
        *,
        form: CursorFormat,
        honest: bool,
        hash_seed: bytes | None = None,
    ) -> None:
        self.run_id = f"{number:040x}"
        self.address = address
        self.table = Table(keys, seed=hash_seed or self.run_id.encode(), bits=5)
        # What it tells when it is asked: nothing, as a rule.
        self.told_seed: HashSeed | None = None
        # What it is told apart as, and whether its cursors are of that kind.
        self.form = form
        self._opaque = form is CursorFormat.UNKNOWN or not honest
        self.role = "master"
        self.link = "connected"
        # A master that was deposed does not list the replica that was promoted.
        self.lost_replicas: set[Address] = set()
        self.hangs = False
        self.refuses_role = False
        self.tells_run_id = True
        # Error replies that the next SCANs get; None for a proper reply in between.
        self.errors: deque[str | None] = deque()
        # Error replies that the next questions about keys get; None for a proper reply in between.
        self.question_errors: deque[str | None] = deque()
        # What it does not say of any key.
        self.keeps_to_itself: set[str] = set()
        # Every cursor it has given out, as the client sees it, and what it means.
        self.issued: dict[int, int] = {0: 0}
        # Cursors that are nobody's: where segments begin.
        self.starts: set[int] = set()
        # How often it was sent a cursor of somebody else's.
        self.misused = 0

    def identity(self) -> ServerIdentity:
        return ServerIdentity(self.run_id if self.tells_run_id else None, self.address)

    def tell(self, name: str, key: bytes) -> ScanReply:
        """Answer a question about a key."""
        if self.question_errors and (error := self.question_errors.popleft()) is not None:
            return parse_error_reply(error)
        if key not in self.table.hashes:
            return b"none" if name == "type" else -2 if name == "ttl" else None
        if name in self.keeps_to_itself:
            return parse_error_reply("ERR not with this policy")
        told = self.details_of(key)[KeyDetails._fields.index(name)]
        return told.encode() if isinstance(told, str) else told

    def details_of(self, key: bytes) -> KeyDetails:
        """What there is to be known of a key that it has. Some of it is another thing at another process."""
        number = int(self.run_id, 16)
        return KeyDetails("hash" if key[-1] % 2 else "string", len(key), 1000 * number + key[-1], number, key[-1])

    def scan(self, cursor: int, count: int) -> ScanReply:
        """Answer a SCAN. A cursor of somebody else's is answered, too: that is the trouble."""
        if self.errors and (error := self.errors.popleft()) is not None:
            return parse_error_reply(error)
        if cursor not in self.issued and cursor not in self.starts:
            self.misused += 1
        if self._opaque and cursor not in self.issued:
            return parse_error_reply("ERR invalid cursor")
        following, keys = self.table.scan(self.issued.get(cursor, cursor), count)
        shown = hash64(self.table.seed, b"%d" % following) if self._opaque and following else following
        self.issued[shown] = following
        return shown, keys


class World:
    """Three nodes, of which one is the master; three Sentinels that agree; and what the client has heard of it."""

    def __init__(
        self,
        keys: Iterable[bytes] = (),
        *,
        form: CursorFormat = CursorFormat.REVERSED,
        honest: bool = True,
        tell_run_id: bool = True,
        hash_seed: bytes | None = None,
    ) -> None:
        """With `hash_seed`, all processes have that one; without, each draws its own."""
        self.keys = set(keys)
        self._hash_seed = hash_seed
        # With one seed, a cursor is good wherever it came from.
        self._issued: dict[int, int] = {0: 0}
        self._form, self._honest, self._tell_run_id = form, honest, tell_run_id
        # Every process there ever was.
        self.processes: list[Process] = []
        self.nodes: dict[Address, Process | None] = {}
        for address in (A, B, C):
            self.start(address)
        self.named = steps.Target(A, 1, 1)
        # What the client's view has got to.
        self.known = self.named
        self.sentinels_in_reach = SENTINELS
        # Replicas that the Sentinels do not show, and what they say of others: fields of a `ReplicaState`.
        self.removed: set[Address] = set()
        self.shown_as: dict[Address, dict[str, Any]] = {}
        self._service: TopologyState | None = None
        self._set_roles()

    # -- processes --

    def start(self, address: Address, *, keys: Iterable[bytes] | None = None) -> Process:
        """A new process at this address, with the service's keys unless it is given others."""
        kept = self.keys if keys is None else keys
        number = len(self.processes) + 1
        process = Process(number, address, kept, form=self._form, honest=self._honest, hash_seed=self._hash_seed)
        if self._hash_seed is not None:
            process.issued = self._issued
            process.told_seed = HashSeed(self._hash_seed, release="valkey 9.1")
        process.tells_run_id = self._tell_run_id
        self.processes.append(process)
        self.nodes[address] = process
        return process

    def kill(self, address: Address) -> None:
        """Its connections end, and new ones are refused."""
        self.nodes[address] = None

    @property
    def master(self) -> Process:
        process = self.nodes[self.named.address]
        assert process is not None
        return process

    def restart(self) -> Process:
        """The master dies and is there again, with its data, before any Sentinel has noticed."""
        return self.start(self.named.address)

    # -- Sentinel --

    def fail_over(self, to: Address, *, kill: bool = False) -> None:
        """Another node is the master. The old one is dead, or goes on as a master for a while, with the keys it has."""
        old = self.named
        if kill:
            self.kill(old.address)
        if self.nodes[to] is None or to == old.address:
            self.start(to)
        process = self.nodes[to]
        assert process is not None
        self._replicate(process)
        process.role, process.hangs = "master", False
        process.lost_replicas.clear()
        if (deposed := self.nodes[old.address]) is not None and deposed is not process:
            deposed.lost_replicas.add(to)
        self.named = steps.Target(to, (old.config_epoch or 0) + 1, old.version + 1)

    def demote_old_masters(self) -> None:
        """Sentinel makes replicas of those that still say master."""
        self._set_roles()

    def _set_roles(self) -> None:
        for address, process in self.nodes.items():
            if process is not None:
                process.role = "master" if address == self.named.address else "slave"
                self._replicate(process)

    def _replicate(self, process: Process) -> None:
        for key in set(process.table.hashes) ^ self.keys:
            (process.table.add if key in self.keys else process.table.discard)(key)

    def role_of(self, process: Process) -> Role:
        if process.role == "slave":
            return Role("slave", link=process.link)
        up = {address for address, node in self.nodes.items() if node is not None}
        return Role("master", frozenset(up - {process.address} - process.lost_replicas))

    def votes(self, target: steps.Target) -> Votes:
        """Asked now."""
        same = self.named.address == target.address
        agree = same and (self.named.config_epoch or 0) <= (target.config_epoch or 0)
        return Votes(SENTINELS, self.sentinels_in_reach * agree, self.sentinels_in_reach * (not same))

    def service(self) -> TopologyState:
        """The service, as the client has heard of it; the same object as long as it is the same."""
        master = self.known.address
        replicas = tuple(
            ReplicaState(
                address, **{"run_id": "x", "link_status": "ok", "offset": 100, **self.shown_as.get(address, {})}
            )
            for address in (A, B, C)
            if address != master and address not in self.removed
        )
        state = TopologyState(MasterState(master, self.known.config_epoch or 0), replicas, ())
        if state != self._service:
            self._service = state
        assert self._service is not None
        return self._service

    # -- clients --

    def write(self, key: bytes) -> None:
        """A write reaches the master and its replicas, and not a node that was deposed."""
        self.keys.add(key)
        for process in self._up_to_date():
            process.table.add(key)

    def delete(self, key: bytes) -> None:
        self.keys.discard(key)
        for process in self._up_to_date():
            process.table.discard(key)

    def _up_to_date(self) -> list[Process]:
        alive = [process for process in self.nodes.values() if process is not None]
        return [process for process in alive if process.address == self.named.address or process.role == "slave"]


@dataclass
class Link:
    """A connection to a process."""

    process: Process
    alive: bool = True
    # What was asked and not answered yet.
    owed: deque[Owed] = field(default_factory=deque)


def scan_options(*, has_sentinels: bool = True, **changes: Any) -> ScanOptions:
    """The options of a scan with small pages."""
    arguments: dict[str, Any] = {
        "match": None,
        "count": 5,
        "type_": None,
        "cursor": 0,
        "on_failover": "restart",
        "max_restarts": 10,
        "prefetch": 2,
        "certify": "sentinels",
        "segments": 1,
    }
    return checked_scan_options(**{**arguments, **changes}, has_sentinels=has_sentinels)


class Driver:
    """Carries a plan out on a world, and keeps the account that the plan is held to."""

    def __init__(self, world: World, *, failover_timeout: float = 10.0, **options: Any) -> None:
        self.world = world
        self.options = scan_options(**options)
        self.now = 100.0
        self.plan = ScanPlan(self.options, failover_timeout=failover_timeout, now=self.now, jitter=lambda: 0.5)
        self.channel: deque[ScanPage[bytes]] = deque()
        self.link: Link | None = None
        # A step that has begun: what has come of it, or None as long as nothing has.
        self.pending: tuple[steps.Step, steps.Outcome | None] | None = None
        # A page whose hand-over waits for room in the channel.
        self.sending: ScanPage[bytes] | None = None
        # How many replies one read brings at most.
        self.batch = 1000
        # Every step that was begun.
        self.log: list[steps.Step] = []
        # Keys handed out, by epoch, and how often.
        self.handed: dict[int, Counter[bytes]] = {}
        self.pages: list[ScanPage[bytes]] = []
        # Whom the Sentinels named when the evidence for a certificate was last gathered.
        self.named_when_asked: Address | None = None
        # Keys that were there since the pass of an epoch began.
        self.present: dict[int, set[bytes]] = {}

    # -- the producer --

    def begin(self) -> steps.Step:
        """Begin the next step; what comes of it is decided now and reported by `finish`."""
        assert self.pending is None
        assert self.sending is None
        step = self.plan.next_step(self.now)
        self.log.append(step)
        if isinstance(step, steps.HandOver):
            if self.plan.handing_over(step):
                self.sending = step.page
                self.make_room()
        elif not isinstance(step, steps.Finish):
            self.pending = (step, self._outcome_of(step))
        return step

    def make_room(self) -> None:
        """The hand-over goes through as soon as there is room."""
        if self.sending is not None and len(self.channel) < self.options.prefetch:
            self.channel.append(self.sending)
            self.sending = None

    @property
    def is_waiting(self) -> bool:
        """Whether the producer is in a wait whose end is not in sight."""
        if self.pending is None:
            return self.sending is not None
        step, outcome = self.pending
        return outcome is None and not (isinstance(step, steps.AwaitTaken) and self.plan.all_taken)

    def finish(self) -> None:
        """Report what has come of the step that was begun."""
        assert self.pending is not None
        step, outcome = self.pending
        if isinstance(step, steps.AwaitTaken) and self.plan.all_taken:
            outcome = steps.Taken()
        if isinstance(step, steps.Locate):
            # Looked up and reported in one go: nothing comes between.
            outcome = steps.Located(self._look())
        assert outcome is not None, "the wait has no end"
        self.report(outcome)

    def report(self, outcome: steps.Outcome) -> None:
        """Report this, whatever has come of the step that was begun."""
        assert self.pending is not None
        step, _ = self.pending
        self.pending = None
        if isinstance(step, steps.Rest):
            self.now += step.seconds
        self.plan.report(step, outcome, self.now)
        self._drop_what_is_of_no_use()

    def time_out(self, seconds: float = 5.0) -> None:
        """`response_timeout` ends the wait on a server."""
        self.now += seconds
        self.report(steps.Lost("did not answer in time"))

    def step(self) -> steps.Step:
        """One whole step."""
        step = self.begin()
        if self.pending is not None:
            self.finish()
        return step

    def go_to(self, kind: type[Any] | tuple[type[Any], ...], *, taking: bool = True) -> Any:
        """Take steps until one of this kind has begun; the consumer takes what comes, unless it must not."""
        for _ in range(2000):
            if taking:
                self.take_all()
            if self.pending is not None:
                self.finish()
            step = self.begin()
            if isinstance(step, kind):
                return step
            assert not isinstance(step, steps.Finish), (self.plan, self.plan.error)
        raise AssertionError(f"no {kind} within 2000 steps: {self.plan!r}")

    def run(self, *, taking: bool = True, limit: int = 3000) -> ScanSummary:
        """Take steps, the consumer taking what comes, until the plan has ended."""
        for _ in range(limit):
            if taking:
                self.take_all()
            if self.pending is not None:
                self.finish()
            if isinstance(self.step(), steps.Finish):
                return self.plan.summary(self.now)
        raise AssertionError(f"no end within {limit} steps: {self.plan!r}, {self.log[-8:]}")

    def _outcome_of(self, step: steps.Step) -> steps.Outcome | None:
        match step:
            case steps.Locate():
                return steps.Located(self._look())
            case steps.Connect(_, _, target):
                return self._connect(target)
            case steps.Rest():
                return steps.Rested()
            case steps.AwaitTaken():
                return None
            case _:
                return self._on_link(step)

    def _look(self) -> steps.Target | TopologyState:
        """What the Sentinels say, as the client has it."""
        return self.world.known if self.options.read_from == "master" else self.world.service()

    def _connect(self, target: steps.Target) -> steps.Outcome | None:
        process = self.world.nodes[target.address]
        if process is None:
            return steps.Lost("connection refused")
        if process.hangs:
            return None
        self.link = Link(process)
        role = self.world.role_of(process)
        wants_master = self.options.basis != "server" and not target.is_replica
        unfit = unfit_for_scanning(role, target.address, wants_master=wants_master, wants_replica=target.is_replica)
        told = process.told_seed if self.options.hash_seed_shared else None
        return steps.Connected(process.identity(), role, process.form, unfit, told)

    def _on_link(self, step: steps.Step) -> steps.Outcome | None:
        link = self.link
        assert link is not None, f"{step} without a connection"
        if not link.alive or self.world.nodes[link.process.address] is not link.process:
            return steps.Lost("connection closed")
        match step:
            case steps.Ask(_, data, replies):
                asked = asked_in(data)
                assert len(asked) == replies > 0
                assert asked != [None], "a role was asked for by itself"
                link.owed.extend(asked)
                under_way = sum(owed is not None and isinstance(owed[0], int) for owed in link.owed)
                assert under_way <= (self.options.segments or 64), "a segment was asked for twice"
                return steps.Asked()
            case steps.Receive():
                assert link.owed, "nothing was asked"
                if link.process.hangs:
                    return None
                return steps.Answered([self._scan(link) for _ in range(min(self.batch, len(link.owed)))])
            case steps.Certify():
                assert not link.owed, "what is still to come would be taken for the evidence"
                if link.process.hangs:
                    return None
                return self._evidence(link.process, step)
        raise AssertionError(step)

    def _scan(self, link: Link) -> ScanReply:
        owed = link.owed.popleft()
        if owed is None:
            if link.process.refuses_role:
                return parse_error_reply("NOPERM no permissions to run the 'role' command")
            return self.world.role_of(link.process)
        if isinstance(owed[0], str):
            return link.process.tell(owed[0], bytes(owed[1]))
        cursor, count = owed[0], int(owed[1])
        epoch, segments = self.plan.epoch, self.options.segments or 64
        if epoch not in self.present or (cursor == 0 and segments == 1):
            self.present[epoch] = set(self.world.keys)
        link.process.starts = start_cursors(segments)
        return link.process.scan(cursor, count)

    def _evidence(self, process: Process, step: steps.Certify) -> Evidence | Undecided:
        self.named_when_asked = self.world.named.address
        return Evidence(
            run_id=process.run_id if process.tells_run_id else None,
            role=self.world.role_of(process),
            votes=self.world.votes(step.target) if step.basis == "sentinels" else None,
            config_epoch=step.target.config_epoch,
        )

    def _drop_what_is_of_no_use(self) -> None:
        if not self.plan.connected and self.pending is None:
            self.link = None

    # -- the listener --

    def hear(self) -> bool:
        """The client hears what the Sentinels say; the wait on a server is aborted if the plan says so."""
        self.world.known = self.world.named
        return self.heed()

    def heed(self) -> bool:
        """What the client knows reaches the plan."""
        changed = self.plan.heard(self._look(), self.now)
        if changed and self.pending is not None:
            (step, outcome), self.pending = self.pending, None
            if outcome is not None:
                # The wait had just ended when it was aborted.
                self.plan.report(step, outcome, self.now)
        self._drop_what_is_of_no_use()
        return changed

    # -- the consumer --

    def take(self) -> ScanPage[bytes] | None:
        """Take one page out of the channel; None if there was none, or if it may not be handed out."""
        page: ScanPage[bytes] | None
        if self.channel:
            page = self.channel.popleft()
            self.make_room()
        elif self.sending is not None:
            page, self.sending = self.sending, None
        else:
            return None
        # The listener may not have run yet.
        self.heed()
        page = self.plan.take(page, self.now)
        if page is None:
            return None
        self._check_details(page)
        self.pages.append(page)
        self.handed.setdefault(page.epoch, Counter()).update(page.keys)
        return page

    def _check_details(self, page: ScanPage[bytes]) -> None:
        """They are of these keys, of nothing else, and by the word of the very process that the page is of.

        (Where a pass may move, by that of the process that it has moved to, perhaps.)
        """
        wanted = self.options.with_
        if wanted is None:
            assert page.details == {}
            return
        assert set(page.details) == set(page.keys)
        run_id = None if self.options.hash_seed_shared else page.server.run_id
        tellers = [process for process in self.world.processes if run_id in (None, process.run_id)]
        for key, details in page.details.items():
            told = [KeyDetails("none", -2), KeyDetails(), *[process.details_of(key) for process in tellers]]
            for name, value, values in zip(details._fields, details, zip(*told, strict=True), strict=True):
                assert value in (values if name in wanted.names else (None,))

    def take_all(self) -> None:
        """Take whatever waits."""
        while self.channel or self.sending is not None:
            self.take()

    # -- the oracle --

    def delete(self, key: bytes) -> None:
        """Delete a key: no pass owes it any more."""
        self.world.delete(key)
        for present in self.present.values():
            present.discard(key)

    def missed(self) -> set[bytes]:
        """Keys that were there all through the pass of the present epoch, and were not handed out in it.

        (Nor before, where each key is to be handed out once.)
        """
        owed = self.present.get(self.plan.epoch, set(self.world.keys))
        epochs = self.handed if self.options.dedupe is not None else [self.plan.epoch]
        return owed - {key for epoch in epochs for key in self.handed.get(epoch, ())}

    def misused(self) -> int:
        """How often a process was sent a cursor of another's."""
        return sum(process.misused for process in self.world.processes)

    @property
    def ended(self) -> bool:
        return self.plan.state in FINAL

    @property
    def complete(self) -> bool:
        return self.plan.state is State.COMPLETE


# ---- what tests ask ---------------------------------------------------------------------------------------------


def kinds(log: list[steps.Step]) -> list[str]:
    """The steps by name."""
    return [type(step).__name__ for step in log]


def is_complete(driver: Driver) -> None:
    """The scan ended as complete, every key was handed out in its final pass, and each cursor went home."""
    assert driver.complete
    assert driver.plan.error is None
    assert driver.missed() == set()
    assert driver.misused() == 0
    summary = driver.plan.summary(driver.now)
    assert summary.complete
    assert summary.certificate is driver.plan.certificate is not None
    assert summary.position == 1.0
    assert summary.keys_this_epoch == sum(driver.handed.get(driver.plan.epoch, {}).values())
    assert summary.keys == sum(sum(handed.values()) for handed in driver.handed.values())
    assert summary.pages == len(driver.pages)
    assert [restart.epoch for restart in summary.restarts] == list(range(1, summary.epoch + 1))


def failure(driver: Driver) -> Exception:
    """What the scan ended with, which is not completion."""
    assert driver.plan.state is State.FAILED
    assert not driver.plan.summary(driver.now).complete
    assert driver.plan.error is not None
    assert driver.plan.certificate is None
    assert isinstance(driver.plan.next_step(driver.now), steps.Finish)
    return driver.plan.error


def reasons(driver: Driver) -> list[str]:
    """Why passes became void."""
    return [restart.reason for restart in driver.plan.summary(driver.now).restarts]
