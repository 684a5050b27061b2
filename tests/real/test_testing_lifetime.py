"""The test servers leave nothing behind, however their block ends."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests import _leaks
from trio_sentinel_scan.testing import LocalRedis, LocalSentinel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio_sentinel_scan.testing import ServerBinary

pytestmark = [
    pytest.mark.trio,
    pytest.mark.skipif(not _leaks.CAN_SEE, reason="the processes are counted in /proc"),
]


class Leftovers:
    """What has been left of the harness since the test began."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = set(_leaks.child_processes())

    @property
    def processes(self) -> list[str]:
        """Running ones, and children of ours that nobody has waited for."""
        return [
            f"{child.pid} {child.command} ({state})"
            for child, state in _leaks.child_processes().items()
            if child not in self._before and (state != "Z" or is_our_own(child))
        ]

    @property
    def files(self) -> list[Path]:
        return list(self.folder.iterdir())


@pytest.fixture
def leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Leftovers:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return Leftovers(folder)


def is_our_own(child: _leaks.Child) -> bool:
    """Whether we started it, and in a session of its own; a dead server's child, which we adopt, is in its parent's."""
    try:
        return os.getsid(child.pid) == child.pid
    except ProcessLookupError:
        return False


class StepLimit(trio.abc.Instrument):
    """Cancels a scope when the current task is about to take its n-th step: once at each checkpoint, as n grows."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._left = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def test_a_body_s_exception_leaves_as_itself(server_binary: ServerBinary, leftovers: Leftovers) -> None:
    error = ValueError("mine")

    async def use(harness: LocalRedis | LocalSentinel, before_raising: Callable[[], object] = bool) -> None:
        async with harness:
            assert leftovers.processes
            before_raising()
            raise error

    for harness in (LocalRedis(binary=server_binary), LocalSentinel(1, 1, binary=server_binary)):
        with pytest.raises(ValueError, match="mine") as caught:
            await use(harness)
        assert caught.value is error
        assert not leftovers.processes
        assert not leftovers.files
    # Not even a cancellation at the same time takes its place.
    for harness in (LocalRedis(binary=server_binary), LocalSentinel(0, 1, binary=server_binary)):
        with pytest.raises(ValueError, match="mine"), trio.CancelScope() as scope:
            await use(harness, scope.cancel)
        assert not leftovers.processes
        assert not leftovers.files


async def test_cancelled_in_its_body_also_with_a_server_paused(
    each_server_binary: ServerBinary, leftovers: Leftovers
) -> None:
    with trio.CancelScope() as scope:
        async with LocalSentinel(1, 1, binary=each_server_binary) as sentinel:
            await sentinel.pause()
            await sentinel.sentinel_nodes[0].pause()
            scope.cancel()
            await sentinel.master()
    assert scope.cancelled_caught
    assert not leftovers.processes
    assert not leftovers.files


async def test_cancelled_at_every_step_of_its_start(server_binary: ServerBinary, leftovers: Leftovers) -> None:
    async def give_up_after(steps: int) -> bool:
        with trio.CancelScope() as scope:
            limit = StepLimit(scope, steps)
            trio.lowlevel.add_instrument(limit)
            try:
                async with LocalRedis(binary=server_binary):
                    return False
            finally:
                trio.lowlevel.remove_instrument(limit)
        return scope.cancelled_caught

    steps = 1
    while await give_up_after(steps):
        assert not leftovers.processes, f"cancelled at step {steps}"
        assert not leftovers.files
        steps += 1
    assert steps > 10


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
async def test_a_service_cancelled_while_it_starts(
    share: float, each_server_binary: ServerBinary, leftovers: Leftovers
) -> None:
    began = trio.current_time()
    async with LocalSentinel(binary=each_server_binary):
        took = trio.current_time() - began
    with trio.move_on_after(took * share):
        async with LocalSentinel(binary=each_server_binary):
            pass
    assert not leftovers.processes
    assert not leftovers.files


@pytest.mark.parametrize("steps", [1, 4, 16])
async def test_cancelled_in_the_midst_of_an_action(
    steps: int, server_binary: ServerBinary, leftovers: Leftovers
) -> None:
    async def cancelled(action: Callable[[], Awaitable[object]]) -> None:
        with trio.CancelScope() as scope:
            limit = StepLimit(scope, steps)
            trio.lowlevel.add_instrument(limit)
            try:
                await action()
            finally:
                trio.lowlevel.remove_instrument(limit)

    actions: list[Callable[[LocalRedis], Awaitable[object]]] = [
        lambda server: server.stop(),
        lambda server: server.kill(),
        lambda server: server.pause(),
        lambda server: server.restart(),
        lambda server: server.restart(save=False),
        lambda server: server.fill(100_000),
    ]
    for action in actions:
        async with LocalRedis(binary=server_binary) as server:
            await cancelled(partial(action, server))
            await server.resume()
            await server.start()  # whatever came of it, it is ours to use
            assert await server.execute("PING") == b"PONG"
        assert not leftovers.processes
        assert not leftovers.files
    async with LocalSentinel(1, 1, binary=server_binary) as sentinel:
        await cancelled(sentinel.failover)
    assert not leftovers.processes
    assert not leftovers.files


async def test_the_child_that_writes_a_server_s_data_goes_with_it(
    server_binary: ServerBinary, leftovers: Leftovers
) -> None:
    async with LocalRedis(binary=server_binary, config={"rdb-key-save-delay": "100000"}) as server:
        for end in (server.kill, server.stop):
            await server.fill(1000)  # of which saving takes more than a minute
            await server.execute("BGSAVE")
            assert (await server.info("persistence"))["rdb_bgsave_in_progress"] == "1"
            await end()
            await server.start()
        await server.fill(1000)
        await server.execute("BGSAVE")
    with trio.fail_after(5):
        while leftovers.processes:  # noqa: ASYNC110 - it has been killed, and no event tells us when it is gone
            await trio.sleep(0.01)
    assert not leftovers.files
