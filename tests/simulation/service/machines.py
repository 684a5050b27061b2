"""Machines and the network between them and the client: latency, slices, cuts, resets, half-closed and black holes.

A process that is stopped and a network that loses everything are two things: what other machines see of a process
hangs on the first alone.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import hiredis
import trio

from tests.trio.fakes import Host, Network, encode
from tests.trio.fakes.data_server import Session
from tests.trio.fakes.network import ProgramT, WatchedStream, Wire
from trio_sentinel_scan._core.errors import ServerConnectionError
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._trio.streams import Bytes, Stream

if TYPE_CHECKING:
    import ssl as ssl_module

    import pytest

    from tests.trio.fakes.network import Ending

__all__ = ["CUT", "STUCK", "Encoded", "Machine", "Machines", "Raw"]

# Before a command: called with (machine, session, words), it may do anything, and says what comes in place of a reply.
Before = Callable[["Machine[Any]", Session, list[bytes]], object]
# After it: called with the reply too, while the reply is still on its way.
After = Callable[["Machine[Any]", Session, list[bytes], Any], object]


class Stuck:
    """In place of a reply: nothing, and nothing to what follows either; the connection stays."""


class Cut:
    """In place of a reply: a part of it, and the end of the stream."""


class Raw:
    """In place of a reply: these bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Encoded(bytes):
    """A reply that has been made into bytes already, in a form that both protocols have."""


STUCK, CUT = Stuck(), Cut()


class Machine(Host[ProgramT]):
    """A program, and what the client and the others can reach of it."""

    def __init__(self, network: Machines, program: ProgramT) -> None:
        super().__init__(network.nursery, program)
        self._network = network
        # Set while packets get through between it and the client.
        self._reaches_client = trio.Event()
        self._reaches_client.set()
        # What is to happen to connections once packets get through again.
        self._held_back: list[Callable[[], object]] = []
        # The replies to what came in one read, while they are being made.
        self._making: dict[Wire, bytearray] = {}
        # Connections whose end the client has not been told of: packets do not get through.
        self._dead: set[int] = set()
        # Seconds that each way takes, at most, between the client and it.
        self.latency = 0.0
        self.sessions: dict[int, Session] = {}

    # ---- the process, and the way to the client ------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """Whether other machines get answers from it, if they reach it."""
        return self.up and not self.hung

    @property
    def cut_off(self) -> bool:
        """Whether nothing gets through between it and the client."""
        return not self._reaches_client.is_set()

    def cut_off_client(self) -> None:
        """A black hole between it and the client, in both directions."""
        self._reaches_client = trio.Event()

    def heal_client(self) -> None:
        """Packets get through again; what was sent meanwhile arrives now."""
        self._reaches_client.set()
        held, self._held_back = self._held_back, []
        for call in held:
            call()

    def drop_clients(self, how: Ending = "end") -> None:
        for wire in self.open_wires:
            self.drop(wire, how)

    def drop(self, wire: Wire, how: Ending = "end") -> None:
        """One connection ends. What was being said may arrive in part: up to any byte."""
        if wire.over.is_set() or id(wire) in self._dead:
            return
        made = self._making.get(wire)
        if self.cut_off:
            self._dead.add(id(wire))
            self._held_back.append(lambda: wire.hang_up("reset"))
            return
        if made:
            length = self._network.rng.randrange(2 * len(made) + 1)
            wire.write(bytes(made[: min(length, len(made))]))
        wire.hang_up(how)

    # ---- connections ---------------------------------------------------------------------------------------------

    async def reach(self) -> None:
        """Until packets get through."""
        while not self._reaches_client.is_set():
            await self._reaches_client.wait()

    async def _way(self) -> None:
        if self.latency:
            await trio.sleep(self._network.rng.uniform(self.latency / 4, self.latency))
        await self.reach()

    async def _serve(self, wire: Wire) -> None:
        session = Session(push=lambda value: self._push(wire, session, value), is_open=lambda: self._is_open(wire))
        self.sessions[id(wire)] = session
        joined = False
        reader = hiredis.Reader()
        while data := await wire.read():
            if self.latency or self.cut_off:
                await self._way()
            while self.hung:
                await self._runs.wait()
            if not self._is_open(wire):
                return
            if not joined:
                joined = True
                self.program.joined(session)
            reader.feed(data)
            made = self._making[wire] = bytearray()
            held: list[list[bytes]] = []
            try:
                while (state := self._answer_all(wire, session, reader, made, held)) == "stopped":
                    while self.hung:
                        await self._runs.wait()
                    if not self._is_open(wire):
                        return
            finally:
                del self._making[wire]
            if self.latency or self.cut_off:
                await self._way()
            if self._is_open(wire) and made:
                wire.write(bytes(made))
            if state == "stuck":
                await wire.over.wait()

    def _is_open(self, wire: Wire) -> bool:
        return not wire.over.is_set() and id(wire) not in self._dead

    def _answer_all(
        self, wire: Wire, session: Session, reader: hiredis.Reader, made: bytearray, held: list[list[bytes]]
    ) -> Literal["done", "stuck", "stopped"]:
        """Run what was sent, in one go, unless something befalls the process meanwhile.

        "stopped": go on when it runs again; `held` has the command whose turn it is. "stuck": nothing more is to be
        answered on this connection.
        """
        network = self._network
        held_up = held[-1] if held else None
        while (words := held.pop() if held else reader.gets()) is not False:
            instead: object = None
            if words is not held_up:
                network.count(self, words)
                instead = network.before(self, session, words)
                if not self._is_open(wire):
                    return "done"
                if self.hung:
                    held.append(words)
                    return "stopped"
            if instead is STUCK:
                return "stuck"
            value = self.program.answer(session, words)
            data = value if type(value) is Encoded else encode(value, session.protocol)
            if isinstance(instead, Raw):
                data = instead.data
            made += data
            if instead is CUT:
                del made[network.rng.randrange(len(made) - len(data), len(made)) :]
                wire.write(bytes(made))
                made.clear()
                wire.hang_up()
                return "done"
            network.after(self, session, words, value)
            if not self._is_open(wire):
                return "done"
            if self.hung:
                return "stopped"
        return "done"

    def _push(self, wire: Wire, session: Session, value: Any) -> None:
        if not self.runs or not self._is_open(wire):
            return
        data = encode(value, session.protocol)
        if self.cut_off:
            self._held_back.append(lambda: wire.write(data))
        elif self.latency:
            self._network.later(self.latency, lambda: wire.write(data))
        else:
            wire.write(data)


