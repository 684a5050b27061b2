"""`open_memory_stream`: what is sent comes once and in order, whoever is cancelled, in whichever tick."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.anyio.loops import WHENS, When, cancelled_at, on_each_asyncio, on_each_loop, run
from trio_sentinel_scan.anyio.streams import ReceiveStream, SendStream, open_memory_stream


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await anyio.lowlevel.checkpoint()


# ---- in good order ----------------------------------------------------------------------------------------------


@on_each_loop
@pytest.mark.parametrize("size", [0, 1, 3, math.inf])
def test_everything_comes_in_order(loop: str, size: float) -> None:
    async def main() -> None:
        send, receive = open_memory_stream[int](size)
        found: list[int] = []

        async def produce() -> None:
            async with send:
                for number in range(20):
                    await send.send(number)

        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            with receive, pytest.raises(anyio.EndOfStream):
                await receive_on(receive, found)
        assert found == list(range(20))

    run(loop, main)


async def receive_on(receive: ReceiveStream[int], found: list[int]) -> None:
    while True:
        found.append(await receive.receive())


@on_each_loop
def test_without_room_it_is_sent_when_somebody_waits(loop: str) -> None:
    async def main() -> None:
        send, receive = open_memory_stream[int](0)
        with pytest.raises(anyio.WouldBlock):
            send.send_nowait(1)
        found: list[int] = []
        async with anyio.create_task_group() as group:
            group.start_soon(receive_on, receive, found)
            await turns()
            send.send_nowait(1)
            with pytest.raises(anyio.WouldBlock):
                # One waits, and has this one.
                send.send_nowait(2)
            await turns()
            assert found == [1]
            group.cancel_scope.cancel()
        send.close()
        receive.close()

    run(loop, main)


@on_each_loop
def test_one_who_has_gone_is_no_room(loop: str) -> None:
    async def main() -> None:
        send, receive = open_memory_stream[int](0)
        async with anyio.create_task_group() as group:
            group.start_soon(receive.receive)
            await turns()
            group.cancel_scope.cancel()
        with pytest.raises(anyio.WouldBlock):
            send.send_nowait(1)
        send.close()
        receive.close()

    run(loop, main)


@on_each_asyncio  # (Trio runs the tasks of one turn in no order.)
def test_those_who_receive_have_their_turns_in_the_order_of_coming(loop: str) -> None:
    async def main() -> None:
        send, receive = open_memory_stream[int](0)
        found: list[str] = []

        async def consume(name: str, mine: ReceiveStream[int]) -> None:
            with mine, suppress(anyio.EndOfStream):
                while True:
                    await mine.receive()
                    found.append(name)

        async with anyio.create_task_group() as group:
            for name in "abc":
                group.start_soon(consume, name, receive.clone())
                await turns()
            receive.close()
            for number in range(30):
                await send.send(number)
                await turns()
            await send.aclose()
        assert {found.count(name) for name in "abc"} == {10}

    run(loop, main)


# ---- closing under those who wait -------------------------------------------------------------------------------


async def outcome(call: Callable[[], Awaitable[object]], into: list[str]) -> None:
    try:
        into.append(repr(await call()))
    except Exception as error:  # noqa: BLE001 (whatever it is)
        into.append(type(error).__name__)


@on_each_loop
@pytest.mark.parametrize(
    "closes, receiver, sender",
    [
        ("the receiving end", "ClosedResourceError", "BrokenResourceError"),
        ("the sending end", "EndOfStream", "ClosedResourceError"),
        ("a clone of the receiving end", None, None),
        ("a clone of the sending end", None, None),
    ],
)
def test_an_end_is_closed_under_those_who_wait(
    loop: str, closes: str, receiver: str | None, sender: str | None
) -> None:
    """They are told at once; as Trio's channel does it. Closing another end than theirs is nothing to them."""

    async def main() -> None:
        for waits in ("receiver", "sender"):
            send, receive = open_memory_stream[int](1)
            clones = send.clone(), receive.clone()
            told: list[str] = []
            if "clone" not in closes:
                clones[0].close()
                clones[1].close()
            if waits == "sender":
                send.send_nowait(0)
            async with anyio.create_task_group() as group:
                group.start_soon(outcome, receive.receive if waits == "receiver" else partial(send.send, 1), told)
                await turns()
                ends: dict[str, Any] = {
                    "the receiving end": receive,
                    "the sending end": send,
                    "a clone of the receiving end": clones[1],
                    "a clone of the sending end": clones[0],
                }
                ends[closes].close()
                await turns()
                expected = receiver if waits == "receiver" else sender
                assert told == ([] if expected is None else [expected])
                group.cancel_scope.cancel()
            for end in (send, receive, *clones):
                end.close()

    run(loop, main)


@on_each_loop
def test_an_end_that_is_closed_is_closed(loop: str) -> None:
    async def main() -> None:
        send, receive = open_memory_stream[int](0)
        other = send.clone()
        await send.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            # (Nobody receives; that is not the point.)
            send.send_nowait(1)
        with pytest.raises(anyio.ClosedResourceError):
            await send.send(1)
        await receive.aclose()
        with pytest.raises(anyio.BrokenResourceError):
            await other.send(1)
        with pytest.raises(anyio.ClosedResourceError):
            await receive.receive()
        other.close()

    run(loop, main)


