# Generated from _trio/nurseries.py by `nox -s anyio`: change that file, never this one.
"""A task group for tasks that serve a body: they end with it, and its exceptions leave as themselves."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["give_up", "open_service_task_group"]


@asynccontextmanager
async def open_service_task_group() -> AsyncGenerator[anyio.abc.TaskGroup]:
    """A task group whose tasks are cancelled when the body ends.

    The body's exception leaves alone, never in a group. The tasks are ours and do not raise; should one do so all the
    same, its exception leaves alone as well, and the body is cancelled for it.
    """
    body_error: BaseException | None = None
    try:
        async with anyio.create_task_group() as task_group:
            try:
                yield task_group
            except anyio.get_cancelled_exc_class():
                # Whoever cancelled must see it come out through the scopes in between.
                raise
            except BaseException as error:  # noqa: BLE001 (raised again below, outside of the group)
                body_error = error
            finally:
                task_group.cancel_scope.cancel(reason="the body has ended")
    except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 (an exception of the body's goes on through the cancelled scopes instead)
        if body_error is None:
            raise
    except BaseExceptionGroup as group:
        if body_error is None:
            raise _only_one_of(group) from None
    if body_error is not None:
        raise body_error


def give_up(scope: anyio.CancelScope, reason: str) -> None:
    """Cancel a scope that is around what a task of ours does, from whichever task.

    It is shielded, too, which changes nothing inside of it. But if its task group is cancelled before it is left,
    it catches its own cancellation all the same, and the task's next wait is the task group's affair.

    AnyIO would else charge what was done to this task to the one that opened the task group. On asyncio, that one would
    take a `task.cancel()` of its own, should it come just now, for a part of this, and go on as if none had come.
    """
    scope.shield = True
    scope.cancel(reason=reason)


def _only_one_of(group: BaseException) -> BaseException:
    error = group
    while (inside := _inside(error)) is not None and len(inside) == 1:
        error = inside[0]
    return error


def _inside(error: BaseException) -> tuple[BaseException, ...] | None:
    return cast("Any", error).exceptions if isinstance(error, BaseExceptionGroup) else None
