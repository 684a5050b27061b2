"""Memory streams between a client and the programs, and everything that can befall a connection.

The program's side is synchronous: what is written is there at once, so that a test says in one breath what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

import hiredis
import trio
import trio.testing

from trio_sentinel_scan._core.errors import ServerConnectionError
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._trio import connection as connection_module
from trio_sentinel_scan._trio.streams import Bytes, Stream

from .data_server import Session
from .resp import encode

if TYPE_CHECKING:
    import ssl as ssl_module

    import pytest

__all__ = ["HANG_UP", "SILENCE", "Cut", "Hold", "Host", "Network", "Raw", "Reply"]


class Program(Protocol):
    """What runs on a host."""

    @property
    def address(self) -> tuple[str, int]: ...

    def joined(self, session: Session) -> None: ...

    def restart(self) -> None: ...

    def answer(self, session: Session, words: list[bytes]) -> Any: ...


# How a connection ends; see `Wire.hang_up`.
Ending = Literal["end", "pipe", "reset"]

ProgramT = TypeVar("ProgramT", bound=Program)
ProgramT_co = TypeVar("ProgramT_co", bound=Program, covariant=True)


# ---- what can come instead of a reply ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """Another reply than the usual one."""

    value: Any


@dataclass(frozen=True)
class Raw:
    """These bytes in place of the reply."""

    data: bytes


@dataclass(frozen=True)
class Cut:
    """The first `length` bytes of the usual reply, and then the end of the stream."""

    length: int


@dataclass(frozen=True)
class Hold:
    """The usual reply, as it was when the command came, but only after `event`; what follows waits behind it."""

    event: trio.Event


@dataclass(frozen=True)
class _Nothing:
    name: str


SILENCE: Final = _Nothing("no reply, and none to what follows on this connection")
HANG_UP: Final = _Nothing("the end of the stream in place of the reply")

Instead = Reply | Raw | Cut | Hold | _Nothing


@dataclass
class Tap:
    """Something to happen when a command comes."""

    words: tuple[bytes, ...]
    # How many such commands to let pass first, and to how many it is done then.
    skip: int
    times: float
    before: Callable[[], object] | None
    instead: Instead | None
    after: Callable[[], object] | None

    def takes(self, words: list[bytes]) -> bool:
        """Whether it is this command's turn."""
        if tuple(word.upper() for word in words[: len(self.words)]) != self.words or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


# ---- one connection ----------------------------------------------------------------------------------------------


class ClientEnd(trio.abc.Stream):
    """The client's end of a connection."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.outgoing = trio.testing.MemorySendStream()
        self.incoming = trio.testing.MemoryReceiveStream()
        self.closed = False
        # The most that one read brings; None for all that there is.
        self.slice: int | None = None
        # While it is there, nothing more than `room` bytes fits into the pipe to the program.
        self.full: trio.Event | None = None
        self.room = 0
        # What was written in one go, each time, by a stream that writes at once.
        self.writes: list[bytes] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._wire.broken:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError from ConnectionResetError(104, "Connection reset by peer")
        if self.full is not None:
            await self.full.wait()
        await self.outgoing.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.outgoing.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.incoming.receive_some(self.slice or max_bytes)
        if self._wire.broken and not data:
            raise trio.BrokenResourceError from ConnectionResetError(104, "Connection reset by peer")
        return data

    def close(self) -> None:
        self.closed = True
        self.outgoing.close()
        self.incoming.close()
        self._wire.over.set()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class Wire:
    """One connection as the program's side has it."""

    def __init__(self) -> None:
        # Set when either side has closed it.
        self.over = trio.Event()
        # The peer is gone: writing fails, and so does reading once there is nothing more to read.
        self.broken = False
        # The last bytes that were written in place of a reply (`Raw`).
        self.raw = b""
        self.client_end = ClientEnd(self)

    async def read(self) -> bytes:
        """What the client sent; empty at its end."""
        return bytes(await self.client_end.outgoing.get_data())

    def write(self, data: bytes) -> None:
        """Let the client have these bytes, unless one of the two has closed."""
        if not self.over.is_set() and data:
            self.client_end.incoming.put_data(data)

    def hang_up(self, how: Ending = "end") -> None:
        """Close. With "end" the client finds out when it reads, after what was written; with "pipe" already when it
        writes; with "reset" what was written and not read yet is gone, too.
        """
        if self.over.is_set():
            return
        self.over.set()
        self.broken = how != "end"
        if how == "reset":
            self.client_end.incoming._incoming.close_and_wipe()
        else:
            self.client_end.incoming.put_eof()