@on_each_asyncio
def test_a_sender_that_is_cancelled_before_it_has_begun_closes_its_end(loop: str) -> None:
    """`async with send` is no place to be cancelled in: nobody would close it."""

    async def main() -> None:
        send, receive = open_memory_stream[int](0)

        async def produce() -> None:
            async with send:
                await send.send(1)

        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            group.cancel_scope.cancel()
        with pytest.raises(anyio.EndOfStream):
            await receive.receive()
        receive.close()

    run(loop, main)


# ---- cancelled in the tick of delivery --------------------------------------------------------------------------


@on_each_asyncio
@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("size", [0, 1])
def test_a_receive_cancelled_at_each_of_its_waits_takes_nothing(loop: str, when: When, size: float) -> None:
    async def main() -> None:
        for step in (1, 2):
            send, receive = open_memory_stream[int](size)
            async with anyio.create_task_group() as group:

                async def deliver(send: SendStream[int] = send) -> None:
                    await turns()
                    await send.send(7)

                group.start_soon(deliver)
                _, stopped = await cancelled_at(step, when, receive.receive)
                assert stopped
                assert await receive.receive() == 7
            send.close()
            receive.close()

    run(loop, main)


@on_each_asyncio
@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("size", [0, 1])
def test_a_send_cancelled_at_each_of_its_waits_has_sent_nothing(loop: str, when: When, size: float) -> None:
    async def main() -> None:
        for step in (1, 2):
            send, receive = open_memory_stream[int](size)
            found: list[int] = []
            if size:
                send.send_nowait(0)

            async def receive_later(receive: ReceiveStream[int] = receive, found: list[int] = found) -> None:
                await turns()
                with suppress(anyio.EndOfStream):
                    await receive_on(receive, found)

            async with anyio.create_task_group() as group:
                group.start_soon(receive_later)
                _, stopped = await cancelled_at(step, when, partial(send.send, 7))
                assert stopped
                await send.send(8)
                send.close()
            assert found == [0, 8][1 - int(size) :]
            receive.close()

    run(loop, main)


@on_each_asyncio
def test_a_bare_stream_does_lose_what_is_delivered_in_the_tick_of_a_cancellation(loop: str) -> None:
    """Why there is one of our own: AnyIO's hands the item to a task that will not see it."""

    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[int](1)

        async def deliver() -> None:
            await turns()
            await send.send(7)

        async with anyio.create_task_group() as group:
            group.start_soon(deliver)
            _, stopped = await cancelled_at(2, "waking", receive.receive)
            assert stopped
        with pytest.raises(anyio.WouldBlock):
            receive.receive_nowait()
        send.close()
        receive.close()

    run(loop, main)


@on_each_asyncio
def test_a_bare_stream_does_send_what_its_sender_was_cancelled_for(loop: str) -> None:
    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[int](0)
        found: list[int] = []

        async def take() -> None:
            await turns()
            found.append(await receive.receive())

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            _, stopped = await cancelled_at(2, "waking", lambda: send.send(7))
            assert stopped
        assert found == [7]
        send.close()
        receive.close()

    run(loop, main)


# ---- any schedule -----------------------------------------------------------------------------------------------

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["send", "receive", "stop a sender", "stop a receiver", "turn", "turn"]), st.integers(0, 5)
    ),
    max_size=40,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(size=st.sampled_from([0, 1, 2]), moves=MOVES)
def test_any_schedule(size: int, moves: list[tuple[str, int]]) -> None:
    """The model: an item is received exactly if its `send` returned (or it is still to be received), once, in order.

    Tasks are cancelled natively, several in one tick, and with no turn between a delivery and a cancellation.
    """
    asyncio.run(_any_schedule(size, moves))


async def _any_schedule(size: int, moves: list[tuple[str, int]]) -> None:
    send, receive = open_memory_stream[int](size)
    sent: list[int] = []
    received: list[int] = []
    senders: list[asyncio.Task[Any]] = []
    receivers: list[asyncio.Task[Any]] = []
    number = 0

    async def send_one(item: int) -> None:
        await send.send(item)
        sent.append(item)

    async def receive_one() -> None:
        received.append(await receive.receive())

    for move, which in moves:
        match move:
            case "send":
                number += 1
                senders.append(asyncio.create_task(send_one(number)))
            case "receive":
                receivers.append(asyncio.create_task(receive_one()))
            case "stop a sender" if senders:
                senders[which % len(senders)].cancel()
            case "stop a receiver" if receivers:
                receivers[which % len(receivers)].cancel()
            case _:
                await asyncio.sleep(0)
        # What is on its way is in the room that there is, or was sent for somebody who then went.
        assert received == sent[: len(received)]
    for task in senders:
        task.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    for task in receivers:
        task.cancel()
    await asyncio.gather(*receivers, return_exceptions=True)
    send.close()
    with suppress(anyio.EndOfStream):
        await receive_on(receive, received)
    receive.close()
    assert received == sent


def test_it_is_trios_own_sleep_on_trio() -> None:
    """On Trio's loop, cancelled in the tick of delivery, it is Trio's promise that holds: delivered, or cancelled."""

    async def main() -> None:
        send, receive = open_memory_stream[int](0)
        found: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_on, receive, found)
            await turns()
            send.send_nowait(1)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(0):
            found.append(await receive.receive())
        if not found:
            send.close()
            await receive_on_to_the_end(receive, found)
        assert found == [1]
        send.close()
        receive.close()

    run("trio", main)


async def receive_on_to_the_end(receive: ReceiveStream[int], found: list[int]) -> None:
    with suppress(anyio.EndOfStream):
        await receive_on(receive, found)
