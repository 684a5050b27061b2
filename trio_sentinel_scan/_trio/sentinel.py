"""Listening to the Sentinels: one task for each, all of them at once.

Each has two connections: one that hears its events, one that asks. An event is never believed; it makes us ask. What
the answers amount to is decided in `_core.topology`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import trio
from redis.exceptions import RedisError

from .._core import sentinel_replies, topology as core
from .._core.config import AddressMap, Endpoint, mapped_address
from .._core.errors import AuthenticationFailed, SentinelScanError, ServerConnectionError
from .._core.handshake import read_role
from .._core.replies import as_list
from .._core.scan_steps import Target
from .._core.sentinel_replies import MasterView
from .._core.topology_events import Chronicle, MasterChange, ServerReboot, TopologyEvent
from .._core.verdicts import Verdict, verdict_of
from .connection import Connection, open_connection, open_sentinel_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._core.identity import Address, Role, ServerIdentity
    from .._core.topology_state import MasterState, TopologyState

__all__ = ["SentinelMonitor"]

logger: logging.Logger = logging.getLogger("trio_sentinel_scan.sentinel")

# Seconds between two askings when no event comes: what Pub/Sub loses is found within this.
POLL_PERIOD: Final = 1.0
# Seconds that a Sentinel has for connecting and for each answer; the others are not kept waiting by it.
PATIENCE: Final = 2.0
# Seconds before trying again a Sentinel that failed.
RETRY_PERIOD: Final = 0.5
# The same for one that refused the password.
REFUSED_PERIOD: Final = 30.0
# How often a Sentinel is asked in a row when a failover moves its word between two commands of one asking.
ATTEMPTS: Final = 3


class _Watch:
    """The task that watches one Sentinel, as others see it."""

    __slots__ = ("address", "poke", "scope")

    def __init__(self, address: Address) -> None:
        self.address = address
        # Set to make it ask (or try again) now; replaced by the task before it asks.
        self.poke = trio.Event()
        # Cancelled when there is no more reason to watch.
        self.scope = trio.CancelScope()


class Subscriber(Protocol):
    """Somebody who wants to hear what happens to the service. Neither method may wait."""

    def put(self, events: list[TopologyEvent]) -> None:
        """These have happened."""
        ...

    def end(self, state: TopologyState) -> None:
        """The client is closing; this was the last state."""
        ...


class SentinelMonitor:
    """What the Sentinels of one service say, kept up to date while `run` is running."""

    def __init__(
        self,
        service: str,
        sentinels: Iterable[Address],
        *,
        endpoint: Endpoint,
        data_endpoint: Endpoint,
        address_map: AddressMap | None,
        response_timeout: float,
    ) -> None:
        self._configured = tuple(sentinels)
        self.topology: core.Topology = core.Topology(service, self._configured)
        self._endpoint = endpoint
        self._data_endpoint = data_endpoint
        self._address_map = address_map
        self._patience = min(PATIENCE, response_timeout)
        # Called, synchronously, whenever the view has moved to another master.
        self.on_change: set[Callable[[], None]] = set()
        # What has happened to the service, and who wants to hear of it.
        self._chronicle = Chronicle()
        self.subscribers: set[Subscriber] = set()
        # How often something has happened; and called, synchronously, whenever it has.
        self.news: int = 0
        self.on_news: set[Callable[[], None]] = set()
        # Set, and replaced, whenever a Sentinel has answered or failed.
        self._heard = trio.Event()
        self._watches: dict[Address, _Watch] = {}
        self._nursery: trio.Nursery | None = None
        self._confirming = False

    @property
    def target(self) -> Target | None:
        """The master as the view has it; None until one was found."""
        view = self.topology.view
        return None if view is None else Target(view.address, view.config_epoch, self.topology.version)

    @property
    def master(self) -> MasterState | None:
        """The master, with its process as far as that is known; None until one was found."""
        return self._chronicle.master

    @property
    def state(self) -> TopologyState:
        """The whole service. The client's start has seen to it that there is a master."""
        state = self._chronicle.state
        assert state is not None
        return state

    def dial_address(self, announced: Address) -> Address:
        """Where to connect for a server that the Sentinels announce so."""
        return mapped_address(announced, self._address_map)

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to watch; the tasks end with the nursery."""
        self._nursery = nursery
        # A client may be opened again, long after: nothing that was known then is to be believed now.
        self.topology = core.Topology(self.topology.service, self._configured)
        self._chronicle = Chronicle()
        self._watches.clear()
        self._confirming = False
        # An event belongs to the loop that it was first waited for on, and this may be another one.
        self._heard = trio.Event()
        for address in self._configured:
            self._watch_too(address)

    def stop(self) -> None:
        """The client is closing: whoever waits for an event has waited long enough."""
        self._nursery = None
        if (state := self._chronicle.state) is not None:
            for subscriber in tuple(self.subscribers):
                subscriber.end(state)

    def met(self, identity: ServerIdentity) -> None:
        """A connection was made, and this process answered."""
        self._publish(self._chronicle.met(identity.address, identity.run_id, trio.current_time()))

    async def first_target(self) -> Target:
        """Wait for the first view. Raises MasterNotFound (or below) once every Sentinel was tried in vain."""
        while True:
            self._apply(self.topology.waited(trio.current_time()))
            if (target := self.target) is not None:
                await trio.lowlevel.checkpoint()
                return target
            if self.topology.everyone_tried:
                raise self.topology.no_master_error()
            with trio.move_on_after(core.FIRST_CHOICE_GRACE / 5):
                await self._heard.wait()

    async def wait_for_news(self) -> None:
        """Until a Sentinel has answered or failed once more."""
        await self._heard.wait()

    async def vote(self, target: Target) -> core.Votes:
        """Ask all Sentinels now whether `target` is the master; back as soon as a majority has said so."""
        assert target.config_epoch is not None
        since = trio.current_time()
        view = MasterView(target.address, target.config_epoch)
        self.poke_all()
        with trio.move_on_after(self._patience):
            while not (self.topology.votes(view, since=since).is_majority or self.topology.heard_everyone(since)):
                await self._heard.wait()
        await trio.lowlevel.checkpoint()
        return self.topology.votes(view, since=since)

    def poke_all(self) -> None:
        """Make every Sentinel be asked now."""
        for watch in self._watches.values():
            watch.poke.set()

    def describe(self) -> Mapping[str, str]:
        """Each Sentinel and what came of asking it."""
        return self.topology.describe()

    @property
    def sentinels(self) -> list[Address]:
        """The Sentinels that are watched."""
        return list(self._watches)

    async def connect(self, address: Address) -> Connection:
        """A connection to one Sentinel, of the caller's own. Raises as `open_sentinel_connection` does."""
        dial = address if address in self._configured else self.dial_address(address)
        return await open_sentinel_connection(address, self._endpoint, dial=dial, response_timeout=self._patience)

    async def ask_role(self, announced: Address) -> Role | None:
        """A data node's role by its own word, over a connection for just that; None if it does not say."""
        try:
            connection = await open_connection(
                announced,
                self._data_endpoint,
                dial=self.dial_address(announced),
                response_timeout=self._patience,
            )
        except SentinelScanError:
            return None  # noqa: ASYNC910 (what fails here has waited)
        try:
            (reply,) = await connection.request(("ROLE",))
            return read_role(reply)
        except SentinelScanError:
            return None
        finally:
            await connection.aclose()

    # ---- one Sentinel -------------------------------------------------------------------------------------------

    def _watch_too(self, address: Address) -> None:
        if self._nursery is not None and address not in self._watches:
            watch = self._watches[address] = _Watch(address)
            self._nursery.start_soon(self._watch, watch)

    async def _watch(self, watch: _Watch) -> None:
        with watch.scope:
            while True:
                # The address stands before it wherever it is shown.
                error = await self._listen(watch)
                problem = str(error).removeprefix(f"{watch.address} ")
                logger.debug("Sentinel %s: %s", watch.address, problem)
                refused = isinstance(error, AuthenticationFailed)
                self._apply(self.topology.failed(watch.address, problem, trio.current_time(), refused=refused))
                self._tell_heard()
                if refused:
                    # Asking again and again would look like guessing.
                    await trio.sleep(REFUSED_PERIOD)
                else:
                    with trio.move_on_after(RETRY_PERIOD):
                        await watch.poke.wait()
                watch.poke = trio.Event()

    async def _listen(self, watch: _Watch) -> SentinelScanError:
        """Hear and ask one Sentinel for as long as that works; returns what ended it."""
        connections: list[Connection] = []
        problem: list[SentinelScanError] = []
        try:
            # Subscribe first and then ask: what changes in between is heard.
            hearing = await self._connect(watch.address, connections)
            await self._subscribe(watch, hearing)
            asking = await self._connect(watch.address, connections)
            (sentinel_id,) = await asking.request(("SENTINEL", "MYID"))
            if isinstance(sentinel_id, bytes):
                self._drop(self.topology.connected(watch.address, sentinel_id.decode("ascii", "replace")))
            logger.debug("Sentinel %s: listening to it", watch.address)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, watch, hearing, problem, nursery.cancel_scope)
                nursery.start_soon(self._ask_on, watch, asking, problem, nursery.cancel_scope)
        except SentinelScanError as error:
            return error  # noqa: ASYNC910 (what fails here has waited)
        finally:
            for connection in connections:
                await connection.aclose()
        return problem[0]

    async def _subscribe(self, watch: _Watch, hearing: Connection) -> None:
        refusal: RedisError | None = None
        await hearing.send(*(("SUBSCRIBE", channel) for channel in sentinel_replies.CHANNELS))
        # One by one: what is said unasked comes first, and then nothing but the end.
        for _ in sentinel_replies.CHANNELS:
            reply = await hearing.receive()
            if isinstance(reply, RedisError):
                _refuse_password(reply)
                if verdict_of(reply) is Verdict.RECONNECT:
                    msg = f"turns connections away: {reply}"
                    raise ServerConnectionError(msg)
                refusal = reply
        if refusal is not None:
            logger.warning("Sentinel %s refuses its events (%s): it is only polled", watch.address, refusal)

    async def _connect(self, address: Address, connections: list[Connection]) -> Connection:
        connection = await self.connect(address)
        connections.append(connection)
        return connection

    async def _hear(  # noqa: ASYNC910 (it ends by failing, and what fails has waited)
        self, watch: _Watch, connection: Connection, problem: list[SentinelScanError], scope: trio.CancelScope
    ) -> None:
        try:
            while True:
                message = as_list(await connection.receive_message()) or []
                if len(message) != 3 or message[0] != b"message":
                    continue
                channel, text = message[1:]
                if not isinstance(channel, bytes) or not isinstance(text, bytes):
                    continue
                hint = sentinel_replies.read_event(channel, text, self.topology.service)
                if hint is not None:
                    logger.debug("Sentinel %s: %s %s", watch.address, hint.channel, hint.text)
                    watch.poke.set()
        except SentinelScanError as error:
            problem.append(error)
            scope.cancel(reason="the event connection failed")

    async def _ask_on(  # noqa: ASYNC910 (it ends by failing, and what fails has waited)
        self, watch: _Watch, connection: Connection, problem: list[SentinelScanError], scope: trio.CancelScope
    ) -> None:
        try:
            while True:
                # Before asking: an event that comes while the answer is on its way makes us ask again.
                watch.poke = trio.Event()
                await self._ask(watch.address, connection)
                with trio.move_on_after(POLL_PERIOD):
                    await watch.poke.wait()
        except SentinelScanError as error:
            problem.append(error)
            scope.cancel(reason="the asking connection failed")

    async def _ask(self, address: Address, connection: Connection) -> None:
        service = self.topology.service
        for _ in range(ATTEMPTS):
            asked_at = trio.current_time()
            replies = await connection.request(
                ("SENTINEL", "MASTER", service),
                ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
                ("SENTINEL", "MASTER", service),
                ("SENTINEL", "SENTINELS", service),
                ("SENTINEL", "REPLICAS", service),
            )
            # Without the replicas it is still a Sentinel to be asked for the master: old ones know no such command.
            _refuse_errors(replies[:4])
            try:
                answer = sentinel_replies.read_answer(*replies)
            except (ValueError, KeyError, TypeError) as error:
                msg = f"gave an answer that makes no sense ({type(error).__name__})"
                raise ServerConnectionError(msg) from None
            if answer is not None:
                self._apply(self.topology.answered(address, answer, trio.current_time(), asked_at=asked_at))
                self._tell_heard()
                return
        raise ServerConnectionError("gives answers that do not fit together")

    # ---- what it brings about -----------------------------------------------------------------------------------

    def _apply(self, effect: core.Effect) -> None:
        for address in effect.new_sentinels:
            self._watch_too(address)
        self._drop(effect.redundant)
        if effect.confirm is not None and not self._confirming and self._nursery is not None:
            self._confirming = True
            self._nursery.start_soon(self._confirm, effect.confirm)
        if effect.changed:
            view = self.topology.view
            assert view is not None
            logger.info(
                "service %s: the master is %s (config epoch %d)",
                self.topology.service,
                view.address,
                view.config_epoch,
            )
            for callback in tuple(self.on_change):
                callback()
            self._tell_heard()
        self._publish(self._chronicle.observe(self.topology, trio.current_time()))

    def _publish(self, events: list[TopologyEvent]) -> None:
        for event in events:
            # A change of masters stands in the log already, before what it brings about.
            if not isinstance(event, MasterChange):
                level = logging.INFO if isinstance(event, ServerReboot) else logging.DEBUG
                logger.log(level, "service %s: %s", self.topology.service, event)
        if events:
            self.news += 1
            for subscriber in self.subscribers:
                subscriber.put(events)
            for callback in tuple(self.on_news):
                callback()

    async def _confirm(self, candidate: MasterView) -> None:
        view = self.topology.view
        assert view is not None
        try:
            role = await self.ask_role(candidate.address)
            present = await self.ask_role(view.address)
        finally:
            self._confirming = False
        self._apply(
            self.topology.role_confirmed(
                candidate,
                is_master=role is not None and role.kind == "master",
                view_is_master=present is not None and present.kind == "master",
            )
        )

    def _drop(self, addresses: Iterable[Address]) -> None:
        for address in addresses:
            if (watch := self._watches.pop(address, None)) is not None:
                watch.scope.cancel(reason="another name of a Sentinel that is watched already, or one that is gone")

    def _tell_heard(self) -> None:
        self._heard.set()
        self._heard = trio.Event()


def _refuse_errors(replies: list[object]) -> None:
    """An error that speaks of us and not of the service makes the Sentinel one that cannot be asked."""
    for reply in replies:
        if isinstance(reply, RedisError) and "No such master" not in str(reply):
            _refuse_password(reply)
            msg = f"refuses to answer: {reply}"
            raise ServerConnectionError(msg)


def _refuse_password(reply: RedisError) -> None:
    if verdict_of(reply) is Verdict.UNAUTHENTICATED:
        msg = f"refuses to answer: {reply}"
        raise AuthenticationFailed(msg)