class WatchedStream(Stream):
    """A stream that can tell, as one over a socket can, whether anything is there to be read.

    With `at_once`, it also reads and writes without waiting, as a socket does; without it, it is as one with TLS.
    """

    __slots__ = ("_at_once", "_wire")

    def __init__(self, wire: Wire, where: str, *, at_once: bool) -> None:
        super().__init__(wire.client_end, where)
        self._wire = wire
        self._at_once = at_once

    @property
    def is_quiet(self) -> bool:
        return not self._wire.over.is_set() and not self._wire.client_end.incoming._incoming._data

    @property
    def sends_now(self) -> bool:
        return self._at_once

    def send_now(self, data: Bytes) -> Bytes:
        end = self._wire.client_end
        if self._wire.broken and self._at_once:
            raise ServerConnectionError("lost the connection while sending: Connection reset by peer")
        if not self._at_once:
            return data
        size = len(data)
        if end.full is not None:
            size = min(size, end.room)
            end.room -= size
        if size:
            end.writes.append(bytes(data[:size]))
            end.outgoing._outgoing.put(data[:size])
        return data[size:]

    async def wait_until_it_sends(self) -> None:
        end = self._wire.client_end
        if end.full is not None:
            await end.full.wait()
            end.full = None
        else:
            await trio.lowlevel.checkpoint()

    def receive_now(self) -> bytes | None:
        if not self._at_once or self.is_quiet:
            return None
        # (Not `get_nowait`: a task that waits for data keeps others from looking.)
        return bytes(self._wire.client_end.incoming._incoming._get_impl(None)) or self._ended()

    def close(self) -> None:
        self._wire.client_end.close()


# ---- one machine -------------------------------------------------------------------------------------------------


