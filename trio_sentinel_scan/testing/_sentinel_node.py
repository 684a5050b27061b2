"""One Sentinel process, and what it says about the service that it watches."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from ._binary import ServerBinary
from ._certificates import Certificates
from ._directives import Config, Directive, from_user, of_any_process, quoted, users
from ._errors import CommandFailed, ServerNotRunning
from ._server import LocalServer
from ._wire import Reply, text

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Monitoring:
    """What all Sentinels of a service are told alike."""

    service: str
    quorum: int
    down_after: float
    failover_timeout: float
    parallel_syncs: int
    data_username: str | None
    data_password: str | None
    config: Config

    def directives(self, master: Address) -> Iterator[Directive]:
        """The lines about the service, in the order that Redis 6.2 needs: the master before its options."""
        name = self.service
        yield "sentinel", f"monitor {name} {master[0]} {master[1]} {self.quorum}"
        yield "sentinel", f"down-after-milliseconds {name} {milliseconds(self.down_after)}"
        yield "sentinel", f"failover-timeout {name} {milliseconds(self.failover_timeout)}"
        yield "sentinel", f"parallel-syncs {name} {self.parallel_syncs}"
        if self.data_password is not None:
            if self.data_username is not None:
                yield "sentinel", f"auth-user {name} {self.data_username}"
            yield "sentinel", f"auth-pass {name} {quoted(self.data_password)}"


class LocalSentinelNode(LocalServer):
    """One of the Sentinels of a :class:`LocalSentinel`, which makes it.

    It can be killed, paused, restarted and asked like any server; a restarted one remembers what it knew.
    """

    def __init__(
        self,
        *,
        number: int,
        monitoring: Monitoring,
        binary: str | os.PathLike[str] | ServerBinary | None,
        username: str | None,
        password: str | None,
        tls: Certificates | None,
        patience: float,
    ) -> None:
        super().__init__(
            name=f"sentinel {number}",
            binary=binary,
            username=username,
            password=password,
            tls=tls,
            patience=patience,
        )
        self._monitoring = monitoring
        self._id = secrets.token_hex(20)
        self._master: Address | None = None

    @property
    def myid(self) -> str:
        """The 40 digits by which the Sentinels know each other. A restart does not change them."""
        return self._id

    def _directives(self, _binary: ServerBinary, directory: Path, port: int) -> Iterator[Directive]:
        monitoring = self._monitoring
        yield from of_any_process(directory, port, self._tls)
        yield from users(self._username, self._password, {})
        yield "sentinel", f"myid {self._id}"
        if self._master is not None:
            yield from monitoring.directives(self._master)
        if self._password is not None:
            if self._username is not None:
                yield "sentinel", f"sentinel-user {self._username}"
            yield "sentinel", f"sentinel-pass {quoted(self._password)}"
        yield from from_user(monitoring.config)

    def _arguments(self) -> tuple[str, ...]:
        return ("--sentinel",)

    async def master_address(self) -> Address | None:
        """The address that it names as the master's, or None if it does not know the service."""
        reply = await self.execute("SENTINEL", "get-master-addr-by-name", self._monitoring.service)
        if not isinstance(reply, list):
            return None
        return text(reply[0]), int(text(reply[1]))

    async def introduce(self, peers: Sequence[LocalSentinelNode]) -> None:
        """Tell it of the other Sentinels, in their own words.

        Left to themselves Sentinels meet by the hellos that each publishes on the master every two seconds; they
        take them from anybody. (Their configuration could name the others from the start, and the first one would
        find nobody there yet, and try again a second later.)
        """
        if self._master is None:
            raise ServerNotRunning(f"{self!r} watches nobody yet")
        host, port = self._master
        service = self._monitoring.service
        await self.pipeline(
            [
                (
                    "PUBLISH",
                    "__sentinel__:hello",
                    # Who speaks and its epoch; the service, its master and the epoch of that.
                    f"{peer.host},{peer.port},{peer.myid},0,{service},{host},{port},0",
                )
                for peer in peers
                if peer is not self
            ]
        )

    async def is_failing_over(self) -> bool:
        """Whether it sees a failover under way."""
        watched = _fields(await self.execute("SENTINEL", "MASTER", self._monitoring.service))
        return "failover_in_progress" in watched.get("flags", "").split(",")

    async def begin_failover(self) -> None:
        """Have it replace the healthy master (SENTINEL FAILOVER). Returns while it is about to.

        Raises:
            CommandFailed: it refuses: ``INPROG``, ``NOGOODSLAVE``.

        """
        await self.execute("SENTINEL", "FAILOVER", self._monitoring.service)

    async def find_fault(
        self, master: Address, replicas: Sequence[Address], sentinels: Sequence[Address]
    ) -> str | None:
        """Say what keeps it from failing over to any of the replicas at once; None if nothing does."""
        await trio.lowlevel.checkpoint()
        service = self._monitoring.service
        try:
            first, second, third = await self.pipeline(
                [
                    ("SENTINEL", "MASTER", service),
                    ("SENTINEL", "REPLICAS", service),
                    ("SENTINEL", "SENTINELS", service),
                ]
            )
        except CommandFailed as error:
            return error.reply
        watched = _fields(first)
        if _address(watched) != master or not _is_well("master", watched):
            return f"it sees the master as {_address(watched)}, {watched.get('flags')}"
        listed = {_address(entry): entry for entry in map(_fields, _items(second))}
        for address in replicas:
            entry = listed.get(address, {})
            linked_to = (entry.get("master-host", ""), entry.get("master-port", ""))
            if (
                not _is_well("slave", entry)
                or entry.get("master-link-status") != "ok"
                or linked_to != (master[0], str(master[1]))
            ):
                return f"it sees the replica {address} as {entry.get('flags', 'unknown')}, not as linked to {master}"
        met = {_address(entry): entry for entry in map(_fields, _items(third))}
        for address in sentinels:
            entry = met.get(address, {})
            if not _is_well("sentinel", entry):
                return f"it sees the Sentinel {address} as {entry.get('flags', 'unknown')}"
        return None


def milliseconds(seconds: float) -> int:
    """Seconds, as Sentinel wants them."""
    return max(1, round(seconds * 1000))


def _items(reply: Reply) -> list[Reply]:
    return reply if isinstance(reply, list) else []


def _fields(reply: Reply) -> dict[str, str]:
    words = [text(word) for word in _items(reply)]
    return dict(zip(words[::2], words[1::2], strict=True))


def _is_well(kind: str, fields: dict[str, str]) -> bool:
    # Other flags, such as what has come of its part in the last failover, may stay for long and mean nothing now.
    flags = set(fields.get("flags", "").split(","))
    return kind in flags and not flags & {"s_down", "o_down", "disconnected", "failover_in_progress"}


def _address(fields: dict[str, str]) -> Address:
    return fields.get("ip", ""), int(fields.get("port", "0"))
