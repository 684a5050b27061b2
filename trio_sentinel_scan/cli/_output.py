"""Stdout, as a place that may keep us waiting."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, NoReturn

import trio

from .._trio.nurseries import open_service_nursery
from ._running import Failure

_STDOUT: Final = 1
# Bytes, about as many as a pipe holds.
_ENOUGH: Final = 65536
# Seconds that less than that waits for more.
_LINGER: Final = 0.005


class OutputClosed(Exception):
    """Whoever was reading our output has gone, as ``head`` does when it has enough."""


class OutputFailed(Failure):
    """The output cannot be written: the disk is full, say."""


class Output:
    """A file descriptor to write to, by a task of its own.

    What comes while a write is under way, or shortly before one, goes out together: at COUNT 10 a thread's work for
    each page would take longer than the scan. No more waits than `_ENOUGH` and a page.

    Python's own buffer is not used. It would have to be flushed by somebody, perhaps into a full disk, when the
    exit status is already decided; and a thread that hangs in it keeps the interpreter from ending.
    """

    def __init__(self, descriptor: int = _STDOUT) -> None:
        self._descriptor = descriptor
        self._waiting: list[bytes] = []
        # How many bytes those are.
        self._size = 0
        # Whether a write is under way.
        self._writing = False
        # Set, and replaced, whenever one of the above has changed.
        self._changed = trio.Event()

    @classmethod
    def stdout(cls) -> Output:
        """This process's stdout. Raises OutputFailed if there is none."""
        # With ">&-" the number 1 is free, and the next socket would get it.
        if sys.stdout is None:
            raise OutputFailed("there is no standard output: it is closed")
        return cls()

    @property
    def is_terminal(self) -> bool:
        """Whether a terminal acts on what is written."""
        return os.isatty(self._descriptor)

    @property
    def speaks_utf8(self) -> bool:
        """Whether the locale says that what is written there is read as UTF-8."""
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        return encoding.lower().replace("-", "") == "utf8"

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[None, None]:
        """`write` works in this block. Its end waits until everything is written.

        What cannot be written ends the block, and leaves it as OutputClosed or OutputFailed.
        """
        async with open_service_nursery() as nursery:
            nursery.start_soon(self._write_on)
            yield
            await self.flush()

    async def flush(self) -> None:
        """Wait until all that was to be written is."""
        await trio.lowlevel.checkpoint()
        while self._waiting or self._writing:
            await self._changed.wait()

    async def write(self, data: bytes) -> None:
        """Have this written. Waits while enough is waiting already; the event loop never does."""
        self._waiting.append(data)
        self._size += len(data)
        self._tell_changed()
        await trio.lowlevel.checkpoint()
        while self._size > _ENOUGH:
            await self._changed.wait()

    async def _write_on(self) -> None:
        while True:
            while not self._waiting:
                await self._changed.wait()
            if self._size < _ENOUGH:
                await trio.sleep(_LINGER)
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            self._writing = True
            self._tell_changed()
            try:
                # Abandoned when cancelled: the write may never return, as when the reader is a pager.
                await trio.to_thread.run_sync(_write_all, self._descriptor, data, abandon_on_cancel=True)
            except OSError as error:
                _raise(error)
            self._writing = False
            self._tell_changed()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def write_now(data: bytes, descriptor: int = _STDOUT) -> None:
    """Write all of it, however long that takes. Raises OutputClosed and OutputFailed."""
    try:
        _write_all(descriptor, data)
    except OSError as error:
        _raise(error)


def _raise(error: OSError) -> NoReturn:
    if error.errno == errno.EPIPE:
        raise OutputClosed from None
    raise OutputFailed(f"cannot write to standard output: {error.strerror or error}") from error


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            written = os.write(descriptor, rest)
        except BlockingIOError:
            # Somebody else who has this pipe open made it so.
            _wait_until_writable(descriptor)
        else:
            rest = rest[written:]


def _wait_until_writable(descriptor: int) -> None:
    select.select((), (descriptor,), ())
