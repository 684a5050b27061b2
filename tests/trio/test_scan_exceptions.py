"""How a scan and its body end: exceptions as themselves, failures by the next receive, and nothing in a group."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import (
    COUNT,
    SILENCE,
    Error,
    Reply,
    Service,
    on_mock_time,
    settled,
    sweep,
    tasks_below,
)
from trio_sentinel_scan import (
    ScanError,
    ScanInterrupted,
    ScanRefused,
    ScanSummary,
    SentinelClient,
)

pytestmark = pytest.mark.trio(run=on_mock_time)


def busy_scanning(service: Service) -> None:
    """The producer waits for a reply."""
    service.master.tap("SCAN", skip=1, instead=SILENCE)


def busy_connecting(service: Service) -> None:
    """The producer waits for a connection."""
    service.master.tap("SCAN", skip=1, before=service.master.vanish)


def busy_backing_off(service: Service) -> None:
    """The producer waits for a server that is away."""
    service.master.tap("SCAN", skip=1, before=service.master.kill)


def busy_handing_over(service: Service) -> None:
    """The producer waits for the consumer."""


BUSY = [busy_scanning, busy_connecting, busy_backing_off, busy_handing_over]


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize(
    "error",
    [
        ValueError("the body's"),
        KeyboardInterrupt(),
        SystemExit(1),
        ExceptionGroup("the body's", [ValueError("one"), ExceptionGroup("two", [TypeError()])]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_bodys_exception_leaves_as_itself(
    service: Service, client: SentinelClient, busy: Callable[[Service], None], error: BaseException
) -> None:
    """State that remains: no task of the scan's, no connection of its own; cause and context are the body's."""
    error.__context__ = None
    cause = KeyError("why")
    summary: ScanSummary | None = None
    busy(service)
    with pytest.raises(type(error)) as caught:
        async with client.open_scan(count=COUNT) as pages:
            await pages.receive()
            await trio.sleep(0.5)
            summary = pages.summary
            raise error from cause
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, None)
    assert len(service.master.open_wires) <= 1
    assert tasks_below(trio.lowlevel.current_task()) == []
    assert summary is not None
    assert not summary.complete


async def test_a_group_of_the_bodys_own_nursery_leaves_as_it_is(service: Service, client: SentinelClient) -> None:
    async def fail() -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        raise ValueError("one of the body's tasks")

    with pytest.RaisesGroup(ValueError):
        async with client.open_scan(count=COUNT), trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()


@pytest.mark.parametrize("busy", BUSY)
async def test_a_cancellation_from_outside_passes(
    service: Service, client: SentinelClient, busy: Callable[[Service], None]
) -> None:
    """State that remains: no task of the scan's, no connection of its own."""
    busy(service)
    with trio.move_on_after(1) as outer:
        async with client.open_scan(count=COUNT) as pages:
            await pages.receive()
            await trio.sleep_forever()
    assert outer.cancelled_caught
    assert trio.current_time() == 1
    assert len(service.master.open_wires) <= 1
    assert tasks_below(trio.lowlevel.current_task()) == []


async def test_a_failure_is_raised_by_the_next_receive_and_again(service: Service, client: SentinelClient) -> None:
    """One plain exception, the same each time and for every clone; the body is not cancelled for it."""
    async with client.open_scan(count=COUNT, on_failover="raise") as pages:
        clone = pages.clone()
        await pages.receive()
        service.fail_over()
        await trio.sleep(5)  # the body goes on undisturbed
        errors = []
        for end in (pages, clone, pages, clone):
            with pytest.raises(ScanInterrupted) as caught:
                await end.receive()
            errors.append(caught.value)
        assert len(set(map(id, errors))) == 1
        assert errors[0].__cause__ is None
        assert errors[0].__context__ is None
        await trio.sleep(5)
        await clone.aclose()
    assert trio.current_time() == 10


async def test_a_failure_while_consumers_wait_reaches_all_of_them(service: Service, client: SentinelClient) -> None:
    service.master.tap("SCAN", skip=2, instead=SILENCE)
    errors: list[ScanInterrupted] = []
    async with client.open_scan(count=COUNT, on_failover="raise") as pages:

        async def consume() -> None:
            async with pages.clone() as mine:
                with pytest.raises(ScanInterrupted) as caught:
                    async for _ in mine:
                        pass
                errors.append(caught.value)
                assert caught.value.__context__ is None

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(consume)
            await settled()
            service.fail_over()
    assert len(errors) == 3
    assert len(set(map(id, errors))) == 1
    assert trio.current_time() == 0


async def test_a_failure_nobody_asks_about_is_not_raised(service: Service, client: SentinelClient) -> None:
    """Leaving early is the caller's right; the summary says that it was not complete."""
    async with client.open_scan(count=COUNT, on_failover="raise") as pages:
        await pages.receive()
        service.fail_over()
    assert not pages.summary.complete


async def test_a_failure_that_leaves_the_loop_leaves_as_itself(service: Service, client: SentinelClient) -> None:
    service.master.tap("SCAN", skip=2, instead=Reply(Error("NOPERM this user has no permissions")))
    with pytest.raises(ScanRefused) as caught:
        await sweep(client, count=COUNT)
    assert caught.value.__context__ is None


async def test_an_error_in_the_driver_is_told_as_what_it_is(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even what cannot happen neither hangs, nor looks like an end, nor cancels the body."""

    def broken(*args: Any, **options: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("trio_sentinel_scan._trio.scan.read_scan_replies", broken)
    async with client.open_scan(count=COUNT) as pages:
        await trio.sleep(1)
        with pytest.raises(ScanError, match="internal error") as caught:
            await pages.receive()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert len(service.master.open_wires) == 1
