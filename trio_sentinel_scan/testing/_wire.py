"""The harness's own way to talk to a server: one connection per call, RESP2, nothing clever.

It shares no code with the client under test, which would otherwise be tested against its own mistakes.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar, cast

import hiredis
import trio

from ._errors import CommandFailed, HarnessError, ServerNotRunning

Argument: TypeAlias = str | bytes | int | float
"""What a command may consist of."""

Reply: TypeAlias = "int | bytes | list[Reply] | None"
"""What a server may answer: strings of either kind arrive as bytes, a nil as None."""

T = TypeVar("T")

_RECEIVE_BYTES = 256 * 1024

# For one question to a server that may not answer, while others will.
_ANSWER_SECONDS = 1.0

# hiredis' own annotation describes a tuple of exactly one item, and no result.
_pack = cast(
    "Callable[[tuple[Argument, ...]], bytes]",
    hiredis.pack_command,  # pyright: ignore[reportUnknownMemberType]
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens, and what it wants to hear first."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


async def converse(endpoint: Endpoint, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
    """Send the commands over a connection of their own and return their replies. Sets itself no limit of time.

    Raises:
        ServerNotRunning: the connection was refused, or ended before the last reply.
        CommandFailed: a reply was an error, or held one. All replies were read by then, and the first counts.

    """
    prologue: list[tuple[Argument, ...]] = []
    if endpoint.password is not None:
        user = () if endpoint.username is None else (endpoint.username,)
        prologue.append(("AUTH", *user, endpoint.password))
    request = b"".join(_pack(tuple(command)) for command in (*prologue, *commands))
    try:
        async with await _connect(endpoint) as stream:
            await stream.send_all(request)
            replies = await _read(stream, len(prologue) + len(commands))
    except (OSError, trio.BrokenResourceError, hiredis.ProtocolError) as error:
        # A TLS handshake that fails says why only in the cause.
        reason = error.__cause__ or error
        raise ServerNotRunning(f"no connection to {endpoint.host}:{endpoint.port}: {reason!r}") from error
    for reply in replies:
        _raise_error_in(reply)
    return cast("list[Reply]", replies[len(prologue) :])


async def within_a_second(ask: Callable[[], Awaitable[T]]) -> T | None:
    """Ask one of several servers; None if it does not answer in time, or with an error."""
    with trio.move_on_after(_ANSWER_SECONDS), contextlib.suppress(HarnessError):
        return await ask()
    await trio.lowlevel.checkpoint()
    return None


def text(reply: Reply) -> str:
    """A reply that is a string, as text; a reply of any other kind as an empty one."""
    return reply.decode(errors="replace") if isinstance(reply, bytes) else ""


async def _connect(endpoint: Endpoint) -> trio.abc.Stream:
    # Not trio.open_tcp_stream: it opens a nursery to try several addresses, and here there is one.
    connecting = trio.socket.socket()
    try:
        await connecting.connect((endpoint.host, endpoint.port))
        tcp = trio.SocketStream(connecting)
    except BaseException:
        connecting.close()
        raise
    if endpoint.tls is None:
        return tcp
    # https_compatible: do not wait for the goodbye of a server that may be stopped.
    return trio.SSLStream(tcp, endpoint.tls, server_hostname=endpoint.host, https_compatible=True)


async def _read(stream: trio.abc.Stream, count: int) -> list[object]:
    nothing_yet = object()
    reader = hiredis.Reader(notEnoughData=nothing_yet)
    replies: list[object] = []
    while True:
        while len(replies) < count and (reply := cast("object", reader.gets())) is not nothing_yet:
            replies.append(reply)
        if len(replies) == count:
            await trio.lowlevel.checkpoint()
            return replies
        received = await stream.receive_some(_RECEIVE_BYTES)
        if not received:
            raise ConnectionResetError(f"closed by the server after {len(replies)} of {count} replies")
        reader.feed(bytes(received))


def _raise_error_in(reply: object) -> None:
    if isinstance(reply, hiredis.ReplyError):
        raise CommandFailed(str(reply))
    if isinstance(reply, list):
        for item in cast("list[object]", reply):
            _raise_error_in(item)
