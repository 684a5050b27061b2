"""Trio's run, ended by a signal as by a cancellation: whatever is open is closed, and then the signal has its way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NoReturn

import trio

from .._trio.nurseries import open_service_nursery

# Ctrl-C, an orderly end by another process, the terminal's window closed.
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failure(Exception):
    """What was asked for could not be done; the message says why."""


class EndedBySignal(Exception):
    """A signal asked for the end, and everything that was open is closed."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.strsignal(signum))
        self.signum = signum


def run(body: Callable[[], Awaitable[None]]) -> None:
    """Run `body` under Trio. Raises what it raises, or EndedBySignal."""
    try:
        trio.run(_supervised, body)
    except KeyboardInterrupt:
        # Before the signals were listened to, or after: the run was beginning or ending.
        raise EndedBySignal(signal.SIGINT) from None


def die_of(signum: int) -> NoReturn:
    """End this process by the signal, so that a shell sees a program that was interrupted, and ends its loop too.

    A shell has 128 + `signum` as the status then (130 for Ctrl-C).
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    # The first process of a container is one that no signal of its own can end.
    os._exit(128 + signum)


async def _supervised(body: Callable[[], Awaitable[None]]) -> None:
    # One that we were started to ignore, as by nohup, stays ignored.
    wanted = [signum for signum in _ENDING if signal.getsignal(signum) is not signal.SIG_IGN]
    received: list[int] = []
    with trio.open_signal_receiver(*wanted) as signals, trio.CancelScope() as scope:
        async with open_service_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, signals, scope, received)
            await body()
    if scope.cancelled_caught:
        raise EndedBySignal(received[0])


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope, received: list[int]) -> None:
    received.append(await anext(signals))
    scope.cancel(reason=signal.strsignal(received[0]))
