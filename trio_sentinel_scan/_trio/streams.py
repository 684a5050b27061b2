"""Byte streams over TCP, TLS and Unix sockets: the one file that knows the event loop's networking.

What goes wrong with the network leaves here as ServerConnectionError, with the cause attached.
"""

from __future__ import annotations

import errno
import os
import select
import ssl as ssl_module
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from .._core.errors import ServerConnectionError

if TYPE_CHECKING:
    from collections.abc import Generator

    from .._core.identity import Address

__all__ = ["Stream", "open_stream"]

READ_SIZE: Final = 256 * 1024
# Whether the system reads and writes a socket by its number, as it does a file.
_SOCKETS_ARE_FILES: Final = os.name == "posix"


class Stream:
    """One connection's bytes. Two tasks may use it at once: one that sends and one that receives."""

    __slots__ = ("_is_file", "_raw", "_where")

    def __init__(self, raw: trio.abc.Stream, where: str) -> None:
        self._raw: Any = raw
        self._where = where
        # Whether the system reads and writes it as it stands: not TLS, whose records have to be opened first.
        self._is_file = _SOCKETS_ARE_FILES and isinstance(raw, trio.SocketStream)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing, not even the end of the stream, can be received without waiting. True if it cannot tell."""
        transport: Any = self._raw
        while isinstance(transport, trio.SSLStream):
            transport = cast("Any", transport).transport_stream
        if not isinstance(transport, trio.SocketStream):
            return True
        poll = select.poll()
        try:
            poll.register(transport.socket.fileno(), select.POLLIN)
            return not poll.poll(0)
        except (OSError, ValueError):
            # Closed already.
            return False

    def send_now(self, data: bytes) -> bytes:
        """Send as much of `data` as the network takes without waiting; return the rest, which may be all of it."""
        if not self._is_file:
            return data
        with _mapped(self._where, "lost the connection while sending"):
            try:
                return data[os.write(self._raw.socket.fileno(), data) :]
            except BlockingIOError:
                return data

    async def send(self, data: bytes) -> None:
        """Send all of `data`. If cancelled in the middle, some of it may have gone: close the stream then."""
        with _mapped(self._where, "lost the connection while sending"):
            await self._raw.send_all(data)

    def receive_now(self) -> bytes | None:
        """What has come; None if that is nothing, or cannot be told without waiting. Raises as `receive` does."""
        if not self._is_file:
            return None
        with _mapped(self._where, "lost the connection"):
            try:
                data = os.read(self._raw.socket.fileno(), READ_SIZE)
            except BlockingIOError:
                return None
        return self._checked(data)

    async def receive(self) -> bytes:
        """Some bytes, at least one. The end of the stream is an error: no server of ours ends it in good order."""
        with _mapped(self._where, "lost the connection"):
            data = await self._raw.receive_some(READ_SIZE)
        return self._checked(bytes(data))

    def _checked(self, data: bytes) -> bytes:
        if not data:
            msg = f"{self._where} closed the connection"
            raise ServerConnectionError(msg)
        return data

    async def aclose(self) -> None:
        """Close at once, without a farewell. It closes even if it is cancelled."""
        # Shielded: it takes no time, and a caller with several things to close must come to the last of them.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._raw)


async def open_stream(
    dial: Address, *, announced: Address | None = None, ssl: ssl_module.SSLContext | None = None
) -> Stream:
    """Connect to `dial`; with `ssl`, the certificate must be for the `announced` host (for `dial`'s without one).

    Raises ServerConnectionError.
    """
    where = str(announced or dial)
    raw: trio.abc.Stream
    with _mapped(where, "cannot be reached"):
        if dial.is_unix:
            raw = await trio.open_unix_socket(dial.host)
        else:
            raw = await trio.open_tcp_stream(dial.host, dial.port)
    if ssl is None:
        return Stream(raw, where)
    host = (announced or dial).host
    try:
        with _mapped(where, "refused TLS, or is not who it should be"):
            secured = trio.SSLStream(raw, ssl, server_hostname=None if dial.is_unix else host)
            await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(raw)
        raise
    return Stream(secured, where)


@contextmanager
def _mapped(where: str, what: str) -> Generator[None]:
    try:
        yield
    # ValueError: a host that no name can be, which a Sentinel may have announced.
    except (OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        why = _reason(error)
        msg = f"{where} {what}: {why}" if why else f"{where} {what}"
        raise ServerConnectionError(msg) from error


def _reason(error: BaseException) -> str:
    inner = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
    if isinstance(inner, ssl_module.SSLError):
        return inner.reason or "TLS error"
    if isinstance(inner, OSError):
        # The addresses of a host, even of one that has one, fail together: what went wrong is in a group below.
        below: object = inner.__cause__
        if isinstance(below, ExceptionGroup):
            failures = cast("ExceptionGroup[Exception]", below).exceptions
            return ", ".join(dict.fromkeys(map(_reason, failures)))
        # Trio's own text repeats the address. (A name's errors are numbered differently, and in their own words.)
        if inner.errno is not None and inner.errno in errno.errorcode:
            return os.strerror(inner.errno)
        return inner.strerror or str(inner) or type(inner).__name__
    return str(inner) if isinstance(inner, ValueError) else ""
