"""What is under way on a connection that many callers share: requests in order, and what is known of each.

One synchronous method for each thing that can happen. Who waits for whom, and how, is the driver's business.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ProtocolError, SentinelScanError, ServerConnectionError
from .wire import NOT_YET, Decoder, Push, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["InFlight", "Request", "Wakeable", "Written"]


class Wakeable(Protocol):
    """A task that waits for its request."""

    def wake(self) -> None: ...


class Written(enum.Enum):
    """How much of a request a server may have read."""

    NOTHING = "not a byte of it was written"
    PART = "its end was not written"
    ALL = "all of it was written"


class Request:
    """One command, or several that are written without another's in between, and what came of it."""

    __slots__ = (
        "abandoned",
        "begins",
        "data",
        "decode",
        "done",
        "ends",
        "failure",
        "left",
        "replies",
        "since",
        "waiter",
    )

    def __init__(self, data: bytes, replies: int, decode: bool | Sequence[bool], since: float) -> None:  # noqa: FBT001
        # As RESP; emptied once it is with whoever sends.
        self.data: bytes = data
        # Replies that are still owed. Invariant: left + len(replies) is what was asked for.
        self.left: int = replies
        self.replies: list[Reply] = []
        # Whether strings are decoded: of all replies, or of each.
        self.decode: bool | Sequence[bool] = decode
        # When it was asked for.
        self.since: float = since
        # Where it lies in all that the connection has been given to send; -1 while it was not given.
        self.begins: int = -1
        self.ends: int = -1
        # Nothing more will come of it. Invariant: then `failure` is set, or all replies are there.
        self.done: bool = False
        self.failure: SentinelScanError | None = None
        # Its caller has gone: what comes is dropped.
        self.abandoned: bool = False
        # The caller, while it sleeps. Invariant: None for the one who reads.
        self.waiter: Wakeable | None = None


class InFlight:
    """The requests of one connection, the oldest first, and the bytes on their way in and out."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        # Invariant: every request that is not done, in the order of its bytes; `_unsent` is the end of it.
        self.queue: deque[Request] = deque()
        self.unsent: deque[Request] = deque()
        # Bytes that were given out to be sent, and how many of them a server may have by now.
        self._given = 0
        self._written = 0
        # Whether the next byte to come opens a reply, as far as that is known.
        self._opening = True
        # When the last reply came.
        self._replied_at = -math.inf
        # What is wrong with the bytes that came; None while nothing is.
        self.broken: ProtocolError | None = None

    # ---- out -----------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """A request was made: it is the last in the queue, and not sent yet."""
        if not self.queue:
            self._opening = True
        self.queue.append(request)
        self.unsent.append(request)

    def add_given(self, request: Request) -> bytes:
        """A request was made, and all before it are on their way: the same as `add` and `take_unsent`."""
        if not self.queue:
            self._opening = True
        self.queue.append(request)
        data = request.data
        request.begins = self._given
        self._given = request.ends = request.begins + len(data)
        request.data = b""
        return data

    def take_unsent(self) -> bytes:
        """Everything that is to be sent. It counts as written only as `wrote` says so."""
        parts: list[bytes] = []
        given = self._given
        for request in self.unsent:
            data = request.data
            parts.append(data)
            request.begins = given
            given += len(data)
            request.ends = given
            request.data = b""
        self._given = given
        self.unsent.clear()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def wrote(self, size: int) -> None:
        """So many more bytes were written, or may have been."""
        self._written += size

    def written(self, request: Request) -> Written:
        """How much of a request the server may have."""
        if request.begins < 0 or request.begins >= self._written:
            return Written.NOTHING
        return Written.ALL if request.ends <= self._written else Written.PART

    # ---- in ------------------------------------------------------------------------------------------------------

    def received(self, data: bytes, now: float) -> list[Request]:
        """Bytes came; returns the requests that they complete, and whose callers are still there.

        Look at `broken` afterwards: then the connection is of no further use, and `fail` is what is left to do.
        """
        done: list[Request] = []
        opening, self._opening = self._opening, False
        try:
            self._decoder.feed(data, opening=opening)
            self._read_replies(now, done)
        except ProtocolError as error:
            self.broken = error
        return done

    def _read_replies(self, now: float, done: list[Request]) -> None:
        queue, next_reply = self.queue, self._decoder.next_reply
        while queue:
            request = queue[0]
            decode = request.decode
            try:
                reply: Any = next_reply(decode=decode if isinstance(decode, bool) else decode[len(request.replies)])
            except UnicodeDecodeError as error:
                # The reply was whole, and the next one begins behind it: only its own caller has to know.
                reply = error
            if reply is NOT_YET:
                return
            if type(reply) is Push:
                continue
            self._replied_at = now
            # Of a batch whose caller has gone nothing is kept.
            request.replies.append(None if request.abandoned else reply)
            request.left -= 1
            if not request.left:
                queue.popleft()
                request.done = True
                if not request.abandoned:
                    done.append(request)
        self._check_silence()

    def _check_silence(self) -> None:
        # Nothing is owed. Taken for the answer to the next request, what comes now would shift all that follow by one.
        while (reply := self._decoder.next_reply()) is not NOT_YET:
            if type(reply) is not Push:
                raise ProtocolError("a reply came that nobody had asked for")

    # ---- ends ----------------------------------------------------------------------------------------------------

    def abandon(self, request: Request) -> None:
        """Its caller has gone. One that is not on its way yet is withdrawn; the reply to any other will be dropped."""
        if request.done:
            return
        if request.begins < 0:
            self.queue.remove(request)
            self.unsent.remove(request)
            request.done = True
        request.abandoned = True
        request.waiter = None

    def fail(self, error: SentinelScanError) -> list[Request]:
        """The connection is lost; returns the requests that are lost with it, in order.

        What broke the protocol was meant to be the first one's reply; the others were only on the same connection.
        """
        lost = list(self.queue)
        for_the_others = ServerConnectionError(str(error)) if isinstance(error, ProtocolError) else error
        for request in lost:
            request.failure = for_the_others
            request.done = True
        if lost:
            lost[0].failure = error
        self.queue.clear()
        self.unsent.clear()
        return lost

    def due(self, response_timeout: float) -> float:
        """When the server will have been silent for too long: `math.inf` while nothing is asked of it.

        It has its time for each reply: it begins when the request was made, or the reply before it had come.
        """
        if not self.queue:
            return math.inf
        return max(self.queue[0].since, self._replied_at) + response_timeout

    def next_reader(self) -> Request | None:
        """The oldest request whose caller sleeps: the one to read when nobody does."""
        for request in self.queue:
            if request.waiter is not None:
                return request
        return None