class SimStream(WatchedStream):
    """A stream that reads in slices, where its machine says so."""

    __slots__ = ()

    def receive_now(self) -> bytes | None:
        most = self._wire.client_end.slice
        if most is None or not self._at_once or self.is_quiet:
            return super().receive_now()
        incoming = self._wire.client_end.incoming._incoming
        return bytes(incoming._get_impl(most)) or self._ended()

    def send_now(self, data: Bytes) -> Bytes:
        if self._wire.over.is_set() and self._at_once and not self._wire.broken:
            # Into a connection that the other side has closed: the kernel takes it, and nobody reads it.
            return b""
        return super().send_now(data)


class Machines(Network):
    """All of them, and the function that stands in for opening a stream."""

    def __init__(self, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, rng: Random) -> None:
        super().__init__(nursery, monkeypatch)
        self.rng = rng
        self.before: Before = lambda machine, session, words: None
        self.after: After = lambda machine, session, words, value: None
        self.count: Callable[[Machine[Any], list[bytes]], object] = lambda machine, words: None
        self.opened: Callable[[Machine[Any]], object] = lambda machine: None
        self.later: Callable[[float, Callable[[], object]], object] = lambda seconds, call: None

    def add_machine(self, program: ProgramT) -> Machine[ProgramT]:
        """A machine for a program."""
        machine = self.hosts[program.address] = Machine(self, program)
        return machine

    async def open_stream(
        self, dial: Address, *, announced: Address | None = None, ssl: ssl_module.SSLContext | None = None
    ) -> Stream:
        where = str(announced or dial)
        host = self.hosts.get((dial.host, dial.port))
        await trio.lowlevel.checkpoint()
        if not isinstance(host, Machine):
            raise ServerConnectionError(f"{where} cannot be reached: no such machine")
        self.opened(host)
        if host.latency or host.cut_off:
            await host._way()
        if not host.up:
            raise ServerConnectionError(f"{where} cannot be reached: Connection refused")
        return SimStream(host.connect(), where, at_once=self.at_once)
