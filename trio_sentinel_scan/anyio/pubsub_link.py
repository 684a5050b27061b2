# Generated from _trio/pubsub_link.py by `nox -s anyio`: change that file, never this one.
"""The connection of a subscriber: made, kept, checked and made again. What that means is decided in the core."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import anyio

from .._core.errors import (
    AuthenticationFailed,
    ConfigError,
    ProtocolError,
    ResponseTimeout,
    RoleMismatch,
    SentinelScanError,
    ServerConnectionError,
    SubscriberOverflow,
)
from .._core.handshake import unfit_for_scanning
from .._core.wire import NOT_YET, Decoder, encode_commands
from . import streams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._core.identity import ServerIdentity
    from .._core.mailbox import Mailbox
    from .._core.messages import SubscriberOptions
    from .._core.reconnecting import Reconnecting
    from .._core.scan_steps import Target
    from .._core.wire import Argument, Reply
    from .connection import Connection
    from .sources import SentinelService, SingleServer
    from .streams import Stream

__all__ = ["Bell", "LinkPlan", "SubscriberLink"]

logger: logging.Logger = logging.getLogger("trio_sentinel_scan.pubsub")


class Bell:
    """An event that comes again and again. Who waits looks first, and looks again when it rang."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = anyio.Event()

    async def wait(self) -> None:
        """Wait until it rings next."""
        await self._event.wait()


class LinkPlan(Protocol):
    """What a link asks, and tells, of the subscriptions that it serves."""

    reconnecting: Reconnecting
    server: ServerIdentity | None

    @property
    def mailbox(self) -> Mailbox: ...
    @property
    def error(self) -> Exception | None: ...
    @property
    def is_connected(self) -> bool: ...
    @property
    def wants_connection(self) -> bool: ...
    @property
    def answer_is_due(self) -> bool: ...
    @property
    def must_read(self) -> bool: ...
    @property
    def has_commands(self) -> bool: ...
    def commands(self) -> list[tuple[Argument, ...]]: ...
    def connected(self, server: ServerIdentity, now: float) -> None: ...
    def lost(self, cause: str, now: float, heard: float) -> None: ...
    def take(self, reply: Reply, now: float) -> None: ...
    def check_health(self) -> None: ...
    def fail(self, error: Exception) -> None: ...


