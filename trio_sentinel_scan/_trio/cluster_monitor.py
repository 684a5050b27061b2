"""Asks the nodes of a cluster: for the map that commands go by, and for the survey that scans rest on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio
from redis.exceptions import RedisError

from .._core.cluster_map import read_shards, read_slots
from .._core.cluster_survey import NodeAccount, Survey, read_nodes
from .._core.cluster_views import ClusterViews, MapAnswer
from .._core.config import mapped_address
from .._core.errors import (
    AuthenticationFailed,
    ClientClosed,
    ClusterNotFound,
    ConfigError,
    SentinelScanError,
    ServerConnectionError,
)
from .._core.handshake import read_info
from .._core.replies import as_text
from .._core.verdicts import Verdict, verdict_of
from .connection import open_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.cluster_map import ClusterMap
    from .._core.config import AddressMap, ClientSettings
    from .._core.identity import Address
    from .._core.wire import Argument, Reply
    from .connection import Connection

__all__ = ["ClusterMonitor"]

logger: logging.Logger = logging.getLogger("trio_sentinel_scan.cluster")

# Seconds from one refresh of the map to the next if nothing calls for one: what no redirection tells, a replica that
# has come for instance, is known after that.
POLL_PERIOD: Final = 10.0
# Seconds that lie between two refreshes however much calls for them.
REFRESH_PERIOD: Final = 0.1
# The most seconds that a node has for an answer about the cluster.
PATIENCE: Final = 2.0

_NODES: Final = ("CLUSTER", "NODES")
_INFO: Final = ("CLUSTER", "INFO")


class _Line:
    """The connection that one node is asked over."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.turn = trio.Lock()


