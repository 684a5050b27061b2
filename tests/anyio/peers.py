"""The other side of a connection, for tests of streams on any loop: a thread with a plain blocking socket."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from trio_sentinel_scan import Address

# For how long the other side waits for a test that has gone wrong.
PATIENCE: Final = 30.0

Talk = Callable[[socket.socket], object]


@contextmanager
def peer(talk: Talk, *, tls: ssl.SSLContext | None = None, path: Path | None = None) -> Iterator[Address]:
    """A server for one connection at a time, each of which `talk` is called with. What it raises is its own affair."""
    listener = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    listener.bind(("127.0.0.1", 0) if path is None else str(path))
    listener.listen()
    address = Address(*listener.getsockname()) if path is None else Address(str(path), 0)

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            raw.settimeout(PATIENCE)
            with raw, suppress(OSError):
                if tls is None:
                    talk(raw)
                else:
                    with tls.wrap_socket(raw, server_side=True) as wrapped:
                        talk(wrapped)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield address
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def dead() -> Iterator[Address]:
    """An address that refuses."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield Address(*bound.getsockname())


@contextmanager
def silent() -> Iterator[Address]:
    """An address that neither takes a connection nor refuses one: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        queued = []
        try:
            while True:
                waiting = socket.socket()
                queued.append(waiting)
                waiting.settimeout(0.05)
                try:
                    waiting.connect(listener.getsockname())
                except TimeoutError:
                    break
            yield Address(*listener.getsockname())
        finally:
            for waiting in queued:
                waiting.close()


def echo(raw: socket.socket) -> None:
    """What comes goes back."""
    while data := raw.recv(65536):
        raw.sendall(data)


def until_the_end(raw: socket.socket) -> None:
    """Say nothing."""
    while raw.recv(65536):
        pass


def reset(raw: socket.socket) -> None:
    """End without good order: the other side's next read or write fails."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    raw.close()