class SubscriberLink:
    """A subscriber's connection to a server, wherever its source leads, while `run` is running."""

    def __init__(
        self,
        plan: LinkPlan,
        options: SubscriberOptions,
        source: SingleServer | SentinelService,
        *,
        moved: Bell | None = None,
        room: Bell | None = None,
    ) -> None:
        """`moved` and `room` are given where several links have one mailbox."""
        settings = source.settings
        self.plan: LinkPlan = plan
        # Rings when there may be something to receive, or a call may be settled.
        self.moved: Bell = Bell() if moved is None else moved
        self._source = source
        self._response_timeout: float = settings.response_timeout
        self._health_check_interval = options.health_check_interval
        # Ring when there may be something to connect for, something to send, room in the buffer.
        self._work = Bell()
        self._outgoing = Bell()
        self.room: Bell = Bell() if room is None else room
        # Around the connection under way, from dialling on. Invariant: both None while there is none.
        self._abort: anyio.CancelScope | None = None
        self._target: Target | None = None
        # Why we have given it up ourselves; empty as long as we have not.
        self._reason = ""
        # Around the present wait for bytes; None while it waits for none.
        self._reading: anyio.CancelScope | None = None
        self._heard = 0.0

    # ---- for the subscriber: synchronous -------------------------------------------------------------------------

    def called(self) -> None:
        """Something was asked of the plan."""
        if self._reading is not None and self.plan.answer_is_due:
            due = streams.current_time() + self._response_timeout
            self._reading.deadline = min(self._reading.deadline, due)
        for bell in (self._work, self._outgoing, self.room, self.moved):
            bell.ring()

    def made_room(self) -> None:
        """Something was received."""
        if self.plan.mailbox.has_room_again:
            self.room.ring()

    def hang_up(self, reason: str) -> None:
        """Give the connection up, if there is one."""
        if self._abort is not None:
            self._reason = self._reason or reason
            self._abort.cancel(reason=reason)

    @property
    def attempt(self) -> object:
        """Stands for the present connection, from dialling on; None while there is none."""
        return self._abort

    # ---- the task ------------------------------------------------------------------------------------------------

    async def run(self) -> None:  # noqa: ASYNC910 (it ends by failing, and what fails has waited)
        """Have a connection whenever something is wanted, until the plan has failed."""
        self._source.on_change.add(self._notice_change)
        try:
            while self.plan.error is None:
                pause = self.plan.reconnecting.pause(streams.current_time(), wanted=self.plan.wants_connection)
                if pause is None:
                    await self._work.wait()
                elif pause > 0:
                    with anyio.move_on_after(pause):
                        await self._work.wait()
                else:
                    await self._attempt()
        except Exception as error:  # noqa: BLE001 (whatever it is, who receives must hear of it)
            self.plan.fail(error)
        finally:
            self._source.on_change.discard(self._notice_change)
            self._tell()

    def _tell(self) -> None:
        """Something has changed that somebody may wait for."""
        self.moved.ring()

    def _notice_change(self) -> None:
        if self._target is not None and self._target.version == self._source.target.version:
            return
        self.plan.reconnecting.hurry()
        self.hang_up(self._change_of_masters())
        self._work.ring()

    def _change_of_masters(self) -> str:
        return f"MASTER_CHANGE: the master is {self._source.target.address}"

    async def _attempt(self) -> None:  # noqa: ASYNC910 (connecting waits)
        """Connect, and use the connection for as long as that works."""
        plan, target = self.plan, self._source.target
        problem = f"{target.address} did not take a connection"
        with anyio.CancelScope(deadline=plan.reconnecting.give_up_at) as abort:
            self._abort, self._target, self._reason = abort, target, ""
            try:
                await self._connect_and_use(target)
            except (AuthenticationFailed, ConfigError, SubscriberOverflow) as error:
                plan.fail(error)
            except ProtocolError as error:
                if not plan.is_connected:
                    plan.fail(error)
                problem = str(error)
            except SentinelScanError as error:
                problem = str(error)
            finally:
                self._abort = self._target = None
        if abort.cancelled_caught:
            if self._reason:
                problem = self._reason
            elif plan.is_connected:
                problem = f"{target.address} did not confirm the subscriptions"
        logger.debug("the subscriber's connection to %s ended: %s", target.address, problem)
        plan.lost(problem, streams.current_time(), self._heard)
        self._tell()

    async def _connect_and_use(self, target: Target) -> None:
        connection = await self._source.connect(target)
        try:
            greeting = connection.greeting
            assert greeting is not None
            unfit = unfit_for_scanning(greeting.role, target.address, wants_master=self._source.wants_master)
            # A replica that is not in sync passes on what it hears; a "master" that says it is none is not followed.
            if unfit and self._source.wants_master:
                raise RoleMismatch(unfit)
            self._heard = streams.current_time()
            self.plan.connected(greeting.identity, self._heard)
            self._tell()
            self._extend_patience()
            await self._use(connection)
        finally:
            await connection.aclose()

    async def _use(self, connection: Connection) -> None:
        stream, decoder = connection.hand_over()
        problems: list[Exception] = []

        async def guarded(work: Callable[[], Awaitable[None]]) -> None:  # noqa: ASYNC910 (it ends by failing)
            try:
                await work()
            except Exception as error:  # noqa: BLE001 (raised again below, outside of the group)
                problems.append(error)
                task_group.cancel_scope.cancel(reason="the subscriber's connection failed")

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(guarded, lambda: self._read(stream, decoder))
            task_group.start_soon(guarded, lambda: self._write(stream))
        raise problems[0]

    async def _read(self, stream: Stream, decoder: Decoder) -> None:
        plan, mailbox = self.plan, self.plan.mailbox
        while True:
            patience = self._response_timeout if plan.answer_is_due else self._health_check_interval
            data = await self._receive(stream, patience)
            if data is None:
                self._nothing_heard()
                continue
            now = self._heard = streams.current_time()
            decoder.feed(data, opening=decoder.is_between_replies)
            while True:
                # (Before the first, too: other links may have filled it.)
                if mailbox.must_wait and not plan.must_read:
                    await self._wait_for_room()
                if (reply := decoder.next_reply(decode=False)) is NOT_YET:
                    break
                plan.take(reply, now)
            if plan.has_commands:
                self._outgoing.ring()
            self._extend_patience()
            self._tell()

    async def _receive(self, stream: Stream, patience: float) -> bytes | None:
        with anyio.move_on_after(patience) as scope:
            self._reading = scope
            try:
                return await stream.receive()
            finally:
                self._reading = None
        return None

    def _nothing_heard(self) -> None:
        if self.plan.answer_is_due:
            address = self.plan.server.address if self.plan.server is not None else ""
            raise ResponseTimeout(f"{address} did not answer within {self._response_timeout:g} s (response_timeout)")
        self.plan.check_health()
        self._outgoing.ring()

    def _extend_patience(self) -> None:
        """The end of waiting for a server is the end of this connection too, until it holds what is wanted."""
        if self._abort is not None:
            self._abort.deadline = self.plan.reconnecting.give_up_at

    async def _wait_for_room(self) -> None:  # noqa: ASYNC910 (there is none when it is called)
        self._tell()
        while not (self.plan.mailbox.has_room_again or self.plan.must_read):
            await self.room.wait()

    async def _write(self, stream: Stream) -> None:
        while True:
            while not self.plan.has_commands:
                await self._outgoing.wait()
            with anyio.move_on_after(self._response_timeout) as scope:
                await stream.send(encode_commands(self.plan.commands()))
            if scope.cancelled_caught:
                raise ServerConnectionError(f"nothing could be sent within {self._response_timeout:g} s")
