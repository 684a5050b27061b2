"""The service nursery: its tasks end with the body, and whatever the body raises leaves as itself."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest
import trio
import trio.testing

from tests.trio.fakes import on_mock_time, settled, tasks_below
from trio_sentinel_scan._trio.nurseries import open_service_nursery

pytestmark = pytest.mark.trio(run=on_mock_time)


async def slow_to_end() -> None:
    """A task that is busy closing things when it is cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)


def fail(why: str) -> NoReturn:
    raise LookupError(why)


def raised(error: BaseException) -> BaseException:
    """The exception as it is when its __context__ was made by a raise within an except clause."""
    try:
        try:
            fail("what was being handled")
        except LookupError:
            raise error  # noqa: B904 (the context is what is tested)
    except BaseException as same:  # noqa: ASYNC103, BLE001 (it is handed back)
        return same  # noqa: ASYNC104 (and is no Cancelled)


async def test_the_tasks_end_with_the_body() -> None:
    async with open_service_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(slow_to_end)
        await settled()
    assert tasks_below(trio.lowlevel.current_task()) == []


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the body's"),
        KeyboardInterrupt("the body's"),
        SystemExit(3),
        StopAsyncIteration("the body's"),
        ExceptionGroup("the body's", [ValueError("one"), TypeError("two")]),
        BaseExceptionGroup("the body's", [KeyboardInterrupt()]),
        ExceptionGroup("of one", [ValueError("one")]),
    ],
    ids=["error", "interrupt", "exit", "stop", "group", "base group", "group of one"],
)
async def test_an_exception_leaves_as_itself(error: BaseException) -> None:
    """The very object, with the cause and context that it had, and neither unwrapped nor wrapped."""
    error.__cause__ = cause = KeyError("why")
    error = raised(error)
    context, suppressed = error.__context__, error.__suppress_context__
    assert isinstance(context, LookupError)
    with pytest.raises(type(error)) as caught:
        async with open_service_nursery() as nursery:
            nursery.start_soon(slow_to_end)
            await settled()
            raise error
    assert caught.value is error
    assert (error.__cause__, error.__context__, error.__suppress_context__) == (cause, context, suppressed)


async def test_an_exception_without_a_context_gets_none() -> None:
    with pytest.raises(ValueError, match="the body's") as caught:
        async with open_service_nursery() as nursery:
            nursery.start_soon(slow_to_end)
            msg = "the body's"
            raise ValueError(msg)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


async def test_an_exception_raised_while_another_is_handled_keeps_that_one() -> None:
    with pytest.raises(ValueError, match="second") as caught:
        try:
            fail("first")
        except LookupError:
            async with open_service_nursery():  # noqa: ASYNC120 (nothing cancels it)
                raise ValueError("second")  # noqa: B904 (the context is what is tested)
    assert isinstance(caught.value.__context__, LookupError)


async def test_cancellation_from_outside_passes() -> None:
    with trio.move_on_after(1) as outer:
        async with open_service_nursery() as nursery:
            nursery.start_soon(slow_to_end)
            await trio.sleep_forever()
    assert outer.cancelled_caught
    assert trio.current_time() == 2  # the task had its time to close


async def test_the_bodys_exception_survives_a_cancellation_from_outside() -> None:
    """Both at once: as with Trio's own nurseries, the exception is what comes out."""
    with trio.CancelScope() as outer, pytest.raises(ValueError, match="the body's"):
        async with open_service_nursery() as nursery:
            nursery.start_soon(slow_to_end)
            await settled()
            outer.cancel()
            raise ValueError("the body's")
    assert not outer.cancelled_caught


def loosely(function: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    """As a program runs that has not gone over to Trio's exception groups yet."""
    with pytest.warns(trio.TrioDeprecationWarning):
        return trio.run(function, strict_exception_groups=False)


@pytest.mark.trio(run=loosely)
async def test_the_same_where_nurseries_raise_no_groups() -> None:
    with trio.CancelScope() as outer, pytest.raises(ValueError, match="the body's"):
        async with open_service_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await settled()
            outer.cancel()
            raise ValueError("the body's")
    with trio.CancelScope() as outer:
        async with open_service_nursery():
            outer.cancel()
            await trio.sleep_forever()
    assert outer.cancelled_caught


async def test_a_group_of_cancellations_from_outside_passes() -> None:
    """The body has a nursery of its own, which is cancelled from outside and raises a group of Cancelled."""
    with trio.CancelScope() as outer:
        async with open_service_nursery() as ours:
            ours.start_soon(slow_to_end)
            async with trio.open_nursery() as inner:
                inner.start_soon(trio.sleep_forever)
                inner.start_soon(trio.sleep_forever)
                await settled()
                outer.cancel()
    assert outer.cancelled_caught


async def test_a_task_that_fails_all_the_same_cancels_the_body_and_its_exception_is_alone() -> None:
    async def fail() -> None:
        await trio.sleep(1)
        raise OSError("of a task")

    with pytest.raises(OSError, match="of a task"):
        async with open_service_nursery() as nursery:
            nursery.start_soon(slow_to_end)
            nursery.start_soon(fail)
            await trio.sleep_forever()


async def test_the_bodys_exception_comes_before_a_tasks() -> None:
    async def fail() -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        raise OSError("of a task")

    with pytest.raises(ValueError, match="the body's"):
        async with open_service_nursery() as nursery:
            nursery.start_soon(fail)
            raise ValueError("the body's")


async def test_tasks_that_fail_together_leave_together() -> None:
    async def fail(number: int) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        raise OSError(number, "of a task")

    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="1"), pytest.RaisesExc(OSError, match="2")):
        async with open_service_nursery() as nursery:
            nursery.start_soon(fail, 1)
            nursery.start_soon(fail, 2)