class Host(Generic[ProgramT_co]):
    """A program at an address, and what happens to it as a process."""

    def __init__(self, nursery: trio.Nursery, program: ProgramT_co) -> None:
        self._nursery = nursery
        self.program = program
        self.wires: list[Wire] = []
        # Every command, as (time, words).
        self.log: list[tuple[float, list[bytes]]] = []
        self.up = True
        # Packets from and to it get lost: not even a connection comes about.
        self.vanished = False
        # Sent to whoever connects, before the end of the stream.
        self.turns_away: bytes | None = None
        # Seconds before each reply.
        self.delay = 0.0
        self.slice: int | None = None
        self._runs = trio.Event()
        self._runs.set()
        self._taps: list[Tap] = []

    @property
    def address(self) -> tuple[str, int]:
        """Where it is."""
        return self.program.address

    @property
    def open_wires(self) -> list[Wire]:
        """The connections that neither side has closed."""
        return [wire for wire in self.wires if not wire.over.is_set()]

    def commands(self, *words: str) -> list[list[bytes]]:
        """The commands so far that begin with these words."""
        wanted = [word.encode() for word in words]
        return [command for _, command in self.log if [w.upper() for w in command[: len(wanted)]] == wanted]

    def tap(
        self,
        command: str,
        *,
        skip: int = 0,
        times: float = 1,
        before: Callable[[], object] | None = None,
        instead: Instead | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        """When this command comes: do `before`; answer with `instead`, or as usual; do `after`."""
        words = tuple(word.encode() for word in command.split())
        self._taps.append(Tap(words, skip, times, before, instead, after))

    def untap(self) -> None:
        """Answer everything as usual again."""
        self._taps.clear()

    # ---- the process ---------------------------------------------------------------------------------------------

    def kill(self, how: Ending = "end") -> None:
        """SIGKILL: every connection ends, and new ones are refused."""
        self.up = False
        self.drop_clients(how)
        self._runs.set()

    def start(self) -> None:
        """Another process at the same address, with the same data."""
        self.up = True
        self.vanished = False
        self.program.restart()

    def hang(self) -> None:
        """SIGSTOP: connections are still taken (the kernel does that), and nothing is answered."""
        self._runs = trio.Event()

    def resume(self) -> None:
        """SIGCONT, or the network is back."""
        self.vanished = False
        self._runs.set()

    def vanish(self) -> None:
        """A partition: nothing comes through, in either direction."""
        self.vanished = True
        self.hang()

    @property
    def hung(self) -> bool:
        """Whether it is stopped or cut off."""
        return not self._runs.is_set()

    def drop_clients(self, how: Ending = "end") -> None:
        """CLIENT KILL: the connections end; the process goes on."""
        for wire in self.open_wires:
            wire.hang_up(how)

    def restart(self) -> None:
        """Another process in its place, quickly, with the same data: at no time is it away."""
        self.kill()
        self.start()

    # ---- connections ---------------------------------------------------------------------------------------------

    def connect(self) -> Wire:
        """A new connection to it."""
        wire = Wire()
        wire.client_end.slice = self.slice
        self.wires.append(wire)
        if self.turns_away is not None:
            wire.write(self.turns_away)
            wire.hang_up()
        else:
            self._nursery.start_soon(self._serve, wire)
        return wire

    async def _serve(self, wire: Wire) -> None:
        session = Session(push=lambda value: self._push(wire, session, value), is_open=lambda: not wire.over.is_set())
        session_joined = False
        reader = hiredis.Reader()
        while data := await wire.read():
            reader.feed(data)
            while (words := reader.gets()) is not False:
                await self._runs.wait()
                if wire.over.is_set():
                    return
                if not session_joined:
                    session_joined = True
                    self.program.joined(session)
                await self._answer(wire, session, words)
                if wire.over.is_set():
                    return

    async def _answer(self, wire: Wire, session: Session, words: list[bytes]) -> None:
        self.log.append((trio.current_time(), words))
        tap = next((tap for tap in self._taps if tap.takes(words)), None)
        if tap is not None and tap.before is not None:
            tap.before()
            await self._runs.wait()
        if self.delay:
            await trio.sleep(self.delay)
        if wire.over.is_set():
            return
        value = self.program.answer(session, words)
        match tap.instead if tap is not None else None:
            case Reply(other):
                wire.write(encode(other, session.protocol))
            case Raw(data):
                wire.raw = data
                wire.write(data)
            case Cut(length):
                wire.write(encode(value, session.protocol)[:length])
                wire.hang_up()
            case Hold(event):
                await event.wait()
                wire.write(encode(value, session.protocol))
            case _Nothing() as nothing if nothing is HANG_UP:
                wire.hang_up()
            case _Nothing():
                await wire.over.wait()
            case None:
                wire.write(encode(value, session.protocol))
        if tap is not None and tap.after is not None:
            tap.after()

    def _push(self, wire: Wire, session: Session, value: Any) -> None:
        if not self.hung:
            wire.write(encode(value, session.protocol))


# ---- all of them -------------------------------------------------------------------------------------------------


class Network:
    """The hosts, and the function that stands in for opening a stream to one."""

    def __init__(self, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nursery = nursery
        self.hosts: dict[tuple[str, int], Host[Any]] = {}
        # Every attempt to connect: (dialled, announced).
        self.dialled: list[tuple[Address, Address | None]] = []
        # Seconds that a connection takes.
        self.connect_delay = 0.0
        # Whether streams made from now on read and write without waiting, as sockets do, or never do, as with TLS.
        self.at_once = False
        monkeypatch.setattr(connection_module, "open_stream", self.open_stream)

    def add(self, program: ProgramT) -> Host[ProgramT]:
        """A host for a program."""
        host = self.hosts[program.address] = Host(self.nursery, program)
        return host

    async def open_stream(
        self, dial: Address, *, announced: Address | None = None, ssl: ssl_module.SSLContext | None = None
    ) -> Stream:
        """Stands in for `streams.open_stream`."""
        self.dialled.append((dial, announced))
        where = str(announced or dial)
        await trio.sleep(self.connect_delay)
        host = self.hosts.get((dial.host, dial.port))
        if host is not None and host.vanished:
            await trio.sleep_forever()
        if host is None or not host.up:
            raise ServerConnectionError(f"{where} cannot be reached: Connection refused")
        return WatchedStream(host.connect(), where, at_once=self.at_once)

    @property
    def open_client_ends(self) -> list[str]:
        """The connections that the client has not closed, by address."""
        return [
            f"{host.address[0]}:{host.address[1]}"
            for host in self.hosts.values()
            for wire in host.wires
            if not wire.client_end.closed
        ]
