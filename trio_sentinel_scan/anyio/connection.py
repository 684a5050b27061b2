# Generated from _trio/connection.py by `nox -s anyio`: change that file, never this one.
"""One connection to one server process: commands out, replies in, in order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from redis.exceptions import RedisError

from .._core.errors import AuthenticationFailed, ProtocolError, ResponseTimeout, ServerConnectionError
from .._core.handshake import Greeting, Handshake
from .._core.verdicts import Verdict, verdict_of
from .._core.wire import NOT_YET, Argument, Decoder, Push, Reply, encode_commands
from .._version import __version__
from .streams import Stream, open_stream

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Callable

    from .._core.config import Credentials, Endpoint
    from .._core.identity import Address

__all__ = ["Connection", "open_connection", "open_sentinel_connection"]


class Connection:
    """A connection for one task at a time. A round trip that fails, is cancelled or times out makes it unusable."""

    def __init__(self, stream: Stream, address: Address, decoder: Decoder, response_timeout: float) -> None:
        self.address = address
        # What the server told of itself; set once by the handshake.
        self.greeting: Greeting | None = None
        # Called once, when it is closed.
        self.on_close: Callable[[], None] | None = None
        self._stream = stream
        self._decoder = decoder
        self._response_timeout = response_timeout
        # Replies that the server owes us. Invariant: when it is 0, no byte of a reply is on its way.
        self._owed = 0
        self._opening = True
        # Invariant: once True, no more bytes go in or out; only closing is left.
        self._spent = False

    @property
    def usable(self) -> bool:
        """Whether another round trip may begin here."""
        return not self._spent and self._owed == 0

    @property
    def has_more(self) -> bool:
        """Whether something came behind the last reply: a push, or what nobody has asked for."""
        return not self._decoder.is_between_replies

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come that nobody asked for: on a connection at rest that would be its end."""
        return not self.has_more and self._stream.is_quiet

    async def send(self, *commands: tuple[Argument, ...]) -> None:
        """Send commands together, to be answered in order by `receive`.

        Raises ServerConnectionError, ResponseTimeout, ProtocolError.
        """
        await self.send_encoded(encode_commands(commands), len(commands))

    async def send_encoded(self, data: bytes, replies: int) -> None:  # noqa: ASYNC910 (see below)
        """Send commands that are RESP already, and that so many replies will answer.

        Raises as `send` does, and ProtocolError if a reply was read already that nobody has asked for: whatever follows
        would be taken for another's. (What is still in the socket is not looked for: that would be a system call for
        each command. `is_quiet` does so, where a connection at rest is taken up again.)

        No checkpoint unless there is something to wait for: receiving is one, and each command is worth one only.
        """
        self._check_alive()
        if self._owed == 0:
            # (What is there may be a push. One on which messages come is sent nothing any more: see `receive_message`.)
            if self.has_more and self._next(decode=False) is not NOT_YET:
                raise self._broken(ProtocolError("it has sent a reply that nobody had asked for"))
            # Half a push may be left, and its rest may be a key, which may look like anything.
            self._opening = not self.has_more
        self._owed += replies
        self._spent = True
        rest = self._stream.send_now(data)
        if rest:
            with anyio.move_on_after(self._response_timeout) as scope:
                await self._stream.send(rest)
            if scope.cancelled_caught:
                raise self._timed_out()
        self._spent = False

    async def receive(self, *, decode: bool = True, waits: float = 0.0) -> Reply:
        """The next reply; an error reply is returned, not raised. Pushes in between are dropped.

        `waits`: for how many seconds the server may keep the command waiting before its `response_timeout` begins.

        Raises ServerConnectionError, ResponseTimeout, ProtocolError.
        """
        self._check_alive()
        reply = self._next(decode=decode)
        if reply is not NOT_YET:
            # If it is cancelled here, this reply is gone, and no later one may be taken for it.
            self._spent = True
            await anyio.lowlevel.checkpoint()
            self._spent = False
            self._owed -= 1
            return reply
        self._spent = True
        with anyio.move_on_after(self._response_timeout + waits) as scope:
            while reply is NOT_YET:
                self._feed(await self._stream.receive())
                reply = self._next(decode=decode)
            self._spent = False
        if scope.cancelled_caught:
            raise self._timed_out()
        self._owed -= 1
        return reply  # noqa: ASYNC910 (receiving waits)

    async def receive_ready(self) -> tuple[list[Reply], bool]:
        """The next reply, and those behind it that have come with it; and whether that had to be waited for.

        Raises as `receive` does.
        """
        self._check_alive()
        data = self._stream.receive_now()
        if data is not None:
            self._feed(data)
        replies = [await self.receive()]
        while self._owed and (reply := self._next(decode=True)) is not NOT_YET:
            self._owed -= 1
            replies.append(reply)
        return replies, data is None

    async def request(self, *commands: tuple[Argument, ...], decode: bool = True) -> list[Reply]:
        """Commands out, their replies back, in one round trip."""
        await self.send(*commands)
        return [await self.receive(decode=decode) for _ in commands]

    async def receive_message(self) -> Reply:
        """The next thing that the server says by itself, however long that takes.

        For a subscribed connection, which is sent nothing any more: what waited would be taken for a reply then.
        """
        while (reply := self._next(decode=True, keep_pushes=True)) is NOT_YET:
            self._check_alive()
            self._feed(await self._stream.receive())
        await anyio.lowlevel.checkpoint()
        return reply

    def use_encoding(self, encoding: str | None, errors: str) -> None:
        """From the next reply on, strings are decoded so. (The handshake's own are always bytes.)"""
        assert self.usable
        self._decoder = Decoder(encoding, errors)

    def hand_over(self) -> tuple[Stream, Decoder]:
        """Its stream and decoder, to somebody who goes on with them; `aclose` or, where those are closed, `note_closed`
        is all that is left to do here.
        """
        assert self.usable
        self._spent = True
        return self._stream, self._decoder

    async def aclose(self) -> None:
        """Close at once."""
        self._spent = True
        self.note_closed()
        await self._stream.aclose()

    def note_closed(self) -> None:
        """It is closed: whoever wants to know is told, once."""
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()

    def _feed(self, data: bytes) -> None:
        opening, self._opening = self._opening, False
        try:
            self._decoder.feed(data, opening=opening)
        except ProtocolError as error:
            raise self._broken(error) from None

    def _next(self, *, decode: bool, keep_pushes: bool = False) -> Reply:
        try:
            reply = self._decoder.next_reply(decode=decode)
            while isinstance(reply, Push) and not keep_pushes:
                reply = self._decoder.next_reply(decode=decode)
        except ProtocolError as error:
            raise self._broken(error) from None
        except UnicodeDecodeError:
            self._spent = True
            raise
        return reply

    def _broken(self, error: ProtocolError) -> ProtocolError:
        self._spent = True
        return ProtocolError(f"{self.address}: {error}")

    def _check_alive(self) -> None:
        if self._spent:
            msg = f"the connection to {self.address} was given up before"
            raise ServerConnectionError(msg)

    def _timed_out(self) -> ResponseTimeout:
        return ResponseTimeout(f"{self.address} did not answer within {self._response_timeout:g} s (response_timeout)")