class ClusterMonitor:
    """One cluster: the latest map, and whom to tell when it changes."""

    def __init__(self, seeds: Sequence[Address], settings: ClientSettings, address_map: AddressMap | None) -> None:
        self.views: ClusterViews = ClusterViews(seeds)
        # Called, synchronously, whenever the map says something new.
        self.on_change: set[Callable[[], None]] = set()
        # Called, synchronously, whenever a node has told of the map; `refreshes` says which time that was.
        self.on_asked: set[Callable[[], None]] = set()
        # Called, synchronously, when the client closes.
        self.on_stop: set[Callable[[], None]] = set()
        # How many times the map was asked for.
        self.refreshes: int = 0
        self._settings = settings
        self._address_map = address_map
        self._patience = min(PATIENCE, settings.response_timeout)
        self._lines: dict[Address, _Line] = {}
        # Invariant: once True, nobody is asked, and no connection is kept.
        self._closed = False
        # Set when the map is to be asked for at once; replaced when that begins.
        self._poke = trio.Event()
        # While a round of asking is under way.
        self._asking = False
        # Set, and replaced, when a round of asking is over; set when the client closes, as no other round comes then.
        self._round_over = trio.Event()
        # Whether any node answered in the last round.
        self._answered = False
        self._surveying = trio.Lock()
        # How many surveys were begun; the latest that came to its end, and which it was.
        self._surveys_begun = 0
        self._survey: tuple[int, Survey] | None = None
        # Why nothing but another client would do.
        self._refused: SentinelScanError | None = None

    @property
    def map(self) -> ClusterMap:
        """The map. The client's start has seen to it that there is one."""
        assert self.views.map is not None
        return self.views.map

    def start(self, nursery: trio.Nursery) -> None:
        """From now on the map is kept up to date."""
        # A client may be opened again, on another loop: an event belongs to the one that it was first waited for on.
        self._poke = trio.Event()
        self._round_over = trio.Event()
        self._surveying = trio.Lock()
        # (A round may have been cancelled.)
        self._asking = False
        self._closed = False
        nursery.start_soon(self._refresh_on)

    async def first_map(self) -> None:
        """Wait for the map.

        Raises ClusterNotFound, with a line for each node that was asked; AuthenticationFailed, ConfigError.
        """
        while self.views.map is None:
            await self.refreshed()
            if self._refused is not None:
                raise self._refused
            if self.views.map is None:
                raise self._not_found()
        await trio.lowlevel.checkpoint()

    def refresh_soon(self) -> None:
        """The map may be wrong: ask for it."""
        self._poke.set()

    async def refreshed(self) -> bool:
        """Until the map has been asked for once more: whether any node answered. Nobody was asked before this call.

        Raises ClientClosed.
        """
        self._check_open()
        if self._asking:
            await self._round_over.wait()
            self._check_open()
        self._poke.set()
        await self._round_over.wait()
        self._check_open()
        return self._answered

    def moved(self, slot: int, address: Address) -> None:
        """A node says that another one has this slot."""
        if self.views.moved(slot, address):
            if not self._asking:
                self.refresh_soon()
            # (Else the answer that is on its way may confirm it: many such come in one moment, from one failover.)
            self._tell()

    def dial_address(self, announced: Address) -> Address:
        """Where a node is reached that announces itself at this address."""
        return mapped_address(announced, self._address_map)

    async def survey(self) -> Survey:
        """What all masters say now. Nobody was asked before this call; calls at the same time share the answers."""
        # (Not told by the time: a clock may stand still.)
        begun = self._surveys_begun
        async with self._surveying:
            if self._survey is None or self._survey[0] <= begun:
                self._surveys_begun += 1
                number = self._surveys_begun
                self._survey = number, await self._ask_all()
            await trio.lowlevel.checkpoint()
            return self._survey[1]

    async def ask(self, address: Address, *commands: tuple[Argument, ...]) -> list[Reply]:
        """Ask one node something, over a connection that is kept for that; error replies are returned.

        Raises ServerConnectionError, ResponseTimeout, ProtocolError, AuthenticationFailed, ConfigError, ClientClosed.
        """
        self._check_open()
        line = self._lines.setdefault(address, _Line())
        async with line.turn:
            self._check_kept(address, line)
            connection = line.connection
            if connection is not None and not (connection.usable and connection.is_quiet):
                line.connection = None
                await connection.aclose()
                connection = None
            try:
                if connection is None:
                    connection = await open_connection(
                        address,
                        self._settings.endpoint,
                        dial=self.dial_address(address),
                        response_timeout=self._patience,
                        protocol=self._settings.protocol,
                    )
                    self._check_kept(address, line)
                    line.connection = connection
                return await connection.request(*commands, decode=False)
            except BaseException:
                line.connection = None
                if connection is not None:
                    await connection.aclose()  # noqa: ASYNC102 (closing is shielded, and takes no time)
                raise

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client was closed while a node was to be asked about the cluster")

    def _check_kept(self, address: Address, line: _Line) -> None:
        """`aclose` may have gone by, and closed what there was; the client may even be open again, with other lines."""
        if self._lines.get(address) is not line:
            raise ClientClosed(f"the client was closed while {address} was to be asked about the cluster")

    def stop(self) -> None:
        """The client is closing: nobody tells of the cluster any more."""
        for callback in tuple(self.on_stop):
            callback()

    async def aclose(self) -> None:
        """Close what the nodes were asked over, and ask nobody any more."""
        self._closed = True
        self._answered = False
        self._round_over.set()
        lines, self._lines = self._lines, {}
        for line in lines.values():
            if line.connection is not None:
                await line.connection.aclose()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def describe(self) -> dict[str, str]:
        """Each node that was asked in vain, and why."""
        return {str(address): problem for address, problem in self.views.problems.items()}

    # ---- the map -------------------------------------------------------------------------------------------------

    async def _refresh_on(self) -> None:
        while True:
            # Before asking: what calls for another one while the answer is on its way makes us ask again.
            self._poke = trio.Event()
            await self._refresh()
            self._round_over.set()
            self._round_over = trio.Event()
            if self._answered:
                for callback in tuple(self.on_asked):
                    callback()
            await trio.sleep(REFRESH_PERIOD)
            with trio.move_on_after(POLL_PERIOD):
                await self._poke.wait()

    async def _refresh(self) -> None:
        self.refreshes += 1
        self._asking = True
        answers: list[tuple[Address, MapAnswer]] = []
        self._refused = None
        for address in self.views.candidates():
            try:
                answer = await self._ask_for_map(address)
            except (SentinelScanError, ValueError) as error:
                logger.debug("node %s: %s", address, error)
                self.views.failed(address, str(error).removeprefix(f"{address} "))
                if isinstance(error, (AuthenticationFailed, ConfigError)):
                    self._refused = error
                continue
            answers.append((address, answer))
            if self.views.is_enough(answer):
                break
        self._asking = False
        self._answered = bool(answers)
        if self.views.answered(answers):
            self._tell()
        if self.views.contradicted:
            self.refresh_soon()
        await self._hang_up_on_strangers()

    async def _ask_for_map(self, address: Address) -> MapAnswer:
        shards, info = await self.ask(address, ("CLUSTER", "SHARDS"), _INFO)
        fields = read_info(info)
        if isinstance(shards, RedisError):
            _refuse(shards)
            (slots,) = await self.ask(address, ("CLUSTER", "SLOTS"))
            if isinstance(slots, RedisError):
                _refuse(slots)
                raise ServerConnectionError(f"{address} does not tell who has which slot: {slots}")
            found = read_slots(slots, address)
        else:
            found = read_shards(shards, address, tls=self._settings.endpoint.ssl is not None)
        epoch = fields.get("cluster_current_epoch", "0")
        return MapAnswer(found, int(epoch) if epoch.isdecimal() else 0, fields.get("cluster_state", "ok") == "ok")

    async def _hang_up_on_strangers(self) -> None:
        known = set(self.views.candidates())
        for address, line in tuple(self._lines.items()):
            # (Who is asked just now, as a master without slots is by a survey, is hung up on another time: seen in the
            # very step in which it is let go, for others are asked while one is being closed.)
            if address not in known and not line.turn.locked():
                self._lines.pop(address, None)
                if line.connection is not None:
                    await line.connection.aclose()
        await trio.lowlevel.checkpoint()

    def _tell(self) -> None:
        logger.debug("the cluster's map is version %d, of %d masters", self.map.version, len(self.map.shards))
        for callback in tuple(self.on_change):
            callback()

    def _not_found(self) -> ClusterNotFound:
        told = self.describe()
        lines = "".join(f"\n  {address}: {problem}" for address, problem in told.items())
        return ClusterNotFound(
            f"no node of the cluster could be asked who has which slot; if they announce addresses that cannot be"
            f" reached from here, see address_map:{lines}",
            told,
        )

    # ---- the survey ----------------------------------------------------------------------------------------------

    async def _ask_all(self) -> Survey:
        began_at = trio.current_time()
        accounts: dict[str, NodeAccount] = {}
        silent: dict[str, str] = {}
        # Names and addresses: a node may be at another one than the map has it.
        waiting = {(node.node_id or str(node.address), node.address): None for node in self.map.masters}
        asked: set[Address] = set()

        async def ask(name: str, address: Address) -> None:  # noqa: ASYNC910 (whoever is asked is waited for)
            try:
                account = await self._ask_for_account(address)
            except (SentinelScanError, ValueError) as error:
                silent[name] = str(error)
            else:
                accounts[account.node_id] = account

        while waiting:
            async with trio.open_nursery() as nursery:
                for name, address in waiting:
                    asked.add(address)
                    nursery.start_soon(ask, name, address)
            # A master without slots may be taking some; it is in nobody's map.
            waiting = {
                (node_id, line.node.address): None
                for account in accounts.values()
                for node_id, line in account.lines.items()
                if line.is_master and node_id not in accounts and line.node.address not in asked
            }
        for name in accounts:
            silent.pop(name, None)
        if silent:
            # Where they are is to be known better.
            self.refresh_soon()
        return Survey(began_at, accounts, silent)  # noqa: ASYNC910 (a map has masters, and they are waited for)

    async def _ask_for_account(self, address: Address) -> NodeAccount:
        asked_at = trio.current_time()
        nodes, info = await self.ask(address, _NODES, _INFO)
        if isinstance(nodes, RedisError):
            _refuse(nodes)
            raise ServerConnectionError(f"{address} does not tell of the cluster's nodes: {nodes}")
        return read_nodes(as_text(nodes), address, asked_at, state=read_info(info).get("cluster_state", ""))


def _refuse(reply: RedisError) -> None:
    """What no other question would mend."""
    text = str(reply)
    if verdict_of(reply) is Verdict.UNAUTHENTICATED:
        raise AuthenticationFailed(f"refuses to answer: {reply}")
    if "cluster support disabled" in text:
        raise ConfigError("nodes", "names a server that is no node of a cluster: use RedisClient, or redis://")
    if verdict_of(reply) in {Verdict.WAIT, Verdict.RECONNECT}:
        raise ServerConnectionError(f"cannot answer now: {reply}")
