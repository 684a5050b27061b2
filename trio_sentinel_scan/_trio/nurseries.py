"""A nursery for tasks that serve a body: they end with it, and its exceptions leave as themselves."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import trio

from .streams import cancel_again

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["open_service_nursery"]


@asynccontextmanager
async def open_service_nursery() -> AsyncGenerator[trio.Nursery]:
    """A nursery whose tasks are cancelled when the body has ended, and not before: they serve its last steps, too.

    The body's exception leaves alone, never in a group. The tasks are ours and do not raise; should one do so all the
    same, its exception leaves alone as well, and the body is cancelled for it.
    """
    body_error: BaseException | None = None
    # The tasks are below a scope of their own, in a task of their own. The body's task waits for their end and is not
    # cancelled for it: whatever cancels it meanwhile came from outside, and is passed on. (On asyncio, AnyIO would
    # also charge the body's task with what is done to a scope of theirs, and take a `task.cancel()` for part of that.)
    serving = trio.CancelScope(shield=True)
    made: list[trio.Nursery] = []
    ready = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            try:
                # (Not by `start`: who is cancelled in that waits for a task that is shielded.)
                nursery.start_soon(_serve, serving, made, ready)
                await ready.wait()
                yield made[0]
            except trio.Cancelled:
                # Whoever cancelled must see it come out through the scopes in between.
                raise
            except BaseException as error:  # noqa: BLE001 (raised again below, outside of the group)
                body_error = error
            finally:
                serving.cancel(reason="the body has ended")
    except trio.Cancelled as cancelled:  # noqa: ASYNC103 (an exception of the body's goes on through the cancelled scopes instead)
        if body_error is None:
            raise
        cancel_again(cancelled)
    except BaseExceptionGroup as group:
        if body_error is None:
            raise _only_one_of(group) from None
    if body_error is not None:
        raise body_error


async def _serve(serving: trio.CancelScope, made: list[trio.Nursery], ready: trio.Event) -> None:
    with serving:
        async with trio.open_nursery() as nursery:
            made.append(nursery)
            ready.set()
            await trio.sleep_forever()


def _only_one_of(group: BaseException) -> BaseException:
    error = group
    while (inside := _inside(error)) is not None and len(inside) == 1:
        error = inside[0]
    return error


def _inside(error: BaseException) -> tuple[BaseException, ...] | None:
    return cast("Any", error).exceptions if isinstance(error, BaseExceptionGroup) else None