async def open_connection(
    address: Address,
    endpoint: Endpoint,
    *,
    dial: Address | None = None,
    response_timeout: float = math.inf,
    protocol: int | None = None,
    encoding: str | None = None,
    encoding_errors: str = "strict",
    wants_master: bool = False,
) -> Connection:
    """Connect to a data node at `address` (dialled as `dial`) and go through the handshake; `greeting` is set then.

    `wants_master`: the connection is of no use if the server is no master, or stops being one (see `Handshake`).

    Raises ServerConnectionError, ResponseTimeout, ProtocolError, AuthenticationFailed, RoleMismatch, ConfigError.
    """
    connection, login = await _open(address, dial or address, endpoint, response_timeout)
    try:
        handshake = Handshake(
            address,
            login=login,
            db=endpoint.db,
            client_name=endpoint.client_name,
            protocol=protocol,
            version=__version__,
            wants_master=wants_master,
        )
        while connection.greeting is None:
            connection.greeting = handshake.read(await _answers(connection, handshake))
        connection.use_encoding(encoding, encoding_errors)
    except BaseException:
        await connection.aclose()
        raise
    return connection


async def _answers(connection: Connection, handshake: Handshake) -> list[Reply]:
    commands = handshake.commands()
    replies: list[Reply] = []
    await connection.send(*commands)
    try:
        while len(replies) < len(commands):
            replies.append(await connection.receive())
    except ServerConnectionError as error:
        if replies and isinstance(replies[0], RedisError):
            # It said why, unasked, and hung up.
            raise ServerConnectionError(f"{connection.address} turns connections away: {replies[0]}") from error
        raise
    return replies


async def open_sentinel_connection(
    address: Address, endpoint: Endpoint, *, dial: Address, response_timeout: float
) -> Connection:
    """Connect to a Sentinel and log in. Raises as `open_connection` does."""
    connection, login = await _open(address, dial, endpoint, response_timeout)
    try:
        if login:
            (reply,) = await connection.request(("AUTH", *login))
            _check_login(reply)
        else:
            await anyio.lowlevel.checkpoint()
    except BaseException:
        await connection.aclose()
        raise
    return connection


def _check_login(reply: Reply) -> None:
    if isinstance(reply, RedisError):
        if verdict_of(reply) is Verdict.RECONNECT:
            # Said unasked, and to everybody: no answer to the password.
            raise ServerConnectionError(f"turns connections away: {reply}")
        raise AuthenticationFailed(f"refused the username or password: {reply}")


async def _open(
    address: Address, dial: Address, endpoint: Endpoint, response_timeout: float
) -> tuple[Connection, tuple[str, ...]]:
    with anyio.move_on_after(response_timeout):
        login = await _login(endpoint.credentials)
        stream = await open_stream(dial, announced=address, ssl=cast("ssl_module.SSLContext | None", endpoint.ssl))
        return Connection(stream, address, Decoder(), response_timeout), login
    msg = f"{address} took no connection within {response_timeout:g} s (response_timeout)"
    raise ResponseTimeout(msg)


async def _login(credentials: Credentials) -> tuple[str, ...]:
    if credentials.provider is not None:
        try:
            # A provider may ask a file or a service: not on the event loop's time.
            get = credentials.provider.get_credentials
            return tuple(await anyio.to_thread.run_sync(get, abandon_on_cancel=True))
        except Exception as error:
            # Its words are its own, and may be secret.
            raise AuthenticationFailed(f"the credential provider raised {type(error).__name__}") from error
    await anyio.lowlevel.checkpoint()
    if credentials.password is None:
        return ()
    return (credentials.password,) if credentials.username is None else (credentials.username, credentials.password)
