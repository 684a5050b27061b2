"""redis-py's lock on this event loop: the key, the token and the scripts are redis-py's, the waiting is ours."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, cast

import trio
from redis.asyncio.lock import Lock as RedisPysLock
from redis.exceptions import LockError

from .._core.errors import CommandOutcomeUnknown

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Lock"]

# Seconds that giving a lock back may take when its holder was cancelled.
LAST_WORDS = 2.0


class Lock(RedisPysLock):
    """A lock that tasks, processes and machines share: a key that only one of them can set. See `client.lock`.

    Replication is asynchronous: a failover may forget a lock, and then two hold it. What must not happen twice needs a
    guard of its own.
    """

    # Whether a SET that was refused may have found an earlier one of ours.
    _may_be_there = False

    def register_scripts(self) -> None:
        """redis-py's scripts, of this lock's client."""
        client: Any = self.redis
        # redis-py keeps them on the class, with the first client for ever.
        mine = cast("Any", self)
        mine.lua_release = client.register_script(self.LUA_RELEASE_SCRIPT)
        mine.lua_extend = client.register_script(self.LUA_EXTEND_SCRIPT)
        mine.lua_reacquire = client.register_script(self.LUA_REACQUIRE_SCRIPT)

    async def __aenter__(self) -> Self:
        """Wait for the lock. Raises LockError if it was not to be had in time."""
        if await self.acquire():
            return self
        raise LockError("Unable to acquire lock within the time specified")

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give it back, also when the body was cancelled: it might stay locked for ever."""
        try:
            await cast("Any", super()).__aexit__(exc_type, exc, traceback)  # noqa: ASYNC102 (see below)
        except trio.Cancelled:
            if self.local.token is not None:
                with trio.move_on_after(LAST_WORDS, shield=True):
                    await self._forget(self.local.token)
                self.local.token = None
            raise

    async def acquire(
        self,
        blocking: bool | None = None,  # noqa: FBT001 (redis-py's)
        blocking_timeout: float | None = None,
        token: str | bytes | None = None,
    ) -> bool:
        """Whether the lock could be had: at once, or with `blocking` within `blocking_timeout` seconds (None: ever)."""
        mine: bytes = (
            uuid.uuid4().hex.encode() if token is None else cast("Any", self.redis).get_encoder().encode(token)
        )
        wait = self.blocking if blocking is None else blocking
        seconds = self.blocking_timeout if blocking_timeout is None else blocking_timeout
        # Before the clock, which another loop may not have.
        cast("Any", self.redis)._runner.check_loop()  # noqa: SLF001 (a client or a lease, both with a runner)
        give_up_at = None if seconds is None else trio.current_time() + seconds
        while True:
            if await self._try(mine):
                self.local.token = mine
                return True
            if not wait or (give_up_at is not None and trio.current_time() + self.sleep > give_up_at):
                return False
            await trio.sleep(self.sleep)

    async def _try(self, token: bytes) -> bool:
        try:
            try:
                # Where a write may be sent twice (`retry_writes`), the second one finds the first one's key.
                may_be_there = self._may_be_there or self._may_be_set_twice
                return await self.do_acquire(token) or (may_be_there and await self._has_it(token))
            except CommandOutcomeUnknown:
                # What was lost may come to the server even after the question for it, over another connection.
                self._may_be_there = True
                return await self._has_it(token)
        except trio.Cancelled:
            # It may have been set, or be set in a moment: nobody would give it back.
            with trio.move_on_after(LAST_WORDS, shield=True):
                await self._forget(token)
            raise

    async def _has_it(self, token: bytes) -> bool:
        # It may have been set, and nobody else has this token.
        stored = await cast("Any", self.redis).get(self.name)
        return stored in (token, token.decode("utf-8", "replace"))

    @property
    def _may_be_set_twice(self) -> bool:
        return bool(cast("Any", self.redis).may_write_twice)

    async def _forget(self, token: bytes) -> None:  # noqa: ASYNC910 (a last try of a task that was cancelled)
        # Whatever comes of it, the cancellation is what the caller waits for.
        with suppress(Exception):
            await cast("Any", self).lua_release(keys=[self.name], args=[token], client=self.redis)
