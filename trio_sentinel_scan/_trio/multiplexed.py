"""One connection for the requests of many tasks at once: written as they come, answered in order.

There is no task that reads for all: handing every reply over from one would cost a third of the throughput. The caller
of the oldest request reads, for everybody, until its own reply has come, and hands the reading on. The connection's
own two tasks sleep unless what sockets take is less than what is sent, or nobody is left to read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from .._core.errors import (
    ClientClosed,
    ProtocolError,
    ResponseTimeout,
    SentinelScanError,
    ServerConnectionError,
)
from .._core.in_flight import InFlight, Request, Written
from .streams import Waiter, clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.handshake import Greeting
    from .._core.identity import Address
    from .._core.statistics import Counters
    from .connection import Connection
    from .streams import Bytes

__all__ = ["MultiplexedConnection"]


class _Keeper:
    """Stands for the connection's own task where a caller's request would stand."""


_KEEPER: Final = _Keeper()


class MultiplexedConnection:
    """What `send` was given is written whole and answered in order, or it fails with the connection.

    `run` must be running. It ends when the connection does: `on_end` is called then, in the step that ends it.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        response_timeout: float,
        max_in_flight: int,
        counters: Counters,
        on_end: Callable[[MultiplexedConnection], None],
    ) -> None:
        assert connection.greeting is not None
        self.greeting: Greeting = connection.greeting
        self.address: Address = connection.address
        self._stream, decoder = connection.hand_over()
        self._note_closed = connection.note_closed
        self._in_flight = InFlight(decoder)
        self._response_timeout = response_timeout
        # The loop's clock, which every request asks twice.
        self._now = clock()
        self._max_in_flight = max_in_flight
        self._counters = counters
        self._on_end = on_end
        # Invariant: once True the stream is closed and nothing is in flight.
        self._ended = False
        # No more requests will come: it ends with the last reply.
        self._retired = False
        # Who reads. Invariant: while a caller sleeps for its request, somebody does.
        self._reader: Request | _Keeper | None = None
        # What is left of bytes that are written in part. Invariant: while there is any, only `_flush_on` writes.
        self._rest: Bytes = b""
        # Several callers were woken in one step: what they send next is gathered.
        self._gathering = False
        self._flusher = Waiter()
        self._keeper = Waiter()
        # Whether the keeper sleeps until something is in flight.
        self._keeper_rests = False
        self._scope = trio.CancelScope()

    @property
    def in_flight(self) -> int:
        """How many requests are not answered yet, those without a caller too."""
        return len(self._in_flight.queue)

    def is_ready(self) -> bool:
        """Whether a request may be sent here. At rest it looks whether the server has ended the connection."""
        if self._ended or self._retired:
            return False
        if queue := self._in_flight.queue:
            return len(queue) < self._max_in_flight
        if self._stream.is_quiet:
            return True
        # Most likely its end. What else it is, only reading it tells; with TLS even that takes a wait.
        try:
            data = self._stream.receive_now()
        except ServerConnectionError as error:
            self.fail(error)
        else:
            if data is None:
                self.fail(ServerConnectionError(f"{self.address} ended the connection while it was at rest"))
            else:
                self._take(data)
        return not self._ended

    def send(self, data: bytes, replies: int, *, decode: bool | Sequence[bool]) -> Request:
        """Have commands written, now or (while others are on their way) in a moment together with those of others.

        Whatever comes of that, it comes by `wait_for`, which must be called in the same step.
        """
        in_flight = self._in_flight
        request = Request(data, replies, decode, self._now())
        self._counters.sent += 1
        if in_flight.queue or self._gathering or self._rest:
            in_flight.add(request)
            self._flusher.wake()
        else:
            self._write_now(in_flight.add_given(request))
        if self._keeper_rests:
            self._keeper_rests = False
            self._keeper.wake()
        return request

    async def wait_for(self, request: Request) -> None:  # noqa: ASYNC910 (it waits, unless writing has failed)
        """Until the request is done. If cancelled, its reply will be dropped, or it is not even written."""
        try:
            while not request.done:
                if self._reader is None:
                    self._reader = request
                if self._reader is request:
                    # (`_read`, without a call: there are more single callers than anything.)
                    try:
                        self._take(await self._stream.receive())
                    except ServerConnectionError as error:
                        self.fail(error)
                else:
                    waiter = request.waiter = Waiter()
                    await waiter.wait()
        except BaseException:
            self._counters.cancelled += 1
            self._in_flight.abandon(request)
            if self._reader is request:
                self._hand_on()
            raise
        if self._reader is request:
            self._hand_on()

    def written(self, request: Request) -> Written:
        """How much of a request was written."""
        return self._in_flight.written(request)

    def retire(self) -> None:
        """Take no more requests, and end when those in flight are answered."""
        self._retired = True
        if not self._in_flight.queue:
            self.fail(ServerConnectionError(f"the connection to {self.address} was given up"))

    def fail(self, error: SentinelScanError) -> None:
        """End now, for this reason; every request in flight that was not answered by now fails with it."""
        if self._ended:
            return
        self._ended = True
        self._take_what_has_come()
        self._stream.close()
        self._note_closed()
        for request in self._in_flight.fail(error):
            if request.waiter is not None:
                request.waiter.wake()
        self._scope.cancel(reason=str(error))
        self._on_end(self)

    async def run(self) -> None:
        """Serve the requests, until the connection ends."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._flush_on)
                    await self._watch()
        finally:
            self.fail(ClientClosed(f"the client closed its connection to {self.address}"))

    # ---- reading -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:  # noqa: ASYNC910 (receiving waits, or has failed)
        try:
            self._take(await self._stream.receive())
        except ServerConnectionError as error:
            self.fail(error)

    def _take(self, data: bytes) -> None:
        answered = self._in_flight.received(data, self._now())
        self._counters.replied += len(answered)
        for request in answered:
            if request.waiter is not None:
                request.waiter.wake()
        self._gathering = len(answered) > 1
        if self._in_flight.broken is not None:
            self.fail(ProtocolError(f"{self.address}: {self._in_flight.broken}"))
        if self._retired and not self._in_flight.queue:
            self.fail(ServerConnectionError(f"the connection to {self.address} was given up"))

    def _take_what_has_come(self) -> None:
        """A reply that has come, even to a connection that is about to be closed, is a reply."""
        try:
            while self._in_flight.queue and self._in_flight.broken is None:
                data = self._stream.receive_now()
                if data is None:
                    return
                self._take(data)
        except ServerConnectionError:
            # It is ending already, and for a better reason.
            pass

    def _hand_on(self) -> None:
        """Whoever has read does so no more."""
        self._reader = after = self._in_flight.next_reader()
        if after is not None:
            assert after.waiter is not None
            after.waiter.wake()
        elif self._in_flight.queue:
            self._keeper.wake()

    # ---- the connection's own tasks ------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """See to it that a server that does not answer is noticed, though every caller may have gone."""
        in_flight = self._in_flight
        while True:
            if not in_flight.queue:
                self._keeper_rests = True
                await self._keeper.wait()
                continue
            with trio.CancelScope(deadline=in_flight.due(self._response_timeout)):
                if self._reader is None:
                    await self._read_for_those_who_left()
                else:
                    await self._keeper.wait()
            if trio.current_time() >= in_flight.due(self._response_timeout):
                timeout = f"{self._response_timeout:g} s (response_timeout)"
                self.fail(ResponseTimeout(f"{self.address} did not answer within {timeout}"))

    async def _read_for_those_who_left(self) -> None:  # noqa: ASYNC910 (it is called when there is something to read)
        self._reader = _KEEPER
        try:
            while self._in_flight.queue and self._in_flight.next_reader() is None:
                await self._read()
        finally:
            self._hand_on()

    def _write_now(self, data: bytes) -> None:
        assert not self._rest
        try:
            rest = self._stream.send_now(data)
        except ServerConnectionError as error:
            self.fail(error)
            return
        self._in_flight.wrote(len(data) - len(rest))
        if rest:
            self._rest = rest
            self._flusher.wake()

    async def _flush_on(self) -> None:
        """Write what was not written by those who sent it."""
        while True:
            if self._gathering:
                # Those who were woken together come to their turns first.
                self._gathering = False
                await trio.lowlevel.checkpoint()
            while self._rest:
                try:
                    await self._write_rest()
                except ServerConnectionError as error:
                    self.fail(error)
                    return
            if self._in_flight.unsent:
                self._write_now(self._in_flight.take_unsent())
            else:
                await self._flusher.wait()

    async def _write_rest(self) -> None:
        stream, rest = self._stream, self._rest
        if stream.sends_now:
            await stream.wait_until_it_sends()
            self._rest = stream.send_now(rest)
            self._in_flight.wrote(len(rest) - len(self._rest))
        else:
            # How much of it has gone out, if it fails, nobody can tell.
            self._in_flight.wrote(len(rest))
            await stream.send(rest)
            self._rest = b""
