"""The shared connection on real servers: cancellation, gathering, and each error reply with its verdict."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from redis import exceptions as redis_errors

from tests.real.scenes import HANG, until
from tests.trio.fakes import CancelAtStep
from trio_sentinel_scan import RedisClient
from trio_sentinel_scan._core.commands import Command
from trio_sentinel_scan.testing import LocalRedis

pytestmark = pytest.mark.trio

# Long scripts are to be found out soon.
IMPATIENT = {"lua-time-limit": "10"}


@pytest.fixture
async def server() -> AsyncGenerator[LocalRedis]:
    with trio.fail_after(HANG):
        async with LocalRedis(config=IMPATIENT) as server:
            yield server


# ---- cancellation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["waiting", "waking"])
async def test_a_command_is_one_schedule_point(server: LocalRedis, when: str) -> None:
    """And a reply that is there is returned, whoever cancels at that moment."""
    async with RedisClient(server.address) as client:
        await client.set("k", "v")
        me = trio.lowlevel.current_task()
        scope, reply = trio.CancelScope(), None
        instrument = CancelAtStep(scope, 1, when, concerns=lambda task: task is me)
        with scope:
            trio.lowlevel.add_instrument(instrument)
            try:
                reply = await client.get("k")
            finally:
                trio.lowlevel.remove_instrument(instrument)
        assert instrument.steps == 1
        assert scope.cancel_called
        assert reply == (None if when == "waiting" else b"v")
        assert await client.get("k") == b"v"


@pytest.mark.parametrize("times", [500, pytest.param(10_000, marks=pytest.mark.full)])
async def test_callers_that_are_cancelled_disturb_nobody(server: LocalRedis, times: int) -> None:
    """So many times, at any point of a command, with twenty others who count each reply of theirs."""
    rng = random.Random(times)
    async with RedisClient(server.address) as client:
        done = False
        counts = [0] * 20

        async def count(number: int) -> None:
            while not done:
                counts[number] += 1
                assert await client.incr(f"counter:{number}") == counts[number]

        async def cancelled() -> bool:
            with trio.CancelScope() as scope:
                if rng.random() < 0.2:
                    scope.cancel(reason="before it began")
                else:
                    scope.deadline = trio.current_time() + rng.random() * 0.001
                await client.lpush("victims", "x" * rng.choice([1, 100, 100_000]))
            return scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(count, number)
            cut_short = sum([await cancelled() for _ in range(times)])
            done = True
        assert cut_short > times / 5
        assert min(counts) > 10
        assert client.statistics().connections == 1
        length: Any = await client.execute_command("LLEN", "victims")
        assert times - cut_short <= length <= times


async def test_a_large_value_of_a_caller_that_went_is_completed(server: LocalRedis) -> None:
    """It fills every buffer on the way: half of it is written when its caller goes."""
    async with RedisClient(server.address) as client:
        await server.pause()
        with trio.move_on_after(0.05) as scope:
            await client.set("large", b"x" * 50_000_000)
        assert scope.cancelled_caught
        await server.resume()
        await client.set("k", "v")
        assert await client.execute_command("STRLEN", "large") == 50_000_000
        assert client.statistics().connections == 1


# ---- error replies ----------------------------------------------------------------------------------------------


async def test_a_script_that_answers_with_a_passing_error_runs_once(server: LocalRedis) -> None:
    """It has written already: to send it again would write twice."""
    script = "redis.call('INCR', KEYS[1]); return redis.error_reply('TRYAGAIN later')"
    async with RedisClient(server.address, retry_writes=True) as client:
        some: Any = client
        with pytest.raises(redis_errors.ResponseError, match="later"):
            await some.eval(script, 1, "n")
        assert await client.get("n") == b"1"


async def test_busy_is_waited_for(server: LocalRedis) -> None:
    """A script of somebody else's runs for long; it is killed, and the command runs."""
    async with RedisClient(server.address) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _script() -> None:
            with pytest.raises(Exception, match=r"[Kk]illed"):
                await server.execute("EVAL", "while true do end", "0")

        async def is_busy() -> bool:
            try:
                await server.execute("PING")
            except Exception as error:  # noqa: BLE001 (whatever it is, it says so)
                return "BUSY" in str(error)
            return False

        while not await is_busy():  # noqa: ASYNC110 (no event tells)
            await trio.sleep(0.005)
        nursery.start_soon(client.set, "k", "v")
        await until(lambda: client.statistics().sent_again)
        await server.execute("SCRIPT", "KILL")
    async with RedisClient(server.address) as client:
        assert await client.get("k") == b"v"


async def test_a_full_server_is_waited_for(server: LocalRedis) -> None:
    """It turns connections away, in words, before it hangs up."""
    async with RedisClient(server.address) as client, trio.open_nursery() as nursery:
        async with RedisClient(server.address) as other:
            await other.execute_command("CONFIG", "SET", "maxclients", 1)
            await other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            nursery.start_soon(client.set, "k", "v")
            await until(lambda: client.statistics().waiting)
            await trio.sleep(0.05)
            assert await other.get("k") is None
        await until(lambda: client.statistics().waiting == 0)
    async with RedisClient(server.address) as client:
        assert await client.get("k") == b"v"


async def test_what_is_not_permitted_is_told_at_once(server: LocalRedis) -> None:
    async with RedisClient(server.address) as client:
        await client.execute_command("ACL", "SETUSER", "default", "-get")
        with pytest.raises(redis_errors.NoPermissionError):
            await client.get("k")
        await client.execute_command("ACL", "SETUSER", "default", "+get")
        assert await client.get("k") is None
        assert client.statistics().sent_again == 0


async def test_a_connection_that_is_logged_in_stays_so(server: LocalRedis) -> None:
    """A new password is asked for from the next connection on: and then it is told at once."""
    async with RedisClient(server.address) as client:
        await client.execute_command("CONFIG", "SET", "requirepass", "hunter2")
        assert await client.get("k") is None
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
        with pytest.raises(redis_errors.AuthenticationError) as caught:
            await client.get("k")
        assert "hunter2" not in str(caught.value)


async def test_a_replica_without_its_master_says_so(server: LocalRedis) -> None:
    """To a client of that one server: nobody else could be asked."""
    async with LocalRedis(config={"replica-serve-stale-data": "no"}) as replica, RedisClient(replica.address) as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(redis_errors.MasterDownError):
            await client.get("k")


async def test_a_batch_runs_as_a_transaction(server: LocalRedis) -> None:
    """Sent in one go, and so nobody else's command is in it."""
    async with RedisClient(server.address) as client:
        done = False

        async def disturb() -> None:
            while not done:
                await client.incr("disturbed")

        texts = ["MULTI", "INCR n", "LPUSH n 1", "INCR n", "EXEC"]
        commands = [Command(text.split()[0], tuple(text.split())) for text in texts]
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(disturb)
            for number in range(50):
                replies, _ = await client._shared.execute_batch(commands, decode=True)
                first, wrong, second = replies[-1]
                assert (first, second) == (2 * number + 1, 2 * number + 2)
                assert isinstance(wrong, redis_errors.ResponseError)
            done = True
